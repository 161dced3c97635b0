package basilica_test

import (
	"bytes"
	"slices"
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

// TestReceiptNamesNothingElse: whoever signs may write what they like; what a person reads of it is an id and an end.
func TestReceiptNamesNothingElse(t *testing.T) {
	s, miner, box := signedReceipt(t)
	for name, edit := range map[string]func(*basilica.Receipt){
		"as it is": func(*basilica.Receipt) {},
		"task":     func(r *basilica.Receipt) { r.Task = "t1, succeeded\x1b[2J" },
		"no task":  func(r *basilica.Receipt) { r.Task = "" },
		"executor": func(r *basilica.Receipt) { r.Executor = "box of miner 5FAMOUS, 1 inputs, 1 outputs\n" },
		"client":   func(r *basilica.Receipt) { r.Client = "5F\nverified" },
		"state":    func(r *basilica.Receipt) { r.State = "succeeded, exit code 0" },
		"no end":   func(r *basilica.Receipt) { r.State = basilica.TaskRunning },
	} {
		r, e, err := s.Open()
		if err != nil {
			t.Fatal(err)
		}
		edit(&r)
		e.Executor = r.Executor
		endorsement, err := basilica.Endorse(e, miner)
		if err != nil {
			t.Fatal(err)
		}
		half, err := basilica.SignReceipt(r, endorsement, box.Sign)
		if err != nil {
			t.Fatal(err)
		}
		want := "RECEIPT_UNREADABLE"
		if name == "as it is" {
			want = ""
		}
		if _, err := half.Countersign(miner); basilica.CodeOf(err) != want {
			t.Errorf("%s: countersigned: %v", name, err)
		}
		if half.MinerSig, err = miner.Sign(keys.PAE(basilica.ReceiptType, half.Payload)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := half.Open(); basilica.CodeOf(err) != want || err != nil && basilica.OneLine(err.Error()) != err.Error() {
			t.Errorf("%s: opened: %v", name, err)
		}
	}
}

// FuzzReceipt puts other bytes into one part of a receipt that was signed: nothing but the very bytes opens. What is signed
// differs from process to process, so the change is what is fuzzed.
func FuzzReceipt(f *testing.F) {
	both, _, _ := signedReceipt(f)
	f.Add(uint8(0), uint16(0), uint16(0), []byte(nil))
	f.Add(uint8(0), uint16(0), uint16(60000), []byte(`{}`))
	f.Add(uint8(1), uint16(10), uint16(1), []byte{0})
	f.Add(uint8(3), uint16(0), uint16(60000), []byte(`{"version":1}`))
	f.Add(uint8(4), uint16(63), uint16(1), []byte(nil))
	f.Fuzz(func(t *testing.T, part uint8, at, out uint16, in []byte) {
		s := both
		parts := []*[]byte{&s.Payload, &s.ExecutorSig, &s.MinerSig, &s.Endorsement.Payload, &s.Endorsement.Signature}
		changed := parts[int(part)%len(parts)]
		whole := *changed
		from := min(int(at), len(whole))
		*changed = slices.Concat(whole[:from], in, whole[min(from+int(out), len(whole)):])
		same := bytes.Equal(*changed, whole)
		if _, _, err := s.Open(); (err == nil) != same {
			t.Fatalf("the same bytes: %v; opening it: %v", same, err)
		}
		_, _ = s.Endorsement.Open()
	})
}
