package subtensor

import (
	"strconv"
	"testing"

	"basilica"
	"basilica/internal/vectors"
	"basilica/keys"
)

// TestStakeVectors reckons the stakes of recorded epochs, with parents and children, and compares with what the runtime
// itself counted.
func TestStakeVectors(t *testing.T) {
	type kindred [][2]any
	neurons := 0
	for _, theme := range []string{"delegation", "tao_weight", "mixed16", "live"} {
		var record struct {
			Cases []struct {
				ID    string
				Input struct {
					Params  struct{ TaoWeight string }
					Neurons []struct {
						Hotkey                      string
						TotalHotkeyAlpha, RootStake string
						Parents, Children           kindred
					}
					StakeSeenByRuntime struct{ TotalStake []string }
				}
			}
		}
		vectors.JSON(t, "subtensor425/epochs/"+theme+".json.gz", &record)
		number := func(text string) uint64 {
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		key := func(ss58 string) [32]byte {
			pub, err := keys.DecodeSS58(ss58)
			if err != nil {
				t.Fatal(err)
			}
			return pub
		}
		relatives := func(list kindred) (out []kin) {
			for _, entry := range list {
				out = append(out, kin{number(entry[0].(string)), key(entry[1].(string))})
			}
			return out
		}
		for _, c := range record.Cases {
			alphas, roots := map[[32]byte]uint64{}, map[[32]byte]uint64{}
			for _, n := range c.Input.Neurons {
				alphas[key(n.Hotkey)], roots[key(n.Hotkey)] = number(n.TotalHotkeyAlpha), number(n.RootStake)
			}
			for i, n := range c.Input.Neurons {
				f := family{children: relatives(n.Children), parents: relatives(n.Parents)}
				of := func(m map[[32]byte]uint64) uint64 {
					return f.inherited(key(n.Hotkey), func(k [32]byte) uint64 { return m[k] })
				}
				got := weigh(of(alphas), of(roots), fraction(number(c.Input.Params.TaoWeight)))
				if want := basilica.Rao(number(c.Input.StakeSeenByRuntime.TotalStake[i])); got != want {
					t.Errorf("%s, neuron %d: stake %d, want %d", c.ID, i, got, want)
				}
				neurons++
			}
		}
	}
	t.Logf("stakes of %d neurons agree", neurons)
}

func TestStakeSaturates(t *testing.T) {
	if got := weigh(^uint64(0), ^uint64(0), fraction(^uint64(0))); got != basilica.Rao(^uint64(0)) {
		t.Errorf("%d", got)
	}
	f := family{children: []kin{{share: ^uint64(0)}, {share: ^uint64(0)}}}
	if got := f.inherited([32]byte{}, func([32]byte) uint64 { return 5 }); got != 0 {
		t.Errorf("two children take all of it twice: %d", got)
	}
}
