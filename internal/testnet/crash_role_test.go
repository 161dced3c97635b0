package testnet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"basilica/node"
)

// crashLauncher runs every role as a process of the crash build. For node.Network a role is one part from its first start
// to Stop, however often it dies in between.
type crashLauncher struct {
	program string
	dir     string // of plans and traces
	starts  chan func()
	change  func(name string, c *node.Config) // of a role's configuration, before its first start; nil: none

	mu    sync.Mutex // guards roles
	roles map[string]*mortal
}

// newCrashLauncher starts processes from one locked thread: the kernel kills them when it ends.
func newCrashLauncher(program, dir string) *crashLauncher {
	l := &crashLauncher{program: program, dir: dir, starts: make(chan func()), roles: map[string]*mortal{}}
	go func() {
		runtime.LockOSThread()
		for f := range l.starts {
			f()
		}
	}()
	return l
}

// Close implements node.Launcher.
func (l *crashLauncher) Close() error {
	close(l.starts)
	return nil
}

// role gives a role by the name of its part.
func (l *crashLauncher) role(name string) *mortal {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.roles[name]
}

// traces are the files to which the processes of a role wrote what they hit.
func (l *crashLauncher) traces() ([]string, error) {
	return filepath.Glob(filepath.Join(l.dir, "*.trace"))
}

func (l *crashLauncher) env(name string, more ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir(),
		"BASILICA_CRASH_PLAN=" + filepath.Join(l.dir, name+".plan"), "BASILICA_CRASH_TRACE=" + filepath.Join(l.dir, name+".trace"),
	}, more...)
}

// prepare writes a role's configuration as it is needed here.
func (l *crashLauncher) prepare(role, name, config string) error {
	free, err := freeAddr()
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(free)
	if err != nil {
		return err
	}
	return rewrite(role, config, func(c *node.Config) {
		crashPace(role, port, c)
		if l.change != nil {
			l.change(name, c)
		}
	})
}

// crashPace makes the network quick: what takes seconds there and is waited for often takes less. port is free.
func crashPace(role, port string, c *node.Config) {
	switch role {
	case "localnet":
		c.Localnet.BlockTime = node.Duration(150 * time.Millisecond)
	case "miner":
		c.Miner.AxonListen, c.Miner.AxonAdvertise = "0.0.0.0:"+port, "127.0.0.2:"+port // whoever knows an address of before still reaches it there
	case "executor":
		c.Executor.Heartbeat = node.Duration(200 * time.Millisecond)
	case "validator":
		c.Validator.RoundBlocks, c.Validator.Squarings, c.Validator.EvidenceCount = 32, 1<<14, 4
	}
}

// rewrite changes the configuration file of a role.
func rewrite(role, path string, change func(*node.Config)) error {
	c := node.DefaultConfig()
	if err := node.LoadConfig(path, nil, &c); err != nil {
		return err
	}
	change(&c)
	sections := map[string]any{}
	switch role {
	case "localnet":
		sections["localnet"] = c.Localnet
	case "executor":
		sections["executor"] = c.Executor
	case "miner":
		sections["chain"], sections["miner"] = c.Chain, c.Miner
	case "validator":
		sections["chain"], sections["validator"] = c.Chain, c.Validator
	}
	return node.WriteConfig(path, sections)
}

// steady gives a role the ports that it took at its first start, for its next ones.
func steady(addrs map[string]string) func(*node.Config) {
	return func(c *node.Config) {
		if addr, ok := addrs["api"]; ok {
			c.Validator.APIListen = addr
		}
	}
}

// Start implements node.Launcher.
func (l *crashLauncher) Start(ctx context.Context, role, name, config, log string) (node.Part, error) {
	if err := l.prepare(role, name, config); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(log), 0o700); err != nil {
		return nil, err
	}
	m := &mortal{l: l, role: role, name: name, config: config, log: log, over: make(chan struct{})}
	if err := m.start(ctx, ""); err != nil {
		return nil, err
	}
	if err := rewrite(role, config, steady(m.Addrs())); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.roles[name] = m
	return m, nil
}

// Join implements node.Launcher.
func (l *crashLauncher) Join(ctx context.Context, name, config, token string) error {
	return l.join(ctx, name, config, token, "")
}

// join is Join by a process that dies at a point of the plan crash, where that is not empty: errDied.
func (l *crashLauncher) join(ctx context.Context, name, config, token, crash string) error {
	if err := l.prepare("executor", name, config); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, l.program, "join", "--config", config, "--write", config, "--name", name, "-")
	cmd.Env = l.env("join-"+name, "BASILICA_CRASH="+crash)
	cmd.Stdin = strings.NewReader(token + "\n")
	said, err := cmd.CombinedOutput()
	if died(cmd.ProcessState) && ctx.Err() == nil {
		return errDied
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(said))
	}
	return nil
}

// mortal is one role that dies and is started again.
type mortal struct {
	l                       *crashLauncher
	role, name, config, log string
	over                    chan struct{} // closed by Stop

	mu      sync.Mutex // guards what follows
	cmd     *exec.Cmd
	addrs   map[string]string
	ended   chan struct{} // of the present process
	ready   bool
	readyAt time.Time
	lives   int

	own sync.Mutex // held by whoever has it die, until it lives again; after crashCampaign.alone
}

// PID implements node.Part.
func (m *mortal) PID() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cmd.Process.Pid
}

// Addrs implements node.Part.
func (m *mortal) Addrs() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addrs
}

// Ended implements node.Part: a death is no end.
func (m *mortal) Ended() <-chan struct{} { return m.over }

// Failure implements node.Part.
func (m *mortal) Failure() error { return fmt.Errorf("%s was stopped", m.name) }

// Stop implements node.Part.
func (m *mortal) Stop() {
	_ = m.end(30 * time.Second)
	close(m.over)
}

var errDied = errors.New("killed by signal 9")

// startPatience is how long a start may take: a chain of half an hour's blocks, on a machine that five networks share.
const startPatience = 2 * time.Minute

// diedAt is the point at which the last process that was killed by itself was, empty: it was killed from outside.
func (m *mortal) diedAt() (string, error) {
	text, err := os.ReadFile(filepath.Join(m.l.dir, m.name+".trace"))
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	name, _ := strings.CutPrefix(lines[len(lines)-1], "! ")
	return name, nil
}

// start runs a new process, which dies at a point of the plan crash where that is not empty, and waits until it is ready.
// errDied: it was killed before.
func (m *mortal) start(ctx context.Context, crash string) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	out, err := os.OpenFile(m.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	cmd := exec.Command(m.l.program, m.role, "--config", m.config)
	cmd.Env = m.l.env(m.name, node.ReadyFD+"=3", "BASILICA_CRASH="+crash)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, out, []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	m.l.starts <- func() { started <- cmd.Start() }
	err = <-started
	write.Close()
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	m.mu.Lock()
	m.cmd, m.ended, m.ready = cmd, ended, false
	m.lives++
	m.mu.Unlock()
	go func() {
		_ = cmd.Wait() // how it ended stands in its state
		m.mu.Lock()
		m.ready = false
		m.mu.Unlock()
		close(ended)
	}()
	said := make(chan node.Readiness, 1)
	go func() {
		var word node.Readiness
		line, _ := bufio.NewReader(read).ReadBytes('\n')
		_ = json.Unmarshal(line, &word) // nothing where it died
		said <- word
	}()
	select {
	case word := <-said:
		if word.Error != nil {
			<-ended
			return word.Error.Err()
		}
		if word.Addrs == nil {
			<-ended
			return m.howEnded()
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.addrs, m.ready, m.readyAt = word.Addrs, true, time.Now()
		return nil
	case <-ctx.Done():
		m.kill() // it would be in the way of the next
		return fmt.Errorf("%s is not ready: %w", m.name, ctx.Err())
	}
}

// howEnded is errDied after signal 9, nil after an orderly end.
func (m *mortal) howEnded() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case died(m.cmd.ProcessState):
		return errDied
	case m.cmd.ProcessState.Success():
		return nil
	}
	return fmt.Errorf("%s ended by itself: %s: %s", m.name, m.cmd.ProcessState, m.lastWords())
}

// died says that signal 9 ended a process.
func died(p *os.ProcessState) bool {
	if p == nil {
		return false
	}
	status, ok := p.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

func (m *mortal) lastWords() string {
	lines := strings.Split(strings.TrimSpace(m.lastBytes(16<<10)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

func (m *mortal) lastBytes(n int) string {
	text, err := os.ReadFile(m.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-n):])
}

// tell has the living process die at a point of the plan, or at none where that is empty, and count from now on.
func (m *mortal) tell(phase, plan string) error {
	if err := os.WriteFile(filepath.Join(m.l.dir, m.name+".plan"), []byte(phase+" "+plan), 0o600); err != nil {
		return err
	}
	m.mu.Lock()
	ready, cmd, ended := m.ready, m.cmd, m.ended
	m.mu.Unlock()
	if !ready {
		return fmt.Errorf("%s does not run", m.name)
	}
	err := cmd.Process.Signal(syscall.SIGUSR1)
	if errors.Is(err, os.ErrProcessDone) {
		<-ended // how is known a moment later
	}
	return err
}

// obey is tell, and waits until the process has heard it. It fails where the process has ended before.
func (m *mortal) obey(phase, plan string) error {
	trace := filepath.Join(m.l.dir, m.name+".trace")
	before, err := os.ReadFile(trace)
	if err != nil {
		return err
	}
	if err := m.tell(phase, plan); err != nil {
		return err
	}
	for deadline := time.Now().Add(firstPatience); !m.died(20*time.Millisecond) && time.Now().Before(deadline); {
		now, err := os.ReadFile(trace)
		if err != nil {
			return err
		}
		if bytes.Contains(now[len(before):], []byte("-- "+phase+"\n")) {
			return nil
		}
	}
	return fmt.Errorf("%s does not hear", m.name)
}

// life is closed when the present process has ended.
func (m *mortal) life() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ended
}

// died waits for the death of the present process; false where it lives on.
func (m *mortal) died(patience time.Duration) bool {
	m.mu.Lock()
	ended := m.ended
	m.mu.Unlock()
	select {
	case <-ended:
		return true
	case <-time.After(patience):
		select {
		case <-ended:
			return true
		default:
			return false
		}
	}
}

// kill ends the process by signal 9 from outside, wherever it is.
func (m *mortal) kill() {
	m.mu.Lock()
	cmd, ended := m.cmd, m.ended
	m.mu.Unlock()
	_ = cmd.Process.Kill()
	<-ended
}

// end asks for an orderly end and kills what does not obey.
func (m *mortal) end(patience time.Duration) error {
	m.mu.Lock()
	cmd := m.cmd
	m.mu.Unlock()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if !m.died(patience) {
		_ = cmd.Process.Signal(syscall.SIGQUIT) // its goroutines stand in its log then
		if !m.died(firstPatience) {
			m.kill()
		}
		return fmt.Errorf("%s did not end within %s:\n%s", m.name, patience, m.lastBytes(64<<10))
	}
	return m.howEnded()
}

// living says since when the present process is ready; false where it is not.
func (m *mortal) living() (time.Time, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.readyAt, m.ready
}

// revive starts the role as a supervisor would, until it is ready: while another role is away it may give up.
func (m *mortal) revive(ctx context.Context) error {
	for deadline := time.Now().Add(2 * startPatience); ; {
		err := m.start(ctx, "")
		if err == nil {
			if err = m.obey("run", ""); err == nil || !m.died(0) { // a busy machine may take long to hear
				return nil
			}
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%s does not start again: %w", m.name, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// freeAddr is a loopback address whose port is free now: a chain comes back where it was. It lies below what Linux hands out by
// itself and what `up` takes, or a connection of a network beside this one could have it a moment later.
func freeAddr() (string, error) {
	for {
		ln, err := net.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", 10_000+rand.IntN(10_000)))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("127.0.0.1:%d", ln.Addr().(*net.TCPAddr).Port), ln.Close()
	}
}

// crashTrace reads the traces: in how many lives of its role each point was met in each phase.
func crashTrace(l *crashLauncher) (map[crashPoint]int, error) {
	files, err := l.traces()
	if err != nil {
		return nil, err
	}
	met := map[crashPoint]int{}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(filepath.Base(path), ".trace")
		role := "join"
		if !strings.HasPrefix(name, "join-") {
			role = l.role(name).role
		}
		phase, life := "", map[crashPoint]bool{}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "!") {
				continue
			}
			if word, ok := strings.CutPrefix(line, "--"); ok {
				if phase = strings.TrimSpace(word); phase == "start" {
					clear(life)
				}
				continue
			}
			if p := (crashPoint{role, phase, line}); phase != "" && !life[p] {
				life[p] = true
				met[p]++
			}
		}
	}
	return met, nil
}

// crashPoint is one place where a role may die. Phase says when a process comes there: start, run or stop.
type crashPoint struct{ role, phase, name string }

func (p crashPoint) String() string { return p.role + " " + p.phase + " " + p.name }

// merged keeps one line per role and name, with the phase in which a life met the point most often; of two that are near
// each other, the running process is the one that has more to lose.
func merged(met map[crashPoint]int) []crashPoint {
	best := map[[2]string]crashPoint{}
	weight := func(p crashPoint) int {
		if p.phase == "run" {
			return 3 * met[p]
		}
		return met[p]
	}
	for p := range met {
		key := [2]string{p.role, p.name}
		if have, ok := best[key]; !ok || weight(p) > weight(have) || weight(p) == weight(have) && p.phase < have.phase {
			best[key] = p
		}
	}
	return slices.SortedFunc(maps.Values(best), func(a, b crashPoint) int { return strings.Compare(a.role+" "+a.name, b.role+" "+b.name) })
}
