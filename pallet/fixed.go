package pallet

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"basilica/scale"
)

// ErrChanged is returned for a call that the metadata describes otherwise than every runtime so far has it. Metadata comes
// from the node alone: one that lies could have another call signed than the one that is named, or amounts exchanged.
var ErrChanged = errors.New("the metadata describes the call otherwise than this version knows it")

// Types of the arguments of fixed calls, by their place in fixedTypes.
const (
	fixedBool uint32 = iota
	fixedU8
	fixedU16
	fixedU32
	fixedU64
	fixedU128
	fixedHash // 32 bytes: an account, a hash
	fixedBytes
	fixedU16s
	fixedChild
	fixedChildren
)

// fixedTypes makes a registry that no node has a say in.
func fixedTypes() (*scale.Registry, error) {
	defs := []scale.TypeDef{
		fixedBool:     {Kind: scale.KindPrimitive, Primitive: scale.Bool},
		fixedU8:       {Kind: scale.KindPrimitive, Primitive: scale.U8},
		fixedU16:      {Kind: scale.KindPrimitive, Primitive: scale.U16},
		fixedU32:      {Kind: scale.KindPrimitive, Primitive: scale.U32},
		fixedU64:      {Kind: scale.KindPrimitive, Primitive: scale.U64},
		fixedU128:     {Kind: scale.KindPrimitive, Primitive: scale.U128},
		fixedHash:     {Kind: scale.KindArray, Elem: fixedU8, Len: 32},
		fixedBytes:    {Kind: scale.KindSequence, Elem: fixedU8},
		fixedU16s:     {Kind: scale.KindSequence, Elem: fixedU16},
		fixedChild:    {Kind: scale.KindTuple, Tuple: []uint32{fixedU64, fixedHash}},
		fixedChildren: {Kind: scale.KindSequence, Elem: fixedChild},
	}
	types := make([]scale.Type, len(defs))
	for i, d := range defs {
		types[i] = scale.Type{ID: uint32(i), Def: d}
	}
	return scale.NewRegistry(types)
}

// fixedCall gives number and arguments of a call by the names of pallet and call; ok is false for one that is not fixed. They
// are what the recorded metadata of spec 293 and of spec 425 both say, and the sources of all between; a pallet's own number
// is not fixed.
func fixedCall(name string) (index uint8, args []scale.Field, ok bool) {
	fixed := func(index uint8, parts ...[]scale.Field) (uint8, []scale.Field, bool) {
		return index, slices.Concat(parts...), true
	}
	arg := func(name string, ty uint32) []scale.Field { return []scale.Field{{Name: name, Ty: ty}} }
	net, mec, hot := arg("netuid", fixedU16), arg("mecid", fixedU8), arg("hotkey", fixedHash)
	staked, unstaked := arg("amount_staked", fixedU64), arg("amount_unstaked", fixedU64)
	price, partial := arg("limit_price", fixedU64), arg("allow_partial", fixedBool)
	version := arg("version_key", fixedU64)
	row := slices.Concat(arg("dests", fixedU16s), arg("weights", fixedU16s), version)
	opened := slices.Concat(arg("uids", fixedU16s), arg("values", fixedU16s), arg("salt", fixedU16s), version)
	hash := arg("commit_hash", fixedHash)
	sealed := slices.Concat(arg("commit", fixedBytes), arg("reveal_round", fixedU64), arg("commit_reveal_version", fixedU16))
	place := slices.Concat(arg("version", fixedU32), arg("ip", fixedU128), arg("port", fixedU16), arg("ip_type", fixedU8))
	axon := slices.Concat(arg("protocol", fixedU8), arg("placeholder1", fixedU8), arg("placeholder2", fixedU8))
	switch name {
	case "MevShield.submit_encrypted":
		return fixed(1, arg("ciphertext", fixedBytes))
	case "SubtensorModule.set_weights":
		return fixed(0, net, row)
	case "SubtensorModule.add_stake":
		return fixed(2, hot, net, staked)
	case "SubtensorModule.remove_stake":
		return fixed(3, hot, net, unstaked)
	case "SubtensorModule.serve_axon":
		return fixed(4, net, place, axon)
	case "SubtensorModule.serve_prometheus":
		return fixed(5, net, place)
	case "SubtensorModule.burned_register":
		return fixed(7, net, hot)
	case "SubtensorModule.serve_axon_tls":
		return fixed(40, net, place, axon, arg("certificate", fixedBytes))
	case "SubtensorModule.register_network":
		return fixed(59, hot)
	case "SubtensorModule.root_register":
		return fixed(62, hot)
	case "SubtensorModule.set_children":
		return fixed(67, hot, net, arg("children", fixedChildren))
	case "SubtensorModule.add_stake_limit":
		return fixed(88, hot, net, staked, price, partial)
	case "SubtensorModule.remove_stake_limit":
		return fixed(89, hot, net, unstaked, price, partial)
	case "SubtensorModule.start_call":
		return fixed(92, net)
	case "SubtensorModule.commit_weights":
		return fixed(96, net, hash)
	case "SubtensorModule.reveal_weights":
		return fixed(97, net, opened)
	case "SubtensorModule.commit_timelocked_weights":
		return fixed(113, net, sealed)
	case "SubtensorModule.commit_mechanism_weights":
		return fixed(115, net, mec, hash)
	case "SubtensorModule.reveal_mechanism_weights":
		return fixed(116, net, mec, opened)
	case "SubtensorModule.commit_timelocked_mechanism_weights":
		return fixed(118, net, mec, sealed)
	case "SubtensorModule.set_mechanism_weights":
		return fixed(119, net, mec, row)
	case "SubtensorModule.register_limit":
		return fixed(134, net, hot, price)
	case "SubtensorModule.set_tempo":
		return fixed(139, net, arg("tempo", fixedU16))
	case "SubtensorModule.trigger_epoch":
		return fixed(141, net)
	}
	return 0, nil, false
}

// encodeArgs appends arguments by name; every one of fields must be given and no other.
func encodeArgs(reg *scale.Registry, b []byte, fields []scale.Field, args map[string]any) ([]byte, error) {
	if len(args) != len(fields) {
		return nil, fmt.Errorf("%d arguments given, %d wanted: %w", len(args), len(fields), scale.ErrInvalid)
	}
	for _, f := range fields {
		arg, ok := args[f.Name]
		if !ok {
			return nil, fmt.Errorf("argument %s is missing: %w", f.Name, scale.ErrInvalid)
		}
		var err error
		if b, err = reg.Encode(b, f.Ty, arg); err != nil {
			return nil, fmt.Errorf("argument %s: %w", f.Name, err)
		}
	}
	return b, nil
}

// hold refuses what the metadata made of a call, b or failed, where the call is fixed and comes out as something else.
func (rt *Runtime) hold(name string, b []byte, failed error, index uint8, args map[string]any) error {
	number, fields, ok := fixedCall(name)
	if !ok {
		return failed
	}
	want, err := encodeArgs(rt.fixed, []byte{index, number}, fields, args)
	switch {
	case err != nil:
		return err // the caller's own mistake
	case failed != nil:
		return fmt.Errorf("%w: %w", ErrChanged, failed)
	case !bytes.Equal(b, want):
		return fmt.Errorf("%w: it makes %x of it, not %x", ErrChanged, b[:min(len(b), 96)], want[:min(len(want), 96)])
	}
	return nil
}
