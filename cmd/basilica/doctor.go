package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/node"
)

func doctorCommand() *cobra.Command {
	var (
		at         commonFlags
		full, busy bool
		support    string
	)
	cmd := withJSON(&cobra.Command{
		Use:     "doctor [executor | miner]",
		Example: "  basilica doctor\n  basilica doctor --full --support support.json",
		Short:   "Find what a validator, or a miner, would find wrong with this machine",
		Long: `On an executor's machine it runs a validator's own checks before a validator does: which GPUs are
there and whether their witnesses agree, the arithmetic, a GPU proof that is judged here as a validator
judges it (at reduced size, or with --full at full size), the container engine and its NVIDIA toolkit,
kernel, memory, disk, keys and certificate; and it asks the miner whether it reaches this machine's
doors where they were announced, and what its clock says. On a miner's box it looks at the published
address. Without an argument the configuration's sections say which of the two this machine is.

It works before the machine has joined, and beside a running executor. GPUs that somebody holds are
left alone without --busy; while they are proven here, the machine's ledger says so to others.

Exit codes: 0 every check passed; 1 one failed, or could not be done.`,
		Args:      arguments(cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs)),
		ValidArgs: []cobra.Completion{"executor", "miner"},
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, deps, err := doctorConfig(cmd, &at, args)
		if err != nil {
			return err
		}
		cfg.Full, cfg.Busy = full, busy
		progress := checksOf(cmd.ErrOrStderr())
		cfg.Began = progress.began
		d := node.Examine(cmd.Context(), cfg, deps)
		progress.over()
		if support != "" {
			if err := writeSupport(support, cfg, d); err != nil {
				return err
			}
		}
		if err := show(cmd, d, func(w io.Writer) error { return printDiagnosis(w, d, support) }); err != nil {
			return err
		}
		if !d.OK {
			return exit{code: exitFailure}
		}
		return nil
	}
	at.register(cmd)
	cmd.Flags().Lookup("log-level").DefValue = "error"
	at.logLevel = "error"
	f := cmd.Flags()
	f.BoolVar(&full, "full", false, "prove the GPUs at full size, with all of their memory")
	f.BoolVar(&busy, "busy", false, "prove the GPUs although somebody holds them: what runs on them may suffer")
	f.StringVar(&support, "support", "", "write findings, facts and settings without secrets into this new file, for whoever helps")
	return cmd
}

// doctorConfig finds the role and its configuration. A file that cannot be read is the examination's first finding, so it is no
// error here.
func doctorConfig(cmd *cobra.Command, at *commonFlags, args []string) (node.DoctorConfig, node.Deps, error) {
	if at.config == "" {
		at.config = joinedConfig()
	}
	cfg, deps, err := at.load(cmd)
	var usage exit
	if errors.As(err, &usage) {
		return node.DoctorConfig{}, deps, err
	}
	if err != nil {
		deps = node.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now}
	}
	role := "executor"
	// A file without sections that can be told is an executor's until the examination says what is wrong with it.
	if sections, serr := node.Sections(at.config); serr == nil && slices.Contains(sections, "miner") && !slices.Contains(sections, "executor") {
		role = "miner"
	}
	if len(args) > 0 {
		role = args[0]
	}
	return node.DoctorConfig{Role: role, Path: at.config, Config: cfg, Unreadable: err}, deps, nil
}

// joinedConfig is the file that `basilica join` leaves where nothing else was said; "" where there is none.
func joinedConfig() string {
	dir, err := node.DataDir(node.DefaultExecutorConfig().DataDir)
	if err != nil {
		return ""
	}
	path := filepath.Join(dir, "executor.toml")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// checks shows on a terminal what is being looked at; in a pipe nothing is said.
type checks struct{ out io.Writer }

func checksOf(stderr io.Writer) checks {
	if s, ok := stderr.(*screen); ok {
		return checks{s.f}
	}
	return checks{io.Discard}
}

// The terminal may be gone; the examination goes on.
func (c checks) began(check string) {
	_, _ = fmt.Fprintf(c.out, "\r\x1b[Klooking at %s …", basilica.OneLine(check))
}
func (c checks) over() { _, _ = io.WriteString(c.out, "\r\x1b[K") }

// printDiagnosis is the table, and under it what is to be done.
func printDiagnosis(w io.Writer, d node.Diagnosis, support string) error {
	rows := newTable(w, "CHECK", "RESULT", "FOUND", "NEEDED")
	words := map[node.CheckState]string{node.CheckPassed: "ok", node.CheckFailed: "FAIL", node.CheckNotDone: "not checked"}
	count := map[node.CheckState]int{}
	for _, f := range d.Findings {
		count[f.State]++
		rows.AppendRow(line(f.Check, words[f.State], f.Found, f.Needed))
	}
	rows.Render()
	for _, f := range d.Findings {
		if f.State == node.CheckFailed {
			if _, err := fmt.Fprintf(w, "\n%s: %s [%s]\n  Fix: %s\n", f.Check, f.Found, f.Code, f.Fix); err != nil {
				return err
			}
		}
	}
	verdict := "every check passed"
	if !d.OK {
		verdict = "not all would pass"
	}
	_, err := fmt.Fprintf(w, "\n%s: %d ok, %d failed, %d not checked\n", verdict, count[node.CheckPassed], count[node.CheckFailed], count[node.CheckNotDone])
	if support != "" && err == nil {
		_, err = fmt.Fprintf(w, "written without secrets: %s\n", support)
	}
	return err
}

func writeSupport(path string, cfg node.DoctorConfig, d node.Diagnosis) error {
	text, err := node.Support(cfg, d, os.Environ())
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return basilica.E(basilica.Conflict, "FILE_EXISTS", path+" exists already", "give --support the name of a new file")
	}
	if err == nil {
		_, err = f.Write(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return basilica.E(basilica.Invalid, "FILE_UNWRITTEN", "the file "+path+" cannot be written", "name a file in a directory that this user may write").With(err)
	}
	return nil
}
