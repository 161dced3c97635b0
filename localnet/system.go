package localnet

import (
	"errors"

	"basilica/pallet"
	"basilica/scale"
)

// accountInfo is System.Account's value.
type accountInfo struct {
	nonce, consumers, providers, sufficients uint32
	free, reserved, frozen                   uint64
	flags                                    [2]uint64
}

// newLogic is the flag that the runtime sets on every account it touches.
var newLogic = [2]uint64{1 << 63, 0}

type systemStore struct {
	account    map1[account, accountInfo]
	blockHash  map1[uint32, account]
	number     value[uint32]
	parentHash value[account]
	digest     value[[][]byte]
	events     value[[][]byte]
	eventCount value[uint32]
}

// written is the codec of a sequence whose elements come as their SCALE bytes. Pallets write such values and never read
// them back, so decoding fails.
func written(s shape) codec[[][]byte] {
	return codec[[][]byte]{
		shape: s,
		encode: func(b []byte, v [][]byte) []byte {
			b = scale.AppendCompact(b, uint64(len(v)))
			for _, x := range v {
				b = append(b, x...)
			}
			return b
		},
		decode: func(r *scale.Reader) [][]byte {
			r.Fail(errors.New("this value is only written"))
			return nil
		},
	}
}

func (rt *runtime) systemPallet() module {
	p := &prefix{pallet: "System"}
	balance := composite("pallet_balances::types::AccountData", []param{{"Balance", &tU64}},
		field{"free", tU64, "Balance"}, field{"reserved", tU64, "Balance"}, field{"frozen", tU64, "Balance"},
		field{"flags", composite("pallet_balances::types::ExtraFlags", nil, field{"", tU128, "u128"}), "ExtraFlags"})
	info := codec[accountInfo]{
		shape: composite("frame_system::AccountInfo", []param{{"Nonce", &tU32}, {"AccountData", &balance}},
			field{"nonce", tU32, "Nonce"}, field{"consumers", tU32, "RefCount"}, field{"providers", tU32, "RefCount"},
			field{"sufficients", tU32, "RefCount"}, field{"data", balance, "AccountData"}),
		encode: func(b []byte, v accountInfo) []byte {
			for _, n := range []uint32{v.nonce, v.consumers, v.providers, v.sufficients} {
				b = scale.AppendU32(b, n)
			}
			for _, n := range []uint64{v.free, v.reserved, v.frozen} {
				b = scale.AppendU64(b, n)
			}
			return scale.AppendU128(b, v.flags[0], v.flags[1])
		},
		decode: func(r *scale.Reader) accountInfo {
			return accountInfo{r.U32(), r.U32(), r.U32(), r.U32(), r.U64(), r.U64(), r.U64(), cU128.decode(r)}
		},
	}
	item := enum("sp_runtime::generic::digest::DigestItem", nil,
		arm{6, "PreRuntime", []field{{"", array(4, tU8), "ConsensusEngineId"}, {"", tBytes, "Vec<u8>"}}},
		arm{4, "Consensus", []field{{"", array(4, tU8), "ConsensusEngineId"}, {"", tBytes, "Vec<u8>"}}},
		arm{5, "Seal", []field{{"", array(4, tU8), "ConsensusEngineId"}, {"", tBytes, "Vec<u8>"}}},
		arm{0, "Other", []field{{"", tBytes, "Vec<u8>"}}},
		arm{8, "RuntimeEnvironmentUpdated", nil})
	digest := composite("sp_runtime::generic::digest::Digest", nil, field{"logs", vec(item), "Vec<DigestItem>"})
	phase := enum("frame_system::Phase", nil, arm{0, "ApplyExtrinsic", []field{{"", tU32, "u32"}}}, arm{1, "Finalization", nil}, arm{2, "Initialization", nil})
	event := rt.eventShape()
	record := composite("frame_system::EventRecord", []param{{"E", &event}, {"T", &tHash}},
		field{"phase", phase, "Phase"}, field{"event", event, "E"}, field{"topics", vec(tHash), "Vec<T>"})
	rt.system = &systemStore{
		account:    newMap(p, "Account", byAccount, info, accountInfo{flags: newLogic}),
		blockHash:  newMap(p, "BlockHash", byBlock, cHash, account{}),
		number:     newValue(p, "Number", cU32, 0),
		parentHash: newValue(p, "ParentHash", cHash, account{}),
		digest:     newValue(p, "Digest", written(digest), nil),
		events:     newValue(p, "Events", written(vec(record)), nil),
		eventCount: newValue(p, "EventCount", cU32, 0),
	}
	api := tuple(array(8, tU8), tU32)
	version := composite("sp_version::RuntimeVersion", nil,
		field{"spec_name", cow(tStr), "Cow<'static, str>"}, field{"impl_name", cow(tStr), "Cow<'static, str>"},
		field{"authoring_version", tU32, "u32"}, field{"spec_version", tU32, "u32"}, field{"impl_version", tU32, "u32"},
		field{"apis", cow(vec(api)), "ApisVec"}, field{"transaction_version", tU32, "u32"}, field{"system_version", tU8, "u8"})
	return module{
		name: "System", crate: "frame_system", index: 0, storage: p,
		calls: []call{
			{0, "remark", []field{{"remark", tBytes, "Vec<u8>"}}, false, remarkWeight, func(_ *runtime, r *scale.Reader) dispatch {
				price := cost{weight: remarkWeight.plus(weight{refTime: remarkByte * uint64(len(r.Bytes()))})}
				return dispatch{cost: &price, run: func(*execution, origin) error { return nil }}
			}},
			{7, "remark_with_event", []field{{"remark", tBytes, "Vec<u8>"}}, false, remarkWeight, func(rt *runtime, r *scale.Reader) dispatch {
				remark := r.Bytes()
				return dispatch{run: func(x *execution, from origin) error {
					hash := pallet.Blake2b256(remark)
					x.emit(eventRemarked, from.who[:], hash[:])
					return nil
				}}
			}},
		},
		events: []arm{
			eventExtrinsicSuccess.arm("ExtrinsicSuccess", field{"dispatch_info", tDispatchInfo, "DispatchEventInfo"}),
			eventExtrinsicFailed.arm("ExtrinsicFailed", field{"dispatch_error", tDispatchError, "DispatchError"}, field{"dispatch_info", tDispatchInfo, "DispatchEventInfo"}),
			eventNewAccount.arm("NewAccount", field{"account", tAccount, "T::AccountId"}),
			eventKilledAccount.arm("KilledAccount", field{"account", tAccount, "T::AccountId"}),
			eventRemarked.arm("Remarked", field{"sender", tAccount, "T::AccountId"}, field{"hash", tHash, "T::Hash"}),
		},
		errors: plainArms(systemErrors[:]...),
		constants: []constant{
			{"BlockHashCount", tU32, scale.AppendU32(nil, blockHashCount)},
			{"Version", version, nil}, // stateVersion fills it in, once the APIs are declared
			{"SS58Prefix", tU16, scale.AppendU16(nil, ss58Prefix)},
		},
	}
}

// remarkWeight is what a remark without text weighs, remarkByte what a byte of its text does.
var remarkWeight = weight{177_326_000, 4198}

const remarkByte = 10_920

// cow is Rust's Cow, which metadata shows as a wrapper.
func cow(of shape) shape { return composite("Cow", []param{{"T", &of}}, field{"", of, ""}) }

// stateVersion puts the version into the metadata's constant.
func (rt *runtime) stateVersion() {
	for _, p := range rt.pallets {
		for i := range p.constants {
			if p.name == "System" && p.constants[i].name == "Version" {
				p.constants[i].value = rt.version()
			}
		}
	}
}

// version is Core_version's answer.
func (rt *runtime) version() []byte {
	b := scale.AppendString(nil, specName)
	b = scale.AppendString(b, specName)
	for _, n := range []uint32{1, rt.code.spec, 1} { // authoring, spec, impl
		b = scale.AppendU32(b, n)
	}
	b = scale.AppendCompact(b, uint64(len(rt.apis)))
	for _, api := range rt.apis {
		b = append(b, apiID(api.name)...)
		b = scale.AppendU32(b, api.version)
	}
	b = scale.AppendU32(b, txVersion)
	return scale.AppendU8(b, 1) // system version
}

type timeStore struct{ now value[uint64] }

func (rt *runtime) timestampPallet(slot uint64) module {
	p := &prefix{pallet: "Timestamp"}
	rt.time = &timeStore{now: newValue(p, "Now", cU64, 0)}
	return module{
		name: "Timestamp", crate: "pallet_timestamp", index: 2, storage: p,
		calls: []call{{0, "set", []field{{"now", compact(tU64), "T::Moment"}}, false, weight{}, func(rt *runtime, r *scale.Reader) dispatch {
			now := r.Compact()
			return dispatch{run: func(x *execution, from origin) error {
				if !from.root { // only the inherent, which the chain makes itself
					return badOrigin
				}
				rt.time.now.set(x, now)
				return nil
			}}
		}}},
		constants: []constant{{"MinimumPeriod", tU64, scale.AppendU64(nil, slot/2)}},
	}
}

var tAuraPublic = composite("sp_consensus_aura::sr25519::app_sr25519::Public", nil, field{"", array(32, tU8), "sr25519::Public"})

type auraStore struct {
	authorities value[[]account]
	currentSlot value[uint64]
}

func (rt *runtime) auraPallet(slot uint64) module {
	p := &prefix{pallet: "Aura"}
	rt.aura = &auraStore{
		authorities: newValue(p, "Authorities", as(bounded(tAuraPublic), listOf(cAccount)), nil),
		currentSlot: newValue(p, "CurrentSlot", as(composite("sp_consensus_slots::Slot", nil, field{"", tU64, "u64"}), cU64), 0),
	}
	return module{
		name: "Aura", crate: "pallet_aura", index: 3, storage: p,
		constants: []constant{{"SlotDuration", tU64, scale.AppendU64(nil, slot)}},
	}
}
