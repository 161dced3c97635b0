package node

import (
	"context"
	"errors"
	"testing"
	"time"

	"basilica"
)

func looked(block basilica.BlockNumber, results ...basilica.Result) []basilica.Verification {
	var vs []basilica.Verification
	for _, r := range results {
		vs = append(vs, basilica.Verification{Block: block, Verdicts: []basilica.Verdict{{Check: basilica.CheckGPUProof, Result: r}}})
	}
	return vs
}

func TestJudgeProgress(t *testing.T) {
	const miner = basilica.UID(1)
	ids := []basilica.ExecutorID{"a", "b"}
	graph := func(incentive uint16) *basilica.Metagraph {
		return &basilica.Metagraph{Neurons: []basilica.Neuron{{UID: 0}, {UID: 1, Incentive: incentive}, {UID: 2}}}
	}
	set := func(block basilica.BlockNumber, weights ...basilica.Weight) *basilica.WeightSet {
		return &basilica.WeightSet{Block: block, Weights: weights, Submitted: &basilica.Inclusion{}}
	}
	toMiner, toBurn := basilica.Weight{UID: miner, Value: 65535}, basilica.Weight{UID: 0, Value: 65535}
	pass, fail, notRun := basilica.Pass, basilica.Fail, basilica.NotRun
	cases := map[string]struct {
		a, b      []basilica.Verification
		set       *basilica.WeightSet
		row       []basilica.Weight
		incentive uint16
		want      progress
	}{
		"nothing yet":          {nil, nil, nil, nil, 0, progress{}},
		"one verdict":          {looked(5, pass), nil, nil, nil, 0, progress{Verdicts: 1, Passed: 1}},
		"still starting":       {looked(5, pass), looked(5, notRun), nil, nil, 0, progress{Verdicts: 1, Passed: 1}},
		"weights of before":    {looked(5, pass), looked(9, pass), set(7, toMiner), []basilica.Weight{toMiner}, 9, progress{Verdicts: 2, Passed: 2}},
		"not yet on chain":     {looked(5, pass), looked(5, pass), set(7, toMiner), nil, 0, progress{Verdicts: 2, Passed: 2}},
		"before the epoch":     {looked(5, pass), looked(5, pass), set(7, toMiner), []basilica.Weight{toMiner}, 0, progress{Verdicts: 2, Passed: 2, Weighed: true}},
		"closed":               {looked(5, pass), looked(5, pass), set(7, toMiner), []basilica.Weight{toMiner}, 9, progress{Verdicts: 2, Passed: 2, Weighed: true, Closed: true}},
		"one cheats":           {looked(5, pass), looked(5, fail), set(7, toMiner), []basilica.Weight{toMiner}, 9, progress{Verdicts: 2, Passed: 1, Weighed: true, Closed: true}},
		"both cheat, paid yet": {looked(5, fail), looked(5, fail), set(7, toMiner), []basilica.Weight{toMiner}, 9, progress{Verdicts: 2}},
		"both cheat":           {looked(5, fail), looked(5, fail), set(7, toBurn), []basilica.Weight{toBurn}, 0, progress{Verdicts: 2, Weighed: true, Closed: true}},
		"both are stopped":     {looked(5, notRun, notRun, notRun), looked(5, notRun, notRun, notRun), set(7, toBurn), []basilica.Weight{toBurn}, 0, progress{Verdicts: 2, Weighed: true, Closed: true}},
		"pass after trouble":   {looked(5, notRun, pass), looked(5, fail, pass), set(7, toMiner), []basilica.Weight{toMiner}, 9, progress{Verdicts: 2, Passed: 2, Weighed: true, Closed: true}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := observation{graph: graph(tc.incentive), row: tc.row, set: tc.set, verifications: map[basilica.ExecutorID][]basilica.Verification{"a": tc.a, "b": tc.b}}
			got := judgeProgress(o, ids, miner)
			if got != tc.want {
				t.Fatalf("got %+v, want %+v", got, tc.want)
			}
			if err := errNotClosed(got, len(ids), time.Minute); basilica.CodeOf(err) != "LOOP_NOT_CLOSED" {
				t.Fatal(err)
			}
		})
	}
}

func TestPollUntilEndsWithItsContext(t *testing.T) {
	because := errors.New("because")
	ctx, cancel := context.WithCancelCause(t.Context())
	calls := 0
	err := pollUntil(ctx, time.Millisecond, func(context.Context) (bool, error) {
		if calls++; calls == 3 {
			cancel(because)
		}
		return false, nil
	})
	if !errors.Is(err, because) || calls < 3 {
		t.Fatalf("after %d calls: %v", calls, err)
	}
}
