package tpm

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"basilica"
	"basilica/attest"
	"basilica/attest/attestpb"
	"basilica/attestor"
	"basilica/keys"
)

// validate judges a machine over conn and gives what it said of its key.
func validate(t *testing.T, conn net.Conn, s attest.Setup) (attest.Judgement, *attestpb.Hello, *attestpb.Statement) {
	t.Helper()
	v, err := attest.NewVerifier(s, rand.Reader, func([]byte) ([]byte, error) { return []byte("sig"), nil })
	if err != nil {
		t.Fatal(err)
	}
	hello, said := &attestpb.Hello{}, &attestpb.Statement{}
	for !v.Done() {
		err := conn.SetDeadline(v.Deadline())
		if f, ok := v.Next(); ok && err == nil {
			if _, err = conn.Write(f); err == nil {
				v.Sent(time.Now())
				continue
			}
		} else if err == nil {
			if f, err = attest.ReadFrame(conn, v.Cap); err == nil {
				switch f.Type() {
				case attest.FrameHello:
					err = proto.Unmarshal(f[6:], hello)
				case attest.FrameEvidence:
					var e attestpb.Evidence
					if err = proto.Unmarshal(f[6:], &e); err == nil {
						err = proto.Unmarshal(e.GetPayload(), said)
					}
				}
				if err != nil {
					t.Fatal(err)
				}
				v.Receive(f, time.Now())
				continue
			}
		}
		v.Fail(attest.FailureOf(err), err.Error(), time.Now())
	}
	return v.Judgement(), hello, said
}

// TestAttestor has the real program make its key in a TPM, prove under it, and rotate to it from a key in a file.
func TestAttestor(t *testing.T) {
	t.Parallel()
	path, dir := emulator(t), t.TempDir()
	program := filepath.Join(dir, "gpu-attestor")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "nocuda", "-o", program, "../cmd/gpu-attestor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sealed := attestor.Child{Path: program, Key: filepath.Join(dir, "tpm.key"), KeyKind: attestor.KeyTPM, TPM: path, SoftwareGPUs: 1, Log: slog.New(slog.DiscardHandler)}
	file := attestor.Child{Path: program, Key: filepath.Join(dir, "file.key"), SoftwareGPUs: 1, Log: slog.New(slog.DiscardHandler)}
	d, err := sealed.Detect(t.Context())
	if err != nil || d.KeyKind != attestor.KeyTPM {
		t.Fatalf("%+v, %v", d, err)
	}
	before, err := file.Detect(t.Context())
	if err != nil || before.KeyKind != attestor.KeyFile {
		t.Fatalf("%+v, %v", before, err)
	}
	profiles := attest.Profiles{{
		Model: "software", Software: true, Expect: attest.Expect{Fill: 5, Walk: 5, Mix: 5},
		Params: &attest.Params{N: 64, Layers: 8, Lanes: 64, Steps: 8, Batches: 4, WinLayers: 4, Cells: 64, Rounds: 8},
	}}
	binding := attest.Binding{SessionID: []byte("session"), HostKey: []byte("host"), MinerHotkey: attest.Key{1}, ValidatorHotkey: attest.Key{2}}
	for _, c := range []struct {
		child attestor.Child
		spki  []byte
		kind  uint32
		caps  uint32
	}{{sealed, d.SPKI, 1, 1}, {file, before.SPKI, 0, 0}} {
		ours, theirs := loopback(t)
		done := make(chan error, 1)
		go func() { done <- c.child.Serve(t.Context(), theirs, binding) }()
		j, hello, said := validate(t, ours, attest.Setup{
			Started: time.Now(), Binding: binding, SPKI: c.spki, Strength: attest.EnrolmentStrength(), Policy: attest.Policy{AllowSoftware: true}, Profiles: profiles,
		})
		if err := errors.Join(ours.Close(), <-done); err != nil {
			t.Fatal(err)
		}
		if j.Result != attest.Pass || !j.Signed || hello.GetKeyKind() != c.kind || hello.GetCaps()&1 != c.caps {
			t.Errorf("key kind %d: %+v, HELLO says %d with caps %b", c.kind, j, hello.GetKeyKind(), hello.GetCaps())
		}
		_, err := attest.VerifyTPMQuote(c.spki, said.GetTpmQuote(), j.Transcript)
		if (err == nil) != (c.kind == 1) || (len(said.GetTpmQuote()) > 0) != (c.kind == 1) {
			t.Errorf("key kind %d: quote of %d bytes: %v", c.kind, len(said.GetTpmQuote()), err)
		}
		// HELLO's word and a quote are a claim: a machine whose key is in a file can say and make both.
		if j.Class != attest.ClassSoftware {
			t.Errorf("key kind %d: class %q", c.kind, j.Class)
		}
	}
	// The machine moves its key into the TPM: the old one signs for it.
	hotkey, err := keys.FromURI(keys.Sr25519, "//Bob//miner")
	if err != nil {
		t.Fatal(err)
	}
	was, err := basilica.Endorse(basilica.Endorsement{Executor: "box", KeySPKI: before.SPKI, AttestSPKI: before.SPKI, HostKey: []byte("host"), Issued: time.Now()}, hotkey)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		old  attestor.Child
		next []byte
	}{{file, d.SPKI}, {sealed, before.SPKI}} { // and back again, signed in the TPM
		present, err := was.Open()
		if err != nil {
			t.Fatal(err)
		}
		asked, err := basilica.Rotate(present, step.next, time.Now(), func(payload []byte) ([]byte, error) { return step.old.Rotate(t.Context(), payload) })
		if err != nil {
			t.Fatal(err)
		}
		if was, err = asked.Countersign(present, hotkey, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := file.Rotate(t.Context(), was.Payload); err == nil {
		t.Error("the program signed for a key that is not its own to give away")
	}
}

// loopback is a connected pair of TCP sockets.
func loopback(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	b = <-accepted
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}
