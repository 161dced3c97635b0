package attest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"basilica/attest/attestpb"
)

// HotkeyVerifier checks a signature of a hotkey (sr25519 or ed25519, as its owner has it) over msg.
type HotkeyVerifier func(hotkey Key, msg, sig []byte) bool

// Judge runs a recorded challenge again, offline: a fresh verifier with the recorded set-up and randomness is given the
// recorded frames at their recorded times. It refuses the record (ErrRecord) where the verifier would have sent other
// frames, drawn other randomness, ended at another event or come to another verdict, and where the signature under
// VERDICT is not the validator's. verify may be nil: then the signature is not looked at. Only the validator's own
// word stands for the times.
func Judge(r *Record, verify HotkeyVerifier) (Judgement, error) {
	tape := bytes.NewReader(r.tape)
	v, err := NewVerifier(r.Setup, tape, r.recordedSigner())
	if err != nil {
		return Judgement{}, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	for i, e := range r.events {
		if e.data, err = e.load(r.spool); err != nil {
			return Judgement{}, err
		}
		if err := replay(v, e); err != nil {
			return Judgement{}, fmt.Errorf("%w: event %d: %w", ErrRecord, i, err)
		}
	}
	if !v.Done() {
		return Judgement{}, fmt.Errorf("%w: ends before the verdict, or before its last frame", ErrRecord)
	}
	if tape.Len() != 0 {
		return Judgement{}, fmt.Errorf("%w: %d random bytes were never drawn", ErrRecord, tape.Len())
	}
	got, err := json.Marshal(v.judgement)
	if err != nil {
		return Judgement{}, fmt.Errorf("encode judgement: %w", err)
	}
	want, err := json.Marshal(r.Judgement)
	if err != nil {
		return Judgement{}, fmt.Errorf("encode judgement: %w", err)
	}
	if !bytes.Equal(got, want) {
		return Judgement{}, fmt.Errorf("%w: it says %s (%s), its frames say %s (%s)", ErrRecord,
			r.Judgement.Result, r.Judgement.Reason, v.judgement.Result, v.judgement.Reason)
	}
	if err := r.verifySignature(verify); err != nil {
		return Judgement{}, err
	}
	return v.judgement, nil
}

// replay does one event again.
func replay(v *Verifier, e event) error {
	now := v.setup.Started.Add(e.at)
	if e.at < v.now {
		return errors.New("earlier than the event before it")
	}
	switch e.kind {
	case eventSent:
		f, ok := v.Next()
		if !ok || !bytes.Equal(f, e.data) {
			return fmt.Errorf("the validator would not have sent this %v", Frame(e.data).Type())
		}
		v.Sent(now)
	case eventReceived:
		if v.phase == phaseDecided {
			return errors.New("a frame after the verdict")
		}
		v.Receive(e.data, now)
	case eventFailed:
		if len(e.data) == 0 {
			return errors.New("a failure without a kind")
		}
		if Failure(e.data[0]) == FailTimeout && e.at < v.deadline() {
			return errors.New("a timeout before its deadline")
		}
		v.Fail(Failure(e.data[0]), string(e.data[1:]), now)
	default:
		return fmt.Errorf("kind %d", e.kind)
	}
	return nil
}

// Signed says that the record holds a VERDICT under the validator's signature, which Judge checks. Without it (the machine
// was gone before, or gave no EVIDENCE) nothing in the record shows that it is that validator's.
func (r *Record) Signed() bool { return r.verdict() != nil }

// verdict finds the VERDICT that was sent, or nil.
func (r *Record) verdict() *attestpb.Verdict {
	for _, e := range r.events {
		if f := Frame(e.data); e.kind == eventSent && f.Type() == FrameVerdict {
			var m attestpb.Verdict
			if decode(f, &m) == nil {
				return &m
			}
		}
	}
	return nil
}

// recordedSigner signs with the recorded signature: replay then compares the receipt, verifySignature the signature.
// Where VERDICT was queued but never sent the record holds none, and none is made.
func (r *Record) recordedSigner() Signer {
	m := r.verdict()
	if m == nil {
		return nil
	}
	return func([]byte) ([]byte, error) { return m.GetSignature(), nil }
}

func (r *Record) verifySignature(verify HotkeyVerifier) error {
	m := r.verdict()
	if m == nil || verify == nil {
		return nil
	}
	if !verify(r.Setup.Binding.ValidatorHotkey, verdictMessage(m.GetReceipt()), m.GetSignature()) {
		return fmt.Errorf("%w: the signature under VERDICT is not the validator's", ErrRecord)
	}
	return nil
}
