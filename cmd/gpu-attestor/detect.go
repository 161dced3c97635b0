package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/attestor"
	"basilica/hardware"
)

// detection is what `gpu-attestor detect --json` prints: what the executor reads, and how it came about.
type detection struct {
	attestor.Detection
	Cards     []hardware.Card    `json:"cards"`
	Witnesses []hardware.Witness `json:"witnesses"`
	Files     []hardware.File    `json:"files"` // where each file that was read comes from
}

func detectCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "detect", Short: "Name the devices of this machine", Args: cobra.NoArgs,
		Long: `Name the devices of this machine. The GPUs are what four witnesses say: the CUDA driver, NVML, the PCI bus and the
kernel driver. What they disagree on is a finding; nothing of it is a proof. Without --key no attestation key is named, and
cards that were lost since the last look are not remembered.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := o.detect(cmd.Context(), hardware.At(system))
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), d)
			}
			return d.table(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func (o *options) detect(ctx context.Context, root hardware.Root) (d detection, err error) {
	n, err := o.softwareGPUs()
	if err != nil {
		return detection{}, err
	}
	var software []attestor.Device
	if o.key != "" || n > 0 { // a look at the cards needs no key; software devices have their names from it
		key, err := o.firstKey()
		if err != nil {
			return detection{}, err
		}
		if software, err = softwareDevices(key.SPKI(), n, attestor.Workers(o.parallel)); err != nil {
			return detection{}, err
		}
		d.SPKI, d.KeyKind = key.SPKI(), kindOf(key)
	}
	facts, err := root.Facts(ctx, filepath.Dir(o.key))
	if err != nil {
		return detection{}, err
	}
	d.GPUs, d.MemoryBytes = []basilica.GPU{}, uint64(facts.MemoryBytes)
	var mem syscall.Sysinfo_t
	if err := syscall.Sysinfo(&mem); err != nil {
		return detection{}, fmt.Errorf("read memory size: %w", err)
	}
	d.MemoryFreeBytes = mem.Freeram * uint64(mem.Unit)
	if d.MemoryBytes > 0 {
		d.MemoryFreeBytes = min(d.MemoryFreeBytes, d.MemoryBytes)
	}
	cuda, nvml := witnesses()
	var known []hardware.Known
	memory := o.key + ".gpus"
	if o.key != "" {
		known = recall(memory)
	}
	seen := root.Detect(cuda, nvml, known, time.Now())
	if o.key != "" {
		if err := remember(memory, seen.Known); err != nil {
			return detection{}, err
		}
	}
	d.Cards, d.Witnesses, d.Files, d.Findings = seen.Cards, seen.Witnesses, seen.Files, seen.Findings
	for _, c := range seen.Cards {
		if c.State == hardware.CardReady {
			d.GPUs = append(d.GPUs, basilica.GPU{
				Index: len(d.GPUs), Kind: basilica.GPUWhole, UUID: c.UUID, Model: c.Model, MemoryBytes: c.MemoryBytes, PCI: c.PCI, Driver: nvml.Version, Unified: c.Unified,
			})
		}
	}
	switch {
	case len(d.Cards) == 0:
		d.Notes = append(d.Notes, "no GPU was found: this machine has none that can be proven")
	case seen.Ready() == 0:
		d.Notes = append(d.Notes, "none of this machine's GPUs can be proven: the findings say why")
	}
	for _, dev := range software {
		info := dev.Info()
		d.GPUs = append(d.GPUs, basilica.GPU{Index: len(d.GPUs), Kind: basilica.GPUSoftware, UUID: info.UUID.String(), Model: info.Name, MemoryBytes: &info.VRAMBytes})
	}
	if n > 0 {
		d.Notes = append(d.Notes, fmt.Sprintf("%d software devices: CPU provers for tests, labelled software in all evidence", n))
	}
	return d, nil
}

// maxMemory bounds the file that remembers cards, in bytes.
const maxMemory = 64 << 10

// recall reads the cards that the last detection saw, so that one that is lost since then keeps its name. A file that is
// missing or no memory of ours remembers nothing.
func recall(path string) []hardware.Known {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxMemory))
	if err != nil {
		return nil
	}
	return parseKnown(text)
}

func parseKnown(text []byte) []hardware.Known {
	var known []hardware.Known
	if json.Unmarshal(text, &known) != nil {
		return nil
	}
	return known
}

// remember replaces the file; where there is nothing to remember it makes none.
func remember(path string, known []hardware.Known) error {
	if _, err := os.Stat(path); len(known) == 0 && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	text, err := json.Marshal(known)
	if err != nil {
		return fmt.Errorf("remember the GPUs: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("remember the GPUs: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("remember the GPUs: %w", err), os.Remove(f.Name()))
	}
	return nil
}

func mib(bytes *uint64) string {
	if bytes == nil {
		return "unknown"
	}
	return fmt.Sprintf("%d MiB", *bytes>>20)
}

// dash shows what is absent.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return basilica.OneLine(s)
}

// table prints the detection for people.
func (d detection) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STATE\tVENDOR\tADDRESS\tUUID\tMODEL\tMEMORY\tWITNESSES")
	for _, c := range d.Cards {
		memory := mib(c.MemoryBytes)
		if c.Unified {
			memory += " unified"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.State, c.Vendor, dash(c.PCI), dash(c.UUID), dash(c.Model), memory, dash(strings.Join(c.Witnesses, ",")))
	}
	for _, g := range d.GPUs {
		if g.Kind == basilica.GPUSoftware {
			fmt.Fprintf(w, "ready\tsoftware\t-\t%s\t%s\t%s\t-\n", g.UUID, g.Model, mib(g.MemoryBytes))
		}
	}
	fmt.Fprintln(w, "\nWITNESS\tCARDS\tDRIVER\t")
	for _, x := range d.Witnesses {
		count := "does not answer: " + x.Why
		if x.Answers {
			count = fmt.Sprint(x.Count)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t\n", x.Name, count, dash(x.Version))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	foreign := 0
	for _, f := range d.Files {
		if !f.OK {
			foreign++
		}
	}
	fmt.Fprintf(out, "\nfiles read for it: %d, %d of them from where they should not be (--json names them)\n", len(d.Files), foreign)
	fmt.Fprintf(out, "memory %d MiB, %d MiB unused\n", d.MemoryBytes>>20, d.MemoryFreeBytes>>20)
	for _, f := range d.Findings {
		fmt.Fprintf(out, "%s: %s\nFix: %s\n", f.Code, f.Sentence, f.Fix)
	}
	for _, n := range d.Notes {
		fmt.Fprintln(out, n)
	}
	return nil
}
