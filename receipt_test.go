package basilica_test

import (
	"bytes"
	"testing"
	"time"

	"basilica"
	"basilica/keys"
)

func signedReceipt(t testing.TB) (basilica.SignedReceipt, *keys.Pair, *keys.P256) {
	t.Helper()
	miner, err := keys.FromURI(keys.Sr25519, "//Bob//miner")
	if err != nil {
		t.Fatal(err)
	}
	box, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	endorsement, err := basilica.Endorse(basilica.Endorsement{Executor: "box-1", KeySPKI: box.SPKI(), AttestSPKI: []byte{1}, HostKey: []byte{2}, Issued: time.Unix(1, 0).UTC()}, miner)
	if err != nil {
		t.Fatal(err)
	}
	code := 3
	half, err := basilica.SignReceipt(basilica.Receipt{Task: "t1", Attempt: 1, Client: "5F", Executor: "box-1", Image: "i", State: basilica.TaskFailed, ExitCode: &code}, endorsement, box.Sign)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := half.Countersign(miner)
	if err != nil {
		t.Fatal(err)
	}
	return whole, miner, box
}

func TestReceiptOpens(t *testing.T) {
	s, miner, _ := signedReceipt(t)
	r, e, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	if r.Task != "t1" || *r.ExitCode != 3 || string(e.Miner) != miner.SS58() || e.Executor != "box-1" {
		t.Fatalf("opened %+v under %+v", r, e)
	}
}

// TestReceiptRefusesEveryChangedByte changes each byte of each part once.
func TestReceiptRefusesEveryChangedByte(t *testing.T) {
	s, _, _ := signedReceipt(t)
	parts := map[string]*[]byte{
		"payload": &s.Payload, "executor signature": &s.ExecutorSig, "miner signature": &s.MinerSig,
		"endorsement": &s.Endorsement.Payload, "endorsement signature": &s.Endorsement.Signature,
	}
	for name, part := range parts {
		whole := *part
		for i := range whole {
			changed := bytes.Clone(whole)
			changed[i] ^= 0x20
			*part = changed
			if _, _, err := s.Open(); err == nil {
				t.Fatalf("byte %d of %s may change", i, name)
			}
		}
		*part = whole
	}
	if _, _, err := s.Open(); err != nil {
		t.Fatal(err)
	}
}

func TestReceiptOfAnotherExecutorIsRefused(t *testing.T) {
	s, miner, box := signedReceipt(t)
	other, err := basilica.SignReceipt(basilica.Receipt{Task: "t1", Executor: "box-2"}, s.Endorsement, box.Sign)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Countersign(miner); basilica.CodeOf(err) != "RECEIPT_EXECUTOR" {
		t.Fatalf("got %v", err)
	}
	if _, _, err := (basilica.SignedReceipt{Payload: s.Payload, ExecutorSig: s.ExecutorSig, Endorsement: s.Endorsement}).Open(); basilica.CodeOf(err) != "RECEIPT_MINER_SIGNATURE" {
		t.Fatalf("a receipt without the miner's half: %v", err)
	}
}

// FuzzReceipt changes a receipt and an endorsement that were signed: nothing but the very bytes opens.
func FuzzReceipt(f *testing.F) {
	both, _, _ := signedReceipt(f)
	f.Add(both.Payload, both.ExecutorSig, both.MinerSig, both.Endorsement.Payload, both.Endorsement.Signature)
	f.Add([]byte(`{}`), []byte{}, []byte{}, []byte(`{}`), []byte{})
	f.Add(both.Endorsement.Payload, both.Endorsement.Signature, both.MinerSig, both.Payload, both.ExecutorSig)
	f.Fuzz(func(t *testing.T, payload, executor, countersigned, endorsement, signature []byte) {
		s := basilica.SignedReceipt{Payload: payload, ExecutorSig: executor, MinerSig: countersigned, Endorsement: basilica.SignedEndorsement{Payload: endorsement, Signature: signature}}
		if _, err := s.Endorsement.Open(); err == nil && !bytes.Equal(endorsement, both.Endorsement.Payload) {
			t.Fatal("an endorsement that nobody signed opens")
		}
		if _, _, err := s.Open(); err == nil && (!bytes.Equal(payload, both.Payload) || !bytes.Equal(endorsement, both.Endorsement.Payload)) {
			t.Fatal("a receipt that nobody signed opens")
		}
	})
}
