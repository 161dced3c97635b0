package testnet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"basilica"
	"basilica/client"
	"basilica/keys"
	"basilica/node"
)

// crashJob is one job of the crash test and everything that is known of what must come of it.
type crashJob struct {
	key    string
	kind   string
	spec   basilica.TaskSpec
	input  []byte
	out    string // exactly what it says
	err    string
	exit   int
	output string            // content of /out/result; empty: no output
	task   basilica.TaskID   // once it is known
	result client.Result     // once it has ended
	leave  time.Duration     // after which its client cancels it; zero: never
	miner  basilica.Hotkey   // which its client names; empty: the client chooses
	code   string            // with which it must fail without having run; empty: it must run
	faults map[string]string // what was wrong, by what
}

// crashJobs submits jobs without end, each under an idempotency key of its own, and compares what comes with what must.
type crashJobs struct {
	dir            string
	image, program string
	miner          basilica.Hotkey
	clients        []*node.Client

	mu     sync.Mutex // guards what follows
	next   int
	open   map[string]*crashJob
	ended  []*crashJob
	tasks  map[basilica.TaskID]*crashJob
	faults []string
	closed bool
	change chan struct{}
}

func newCrashJobs(network *node.Network, chain string, workers int) (*crashJobs, error) {
	miner, err := keys.FromURI(keys.Sr25519, "//Bob//miner")
	if err != nil {
		return nil, err
	}
	j := &crashJobs{
		dir: network.Dir(), image: network.Image(), program: network.Program(), miner: basilica.Hotkey(miner.SS58()),
		open: map[string]*crashJob{}, tasks: map[basilica.TaskID]*crashJob{}, change: make(chan struct{}),
	}
	for i := range workers {
		c, err := node.NewClient(node.ChainConfig{URL: chain, NetUID: 39, AllowPrivate: true},
			node.ClientConfig{Hotkey: "//Dave//client", DataDir: filepath.Join(network.Dir(), "clients", fmt.Sprint(i))},
			node.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
		if err != nil {
			return nil, err
		}
		j.clients = append(j.clients, c)
	}
	return j, nil
}

// make builds the n-th job. Every kind comes again and again.
func (j *crashJobs) make(n int) *crashJob {
	job := &crashJob{key: fmt.Sprintf("crash-%d", n), faults: map[string]string{}}
	job.input = fmt.Appendf(nil, "input of job %d\n", n)
	sum := sha256.Sum256(job.input)
	script := ""
	job.spec = basilica.TaskSpec{Name: job.key, Image: j.image, GPUs: 1, AllowSoftware: true, MemoryBytes: 64 << 20, CPUMillis: 500, TimeoutSeconds: 120}
	switch n % 7 {
	case 0, 3:
		job.kind = "quick"
		script = `echo begin; sha256sum </in/input | cut -c1-64 >/out/result; echo end >&2`
		job.out, job.err, job.output = "begin\n", "end\n", hex.EncodeToString(sum[:])+"\n"
		if n%7 == 3 {
			job.kind = "quick, again where it is lost"
			job.spec.Retries = 3
		}
	case 1:
		job.kind = "steady"
		script = `i=0; while [ $i -lt 20 ]; do echo line $i of ` + job.key + `; usleep 100000; i=$((i+1)); done; cat /in/input >/out/result`
		var lines strings.Builder
		for i := range 20 {
			fmt.Fprintf(&lines, "line %d of %s\n", i, job.key)
		}
		job.out, job.output = lines.String(), string(job.input)
	case 2:
		job.kind = "failing"
		script = `echo fails; exit 3`
		job.out, job.exit = "fails\n", 3
	case 4:
		job.kind = "pair"
		job.spec.GPUs = 2
		script = `usleep 300000; cat /in/input; cp /in/input /out/result`
		job.out, job.output = string(job.input), string(job.input)
	case 5:
		job.kind = "cancelled"
		job.spec.GPUs = 0
		script = `echo waits; sleep 100`
		job.leave = time.Second
	case 6:
		job.kind = "too big"
		job.spec.GPUs = 3
		job.miner, job.code = j.miner, "NO_EXECUTOR_FITS"
	}
	job.spec.Command = []string{j.program, "sh", "-c", script}
	return job
}

// work takes jobs until close.
func (j *crashJobs) work(ctx context.Context, c *node.Client) {
	for {
		j.mu.Lock()
		if j.closed || ctx.Err() != nil {
			j.mu.Unlock()
			return
		}
		job := j.make(j.next)
		j.next++
		j.open[job.key] = job
		j.mu.Unlock()
		err := j.run(ctx, c, job)
		j.mu.Lock()
		delete(j.open, job.key)
		j.ended = append(j.ended, job)
		if err != nil && ctx.Err() == nil {
			j.faults = append(j.faults, fmt.Sprintf("job %s (%s, task %s): %v", job.key, job.kind, job.task, err))
		}
		close(j.change)
		j.change = make(chan struct{})
		j.mu.Unlock()
	}
}

// jobPatience is how long one job may take through all deaths around it.
const jobPatience = 150 * time.Second

// run asks for the job under its key until it has ended, as a client does whose miner goes away again and again.
func (j *crashJobs) run(ctx context.Context, c *node.Client, job *crashJob) error {
	ctx, cancel := context.WithTimeout(ctx, jobPatience)
	defer cancel()
	dir := filepath.Join(j.dir, "jobs", job.key)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	input := filepath.Join(dir, "input")
	if err := os.WriteFile(input, job.input, 0o600); err != nil {
		return err
	}
	request := client.Request{Spec: job.spec, Inputs: []client.Input{{Name: "input", Path: input}}, Miner: job.miner, IdempotencyKey: job.key}
	request.OutputDir, request.Overwrite = filepath.Join(dir, "out"), true
	began := time.Now()
	for {
		var out, errs bytes.Buffer
		asking, leave := context.WithCancel(ctx)
		switch {
		case job.leave > 0 && job.task == "":
			time.AfterFunc(max(0, job.leave-time.Since(began)), leave)
		case job.leave > 0: // its cancelling was not confirmed; where this is not either, the next round asks again
			_, _ = c.Cancel(ctx, job.task, "")
		}
		result, err := c.Run(asking, request, &out, &errs)
		leave()
		if id := result.Task.ID; id != "" {
			j.mu.Lock()
			if job.task != "" && job.task != id {
				job.faults["doubled"] = fmt.Sprintf("one key is task %s and task %s", job.task, id)
			}
			job.task = id
			j.tasks[id] = job
			j.mu.Unlock()
		}
		if err == nil && result.Task.State.Terminal() {
			job.result = result
			return errors.Join(job.check(out.String(), errs.String(), request.OutputDir), job.fault())
		}
		kind := basilica.KindOf(err)
		again := kind == basilica.Unavailable || kind == basilica.NotFound || kind == basilica.Exhausted || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
			errors.Is(err, io.ErrUnexpectedEOF)
		if !again || ctx.Err() != nil {
			return fmt.Errorf("after %s in state %q: %w", time.Since(began).Round(time.Second), result.Task.State, err)
		}
		if rest(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("after %s in state %q: %w", time.Since(began).Round(time.Second), result.Task.State, err)
		}
		if job.leave > 0 && job.task == "" {
			began = time.Now() // it was never submitted; the next try gets its time too
		}
	}
}

// rest waits for d or the end of ctx.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (job *crashJob) fault() error {
	for what, how := range job.faults {
		return fmt.Errorf("%s: %s", what, how)
	}
	return nil
}

// check compares an ended job with what it is: exact log, exact output, exit code, receipt.
func (job *crashJob) check(out, errs, dir string) error {
	t := job.result.Task
	code := ""
	if t.Reason != nil {
		code = t.Reason.Code
	}
	switch {
	case t.State == basilica.TaskLost:
		if code == "" {
			return errors.New("it is lost without a reason")
		}
		return nil // counted by its reason
	case job.leave > 0:
		if t.State != basilica.TaskCancelled {
			return fmt.Errorf("it ended as %s (%s), not cancelled", t.State, code)
		}
		if !strings.HasPrefix("waits\n", out) {
			return fmt.Errorf("its log is %q", out)
		}
		return nil
	case job.code != "":
		if t.State != basilica.TaskFailed || code != job.code || out+errs != "" {
			return fmt.Errorf("it ended as %s (%s) and said %q", t.State, code, out+errs)
		}
		return nil
	case job.exit != 0:
		if t.State != basilica.TaskFailed || t.ExitCode == nil || *t.ExitCode != job.exit {
			return fmt.Errorf("it ended as %s (%s), exit code %v, want %d", t.State, code, t.ExitCode, job.exit)
		}
	case t.State != basilica.TaskSucceeded:
		return fmt.Errorf("it ended as %s (%s: %v)", t.State, code, t.Reason)
	}
	if job.spec.Retries > 0 { // what an attempt wrote that was lost stands before
		out, errs = out[max(0, len(out)-len(job.out)):], errs[max(0, len(errs)-len(job.err)):]
	}
	if out != job.out || errs != job.err {
		return fmt.Errorf("its log is %q and %q, want %q and %q", out, errs, job.out, job.err)
	}
	if job.result.Receipt == nil {
		return errors.New("it has no receipt")
	}
	if job.output == "" {
		return nil
	}
	got, err := os.ReadFile(filepath.Join(dir, "result"))
	if err != nil || string(got) != job.output {
		return fmt.Errorf("its output is %q, %v, want %q", got, err, job.output)
	}
	return nil
}

// unsettled are the keys of the jobs that have not ended now.
func (j *crashJobs) unsettled() map[string]bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	keys := map[string]bool{}
	for key := range j.open {
		keys[key] = true
	}
	return keys
}

// settle waits until all jobs of a set have ended.
func (j *crashJobs) settle(ctx context.Context, keys map[string]bool) error {
	for {
		j.mu.Lock()
		change, left := j.change, 0
		for key := range keys {
			if j.open[key] != nil {
				left++
			}
		}
		j.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d jobs have not ended: %w", left, ctx.Err())
		case <-change:
		}
	}
}

// close lets the workers end after the jobs that they have.
func (j *crashJobs) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
}

// lost counts the jobs that ended as lost, by the code of the reason.
func (j *crashJobs) lost() map[string]int {
	j.mu.Lock()
	defer j.mu.Unlock()
	codes := map[string]int{}
	for _, job := range j.ended {
		if t := job.result.Task; t.State == basilica.TaskLost && t.Reason != nil {
			codes[t.Reason.Code]++
		}
	}
	return codes
}
