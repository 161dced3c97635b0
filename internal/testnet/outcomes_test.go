package testnet

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"basilica"
	"basilica/client"
	"basilica/docker"
	"basilica/keys"
	"basilica/node"
)

// engineProxy stands between an executor and its engine, and can be cut.
type engineProxy struct {
	path string

	mu    sync.Mutex // guards what follows
	ln    net.Listener
	conns map[net.Conn]bool
}

func newEngineProxy(path string) (*engineProxy, error) {
	p := &engineProxy{path: path, conns: map[net.Conn]bool{}}
	return p, p.restore()
}

// cut ends every connection and answers no more.
func (p *engineProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ln != nil {
		p.ln.Close() // takes the socket with it
		p.ln = nil
	}
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

// restore answers again.
func (p *engineProxy) restore() error {
	ln, err := net.Listen("unix", p.path)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ln = ln
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return nil
}

func (p *engineProxy) serve(c net.Conn) {
	e, err := net.Dial("unix", strings.TrimPrefix(docker.DefaultHost, "unix://"))
	if err != nil {
		c.Close()
		return
	}
	p.mu.Lock()
	if p.ln == nil {
		p.mu.Unlock()
		c.Close()
		e.Close()
		return
	}
	p.conns[c], p.conns[e] = true, true
	p.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{c, e}, {e, c}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1]) // a cut connection ends it
			_ = way[0].(*net.UnixConn).CloseWrite()
		})
	}
	both.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range []net.Conn{c, e} {
		conn.Close()
		delete(p.conns, conn)
	}
}

// outcome is one submitted job.
type outcome struct {
	result   client.Result
	err      error
	out, log bytes.Buffer
}

// lines is a log that says when its first byte has come.
type lines struct {
	w     io.Writer
	once  sync.Once
	first chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.once.Do(func() { close(l.first) })
	return l.w.Write(p)
}

// outcomes is a network whose surroundings fail.
type outcomes struct {
	t       *testing.T
	network *node.Network
	launch  *crashLauncher
	client  *node.Client
	audit   *crashAudit
	jobs    int
	proxy   *engineProxy
}

// counting is a job's script that says 1 to n, one line every 200 ms, and what it must print.
func counting(n int) (script, want string) {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "%d\n", i+1)
	}
	return fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); echo $i; usleep 200000; done", n), text.String()
}

// submit runs a job beside the test; first closes with the first byte of its log, done when it has ended.
func (o *outcomes) submit(ctx context.Context, gpus int, script string) (job *outcome, first, done chan struct{}) {
	o.jobs++
	job, done = &outcome{}, make(chan struct{})
	out := &lines{w: &job.out, first: make(chan struct{})}
	request := client.Request{
		Spec: basilica.TaskSpec{
			Image: o.network.Image(), Command: []string{o.network.Program(), "sh", "-c", script}, GPUs: gpus, AllowSoftware: true,
			MemoryBytes: 64 << 20, CPUMillis: 500, TimeoutSeconds: 120,
		},
		IdempotencyKey: fmt.Sprintf("outcome-%d", o.jobs),
	}
	go func() {
		defer close(done)
		for deadline := time.Now().Add(time.Minute); ; { // a machine that has just come back is not offered at once
			job.result, job.err = o.client.Run(ctx, request, out, &job.log)
			if job.err == nil || job.result.Task.ID != "" || time.Now().After(deadline) || rest(ctx, 200*time.Millisecond) != nil {
				return
			}
		}
	}()
	return job, out.first, done
}

// await waits for a moment of a job.
func (o *outcomes) await(what string, moment <-chan struct{}) {
	o.t.Helper()
	select {
	case <-moment:
	case <-time.After(90 * time.Second):
		for path, text := range map[string]string{
			"miner/miner.sqlite":    `SELECT id || ' ' || state || ' ' || executor || ' ' || attempt || ' ' || reason FROM tasks WHERE ended = 0`,
			"box-1/executor.sqlite": `SELECT kind || ' ' || holder || ' ' || gpus FROM holdings`,
		} {
			rows, err := queryStrings(context.Background(), filepath.Join(o.network.Dir(), path), text)
			o.t.Logf("%s: %v %v", path, rows, err)
		}
		o.t.Fatalf("%s did not come", what)
	}
}

// whole refuses a job that did not end as if nothing had happened, or that ran twice.
func (o *outcomes) whole(job *outcome, want string) {
	o.t.Helper()
	task := job.result.Task
	if job.err != nil || task.State != basilica.TaskSucceeded || job.result.Receipt == nil {
		o.t.Errorf("the job ended as %s, %+v, receipt %v: %v", task.State, task.Reason, job.result.Receipt != nil, job.err)
	}
	if job.out.String() != want {
		o.t.Errorf("its log is %q, want %q", job.out.String(), want)
	}
	for _, twice := range o.audit.doubled(map[basilica.TaskID]*crashJob{task.ID: {key: "job"}}) {
		o.t.Error(twice)
	}
}

// until polls a condition.
func (o *outcomes) until(what string, patience time.Duration, done func() bool) {
	o.t.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			o.t.Fatalf("%s: not within %s", what, patience)
		}
		_ = rest(o.t.Context(), 50*time.Millisecond) // the deadline ends it
	}
}

// health is the code that a part gives for not being well; empty where it is.
func (o *outcomes) health(part, door string) string {
	resp, err := o.audit.http.Get("http://" + o.launch.role(part).Addrs()[door] + "/health")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusOK {
		return ""
	}
	return string(body)
}

// newOutcomes starts a network whose first machine has a cuttable engine, and whose second machine and miner have small
// disks.
func newOutcomes(t *testing.T) *outcomes {
	t.Helper()
	dir := t.TempDir()
	traces, data := filepath.Join(dir, "crash"), filepath.Join(dir, "net")
	for _, d := range []string{traces, data} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, small := range []string{"miner", "box-2"} {
		at := filepath.Join(data, small)
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("basilica-small", at, "tmpfs", 0, "size=64m,mode=0700"); errors.Is(err, unix.EPERM) {
			t.Skip("a small disk needs the right to mount")
		} else if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) }) // gone with the network's directory
	}
	proxy, err := newEngineProxy(filepath.Join(dir, "engine.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.cut)
	rpc, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	o := &outcomes{t: t, proxy: proxy, launch: newCrashLauncher(program(programName), traces)}
	o.launch.change = func(name string, c *node.Config) {
		switch name {
		case "box-1":
			c.Executor.DockerHost = "unix://" + proxy.path
		case "box-2":
			c.Executor.MinFreeDisk = 4 << 20
		}
	}
	o.network, err = node.NewNetwork(t.Context(), node.UpConfig{
		DataDir: data, RPC: rpc, Attestor: program(attestorName), Executable: program(programName), Launcher: o.launch,
	}, node.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.network.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := o.network.Start(); err != nil {
		t.Fatal(err)
	}
	if o.audit, err = newCrashAudit(data, o.launch); err != nil {
		t.Fatal(err)
	}
	if err := o.audit.events(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.client, err = node.NewClient(node.ChainConfig{URL: "ws://" + rpc, NetUID: 39, AllowPrivate: true},
		node.ClientConfig{Hotkey: "//Dave//client", DataDir: filepath.Join(data, "client")}, node.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.client.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// TestOutcomes: what docs/contributor.md says of each failure around the roles is what happens.
func TestOutcomes(t *testing.T) {
	needEngine(t)
	t.Parallel()
	o := newOutcomes(t)
	for _, c := range []struct {
		name string
		f    func(*outcomes)
	}{{"chain away", chainAway}, {"engine away", engineAway}, {"database locked", databaseLocked}, {"disk full", diskFull}} {
		t.Run(c.name, func(t *testing.T) {
			o.t = t
			c.f(o)
		})
	}
	o.t = t
	if err := o.audit.settled(t.Context(), 30*time.Second); err != nil {
		t.Error(err)
	}
}

// chainAway: the node answers nobody. What runs goes on to its receipt; when the node is back, validators weigh again.
func chainAway(o *outcomes) {
	weighed := func() basilica.BlockNumber {
		var sets []basilica.WeightSet
		if err := o.audit.ask(o.t.Context(), "http://"+o.launch.role("validator").Addrs()["api"]+"/api/v1/weights?limit=10", &sets); err != nil {
			return 0
		}
		for _, set := range sets {
			if set.Submitted != nil {
				return set.Submitted.Block
			}
		}
		return 0
	}
	o.until("first weights", 120*time.Second, func() bool { return weighed() > 0 })
	script, want := counting(15)
	job, first, done := o.submit(o.t.Context(), 1, script)
	o.await("the job's first line", first)
	node := o.launch.role("localnet")
	if err := syscall.Kill(node.PID(), syscall.SIGSTOP); err != nil {
		o.t.Fatal(err)
	}
	o.await("the job's end while the chain is away", done)
	_ = rest(o.t.Context(), away(2*time.Second))
	before := weighed()
	if err := syscall.Kill(node.PID(), syscall.SIGCONT); err != nil {
		o.t.Fatal(err)
	}
	o.whole(job, want)
	o.until("weights after the chain came back", 120*time.Second, func() bool { return weighed() > before })
	for _, part := range [][2]string{{"miner", "status"}, {"validator", "api"}} {
		o.until(part[0]+" is well again", 30*time.Second, func() bool { return o.health(part[0], part[1]) == "" })
	}
}

// away is how long something stays away: OUTCOME_AWAY, where that is longer.
func away(least time.Duration) time.Duration {
	d, err := time.ParseDuration(os.Getenv("OUTCOME_AWAY"))
	if err != nil {
		return least
	}
	return max(d, least)
}

// engineAway: the engine does not answer while a container runs. The job goes on, its end is witnessed when the engine is
// back, once, with all of its log; meanwhile the machine says so.
func engineAway(o *outcomes) {
	script, want := counting(15)
	job, first, done := o.submit(o.t.Context(), 2, script) // the first machine alone has two
	o.await("the job's first line", first)
	o.proxy.cut()
	o.until("the machine says that its engine is away", 30*time.Second, func() bool { return strings.Contains(o.health("box-1", "status"), "DOCKER_ABSENT") })
	_ = rest(o.t.Context(), away(2*time.Second))
	if err := o.proxy.restore(); err != nil {
		o.t.Fatal(err)
	}
	o.await("the job's end", done)
	o.whole(job, want)
	o.until("the machine is well again", 30*time.Second, func() bool { return o.health("box-1", "status") == "" })
}

// databaseLocked: another program holds the databases' write locks for longer than a statement waits. Calls fail with
// DATABASE_LOCKED meanwhile and are repeated; the job ends once.
func databaseLocked(o *outcomes) {
	script, want := counting(20)
	job, first, done := o.submit(o.t.Context(), 2, script)
	o.await("the job's first line", first)
	var release []func() error
	for _, path := range []string{"box-1/executor.sqlite", "miner/miner.sqlite"} {
		give, err := lockDatabase(o.t.Context(), filepath.Join(o.network.Dir(), path))
		if err != nil {
			o.t.Fatal(err)
		}
		release = append(release, give)
	}
	_ = rest(o.t.Context(), away(6*time.Second))
	for _, give := range release {
		if err := give(); err != nil {
			o.t.Fatal(err)
		}
	}
	o.await("the job's end", done)
	o.whole(job, want)
}

// lockDatabase takes the write lock of a database from this process.
func lockDatabase(ctx context.Context, path string) (release func() error, err error) {
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path}).String()+"?_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return func() error { return errors.Join(tx.Rollback(), db.Close()) }, nil
}

// diskFull: nothing more can be written at the second machine, then at the miner. The machine takes no more work, which goes
// elsewhere. The miner takes nothing that it cannot record; its client asks again until there is room.
func diskFull(o *outcomes) {
	box := fill(o.t, filepath.Join(o.network.Dir(), "box-2"))
	o.until("the machine says that its disk is full", 30*time.Second, func() bool { return strings.Contains(o.health("box-2", "status"), "DISK_FULL") })
	job, _, done := o.submit(o.t.Context(), 1, "echo elsewhere")
	o.await("the job's end on another machine", done)
	o.whole(job, "elsewhere\n")
	if job.result.Task.Executor != "box-1" {
		o.t.Errorf("the job ran on %s", job.result.Task.Executor)
	}
	box()
	o.until("the machine is well again", 30*time.Second, func() bool { return o.health("box-2", "status") == "" })

	empty := fill(o.t, filepath.Join(o.network.Dir(), "miner"))
	defer empty()
	script, want := counting(5)
	job, _, done = o.submit(o.t.Context(), 1, script)
	o.until("the miner's log says that its disk is full", 30*time.Second, func() bool {
		text, err := os.ReadFile(o.launch.role("miner").log)
		return err == nil && bytes.Contains(text, []byte("DISK_FULL"))
	})
	_ = rest(o.t.Context(), away(time.Second))
	empty()
	o.await("the job's end", done)
	o.whole(job, want)
}

// fill leaves no byte on the disk of a directory; what it gives makes room again.
func fill(t *testing.T, dir string) func() {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 1<<20)
	for size := len(chunk); size > 0; {
		if _, err := f.Write(chunk[:size]); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
}

// stepped runs every part in this process, each by a clock of its own.
type stepped struct {
	InProcess
	clocks map[string]*atomic.Int64 // nanoseconds ahead, by name of the part
}

func (s stepped) now(name string) func() time.Time {
	ahead := s.clocks[name]
	if ahead == nil {
		return s.Now
	}
	return func() time.Time { return s.Now().Add(time.Duration(ahead.Load())) }
}

// Start implements node.Launcher.
func (s stepped) Start(ctx context.Context, role, name, config, log string) (node.Part, error) {
	return InProcess{Log: s.Log, Now: s.now(name)}.Start(ctx, role, name, config, log)
}

// TestClockSteps: a clock that jumps by ten minutes under a running job ends nothing; new work waits and says by how many
// seconds the clocks differ; nobody is called a liar for it.
func TestClockSteps(t *testing.T) {
	needEngine(t)
	t.Parallel()
	dir := t.TempDir()
	clocks := map[string]*atomic.Int64{"box-1": {}, "miner": {}, "validator": {}}
	launch := stepped{InProcess{Log: slog.New(slog.DiscardHandler), Now: time.Now}, clocks}
	deps := node.Deps{Log: launch.Log, Now: time.Now}
	network, err := node.NewNetwork(t.Context(), node.UpConfig{
		DataDir: dir, RPC: "127.0.0.1:0", Attestor: program(attestorName), Executable: program(programName), Launcher: launch,
	}, deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := network.Start(); err != nil {
		t.Fatal(err)
	}
	cfg := node.DefaultConfig()
	if err := node.LoadConfig(filepath.Join(dir, "client.toml"), nil, &cfg); err != nil {
		t.Fatal(err)
	}
	c, err := node.NewClient(cfg.Chain, cfg.Client, deps)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	miner, err := node.MinerAdmin(node.MinerConfig{DataDir: filepath.Join(dir, "miner")})
	if err != nil {
		t.Fatal(err)
	}
	o := &outcomes{t: t, network: network, client: c}
	for _, step := range []struct {
		part string
		by   time.Duration
	}{{"box-1", 10 * time.Minute}, {"box-1", -10 * time.Minute}, {"miner", 10 * time.Minute}, {"miner", -10 * time.Minute}, {"validator", 10 * time.Minute}} {
		script, want := counting(8)
		job, first, done := o.submit(t.Context(), 2, script)
		o.await("the job's first line", first)
		clocks[step.part].Store(int64(step.by))
		if step.part == "box-1" {
			o.until("the fleet's list names the clock", 20*time.Second, func() bool {
				m, err := miner.Member(t.Context(), "box-1")
				return err == nil && m.Why != nil && m.Why.Code == "EXECUTOR_CLOCK" && m.Why.Fix != "" && strings.Contains(m.Why.Sentence, " s ")
			})
		}
		if step.part == "miner" {
			said := clockRefusal(t, c)
			var offset float64 // the client's clock less the miner's; the request was a while on its way
			if _, rest, found := strings.Cut(said.Error(), "(offset "); found {
				_, err = fmt.Sscanf(rest, "%f s)", &offset)
			}
			if off := offset + step.by.Seconds(); err != nil || math.Abs(off) > 10 || basilica.FixOf(said) == "" {
				t.Errorf("the miner's clock is off by %s, and its door says %v", step.by, said)
			}
		}
		clocks[step.part].Store(0)
		o.await("the job's end", done)
		if task := job.result.Task; job.err != nil || task.State != basilica.TaskSucceeded || job.out.String() != want {
			t.Errorf("%s of the %s's clock: the job ended as %s, %+v, with log %q: %v", step.by, step.part, task.State, task.Reason, job.out.String(), job.err)
		} else if r := job.result.Receipt; r.Ended.Before(r.Started) {
			t.Errorf("%s of the %s's clock: the receipt's end %s is before its start %s", step.by, step.part, r.Ended, r.Started)
		}
		o.until("the machine is ready again", 20*time.Second, func() bool {
			m, err := miner.Member(t.Context(), "box-1")
			return err == nil && m.Ready
		})
	}
}

// clockRefusal is what the network's miner answers to a signed request now.
func clockRefusal(t *testing.T, c *node.Client) error {
	t.Helper()
	pair, err := keys.FromURI(keys.Sr25519, "//Bob//miner")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Cancel(t.Context(), "t-nobody", basilica.Hotkey(pair.SS58()))
	if err == nil {
		t.Fatal("a task of nobody was cancelled")
	}
	return err
}
