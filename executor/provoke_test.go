package executor

import (
	"context"
	"strings"
	"testing"

	"basilica"
	"basilica/internal/provoke"
)

// hurried is the engine; the time of what it starts is over at once.
type hurried struct {
	Engine
	over func()
}

func (h *hurried) Start(ctx context.Context, id string) (func(context.Context) (basilica.ContainerEnd, error), error) {
	wait, err := h.Engine.Start(ctx, id)
	h.over()
	return wait, err
}

func TestChallengesAndChecksRefused(t *testing.T) {
	engine := &hurried{}
	b := newBox(t, func(c *Config) {
		engine.Engine = c.Engine
		c.GPUs, c.Engine = nil, engine
	})
	check := func(ctx context.Context) error {
		return b.Check(ctx, Visit{Channel: &pipe{Reader: strings.NewReader(`{"nonce":"` + strings.Repeat("ab", 32) + `"}` + "\n")}})
	}
	provoke.Each(t, map[string]func(*testing.T) error{
		"NO_GPU": func(t *testing.T) error { return b.Attest(t.Context(), Visit{Grant: "g"}) },
		"CHECK_TIMEOUT": func(t *testing.T) error {
			ctx, over := context.WithCancel(t.Context())
			defer over()
			engine.over = over
			return check(ctx)
		},
		"CHECKS_FULL": func(t *testing.T) error {
			for range cap(b.checks) {
				b.checks <- struct{}{}
				defer func() { <-b.checks }()
			}
			return check(t.Context())
		},
	})
	b.leavesNothing(t)
}
