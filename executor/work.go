package executor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"basilica"
)

// Labels of a container, by which a later process finds what an earlier one left.
const (
	labelExecutor = "basilica.executor"
	LabelMachine  = "basilica.machine" // tells the containers of one machine from those of others on the same engine
	labelTask     = "basilica.task"
	labelAttempt  = "basilica.attempt"
	labelFence    = "basilica.fence"
)

const (
	stopGrace    = 2 * time.Second        // between the request to end and the kill
	stopWait     = 90 * time.Second       // for an engine to say that a killed container has ended
	logWait      = 10 * time.Second       // for the last bytes of a log after the container's end
	logSettles   = 2 * time.Second        // between the end of an attachment and that of its container
	againEvery   = 500 * time.Millisecond // between two tries of what is away for a while
	devicesEvery = 30 * time.Second
)

// errLogBroken: the engine no longer has the log from its start.
var errLogBroken = errors.New("the engine does not have the beginning of the log any more")

// What the engine gives of a container that runs.
type (
	waitFunc   = func(context.Context) (basilica.ContainerEnd, error)
	followFunc = func(f func(basilica.LogStream, []byte) error) error
)

// work brings an attempt's container to its end, from wherever it stands, and reads its outputs. What it returns is this
// machine's failure; the job's own is in r.end.
func (e *Executor) work(ctx context.Context, log *slog.Logger, l *life, a *basilica.Attempt, i inheritance, r *run) error {
	if i.found != nil || i.lost != nil {
		if err := e.rehash(a.Key(), r); err != nil {
			return err
		}
	}
	if i.lost != nil {
		r.lost = i.lost
		return nil
	}
	// The log is followed beyond the end of whoever wanted the container stopped: its last words count too.
	following, stopFollowing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopFollowing()
	var wait waitFunc
	var follow followFunc
	var err error
	if i.found == nil {
		wait, follow, err = e.launch(ctx, following, log, l, a, i)
	} else {
		wait, err = e.rejoin(ctx, log, l, a, i, r)
	}
	if err != nil {
		return err
	}
	ended, logged := make(chan struct{}), make(chan error, 1)
	of := *a // the log's own: the other changes meanwhile
	go func() { logged <- e.keepLogs(following, l, of, r, follow, ended) }()
	if r.end == nil {
		err = e.oversee(ctx, l, a, wait, r)
	}
	close(ended)
	if err != nil { // left to the next process, or not to be ended: there are no last words to wait for
		stopFollowing()
	}
	patience := time.AfterFunc(logWait, stopFollowing)
	lerr := <-logged
	patience.Stop()
	if err != nil || r.stopped || r.lost != nil {
		return err
	}
	if lerr != nil {
		return fmt.Errorf("follow log: %w", lerr)
	}
	if r.end.Error != "" {
		return basilica.E(basilica.Invalid, "CONTAINER_START", "the container could not run: "+r.end.Error, "check the command and the image")
	}
	out := filepath.Join(e.dir(a.Key()), "out")
	if r.end.ExitCode != 0 {
		if r.full, err = e.cfg.Disk.OutputFull(out); err != nil {
			return err
		}
	}
	reading, giveUp := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer giveUp()
	r.outputs, err = e.collect(reading, out, i.demand.output)
	return err
}

// launch pulls, makes and starts the container. Before the start it is on record that this container may run, in this boot
// and under this engine; a later process judges by that.
func (e *Executor) launch(ctx, following context.Context, log *slog.Logger, l *life, a *basilica.Attempt, i inheritance) (waitFunc, followFunc, error) {
	if i.again {
		// Off the record first: a container that is on record and gone is one that somebody removed.
		a.Container, a.Boot, a.Engine = "", "", ""
		if err := e.save(ctx, *a); err != nil {
			return nil, nil, fmt.Errorf("record no container: %w", err)
		}
		if err := e.patiently(ctx, func() error { return e.remove(ctx, a.Key()) }); err != nil {
			return nil, nil, err
		}
	}
	if err := e.step(ctx, l, a, basilica.TaskPulling, &a.Pulling); err != nil {
		return nil, nil, err
	}
	in, out, err := e.prepare(*a, i.demand)
	if err != nil {
		return nil, nil, err
	}
	if err := e.create(ctx, l, a, i.demand, in, out); err != nil {
		return nil, nil, err
	}
	if err := e.save(ctx, *a); err != nil {
		return nil, nil, fmt.Errorf("record container: %w", err)
	}
	var follow followFunc
	err = e.patiently(ctx, func() (err error) { follow, err = e.attach(ctx, following, a.Container); return err })
	if err != nil {
		return nil, nil, err
	}
	wait, mayRun, err := e.startContainer(ctx, *a)
	if err != nil {
		if mayRun { // its receipt must not say that it never ran: the miner would have it run again
			a.Started = e.cfg.Now()
		}
		return nil, nil, err
	}
	a.Started = e.cfg.Now() // before the deadline, so that a whole time limit is paid for
	a.Deadline = e.ledgerNow().Add(i.demand.timeout)
	lasting, cancel := e.lasting(ctx)
	defer cancel()
	if err := e.step(lasting, l, a, basilica.TaskRunning, &a.Started); err != nil {
		return nil, nil, errors.Join(err, release(ctx, wait))
	}
	log.Info("container runs", "container", a.Container, "image", a.ImageID)
	return wait, follow, nil
}

// attach attaches to a container's log for as long as following lasts; for the engine's answer it waits no longer than ctx.
func (e *Executor) attach(ctx, following context.Context, container string) (followFunc, error) {
	following, giveUp := context.WithCancel(following)
	unhook := context.AfterFunc(ctx, giveUp)
	follow, err := e.cfg.Engine.Logs(following, container)
	if !unhook() {
		return nil, errors.Join(ctx.Err(), err)
	}
	if err != nil {
		giveUp()
	}
	return follow, err
}

// release frees what the engine keeps for whoever waits.
func release(ctx context.Context, wait waitFunc) error {
	nobody, giveUp := context.WithCancel(ctx)
	giveUp()
	_, err := wait(nobody)
	return err
}

// create finds the image and makes the container. An image that came as a blob or from a registry has no name, so that
// another executor on the same engine may remove it in between; then it is fetched again.
func (e *Executor) create(ctx context.Context, l *life, a *basilica.Attempt, d demand, in, out string) error {
	for try := 1; ; try++ {
		var err error
		if a.ImageID, err = e.image(ctx, l, d.spec); err != nil {
			return err
		}
		var proc basilica.EngineProcess
		err = e.patiently(ctx, func() (err error) { proc, err = e.cfg.Engine.Process(ctx); return err })
		if err != nil {
			return err
		}
		id := ""
		again := false
		err = e.patiently(ctx, func() (err error) {
			if again { // it may have been made although nobody heard of it
				if err := e.removeContainers(ctx, a.Key()); err != nil {
					return err
				}
			}
			again = true
			id, err = e.cfg.Engine.Create(ctx, e.container(*a, d, in, out))
			return err
		})
		if basilica.CodeOf(err) == "IMAGE_NOT_FOUND" && try < maxLoads {
			continue
		}
		if err == nil {
			a.Container, a.Boot, a.Engine = id, e.cfg.Boot, proc.ID
		}
		return err
	}
}

// startContainer starts an attempt's container once: an engine that went away, or gave no answer in time, may have started
// it. mayRun says of an error that nobody knows.
func (e *Executor) startContainer(ctx context.Context, a basilica.Attempt) (wait waitFunc, mayRun bool, err error) {
	for {
		wait, err := e.cfg.Engine.Start(ctx, a.Container)
		absent := basilica.CodeOf(err) == "DOCKER_ABSENT"
		if err == nil || !absent && !errors.Is(err, context.DeadlineExceeded) {
			return wait, false, err
		}
		lasting, cancel := e.lasting(ctx)
		defer cancel()
		var st basilica.ContainerState
		if serr := e.patiently(lasting, func() (err error) { st, err = e.settled(lasting, a, a.Container); return err }); serr != nil {
			return nil, basilica.KindOf(serr) != basilica.NotFound, errors.Join(err, serr)
		}
		if !st.Started.IsZero() {
			wait, err := e.cfg.Engine.Await(lasting, a.Container)
			return wait, true, err
		}
		if !absent || ctx.Err() != nil { // what the engine has not done by now it may still do
			return nil, true, err
		}
	}
}

// rejoin takes over a container that an earlier process started. One that has ended meanwhile ends the attempt; wait is nil
// then.
func (e *Executor) rejoin(ctx context.Context, log *slog.Logger, l *life, a *basilica.Attempt, i inheritance, r *run) (wait waitFunc, err error) {
	if a.Started.IsZero() { // it died between the start and its record
		a.Started = i.found.Started
	}
	if a.Deadline.IsZero() {
		a.Deadline = e.ledgerNow().Add(i.demand.timeout - min(max(e.cfg.Now().Sub(a.Started), 0), i.demand.timeout))
	}
	if a.State != basilica.TaskRunning {
		if err := e.step(ctx, l, a, basilica.TaskRunning, &a.Started); err != nil {
			return nil, err
		}
	}
	log.Info("container of an earlier process taken over", "container", a.Container, "running", i.found.Running)
	if !i.found.Running {
		end := i.found.End
		r.end, r.endedAt, r.stopped = &end, end.At, i.cause != nil
		return nil, nil
	}
	a.Stopping = "" // where the earlier process only wanted to end, nobody wants it any more
	err = e.patiently(ctx, func() (err error) { wait, err = e.cfg.Engine.Await(ctx, a.Container); return err })
	return wait, err
}

// oversee waits for the end of a running container, keeps its time limit, looks after its devices, and judges its end.
func (e *Executor) oversee(ctx context.Context, l *life, a *basilica.Attempt, wait waitFunc, r *run) error {
	timed, cancel := context.WithTimeoutCause(ctx, max(a.Deadline.Sub(e.ledgerNow()), 0), errTimedOut)
	defer cancel()
	if slices.ContainsFunc(e.cfg.GPUs, func(g basilica.GPU) bool {
		return g.Kind != basilica.GPUSoftware && slices.Contains(a.Holding.GPUs, g.UUID)
	}) {
		go e.watchDevices(timed, l, *a)
	}
	r.asking = func(cause error) {
		a.Stopping = cause.Error()
		saving, done := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer done()
		if err := e.cfg.Attempts.SaveAttempt(saving, *a); err != nil {
			e.cfg.Log.Warn("not recorded that a task is to end", "task", string(a.Task), "attempt", a.Number, "err", err)
		}
	}
	err := e.await(timed, *a, wait, r)
	if basilica.CodeOf(err) == "CONTAINER_GONE" {
		r.lost = &basilica.Reason{Code: "CONTAINER_REMOVED", Sentence: "somebody removed the task's container, so nobody knows how the task ended", Fix: fixLost}
		return nil
	}
	if r.stopped {
		l.stop(causeOf(timed)) // an expired time limit is not yet the life's own cause
	}
	if err != nil || r.stopped {
		return err
	}
	now := basilica.EngineProcess{}
	looking, giveUp := e.lasting(ctx)
	defer giveUp()
	if err := e.patiently(looking, func() (err error) { now, err = e.cfg.Engine.Process(looking); return err }); err != nil {
		return err
	}
	r.lost = untrusted(*a, *r.end, now)
	return nil
}

// watchDevices stops a life whose container may no longer open its GPUs, until ctx ends.
func (e *Executor) watchDevices(ctx context.Context, l *life, a basilica.Attempt) {
	for pause(ctx, e.devicesEvery) == nil {
		lost, err := e.cfg.Engine.LostDevices(ctx, a.Container)
		if err != nil {
			if ctx.Err() == nil && basilica.KindOf(err) == basilica.Internal {
				e.cfg.Log.Warn("a container's access to its devices is not known", "task", string(a.Task), "attempt", a.Number, "err", err)
			}
			continue
		}
		if len(lost) > 0 {
			e.cfg.Log.Error("a container lost its access to its GPU; the host's service manager may have been reloaded", "task", string(a.Task), "attempt", a.Number, "devices", lost)
			l.stop(errGPULost)
			return
		}
	}
}

// container is the attempt in the engine's terms.
func (e *Executor) container(a basilica.Attempt, d demand, in, out string) basilica.ContainerSpec {
	var gpus []basilica.GPU
	for _, g := range e.cfg.GPUs {
		if slices.Contains(a.Holding.GPUs, g.UUID) {
			gpus = append(gpus, g)
		}
	}
	return basilica.ContainerSpec{
		Name:  "basilica-" + e.cfg.Machine + "-" + string(logName(a.Key())),
		Image: a.ImageID, Command: d.spec.Command, Env: d.spec.Env, Labels: e.labels(a),
		CPUMillis: d.cpu, MemoryBytes: d.memory, Pids: maxPids, LogBytes: e.cfg.MaxLogBytes,
		Input: in, Output: out, OutputBytes: d.output, GPUs: gpus,
	}
}

func (e *Executor) labels(a basilica.Attempt) map[string]string {
	return map[string]string{
		labelExecutor: string(e.cfg.Executor), LabelMachine: e.cfg.Machine, labelTask: string(a.Task),
		labelAttempt: strconv.Itoa(a.Number), labelFence: strconv.FormatUint(a.Holding.Fence, 10),
	}
}

// keepLogs keeps the container's log to its end. follow is an attachment from the container's start, which gives every byte
// at once; where there is none, where it breaks, and at the end to be sure, what the engine kept is read without the bytes
// that are here already.
func (e *Executor) keepLogs(ctx context.Context, l *life, a basilica.Attempt, r *run, follow followFunc, ended <-chan struct{}) error {
	keep := e.keepLog(ctx, l, a, r)
	wait := time.Duration(0)
	if follow != nil {
		if _ = follow(keep); r.logErr != nil {
			return r.logErr
		}
		wait = logSettles
	}
	for ; ; wait = againEvery {
		last, err := isEnded(ctx, ended, wait)
		if err != nil || r.logBytes >= e.cfg.MaxLogBytes {
			return err
		}
		follow, err := e.cfg.Engine.PastLogs(ctx, a.Container)
		if err == nil {
			err = follow(r.unkept(keep))
		}
		switch {
		case r.logErr != nil:
			return r.logErr
		case errors.Is(err, errLogBroken):
			e.cfg.Log.Warn("a log ends early", "task", string(a.Task), "attempt", a.Number, "err", err)
			return nil
		case last && err == nil, basilica.CodeOf(err) == "CONTAINER_GONE":
			return nil
		case last: // its channel would not wait any more
			if perr := pause(ctx, againEvery); perr != nil {
				return errors.Join(perr, err)
			}
		}
	}
}

// isEnded waits for the end, though not longer than d, and says whether it has come.
func isEnded(ctx context.Context, ended <-chan struct{}, d time.Duration) (bool, error) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ended:
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	case <-t.C:
		select {
		case <-ended:
			return true, nil
		default:
			return false, nil
		}
	}
}

// keepLog keeps the container's log, up to its cap, and hashes what it keeps. A full disk makes the job wait: its next
// words find no reader until there is room again.
func (e *Executor) keepLog(ctx context.Context, l *life, a basilica.Attempt, r *run) func(basilica.LogStream, []byte) error {
	name := logName(a.Key())
	return func(stream basilica.LogStream, data []byte) error {
		if room := e.cfg.MaxLogBytes - r.logBytes; int64(len(data)) > room {
			data = data[:room]
		}
		if len(data) == 0 {
			return nil // the job may go on talking; nobody keeps it
		}
		for {
			err := e.cfg.Logs.Append(name, basilica.LogChunk{Offset: r.logBytes, Stream: stream, Data: data})
			if errors.Is(err, syscall.ENOSPC) {
				if perr := pause(ctx, againEvery); perr == nil {
					continue
				}
			}
			if r.logErr = err; err != nil {
				return err
			}
			break
		}
		r.took(stream, data)
		l.change()
		return nil
	}
}

// unkept passes on what of a log, read from its start, was not kept yet. The two streams are told apart because they have
// no order between them. What comes again must be what was kept.
func (r *run) unkept(keep func(basilica.LogStream, []byte) error) func(basilica.LogStream, []byte) error {
	have := r.kept
	var seen [3]int64
	want, sums := [3][]byte{}, [3]hash.Hash{}
	for s, kept := range map[basilica.LogStream]hash.Hash{basilica.Stdout: r.stdout, basilica.Stderr: r.stderr} {
		want[s], sums[s] = kept.Sum(nil), sha256.New()
	}
	return func(stream basilica.LogStream, data []byte) error {
		if left := have[stream] - seen[stream]; left > 0 {
			n := min(left, int64(len(data)))
			sums[stream].Write(data[:n])
			seen[stream] += n
			data = data[n:]
			if n == left && !bytes.Equal(sums[stream].Sum(nil), want[stream]) {
				return errLogBroken
			}
		}
		if len(data) == 0 {
			return nil
		}
		return keep(stream, data)
	}
}

// rehash computes what a receipt says of a log from the log that was kept.
func (e *Executor) rehash(at basilica.TaskAttempt, r *run) error {
	_, err := e.cfg.Logs.Read(logName(at), 0, func(c basilica.LogChunk) error {
		if c.Stream != basilica.Stdout && c.Stream != basilica.Stderr {
			return fmt.Errorf("log has stream %d", c.Stream)
		}
		r.took(c.Stream, c.Data)
		return nil
	})
	return err
}

// await waits for the witnessed end; where ctx ends first it stops the container and waits on.
func (e *Executor) await(ctx context.Context, a basilica.Attempt, wait waitFunc, r *run) error {
	witness, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	var end basilica.ContainerEnd
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		end, err = wait(witness)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		if causeOf(ctx) == errShutdown && e.keeps(r) {
			giveUp()
			<-done
			return errHandedOver
		}
		r.stopped, r.asked = true, e.cfg.Now()
		if r.asking != nil {
			r.asking(causeOf(ctx))
		}
		serr := e.halt(witness, a.Container, causeOf(ctx) == errShutdown, done)
		if basilica.CodeOf(serr) == "DOCKER_ABSENT" { // nobody can stop it, and this process ends
			giveUp()
			<-done
			return errors.Join(errHandedOver, serr)
		}
		patience := time.AfterFunc(e.stopWait, giveUp)
		<-done
		patience.Stop()
		if err != nil {
			err = errors.Join(err, serr)
		}
	}
	if err != nil {
		return fmt.Errorf("wait for container: %w", err)
	}
	r.end = &end
	return nil
}

// halt asks the engine to stop a container, as often as it takes while the engine is away, unless this process has to end.
func (e *Executor) halt(ctx context.Context, id string, hurry bool, done <-chan struct{}) error {
	grace := stopGrace
	if hurry {
		grace = 0
	}
	for {
		err := e.cfg.Engine.Stop(ctx, id, grace)
		if basilica.CodeOf(err) != "DOCKER_ABSENT" || e.running() != nil {
			return err
		}
		select {
		case <-done:
			return nil
		case <-time.After(againEvery):
		}
	}
}

// dir is where the attempt's files stand.
func (e *Executor) dir(at basilica.TaskAttempt) string {
	return filepath.Join(e.cfg.Dir, string(logName(at)))
}

// prepare makes the directories of an attempt: inputs as links to their blobs, outputs as a mount of limited size.
func (e *Executor) prepare(a basilica.Attempt, d demand) (in, out string, err error) {
	dir := e.dir(a.Key())
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", "", fmt.Errorf("make working directory: %w", err)
	}
	in, out = filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.Mkdir(in, 0o755); err != nil {
		return "", "", fmt.Errorf("make input directory: %w", err)
	}
	root, err := os.OpenRoot(in)
	if err != nil {
		return "", "", fmt.Errorf("open input directory: %w", err)
	}
	defer root.Close()
	for _, f := range d.spec.Inputs {
		if parent := filepath.Dir(f.Name); parent != "." {
			if err := root.MkdirAll(parent, 0o755); err != nil {
				return "", "", fmt.Errorf("make input directory: %w", err)
			}
		}
		blob := e.cfg.Blobs.Path(f.SHA256)
		// The job is another user and reads through a read-only mount; the blob's own directory stays closed to all.
		if err := os.Chmod(blob, 0o444); err != nil {
			return "", "", fmt.Errorf("open input to the job: %w", err)
		}
		if err := os.Link(blob, filepath.Join(in, f.Name)); err != nil {
			return "", "", fmt.Errorf("place input: %w", err)
		}
	}
	return in, out, e.cfg.Disk.MountOutput(out, d.output)
}
