package store

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"basilica"
)

// leased gives a miner with one task that is claimed for 300 s.
func leased(t *testing.T, life time.Duration) (*Miner, *hands, basilica.TaskRecord) {
	t.Helper()
	ctx := context.Background()
	m, h := openMinerBy(t)
	_, err := m.AddTask(ctx, record(1, "c", basilica.TaskSpec{Image: "i"}), 1, 10)
	must(t, err)
	must(t, m.Place(ctx, "t1", "e", h.now()))
	got, err := m.Claim(ctx, "A", life, 1)
	must(t, err)
	must(t, m.Accept(ctx, "t1", got[0].Fence, nil, life))
	return m, h, got[0]
}

// TestCaseA6_3LeasesGoByOneClock: whatever the machine's clock is set to, a claim that is held is claimed by nobody else,
// and it ends after its real length. A second process on the same file is refused by its lock.
func TestCaseA6_3LeasesGoByOneClock(t *testing.T) {
	var c struct {
		LeaseS int `json:"lease_s"`
	}
	raw, err := os.ReadFile(filepath.Join("testdata", "cases", "A6-3-clock-replicas.json"))
	must(t, err)
	must(t, json.Unmarshal(raw, &c))
	ctx, life := context.Background(), time.Duration(c.LeaseS)*time.Second
	steal := func(m *Miner) int {
		t.Helper()
		got, err := m.Claim(ctx, "B", life, 1)
		must(t, err)
		return len(got)
	}
	for name, step := range map[string]time.Duration{"ahead": 240 * time.Second, "back": -900 * time.Second, "days ahead": 72 * time.Hour} {
		m, h, a := leased(t, life)
		h.pass(70 * time.Second)
		h.step(step)
		if n := steal(m); n != 0 {
			t.Errorf("%s: a held task was claimed", name)
		}
		h.pass(30 * time.Second)
		must(t, m.KeepClaim(ctx, "t1", a.Fence, life)) // A renews at 100
		h.pass(life - time.Second)
		if n := steal(m); n != 0 {
			t.Errorf("%s: a renewed task was claimed a second before its end", name)
		}
		h.pass(time.Second)
		if n := steal(m); n != 1 {
			t.Errorf("%s: a lease did not end after its real length", name)
		}
		wantCode(t, m.KeepClaim(ctx, "t1", a.Fence, life), "TASK_FENCED")
	}
	m, _, _ := leased(t, life)
	_, err = OpenMiner(ctx, m.dir, time.Now)
	wantCode(t, err, "DATA_IN_USE")
}

// TestStepsOfTheClockChangeNoDeadline: grants, join tokens, nonces, heartbeats and drains last for what they were given.
func TestStepsOfTheClockChangeNoDeadline(t *testing.T) {
	for name, step := range map[string]time.Duration{"ahead": 240 * time.Second, "back": -900 * time.Second} {
		ctx := context.Background()
		m, h := openMinerBy(t)
		for i := range 2 {
			must(t, m.AddToken(ctx, basilica.TokenRecord{Hash: basilica.Digest{byte(i)}, Created: h.now(), Expires: h.now().Add(3 * time.Minute)}))
		}
		must(t, m.Enroll(ctx, basilica.Digest{0}, member("e", 1)))
		must(t, m.AddGrant(ctx, basilica.GrantRecord{ID: "g", Validator: "v", Executors: []basilica.ExecutorID{"e"}, Issued: h.now(), Expires: h.now().Add(3 * time.Minute)}, time.Minute, 1))
		must(t, m.RevokeGrant(ctx, "g"))
		beat := func() basilica.HeartbeatReply {
			t.Helper()
			reply, err := m.Beat(ctx, "e", basilica.LastBeat{At: h.now()}, nil, basilica.Digest{}, time.Minute)
			must(t, err)
			return reply
		}
		beat()
		must(t, m.SetDrain(ctx, "e", true, h.now().Add(3*time.Minute)))
		if fresh, err := m.Remember(ctx, "k", "n", h.now().Add(time.Minute)); !fresh || err != nil {
			t.Fatal(fresh, err)
		}

		h.step(step)
		h.pass(5 * time.Second)
		_, err := m.Token(ctx, basilica.Digest{1})
		must(t, err)
		e, err := m.Member(ctx, "e")
		must(t, err)
		if e.LastBeat.Silent != 5*time.Second || e.DrainOver {
			t.Errorf("%s: silent for %s, drain over %v", name, e.LastBeat.Silent, e.DrainOver)
		}
		wantCode(t, m.AddGrant(ctx, basilica.GrantRecord{ID: "h", Validator: "v", Issued: h.now(), Expires: h.now()}, time.Minute, 1), "GRANT_RATE")
		if reply := beat(); len(reply.Revoked) != 1 {
			t.Errorf("%s: a revoked grant was forgotten while its certificate lives", name)
		}
		if fresh, err := m.Remember(ctx, "k", "n", h.now().Add(time.Minute)); fresh || err != nil {
			t.Errorf("%s: a nonce was taken twice within its window, %v", name, err)
		}

		h.pass(3 * time.Minute)
		_, err = m.Token(ctx, basilica.Digest{1})
		wantCode(t, err, "TOKEN_EXPIRED")
		if e, err = m.Member(ctx, "e"); err != nil || !e.DrainOver {
			t.Errorf("%s: the drain did not end, %v", name, err)
		}
		must(t, m.AddGrant(ctx, basilica.GrantRecord{ID: "h", Validator: "v", Issued: h.now(), Expires: h.now()}, time.Minute, 1))
		if reply := beat(); len(reply.Revoked) != 0 {
			t.Errorf("%s: a grant that ended is still told of", name)
		}
	}
}

// TestRunClockOverRestarts: the clock never falls back over a restart, goes on by what the machine's clock shows has
// passed, and stands still where that shows less.
func TestRunClockOverRestarts(t *testing.T) {
	ctx, dir, h := context.Background(), t.TempDir(), &hands{wall: start}
	last := micros(start)
	for _, c := range []struct{ down, step, lives, stepped time.Duration }{
		{lives: time.Minute, stepped: time.Hour},
		{down: time.Minute, lives: time.Minute, stepped: -2 * time.Hour},
		{down: time.Hour, step: -30 * time.Minute, lives: time.Second},
		{down: time.Minute, step: -24 * time.Hour, lives: time.Hour, stepped: 240 * time.Second},
		{step: 240 * time.Second},
		{},
	} {
		h.pass(c.down)
		h.step(c.step)
		m := h.openAt(t, dir)
		begun := m.clock.at()
		if want := last + max(c.down+c.step, 0).Microseconds(); begun != want {
			t.Errorf("%+v: opened at %d, want %d", c, begun, want)
		}
		h.pass(c.lives)
		h.step(c.stepped)
		if got := m.clock.at() - begun; got != c.lives.Microseconds() {
			t.Errorf("%+v: %d us counted", c, got)
		}
		_, err := m.Claim(ctx, "w", time.Second, 1)
		must(t, err)
		last = m.clock.at()
		must(t, m.Close())
	}
}
