package client

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"basilica"
)

// Planned is what one miner would do with a task.
type Planned struct {
	Neuron basilica.Neuron  `json:"neuron"`
	Plan   *basilica.Plan   `json:"plan,omitempty"` // nil where Why says why
	Why    *basilica.Reason `json:"why,omitempty"`  // why the miner takes no such task
	Chosen bool             `json:"chosen"`         // `run` would go to it
}

// DryRun asks the miner of the request, or every miner, what it would do with the task. Nothing is sent but the task's
// description, without a login of a registry. The error says why none would be chosen.
func (c *Client) DryRun(ctx context.Context, req Request) ([]Planned, error) {
	files, err := hashInputs(req.Inputs)
	if err != nil {
		return nil, err
	}
	req.Spec.Inputs = files
	if err := req.Spec.Validate(); err != nil {
		return nil, err
	}
	spec, err := encodeSpec(req.Spec)
	if err != nil {
		return nil, err
	}
	at, missing := c.choose(ctx, req)
	if missing != nil && req.Miner != "" {
		return nil, missing
	}
	graph, err := c.cfg.Chain.Metagraph(ctx, c.cfg.NetUID)
	if err != nil {
		return nil, err
	}
	var all []Planned
	for _, n := range graph.Neurons {
		if n.Axon.Addr.IsValid() && (req.Miner == "" || n.Hotkey == req.Miner) {
			all = append(all, Planned{Neuron: n, Chosen: missing == nil && n.Hotkey == at.neuron.Hotkey})
		}
	}
	var group errgroup.Group
	group.SetLimit(maxOffers)
	for i := range all {
		group.Go(func() error {
			plan, err := c.plan(ctx, all[i].Neuron, spec)
			if err != nil {
				all[i].Why = reasonOf(err)
				return nil
			}
			all[i].Plan = &plan
			return nil
		})
	}
	_ = group.Wait() // every error stands in its Planned
	return all, errors.Join(missing, ctx.Err())
}

func (c *Client) plan(ctx context.Context, n basilica.Neuron, spec []byte) (basilica.Plan, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	door, err := c.dial(n)
	if err != nil {
		return basilica.Plan{}, err
	}
	return door.Plan(ctx, c.cfg.Hotkey, spec)
}

func reasonOf(err error) *basilica.Reason {
	var e *basilica.Error
	if errors.As(err, &e) {
		return &basilica.Reason{Code: e.Code, Sentence: e.Sentence, Fix: e.Fix}
	}
	return &basilica.Reason{Code: "MINER_UNREACHABLE", Sentence: err.Error(), Fix: "try again, or use another miner"}
}
