package miner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica"
	"basilica/keys"
	"basilica/pki"
)

// Who may submit tasks.
const (
	ComputeOpen      = "open"
	ComputeAllowList = "allow-list"
	ComputeClosed    = "closed"
)

// Config is what a miner is told. Zero limits take the defaults that stand beside them.
type Config struct {
	NetUID        basilica.NetUID
	Axon          basilica.Axon // what is published on chain: Addr, Version, Protocol, TLSKey
	FleetAddr     string        // host:port of the fleet door as executors reach it; it stands in join tokens
	Version       string        // of Basilica
	Compute       string        // ComputeOpen, ComputeAllowList or ComputeClosed
	AllowList     []basilica.Hotkey
	MinStake      basilica.Rao  // a validator with less is refused
	MaxGrants     int           // grants of one validator in ten minutes; 600
	MaxOpenTasks  int           // unfinished tasks of one client; 64
	MaxBlobBytes  int64         // stored blobs of one client; 32 GiB
	KeepBlobs     time.Duration // after a client or one of its tasks last touched them; 24 h
	KeepLogs      time.Duration // after a task's end; 7 days
	KeepTasks     time.Duration // after a task's end; 30 days
	BeatTTL       time.Duration // an executor silent for longer is not ready; 10 s
	LostAfter     time.Duration // without a word between miner and executor: then the executor ends a task, and its miner counts it as lost; 10 min
	Grace         time.Duration // by which the miner counts later than the executor ends; 10 s
	Retry         time.Duration // first wait before a refused or broken call is repeated; it doubles up to 10 s; 500 ms
	Tick          time.Duration // longest rest of the dispatcher; 1 s
	MaxAttempts   int           // placements of one task that certainly never ran, beside those on busy executors; 5
	RefreshEvery  time.Duration // shortest time between two reads of the metagraph; 1 s
	PublishAgain  time.Duration // wait after a failed publication of the axon; 12 s
	ReleaseEvery  time.Duration // between two rounds of forgetting ended attempts; 2 s
	MaxQueueTasks int           // tasks that may wait at once; 10000
	ProbeEvery    time.Duration // between two dials of every executor; 30 s
}

func (c Config) withDefaults() Config {
	c.MaxGrants = cmp.Or(c.MaxGrants, 600)
	c.MaxOpenTasks = cmp.Or(c.MaxOpenTasks, 64)
	c.MaxBlobBytes = cmp.Or(c.MaxBlobBytes, 32<<30)
	c.KeepBlobs = cmp.Or(c.KeepBlobs, 24*time.Hour)
	c.BeatTTL = cmp.Or(c.BeatTTL, 10*time.Second)
	c.KeepLogs = cmp.Or(c.KeepLogs, 7*24*time.Hour)
	c.KeepTasks = max(cmp.Or(c.KeepTasks, 30*24*time.Hour), c.KeepLogs)
	c.LostAfter = cmp.Or(c.LostAfter, 10*time.Minute)
	c.Grace = cmp.Or(c.Grace, 10*time.Second)
	c.Retry = cmp.Or(c.Retry, 500*time.Millisecond)
	c.Tick = cmp.Or(c.Tick, time.Second)
	c.MaxAttempts = cmp.Or(c.MaxAttempts, 5)
	c.RefreshEvery = cmp.Or(c.RefreshEvery, time.Second)
	c.PublishAgain = cmp.Or(c.PublishAgain, 12*time.Second)
	c.ReleaseEvery = cmp.Or(c.ReleaseEvery, 2*time.Second)
	c.MaxQueueTasks = cmp.Or(c.MaxQueueTasks, 10_000)
	c.ProbeEvery = cmp.Or(c.ProbeEvery, 30*time.Second)
	c.Compute = cmp.Or(c.Compute, ComputeOpen)
	return c
}

// Parts is what a miner works with.
type Parts struct {
	Hotkey    keys.Signer
	Chain     Chain
	Authority *pki.Authority
	Store     Store
	Blobs     Blobs
	Logs      Logs
	// PeerKey dials addr and gives the DER SubjectPublicKeyInfo that the machine there holds.
	PeerKey func(ctx context.Context, addr string) (spki []byte, err error)
	// Knock dials addr and hangs up; nil where something answers. Optional.
	Knock func(ctx context.Context, addr string) error
	// Cut ends every connection with an executor, with a reason for its last word.
	Cut func(id basilica.ExecutorID, why error)
	// RekeyAxon makes a new TLS key for the axon, which holds both from then on, and gives it as a chain has it.
	RekeyAxon func() (key []byte, err error)
	// Executor speaks to the gRPC door of an enrolled executor.
	Executor func(id basilica.ExecutorID, addr string) basilica.Executor
	Now      func() time.Time
	Log      *slog.Logger
}

// Store is all that a miner must not lose, by what for.
type Store interface {
	Enrollments
	Fleet
	Grants
	Tasks
	Queue
	Attempts
	BlobOwners
}

// Miner is the role. It implements basilica.Miner for its axon and basilica.Fleet for its executors.
type Miner struct {
	Parts
	cfg    Config
	self   basilica.Hotkey
	subnet subnet
	serves serves
	bell   *bell
	waits  waits
	coming coming
	twins  twins
	reach  reach
	news   *news
	began  time.Time // of this process's work

	// blobUse is held for reading while the owner of content is being recorded, so that content without an owner yet is not
	// swept away.
	blobUse sync.RWMutex
	// joining is held for reading while a token is made and while a machine is admitted, so that an authority that is being
	// replaced has neither a token left nor a machine that knows nothing of its successor.
	joining sync.RWMutex
}

var (
	_ basilica.Miner = (*Miner)(nil)
	_ basilica.Fleet = (*Miner)(nil)
)

// New makes a miner; Run starts it.
func New(cfg Config, parts Parts) *Miner {
	return &Miner{
		Parts: parts, cfg: cfg.withDefaults(), self: basilica.Hotkey(parts.Hotkey.SS58()), serves: serves{axon: cfg.Axon}, bell: newBell(), news: newNews(), began: parts.Now(), coming: coming{by: map[basilica.Hotkey]map[basilica.Digest]*upload{}},
		twins: twins{by: map[basilica.ExecutorID]*speaker{}},
		reach: reach{fails: map[basilica.ExecutorID]int{}, why: map[basilica.ExecutorID]*basilica.Reason{}},
	}
}

// Run follows the chain and dispatches tasks until ctx ends. It refuses to work for a hotkey that is not registered
// (MINER_NOT_REGISTERED).
func (m *Miner) Run(ctx context.Context) error {
	err := m.join(ctx)
	if err == nil {
		err = m.work(ctx)
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (m *Miner) work(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.followChain(ctx) })
	g.Go(func() error { return m.dispatch(ctx) })
	g.Go(func() error { return m.tidy(ctx) })
	g.Go(func() error { return m.rotate(ctx) })
	g.Go(func() error { return m.probe(ctx) })
	return g.Wait()
}

// up is for how long this process has worked. A miner that was away cannot tell who was silent meanwhile: it counts the
// silence of executors from its own start.
func (m *Miner) up() time.Duration { return m.Now().Sub(m.began) }

// Health gives nil where the miner is registered and has seen the chain lately.
func (m *Miner) Health(context.Context) error {
	snapshot, at := m.subnet.read()
	if snapshot == nil {
		return basilica.E(basilica.Unavailable, "CHAIN_NOT_READ", "the metagraph has not been read yet", "check [chain] url and that the node answers")
	}
	if age := m.Now().Sub(at); age > maxSnapshotAge {
		return basilica.E(basilica.Unavailable, "CHAIN_STALE", fmt.Sprintf("the metagraph was last read %s ago", age.Round(time.Second)), "check [chain] url and that the node answers")
	}
	if _, ok := snapshot.ByHotkey(m.self); !ok {
		return m.notRegistered()
	}
	return nil
}

// Status is what a miner says of itself.
type Status struct {
	Hotkey    basilica.Hotkey            `json:"hotkey"`
	NetUID    basilica.NetUID            `json:"netuid"`
	UID       *basilica.UID              `json:"uid,omitempty"`
	Block     basilica.BlockNumber       `json:"block"`
	Axon      string                     `json:"axon"`
	Published bool                       `json:"published"` // the chain names Axon
	Incentive uint16                     `json:"incentive"` // share of 65535
	Executors int                        `json:"executors"`
	Ready     int                        `json:"ready"`
	Tasks     map[basilica.TaskState]int `json:"tasks"` // not yet ended
	Grants    int                        `json:"grants"`
}

// Status reads what the miner is busy with.
func (m *Miner) Status(ctx context.Context) (Status, error) {
	s := Status{Hotkey: m.self, NetUID: m.cfg.NetUID, Axon: m.serves.now().Addr.String(), Tasks: map[basilica.TaskState]int{}}
	if snapshot, _ := m.subnet.read(); snapshot != nil {
		s.Block = snapshot.Block
		if n, ok := snapshot.ByHotkey(m.self); ok {
			s.UID, s.Incentive, s.Published = &n.UID, n.Incentive, m.published(n.Axon)
		}
	}
	members, err := m.Store.Members(ctx)
	if err != nil {
		return s, fmt.Errorf("list executors: %w", err)
	}
	s.Executors = len(members)
	for _, e := range members {
		if m.notReady(e) == nil {
			s.Ready++
		}
	}
	open, err := m.Store.OpenTasks(ctx)
	if err != nil {
		return s, fmt.Errorf("list tasks: %w", err)
	}
	for _, t := range open {
		s.Tasks[t.State]++
	}
	grants, err := m.Store.LiveGrants(ctx)
	if err != nil {
		return s, fmt.Errorf("list grants: %w", err)
	}
	s.Grants = len(grants)
	return s, nil
}

// rest waits for d or the end of ctx.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// bell tells those who wait for a task that something about it has changed. The empty id is the whole queue.
type bell struct {
	mu      sync.Mutex // guards waiting
	waiting map[basilica.TaskID]chan struct{}
}

func newBell() *bell { return &bell{waiting: map[basilica.TaskID]chan struct{}{}} }

// next gives a channel that closes with the next ring for id.
func (b *bell) next(id basilica.TaskID) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c, ok := b.waiting[id]; ok {
		return c
	}
	c := make(chan struct{})
	b.waiting[id] = c
	return c
}

func (b *bell) ring(ids ...basilica.TaskID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		if c, ok := b.waiting[id]; ok {
			close(c)
			delete(b.waiting, id)
		}
	}
}
