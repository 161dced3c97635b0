package miner_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"basilica"
	"basilica/keys"
	"basilica/miner"
	"basilica/pki"
)

func TestEnroll(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	h.enroll()
	e, err := h.enrollment.Endorsement.Open()
	must(t, err)
	if h.enrollment.Executor != "box" || e.Miner != basilica.Hotkey(h.hotkey.SS58()) || !bytes.Equal(e.KeySPKI, h.boxKey.SPKI()) || e.Executor != "box" {
		t.Errorf("endorsement %+v", e)
	}
	if len(h.enrollment.Trust.JWTKeys) != 1 || len(h.enrollment.Trust.JWTKeys[0]) != ed25519.PublicKeySize {
		t.Error("no JWT key")
	}
	other, err := keys.GenerateP256()
	must(t, err)
	h.answers(func(string) ([]byte, error) { return other.SPKI(), nil })
	used := h.token("")
	_, err = h.miner.Enroll(ctx, h.request(used, "", other))
	must(t, err)
	for name, c := range map[string]struct {
		req  func(*basilica.EnrollRequest)
		code string
	}{
		"no token":               {func(r *basilica.EnrollRequest) { r.Token = "x" }, "TOKEN_UNKNOWN"},
		"token of another miner": {func(r *basilica.EnrollRequest) { r.Token, _, _ = pki.NewJoinToken("h:1", []byte("ca")) }, "TOKEN_UNKNOWN"},
		"used token":             {func(r *basilica.EnrollRequest) { r.Token = used }, "TOKEN_USED"},
		"name taken":             {func(r *basilica.EnrollRequest) { r.Name = "box" }, "EXECUTOR_NAME_TAKEN"},
		"bad name":               {func(r *basilica.EnrollRequest) { r.Name = "Box!" }, "EXECUTOR_NAME"},
		"token for another name": {func(r *basilica.EnrollRequest) { r.Token = h.token("a"); r.Name = "b" }, "TOKEN_NAME"},
		"no address":             {func(r *basilica.EnrollRequest) { r.Addr = "50051" }, "ENROLL_ADDRESS"},
		"no CSR":                 {func(r *basilica.EnrollRequest) { r.CSR = nil }, "ENROLL_INVALID"},
		"no host key":            {func(r *basilica.EnrollRequest) { r.HostKey = nil }, "ENROLL_INVALID"},
	} {
		req := h.request(h.token(""), "third", other)
		c.req(&req)
		if _, err := h.miner.Enroll(ctx, req); basilica.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	h.answers(func(string) ([]byte, error) { return h.boxKey.SPKI(), nil })
	_, err = h.miner.Enroll(ctx, h.request(h.token(""), "third", other))
	wantCode(t, err, "DIAL_BACK_KEY")
	h.answers(func(string) ([]byte, error) { return nil, errors.New("connection refused") })
	_, err = h.miner.Enroll(ctx, h.request(h.token(""), "third", other))
	wantCode(t, err, "DIAL_BACK")
	if fix := basilica.FixOf(err); !bytes.Contains([]byte(fix), []byte("50051")) {
		t.Errorf("fix %q does not say what to open", fix)
	}
	late := h.token("")
	h.pass(time.Hour)
	_, err = h.miner.Enroll(ctx, h.request(late, "third", other))
	wantCode(t, err, "TOKEN_EXPIRED")
	tokens, err := h.miner.Tokens(ctx)
	if err != nil || len(tokens) < 5 {
		t.Errorf("%d tokens, %v", len(tokens), err)
	}
}

func TestRegistration(t *testing.T) {
	h := newHouse(t)
	h.head()
	if len(h.chain.served) != 1 || h.chain.served[0].Addr.String() != "127.0.0.2:8080" {
		t.Fatalf("served %+v", h.chain.served)
	}
	h.head()
	if len(h.chain.served) != 1 {
		t.Error("an unchanged axon was published again")
	}
	must(t, h.miner.Health(context.Background()))
	s, err := h.miner.Status(context.Background())
	if err != nil || !s.Published || s.UID == nil {
		t.Errorf("status %+v %v", s, err)
	}
	h.chain.change(func(g *basilica.Metagraph) { g.Neurons[0].Hotkey = "another" })
	h.head()
	wantCode(t, h.miner.Health(context.Background()), "MINER_NOT_REGISTERED")
	h.pass(time.Hour)
	wantCode(t, h.miner.Health(context.Background()), "CHAIN_STALE")

	stranger, err := keys.Generate(keys.Sr25519)
	must(t, err)
	m := miner.New(miner.Config{NetUID: netuid}, miner.Parts{Hotkey: stranger, Chain: h.chain, Now: h.clock, Log: slog.New(slog.DiscardHandler)})
	err = m.Run(context.Background())
	wantCode(t, err, "MINER_NOT_REGISTERED")
	if basilica.FixOf(err) == "" {
		t.Error("no next step")
	}
}

func TestOpenValidation(t *testing.T) {
	ctx, h := context.Background(), newHouse(t)
	h.head()
	h.enroll()
	open := func(who basilica.Hotkey, ids ...basilica.ExecutorID) (basilica.ValidationGrant, error) {
		return h.miner.OpenValidation(ctx, basilica.ValidationRequest{Validator: who, SSHPublicKey: sshPublicKey(t), Round: 10, Executors: ids})
	}
	for who, code := range map[basilica.Hotkey]string{"stranger": "VALIDATOR_UNKNOWN", "no-permit": "VALIDATOR_NO_PERMIT", "poor": "VALIDATOR_STAKE"} {
		_, err := open(who)
		wantCode(t, err, code)
	}
	_, err := h.miner.OpenValidation(ctx, basilica.ValidationRequest{Validator: validator, SSHPublicKey: []byte("x")})
	wantCode(t, err, "SSH_KEY")
	grant, err := open(validator, "box", "nobody")
	must(t, err)
	if len(grant.Executors) != 1 || len(grant.Skipped) != 1 || grant.Skipped[0].Reason.Code != "EXECUTOR_UNKNOWN" {
		t.Fatalf("grant %+v", grant)
	}
	parsed, err := ssh.ParsePublicKey(grant.Executors[0].Certificate)
	must(t, err)
	cert, ok := parsed.(*ssh.Certificate)
	if !ok || cert.KeyId != string(grant.ID) || len(cert.ValidPrincipals) != 1 || cert.ValidPrincipals[0] != "box" {
		t.Fatalf("certificate %+v", cert)
	}
	if end := time.Unix(int64(cert.ValidBefore), 0); end.After(h.clock().Add(10 * time.Minute)) {
		t.Errorf("certificate until %s", end)
	}

	h.pass(11 * time.Second)
	grant, err = open(validator)
	must(t, err)
	if len(grant.Executors) != 0 || len(grant.Skipped) != 1 || grant.Skipped[0].Reason.Code != "EXECUTOR_SILENT" {
		t.Errorf("silent executor: %+v", grant)
	}
	_, err = open(validator)
	must(t, err)
	_, err = open(validator)
	wantCode(t, err, "GRANT_RATE")

	view, err := h.miner.Member(ctx, "box")
	must(t, err)
	if len(view.Grants) != 1 || view.Grants[0].Validator != validator || view.Ready || view.Why.Code != "EXECUTOR_SILENT" || view.LastBeat.Clock != 3*time.Second {
		t.Errorf("view %+v", view)
	}
	h.chain.change(func(g *basilica.Metagraph) { g.Neurons[1].ValidatorPermit = false })
	h.head()
	if reply := h.beat(); len(reply.Revoked) != 1 {
		t.Errorf("a fallen validator's grant was not revoked: %+v", reply)
	}
	h.pass(time.Hour)
	_, err = open(validator)
	wantCode(t, err, "CHAIN_STALE")
}

func TestOffer(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	taken := h.accept()
	h.submit("k", basilica.TaskSpec{Image: "i", GPUs: 1, AllowSoftware: true})
	<-taken
	waits := h.submit("l", basilica.TaskSpec{Image: "i", GPUs: 1, AllowSoftware: true})
	o, err := h.miner.Offer(context.Background())
	must(t, err)
	if len(o.Executors) != 1 || !o.Executors[0].Ready || o.Executors[0].GPUs != 1 || o.Executors[0].GPUsFree != 0 || o.Queue != 1 || o.Executors[0].GPUKind != basilica.GPUSoftware {
		t.Errorf("offer %+v", o)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	why := errors.New("told why")
	err = h.miner.WatchTask(ctx, client, waits.ID, 0, func(e basilica.TaskEvent) error {
		if e.Reason != nil && e.Reason.Code == "WAITS_FOR_ROOM" {
			return why
		}
		return nil
	})
	if !errors.Is(err, why) {
		t.Errorf("a waiting client was not told why: %v", err)
	}
}

func TestHeartbeatBounds(t *testing.T) {
	h := newHouse(t)
	_, err := h.miner.Heartbeat(context.Background(), "nobody", basilica.Heartbeat{})
	wantCode(t, err, "EXECUTOR_UNKNOWN")
	_, err = h.miner.Heartbeat(context.Background(), "nobody", basilica.Heartbeat{GPUs: make([]basilica.GPU, 100)})
	wantCode(t, err, "HEARTBEAT_SIZE")
}

// TestANodeThatIsAwayAtTheStart: a miner that starts while no node answers goes by the metagraph that was read before, for as
// long as that is young enough, and no longer.
func TestANodeThatIsAwayAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hotkey, err := keys.FromURI(keys.Sr25519, "//Bob//miner")
		must(t, err)
		graph := basilica.Metagraph{NetUID: netuid, Neurons: []basilica.Neuron{{Hotkey: basilica.Hotkey(hotkey.SS58())}, {UID: 1, Hotkey: validator, ValidatorPermit: true}}}
		read := time.Now()
		chain := &chainDouble{
			err:  basilica.E(basilica.Unavailable, "CHAIN_UNREACHABLE", "no node answers", "wait"),
			kept: func() (*basilica.Metagraph, time.Time) { return &graph, read },
		}
		<-time.After(4 * time.Minute)
		m := miner.New(miner.Config{NetUID: netuid}, miner.Parts{Hotkey: hotkey, Chain: chain, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		synctest.Wait()
		must(t, m.MayValidate(ctx, validator))
		<-time.After(2 * time.Minute)
		wantCode(t, m.MayValidate(ctx, validator), "CHAIN_STALE")
		cancel()
		if err := <-done; err != nil { // who stops a miner that waits is not told that the chain is away
			t.Errorf("run: %v", err)
		}
	})
}
