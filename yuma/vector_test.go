package yuma

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"basilica/internal/vectors"
)

func entries(rows [][][2]uint16) [][]Entry {
	out := make([][]Entry, len(rows))
	for i, row := range rows {
		for _, e := range row {
			out[i] = append(out[i], Entry{e[0], e[1]})
		}
	}
	return out
}

// number is an integer written as a JSON number or as a decimal string.
type number int64

func (n *number) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	*n = number(v)
	return err
}

func fixed(v []number) []Fixed {
	out := make([]Fixed, len(v))
	for i, x := range v {
		out[i] = Fixed(x)
	}
	return out
}

type epochVectors struct {
	Scenarios []struct {
		Name   string
		Params struct {
			N, Tempo           uint16
			ActivityCutoff     uint64
			Kappa              uint16
			BondsPenalty       uint16
			BondsMovingAverage uint64
			MaxValidators      uint16
			StakeThreshold     uint64
			Yuma3              bool
			OwnerUID           *uint16 `json:"ownerUid"`
			LastMechanismStep  uint64  `json:"lastMechanismStepBlock"`
		}
		Stake       []uint64
		RaoEmission uint64
		Epochs      []struct {
			Input struct {
				Block, LastMechanismStepBlock   *uint64
				LastUpdate, BlockAtRegistration []uint64
				ValidatorPermit                 []bool
				Weights, Bonds                  [][][2]uint16
				EarliestUnexpiredCommitBlock    []*uint64
				Stake                           []uint64 // where it differs from the scenario's
			}
			Expected struct {
				StakeWeight, Consensus, Incentive, Dividends, ValidatorTrust []uint16
				Active, ValidatorPermit                                      []bool
				ServerEmission, ValidatorEmission, Emission                  []uint64
				Bonds                                                        [][][2]uint16
				I32F32                                                       struct {
					Stake, ActiveStake, Consensus, ValidatorTrust, Incentive, Dividends []number
					Bonds                                                               [][][2]number
				}
			}
		}
	}
}

func TestYumaEpochsVector(t *testing.T) {
	var file epochVectors
	vectors.JSON(t, "bittensor/yuma-epochs.json", &file)
	epochs := 0
	for _, s := range file.Scenarios {
		p := s.Params
		for k, e := range s.Epochs {
			epochs++
			in := Input{
				Params: Params{
					Rules: Spec425(), ActivityCutoff: p.ActivityCutoff, Kappa: p.Kappa, BondsPenalty: p.BondsPenalty,
					BondsMovingAverage: p.BondsMovingAverage, MaxValidators: p.MaxValidators, StakeThreshold: p.StakeThreshold, Yuma3: p.Yuma3,
				},
				Block: *e.Input.Block, Owner: p.OwnerUID,
				LastUpdate: e.Input.LastUpdate, BlockAtRegistration: e.Input.BlockAtRegistration,
				ValidatorPermit: e.Input.ValidatorPermit, Weights: entries(e.Input.Weights), Bonds: entries(e.Input.Bonds),
				EarliestCommit: e.Input.EarliestUnexpiredCommitBlock, Emission: s.RaoEmission,
			}
			last := p.LastMechanismStep
			if e.Input.LastMechanismStepBlock != nil {
				last = *e.Input.LastMechanismStepBlock
			}
			in.BondsSince = BondsSince(last, in.Block, p.Tempo)
			stake := s.Stake
			if e.Input.Stake != nil {
				stake = e.Input.Stake
			}
			for _, rao := range stake {
				in.Stake = append(in.Stake, Stake{Rao: rao})
			}
			out, err := Epoch(in)
			if err != nil {
				t.Fatal(err)
			}
			x, raw := e.Expected, e.Expected.I32F32
			rawBonds := make(matrix, len(raw.Bonds))
			for i, row := range raw.Bonds {
				for _, c := range row {
					rawBonds[i] = append(rawBonds[i], cell{int(c[0]), Fixed(c[1])})
				}
			}
			compare(t, s.Name+" "+strconv.Itoa(k), []pair{
				{"stake", out.raw.stake, fixed(raw.Stake)},
				{"active stake", out.raw.activeStake, fixed(raw.ActiveStake)},
				{"raw consensus", out.raw.consensus, fixed(raw.Consensus)},
				{"raw trust", out.raw.validatorTrust, fixed(raw.ValidatorTrust)},
				{"raw incentive", out.raw.incentive, fixed(raw.Incentive)},
				{"raw dividends", out.raw.dividends, fixed(raw.Dividends)},
				{"raw bonds", out.raw.bonds, rawBonds},
				{"stake weight", out.StakeWeight, x.StakeWeight},
				{"consensus", out.Consensus, x.Consensus},
				{"incentive", out.Incentive, x.Incentive},
				{"dividends", out.Dividends, x.Dividends},
				{"validator trust", out.ValidatorTrust, x.ValidatorTrust},
				{"active", out.Active, x.Active},
				{"permits", out.ValidatorPermit, x.ValidatorPermit},
				{"server emission", out.ServerEmission, x.ServerEmission},
				{"validator emission", out.ValidatorEmission, x.ValidatorEmission},
				{"emission", out.Emission, x.Emission},
				{"bonds", out.Bonds, entries(x.Bonds)},
			})
		}
	}
	if epochs < 30 {
		t.Fatalf("only %d epochs in the file", epochs)
	}
	t.Logf("epochs: %d of %d scenarios", epochs, len(file.Scenarios))
}

type pair struct {
	name      string
	got, want any
}

func compare(t *testing.T, where string, pairs []pair) {
	t.Helper()
	for _, p := range pairs {
		if fmt.Sprint(p.got) != fmt.Sprint(p.want) { // nil and empty rows are the same
			t.Errorf("%s: %s\n got %v\nwant %v", where, p.name, p.got, p.want)
		}
	}
}

func TestYumaMathVector(t *testing.T) {
	var file struct {
		WeightedMedian []struct {
			Stake, Score       []number
			Minority, Expected number
		}
		WeightedMedianPerColumn []struct {
			Stake    []number
			Rows     [][][2]number
			Columns  int
			Majority number
			Expected []number
		}
		MaxUpscaleToU16 []struct {
			Input    []number
			Expected []uint16
		}
		MaxUpscaleU16ToU16 []struct{ Input, Expected []uint16 }
		TopK               []struct {
			Values      []number
			K           int
			TopkNonzero []bool
		}
	}
	vectors.JSON(t, "bittensor/yuma-math.json", &file)
	for i, v := range file.WeightedMedian {
		index := make([]int, len(v.Stake))
		for k := range index {
			index[k] = k
		}
		stake := fixed(v.Stake)
		if got := weightedMedian(stake, fixed(v.Score), index, Fixed(v.Minority), 0, sum(stake)); got != Fixed(v.Expected) {
			t.Errorf("median %d: got %d, want %d", i, got, v.Expected)
		}
	}
	for i, v := range file.WeightedMedianPerColumn {
		m := make(matrix, len(v.Rows))
		for k, row := range v.Rows {
			for _, c := range row {
				m[k] = append(m[k], cell{int(c[0]), Fixed(c[1])})
			}
		}
		got := m.columnMedians(fixed(v.Stake), Fixed(v.Majority))[:v.Columns]
		compare(t, "column medians "+strconv.Itoa(i), []pair{{"median", got, fixed(v.Expected)}})
	}
	for i, v := range file.MaxUpscaleToU16 {
		compare(t, "max upscale "+strconv.Itoa(i), []pair{{"row", maxUpscale(fixed(v.Input)), v.Expected}})
	}
	for i, v := range file.MaxUpscaleU16ToU16 {
		compare(t, "max upscale u16 "+strconv.Itoa(i), []pair{{"row", MaxUpscale(v.Input), v.Expected}})
	}
	for i, v := range file.TopK {
		compare(t, "top k "+strconv.Itoa(i), []pair{{"marks", topNonZero(fixed(v.Values), v.K), v.TopkNonzero}})
	}
	t.Logf("building blocks: %d medians, %d columns, %d and %d max-upscales, %d top k",
		len(file.WeightedMedian), len(file.WeightedMedianPerColumn), len(file.MaxUpscaleToU16), len(file.MaxUpscaleU16ToU16), len(file.TopK))
}
