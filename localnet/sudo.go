package localnet

import (
	"basilica/scale"
)

const sudoIndex = 12

type sudoStore struct{ key value[account] }

func (rt *runtime) sudoPallet() module {
	p := &prefix{pallet: "Sudo"}
	rt.sudo = &sudoStore{key: newOptional(p, "Key", cAccount)}
	return module{
		name: "Sudo", crate: "pallet_sudo", index: sudoIndex, storage: p,
		// It pays until it has run: whoever holds the key pays nothing in the end.
		calls:  []call{{0, "sudo", []field{{"call", rt.callShape(), "Box<<T as Config>::RuntimeCall>"}}, false, weight{}, nil}},
		nests:  map[uint8]nest{0: decodeSudo},
		events: []arm{eventSudid.arm("Sudid", field{"sudo_result", tDispatchResult, "DispatchResult"})},
		errors: plainArms("RequireSudo"),
	}
}

// sudoWeight is what a sudo weighs more than the call in it.
var sudoWeight = weight{100_522_000, 5715}

func decodeSudo(rt *runtime, r *scale.Reader, depth int) dispatch {
	inner, err := rt.decodeInner(r, depth)
	if err != nil {
		r.Fail(err)
		return dispatch{}
	}
	price := cost{weight: inner.price().weight.plus(sudoWeight)}
	return dispatch{
		cost: &price,
		atPool: func(x *execution, who account) error {
			if who != rt.sudo.key.get(x) {
				return errBadSigner
			}
			return nil
		},
		run: func(x *execution, from origin) error {
			if from.root || from.who != rt.sudo.key.get(x) {
				return moduleError("Sudo", sudoIndex, "RequireSudo", 0)
			}
			x.spent = &cost{weight: price.weight, free: true}
			x.emit(eventSudid, x.nested(inner, origin{root: true}))
			return nil
		},
	}
}
