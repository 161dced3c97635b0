package admin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"basilica/internal/provoke"
)

// asNobody runs f on a thread that has another user's rights to files, where this process may take them.
func asNobody(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if os.Geteuid() == 0 {
			if err := unix.Setfsuid(65534); err != nil {
				done <- err
				return
			}
		}
		done <- f()
	}()
	return <-done
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir, &fleetDouble{})
	c := NewClient(dir)
	call := func(method, path string, body any) func(*testing.T) error {
		return func(t *testing.T) error { return c.call(t.Context(), method, path, body, &struct{}{}) }
	}
	provoke.Each(t, map[string]func(*testing.T) error{
		"BAD_LIMIT":      call(http.MethodGet, "/v1/executors?limit=few", nil),
		"DRAIN_DEADLINE": call(http.MethodPut, "/v1/executors/e/drain", drainRequest{Drain: true, Deadline: "soon"}),
		"REQUEST_JSON":   call(http.MethodPut, "/v1/executors/e/name", map[string]int{"colour": 1}),
		"TOKEN_TTL":      call(http.MethodPost, "/v1/tokens", tokenRequest{TTL: "soon"}),
		"ADMIN_DENIED": func(t *testing.T) error {
			closed := t.TempDir()
			serve(t, closed, &fleetDouble{})
			if err := os.Chmod(SocketPath(closed), 0); err != nil {
				t.Fatal(err)
			}
			return NewClient(closed).notHere(asNobody(func() error {
				conn, err := net.Dial("unix", SocketPath(closed))
				if err == nil {
					return errors.Join(errors.New("a foreign user came in"), conn.Close())
				}
				return err
			}))
		},
		"ADMIN_REPLY_SIZE": func(t *testing.T) error {
			long := t.TempDir()
			ln, err := Listen(long)
			if err != nil {
				t.Fatal(err)
			}
			s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for piece, sent := make([]byte, 1<<20), 0; sent <= maxReplyBytes; sent += len(piece) {
					if _, err := w.Write(piece); err != nil {
						return
					}
				}
			})}
			done := make(chan error, 1)
			go func() { done <- s.Serve(ln) }()
			defer func() {
				if err := errors.Join(s.Shutdown(context.WithoutCancel(t.Context())), <-done); !errors.Is(err, http.ErrServerClosed) {
					t.Error(err)
				}
			}()
			_, err = NewClient(long).Tokens(t.Context())
			return err
		},
	})
}
