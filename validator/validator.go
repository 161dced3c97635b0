// Package validator is the role that discovers miners, has their machines prove what they claim, and sets weights by what
// was proven. It decides and it keeps no secret of how: it knows no SQL, no SSH library and no JSON-RPC.
package validator

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica"
	"basilica/attest"
	"basilica/keys"
	"basilica/score"
)

// Chain is what a validator needs of a node.
type Chain interface {
	WatchHeads(ctx context.Context, f func(basilica.Header) error) error
	Metagraph(ctx context.Context, netuid basilica.NetUID) (*basilica.Metagraph, error)
	Weights(ctx context.Context, netuid basilica.NetUID, uid basilica.UID) ([]basilica.Weight, error)
	SetWeights(ctx context.Context, netuid basilica.NetUID, hotkey keys.Signer, weights []basilica.Weight, versionKey uint64, intend func(basilica.Signed) error) (basilica.Inclusion, error)
	Fate(ctx context.Context, s basilica.Signed) (basilica.Inclusion, bool, error)
	FollowCommit(ctx context.Context, netuid basilica.NetUID, hotkey basilica.Hotkey, c basilica.WeightCommit, weights []basilica.Weight) (basilica.WeightCommit, error)
	RevealWeights(ctx context.Context, netuid basilica.NetUID, hotkey keys.Signer, c basilica.WeightCommit, weights []basilica.Weight) (basilica.Inclusion, error)
}

// MinerDoor is the one thing that a validator asks of a miner.
type MinerDoor interface {
	OpenValidation(ctx context.Context, req basilica.ValidationRequest) (basilica.ValidationGrant, error)
}

// Session is an authenticated connection to one executor.
type Session interface {
	Subsystem(ctx context.Context, name string) (io.ReadWriteCloser, error)
	SessionID() []byte
	HostKeyBlob() []byte
	Close() error
}

// Book keeps what must survive: rounds, verdicts, standings, pins and weights of one subnet.
type Book interface {
	OpenRound(ctx context.Context, r basilica.Round) error
	KeepFinding(ctx context.Context, r basilica.Round, v basilica.Verification, pin *basilica.Pin) error
	CloseRound(ctx context.Context, r basilica.Round, verifications []basilica.Verification, pins []basilica.Pin, standings map[basilica.ExecutorKey]score.Standing) error
	OpenRounds(ctx context.Context) ([]basilica.Round, error)
	Findings(ctx context.Context, r basilica.Round) ([]basilica.Verification, []basilica.Pin, error)
	Rounds(ctx context.Context, limit int) ([]basilica.Round, error)
	Standings(ctx context.Context) (map[basilica.ExecutorKey]score.Standing, map[basilica.ExecutorKey]basilica.BlockNumber, error)
	Pins(ctx context.Context) (map[basilica.ExecutorKey]basilica.Pin, error)
	IntendWeights(ctx context.Context, w basilica.WeightIntent) error
	SaveWeightSet(ctx context.Context, round basilica.RoundID, w basilica.WeightSet, settled bool) error
	LastWeights(ctx context.Context) (basilica.WeightIntent, bool, error)
	OpenCommits(ctx context.Context) ([]basilica.HeldCommit, error)
	SaveCommit(ctx context.Context, h basilica.HeldCommit) error
	ForgetNames(ctx context.Context, before time.Time, limit int) (gone []basilica.ExecutorKey, err error)
	Forget(ctx context.Context, before time.Time, after int64, least, limit int) (next int64, more bool, err error)
}

// Archive keeps records of raw frames.
type Archive interface {
	// Spool is for the frames of one running challenge.
	Spool() (basilica.Spool, error)
	PutEvidence(record io.WriterTo) (basilica.Blob, error)
	// DropEvidence keeps so many records of so many bytes, whoever brings many losing his own oldest.
	DropEvidence(ctx context.Context, maxCount int, maxBytes int64, now time.Time) (int, error)
}

// Config is everything that a validator is given.
type Config struct {
	NetUID  basilica.NetUID
	Hotkey  keys.Signer
	Chain   Chain
	Book    Book
	Archive Archive
	// Door reaches the axon of a neuron. A value that is an io.Closer is closed after use.
	Door func(n basilica.Neuron) (MinerDoor, error)
	// Dial connects to an executor with the ephemeral key that its certificate is for.
	Dial func(ctx context.Context, access basilica.GrantedAccess, key ed25519.PrivateKey) (Session, error)

	RoundBlocks    uint64          // blocks of a round
	Slots          uint64          // parts of a round, 1..RoundBlocks; this validator looks in one of them
	Policy         score.Policy    // of the formula
	BurnShare      float64         // 0..1
	Profiles       attest.Profiles // of GPU models
	Limits         attest.Limits   // of a challenge; zero fields take the specification's
	Squarings      uint64          // T of the delay function, 0: none
	PublicVDF      bool            // ask for a proof that anybody can check, instead of an answer that convinces this validator
	CCRoot         []byte          // certificate (DER) of the root of GPUs' confidential-computing reports; empty: none is looked at
	MaxExecutors   int             // of one miner
	Parallel       int             // executors whose proofs are read at once
	AllowPrivate   bool            // axons on private or loopback addresses
	AllowPlain     bool            // axons without a TLS key: localnet alone
	EvidenceCount  int             // record files kept
	EvidenceBytes  int64           // of all record files
	KeepResults    time.Duration   // of rounds, verifications and weight sets, after their end
	ConnectTimeout time.Duration   // of one OpenValidation or SSH connection
	CheckTimeout   time.Duration   // of facts and task_path, each
	RoundTimeout   time.Duration   // of a whole round

	Now    func() time.Time     // the wall's clock, read at the start and for the proof's deadlines
	Uptime func() time.Duration // a clock that only moves forward, at the pace of time
	Random io.Reader
	Log    *slog.Logger
}

// Codes of what a validator is doing or waiting for.
const (
	CodeStarting      = "STARTING"
	CodeWaiting       = "WAITING_FOR_ROUND"
	CodeVerifying     = "VERIFYING"
	CodeNoPermit      = "NO_PERMIT"
	CodeNotRegistered = "NOT_REGISTERED"
	CodeChainAway     = "CHAIN_AWAY"
)

// Status is what a validator is busy with.
type Status struct {
	Code      string                `json:"code"`
	Sentence  string                `json:"sentence"`
	Fix       string                `json:"fix,omitempty"`
	Hotkey    basilica.Hotkey       `json:"hotkey"`
	UID       *basilica.UID         `json:"uid,omitempty"`
	NetUID    basilica.NetUID       `json:"netuid"`
	Head      basilica.BlockNumber  `json:"head"`
	Round     *basilica.BlockNumber `json:"round,omitempty"`      // that runs, or ran last
	NextRound basilica.BlockNumber  `json:"next_round,omitempty"` // block at which the next one begins
	Rounds    int                   `json:"rounds_completed"`     // since the start
	Executors int                   `json:"executors"`            // in the last round
	Passed    int                   `json:"passed"`               // of them
	Weights   *basilica.WeightSet   `json:"weights,omitempty"`    // last that the chain took
	LastError *basilica.Reason      `json:"last_error,omitempty"` // of setting weights
	// Commits are those whose reveal is awaited, oldest first.
	Commits     []basilica.WeightCommit `json:"commits,omitempty"`
	CommitsLost int                     `json:"commits_lost"` // since the start
}

// Validator is the role. Run is its life; Status and Health may be called meanwhile.
type Validator struct {
	cfg  Config
	self basilica.Hotkey

	gateTimeout time.Duration    // between the first and the last machine of a group
	now         func() time.Time // of everything that is stored; set before work begins

	// owned by the goroutine of work
	standings   map[basilica.ExecutorKey]score.Standing
	pins        map[basilica.ExecutorKey]basilica.Pin
	completed   *basilica.RoundID     // round that was completed last
	completedAt basilica.BlockNumber  // of its last verdict
	weighed     *basilica.RoundID     // round whose weights are settled
	notBefore   basilica.BlockNumber  // no weights before this head
	attempted   *attempt              // weights whose fate is unknown
	held        []basilica.HeldCommit // that the chain holds sealed, oldest first
	revealAt    basilica.BlockNumber  // no reveal before this head
	forgotten   forgetting

	mu     sync.Mutex // guards the rest
	status Status
	headAt time.Duration // uptime at the last finalized head
}

// New checks the configuration.
func New(cfg Config) (*Validator, error) {
	switch {
	case cfg.Hotkey == nil || cfg.Chain == nil || cfg.Book == nil || cfg.Archive == nil || cfg.Door == nil || cfg.Dial == nil:
		return nil, errors.New("validator: hotkey, chain, book, archive, door and dial are needed")
	case cfg.Now == nil || cfg.Uptime == nil || cfg.Random == nil || cfg.Log == nil:
		return nil, errors.New("validator: clocks, randomness and logger are needed")
	case cfg.RoundBlocks < 1 || cfg.Slots < 1 || cfg.Slots > cfg.RoundBlocks:
		return nil, errors.New("validator: a round has at least one block and at most one slot a block")
	case cfg.MaxExecutors < 1 || cfg.Parallel < 1 || cfg.EvidenceCount < 1 || cfg.EvidenceBytes < 1 || cfg.KeepResults <= 0:
		return nil, errors.New("validator: limits must be positive")
	case cfg.ConnectTimeout <= 0 || cfg.CheckTimeout <= 0 || cfg.RoundTimeout <= 0:
		return nil, errors.New("validator: timeouts must be positive")
	}
	v := &Validator{cfg: cfg, self: basilica.Hotkey(cfg.Hotkey.SS58()), gateTimeout: gateTimeout, headAt: cfg.Uptime()}
	v.status = Status{Code: CodeStarting, Sentence: "waiting for the first finalized block", Hotkey: v.self, NetUID: cfg.NetUID}
	return v, nil
}

// headPatience is how long a chain may go without a new finalized head before it is said to be away.
const headPatience = 5 * time.Minute

// Status says what the validator is busy with.
func (v *Validator) Status() Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.status
	if silent := v.cfg.Uptime() - v.headAt; silent > headPatience && (s.Code == CodeWaiting || s.Code == CodeStarting) {
		s.Code, s.Sentence = CodeChainAway, fmt.Sprintf("no new finalized block for %d minutes; rounds and weights wait", int(silent.Minutes()))
		s.Fix = "check chain.url and that the node runs and is synchronised"
	}
	return s
}

// Health is nil while the validator verifies or waits for its next round.
func (v *Validator) Health(context.Context) error {
	s := v.Status()
	if s.Code == CodeWaiting || s.Code == CodeVerifying {
		return nil
	}
	return basilica.E(basilica.Unavailable, s.Code, s.Sentence, s.Fix)
}

func (v *Validator) update(f func(s *Status)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(&v.status)
}

func (v *Validator) say(code, sentence, fix string) {
	v.update(func(s *Status) { s.Code, s.Sentence, s.Fix = code, sentence, fix })
}

// Run follows the finalized heads until ctx ends: every round it verifies, scores and sets weights. A hotkey that is not
// registered, and a store that does not store, end it with an error.
func (v *Validator) Run(ctx context.Context) error {
	if err := v.load(ctx); ctx.Err() != nil {
		return nil
	} else if err != nil {
		return err
	}
	group, running := errgroup.WithContext(ctx)
	c := newCalendar(v.cfg.RoundBlocks, v.cfg.Slots, v.cfg.Hotkey.PublicKey())
	due, tick := make(chan basilica.Round, 1), make(chan struct{}, 1)
	group.Go(func() error {
		err := v.cfg.Chain.WatchHeads(running, func(h basilica.Header) error {
			round, starts := c.head(h)
			v.update(func(s *Status) { s.Head, s.NextRound, v.headAt = h.Number, c.next(h.Number), v.cfg.Uptime() })
			if starts {
				select {
				case <-due: // it waited for longer than a round
				default:
				}
				due <- round
			}
			select {
			case tick <- struct{}{}:
			default:
			}
			return nil
		})
		if running.Err() != nil {
			return nil
		}
		return fmt.Errorf("follow finalized heads: %w", err)
	})
	group.Go(func() error { return v.work(running, due, tick) })
	return group.Wait()
}

func (v *Validator) work(ctx context.Context, due <-chan basilica.Round, tick <-chan struct{}) error {
	for met := false; !met; {
		err := v.greet(ctx)
		if met = err == nil; met {
			break
		}
		if err := v.sorted(ctx, err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick: // the chain is back
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-due:
			if err := v.sorted(ctx, v.round(ctx, r)); err != nil {
				return err
			}
		case <-tick:
		}
		if err := v.sorted(ctx, v.watchCommits(ctx)); err != nil {
			return err
		}
		if err := v.sorted(ctx, v.weigh(ctx)); err != nil {
			return err
		}
		v.forget(ctx)
	}
}

// sorted gives back only what must end the validator; the rest is logged and shown, and the next round tries again.
func (v *Validator) sorted(ctx context.Context, err error) error {
	switch {
	case err == nil || ctx.Err() != nil:
		return nil
	case basilica.CodeOf(err) == CodeNotRegistered:
		v.say(CodeNotRegistered, notRegistered.Sentence, notRegistered.Fix)
		return err
	case basilica.KindOf(err) == basilica.Unavailable:
		v.say(CodeChainAway, "the chain does not answer", "check chain.url and that the node runs and is synchronised")
		v.cfg.Log.Warn("the chain does not answer", "err", err)
		return nil
	}
	return err
}

var notRegistered = basilica.Error{
	Kind: basilica.NotFound, Code: CodeNotRegistered,
	Sentence: "the validator's hotkey is not registered on the subnet",
	Fix:      "register it with `basilica subnet register`, or name the right hotkey file in [validator] hotkey",
}

// greet looks at the chain before the first round, so that a wrong key or subnet is said at once, and closes what the last
// process left open.
func (v *Validator) greet(ctx context.Context) error {
	mg, err := v.metagraph(ctx, 0)
	if err != nil {
		return err
	}
	me, err := v.me(mg)
	if err != nil {
		return err
	}
	v.cfg.Log.Info("validator is registered", "uid", me.UID, "hotkey", v.self, "netuid", mg.NetUID, "permit", me.ValidatorPermit, "block", mg.Block)
	return v.resume(ctx)
}

// metagraph reads the subnet and refuses one that is older than a block that was seen finalized.
func (v *Validator) metagraph(ctx context.Context, seen basilica.BlockNumber) (*basilica.Metagraph, error) {
	ctx, cancel := context.WithTimeout(ctx, v.cfg.ConnectTimeout)
	defer cancel()
	mg, err := v.cfg.Chain.Metagraph(ctx, v.cfg.NetUID)
	if err != nil {
		return nil, fmt.Errorf("fetch metagraph: %w", asUnavailable(err))
	}
	if mg.Block < seen {
		return nil, basilica.E(basilica.Unavailable, "STALE_METAGRAPH", fmt.Sprintf("the node's metagraph is of block %d, block %d was finalized already", mg.Block, seen), "use a node that is synchronised")
	}
	return mg, nil
}

// asUnavailable gives a timeout of ours the kind it has for the caller.
func asUnavailable(err error) error {
	if errors.Is(err, context.DeadlineExceeded) && basilica.CodeOf(err) == "" {
		return basilica.E(basilica.Unavailable, "TIMEOUT", "no answer in time", "").With(err)
	}
	return err
}

// me finds this validator; it says so where the permit is missing.
func (v *Validator) me(mg *basilica.Metagraph) (basilica.Neuron, error) {
	me, ok := mg.ByHotkey(v.self)
	if !ok {
		e := notRegistered
		return me, e.With(fmt.Errorf("hotkey %s, netuid %d, block %d", v.self, mg.NetUID, mg.Block))
	}
	v.update(func(s *Status) { s.UID = &me.UID })
	switch code := v.Status().Code; {
	case !me.ValidatorPermit:
		v.say(CodeNoPermit, "the hotkey has no validator permit: miners refuse it", "stake enough on the hotkey and wait for the next epoch of the subnet")
	case code == CodeStarting || code == CodeNoPermit || code == CodeChainAway:
		v.say(CodeWaiting, "waiting for the next round", "")
	}
	return me, nil
}
