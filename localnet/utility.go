package localnet

import (
	"basilica/scale"
)

const (
	utilityIndex = 11
	maxBatch     = 10922 // calls in a batch
)

// batchKind is what a batch does about a call that fails.
type batchKind uint8

const (
	batchStops  batchKind = iota // batch: what went before stays
	batchIsAll                   // batch_all: nothing stays
	batchForces                  // force_batch: the rest runs
)

// The weight of a batch without its calls: a part of its own, and one for each call. force_batch was not recorded; it
// takes batch_all's.
var batchWeights = map[batchKind][2]uint64{
	batchStops:  {69_446_696, 5_450_264},
	batchIsAll:  {63_428_230, 5_663_250},
	batchForces: {63_428_230, 5_663_250},
}

const batchProof = 3983

func (rt *runtime) utilityPallet() module {
	calls := []field{{"calls", vec(rt.callShape()), "Vec<<T as Config>::RuntimeCall>"}}
	failure := field{"error", tDispatchError, "DispatchError"}
	return module{
		name: "Utility", crate: "pallet_subtensor_utility", index: utilityIndex,
		calls: []call{
			{0, "batch", calls, false, weight{}, nil},
			{2, "batch_all", calls, false, weight{}, nil},
			{4, "force_batch", calls, false, weight{}, nil},
		},
		nests: map[uint8]nest{0: batchStops.decode, 2: batchIsAll.decode, 4: batchForces.decode},
		events: []arm{
			eventBatchInterrupted.arm("BatchInterrupted", field{"index", tU32, "u32"}, failure),
			eventUtilityCompleted.arm("BatchCompleted"),
			eventUtilityWithErrors.arm("BatchCompletedWithErrors"),
			eventItemCompleted.arm("ItemCompleted"),
			eventItemFailed.arm("ItemFailed", failure),
		},
		errors:    plainArms(utilityErrors[:]...),
		constants: []constant{{"batched_calls_limit", tU32, scale.AppendU32(nil, maxBatch)}},
	}
}

// decode reads a batch. It pays nothing where none of its calls does. A batch with a batch inside passes no filter.
func (k batchKind) decode(rt *runtime, r *scale.Reader, depth int) dispatch {
	d := dispatch{cost: &cost{weight: baseOnly, free: true}}
	calls := make([]decoded, r.Count(2))
	for i := range calls {
		call, err := rt.decodeInner(r, depth)
		if err != nil {
			r.Fail(err)
			return dispatch{}
		}
		calls[i] = call
		price := call.price()
		d.cost.weight = d.cost.plus(price.weight.minus(baseOnly))
		d.cost.free = d.cost.free && price.free
		d.filtered = d.filtered || call.module.name == "Utility"
	}
	own := k.weight(len(calls))
	d.cost.weight = d.cost.plus(own).plus(guardWeight)
	free := d.cost.free
	d.run = func(x *execution, from origin) error {
		x.spent = &cost{weight: baseOnly.plus(own), free: free}
		return k.run(x, from, calls)
	}
	return d
}

// baseOnly is what an extrinsic weighs without its call; the weight of a call includes it.
var baseOnly = weight{refTime: baseWeight}

func (k batchKind) weight(calls int) weight {
	w := batchWeights[k]
	return weight{w[0] + w[1]*uint64(calls), batchProof}
}

func (k batchKind) run(x *execution, from origin, calls []decoded) error {
	if len(calls) > maxBatch {
		return listedError("Utility", utilityIndex, utilityErrors[:], "TooManyCalls")
	}
	spent, failed := x.spent, false
	for i, call := range calls {
		err := x.inner(call, from)
		spent.weight = spent.plus(call.price().weight.minus(baseOnly))
		switch {
		case err == nil:
			x.emit(eventItemCompleted)
		case k == batchIsAll:
			return err
		case k == batchStops:
			x.emit(eventBatchInterrupted, scale.AppendU32(nil, uint32(i)), x.rt.encodeError(err))
			return nil
		default:
			failed = true
			x.emit(eventItemFailed, x.rt.encodeError(err))
		}
	}
	if failed {
		x.emit(eventUtilityWithErrors)
	} else {
		x.emit(eventUtilityCompleted)
	}
	return nil
}
