package node

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"basilica"
	"basilica/attestor"
	"basilica/internal/provoke"
	"basilica/keys"
	"basilica/pki"
	"basilica/wire"
)

// rotatingFleet is a testFleet that signs rotations, as a miner does.
type rotatingFleet struct {
	*testFleet
	present basilica.SignedEndorsement
	loses   bool // the next answer, after it was recorded
}

func (f *rotatingFleet) Renew(ctx context.Context, id basilica.ExecutorID, req basilica.RenewRequest) (basilica.Renewal, error) {
	out, err := f.testFleet.Renew(ctx, id, req)
	if err != nil || req.Rotation == nil {
		return out, err
	}
	present, err := f.present.Open()
	if err != nil {
		return out, err
	}
	if _, to, err := req.Rotation.Rotation(); err != nil || !bytes.Equal(to, present.AttestSPKI) {
		if f.present, err = req.Rotation.Countersign(present, f.hotkey, time.Now()); err != nil {
			return out, err
		}
	}
	out.Endorsement = &f.present
	if f.loses {
		f.loses = false
		return out, errors.New("the miner died")
	}
	return out, nil
}

// TestRekey: a machine that has joined gets a new attestation key under the same id; what is cut short is finished by the next
// try, with the same new key.
func TestRekey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(t.TempDir(), "gpu-attestor")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "nocuda", "-o", program, "../cmd/gpu-attestor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	log := slog.New(slog.DiscardHandler)
	fleet := &rotatingFleet{testFleet: &testFleet{}}
	var err error
	fleet.hotkey, err = keys.FromURI(keys.Sr25519, minerHotURI)
	check(t, err)
	fleet.authority, err = pki.Create(filepath.Join(t.TempDir(), "pki"))
	check(t, err)
	cert, err := fleet.authority.ServerCertificate(time.Now(), []string{"127.0.0.1"})
	check(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	server, err := wire.NewFleetServer(fleet, wire.FleetServerConfig{Certificate: shows(cert), CAs: fleet.authority.FleetCAs, Known: anyone, Now: time.Now, Log: log})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, ln) }()
	defer func() {
		cancel()
		check(t, <-served)
	}()

	cfg, deps := DefaultExecutorConfig(), Deps{Log: log, Now: time.Now}
	cfg.DataDir, cfg.Attestor, cfg.MinerAddr, cfg.SoftwareGPUs = dir, program, ln.Addr().String(), 1
	child, err := childOf(t.Context(), cfg, log)
	check(t, err)
	first, err := child.Detect(t.Context())
	check(t, err)
	key, host, err := machineKeys(dir)
	check(t, err)
	csr, err := pki.NewCSR(key.Signer())
	check(t, err)
	fleet.dialBack = func(context.Context, string) ([]byte, error) { return key.SPKI(), nil }
	joined, err := fleet.Enroll(t.Context(), basilica.EnrollRequest{CSR: csr, HostKey: host.PublicKey().Marshal(), AttestSPKI: first.SPKI})
	check(t, err)
	check(t, saveIdentity(dir, joined))
	fleet.present = joined.Endorsement

	signsWith := func() []byte {
		d, err := child.Detect(t.Context())
		check(t, err)
		self, err := loadIdentity(dir)
		check(t, err)
		e, err := self.Endorsement.Open()
		check(t, err)
		if !bytes.Equal(e.AttestSPKI, d.SPKI) {
			t.Errorf("the machine signs with %x, endorsed is %x", d.SPKI[27:35], e.AttestSPKI[27:35])
		}
		if _, err := os.Stat(filepath.Join(dir, nextKeyFile)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a rotation was left open: %v", err)
		}
		return d.SPKI
	}
	done, err := Rekey(t.Context(), cfg, deps)
	check(t, err)
	second := signsWith()
	if bytes.Equal(second, first.SPKI) || !bytes.Equal(done.SPKI, second) || done.Executor != "box-1" || done.Kind != attestor.KeyFile {
		t.Errorf("%+v", done)
	}

	fleet.loses = true
	if _, err := Rekey(t.Context(), cfg, deps); err == nil {
		t.Fatal("the miner's answer was lost, and nobody noticed")
	}
	next, err := keys.LoadP256(filepath.Join(dir, nextKeyFile))
	check(t, err)
	self, err := loadIdentity(dir)
	check(t, err)
	check(t, (&Executor{cfg: cfg, deps: deps, self: self}).finishRekey(t.Context())) // as the executor does when it starts
	if third := signsWith(); !bytes.Equal(third, next.SPKI()) {
		t.Error("the second try made another key than the first")
	}
	check(t, (&Executor{cfg: cfg, deps: deps, self: self}).finishRekey(t.Context()))

	cfg.AttestationKey = string(attestor.KeyTPM)
	provoke.Refused(t, keyFits(cfg, first), "ATTEST_KEY_KIND")
}
