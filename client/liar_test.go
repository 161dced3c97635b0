package client

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basilica"
)

// liar is a shop that lies in one thing.
type liar struct {
	*shop
	submit func(*basilica.Task)
	task   func(*basilica.Task)
	watch  func(offset int64, f func(basilica.TaskEvent) error) error
	get    func(w io.Writer, content []byte) error
	offer  func(*basilica.Offer)
}

func (l *liar) Submit(ctx context.Context, sub basilica.Submission) (basilica.Task, error) {
	t, err := l.shop.Submit(ctx, sub)
	if l.submit != nil {
		l.submit(&t)
	}
	return t, err
}

func (l *liar) Task(ctx context.Context, caller basilica.Hotkey, id basilica.TaskID) (basilica.Task, error) {
	t, err := l.shop.Task(ctx, caller, id)
	if l.task != nil {
		l.task(&t)
	}
	return t, err
}

func (l *liar) WatchTask(ctx context.Context, caller basilica.Hotkey, id basilica.TaskID, offset int64, f func(basilica.TaskEvent) error) error {
	if l.watch != nil {
		return l.watch(offset, f)
	}
	return l.shop.WatchTask(ctx, caller, id, offset, f)
}

func (l *liar) GetBlob(ctx context.Context, caller basilica.Hotkey, sum basilica.Digest, offset int64, w io.Writer) error {
	if l.get != nil {
		return l.get(w, l.output)
	}
	return l.shop.GetBlob(ctx, caller, sum, offset, w)
}

func (l *liar) Offer(ctx context.Context) (basilica.Offer, error) {
	o, err := l.shop.Offer(ctx)
	if l.offer != nil {
		l.offer(&o)
	}
	return o, err
}

func chunk(offset int64, text string) basilica.TaskEvent {
	return basilica.TaskEvent{Task: "t-1", Attempt: 1, State: basilica.TaskRunning, Log: &basilica.LogChunk{Offset: offset, Stream: basilica.Stdout, Data: []byte(text)}}
}

// TestLyingMiner: each lie is refused under its own code, nothing is written for it outside the output directory, and no
// receipt is saved.
func TestLyingMiner(t *testing.T) {
	named := func(names ...string) func(*basilica.Task) {
		return func(task *basilica.Task) {
			file := task.Outputs[0]
			task.Outputs = nil
			for _, n := range names {
				file.Name = n
				task.Outputs = append(task.Outputs, file)
			}
		}
	}
	say := func(events ...basilica.TaskEvent) func(int64, func(basilica.TaskEvent) error) error {
		return func(_ int64, f func(basilica.TaskEvent) error) error {
			for _, e := range events {
				if err := f(e); err != nil {
					return err
				}
			}
			return f(basilica.TaskEvent{Task: "t-1", Attempt: 1, State: basilica.TaskSucceeded})
		}
	}
	foreign := chunk(0, "lo")
	foreign.Task = "t-2"
	third := chunk(0, "lo")
	third.Log.Stream = 3
	for name, tc := range map[string]struct {
		lie  liar
		code string
	}{
		"none":                         {liar{}, ""},
		"id of a terminal's code":      {liar{submit: func(t *basilica.Task) { t.ID = "t-\x1b[2J" }}, "TASK_OTHER"},
		"task of another client":       {liar{submit: func(t *basilica.Task) { t.Client = "5other" }}, "TASK_OTHER"},
		"task of another description":  {liar{submit: func(t *basilica.Task) { t.SpecDigest[0] ^= 1 }}, "TASK_OTHER"},
		"end of another task":          {liar{task: func(t *basilica.Task) { t.ID = "t-2" }}, "TASK_OTHER"},
		"event of another task":        {liar{watch: say(foreign)}, "TASK_OTHER"},
		"log with a gap":               {liar{watch: say(chunk(1, "og"))}, "LOG_GAP"},
		"log that goes back":           {liar{watch: say(chunk(0, "lo"), chunk(1, "og"))}, "LOG_BACK"},
		"log before its start":         {liar{watch: say(chunk(-1, "log"))}, "LOG_BACK"},
		"log of a third stream":        {liar{watch: say(third)}, "LOG_STREAM"},
		"log cut short":                {liar{watch: say(chunk(0, "l"))}, "RECEIPT_LOG"},
		"log with another word":        {liar{watch: say(chunk(0, "l"), basilica.TaskEvent{Task: "t-1", Log: &basilica.LogChunk{Offset: 1, Stream: basilica.Stderr, Data: []byte("OG")}})}, "RECEIPT_LOG"},
		"endless log":                  {liar{watch: endless}, "LOG_SIZE"},
		"log that began after its end": {liar{task: func(t *basilica.Task) { t.LogStart = t.LogBytes + 1 }}, "TASK_OTHER"},
		"output above its root":        {liar{task: named("../d/result")}, "FILE_NAME"},
		"output at the root of all":    {liar{task: named("/etc/passwd")}, "FILE_NAME"},
		"outputs that differ by case":  {liar{task: named("d/result", "D/Result")}, "FILE_TWICE"},
		"output within an output":      {liar{task: named("d/result", "d/result/x")}, "FILE_TWICE"},
		"output of another name":       {liar{task: named("d/other")}, "RECEIPT_OUTPUTS"},
		"no receipt":                   {liar{task: func(t *basilica.Task) { t.Receipt = nil }}, "RECEIPT_MISSING"},
		"receipt with another exit":    {liar{task: func(t *basilica.Task) { n := 1; t.ExitCode, t.State = &n, basilica.TaskFailed }}, "RECEIPT_STATE"},
		"other output":                 {liar{get: func(w io.Writer, b []byte) error { _, err := w.Write(bytes.ToUpper(b)); return err }}, "BLOB_MISMATCH"},
		"output cut short":             {liar{get: func(w io.Writer, b []byte) error { _, err := w.Write(b[1:]); return err }}, "BLOB_MISMATCH"},
		"output too long":              {liar{get: func(w io.Writer, b []byte) error { _, err := w.Write(append(bytes.Clone(b), 'x')); return err }}, "BLOB_SIZE"},
		"offer as another":             {liar{offer: func(o *basilica.Offer) { o.Miner = "5other" }}, "NO_MINER_READY"},
	} {
		t.Run(name, func(t *testing.T) {
			lie := tc.lie
			lie.shop = newShop(t, "5me", []byte("log"), []byte("some output"))
			index, err := OpenIndex(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			neuron := basilica.Neuron{Hotkey: basilica.Hotkey(lie.hotkey.SS58()), Axon: basilica.Axon{Addr: netip.MustParseAddrPort("127.0.0.2:1")}}
			c := New(Config{
				Chain: graph{Neurons: []basilica.Neuron{neuron}}, Hotkey: "5me", Index: index, Log: slog.New(slog.DiscardHandler), Now: time.Now,
				Dial: func(basilica.Neuron) (basilica.Miner, error) { return &lie, nil },
			})
			above := t.TempDir()
			dir := filepath.Join(above, "out")
			r, err := c.Run(t.Context(), Request{Spec: basilica.TaskSpec{Image: "i"}, Results: Results{OutputDir: dir}}, io.Discard, io.Discard)
			if basilica.CodeOf(err) != tc.code {
				t.Fatalf("%v, want %q", err, tc.code)
			}
			if err == nil {
				return
			}
			want := ExitFailure
			if tc.code == "NO_MINER_READY" {
				want = ExitNotBegun
			}
			if basilica.FixOf(err) == "" || ExitCodeOf(err) != want || r.Receipt != nil || r.ReceiptPath != "" {
				t.Errorf("fix %q, exit %d, receipt %v at %q", basilica.FixOf(err), ExitCodeOf(err), r.Receipt, r.ReceiptPath)
			}
			if err := filepath.WalkDir(above, func(path string, e os.DirEntry, err error) error {
				if err == nil && !e.IsDir() {
					t.Errorf("wrote %s", path)
				}
				return err
			}); err != nil {
				t.Error(err)
			}
		})
	}
}

func endless(_ int64, f func(basilica.TaskEvent) error) error {
	text := strings.Repeat("x", 1<<20)
	for at := int64(0); ; at += int64(len(text)) {
		if err := f(chunk(at, text)); err != nil {
			return err
		}
	}
}

// TestLoginIsSealedToEndorsedKeys: the executor's key alone opens it, and a miner that shows another's key gets nothing.
func TestLoginIsSealedToEndorsedKeys(t *testing.T) {
	s := newShop(t, "5me", nil, nil)
	offer, err := s.Offer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	miner := basilica.Hotkey(s.hotkey.SS58())
	login := basilica.RegistryLogin{Server: "registry.example.org:5000", Username: "u", Password: "correct horse"}
	spec := &basilica.TaskSpec{Image: "registry.example.org:5000/app@sha256:00"}
	auth, err := sealTo(login, miner, offer.Executors, spec)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := s.machine.Unseal(basilica.RegistryInfo, auth.Sealed["box"])
	if err != nil || !strings.Contains(string(opened), `"correct horse"`) {
		t.Fatalf("%q, %v", opened, err)
	}
	if bytes.Contains(auth.Sealed["box"], []byte("horse")) {
		t.Error("the login stands in clear")
	}
	elsewhere := *spec
	elsewhere.Image = "registry.example.net/app@sha256:00"
	renamed := offer.Executors[0]
	renamed.Executor = "other"
	small := *spec
	small.GPUs = 9
	for code, try := range map[string]func() error{
		"REGISTRY_HOST":     func() error { _, err := sealTo(login, miner, offer.Executors, &elsewhere); return err },
		"ENDORSEMENT_OTHER": func() error { _, err := sealTo(login, "5another", offer.Executors, spec); return err },
		"NO_MINER_READY":    func() error { _, err := sealTo(login, miner, offer.Executors, &small); return err },
		"PAYLOAD_JSON": func() error {
			_, err := sealTo(login, miner, []basilica.OfferedBox{{Executor: "box", TaskMemoryBytes: 1}}, spec)
			return err
		},
	} {
		if err := try(); basilica.CodeOf(err) != code {
			t.Errorf("%v, want %s", err, code)
		}
	}
	if _, err := sealTo(login, miner, []basilica.OfferedBox{renamed}, spec); basilica.CodeOf(err) != "ENDORSEMENT_OTHER" {
		t.Errorf("an endorsement of another machine: %v", err)
	}
}

func TestRegistryConfig(t *testing.T) {
	for name, tc := range map[string]struct{ text, server, user, password, code string }{
		"auth":       {`{"auths":{"r.example:5000":{"auth":"dTpwOnE="}}}`, "r.example:5000", "u", "p:q", ""},
		"docker hub": {`{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}}}`, "docker.io", "u", "p", ""},
		"in clear":   {`{"auths":{"r.example":{"username":"u","password":"p"}}}`, "r.example", "u", "p", ""},
		"other host": {`{"auths":{"r.example":{"auth":"dTpw"}}}`, "r.example.org", "", "", "REGISTRY_CONFIG"},
		"helper":     {`{"auths":{"r.example":{}},"credsStore":"desktop"}`, "r.example", "", "", "REGISTRY_CONFIG"},
		"not base64": {`{"auths":{"r.example":{"auth":"%%"}}}`, "r.example", "", "", "REGISTRY_CONFIG"},
		"not JSON":   {`secret`, "r.example", "", "", "REGISTRY_CONFIG"},
	} {
		login, err := parseRegistryConfig([]byte(tc.text), "config.json", tc.server)
		if basilica.CodeOf(err) != tc.code || login.Username != tc.user || login.Password != tc.password {
			t.Errorf("%s: %+v %v", name, login.Username, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error quotes the file", name)
		}
	}
}

func FuzzRegistryConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"r":{"auth":"dTpw"}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if l, err := parseRegistryConfig(text, "x", "r"); err == nil && CheckLogin(l) != nil {
			t.Fatalf("gave a login of %q", l.Username)
		}
	})
}
