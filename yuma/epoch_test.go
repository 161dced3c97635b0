package yuma

import (
	"errors"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

// TestFixedAgainstBig compares the 128-bit arithmetic with math/big.
func TestFixedAgainstBig(t *testing.T) {
	fits := func(v *big.Int) bool { return v.IsInt64() }
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Int64().Draw(t, "a"), rapid.Int64().Draw(t, "b")
		x, y := big.NewInt(a), big.NewInt(b)
		product := new(big.Int).Mul(x, y)
		product.Rsh(product, 32) // math/big rounds towards minus infinity here
		switch got := mul(Fixed(a), Fixed(b)); {
		case fits(product) && int64(got) != product.Int64():
			t.Fatalf("mul %d %d: got %d, want %s", a, b, got, product)
		case !fits(product) && got != math.MaxInt64 && got != math.MinInt64:
			t.Fatalf("mul %d %d: got %d, want saturation", a, b, got)
		}
		want := new(big.Int)
		if b != 0 {
			want.Quo(new(big.Int).Lsh(x, 32), y)
		}
		if !fits(want) {
			want.SetInt64(0)
		}
		if got := div(Fixed(a), Fixed(b)); int64(got) != want.Int64() {
			t.Fatalf("div %d %d: got %d, want %s", a, b, got, want)
		}
	})
}

// TestEpochNeverGivesMore states that an epoch never hands out more than its emission, whatever the weights.
func TestEpochNeverGivesMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "n")
		in := Input{
			Params:   Params{ActivityCutoff: 100, Kappa: 32767, BondsPenalty: 65535, BondsMovingAverage: 900000, MaxValidators: 4, Yuma3: rapid.Bool().Draw(t, "yuma3")},
			Block:    50,
			Emission: rapid.Uint64Max(1<<50).Draw(t, "emission"),
		}
		for range n {
			in.LastUpdate = append(in.LastUpdate, rapid.Uint64Max(50).Draw(t, "updated"))
			in.BlockAtRegistration = append(in.BlockAtRegistration, rapid.Uint64Max(50).Draw(t, "registered"))
			in.ValidatorPermit = append(in.ValidatorPermit, rapid.Bool().Draw(t, "permit"))
			in.Stake = append(in.Stake, Stake{Rao: rapid.Uint64Max(1<<55).Draw(t, "stake")})
			row := rapid.Custom(func(t *rapid.T) []Entry {
				var out []Entry
				for j := range n {
					if rapid.Bool().Draw(t, "has") {
						out = append(out, Entry{uint16(j), rapid.Uint16().Draw(t, "value")})
					}
				}
				return out
			})
			in.Weights = append(in.Weights, row.Draw(t, "weights"))
			in.Bonds = append(in.Bonds, row.Draw(t, "bonds"))
		}
		out, err := Epoch(in)
		if err != nil {
			t.Fatal(err)
		}
		var total uint64
		for i := range out.Emission {
			total += out.ServerEmission[i] + out.ValidatorEmission[i]
		}
		if total > in.Emission {
			t.Fatalf("gave %d of %d", total, in.Emission)
		}
	})
}

func TestEpochRefusesShape(t *testing.T) {
	owner := uint16(3)
	good := func() Input {
		return Input{LastUpdate: []uint64{1}, BlockAtRegistration: []uint64{0}, ValidatorPermit: []bool{true}, Stake: []Stake{{}}, Weights: [][]Entry{nil}, Bonds: [][]Entry{nil}}
	}
	for name, spoil := range map[string]func(*Input){
		"short stake":    func(in *Input) { in.Stake = nil },
		"unknown uid":    func(in *Input) { in.Weights[0] = []Entry{{1, 1}} },
		"owner":          func(in *Input) { in.Owner = &owner },
		"commit lengths": func(in *Input) { in.EarliestCommit = make([]*uint64, 2) },
	} {
		in := good()
		spoil(&in)
		if _, err := Epoch(in); !errors.Is(err, ErrShape) {
			t.Errorf("%s: got %v, want ErrShape", name, err)
		}
	}
	if _, err := Epoch(good()); err != nil {
		t.Errorf("one neuron: %v", err)
	}
}

// BenchmarkEpoch256 is the epoch of a full subnet: 64 validators weigh all of 256 neurons.
func BenchmarkEpoch256(b *testing.B) {
	const neurons, validators = 256, 64
	in := Input{
		Params: Params{
			Rules: Spec425(), ActivityCutoff: 5000, Kappa: 32767, BondsPenalty: 65535, BondsMovingAverage: 900000, MaxValidators: validators, Yuma3: true,
		},
		Block: 1000, BondsSince: 900, Emission: 1 << 40,
	}
	for i := range neurons {
		in.LastUpdate = append(in.LastUpdate, 990)
		in.BlockAtRegistration = append(in.BlockAtRegistration, 1)
		in.ValidatorPermit = append(in.ValidatorPermit, i < validators)
		var row []Entry
		stake := Stake{}
		if i < validators {
			stake.Rao = uint64(i+1) << 40
			for j := range uint16(neurons) {
				row = append(row, Entry{j, uint16(uint32(j+1) * uint32(i+7) * 2654435761 >> 16)})
			}
		}
		in.Stake, in.Weights, in.Bonds = append(in.Stake, stake), append(in.Weights, row), append(in.Bonds, row)
	}
	run := func(b *testing.B) {
		for b.Loop() {
			if _, err := Epoch(in); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("plain", run)
	in.Params.Liquid = &LiquidAlpha{Low: 45875, High: 58982, Steepness: 1000}
	b.Run("liquid-alpha", run)
}
