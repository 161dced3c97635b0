package localnet

import (
	"fmt"
	"slices"

	"basilica/scale"
	"basilica/yuma"
)

const (
	commitmentsIndex = 18
	maxFields        = 3   // of a commitment
	minCommitment    = 100 // bytes that a commitment is charged at least
	maxBigRaw        = 512
	maxTimelocked    = 1024
)

// fact is one field of a commitment: its SCALE bytes, and how many bytes it is charged for.
type fact struct {
	raw        []byte
	length     int
	timelocked bool
	round      uint64
	reset      bool
}

// registration is Commitments.CommitmentOf's value.
type registration struct {
	deposit uint64
	block   uint32
	facts   []fact
}

// usage is what a hotkey has committed in an epoch, in bytes.
type usage struct{ epoch, bytes uint64 }

// timelockKey names a commitment that waits for its round.
type timelockKey struct {
	netuid uint16
	who    account
}

type commitmentsStore struct {
	timelocked value[[]timelockKey]
	of         map2[uint16, account, registration]
	last       map2[uint16, account, uint32]
	bondsReset map2[uint16, account, uint32]
	revealed   map2[uint16, account, []byte]
	used       map2[uint16, account, usage]
	maxSpace   value[uint32]
}

// dataArms are the variants of a commitment's field.
func dataArms() []arm {
	arms := []arm{{0, "None", nil}}
	for n := range uint32(129) {
		arms = append(arms, arm{uint8(n + 1), fmt.Sprintf("Raw%d", n), []field{{"", array(n, tU8), ""}}})
	}
	for i, name := range []string{"BlakeTwo256", "Sha256", "Keccak256", "ShaThree256"} {
		arms = append(arms, arm{uint8(130 + i), name, []field{{"", array(32, tU8), ""}}})
	}
	return append(arms,
		arm{134, "TimelockEncrypted", []field{{"encrypted", bounded(tU8), ""}, {"reveal_round", tU64, ""}}},
		arm{135, "ResetBondsFlag", nil},
		arm{136, "BigRaw", []field{{"", bounded(tU8), ""}}})
}

var (
	tCommitmentData = enum("pallet_commitments::types::Data", nil, dataArms()...)
	tCommitmentInfo = composite("pallet_commitments::types::CommitmentInfo", []param{{"FieldLimit", nil}},
		field{"fields", bounded(tCommitmentData), "BoundedVec<Data, FieldLimit>"})
	cFact = codec[fact]{
		tCommitmentData,
		func(b []byte, f fact) []byte { return append(b, f.raw...) },
		readFact,
	}
	cRegistration = codec[registration]{
		composite("pallet_commitments::types::Registration", []param{{"Balance", &tU64}, {"MaxFields", nil}, {"BlockNumber", &tU32}},
			field{"deposit", tU64, "Balance"}, field{"block", tU32, "BlockNumber"}, field{"info", tCommitmentInfo, "CommitmentInfo<MaxFields>"}),
		func(b []byte, v registration) []byte {
			return listOf(cFact).encode(scale.AppendU32(scale.AppendU64(b, v.deposit), v.block), v.facts)
		},
		func(r *scale.Reader) registration { return registration{r.U64(), r.U32(), listOf(cFact).decode(r)} },
	}
	cUsage = codec[usage]{
		composite("pallet_commitments::types::UsageTracker", nil, field{"last_epoch", tU64, "u64"}, field{"used_space", tU64, "u64"}),
		func(b []byte, u usage) []byte { return scale.AppendU64(scale.AppendU64(b, u.epoch), u.bytes) },
		func(r *scale.Reader) usage { return usage{r.U64(), r.U64()} },
	}
	tTimelockKey  = tuple(tU16, tAccount)
	cTimelockKeys = as(btree("BTreeSet", []param{{"T", &tTimelockKey}}, tTimelockKey), listOf(codec[timelockKey]{
		encode: func(b []byte, k timelockKey) []byte { return append(scale.AppendU16(b, k.netuid), k.who[:]...) },
		decode: func(r *scale.Reader) timelockKey { return timelockKey{r.U16(), readAccount(r)} },
	}))
)

func readFact(r *scale.Reader) (f fact) {
	tag := r.U8()
	switch {
	case tag == 0:
		f.raw = []byte{0}
	case tag <= 129:
		f.length = int(tag) - 1
		f.raw = append([]byte{tag}, r.Raw(f.length)...)
	case tag <= 133:
		f.length = 32
		f.raw = append([]byte{tag}, r.Raw(32)...)
	case tag == 134:
		cipher := r.Bytes()
		if len(cipher) > maxTimelocked {
			r.Fail(errUndecodable)
		}
		f.round = r.U64()
		f.length, f.timelocked = len(cipher), true
		f.raw = scale.AppendU64(scale.AppendBytes([]byte{tag}, cipher), f.round)
	case tag == 135:
		f.raw, f.reset = []byte{tag}, true
	case tag == 136:
		big := r.Bytes()
		if len(big) > maxBigRaw {
			r.Fail(errUndecodable)
		}
		f.length, f.raw = len(big), scale.AppendBytes([]byte{tag}, big)
	default:
		r.Fail(errUndecodable)
	}
	return f
}

func (rt *runtime) commitmentsPallet() module {
	p := &prefix{pallet: "Commitments"}
	rt.commitments = &commitmentsStore{
		timelocked: newValue(p, "TimelockedIndex", cTimelockKeys, nil),
		of:         newOptionalMap2(p, "CommitmentOf", byNet, byAccountTwox, cRegistration),
		last:       newOptionalMap2(p, "LastCommitment", byNet, byAccountTwox, cU32),
		bondsReset: newOptionalMap2(p, "LastBondsReset", byNet, byAccountTwox, cU32),
		revealed:   newOptionalMap2(p, "RevealedCommitments", byNet, byAccountTwox, raw(vec(tuple(tBytes, tU64)))),
		used:       newOptionalMap2(p, "UsedSpaceOf", byNet, byAccountTwox, cUsage),
		maxSpace:   newValue(p, "MaxSpace", cU32, 3100),
	}
	who := []field{{"netuid", tU16, "NetUid"}, {"who", tAccount, "T::AccountId"}}
	return module{
		name: "Commitments", crate: "pallet_commitments", index: commitmentsIndex, storage: p,
		calls: []call{
			{0, "set_commitment", []field{{"netuid", tU16, "NetUid"}, {"info", tCommitmentInfo, "Box<CommitmentInfo<T::MaxFields>>"}}, true, weight{734_220_000, 4198}, func(rt *runtime, r *scale.Reader) dispatch {
				netuid, facts := r.U16(), listOf(cFact).decode(r)
				if len(facts) > maxFields {
					r.Fail(errUndecodable)
				}
				return dispatch{run: func(x *execution, from origin) error { return rt.setCommitment(x, from, netuid, facts) }}
			}},
			{2, "set_max_space", []field{{"new_limit", tU32, "u32"}}, false, weight{734_220_000, 4198}, func(rt *runtime, r *scale.Reader) dispatch {
				limit := r.U32()
				return dispatch{run: func(x *execution, from origin) error {
					if !from.root {
						return badOrigin
					}
					rt.commitments.maxSpace.set(x, limit)
					return nil
				}}
			}},
		},
		events: []arm{
			eventCommitment.arm("Commitment", who...),
			eventTimelockCommitment.arm("TimelockCommitment", who[0], who[1], field{"reveal_round", tU64, "u64"}),
		},
		errors: plainArms(commitmentsErrors[:]...),
	}
}

// setCommitment publishes a hotkey's facts. An epoch's commitments of a hotkey share MaxSpace bytes.
func (rt *runtime) setCommitment(x *execution, from origin, netuid uint16, facts []fact) error {
	if from.root {
		return badOrigin
	}
	fail := func(name string) error {
		return listedError("Commitments", commitmentsIndex, commitmentsErrors[:], name)
	}
	who, c, s := from.who, rt.commitments, rt.subnets
	if _, registered := s.uids.find(x, netuid, who); !registered {
		return fail("AccountNotAllowedCommit")
	}
	length, timelocked, reset := 0, false, false
	for _, f := range facts {
		length += f.length
		timelocked = timelocked || f.timelocked
		reset = reset || f.reset
	}
	used := c.used.get(x, netuid, who)
	if epoch := s.epochIndex.get(x, netuid); used.epoch != epoch {
		used = usage{epoch: epoch}
	}
	used.bytes += uint64(max(length, minCommitment))
	if used.bytes > uint64(c.maxSpace.get(x)) {
		return fail("SpaceLimitExceeded")
	}
	c.used.set(x, netuid, who, used)
	c.of.set(x, netuid, who, registration{block: uint32(x.block), facts: facts})
	c.last.set(x, netuid, who, uint32(x.block))
	own := timelockKey{netuid, who}
	index := slices.DeleteFunc(c.timelocked.get(x), func(k timelockKey) bool { return k == own })
	if timelocked {
		index = append(index, own)
		slices.SortFunc(index, func(a, b timelockKey) int {
			if a.netuid != b.netuid {
				return int(a.netuid) - int(b.netuid)
			}
			return slices.Compare(a.who[:], b.who[:])
		})
	}
	c.timelocked.set(x, index)
	if reset {
		c.bondsReset.set(x, netuid, who, uint32(x.block))
		rt.resetBonds(x, netuid, who)
	}
	for _, f := range facts {
		if f.timelocked {
			x.emit(eventTimelockCommitment, u16(netuid), who[:], u64(f.round))
			return nil
		}
	}
	x.emit(eventCommitment, u16(netuid), who[:])
	return nil
}

// resetBonds forgets the bonds towards a miner that says it became another one, where the subnet allows it.
func (rt *runtime) resetBonds(x *execution, netuid uint16, who account) {
	s := rt.subnets
	uid, registered := s.uids.find(x, netuid, who)
	if !registered || !s.bondsResetOn.get(x, netuid) {
		return
	}
	for other := range s.subnetworkN.get(x, netuid) {
		row := s.bonds.get(x, netuid, other)
		kept := slices.DeleteFunc(row, func(e yuma.Entry) bool { return e.UID == uid })
		if len(kept) < len(row) {
			s.bonds.set(x, netuid, other, kept)
		}
	}
}
