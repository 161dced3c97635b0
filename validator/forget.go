package validator

import (
	"context"
	"time"

	"basilica"
	"basilica/score"
)

// How old results are dropped: little at a time, for work waits meanwhile.
const (
	forgetEvery  = time.Hour
	forgetFor    = time.Second // of one look between two blocks
	forgetAtOnce = 200         // verifications, in one transaction
	namesAtOnce  = 20          // executors that never proved anything, with all their verifications
)

// forgetting says how far the dropping of old results has come.
type forgetting struct {
	due   time.Duration // uptime of the next look
	names bool          // those that go are gone
	after int64         // round that was looked at last
}

// forget drops what is older than results are kept. A failure is no reason to stop: what was to go is still there.
func (v *Validator) forget(ctx context.Context) {
	began := v.cfg.Uptime()
	if began < v.forgotten.due {
		return
	}
	// Twice as many as count: those that are the validator's own fault do not.
	least := 2 * max(v.cfg.Policy.Rounds, score.DefaultRounds)
	for more := true; more && v.cfg.Uptime()-began < forgetFor; {
		var err error
		if !v.forgotten.names {
			var gone []basilica.ExecutorKey
			gone, err = v.cfg.Book.ForgetNames(ctx, v.now().Add(-v.cfg.KeepResults), namesAtOnce)
			if err != nil && ctx.Err() == nil {
				v.cfg.Log.Error("drop old names", "err", err)
			}
			for _, k := range gone {
				delete(v.standings, k)
			}
			v.forgotten.names = len(gone) < namesAtOnce
			continue
		}
		v.forgotten.after, more, err = v.cfg.Book.Forget(ctx, v.now().Add(-v.cfg.KeepResults), v.forgotten.after, least, forgetAtOnce)
		if err != nil && ctx.Err() == nil {
			v.cfg.Log.Error("drop old results", "err", err)
		}
		if !more {
			v.forgotten = forgetting{due: began + forgetEvery}
		}
	}
}
