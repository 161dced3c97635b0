package nvidia

import (
	"context"
	"runtime"
	"time"

	"basilica/attest"
)

// Session is an open device: what the module on it can do, and how it is given up. Everything of it is called on the thread that
// opened it.
type Session struct {
	Device   Device
	Products []Product
	Close    func() error
}

// Worker is a Prover on an OS thread of its own, for a CUDA context is current to a thread. Its methods may be called from any
// goroutine, one at a time.
type Worker struct {
	calls chan func(dev Device, g *Prover)
	ended chan error
}

// NewWorker starts the thread and opens the device there.
func NewWorker(open func() (Session, error), now func() time.Time) (*Worker, error) {
	w := &Worker{calls: make(chan func(Device, *Prover)), ended: make(chan error, 1)}
	opened := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		s, err := open()
		opened <- err
		if err != nil {
			return
		}
		g := NewProver(s.Device, s.Products, now)
		for call := range w.calls {
			call(s.Device, g)
		}
		g.Release()
		w.ended <- s.Close()
	}()
	return w, <-opened
}

// Close gives the device up and ends the thread. The worker must not be used afterwards.
func (w *Worker) Close() error {
	close(w.calls)
	return <-w.ended
}

// Do runs f on the thread.
func (w *Worker) Do(f func(dev Device, g *Prover) error) error {
	done := make(chan error, 1)
	w.calls <- func(dev Device, g *Prover) { done <- f(dev, g) }
	return <-done
}

// The work, as of a Prover.

// Prepare takes the memory that a fill of these sizes will need.
func (w *Worker) Prepare(p attest.Params) error {
	return w.Do(func(_ Device, g *Prover) error { return g.Prepare(p) })
}

// Fill makes the fill from its seed and returns the root of every layer.
func (w *Worker) Fill(ctx context.Context, p attest.Params, seed attest.Digest) (roots []attest.Node, err error) {
	err = w.Do(func(_ Device, g *Prover) (err error) { roots, err = g.Fill(ctx, p, seed); return err })
	return roots, err
}

// Walk runs the whole walk under its key and returns the root of every batch's states.
func (w *Worker) Walk(ctx context.Context, key attest.Digest) (roots []attest.Node, err error) {
	err = w.Do(func(_ Device, g *Prover) (err error) { roots, err = g.Walk(ctx, key); return err })
	return roots, err
}

// Mix runs all rounds of the mix under its key and returns the root of the last one.
func (w *Worker) Mix(ctx context.Context, key attest.Digest) (last attest.Node, err error) {
	err = w.Do(func(_ Device, g *Prover) (err error) { last, err = g.Mix(ctx, key); return err })
	return last, err
}

// Trace replays the mix and returns the roots of rounds 1 .. Rounds-1.
func (w *Worker) Trace(ctx context.Context) (roots []attest.Node, err error) {
	err = w.Do(func(_ Device, g *Prover) (err error) { roots, err = g.Trace(ctx); return err })
	return roots, err
}

// Block returns block number i of the fill.
func (w *Worker) Block(ctx context.Context, i uint64) (b []byte, err error) {
	err = w.Do(func(_ Device, g *Prover) (err error) { b, err = g.Block(ctx, i); return err })
	return b, err
}

// Open opens what the validator asked for.
func (w *Worker) Open(ctx context.Context, q attest.OpenRequest) (o attest.Opened, err error) {
	err = w.Do(func(_ Device, g *Prover) (err error) { o, err = g.Open(ctx, q); return err })
	return o, err
}

// Release gives the fill's memory back.
func (w *Worker) Release() {
	_ = w.Do(func(_ Device, g *Prover) error { g.Release(); return nil })
}
