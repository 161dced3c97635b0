package localnet

import "basilica/scale"

func (n subnet) yumaVersion() uint16 {
	if n.yuma3.get(n, n.id) {
		return 3
	}
	return 2
}

func (n subnet) highest() uint16 { return n.alphaValues.get(n, n.id)[1] }
func (n subnet) lowest() uint16  { return n.alphaValues.get(n, n.id)[0] }

// steepness is AlphaSigmoidSteepness as I32F32.
func (n subnet) steepness() int64 { return int64(n.alphaSigmoidSteepness.get(n, n.id)) << 32 }

func never(subnet) bool { return false }

var fI32F32 = plain(as(fixedPoint("FixedI64", tI64, 32), cI64))

// hyperparams are the parts of the first version of a subnet's hyperparameters.
func (s *subtensorStore) hyperparams() []column[subnet] {
	return []column[subnet]{
		short("rho", compact16Name, of(s.rho)),
		short("kappa", compact16Name, of(s.kappa)),
		short("immunity_period", compact16Name, of(s.immunityPeriod)),
		short("min_allowed_weights", compact16Name, of(s.minAllowedWeights)),
		short("max_weights_limit", compact16Name, of(s.maxWeightsLimit)),
		short("tempo", compact16Name, of(s.tempo)),
		long("min_difficulty", compact64Name, of(s.minDifficulty)),
		long("max_difficulty", compact64Name, of(s.maxDifficulty)),
		long("weights_version", compact64Name, of(s.versionKey)),
		long("weights_rate_limit", compact64Name, of(s.weightsRateLimit)),
		short("adjustment_interval", compact16Name, of(s.adjustmentInterval)),
		long("activity_cutoff", compact64Name, subnet.cutoff),
		flag("registration_allowed", of(s.registrationAllowed)),
		short("target_regs_per_interval", compact16Name, of(s.targetRegistrationsPerInterval)),
		long("min_burn", taoName, of(s.minBurn)),
		long("max_burn", taoName, of(s.maxBurn)),
		long("bonds_moving_avg", compact64Name, of(s.bondsMovingAverage)),
		short("max_regs_per_block", compact16Name, of(s.maxRegistrationsPerBlock)),
		long("serving_rate_limit", compact64Name, of(s.servingRateLimit)),
		short("max_validators", compact16Name, of(s.maxValidators)),
		long("adjustment_alpha", compact64Name, of(s.adjustmentAlpha)),
		long("difficulty", compact64Name, of(s.difficulty)),
		long("commit_reveal_period", compact64Name, of(s.revealPeriodEpochs)),
		flag("commit_reveal_weights_enabled", of(s.commitReveal)),
		short("alpha_high", compact16Name, subnet.highest),
		short("alpha_low", compact16Name, subnet.lowest),
		flag("liquid_alpha_enabled", of(s.liquidAlpha)),
	}
}

// hyperparams2 are those of the second version.
func (s *subtensorStore) hyperparams2() []column[subnet] {
	return append(s.hyperparams(),
		fill("alpha_sigmoid_steepness", "I32F32", fI32F32, subnet.steepness),
		short("yuma_version", compact16Name, subnet.yumaVersion),
		flag("subnet_is_active", of(s.subtokenEnabled)),
		flag("transfers_enabled", of(s.transferToggle)),
		flag("bonds_reset_enabled", of(s.bondsResetOn)),
		flag("user_liquidity_enabled", never))
}

// hyperparam is one entry of the third version, which names its fields itself: kind is the variant of its value.
type hyperparam struct {
	name string
	kind uint8
	put  func(b []byte, n subnet) []byte
}

var fHyperparamEntry = composite(rpcInfo+"subnet_info::HyperparamEntry", nil, field{"name", tBytes, "Vec<u8>"},
	field{"value", enum(rpcInfo+"subnet_info::HyperparamValue", nil,
		arm{0, "Bool", []field{{"", tBool, "bool"}}},
		arm{1, "U16", []field{{"", compact(tU16), compact16Name}}},
		arm{2, "U32", []field{{"", compact(tU32), "Compact<u32>"}}},
		arm{3, "U64", []field{{"", compact(tU64), compact64Name}}},
		arm{4, "U128", []field{{"", compact(tU128), "Compact<u128>"}}},
		arm{5, "TaoBalance", []field{{"", compact(tU64), taoName}}},
		arm{6, "I32F32", []field{{"", fI32F32.shape, "I32F32"}}},
		arm{7, "U64F64", []field{{"", cU64F64.shape, "U64F64"}}}), "HyperparamValue"})

// hyperparams3 is the form of the third version.
func (s *subtensorStore) hyperparams3() form[subnet] {
	list := s.namedHyperparams()
	return form[subnet]{vec(fHyperparamEntry), func(b []byte, n subnet) []byte {
		b = scale.AppendCompact(b, uint64(len(list)))
		for _, h := range list {
			b = h.put(append(scale.AppendString(b, h.name), h.kind), n)
		}
		return b
	}}
}

func (s *subtensorStore) namedHyperparams() []hyperparam {
	put16 := func(get func(subnet) uint16) func([]byte, subnet) []byte {
		return func(b []byte, n subnet) []byte { return fCompact16.put(b, get(n)) }
	}
	put64 := func(get func(subnet) uint64) func([]byte, subnet) []byte {
		return func(b []byte, n subnet) []byte { return fCompact64.put(b, get(n)) }
	}
	putFlag := func(get func(subnet) bool) func([]byte, subnet) []byte {
		return func(b []byte, n subnet) []byte { return scale.AppendBool(b, get(n)) }
	}
	const (
		boolean = iota
		u16Value
		u32Value
		u64Value
		_
		taoValue
		i32f32Value
		u64f64Value
	)
	return []hyperparam{
		{"kappa", u16Value, put16(of(s.kappa))},
		{"immunity_period", u16Value, put16(of(s.immunityPeriod))},
		{"min_allowed_weights", u16Value, put16(of(s.minAllowedWeights))},
		{"max_weights_limit", u16Value, put16(of(s.maxWeightsLimit))},
		{"tempo", u16Value, put16(of(s.tempo))},
		{"weights_version", u64Value, put64(of(s.versionKey))},
		{"weights_rate_limit", u64Value, put64(of(s.weightsRateLimit))},
		{"activity_cutoff", u64Value, put64(subnet.cutoff)},
		{"activity_cutoff_factor", u32Value, func(b []byte, n subnet) []byte {
			return scale.AppendCompact(b, uint64(n.cutoffFactor.get(n, n.id)))
		}},
		{"registration_allowed", boolean, putFlag(of(s.registrationAllowed))},
		{"target_regs_per_interval", u16Value, put16(of(s.targetRegistrationsPerInterval))},
		{"min_burn", taoValue, put64(of(s.minBurn))},
		{"max_burn", taoValue, put64(of(s.maxBurn))},
		{"burn_half_life", u16Value, put16(of(s.burnHalfLife))},
		{"burn_increase_mult", u64f64Value, func(b []byte, n subnet) []byte {
			return cU64F64.encode(b, n.burnIncrease.get(n, n.id))
		}},
		{"bonds_moving_avg", u64Value, put64(of(s.bondsMovingAverage))},
		{"max_regs_per_block", u16Value, put16(of(s.maxRegistrationsPerBlock))},
		{"serving_rate_limit", u64Value, put64(of(s.servingRateLimit))},
		{"max_validators", u16Value, put16(of(s.maxValidators))},
		{"commit_reveal_period", u64Value, put64(of(s.revealPeriodEpochs))},
		{"commit_reveal_weights_enabled", boolean, putFlag(of(s.commitReveal))},
		{"alpha_high", u16Value, put16(subnet.highest)},
		{"alpha_low", u16Value, put16(subnet.lowest)},
		{"liquid_alpha_enabled", boolean, putFlag(of(s.liquidAlpha))},
		{"alpha_sigmoid_steepness", i32f32Value, func(b []byte, n subnet) []byte { return fI32F32.put(b, n.steepness()) }},
		{"yuma_version", u16Value, put16(subnet.yumaVersion)},
		{"subnet_is_active", boolean, putFlag(of(s.subtokenEnabled))},
		{"transfers_enabled", boolean, putFlag(of(s.transferToggle))},
		{"bonds_reset_enabled", boolean, putFlag(of(s.bondsResetOn))},
		{"user_liquidity_enabled", boolean, putFlag(never)},
		{"owner_cut_enabled", boolean, putFlag(of(s.ownerCutEnabled))},
		{"owner_cut_auto_lock_enabled", boolean, putFlag(of(s.ownerCutAutoLockEnabled))},
		{"min_childkey_take", u16Value, put16(of(s.minChildkeyTakePerSubnet))},
	}
}
