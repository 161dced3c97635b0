package testnet

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/blake2b"

	"basilica"
	"basilica/docker"
	"basilica/keys"
)

// crashAudit watches a network from outside while its roles die, and says what must never be seen: two holders of one
// GPU, a container that was started twice, something that belongs to no task.
type crashAudit struct {
	dir    string
	launch *crashLauncher
	boxes  map[string]string // machine label by name of the executor
	engine *http.Client
	http   *http.Client

	mu       sync.Mutex // guards what follows
	faults   []string
	orphans  map[string]bool
	suspects map[string]time.Time // what belongs to nobody, since when it is seen without a pause
	fences   map[string]*ledgerSeen
	starts   map[string]map[string]string // attempts by container that was started, by task
}

// ledgerSeen is what the ledger of one machine said so far.
type ledgerSeen struct {
	newest uint64
	holder map[uint64]string // by fence
}

const (
	orphanPatience = 15 * time.Second
	auditEvery     = 300 * time.Millisecond
)

func newCrashAudit(dir string, launch *crashLauncher) (*crashAudit, error) {
	a := &crashAudit{
		dir: dir, launch: launch, boxes: map[string]string{}, orphans: map[string]bool{}, suspects: map[string]time.Time{},
		fences: map[string]*ledgerSeen{}, starts: map[string]map[string]string{},
		http: &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
		engine: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(docker.DefaultHost, "unix://"))
		}}},
	}
	for _, name := range []string{"box-1", "box-2"} {
		key, err := keys.LoadOrCreateP256(filepath.Join(dir, name, "executor.key"))
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(key.SPKI())
		a.boxes[name] = hex.EncodeToString(sum[:8])
		a.fences[name] = &ledgerSeen{holder: map[uint64]string{}}
	}
	return a, nil
}

func (a *crashAudit) fault(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults = append(a.faults, fmt.Sprintf(format, args...))
}

// watch looks until ctx ends.
func (a *crashAudit) watch(ctx context.Context) {
	for rest(ctx, auditEvery) == nil {
		for name := range a.boxes {
			since, alive := a.launch.role(name).living()
			if !alive {
				continue
			}
			if err := a.ledger(ctx, name); err != nil && ctx.Err() == nil {
				continue // it has just died, or is not that far yet
			}
			found, err := a.unowned(ctx, name)
			if again, still := a.launch.role(name).living(); err != nil || !still || again != since {
				continue
			}
			a.suspect(name, since, found)
		}
	}
}

// ledger compares the ledger of a machine with what it said before.
func (a *crashAudit) ledger(ctx context.Context, name string) error {
	var answer struct {
		Status struct {
			Health basilica.Health `json:"health"`
		} `json:"status"`
	}
	if err := a.ask(ctx, "http://"+a.launch.role(name).Addrs()["status"]+"/api/v1/status", &answer); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := a.fences[name]
	held := map[string]uint64{}
	before := seen.newest // several may come between two looks, but none under a number that an earlier look had passed
	for _, h := range answer.Status.Health.Ledger {
		for _, gpu := range h.GPUs {
			if other, twice := held[gpu]; twice {
				a.faults = append(a.faults, fmt.Sprintf("%s: GPU %s is held under fence %d and fence %d", name, gpu, other, h.Fence))
			}
			held[gpu] = h.Fence
		}
		if holder, known := seen.holder[h.Fence]; known && holder != h.Holder {
			a.faults = append(a.faults, fmt.Sprintf("%s: fence %d was of %s and is of %s", name, h.Fence, holder, h.Holder))
		} else if !known && h.Fence < before {
			a.faults = append(a.faults, fmt.Sprintf("%s: %s holds under fence %d, after fence %d", name, h.Holder, h.Fence, before))
		}
		seen.holder[h.Fence] = h.Holder
		seen.newest = max(seen.newest, h.Fence)
	}
	return nil
}

func (a *crashAudit) ask(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// unowned lists containers, working directories and mounts of a machine that belong to no open attempt.
func (a *crashAudit) unowned(ctx context.Context, name string) ([]string, error) {
	containers, err := a.containers(ctx, name)
	if err != nil {
		return nil, err
	}
	work := filepath.Join(a.dir, name, "work")
	dirs, err := os.ReadDir(work)
	if err != nil {
		return nil, err
	}
	mounts, err := docker.Mounted(work)
	if err != nil {
		return nil, err
	}
	// Asked last: what ended meanwhile is a suspect for one look only.
	open, err := queryStrings(ctx, filepath.Join(a.dir, name, "executor.sqlite"), `SELECT task || '.' || number FROM attempts WHERE ended = 0`)
	if err != nil {
		return nil, err
	}
	var found []string
	for id, attempt := range containers {
		if !slices.Contains(open, attempt) {
			found = append(found, "container "+id[:12]+" of "+attempt)
		}
	}
	for _, d := range dirs {
		if !slices.Contains(open, d.Name()) {
			found = append(found, "directory "+d.Name())
		}
	}
	for _, m := range mounts {
		if rel, err := filepath.Rel(work, m); err == nil && !slices.Contains(open, strings.Split(rel, "/")[0]) {
			found = append(found, "mount "+rel)
		}
	}
	return found, nil
}

// suspect keeps what belongs to nobody; what stays so for long is an orphan.
func (a *crashAudit) suspect(name string, alive time.Time, found []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for key := range a.suspects {
		if rest, ours := strings.CutPrefix(key, name+": "); ours && !slices.Contains(found, rest) {
			delete(a.suspects, key)
		}
	}
	for _, what := range found {
		key := name + ": " + what
		since, known := a.suspects[key]
		if !known || since.Before(alive) { // the present process has its time to tidy up
			a.suspects[key] = now
			continue
		}
		if now.Sub(since) > orphanPatience && !a.orphans[key] {
			a.orphans[key] = true
			a.faults = append(a.faults, fmt.Sprintf("orphan: %s is there for %s", key, now.Sub(since).Round(time.Second)))
		}
	}
}

// containers lists a machine's containers: TASK.ATTEMPT by id.
func (a *crashAudit) containers(ctx context.Context, name string) (map[string]string, error) {
	filters, err := json.Marshal(map[string][]string{"label": {"basilica.machine=" + a.boxes[name]}})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/containers/json?all=1&filters="+url.QueryEscape(string(filters)), nil)
	if err != nil {
		return nil, err
	}
	resp, err := a.engine.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list []struct {
		ID     string `json:"Id"`
		Labels map[string]string
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, c := range list {
		out[c.ID] = c.Labels["basilica.task"] + "." + c.Labels["basilica.attempt"]
	}
	return out, nil
}

// events counts the containers that the engine starts for each task, until ctx ends. It returns when it listens.
func (a *crashAudit) events(ctx context.Context) error {
	filters := url.QueryEscape(`{"type":["container"],"event":["start"]}`)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/events?filters="+filters, nil)
	if err != nil {
		return err
	}
	resp, err := a.engine.Do(req)
	if err != nil {
		return err
	}
	go func() {
		defer resp.Body.Close()
		stream := json.NewDecoder(resp.Body)
		for {
			var e struct {
				Actor struct {
					ID         string
					Attributes map[string]string
				}
			}
			if err := stream.Decode(&e); err != nil {
				if ctx.Err() == nil && !errors.Is(err, io.EOF) {
					a.fault("the engine's events ended: %v", err)
				}
				return
			}
			a.started(e.Actor.ID, e.Actor.Attributes)
		}
	}()
	return nil
}

func (a *crashAudit) started(id string, labels map[string]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, machine := range a.boxes {
		if labels["basilica.machine"] != machine {
			continue
		}
		task := labels["basilica.task"]
		if a.starts[task] == nil {
			a.starts[task] = map[string]string{}
		}
		a.starts[task][id] = labels["basilica.attempt"]
	}
}

// doubled lists the tasks of jobs for which more containers were started than one for each attempt that may run.
func (a *crashAudit) doubled(tasks map[basilica.TaskID]*crashJob) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for id, job := range tasks {
		attempts := slices.Sorted(maps.Values(a.starts[string(id)]))
		if n := len(attempts); n > 1+job.spec.Retries || n != len(slices.Compact(slices.Clone(attempts))) {
			out = append(out, fmt.Sprintf("%s: %d containers were started for task %s, for attempts %v", job.key, n, id, attempts))
		}
	}
	return out
}

// take gives the faults since the last take.
func (a *crashAudit) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.faults
	a.faults = nil
	return out
}

// query reads one role's database without touching it.
func query[T any](ctx context.Context, path, text string, one func(*sql.Rows) (T, error)) (_ []T, err error) {
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path}).String()+"?mode=ro&_pragma=busy_timeout(3000)&_pragma=query_only(1)")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.QueryContext(ctx, text)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := one(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

func queryStrings(ctx context.Context, path, text string) ([]string, error) {
	return query(ctx, path, text, func(r *sql.Rows) (s string, err error) { return s, r.Scan(&s) })
}

// settled proves what must hold when every job has ended and every role runs: nothing of a job is left, and everything
// that is stored belongs to something. It tries until patience ends.
func (a *crashAudit) settled(ctx context.Context, patience time.Duration) error {
	var err error
	for deadline := time.Now().Add(patience); ; {
		if err = a.clean(ctx); err == nil || time.Now().After(deadline) {
			return err
		}
		if rest(ctx, auditEvery) != nil {
			return ctx.Err()
		}
	}
}

func (a *crashAudit) clean(ctx context.Context) error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	none := func(what, path, text string) {
		rows, err := queryStrings(ctx, path, text)
		if err != nil {
			wrong("%s: %w", what, err)
		} else if len(rows) > 0 {
			wrong("%s: %v", what, rows)
		}
	}
	for name := range a.boxes {
		store := filepath.Join(a.dir, name, "executor.sqlite")
		found, err := a.unowned(ctx, name)
		if err != nil {
			wrong("%s: %w", name, err)
		}
		for _, what := range found {
			wrong("orphan: %s: %s", name, what)
		}
		none(name+": attempts without an end", store, `SELECT task || '.' || number FROM attempts WHERE ended = 0`)
		none(name+": GPUs held by a task that has ended", store, `SELECT holder FROM holdings WHERE kind != 'challenge'`)
		errs = append(errs, a.files(ctx, filepath.Join(a.dir, name, "blobs"), store, `SELECT sum FROM blobs`))
		errs = append(errs, a.logs(ctx, filepath.Join(a.dir, name, "logs"), store, `SELECT task || '.' || number FROM attempts`))
	}
	miner := filepath.Join(a.dir, "miner", "miner.sqlite")
	none("miner: tasks without an end", miner, `SELECT id || ' ' || state FROM tasks WHERE ended = 0`)
	none("miner: keys with two tasks", miner, `SELECT idempotency_key FROM tasks GROUP BY client, idempotency_key HAVING count(*) > 1`)
	errs = append(errs, a.logs(ctx, filepath.Join(a.dir, "miner", "logs"), miner, `SELECT id FROM tasks`))
	for _, path := range []string{"miner/miner.sqlite", "box-1/executor.sqlite", "box-2/executor.sqlite", "validator/validator.sqlite"} {
		said, err := queryStrings(ctx, filepath.Join(a.dir, path), `PRAGMA quick_check`)
		if err != nil || !slices.Equal(said, []string{"ok"}) {
			wrong("%s: quick_check says %v, %w", path, said, err)
		}
	}
	errs = append(errs, a.processes())
	return errors.Join(errs...)
}

// files compares a directory of blobs with the digests that the store knows.
func (a *crashAudit) files(ctx context.Context, dir, store, text string) error {
	known, err := queryStrings(ctx, store, text)
	if err != nil {
		return err
	}
	var there []string
	for _, pattern := range []string{"??/*", "tmp/*"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, p := range paths {
			there = append(there, filepath.Base(p))
		}
	}
	return compareSets(dir, there, known)
}

// logs refuses a log of a task that the store does not know.
func (a *crashAudit) logs(ctx context.Context, dir, store, text string) error {
	known, err := queryStrings(ctx, store, text)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".log"); !ok || !slices.Contains(known, name) {
			return fmt.Errorf("orphan: %s/%s", dir, e.Name())
		}
	}
	return nil
}

func compareSets(what string, there, known []string) error {
	for _, name := range there {
		if !slices.Contains(known, name) {
			return fmt.Errorf("orphan: %s/%s", what, name)
		}
	}
	for _, name := range known {
		if !slices.Contains(there, name) {
			return fmt.Errorf("%s: %s is recorded and not there", what, name)
		}
	}
	return nil
}

// processes refuses a process that works for this network and has lost its parent.
func (a *crashAudit) processes() error {
	paths, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return err
	}
	for _, path := range paths {
		env, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(env, []byte(a.dir+"/")) {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(filepath.Dir(path), "stat"))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if parent, err := strconv.Atoi(fields[1]); err == nil && parent == 1 && fields[0] != "Z" {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
			return fmt.Errorf("orphan: process %s %s", filepath.Base(filepath.Dir(path)), bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
	return nil
}

// receiptChain proves on all receipts that one GPU had one holder at a time, and that a later holder has a greater fence.
func receiptChain(jobs []*crashJob) error {
	type span struct {
		fence        uint64
		began, ended time.Time
		task         basilica.TaskID
	}
	byGPU := map[string][]span{}
	seen := map[string]basilica.TaskID{}
	for _, job := range jobs {
		r := job.result.Receipt
		if r == nil {
			continue
		}
		at := fmt.Sprintf("%s.%d", r.Executor, r.Fence)
		if other, twice := seen[at]; twice && len(r.GPUs) > 0 {
			return fmt.Errorf("tasks %s and %s have receipts under fence %s", other, r.Task, at)
		}
		seen[at] = r.Task
		for _, gpu := range r.GPUs {
			if !r.Started.IsZero() {
				byGPU[string(r.Executor)+" "+gpu] = append(byGPU[string(r.Executor)+" "+gpu], span{r.Fence, r.Started, r.Ended, r.Task})
			}
		}
	}
	for gpu, spans := range byGPU {
		slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.fence, b.fence) })
		for i := 1; i < len(spans); i++ {
			if spans[i].began.Before(spans[i-1].ended) {
				return fmt.Errorf("%s: task %s began at %s under fence %d while task %s held it until %s under fence %d", gpu,
					spans[i].task, spans[i].began, spans[i].fence, spans[i-1].task, spans[i-1].ended, spans[i-1].fence)
			}
		}
	}
	return nil
}

// weightsOnce reads every block: each set of weights that stands open there sums to 65535, the validator recorded every one,
// sealed ones too, before it was sent, and no round has two of them, unless the chain lost the first. What the validator says
// was set stands in a block.
func weightsOnce(t *testing.T, rpc, store string) {
	t.Helper()
	chain := dialRaw(t, rpc)
	var header struct {
		Number string `json:"number"`
	}
	chain.call("chain_getHeader", &header)
	head, err := strconv.ParseUint(strings.TrimPrefix(header.Number, "0x"), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	// Asked after the head: what is recorded is in no block before.
	rounds := map[string]string{} // by extrinsic
	if _, err := query(t.Context(), store, `SELECT round || ' ' || hex(hash), lower(hex(extrinsic)) FROM weight_intents UNION SELECT round || ' ' || hex(hash), lower(hex(extrinsic)) FROM weight_commits`,
		func(r *sql.Rows) (struct{}, error) {
			var round, extrinsic string
			err := r.Scan(&round, &extrinsic)
			rounds[extrinsic] = round
			return struct{}{}, err
		}); err != nil {
		t.Error(err)
		return
	}
	lost, err := queryStrings(t.Context(), store, `SELECT lower(hex(extrinsic)) FROM weight_commits WHERE state = '`+string(basilica.CommitLost)+`'`)
	if err != nil {
		t.Error(err)
		return
	}
	opened, err := queryStrings(t.Context(), store, `SELECT lower(hex(extrinsic)) FROM weight_commits WHERE state = '`+string(basilica.CommitRevealed)+`'`)
	if err != nil {
		t.Error(err)
		return
	}
	claimed, err := queryStrings(t.Context(), store, `SELECT coalesce(json_extract(content, '$.submitted.hash'), '') || ' ' || coalesce(json_extract(content, '$.submitted.block'), 0) FROM weight_sets WHERE submitted`)
	if err != nil {
		t.Error(err)
		return
	}
	sent, sealed, gone := 0, 0, uint64(0)
	seen, in := map[string]uint64{}, map[string]uint64{}
	if head > 3900 { // of older ones the chain forgets the events now
		gone = head - 3900
	}
	for n := gone + 1; n <= head; n++ {
		hash := chain.blockHash(n)
		var body struct {
			Block struct {
				Extrinsics []string `json:"extrinsics"`
			} `json:"block"`
		}
		chain.call("chain_getBlock", &body, hash)
		if len(body.Block.Extrinsics) == 0 {
			t.Fatalf("block %d of %d has no extrinsics", n, head)
		}
		for i, text := range body.Block.Extrinsics {
			raw := chain.hex(text)
			if !signed(raw) {
				continue
			}
			name, fields := chain.decodeCall(raw)
			open := name == "SubtensorModule.set_weights"
			if !open && name != "SubtensorModule.commit_timelocked_weights" && name != "SubtensorModule.commit_weights" || chain.failed(hash, i) {
				continue
			}
			sent++
			if open {
				var total uint64
				weights, _ := fields.Get("weights")
				for _, w := range chain.list(weights) {
					total += chain.number(w)
				}
				if total != 65535 {
					t.Errorf("block %d: weights sum to %d", n, total)
				}
			} else {
				sealed++
			}
			sum := blake2b.Sum256(raw)
			extrinsic := hex.EncodeToString(sum[:])
			in[extrinsic] = n
			round, known := rounds[extrinsic]
			if !known {
				t.Errorf("block %d: the validator has no record of the weights %s", n, extrinsic)
				continue
			}
			if other, twice := seen[round]; twice {
				t.Errorf("the weights of round %s stand in block %d and block %d", round, other, n)
			}
			if !slices.Contains(lost, extrinsic) {
				seen[round] = n
			}
		}
	}
	if sent == 0 {
		t.Error("no weights were set")
	}
	for _, claim := range claimed {
		extrinsic, block, _ := strings.Cut(strings.TrimPrefix(claim, "0x"), " ")
		if n, err := strconv.ParseUint(block, 10, 64); err != nil || n > gone && n <= head && in[extrinsic] != n {
			t.Errorf("the validator says that weights %s were set in block %s, and they are in block %d", extrinsic, block, in[extrinsic])
		}
	}
	t.Logf("weights in blocks %d to %d: %d sets, %d of them sealed, of which %d took effect and %d were lost", gone+1, head, sent, sealed, len(opened), len(lost))
}
