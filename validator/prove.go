package validator

import (
	"bufio"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"basilica"
	"basilica/attest"
)

// challenge drives one attest.Verifier over one channel.
type challenge struct {
	verifier *attest.Verifier
	stream   io.ReadWriter
	hangUp   func()                      // must release a blocked Read or Write of stream
	ready    func(context.Context) error // called once, before CHALLENGE is sent; an error is a refusal
	began    func(at time.Time)          // called once, when the last byte of CHALLENGE is out; nil: nobody asks
	// opening is called once, before OPEN is sent, and waits for the right to read the proof, which done gives back. From then on
	// the challenge runs under open. An error is a refusal. nil: nothing to wait for.
	opening func(ctx context.Context) (open context.Context, done func(), err error)
	done    func() // of opening; nil before
	now     func() time.Time
}

// release gives back the right to read the proof, once it is on disk.
func (c *challenge) release() {
	if c.done != nil {
		c.done()
	}
}

var errRoundOver = errors.New("the round ended before the proof")

type arrival struct {
	frame attest.Frame
	at    time.Time // when the last byte was in, or out
	err   error
}

// run returns when the verifier is done. Where the machine refused before CHALLENGE was sent, or OPEN could not be sent, it
// gives that refusal.
func (c *challenge) run(ctx context.Context) (refusal error) {
	in := bufio.NewReaderSize(c.stream, 64<<10)
	v, sent := c.verifier, false
	for !v.Done() {
		frame, writes := v.Next()
		deadline := v.Deadline()
		switch {
		case writes && frame.Type() == attest.FrameChallenge:
			if refusal = c.ready(ctx); refusal != nil {
				c.hangUp()
			}
			deadline = c.now().Add(challengeWrite) // the machine is not to blame for having waited for others
		case writes && frame.Type() == attest.FrameOpen && c.opening != nil:
			open, done, err := c.opening(ctx)
			if err != nil {
				c.hangUp()
				v.Fail(attest.FailLocal, err.Error(), c.now()) // it has not seen OPEN: nothing for the abort budget
				if v.Judgement().Result != attest.LocalError {
					return nil // a wrong answer from before
				}
				return err
			}
			c.done, ctx, deadline = done, open, c.now().Add(challengeWrite)
		}
		limit := capsOf(v)
		a := c.step(ctx, deadline, func() (attest.Frame, error) {
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
			if frame.Type() == attest.FrameChallenge {
				sent = true
				if c.began != nil {
					c.began(a.at)
				}
			}
			v.Sent(a.at)
		default:
			v.Receive(a.frame, a.at)
		}
	}
	return refusal
}

// challengeWrite is how long writing CHALLENGE or OPEN may take.
const challengeWrite = 10 * time.Second

// step does one blocking read or write until a deadline. It never leaves the operation behind: what is late
// is released by hanging up.
func (c *challenge) step(ctx context.Context, deadline time.Time, op func() (attest.Frame, error)) arrival {
	done := make(chan arrival, 1)
	go func() {
		f, err := op()
		done <- arrival{f, c.now(), err}
	}()
	timer := time.NewTimer(deadline.Sub(c.now()))
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
	return arrival{at: later(c.now(), deadline, late), err: late}
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

// gate lets several machines start at one instant: each arrives once, ready or lost. The last one opens it, or the first
// one whose patience ends; who arrives after that is too late, or one GPU could answer for two machines one after the other.
type gate struct {
	whole   context.Context     // of the validator: it outlives the round
	reading *semaphore.Weighted // machines whose proof is read at once

	mu    sync.Mutex
	left  int
	over  bool // opened
	open  chan struct{}
	late  int         // arrived after it was opened
	began []time.Time // when the last byte of each machine's CHALLENGE was out
}

func newGate(whole context.Context, n, reading int) *gate {
	return &gate{whole: whole, reading: semaphore.NewWeighted(int64(reading)), left: n, open: make(chan struct{})}
}

// openWait is how long a machine may wait for OPEN: its SSH door ends connections that are silent for three minutes.
const openWait = 2 * time.Minute

// opening waits until one more of the gate's machines may be told what to open: its proof is what takes the validator's memory
// and time, all before it is small. Who has not been told when the round ends is not told any more. Who has been is held to the
// deadlines of the proof alone, which the round's end does not shorten: its breaking off would count.
func (g *gate) opening(ctx context.Context) (open context.Context, done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	if err := g.reading.Acquire(ctx, 1); err != nil {
		return nil, nil, basilica.E(basilica.Unavailable, "TIMEOUT", "the round ended while proofs of the miner's other machines were read", "").With(err)
	}
	done = func() { g.reading.Release(1) }
	if ctx.Err() != nil {
		done()
		return nil, nil, basilica.E(basilica.Unavailable, "TIMEOUT", "the round ended before what is to be opened could be said", "").With(ctx.Err())
	}
	return g.whole, done, nil
}

// arrive says whether the gate was still closed.
func (g *gate) arrive() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left--; g.over {
		g.late++
		return false
	}
	if g.left == 0 {
		g.start()
	}
	return true
}

// start opens the gate; the caller holds mu.
func (g *gate) start() {
	if !g.over {
		g.over = true
		close(g.open)
	}
}

// wait returns when the gate is open or ctx ends. After the longest waiting time it opens the gate itself.
func (g *gate) wait(ctx context.Context, longest time.Duration) {
	timer := time.NewTimer(longest)
	defer timer.Stop()
	select {
	case <-g.open:
	case <-timer.C:
		g.mu.Lock()
		defer g.mu.Unlock()
		g.start()
	case <-ctx.Done():
	}
}

// started says that a machine has its CHALLENGE.
func (g *gate) started(at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.began = append(g.began, at)
}

// result is what the machines of a gate came to, once all are done; false where none was challenged.
func (g *gate) result() (basilica.Start, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.began) == 0 {
		return basilica.Start{}, false
	}
	first, last := slices.MinFunc(g.began, time.Time.Compare), slices.MaxFunc(g.began, time.Time.Compare)
	return basilica.Start{At: first, Machines: len(g.began), Late: g.late, Skew: last.Sub(first)}, true
}
