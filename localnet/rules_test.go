package localnet

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
)

// with is args with some of them replaced.
func with(args map[string]any, changes ...any) map[string]any {
	out := maps.Clone(args)
	for i := 0; i < len(changes); i += 2 {
		out[changes[i].(string)] = changes[i+1]
	}
	return out
}

func weightArgs(uids, values []uint16) map[string]any {
	return map[string]any{"netuid": uint16(39), "dests": uids, "weights": values, "version_key": uint64(0)}
}

// TestWeightRules goes through the refusals of set_weights in the order in which the chain checks.
func TestWeightRules(t *testing.T) {
	s, validator, miner := registered(t, Config{Tempo: 60000})
	sub := s.Chain.rt.subnets
	uid := func(hotkey *keys.Pair) uint16 {
		return sub.uids.get(past{s.state, s.head()}, 39, account(hotkey.PublicKey()))
	}
	v, m := uid(validator), uid(miner)
	s.poke(func(w writer) { sub.permit.set(w, 39, replaced([]bool(nil), v, true)) })
	s.seal(10)
	good := weightArgs([]uint16{m}, []uint16{1})
	for _, c := range []struct {
		name   string
		poke   func(w writer)
		signer *keys.Pair
		args   map[string]any
		want   string
	}{
		{"commit-reveal is on by default", nil, validator, with(good, "netuid", uint16(7)), "CommitRevealEnabled"},
		{"root", func(w writer) { sub.commitReveal.set(w, 0, false) }, validator, with(good, "netuid", uint16(0)), "CanNotSetRootNetworkWeights"},
		{"lengths", nil, validator, with(good, "weights", []uint16{}), "WeightVecNotEqualSize"},
		{"no such subnet", func(w writer) { sub.commitReveal.set(w, 7, false) }, validator, with(good, "netuid", uint16(7)), "MechanismDoesNotExist"},
		{"too many", nil, validator, weightArgs(make([]uint16, 4), make([]uint16, 4)), "UidsLengthExceedUidsInSubNet"},
		{"unregistered", nil, s.key("//Eve"), good, "HotKeyNotRegisteredInSubNet"},
		{"stake, in the pool", func(w writer) { sub.stakeThreshold.set(w, 1) }, validator, good, "Custom error: 1"},
		{"version", func(w writer) { sub.stakeThreshold.set(w, 0); sub.versionKey.set(w, 39, 5) }, validator, with(good, "version_key", uint64(4)), "IncorrectWeightVersionKey"},
		{"no permit", func(w writer) { sub.versionKey.set(w, 39, 0) }, miner, weightArgs([]uint16{v}, []uint16{1}), "NeuronNoValidatorPermit"},
		{"duplicates", nil, validator, weightArgs([]uint16{m, m}, []uint16{1, 1}), "DuplicateUids"},
		{"unknown uid", nil, validator, weightArgs([]uint16{9}, []uint16{1}), "UidVecContainInvalidOne"},
		{"too few", func(w writer) { sub.minAllowedWeights.set(w, 39, 2) }, validator, good, "WeightVecLengthIsLow"},
		{"good", func(w writer) { sub.minAllowedWeights.set(w, 39, 1) }, validator, good, ""},
		{"too fast, in the pool", nil, validator, good, "Custom error: 6"},
		{"self weight without a permit", nil, miner, weightArgs([]uint16{m}, []uint16{1}), ""},
	} {
		if c.poke != nil {
			s.poke(c.poke)
		}
		err := s.do(c.signer, "SubtensorModule.set_weights", c.args)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if !t.Run(c.name, func(t *testing.T) { wantError(t, err, c.want) }) {
			return
		}
	}
	if got := fmt.Sprint(s.read("SubtensorModule", "Weights", uint16(39), v)); got != fmt.Sprintf("[[%d 65535]]", m) {
		t.Errorf("stored row %s", got)
	}
	// A mechanism that does not exist counts as too fast.
	wantError(t, s.do(validator, "SubtensorModule.set_mechanism_weights", with(good, "mecid", uint8(1))), "Custom error: 6")
}

func TestServingRules(t *testing.T) {
	s, _, miner := registered(t, Config{})
	good := axonArgs(39)
	for _, c := range []struct {
		name string
		args map[string]any
		want string
	}{
		{"not on this subnet", with(good, "netuid", uint16(7)), "Custom error: 10"},
		{"type", with(good, "ip_type", uint8(5)), "Custom error: 255"},
		{"loopback", with(good, "ip", uint64(0x7f000001)), "Custom error: 11"},
		{"broadcast", with(good, "ip", uint64(0xffffffff)), "Custom error: 11"},
		{"v4 too big", with(good, "ip", uint64(1<<33)), "Custom error: 11"},
		{"v6 loopback", with(good, "ip", uint64(1), "ip_type", uint8(6)), "Custom error: 11"},
		{"port", with(good, "port", uint16(0)), "Custom error: 13"},
		{"good", good, ""},
		{"too fast", good, "Custom error: 12"},
	} {
		err := s.do(miner, "SubtensorModule.serve_axon", c.args)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		t.Run(c.name, func(t *testing.T) { wantError(t, err, c.want) })
	}
	s.seal(5)
	s.must(miner, "SubtensorModule.serve_axon_tls", with(good, "certificate", append([]byte{1}, make([]byte, 64)...)))
	if got := s.raw(s.Head().Hash, "SubtensorModule", "NeuronCertificates", uint16(39), miner.PublicKey()); len(got) != 2+64+1 {
		t.Errorf("certificate %x", got)
	}
	s.seal(5)
	s.must(miner, "SubtensorModule.serve_axon", with(good, "ip", uint64(0), "port", uint16(1))) // resets the axon
}

func TestRegistrationRules(t *testing.T) {
	s, _, miner := registered(t, Config{})
	sub := s.Chain.rt.subnets
	fresh := s.key("//fresh").PublicKey()
	args := map[string]any{"netuid": uint16(39), "hotkey": fresh}
	for _, c := range []struct {
		name   string
		poke   func(w writer)
		signer string
		args   map[string]any
		want   string
	}{
		{"root", nil, "//Eve", with(args, "netuid", uint16(0)), "RegistrationNotPermittedOnRootSubnet"},
		{"no such subnet", nil, "//Eve", with(args, "netuid", uint16(7)), "SubnetNotExists"},
		{"closed", func(w writer) { sub.registrationAllowed.set(w, 39, false) }, "//Eve", args, "SubNetRegistrationDisabled"},
		{"already there", func(w writer) { sub.registrationAllowed.set(w, 39, true) }, "//Charlie", with(args, "hotkey", miner.PublicKey()), "HotKeyAlreadyRegisteredInSubNet"},
		{"too dear", func(w writer) { sub.burn.set(w, 39, 3e12); sub.maxBurn.set(w, 39, 3e12) }, "//Eve", args, "NotEnoughBalanceToStake"},
		{"another's hotkey", func(w writer) { sub.burn.set(w, 39, 1e8); sub.owner.set(w, account(fresh), account{1}) }, "//Eve", args, "NonAssociatedColdKey"},
		{"no place", func(w writer) { sub.owner.del(w, account(fresh)); sub.maxAllowedUids.set(w, 39, 0) }, "//Eve", args, "NoNeuronIdAvailable"},
	} {
		if c.poke != nil {
			s.poke(c.poke)
		}
		err := s.do(s.key(c.signer), "SubtensorModule.burned_register", c.args)
		t.Run(c.name, func(t *testing.T) { wantError(t, err, c.want) })
	}
	s.poke(func(w writer) { sub.maxAllowedUids.set(w, 39, 3) })
	wantError(t, s.do(s.key("//Eve"), "SubtensorModule.register_limit", with(args, "limit_price", uint64(1))), "RegistrationPriceLimitExceeded")
	wantError(t, s.do(s.key("//nobody"), "SubtensorModule.burned_register", args), dataPayment)
	// The subnet is full: the oldest of the two that are not the owner's makes place.
	before := s.read("SubtensorModule", "Keys", uint16(39), uint16(1))
	s.must(s.key("//Eve"), "SubtensorModule.burned_register", args)
	if got := s.read("SubtensorModule", "Uids", uint16(39), fresh); got != uint64(1) {
		t.Errorf("uid %v", got)
	}
	if got := s.raw(s.Head().Hash, "SubtensorModule", "Uids", uint16(39), before); got != nil {
		t.Error("the evicted hotkey still has a uid")
	}
}

func TestStakingRules(t *testing.T) {
	s, validator, _ := registered(t, Config{})
	sub := s.Chain.rt.subnets
	hot := validator.PublicKey()
	add := func(changes ...any) map[string]any {
		return with(map[string]any{"hotkey": hot, "netuid": uint16(39), "amount_staked": uint64(1e10)}, changes...)
	}
	bob := s.key("//Bob")
	for _, c := range []struct {
		name string
		args map[string]any
		want string
	}{
		{"no such subnet", add("netuid", uint16(7)), "SubnetNotExists"},
		{"little", add("amount_staked", uint64(minStake-1)), "AmountTooLow"},
		{"more than there is", add("amount_staked", uint64(1e16)), "NotEnoughBalanceToStake"},
		{"unknown hotkey", add("hotkey", [32]byte{9}), "HotKeyAccountNotExists"},
	} {
		err := s.do(bob, "SubtensorModule.add_stake", c.args)
		t.Run(c.name, func(t *testing.T) { wantError(t, err, c.want) })
	}
	remove := map[string]any{"hotkey": hot, "netuid": uint16(39), "amount_unstaked": uint64(1e10)}
	wantError(t, s.do(bob, "SubtensorModule.remove_stake", remove), "AmountTooLow")
	s.poke(func(w writer) { sub.subtokenEnabled.set(w, 39, false) })
	wantError(t, s.do(bob, "SubtensorModule.add_stake", add()), "SubtokenDisabled")
	wantError(t, s.do(bob, "SubtensorModule.remove_stake", remove), "SubtokenDisabled")
	s.poke(func(w writer) { sub.subtokenEnabled.set(w, 39, true) })
	s.must(bob, "SubtensorModule.add_stake", add())
	s.must(bob, "SubtensorModule.remove_stake", with(remove, "amount_unstaked", uint64(1e15))) // all of it
	if got := s.read("SubtensorModule", "TotalHotkeyAlpha", hot, uint16(39)); got != uint64(0) {
		t.Errorf("%v rao are left", got)
	}
}

// TestOwnerEarnsNoIncentive: a miner of the subnet owner's coldkey is weighed like others, but not paid.
func TestOwnerEarnsNoIncentive(t *testing.T) {
	s, validator, _ := registered(t, Config{})
	own := s.key("//Alice//miner")
	s.must(s.key("//Alice"), "SubtensorModule.burned_register", map[string]any{"netuid": uint16(39), "hotkey": own.PublicKey()})
	s.must(s.key("//Bob"), "SubtensorModule.add_stake", map[string]any{"hotkey": validator.PublicKey(), "netuid": uint16(39), "amount_staked": uint64(1e12)})
	s.seal(20)
	uid, err := scale.AsUint64(s.read("SubtensorModule", "Uids", uint16(39), own.PublicKey()))
	if err != nil {
		t.Fatal(err)
	}
	s.must(validator, "SubtensorModule.set_weights", weightArgs([]uint16{uint16(uid)}, []uint16{1}))
	s.seal(20)
	if got := s.read("SubtensorModule", "Incentive", uint16(39)).([]any)[uid]; got != uint64(65535) {
		t.Errorf("incentive %v", got)
	}
	if got := s.read("SubtensorModule", "TotalHotkeyAlpha", own.PublicKey(), uint16(39)); got != uint64(0) {
		t.Errorf("the owner's miner was paid %v", got)
	}
}

func TestTransferRules(t *testing.T) {
	s := newSim(t, Config{})
	eve, to := s.key("//Eve"), [32]byte{7}
	send := func(to [32]byte, rao uint64) map[string]any {
		return map[string]any{"dest": pallet.AccountAddress(to), "value": rao}
	}
	wantError(t, s.do(eve, "Balances.transfer_keep_alive", send(to, 1e18)), "Underflow") // above all there is
	wantError(t, s.do(eve, "Balances.transfer_keep_alive", send(to, 3e12)), "FundsUnavailable")
	wantError(t, s.do(eve, "Balances.transfer_keep_alive", send(to, existentialDeposit-1)), "BelowMinimum")
	s.must(eve, "Balances.transfer_keep_alive", send(to, existentialDeposit))
	left := s.Chain.rt.system.account.get(past{s.state, s.head()}, account(eve.PublicKey())).free
	wantError(t, s.do(eve, "Balances.transfer_keep_alive", send(to, left-170_200)), "NotExpendable") // what the fee leaves is below the deposit
	s.must(eve, "Balances.transfer_all", map[string]any{"dest": pallet.AccountAddress(to), "keep_alive": false})
	if _, alive := s.Chain.rt.system.account.find(past{s.state, s.head()}, account(eve.PublicKey())); alive {
		t.Error("an account without balance lives on")
	}
	var total uint64
	view := past{s.state, s.head()}
	for _, k := range view.scan(s.Chain.rt.system.account.prefix) {
		info, _ := s.Chain.rt.system.account.read(view, k)
		total += info.free
	}
	if issued := s.read("Balances", "TotalIssuance"); issued != total {
		t.Errorf("TotalIssuance is %v, the accounts hold %d", issued, total)
	}
}

func TestSudo(t *testing.T) {
	s := newSim(t, Config{})
	inner := scale.NewVariant("AdminUtils", scale.VariantValue{Name: "sudo_set_weights_set_rate_limit", Fields: scale.Struct{
		{Name: "netuid", Value: uint16(39)}, {Name: "weights_set_rate_limit", Value: uint64(3)},
	}})
	wantError(t, s.do(s.key("//Bob"), "Sudo.sudo", map[string]any{"call": inner}), dataBadSigner)
	s.must(s.key("//Alice"), "Sudo.sudo", map[string]any{"call": inner})
	if got := s.read("SubtensorModule", "WeightsSetRateLimit", uint16(39)); got != uint64(3) {
		t.Errorf("rate limit %v", got)
	}
	wantError(t, s.do(s.key("//Alice"), "AdminUtils.sudo_set_tempo", map[string]any{"netuid": uint16(39), "tempo": uint16(5)}), "BadOrigin")
	nested := scale.NewVariant("Sudo", scale.VariantValue{Name: "sudo", Fields: scale.Struct{{Name: "call", Value: inner}}})
	s.must(s.key("//Alice"), "Sudo.sudo", map[string]any{"call": nested})
	for _, e := range s.eventsAt(s.Head().Hash) {
		if e.Is("Sudo", "Sudid") && !strings.Contains(fmt.Sprint(e.Fields), "Err") {
			t.Errorf("sudo in sudo: %v", e.Fields)
		}
	}
}

// TestSignatureRules: what the signature covers, the nonce, the era.
func TestSignatureRules(t *testing.T) {
	s := newSim(t, Config{})
	s.seal(10)
	alice := s.key("//Alice")
	call := s.call("Balances.transfer_keep_alive", map[string]any{"dest": pallet.AccountAddress([32]byte{7}), "value": uint64(1e9)})
	signing := s.signing(alice.PublicKey())
	birth, _ := s.BlockHash(8)
	for _, c := range []struct {
		name  string
		spoil func(*pallet.Signing)
		want  string
	}{
		{"spec version", func(x *pallet.Signing) { x.SpecVersion++ }, dataBadProof},
		{"transaction version", func(x *pallet.Signing) { x.TxVersion++ }, dataBadProof},
		{"genesis", func(x *pallet.Signing) { x.Genesis[0] ^= 1 }, dataBadProof},
		{"birth block of another chain", func(x *pallet.Signing) { x.Era, x.BirthHash = pallet.MortalEra(8, 8), [32]byte{1} }, dataBadProof},
		{"era that is over", func(x *pallet.Signing) { x.Era, x.BirthHash = pallet.MortalEra(4, 4), s.hash(4) }, dataBadProof},
		{"era that has not begun", func(x *pallet.Signing) { x.Era = pallet.Era{Period: 64, Phase: 11} }, dataAncient},
		{"tip above the balance", func(x *pallet.Signing) { x.Tip = 1e16 }, dataPayment},
	} {
		x := signing
		c.spoil(&x)
		_, err := s.Submit(s.sign(call, x, alice), nil)
		t.Run(c.name, func(t *testing.T) { wantError(t, err, c.want) })
	}
	raw := s.sign(call, signing, alice)
	for _, i := range []int{40, len(raw) - 1} { // in the signature, in the call
		spoilt := slices.Clone(raw)
		spoilt[i] ^= 1
		if _, err := s.Submit(spoilt, nil); err == nil {
			t.Errorf("byte %d may change", i)
		}
	}
	mortal := signing
	mortal.Era, mortal.BirthHash = pallet.MortalEra(8, 8), birth
	if _, err := s.Submit(s.sign(call, mortal, alice), nil); err != nil {
		t.Errorf("mortal: %v", err)
	}
	_, err := s.Submit(s.sign(call, signing, alice), nil)
	wantError(t, err, "The transaction has too low priority to replace another transaction already in the pool.")
	s.seal(1)
	_, err = s.Submit(s.sign(call, signing, alice), nil)
	wantError(t, err, dataStale)
	_, err = s.Submit(timestampInherent(5), nil)
	wantError(t, err, dataMandatory)
}

// TestEd25519Signer: an account of the other scheme pays, and its hotkey needs no balance.
func TestEd25519Signer(t *testing.T) {
	s := newSim(t, Config{})
	cold, hot := pair(t, keys.Ed25519, "//Eve"), pair(t, keys.Ed25519, "//Eve//hot")
	s.must(s.key("//Alice"), "Balances.transfer_keep_alive", map[string]any{"dest": pallet.AccountAddress(cold.PublicKey()), "value": uint64(1e12)})
	s.must(cold, "SubtensorModule.register_limit", map[string]any{"netuid": uint16(39), "hotkey": hot.PublicKey(), "limit_price": uint64(1e9)})
	s.must(hot, "SubtensorModule.serve_axon", axonArgs(39))
	x, err := s.rt.DecodeExtrinsic(func() []byte { _, e, _ := s.Block(s.Head().Hash); return e[len(e)-1] }())
	if err != nil || x.Scheme != keys.Ed25519 {
		t.Errorf("scheme %v, %v", x.Scheme, err)
	}
}

// TestPoolOrder: future nonces wait, states come in order, a dead era drops.
func TestPoolOrder(t *testing.T) {
	s := newSim(t, Config{})
	s.seal(8)
	alice := s.key("//Alice")
	call := s.call("System.remark_with_event", map[string]any{"remark": []byte("x")})
	states := map[uint64][]string{}
	submit := func(nonce uint64, era pallet.Era) {
		t.Helper()
		x := s.signing(alice.PublicKey())
		x.Nonce, x.Era, x.BirthHash = nonce, era, s.hash(era.Birth(8))
		if _, err := s.Submit(s.sign(call, x, alice), func(state string, _ basilica.Hash) { states[nonce] = append(states[nonce], state) }); err != nil {
			t.Fatal(err)
		}
	}
	submit(1, pallet.Era{})
	submit(3, pallet.MortalEra(4, 8))
	s.seal(1)
	if got := s.NextIndex(alice.PublicKey()); got != 0 {
		t.Errorf("next index %d over a gap", got)
	}
	submit(0, pallet.Era{})
	if got := s.NextIndex(alice.PublicKey()); got != 2 {
		t.Errorf("next index %d", got)
	}
	s.seal(6)
	want := map[uint64][]string{
		0: {"ready", "inBlock", "finalized"}, 1: {"future", "ready", "inBlock", "finalized"}, 3: {"future", "invalid"},
	}
	if fmt.Sprint(states) != fmt.Sprint(want) {
		t.Errorf("states %v, want %v", states, want)
	}
	if n := len(s.Pending()); n != 0 {
		t.Errorf("%d are still pending", n)
	}
}

// TestBlockWeight: what finds no room in a block comes in the next one, in order.
func TestBlockWeight(t *testing.T) {
	s, validator, miner := registered(t, Config{})
	sub := s.Chain.rt.subnets
	s.poke(func(w writer) {
		sub.weightsRateLimit.set(w, 39, 0)
		sub.permit.set(w, 39, []bool{true, true, true})
	})
	for range 15 { // 30 times 119 ms; a block takes 3 s
		for _, hotkey := range []*keys.Pair{validator, miner} {
			if err := s.submit(hotkey, "SubtensorModule.set_weights", weightArgs([]uint16{0}, []uint16{1})); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, want := range []int{25, 5} {
		s.seal(1)
		if got := len(s.calls(true)); got != want {
			t.Errorf("%d extrinsics, want %d", got, want)
		}
	}
}

// TestRestart: a chain goes on where it was, with its blocks and states, after a torn write too.
func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chain")
	at := time.Unix(1_790_000_000, 0)
	open := func() *sim { return newSim(t, Config{Path: path, Clock: func() time.Time { return at }}) }
	first := open()
	first.must(first.key("//Charlie"), "SubtensorModule.burned_register", map[string]any{"netuid": uint16(39), "hotkey": [32]byte{5}})
	first.seal(30)
	_, err := New(Config{Path: path})
	if basilica.CodeOf(err) != "LOCALNET_FILE_IN_USE" {
		t.Errorf("second chain on the file: %v", err)
	}
	head, genesis, events := first.Head(), first.Genesis(), first.raw(first.hash(1), "System", "Events")
	state := first.state.snapshot(first.head())
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	at = at.Add(time.Hour)
	again := open()
	if again.Head() != head || again.Genesis() != genesis {
		t.Fatalf("head %v, want %v", again.Head(), head)
	}
	if string(again.raw(again.hash(1), "System", "Events")) != string(events) {
		t.Error("the events of block 1 are gone")
	}
	if !maps.EqualFunc(state, again.state.snapshot(again.head()), func(a, b []byte) bool { return string(a) == string(b) }) {
		t.Error("the state differs")
	}
	again.must(again.key("//Dave"), "SubtensorModule.burned_register", map[string]any{"netuid": uint16(39), "hotkey": [32]byte{6}})
	last := again.Head()
	again.mu.Lock()
	if err := again.compact(); err != nil {
		t.Error(err)
	}
	if _, err := again.journal.file.Write([]byte{9, 0, 0, 0, 1, 2, 3}); err != nil {
		t.Error(err)
	}
	again.mu.Unlock()
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	third := open()
	if third.Head() != last {
		t.Errorf("after a torn write: head %v, want %v", third.Head(), last)
	}
	if err := third.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Path: path, BlockTime: time.Second}); basilica.CodeOf(err) != "LOCALNET_FILE" {
		t.Errorf("another block time: %v", err)
	}
	if _, err := New(Config{Path: path, NetUID: 40}); basilica.CodeOf(err) != "LOCALNET_FILE" {
		t.Errorf("a subnet that the chain does not have: %v", err)
	}
}

// TestRestartOfATornBeginning: a process killed at any byte of the file's first record leaves a file that begins a
// chain; a file of somebody else is left alone.
func TestRestartOfATornBeginning(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chain")
	c, err := New(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(journalMagic) + 60 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		starts := 1
		if cut%8 == 0 {
			starts = 2 // what the first wrote is whole
		}
		for range starts {
			c, err := New(Config{Path: path})
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			if _, err := c.Seal(); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(path, []byte("notes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Path: path}); basilica.CodeOf(err) != "LOCALNET_FILE" {
		t.Errorf("a file of somebody else: %v", err)
	}
}

// FuzzRestore opens files of any content behind the right beginning: they are refused or continued, never more than
// that.
func FuzzRestore(f *testing.F) {
	dir := f.TempDir()
	c, err := New(Config{Path: filepath.Join(dir, "seed"), Clock: func() time.Time { return time.Unix(1_790_000_000, 0) }})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := c.Seal(); err != nil {
		f.Fatal(err)
	}
	base := c.encodeBase(&c.hashes, map[string][]byte{"k": {1}})
	if err := c.Close(); err != nil {
		f.Fatal(err)
	}
	meta := pallet.Blake2b256(c.rt.v15)
	f.Add(base[32:], []byte{})
	f.Add([]byte{0, 0}, append(make([]byte, 8+96), 0, 0, 0))
	f.Add([]byte{4, 1}, []byte{1, 0})
	f.Fuzz(func(t *testing.T, base, record []byte) {
		c := &Chain{rt: c.rt, runtimes: c.runtimes, blocks: map[uint64]block{}, state: newHistory(0), journal: &journal{path: "x"}}
		if c.decodeBase(append(slices.Clone(meta[:]), base...)) != nil {
			return
		}
		if err := c.replay(record); err == nil && c.hashes.next() == 0 {
			t.Error("a block was taken and is not there")
		}
	})
}

// FuzzCallAPI: whatever a client asks the runtime is answered or refused in a node's words.
func FuzzCallAPI(f *testing.F) {
	c, err := New(Config{Clock: func() time.Time { return time.Unix(1_790_000_000, 0) }})
	if err != nil {
		f.Fatal(err)
	}
	for _, a := range c.rt.apis {
		for _, m := range a.methods {
			f.Add(a.name+"_"+m.name, []byte{39, 0, 0, 0})
			f.Add(a.name+"_"+m.name, make([]byte, 34))
		}
	}
	f.Add("x", []byte{15, 0, 0, 0})
	f.Add("SubnetInfoRuntimeApi_get_selective_mechagraph", []byte{39, 0, 0, 8, 0, 0, 73, 0})
	f.Fuzz(func(t *testing.T, method string, args []byte) {
		_, err := c.CallAPI(c.Genesis(), method, args)
		var refused *Rejection
		if err != nil && !errors.As(err, &refused) {
			t.Fatalf("not refused in a node's words: %v", err)
		}
	})
}

// TestHistoryProperty compares the state history with plain copies of every state.
func TestHistoryProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(0)
		copies := []map[string]string{{}}
		h.apply(0, nil)
		for block := uint64(1); block < 12; block++ {
			state := maps.Clone(copies[len(copies)-1])
			changes := map[string][]byte{}
			for range rapid.IntRange(0, 5).Draw(t, "changes") {
				k := rapid.StringMatching(`[ab]{1,3}`).Draw(t, "key")
				if rapid.Bool().Draw(t, "removed") {
					changes[k] = nil
					delete(state, k)
				} else {
					v := rapid.StringN(1, 3, -1).Draw(t, "value")
					changes[k], state[k] = []byte(v), v
				}
			}
			h.apply(block, changes)
			copies = append(copies, state)
		}
		h.forget(rapid.Uint64Range(0, 11).Draw(t, "oldest"))
		for block := h.oldest; block < uint64(len(copies)); block++ {
			want := copies[block]
			got := map[string]string{}
			for k, v := range h.snapshot(block) {
				got[k] = string(v)
			}
			if !maps.Equal(got, want) {
				t.Fatalf("block %d: got %v, want %v", block, got, want)
			}
			start := rapid.StringMatching(`a?b?`).Draw(t, "start")
			var keys []string
			for _, k := range slices.Sorted(maps.Keys(want)) {
				if strings.HasPrefix(k, "a") && k > start && len(keys) < 2 {
					keys = append(keys, k)
				}
			}
			if list := h.list(block, "a", start, 2); !slices.Equal(list, keys) {
				t.Fatalf("block %d after %q: keys %v, want %v", block, start, list, keys)
			}
		}
	})
}

// TestOldStatesGo: what lies further back than the chain keeps is refused in the words that clients look for; once it keeps
// all that it means to keep, further blocks take no more room than their hash in the index.
func TestOldStatesGo(t *testing.T) {
	s := newSim(t, Config{})
	s.HoldPulses(true)
	s.seal(keptStates + 2)
	_, _, err := s.Storage(s.hash(1), []byte{1})
	var refused *Rejection
	if !errors.As(err, &refused) || refused.Code != 4003 || !strings.HasSuffix(refused.Message, "State already discarded for "+s.hash(1).String()) {
		t.Errorf("state of block 1: %v", err)
	}
	if _, _, err := s.Storage(s.hash(2), []byte{1}); err != nil {
		t.Errorf("state of block 2: %v", err)
	}
	if _, _, ok := s.Block(s.hash(1)); ok {
		t.Error("block 1 is still there")
	}
	if _, found := s.Chain.rt.system.blockHash.find(past{s.state, s.head()}, uint32(s.head()-blockHashCount-1)); found {
		t.Error("System.BlockHash keeps too many")
	}
	heap := func() uint64 {
		goruntime.GC()
		var m goruntime.MemStats
		goruntime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	s.seal(498)
	before := heap()
	s.seal(2000)
	after := heap()
	if after > before && after-before > 2000*1024 {
		t.Errorf("2000 blocks took %d bytes, %d bytes before", after-before, before)
	}
	if kept := s.head() - s.state.oldest; kept < 2400 {
		t.Errorf("only %d states are kept", kept)
	}
	for key, revisions := range s.state.values {
		if len(revisions) > keptStates+1 || cap(revisions) > 4*keptStates {
			t.Errorf("key %x has %d revisions, room for %d", key, len(revisions), cap(revisions))
		}
	}
}

func FuzzSubmit(f *testing.F) {
	c, err := New(Config{Clock: func() time.Time { return time.Unix(1_790_000_000, 0) }})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(timestampInherent(1))
	f.Add([]byte{0})
	signed := append([]byte{0x84, 0}, make([]byte, 32)...)
	signed = append(append(signed, 1), make([]byte, 64)...)
	for _, call := range [][]byte{
		{7, 0, 39, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		{12, 0, 19, 30, 39, 0, 5, 0},
		{0, 0, 4, 1},
		{11, 2, 8, 0, 0, 4, 5, 11, 0, 4, 0, 0, 0},                         // a batch in a batch
		append(append([]byte{16, 0, 0}, make([]byte, 32)...), 0, 0, 0, 0), // a proxy's remark
		{18, 0, 39, 0, 8, 3, 7, 7, 136, 4, 9},
		{7, 80, 4, 156, 4, 4, 4, 8, 4, 0},
	} {
		f.Add(scale.AppendBytes(nil, append(append(slices.Clone(signed), 0, 0, 0, 0), call...)))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, err := c.Submit(raw, nil)
		var refused *Rejection
		if err == nil || !errors.As(err, &refused) {
			t.Fatalf("not refused in a node's words: %v", err)
		}
	})
}
