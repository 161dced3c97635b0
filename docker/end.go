package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"basilica"
)

// How a container is watched. The engine's word comes over one connection, which ends when the engine does and may fall
// silent; what the engine says when it is asked is what counts.
const (
	lookEvery  = 30 * time.Second       // a wait that says nothing is checked that often
	againEvery = 500 * time.Millisecond // an engine that is away is asked again that often
)

// pathFault is the runtime's word on a mount or a working directory that an image makes impossible.
var pathFault = regexp.MustCompile(`error mounting .* to rootfs at|error during container init: (mkdir|chdir|mount callback failed)|cwd|current working directory`)

// Start starts a created container and gives the function that waits for its end. An entry point that cannot be executed
// is Invalid (CONTAINER_START).
func (e *Engine) Start(ctx context.Context, id string) (wait func(context.Context) (basilica.ContainerEnd, error), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// The wait is registered before the start, else a short container could end unseen.
	exit := e.askForExit(ctx, id, container.WaitConditionNextExit)
	select {
	case <-exit.taken:
	case <-ctx.Done():
		exit.stop()
		return nil, ctx.Err()
	}
	// The engine does not leave a start undone when nobody waits for it any more: who cancels learns what came of it.
	starting, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	cgroup := e.awaitCgroup(id)
	_, err = e.api.ContainerStart(starting, id, client.ContainerStartOptions{})
	kills := cgroup.end()
	if err != nil {
		if kills != nil {
			kills.stop()
		}
		exit.stop()
		if i := strings.LastIndex(err.Error(), "exec: "); i >= 0 { // the runtime's word on the program, not on the host
			why := tail(strings.TrimSuffix(err.Error()[i+len("exec: "):], ": unknown"))
			return nil, basilica.E(basilica.Invalid, "CONTAINER_START", "the container could not start: "+why, "check the command and the image").With(err)
		}
		if pathFault.MatchString(err.Error()) {
			return nil, badPaths(err)
		}
		return nil, e.mapped("start container", err)
	}
	if kills == nil {
		kills = e.watchMemory(starting, id)
	}
	return e.witness(id, exit, kills), nil
}

// Await gives the function that waits for the end of a container that somebody else started, or that has ended already.
func (e *Engine) Await(ctx context.Context, id string) (wait func(context.Context) (basilica.ContainerEnd, error), err error) {
	exit := e.askForExit(ctx, id, container.WaitConditionNotRunning)
	looking, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return e.witness(id, exit, e.watchMemory(looking, id)), nil
}

// exitWait is one request to the engine to tell of a container's end.
type exitWait struct {
	taken chan struct{} // closed when the engine has taken the request, or will not
	said  chan error    // gets one word: nil is the end, anything else no answer
	stop  func()
}

// askForExit makes the request, which lasts until it is answered or stopped. An engine that does not take it in time has refused.
func (e *Engine) askForExit(ctx context.Context, id string, when container.WaitCondition) *exitWait {
	waiting, stop := context.WithCancel(context.WithoutCancel(ctx))
	w := &exitWait{taken: make(chan struct{}), said: make(chan error, 1), stop: stop}
	go func() {
		late := time.AfterFunc(callTimeout, stop)
		exit := e.api.ContainerWait(waiting, id, client.ContainerWaitOptions{Condition: when})
		late.Stop()
		close(w.taken)
		select { // the client holds a goroutine until it is read
		case err := <-exit.Error:
			w.said <- err
		case <-exit.Result:
			w.said <- nil
		}
	}()
	return w
}

// witness waits for a container's end, over restarts of the engine and connections that break or fall silent. A container
// that is gone is NotFound (CONTAINER_GONE).
func (e *Engine) witness(id string, exit *exitWait, kills *memoryWatch) func(context.Context) (basilica.ContainerEnd, error) {
	return func(ctx context.Context) (basilica.ContainerEnd, error) {
		defer func() { exit.stop() }()
		defer kills.stop()
		look := time.NewTicker(e.lookEvery)
		defer look.Stop()
		for {
			var again <-chan time.Time
			select {
			case <-ctx.Done():
				return basilica.ContainerEnd{}, ctx.Err()
			case err := <-exit.said:
				again = time.After(0)
				if err != nil { // an engine that is there may refuse to wait: it is not asked without a pause
					again = time.After(againEvery)
				}
			case <-look.C:
				again = time.After(0)
			}
			st, err := e.inspectWhenBack(ctx, id, again)
			if err != nil {
				return basilica.ContainerEnd{}, err
			}
			if !st.Running {
				kills.stop() // which reads what version 1 has told, also where nobody has come to read it yet
				st.End.MemoryKilled = st.End.MemoryKilled || kills.killed(st.End.ExitCode)
				return st.End, nil
			}
			exit.stop()
			exit = e.askForExit(ctx, id, container.WaitConditionNotRunning)
		}
	}
}

// inspectWhenBack inspects a container, as often as it takes while the engine is away.
func (e *Engine) inspectWhenBack(ctx context.Context, id string, first <-chan time.Time) (basilica.ContainerState, error) {
	for again := first; ; again = time.After(againEvery) {
		select {
		case <-ctx.Done():
			return basilica.ContainerState{}, ctx.Err()
		case <-again:
		}
		st, err := e.Inspect(ctx, id)
		switch {
		case err == nil && st.Removing:
			return st, basilica.E(basilica.NotFound, "CONTAINER_GONE", "the container does not exist", "")
		case err == nil || basilica.KindOf(err) == basilica.NotFound:
			return st, err
		}
		if basilica.CodeOf(err) != "DOCKER_ABSENT" {
			e.log.Warn("a container's state is not known", "container", id, "err", err)
		}
	}
}

// Inspect gives one container's state; one that does not exist is NotFound (CONTAINER_GONE).
func (e *Engine) Inspect(ctx context.Context, id string) (basilica.ContainerState, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return basilica.ContainerState{}, e.mapped("inspect container", err)
	}
	return stateOf(res.Container)
}

// stateOf reads the engine's word on a container.
func stateOf(c container.InspectResponse) (basilica.ContainerState, error) {
	st := basilica.ContainerState{ID: c.ID, Image: c.Image}
	if c.Config != nil {
		st.Labels = c.Config.Labels
	}
	if c.State == nil {
		return st, errors.New("the engine gave no state of the container")
	}
	var err error
	if st.Started, err = engineTime(c.State.StartedAt); err != nil {
		return st, fmt.Errorf("inspect container: %w", err)
	}
	st.Running = c.State.Running || c.State.Paused || c.State.Restarting
	st.Removing = c.State.Dead || c.State.Status == container.StateRemoving
	st.End = basilica.ContainerEnd{ExitCode: c.State.ExitCode, MemoryKilled: c.State.OOMKilled, Error: c.State.Error}
	if !st.Running {
		st.End.At, err = engineTime(c.State.FinishedAt)
	}
	return st, err
}

// engineTime reads a time of the engine, in which year 1 is never.
func engineTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() <= 1 {
		return time.Time{}, err
	}
	return t.UTC(), nil
}

// PastLogs reads what the engine kept of a container's output, from its first byte on, and follows it to the container's
// end. What has no line feed yet comes when it has one, and the engine may stop following before the last bytes: only what
// it gives of a container that had ended before the call is all. Two streams have no order between them.
func (e *Engine) PastLogs(ctx context.Context, id string) (follow func(f func(basilica.LogStream, []byte) error) error, err error) {
	res, err := e.api.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Follow: true})
	if err != nil {
		return nil, e.mapped("read container's log", err)
	}
	return followed(ctx, res, func() { res.Close() }), nil
}

// followed gives the pieces of both streams until the source ends or ctx does.
func followed(ctx context.Context, from io.Reader, hangUp func()) func(f func(basilica.LogStream, []byte) error) error {
	stop := context.AfterFunc(ctx, hangUp)
	return func(f func(basilica.LogStream, []byte) error) error {
		defer hangUp()
		defer stop()
		_, err := stdcopy.StdCopy(streamWriter{basilica.Stdout, f}, streamWriter{basilica.Stderr, f}, from)
		if err != nil {
			return errors.Join(ctx.Err(), fmt.Errorf("follow log: %w", err))
		}
		return nil
	}
}

// ForgetImage removes an image that has no name and that nothing uses; others stay, which is no error.
func (e *Engine) ForgetImage(ctx context.Context, id string) error {
	looking, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	img, err := e.api.ImageInspect(looking, id)
	switch {
	case errdefs.IsNotFound(err):
		return nil
	case err != nil:
		return e.mapped("look for image", err)
	case len(img.RepoTags) > 0 || len(img.RepoDigests) > 0: // its owner's, or a registry's
		return nil
	}
	return e.RemoveImage(ctx, id)
}
