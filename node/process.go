package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"basilica"
)

func asError(err error) *basilica.Error {
	var e *basilica.Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// Limits of a child's life.
const (
	startTimeout = 30 * time.Second
	stopTimeout  = 15 * time.Second
	maxReadyLine = 64 << 10
)

const codeSlow = "PROCESS_SLOW"

// processes starts children of this process in such a way that none outlives it: every child is its own process group
// and gets SIGTERM from the kernel when the thread that started it ends. One locked thread therefore starts them all and
// lives until close.
type processes struct {
	starts chan func()
	done   chan struct{}
}

func newProcesses() *processes {
	p := &processes{starts: make(chan func()), done: make(chan struct{})}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		defer close(p.done)
		for f := range p.starts {
			f()
		}
	}()
	return p
}

func (p *processes) close() {
	close(p.starts)
	<-p.done
}

// child is one running process of ours.
type child struct {
	role  string
	pid   int
	log   string // path of its log
	addrs map[string]string
	ended chan struct{} // closed once err is set
	err   error
}

// start runs this program's verb args and waits until it reports readiness. Its log goes to logPath. What the child says
// was wrong is the error here. A child that says nothing in time is returned beside the error and goes on.
func (p *processes) start(ctx context.Context, role, executable string, args, env []string, logPath string) (*child, error) {
	if err := os.MkdirAll(filepath.Dir(logPath), 0o700); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer out.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	defer read.Close()
	cmd := exec.Command(executable, args...)
	cmd.Env = append(env, ReadyFD+"=3")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	err = p.launch(cmd)
	write.Close()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	c := &child{role: role, pid: cmd.Process.Pid, log: logPath, ended: make(chan struct{})}
	go func() {
		c.err = cmd.Wait()
		close(c.ended)
	}()
	word, err := c.await(ctx, read)
	if err == nil && word.Error != nil {
		err = word.Error.Err()
	}
	c.addrs = word.Addrs
	switch {
	case err == nil:
		return c, nil
	case basilica.CodeOf(err) == codeSlow:
		return c, err
	}
	c.Stop()
	return nil, fmt.Errorf("start %s: %w", role, err)
}

func (p *processes) launch(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	p.starts <- func() { result <- cmd.Start() }
	return <-result
}

// await reads the child's one line.
func (c *child) await(ctx context.Context, read *os.File) (Readiness, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	type heard struct {
		word Readiness
		err  error
	}
	said := make(chan heard, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(read, maxReadyLine)).ReadBytes('\n')
		var h heard
		if err == nil {
			err = json.Unmarshal(line, &h.word)
		}
		h.err = err
		said <- h
	}()
	select {
	case h := <-said:
		if h.err != nil {
			return h.word, basilica.E(basilica.Unavailable, "PROCESS_ENDED", fmt.Sprintf("the %s ended before it was ready", c.role), "read the end of its log: "+c.lastLines(3))
		}
		return h.word, nil
	case <-ctx.Done():
		return Readiness{}, basilica.E(basilica.Unavailable, codeSlow, fmt.Sprintf("the %s was not ready in time", c.role), "read the end of its log: "+c.lastLines(3)).With(ctx.Err())
	}
}

// PID implements Part.
func (c *child) PID() int { return c.pid }

// Addrs implements Part.
func (c *child) Addrs() map[string]string { return c.addrs }

// Ended implements Part.
func (c *child) Ended() <-chan struct{} { return c.ended }

// Failure implements Part: a child of ours runs until it is stopped.
func (c *child) Failure() error {
	return basilica.E(basilica.Unavailable, "PROCESS_ENDED", fmt.Sprintf("the %s (pid %d) ended by itself", c.role, c.pid), "read the end of its log: "+c.lastLines(3)).With(c.err)
}

func (c *child) lastLines(n int) string {
	text, err := tail(c.log, 16<<10)
	if err != nil {
		return c.log
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func tail(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	_, err = io.Copy(&buf, io.NewSectionReader(f, max(0, info.Size()-limit), limit))
	return buf.Bytes(), err
}

// Stop asks the child to end, waits, and ends its whole group where it does not. A stopped child (SIGSTOP) is continued
// first, so that it can put its things in order.
func (c *child) Stop() {
	select {
	case <-c.ended:
	default:
		_ = syscall.Kill(-c.pid, syscall.SIGCONT)
		_ = syscall.Kill(c.pid, syscall.SIGTERM)
		timer := time.NewTimer(stopTimeout)
		defer timer.Stop()
		select {
		case <-c.ended:
		case <-timer.C:
		}
	}
	// What is left of the group: nothing after an orderly end.
	_ = syscall.Kill(-c.pid, syscall.SIGKILL)
	<-c.ended
}
