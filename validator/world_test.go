package validator

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/attest"
	"basilica/attest/adversary"
	"basilica/attestor"
	"basilica/keys"
	"basilica/score"
	"basilica/store"
)

// era is how many blocks a transaction of chainDouble may wait.
const era = 64

// chainDouble is a node by hand: the test moves its head and decides what becomes of weights.
type chainDouble struct {
	mu    sync.Mutex
	mg    basilica.Metagraph
	heads chan basilica.Header
	set   func(w []basilica.Weight) (basilica.Inclusion, error)
	nonce uint64
	// included counts transactions that got as far as the node.
	included int
	sets     [][]basilica.Weight
	failMG   error
	// commit makes every set a commit; nil: they are set in the open. follow says what became of one.
	commit   *basilica.WeightCommit
	follow   func(c basilica.WeightCommit) basilica.WeightCommit
	revealed []basilica.WeightCommit
	// fate of what was sent; nil: it is in the block of the last update.
	fate func(s basilica.Signed) (basilica.Inclusion, bool, error)
	// weights are those that others set.
	weights map[basilica.UID][]basilica.Weight
}

func (c *chainDouble) WatchHeads(ctx context.Context, f func(basilica.Header) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case h := <-c.heads:
			if err := f(h); err != nil {
				return err
			}
		}
	}
}

func (c *chainDouble) Metagraph(context.Context, basilica.NetUID) (*basilica.Metagraph, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	mg := c.mg
	mg.Neurons = append([]basilica.Neuron(nil), c.mg.Neurons...)
	return &mg, c.failMG
}

func (c *chainDouble) SetWeights(_ context.Context, _ basilica.NetUID, k keys.Signer, w []basilica.Weight, _ uint64, intend func(basilica.Signed) error) (basilica.Inclusion, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nonce++
	signed := basilica.Signed{Extrinsic: basilica.Hash{byte(c.nonce)}, Nonce: c.nonce, Born: c.mg.Block, Death: c.mg.Block + era}
	if c.commit != nil {
		made := *c.commit
		made.Hash, made.Round = basilica.Hash{0xc0, byte(c.nonce)}, made.Round+c.nonce
		signed.Commit = &made
	}
	if err := intend(signed); err != nil {
		return basilica.Inclusion{}, err
	}
	c.included++
	c.sets = append(c.sets, w)
	if c.set != nil {
		return c.set(w)
	}
	return c.took(k), nil
}

func (c *chainDouble) Fate(_ context.Context, s basilica.Signed) (basilica.Inclusion, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fate != nil {
		return c.fate(s)
	}
	return basilica.Inclusion{Block: c.mg.Neurons[1].LastUpdate, Extrinsic: s.Extrinsic}, true, nil
}

func (c *chainDouble) FollowCommit(_ context.Context, _ basilica.NetUID, _ basilica.Hotkey, commit basilica.WeightCommit, _ []basilica.Weight) (basilica.WeightCommit, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.follow == nil || c.failMG != nil {
		return commit, c.failMG
	}
	return c.follow(commit), nil
}

func (c *chainDouble) RevealWeights(_ context.Context, _ basilica.NetUID, _ keys.Signer, commit basilica.WeightCommit, _ []basilica.Weight) (basilica.Inclusion, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revealed = append(c.revealed, commit)
	return basilica.Inclusion{Block: c.mg.Block + 1}, nil
}

func (c *chainDouble) Weights(_ context.Context, _ basilica.NetUID, uid basilica.UID) ([]basilica.Weight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.weights[uid], c.failMG
}

// took moves the validator's last update, as an inclusion does.
func (c *chainDouble) took(k keys.Signer) basilica.Inclusion {
	for i := range c.mg.Neurons {
		if c.mg.Neurons[i].Hotkey == basilica.Hotkey(k.SS58()) {
			c.mg.Neurons[i].LastUpdate = c.mg.Block + 1
		}
	}
	return basilica.Inclusion{Block: c.mg.Block + 1, Extrinsic: basilica.Hash{1}}
}

func (c *chainDouble) at(block basilica.BlockNumber) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mg.Block, c.mg.BlockHash = block, basilica.Hash{byte(block)}
}

// machine is one executor with a real prover.
type machine struct {
	id      basilica.ExecutorID
	key     *keys.P256 // attestation
	receipt *keys.P256
	host    []byte
	gpus    int
	uuid    *attest.UUID // instead of that of the software device
	cheat   string       // for adversary.Parse
	attest  func(ctx context.Context, rw io.ReadWriteCloser, b attest.Binding) error
	noTask  bool
	check   func(rw io.Writer) error // in place of its answer to the small task
	dialErr error
	skipped bool
	addr    string // instead of one of its own
	stalls  bool   // never confirms a channel
	// endorsed is the endorsement of a rotated key, in place of one that is made for the key as it is; earlier led to it.
	endorsed *basilica.SignedEndorsement
	earlier  []basilica.SignedEndorsement
}

func (m *machine) endorse(miner *keys.Pair) (basilica.SignedEndorsement, error) {
	if m.endorsed != nil {
		return *m.endorsed, nil
	}
	return basilica.Endorse(basilica.Endorsement{Executor: m.id, KeySPKI: m.receipt.SPKI(), AttestSPKI: m.key.SPKI(), HostKey: m.host, Issued: time.Now()}, miner)
}

// rotate gives the machine another attestation key, signed by the old one and by the miner.
func (m *machine) rotate(t testing.TB, miner *keys.Pair, next *keys.P256) {
	t.Helper()
	was, err := m.endorse(miner)
	if err != nil {
		t.Fatal(err)
	}
	present, err := was.Open()
	if err != nil {
		t.Fatal(err)
	}
	asked, err := basilica.Rotate(present, next.SPKI(), time.Now(), func(payload []byte) ([]byte, error) {
		return basilica.SignRotation(payload, m.key.SPKI(), m.key.Sign)
	})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := asked.Countersign(present, miner, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m.earlier, m.endorsed, m.key = append(m.earlier, was), &signed, next
}

func newMachine(t testing.TB, id basilica.ExecutorID) *machine {
	t.Helper()
	a, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	r, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	return &machine{id: id, key: a, receipt: r, host: []byte("host key of " + id), gpus: 1}
}

type renamed struct {
	attestor.Device
	uuid attest.UUID
}

func (r renamed) Info() attest.DeviceInfo {
	i := r.Device.Info()
	i.UUID = r.uuid
	return i
}

// claimed is a device that says of itself what a cheat wants.
type claimed struct {
	attestor.Device
	lie adversary.Cheat
}

func (c claimed) Info() attest.DeviceInfo { return c.lie.Info(c.Device.Info()) }

func (m *machine) prove(ctx context.Context, rw io.ReadWriteCloser, b attest.Binding) error {
	if m.attest != nil {
		return m.attest(ctx, rw, b)
	}
	cfg := attestor.Config{Binding: &b, Greeting: attest.Greeting{Version: "test", SPKI: m.key.SPKI()}, Sign: m.key.Sign, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	lie := adversary.Cheat{}
	if m.cheat != "" {
		var err error
		if lie, err = adversary.Parse(m.cheat); err != nil {
			return err
		}
	}
	if lie.Kind == adversary.Key {
		other, err := keys.GenerateP256()
		if err != nil {
			return err
		}
		cfg.Sign = other.Sign
	}
	lying := adversary.NewMachine(lie, attest.Serial)
	for i := range m.gpus {
		var d attestor.Device = claimed{attestor.NewSoftware(m.key.SPKI(), i, lying.Device()), lie}
		if m.uuid != nil {
			d = renamed{d, *m.uuid}
		}
		cfg.Devices = append(cfg.Devices, d)
	}
	_, err := attestor.Prove(ctx, rw, cfg)
	return err
}

// wireSession is an SSH connection by hand: every subsystem is a pipe to the machine.
type wireSession struct {
	m       *machine
	binding attest.Binding
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu    sync.Mutex
	pipes []net.Conn
}

func (s *wireSession) SessionID() []byte   { return s.binding.SessionID }
func (s *wireSession) HostKeyBlob() []byte { return s.binding.HostKey }

func (s *wireSession) Close() error {
	s.cancel()
	s.mu.Lock()
	for _, p := range s.pipes {
		p.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// refusing gives the far side's refusal at the end of the stream, as the SSH client does.
type refusing struct {
	net.Conn
	done chan error
}

func (r refusing) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	if err == io.EOF {
		if refusal := <-r.done; basilica.CodeOf(refusal) != "" {
			err = refusal
		}
	}
	return n, err
}

func (s *wireSession) Subsystem(ctx context.Context, name string) (io.ReadWriteCloser, error) {
	if s.ctx.Err() != nil {
		return nil, basilica.E(basilica.Unavailable, "SSH_UNREACHABLE", "the connection is gone", "")
	}
	if s.m.stalls {
		select {
		case <-s.ctx.Done():
		case <-ctx.Done():
		}
		return nil, basilica.E(basilica.Unavailable, "SSH_UNREACHABLE", "the connection is gone", "")
	}
	ours, theirs := net.Pipe()
	s.mu.Lock()
	s.pipes = append(s.pipes, ours, theirs)
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { ours.Close(); theirs.Close() })
	done := make(chan error, 1)
	s.wg.Go(func() {
		defer stop()
		var err error
		switch name {
		case "attest":
			err = s.m.prove(s.ctx, theirs, s.binding)
		case "facts":
			err = json.NewEncoder(theirs).Encode(basilica.Facts{Hostname: string(s.m.id), CPUs: 2, GPUs: []basilica.GPU{}})
		case "check":
			err = s.check(theirs)
		}
		done <- err
		close(done) // a later read sees a clean end
		theirs.Close()
	})
	return refusing{ours, done}, nil
}

func (s *wireSession) check(rw io.ReadWriter) error {
	var req struct{ Nonce string }
	if err := json.NewDecoder(rw).Decode(&req); err != nil {
		return err
	}
	if s.m.noTask {
		return basilica.E(basilica.Unavailable, "ENGINE_AWAY", "the container engine is away", "")
	}
	if s.m.check != nil {
		return s.m.check(rw)
	}
	nonce, err := hex.DecodeString(req.Nonce)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(append([]byte("BSLTASK\x00"), nonce...))
	_, err = fmt.Fprintf(rw, `{"exit_code":0,"output":"%x"}`, hex.EncodeToString(sum[:]))
	return err
}

// minerDouble is a miner's door by hand.
type minerDouble struct {
	key      *keys.Pair
	machines []*machine
	err      error
	occupied func(h basilica.HolderID) (basilica.Occupancy, bool) // what it says of holders; nil: nothing
}

func (m *minerDouble) hotkey() basilica.Hotkey { return basilica.Hotkey(m.key.SS58()) }

func (m *minerDouble) OpenValidation(_ context.Context, req basilica.ValidationRequest) (basilica.ValidationGrant, error) {
	grant := basilica.ValidationGrant{ID: "g1", Expires: time.Now().Add(time.Minute)}
	for _, h := range req.Holders {
		if m.occupied == nil {
			break
		}
		if o, ok := m.occupied(h); ok {
			signed, err := basilica.SignOccupancy(o, m.key)
			if err != nil {
				return grant, err
			}
			grant.Occupied = append(grant.Occupied, signed)
		}
	}
	if len(req.SSHPublicKey) != 4+11+4+32 {
		return grant, errors.New("no SSH key")
	}
	for _, x := range m.machines {
		if x.skipped {
			grant.Skipped = append(grant.Skipped, basilica.SkippedBox{Executor: x.id, Reason: basilica.Reason{Code: "OFFLINE", Sentence: "no heartbeat"}})
			continue
		}
		e, err := x.endorse(m.key)
		if err != nil {
			return grant, err
		}
		grant.Executors = append(grant.Executors, basilica.GrantedAccess{Executor: x.id, Addr: cmp.Or(x.addr, string(x.id)+":22"), HostKey: x.host, Endorsement: e, Earlier: x.earlier})
	}
	return grant, m.err
}

// world is a subnet of an owner (uid 0), the validator (uid 1) and a miner (uid 2).
type world struct {
	t     testing.TB
	chain *chainDouble
	miner *minerDouble
	db    *store.Validator
	book  *store.Book
	v     *Validator
	cfg   Config
}

func pair(t testing.TB, uri string) *keys.Pair {
	t.Helper()
	p, err := keys.FromURI(keys.Sr25519, uri)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// tiny is the software profile at a size that a test can afford.
func tiny() attest.Profiles {
	p := attest.Params{N: 64, Layers: 8, Lanes: 64, Steps: 8, Batches: 4, WinLayers: 4, Cells: 64, Rounds: 8}
	return attest.Profiles{{Model: "software", Software: true, Params: &p, Expect: attest.Expect{Fill: 5, Walk: 5, Mix: 5}}}
}

func newWorld(t testing.TB, machines ...*machine) *world {
	t.Helper()
	self, owner, miner := pair(t, "//Charlie//validator"), pair(t, "//Alice"), pair(t, "//Bob//miner")
	w := &world{t: t, miner: &minerDouble{key: miner, machines: machines}}
	w.chain = &chainDouble{heads: make(chan basilica.Header), mg: basilica.Metagraph{
		Genesis: basilica.Hash{7}, NetUID: 39, OwnerHotkey: basilica.Hotkey(owner.SS58()), WeightsRateLimit: 10,
		Neurons: []basilica.Neuron{
			{UID: 0, Hotkey: basilica.Hotkey(owner.SS58())},
			{UID: 1, Hotkey: basilica.Hotkey(self.SS58()), ValidatorPermit: true},
			{UID: 2, Hotkey: basilica.Hotkey(miner.SS58()), Axon: basilica.Axon{Addr: netip.MustParseAddrPort("127.0.0.2:8080"), TLSKey: make([]byte, 64)}},
		},
	}}
	var err error
	if w.db, err = store.OpenValidator(t.Context(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
	})
	if w.book, err = w.db.Book(t.Context(), w.chain.mg.Genesis, 39, basilica.Hotkey(self.SS58())); err != nil {
		t.Fatal(err)
	}
	w.cfg = Config{
		NetUID: 39, Hotkey: self, Chain: w.chain, Book: w.book, Archive: w.db,
		Door: func(basilica.Neuron) (MinerDoor, error) { return w.miner, nil }, Dial: w.dial,
		RoundBlocks: 20, Slots: 1, Policy: score.Policy{Rounds: 20, AllowSoftware: true}, Profiles: tiny(),
		MaxExecutors: 16, Parallel: 8, AllowPrivate: true, EvidenceCount: 100, EvidenceBytes: 1 << 30, KeepResults: 24 * time.Hour,
		ConnectTimeout: 5 * time.Second, CheckTimeout: 30 * time.Second, RoundTimeout: time.Minute,
		Now: time.Now, Uptime: uptime(), Random: rand.Reader, Log: slog.New(slog.DiscardHandler),
	}
	w.restart()
	return w
}

func uptime() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}

// restart makes the role anew over the same store.
func (w *world) restart() {
	w.t.Helper()
	v, err := New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := v.load(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.v = v
}

func (w *world) dial(_ context.Context, access basilica.GrantedAccess, key ed25519.PrivateKey) (Session, error) {
	return w.connect(w.miner, access, key)
}

func (w *world) connect(owner *minerDouble, access basilica.GrantedAccess, key ed25519.PrivateKey) (Session, error) {
	for _, m := range owner.machines {
		if m.id != access.Executor {
			continue
		}
		if m.dialErr != nil {
			return nil, m.dialErr
		}
		miner, self := owner.key.PublicKey(), w.cfg.Hotkey.PublicKey()
		ctx, cancel := context.WithCancel(w.t.Context())
		return &wireSession{m: m, ctx: ctx, cancel: cancel, binding: attest.Binding{SessionID: key.Seed()[:16], HostKey: m.host, MinerHotkey: miner, ValidatorHotkey: self}}, nil
	}
	return nil, errors.New("no such machine")
}

// round runs the round that begins at a block, and gives its verifications by executor.
func (w *world) round(first basilica.BlockNumber) map[basilica.ExecutorID]basilica.Verification {
	w.t.Helper()
	w.chain.at(first)
	w.v.update(func(s *Status) { s.Head = first })
	if err := w.v.round(w.t.Context(), basilica.Round{First: first, Hash: basilica.Hash{byte(first)}}); err != nil {
		w.t.Fatal(err)
	}
	page, err := w.book.Verifications(w.t.Context(), basilica.VerificationQuery{Round: &first})
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[basilica.ExecutorID]basilica.Verification{}
	for _, v := range page.Verifications {
		out[v.Executor] = v
	}
	return out
}

func (w *world) weigh(head basilica.BlockNumber) {
	w.t.Helper()
	w.chain.at(head)
	w.v.update(func(s *Status) { s.Head = head })
	if err := w.v.watchCommits(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	if err := w.v.weigh(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}
