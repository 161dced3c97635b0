package yuma

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"basilica/internal/vectors"
)

// TestExponential holds the series against the real function, and names the values that are exact or do not fit.
func TestExponential(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.Float64Range(-10, 10).Draw(t, "x")
		got, ok := exponential(Fixed(x * float64(one)))
		if want := math.Exp(x); !ok || math.Abs(float64(got)/float64(one)-want) > 1e-8+1e-7*want {
			t.Fatalf("e^%g: got %g, %v, want %g", x, float64(got)/float64(one), ok, want)
		}
	})
	for _, c := range []struct {
		x, want Fixed
		fits    bool
	}{
		{0, one, true},
		{one, 22802600 << 9, true},
		{22 * one, 0, false},
		{-22 * one, 0, false},
		{300 * one, 0, false},
	} {
		if got, ok := exponential(c.x); got != c.want || ok != c.fits {
			t.Errorf("e^%d: got %d, %v", c.x>>32, got, ok)
		}
	}
	if bounded, open := Spec425().decay(300*one), Spec293().decay(300*one); bounded != Spec425().decay(20*one) || bounded == 0 || open != 0 {
		t.Errorf("e^300: %d bounded, %d open", bounded, open)
	}
}

// TestSpeedStaysBetween: whatever the cell, its speed lies between low and high.
func TestSpeedStaysBetween(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		low := rapid.Uint16().Draw(t, "low")
		l := LiquidAlpha{Low: low, High: rapid.Uint16Range(low, math.MaxUint16).Draw(t, "high"), Steepness: rapid.Int16().Draw(t, "steepness")}
		part := rapid.Int64Range(0, int64(one))
		rules := []Rules{Spec293(), Spec425()}[rapid.IntRange(0, 1).Draw(t, "rules")]
		got := l.speed(rules, Fixed(part.Draw(t, "consensus")), Fixed(part.Draw(t, "weight")), Fixed(part.Draw(t, "bond")))
		if got < proportion(l.Low) || got > proportion(l.High) {
			t.Fatalf("%+v: %d", l, got)
		}
	})
}

// TestLiquidRowsOutOfOrder: a weight that follows one of a higher uid moves its bond at the speed of a weight of 0, as in
// the runtime, whose walk over the row has passed it.
func TestLiquidRowsOutOfOrder(t *testing.T) {
	l := LiquidAlpha{Low: 6554, High: 58982, Steepness: 1000}
	consensus := []Fixed{0, 0}
	half := one / 2
	sorted := l.moved(Spec425(), matrix{{{0, half}, {1, half}}, nil}, matrix{nil, nil}, consensus)
	swapped := l.moved(Spec425(), matrix{{{1, half}, {0, half}}, nil}, matrix{nil, nil}, consensus)
	if swapped[0][0] != sorted[0][1] {
		t.Errorf("the first of the row: %v, want %v", swapped[0][0], sorted[0][1])
	}
	if want := mul(l.speed(Spec425(), 0, 0, 0), half); swapped[0][1].value != want || want == sorted[0][0].value {
		t.Errorf("the one that is missed: %d, want %d, which is not %d", swapped[0][1].value, want, sorted[0][0].value)
	}
}

// TestYuma3LiquidAlphaVector plays series of epochs whose bonds and dividends are known to four decimals.
func TestYuma3LiquidAlphaVector(t *testing.T) {
	var file struct {
		Tolerance float64
		Setup     struct {
			Kappa, BondsPenalty, MaxValidators, Tempo       uint16
			BondsMovingAverage, ActivityCutoff, RaoPerEpoch uint64
			AlphaLow, AlphaHigh                             float64
			AlphaSigmoidSteepness                           int16
			RegistrationBlock, FirstEpochBlock              uint64
		}
		Scenarios []struct {
			Name                  string
			Stake                 []uint64
			LiquidAlpha           bool
			WeightsSetBeforeEpoch [][][]uint16
			BondsResetOn          bool
			ResetBondsBeforeEpoch *struct {
				Epoch int
				UID   uint16
			}
			Expected []struct {
				Epoch     int
				Bonds     [][]float64
				Dividends []float64
			}
		}
	}
	vectors.JSON(t, "bittensor/yuma3-liquid-alpha.json", &file)
	u := file.Setup
	compared := 0
	for _, s := range file.Scenarios {
		n := len(s.Stake)
		in := Input{
			Params: Params{
				Rules: Spec425(), ActivityCutoff: u.ActivityCutoff, Kappa: u.Kappa, BondsPenalty: u.BondsPenalty,
				BondsMovingAverage: u.BondsMovingAverage, MaxValidators: u.MaxValidators, Yuma3: true,
			},
			Emission: u.RaoPerEpoch, Weights: make([][]Entry, n), Bonds: make([][]Entry, n),
			LastUpdate: make([]uint64, n), BlockAtRegistration: make([]uint64, n), ValidatorPermit: make([]bool, n),
		}
		if s.LiquidAlpha {
			in.Params.Liquid = &LiquidAlpha{
				Low: uint16(u.AlphaLow * math.MaxUint16), High: uint16(u.AlphaHigh * math.MaxUint16), Steepness: u.AlphaSigmoidSteepness,
			}
		}
		for i, rao := range s.Stake {
			in.Stake = append(in.Stake, Stake{Rao: rao})
			in.LastUpdate[i], in.BlockAtRegistration[i] = u.RegistrationBlock, u.RegistrationBlock
		}
		in.Block = u.FirstEpochBlock
		last := uint64(0)
		run := func() Output {
			in.BondsSince = BondsSince(last, in.Block, u.Tempo)
			out, err := Epoch(in)
			if err != nil {
				t.Fatal(err)
			}
			in.Bonds, in.ValidatorPermit, last = out.Bonds, out.ValidatorPermit, in.Block
			return out
		}
		run() // without weights
		expected := s.Expected
		for epoch, set := range s.WeightsSetBeforeEpoch {
			for v, row := range set {
				in.Weights[v] = nil
				for k, value := range row {
					in.Weights[v] = append(in.Weights[v], Entry{uint16(int(u.MaxValidators) + k), value})
				}
				in.LastUpdate[v] = in.Block
			}
			if reset := s.ResetBondsBeforeEpoch; s.BondsResetOn && reset != nil && reset.Epoch == epoch {
				for i := range in.Bonds {
					in.Bonds[i] = slices.DeleteFunc(slices.Clone(in.Bonds[i]), func(e Entry) bool { return e.UID == reset.UID })
				}
			}
			in.Block++
			out := run()
			if len(expected) == 0 || expected[0].Epoch != epoch {
				continue
			}
			want := expected[0]
			expected = expected[1:]
			near := func(what string, got uint16, want float64) {
				compared++
				if math.Abs(float64(got)/math.MaxUint16-want) > file.Tolerance {
					t.Errorf("%s, epoch %d: %s is %.4f, want %.4f", s.Name, epoch, what, float64(got)/math.MaxUint16, want)
				}
			}
			for v, row := range want.Bonds {
				for k, value := range row {
					var got uint16
					for _, e := range out.Bonds[v] {
						if int(e.UID) == int(u.MaxValidators)+k {
							got = e.Value
						}
					}
					near("a bond", got, value)
				}
			}
			for i, value := range want.Dividends {
				near("a dividend", out.Dividends[i], value)
			}
		}
		if len(expected) > 0 {
			t.Errorf("%s: %d expected epochs were not reached", s.Name, len(expected))
		}
	}
	t.Logf("liquid alpha: %d scenarios, %d values", len(file.Scenarios), compared)
}
