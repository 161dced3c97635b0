// Package attestor is the executor's side of the GPU proof: it starts gpu-attestor as a child and relays frames to it,
// and it holds that child's body, the prover loop over devices that it is given. It refuses to know SSH, the miner and
// how a device does its work.
package attestor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica/attest"
)

// Device does the work of one GPU. The calls come one at a time in the order of the methods; slices that it returns
// are not changed afterwards. attest.CPU is the reference.
type Device interface {
	Info() attest.DeviceInfo
	Worker
}

// Config is what a proof needs besides the channel.
type Config struct {
	Binding  *attest.Binding // what the SSH server says of the channel; nil: bind32 is taken as the validator sends it
	Greeting attest.Greeting // Devices is filled in from Devices below
	Devices  []Device
	Sign     func(msg []byte) ([]byte, error) // by the attestation key of Greeting.SPKI
	// Quote is the word of the TPM that the key lives in; nil for a key in a file.
	Quote func(transcript attest.Digest) ([]byte, error)
	Now   func() time.Time
	Log   *slog.Logger
}

// maxToAttestor bounds a frame from the validator, in payload bytes: OPEN is the longest.
const maxToAttestor = 256 << 10

// toAttestor is the cap of frames on the way to the attestor.
func toAttestor(t attest.FrameType) (int, bool) {
	_, ok := attest.RelayCap(t)
	return maxToAttestor, ok
}

// patience is how long a prover with nothing to do waits for the validator's next frame. The longest that an honest one takes is
// the wait for its turn to read the proof: two minutes between the last PONG and OPEN, and 10 s for writing that. The start that
// all machines have in common takes it 30 s at most, and so does what was sent last to arrive (ROOTS, TRACE). What the prover
// computes, and what it writes, does not count. The SSH door has three minutes, but for a connection that carries nothing at all.
const patience = 150 * time.Second

// ErrLeft says that the validator did not bring the challenge to its end: it hung up, fell silent, aborted, or sent what the
// protocol does not have.
var ErrLeft = errors.New("the validator left the challenge")

// ExitLeft is the exit code of a child whose Prove ended with ErrLeft.
const ExitLeft = 3

// session is one run of Prove.
type session struct {
	cfg  Config
	rw   io.ReadWriter
	p    *attest.Prover
	jobs []attest.Job

	mu      sync.Mutex // guards p and writes while devices report
	timings []uint64   // ns of fill, walk, mix per GPU

	vdf     errgroup.Group
	hasVDF  bool
	y, pi   []byte
	verdict attest.Frame
}

// Prove runs one challenge over a channel to its end and releases the devices. It returns nil once VERDICT has
// arrived, whatever it says, and its frame; where the validator is why there is none, ErrLeft. A read that it left behind ends when
// the owner of rw closes it.
func Prove(ctx context.Context, rw io.ReadWriter, cfg Config) (verdict attest.Frame, err error) {
	for _, d := range cfg.Devices {
		cfg.Greeting.Devices = append(cfg.Greeting.Devices, d.Info())
		defer d.Release()
	}
	p, err := attest.NewProver(cfg.Greeting, cfg.Binding)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &session{cfg: cfg, rw: rw, p: p}
	defer func() {
		cancel()
		if e := s.vdf.Wait(); err == nil && e != nil && s.verdict == nil {
			err = e
		}
	}()
	err = s.loop(ctx)
	return s.verdict, err
}

func (s *session) loop(ctx context.Context) error {
	for s.verdict == nil {
		if err := s.flush(); err != nil {
			return err
		}
		f, err := s.read(ctx)
		if errors.Is(err, errSilent) {
			return s.abort(err)
		}
		if err != nil {
			return err
		}
		task, err := s.p.Receive(f)
		if err != nil {
			return s.abort(fmt.Errorf("%w: %w", ErrLeft, err))
		}
		if err := s.do(ctx, f, task); err != nil {
			return s.abort(err)
		}
	}
	return nil
}

var errSilent = fmt.Errorf("%w: %w", ErrLeft, &attest.AbortError{Code: attest.AbortSilent, Text: fmt.Sprintf("no frame of the validator for %d s", int(patience.Seconds()))})

// read waits for one whole frame of the validator, not for longer than patience.
func (s *session) read(ctx context.Context) (attest.Frame, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	type arrival struct {
		frame attest.Frame
		err   error
	}
	in := make(chan arrival, 1)
	go func() {
		f, err := attest.ReadFrame(s.rw, toAttestor)
		in <- arrival{f, err}
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case a := <-in:
		if a.err != nil && ctx.Err() == nil {
			a.err = fmt.Errorf("%w: read frame: %w", ErrLeft, a.err)
		}
		return a.frame, a.err
	case <-late.C:
		return nil, errSilent
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// abort tells the validator why the run ends, where it is still there to hear it.
func (s *session) abort(cause error) error {
	var a *attest.AbortError
	if !errors.As(cause, &a) {
		a = &attest.AbortError{Code: attest.AbortDevice, Text: cause.Error()}
	}
	s.p.Abort(a.Code, a.Text)
	return errors.Join(cause, s.flush())
}

// flush writes all queued frames.
func (s *session) flush() error {
	for {
		f, ok := s.p.Next()
		if !ok {
			return nil
		}
		if _, err := s.rw.Write(f); err != nil {
			return fmt.Errorf("write %v: %w", f.Type(), err)
		}
	}
}

// do does one task and reports it to the state machine.
func (s *session) do(ctx context.Context, f attest.Frame, t attest.Task) error {
	switch t.Kind {
	case attest.TaskFill:
		s.jobs, s.timings = t.Jobs, make([]uint64, 3*len(t.Jobs))
		s.cfg.Log.Info("challenge", "gpus", len(t.Jobs), "fill_bytes", t.Jobs[0].Params.FillBytes())
		if t.Puzzle != nil {
			s.hasVDF = true
			s.vdf.Go(func() (err error) {
				s.y, s.pi, err = t.Puzzle.Solve(ctx)
				return err
			})
		}
		return s.all(ctx, "fill", 0, func(ctx context.Context, g int, d Device) (func() error, error) {
			roots, err := d.Fill(ctx, s.jobs[g].Params, s.jobs[g].Seed)
			return func() error { return s.p.Filled(g, roots) }, err
		})
	case attest.TaskWalk:
		return s.all(ctx, "walk", 1, func(ctx context.Context, g int, d Device) (func() error, error) {
			roots, err := d.Walk(ctx, t.Keys[g])
			return func() error { return s.p.Walked(g, roots) }, err
		})
	case attest.TaskMix:
		err := s.all(ctx, "mix", 2, func(ctx context.Context, g int, d Device) (func() error, error) {
			last, err := d.Mix(ctx, t.Keys[g])
			return func() error { return s.p.Mixed(g, last) }, err
		})
		if err != nil {
			return err
		}
		return s.all(ctx, "trace", -1, func(ctx context.Context, g int, d Device) (func() error, error) {
			roots, err := d.Trace(ctx)
			return func() error { return s.p.Traced(g, roots) }, err
		})
	case attest.TaskBlock:
		b, err := s.device(t.G).Block(ctx, t.Block)
		if err != nil {
			return fmt.Errorf("read block: %w", err)
		}
		return s.p.Answer(f, b)
	case attest.TaskOpen:
		return s.open(ctx, t)
	case attest.TaskDone:
		s.verdict = f
		s.cfg.Log.Info("verdict received", "bytes", len(f))
	}
	return nil
}

func (s *session) device(g int) Device { return s.cfg.Devices[s.jobs[g].Device] }

// all runs one phase on all devices at once and writes each report as soon as its device is ready.
func (s *session) all(ctx context.Context, what string, timing int, work func(ctx context.Context, g int, d Device) (report func() error, err error)) error {
	group, ctx := errgroup.WithContext(ctx)
	for g := range s.jobs {
		group.Go(func() error {
			began := s.cfg.Now()
			report, err := work(ctx, g, s.device(g))
			if err != nil {
				return fmt.Errorf("%s on GPU %d: %w", what, g, err)
			}
			took := s.cfg.Now().Sub(began)
			s.mu.Lock()
			defer s.mu.Unlock()
			if timing >= 0 {
				s.timings[3*g+timing] = uint64(took)
			}
			s.cfg.Log.Debug(what, "gpu", g, "took", took)
			if err := report(); err != nil {
				return err
			}
			return s.flush()
		})
	}
	return group.Wait()
}

// open opens what was asked for, waits for the VDF and signs.
func (s *session) open(ctx context.Context, t attest.Task) error {
	all := make([]attest.Opened, len(s.jobs))
	group, gctx := errgroup.WithContext(ctx)
	for g := range s.jobs {
		group.Go(func() (err error) {
			if all[g], err = s.device(g).Open(gctx, t.Requests[g]); err != nil {
				return fmt.Errorf("open on GPU %d: %w", g, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := s.p.Proved(all); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	e := attest.Evidence{TimingsNS: s.timings, TPMQuote: s.cfg.Quote}
	if s.hasVDF {
		if err := s.vdf.Wait(); err != nil {
			return fmt.Errorf("solve VDF: %w", err)
		}
		e.VDFY, e.VDFPi = s.y, s.pi
	}
	return s.p.Sign(e, s.cfg.Sign)
}
