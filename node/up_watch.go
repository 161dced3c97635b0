package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"basilica"
	"basilica/keys"
)

const (
	loopTimeout = 90 * time.Second
	loopEvery   = 250 * time.Millisecond
	askAPI      = 5 * time.Second
	maxAnswer   = 16 << 20
)

// part finds the running part with a name.
func (n *Network) part(name string) Part {
	for _, p := range n.parts {
		if p.name == name {
			return p
		}
	}
	return nil
}

// ask reads one JSON answer of the validator's API.
func (n *Network) ask(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, askAPI)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.part("validator").Addrs()["api"]+path, nil)
	if err != nil {
		return err
	}
	resp, err := n.http.Do(req)
	if err != nil {
		return basilica.E(basilica.Unavailable, "VALIDATOR_AWAY", "the validator's API does not answer", "read logs/validator.log in the data directory").With(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return basilica.E(basilica.Unavailable, "VALIDATOR_AWAY", fmt.Sprintf("the validator's API answers %s to %s", resp.Status, path), "read logs/validator.log in the data directory")
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("read the validator's answer to %s: %w", path, err)
	}
	return nil
}

// observe reads what chain and validator show now.
func (n *Network) observe(ctx context.Context) (observation, error) {
	o := observation{verifications: map[basilica.ExecutorID][]basilica.Verification{}}
	var err error
	if o.graph, err = n.chain.Metagraph(ctx, netUID); err != nil {
		return o, err
	}
	if o.row, err = n.chain.Weights(ctx, netUID, n.validatorUID); err != nil {
		return o, err
	}
	for _, id := range boxIDs() {
		var page basilica.VerificationPage
		if err := n.ask(ctx, "/api/v1/verifications?limit=20&executor="+url.QueryEscape(string(id)), &page); err != nil {
			return o, err
		}
		for _, v := range slices.Backward(page.Verifications) {
			if !v.Started.Before(n.started) {
				o.verifications[id] = append(o.verifications[id], v)
			}
		}
	}
	var sets []basilica.WeightSet
	if err := n.ask(ctx, "/api/v1/weights?limit=10", &sets); err != nil {
		return o, err
	}
	for i := range sets {
		if sets[i].Submitted != nil && !sets[i].At.Before(n.started) {
			o.set = &sets[i]
			break
		}
	}
	return o, nil
}

// CloseLoop waits until verification, weights and incentive have followed from each other once, at most loopTimeout, and
// reports. A loop that did not close is reported too, with its error.
func (n *Network) CloseLoop() (Report, error) {
	ctx, cancel := context.WithTimeoutCause(n.context, loopTimeout, errLoopTimeout)
	defer cancel()
	var o observation
	var p, said progress
	err := pollUntil(ctx, loopEvery, func(ctx context.Context) (bool, error) {
		seen, err := n.observe(ctx)
		if err != nil {
			if transient(err) {
				return false, nil
			}
			return false, err
		}
		o, p = seen, judgeProgress(seen, boxIDs(), n.minerUID)
		if p != said {
			said = p
			n.sayProgress(p)
		}
		return p.Closed, nil
	})
	if cause := context.Cause(n.context); cause != nil {
		return Report{}, cause
	}
	if errors.Is(err, errLoopTimeout) || errors.Is(err, context.DeadlineExceeded) {
		err = errNotClosed(p, len(boxes()), loopTimeout)
	}
	if o.graph == nil {
		return Report{}, err
	}
	r := n.report(o)
	r.Closed = p.Closed
	r.LoopSeconds = n.deps.Now().Sub(n.started).Seconds()
	if err != nil {
		r.Error = startError(err)
	}
	return r, err
}

var errLoopTimeout = errors.New("the loop did not close in time")

func (n *Network) sayProgress(p progress) {
	switch {
	case p.Closed:
		n.say("epoch: the chain has turned weights into incentive")
	case p.Weighed:
		n.say("weights: on chain, confirmed by their block's events")
	case p.Verdicts > 0:
		n.say("proof: %d of %d executors judged, %d passed", p.Verdicts, len(boxes()), p.Passed)
	}
}

func startError(err error) *StartError {
	return &StartError{Kind: basilica.KindOf(err).String(), Code: basilica.CodeOf(err), Sentence: err.Error(), Fix: basilica.FixOf(err)}
}

func address(uri string) basilica.Hotkey {
	pair, err := keys.FromURI(keys.Sr25519, uri)
	if err != nil {
		return "" // the development keys are constants that derive
	}
	return basilica.Hotkey(pair.SS58())
}

// report puts an observation into the words of the report.
func (n *Network) report(o observation) Report {
	r := Report{
		Block: o.graph.Block, Genesis: o.graph.Genesis, NetUID: netUID, ValidatorUID: n.validatorUID, MinerUID: n.minerUID,
		Validator: address(validatorHotURI), Miner: address(minerHotURI), Verdicts: []ReportedVerdict{}, Weights: o.row,
		WeightsSubmitted: []basilica.Weight{}, Incentive: []ReportedIncentive{}, Processes: []ReportedProcess{}, Addresses: map[string]string{},
	}
	if r.Weights == nil {
		r.Weights = []basilica.Weight{}
	}
	for _, id := range boxIDs() {
		newest, _ := finalVerification(o.verifications[id])
		if len(newest.Verdicts) == 0 {
			newest.Verdicts = []basilica.Verdict{newest.Verdict(basilica.CheckGPUProof)}
		}
		for _, v := range newest.Verdicts {
			r.Verdicts = append(r.Verdicts, ReportedVerdict{
				Executor: id, Check: v.Check, Verdict: v.Result, Reason: v.Reason, Detail: v.Detail, Verification: newest.ID, Evidence: n.evidence(v.Evidence),
			})
		}
	}
	if o.set != nil {
		in := o.set.Submitted
		r.WeightsExtrinsic = &ReportedExtrinsic{Block: in.Block, BlockHash: in.BlockHash, Hash: in.Extrinsic}
		r.WeightsSubmitted = o.set.Weights
	}
	for _, neuron := range o.graph.Neurons {
		r.Incentive = append(r.Incentive, ReportedIncentive{UID: neuron.UID, Value: neuron.Incentive})
	}
	inOrder := slices.SortedStableFunc(slices.Values(n.parts), func(a, b running) int { return strings.Compare(a.name, b.name) })
	for _, p := range inOrder {
		r.Processes = append(r.Processes, ReportedProcess{Role: p.role, Name: p.name, PID: p.PID()})
		for door, addr := range p.Addrs() {
			r.Addresses[p.name+"."+door] = addr
		}
	}
	if n.keep {
		r.Data = n.dir
	}
	return r
}

func (n *Network) evidence(e *basilica.Evidence) *ReportedEvidence {
	if e == nil {
		return nil
	}
	out := &ReportedEvidence{Evidence: *e}
	path := filepath.Join(n.dir, "validator", "evidence", e.SHA256.String()+".gpow1")
	if _, err := os.Stat(path); err == nil && n.keep {
		out.Path = path
	}
	return out
}
