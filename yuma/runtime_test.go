package yuma

import (
	"path/filepath"
	"strings"
	"testing"

	"basilica/internal/vectors"
)

// link is a parent or a child: a proportion of 2^64-1 as a decimal string, and a hotkey.
type link [2]string

type runtimeNeuron struct {
	Hotkey, Coldkey                 string
	LastUpdate, BlockAtRegistration number
	ValidatorPermit                 bool
	TotalHotkeyAlpha, RootStake     number
	DelegateTake, ChildkeyTake      uint16
	Parents, Children               []link
	Weights, Bonds                  [][2]uint16
	WeightCommits                   [][]string
	AutoStakeDestination            string
}

type runtimeMechanism struct {
	LastUpdate []number
	Incentive  []uint16
	Weights    [][][2]uint16
	Bonds      [][][2]uint16
}

type runtimeCase struct {
	ID         string
	EpochBlock uint64
	Netuid     uint16
	Input      struct {
		Params struct {
			Tempo, Kappa, BondsPenalty, MaxAllowedValidators       uint16
			ActivityCutoff                                         uint64
			BondsMovingAverage, StakeThreshold, RevealPeriodEpochs number
			TaoWeight                                              string
			LiquidAlphaOn, Yuma3On, CommitRevealWeightsEnabled     bool
			AlphaLow, AlphaHigh                                    uint16
			AlphaSigmoidSteepness                                  int16
			OwnerUID                                               *uint16 `json:"ownerUid"`
			SubnetOwner, SubnetOwnerHotkey                         string
			OwnedHotkeysOfOwner                                    []string
			MechanismCount                                         int
		}
		Schedule struct {
			SubnetEpochIndex        number
			TimelockedWeightCommits [][2]any
		}
		Emission struct {
			EpochEmission, PendingOwnerCut                                        number
			PendingServerEmission, PendingValidatorEmission, PendingRootAlphaDivs number // 425
			PendingEmission, PendingAlphaSwapped, PendingRootDivs                 number // 293
		}
		LastMechanismStepBlock number
		MechanismEmissionSplit []uint16
		Mechanisms             []runtimeMechanism
		StakeSeenByRuntime     struct{ AlphaStake, TaoStake []number }
		Neurons                []runtimeNeuron
	}
	Output struct {
		Vectors struct {
			StakeWeight, Consensus, Incentive, Dividends, ValidatorTrust []uint16
			Rank, Trust, PruningScores                                   []uint16
			Active, ValidatorPermit                                      []bool
			Emission                                                     []number
		}
		Bonds                            [][][2]uint16
		Mechanisms                       []runtimeMechanism
		TotalHotkeyAlpha, RootStake      []number
		AlphaDividends                   []number
		RootAlphaDividends, TaoDividends []number
	}
}

// generation is one recorded runtime.
type generation struct {
	folder string
	rules  Rules
	files  int // at least
	cases  int // at least
}

func generations() []generation {
	return []generation{{"subtensor425", Spec425(), 24, 72}, {"subtensor", Spec293(), 21, 60}}
}

// eachEpoch runs f on every recorded epoch of a generation and returns how many there are by theme.
func eachEpoch(t *testing.T, g generation, f func(t *testing.T, theme string, c runtimeCase)) {
	t.Helper()
	dir := vectors.Dir()
	files, err := filepath.Glob(filepath.Join(dir, g.folder, "epochs/*.json.gz"))
	if err != nil || len(files) < g.files {
		t.Fatalf("%d recorded themes of epochs in %s/%s: %v", len(files), dir, g.folder, err)
	}
	ran := 0
	var topics []string
	for _, file := range files {
		theme := strings.TrimSuffix(filepath.Base(file), ".json.gz")
		var record struct{ Cases []runtimeCase }
		vectors.JSON(t, g.folder+"/epochs/"+filepath.Base(file), &record)
		for _, c := range record.Cases {
			f(t, theme, c)
		}
		ran += len(record.Cases)
		topics = append(topics, theme)
	}
	if ran < g.cases {
		t.Fatalf("only %d epochs of %s ran", ran, g.folder)
	}
	t.Logf("%s: %d epochs: %s", g.folder, ran, strings.Join(topics, ", "))
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

func decimal(s string) (v uint64) {
	for _, digit := range s {
		v = v*10 + uint64(digit-'0')
	}
	return v
}

// input is what the epoch of the first mechanism reads.
func (c runtimeCase) input(t *testing.T, g generation) Input {
	p := c.Input.Params
	in := Input{
		Params: Params{
			Rules: g.rules, ActivityCutoff: p.ActivityCutoff, Kappa: p.Kappa, BondsPenalty: p.BondsPenalty,
			BondsMovingAverage: uint64(p.BondsMovingAverage), MaxValidators: p.MaxAllowedValidators,
			StakeThreshold: uint64(p.StakeThreshold), Yuma3: p.Yuma3On,
		},
		Block: c.EpochBlock, Owner: p.OwnerUID, Emission: uint64(c.Input.Emission.EpochEmission),
	}
	if g.rules == Spec425() {
		in.BondsSince = BondsSince(uint64(c.Input.LastMechanismStepBlock), c.EpochBlock, p.Tempo)
		in.EarliestCommit = c.earliestCommits(t)
	} else {
		in.BondsSince = c.EpochBlock - min(c.EpochBlock, uint64(p.Tempo))
	}
	if p.LiquidAlphaOn {
		in.Params.Liquid = &LiquidAlpha{Low: p.AlphaLow, High: p.AlphaHigh, Steepness: p.AlphaSigmoidSteepness}
	}
	weight := decimal(p.TaoWeight)
	for i, n := range c.Input.Neurons {
		in.LastUpdate = append(in.LastUpdate, uint64(n.LastUpdate))
		in.BlockAtRegistration = append(in.BlockAtRegistration, uint64(n.BlockAtRegistration))
		in.ValidatorPermit = append(in.ValidatorPermit, n.ValidatorPermit)
		in.Weights = append(in.Weights, entries([][][2]uint16{n.Weights})[0])
		in.Bonds = append(in.Bonds, entries([][][2]uint16{n.Bonds})[0])
		in.Stake = append(in.Stake, WeightedStake(
			uint64(c.Input.StakeSeenByRuntime.AlphaStake[i]), uint64(c.Input.StakeSeenByRuntime.TaoStake[i]), weight))
	}
	return in
}

// epochs runs one epoch per mechanism; the first of the outputs is mechanism 0's own.
func (c runtimeCase) epochs(t *testing.T, g generation) (all Output, each []Output) {
	in := c.input(t, g)
	split := Split(in.Emission, max(c.Input.Params.MechanismCount, 1), c.Input.MechanismEmissionSplit)
	for m, emission := range split {
		in.Emission = emission
		if m > 0 {
			own := c.Input.Mechanisms[m-1]
			in.Weights, in.Bonds, in.LastUpdate = entries(own.Weights), entries(own.Bonds), nil
			for _, block := range own.LastUpdate {
				in.LastUpdate = append(in.LastUpdate, uint64(block))
			}
		}
		out, err := Epoch(in)
		if err != nil {
			t.Fatal(err)
		}
		each = append(each, out)
	}
	return Combine(each, split), each
}

// TestRuntimeEpochsVector runs every epoch that the runtimes of spec 425 and of spec 293 executed, through the same code.
func TestRuntimeEpochsVector(t *testing.T) {
	for _, g := range generations() {
		eachEpoch(t, g, func(t *testing.T, theme string, c runtimeCase) {
			out, each := c.epochs(t, g)
			v := c.Output.Vectors
			pairs := []pair{
				{"stake weight", out.StakeWeight, v.StakeWeight},
				{"consensus", out.Consensus, v.Consensus},
				{"incentive", each[0].Incentive, v.Incentive},
				{"dividends", out.Dividends, v.Dividends},
				{"validator trust", out.ValidatorTrust, v.ValidatorTrust},
				{"active", out.Active, v.Active},
				{"permits", out.ValidatorPermit, v.ValidatorPermit},
				{"emission", out.Emission, v.Emission},
				{"bonds", each[0].Bonds, entries(c.Output.Bonds)},
			}
			for m, own := range c.Output.Mechanisms {
				pairs = append(pairs, pair{"incentive of a mechanism", each[m+1].Incentive, own.Incentive},
					pair{"bonds of a mechanism", each[m+1].Bonds, entries(own.Bonds)})
			}
			if g.rules == Spec293() {
				pairs = append(pairs, pair{"rank", each[0].Rank, v.Rank}, pair{"trust", each[0].Trust, v.Trust},
					pair{"pruning scores", each[0].PruningScores, v.PruningScores})
			}
			compare(t, g.folder+" "+theme+" "+c.ID, pairs)
		})
	}
}
