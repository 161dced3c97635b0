package subtensor

import (
	"context"
	"fmt"
	"time"

	"basilica"
	"basilica/timelock"
)

// epochs is when the epochs of one subnet run, and for how many of them it keeps commits sealed.
type epochs struct {
	timelock.Schedule
	netuid basilica.NetUID
	period uint64
	legacy bool // of a runtime before epochs had a state: they follow from the block's number
}

// epochs reads the schedule of a subnet as it stands at the end of the view's block.
func (v *view) epochs(ctx context.Context, netuid basilica.NetUID) (epochs, error) {
	e := epochs{netuid: netuid, legacy: !v.has("SubtensorModule", "SubnetEpochIndex")}
	names := []string{"Tempo", "RevealPeriodEpochs", "BlocksSinceLastStep", "LastEpochBlock", "PendingEpochAt", "SubnetEpochIndex"}
	if e.legacy {
		names = names[:2]
	}
	items := make([]item, len(names))
	for i, name := range names {
		items[i] = subtensorItem(name, netuid)
	}
	values, err := v.read(ctx, items...)
	if err != nil {
		return e, fmt.Errorf("epochs of subnet %d: %w", netuid, err)
	}
	var p picker
	e.Tempo, e.period = uint16(p.number("Tempo", values[0])), p.number("RevealPeriodEpochs", values[1])
	if !e.legacy {
		e.BlocksSinceLastStep, e.LastEpochBlock = p.number(names[2], values[2]), p.number(names[3], values[3])
		e.PendingEpochAt, e.SubnetEpochIndex = p.number(names[4], values[4]), p.number(names[5], values[5])
	}
	return e, p.err
}

// has says whether the runtime keeps a storage item.
func (v *view) has(palletName, name string) bool {
	_, _, err := v.rt.words.Storage(palletName, name)
	return err == nil
}

// at is the index of the epoch that a commit or a reveal in a block counts to.
func (e epochs) at(block basilica.BlockNumber) uint64 {
	if e.legacy {
		return (uint64(block) + uint64(e.netuid) + 1) / (uint64(e.Tempo) + 1)
	}
	return e.Lookahead(uint64(block))
}

// plan says when a commit of the block after head is revealed.
func (e epochs) plan(head basilica.BlockNumber) (timelock.Plan, error) {
	if e.legacy {
		return timelock.LegacyPlan(uint16(e.netuid), e.Tempo, uint64(head), e.period)
	}
	return e.Plan(uint64(head), e.period)
}

// blockTime is how long the chain takes for a block, by its own constant.
func (v *view) blockTime() (time.Duration, error) {
	slot, err := v.rt.words.Constant("Aura", "SlotDuration")
	if err != nil {
		return 0, fmt.Errorf("block time: %w", err)
	}
	var p picker
	ms := p.number("SlotDuration", slot)
	if p.err == nil && (ms < 1 || ms > uint64(time.Hour/time.Millisecond)) {
		p.fail("SlotDuration", slot)
	}
	return time.Duration(ms) * time.Millisecond, p.err
}
