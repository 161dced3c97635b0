package executor

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"basilica"
	"basilica/internal/provoke"
	"basilica/store"
)

// TestValidatorThatLeavesTheMachineWaiting: who holds the GPUs again and again without bringing a challenge to its end is refused for
// a while, and nobody else is. One that dies now and then is served in its next round.
func TestValidatorThatLeavesTheMachineWaiting(t *testing.T) {
	t.Parallel()
	db, err := store.OpenExecutor(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	var up time.Duration
	left := basilica.E(basilica.Unavailable, "CHALLENGE_LEFT", "it left", "")
	var outcome error
	var took time.Duration
	e := &Executor{vain: map[basilica.Hotkey]vain{}, base: t.Context(), cfg: Config{
		GPUs: []basilica.GPU{{UUID: "gpu-a"}}, Ledger: db, Log: slog.New(slog.DiscardHandler), Now: time.Now, Uptime: func() time.Duration { return up },
		Prover: proverFunc(func(context.Context, Visit) error {
			up += took
			return outcome
		}),
	}}
	challenge := func(who basilica.Hotkey, ends error, after time.Duration) error {
		t.Helper()
		outcome, took = ends, after
		err := e.Attest(t.Context(), Visit{Grant: "g", Validator: who})
		if err != nil && !errors.Is(err, ends) && basilica.CodeOf(err) != "VALIDATOR_PAUSED" {
			t.Fatal(err)
		}
		return err
	}
	paused := func(err error) bool { return basilica.CodeOf(err) == "VALIDATOR_PAUSED" }

	// A machine that fails is no fault of the validator, and neither is a long proof.
	broken := errors.New("the device failed")
	for range 50 {
		if challenge("honest", nil, 30*time.Second) != nil || paused(challenge("honest", broken, time.Minute)) {
			t.Fatal("refused though it left nothing")
		}
	}
	// The power of its machine fails in the middle of a challenge, then its process dies in two more.
	for _, held := range []time.Duration{210 * time.Second, 30 * time.Second, 30 * time.Second} {
		if err := challenge("honest", left, held); paused(err) {
			t.Fatal(err)
		}
		up += 2 * time.Minute // the nearest that two slots are
	}
	if err := challenge("honest", nil, 10*time.Second); err != nil {
		t.Error("not served after restarts:", err)
	}

	began, held := up, time.Duration(0)
	for up < began+24*time.Hour {
		if paused(challenge("hostile", left, time.Minute)) {
			up += time.Second
			continue
		}
		held += time.Minute
	}
	if held > (up-began)/vainShare+vainMost+time.Minute || held < time.Hour {
		t.Errorf("%v of %v were held in vain", held, up-began)
	}
	challenge("hostile", left, time.Minute)
	provoke.Refused(t, challenge("hostile", nil, 0), "VALIDATOR_PAUSED")
	if err := challenge("honest", nil, 10*time.Second); err != nil {
		t.Error("another validator's fault:", err)
	}
	if len(e.vain) != 1 {
		t.Errorf("%d validators are remembered, one has something left", len(e.vain))
	}

	// One who holds it for the whole time of a challenge, however it keeps the prover busy, is known by the time.
	ctx, cancel := context.WithCancel(t.Context())
	e.cfg.Prover = proverFunc(func(ctx context.Context, _ Visit) error {
		up += challengeLife
		cancel()
		return ctx.Err()
	})
	if err := e.Attest(ctx, Visit{Grant: "g", Validator: "slow"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := challenge("slow", nil, 0); !paused(err) {
		t.Errorf("served at once: %v", err)
	}
}
