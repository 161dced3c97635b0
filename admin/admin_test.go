package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basilica"
)

// fleetDouble answers with what the test gives it.
type fleetDouble struct {
	ttl   time.Duration
	name  basilica.ExecutorID
	id    string
	drain bool
	said  string // of the last change, in words
	err   error
}

func (f *fleetDouble) CreateToken(_ context.Context, name basilica.ExecutorID, ttl time.Duration) (string, basilica.TokenRecord, error) {
	f.name, f.ttl = name, ttl
	return "basj1.x", basilica.TokenRecord{ID: "abc", Name: name}, f.err
}

func (f *fleetDouble) Tokens(context.Context) ([]basilica.TokenRecord, error) {
	return []basilica.TokenRecord{{ID: "abc", Hash: basilica.Digest{1}}}, f.err
}
func (f *fleetDouble) RevokeToken(_ context.Context, id string) error { f.id = id; return f.err }

func (f *fleetDouble) Members(_ context.Context, cursor string, limit int) (basilica.MemberPage, error) {
	f.said = fmt.Sprint("members ", cursor, " ", limit)
	return basilica.MemberPage{Executors: []basilica.MemberView{{Member: basilica.Member{Executor: "e"}, Ready: true}}, Next: "n"}, f.err
}

func (f *fleetDouble) Member(_ context.Context, id basilica.ExecutorID) (basilica.MemberView, error) {
	return basilica.MemberView{
		Member: basilica.Member{Executor: id, LastBeat: &basilica.LastBeat{Clock: -time.Second, Version: "v1"}},
		Why:    &basilica.Reason{Code: "EXECUTOR_SILENT"}, Grants: []basilica.GrantRecord{{ID: "g", Validator: "v"}},
	}, f.err
}

func (f *fleetDouble) Drain(_ context.Context, id basilica.ExecutorID, drain bool, deadline time.Duration) error {
	f.id, f.drain, f.ttl = string(id), drain, deadline
	return f.err
}

func (f *fleetDouble) Revoke(_ context.Context, id basilica.ExecutorID) error {
	f.said = "revoke " + string(id)
	return f.err
}

func (f *fleetDouble) Rename(_ context.Context, id basilica.ExecutorID, name string) error {
	f.said = fmt.Sprint("rename ", id, " ", name)
	return f.err
}

func (f *fleetDouble) Label(_ context.Context, id basilica.ExecutorID, set map[string]string, remove []string) (map[string]string, error) {
	f.said = fmt.Sprint("label ", id, " ", set, remove)
	return map[string]string{"all": "of them"}, f.err
}

func (f *fleetDouble) RotateKeys(context.Context) (basilica.RotationView, error) {
	return basilica.RotationView{Phase: "announced", Waiting: []basilica.ExecutorID{"e"}}, f.err
}

func (f *fleetDouble) Rotation(context.Context) (basilica.RotationView, error) {
	at := time.Unix(7, 0).UTC()
	return basilica.RotationView{Phase: "switched", NextStep: &at}, f.err
}

func (f *fleetDouble) RekeyAxon(context.Context) (basilica.AxonKeyView, error) {
	return basilica.AxonKeyView{Key: "00ff"}, f.err
}

func (f *fleetDouble) AxonKey(context.Context) (basilica.AxonKeyView, error) {
	return basilica.AxonKeyView{Key: "00ff", Published: true}, f.err
}

func serve(t *testing.T, dir string, fleet Fleet) {
	t.Helper()
	ln, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewServer(fleet, slog.New(slog.DiscardHandler)).Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(SocketPath(dir)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket remains: %v", err)
		}
	})
}

func TestBothEnds(t *testing.T) {
	ctx, dir, fleet := context.Background(), t.TempDir(), &fleetDouble{}
	c := NewClient(dir)
	if _, err := c.Tokens(ctx); basilica.CodeOf(err) != "MINER_NOT_HERE" || basilica.FixOf(err) == "" {
		t.Fatalf("nobody listens: %v", err)
	}
	serve(t, dir, fleet)
	if info, err := os.Stat(SocketPath(dir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("socket %v %v", info, err)
	}
	if _, err := Listen(dir); basilica.CodeOf(err) != "ADMIN_SOCKET_TAKEN" {
		t.Errorf("a live socket: %v", err)
	}
	text, record, err := c.CreateToken(ctx, "box", 30*time.Minute)
	if err != nil || text != "basj1.x" || record.ID != "abc" || fleet.ttl != 30*time.Minute || fleet.name != "box" {
		t.Errorf("token %q %+v %v", text, record, err)
	}
	tokens, err := c.Tokens(ctx)
	if err != nil || len(tokens) != 1 || tokens[0].Hash != (basilica.Digest{}) {
		t.Errorf("tokens %+v %v", tokens, err)
	}
	if err := c.RevokeToken(ctx, "a/b"); err != nil || fleet.id != "a/b" {
		t.Errorf("revoke %q %v", fleet.id, err)
	}
	page, err := c.Members(ctx, "c&=", 7)
	if err != nil || len(page.Executors) != 1 || page.Executors[0].Executor != "e" || !page.Executors[0].Ready || page.Next != "n" || fleet.said != "members c&= 7" {
		t.Errorf("members %+v %v", page, err)
	}
	member, err := c.Member(ctx, "e")
	if err != nil || member.LastBeat.Clock != -time.Second || member.Why.Code != "EXECUTOR_SILENT" || len(member.Grants) != 1 {
		t.Errorf("member %+v %v", member, err)
	}
	if err := c.Drain(ctx, "e", true, time.Hour); err != nil || fleet.id != "e" || !fleet.drain || fleet.ttl != time.Hour {
		t.Errorf("drain %+v %v", fleet, err)
	}
	if err := c.Revoke(ctx, "e/x"); err != nil || fleet.said != "revoke e/x" {
		t.Errorf("revoke %+v %v", fleet, err)
	}
	if err := c.Rename(ctx, "e", "rack 1"); err != nil || fleet.said != "rename e rack 1" {
		t.Errorf("rename %+v %v", fleet, err)
	}
	if all, err := c.Label(ctx, "e", map[string]string{"k": "v"}, []string{"old"}); err != nil || fleet.said != "label e map[k:v] [old]" || all["all"] == "" {
		t.Errorf("label %+v %v %v", fleet, all, err)
	}
	if v, err := c.RotateKeys(ctx); err != nil || v.Phase != "announced" || len(v.Waiting) != 1 {
		t.Errorf("rotate %+v %v", v, err)
	}
	if v, err := c.Rotation(ctx); err != nil || v.Phase != "switched" || v.NextStep.Unix() != 7 {
		t.Errorf("rotation %+v %v", v, err)
	}
	if v, err := c.RekeyAxon(ctx); err != nil || v.Key != "00ff" || v.Published {
		t.Errorf("rekey %+v %v", v, err)
	}
	if v, err := c.AxonKey(ctx); err != nil || v.Key != "00ff" || !v.Published {
		t.Errorf("key %+v %v", v, err)
	}
	for kind := basilica.Internal; kind <= basilica.Unavailable; kind++ {
		fleet.err = basilica.E(kind, "CODE", "sentence", "fix")
		_, err := c.Members(ctx, "", 0)
		if basilica.KindOf(err) != kind || basilica.CodeOf(err) != "CODE" || basilica.FixOf(err) != "fix" {
			t.Errorf("%s came back as %v", kind, err)
		}
	}
	fleet.err = errors.New("secret")
	if _, err := c.Members(ctx, "", 0); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("an internal fault said %v", err)
	}
}

func TestStaleSocket(t *testing.T) {
	dir := t.TempDir()
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketPath(dir), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(dir).Tokens(context.Background()); basilica.CodeOf(err) != "MINER_NOT_HERE" {
		t.Errorf("a stale socket: %v", err)
	}
	serve(t, dir, &fleetDouble{})
	if _, err := NewClient(dir).Tokens(context.Background()); err != nil {
		t.Error(err)
	}

	file := t.TempDir()
	if err := os.WriteFile(SocketPath(file), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); basilica.CodeOf(err) != "ADMIN_SOCKET_TAKEN" {
		t.Errorf("a plain file in the way: %v", err)
	}
	if _, err := Listen(filepath.Join(t.TempDir(), strings.Repeat("x", 120))); basilica.CodeOf(err) != "ADMIN_SOCKET_PATH" {
		t.Errorf("a long path: %v", err)
	}
}

func FuzzServer(f *testing.F) {
	f.Add("POST", "/v1/tokens", `{"name":"box","ttl":"1h"}`)
	f.Add("PUT", "/v1/executors/e/drain", `{"drain":true}`)
	f.Add("DELETE", "/v1/tokens/abc", ``)
	server := NewServer(&fleetDouble{}, slog.New(slog.DiscardHandler))
	f.Fuzz(func(t *testing.T, method, path, body string) {
		req, err := http.NewRequest(method, "http://miner/"+strings.TrimPrefix(path, "/"), io.NopCloser(strings.NewReader(body)))
		if err != nil {
			t.Skip()
		}
		w := httptest.NewRecorder()
		server.mux.ServeHTTP(w, req)
		if w.Code == http.StatusInternalServerError {
			t.Errorf("%s %s %q: %s", method, path, body, w.Body)
		}
	})
}
