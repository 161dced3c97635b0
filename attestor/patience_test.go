package attestor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"basilica"
	"basilica/attest"
	"basilica/internal/provoke"
	"basilica/keys"
)

// TestSilentValidator: a prover waits for as long as an honest validator may take, and not for one that never goes on.
func TestSilentValidator(t *testing.T) {
	key, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		began, done := time.Now(), make(chan error, 1)
		go func() {
			_, err := Prove(t.Context(), theirs, Config{
				Greeting: attest.Greeting{SPKI: key.SPKI()}, Devices: []Device{NewSoftware(key.SPKI(), 0, attest.NewCPU(attest.Serial))},
				Sign: key.Sign, Now: time.Now, Log: quiet(),
			})
			done <- err
		}()
		var last attest.Frame
		for _, want := range []attest.FrameType{attest.FrameHello, attest.FrameAbort} {
			if last, err = attest.ReadFrame(ours, attest.RelayCap); err != nil || last.Type() != want {
				t.Fatalf("%v, want %v: %v", last.Type(), want, err)
			}
		}
		var a *attest.AbortError
		if err := <-done; !errors.Is(err, ErrLeft) || !errors.As(err, &a) || a.Code != attest.AbortSilent {
			t.Error(err)
		}
		// Two minutes before OPEN are an honest validator's, and the SSH door ends a silent connection after three.
		if waited := time.Since(began); waited < 130*time.Second || waited > 3*time.Minute {
			t.Errorf("it waited %v", waited)
		}
		ours.Close()
		theirs.Close()
	})
}

// TestUnreadFrames: a validator that takes no frame holds nobody up for longer than one that sends none.
func TestUnreadFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		began := time.Now()
		n, err := taken{theirs, func() { ours.Close() }}.Write(make([]byte, 1))
		if waited := time.Since(began); n != 0 || err == nil || waited != patience {
			t.Errorf("%d bytes, %v after %v", n, err, waited)
		}
		theirs.Close()
	})
}

const (
	traceEnv = "ATTESTOR_TEST_TRACE" // process to hold back
	traceDir = "ATTESTOR_TEST_DIR"   // where the pipes are
)

// TestMain also is the program that holds a process back: one that is traced is no zombie to its parent before its tracer says
// so, and Wait does not return, as with a process that hangs in the kernel.
func TestMain(m *testing.M) {
	if pid, err := strconv.Atoi(os.Getenv(traceEnv)); err == nil {
		runtime.LockOSThread()
		_, err := syscall.Setsid() // the signal is for its group
		err = errors.Join(err, unix.PtraceSeize(pid))
		dir := os.Getenv(traceDir)
		said := fmt.Sprint(err)
		if err := os.WriteFile(filepath.Join(dir, "ready"), []byte(said), 0o600); err == nil {
			_, _ = os.ReadFile(filepath.Join(dir, "end"))
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// script writes a program. A child that another test starts meanwhile would have the file open for writing until it is a program
// itself, and so long nobody could run this one.
func script(t *testing.T, path, lines string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+lines), 0o700); err != nil {
		t.Fatal(err)
	}
}

// unkillable is a child that no signal ends, with its output open, until the test is over. held returns once it is so.
func unkillable(t *testing.T) (c Child, held func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"ready", "end"} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c = Child{Path: filepath.Join(dir, "gpu-attestor"), Key: filepath.Join(dir, "key"), Log: quiet()}
	script(t, c.Path, fmt.Sprintf("%s=$$ %s=%s %s &\nwait\n", traceEnv, traceDir, dir, self))
	return c, func() {
		said, err := os.ReadFile(filepath.Join(dir, "ready"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.WriteFile(filepath.Join(dir, "end"), nil, 0); err != nil {
				t.Error(err)
			}
		})
		if string(said) != "<nil>" {
			t.Skip("this machine lets nobody trace a process:", string(said))
		}
	}
}

// TestStuckChild: a child in a driver that hangs in the kernel does not go when it is killed; nobody waits for it.
func TestStuckChild(t *testing.T) {
	t.Parallel()
	t.Run("detect", func(t *testing.T) {
		t.Parallel()
		c, held := unkillable(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := c.Detect(ctx)
			done <- err
		}()
		held()
		cancel()
		provoke.Refused(t, <-done, "ATTESTOR_STUCK")
	})
	t.Run("prove", func(t *testing.T) {
		t.Parallel()
		c, held := unkillable(t)
		ours, theirs := loopback(t)
		done := make(chan error, 1)
		go func() { done <- c.Serve(t.Context(), theirs, binding) }()
		held()
		if err := ours.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; basilica.CodeOf(err) == "" || !errors.Is(err, ErrLeft) || !strings.Contains(err.Error(), "ATTESTOR_STUCK") {
			t.Error(err)
		}
	})
}

// TestSlowAnswer: a child that can be killed but does not answer is told apart from one that cannot be run.
func TestSlowAnswer(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gpu-attestor")
	script(t, path, "exec sleep 1000\n")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := Child{Path: path, Log: quiet()}.Detect(ctx)
	provoke.Refused(t, err, "ATTESTOR_STUCK")
}

// TestCallerWhoseTimeIsOver is told that, and not that the binary is to be built.
func TestCallerWhoseTimeIsOver(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gpu-attestor")
	script(t, path, "exec sleep 1000\n")
	c := Child{Path: path, Log: quiet()}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Detect(over); !errors.Is(err, context.Canceled) || basilica.CodeOf(err) != "" {
		t.Error(err)
	}
	_, theirs := loopback(t)
	running := filepath.Join(t.TempDir(), "running")
	script(t, path, "mkfifo "+running+".new && mv "+running+".new "+running+" && exec cat "+running+"\n")
	during, end := context.WithCancel(t.Context())
	defer end()
	go func() {
		for _, err := os.Stat(running); err != nil; _, err = os.Stat(running) {
			<-time.After(time.Millisecond)
		}
		end()
	}()
	if _, err := c.Detect(during); !errors.Is(err, context.Canceled) || basilica.CodeOf(err) != "" {
		t.Error(err)
	}
	if err := c.Serve(over, theirs, binding); !errors.Is(err, context.Canceled) || basilica.CodeOf(err) != "" {
		t.Error(err)
	}
}
