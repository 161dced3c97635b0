package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"basilica"
)

// PutBlob implements basilica.Executor.
func (e *Executor) PutBlob(ctx context.Context, blob basilica.Blob, content io.Reader) error {
	if err := e.roomFor(blob.Size); err != nil {
		return err
	}
	return e.keepBlob(ctx, blob, content)
}

func (e *Executor) keepBlob(ctx context.Context, blob basilica.Blob, content io.Reader) error {
	e.blobUse.RLock()
	defer e.blobUse.RUnlock()
	err := e.cfg.Blobs.Put(ctx, blob, content)
	if errors.Is(err, syscall.ENOSPC) {
		return basilica.E(basilica.Exhausted, "DISK_FULL", "the disk of the executor's data directory is full", "free space on it").With(err)
	}
	if err != nil {
		return err
	}
	// A caller that is gone by now leaves content behind, and without its record nobody would remove it.
	return e.cfg.Attempts.SawBlob(context.WithoutCancel(ctx), blob.SHA256, e.ledgerNow())
}

// GetBlob implements basilica.Executor.
func (e *Executor) GetBlob(ctx context.Context, sum basilica.Digest, w io.Writer) (err error) {
	r, _, err := e.cfg.Blobs.Open(sum)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer stop()
	if _, err := io.Copy(w, r); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("send blob: %w", err))
	}
	return nil
}

// Release implements basilica.Executor.
func (e *Executor) Release(ctx context.Context, task basilica.TaskID, attempt int) error {
	if err := e.running(); err != nil {
		return err
	}
	at := basilica.TaskAttempt{Task: task, Attempt: attempt}
	e.mu.Lock()
	open := e.live[at] != nil
	e.mu.Unlock()
	if a, err := e.cfg.Attempts.Attempt(ctx, at); basilica.KindOf(err) == basilica.NotFound && err != nil {
		return nil // forgotten already
	} else if err != nil {
		return err
	} else if open || !a.State.Terminal() {
		return basilica.E(basilica.Conflict, "ATTEMPT_OPEN", fmt.Sprintf("attempt %d of task %s has not ended", attempt, task), "cancel it first")
	}
	// The log goes first: without its attempt nobody would find it again.
	if err := e.cfg.Logs.Forget(logName(at)); err != nil {
		return err
	}
	if err := e.cfg.Attempts.ForgetAttempt(ctx, at); err != nil {
		return err
	}
	return e.forgetBlobs(ctx)
}

// forgetBlobs removes the blobs that no attempt needs.
func (e *Executor) forgetBlobs(ctx context.Context) error {
	if !e.blobUse.TryLock() { // content is on its way in; tidy comes again
		return nil
	}
	defer e.blobUse.Unlock()
	sums, err := e.cfg.Attempts.ForgetBlobs(ctx, e.ledgerNow().Add(-unusedBlobs))
	for _, sum := range sums {
		err = errors.Join(err, e.cfg.Blobs.Delete(sum))
	}
	return err
}

// dropUnknownBlobs removes content that has no record: an earlier process ended between the one and the other.
func (e *Executor) dropUnknownBlobs(ctx context.Context) error {
	e.blobUse.Lock()
	defer e.blobUse.Unlock()
	stored, err := e.cfg.Blobs.Stored()
	if err != nil {
		return err
	}
	unknown, err := e.cfg.Attempts.UnknownBlobs(ctx, stored)
	for _, sum := range unknown {
		err = errors.Join(err, e.cfg.Blobs.Delete(sum))
	}
	return err
}
