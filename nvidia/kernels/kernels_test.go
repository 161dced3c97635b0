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
	for _, f := range []struct{ name, text string }{{"kernels.cu", string(source)}, {Oldest().Name, Oldest().PTX}, {TensorCores().Name, TensorCores().PTX}} {
		want += fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(f.text)), f.name)
	}
	if string(sums) != want {
		t.Errorf("SHA256SUMS says\n%sand the files are\n%s", sums, want)
	}
	for _, c := range []struct {
		major, minor int
		head         string
		mma          bool
	}{
		{7, 0, ".version 6.4\n.target sm_70\n", false},
		{7, 5, ".version 6.4\n.target sm_70\n", false},
		{8, 0, ".version 7.0\n.target sm_80\n", true},
		{9, 0, ".version 7.0\n.target sm_80\n", true},
		{12, 0, ".version 7.0\n.target sm_80\n", true},
	} {
		m, ok := For(c.major, c.minor)
		if !ok || !strings.Contains(m.PTX, c.head) || m.MMA != c.mma || strings.Contains(m.PTX, ".entry gemm_mma(") != c.mma || strings.ContainsRune(m.PTX, 0) {
			t.Errorf("compute capability %d.%d gets %s", c.major, c.minor, m.Name)
		}
	}
	if _, ok := For(6, 1); ok {
		t.Error("a card of compute capability 6.1 gets kernels")
	}
}
