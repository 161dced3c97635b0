package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"basilica"
)

// caseFile reads an input of a case of the field.
func caseFile(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "cases", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What the engine says of a container in the cases of the field, in our words.
func TestStateOfCases(t *testing.T) {
	var reboot struct {
		First  []container.InspectResponse `json:"inspect"`
		Second []container.InspectResponse `json:"second"`
		Third  []container.InspectResponse `json:"third"`
	}
	if err := json.Unmarshal(caseFile(t, "A4-2-reboot-exit0.json"), &reboot); err != nil {
		t.Fatal(err)
	}
	var child, stopped []container.InspectResponse
	for name, into := range map[string]*[]container.InspectResponse{"A4-1a-oom-exit0.json": &child, "A4-1b-137-not-oom.json": &stopped} {
		if err := json.Unmarshal(caseFile(t, name), into); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Date(2026, 1, 10, 9, 0, 1, 0, time.UTC)
	for name, c := range map[string]struct {
		in   []container.InspectResponse
		want basilica.ContainerState
	}{
		"reboot, code 0":        {reboot.First, basilica.ContainerState{Started: began, End: basilica.ContainerEnd{At: time.Date(2026, 1, 10, 9, 30, 12, 0, time.UTC)}}},
		"reboot, never started": {reboot.Second, basilica.ContainerState{}},
		"reboot, code 255":      {reboot.Third, basilica.ContainerState{Started: began, End: basilica.ContainerEnd{ExitCode: 255, At: time.Date(2026, 1, 10, 9, 30, 12, 0, time.UTC)}}},
		"child killed":          {child, basilica.ContainerState{Started: began, End: basilica.ContainerEnd{MemoryKilled: true, At: time.Date(2026, 1, 10, 9, 4, 11, 0, time.UTC)}}},
		"137":                   {stopped, basilica.ContainerState{Started: began, End: basilica.ContainerEnd{ExitCode: 137, At: time.Date(2026, 1, 10, 9, 4, 11, 0, time.UTC)}}},
	} {
		got, err := stateOf(c.in[0])
		if err != nil || got.Labels["basilica.attempt"] != "1" {
			t.Errorf("%s: %+v %v", name, got, err)
		}
		got.ID, got.Image, got.Labels = "", "", nil
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// The engine's flag is missing, the kernel's counter in the version 2 file says it.
func TestCaseA4_1cCounterWithoutTheFlag(t *testing.T) {
	var c struct {
		Events map[string]int `json:"memory.events_read_before_removal"`
	}
	if err := json.Unmarshal(caseFile(t, "A4-1c-137-oom-flag-missing.json"), &c); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(kills int) {
		var text strings.Builder
		for _, k := range []string{"low", "high", "max", "oom"} {
			fmt.Fprintf(&text, "%s %d\n", k, c.Events[k])
		}
		fmt.Fprintf(&text, "oom_kill %d\n", kills)
		if err := os.WriteFile(filepath.Join(dir, "memory.events"), []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(0)
	w := newMemoryWatch()
	if err := w.watchUnified(dir); err != nil {
		t.Fatal(err)
	}
	write(c.Events["oom_kill"])
	w.stop()
	if w.count() != 1 {
		t.Errorf("%d kills", w.count())
	}
}

// After a reload of the service manager the group allows the card no more; before it did.
func TestCaseA4_5LostDevicesAreFound(t *testing.T) {
	nodes := map[string]device{"/dev/nvidia0": {'c', 195, 0}, "/dev/nvidiactl": {'c', 195, 255}, "/dev/nvidia-uvm": {'c', 509, 0}}
	for name, want := range map[string][]string{
		"A4-5-DeviceAllow-before.conf":       nil,
		"A4-5-DeviceAllow-after-reload.conf": {"/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidiactl"},
	} {
		rules, err := deviceAllow(bytes.NewReader(caseFile(t, name)))
		if err != nil || len(rules) == 0 {
			t.Fatalf("%s: %v %v", name, rules, err)
		}
		if lost := forbidden(nodes, rules); !slices.Equal(lost, want) {
			t.Errorf("%s: lost %v, want %v", name, lost, want)
		}
	}
	for text, want := range map[string]int{"a *:* rwm\n": 0, "c 195:* rw\nc 509:0 rwm\n": 0, "c 195:0 rw\nc 195:255 r\nc 509:0 rw\n": 1, "b 195:* rw\n": 3, "c *:* m\n": 3} {
		rules, err := devicesList(strings.NewReader(text))
		if err != nil || len(forbidden(nodes, rules)) != want {
			t.Errorf("%q: %v %v, want %d", text, forbidden(nodes, rules), err, want)
		}
	}
	for _, bad := range []string{"c 195 rw\n", "c x:0 rw\n", "cc 1:1 rw\n"} {
		if _, err := devicesList(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is read as rules", bad)
		}
	}
}

// FuzzDeviceRules: whatever the kernel or the service manager writes, a rule names numbers that stand in it.
func FuzzDeviceRules(f *testing.F) {
	f.Add("c 195:0 rw\na *:* rwm\n")
	f.Add("DeviceAllow=char-* m\nDeviceAllow=/dev/char/1:3 rwm\nDeviceAllow=\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, read := range []func(io.Reader) ([]deviceRule, error){devicesList, deviceAllow} {
			rules, err := read(strings.NewReader(text))
			for _, r := range rules {
				name := "*"
				if r.major >= 0 {
					name = strconv.FormatInt(r.major, 10)
				}
				if err == nil && !strings.Contains(text, name) {
					t.Errorf("%q gives %+v", text, r)
				}
			}
		}
	})
}

// The real group of a real container loses a device.
func TestDeviceTakenFromARunningContainer(t *testing.T) {
	t.Parallel()
	e := engine(t)
	image := load(t, e, saved(t, nil, nil))
	id := create(t, e, image, "sleep", "60")
	if _, err := e.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if lost, err := e.lostDevices(t.Context(), id, "null"); err != nil || lost != nil {
		t.Fatalf("lost %v, %v", lost, err)
	}
	deny := filepath.Join("/sys/fs/cgroup/devices/docker", id, "devices.deny")
	if err := os.WriteFile(deny, []byte("c 1:3 rwm"), 0); err != nil {
		t.Skipf("no control groups of version 1 under cgroupfs: %v", err)
	}
	if lost, err := e.lostDevices(t.Context(), id, "null"); err != nil || !slices.Equal(lost, []string{"/dev/null"}) {
		t.Errorf("lost %v, %v", lost, err)
	}
	if pids, err := e.Leftover(id); err != nil || len(pids) == 0 {
		t.Errorf("processes of a running container: %v %v", pids, err)
	}
	if err := e.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if pids, err := e.Leftover(id); err != nil || len(pids) != 0 {
		t.Errorf("processes of a removed container: %v %v", pids, err)
	}
}

// A process that sleeps in the kernel stays its container's, one that is dead does not.
func TestCaseA4_6SleepingProcessIsLeft(t *testing.T) {
	const id = "cccccccccccc0000000000000000000000000000000000000000000000000000"
	proc := t.TempDir()
	for pid, p := range map[string][2]string{
		"900": {"D", "5:devices:/docker/" + id}, "901": {"Z", "0::/system.slice/docker-" + id + ".scope"}, "902": {"S", "0::/user.slice"},
	} {
		if err := os.Mkdir(filepath.Join(proc, pid), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"cgroup": p[1] + "\n", "stat": pid + " (a) b) " + p[0] + strings.Repeat(" 7", 40)} {
			if err := os.WriteFile(filepath.Join(proc, pid, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if pids, err := leftover(proc, id); err != nil || !slices.Equal(pids, []int{900}) {
		t.Errorf("left %v, %v", pids, err)
	}
}

func TestGPUDevicesByTheirMinor(t *testing.T) {
	proc, dev := t.TempDir(), t.TempDir()
	info := filepath.Join(proc, "driver/nvidia/gpus/0000:3b:00.0")
	if err := os.MkdirAll(info, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(info, "information"), []byte("Model: \t\t X\nDevice Minor: \t 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"nvidia0", "nvidia2", "nvidiactl"} {
		if err := os.WriteFile(filepath.Join(dev, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := gpuDevices(proc, dev, []basilica.GPU{{Kind: basilica.GPUWhole, PCI: "00000000:3B:00.0"}, {Kind: basilica.GPUSoftware, PCI: "0000:3b:00.0"}, {Kind: basilica.GPUWhole, PCI: "0000:5e:00.0"}})
	if len(got) != 2 || got[0].PathInContainer != "/dev/nvidia2" || got[1].PathInContainer != "/dev/nvidiactl" {
		t.Errorf("%+v", got)
	}
	if got := gpuDevices(proc, dev, []basilica.GPU{{Kind: basilica.GPUSoftware}}); got != nil {
		t.Errorf("a software device gets %+v", got)
	}
}

// create makes a container that the test's end removes.
func create(t testing.TB, e *Engine, image string, command ...string) string {
	t.Helper()
	id, err := e.Create(t.Context(), basilica.ContainerSpec{
		Name: fmt.Sprintf("basilica-test-%d", time.Now().UnixNano()), Image: image, Command: command,
		CPUMillis: 1000, MemoryBytes: 64 << 20, Pids: 32, LogBytes: 1 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Remove(context.Background(), id) })
	return id
}

// The log that the engine kept has every byte of both streams, whatever they are, with or without a last line feed.
func TestPastLogsHaveEveryByte(t *testing.T) {
	t.Parallel()
	e := engine(t)
	image := load(t, e, saved(t, nil, nil))
	id := create(t, e, image, "sh", "-c", `i=0; while [ $i -lt 300 ]; do echo "line $i"; i=$((i+1)); done; printf '\377\000\200 bytes\n' >&2; printf 'no end'`)
	wait, err := e.Start(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	read := func() map[basilica.LogStream]string {
		follow, err := e.PastLogs(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		got := map[basilica.LogStream]string{}
		if err := follow(func(s basilica.LogStream, b []byte) error { got[s] += string(b); return nil }); err != nil {
			t.Fatal(err)
		}
		return got
	}
	var want strings.Builder
	for i := range 300 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	want.WriteString("no end")
	if got := read(); !strings.HasPrefix(want.String(), got[basilica.Stdout]) { // the engine may stop following before the end
		t.Errorf("%q", got[basilica.Stdout])
	}
	end, err := wait(t.Context())
	if err != nil || end.ExitCode != 0 || end.At.IsZero() {
		t.Errorf("end %+v %v", end, err)
	}
	if got := read(); got[basilica.Stdout] != want.String() || got[basilica.Stderr] != "\xff\x00\x80 bytes\n" {
		t.Errorf("%q %q", got[basilica.Stdout], got[basilica.Stderr])
	}
	again, err := e.Await(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again(t.Context()); err != nil || got != end {
		t.Errorf("end %+v %v, seen again %+v", end, err, got)
	}
}

// An engine that answers and refuses every wait is asked a few times a second and no more, and its word on the end counts.
func TestRefusedWaitsAreNoLoop(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var waits atomic.Int32
	began := time.Now()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.44")
		switch {
		case strings.HasSuffix(r.URL.Path, "/wait"):
			waits.Add(1)
			w.WriteHeader(http.StatusInternalServerError)
		case strings.HasSuffix(r.URL.Path, "/json"):
			fmt.Fprintf(w, `{"Id":"c","State":{"Running":%t,"ExitCode":3}}`, time.Since(began) < 2*againEvery)
		}
	}))
	s.Listener.Close()
	s.Listener = ln
	s.Start()
	t.Cleanup(s.Close)
	e, err := New("unix://"+path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	wait, err := e.Await(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	if end, err := wait(t.Context()); err != nil || end.ExitCode != 3 || waits.Load() > 4 {
		t.Errorf("%+v %v after %d waits", end, err, waits.Load())
	}
}

// relay stands before the engine's socket, so that a test can cut the engine off or silence it.
type relay struct {
	path string
	to   string

	mu    sync.Mutex
	ln    net.Listener
	conns []net.Conn
	mute  bool
}

func newRelay(t testing.TB) *relay {
	t.Helper()
	dir, err := os.MkdirTemp("", "relay")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &relay{path: filepath.Join(dir, "s"), to: strings.TrimPrefix(DefaultHost, "unix://")}
	r.open(t)
	t.Cleanup(r.cut)
	return r
}

func (r *relay) open(t testing.TB) {
	t.Helper()
	ln, err := net.Listen("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.ln = ln
	r.mu.Unlock()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("unix", r.to)
			if err != nil {
				c.Close()
				continue
			}
			r.mu.Lock()
			r.conns = append(r.conns, c, up)
			r.mu.Unlock()
			go func() { io.Copy(up, c); up.Close() }()
			go func() { r.copyBack(c, up); c.Close() }()
		}
	}()
}

// copyBack passes the engine's words on, unless those of a wait are to be swallowed.
func (r *relay) copyBack(c, up net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := up.Read(buf)
		r.mu.Lock()
		mute := r.mute && bytes.Contains(buf[:n], []byte(`"StatusCode"`))
		r.mu.Unlock()
		if n > 0 && !mute {
			if _, werr := c.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ln.Close()
	for _, c := range r.conns {
		c.Close()
	}
	r.conns = nil
}

func (r *relay) silence() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mute = true
}

// The engine is away while one container ends by itself and another is removed by hand: both are told within seconds of its
// coming back. A stream that stays open and says nothing is found by asking.
func TestCaseA4_4EventGap(t *testing.T) {
	t.Parallel()
	direct := engine(t)
	if os.Getenv("DOCKER_HOST") != "" {
		t.Skip("the relay stands before the engine's usual socket")
	}
	image := load(t, direct, saved(t, nil, nil))
	r := newRelay(t)
	e, err := New("unix://"+r.path, direct.log)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	type told struct {
		end basilica.ContainerEnd
		err error
	}
	begin := func(command ...string) (string, chan told) {
		id := create(t, direct, image, command...)
		wait, err := e.Start(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan told, 1)
		go func() {
			end, err := wait(context.Background())
			done <- told{end, err}
		}()
		return id, done
	}
	a, doneA := begin("sh", "-c", "sleep 1; exit 3")
	b, doneB := begin("sleep", "60")
	r.cut()
	for {
		if st, err := direct.Inspect(t.Context(), a); err != nil {
			t.Fatal(err)
		} else if !st.Running {
			break
		}
	}
	if err := direct.Remove(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Inspect(t.Context(), a); basilica.CodeOf(err) != "DOCKER_ABSENT" {
		t.Errorf("the engine behind a cut relay: %v", err)
	}
	r.open(t)
	back := time.Now()
	if got := <-doneA; got.err != nil || got.end.ExitCode != 3 {
		t.Errorf("A: %+v %v", got.end, got.err)
	}
	if got := <-doneB; basilica.CodeOf(got.err) != "CONTAINER_GONE" {
		t.Errorf("B: %+v %v", got.end, got.err)
	}
	if took := time.Since(back); took > 10*againEvery {
		t.Errorf("told %s after the engine was back", took)
	}
	r.silence()
	e.lookEvery = 200 * time.Millisecond
	_, doneC := begin("sh", "-c", "exit 4")
	if got := <-doneC; got.err != nil || got.end.ExitCode != 4 {
		t.Errorf("C, on a silent stream: %+v %v", got.end, got.err)
	}
	p, err := direct.Process(t.Context())
	if err != nil || p.ID == "" || !strings.Contains(p.ID, ".") {
		t.Errorf("engine process %+v %v", p, err)
	}
	if again, err := direct.Process(t.Context()); err != nil || again != p {
		t.Errorf("the same engine is %+v and %+v, %v", p, again, err)
	}
}
