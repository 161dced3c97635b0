package attestor

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"basilica"
	"basilica/attest"
	"basilica/internal/fakecuda"
)

// interpreter says whether a program needs the system's loader.
func interpreter(t *testing.T, path string) bool {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return true
		}
	}
	return false
}

// TestChildOnGPUs: the real program proves both cards behind a driver's library through one barrier, tells of failing ones what they
// failed at, and without a driver, or built without one, says so.
func TestChildOnGPUs(t *testing.T) {
	library, dir, machine := fakecuda.Build(t), t.TempDir(), t.TempDir()
	program := build(t, "", "-X main.system="+machine)
	bus := filepath.Join(machine, "sys/bus/pci/devices")
	for _, at := range []string{"0000:3b:00.0", "0000:3c:00.0"} { // where the fake driver has its first two cards
		for name, text := range map[string]string{"class": "0x030200\n", "vendor": "0x10de\n", "device": "0x2330\n"} {
			err := os.MkdirAll(filepath.Join(bus, at), 0o755)
			if err == nil {
				err = os.WriteFile(filepath.Join(bus, at, name), []byte(text), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if !interpreter(t, program) {
		t.Error("gpu-attestor is static: it cannot load a driver")
	}
	if said, err := exec.Command(program, "keygen", "--key", filepath.Join(dir, "key.pem")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	// behind gives a child that finds the driver's library, with these words for it.
	behind := func(words string) Child {
		path := filepath.Join(dir, strings.NewReplacer(":", "-", "=", "-", ",", "-").Replace("attestor "+words))
		script := fmt.Sprintf("#!/bin/sh\n%s='%s' LD_LIBRARY_PATH='%s' exec '%s' \"$@\"\n", fakecuda.Env, words, library, program)
		if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		return Child{Path: path, Key: filepath.Join(dir, "key.pem"), Log: quiet()}
	}
	p := attest.Params{N: 128, Layers: 16, Lanes: 1024, Steps: 8, Batches: 8, WinLayers: 5, Cells: 512, Rounds: 16}
	run := func(c Child) *attest.Record {
		ours, theirs := loopback(t)
		done := make(chan error, 1)
		go func() { done <- c.Serve(t.Context(), theirs, binding) }()
		s := setup(t, binding)
		s.Policy.AllowSoftware = false
		s.Profiles = attest.Profiles{{Model: "Fake CUDA device", Params: &p, Expect: attest.Expect{Fill: 60, Walk: 60, Mix: 60}}}
		r := validate(t, ours, s)
		if err := <-done; err != nil && !strings.Contains(err.Error(), "exit status 1") && !errors.Is(err, ErrLeft) {
			t.Fatal(err)
		}
		return r
	}
	if j := run(behind("devices=2,memory=16777216")).Judgement; j.Result != attest.Pass && j.Result != attest.PassOther || !j.Signed || len(j.GPUs) != 2 || j.GPUs[0].UUID == j.GPUs[1].UUID || j.GPUs[0].Software {
		t.Errorf("%+v", j)
	}
	if j := run(behind("devices=2,memory=16777216,fail=cuLaunchKernel:25:719")).Judgement; j.Reason != "ABORTED_4" || !strings.Contains(j.Detail, "CUDA_ERROR_LAUNCH_FAILED") {
		t.Errorf("a card lost in the middle: %+v", j)
	}
	if j := run(behind("devices=2,memory=16777216,held=16700000")).Judgement; j.Reason != "ABORTED_3" {
		t.Errorf("memory held by others: %+v", j)
	}
	// A card that the libraries invent is left out; where no other is left, prove says why, as detect does.
	if j := run(behind("devices=3,memory=16777216")).Judgement; len(j.GPUs) != 2 || j.Reason == "" {
		t.Errorf("a third card that is not on the bus: %+v", j)
	}
	prove := []string{"prove", "--unbound", "--key", filepath.Join(dir, "key.pem")}
	if out := says(t, behind("mig=1").Path, prove...); !strings.Contains(out, "[GPU_MIG]") || !strings.Contains(out, "\nFix: ") {
		t.Error(out)
	}
	if err := os.RemoveAll(bus); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(bus, 0o755); err != nil {
		t.Fatal(err)
	}
	if out := says(t, behind("memory=16777216").Path, prove...); !strings.Contains(out, "[GPU_NOT_ON_BUS]") || !strings.Contains(out, "\nFix: ") {
		t.Error(out)
	}
	if d, err := (Child{Path: program, Log: quiet()}).Detect(t.Context()); basilica.CodeOf(err) != "ATTESTOR_FAILED" {
		t.Errorf("a detection without an attestation key: %+v, %v", d, err)
	}
	static := build(t, "nocuda")
	if interpreter(t, static) {
		t.Error("the build with the tag nocuda is not static")
	}
	if out := says(t, static, "selftest", "--device", "cuda"); !strings.Contains(out, "[CUDA_UNBUILT]") || !strings.Contains(out, "\nFix: ") {
		t.Error(out)
	}
	if out := says(t, behind("devices=0").Path, "selftest", "--device", "cuda"); !strings.Contains(out, "[CUDA_NO_DEVICE]") || !strings.Contains(out, "\nFix: ") {
		t.Error(out)
	}
}

// says runs a program that must fail and gives what it writes to stderr.
func says(t *testing.T, path string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Run(); err == nil {
		t.Error(path, args, "does not fail")
	}
	return stderr.String()
}
