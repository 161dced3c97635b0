package kernels

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestSums: source and PTX are those of one run of scripts/kernels.sh, and each file is for the cards that For gives it to.
func TestSums(t *testing.T) {
	t.Parallel()
	sums, err := os.ReadFile("SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("kernels.cu")
	if err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, f := range []struct{ name, text string }{{"kernels.cu", string(source)}, {Oldest().Name, Oldest().PTX}, {TensorCores().Name, TensorCores().PTX}, {Hopper().Name, Hopper().PTX}} {
		want += fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(f.text)), f.name)
	}
	if string(sums) != want {
		t.Errorf("SHA256SUMS says\n%sand the files are\n%s", sums, want)
	}
	for _, c := range []struct {
		major, minor, driver int
		head                 string
		mma, wgmma           bool
	}{
		{7, 0, 11040, ".version 6.4\n.target sm_70\n", false, false},
		{7, 5, 12080, ".version 6.4\n.target sm_70\n", false, false},
		{8, 0, 12080, ".version 7.0\n.target sm_80\n", true, false},
		{9, 0, 12080, ".version 8.0\n.target sm_90a\n", true, true},
		{9, 0, 11080, ".version 7.0\n.target sm_80\n", true, false}, // a driver that does not know that PTX
		{10, 0, 13000, ".version 7.0\n.target sm_80\n", true, false},
		{12, 0, 13000, ".version 7.0\n.target sm_80\n", true, false},
	} {
		m, ok := For(c.major, c.minor, c.driver)
		if !ok || !strings.Contains(m.PTX, c.head) || m.MMA != c.mma || strings.Contains(m.PTX, ".entry gemm_mma(") != c.mma || m.WGMMA != c.wgmma ||
			strings.Contains(m.PTX, ".entry gemm_wgmma(") != c.wgmma || strings.ContainsRune(m.PTX, 0) {
			t.Errorf("compute capability %d.%d gets %s", c.major, c.minor, m.Name)
		}
	}
	if _, ok := For(6, 1, 12080); ok {
		t.Error("a card of compute capability 6.1 gets kernels")
	}
}
