package subtensor_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/localnet"
	"basilica/pallet"
	"basilica/subtensor"
)

const netuid = 39

// network is a chain behind its real server, and a client.
type network struct {
	t      *testing.T
	ctx    context.Context
	url    string
	addr   string
	client *subtensor.Client
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func pair(t *testing.T, scheme keys.Scheme, uri string) *keys.Pair {
	t.Helper()
	p, err := keys.FromURI(scheme, uri)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newNetwork starts a chain and its server; both end with the test.
func newNetwork(t *testing.T) *network {
	t.Helper()
	return newNetworkWith(t, nil, nil)
}

// newNetworkWith puts something between server and chain.
func newNetworkWith(t *testing.T, node func(subtensor.Node) subtensor.Node, pool func(subtensor.Pool) subtensor.Pool) *network {
	t.Helper()
	chain, err := localnet.New(localnet.Config{BlockTime: 40 * time.Millisecond, Tempo: 10})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := chain.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	served, taken := subtensor.Node(chain), subtensor.Pool(chain)
	if node != nil {
		served = node(served)
	}
	if pool != nil {
		taken = pool(taken)
	}
	wg.Go(func() {
		if err := subtensor.NewServer(served, taken, subtensor.ServerConfig{}, quiet()).Serve(ctx, ln); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait(); chain.Close() })
	n := &network{t: t, ctx: ctx, addr: ln.Addr().String(), url: "ws://" + ln.Addr().String()}
	n.client = n.dial(n.url)
	return n
}

func (n *network) dial(url string) *subtensor.Client {
	c := subtensor.New(subtensor.Config{URL: url, PollInterval: 50 * time.Millisecond}, quiet())
	n.t.Cleanup(func() { c.Close() })
	return c
}

func hotkeyOf(p *keys.Pair) basilica.Hotkey { return basilica.Hotkey(p.SS58()) }

// register registers hot under a funded coldkey and gives its uid.
func (n *network) register(cold, hot *keys.Pair) basilica.UID {
	n.t.Helper()
	uid, in, err := n.client.Register(n.ctx, netuid, hotkeyOf(hot), cold, 10e9)
	if err != nil {
		n.t.Fatal(err)
	}
	if in.Block == 0 || in.Index == 0 || in.Extrinsic == (basilica.Hash{}) {
		n.t.Fatalf("inclusion %+v", in)
	}
	return uid
}

func (n *network) metagraph() *basilica.Metagraph {
	n.t.Helper()
	m, err := n.client.Metagraph(n.ctx, netuid)
	if err != nil {
		n.t.Fatal(err)
	}
	return m
}

func TestChainRegisterServeWeigh(t *testing.T) {
	n := newNetwork(t)
	bob, charlie := pair(t, keys.Sr25519, "//Bob"), pair(t, keys.Sr25519, "//Charlie")
	// The miner's hotkey is an ed25519 key: the chain takes both schemes.
	validator, miner := pair(t, keys.Sr25519, "//Bob//hot"), pair(t, keys.Ed25519, "//Charlie//hot")
	vuid, muid := n.register(bob, validator), n.register(charlie, miner)

	if _, _, err := n.client.Register(n.ctx, netuid, hotkeyOf(miner), charlie, 10e9); basilica.CodeOf(err) != "SubtensorModule.HotKeyAlreadyRegisteredInSubNet" {
		t.Errorf("a second registration: %v", err)
	}
	if _, _, err := n.client.Register(n.ctx, netuid, hotkeyOf(bob), bob, 1); basilica.KindOf(err) != basilica.Exhausted {
		t.Errorf("a registration above its cap: %v", err)
	}

	key := make([]byte, 64)
	key[5] = 1
	axon := basilica.Axon{Addr: netip.MustParseAddrPort("127.0.0.2:8091"), Version: 1, Protocol: 4, TLSKey: key}
	in, err := n.client.ServeAxon(n.ctx, netuid, miner, axon)
	if err != nil {
		t.Fatalf("signed by ed25519: %v", err)
	}
	m := n.metagraph()
	got, ok := m.ByHotkey(hotkeyOf(miner))
	if !ok || got.UID != muid || got.Axon.Addr != axon.Addr || len(got.Axon.TLSKey) != 64 || got.Axon.Block != in.Block || got.Coldkey != basilica.Coldkey(charlie.SS58()) {
		t.Errorf("miner in the metagraph: %+v", got)
	}
	six := basilica.Axon{Addr: netip.MustParseAddrPort("[2001:db8::7]:9")}
	if _, err := n.client.ServeAxon(n.ctx, netuid, validator, six); err != nil {
		t.Fatal(err)
	}
	local := basilica.Axon{Addr: netip.MustParseAddrPort("127.0.0.1:8091")}
	if _, err := n.client.ServeAxon(n.ctx, netuid, validator, local); basilica.CodeOf(err) != "Pool.InvalidIpAddress" {
		t.Errorf("127.0.0.1: %v", err)
	}
	stranger := pair(t, keys.Sr25519, "//Stranger")
	if _, err := n.client.ServeAxon(n.ctx, netuid, stranger, axon); basilica.CodeOf(err) != "Pool.HotKeyNotRegisteredInNetwork" {
		t.Errorf("a stranger's axon: %v", err)
	}

	weights := []basilica.Weight{{UID: muid, Value: 65535}}
	n.waitBlocks(m.WeightsRateLimit + 1)
	_, err = n.client.SetWeights(n.ctx, netuid, validator, weights, m.WeightsVersion, nil)
	if basilica.CodeOf(err) != "SubtensorModule.NeuronNoValidatorPermit" || basilica.KindOf(err) != basilica.Denied {
		t.Errorf("weights without a permit: %v", err)
	}
	var dispatch *pallet.DispatchError
	if !errors.As(err, &dispatch) {
		t.Errorf("the chain's own error is lost: %v", err)
	}
	if _, err := n.client.AddStake(n.ctx, netuid, hotkeyOf(validator), bob, 1000e9); err != nil {
		t.Fatal(err)
	}
	n.waitPermit(validator)
	in, err = n.client.SetWeights(n.ctx, netuid, validator, weights, m.WeightsVersion, nil)
	if err != nil {
		t.Fatal(err)
	}
	row, err := n.client.Weights(n.ctx, netuid, vuid)
	if err != nil || len(row) != 1 || row[0] != weights[0] {
		t.Errorf("stored weights %v %v", row, err)
	}
	m = n.metagraph()
	v, _ := m.ByHotkey(hotkeyOf(validator))
	if v.LastUpdate != in.Block || v.Stake == 0 || !v.ValidatorPermit || v.Axon.Addr != six.Addr || v.Axon.TLSKey != nil {
		t.Errorf("validator in the metagraph: %+v", v)
	}
	if _, err := n.client.SetWeights(n.ctx, netuid, validator, weights, m.WeightsVersion, nil); basilica.CodeOf(err) != "Pool.RateLimitExceeded" {
		t.Errorf("weights again at once: %v", err)
	}
	if _, _, err := n.client.Register(n.ctx, 999, "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY", pair(t, keys.Sr25519, "//Eve"), 10e9); basilica.CodeOf(err) != "SUBNET_UNKNOWN" {
		t.Errorf("registration on a subnet that is not: %v", err)
	}
	if _, err := n.client.Metagraph(n.ctx, 999); basilica.CodeOf(err) != "SUBNET_UNKNOWN" {
		t.Errorf("an unknown subnet: %v", err)
	}
}

// waitBlocks waits until n more blocks are final.
func (n *network) waitBlocks(count uint64) {
	n.t.Helper()
	enough := errors.New("enough")
	first := basilica.BlockNumber(0)
	err := n.client.WatchHeads(n.ctx, func(h basilica.Header) error {
		if first == 0 {
			first = h.Number
		}
		if h.Number >= first+basilica.BlockNumber(count) {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		n.t.Fatal(err)
	}
}

// waitPermit waits for the epoch that gives hot its permit.
func (n *network) waitPermit(hot *keys.Pair) {
	n.t.Helper()
	granted := errors.New("granted")
	err := n.client.WatchHeads(n.ctx, func(basilica.Header) error {
		m, err := n.client.Metagraph(n.ctx, netuid)
		if err != nil {
			return err
		}
		if v, ok := m.ByHotkey(hotkeyOf(hot)); ok && v.ValidatorPermit {
			return granted
		}
		return nil
	})
	if !errors.Is(err, granted) {
		n.t.Fatal(err)
	}
}

// TestChainOneKeyManySubmissions sends from one key at the same time.
func TestChainOneKeyManySubmissions(t *testing.T) {
	n := newNetwork(t)
	bob := pair(t, keys.Sr25519, "//Bob")
	hot := pair(t, keys.Sr25519, "//Bob//hot")
	n.register(bob, hot)
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() {
			_, err := n.client.AddStake(n.ctx, netuid, hotkeyOf(hot), bob, 1e9)
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// cutter passes connections on to an address and can cut them all.
type cutter struct {
	ln net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns map[net.Conn]bool
}

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{ln: ln, conns: make(map[net.Conn]bool)}
	c.wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				in.Close()
				continue
			}
			c.mu.Lock()
			c.conns[in], c.conns[out] = true, true
			c.mu.Unlock()
			c.wg.Go(func() { _, _ = io.Copy(in, out); in.Close(); out.Close() })
			c.wg.Go(func() { _, _ = io.Copy(out, in); in.Close(); out.Close() })
		}
	})
	t.Cleanup(func() { ln.Close(); c.cut(); c.wg.Wait() })
	return c
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		conn.Close()
	}
	clear(c.conns)
}

// TestChainHeadsHaveNoGap cuts the connection again and again under a watch.
func TestChainHeadsHaveNoGap(t *testing.T) {
	n := newNetwork(t)
	wire := newCutter(t, n.addr)
	client := n.dial("ws://" + wire.ln.Addr().String())
	enough := errors.New("enough")
	var last basilica.Header
	seen := 0
	err := client.WatchHeads(n.ctx, func(h basilica.Header) error {
		if seen > 0 && (h.Number != last.Number+1 || h.Parent != last.Hash) {
			t.Errorf("block %d follows %d, parent %s, want %s", h.Number, last.Number, h.Parent, last.Hash)
		}
		last = h
		if seen++; seen%5 == 0 {
			wire.cut()
		}
		if seen == 25 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(n.ctx)
	err = client.WatchHeads(ctx, func(basilica.Header) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled watch: %v", err)
	}
}

// shortNode keeps the header of its last block only, as a localnet does of the last few thousand.
type shortNode struct{ subtensor.Node }

func (s shortNode) Block(at basilica.Hash) (pallet.Header, [][]byte, bool) {
	if at != s.Head().Hash {
		return pallet.Header{}, nil, false
	}
	return s.Node.Block(at)
}

// TestChainHeadsAfterLongAbsence: a watch that was away for longer than the node keeps headers goes on where it was.
func TestChainHeadsAfterLongAbsence(t *testing.T) {
	n := newNetworkWith(t, func(node subtensor.Node) subtensor.Node { return shortNode{node} }, nil)
	wire := newCutter(t, n.addr)
	client := n.dial("ws://" + wire.ln.Addr().String())
	enough := errors.New("enough")
	var last basilica.Header
	seen := 0
	err := client.WatchHeads(n.ctx, func(h basilica.Header) error {
		if seen++; seen == 1 {
			wire.cut()
			n.waitBlocks(8)
		} else if h.Number != last.Number+1 || h.Parent != last.Hash {
			t.Errorf("block %d follows %d, parent %s, want %s", h.Number, last.Number, h.Parent, last.Hash)
		}
		if last = h; seen == 12 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
}

// slowPool answers its first submission only when it is let go; the chain has it before.
type slowPool struct {
	subtensor.Pool
	first *sync.Once
	let   <-chan struct{}
}

func (p slowPool) Submit(extrinsic []byte, status func(string, basilica.Hash)) (basilica.Hash, error) {
	hash, err := p.Pool.Submit(extrinsic, status)
	p.first.Do(func() { <-p.let })
	return hash, err
}

// warned closes its channel at the first warning.
type warned struct {
	slog.Handler
	once *sync.Once
	at   chan struct{}
}

func (w warned) Enabled(context.Context, slog.Level) bool { return true }

func (w warned) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		w.once.Do(func() { close(w.at) })
	}
	return nil
}

// TestChainSubmissionWithoutAnswer: a transaction whose answer does not come in time is followed all the same, for it
// may take effect.
func TestChainSubmissionWithoutAnswer(t *testing.T) {
	t.Parallel() // it waits for the answer
	let := make(chan struct{})
	n := newNetworkWith(t, nil, func(p subtensor.Pool) subtensor.Pool { return slowPool{p, new(sync.Once), let} })
	once := new(sync.Once)
	defer once.Do(func() { close(let) })
	log := slog.New(warned{slog.DiscardHandler, once, let})
	client := subtensor.New(subtensor.Config{URL: n.url, PollInterval: 50 * time.Millisecond, RequestTimeout: 5 * time.Second}, log)
	defer client.Close()
	bob, hot := pair(t, keys.Sr25519, "//Bob"), pair(t, keys.Sr25519, "//Bob//hot")
	if _, in, err := client.Register(n.ctx, netuid, hotkeyOf(hot), bob, 10e9); err != nil || in.Block == 0 {
		t.Errorf("inclusion %+v, %v", in, err)
	}
}

// upgradingNode says that it is of the runtime before until its pool has refused something.
type upgradingNode struct {
	subtensor.Node
	subtensor.Pool
	mu  sync.Mutex
	new bool
}

func (u *upgradingNode) CallAPI(at basilica.Hash, method string, args []byte) ([]byte, error) {
	answer, err := u.Node.CallAPI(at, method, args)
	u.mu.Lock()
	defer u.mu.Unlock()
	if method == "Core_version" && !u.new && err == nil {
		const spec = 2*(1+len("node-subtensor")) + 4 // behind two names and a number
		answer = append([]byte{}, answer...)
		answer[spec]--
	}
	return answer, err
}

func (u *upgradingNode) Submit(extrinsic []byte, status func(string, basilica.Hash)) (basilica.Hash, error) {
	hash, err := u.Pool.Submit(extrinsic, status)
	if err != nil {
		u.mu.Lock()
		u.new = true
		u.mu.Unlock()
	}
	return hash, err
}

// TestChainUpgradeInFlight: a transaction that is refused because the runtime changed after it was signed is signed
// again for the new one.
func TestChainUpgradeInFlight(t *testing.T) {
	u := &upgradingNode{}
	n := newNetworkWith(t,
		func(node subtensor.Node) subtensor.Node { u.Node = node; return u },
		func(pool subtensor.Pool) subtensor.Pool { u.Pool = pool; return u })
	n.register(pair(t, keys.Sr25519, "//Bob"), pair(t, keys.Sr25519, "//Bob//hot"))
	if !u.new {
		t.Error("nothing was refused")
	}
}

// tellingPool says when it has a transaction.
type tellingPool struct {
	subtensor.Pool
	once sync.Once
	got  chan struct{}
}

func (p *tellingPool) Submit(extrinsic []byte, follow func(string, basilica.Hash)) (basilica.Hash, error) {
	defer p.once.Do(func() { close(p.got) })
	return p.Pool.Submit(extrinsic, follow)
}

// TestChainSubmissionSurvivesCut cuts the connection while a transaction waits
// for its block.
func TestChainSubmissionSurvivesCut(t *testing.T) {
	told := &tellingPool{got: make(chan struct{})}
	n := newNetworkWith(t, nil, func(pool subtensor.Pool) subtensor.Pool { told.Pool = pool; return told })
	wire := newCutter(t, n.addr)
	client := n.dial("ws://" + wire.ln.Addr().String())
	bob, hot := pair(t, keys.Sr25519, "//Bob"), pair(t, keys.Sr25519, "//Bob//hot")
	if _, err := client.Head(n.ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := client.Register(n.ctx, netuid, hotkeyOf(hot), bob, 10e9)
		done <- err
	}()
	select {
	case <-told.got:
	case err := <-done:
		t.Fatal(err)
	}
	for range 3 {
		wire.cut()
		n.waitBlocks(1)
	}
	if err := <-done; err != nil && basilica.CodeOf(err) != "SubtensorModule.HotKeyAlreadyRegisteredInSubNet" {
		t.Fatal(err)
	}
	if _, ok := n.metagraph().ByHotkey(hotkeyOf(hot)); !ok {
		t.Error("the hotkey is not registered")
	}
}

// silentPool takes extrinsics and tells nothing of them afterwards.
type silentPool struct {
	subtensor.Pool
	lose bool // not even the chain hears of them
}

func (p silentPool) Submit(extrinsic []byte, _ func(string, basilica.Hash)) (basilica.Hash, error) {
	if p.lose {
		return pallet.ExtrinsicHash(extrinsic), nil
	}
	return p.Pool.Submit(extrinsic, nil)
}

// TestChainNodeThatTellsNothing finds the transaction on the chain, or says
// that it is lost.
func TestChainNodeThatTellsNothing(t *testing.T) {
	for _, lose := range []bool{false, true} {
		n := newNetworkWith(t, nil, func(p subtensor.Pool) subtensor.Pool { return silentPool{p, lose} })
		bob, hot := pair(t, keys.Sr25519, "//Bob"), pair(t, keys.Sr25519, "//Bob//hot")
		if !lose {
			n.register(bob, hot)
			continue
		}
		if _, err := n.client.AddStake(n.ctx, netuid, hotkeyOf(hot), bob, 1e9); basilica.CodeOf(err) != "TRANSACTION_LOST" || basilica.KindOf(err) != basilica.Unavailable {
			t.Errorf("lost: %v", err)
		}
	}
}

// oldNode has no Metadata_metadata_at_version, as nodes before metadata V15.
type oldNode struct{ subtensor.Node }

func (o oldNode) CallAPI(at basilica.Hash, method string, args []byte) ([]byte, error) {
	if method == "Metadata_metadata_at_version" {
		return nil, errors.New("exported method is not found")
	}
	return o.Node.CallAPI(at, method, args)
}

func TestChainMetadataOfOldNode(t *testing.T) {
	n := newNetworkWith(t, func(node subtensor.Node) subtensor.Node { return oldNode{node} }, nil)
	bob, hot := pair(t, keys.Sr25519, "//Bob"), pair(t, keys.Sr25519, "//Bob//hot")
	n.register(bob, hot)
	if m := n.metagraph(); len(m.Neurons) != 2 || m.Tempo != 10 {
		t.Errorf("metagraph %+v", m)
	}
}

func TestChainUnreachableAndWrongGenesis(t *testing.T) {
	n := newNetwork(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "ws://" + ln.Addr().String()
	ln.Close()
	c := subtensor.New(subtensor.Config{URL: nobody, ConnectTimeout: 200 * time.Millisecond}, quiet())
	defer c.Close()
	if _, err := c.Head(n.ctx); basilica.CodeOf(err) != "CHAIN_UNREACHABLE" || basilica.KindOf(err) != basilica.Unavailable || basilica.FixOf(err) == "" {
		t.Errorf("nobody there: %v", err)
	}
	other := basilica.Hash{1}
	c = subtensor.New(subtensor.Config{URL: n.url, Genesis: &other}, quiet())
	defer c.Close()
	if _, err := c.Head(n.ctx); basilica.CodeOf(err) != "CHAIN_GENESIS" {
		t.Errorf("another chain: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Head(n.ctx); err == nil {
		t.Error("a closed client answers")
	}
}
