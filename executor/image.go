package executor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"basilica"
)

// maxLoads bounds how often the image of one attempt is loaded.
const maxLoads = 3

// pulledMark begins the source of an image that came from a registry; its config's digest follows, which most engines take
// for its id.
const pulledMark = "pulled:"

// image finds or makes the image of a task and gives its content address. One that comes from a registry is on record
// before it is here, so that it goes again some time after the last task that needs it.
func (e *Executor) image(ctx context.Context, l *life, spec basilica.TaskSpec) (id string, err error) {
	if sum, ok := basilica.ImageBlob(spec.Image); ok {
		return e.loadImage(ctx, sum)
	}
	login, err := e.login(spec)
	if err != nil {
		return "", err
	}
	needs := func(id string) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if !slices.Contains(l.pulled, id) {
			l.pulled = append(l.pulled, id)
		}
	}
	source := ""
	arrives := func(config string) (known string, err error) {
		needs(config)
		loaded, err := e.cfg.Marks.LoadedImages(ctx)
		if err != nil {
			return "", err
		}
		source = pulledMark + config
		known = cmp.Or(loaded[source], config)
		needs(known)
		return known, e.cfg.Marks.KeepImage(ctx, source, known)
	}
	err = e.patiently(ctx, func() (err error) {
		id, err = e.cfg.Engine.EnsureImage(ctx, spec.Image, login, arrives)
		return err
	})
	if err != nil {
		return "", err
	}
	needs(id)
	if source != "" {
		err = e.cfg.Marks.KeepImage(context.WithoutCancel(ctx), source, id)
	}
	return id, err
}

// login opens the task's credentials for a registry; nil where it has none. They live in memory alone.
func (e *Executor) login(spec basilica.TaskSpec) (*basilica.RegistryLogin, error) {
	if spec.Registry == nil {
		return nil, nil
	}
	bad := func(why string) *basilica.Error {
		return basilica.E(basilica.Denied, "REGISTRY_SEALED", "the task's registry credentials are not for this machine: "+why, "submit the task again: the client seals them to the machines that the miner has now")
	}
	sealed, ok := spec.Registry.Sealed[e.cfg.Executor]
	if !ok {
		return nil, bad("they are sealed to others")
	}
	plain, err := e.cfg.Unseal(sealed)
	if err != nil {
		return nil, bad("they do not open by its key").With(err)
	}
	defer clear(plain)
	var login basilica.RegistryLogin
	if json.Unmarshal(plain, &login) != nil { // its error may quote what it read
		return nil, bad("they cannot be read")
	}
	return &login, nil
}

// loadImage loads an image from a blob, or finds that it was loaded before. That it will be is on record before, so that no
// image is left behind by a process that dies in between, or by an engine that goes on when its task is cancelled.
func (e *Executor) loadImage(ctx context.Context, sum basilica.Digest) (id string, err error) {
	select {
	case e.imageUse <- struct{}{}:
	case <-ctx.Done():
		return "", fmt.Errorf("wait for another image: %w", ctx.Err())
	}
	defer func() { <-e.imageUse }()
	loaded, err := e.cfg.Marks.LoadedImages(ctx)
	if err != nil {
		return "", err
	}
	source := sum.String()
	if loaded[source] != "" {
		err := e.patiently(ctx, func() (err error) { id, err = e.cfg.Engine.EnsureImage(ctx, loaded[source], nil, nil); return err })
		if basilica.KindOf(err) != basilica.NotFound {
			return id, err
		}
	}
	ours := loaded[source] != "" // what the engine had already is the owner's, or another task's
	arrives := func(config string) error {
		ours = true
		return e.cfg.Marks.KeepImage(ctx, source, cmp.Or(loaded[source], config))
	}
	err = e.patiently(ctx, func() (err error) { id, err = e.load(ctx, sum, arrives); return err })
	if err != nil || !ours {
		return id, err
	}
	return id, e.cfg.Marks.KeepImage(context.WithoutCancel(ctx), source, id)
}

func (e *Executor) load(ctx context.Context, sum basilica.Digest, arrives func(config string) error) (id string, err error) {
	f, _, err := e.cfg.Blobs.Open(sum)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return e.cfg.Engine.LoadImage(ctx, f, arrives)
}

// forgetImages removes the images that no open attempt needs: those loaded from blobs at once, for the blob is here while it
// is wanted, and those from registries when nobody has needed them for that long.
func (e *Executor) forgetImages(ctx context.Context, keep time.Duration) error {
	select {
	case e.imageUse <- struct{}{}:
	default: // one is being loaded; tidy comes again
		return nil
	}
	defer func() { <-e.imageUse }()
	loaded, err := e.cfg.Marks.LoadedImages(ctx)
	if err != nil {
		return err
	}
	open, err := e.cfg.Attempts.OpenAttempts(ctx)
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, a := range open {
		d, _ := e.demandOf(a.Spec)
		used[d.spec.Image], used[a.ImageID] = true, true
	}
	e.mu.Lock()
	for _, l := range e.live {
		used[l.image] = true
		for _, id := range l.pulled {
			used[id] = true
		}
	}
	e.mu.Unlock()
	var errs []error
	for source, id := range loaded {
		var sum basilica.Digest
		config, pulled := strings.CutPrefix(source, pulledMark)
		blob := sum.UnmarshalText([]byte(source)) == nil
		switch {
		case pulled && (used[config] || used[id]), blob && used[basilica.ImageBlobPrefix+source]:
			delete(e.idle, source)
		case pulled:
			errs = append(errs, e.forgetImage(ctx, source, id, keep))
		case blob:
			errs = append(errs, e.forgetImage(ctx, source, id, 0))
		}
	}
	return errors.Join(errs...)
}

// forgetImage removes an image that nobody has needed for that long, with its mark. Where the engine does not have it, the
// mark stays as long as the engine may still be about to: it unpacks what it was given although nobody waits any more. The
// caller holds imageUse.
func (e *Executor) forgetImage(ctx context.Context, source, id string, keep time.Duration) error {
	now := e.ledgerNow()
	since, known := e.idle[source]
	if !known {
		since = now
		e.idle[source] = since
	}
	idle := now.Sub(since)
	if idle < keep {
		return nil
	}
	_, err := e.cfg.Engine.EnsureImage(ctx, id, nil, nil)
	switch {
	case basilica.KindOf(err) != basilica.NotFound:
		if err == nil {
			err = e.cfg.Engine.ForgetImage(ctx, id)
		}
		if err != nil {
			return fmt.Errorf("remove image: %w", err)
		}
	case idle < lateImages:
		return nil
	}
	delete(e.idle, source)
	return e.cfg.Marks.ForgetImage(ctx, source)
}
