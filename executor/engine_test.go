package executor

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"basilica"
	"basilica/docker"
)

// privateEngine is a Docker engine of this test alone, which it may stop.
type privateEngine struct {
	dir string
	cmd *exec.Cmd
}

func (p *privateEngine) host() string { return "unix://" + filepath.Join(p.dir, "s") }

func (p *privateEngine) start(t testing.TB, live bool) {
	t.Helper()
	none := filepath.Join(p.dir, "daemon.json") // the machine's own settings are not this test's
	if err := os.WriteFile(none, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command("dockerd", "-H", p.host(), "--data-root", filepath.Join(p.dir, "data"), "--exec-root", filepath.Join(p.dir, "exec"), "-p", filepath.Join(p.dir, "pid"),
		"--config-file", none, "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--live-restore="+strconv.FormatBool(live))
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e, err := docker.New(p.host(), testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	waitFor(t, func() bool { _, _, err := e.Available(t.Context()); return err == nil })
}

func (p *privateEngine) stop(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("dockerd: %v", err)
	}
}

// Docker is restarted under running jobs. Where it keeps containers (live restore) the job goes on, its log without a gap;
// where it does not, it ended the job itself, and its exit code is nobody's.
func TestCaseA4_4EngineRestartsUnderAJob(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("dockerd"); err != nil || os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("no dockerd, or not root")
		}
		t.Skip("needs dockerd and root")
	}
	dir, err := os.MkdirTemp("/tmp", "bd") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := docker.UnmountAll(dir); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	p := &privateEngine{dir: dir}
	p.start(t, true)
	t.Cleanup(func() { p.stop(t) })
	engine, err := docker.New(p.host(), testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close() })
	b := openBox(t, t.TempDir(), "", func(c *Config) { c.Engine = engine })
	b.engine = engine
	if b.image, err = engine.LoadImage(t.Context(), bytes.NewReader(imageFile(t, busybox(t))), nil); err != nil {
		t.Fatal(err)
	}
	b.start(t)
	b.endsClean(t)
	// It talks until a file appears in /in, so that it outlives the restart.
	if _, err := b.execute("talks", b.spec(nil, "i=0; while [ ! -e /in/go ]; do echo $i; i=$((i+1)); /busybox usleep 10000; done; echo x > /out/x")); err != nil {
		t.Fatal(err)
	}
	b.runsNow(t, "talks")
	logged := func() int64 {
		n, err := b.cfg.Logs.Size("talks.1")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	waitFor(t, func() bool { return logged() > 50 })
	p.stop(t)
	before := logged()
	p.start(t, true)
	waitFor(t, func() bool { return logged() > before+50 })
	b.letGo(t, "talks")
	_, text, last := b.watch(t, "talks", 0)
	if last.State != basilica.TaskSucceeded || len(last.Outputs) != 1 {
		t.Errorf("talks: %s %+v %v", last.State, last.Reason, last.Outputs)
	}
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if line != strconv.Itoa(i) {
			t.Fatalf("the log has %q where %d should be", line, i)
		}
	}
	p.stop(t)
	p.start(t, false)
	if _, err := b.execute("dies", b.spec(nil, "trap 'exit 0' TERM; while true; do /busybox usleep 10000; done")); err != nil {
		t.Fatal(err)
	}
	b.runsNow(t, "dies")
	p.stop(t)
	p.start(t, false)
	if _, _, last = b.watch(t, "dies", 0); last.State != basilica.TaskLost || last.Reason.Code != "ENGINE_RESTARTED" || last.ExitCode != nil || last.Receipt == nil {
		t.Errorf("%s %+v", last.State, last.Reason)
	}
}
