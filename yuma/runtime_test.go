package yuma

import (
	"path/filepath"
	"strings"
	"testing"

	"basilica/internal/vectors"
)

type runtimeCase struct {
	ID         string
	EpochBlock uint64
	Input      struct {
		Params struct {
			Tempo, Kappa, BondsPenalty, MaxAllowedValidators       uint16
			ActivityCutoff                                         uint64
			BondsMovingAverage, StakeThreshold, RevealPeriodEpochs number
			TaoWeight                                              string
			LiquidAlphaOn, Yuma3On, CommitRevealWeightsEnabled     bool
			OwnerUID                                               *uint16 `json:"ownerUid"`
			MechanismCount                                         int
		}
		Schedule struct {
			SubnetEpochIndex        number
			TimelockedWeightCommits [][2]any
		}
		Emission               struct{ EpochEmission number }
		LastMechanismStepBlock number
		StakeSeenByRuntime     struct{ AlphaStake, TaoStake []number }
		Neurons                []struct {
			Hotkey                          string
			LastUpdate, BlockAtRegistration number
			ValidatorPermit                 bool
			Weights, Bonds                  [][2]uint16
			WeightCommits                   [][]string
		}
	}
	Output struct {
		Vectors struct {
			StakeWeight, Consensus, Incentive, Dividends, ValidatorTrust []uint16
			Active, ValidatorPermit                                      []bool
			Emission                                                     []number
		}
		Bonds [][][2]uint16
	}
}

// earliestCommits is each neuron's oldest unexpired commit, plain and timelocked; the epoch index has already moved.
func (c runtimeCase) earliestCommits(t *testing.T) []*uint64 {
	if !c.Input.Params.CommitRevealWeightsEnabled {
		return nil
	}
	out := make([]*uint64, len(c.Input.Neurons))
	note := func(i int, epoch, block number) {
		if c.Input.Schedule.SubnetEpochIndex+1 > epoch+c.Input.Params.RevealPeriodEpochs {
			return
		}
		if b := uint64(block); out[i] == nil || b < *out[i] {
			out[i] = &b
		}
	}
	parse := func(s string) (n number) {
		if err := n.UnmarshalJSON([]byte(s)); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i, neuron := range c.Input.Neurons {
		for _, commit := range neuron.WeightCommits {
			note(i, parse(commit[1]), parse(commit[2]))
		}
		for _, epoch := range c.Input.Schedule.TimelockedWeightCommits {
			for _, commit := range epoch[1].([]any) {
				fields := commit.([]any)
				if fields[0].(string) == neuron.Hotkey {
					note(i, parse(epoch[0].(string)), parse(fields[1].(string)))
				}
			}
		}
	}
	return out
}

// TestRuntimeEpochsVector runs the epochs that the runtime of spec 425 executed. Left out are liquid alpha and
// subnets of several mechanisms, which this room does not model.
func TestRuntimeEpochsVector(t *testing.T) {
	dir := vectors.Dir()
	files, err := filepath.Glob(filepath.Join(dir, "subtensor425/epochs/*.json.gz"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded epochs in %s: %v", dir, err)
	}
	ran := 0
	for _, file := range files {
		var record struct{ Cases []runtimeCase }
		vectors.JSON(t, "subtensor425/epochs/"+filepath.Base(file), &record)
		for _, c := range record.Cases {
			p := c.Input.Params
			if p.MechanismCount > 1 || p.LiquidAlphaOn && p.Yuma3On {
				continue
			}
			ran++
			var weight uint64
			for _, digit := range p.TaoWeight {
				weight = weight*10 + uint64(digit-'0')
			}
			in := Input{
				Params: Params{
					Tempo: p.Tempo, ActivityCutoff: p.ActivityCutoff, Kappa: p.Kappa, BondsPenalty: p.BondsPenalty,
					BondsMovingAverage: uint64(p.BondsMovingAverage), MaxValidators: p.MaxAllowedValidators,
					StakeThreshold: uint64(p.StakeThreshold), Yuma3: p.Yuma3On,
				},
				Block: c.EpochBlock, Owner: p.OwnerUID, LastMechanismStep: uint64(c.Input.LastMechanismStepBlock),
				EarliestCommit: c.earliestCommits(t), Emission: uint64(c.Input.Emission.EpochEmission),
			}
			for i, n := range c.Input.Neurons {
				in.LastUpdate = append(in.LastUpdate, uint64(n.LastUpdate))
				in.BlockAtRegistration = append(in.BlockAtRegistration, uint64(n.BlockAtRegistration))
				in.ValidatorPermit = append(in.ValidatorPermit, n.ValidatorPermit)
				in.Weights = append(in.Weights, entries([][][2]uint16{n.Weights})[0])
				in.Bonds = append(in.Bonds, entries([][][2]uint16{n.Bonds})[0])
				in.Stake = append(in.Stake, WeightedStake(
					uint64(c.Input.StakeSeenByRuntime.AlphaStake[i]), uint64(c.Input.StakeSeenByRuntime.TaoStake[i]), weight))
			}
			out, err := Epoch(in)
			if err != nil {
				t.Fatal(err)
			}
			v := c.Output.Vectors
			compare(t, strings.TrimSuffix(filepath.Base(file), ".json.gz")+" "+c.ID, []pair{
				{"stake weight", out.StakeWeight, v.StakeWeight},
				{"consensus", out.Consensus, v.Consensus},
				{"incentive", out.Incentive, v.Incentive},
				{"dividends", out.Dividends, v.Dividends},
				{"validator trust", out.ValidatorTrust, v.ValidatorTrust},
				{"active", out.Active, v.Active},
				{"permits", out.ValidatorPermit, v.ValidatorPermit},
				{"emission", out.Emission, v.Emission},
				{"bonds", out.Bonds, entries(c.Output.Bonds)},
			})
		}
	}
	if ran < 60 {
		t.Fatalf("only %d epochs ran", ran)
	}
}
