package docker

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"basilica/internal/provoke"
)

// answering is an engine that says of itself what the test wants.
func answering(t *testing.T, info string) *Engine {
	t.Helper()
	return speaking(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/info") {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, info)
		}
	})
}

// speaking is an engine that answers what the test wants.
func speaking(t *testing.T, answer http.HandlerFunc) *Engine {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: ln, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		answer(w, r)
	})}}
	s.Start()
	t.Cleanup(s.Close)
	e, err := New("unix://"+path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func TestRefusals(t *testing.T) {
	for _, info := range []string{
		`{"MemoryLimit":false,"PidsLimit":true,"CpuCfsQuota":true,"CpuCfsPeriod":true,"SecurityOptions":["name=seccomp,profile=default"]}`,
		`{"MemoryLimit":true,"PidsLimit":false,"CpuCfsQuota":true,"CpuCfsPeriod":true,"SecurityOptions":["name=seccomp,profile=default"]}`,
		`{"MemoryLimit":true,"PidsLimit":true,"CpuCfsQuota":true,"CpuCfsPeriod":true,"SecurityOptions":["name=apparmor"]}`,
	} {
		_, _, err := answering(t, info).Available(t.Context())
		provoke.Refused(t, err, "ENGINE_UNSAFE")
	}
	denied := make(chan error)
	dir := filepath.Join(t.TempDir(), "out")
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if os.Geteuid() == 0 {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			if err := unix.Capset(&header, &make([]unix.CapUserData, 2)[0]); err != nil {
				denied <- err
				return
			}
		}
		denied <- MountOutput(dir, 1<<20)
	}()
	provoke.Refused(t, <-denied, "MOUNT_DENIED")
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory remains: %v", err)
	}
}
