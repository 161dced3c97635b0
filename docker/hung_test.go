package docker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"basilica"
)

// TestHungEngine: an engine that takes requests and answers none holds nobody who does not want to wait any more.
func TestHungEngine(t *testing.T) {
	t.Parallel()
	var started atomic.Bool
	over := make(chan struct{})
	e := speaking(t, func(_ http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/_ping"):
			return
		case strings.HasSuffix(r.URL.Path, "/start"):
			started.Store(true)
		}
		select {
		case <-r.Context().Done():
		case <-over:
		}
	})
	t.Cleanup(func() { close(over) })
	for name, call := range map[string]func(context.Context) error{
		"start":  func(ctx context.Context) error { _, err := e.Start(ctx, "c"); return err },
		"attach": func(ctx context.Context) error { _, err := e.Logs(ctx, "c"); return err },
		"await": func(ctx context.Context) error {
			wait, err := e.Await(ctx, "c")
			if err == nil {
				_, err = wait(ctx)
			}
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		done := make(chan error, 1)
		go func() { done <- call(ctx) }()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s does not hear that it is cancelled", name)
		}
	}
	if started.Load() {
		t.Error("a container was started whose end nobody would have been told")
	}
}

// TestUnheardExit: the engine's word on an end that nobody waits for any more holds nothing.
func TestUnheardExit(t *testing.T) {
	t.Parallel()
	e := speaking(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/wait") {
			fmt.Fprint(w, `{"StatusCode":3}`)
		}
	})
	w := e.askForExit(t.Context(), "c", container.WaitConditionNextExit)
	for deadline := time.Now().Add(5 * time.Second); len(w.said) == 0; time.Sleep(time.Millisecond) { // nobody reads it
		if time.Now().After(deadline) {
			t.Fatal("the answer is kept by the client")
		}
	}
	w.stop()
	if err := <-w.said; err != nil {
		t.Error(err)
	}
}

// TestSlowCreate: each step of making a container has its own time. One that is left without an answer about its WORKDIR is
// removed, and may be made again.
func TestSlowCreate(t *testing.T) {
	t.Parallel()
	var hung, removed atomic.Bool
	var slow atomic.Int64
	var leave atomic.Pointer[context.CancelFunc] // when it hangs
	step := func() { time.Sleep(time.Duration(slow.Load())) }
	e := speaking(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/_ping"):
		case strings.HasSuffix(r.URL.Path, "/archive"):
			if hung.Load() {
				if cancel := leave.Load(); cancel != nil {
					(*cancel)()
				}
				<-r.Context().Done()
			}
			step()
			w.WriteHeader(http.StatusNotFound)
		case strings.HasSuffix(r.URL.Path, "/containers/create"):
			step()
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, `{"Id":"c"}`)
		case r.Method == http.MethodDelete:
			removed.Store(true)
		default:
			step()
			fmt.Fprint(w, `{"Id":"i","Config":{"WorkingDir":"/w"}}`)
		}
	})
	e.creating = 5 * time.Second
	slow.Store(int64(2 * time.Second)) // three of them are longer
	spec := basilica.ContainerSpec{Name: "c", Image: "i", Command: []string{"x"}, CPUMillis: 100, MemoryBytes: 32 << 20, Pids: 8, LogBytes: 1 << 20}
	if id, err := e.Create(t.Context(), spec); id != "c" || err != nil {
		t.Fatal(id, err)
	}
	slow.Store(0)
	hung.Store(true)
	e.creating = 3 * time.Second
	if id, err := e.Create(t.Context(), spec); basilica.KindOf(err) != basilica.Unavailable || basilica.CodeOf(err) != "DOCKER_ABSENT" || !removed.Load() {
		t.Errorf("%s: %v; removed %t", id, err, removed.Load())
	}
	e.creating = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	leave.Store(&cancel)
	if id, err := e.Create(ctx, spec); !errors.Is(err, context.Canceled) || basilica.CodeOf(err) != "" {
		t.Errorf("cancelled: %s: %v", id, err)
	}
}
