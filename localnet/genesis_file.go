package localnet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"basilica"
	"basilica/keys"
)

// Genesis is what a new chain begins with, as a TOML file says it. Keys are secret URIs of development accounts ("//Alice//hot")
// or SS58 addresses, amounts are TAO or alpha with at most nine decimals in a string ("1.5").
type Genesis struct {
	// Sudo is the account that may do everything; //Alice where empty.
	Sudo string `toml:"sudo"`
	// Accounts with their balances; the development accounts where there are none.
	Accounts []GenesisAccount `toml:"account"`
	// Subnets besides the root network.
	Subnets []GenesisSubnet `toml:"subnet"`
	// Stakes on the subnets, and on the root network as subnet 0.
	Stakes []GenesisStake `toml:"stake"`
}

// GenesisAccount is a coldkey with its balance.
type GenesisAccount struct {
	Key string `toml:"key"`
	TAO string `toml:"tao"`
}

// GenesisSubnet is one subnet, as register_network and start_call would leave it.
type GenesisSubnet struct {
	NetUID uint16 `toml:"netuid"`
	// Owner is the coldkey whose own miners earn nothing; OwnerHotkey has uid 0. //Alice and //Alice//hot where empty.
	Owner       string `toml:"owner"`
	OwnerHotkey string `toml:"owner_hotkey"`
	// Name and Symbol are what clients show; the subnet has no identity where the name is empty.
	Name   string `toml:"name"`
	Symbol string `toml:"symbol"`
	// PoolTAO and PoolAlpha are the reserves of the subnet's pool; without them alpha trades one for one.
	PoolTAO   string `toml:"pool_tao"`
	PoolAlpha string `toml:"pool_alpha"`
	// Hyperparameters by the names that get_subnet_hyperparams_v3 gives them, and the few that it leaves out.
	Hyperparameters map[string]any `toml:"hyperparameters"`
	// Neurons take the uids from 1 on.
	Neurons []GenesisNeuron `toml:"neuron"`
}

// GenesisNeuron is a registered hotkey.
type GenesisNeuron struct {
	Hotkey  string `toml:"hotkey"`
	Coldkey string `toml:"coldkey"`
	// Permit lets the neuron validate before the first epoch decides who may.
	Permit bool `toml:"permit"`
}

// GenesisStake is what a coldkey holds of a hotkey: alpha, or TAO on subnet 0.
type GenesisStake struct {
	NetUID  uint16 `toml:"netuid"`
	Hotkey  string `toml:"hotkey"`
	Coldkey string `toml:"coldkey"`
	Amount  string `toml:"amount"`
}

// maxGenesisFile bounds a genesis file in bytes.
const maxGenesisFile = 4 << 20

func errGenesis(where, sentence, fix string) error {
	return basilica.E(basilica.Invalid, "GENESIS_FILE", fmt.Sprintf("genesis: %s %s", where, sentence), fix)
}

// ReadGenesis reads and checks a genesis file. Its errors have the code GENESIS_FILE and say where in the file.
func ReadGenesis(path string) (*Genesis, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, basilica.E(basilica.Invalid, "GENESIS_FILE", "genesis: "+path+" cannot be read", "name a file that is there and readable").With(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxGenesisFile+1))
	switch {
	case err != nil:
		return nil, basilica.E(basilica.Invalid, "GENESIS_FILE", "genesis: "+path+" cannot be read", "name a file that is there and readable").With(err)
	case len(text) > maxGenesisFile:
		return nil, errGenesis(path, fmt.Sprintf("has more than %d bytes", maxGenesisFile), "leave out what the chain need not begin with")
	}
	return ParseGenesis(text)
}

// ParseGenesis reads a genesis from its TOML text and checks it.
func ParseGenesis(text []byte) (*Genesis, error) {
	var g Genesis
	dec := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := dec.Decode(&g); err != nil {
		var unknown *toml.StrictMissingError
		var wrong *toml.DecodeError
		switch {
		case errors.As(err, &unknown) && len(unknown.Errors) > 0:
			row, _ := unknown.Errors[0].Position()
			key := strings.Join(unknown.Errors[0].Key(), ".")
			return nil, errGenesis(fmt.Sprintf("line %d:", row), fmt.Sprintf("there is no key %q", key), fmt.Sprintf("write %q, or leave it out", nearestKey(key)))
		case errors.As(err, &wrong):
			row, column := wrong.Position()
			return nil, errGenesis(fmt.Sprintf("line %d, column %d:", row, column), wrong.Error(), "correct the line; amounts stand in quotes")
		}
		return nil, errGenesis("the file", err.Error(), "correct it; amounts stand in quotes")
	}
	return &g, g.check()
}

// nearestKey is the known key that looks most like one.
func nearestKey(key string) string {
	var known []string
	for table, v := range map[string]any{"": Genesis{}, "account.": GenesisAccount{}, "subnet.": GenesisSubnet{}, "subnet.neuron.": GenesisNeuron{}, "stake.": GenesisStake{}} {
		t := reflect.TypeOf(v)
		for i := range t.NumField() {
			known = append(known, table+t.Field(i).Tag.Get("toml"))
		}
	}
	return nearestOf(key, known)
}

func nearestOf(key string, known []string) string {
	slices.Sort(known)
	return slices.MinFunc(known, func(a, b string) int { return basilica.EditDistance(a, key) - basilica.EditDistance(b, key) })
}

// founding reads a genesis; the first thing that is wrong stays.
type founding struct {
	owners map[account]account // coldkeys by hotkey
	err    error
}

// owned says that a hotkey belongs to a coldkey, which is so once and for all.
func (f *founding) owned(where string, hotkey, coldkey account) {
	if before, known := f.owners[hotkey]; known && before != coldkey {
		f.fail(where, "has a hotkey of another coldkey", "give a hotkey to one coldkey")
	}
	f.owners[hotkey] = coldkey
}

func (f *founding) fail(where, sentence, fix string) {
	if f.err == nil {
		f.err = errGenesis(where, sentence, fix)
	}
}

// account reads a secret URI or an address; empty stands for fallback.
func (f *founding) account(where, text, fallback string) account {
	if text == "" {
		text = fallback
	}
	const fix = `write an address (5...) or a development key like "//Alice//hot"`
	switch {
	case text == "":
		f.fail(where, "is missing", fix)
	case strings.HasPrefix(text, "//"):
		pair, err := keys.FromURI(keys.Sr25519, text)
		if err != nil {
			f.fail(where, fmt.Sprintf("%q is no key", text), fix)
			return account{}
		}
		return account(pair.PublicKey())
	default:
		who, err := keys.DecodeSS58(text)
		if err != nil {
			f.fail(where, fmt.Sprintf("%q is no address: %v", text, err), fix)
		}
		return account(who)
	}
	return account{}
}

// rao reads an amount; empty is 0.
func (f *founding) rao(where, text string) uint64 {
	if text == "" {
		return 0
	}
	whole, part, _ := strings.Cut(text, ".")
	n, err := strconv.ParseUint(whole+(part + "000000000")[:max(9, len(part))], 10, 64)
	if err != nil || len(part) > 9 || whole == "" {
		f.fail(where, fmt.Sprintf("%q is no amount", text), `write it in quotes with at most nine decimals, e.g. "1.5"`)
		return 0
	}
	return n
}

// check reads everything once, so that what is wrong is said before a chain is made.
func (g *Genesis) check() error {
	f := &founding{owners: map[account]account{}}
	seen := map[uint16]bool{}
	issued := uint64(0)
	issue := func(where string, rao uint64) {
		if issued += rao; rao > maxIssuance || issued > maxIssuance {
			f.fail(where, "makes more TAO than there can be", "keep all balances, stakes and pools below 21000000 TAO together")
			issued = 0
		}
	}
	f.account("sudo", g.Sudo, "//Alice")
	for i, a := range g.Accounts {
		where := fmt.Sprintf("account %d", i+1)
		f.account(where, a.Key, "")
		issue(where, f.rao(where, a.TAO))
	}
	for _, n := range g.Subnets {
		where := fmt.Sprintf("subnet %d", n.NetUID)
		switch {
		case n.NetUID == rootNetuid:
			f.fail("subnet 0", "is the root network, which is always there", "leave it out; stakes may name it")
		case n.NetUID > maxGenesisNetUID:
			f.fail(where, "has too high a number", fmt.Sprintf("number subnets from 1 to %d", maxGenesisNetUID))
		case seen[n.NetUID]:
			f.fail(where, "stands there twice", "give each subnet a number of its own")
		}
		seen[n.NetUID] = true
		n.check(f, where)
		issue(where, f.rao(where+", pool_tao,", n.PoolTAO))
		issue(where, f.rao(where+", pool_alpha,", n.PoolAlpha))
	}
	for i, s := range g.Stakes {
		where := fmt.Sprintf("stake %d", i+1)
		f.account(where+", hotkey,", s.Hotkey, "")
		f.account(where+", coldkey,", s.Coldkey, "")
		issue(where, f.rao(where, s.Amount))
		if s.NetUID != rootNetuid && !seen[s.NetUID] {
			f.fail(where, fmt.Sprintf("is on subnet %d, which is not in the file", s.NetUID), "add a [[subnet]] of that number")
		}
	}
	return f.err
}

// maxIssuance is all TAO that there can ever be, in rao.
const maxIssuance = 21_000_000 * raoPerTAO

// maxGenesisNetUID keeps the subnets' numbers below those under which mechanisms store their vectors.
const maxGenesisNetUID = 4095

func (n *GenesisSubnet) check(f *founding, where string) {
	hotkey := f.account(where+", owner_hotkey,", n.OwnerHotkey, "//Alice//hot")
	f.owned(where+", owner_hotkey,", hotkey, f.account(where+", owner,", n.Owner, "//Alice"))
	if (n.PoolTAO == "") != (n.PoolAlpha == "") {
		f.fail(where, "has half a pool", "give both pool_tao and pool_alpha, or neither")
	}
	for _, name := range slices.Sorted(maps.Keys(n.Hyperparameters)) {
		h, known := genesisHyperparams[name]
		if !known {
			f.fail(where, fmt.Sprintf("has no hyperparameter %q", name), fmt.Sprintf("write %q, or leave it out", nearestOf(name, slices.Collect(maps.Keys(genesisHyperparams)))))
			continue
		}
		if _, err := h.read(n.Hyperparameters[name]); err != nil {
			f.fail(where, fmt.Sprintf("%s: %v", name, err), "correct the value")
		}
	}
	seated := []account{hotkey}
	for i, neuron := range n.Neurons {
		at := fmt.Sprintf("%s, neuron %d", where, i+1)
		hotkey := f.account(at+", hotkey,", neuron.Hotkey, "")
		f.owned(at, hotkey, f.account(at+", coldkey,", neuron.Coldkey, ""))
		if slices.Contains(seated, hotkey) {
			f.fail(at, "has a hotkey that the subnet has already", "register each hotkey once")
		}
		seated = append(seated, hotkey)
	}
}

// genesisHyperparam reads a value and stores it.
type genesisHyperparam struct {
	most  uint64 // 1 for a switch
	isOn  bool
	store func(s *subtensorStore, w writer, netuid uint16, v uint64)
}

func (h genesisHyperparam) read(v any) (uint64, error) {
	switch x := v.(type) {
	case bool:
		if !h.isOn {
			return 0, errors.New("is a number")
		}
		if x {
			return 1, nil
		}
		return 0, nil
	case int64:
		if h.isOn {
			return 0, errors.New("is true or false")
		}
		if x < 0 || uint64(x) > h.most {
			return 0, fmt.Errorf("%d is not from 0 to %d", x, h.most)
		}
		return uint64(x), nil
	}
	return 0, fmt.Errorf("%v is neither a whole number nor true or false", v)
}

func number16(get func(s *subtensorStore) map1[uint16, uint16]) genesisHyperparam {
	return genesisHyperparam{math.MaxUint16, false, func(s *subtensorStore, w writer, n uint16, v uint64) { get(s).set(w, n, uint16(v)) }}
}

func number64(get func(s *subtensorStore) map1[uint16, uint64]) genesisHyperparam {
	return genesisHyperparam{math.MaxInt64, false, func(s *subtensorStore, w writer, n uint16, v uint64) { get(s).set(w, n, v) }}
}

func onOff(get func(s *subtensorStore) map1[uint16, bool]) genesisHyperparam {
	return genesisHyperparam{1, true, func(s *subtensorStore, w writer, n uint16, v uint64) { get(s).set(w, n, v == 1) }}
}

// genesisHyperparams are what a genesis may set, by name. Amounts are in rao.
var genesisHyperparams = map[string]genesisHyperparam{
	"rho":                           number16(func(s *subtensorStore) map1[uint16, uint16] { return s.rho }),
	"kappa":                         number16(func(s *subtensorStore) map1[uint16, uint16] { return s.kappa }),
	"immunity_period":               number16(func(s *subtensorStore) map1[uint16, uint16] { return s.immunityPeriod }),
	"min_allowed_weights":           number16(func(s *subtensorStore) map1[uint16, uint16] { return s.minAllowedWeights }),
	"max_weights_limit":             number16(func(s *subtensorStore) map1[uint16, uint16] { return s.maxWeightsLimit }),
	"tempo":                         number16(func(s *subtensorStore) map1[uint16, uint16] { return s.tempo }),
	"max_validators":                number16(func(s *subtensorStore) map1[uint16, uint16] { return s.maxValidators }),
	"max_uids":                      number16(func(s *subtensorStore) map1[uint16, uint16] { return s.maxAllowedUids }),
	"burn_half_life":                number16(func(s *subtensorStore) map1[uint16, uint16] { return s.burnHalfLife }),
	"bonds_penalty":                 number16(func(s *subtensorStore) map1[uint16, uint16] { return s.bondsPenalty }),
	"max_regs_per_block":            number16(func(s *subtensorStore) map1[uint16, uint16] { return s.maxRegistrationsPerBlock }),
	"target_regs_per_interval":      number16(func(s *subtensorStore) map1[uint16, uint16] { return s.targetRegistrationsPerInterval }),
	"min_childkey_take":             number16(func(s *subtensorStore) map1[uint16, uint16] { return s.minChildkeyTakePerSubnet }),
	"weights_version":               number64(func(s *subtensorStore) map1[uint16, uint64] { return s.versionKey }),
	"weights_rate_limit":            number64(func(s *subtensorStore) map1[uint16, uint64] { return s.weightsRateLimit }),
	"serving_rate_limit":            number64(func(s *subtensorStore) map1[uint16, uint64] { return s.servingRateLimit }),
	"bonds_moving_avg":              number64(func(s *subtensorStore) map1[uint16, uint64] { return s.bondsMovingAverage }),
	"burn":                          number64(func(s *subtensorStore) map1[uint16, uint64] { return s.burn }),
	"min_burn":                      number64(func(s *subtensorStore) map1[uint16, uint64] { return s.minBurn }),
	"max_burn":                      number64(func(s *subtensorStore) map1[uint16, uint64] { return s.maxBurn }),
	"commit_reveal_period":          number64(func(s *subtensorStore) map1[uint16, uint64] { return s.revealPeriodEpochs }),
	"registration_allowed":          onOff(func(s *subtensorStore) map1[uint16, bool] { return s.registrationAllowed }),
	"commit_reveal_weights_enabled": onOff(func(s *subtensorStore) map1[uint16, bool] { return s.commitReveal }),
	"liquid_alpha_enabled":          onOff(func(s *subtensorStore) map1[uint16, bool] { return s.liquidAlpha }),
	"subnet_is_active":              onOff(func(s *subtensorStore) map1[uint16, bool] { return s.subtokenEnabled }),
	"transfers_enabled":             onOff(func(s *subtensorStore) map1[uint16, bool] { return s.transferToggle }),
	"bonds_reset_enabled":           onOff(func(s *subtensorStore) map1[uint16, bool] { return s.bondsResetOn }),
	"owner_cut_enabled":             onOff(func(s *subtensorStore) map1[uint16, bool] { return s.ownerCutEnabled }),
	"activity_cutoff_factor": {math.MaxUint32, false, func(s *subtensorStore, w writer, n uint16, v uint64) {
		s.cutoffFactor.set(w, n, uint32(v))
	}},
	"alpha_low": {math.MaxUint16, false, func(s *subtensorStore, w writer, n uint16, v uint64) {
		s.alphaValues.set(w, n, [2]uint16{uint16(v), s.alphaValues.get(w, n)[1]})
	}},
	"alpha_high": {math.MaxUint16, false, func(s *subtensorStore, w writer, n uint16, v uint64) {
		s.alphaValues.set(w, n, [2]uint16{s.alphaValues.get(w, n)[0], uint16(v)})
	}},
	"yuma3_enabled": onOff(func(s *subtensorStore) map1[uint16, bool] { return s.yuma3 }),
	"mechanism_count": {2, false, func(s *subtensorStore, w writer, n uint16, v uint64) {
		s.mechanismCountCurrent.set(w, n, max(1, uint8(v)))
	}},
}

// found puts a checked genesis into the state of block 0.
func (rt *runtime) found(x *execution, g *Genesis) {
	s, f := rt.subnets, &founding{owners: map[account]account{}}
	var issuance, staked uint64
	for _, a := range g.Accounts {
		who, rao := f.account("", a.Key, ""), f.rao("", a.TAO)
		info := rt.system.account.get(x, who)
		rt.system.account.set(x, who, accountInfo{providers: 1, free: info.free + rao, flags: newLogic})
		issuance += rao
	}
	rt.sudo.key.set(x, f.account("", g.Sudo, "//Alice"))
	rt.foundRoot(x)
	s.totalNetworks.set(x, uint16(len(g.Subnets)+1))
	s.adminFreezeWindow.set(x, 0) // a short tempo would lie in it for most of the time
	for _, n := range g.Subnets {
		issuance += rt.foundSubnet(x, f, n)
	}
	for _, stake := range g.Stakes {
		hotkey, coldkey, rao := f.account("", stake.Hotkey, ""), f.account("", stake.Coldkey, ""), f.rao("", stake.Amount)
		if _, owned := s.owner.find(x, hotkey); !owned {
			rt.mustOwn(x, coldkey, hotkey)
		}
		rt.stakeAlpha(x, hotkey, coldkey, stake.NetUID, rao)
		add := func(v uint64) uint64 { return v + rao }
		s.subnetAlphaOut.change(x, stake.NetUID, add)
		if s.mechanism.get(x, stake.NetUID) != dynamicMech {
			s.subnetTAO.change(x, stake.NetUID, add)
			rt.fillVault(x, stake.NetUID, rao)
			issuance += rao
			staked += rao
		}
	}
	s.totalStake.set(x, s.totalStake.get(x)+staked)
	rt.balances.totalIssuance.set(x, issuance)
	s.totalIssuance.set(x, issuance)
}

// fillVault gives a subnet's account the TAO that the subnet holds.
func (rt *runtime) fillVault(x *execution, netuid uint16, rao uint64) {
	info := rt.system.account.get(x, subnetAccount(netuid))
	info.free, info.providers, info.flags = info.free+rao, 1, newLogic
	rt.system.account.set(x, subnetAccount(netuid), info)
}

func (rt *runtime) mustOwn(x *execution, coldkey, hotkey account) {
	if err := rt.ownHotkey(x, coldkey, hotkey); err != nil {
		panic("localnet: a checked genesis: " + err.Error())
	}
}
