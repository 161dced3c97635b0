package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"basilica/hardware"
)

func TestDetectNamesItsWitnesses(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key.pem")
	out, err := run(t, "detect", "--json", "--key", key, "--software-gpus", "1")
	if err != nil {
		t.Fatal(err)
	}
	var d detection
	if err := json.Unmarshal([]byte(out), &d); err != nil || len(d.Witnesses) != 4 || len(d.Files) == 0 || d.MemoryBytes == 0 || len(d.GPUs) == 0 {
		t.Fatal(out, err)
	}
	for _, w := range d.Witnesses {
		if !w.Answers && w.Why == "" {
			t.Errorf("%s does not answer and does not say why", w.Name)
		}
	}
	table, err := run(t, "detect", "--key", key, "--software-gpus", "1")
	if err != nil || !strings.Contains(table, "STATE") || !strings.Contains(table, "WITNESS") || !strings.Contains(table, d.GPUs[len(d.GPUs)-1].UUID) {
		t.Fatal(table, err)
	}
}

// TestDetectWithoutKey: who wants to know what card is there needs no key, and leaves nothing behind.
func TestDetectWithoutKey(t *testing.T) {
	t.Chdir(t.TempDir())
	out, err := run(t, "detect", "--json")
	var d detection
	if err != nil || json.Unmarshal([]byte(out), &d) != nil || len(d.Witnesses) != 4 || d.SPKI != nil || d.KeyKind != "" || strings.Contains(out, "spki") {
		t.Fatal(out, err)
	}
	if out, err = run(t, "detect"); err != nil || !strings.Contains(out, "WITNESS") {
		t.Fatal(out, err)
	}
	if left, err := os.ReadDir("."); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}

// TestRememberedCards: what one detection saw is there for the next, and a damaged memory remembers nothing.
func TestRememberedCards(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.gpus")
	if err := remember(path, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a file was made for nothing")
	}
	known := []hardware.Known{{UUID: "aaaa0000-0000-4000-8000-000000000000", PCI: "0000:a1:00.0", Seen: time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)}}
	if err := remember(path, known); err != nil || !slices.Equal(recall(path), known) {
		t.Errorf("%+v, %v", recall(path), err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st, err)
	}
	if err := os.WriteFile(path, []byte("[{"), 0o600); err != nil || recall(path) != nil {
		t.Error("a damaged file is believed")
	}
	if err := remember(path, []hardware.Known{}); err != nil || len(recall(path)) != 0 {
		t.Errorf("%+v, %v", recall(path), err)
	}
}

func FuzzKnown(f *testing.F) {
	for _, s := range []string{`[{"uuid":"x","pci":"y","seen":"2026-11-26T09:00:00Z"}]`, "null", "[{", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		root := hardware.At(t.TempDir())
		d := root.Detect(hardware.Witness{}, hardware.Witness{}, parseKnown(text), time.Unix(0, 0))
		if d.Ready() != 0 {
			t.Errorf("a memory made a card ready: %+v", d.Cards)
		}
	})
}
