package validator

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"basilica"
	"basilica/attest"
	"basilica/keys"
	"basilica/pki"
	"basilica/sshdoor"
)

// sshMachine is a machine behind a real SSH door.
type sshMachine struct {
	*machine
	addr string
}

// serve opens the door; the machine proves in it with what the SSH server says of the channel.
func serve(t *testing.T, m *machine, authority *pki.Authority, miner *keys.Pair) *sshMachine {
	t.Helper()
	hostKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(hostKey)
	if err != nil {
		t.Fatal(err)
	}
	m.host = host.PublicKey().Marshal()
	direct := &wireSession{m: m}
	server, err := sshdoor.NewServer(sshdoor.Config{
		HostKey: host, CAs: authority.SSHCAKeys, Principal: string(m.id), Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Handlers: map[string]sshdoor.Handler{
			"attest": func(ctx context.Context, s sshdoor.Session) error {
				validator, err := keys.DecodeSS58(string(s.Validator))
				if err != nil {
					return err
				}
				return m.prove(ctx, s.Channel, attest.Binding{SessionID: s.SessionID, HostKey: s.HostKeyBlob, MinerHotkey: miner.PublicKey(), ValidatorHotkey: validator})
			},
			"facts": func(_ context.Context, s sshdoor.Session) error {
				return json.NewEncoder(s.Channel).Encode(basilica.Facts{CPUs: 2, GPUs: []basilica.GPU{}})
			},
			"check": func(_ context.Context, s sshdoor.Session) error { return direct.check(s.Channel) },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("SSH door: %v", err)
		}
	})
	return &sshMachine{m, ln.Addr().String()}
}

// sshMiner grants real certificates.
type sshMiner struct {
	*minerDouble
	authority *pki.Authority
	self      basilica.Hotkey
	addrs     map[basilica.ExecutorID]string
}

func (m *sshMiner) OpenValidation(ctx context.Context, req basilica.ValidationRequest) (basilica.ValidationGrant, error) {
	grant, err := m.minerDouble.OpenValidation(ctx, req)
	if err != nil {
		return grant, err
	}
	for i := range grant.Executors {
		a := &grant.Executors[i]
		a.Addr = m.addrs[a.Executor]
		a.Certificate, err = m.authority.SSHUserCertificate(req.SSHPublicKey, string(a.Executor), string(grant.ID), string(m.self), []string{"attest", "facts", "check"}, time.Now(), 10*time.Minute)
		if err != nil {
			return grant, err
		}
	}
	return grant, nil
}

func TestOverSSH(t *testing.T) {
	t.Parallel()
	authority, err := pki.Create(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	honest, cheat, busy, silent := newMachine(t, "honest"), newMachine(t, "cheat"), newMachine(t, "busy"), newMachine(t, "silent")
	cheat.cheat = "fill:0.3"
	busy.attest = func(context.Context, io.ReadWriteCloser, attest.Binding) error {
		return basilica.NewHeld(basilica.Holding{Kind: basilica.HolderTask, Holder: "task-9", Expires: time.Now().Add(time.Minute)})
	}
	silent.attest = func(ctx context.Context, _ io.ReadWriteCloser, _ attest.Binding) error {
		<-ctx.Done()
		return ctx.Err()
	}
	w := newWorld(t, honest, cheat, busy, silent)
	door := &sshMiner{minerDouble: w.miner, authority: authority, self: w.v.self, addrs: map[basilica.ExecutorID]string{}}
	for _, m := range w.miner.machines {
		door.addrs[m.id] = serve(t, m, authority, w.miner.key).addr
	}
	w.cfg.Limits.Hello = 5 * time.Second
	w.cfg.Door = func(basilica.Neuron) (MinerDoor, error) { return door, nil }
	w.cfg.Dial = func(ctx context.Context, a basilica.GrantedAccess, key ed25519.PrivateKey) (Session, error) {
		signer, err := ssh.NewSignerFromKey(key)
		if err != nil {
			return nil, err
		}
		c, err := sshdoor.Dial(ctx, a.Addr, sshdoor.DialConfig{HostKey: a.HostKey, Signer: signer, Certificate: a.Certificate, AllowPrivate: true})
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	w.restart()
	got := w.round(20)
	for id, want := range map[basilica.ExecutorID]struct {
		result       basilica.Result
		reason, path string
	}{
		"honest": {basilica.Pass, "PASS", "PASS"},
		"cheat":  {basilica.Fail, "CHEAT_FILL", "PASS"},
		"busy":   {basilica.NotRun, "BUSY", "PASS"},
		"silent": {basilica.NotRun, "TIMEOUT_HELLO", "SSH_UNREACHABLE"},
	} {
		v := got[id]
		d, path := proof(v), v.Verdict(basilica.CheckTaskPath)
		if d.Result != want.result || d.Reason != want.reason || path.Reason != want.path {
			t.Errorf("%s: %+v, %+v, %+v", id, d, path, v.Verdict(basilica.CheckFacts))
		}
		if d.Evidence != nil {
			w.judgeAgain(d)
		}
	}
	if got["busy"].Holder != "task-9" {
		t.Errorf("holder %q", got["busy"].Holder)
	}
}
