package localnet

import (
	"basilica/scale"
)

// kin is a child or a parent of a hotkey; proportion is a part of 2^64-1.
type kin struct {
	proportion uint64
	hotkey     account
}

// pendingKin are children that take effect after the block cooldown.
type pendingKin struct {
	children []kin
	cooldown uint64
}

// swapAnnouncement says from which block a coldkey may be swapped for the one with this hash.
type swapAnnouncement struct {
	block uint32
	hash  account
}

// lockState is locked stake: its mass in alpha, its conviction as U64F64, and when both were computed.
type lockState struct {
	mass       uint64
	conviction [2]uint64
	update     uint64
}

// emaFlow is a moving average of TAO flow, I64F64, and its block.
type emaFlow struct {
	block uint64
	value [2]uint64
}

// prometheusInfo is SubtensorModule.Prometheus' value.
type prometheusInfo struct {
	block   uint64
	version uint32
	ip      [2]uint64
	port    uint16
	ipType  uint8
}

// weightCommit is a hash committed in an epoch, at a block; the last number is always 0 at spec 425.
type weightCommit struct {
	hash           account
	epoch, block   uint64
	formerRevealAt uint64
}

// timelockedCommit is a ciphertext that opens with the pulse of a round.
type timelockedCommit struct {
	who    account
	block  uint64
	cipher []byte
	round  uint64
}

// claimable is what one alpha of root stake has earned on a subnet, I96F32.
type claimable struct {
	netuid uint16
	rate   [2]uint64
}

// collateral is what a miner has locked for its registration, in alpha, and how fast it drains, U64F64.
type collateral struct {
	locked, min, earned uint64
	drain               [2]uint64
}

// raw is the codec of a value that the chain keeps as its SCALE bytes.
func raw(s shape) codec[[]byte] {
	return codec[[]byte]{
		shape:  s,
		encode: func(b []byte, v []byte) []byte { return append(b, v...) },
		decode: func(r *scale.Reader) []byte { return r.Raw(r.Len()) },
	}
}

// texts is the codec of a composite of byte strings.
func texts(path string, names ...string) codec[[][]byte] {
	fields := make([]field, len(names))
	for i, n := range names {
		fields[i] = field{n, tBytes, "Vec<u8>"}
	}
	return codec[[][]byte]{
		shape: composite(path, nil, fields...),
		encode: func(b []byte, v [][]byte) []byte {
			for i := range names {
				b = scale.AppendBytes(b, v[i])
			}
			return b
		},
		decode: func(r *scale.Reader) [][]byte {
			out := make([][]byte, len(names))
			for i := range out {
				out[i] = r.Bytes()
			}
			return out
		},
	}
}

func btree(name string, params []param, of shape) shape {
	return composite(name, params, field{"", vec(of), ""})
}

var (
	tI16  = primitive("i16", scale.I16)
	tI64  = primitive("i64", scale.I64)
	tI128 = primitive("i128", scale.I128)

	cI16 = codec[int16]{
		tI16, func(b []byte, v int16) []byte { return scale.AppendU16(b, uint16(v)) },
		func(r *scale.Reader) int16 { return int16(r.U16()) },
	}
	cI64 = codec[int64]{
		tI64, func(b []byte, v int64) []byte { return scale.AppendU64(b, uint64(v)) },
		func(r *scale.Reader) int64 { return int64(r.U64()) },
	}
	// cUnit is the codec of a set's member: present, without bytes.
	cUnit = codec[struct{}]{
		tUnit, func(b []byte, _ struct{}) []byte { return append([]byte{}, b...) },
		func(*scale.Reader) (u struct{}) { return u },
	}
	// Fixed-point numbers as their bits; the high half has the sign.
	cI96F32 = as(fixedPoint("FixedI128", tI128, 32), cU128)
	cI64F64 = as(fixedPoint("FixedI128", tI128, 64), cU128)
	cU96F32 = as(fixedPoint("FixedU128", tU128, 32), cU128)
	cU64F64 = as(fixedPoint("FixedU128", tU128, 64), cU128)

	cKin = codec[kin]{
		tuple(tU64, tAccount),
		func(b []byte, k kin) []byte { return append(scale.AppendU64(b, k.proportion), k.hotkey[:]...) },
		func(r *scale.Reader) kin { return kin{r.U64(), readAccount(r)} },
	}
	cPendingKin = codec[pendingKin]{
		tuple(vec(cKin.shape), tU64),
		func(b []byte, p pendingKin) []byte {
			return scale.AppendU64(listOf(cKin).encode(b, p.children), p.cooldown)
		},
		func(r *scale.Reader) pendingKin { return pendingKin{listOf(cKin).decode(r), r.U64()} },
	}
	cSwapAnnouncement = codec[swapAnnouncement]{
		tuple(tU32, tHash),
		func(b []byte, s swapAnnouncement) []byte { return append(scale.AppendU32(b, s.block), s.hash[:]...) },
		func(r *scale.Reader) swapAnnouncement { return swapAnnouncement{r.U32(), readAccount(r)} },
	}
	cLock = codec[lockState]{
		composite("pallet_subtensor::staking::lock::LockState", nil, field{"locked_mass", tU64, "AlphaBalance"},
			field{"conviction", cU64F64.shape, "U64F64"}, field{"last_update", tU64, "u64"}),
		func(b []byte, l lockState) []byte {
			return scale.AppendU64(cU128.encode(scale.AppendU64(b, l.mass), l.conviction), l.update)
		},
		func(r *scale.Reader) lockState { return lockState{r.U64(), cU128.decode(r), r.U64()} },
	}
	cEmaFlow = codec[emaFlow]{
		tuple(tU64, cI64F64.shape),
		func(b []byte, f emaFlow) []byte { return cU128.encode(scale.AppendU64(b, f.block), f.value) },
		func(r *scale.Reader) emaFlow { return emaFlow{r.U64(), cU128.decode(r)} },
	}
	cRecycleOrBurn = as(enum("pallet_subtensor::pallet::RecycleOrBurnEnum", nil, plainArms("Burn", "Recycle")...), cU8)
	cAlphaValues   = codec[[2]uint16]{
		tuple(tU16, tU16),
		func(b []byte, v [2]uint16) []byte { return scale.AppendU16(scale.AppendU16(b, v[0]), v[1]) },
		func(r *scale.Reader) [2]uint16 { return [2]uint16{r.U16(), r.U16()} },
	}
	cPrometheus = codec[prometheusInfo]{
		composite("pallet_subtensor::pallet::PrometheusInfo", nil, field{"block", tU64, "u64"}, field{"version", tU32, "u32"},
			field{"ip", tU128, "u128"}, field{"port", tU16, "u16"}, field{"ip_type", tU8, "u8"}),
		func(b []byte, p prometheusInfo) []byte {
			b = cU128.encode(scale.AppendU32(scale.AppendU64(b, p.block), p.version), p.ip)
			return append(scale.AppendU16(b, p.port), p.ipType)
		},
		func(r *scale.Reader) prometheusInfo {
			return prometheusInfo{r.U64(), r.U32(), cU128.decode(r), r.U16(), r.U8()}
		},
	}
	cIdentity = texts("pallet_subtensor::pallet::ChainIdentityV2",
		"name", "url", "github_repo", "image", "discord", "description", "additional")
	cSubnetIdentity = texts("pallet_subtensor::pallet::SubnetIdentityV3",
		"subnet_name", "github_repo", "subnet_contact", "subnet_url", "discord", "description", "logo_url", "additional")
	cWeightCommit = codec[weightCommit]{
		tuple(tHash, tU64, tU64, tU64),
		func(b []byte, w weightCommit) []byte {
			return scale.AppendU64(scale.AppendU64(scale.AppendU64(append(b, w.hash[:]...), w.epoch), w.block), w.formerRevealAt)
		},
		func(r *scale.Reader) weightCommit { return weightCommit{readAccount(r), r.U64(), r.U64(), r.U64()} },
	}
	cTimelocked = codec[timelockedCommit]{
		tuple(tAccount, tU64, bounded(tU8), tU64),
		func(b []byte, c timelockedCommit) []byte {
			return scale.AppendU64(scale.AppendBytes(scale.AppendU64(append(b, c.who[:]...), c.block), c.cipher), c.round)
		},
		func(r *scale.Reader) timelockedCommit {
			return timelockedCommit{readAccount(r), r.U64(), r.Bytes(), r.U64()}
		},
	}
	cClaimable = as(btree("BTreeMap", []param{{"K", &tU16}, {"V", &cI96F32.shape}}, tuple(tU16, cI96F32.shape)), listOf(codec[claimable]{
		encode: func(b []byte, c claimable) []byte { return cU128.encode(scale.AppendU16(b, c.netuid), c.rate) },
		decode: func(r *scale.Reader) claimable { return claimable{r.U16(), cU128.decode(r)} },
	}))
	cRootClaimType = raw(enum("pallet_subtensor::pallet::RootClaimTypeEnum", nil, arm{0, "Swap", nil}, arm{1, "Keep", nil},
		arm{2, "KeepSubnets", []field{{"subnets", btree("BTreeSet", []param{{"T", &tU16}}, tU16), "BTreeSet<NetUid>"}}}))
	cCollateral = codec[collateral]{
		composite("pallet_subtensor::pallet::MinerCollateralState", nil, field{"locked", tU64, "AlphaBalance"},
			field{"min_locked", tU64, "AlphaBalance"}, field{"earned", tU64, "AlphaBalance"}, field{"drain_ratio", cU64F64.shape, "U64F64"}),
		func(b []byte, c collateral) []byte {
			return cU128.encode(scale.AppendU64(scale.AppendU64(scale.AppendU64(b, c.locked), c.min), c.earned), c.drain)
		},
		func(r *scale.Reader) collateral { return collateral{r.U64(), r.U64(), r.U64(), cU128.decode(r)} },
	}
	cRateLimitKey = raw(enum("pallet_subtensor::RateLimitKey", []param{{"AccountId", &tAccount}},
		arm{0, "SetSNOwnerHotkey", []field{{"", tU16, "NetUid"}}},
		arm{1, "OwnerHyperparamUpdate", []field{{"", tU16, "NetUid"}, {"", enum("pallet_subtensor::utils::rate_limiting::Hyperparameter",
			nil, plainArms("Unknown", "ServingRateLimit", "MaxDifficulty", "AdjustmentAlpha", "MaxWeightLimit", "ImmunityPeriod",
				"MinAllowedWeights", "Kappa", "Rho", "ActivityCutoff", "PowRegistrationAllowed", "MinBurn", "MaxBurn",
				"BondsMovingAverage", "BondsPenalty", "CommitRevealEnabled", "LiquidAlphaEnabled", "AlphaValues",
				"WeightCommitInterval", "TransferEnabled", "AlphaSigmoidSteepness", "Yuma3Enabled", "BondsResetEnabled",
				"ImmuneNeuronLimit", "RecycleOrBurn", "MaxAllowedUids", "BurnHalfLife", "BurnIncreaseMult", "SubnetEmissionEnabled",
				"MinChildkeyTake", "ActivityCutoffFactorMilli", "TriggerEpoch")...), "Hyperparameter"}}},
		arm{2, "NetworkLastRegistered", nil},
		arm{3, "LastTxBlock", []field{{"", tAccount, "AccountId"}}},
		arm{4, "LastTxBlockChildKeyTake", []field{{"", tAccount, "AccountId"}}},
		arm{5, "LastTxBlockDelegateTake", []field{{"", tAccount, "AccountId"}}},
		arm{6, "AddStakeBurn", []field{{"", tU16, "NetUid"}}}))
)
