package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"basilica"
	"basilica/node"
)

func upCommand() *cobra.Command {
	var (
		cfg   node.UpConfig
		input string
		once  bool
	)
	cmd := withJSON(&cobra.Command{
		Use:     "up",
		Example: `  basilica up --once`,
		Short:   "Start a whole network on this machine: chain, miner, machines, validator",
		Long: `Starts a development chain, a miner with two machines, and a validator, each a process of its
own, with keys, certificates and configuration of their own. Waits until the loop has closed
once: machines proven, weights on chain, incentive from them; prints what came of it, and goes
on until Ctrl-C, when it leaves nothing behind.

--once also runs one real job on a machine: it hashes a file in a container, and its output,
log and receipt are checked. Then everything ends.

The machines' GPUs are software devices: a prover on the CPU, labelled as such everywhere.
Needs Docker and a static busybox; see scripts/setup.sh.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if input != "" && !once {
				return wrongUsage(cmd, errors.New("--input is for the job of --once"))
			}
			var err error
			if cfg.Executable, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			if cfg.Attestor == "" {
				cfg.Attestor = filepath.Join(filepath.Dir(cfg.Executable), "gpu-attestor")
			}
			cfg.Cheat, cfg.DockerHost = os.Getenv("BASILICA_CHEAT"), os.Getenv("DOCKER_HOST")
			if term.IsTerminal(int(os.Stderr.Fd())) {
				cfg.Say = func(sentence string) { fmt.Fprintln(os.Stderr, sentence) }
			}
			return up(cmd, cfg, input, once)
		},
	})
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data", "", "data directory, which stays; default: a temporary one")
	f.StringVar(&cfg.RPC, "rpc", "127.0.0.1:9944", "address of the chain's JSON-RPC; port 0 takes any free port")
	f.StringVar(&cfg.Attestor, "attestor", "", "path of gpu-attestor; default: beside this program")
	f.StringVar(&input, "input", "", "file that the job of --once reads; default: random bytes")
	f.BoolVar(&once, "once", false, "run one job when the loop has closed, then end")
	return cmd
}

// up runs a network. The report is printed whatever came of it; a run that failed says why there too.
func up(cmd *cobra.Command, cfg node.UpConfig, input string, once bool) error {
	deps := node.Deps{Log: node.NewLog(os.Stderr, slog.LevelError), Now: time.Now}
	network, err := node.NewNetwork(cmd.Context(), cfg, deps)
	if err != nil {
		return err
	}
	said, err := upTo(cmd, network, input, once)
	err = errors.Join(err, network.Close())
	if said && err != nil {
		report(err, false, cmd.OutOrStdout(), cmd.ErrOrStderr()) // the object on stdout has it already
		return exit{exitFailure, nil}
	}
	return err
}

// upTo runs a started network to its end and says whether its report was printed.
func upTo(cmd *cobra.Command, network *node.Network, input string, once bool) (said bool, err error) {
	if err := network.Start(); err != nil {
		return false, interrupted(cmd.Context(), err)
	}
	r, err := network.CloseLoop()
	if r.Miner == "" {
		return false, interrupted(cmd.Context(), err)
	}
	if once && err == nil {
		err = network.RunJob(&r, input)
	}
	if shown := show(cmd, r, func(w io.Writer) error {
		if err := describeNetwork(w, r); err != nil || once {
			return err
		}
		return describeUse(w, network.Dir())
	}); shown != nil {
		return true, errors.Join(err, shown)
	}
	if err != nil || once {
		return true, err
	}
	<-network.Context().Done()
	if cmd.Context().Err() != nil {
		return true, nil
	}
	return true, context.Cause(network.Context())
}

// interrupted says of a failure whether it is a person's wish.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return basilica.E(basilica.Unavailable, "INTERRUPTED", "interrupted before the loop had closed", "").With(err)
}

func describeNetwork(w io.Writer, r node.Report) error {
	fmt.Fprintf(w, "\nsubnet %d at block %d, chain ws://%s\n", r.NetUID, r.Block, r.Addresses["localnet.rpc"])
	fmt.Fprintf(w, "miner      uid %d  %s  https://%s\n", r.MinerUID, r.Miner, r.Addresses["miner.axon"])
	fmt.Fprintf(w, "validator  uid %d  %s  http://%s\n\n", r.ValidatorUID, r.Validator, r.Addresses["validator.api"])
	verdicts := newTable(w, "EXECUTOR", "CHECK", "VERDICT", "REASON", "EVIDENCE")
	for _, v := range r.Verdicts {
		evidence := ""
		if e := v.Evidence; e != nil {
			evidence = fmt.Sprintf("class %s, %d bytes, sha256 %.16s…", e.Class, e.Size, e.SHA256)
		}
		verdicts.AppendRow(table.Row{v.Executor, v.Check, v.Verdict, v.Reason, evidence})
	}
	verdicts.Render()
	fmt.Fprintln(w)
	shares := newTable(w, "UID", "WHO", "WEIGHT", "INCENTIVE")
	for _, n := range r.Incentive {
		who := "owner (burn)"
		switch n.UID {
		case r.MinerUID:
			who = "miner"
		case r.ValidatorUID:
			who = "validator"
		}
		var weight uint16
		for _, x := range r.Weights {
			if x.UID == n.UID {
				weight = x.Value
			}
		}
		shares.AppendRow(table.Row{n.UID, who, weight, n.Value})
	}
	shares.Render()
	fmt.Fprintln(w)
	if x := r.WeightsExtrinsic; x != nil {
		fmt.Fprintf(w, "weights  extrinsic %s in block %d\n", x.Hash, x.Block)
	}
	if t := r.Task; t != nil {
		describeJob(w, t)
	}
	how := "the loop closed"
	if !r.Closed {
		how = "the loop did not close"
	}
	_, err := fmt.Fprintf(w, "time     %s after %.1f s\n", how, r.LoopSeconds)
	return err
}

// describeUse says what a person may type next, while the network runs.
func describeUse(w io.Writer, dir string) error {
	_, err := fmt.Fprintf(w, "client   basilica run --config %s --gpus 1 --allow-software IMAGE -- CMD; basilica ls --config %[1]s\nminer    basilica fleet ls --config %s\nend      Ctrl-C\n",
		filepath.Join(dir, "client.toml"), filepath.Join(dir, "miner.toml"))
	return err
}

func describeJob(w io.Writer, t *node.ReportedTask) {
	code := "none"
	if t.ExitCode != nil {
		code = fmt.Sprint(*t.ExitCode)
	}
	fmt.Fprintf(w, "job      %s %s on %s, exit code %s, receipt verified: %v\n", t.ID, t.State, t.Executor, code, t.ReceiptVerified)
	for _, o := range t.Outputs {
		fmt.Fprintf(w, "output   %s: %s\n", o.Name, strings.TrimSpace(o.Content))
	}
	fmt.Fprintf(w, "input    sha256 %s\n", t.InputSHA256)
}
