package subtensor

import (
	"context"
	"errors"
	"fmt"

	"basilica"
	"basilica/scale"
)

// api calls a runtime API method at the view's block and decodes its answer by the metadata's types. What a later runtime
// appends to an answer is left unread. A runtime without the method is errNoAPI, as is a node that does not answer it.
func (v *view) api(ctx context.Context, trait, method string, args ...any) (any, error) {
	what := trait + "." + method
	m, ok := v.rt.words.APIMethod(trait, method)
	if !ok {
		return nil, fmt.Errorf("%s: %w", what, errNoAPI)
	}
	if len(args) != len(m.Inputs) {
		return nil, fmt.Errorf("%s: %d arguments given, %d wanted: %w", what, len(args), len(m.Inputs), scale.ErrInvalid)
	}
	reg := v.rt.words.Registry()
	data := []byte{}
	for i, in := range m.Inputs {
		var err error
		if data, err = reg.Encode(data, in.Ty, args[i]); err != nil {
			return nil, fmt.Errorf("%s: argument %s: %w", what, in.Name, err)
		}
	}
	var answer hexBytes
	err := v.client.call(ctx, &answer, "state_call", trait+"_"+method, hexBytes(data), v.at)
	var refused *rpcError
	if errors.As(err, &refused) {
		return nil, fmt.Errorf("%s: %w: %w", what, errNoAPI, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	value, err := reg.Decode(scale.NewReader(answer), m.Output)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return value, nil
}

// errNoAPI is a runtime, or a node, that does not offer a runtime API.
var errNoAPI = errors.New("the node does not offer this runtime API")

// apiMissing is what a person is told where a runtime API is needed and there is no other way.
func apiMissing(err error, what string) error {
	if !errors.Is(err, errNoAPI) {
		return err
	}
	return basilica.E(basilica.Unavailable, "CHAIN_API_MISSING", "the node does not say "+what, "use a node of a later runtime").With(err)
}
