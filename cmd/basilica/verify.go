package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/attest"
	"basilica/keys"
)

func verifyCommand() *cobra.Command {
	var miner string
	cmd := withJSON(&cobra.Command{
		Use:     "verify FILE",
		Example: `  basilica verify evidence.bin --miner 5F…`,
		Short:   "Judge a stored GPU proof again, offline",
		Long: `Reads the raw frames of one challenge as a validator stored them, runs the verifier on them
again, without network or store, and refuses a file that is damaged or comes to another
verdict than it says. A verdict of fail is still a true record: the command ends with 0.

It prints whose machine the record is of; whether that is the miner you ask about, you say with
--miner.

Times in the record are the validator's own word; everything else is computed again.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := judgeFile(args[0])
			if err != nil {
				return err
			}
			if miner != "" && v.Miner != basilica.Hotkey(miner) {
				return basilica.E(basilica.Invalid, "RECORD_REFUSED", fmt.Sprintf("the record is of a machine of miner %s, not of %s", v.Miner, miner),
					"do not take it for a proof of that miner; ask the validator for the record of its verification")
			}
			return show(cmd, v, v.describe)
		},
	})
	cmd.Flags().StringVar(&miner, "miner", "", "hotkey (SS58) of the miner whose machine it must be")
	return cmd
}

// judged is what a record says, once it has been judged again.
type judged struct {
	Verdict   basilica.Result  `json:"verdict"`
	Validator string           `json:"validator"`
	Signed    bool             `json:"validator_signed"` // the record holds the validator's signature under its verdict
	Miner     basilica.Hotkey  `json:"miner"`
	HostKey   string           `json:"host_key,omitempty"`   // fingerprint, as ssh shows it
	AttestKey string           `json:"attest_key,omitempty"` // fingerprint; absent where the machine did not name its key
	GPUs      []string         `json:"gpus"`                 // UUIDs of what was judged, else of what was asked for
	Started   time.Time        `json:"started"`
	Judgement attest.Judgement `json:"judgement"`
}

func newJudged(r *attest.Record, j attest.Judgement) judged {
	at := r.Setup.Binding
	out := judged{
		Verdict: j.Verdict(), Validator: keys.EncodeSS58(at.ValidatorHotkey), Signed: r.Signed(), Miner: basilica.Hotkey(keys.EncodeSS58(at.MinerHotkey)),
		HostKey: fingerprint(at.HostKey), AttestKey: fingerprint(j.SPKI), GPUs: []string{}, Started: r.Setup.Started.UTC(), Judgement: j,
	}
	for _, g := range j.GPUs {
		out.GPUs = append(out.GPUs, g.UUID.String())
	}
	if len(j.GPUs) == 0 {
		for _, c := range r.Setup.Claims {
			out.GPUs = append(out.GPUs, c.UUID.String())
		}
	}
	return out
}

// fingerprint of a key as ssh shows it; "" for none.
func fingerprint(key []byte) string {
	if len(key) == 0 {
		return ""
	}
	sum := sha256.Sum256(key)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

func (j judged) describe(w io.Writer) error {
	whose := "signed by validator " + j.Validator
	if !j.Signed {
		whose = "for validator " + j.Validator + ", not signed by it: the challenge ended before the verdict could be sent, so that only the validator itself can vouch for this record"
	}
	bound := "signed by the machine's attestation key"
	if !j.Judgement.Signed {
		bound = "in the validator's word alone: the machine's attestation key has not signed it"
	}
	_, err := fmt.Fprintf(w, "verified: %s (%s), class %s, %s\n%s\nof a machine of miner %s, %s\n  started %s, host key %s, attestation key %s\n",
		j.Verdict, j.Judgement.Reason, j.Judgement.Class, whose, j.Judgement.Detail, j.Miner, bound,
		j.Started.Format(time.RFC3339), cmp.Or(j.HostKey, "none"), cmp.Or(j.AttestKey, "none"))
	if len(j.Judgement.GPUs) == 0 && len(j.GPUs) > 0 && err == nil {
		_, err = fmt.Fprintf(w, "  devices asked for: %s\n", strings.Join(j.GPUs, ", "))
	}
	for _, g := range j.Judgement.GPUs {
		fits := strings.Join(g.Models, ", ")
		if fits == "" {
			fits = "no known model"
		}
		if err == nil {
			_, err = fmt.Fprintf(w, "  device %d, %s: %.1f MiB proven, %.2f Gop/s, walk %.3f GB/s, mix %.3f GB/s, fits %s\n",
				g.G, g.UUID, float64(g.M)/(1<<20), g.C/1e9, g.BW/1e9, g.BM/1e9, fits)
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
	return newJudged(record, judgement), nil
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
