package validator

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"basilica"
	"basilica/attest"
)

// challenge drives one attest.Verifier over one channel.
type challenge struct {
	verifier *attest.Verifier
	stream   io.ReadWriter
	hangUp   func()                // must release a blocked Read or Write of stream
	ready    func(context.Context) // called once, before CHALLENGE is sent
	now      func() time.Time
}

var errRoundOver = errors.New("the round ended before the proof")

type arrival struct {
	frame attest.Frame
	at    time.Time // when the last byte was in, or out
	err   error
}

// run returns when the verifier is done. Where the machine refused before CHALLENGE was sent, it gives that refusal.
func (c *challenge) run(ctx context.Context) (refusal error) {
	in := bufio.NewReaderSize(c.stream, 64<<10)
	v, sent := c.verifier, false
	for !v.Done() {
		frame, writes := v.Next()
		if writes && frame.Type() == attest.FrameChallenge {
			c.ready(ctx)
		}
		limit := capsOf(v)
		a := c.step(ctx, func() (attest.Frame, error) {
			if writes {
				_, err := c.stream.Write(frame)
				return frame, err
			}
			return attest.ReadFrame(in, limit)
		})
		switch {
		case a.err != nil:
			if !sent && refusal == nil && basilica.CodeOf(a.err) != "" {
				refusal = a.err
			}
			v.Fail(attest.FailureOf(a.err), a.err.Error(), a.at)
		case writes:
			sent = sent || frame.Type() == attest.FrameChallenge
			v.Sent(a.at)
		default:
			v.Receive(a.frame, a.at)
		}
	}
	return refusal
}

// step does one blocking read or write until the verifier's deadline. It never leaves the operation behind: what is late
// is released by hanging up.
func (c *challenge) step(ctx context.Context, op func() (attest.Frame, error)) arrival {
	done := make(chan arrival, 1)
	go func() {
		f, err := op()
		done <- arrival{f, c.now(), err}
	}()
	timer := time.NewTimer(c.verifier.Deadline().Sub(c.now()))
	defer timer.Stop()
	var late error
	select {
	case a := <-done:
		return a
	case <-timer.C:
		late = context.DeadlineExceeded
	case <-ctx.Done():
		late = errRoundOver // the machine used up the round: no fault of ours, or stalling would be a way out
		if errors.Is(ctx.Err(), context.Canceled) {
			late = context.Canceled
		}
	}
	c.hangUp()
	<-done
	return arrival{at: later(c.now(), c.verifier.Deadline(), late), err: late}
}

// later makes the time of a timeout one that the record's judge accepts too: not before the deadline, even where timer and
// clock differ by a tick.
func later(now, deadline time.Time, why error) time.Time {
	if errors.Is(why, context.DeadlineExceeded) && now.Before(deadline) {
		return deadline
	}
	return now
}

// capsOf freezes the verifier's caps, so that a reader never looks at a verifier that something else moves.
func capsOf(v *attest.Verifier) attest.Cap {
	type limit struct {
		payload int
		ok      bool
	}
	var frozen [attest.FrameAbort + 1]limit
	for t := range frozen {
		frozen[t].payload, frozen[t].ok = v.Cap(attest.FrameType(t))
	}
	return func(t attest.FrameType) (int, bool) {
		if int(t) >= len(frozen) {
			return 0, false
		}
		return frozen[t].payload, frozen[t].ok
	}
}

// gate lets several machines start near one instant: each arrives once, ready or lost, and the last one opens it.
type gate struct {
	mu   sync.Mutex
	left int
	open chan struct{}
}

func newGate(n int) *gate { return &gate{left: n, open: make(chan struct{})} }

func (g *gate) arrive() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left--; g.left == 0 {
		close(g.open)
	}
}

// wait returns when the gate is open, the longest waiting time is over or ctx ends.
func (g *gate) wait(ctx context.Context, longest time.Duration) {
	timer := time.NewTimer(longest)
	defer timer.Stop()
	select {
	case <-g.open:
	case <-timer.C:
	case <-ctx.Done():
	}
}
