package miner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/miner"
	"basilica/pki"
)

// eventually looks until ok; what is waited for here happens within the miner's next ticks.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-deadline.C:
			t.Fatalf("never came: %s", what)
		}
	}
}

func (h *house) member() basilica.MemberView {
	h.t.Helper()
	v, err := h.miner.Member(context.Background(), "box")
	must(h.t, err)
	return v
}

// renewed is what the box gets for the certificate that it shows.
func (h *house) renew(shown []byte) (basilica.Renewal, error) {
	h.t.Helper()
	csr, err := pki.NewCSR(h.boxKey.Signer())
	must(h.t, err)
	return h.miner.Renew(context.Background(), "box", basilica.RenewRequest{CSR: csr, Certificate: shown})
}

func (h *house) restart() {
	h.t.Helper()
	h.stop()
	var err error
	h.pki, err = pki.Load(filepath.Join(h.dir, "pki"))
	must(h.t, err)
	h.open(nil)
}

// TestRenewedCertificates: the one that was shown for a renewal stays good beside the new one, whatever is lost between
// issuing and keeping it; everything older is refused.
func TestRenewedCertificates(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.enroll()
	first := h.enrollment.Certificate
	must(t, h.miner.Known(ctx, "box", first))
	lost, err := h.renew(first)
	must(t, err)
	second, err := h.renew(first) // the machine died before it kept the last one
	must(t, err)
	must(t, h.miner.Known(ctx, "box", first))
	must(t, h.miner.Known(ctx, "box", second.Certificate))
	wantCode(t, h.miner.Known(ctx, "box", lost.Certificate), "CERTIFICATE_REPLACED")
	third, err := h.renew(second.Certificate)
	must(t, err)
	wantCode(t, h.miner.Known(ctx, "box", first), "CERTIFICATE_REPLACED")
	must(t, h.miner.Known(ctx, "box", second.Certificate))
	h.restart()
	must(t, h.miner.Known(ctx, "box", third.Certificate))
	_, err = h.renew(first)
	wantCode(t, err, "CERTIFICATE_REPLACED")

	other, err := keys.GenerateP256()
	must(t, err)
	csr, err := pki.NewCSR(other.Signer())
	must(t, err)
	_, err = h.miner.Renew(ctx, "box", basilica.RenewRequest{CSR: csr, Certificate: third.Certificate})
	wantCode(t, err, "RENEW_KEY")
	_, err = h.miner.Renew(ctx, "box", basilica.RenewRequest{CSR: []byte("x"), Certificate: third.Certificate})
	wantCode(t, err, "RENEW_INVALID")
	wantCode(t, h.miner.Known(ctx, "nobody", first), "EXECUTOR_UNKNOWN")
}

// TestRevokedExecutor: refused at every door from that moment on, over restarts too; it comes back with a new token, and
// none of its old certificates with it.
func TestRevokedExecutor(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.head()
	h.enroll()
	first := h.enrollment.Certificate
	fresh, err := h.renew(first)
	must(t, err)
	var cut []string
	h.cut = func(id basilica.ExecutorID, why error) { cut = append(cut, string(id)+" "+basilica.CodeOf(why)) }
	wantCode(t, h.miner.Revoke(ctx, "nobody"), "EXECUTOR_UNKNOWN")
	must(t, h.miner.Revoke(ctx, "box"))
	if len(cut) != 1 || cut[0] != "box EXECUTOR_REVOKED" {
		t.Errorf("cut %v", cut)
	}
	refused := func() {
		t.Helper()
		for _, cert := range [][]byte{first, fresh.Certificate} {
			wantCode(t, h.miner.Known(ctx, "box", cert), "EXECUTOR_REVOKED")
		}
		_, err := h.miner.Heartbeat(ctx, "box", basilica.Heartbeat{At: h.clock()})
		wantCode(t, err, "EXECUTOR_REVOKED")
		_, err = h.renew(fresh.Certificate)
		wantCode(t, err, "EXECUTOR_REVOKED")
		if v := h.member(); v.State != "revoked" || v.Ready || v.Why.Fix == "" {
			t.Errorf("shown as %s %+v", v.State, v.Why)
		}
	}
	refused()
	grant, err := h.miner.OpenValidation(ctx, basilica.ValidationRequest{Validator: validator, SSHPublicKey: sshPublicKey(t)})
	must(t, err)
	if len(grant.Executors) != 0 || len(grant.Skipped) != 1 || grant.Skipped[0].Reason.Code != "EXECUTOR_REVOKED" {
		t.Errorf("a validator was sent to a revoked machine: %+v", grant)
	}
	h.restart()
	refused()

	h.enroll()
	must(t, h.miner.Known(ctx, "box", h.enrollment.Certificate))
	wantCode(t, h.miner.Known(ctx, "box", first), "CERTIFICATE_REPLACED")
	wantCode(t, h.miner.Known(ctx, "box", fresh.Certificate), "CERTIFICATE_REPLACED")
	if v := h.member(); v.State != "ready" {
		t.Errorf("joined again: %s %+v", v.State, v.Why)
	}
}

// TestRevokedMidTask: what ran on a machine that is revoked is lost under that code.
func TestRevokedMidTask(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	accepted := h.accept()
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	<-accepted
	h.until(task.ID, basilica.TaskPlaced)
	eventually(t, "the task is accepted", func() bool {
		r, err := h.store.Task(t.Context(), task.ID)
		return err == nil && r.Accepted
	})
	must(t, h.miner.Revoke(t.Context(), "box"))
	if _, last := h.end(task.ID); last.State != basilica.TaskLost || last.Reason.Code != "EXECUTOR_REVOKED" {
		t.Errorf("ended %s %+v", last.State, last.Reason)
	}
}

// TestRevokedWhileATaskWaits: what only the revoked machine could have taken does not wait for it.
func TestRevokedWhileATaskWaits(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	must(t, h.miner.Drain(t.Context(), "box", true, 0))
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	h.until(task.ID, basilica.TaskQueued)
	must(t, h.miner.Revoke(t.Context(), "box"))
	if _, last := h.end(task.ID); last.State != basilica.TaskFailed || last.Reason.Code != "NO_EXECUTOR_FITS" {
		t.Errorf("ended %s %+v", last.State, last.Reason)
	}
	offer, err := h.miner.Offer(t.Context())
	must(t, err)
	if len(offer.Executors) != 0 {
		t.Errorf("clients are offered a revoked machine: %+v", offer.Executors)
	}
}

// TestServesInSpiteOfIt: what a machine that serves says against itself is a note, and keeps no task from it.
func TestServesInSpiteOfIt(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	_, err := h.miner.Heartbeat(t.Context(), "box", basilica.Heartbeat{At: h.clock(), GPUs: []basilica.GPU{{Kind: basilica.GPUSoftware, UUID: "u0"}}, Health: basilica.Health{
		OK: true, MaxTasks: 4, Reasons: []basilica.Reason{{Code: "CLEANUP", Sentence: "something of 1 ended tasks could not be removed yet"}},
	}})
	must(t, err)
	if v := h.member(); !v.Ready || len(v.Notes) != 1 || v.Notes[0].Code != "CLEANUP" {
		t.Errorf("%s %+v, notes %+v", v.State, v.Why, v.Notes)
	}
}

// TestRotationOfTheAuthority goes through both halves with a kill in each: every machine has taken the new keys before they
// sign, what the old ones signed is good until it has ended by itself, and then they are gone.
func TestRotationOfTheAuthority(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.enroll()
	token := h.token("")
	old := h.pki.CACert()
	trust := h.enrollment.Trust
	beat := func() basilica.HeartbeatReply {
		t.Helper()
		reply, err := h.miner.Heartbeat(ctx, "box", basilica.Heartbeat{At: h.clock(), Health: basilica.Health{OK: true, MaxTasks: 4}, Trust: trust.Digest(), GPUs: []basilica.GPU{{Kind: basilica.GPUSoftware, UUID: "u0"}}})
		must(t, err)
		return reply
	}
	if beat().Trust != trust.Digest() {
		t.Fatal("the miner wants a renewal without a rotation")
	}
	v, err := h.miner.RotateKeys(ctx)
	must(t, err)
	if v.Phase != "announced" || len(v.Waiting) != 1 || v.Waiting[0] != "box" {
		t.Fatalf("begun: %+v", v)
	}
	h.restart()
	if beat().Trust == trust.Digest() || string(h.pki.CACert()) != string(old) {
		t.Fatal("after a kill the rotation is forgotten, or is further than its machines")
	}
	if again, err := h.miner.RotateKeys(ctx); err != nil || again.Phase != "announced" {
		t.Fatalf("begun twice: %+v %v", again, err)
	}
	shown := h.enrollment.Certificate
	r, err := h.renew(shown)
	must(t, err)
	if len(r.Trust.FleetCAs) != 2 || len(r.Trust.SSHCAs) != 2 || len(r.Trust.JWTKeys) != 2 {
		t.Fatalf("during the rotation %d CAs are trusted", len(r.Trust.FleetCAs))
	}
	signed, err := h.pki.MintJWT("box", h.clock(), time.Minute)
	must(t, err)
	trust = r.Trust
	beat()
	eventually(t, "the new keys sign", func() bool { phase, _ := h.pki.Rotation(); return phase == pki.PhaseSwitched })
	if string(h.pki.CACert()) == string(old) || beat().Trust != trust.Digest() {
		t.Error("the switch asks for another renewal, or changed nothing")
	}
	for _, text := range []string{signed, mint(t, h)} {
		must(t, pki.VerifyJWT(trust.JWTKeys, text, "box", h.clock()))
	}
	eventually(t, "the unused token has ended", func() bool {
		_, err := h.miner.Enroll(ctx, h.request(token, "other", h.boxKey))
		return basilica.CodeOf(err) == "TOKEN_EXPIRED"
	})
	h.restart()
	h.pass(pki.RotationOverlap)
	eventually(t, "the old keys are gone", func() bool { phase, _ := h.pki.Rotation(); return phase == pki.PhaseNone })
	if want := beat().Trust; want == trust.Digest() {
		t.Error("the machine goes on trusting the old keys")
	}
	last, err := h.renew(r.Certificate)
	must(t, err)
	if len(last.Trust.FleetCAs) != 1 || string(last.Trust.FleetCAs[0]) == string(old) {
		t.Error("the old CA is still named")
	}
	if v, err := h.miner.Rotation(ctx); err != nil || v.Phase != "" {
		t.Errorf("%+v %v", v, err)
	}
}

// TestAnotherMinersMachine: a machine that is another miner's is refused before its token is spent; this miner's own comes again
// with any token, also after the authority that it knows was replaced.
func TestAnotherMinersMachine(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	_, err := h.miner.RotateKeys(t.Context())
	must(t, err)
	must(t, h.miner.Revoke(t.Context(), "box"))
	eventually(t, "the new keys sign", func() bool { phase, _ := h.pki.Rotation(); return phase == pki.PhaseSwitched })
	req := h.request(h.token(""), "box", h.boxKey)
	req.Miner = basilica.Hotkey("5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY")
	_, err = h.miner.Enroll(t.Context(), req)
	wantCode(t, err, "ALREADY_JOINED")
	req.Miner = h.enrollment.Miner
	again, err := h.miner.Enroll(t.Context(), req)
	must(t, err)
	if again.Executor != "box" || again.Trust.Digest() == h.enrollment.Trust.Digest() {
		t.Errorf("%+v", again)
	}
}

// dyingStore fails at the first end of all tokens, as a process does that is killed there.
type dyingStore struct {
	miner.Store
	phase func() pki.Phase
	seen  chan pki.Phase
}

func (s *dyingStore) RevokeTokens(ctx context.Context, now time.Time) (int, error) {
	first := len(s.seen) == 0
	s.seen <- s.phase()
	if first {
		return 0, errors.New("killed")
	}
	return s.Store.RevokeTokens(ctx, now)
}

// TestTokensEndBeforeTheNewKeysSign: a death between the two leaves no token that names keys which are gone.
func TestTokensEndBeforeTheNewKeysSign(t *testing.T) {
	h := newHouse(t)
	s := &dyingStore{phase: func() pki.Phase { phase, _ := h.pki.Rotation(); return phase }, seen: make(chan pki.Phase, 2)}
	h.wrap = func(p *miner.Parts) { s.Store, p.Store = p.Store, s }
	h.restart()
	token := h.token("")
	_, err := h.miner.RotateKeys(t.Context())
	must(t, err)
	eventually(t, "the new keys sign", func() bool { return s.phase() == pki.PhaseSwitched })
	for range 2 {
		if phase := <-s.seen; phase != pki.PhaseAnnounced {
			t.Errorf("tokens end in phase %q", phase)
		}
	}
	_, err = h.miner.Enroll(t.Context(), h.request(token, "other", h.boxKey))
	wantCode(t, err, "TOKEN_EXPIRED")
}

func mint(t *testing.T, h *house) string {
	t.Helper()
	text, err := h.pki.MintJWT("box", h.clock(), time.Minute)
	must(t, err)
	return text
}

// TestIdentityTwice: a machine whose disk was copied is refused while the first one is heard, and the list says so; a
// restarted one is not taken for a copy.
func TestIdentityTwice(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.enroll()
	beat := func(instance string) error {
		h.pass(2 * time.Second)
		_, err := h.miner.Heartbeat(ctx, "box", basilica.Heartbeat{At: h.clock(), Health: basilica.Health{OK: true, MaxTasks: 4}, Instance: instance, From: "192.0.2." + instance, GPUs: []basilica.GPU{{Kind: basilica.GPUSoftware, UUID: "u0"}}})
		return err
	}
	for _, restarted := range []string{"1", "1", "2", "2", "3"} {
		must(t, beat(restarted))
	}
	if v := h.member(); len(v.Notes) != 0 {
		t.Errorf("restarts are taken for copies: %+v", v.Notes)
	}
	must(t, beat("4")) // the copy starts
	must(t, beat("3"))
	wantCode(t, beat("4"), "IDENTITY_TWICE")
	must(t, beat("3"))
	wantCode(t, beat("4"), "IDENTITY_TWICE")
	v := h.member()
	if len(v.Notes) != 1 || v.Notes[0].Code != "IDENTITY_TWICE" || !strings.Contains(v.Notes[0].Sentence, "192.0.2.4") || v.Notes[0].Fix == "" {
		t.Errorf("the copy is not shown: %+v", v.Notes)
	}
	h.pass(time.Minute) // the first one is switched off
	must(t, beat("4"))
	must(t, beat("4"))
	if v := h.member(); len(v.Notes) != 0 {
		t.Errorf("one machine alone is taken for two: %+v", v.Notes)
	}
}

// TestFleetListSaysWhatIsWrong: each thing that keeps a machine from working, or soon will, stands there with its fix.
func TestFleetListSaysWhatIsWrong(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.stop()
	h.open(func(c *miner.Config) { c.Version, c.ProbeEvery = "v2", 5*time.Millisecond })
	_, err := h.miner.Enroll(ctx, h.request(h.token(""), "box", h.boxKey))
	must(t, err)
	state := func(want, code, said string) {
		t.Helper()
		v := h.member()
		if v.State != want || v.Why == nil || v.Why.Code != code || v.Why.Fix == "" || !strings.Contains(v.Why.Sentence, said) {
			t.Errorf("%s %+v, want %s %s %q", v.State, v.Why, want, code, said)
		}
	}
	state("unknown", "EXECUTOR_SILENT", "has not sent a heartbeat")
	at := func(off time.Duration, version string) {
		t.Helper()
		_, err := h.miner.Heartbeat(ctx, "box", basilica.Heartbeat{At: h.clock().Add(off), Version: version, Health: basilica.Health{OK: true, MaxTasks: 4}, GPUs: []basilica.GPU{{Kind: basilica.GPUSoftware, UUID: "u0"}}})
		must(t, err)
	}
	at(-95*time.Second, "v2")
	state("clock", "EXECUTOR_CLOCK", "95 s behind the miner's")
	at(605*time.Second, "v2")
	state("clock", "EXECUTOR_CLOCK", "605 s ahead of the miner's")
	at(60*time.Second, "v1")
	if v := h.member(); v.State != "ready" || len(v.Notes) != 1 || v.Notes[0].Code != "EXECUTOR_VERSION" || !strings.Contains(v.Notes[0].Sentence, "v1") {
		t.Errorf("%s %+v", v.State, v.Notes)
	}
	at(0, "v2")
	if v := h.member(); v.State != "ready" || len(v.Notes) != 0 || v.Ends.IsZero() {
		t.Errorf("%s %+v", v.State, v.Notes)
	}

	h.answers(func(addr string) ([]byte, error) { return nil, fmt.Errorf("dial %s: connection refused", addr) })
	eventually(t, "unreachable", func() bool { at(0, "v2"); return h.member().State == "unreachable" })
	state("unreachable", "EXECUTOR_UNREACHABLE", "127.0.0.1:50051: dial 127.0.0.1:50051: connection refused")
	met, err := h.miner.Reach(ctx, "box")
	must(t, err)
	if met.GRPC == nil || met.GRPC.Code != "EXECUTOR_UNREACHABLE" || met.SSH != nil || met.Addr != "127.0.0.1:50051" || !met.At.Equal(h.clock()) {
		t.Errorf("%+v, gRPC %+v, SSH %+v", met, met.GRPC, met.SSH)
	}
	if _, err := h.miner.Reach(ctx, "nobody"); basilica.KindOf(err) != basilica.NotFound {
		t.Error(err)
	}
	h.answers(func(string) ([]byte, error) { return []byte("another key"), nil })
	eventually(t, "another machine", func() bool {
		at(0, "v2")
		why := h.member().Why
		return why != nil && strings.Contains(why.Sentence, "another machine answers there")
	})
	h.answers(func(string) ([]byte, error) { return h.boxKey.SPKI(), nil })
	eventually(t, "reachable again", func() bool { at(0, "v2"); return h.member().State == "ready" })

	h.pass(pki.ExecutorLife * 9 / 10)
	at(0, "v2")
	if v := h.member(); len(v.Notes) != 1 || v.Notes[0].Code != "CERTIFICATE_ENDS" || v.Notes[0].Fix == "" {
		t.Errorf("%+v", v.Notes)
	}
	h.pass(time.Minute)
	state("silent", "EXECUTOR_SILENT", "has sent no heartbeat for")
	h.pass(pki.ExecutorLife)
	at(0, "v2")
	if v := h.member(); len(v.Notes) != 1 || v.Notes[0].Code != "CERTIFICATE_EXPIRED" {
		t.Errorf("%+v", v.Notes)
	}
}

// TestCaseA5_1WrongClockIsShown: validators are told why a machine with a wrong clock is left out, in seconds.
func TestCaseA5_1WrongClockIsShown(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.head()
	h.enroll()
	_, err := h.miner.Heartbeat(ctx, "box", basilica.Heartbeat{At: h.clock().Add(-95 * time.Second), Health: basilica.Health{OK: true}, GPUs: []basilica.GPU{{Kind: basilica.GPUSoftware, UUID: "u0"}}})
	must(t, err)
	grant, err := h.miner.OpenValidation(ctx, basilica.ValidationRequest{Validator: validator, SSHPublicKey: sshPublicKey(t)})
	must(t, err)
	if len(grant.Executors) != 0 || len(grant.Skipped) != 1 || grant.Skipped[0].Reason.Code != "EXECUTOR_CLOCK" || !strings.Contains(grant.Skipped[0].Reason.Sentence, "95 s behind") {
		t.Errorf("%+v", grant)
	}
}

func TestNamesLabelsAndDrain(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.enroll()
	must(t, h.miner.Rename(ctx, "box", "rack 7, left"))
	wantCode(t, h.miner.Rename(ctx, "box", "two\nlines"), "DISPLAY_NAME")
	wantCode(t, h.miner.Rename(ctx, "box", strings.Repeat("x", 129)), "DISPLAY_NAME")
	wantCode(t, h.miner.Rename(ctx, "nobody", "x"), "EXECUTOR_UNKNOWN")
	_, err := h.miner.Label(ctx, "box", map[string]string{"rack": "7", "site": "Zürich"}, nil)
	must(t, err)
	all, err := h.miner.Label(ctx, "box", map[string]string{"rack": "8"}, []string{"site", "absent"})
	must(t, err)
	if len(all) != 1 || all["rack"] != "8" {
		t.Errorf("labels %v", all)
	}
	for _, bad := range []map[string]string{{"ra ck": "7"}, {"": "7"}, {strings.Repeat("x", 64): "7"}, {"rack": "a\x00b"}, {"rack": strings.Repeat("x", 257)}} {
		_, err := h.miner.Label(ctx, "box", bad, nil)
		wantCode(t, err, "LABEL_INVALID")
	}
	many := map[string]string{}
	for i := range 65 {
		many[fmt.Sprintf("k%d", i)] = "v"
	}
	_, err = h.miner.Label(ctx, "box", many, nil)
	wantCode(t, err, "LABELS_FULL")
	_, err = h.miner.Label(ctx, "nobody", nil, []string{"x"})
	wantCode(t, err, "EXECUTOR_UNKNOWN")

	wantCode(t, h.miner.Drain(ctx, "box", true, -time.Second), "DRAIN_DEADLINE")
	must(t, h.miner.Drain(ctx, "box", true, time.Hour))
	if v := h.member(); v.State != "drained" || v.DrainUntil == nil || !v.DrainUntil.Equal(h.clock().Add(time.Hour)) || v.Name != "rack 7, left" || v.Labels["rack"] != "8" {
		t.Errorf("%s %+v", v.State, v.Member)
	}
	must(t, h.miner.Drain(ctx, "box", false, 0))
	if v := h.member(); v.State != "ready" || v.DrainUntil != nil {
		t.Errorf("%s %+v", v.State, v.Why)
	}
	if r := h.beat(); r.Drain {
		t.Error("the executor is told to drain")
	}
}

// TestCaseA8_5FleetPages: page by page every machine once, with one that joins meanwhile at most once; a cut or foreign
// cursor is refused.
func TestCaseA8_5FleetPages(t *testing.T) {
	raw, err := os.ReadFile("../store/testdata/cases/A8-5-pages.json")
	must(t, err)
	var input struct {
		Rows []struct {
			ID string `json:"id"`
		} `json:"rows"`
	}
	must(t, json.Unmarshal(raw, &input))
	h, ctx := newHouse(t), t.Context()
	join := func(name string) {
		key, err := keys.GenerateP256()
		must(t, err)
		h.answers(func(string) ([]byte, error) { return key.SPKI(), nil })
		_, err = h.miner.Enroll(ctx, h.request(h.token(""), name, key))
		must(t, err)
	}
	for _, row := range input.Rows {
		join(row.ID)
	}
	seen, cursor := map[basilica.ExecutorID]int{}, ""
	for page := 0; ; page++ {
		p, err := h.miner.Members(ctx, cursor, 3)
		must(t, err)
		for _, e := range p.Executors {
			seen[e.Executor]++
		}
		if cursor = p.Next; cursor == "" {
			break
		}
		if page == 0 {
			join("zz-late")
		}
	}
	for _, row := range input.Rows {
		if seen[basilica.ExecutorID(row.ID)] != 1 {
			t.Errorf("%s was listed %d times", row.ID, seen[basilica.ExecutorID(row.ID)])
		}
	}
	if seen["zz-late"] > 1 {
		t.Error("the one that joined meanwhile was listed twice")
	}
	p, err := h.miner.Members(ctx, "", 3)
	must(t, err)
	for _, bad := range []string{p.Next[:len(p.Next)-2], "x", "zz-late"} {
		_, err := h.miner.Members(ctx, bad, 3)
		wantCode(t, err, "BAD_CURSOR")
	}
}
