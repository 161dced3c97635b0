//go:build !nocuda

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"basilica"
	"basilica/attest"
	"basilica/attestor"
	"basilica/internal/fakecuda"
	"basilica/nvidia"
)

// envCards makes this test program take all cards into use as prove does, on sizes that a CPU gets through, instead of running tests.
const envCards = "GPU_ATTESTOR_CARDS"

// taken is what it prints.
type taken struct {
	Held   []uint64 `json:"held"` // bytes of each card in use
	Left   []string `json:"left"` // codes of those left out
	Failed string   `json:"failed"`
}

func smallSize(string, uint64) (attest.Params, error) {
	return attest.Params{N: 128, Layers: 12, Lanes: 256, Steps: 4, Batches: 6, WinLayers: 5, Cells: 256, Rounds: 8}, nil
}

// takeCards takes the cards into use, counts what is held of each before a challenge, and fills each.
func takeCards() (out taken) {
	m, err := cudaDevices(func(string, string) error { return nil }, func(_, _ string, why error) { out.Left = append(out.Left, basilica.CodeOf(why)) }, smallSize)
	for _, dev := range m.devices {
		d := dev.(cudaDevice)
		err = errors.Join(err, d.Do(func(dev nvidia.Device, _ *nvidia.Prover) error {
			free, err := dev.(*nvidia.Context).FreeMemory()
			out.Held = append(out.Held, d.info.FreeBytes+allocationSlack-free)
			return err
		}))
		p, _ := smallSize("", 0)
		_, failed := d.Fill(context.Background(), p, attest.Digest{1})
		err = errors.Join(err, failed)
	}
	if err = errors.Join(err, m.close()); err != nil {
		out.Failed = err.Error()
	}
	return out
}

// envSmall makes this test program run `selftest --device cuda` on sizes that a CPU gets through, instead of tests.
const envSmall = "GPU_ATTESTOR_SMALL_SELFTEST"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(envCards) != "":
		if err := json.NewEncoder(os.Stdout).Encode(takeCards()); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	case os.Getenv(envSmall) == "":
		os.Exit(m.Run())
	}
	r, err := selftestCUDA(context.Background(), 2, smallSize, attestor.Workers(0))
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err == nil {
		err = r.print(os.Stderr)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\nFix: %s\n", basilica.CodeOf(selftestError(err)), err, basilica.FixOf(selftestError(err)))
		os.Exit(1)
	}
}

// selftestBehind runs it in a process that finds the fake driver, with these words for it.
func selftestBehind(t *testing.T, library, words string) (r cudaSelftest, text string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), envSmall+"=1", fakecuda.Env+"="+words, "LD_LIBRARY_PATH="+library)
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	if err = cmd.Run(); err == nil {
		err = json.Unmarshal(out.Bytes(), &r)
	}
	return r, log.String(), err
}

// TestSelftestCUDA: every card is compared and timed, and what comes out is an entry of the validator's list of models.
func TestSelftestCUDA(t *testing.T) {
	library := fakecuda.Build(t)
	r, text, err := selftestBehind(t, library, "devices=2,memory=16777216")
	if err != nil || !r.OK || len(r.GPUs) != 2 {
		t.Fatal(r, text, err)
	}
	g := r.GPUs[1]
	if g.BytesEqual != compared().FillBytes() || g.ElementsEqual != elements || g.Openings != 256+64+8+4+4 || g.Copy.Median <= 0 || g.Kernel != "gemm_mma" ||
		g.Fill.Runs != 2 || g.Walk.CV < 0 || g.Driver != "575.57.08" || *g.ClockMHz != 1980 || g.UUID == r.GPUs[0].UUID || g.FreeBytes > g.MemoryBytes ||
		g.Seconds.Fill <= 0 || g.Seconds.Trace <= 0 || g.Seconds.Open <= 0 || g.ChallengeSeconds != g.Seconds.sum() || g.Timed.Median >= g.Fill.Median {
		t.Errorf("%+v", g)
	}
	for _, s := range []string{"Tops by gemm_mma", "device to device", "of the copy", "1000 elements of n = 128", "trace"} {
		if !strings.Contains(text, s) {
			t.Errorf("%q is not in %s", s, text)
		}
	}
	if strings.Contains(text, "asked") {
		t.Errorf("the specification names no bounds of this card: %s", text)
	}
	g.Profile.NominalMiB = 24 << 10 // of a card that a challenge fits on
	entry, err := json.Marshal([]attest.Profile{g.Profile})
	if err != nil {
		t.Fatal(err)
	}
	ps, err := attest.ParseProfiles(entry)
	if err != nil || ps[0].Model != "Fake CUDA device" || ps[0].C <= 0 || ps[0].BW <= 0 || ps[0].BM <= 0 || ps[0].HashRate <= 0 || !strings.Contains(ps[0].Provenance["c"], "clocks 1980 and 3201 MHz") {
		t.Errorf("%+v %v", ps, err)
	}
}

// TestSelftestCUDASays: a card that cannot be used, or computes something else, is told by its code.
func TestSelftestCUDASays(t *testing.T) {
	library := fakecuda.Build(t)
	for words, code := range map[string]string{
		"memory=2097152":                     "CUDA_MEMORY",
		"memory=16777216,held=14000000":      "CUDA_MEMORY",
		"fail=cuMemcpyDtoH_v2:9:214":         "CUDA_LOST",
		"wrong=gemm":                         "SELFTEST_FAILED",
		"wrong=mix":                          "SELFTEST_FAILED",
		"fail=cuDevicePrimaryCtxRetain:1:46": "CUDA_BUSY",
	} {
		if _, text, err := selftestBehind(t, library, words); err == nil || !strings.HasPrefix(text, code+":") || !strings.Contains(text, "\nFix: ") {
			t.Errorf("%s: %v: %s, want %s", words, err, text, code)
		}
	}
}

// TestOneCardLeftOut: a card that cannot be opened is left out and told by its code, and takes no other card along. The cards in use hold
// what a challenge needs before it comes; where that cannot be had, the challenge itself may still try.
func TestOneCardLeftOut(t *testing.T) {
	library := fakecuda.Build(t)
	p, _ := smallSize("", 0)
	for _, c := range []struct {
		words string
		used  int // cards
		held  int // of which, with memory
		left  []string
	}{
		{"devices=3", 3, 3, nil},
		{"devices=3,fail=cuMemAlloc_v2:7:2", 3, 3, nil}, // the fill takes none
		{"devices=3,fail=cuMemAlloc_v2:1:2", 3, 2, nil},
		{"devices=3,held=8300000", 3, 0, nil},
		{"devices=3,fail=cuDeviceTotalMem_v2:2:999", 2, 2, []string{"CUDA_NOT_READY"}},
		{"devices=3,fail=cuDevicePrimaryCtxRetain:2:46", 2, 2, []string{"CUDA_BUSY"}},
		{"devices=3,fail=cuModuleLoadDataEx:3:218", 2, 2, []string{"CUDA_MODULE"}},
		{"devices=3,fail=cuMemGetInfo_v2:1:214", 2, 2, []string{"CUDA_LOST"}},
		{"devices=3,fail=cuMemAlloc_v2:1:214", 2, 2, []string{"CUDA_LOST"}},
		{"devices=1,fail=cuDevicePrimaryCtxRetain:1:46", 0, 0, []string{"CUDA_BUSY"}},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), envCards+"=1", fakecuda.Env+"=memory=16777216,"+c.words, "LD_LIBRARY_PATH="+library)
		out, err := cmd.Output()
		var x taken
		if err := errors.Join(err, json.Unmarshal(out, &x)); err != nil || x.Failed != "" || len(x.Held) != c.used || !slices.Equal(x.Left, c.left) {
			t.Errorf("%s: %+v %v", c.words, x, err)
			continue
		}
		held := 0
		for _, bytes := range x.Held {
			if bytes == p.DeviceBytes() {
				held++
			} else if bytes != 0 {
				t.Errorf("%s: %d bytes are held", c.words, bytes)
			}
		}
		if held != c.held {
			t.Errorf("%s: %d cards hold memory, want %d", c.words, held, c.held)
		}
	}
}

// TestSelftestWithoutDriver: on a machine without a GPU the sentence says so, and what to do.
func TestSelftestWithoutDriver(t *testing.T) {
	if _, err := nvidia.OpenDriver(nvidia.SearchDriver("/")); err == nil {
		t.Skip("this machine has an NVIDIA driver")
	}
	if _, err := run(t, "selftest", "--device", "cuda"); basilica.CodeOf(err) != "CUDA_ABSENT" || basilica.FixOf(err) == "" {
		t.Error(err)
	}
	for _, args := range [][]string{{"selftest", "--device", "tpu"}, {"selftest", "--device", "cuda", "--runs", "0"}} {
		if _, err := run(t, args...); basilica.CodeOf(err) != "USAGE" || basilica.FixOf(err) == "" {
			t.Error(args, err)
		}
	}
}

// TestAsked: of an H200 the table says what the specification asks for.
func TestAsked(t *testing.T) {
	var out bytes.Buffer
	c := cardSelftest{Model: "NVIDIA H200", Params: attest.SoftwareParams(), Fill: spread{Median: 1}, Hash: spread{Median: 1}, Copy: spread{Median: 1}}
	if err := (cudaSelftest{GPUs: []cardSelftest{c}}).print(&out); err != nil || strings.Count(out.String(), "asked: ") != 6 || !strings.Contains(out.String(), "asked: 6 s") {
		t.Error(out.String(), err)
	}
}

func TestSpread(t *testing.T) {
	if s := spreadOf([]float64{2, 1, 3, 2}); s.Median != 2 || s.Runs != 4 || s.CV < 0.408 || s.CV > 0.409 {
		t.Error(s)
	}
	if s := spreadOf([]float64{5}); s.Median != 5 || s.CV != 0 {
		t.Error(s)
	}
}
