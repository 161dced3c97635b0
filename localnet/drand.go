package localnet

import (
	"encoding/hex"

	"basilica/keys"
	"basilica/scale"
	"basilica/timelock"
)

const (
	drandIndex = 26
	// keptPulses is how many rounds the chain keeps, dropping at most maxDropped at a time.
	keptPulses = 216_000
	maxDropped = 100
	// maxFetched is how many rounds one write_pulse carries; the fetcher only looks forward from the last stored one.
	maxFetched = 50
)

// pulse is what a beacon says in one round.
type pulse struct {
	round                 uint64
	randomness, signature []byte
}

// beaconConfig is what a beacon publishes about itself.
type beaconConfig struct {
	key                     []byte
	period, genesis         uint32
	hash, group, scheme, id []byte
}

// quicknetConfig is the default of Drand.BeaconConfig: the public beacon of the official clients.
func quicknetConfig() beaconConfig {
	b := timelock.Quicknet()
	return beaconConfig{
		key: b.PublicKey[:], period: uint32(b.Period), genesis: uint32(b.Genesis),
		hash:   literal("52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"),
		group:  literal("f477d5c89f21a17c863a7f937c6a6d15859414d2be09cd448d4279af331c5d3e"),
		scheme: []byte("bls-unchained-g1-rfc9380"), id: []byte("quicknet"),
	}
}

// literal reads hex that stands in this file.
func literal(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("localnet: " + err.Error())
	}
	return b
}

// drandStore is the state of the beacon's pallet.
type drandStore struct {
	config                   value[beaconConfig]
	pulses                   map1[uint64, pulse]
	lastStored, oldestStored value[uint64]
	nextUnsigned             value[uint32]
}

var (
	cPulse = codec[pulse]{
		composite("pallet_drand::types::Pulse", nil, field{"round", tU64, "RoundNumber"},
			field{"randomness", bounded(tU8), "BoundedVec<u8, ConstU32<32>>"}, field{"signature", bounded(tU8), "BoundedVec<u8, ConstU32<144>>"}),
		func(b []byte, p pulse) []byte {
			return scale.AppendBytes(scale.AppendBytes(scale.AppendU64(b, p.round), p.randomness), p.signature)
		},
		func(r *scale.Reader) pulse { return pulse{r.U64(), r.Bytes(), r.Bytes()} },
	}
	cBeaconConfig = codec[beaconConfig]{
		composite("pallet_drand::types::BeaconConfiguration", nil, field{"public_key", bounded(tU8), "OpaquePublicKey"},
			field{"period", tU32, "u32"}, field{"genesis_time", tU32, "u32"}, field{"hash", bounded(tU8), "BoundedHash"},
			field{"group_hash", bounded(tU8), "BoundedHash"}, field{"scheme_id", bounded(tU8), "BoundedHash"},
			field{"metadata", composite("pallet_drand::types::Metadata", nil, field{"beacon_id", bounded(tU8), "BoundedHash"}), "Metadata"}),
		func(b []byte, c beaconConfig) []byte {
			b = scale.AppendU32(scale.AppendU32(scale.AppendBytes(b, c.key), c.period), c.genesis)
			for _, v := range [][]byte{c.hash, c.group, c.scheme, c.id} {
				b = scale.AppendBytes(b, v)
			}
			return b
		},
		func(r *scale.Reader) beaconConfig {
			return beaconConfig{r.Bytes(), r.U32(), r.U32(), r.Bytes(), r.Bytes(), r.Bytes(), r.Bytes()}
		},
	}
	byRound = key[uint64]{scale.Blake2_128Concat, cU64}
)

var eventNewPulse = eventID{drandIndex, 1}

func (rt *runtime) drandPallet() module {
	p := &prefix{pallet: "Drand"}
	rt.drand = &drandStore{config: newValue(p, "BeaconConfig", cBeaconConfig, quicknetConfig())}
	newMap(p, "HasMigrationRun", key[[]byte]{scale.Identity, as(bounded(tU8), cBytes)}, cBool, false)
	rt.drand.pulses = newOptionalMap(p, "Pulses", byRound, cPulse)
	rt.drand.lastStored = newValue(p, "LastStoredRound", cU64, 0)
	rt.drand.oldestStored = newValue(p, "OldestStoredRound", cU64, 0)
	rt.drand.nextUnsigned = newValue(p, "NextUnsignedAt", cU32, 0)
	signer := enum("sp_runtime::MultiSigner", nil, arm{0, "Ed25519", []field{{"", array(32, tU8), "ed25519::Public"}}},
		arm{1, "Sr25519", []field{{"", array(32, tU8), "sr25519::Public"}}}, arm{2, "Ecdsa", []field{{"", array(33, tU8), "ecdsa::Public"}}})
	payload := composite("pallet_drand::types::PulsesPayload", []param{{"Public", &signer}, {"BlockNumber", &tU32}},
		field{"block_number", tU32, "BlockNumber"}, field{"pulses", vec(cPulse.shape), "Vec<Pulse>"}, field{"public", signer, "Public"})
	return module{
		name: "Drand", crate: "pallet_drand", index: drandIndex, storage: p,
		calls: []call{{0, "write_pulse", []field{
			{"pulses_payload", payload, "PulsesPayload<T::Public, BlockNumberFor<T>>"},
			{"signature", option(tMultiSignature), "Option<T::Signature>"},
		}, false, weight{refTime: 5_708_000_000 + baseWeight}, func(rt *runtime, r *scale.Reader) dispatch {
			w := readPulses(r)
			return dispatch{pulses: &w, run: func(*execution, origin) error { return badOrigin }} // signed by nobody
		}}},
		events: []arm{
			eventID{drandIndex, 0}.arm("BeaconConfigChanged"),
			eventNewPulse.arm("NewPulse", field{"rounds", vec(tU64), "Vec<RoundNumber>"}),
			eventID{drandIndex, 2}.arm("SetOldestStoredRound", field{"", tU64, "u64"}),
		},
		errors:    plainArms(drandErrors[:]...),
		constants: []constant{{"UnsignedPriority", tU64, u64(1 << 20)}, {"HttpFetchTimeout", tU64, u64(1000)}},
	}
}

var drandErrors = [...]string{
	"NoneValue", "StorageOverflow", "DrandConnectionFailure", "UnverifiedPulse", "InvalidRoundNumber", "PulseVerificationError",
}

func drandError(name string) dispatchError {
	return listedError("Drand", drandIndex, drandErrors[:], name)
}

// pulsesWritten are the arguments of write_pulse.
type pulsesWritten struct {
	block     uint32
	pulses    []pulse
	scheme    keys.Scheme
	public    account
	signature []byte // empty where there is none
}

func readPulses(r *scale.Reader) (w pulsesWritten) {
	w.block, w.pulses = r.U32(), listOf(cPulse).decode(r)
	w.scheme = readScheme(r)
	w.public = readAccount(r)
	if r.Option() {
		if readScheme(r) != w.scheme {
			r.Fail(errUndecodable)
		}
		w.signature = r.Raw(64)
	}
	return w
}

// payload is what is signed: block, pulses and who signs.
func (w *pulsesWritten) payload() []byte {
	b := listOf(cPulse).encode(scale.AppendU32(nil, w.block), w.pulses)
	scheme := byte(0)
	if w.scheme == keys.Sr25519 {
		scheme = 1
	}
	return append(append(b, scheme), w.public[:]...)
}

func readScheme(r *scale.Reader) keys.Scheme {
	switch r.U8() {
	case 0:
		return keys.Ed25519
	case 1:
		return keys.Sr25519
	}
	r.Fail(errUndecodable)
	return keys.Sr25519
}

// admitPulses is what a block asks of a bare write_pulse: a signature of anybody over it, and a block that is not to come.
func (rt *runtime) admitPulses(x *execution, w *pulsesWritten) error {
	switch {
	case len(w.signature) == 0:
		return invalid(dataBadSigner)
	case !keys.Verify(w.scheme, w.public, w.payload(), w.signature):
		return invalid(dataBadProof)
	case uint64(w.block) > x.block:
		return invalid(dataFuture)
	case w.block < rt.drand.nextUnsigned.get(x):
		return invalid(dataStale)
	}
	return nil
}

// writePulses stores pulses that the beacon has signed. A round only has to be later than the last one: whoever leaves
// rounds out keeps the chain from ever storing them. own says that this chain's beacon has just made them.
func (rt *runtime) writePulses(x *execution, pulses []pulse, own bool) error {
	d := rt.drand
	config := d.config.get(x)
	last, first := d.lastStored.get(x), d.oldestStored.get(x)
	var rounds []uint64
	for _, p := range pulses {
		if !own {
			beacon, err := timelock.ParsePublicKey(config.key)
			if err != nil {
				return drandError("PulseVerificationError")
			}
			if beacon.Verify(p.round, p.signature) != nil {
				continue
			}
		}
		if p.round <= last {
			return drandError("InvalidRoundNumber")
		}
		d.pulses.set(x, p.round, p)
		last = p.round
		rounds = append(rounds, p.round)
	}
	if len(rounds) == 0 {
		return nil
	}
	d.lastStored.set(x, last)
	if first == 0 {
		first = rounds[0]
	}
	for n := 0; last-first+1 > keptPulses && n < maxDropped; n++ {
		d.pulses.del(x, first)
		first++
	}
	d.oldestStored.set(x, first)
	d.nextUnsigned.set(x, uint32(x.block))
	x.emit(eventNewPulse, listOf(cU64).encode(nil, rounds))
	return nil
}

// pulsesInherent is the bare write_pulse of a block's author.
func (rt *runtime) pulsesInherent(block uint64, pulses []pulse, author *keys.Pair) ([]byte, error) {
	w := pulsesWritten{block: uint32(block), pulses: pulses, scheme: keys.Sr25519, public: author.PublicKey()}
	payload := w.payload()
	signature, err := author.Sign(payload)
	if err != nil {
		return nil, err
	}
	return rt.bare(drandIndex, 0, append(append(payload, 1, 1), signature...)), nil
}
