package yuma

import (
	"errors"
	"math"
	"testing"

	"basilica/internal/vectors"
)

func TestWeightsConversionVector(t *testing.T) {
	var file struct {
		Vectors []struct {
			Name     string
			UIDs     []uint16
			Weights  []float64
			Expected *struct{ UIDs, Values []uint16 }
			Error    bool
		}
	}
	vectors.JSON(t, "bittensor/weights-conversion.json", &file)
	for _, v := range file.Vectors {
		got, err := FromFloats(v.UIDs, v.Weights)
		if v.Error {
			if !errors.Is(err, ErrWeights) {
				t.Errorf("%s: %v, %v", v.Name, got, err)
			}
			continue
		}
		var want []Entry
		for i, uid := range v.Expected.UIDs {
			want = append(want, Entry{uid, v.Expected.Values[i]})
		}
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
		compare(t, v.Name, []pair{{"weights", got, want}})
	}
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		if _, err := FromFloats([]uint16{1}, []float64{bad}); !errors.Is(err, ErrWeights) {
			t.Errorf("%g is a weight: %v", bad, err)
		}
	}
	t.Logf("conversion of weights: %d cases", len(file.Vectors))
}
