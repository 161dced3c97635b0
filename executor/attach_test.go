package executor

import (
	"context"
	"errors"
	"testing"

	"basilica"
)

// mute is an engine that takes an attachment and answers when it is told to, if ever.
type mute struct {
	Engine
	answers bool
	fails   error
	ctx     context.Context
}

func (m *mute) Logs(ctx context.Context, _ string) (followFunc, error) {
	if m.ctx = ctx; m.fails != nil {
		return nil, m.fails
	}
	if m.answers {
		return func(func(basilica.LogStream, []byte) error) error { return nil }, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// An engine that does not answer an attachment keeps no attempt from hearing that it is to end; an attachment that is made
// outlives that word, for the log's last bytes count. One that fails leaves nothing.
func TestAttachHearsTheEnd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	m := &mute{answers: true}
	e := &Executor{cfg: Config{Engine: m}}
	follow, err := e.attach(ctx, t.Context(), "c")
	if cancel(); err != nil || follow == nil || m.ctx.Err() != nil {
		t.Errorf("attached: %v, %v", err, m.ctx.Err())
	}
	m.fails = errAway
	if _, err := e.attach(t.Context(), t.Context(), "c"); !errors.Is(err, errAway) || m.ctx.Err() == nil {
		t.Errorf("refused: %v, and what was asked for it goes on: %v", err, m.ctx.Err())
	}
	m.answers, m.fails = false, nil
	if _, err := e.attach(ctx, t.Context(), "c"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
