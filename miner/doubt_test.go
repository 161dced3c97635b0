package miner_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"basilica"
	"basilica/miner"
)

// TestRefusalOnTheWayDecidesNothing: the executor took the task and its answer was lost. What is refused after that on the
// way to it, or by a door, is no word on the task: it is not placed again, does not end, and is asked for until the executor
// itself speaks.
func TestRefusalOnTheWayDecidesNothing(t *testing.T) {
	for _, refusal := range []*basilica.Error{
		basilica.E(basilica.Unavailable, "CLOCK_SKEW", "this machine's clock is at least 90 s behind executor box's", "set it"),
		basilica.E(basilica.Unavailable, "EXECUTOR_OTHER", "who answers there is not executor box", "join it again"),
		basilica.E(basilica.Unavailable, "POOL_CLOSED", "the miner has closed its connection with this executor", "try again"),
		basilica.E(basilica.Denied, "CERTIFICATE_REPLACED", "this certificate was replaced by a newer one", "join it again"),
		basilica.E(basilica.Invalid, "MESSAGE_MALFORMED", "the peer's message is malformed", "run the same version"),
	} {
		t.Run(refusal.Code, func(t *testing.T) {
			h := newHouse(t)
			h.enroll()
			box, asked, met := newMachine(h), 0, 0
			box.silent = func(call string) (error, bool) {
				switch call {
				case "health":
					met++
				case "execute":
					switch asked++; {
					case asked == 1:
						return basilica.E(basilica.Unavailable, "PEER_UNREACHABLE", "the connection broke", "try again"), true
					case asked <= 4:
						return refusal, false
					}
				}
				return nil, false
			}
			h.machine = box
			h.stop()
			h.open(nil)
			h.beat()
			task := h.submit("k", basilica.TaskSpec{Image: "i"})
			_, last := h.end(task.ID)
			h.stop()
			if last.State != basilica.TaskSucceeded || last.Attempt != 1 || box.runs[task.ID] != 1 || met != 1 {
				t.Errorf("last %+v, ran %d times, offered %d times", last, box.runs[task.ID], met)
			}
		})
	}
}

// TestRefusedAfterALostAnswer: an executor that was asked without an answer, and then says that it is busy and does not know
// the task, may still get the first question: the attempt's number is not used again.
func TestRefusedAfterALostAnswer(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	box, asked := newMachine(h), 0
	box.silent = func(call string) (error, bool) {
		if call != "execute" {
			return nil, false
		}
		switch asked++; asked {
		case 1:
			return basilica.E(basilica.Unavailable, "DEADLINE", "the executor did not answer in time", "try again"), false
		case 2:
			return basilica.NewHeld(basilica.Holding{Kind: basilica.HolderChallenge, Holder: "g"}), false
		}
		return nil, false
	}
	h.machine = box
	h.stop()
	h.open(nil)
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	defer h.keepTime(300 * time.Millisecond)()
	if _, last := h.end(task.ID); last.State != basilica.TaskSucceeded || last.Attempt != 2 {
		t.Errorf("last %+v", last)
	}
}

// TestCancelledWhileAnExecutorIsAsked: a task that its client cancels, and that its executor then refuses, ends.
func TestCancelledWhileAnExecutorIsAsked(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	entered, leave := make(chan struct{}), make(chan struct{})
	h.box.execute = func(basilica.ExecuteRequest) (basilica.Holding, error) {
		close(entered)
		<-leave
		return basilica.Holding{}, basilica.NewHeld(basilica.Holding{Kind: basilica.HolderChallenge, Holder: "g"})
	}
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	<-entered
	_, err := h.miner.Cancel(context.Background(), client, task.ID)
	must(t, err)
	close(leave)
	if _, last := h.end(task.ID); last.State != basilica.TaskCancelled || last.Reason == nil || last.Reason.Code != "CANCELLED" {
		t.Errorf("last %+v", last)
	}
}

// TestExecutorMovesUnderATask: a machine that joins again under another address is asked there about what it was given,
// and what it was asked without an answer.
func TestExecutorMovesUnderATask(t *testing.T) {
	const there = "127.0.0.1:50061"
	for name, answer := range map[string]error{
		"accepted":  nil,
		"no answer": basilica.E(basilica.Unavailable, "PEER_UNREACHABLE", "the connection broke", "try again"),
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.stop()
			box := newMachine(h)
			h.box.execute = func(req basilica.ExecuteRequest) (basilica.Holding, error) {
				holding, err := box.Execute(context.Background(), req)
				return holding, errors.Join(err, answer)
			}
			h.wrap = func(p *miner.Parts) {
				p.Executor = func(_ basilica.ExecutorID, addr string) basilica.Executor {
					if addr == there {
						return box
					}
					return h.box // from where nothing more is heard
				}
			}
			h.open(nil)
			h.enroll()
			task := h.submit("k", basilica.TaskSpec{Image: "i"})
			wait(t, "the task is held", func() bool {
				box.mu.Lock()
				held := len(box.held)
				box.mu.Unlock()
				got, err := h.store.Task(context.Background(), task.ID)
				return err == nil && held == 1 && got.Offered && got.Accepted == (answer == nil)
			})
			req := h.request(h.token(""), "box", h.boxKey)
			req.Addr = there
			_, err := h.miner.Enroll(context.Background(), req)
			must(t, err)
			log, last := h.end(task.ID)
			if last.State != basilica.TaskSucceeded || last.Attempt != 1 || log != "attempt 1: one two three\n" || box.runs[task.ID] != 1 {
				t.Errorf("log %q, last %+v, ran %d times", log, last, box.runs[task.ID])
			}
		})
	}
}

// slowLook is a store whose word that a task is cancelled and not yet offered is late.
type slowLook struct {
	miner.Store
	first        atomic.Bool
	looked, late chan struct{}
}

func (s *slowLook) Task(ctx context.Context, id basilica.TaskID) (basilica.TaskRecord, error) {
	t, err := s.Store.Task(ctx, id)
	if err == nil && t.Cancel && t.State == basilica.TaskPlaced && !t.Offered && s.first.CompareAndSwap(false, true) {
		close(s.looked)
		select {
		case <-s.late:
		case <-ctx.Done():
		}
	}
	return t, err
}

// TestOfferedBetweenLookAndDecision: what was offered since the miner looked at it may run, so it is cancelled on its
// executor and does not end in the miner's book alone.
func TestOfferedBetweenLookAndDecision(t *testing.T) {
	h := newHouse(t)
	h.enroll()
	box := newMachine(h)
	box.manual = true
	met, send := make(chan struct{}, 16), make(chan struct{})
	box.silent = func(call string) (error, bool) {
		if call == "health" {
			met <- struct{}{}
			<-send
		}
		return nil, false
	}
	h.machine = box
	look := &slowLook{looked: make(chan struct{}), late: make(chan struct{})}
	h.wrap = func(p *miner.Parts) { look.Store = p.Store; p.Store = look }
	h.stop()
	h.open(nil)
	h.beat()
	task := h.submit("k", basilica.TaskSpec{Image: "i"})
	<-met
	_, err := h.miner.Cancel(context.Background(), client, task.ID)
	must(t, err)
	<-look.looked
	close(send)
	wait(t, "the task is held", func() bool { box.mu.Lock(); defer box.mu.Unlock(); return len(box.held) == 1 })
	close(look.late)
	_, last := h.end(task.ID)
	h.untilReleased(task.ID)
	if last.State != basilica.TaskCancelled || last.Receipt == nil || last.Attempt != 1 {
		t.Errorf("last %+v", last)
	}
}

// rotatesAtEnrolment is a store before which the authority's keys begin to be replaced.
type rotatesAtEnrolment struct {
	miner.Store
	begin func() error
	done  chan struct{} // closed after the enrolment
}

func (s rotatesAtEnrolment) Enroll(ctx context.Context, token basilica.Digest, e basilica.Member) error {
	defer close(s.done)
	return errors.Join(s.begin(), s.Store.Enroll(ctx, token, e))
}

// RevokeTokens is what the miner does once it sees that a rotation began; the enrolment was faster.
func (s rotatesAtEnrolment) RevokeTokens(ctx context.Context, now time.Time) (int, error) {
	<-s.done
	return s.Store.RevokeTokens(ctx, now)
}

// TestRotationBeginsDuringAnEnrolment: the machine whose certificate an old authority signed does not believe that it has
// what the new one gives, so that it asks for more.
func TestRotationBeginsDuringAnEnrolment(t *testing.T) {
	h := newHouse(t)
	h.stop()
	h.wrap = func(p *miner.Parts) { p.Store = rotatesAtEnrolment{p.Store, h.pki.BeginRotation, make(chan struct{})} }
	h.open(nil)
	out, err := h.miner.Enroll(context.Background(), h.request(h.token(""), "box", h.boxKey))
	must(t, err)
	if n := len(out.Trust.FleetCAs); n != 1 {
		t.Errorf("a certificate of the old authority beside the trust in %d", n)
	}
}
