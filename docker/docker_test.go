package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"basilica"
)

// engine gives the machine's engine; without one the test is skipped, and fails where CI brings one.
func engine(t testing.TB) *Engine {
	t.Helper()
	e, err := New(os.Getenv("DOCKER_HOST"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	if _, _, err := e.Available(t.Context()); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("no container engine (%v): run scripts/dockerd.sh start", err)
	}
	return e
}

// busybox reads the machine's static busybox; without one the test is skipped, and fails where CI brings one.
func busybox(t testing.TB) []byte {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("no busybox: apt-get install busybox-static")
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// saved makes a docker-save file with a static busybox, its config changed by change; it is an image of this test's own.
func saved(t testing.TB, tags []string, change func(config map[string]any)) []byte {
	t.Helper()
	program := busybox(t)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	put := func(h *tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	put(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	put(&tar.Header{Name: "bin/busybox", Mode: 0o755}, program)
	for _, own := range []string{"data/", "home/", "home/job/"} { // root's own, as in any image
		put(&tar.Header{Name: own, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	for _, a := range strings.Fields("sh cat id sleep echo dd ls ln mkdir mount df seq true tail test env wc yes kill stat grep cp chmod nslookup ip touch") {
		put(&tar.Header{Name: "bin/" + a, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(layer.Bytes())
	inner := map[string]any{"Env": []string{"PATH=/bin"}, "Labels": map[string]string{"basilica.test": t.Name()}}
	if change != nil {
		change(inner)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": inner,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal([]savedImage{{Config: "c.json", Layers: []string{"l.tar"}, RepoTags: tags}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w = tar.NewWriter(&out)
	put(&tar.Header{Name: "c.json", Mode: 0o644}, config)
	put(&tar.Header{Name: "l.tar", Mode: 0o644}, layer.Bytes())
	put(&tar.Header{Name: "manifest.json", Mode: 0o644}, manifest)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func load(t testing.TB, e *Engine, file []byte) string {
	t.Helper()
	id, err := e.LoadImage(t.Context(), bytes.NewReader(file), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.RemoveImage(context.Background(), id) })
	return id
}

// job runs a command in a stranger's container and gives its end and output.
func job(t *testing.T, e *Engine, image string, change func(*basilica.ContainerSpec), command ...string) (basilica.ContainerEnd, string, string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	if err := MountOutput(out, 1<<20); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := UnmountAll(out); err != nil {
			t.Error(err)
		}
	})
	spec := basilica.ContainerSpec{
		Name: fmt.Sprintf("basilica-test-%d-%d", os.Getpid(), time.Now().UnixNano()), Image: image, Command: command,
		Labels:    map[string]string{"basilica.test": t.Name()},
		CPUMillis: 1000, MemoryBytes: 64 << 20, Pids: 32, LogBytes: 1 << 20, Output: out, OutputBytes: 1 << 20,
	}
	if change != nil {
		change(&spec)
	}
	id, err := e.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Remove(context.Background(), id); err != nil {
			t.Error(err)
		}
	})
	follow, err := e.Logs(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	wait, err := e.Start(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := follow(func(_ basilica.LogStream, p []byte) error { text.Write(p); return nil }); err != nil {
		t.Fatal(err)
	}
	end, err := wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return end, text.String(), out
}

func TestStrangerHasNothing(t *testing.T) {
	t.Parallel()
	e := engine(t)
	image := load(t, e, saved(t, nil, nil))
	in := t.TempDir()
	if err := os.WriteFile(filepath.Join(in, "data"), []byte("input"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(in, 0o755); err != nil {
		t.Fatal(err)
	}
	script := `
id -u; id -g
grep -E '^(CapEff|CapBnd|CapPrm|NoNewPrivs|Seccomp):' /proc/self/status
cat /in/data; echo
for f in /x /bin/x /in/x /dev/x /proc/x /etc/x; do touch $f 2>/dev/null && echo "WROTE $f"; done
for f in /tmp/x /out/x $HOME/x $TMPDIR/y /dev/shm/x; do touch $f || echo "NOT $f"; done
cp /bin/busybox /tmp/true && /tmp/true || echo "NOT /tmp/true"
printf '#!/bin/sh\n' >/out/script && chmod 755 /out/script && /out/script 2>/dev/null && echo "RAN from /out"
mount -t tmpfs none /tmp 2>/dev/null && echo "MOUNTED"
ls /proc/sys/net/ipv4/conf 2>/dev/null | grep -v -E '^(all|default|lo)$'
ip addr 2>/dev/null | grep -c inet
cat /proc/1/comm
stat -c "mode %a" /tmp
df -k /tmp $HOME /dev/shm /out | tail -n +2 | while read fs size rest; do echo "size $size"; done
`
	end, text, _ := job(t, e, image, func(s *basilica.ContainerSpec) { s.Input = in }, "sh", "-c", script)
	if end.ExitCode != 0 {
		t.Errorf("exit code %d: %s", end.ExitCode, text)
	}
	id, _, _ := strings.Cut(text, "\n")
	if n, err := strconv.Atoi(id); err != nil || n < 0x70000000 && !(e.userns.Load() && id == mappedID) {
		t.Errorf("user %q", id)
	}
	for _, want := range []string{id + "\n" + id, "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "input\n", "docker-init", "mode 1777"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	for _, bad := range []string{"WROTE", "NOT", "RAN", "MOUNTED", "eth0"} {
		if strings.Contains(text, bad) {
			t.Errorf("%q in:\n%s", bad, text)
		}
	}
	var total int
	for line := range strings.Lines(text) {
		var kib int
		if n, _ := fmt.Sscanf(line, "size %d", &kib); n == 1 {
			total += kib << 10
		}
	}
	if total == 0 || total >= 32<<20 {
		t.Errorf("tmpfs hold %d bytes of %d memory", total, 64<<20)
	}
}

func TestOutputFillsUp(t *testing.T) {
	t.Parallel()
	e := engine(t)
	image := load(t, e, saved(t, nil, nil))
	end, text, out := job(t, e, image, nil, "sh", "-c", "dd if=/dev/zero of=/out/big bs=64k count=64; echo status $?; stat -c %s /out/big")
	if end.ExitCode != 0 || !strings.Contains(text, "No space left") || !strings.Contains(text, "status 1") {
		t.Errorf("exit %d: %s", end.ExitCode, text)
	}
	if st, err := os.Stat(filepath.Join(out, "big")); err != nil || st.Size() != 1<<20 {
		t.Errorf("output after the end: %v %v", st, err)
	}
	if full, err := OutputFull(out); err != nil || !full {
		t.Errorf("full: %v %v", full, err)
	}
	if err := os.Remove(filepath.Join(out, "big")); err != nil {
		t.Fatal(err)
	}
	if full, err := OutputFull(out); err != nil || full {
		t.Errorf("full without a file: %v %v", full, err)
	}
}

func TestImageVolumesAreMasked(t *testing.T) {
	t.Parallel()
	e := engine(t)
	before := volumes(t, e)
	image := load(t, e, saved(t, nil, func(c map[string]any) {
		c["Volumes"] = map[string]any{"/data": struct{}{}, "/cache/": struct{}{}, "/tmp": struct{}{}}
	}))
	end, text, _ := job(t, e, image, nil, "sh", "-c", "grep -E ' /(data|cache) ' /proc/mounts; touch /data/a /cache/a $HOME/a || exit 2; dd if=/dev/zero of=/data/x bs=64k count=64 2>/dev/null || echo full")
	if end.ExitCode != 0 || strings.Count(text, "tmpfs") < 2 || !strings.Contains(text, "full") {
		t.Errorf("exit %d: %s", end.ExitCode, text)
	}
	if after := volumes(t, e); !slices.Equal(before, after) {
		t.Errorf("volumes before %v, after %v", before, after)
	}
	for _, v := range []string{"/proc/x", "/", "relative", "/in/x", "/home", "/dev"} {
		if _, err := maskable([]string{v}); basilica.CodeOf(err) != "IMAGE_VOLUME" {
			t.Errorf("VOLUME %s: %v", v, err)
		}
	}
}

func volumes(t *testing.T, e *Engine) []string {
	t.Helper()
	res, err := e.api.VolumeList(t.Context(), client.VolumeListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, v := range res.Items {
		out = append(out, v.Name)
	}
	slices.Sort(out)
	return out
}

func TestMemoryKillIsWitnessed(t *testing.T) {
	t.Parallel()
	e := engine(t)
	image := load(t, e, saved(t, nil, nil))
	end, text, _ := job(t, e, image, nil, "sh", "-c", "tail /dev/zero")
	if !end.MemoryKilled || end.ExitCode == 0 {
		t.Errorf("memory kill: %+v %s", end, text)
	}
	// 137 alone proves nothing.
	end, text, _ = job(t, e, image, nil, "sh", "-c", "kill -9 $$")
	if end.MemoryKilled || end.ExitCode != 137 {
		t.Errorf("own kill: %+v %s", end, text)
	}
}

// A job that takes too much at once has often ended before the engine says where its cgroup was.
func TestCgroupIsWatchedFromItsBirth(t *testing.T) {
	t.Parallel()
	e := engine(t)
	image := load(t, e, saved(t, nil, nil))
	job(t, e, image, nil, "true") // makes the directory of all cgroups
	watched := 0
	for i := range 5 {
		id, err := e.Create(t.Context(), basilica.ContainerSpec{
			Name: fmt.Sprintf("basilica-test-birth-%d-%d", os.Getpid(), i), Image: image, Command: []string{"tail", "/dev/zero"},
			CPUMillis: 1000, MemoryBytes: 16 << 20, Pids: 32, LogBytes: 1 << 20,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Remove(context.Background(), id)
		born := e.awaitCgroup(id)
		_, err = e.api.ContainerStart(t.Context(), id, client.ContainerStartOptions{})
		w := born.end()
		if err != nil {
			t.Fatal(err)
		}
		if w == nil { // on a busy machine it has come and gone unseen
			continue
		}
		watched++
		exit := e.api.ContainerWait(t.Context(), id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
		select {
		case <-exit.Result:
		case err := <-exit.Error:
			t.Fatal(err)
		}
		if w.stop(); !w.killed(137) {
			t.Error("a kill was missed")
		}
	}
	if watched == 0 {
		t.Error("no cgroup was seen from its birth")
	}
}

// Version 2 enables the controller after it has made the directory.
func TestCgroupIsWatchedWhenItCanBe(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "docker-x.scope")
	b, err := watchBirth([]string{filepath.Join(parent, "absent"), parent}, "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(parent, "docker-y.scope"), 0o700), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	events := filepath.Join(dir, "memory.events")
	if err := os.WriteFile(events, []byte("oom 0\noom_kill 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	<-b.done // without being ended
	w := b.end()
	if w == nil {
		t.Fatal("nothing is watched")
	}
	if err := os.WriteFile(events, []byte("oom 2\noom_kill 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.stop()
	if w.count() != 2 {
		t.Errorf("%d kills", w.count())
	}
	if b, err = watchBirth([]string{parent}, "z"); err != nil || b.end() != nil {
		t.Errorf("what was not made is watched: %v", err)
	}
}

func TestMemoryCounterOfTheKernel(t *testing.T) {
	t.Parallel()
	e := engine(t)
	image := load(t, e, saved(t, nil, nil))
	id, err := e.Create(t.Context(), basilica.ContainerSpec{
		Name: fmt.Sprintf("basilica-test-oom-%d", os.Getpid()), Image: image, Command: []string{"sh", "-c", "tail /dev/zero; sleep 60"},
		CPUMillis: 1000, MemoryBytes: 32 << 20, Pids: 32, LogBytes: 1 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Remove(context.Background(), id)
	wait, err := e.Start(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	w := e.watchMemory(t.Context(), id)
	defer w.stop()
	deadline := time.Now().Add(20 * time.Second)
	for w.count() == 0 && time.Now().Before(deadline) {
		runtime.Gosched()
		select {
		case <-w.done:
			t.Fatal("the watch ended by itself")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if w.count() == 0 {
		t.Fatal("the kernel's counter told of no kill")
	}
	if err := e.Stop(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	end, err := wait(t.Context())
	if err != nil || !end.MemoryKilled {
		t.Errorf("%+v %v", end, err)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	e := engine(t)
	image := load(t, e, saved(t, nil, nil))
	end, text, _ := job(t, e, image, nil, "sh", "-c", "for i in $(seq 100); do sleep 5 & done 2>&1; exit 3")
	if end.ExitCode == 0 || !strings.Contains(text, "can't fork") {
		t.Errorf("pids: %+v %s", end, text)
	}
}

// TestNoByteIsLost: more output than the engine's own file keeps still arrives whole and in order.
func TestNoByteIsLost(t *testing.T) {
	t.Parallel()
	e := engine(t)
	image := load(t, e, saved(t, nil, nil))
	_, text, _ := job(t, e, image, func(s *basilica.ContainerSpec) { s.LogBytes = 4096 }, "sh", "-c", "seq 20000")
	want := 0
	for line := range strings.Lines(text) {
		if want++; line != fmt.Sprintf("%d\n", want) {
			t.Fatalf("line %d is %q", want, line)
		}
	}
	if want != 20000 {
		t.Errorf("%d lines", want)
	}
}

func TestSettings(t *testing.T) {
	mem := uint64(1)
	cfg, host, err := contained(basilica.ContainerSpec{
		Image: "x", Command: []string{"a", "b"}, Env: map[string]string{"HOME": "/x", "A": "1"}, CPUMillis: 1500, MemoryBytes: 1 << 30, Pids: 7, LogBytes: 99,
		GPUs: []basilica.GPU{{Kind: basilica.GPUWhole, UUID: "u1", MemoryBytes: &mem}, {Kind: basilica.GPUSoftware, UUID: "u2"}, {Kind: basilica.GPUMIG, UUID: "u3"}},
	}, nil, mappedID)
	if err != nil {
		t.Fatal(err)
	}
	if host.MemorySwap != host.Memory || host.NanoCPUs != 1_500_000_000 || *host.PidsLimit != 7 || host.NetworkMode != "none" || !host.ReadonlyRootfs || host.Privileged {
		t.Errorf("host settings %+v", host)
	}
	if len(host.DeviceRequests) != 1 || !slices.Equal(host.DeviceRequests[0].DeviceIDs, []string{"GPU-u1", "MIG-u3"}) {
		t.Errorf("devices %+v", host.DeviceRequests)
	}
	if !slices.Equal(cfg.Entrypoint, []string{"a"}) || !slices.Equal(cfg.Cmd, []string{"b"}) || !slices.Equal(cfg.Env[2:], []string{"A=1", "HOME=/x", "NVIDIA_VISIBLE_DEVICES=GPU-u1,MIG-u3"}) {
		t.Errorf("settings %+v", cfg)
	}
	// Neither a task nor an image names GPUs that the ledger did not give.
	env := environment(map[string]string{"NVIDIA_VISIBLE_DEVICES": "all"}, []basilica.GPU{{Kind: basilica.GPUSoftware, UUID: "u2"}})
	if !slices.Equal(env[2:], []string{"NVIDIA_VISIBLE_DEVICES=void"}) {
		t.Errorf("environment without a GPU: %v", env)
	}
	for name, spec := range map[string]basilica.ContainerSpec{
		"MEMORY_TOO_SMALL": {CPUMillis: 1, Pids: 1, LogBytes: 1, MemoryBytes: 1 << 20},
		"OUTPUT_TOO_LARGE": {CPUMillis: 1, Pids: 1, LogBytes: 1, MemoryBytes: 64 << 20, OutputBytes: 32 << 20},
		"CONTAINER_LIMITS": {MemoryBytes: 64 << 20},
	} {
		if _, _, err := contained(spec, nil, mappedID); basilica.CodeOf(err) != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, volumes := range []int{0, 1, maxVolumes} {
		for _, memory := range []int64{minMemory, 64 << 20, 1 << 30, 64 << 30} {
			p, err := planTmpfs(memory, memory/4, volumes)
			if sum := p.temp + p.home + p.shm + p.volume*int64(volumes) + memory/4; err != nil || sum >= memory/2 {
				t.Errorf("%d volumes, %d memory: tmpfs of %d (%v)", volumes, memory, sum, err)
			}
		}
	}
}

func TestWorkdirOfTheKernelIsRefused(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"/proc/self/fd/7", "//proc/1/root", "/x/../sys", "/dev", "proc/self/cwd"} {
		if err := workable(dir); basilica.CodeOf(err) != "IMAGE_WORKDIR" || basilica.FixOf(err) == "" {
			t.Errorf("%s: %v", dir, err)
		}
	}
	for _, dir := range []string{"", "/", "/app", "app", "/process", "/home/../device"} {
		if err := workable(dir); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
	}
	e := engine(t)
	image := load(t, e, saved(t, nil, func(c map[string]any) { c["WorkingDir"] = "/proc/self/fd/8" }))
	_, err := e.Create(t.Context(), basilica.ContainerSpec{Name: "basilica-test-never", Image: image, CPUMillis: 100, MemoryBytes: 32 << 20, Pids: 8, LogBytes: 1 << 20})
	if basilica.CodeOf(err) != "IMAGE_WORKDIR" {
		t.Error(err)
	}
}

func TestStartRefusal(t *testing.T) {
	t.Parallel()
	e := engine(t)
	image := load(t, e, saved(t, nil, nil))
	id, err := e.Create(t.Context(), basilica.ContainerSpec{Name: fmt.Sprintf("basilica-test-nothing-%d", os.Getpid()), Image: image, Command: []string{"/nothing"}, CPUMillis: 100, MemoryBytes: 32 << 20, Pids: 8, LogBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Remove(context.Background(), id)
	// With docker-init the container itself starts and its init says that there is no such program.
	wait, err := e.Start(t.Context(), id)
	if err == nil {
		end, werr := wait(t.Context())
		if werr != nil || end.ExitCode != 127 {
			t.Errorf("end %+v %v", end, werr)
		}
	} else if basilica.CodeOf(err) != "CONTAINER_START" {
		t.Error(err)
	}
}

func TestStopListRemove(t *testing.T) {
	t.Parallel()
	e := engine(t)
	image := load(t, e, saved(t, nil, nil))
	mark := fmt.Sprint(time.Now().UnixNano())
	id, err := e.Create(t.Context(), basilica.ContainerSpec{Name: "basilica-test-" + mark, Image: image, Command: []string{"sh", "-c", "echo up; sleep 100"}, Labels: map[string]string{"basilica.mark": mark}, CPUMillis: 100, MemoryBytes: 32 << 20, Pids: 8, LogBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Remove(context.Background(), id)
	follow, err := e.Logs(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	wait, err := e.Start(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	list, err := e.List(t.Context(), "basilica.mark", mark)
	if err != nil || len(list) != 1 || list[0].ID != id || !list[0].Running || list[0].Image != image {
		t.Errorf("list %+v %v", list, err)
	}
	var once sync.Once
	err = follow(func(s basilica.LogStream, p []byte) error {
		once.Do(func() {
			if err := e.Stop(t.Context(), id, 0); err != nil {
				t.Error(err)
			}
		})
		if s != basilica.Stdout || string(p) != "up\n" {
			t.Errorf("log %d %q", s, p)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	end, err := wait(t.Context())
	if err != nil || end.ExitCode != 137 || end.MemoryKilled {
		t.Errorf("end %+v %v", end, err)
	}
	for range 2 {
		if err := e.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
		if err := e.Stop(t.Context(), id, time.Second); err != nil {
			t.Error(err)
		}
	}
	if _, err := e.Inspect(t.Context(), id); basilica.KindOf(err) != basilica.NotFound {
		t.Errorf("inspect a removed one: %v", err)
	}
}

// TestAStartIsNotCut: an engine goes on with a start that nobody waits for, and a caller who gave up would not know of it.
func TestAStartIsNotCut(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	e := speaking(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/start"):
			cancel()
			time.Sleep(100 * time.Millisecond)
			w.WriteHeader(http.StatusNoContent)
		case strings.HasSuffix(r.URL.Path, "/wait"):
			fmt.Fprint(w, `{"StatusCode":3}`)
		case strings.HasSuffix(r.URL.Path, "/json"):
			fmt.Fprint(w, `{"Id":"c","State":{"ExitCode":3}}`)
		}
	})
	wait, err := e.Start(ctx, "c")
	if err != nil {
		t.Fatal(err)
	}
	if end, err := wait(t.Context()); err != nil || end.ExitCode != 3 {
		t.Errorf("%+v, %v", end, err)
	}
	if _, err := e.Start(ctx, "c"); !errors.Is(err, context.Canceled) {
		t.Errorf("a start for nobody: %v", err)
	}
}

func TestAbsentEngine(t *testing.T) {
	e, err := New("unix://"+filepath.Join(t.TempDir(), "none.sock"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.Available(t.Context()); basilica.CodeOf(err) != "DOCKER_ABSENT" || basilica.FixOf(err) == "" {
		t.Error(err)
	}
	if _, err := New("tcp://127.0.0.1:2375", nil); basilica.CodeOf(err) != "DOCKER_REMOTE" {
		t.Error(err)
	}
}

func TestUnmountAll(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	root := filepath.Join(t.TempDir(), "a b")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"x", "y"} {
		if err := MountOutput(filepath.Join(root, d), 1<<16); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := Mounted(root); err != nil || len(m) != 2 {
		t.Errorf("mounted %v %v", m, err)
	}
	if err := UnmountAll(root); err != nil {
		t.Error(err)
	}
	if m, err := Mounted(root); err != nil || len(m) != 0 {
		t.Errorf("mounted %v %v", m, err)
	}
}
