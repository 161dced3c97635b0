package localnet

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
)

// made registers a subnet with a pool, whose owner is //Bob with the hotkey //Bob//own, and starts it.
func made(t *testing.T) (s *sim, netuid uint16) {
	s = newSim(t, Config{})
	netuid = 1 // the lowest that is free beside 0 and 39
	s.must(s.key("//Bob"), "SubtensorModule.register_network", map[string]any{"hotkey": s.key("//Bob//own").PublicKey()})
	s.must(s.key("//Bob"), "SubtensorModule.start_call", map[string]any{"netuid": netuid})
	return s, netuid
}

// lastEvent is the fields of the newest event of a name at the head, as text.
func (s *sim) lastEvent(module, name string) string {
	s.t.Helper()
	found := ""
	for _, e := range s.eventsAt(s.Head().Hash) {
		if e.Is(module, name) {
			values := make([]string, len(e.Fields))
			for i, f := range e.Fields {
				values[i] = fmt.Sprint(f.Value)
			}
			found = strings.Join(values, " ")
		}
	}
	return found
}

// TestPoolByHand: the first pool has 1000 TAO and 1000 alpha. 100 TAO in, 33/65535 of them kept back, buy
// 1e12 * 99949645228 / 1099949645228 rao of alpha; 10 alpha back are worth 11961297848 rao, and their fee 5960555 more,
// which goes to the author.
func TestPoolByHand(t *testing.T) {
	s, netuid := made(t)
	bob, hot := s.key("//Bob"), s.key("//Bob//own").PublicKey()
	s.must(bob, "SubtensorModule.add_stake", map[string]any{"hotkey": hot, "netuid": netuid, "amount_staked": uint64(1e11)})
	if got := s.lastEvent("SubtensorModule", "StakeAdded"); !strings.HasSuffix(got, " 100000000000 90867473489 1 50354772") {
		t.Errorf("StakeAdded %s", got)
	}
	if tao, alpha := s.read("SubtensorModule", "SubnetTAO", netuid), s.read("SubtensorModule", "SubnetAlphaIn", netuid); tao != uint64(1_099_949_645_228) || alpha != uint64(909_132_526_511) {
		t.Errorf("the pool has %v TAO and %v alpha", tao, alpha)
	}
	s.must(bob, "SubtensorModule.remove_stake", map[string]any{"hotkey": hot, "netuid": netuid, "amount_unstaked": uint64(1e10)})
	if got := s.lastEvent("SubtensorModule", "StakeRemoved"); !strings.HasSuffix(got, " 11961297848 9994964523 1 5035477") {
		t.Errorf("StakeRemoved %s", got)
	}
	if got := s.lastEvent("Balances", "Transfer"); !strings.HasSuffix(got, " 5960555") {
		t.Errorf("the author got %s", got)
	}
}

func TestStakeLimits(t *testing.T) {
	s, netuid := made(t)
	bob, hot := s.key("//Bob"), s.key("//Bob//own").PublicKey()
	add := func(amount, limit uint64, partial bool) map[string]any {
		return map[string]any{"hotkey": hot, "netuid": netuid, "amount_staked": amount, "limit_price": limit, "allow_partial": partial}
	}
	remove := func(amount, limit uint64, partial bool) map[string]any {
		return map[string]any{"hotkey": hot, "netuid": netuid, "amount_unstaked": amount, "limit_price": limit, "allow_partial": partial}
	}
	wantError(t, s.do(bob, "SubtensorModule.add_stake_limit", add(1e10, 9e8, false)), "SlippageTooHigh")
	wantError(t, s.do(bob, "SubtensorModule.add_stake_limit", add(1e10, 9e8, true)), "PriceLimitExceeded")
	wantError(t, s.do(bob, "SubtensorModule.add_stake", map[string]any{"hotkey": hot, "netuid": netuid, "amount_staked": uint64(minStake)}), "AmountTooLow")
	wantError(t, s.do(bob, "SubtensorModule.add_stake", map[string]any{"hotkey": hot, "netuid": netuid, "amount_staked": uint64(2e15)}), "InsufficientLiquidity")
	// From 1 to 1.21 the price rises while the TAO side grows by a tenth: sqrt(1.21) - 1.
	s.must(bob, "SubtensorModule.add_stake_limit", add(1e12, 1_210_000_000, true))
	if got := s.lastEvent("SubtensorModule", "StakeAdded"); !strings.Contains(got, " 100000000000 ") {
		t.Errorf("StakeAdded %s, want 100 TAO", got)
	}
	wantError(t, s.do(bob, "SubtensorModule.remove_stake_limit", remove(1e10, 2e9, false)), "SlippageTooHigh")
	wantError(t, s.do(bob, "SubtensorModule.remove_stake_limit", remove(1e10, 2e9, true)), "PriceLimitExceeded")
	wantError(t, s.do(bob, "SubtensorModule.remove_stake_limit", remove(1000, 1, false)), "AmountTooLow")
	s.must(bob, "SubtensorModule.remove_stake_limit", remove(math.MaxUint64, 1, false))
	if got := s.Chain.rt.alphaOf(past{s.state, s.head()}, hot, account(bob.PublicKey()), netuid); got != 0 {
		t.Errorf("%d rao of alpha are left", got)
	}
}

func TestMoveStake(t *testing.T) {
	s, netuid := made(t)
	bob, charlie := s.key("//Bob"), s.key("//Charlie")
	one, two := s.key("//Bob//own").PublicKey(), s.key("//Bob//two").PublicKey()
	s.must(bob, "SubtensorModule.try_associate_hotkey", map[string]any{"hotkey": two})
	s.must(bob, "SubtensorModule.add_stake", map[string]any{"hotkey": one, "netuid": netuid, "amount_staked": uint64(1e11)})
	staked := func(hotkey [32]byte, coldkey *keys.Pair, netuid uint16) uint64 {
		return s.Chain.rt.alphaOf(past{s.state, s.head()}, hotkey, account(coldkey.PublicKey()), netuid)
	}
	move := map[string]any{"origin_hotkey": one, "destination_hotkey": two, "origin_netuid": netuid, "destination_netuid": netuid, "alpha_amount": uint64(1e10)}
	wantError(t, s.do(bob, "SubtensorModule.move_stake", with(move, "destination_hotkey", one)), "SameNetuid")
	wantError(t, s.do(bob, "SubtensorModule.move_stake", with(move, "alpha_amount", uint64(1e15))), "NotEnoughStakeToWithdraw")
	wantError(t, s.do(bob, "SubtensorModule.move_stake", with(move, "destination_netuid", uint16(7))), "SubnetNotExists")
	s.must(bob, "SubtensorModule.move_stake", move)
	if got := staked(two, bob, netuid); got != 1e10 {
		t.Errorf("%d alpha moved", got)
	}
	s.must(bob, "SubtensorModule.transfer_stake", map[string]any{
		"destination_coldkey": charlie.PublicKey(), "hotkey": two, "origin_netuid": netuid, "destination_netuid": netuid, "alpha_amount": uint64(4e9),
	})
	if mine, theirs := staked(two, bob, netuid), staked(two, charlie, netuid); mine != 6e9 || theirs != 4e9 {
		t.Errorf("%d and %d alpha after a transfer of 4", mine, theirs)
	}
	s.must(bob, "SubtensorModule.swap_stake", map[string]any{"hotkey": two, "origin_netuid": netuid, "destination_netuid": uint16(39), "alpha_amount": uint64(6e9)})
	if left, bought := staked(two, bob, netuid), staked(two, bob, 39); left != 0 || bought == 0 {
		t.Errorf("%d alpha left, %d bought on the other subnet", left, bought)
	}
}

func TestNetworkRules(t *testing.T) {
	s := newSim(t, Config{})
	bob, charlie := s.key("//Bob"), s.key("//Charlie")
	own := map[string]any{"hotkey": s.key("//Bob//own").PublicKey()}
	wantError(t, s.do(s.key("//Eve"), "SubtensorModule.register_network", map[string]any{"hotkey": [32]byte(devAccount(devOwnerHot))}), "NonAssociatedColdKey")
	s.poke(func(w writer) { s.Chain.rt.subnets.startCallDelay.set(w, 5) })
	s.must(bob, "SubtensorModule.register_network", own)
	wantError(t, s.do(charlie, "SubtensorModule.register_network", map[string]any{"hotkey": s.key("//Charlie//own").PublicKey()}), "Custom error: 6")
	start := map[string]any{"netuid": uint16(1)}
	wantError(t, s.do(charlie, "SubtensorModule.start_call", start), "BadOrigin")
	wantError(t, s.do(bob, "SubtensorModule.start_call", start), "NeedWaitingMoreBlocksToStarCall")
	s.seal(5)
	s.must(bob, "SubtensorModule.start_call", start)
	wantError(t, s.do(bob, "SubtensorModule.start_call", start), "FirstEmissionBlockNumberAlreadySet")
	s.poke(func(w writer) { s.Chain.rt.subnets.networkRateLimit.set(w, 0) })
	// The second subnet costs twice what the first did, less what that fell since; its owner pays it all, the pool takes
	// the lowest price.
	identity := scale.Struct{}
	for _, name := range []string{"subnet_name", "github_repo", "subnet_contact", "subnet_url", "discord", "description", "logo_url", "additional"} {
		identity = append(identity, scale.NamedValue{Name: name, Value: []byte(name)})
	}
	s.must(charlie, "SubtensorModule.register_network_with_identity", map[string]any{"hotkey": s.key("//Charlie//own").PublicKey(), "identity": identity})
	locked := s.read("SubtensorModule", "SubnetLocked", uint16(2)).(uint64)
	if pool := s.read("SubtensorModule", "SubnetTAO", uint16(2)); locked <= 1.9e12 || locked >= 2e12 || pool != uint64(1e12) {
		t.Errorf("locked %d, pool %v", locked, pool)
	}
	if got := fmt.Sprintf("%s", s.read("SubtensorModule", "TokenSymbol", uint16(2))); !strings.Contains(got, "β") {
		t.Errorf("symbol %q", got)
	}
}

// devOwnerHot is the hotkey of the subnet that a new chain has.
const devOwnerHot = "//Alice//hot"

func TestChildrenRules(t *testing.T) {
	s, validator, miner := registered(t, Config{})
	bob, hot := s.key("//Bob"), validator.PublicKey()
	child := func(proportion uint64, hotkey [32]byte) any { return []any{proportion, hotkey} }
	args := func(children ...any) map[string]any {
		return map[string]any{"hotkey": hot, "netuid": uint16(39), "children": children}
	}
	six := make([]any, 6)
	for i := range six {
		six[i] = child(1, [32]byte{byte(i)})
	}
	for _, c := range []struct {
		name   string
		signer string
		args   map[string]any
		want   string
	}{
		{"on root", "//Bob", with(args(), "netuid", uint16(0)), "RegistrationNotPermittedOnRootSubnet"},
		{"no such subnet", "//Bob", with(args(), "netuid", uint16(7)), "SubnetNotExists"},
		{"another's hotkey", "//Eve", args(), "NonAssociatedColdKey"},
		{"its own child", "//Bob", args(child(1, hot)), "InvalidChild"},
		{"one child twice", "//Bob", args(child(1, miner.PublicKey()), child(2, miner.PublicKey())), "DuplicateChild"},
		{"six children", "//Bob", args(six...), "TooManyChildren"},
		{"more than all", "//Bob", args(child(math.MaxUint64, miner.PublicKey()), child(1, [32]byte{9})), "ProportionOverflow"},
	} {
		err := s.do(s.key(c.signer), "SubtensorModule.set_children", c.args)
		t.Run(c.name, func(t *testing.T) { wantError(t, err, c.want) })
	}
	s.must(bob, "SubtensorModule.set_children", args(child(1<<62, miner.PublicKey())))
	pending := fmt.Sprint(s.read("SubtensorModule", "PendingChildKeys", uint16(39), hot))
	if due := fmt.Sprint(uint64(s.Head().Number) + 7200); !strings.Contains(pending, due) {
		t.Errorf("pending %s, want block %s", pending, due)
	}
	wantError(t, s.do(bob, "SubtensorModule.set_children", args()), "TxRateLimitExceeded")

	take := map[string]any{"hotkey": hot, "netuid": uint16(39), "take": uint16(1000)}
	wantError(t, s.do(s.key("//Eve"), "SubtensorModule.set_childkey_take", take), "NonAssociatedColdKey")
	wantError(t, s.do(bob, "SubtensorModule.set_childkey_take", with(take, "take", uint16(12000))), "InvalidChildkeyTake")
	s.must(bob, "SubtensorModule.set_childkey_take", take)
	wantError(t, s.do(bob, "SubtensorModule.set_childkey_take", with(take, "take", uint16(1001))), "TxChildkeyTakeRateLimitExceeded")
	s.must(bob, "SubtensorModule.set_childkey_take", with(take, "take", uint16(999)))

	rate := map[string]any{"hotkey": hot, "take": uint16(5000)}
	wantError(t, s.do(bob, "SubtensorModule.increase_take", with(rate, "take", uint16(12000))), "Custom error: 27")
	wantError(t, s.do(bob, "SubtensorModule.increase_take", rate), "DelegateTakeTooLow")
	s.must(bob, "SubtensorModule.decrease_take", rate)
	wantError(t, s.do(bob, "SubtensorModule.increase_take", with(rate, "take", uint16(6000))), "DelegateTxRateLimitExceeded")
}

// hidden begins a subnet with commit-reveal whose validator has a permit.
func hidden(t *testing.T) (s *sim, validator *keys.Pair) {
	s, validator, _ = registered(t, Config{})
	s.poke(func(w writer) {
		s.Chain.rt.subnets.commitReveal.set(w, 39, true)
		s.Chain.rt.subnets.permit.set(w, 39, []bool{true, true, true})
		s.Chain.rt.subnets.weightsRateLimit.set(w, 39, 0)
	})
	return s, validator
}

// TestBatchReveal commits twice, with batch_commit_weights and alone, and opens both at once.
func TestBatchReveal(t *testing.T) {
	s, validator := hidden(t)
	who := account(validator.PublicKey())
	first := reveal{row{[]uint16{1}, []uint16{7}, 0}, []uint16{1, 2}}
	second := reveal{row{[]uint16{1, 2}, []uint16{7, 14}, 0}, []uint16{3}}
	wantError(t, s.do(validator, "SubtensorModule.batch_commit_weights", map[string]any{"netuids": []any{uint16(39)}, "commit_hashes": []any{}}), "Custom error: 18")
	s.must(validator, "SubtensorModule.batch_commit_weights", map[string]any{"netuids": []any{uint16(39)}, "commit_hashes": []any{[32]byte(first.hash(who, 39))}})
	s.must(validator, "SubtensorModule.commit_mechanism_weights", map[string]any{"netuid": uint16(39), "mecid": uint8(0), "commit_hash": [32]byte(second.hash(who, 39))})
	open := map[string]any{
		"netuid": uint16(39), "uids_list": []any{first.uids, second.uids}, "values_list": []any{first.values, second.values},
		"salts_list": []any{first.salt, second.salt}, "version_keys": []any{uint64(0), uint64(0)},
	}
	wantError(t, s.do(validator, "SubtensorModule.batch_reveal_weights", open), "Custom error: 17")
	s.seal(20)
	wantError(t, s.do(validator, "SubtensorModule.batch_reveal_weights", with(open, "version_keys", []any{uint64(0)})), "Custom error: 18")
	s.poke(func(w writer) { s.Chain.rt.subnets.permit.set(w, 39, []bool{true, true, true}) })
	s.must(validator, "SubtensorModule.batch_reveal_weights", open)
	uid, _ := s.Chain.rt.subnets.uids.find(past{s.state, s.head()}, 39, who)
	if got := fmt.Sprint(s.Chain.rt.subnets.weights.get(past{s.state, s.head()}, 39, uid)); got != "[{1 32768} {2 65535}]" {
		t.Errorf("weights %s", got)
	}
	if s.lastEvent("SubtensorModule", "WeightsBatchRevealed") == "" {
		t.Error("no event tells of the batch")
	}
}

// TestBatches: batch stops at what fails, batch_all undoes, force_batch goes on.
func TestBatches(t *testing.T) {
	s := newSim(t, Config{})
	bob, to := s.key("//Bob"), [32]byte{7}
	send := func(rao uint64) any {
		return scale.NewVariant("Balances", scale.VariantValue{Name: "transfer_keep_alive", Fields: scale.Struct{
			{Name: "dest", Value: pallet.AccountAddress(to)}, {Name: "value", Value: rao},
		}})
	}
	calls := map[string]any{"calls": []any{send(1000), send(1e16), send(2000)}}
	for _, c := range []struct {
		name, event string
		got         uint64
		fails       bool
	}{
		{"batch", "BatchInterrupted", 1000, false},
		{"batch_all", "", 1000, true},
		{"force_batch", "BatchCompletedWithErrors", 4000, false},
	} {
		err := s.do(bob, "Utility."+c.name, calls)
		if (err != nil) != c.fails {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := s.Chain.rt.system.account.get(past{s.state, s.head()}, to).free; got != c.got {
			t.Errorf("%s: %d rao arrived, want %d", c.name, got, c.got)
		}
		if c.event != "" && !slices.ContainsFunc(s.eventsAt(s.Head().Hash), func(e pallet.Event) bool { return e.Is("Utility", c.event) }) {
			t.Errorf("%s: no %s", c.name, c.event)
		}
	}
	inner := scale.NewVariant("Utility", scale.VariantValue{Name: "batch", Fields: scale.Struct{{Name: "calls", Value: []any{send(1)}}}})
	wantError(t, s.do(bob, "Utility.batch", map[string]any{"calls": []any{inner}}), "CallFiltered")
}

func TestProxies(t *testing.T) {
	s := newSim(t, Config{})
	bob, eve, to := s.key("//Bob"), s.key("//Eve"), [32]byte{7}
	variant := func(name string) any { return scale.VariantValue{Name: name} }
	delegate := func(kind string) map[string]any {
		return map[string]any{"delegate": pallet.AccountAddress(eve.PublicKey()), "proxy_type": variant(kind), "delay": uint32(0)}
	}
	send := scale.NewVariant("Balances", scale.VariantValue{Name: "transfer_keep_alive", Fields: scale.Struct{
		{Name: "dest", Value: pallet.AccountAddress(to)}, {Name: "value", Value: uint64(1000)},
	}})
	act := map[string]any{"real": pallet.AccountAddress(bob.PublicKey()), "force_proxy_type": nil, "call": send}
	wantError(t, s.do(eve, "Proxy.proxy", act), "NotProxy")
	s.must(bob, "Proxy.add_proxy", delegate("Staking"))
	wantError(t, s.do(bob, "Proxy.add_proxy", delegate("Staking")), "Duplicate")
	wantError(t, s.do(bob, "Proxy.add_proxy", map[string]any{"delegate": pallet.AccountAddress(bob.PublicKey()), "proxy_type": variant("Any"), "delay": uint32(0)}), "NoSelfProxy")
	s.must(eve, "Proxy.proxy", act)
	if got := s.lastEvent("Proxy", "ProxyExecuted"); !strings.Contains(got, "Err") {
		t.Errorf("a proxy for staking transferred: %s", got)
	}
	s.must(bob, "Proxy.add_proxy", delegate("Transfer"))
	s.must(eve, "Proxy.proxy", with(act, "force_proxy_type", variant("Transfer")))
	if got := s.Chain.rt.system.account.get(past{s.state, s.head()}, to).free; got != 1000 {
		t.Errorf("%d rao arrived", got)
	}
	reserved := func() uint64 {
		return s.Chain.rt.system.account.get(past{s.state, s.head()}, account(bob.PublicKey())).reserved
	}
	if got := reserved(); got != proxyDepositBase+2*proxyDepositFactor {
		t.Errorf("two proxies hold %d rao", got)
	}
	wantError(t, s.do(bob, "Proxy.remove_proxy", delegate("Any")), "NotFound")
	s.must(bob, "Proxy.remove_proxy", delegate("Staking"))
	s.must(bob, "Proxy.remove_proxies", nil)
	if got := reserved(); got != 0 {
		t.Errorf("%d rao stay reserved", got)
	}
	wantError(t, s.do(eve, "Proxy.proxy", act), "NotProxy")
}

// TestOwnerAdministers: what an owner may set, once in two tempos, outside the freeze window, within bounds.
func TestOwnerAdministers(t *testing.T) {
	s := newSim(t, Config{Tempo: 1000})
	sub, alice, bob := s.Chain.rt.subnets, s.key("//Alice"), s.key("//Bob")
	set := func(name, arg string, v any) (string, map[string]any) {
		return "AdminUtils." + name, map[string]any{"netuid": uint16(39), arg: v}
	}
	try := func(who *keys.Pair, want, name, arg string, v any) {
		t.Helper()
		call, args := set(name, arg, v)
		err := s.do(who, call, args)
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return
		}
		wantError(t, err, want)
	}
	try(bob, "BadOrigin", "sudo_set_immunity_period", "immunity_period", uint16(7))
	try(alice, "BadOrigin", "sudo_set_kappa", "kappa", uint16(7)) // root's alone
	try(alice, "", "sudo_set_immunity_period", "immunity_period", uint16(7))
	try(alice, "TxRateLimitExceeded", "sudo_set_immunity_period", "immunity_period", uint16(8))
	try(alice, "", "sudo_set_weights_version_key", "weights_version_key", uint64(7))
	try(alice, "TxRateLimitExceeded", "sudo_set_weights_version_key", "weights_version_key", uint64(8))
	try(alice, "ValueNotInBounds", "sudo_set_min_burn", "min_burn", uint64(2e9))
	try(alice, "ValueNotInBounds", "sudo_set_max_burn", "max_burn", uint64(1e7))
	try(alice, "BondsMovingAverageMaxReached", "sudo_set_bonds_moving_average", "bonds_moving_average", uint64(975_001))
	try(alice, "MaxAllowedUidsLessThanMinAllowedUids", "sudo_set_max_allowed_uids", "max_allowed_uids", uint16(3))
	try(alice, "MaxAllowedUidsGreaterThanDefaultMaxAllowedUids", "sudo_set_max_allowed_uids", "max_allowed_uids", uint16(257))
	try(alice, "RevealPeriodTooSmall", "sudo_set_commit_reveal_weights_interval", "interval", uint64(0))
	try(alice, "RevealPeriodTooLarge", "sudo_set_commit_reveal_weights_interval", "interval", uint64(101))
	try(alice, "", "sudo_set_commit_reveal_weights_interval", "interval", uint64(3))
	if got := s.read("SubtensorModule", "RevealPeriodEpochs", uint16(39)); got != uint64(3) {
		t.Errorf("reveal period %v", got)
	}
	s.poke(func(w writer) { sub.adminFreezeWindow.set(w, 2000) })
	try(alice, "AdminActionProhibitedDuringWeightsWindow", "sudo_set_serving_rate_limit", "serving_rate_limit", uint64(7))
	sudo := func(name, arg string, v any) map[string]any {
		return map[string]any{"call": scale.NewVariant("AdminUtils", scale.VariantValue{Name: name, Fields: scale.Struct{
			{Name: "netuid", Value: uint16(39)}, {Name: arg, Value: v},
		}})}
	}
	s.must(alice, "Sudo.sudo", sudo("sudo_set_serving_rate_limit", "serving_rate_limit", uint64(7))) // root waits for no window here
	if got := s.read("SubtensorModule", "ServingRateLimit", uint16(39)); got != uint64(7) {
		t.Errorf("serving rate limit %v", got)
	}
	s.must(alice, "Sudo.sudo", sudo("sudo_set_kappa", "kappa", uint16(7)))
	if got := s.lastEvent("Sudo", "Sudid"); !strings.Contains(got, "Err") {
		t.Errorf("root set kappa inside the window: %s", got)
	}
}

// TestMechanisms: a second mechanism has rows, vectors and rate limits of its own, and takes them along when it goes.
func TestMechanisms(t *testing.T) {
	s, validator, _ := registered(t, Config{Tempo: 1000})
	sub, alice := s.Chain.rt.subnets, s.key("//Alice")
	count := func(n uint8) {
		s.must(alice, "Sudo.sudo", map[string]any{"call": scale.NewVariant("AdminUtils", scale.VariantValue{Name: "sudo_set_mechanism_count", Fields: scale.Struct{
			{Name: "netuid", Value: uint16(39)}, {Name: "mechanism_count", Value: n},
		}})})
	}
	weights := with(weightArgs([]uint16{1}, []uint16{1}), "mecid", uint8(1))
	s.poke(func(w writer) { sub.permit.set(w, 39, []bool{true, true, true}) })
	s.seal(10)
	wantError(t, s.do(validator, "SubtensorModule.set_mechanism_weights", weights), "Custom error: 6")
	count(2)
	s.must(validator, "SubtensorModule.set_mechanism_weights", weights)
	uid, _ := sub.uids.find(past{s.state, s.head()}, 39, account(validator.PublicKey()))
	if got := len(sub.weights.get(past{s.state, s.head()}, 4096+39, uid)); got != 1 {
		t.Errorf("%d weights of mechanism 1", got)
	}
	if got := len(sub.weights.get(past{s.state, s.head()}, 39, uid)); got != 0 {
		t.Errorf("%d weights of mechanism 0", got)
	}
	count(1)
	if got := len(sub.weights.get(past{s.state, s.head()}, 4096+39, uid)); got != 0 {
		t.Errorf("%d weights are left of a mechanism that is gone", got)
	}
}

// TestSwappedColdkey: who announced a swap does nothing else.
func TestSwappedColdkey(t *testing.T) {
	s := newSim(t, Config{})
	eve := s.key("//Eve")
	hash := map[string]any{"new_coldkey_hash": [32]byte{1}}
	s.must(eve, "SubtensorModule.announce_coldkey_swap", hash)
	wantError(t, s.do(eve, "System.remark", map[string]any{"remark": []byte{1}}), "Custom error: 0")
	wantError(t, s.do(eve, "SubtensorModule.announce_coldkey_swap", hash), "ColdkeySwapReannouncedTooEarly")
}

func TestIdentities(t *testing.T) {
	s, _, _ := registered(t, Config{})
	own := map[string]any{}
	for _, name := range []string{"name", "url", "github_repo", "image", "discord", "description", "additional"} {
		own[name] = []byte(name)
	}
	wantError(t, s.do(s.key("//Eve"), "SubtensorModule.set_identity", own), "HotKeyNotRegisteredInNetwork")
	wantError(t, s.do(s.key("//Bob"), "SubtensorModule.set_identity", with(own, "name", make([]byte, 300))), "InvalidIdentity")
	s.must(s.key("//Bob"), "SubtensorModule.set_identity", own)
	subnet := map[string]any{"netuid": uint16(39)}
	for _, name := range []string{"subnet_name", "github_repo", "subnet_contact", "subnet_url", "discord", "description", "logo_url", "additional"} {
		subnet[name] = []byte(name)
	}
	wantError(t, s.do(s.key("//Bob"), "SubtensorModule.set_subnet_identity", subnet), "BadOrigin")
	s.must(s.key("//Alice"), "SubtensorModule.set_subnet_identity", subnet)
	if got := fmt.Sprintf("%s", s.read("SubtensorModule", "SubnetIdentitiesV3", uint16(39))); !strings.Contains(got, "subnet_url") {
		t.Errorf("identity %s", got)
	}
}

// TestRootInterval: from block 100 on root's count of registrations starts over in every block, since its epoch is always
// due and never runs.
func TestRootInterval(t *testing.T) {
	s, validator, miner := registered(t, Config{})
	s.poke(func(w writer) { s.Chain.rt.subnets.registrationsThisInterval.set(w, rootNetuid, 6) })
	wantError(t, s.do(s.key("//Bob"), "SubtensorModule.root_register", map[string]any{"hotkey": validator.PublicKey()}), "TooManyRegistrationsThisInterval")
	s.seal(96)
	s.must(s.key("//Bob"), "SubtensorModule.root_register", map[string]any{"hotkey": validator.PublicKey()})
	if got := s.read("SubtensorModule", "RegistrationsThisInterval", uint16(rootNetuid)); got != uint64(1) {
		t.Errorf("%v registrations in the interval", got)
	}
	s.must(s.key("//Charlie"), "SubtensorModule.root_register", map[string]any{"hotkey": miner.PublicKey()})
	wantError(t, s.do(s.key("//Bob"), "SubtensorModule.root_register", map[string]any{"hotkey": validator.PublicKey()}), "HotKeyAlreadyRegisteredInSubNet")
}

func TestCommitmentRules(t *testing.T) {
	s, validator, _ := registered(t, Config{})
	publish := func(facts ...any) map[string]any {
		return map[string]any{"netuid": uint16(39), "info": scale.Struct{{Name: "fields", Value: facts}}}
	}
	big := scale.VariantValue{Name: "BigRaw", Fields: scale.Struct{{Value: make([]byte, 512)}}}
	none := scale.VariantValue{Name: "None"}
	wantError(t, s.do(s.key("//Eve"), "Commitments.set_commitment", publish(none)), "AccountNotAllowedCommit")
	if err := s.do(validator, "Commitments.set_commitment", publish(none, none, none, none)); err == nil {
		t.Error("four fields were taken")
	}
	for range 6 {
		s.must(validator, "Commitments.set_commitment", publish(big))
	}
	wantError(t, s.do(validator, "Commitments.set_commitment", publish(none)), "SpaceLimitExceeded") // 6 * 512 + 100 > 3100
	s.seal(20)
	s.must(validator, "Commitments.set_commitment", publish(none)) // another epoch
	sealed := scale.VariantValue{Name: "TimelockEncrypted", Fields: scale.Struct{{Name: "encrypted", Value: []byte{1, 2}}, {Name: "reveal_round", Value: uint64(9)}}}
	s.must(validator, "Commitments.set_commitment", publish(sealed))
	if got := s.lastEvent("Commitments", "TimelockCommitment"); !strings.HasSuffix(got, " 9") {
		t.Errorf("TimelockCommitment %s", got)
	}
}
