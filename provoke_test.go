package basilica_test

import (
	"strings"
	"testing"

	"basilica"
	"basilica/internal/provoke"
	"basilica/keys"
)

func TestRefusals(t *testing.T) {
	whole, miner, box := signedReceipt(t)
	signed := func(payload string) basilica.SignedEndorsement {
		sig, err := miner.Sign(keys.PAE(basilica.EndorsementType, []byte(payload)))
		if err != nil {
			t.Fatal(err)
		}
		return basilica.SignedEndorsement{Payload: []byte(payload), Signature: sig}
	}
	opened := func(s basilica.SignedEndorsement) error {
		_, err := s.Open()
		return err
	}
	receipt := func(r string) error {
		sig, err := box.Sign(keys.PAE(basilica.ReceiptType, []byte(r)))
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = basilica.SignedReceipt{Payload: []byte(r), ExecutorSig: sig, Endorsement: whole.Endorsement}.Open()
		return err
	}
	provoke.Each(t, map[string]func(*testing.T) error{
		"ENDORSEMENT_VERSION": func(*testing.T) error { return opened(signed(`{"version":2}`)) },
		"ENDORSEMENT_SIGNATURE": func(*testing.T) error {
			return opened(basilica.SignedEndorsement{Payload: whole.Endorsement.Payload, Signature: make([]byte, 64)})
		},
		"PAYLOAD_JSON": func(*testing.T) error { return opened(signed(`{"version":1} {}`)) },
		"PAYLOAD_SIZE": func(*testing.T) error { return opened(signed(strings.Repeat(" ", 1<<20))) },
		"RECEIPT_EXECUTOR": func(*testing.T) error {
			return receipt(`{"version":1,"executor":"box-2"}`)
		},
		"RECEIPT_VERSION": func(*testing.T) error { return receipt(`{"version":9,"executor":"box-1"}`) },
		"RECEIPT_EXECUTOR_SIGNATURE": func(*testing.T) error {
			s := whole
			s.ExecutorSig = make([]byte, 64)
			_, _, err := s.Open()
			return err
		},
		"RECEIPT_MINER_SIGNATURE": func(*testing.T) error {
			s := whole
			s.MinerSig = nil
			_, _, err := s.Open()
			return err
		},
		"FILE_NAME": func(*testing.T) error { return basilica.ValidateFiles([]basilica.TaskFile{{Name: "../up"}}) },
		"FILE_SIZE": func(*testing.T) error {
			return basilica.ValidateFiles([]basilica.TaskFile{{Name: "a", Blob: basilica.Blob{Size: -1}}})
		},
		"FILE_TWICE":    func(*testing.T) error { return basilica.ValidateFiles([]basilica.TaskFile{{Name: "a"}, {Name: "A"}}) },
		"NAME_INVALID":  func(*testing.T) error { return basilica.ValidateName("a b") },
		"LABEL_INVALID": func(*testing.T) error { return basilica.ValidateLabels(map[string]string{"k": "a\x1b[2J"}) },
		"TASK_INVALID":  func(*testing.T) error { return (&basilica.TaskSpec{Image: "i", GPUs: -1}).Validate() },
		"TASK_STATE": func(*testing.T) error {
			_, err := basilica.TaskSucceeded.Step(basilica.TaskRunning)
			return err
		},
	})
}
