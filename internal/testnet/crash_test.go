package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"basilica"
	"basilica/admin"
	"basilica/node"
	"basilica/pallet"
	"basilica/subtensor"
)

// crashName is the build that can be told where to die.
const crashName = "basilica-crash"

const crashList = "testdata/crashpoints.txt"

// rareList has the points of crashList that a process comes to only after a long life, or when others die at the right
// moment: the short run leaves them out; in the long one a process dies at them whenever it comes there, and what they lack
// then is sought last.
const rareList = "testdata/crashpoints-rare.txt"

// crashParts are the parts of the network that die, with their roles.
var crashParts = [][2]string{{"localnet", "localnet"}, {"miner", "miner"}, {"box-1", "executor"}, {"box-2", "executor"}, {"validator", "validator"}}

// readCrashPoints reads the committed list: a role, a phase and a name on every line.
func readCrashPoints(t *testing.T, list string) []crashPoint {
	t.Helper()
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	var points []crashPoint
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			t.Fatalf("%s: %q is not ROLE PHASE POINT", list, line)
		}
		points = append(points, crashPoint{f[0], f[1], f[2]})
	}
	return points
}

// chooseCrashPoints gives what this run kills at, and how often: everything KILLS times where KILLS is set, else once the
// tenth of all points that the commit chooses. CRASH_TENTH (0 to 9) names another tenth, CRASH_ONLY a regular expression of
// lines of the list.
func chooseCrashPoints(t *testing.T, all, rare []crashPoint) (points []crashPoint, kills int) {
	t.Helper()
	if text := os.Getenv("CRASH_ONLY"); text != "" {
		only, err := regexp.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		all = slices.DeleteFunc(slices.Clone(all), func(p crashPoint) bool { return !only.MatchString(p.String()) })
	}
	if text := os.Getenv("KILLS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("KILLS=%q is no number from 1", text)
		}
		return all, n
	}
	if os.Getenv("CRASH_ONLY") != "" {
		return all, 1
	}
	tenth := 0
	if text := os.Getenv("CRASH_TENTH"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		tenth = n
	} else if head, err := exec.Command("git", "rev-parse", "HEAD").Output(); err == nil {
		h := fnv.New32a()
		_, _ = h.Write(bytes.TrimSpace(head)) // a hash takes everything
		tenth = int(h.Sum32() % 10)
	}
	t.Logf("tenth %d of the crash points; CRASH_TENTH=%d repeats it", tenth, tenth)
	for i, p := range all {
		if i%10 == tenth && !slices.Contains(rare, p) {
			points = append(points, p)
		}
	}
	return points, 1
}

// TestCrash kills the roles of a real network with signal 9, each at its named points, starts them again, and proves after
// every death what must hold: every job ends once and as it must, one holder per GPU, nothing is left behind. CRASH_NETS is
// the number of networks beside each other. CRASH_WRITE=1 writes the list of points anew, =add adds to it.
func TestCrash(t *testing.T) {
	needEngine(t)
	t.Parallel()
	if os.Getenv("CRASH_WRITE") != "" {
		c := newCrashCampaign(t, newCrashTable(), nil)
		c.look()
		c.finish()
		c.write()
		return
	}
	all, rare := readCrashPoints(t, crashList), readCrashPoints(t, rareList)
	points, kills := chooseCrashPoints(t, all, rare)
	nets := 1
	if text := os.Getenv("CRASH_NETS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("CRASH_NETS=%q is no number from 1", text)
		}
		nets = n
	}
	table := newCrashTable()
	queue := newCrashQueue(t, points, rare, kills)
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt) // what was seen until then is worth its table
	defer signal.Stop(interrupted)
	go func() {
		if _, ok := <-interrupted; ok {
			queue.stop()
		}
	}()
	t.Run("networks", func(t *testing.T) {
		for i := range nets {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				if nets > 1 { // one alone has its place already, and does not wait for another
					t.Parallel()
				}
				c := newCrashCampaign(t, table, queue)
				c.run()
				c.finish()
				c.unknown(all)
			})
		}
	})
	t.Logf("\n%s%s", table.print(points), time.Since(table.began).Round(time.Second))
	for _, p := range points {
		if row := table.rows[p]; row == nil || row.kills < kills {
			t.Errorf("%s: fewer than %d kills", p, kills)
		}
	}
}

// crashCampaign is one network whose roles are killed.
type crashCampaign struct {
	t       *testing.T
	ctx     context.Context
	network *node.Network
	launch  *crashLauncher
	jobs    *crashJobs
	audit   *crashAudit
	admin   *admin.Client
	chain   string
	table   *crashTable
	queue   *crashQueue        // nil: nobody is to die
	alone   sync.RWMutex       // held for writing where no other role may die
	sealed  atomic.Bool        // weights are to be sealed from now on
	words   *pallet.Runtime    // of the chain; administer's
	stop    context.CancelFunc // of watching and working
	workers sync.WaitGroup

	provoking sync.WaitGroup // what provoke began
}

func newCrashCampaign(t *testing.T, table *crashTable, queue *crashQueue) *crashCampaign {
	t.Helper()
	dir := t.TempDir()
	traces := filepath.Join(dir, "crash")
	if err := os.Mkdir(traces, 0o700); err != nil {
		t.Fatal(err)
	}
	rpc, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	c := &crashCampaign{t: t, launch: newCrashLauncher(program(crashName), traces), table: table, queue: queue, chain: "ws://" + rpc}
	network, err := node.NewNetwork(t.Context(), node.UpConfig{
		DataDir: filepath.Join(dir, "net"), RPC: rpc, Attestor: program(attestorName), Executable: program(crashName), Launcher: c.launch,
	}, node.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	c.network = network
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
		if left := leftovers(t, network.Dir()); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if t.Failed() && os.Getenv("CRASH_KEEP") != "" {
			if said, err := exec.Command("cp", "-r", dir, os.Getenv("CRASH_KEEP")).CombinedOutput(); err != nil {
				t.Logf("keep: %v: %s", err, said)
			}
		}
	})
	if err := network.Start(); err != nil {
		t.Fatal(err)
	}
	c.ctx, c.stop = context.WithCancel(t.Context())
	if c.audit, err = newCrashAudit(network.Dir(), c.launch); err != nil {
		t.Fatal(err)
	}
	if err := c.audit.events(c.ctx); err != nil {
		t.Fatal(err)
	}
	if c.admin, err = node.MinerAdmin(node.MinerConfig{DataDir: filepath.Join(network.Dir(), "miner")}); err != nil {
		t.Fatal(err)
	}
	if c.jobs, err = newCrashJobs(network, c.chain, 4); err != nil {
		t.Fatal(err)
	}
	for _, part := range crashParts {
		if err := c.launch.role(part[0]).tell("run", ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.thirdMachine(); err != nil {
		t.Fatal(err)
	}
	for _, worker := range c.jobs.clients {
		c.workers.Go(func() { c.jobs.work(c.ctx, worker) })
	}
	c.workers.Go(func() { c.audit.watch(c.ctx) })
	c.workers.Go(c.administer)
	return c
}

// administer does now and then what a person does at the miner.
func (c *crashCampaign) administer() {
	chain := subtensor.New(subtensor.Config{URL: c.chain}, slog.New(slog.DiscardHandler))
	defer chain.Close()
	for round := 0; rest(c.ctx, 700*time.Millisecond) == nil; round++ {
		ctx, cancel := context.WithTimeout(c.ctx, 5*time.Second)
		watching, enough := context.WithCancel(ctx)
		_ = chain.WatchHeads(watching, func(basilica.Header) error { enough(); return nil }) // the chain may die under it
		enough()
		c.ask(ctx, "state_getMetadata")
		c.repeat(ctx)
		c.seal(ctx, round/8%2 == 1 || c.sealed.Load())
		if _, token, err := c.admin.CreateToken(ctx, "", time.Minute); err == nil {
			_ = c.admin.RevokeToken(ctx, token.ID)
		}
		for _, drain := range []bool{true, false} { // a miner that dies in between must not leave the machine out of service
			for {
				if err := c.admin.Drain(ctx, "box-2", drain, 0); err == nil || rest(ctx, 200*time.Millisecond) != nil {
					break
				}
			}
		}
		if round%4 == 0 {
			c.joinThird() // the miner may die at any of these; the next round asks again
			c.revokeThird()
			_ = c.admin.Rename(ctx, "box-1", fmt.Sprint("the first, ", round))
			_, _ = c.admin.Label(ctx, "box-1", map[string]string{"round": fmt.Sprint(round)}, nil)
		}
		if _, err := c.admin.Members(ctx, "", 0); err == nil {
			_, _ = c.admin.Member(ctx, "box-1")
			_, _ = c.admin.Tokens(ctx)
		}
		cancel()
	}
}

// thirdMachine writes the configuration of a machine like the second one.
func (c *crashCampaign) thirdMachine() error {
	cfg := node.DefaultConfig()
	if err := node.LoadConfig(filepath.Join(c.network.Dir(), "box-2.toml"), nil, &cfg); err != nil {
		return err
	}
	cfg.Executor.DataDir = filepath.Join(c.network.Dir(), thirdName)
	cfg.Executor.Listen, cfg.Executor.SSHListen = "127.0.0.1:0", "127.0.0.1:0"
	return node.WriteConfig(filepath.Join(c.network.Dir(), thirdName+".toml"), map[string]any{"executor": cfg.Executor})
}

// run kills until the queue is empty, all parts beside each other.
func (c *crashCampaign) run() {
	var parts sync.WaitGroup
	for _, part := range crashParts {
		parts.Go(func() {
			settled := make(chan struct{}) // of the kill before: the next death is waited for meanwhile
			close(settled)
			defer func() { <-settled }()
			for c.ctx.Err() == nil {
				p, n, alone, ok := c.queue.next(part[1])
				if !ok {
					if part[1] != "executor" || c.queue.empty() {
						return
					}
					c.stopNowAndThen(c.launch.role(part[0])) // what a miner does about jobs that were lost is met no other way
					continue
				}
				at, met, err := c.kill(c.launch.role(part[0]), p, n, alone)
				switch {
				case err != nil:
					c.t.Errorf("%s at %s: %v", part[0], p, err)
					c.stop()
				case met != nil:
					<-settled
					done := make(chan struct{})
					settled = done
					go func() { defer close(done); c.settle(at, met) }()
				case !c.queue.again(p):
					c.t.Logf("%s: the process did not come to this point", p) // the table of all kills judges it
				}
			}
		})
	}
	parts.Wait()
	c.provoking.Wait()
}

// stopNowAndThen ends a machine in order after a while, and starts it again.
func (c *crashCampaign) stopNowAndThen(m *mortal) {
	if rest(c.ctx, 30*time.Second) != nil {
		return
	}
	c.alone.RLock()
	defer c.alone.RUnlock()
	m.own.Lock()
	defer m.own.Unlock()
	if err := errors.Join(m.tell("stop", ""), m.end(60*time.Second), m.revive(c.ctx)); err != nil && c.ctx.Err() == nil {
		c.t.Error(err)
	}
}

// Patience with a point until the process comes to it, and with the jobs that a death met until they end.
const (
	firstPatience  = 6 * time.Second
	pointPatience  = 20 * time.Second
	settlePatience = 120 * time.Second
)

// kill has one role die at a point and starts it again. It gives the point at which it died, and the jobs that its death met:
// nil where the role did not come to the point in time. An error ends the campaign: the role does not come back.
func (c *crashCampaign) kill(m *mortal, p crashPoint, n int, alone bool) (crashPoint, map[string]bool, error) {
	// What comes at the end of a long way, a challenge for one, is hardly met while every other role dies all the time.
	release := c.alone.RUnlock
	if alone || provoked(p) {
		c.alone.Lock()
		release = c.alone.Unlock
	} else {
		c.alone.RLock()
	}
	m.own.Lock()
	defer m.own.Unlock()
	reached, err := c.die(m, p, n)
	release()
	met := c.jobs.unsettled()
	if err != nil || !reached {
		return p, nil, err
	}
	name, err := m.diedAt()
	if err != nil {
		return p, nil, err
	}
	if p, err = c.queue.met(p, name); err != nil {
		return p, nil, err
	}
	c.table.note(m.name + " at " + p.String())
	return p, met, m.revive(c.ctx)
}

// settle waits until every job that a death met has ended, and writes down what came of the kill.
func (c *crashCampaign) settle(p crashPoint, met map[string]bool) {
	ctx, cancel := context.WithTimeout(c.ctx, settlePatience)
	defer cancel()
	settled := c.jobs.settle(ctx, met)
	faults := 0
	c.table.tally(p, func(row *crashTally) {
		row.kills++
		if settled != nil && c.ctx.Err() == nil {
			row.lost++
			c.t.Errorf("%s: %v", p, settled)
		}
		faults = c.charge(row, p.String())
	})
	if line := c.table.progress(); line != "" {
		c.t.Log(line)
	}
	if faults > 0 || settled != nil {
		c.t.Logf("the kills before: %s", c.table.note(""))
	}
}

// die brings the process to its death at the point: in the phase that the list names, and in the others where it does not
// come there in time.
func (c *crashCampaign) die(m *mortal, p crashPoint, n int) (bool, error) {
	phases := map[string]func(*mortal, crashPoint, int) (bool, error){"start": c.dieAtStart, "run": c.dieRunning, "stop": c.dieAtStop}
	order := []string{p.phase}
	for _, other := range []string{"run", "start", "stop"} {
		if other != p.phase {
			order = append(order, other)
		}
	}
	for _, phase := range order {
		dead, err := phases[phase](m, p, n)
		if err != nil && m.died(firstPatience) && errors.Is(m.howEnded(), errDied) {
			return true, nil // late, at this point or at one that was given up
		}
		if dead || err != nil {
			return dead, err
		}
	}
	return false, nil
}

func (c *crashCampaign) dieAtStart(m *mortal, p crashPoint, _ int) (bool, error) {
	if strings.Contains(p.name, "images/load") { // a machine that ends in order takes its image along
		if err := m.tell("stop", ""); err != nil {
			return false, err
		}
		if err := m.end(60 * time.Second); err != nil {
			return false, errors.Join(err, m.revive(c.ctx))
		}
	} else {
		m.kill() // anywhere: the next start recovers from that
	}
	if m.role == "miner" { // it has to publish its axon anew
		if err := rewrite(m.role, m.config, func(c *node.Config) {
			host, port, _ := strings.Cut(c.Miner.AxonAdvertise, ":")
			other := map[string]string{"127.0.0.2": "127.0.0.3:", "127.0.0.3": "127.0.0.2:"}
			c.Miner.AxonAdvertise = other[host] + port
		}); err != nil {
			return false, err
		}
	}
	again, err := c.age(m, p)
	if err = errors.Join(err, c.provoke(m, p)); err != nil {
		return false, errors.Join(err, again(), m.revive(c.ctx))
	}
	err = m.start(c.ctx, p.name+c.queue.also(p.role))
	if err := again(); err != nil {
		return false, errors.Join(err, m.revive(c.ctx))
	}
	switch {
	case errors.Is(err, errDied):
		return true, nil
	case err != nil: // another part is away, for which a start may give up
		return false, m.revive(c.ctx)
	case m.died(firstPatience) || rotates(p) && m.died(pointPatience): // machines that lost their miner come back slowly
		return c.byNine(m)
	}
	return c.disarm(m)
}

func (c *crashCampaign) dieAtStop(m *mortal, p crashPoint, _ int) (bool, error) {
	if err := m.tell("stop", p.name+c.queue.also(p.role)); err != nil {
		return false, err
	}
	err := m.end(60 * time.Second)
	if errors.Is(err, errDied) {
		return true, nil
	}
	return false, errors.Join(err, m.revive(c.ctx))
}

func (c *crashCampaign) dieRunning(m *mortal, p crashPoint, n int) (bool, error) {
	if err := m.tell("run", fmt.Sprintf("%s#%d%s", p.name, n, c.queue.also(p.role))); err != nil {
		return false, err
	}
	if err := c.provoke(m, p); err != nil {
		return false, err
	}
	if m.died(firstPatience) {
		return c.byNine(m)
	}
	if err := m.tell("run", p.name+c.queue.also(p.role)); err == nil && !m.died(pointPatience) {
		return c.disarm(m)
	}
	return c.byNine(m)
}

// disarm has a process that did not come to its point live on. It says true where it came there just now.
func (c *crashCampaign) disarm(m *mortal) (bool, error) {
	if err := m.obey("run", ""); err != nil && m.died(0) {
		return c.byNine(m)
	}
	return false, nil
}

func (c *crashCampaign) byNine(m *mortal) (bool, error) {
	if !m.died(firstPatience) {
		return false, fmt.Errorf("%s lives", m.name)
	}
	if err := m.howEnded(); !errors.Is(err, errDied) {
		return false, fmt.Errorf("it ended by itself: %w", err)
	}
	return true, nil
}

// charge writes what was seen since the last kill on the account of this one. It runs inside a change of the table.
func (c *crashCampaign) charge(row *crashTally, where string) int {
	c.jobs.mu.Lock()
	lost := c.jobs.faults
	c.jobs.faults = nil
	c.jobs.mu.Unlock()
	row.lost += len(lost)
	faults := append(c.audit.take(), lost...)
	for _, f := range faults {
		switch {
		case strings.HasPrefix(f, "orphan"):
			row.orphans++
		case strings.Contains(f, "is held under") || strings.Contains(f, "containers were started") || strings.Contains(f, "doubled"):
			row.doubled++
		}
		c.t.Errorf("%s: %s", where, f)
	}
	return len(faults)
}

// TestReleaseHasNoCrashPoints: only the build of the tag crash can be told to die.
func TestReleaseHasNoCrashPoints(t *testing.T) {
	for name, want := range map[string]bool{programName: false, attestorName: false, crashName: true} {
		text, err := os.ReadFile(program(name))
		if err != nil {
			t.Fatal(err)
		}
		for _, trace := range []string{"BASILICA_CRASH", "internal/crashpoint.HitCaller", "wire.crashStream"} {
			if got := bytes.Contains(text, []byte(trace)); got != want {
				t.Errorf("%s holds %q: %v", name, trace, got)
			}
		}
	}
}

// look lets the network work, and its roles die anywhere, so that every point is met.
func (c *crashCampaign) look() {
	for round := range 4 {
		if rest(c.ctx, 15*time.Second) != nil {
			return
		}
		for _, part := range crashParts {
			m := c.launch.role(part[0])
			if round == 0 {
				if err := errors.Join(m.tell("stop", ""), m.end(30*time.Second)); err != nil {
					c.t.Error(err)
				}
			} else {
				m.kill()
			}
			if err := m.revive(c.ctx); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	if err := rest(c.ctx, 60*time.Second); err != nil {
		c.t.Error(err)
	}
}

// finish lets every job end, proves what must hold then, stops and starts every role once in good order, and proves it
// again.
func (c *crashCampaign) finish() {
	c.jobs.close()
	ctx, cancel := context.WithTimeout(c.ctx, settlePatience)
	defer cancel()
	if err := c.jobs.settle(ctx, c.jobs.unsettled()); err != nil {
		c.t.Error(err)
	}
	c.proven("after the kills")
	for _, part := range crashParts {
		m := c.launch.role(part[0])
		if err := m.tell("stop", ""); err != nil {
			c.t.Error(err)
		}
		if err := m.end(30 * time.Second); err != nil {
			c.t.Errorf("end %s: %v", part[0], err)
		}
		if err := m.revive(c.ctx); err != nil {
			c.t.Error(err)
		}
	}
	c.proven("after another start")
	weightsOnce(c.t, c.chain, filepath.Join(c.network.Dir(), "validator", "validator.sqlite"))
	c.stop()
	c.workers.Wait()
	c.joined()
	c.table.mu.Lock()
	for _, job := range c.jobs.ended {
		c.table.states[job.result.Task.State]++
	}
	for code, n := range c.jobs.lost() {
		c.table.lost[code] += n
	}
	c.table.mu.Unlock()
	for _, worker := range c.jobs.clients {
		if err := worker.Close(); err != nil {
			c.t.Error(err)
		}
	}
}

func (c *crashCampaign) proven(when string) {
	if err := c.audit.settled(c.ctx, 30*time.Second); err != nil {
		c.t.Errorf("%s: %v", when, err)
	}
	c.jobs.mu.Lock()
	tasks, ended := maps.Clone(c.jobs.tasks), slices.Clone(c.jobs.ended)
	c.jobs.mu.Unlock()
	for _, twice := range c.audit.doubled(tasks) {
		c.t.Errorf("%s: doubled: %s", when, twice)
	}
	if err := receiptChain(ended); err != nil {
		c.t.Errorf("%s: %v", when, err)
	}
	c.table.tally(crashPoint{"all", "", "at the end"}, func(row *crashTally) { c.charge(row, when) })
}

// unknown refuses a point that a role has and the committed list has not.
func (c *crashCampaign) unknown(known []crashPoint) {
	met, err := crashTrace(c.launch)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range merged(met) {
		if !slices.ContainsFunc(known, func(k crashPoint) bool { return k.role == p.role && k.name == p.name }) {
			c.t.Errorf("the %s has a crash point that %s does not know: add the line %q", p.role, crashList, p)
		}
	}
}

// write adds what was met to the committed list.
func (c *crashCampaign) write() {
	seen, err := crashTrace(c.launch)
	if err != nil {
		c.t.Fatal(err)
	}
	if os.Getenv("CRASH_WRITE") == "add" {
		for _, p := range readCrashPoints(c.t, crashList) {
			if !slices.ContainsFunc(merged(seen), func(m crashPoint) bool { return m.role == p.role && m.name == p.name }) {
				seen[p] = 1
			}
		}
	}
	var text strings.Builder
	for _, p := range merged(seen) {
		fmt.Fprintln(&text, p)
	}
	if err := os.WriteFile(crashList, []byte(text.String()), 0o644); err != nil {
		c.t.Fatal(err)
	}
}
