package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"basilica"
	"basilica/attest"
	"basilica/attestor"
	"basilica/internal/provoke"
	"basilica/keys"
	"basilica/validator"
)

// TestVerifyNamesTheMachine: a record of one miner's machine cannot be shown for another's.
func TestVerifyNamesTheMachine(t *testing.T) {
	c := newRecorded(t)
	for _, at := range []struct {
		name  string
		prove bool
		says  string
	}{
		{"proven", true, "signed by the machine's attestation key\n"},
		{"hung up", false, "the machine's attestation key has not signed it\n"},
	} {
		path := c.record(t, at.prove)
		verify := func(args ...string) (string, error) {
			cmd, out := verifyCommand(), &bytes.Buffer{}
			cmd.SilenceErrors, cmd.SilenceUsage = true, true
			cmd.SetOut(out)
			cmd.SetArgs(append(args, path))
			err := cmd.ExecuteContext(t.Context())
			return out.String(), err
		}
		miner, other, host := c.miner.SS58(), c.validator.SS58(), ssh.FingerprintSHA256(c.host)
		text, err := verify("--miner", miner)
		if err != nil {
			t.Fatalf("%s: %v", at.name, err)
		}
		for _, want := range []string{"of a machine of miner " + miner + ", ", at.says, "host key " + host, c.device.Info().UUID.String(), "started " + c.setup.Started.UTC().Format(time.RFC3339)} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in %s", at.name, want, text)
			}
		}
		text, err = verify("--json")
		var j judged
		if err := json.Unmarshal([]byte(text), &j); err != nil {
			t.Fatal(err, text)
		}
		if err != nil || string(j.Miner) != miner || j.HostKey != host || !slices.Equal(j.GPUs, []string{c.device.Info().UUID.String()}) ||
			!j.Started.Equal(c.setup.Started) || (j.AttestKey == fingerprint(c.key.SPKI())) != at.prove || (j.Verdict == basilica.Pass) != at.prove {
			t.Errorf("%s: %v %s", at.name, err, text)
		}
		text, err = verify("--miner", other)
		provoke.Refused(t, err, "RECORD_REFUSED")
		if text != "" || !strings.Contains(err.Error(), "of miner "+miner+", not of "+other) {
			t.Errorf("%s: %v, %q", at.name, err, text)
		}
	}
}

// recorded is a miner's machine with a software device, and what a validator sets up to prove it.
type recorded struct {
	miner, validator *keys.Pair
	key              *keys.P256
	host             ssh.PublicKey
	device           attestor.Device
	setup            attest.Setup
}

func newRecorded(t *testing.T) recorded {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	var c recorded
	var err error
	c.miner, err = keys.Generate(keys.Sr25519)
	must(err)
	c.validator, err = keys.Generate(keys.Sr25519)
	must(err)
	c.key, err = keys.GenerateP256()
	must(err)
	hostKey, err := keys.GenerateP256()
	must(err)
	host, err := ssh.NewSignerFromSigner(hostKey.Signer())
	must(err)
	c.host, c.device = host.PublicKey(), attestor.NewSoftware(c.key.SPKI(), 0, attest.NewCPU(attest.Serial))
	small := attest.Params{N: 64, Layers: 8, Lanes: 64, Steps: 4, Batches: 4, WinLayers: 2, Cells: 64, Rounds: 4}
	c.setup = attest.Setup{
		Started: time.Now().Round(0), Strength: attest.RecheckStrength(), Policy: attest.Policy{AllowSoftware: true},
		Claims:   []attest.Claim{{UUID: c.device.Info().UUID}},
		Profiles: attest.Profiles{{Model: "software", Software: true, Params: &small}},
		Binding: attest.Binding{
			SessionID: []byte("session"), HostKey: c.host.Marshal(), MinerHotkey: c.miner.PublicKey(), ValidatorHotkey: c.validator.PublicKey(),
		},
	}
	return c
}

// record stores the frames of one challenge, which the machine answers or hangs up on.
func (c recorded) record(t *testing.T, prove bool) (path string) {
	t.Helper()
	v, err := attest.NewVerifier(c.setup, rand.Reader, c.validator.Sign)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	proved := make(chan error, 1)
	go func() {
		defer theirs.Close()
		if !prove {
			proved <- nil
			return
		}
		_, err := attestor.Prove(t.Context(), theirs, attestor.Config{
			Binding: &c.setup.Binding, Greeting: attest.Greeting{Version: "test", SPKI: c.key.SPKI()}, Devices: []attestor.Device{c.device},
			Sign: c.key.Sign, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		})
		proved <- err
	}()
	refusal := validator.Drive(t.Context(), v, ours, func() { ours.Close() }, time.Now)
	ours.Close()
	if err := <-proved; err != nil {
		t.Fatal(err, refusal)
	}
	record, err := v.Record()
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if _, err := record.WriteTo(&file); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "record.gpow1")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
