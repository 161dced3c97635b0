package client

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"basilica"
)

// maxOffers bounds how many miners are asked at once.
const maxOffers = 16

// Offered is one miner of the metagraph and what it says it has.
type Offered struct {
	Neuron basilica.Neuron `json:"neuron"`
	Offer  *basilica.Offer `json:"offer,omitempty"` // nil where Error says why
	Error  string          `json:"error,omitempty"`
}

// Offers asks every neuron that published an address, in order of UID.
func (c *Client) Offers(ctx context.Context) ([]Offered, error) {
	graph, err := c.cfg.Chain.Metagraph(ctx, c.cfg.NetUID)
	if err != nil {
		return nil, err
	}
	var offers []Offered
	for _, n := range graph.Neurons {
		if n.Axon.Addr.IsValid() {
			offers = append(offers, Offered{Neuron: n})
		}
	}
	var group errgroup.Group
	group.SetLimit(maxOffers)
	for i := range offers {
		group.Go(func() error {
			offer, err := c.offer(ctx, offers[i].Neuron)
			if err != nil {
				offers[i].Error = err.Error()
				return nil
			}
			offers[i].Offer = &offer
			return nil
		})
	}
	_ = group.Wait() // every error stands in its Offered
	return offers, ctx.Err()
}

func (c *Client) offer(ctx context.Context, n basilica.Neuron) (basilica.Offer, error) {
	ctx, cancel := context.WithTimeout(ctx, offerTimeout)
	defer cancel()
	door, err := c.dial(n)
	if err != nil {
		return basilica.Offer{}, err
	}
	return door.Offer(ctx)
}

// dial opens the door of a miner whose answers are checked.
func (c *Client) dial(n basilica.Neuron) (basilica.Miner, error) {
	door, err := c.cfg.Dial(n)
	if err != nil {
		return nil, err
	}
	return checked{Miner: door, self: c.cfg.Hotkey, miner: n.Hotkey}, nil
}

// chosen is a miner whose door is open.
type chosen struct {
	neuron basilica.Neuron
	door   basilica.Miner
}

// choose finds the miner for a request and opens its door. A repeat goes to the miner of the first time, which may have the
// task without the client's knowing.
func (c *Client) choose(ctx context.Context, req Request) (chosen, error) {
	if req.Miner != "" {
		return c.byHotkey(ctx, req.Miner)
	}
	if req.IdempotencyKey != "" {
		miner, err := c.cfg.Index.Bound(req.IdempotencyKey)
		if err != nil {
			return chosen{}, err
		}
		if miner != "" {
			at, err := c.byHotkey(ctx, miner)
			if err != nil {
				err = fmt.Errorf("miner to which this idempotency key went before: %w", err)
			}
			return at, err
		}
	}
	offers, err := c.Offers(ctx)
	if err != nil {
		return chosen{}, err
	}
	if _, ok := basilica.ImageBlob(req.Spec.Image); ok {
		if offers, err = c.withImage(offers, req.Spec.Image); err != nil {
			return chosen{}, err
		}
	}
	best, err := pick(offers, &req.Spec)
	if err != nil {
		return chosen{}, err
	}
	door, err := c.dial(best)
	return chosen{best, door}, err
}

func (c *Client) byHotkey(ctx context.Context, hotkey basilica.Hotkey) (chosen, error) {
	graph, err := c.cfg.Chain.Metagraph(ctx, c.cfg.NetUID)
	if err != nil {
		return chosen{}, err
	}
	n, ok := graph.ByHotkey(hotkey)
	if !ok || !n.Axon.Addr.IsValid() {
		return chosen{}, basilica.E(basilica.NotFound, "NO_SUCH_MINER", fmt.Sprintf("hotkey %.80q publishes no address on subnet %d", hotkey, c.cfg.NetUID), "see the miners with `basilica ls`")
	}
	door, err := c.dial(n)
	return chosen{n, door}, err
}

// pick is a pure choice: of all miners with a box that fits, first those that can start at once, then the shortest
// queue, the highest incentive, the lowest UID.
func pick(offers []Offered, spec *basilica.TaskSpec) (basilica.Neuron, error) {
	type candidate struct {
		neuron basilica.Neuron
		waits  int // 0: a box is free now
		queue  int
	}
	var fit []candidate
	for _, o := range offers {
		if o.Offer == nil || o.Offer.Compute == "closed" {
			continue
		}
		now, later := false, false
		for _, box := range o.Offer.Executors {
			if !fits(box, spec) {
				continue
			}
			later = true
			now = now || box.GPUsFree >= spec.GPUs
		}
		if !later {
			continue
		}
		c := candidate{neuron: o.Neuron, waits: 1, queue: o.Offer.Queue}
		if now {
			c.waits = 0
		}
		fit = append(fit, c)
	}
	if len(fit) == 0 {
		return basilica.Neuron{}, whyNone(offers, spec)
	}
	best := slices.MinFunc(fit, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.waits, b.waits), cmp.Compare(a.queue, b.queue), cmp.Compare(b.neuron.Incentive, a.neuron.Incentive), cmp.Compare(a.neuron.UID, b.neuron.UID))
	})
	return best.neuron, nil
}

func fits(box basilica.OfferedBox, spec *basilica.TaskSpec) bool {
	return box.Ready && couldFit(box, spec)
}

// couldFit says whether a box that is ready and empty would take a task.
func couldFit(box basilica.OfferedBox, spec *basilica.TaskSpec) bool {
	if box.GPUs < spec.GPUs || box.TaskMemoryBytes < spec.MemoryBytes || box.TaskCPUMillis < spec.CPUMillis {
		return false
	}
	return spec.GPUs == 0 || box.GPUKind != basilica.GPUSoftware || spec.AllowSoftware
}

// whyNone says what the offers lack, most telling reason first.
func whyNone(offers []Offered, spec *basilica.TaskSpec) error {
	var gpus, boxes, software int
	var cpus, memory int64
	for _, o := range offers {
		if o.Offer == nil || o.Offer.Compute == "closed" {
			continue
		}
		for _, box := range o.Offer.Executors {
			if !box.Ready {
				continue
			}
			boxes++
			gpus, cpus, memory = max(gpus, box.GPUs), max(cpus, box.TaskCPUMillis), max(memory, box.TaskMemoryBytes)
			if box.GPUKind == basilica.GPUSoftware && box.GPUs >= spec.GPUs {
				software++
			}
		}
	}
	const more = "TASK_TOO_LARGE"
	switch {
	case len(offers) == 0:
		return basilica.E(basilica.NotFound, "NO_MINERS", "no miner of this subnet publishes an address", "check chain.netuid, or wait until a miner has registered")
	case boxes == 0:
		return basilica.E(basilica.Unavailable, "NO_MINER_READY", fmt.Sprintf("none of %d miners answers with a machine that is ready", len(offers)), "see why with `basilica ls`, and try again later")
	case spec.GPUs > gpus:
		return basilica.E(basilica.Exhausted, more, fmt.Sprintf("the task asks for %d GPUs and the largest machine has %d", spec.GPUs, gpus), fmt.Sprintf("ask for at most --gpus %d", gpus))
	case spec.CPUMillis > cpus:
		most := float64(cpus) / 1000
		return basilica.E(basilica.Exhausted, more, fmt.Sprintf("the task asks for %.4g CPUs and no machine gives one task more than %.4g", float64(spec.CPUMillis)/1000, most), fmt.Sprintf("ask for at most --cpus %.4g", most))
	case spec.MemoryBytes > memory:
		return basilica.E(basilica.Exhausted, more, fmt.Sprintf("the task asks for %d bytes of memory and no machine gives one task more than %d", spec.MemoryBytes, memory), fmt.Sprintf("ask for at most --memory %dMi", memory>>20))
	case spec.GPUs > 0 && software > 0 && !spec.AllowSoftware:
		return basilica.E(basilica.Denied, "ONLY_SOFTWARE_GPUS", "the machines that fit have software devices, not real GPUs", "add --allow-software if a simulated device is good enough")
	}
	return basilica.E(basilica.Exhausted, more, "no single machine has all that the task asks for together", "ask for less of one thing; see the machines with `basilica ls`")
}
