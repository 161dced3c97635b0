package pallet

import (
	"fmt"
	"strings"

	"basilica/scale"
)

// Phase says when in a block an event happened.
type Phase uint8

// Phases, by their number on the wire.
const (
	ApplyExtrinsic Phase = 0
	Finalization   Phase = 1
	Initialization Phase = 2
)

// Event is one record of System.Events.
type Event struct {
	Phase     Phase
	Extrinsic int // index in the block; -1 outside ApplyExtrinsic
	Pallet    string
	Name      string
	Fields    scale.Struct
}

// Is tells whether e is the named event.
func (e Event) Is(pallet, name string) bool { return e.Pallet == pallet && e.Name == name }

// Events decodes the value of System.Events; nil (absent) is no event.
func (rt *Runtime) Events(raw []byte) ([]Event, error) {
	v, err := rt.DecodeStorage("System", "Events", raw)
	if err != nil {
		return nil, err
	}
	records, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("System.Events is %T, not a list: %w", v, scale.ErrInvalid)
	}
	events := make([]Event, 0, len(records))
	for i, rec := range records {
		e, err := readEvent(rec)
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
		events = append(events, e)
	}
	return events, nil
}

func readEvent(rec any) (Event, error) {
	s, ok := rec.(scale.Struct)
	if !ok {
		return Event{}, fmt.Errorf("record is %T: %w", rec, scale.ErrInvalid)
	}
	phaseValue, _ := s.Get("phase")
	phase, ok := phaseValue.(scale.VariantValue)
	if !ok {
		return Event{}, fmt.Errorf("phase is %T: %w", phaseValue, scale.ErrInvalid)
	}
	e := Event{Phase: Phase(phase.Index), Extrinsic: -1}
	if e.Phase == ApplyExtrinsic && len(phase.Fields) == 1 {
		n, err := scale.AsUint64(phase.Fields[0].Value)
		if err != nil {
			return Event{}, fmt.Errorf("phase: %w", err)
		}
		e.Extrinsic = int(n)
	}
	eventValue, _ := s.Get("event")
	outer, ok := eventValue.(scale.VariantValue)
	if !ok || len(outer.Fields) != 1 {
		return Event{}, fmt.Errorf("event is %T: %w", eventValue, scale.ErrInvalid)
	}
	inner, ok := outer.Fields[0].Value.(scale.VariantValue)
	if !ok {
		return Event{}, fmt.Errorf("event of %s is %T: %w", outer.Name, outer.Fields[0].Value, scale.ErrInvalid)
	}
	e.Pallet, e.Name, e.Fields = outer.Name, inner.Name, inner.Fields
	return e, nil
}

// DispatchError is why a call failed, in the chain's own words.
type DispatchError struct {
	Name string // "SubtensorModule.NeuronNoValidatorPermit", "Token.FundsUnavailable", "BadOrigin"
	Docs string // the metadata's explanation, may be empty
}

// Error gives name and explanation.
func (e *DispatchError) Error() string {
	if e.Docs == "" {
		return e.Name
	}
	return e.Name + ": " + e.Docs
}

// ReadDispatchError names a decoded DispatchError.
func (rt *Runtime) ReadDispatchError(v any) *DispatchError {
	vv, ok := v.(scale.VariantValue)
	if !ok {
		return &DispatchError{Name: "unknown", Docs: fmt.Sprintf("dispatch error is %T", v)}
	}
	if vv.Name == "Module" && len(vv.Fields) == 1 {
		if m, ok := vv.Fields[0].Value.(scale.Struct); ok {
			index, _ := m.Get("index")
			code, _ := m.Get("error")
			n, err := scale.AsUint64(index)
			if raw, ok := code.([]byte); ok && err == nil && len(raw) > 0 && n < 256 {
				return rt.ModuleError(uint8(n), raw[0])
			}
		}
	}
	e := &DispatchError{Name: vv.Name}
	if len(vv.Fields) == 1 {
		if inner, ok := vv.Fields[0].Value.(scale.VariantValue); ok {
			e.Name += "." + inner.Name
		}
	}
	return e
}

// ModuleError names a pallet's error by its pallet and variant index.
func (rt *Runtime) ModuleError(pallet, variant uint8) *DispatchError {
	p, ok := rt.byIndex[pallet]
	if !ok {
		return &DispatchError{Name: fmt.Sprintf("pallet%d.error%d", pallet, variant)}
	}
	if p.HasError {
		t, _ := rt.reg.Type(p.Error)
		for i := range t.Def.Variants {
			if v := &t.Def.Variants[i]; v.Index == variant {
				return &DispatchError{Name: p.Name + "." + v.Name, Docs: strings.TrimSpace(strings.Join(v.Docs, " "))}
			}
		}
	}
	return &DispatchError{Name: fmt.Sprintf("%s.error%d", p.Name, variant)}
}

// Outcome tells from a block's events how the extrinsic at index ended: nil
// after System.ExtrinsicSuccess, a *DispatchError after ExtrinsicFailed. No
// word about it is an error that is not a DispatchError.
func (rt *Runtime) Outcome(events []Event, index int) error {
	for _, e := range events {
		if e.Extrinsic != index || e.Pallet != "System" {
			continue
		}
		switch e.Name {
		case "ExtrinsicSuccess":
			return nil
		case "ExtrinsicFailed":
			v, _ := e.Fields.Get("dispatch_error")
			return rt.ReadDispatchError(v)
		}
	}
	return fmt.Errorf("the block's events say nothing of extrinsic %d: %w", index, ErrUnknown)
}
