package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/attest"
	"basilica/keys"
)

func verifyCommand() *cobra.Command {
	return withJSON(&cobra.Command{
		Use:     "verify FILE",
		Example: `  basilica verify evidence.bin`,
		Short:   "Judge a stored GPU proof again, offline",
		Long: `Reads the raw frames of one challenge as a validator stored them, runs the verifier on them
again, without network or store, and refuses a file that is damaged or comes to another
verdict than it says. A verdict of fail is still a true record: the command ends with 0.

Times in the record are the validator's own word; everything else is computed again.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := judgeFile(args[0])
			if err != nil {
				return err
			}
			return show(cmd, v, v.describe)
		},
	})
}

// judged is what a record says, once it has been judged again.
type judged struct {
	Verdict   basilica.Result  `json:"verdict"`
	Validator string           `json:"validator"`
	Signed    bool             `json:"validator_signed"` // the record holds the validator's signature under its verdict
	Judgement attest.Judgement `json:"judgement"`
}

func (j judged) describe(w io.Writer) error {
	whose := "signed by validator " + j.Validator
	if !j.Signed {
		whose = "for validator " + j.Validator + ", not signed by it: the challenge ended before the verdict could be sent, so that only the validator itself can vouch for this record"
	}
	_, err := fmt.Fprintf(w, "verified: %s (%s), class %s, %s\n%s\n", j.Verdict, j.Judgement.Reason, j.Judgement.Class, whose, j.Judgement.Detail)
	for _, g := range j.Judgement.GPUs {
		fits := strings.Join(g.Models, ", ")
		if fits == "" {
			fits = "no known model"
		}
		if err == nil {
			_, err = fmt.Fprintf(w, "  device %d: %.1f MiB proven, %.2f Gop/s, walk %.3f GB/s, mix %.3f GB/s, fits %s\n",
				g.G, float64(g.M)/(1<<20), g.C/1e9, g.BW/1e9, g.BM/1e9, fits)
		}
	}
	return err
}

func judgeFile(path string) (judged, error) {
	f, err := os.Open(path)
	if err != nil {
		return judged{}, basilica.E(basilica.NotFound, "RECORD_UNREADABLE", fmt.Sprintf("the record %s cannot be read", path), "give the path of a record that a validator stored").With(err)
	}
	defer f.Close()
	record, err := attest.ReadRecord(f)
	if err != nil {
		return judged{}, refused(err)
	}
	judgement, err := attest.Judge(record, anyScheme)
	if err != nil {
		return judged{}, refused(err)
	}
	return judged{judgement.Verdict(), keys.EncodeSS58(record.Setup.Binding.ValidatorHotkey), record.Signed(), judgement}, nil
}

func refused(err error) error {
	if !errors.Is(err, attest.ErrRecord) {
		return err
	}
	return basilica.E(basilica.Invalid, "RECORD_REFUSED", "the record does not hold", "do not trust it; ask the validator for its own copy").With(err)
}

// anyScheme accepts a hotkey of either scheme: the record does not say which its owner uses.
func anyScheme(hotkey attest.Key, msg, sig []byte) bool {
	return keys.Verify(keys.Sr25519, hotkey, msg, sig) || keys.Verify(keys.Ed25519, hotkey, msg, sig)
}
