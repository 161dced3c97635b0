package client

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"basilica"
	"basilica/internal/provoke"
)

// gone is a miner that took the task and answers no more.
type gone struct{ basilica.Miner }

func (gone) WatchTask(context.Context, basilica.Hotkey, basilica.TaskID, int64, func(basilica.TaskEvent) error) error {
	return basilica.E(basilica.Unavailable, "MINER_UNREACHABLE", "the miner cannot be reached", "")
}

func (gone) Cancel(context.Context, basilica.Hotkey, basilica.TaskID) (basilica.Task, error) {
	return basilica.Task{}, nil
}

func TestRefusals(t *testing.T) {
	provoke.Each(t, map[string]func(*testing.T) error{
		"CANCEL_UNCONFIRMED": func(t *testing.T) error {
			c := quiet()
			c.cancelAfter, c.cancelWait = time.Millisecond, 50*time.Millisecond
			ctx, interrupt := context.WithCancel(t.Context())
			interrupt()
			_, err := c.followOrCancel(ctx, t.Context(), gone{}, "t", newFollower(0, io.Discard, io.Discard))
			return err
		},
		"MINER_AWAY": func(t *testing.T) error {
			at := time.Unix(0, 0)
			c := New(Config{Log: slog.New(slog.DiscardHandler), Now: func() time.Time { at = at.Add(reconnectFor + 1); return at }})
			_, err := c.follow(t.Context(), gone{}, "t", newFollower(0, io.Discard, io.Discard))
			return err
		},
		"MINER_OTHER": func(t *testing.T) error {
			s := newShop(t, "5me", nil, nil)
			_, err := checked{Miner: s, self: "5me", miner: "5another"}.Offer(t.Context())
			return err
		},
		"NOT_SAVED": func(*testing.T) error { return (&Result{}).stillThere(errors.New("the disk went away")) },
		"OUTPUTS_TOO_MANY": func(*testing.T) error {
			return boundOutputs(basilica.TaskSpec{OutputBytes: 10}, []basilica.TaskFile{{Name: "a", Blob: basilica.Blob{Size: 11}}})
		},
		"RECEIPT_NAME": func(t *testing.T) error {
			_, err := saveReceipt(Results{OutputDir: t.TempDir()}, basilica.Task{Outputs: []basilica.TaskFile{{Name: "Receipt.json"}}})
			return err
		},
	})
}
