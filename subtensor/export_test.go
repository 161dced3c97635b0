package subtensor

// UnknownCall is an action that no runtime has.
func UnknownCall() Action {
	return Action{words: "do what nobody can", pallet: "SubtensorModule", call: "no_such_call", make: func() (map[string]any, error) { return map[string]any{}, nil }}
}
