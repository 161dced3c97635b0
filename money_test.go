package basilica_test

import (
	"testing"

	"basilica"
)

func TestRaoInTAO(t *testing.T) {
	for rao, want := range map[basilica.Rao]string{
		0: "0", 1: "0.000000001", 1e9: "1", 1_500_000_000: "1.5", 100: "0.0000001", ^basilica.Rao(0): "18446744073.709551615",
	} {
		if got := rao.TAO(); got != want {
			t.Errorf("%d rao is %q, want %q", uint64(rao), got, want)
		}
	}
}
