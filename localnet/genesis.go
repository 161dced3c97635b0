package localnet

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
)

// Config is how a chain is made. The zero value of every field works.
type Config struct {
	// NetUID of the subnet in the genesis; 39 where 0. The root network has netuid 0.
	NetUID uint16
	// BlockTime between two blocks of Run, in whole milliseconds, 20 ms to 1 min; 250 ms where 0. Aura.SlotDuration
	// says the same.
	BlockTime time.Duration
	// Tempo is the length of the subnet's epoch in blocks; 20 where 0.
	Tempo uint16
	// Owner is the secret URI of the subnet's owner coldkey, whose own miners earn nothing; "//Alice" where empty. Its
	// owner hotkey, Owner + "//hot", has uid 0.
	Owner string
	// Genesis is what a new chain begins with. nil: the development accounts and the one subnet that the fields above
	// describe; with it they say nothing. A chain that is continued has its genesis already and takes none.
	Genesis *Genesis
	// Path of the file that keeps the chain, made where it does not exist. Empty: nothing outlives the process.
	Path string
	// Pulses of the public quicknet beacon, in the order of their rounds: a new chain follows it, and writes those whose
	// time has come. nil: the chain has a beacon of its own, a round each second.
	Pulses []Pulse
	// FinalityLag is how many of the last blocks are not final yet; 0: a block is final at once.
	FinalityLag uint64
	// Clock gives the time for Timestamp.Now; time.Now where nil. It also salts the genesis of a new chain.
	Clock func() time.Time
	// Log hears of blocks at debug level; silent where nil.
	Log *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.NetUID == 0 {
		c.NetUID = 39
	}
	if c.BlockTime == 0 {
		c.BlockTime = 250 * time.Millisecond
	}
	if c.Tempo == 0 {
		c.Tempo = 20
	}
	if c.Owner == "" {
		c.Owner = "//Alice"
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.BlockTime < 20*time.Millisecond || c.BlockTime > time.Minute || c.BlockTime%time.Millisecond != 0 {
		return c, fmt.Errorf("localnet: block time %s is not a whole number of milliseconds from 20 ms to 1 min", c.BlockTime)
	}
	return c, nil
}

// genesisOf is the genesis of a new chain, checked.
func (c Config) genesisOf() (*Genesis, error) {
	g := &Genesis{
		Accounts: devBalances,
		Subnets: []GenesisSubnet{{
			NetUID: c.NetUID, Owner: c.Owner, OwnerHotkey: c.Owner + "//hot",
			Hyperparameters: map[string]any{"tempo": int64(c.Tempo)},
		}},
	}
	if c.Genesis != nil {
		clone := *c.Genesis
		g = &clone
	}
	if len(g.Accounts) == 0 {
		g.Accounts = devBalances
	}
	return g, g.check()
}

// devAccount is the sr25519 account of a URI that is known to be good.
func devAccount(uri string) account {
	pair, err := keys.FromURI(keys.Sr25519, uri)
	if err != nil {
		panic("localnet: " + uri + ": " + err.Error())
	}
	return account(pair.PublicKey())
}

// devBalances are the development accounts with their TAO, as the localnet of subtensor has them.
var devBalances = []GenesisAccount{
	{"//Alice", "1000000"},
	{"//Bob", "1000000"},
	{"//Charlie", "1000000"},
	{"//Dave", "2000"},
	{"//Eve", "2000"},
	{"//Ferdie", "2000"},
	{"//One", "2000"},
	{"//Two", "2000"},
	{"//Three", "2000"},
}

// genesis is the state of block 0 and its header. The header's digest has the metadata's hash and the time, so that
// two chains, or two versions of one, are never taken for each other.
func (rt *runtime) genesis(cfg Config, g *Genesis) (changes map[string][]byte, header pallet.Header) {
	x := &execution{overlay: newOverlay(past{newHistory(0), 0}), rt: rt}
	rt.payment.multiplier.set(x, [2]uint64{0, 1e18})
	rt.aura.authorities.set(x, []account{devAccount("//One")})
	rt.found(x, g)
	if cfg.Pulses == nil {
		own, err := newSimulator()
		if err != nil {
			panic("localnet: the beacon's secret: " + err.Error())
		}
		rt.drand.config.set(x, own.about(cfg.Clock()))
	}
	salt := sha256.Sum256(append(append([]byte{}, rt.v15...), u64(uint64(cfg.Clock().UnixNano()))...))
	other := scale.AppendBytes([]byte{0}, salt[:])
	changes = x.changes()
	return changes, pallet.Header{
		StateRoot: stateRoot([32]byte{}, changes), ExtrinsicsRoot: extrinsicsRoot(nil), Digest: [][]byte{other},
	}
}

func (rt *runtime) foundRoot(x *execution) {
	s := rt.subnets
	s.networksAdded.set(x, rootNetuid, true)
	s.tempo.set(x, rootNetuid, 100)
	s.maxAllowedUids.set(x, rootNetuid, 64)
	s.maxValidators.set(x, rootNetuid, 64)
	s.subtokenEnabled.set(x, rootNetuid, true)
}

// foundSubnet makes a subnet as register_network and start_call would leave it, with the limits of a development
// chain where the genesis says nothing else: commit-reveal off, a short tempo, low prices and small rate limits. It
// gives the TAO in the subnet's pool.
func (rt *runtime) foundSubnet(x *execution, f *founding, n GenesisSubnet) (issued uint64) {
	s, netuid := rt.subnets, n.NetUID
	owner, hotkey := f.account("", n.Owner, "//Alice"), f.account("", n.OwnerHotkey, "//Alice//hot")
	s.networksAdded.set(x, netuid, true)
	s.tempo.set(x, netuid, 20)
	s.mechanism.set(x, netuid, 0)
	s.maxAllowedUids.set(x, netuid, 256)
	s.maxValidators.set(x, netuid, 64)
	s.minAllowedWeights.set(x, netuid, 1)
	s.immunityPeriod.set(x, netuid, 5000)
	s.weightsRateLimit.set(x, netuid, 10)
	s.servingRateLimit.set(x, netuid, 5)
	s.commitReveal.set(x, netuid, false)
	s.yuma3.set(x, netuid, true)
	s.burn.set(x, netuid, 100_000_000)
	s.minBurn.set(x, netuid, 500_000)
	s.maxBurn.set(x, netuid, 100_000_000_000)
	s.subtokenEnabled.set(x, netuid, true)
	s.registrationAllowed.set(x, netuid, true)
	s.firstEmission.set(x, netuid, 1)
	s.subnetOwner.set(x, netuid, owner)
	s.subnetOwnerHotkey.set(x, netuid, hotkey)
	s.tokenSymbol.set(x, netuid, []byte(cmp.Or(n.Symbol, "β")))
	s.subnetworkN.set(x, netuid, 0)
	for _, name := range slices.Sorted(maps.Keys(n.Hyperparameters)) {
		h := genesisHyperparams[name]
		v, err := h.read(n.Hyperparameters[name])
		if err != nil {
			panic("localnet: a checked genesis: " + err.Error())
		}
		h.store(s, x, netuid, v)
	}
	if n.Name != "" {
		texts := make([][]byte, 8)
		texts[0] = []byte(n.Name)
		s.subnetIdentitiesV3.set(x, netuid, texts)
	}
	if n.PoolTAO != "" {
		issued = f.rao("", n.PoolTAO)
		s.mechanism.set(x, netuid, dynamicMech)
		s.subnetTAO.set(x, netuid, issued)
		rt.fillVault(x, netuid, issued)
		s.subnetAlphaIn.set(x, netuid, f.rao("", n.PoolAlpha))
		s.totalStake.set(x, s.totalStake.get(x)+issued)
	}
	rt.mustOwn(x, owner, hotkey)
	rt.seat(x, netuid, 0, hotkey)
	for i, neuron := range n.Neurons {
		hotkey := f.account("", neuron.Hotkey, "")
		rt.mustOwn(x, f.account("", neuron.Coldkey, ""), hotkey)
		rt.seat(x, netuid, uint16(i+1), hotkey)
		s.permit.set(x, netuid, replaced(s.permit.get(x, netuid), uint16(i+1), neuron.Permit))
	}
	return issued
}

// stateRoot commits to the whole state through the parent's root: the hash of the parent block and of every change.
// It is no trie root; no proofs are served.
func stateRoot(parent [32]byte, changes map[string][]byte) [32]byte {
	b := append([]byte{}, parent[:]...)
	for _, k := range slices.Sorted(maps.Keys(changes)) {
		b = scale.AppendBytes(b, []byte(k))
		v := changes[k]
		b = scale.AppendBool(b, v != nil)
		b = scale.AppendBytes(b, v)
	}
	return pallet.Blake2b256(b)
}
