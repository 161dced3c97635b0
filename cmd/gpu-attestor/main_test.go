package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basilica"
	"basilica/attestor"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	t.Setenv(attestor.EnvKey, "")
	t.Setenv(attestor.EnvSoftwareGPUs, "")
	t.Setenv(attestor.EnvBinding, "")
	var out bytes.Buffer
	cmd := root()
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestVerbs(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key.pem")
	if _, err := run(t, "keygen", "--key", key); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, "detect", "--json", "--key", key, "--software-gpus", "2")
	if err != nil {
		t.Fatal(err)
	}
	var d attestor.Detection
	if err := json.Unmarshal([]byte(out), &d); err != nil || len(d.GPUs) != 2 || d.GPUs[0].UUID == d.GPUs[1].UUID {
		t.Fatal(out, err)
	}
	again, err := run(t, "detect", "--key", key, "--software-gpus", "2")
	if err != nil || !strings.Contains(again, d.GPUs[1].UUID) {
		t.Fatal("the UUIDs changed:", again, err)
	}
	out, err = run(t, "selftest", "--json")
	var r selftestReport
	if err != nil || json.Unmarshal([]byte(out), &r) != nil || !r.OK {
		t.Fatal(out, err)
	}
	out, err = run(t, "version", "--json")
	var v attestor.Version
	if err != nil || json.Unmarshal([]byte(out), &v) != nil || v.Adversary {
		t.Fatal(out, err)
	}
}

func TestRefusals(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key.pem")
	if _, err := run(t, "keygen", "--key", key); err != nil {
		t.Fatal(err)
	}
	for code, args := range map[string][]string{
		"ATTEST_KEY":        {"detect", "--software-gpus", "1"},
		"ATTEST_KEY_EXISTS": {"keygen", "--key", key},
		"SOFTWARE_GPUS":     {"detect", "--key", key, "--software-gpus", "17"},
		"ATTEST_UNBOUND":    {"prove", "--key", key},
		"NO_DEVICES":        {"prove", "--key", key, "--unbound"},
	} {
		if _, err := run(t, args...); basilica.CodeOf(err) != code || basilica.FixOf(err) == "" {
			t.Errorf("%v: %v, want %s", args, err, code)
		}
	}
}

// TestProveMakesNoKey: where the key's file is gone, no other takes its place under a proof.
func TestProveMakesNoKey(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key.pem")
	if _, err := run(t, "prove", "--key", key, "--unbound", "--software-gpus", "1"); basilica.CodeOf(err) != "ATTEST_KEY" || basilica.FixOf(err) == "" {
		t.Error(err)
	}
	if _, err := os.Lstat(key); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a key was made:", err)
	}
}

// TestProveEndsOnASignal: a prover that waits for its validator ends at once when it is told to, and gives its memory back.
func TestProveEndsOnASignal(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key.pem")
	if _, err := run(t, "keygen", "--key", key); err != nil {
		t.Fatal(err)
	}
	silent, validator, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin, stdout := os.Stdin, os.Stdout
	defer func() { os.Stdin, os.Stdout = stdin, stdout; silent.Close(); validator.Close() }()
	hello, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hello.Close()
	os.Stdin, os.Stdout = silent, out
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		defer out.Close()
		cmd := root()
		cmd.SetArgs([]string{"prove", "--key", key, "--unbound", "--software-gpus", "1"})
		ended <- cmd.ExecuteContext(ctx)
	}()
	if _, err := hello.Read(make([]byte, 1)); err != nil { // it waits for the challenge now
		t.Fatal(err, <-ended)
	}
	cancel()
	go func() { _, _ = io.Copy(io.Discard, hello) }()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestExitCodes: what is wrong on the command line ends with 2, as with basilica, and all else with 1.
func TestExitCodes(t *testing.T) {
	for _, args := range [][]string{
		{"detect", "--kye", "x"}, {"detect", "--software-gpus", "many"}, {"detect", "card"}, {"detekt"}, {"selftest", "--device", "tpu"}, {"selftest", "--runs", "0"},
	} {
		if _, err := run(t, args...); basilica.CodeOf(err) != "USAGE" || basilica.FixOf(err) == "" || exitCode(err) != 2 {
			t.Errorf("%v: %v, exit code %d", args, err, exitCode(err))
		}
	}
	if _, err := run(t, "keygen"); exitCode(err) != 1 {
		t.Error(err)
	}
	if out, err := run(t); exitCode(err) != 0 || !strings.Contains(out, "selftest") {
		t.Error(out, err)
	}
}
