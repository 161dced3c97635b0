package localnet

import (
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
	// Path of the file that keeps the chain, made where it does not exist. Empty: nothing outlives the process.
	Path string
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
	for _, uri := range []string{c.Owner, c.Owner + "//hot"} {
		if _, err := keys.FromURI(keys.Sr25519, uri); err != nil {
			return c, fmt.Errorf("localnet: the owner is not a secret URI: %w", err)
		}
	}
	return c, nil
}

// devAccount is the sr25519 account of a URI that is known to be good.
func devAccount(uri string) account {
	pair, err := keys.FromURI(keys.Sr25519, uri)
	if err != nil {
		panic("localnet: " + uri + ": " + err.Error())
	}
	return account(pair.PublicKey())
}

// devBalances are the development accounts with their TAO in rao, as the localnet of subtensor has them.
var devBalances = []struct {
	uri string
	rao uint64
}{
	{"//Alice", 1e15},
	{"//Bob", 1e15},
	{"//Charlie", 1e15},
	{"//Dave", 2e12},
	{"//Eve", 2e12},
	{"//Ferdie", 2e12},
	{"//One", 2e12},
	{"//Two", 2e12},
	{"//Three", 2e12},
}

// genesis is the state of block 0 and its header. The header's digest has the metadata's hash and the time, so that
// two chains, or two versions of one, are never taken for each other.
func (rt *runtime) genesis(cfg Config) (changes map[string][]byte, header pallet.Header) {
	x := &execution{overlay: newOverlay(past{newHistory(0), 0}), rt: rt}
	var issuance uint64
	for _, dev := range devBalances {
		rt.system.account.set(x, devAccount(dev.uri), accountInfo{providers: 1, free: dev.rao, flags: newLogic})
		issuance += dev.rao
	}
	rt.balances.totalIssuance.set(x, issuance)
	rt.subnets.totalIssuance.set(x, issuance)
	rt.payment.multiplier.set(x, [2]uint64{0, 1e18})
	rt.aura.authorities.set(x, []account{devAccount("//One")})
	rt.sudo.key.set(x, devAccount("//Alice"))
	rt.foundRoot(x)
	rt.foundSubnet(x, cfg)
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

// foundSubnet makes the subnet as register_network and start_call would leave it, with the limits of a development
// chain: commit-reveal off, a short tempo, low prices and small rate limits.
func (rt *runtime) foundSubnet(x *execution, cfg Config) {
	s, netuid := rt.subnets, cfg.NetUID
	owner, hotkey := devAccount(cfg.Owner), devAccount(cfg.Owner+"//hot")
	s.totalNetworks.set(x, 2)
	s.adminFreezeWindow.set(x, 0) // a short tempo would lie in it for most of the time
	s.networksAdded.set(x, netuid, true)
	s.tempo.set(x, netuid, cfg.Tempo)
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
	s.tokenSymbol.set(x, netuid, []byte("β"))
	s.subnetworkN.set(x, netuid, 0)
	if err := rt.ownHotkey(x, owner, hotkey); err != nil {
		panic("localnet: genesis: " + err.Error()) // nothing else owns a hotkey yet
	}
	rt.seat(x, netuid, 0, hotkey)
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
