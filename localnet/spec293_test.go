package localnet

import (
	"cmp"
	"math"
	"math/big"
	"slices"
	"testing"

	"basilica/internal/vectors"
)

// The rules of spec 293 are not played: a network here is of spec 425. What its record shows is recomputed by models worked
// by hand, so that what the two have in common, and what not, is known and not believed.

// TestSpec293RateLimitVector: weights and addresses are taken again once as many blocks have passed as the limit says; the
// rule is that of spec 425, which refuses in the pool what was refused at dispatch.
func TestSpec293RateLimitVector(t *testing.T) {
	var weights struct {
		WeightsSetRateLimit uint64
		Attempts            []struct {
			LastUpdateBefore, LastUpdateAfter uint64 `json:",string"`
			Block                             uint64
			OK                                bool
			Error                             string
		}
		WithRateLimitZero []struct{ OK bool }
	}
	vectors.JSON(t, "subtensor/rules/weights_rate_limit.json", &weights)
	for _, a := range weights.Attempts {
		pass, after := a.Block-a.LastUpdateBefore >= weights.WeightsSetRateLimit, a.LastUpdateBefore
		if pass {
			after = a.Block
		}
		if pass != a.OK || after != a.LastUpdateAfter || !pass && a.Error != "SettingWeightsTooFast" {
			t.Errorf("block %d: %+v", a.Block, a)
		}
	}
	for _, a := range weights.WithRateLimitZero {
		if !a.OK {
			t.Error("weights are refused without a limit")
		}
	}
	type served struct {
		Block   uint64
		OK      bool
		Error   string
		Invalid struct{ Custom int }
	}
	var serving struct {
		ServingRateLimit                         uint64
		ServeAxon, ServeAxonTLS, ServePrometheus []served
	}
	vectors.JSON(t, "subtensor/rules/serving_rate_limit.json", &serving)
	for name, attempts := range map[string][]served{
		"serve_axon": serving.ServeAxon, "serve_axon_tls": serving.ServeAxonTLS, "serve_prometheus": serving.ServePrometheus,
	} {
		last, before := uint64(0), false
		for _, a := range attempts {
			pass := !before || a.Block-last >= serving.ServingRateLimit
			refused := a.Error == "ServingRateLimitExceeded" || a.Invalid.Custom == 12
			if pass != a.OK || refused == pass {
				t.Errorf("%s, block %d: %+v", name, a.Block, a)
			}
			if pass {
				last, before = a.Block, true
			}
		}
	}
	t.Logf("spec 293: %d attempts to set weights, %d, %d and %d to serve", len(weights.Attempts)+len(weights.WithRateLimitZero),
		len(serving.ServeAxon), len(serving.ServeAxonTLS), len(serving.ServePrometheus))
}

// TestSpec293PruningVector: of the neurons beyond their immunity, or of all where there are none, the lowest score goes, the
// earliest registered and then the lowest uid of equal ones; the owner's hotkey never.
func TestSpec293PruningVector(t *testing.T) {
	type neuron struct {
		UID                 uint16
		Hotkey              string
		PruningScore        uint16
		BlockAtRegistration uint64 `json:",string"`
	}
	var record struct {
		SubnetOwnerHotkey string
		Steps             []struct {
			RegisteredInBlock, ImmunityPeriod uint64
			NeuronsBefore                     []neuron
			ReplacedUID                       uint16
			ReplacedHotkey                    string
			After                             struct{ PruningScores []uint16 }
		}
	}
	vectors.JSON(t, "subtensor/rules/pruning.json", &record)
	for _, s := range record.Steps {
		others := slices.DeleteFunc(slices.Clone(s.NeuronsBefore), func(n neuron) bool { return n.Hotkey == record.SubnetOwnerHotkey })
		open := slices.DeleteFunc(slices.Clone(others), func(n neuron) bool { return s.RegisteredInBlock-n.BlockAtRegistration < s.ImmunityPeriod })
		if len(open) == 0 {
			open = others
		}
		lowest := slices.MinFunc(open, func(a, b neuron) int {
			return cmp.Or(cmp.Compare(a.PruningScore, b.PruningScore), cmp.Compare(a.BlockAtRegistration, b.BlockAtRegistration), cmp.Compare(a.UID, b.UID))
		})
		if lowest.UID != s.ReplacedUID || lowest.Hotkey != s.ReplacedHotkey || s.After.PruningScores[lowest.UID] != math.MaxUint16 {
			t.Errorf("block %d: %d goes, the record has %d", s.RegisteredInBlock, lowest.UID, s.ReplacedUID)
		}
	}
	t.Logf("spec 293: %d registrations on a full subnet", len(record.Steps))
}

// burn293 is the price after an interval: between the old one and the one in proportion to the registrations, in U110F18.
func burn293(burn, registrations, target, alpha, lowest, highest uint64) uint64 {
	fixed := func(v uint64) *big.Int { n := new(big.Int).SetUint64(v); return n.Lsh(n, 18) }
	mul := func(a, b *big.Int) *big.Int { n := new(big.Int).Mul(a, b); return n.Rsh(n, 18) }
	div := func(a, b *big.Int) *big.Int { n := new(big.Int).Lsh(a, 18); return n.Quo(n, b) }
	kept := div(fixed(alpha), fixed(math.MaxUint64))
	moved := div(mul(fixed(burn), fixed(registrations+target)), fixed(2*target))
	next := new(big.Int).Add(mul(kept, fixed(burn)), mul(new(big.Int).Sub(fixed(1), kept), moved))
	return min(max(next.Rsh(next, 18).Uint64(), lowest), highest)
}

// TestSpec293BurnVector: the price moves at the end of an interval alone. Spec 425 lets it fall in every block and rise with
// every registration instead.
func TestSpec293BurnVector(t *testing.T) {
	var record struct {
		Runs []struct {
			Config struct {
				AdjustmentInterval, TargetRegistrationsPerInterval uint64
				AdjustmentAlpha, MinBurn, MaxBurn, BurnAtStart     uint64 `json:",string"`
			}
			Series []struct {
				Block, Registrations                                                             uint64
				RegistrationsThisInterval, BurnRegistrationsThisInterval, RegistrationsThisBlock uint64
				Burn, LastAdjustmentBlock, RaoRecycled                                           uint64 `json:",string"`
			}
		}
	}
	vectors.JSON(t, "subtensor/rules/burn_series.json", &record)
	blocks := 0
	for _, run := range record.Runs {
		c := run.Config
		first := run.Series[0]
		burn, adjusted, interval, recycled := c.BurnAtStart, first.LastAdjustmentBlock, first.RegistrationsThisInterval, first.RaoRecycled
		for _, b := range run.Series[1:] {
			blocks++
			if b.Block-adjusted >= c.AdjustmentInterval {
				if interval > c.TargetRegistrationsPerInterval || interval == 0 { // else only the difficulty of work falls
					burn = burn293(burn, interval, c.TargetRegistrationsPerInterval, c.AdjustmentAlpha, c.MinBurn, c.MaxBurn)
				}
				adjusted, interval = b.Block, 0
			}
			interval += b.Registrations
			recycled += b.Registrations * burn
			if burn != b.Burn || adjusted != b.LastAdjustmentBlock || interval != b.RegistrationsThisInterval ||
				interval != b.BurnRegistrationsThisInterval || b.RegistrationsThisBlock != b.Registrations || recycled != b.RaoRecycled {
				t.Errorf("block %d: burn %d, %d registrations, %d recycled, want %+v", b.Block, burn, interval, recycled, b)
			}
		}
	}
	t.Logf("spec 293: %d blocks of prices", blocks)
}
