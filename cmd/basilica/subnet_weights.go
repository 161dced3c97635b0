package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/keys"
	"basilica/subtensor"
	"basilica/yuma"
)

func weightsCommand() *cobra.Command {
	var (
		at        actFlags
		uid       int
		mechanism uint8
		version   uint64
		wait      bool
		reveal    string
	)
	cmd := withJSON(&cobra.Command{
		Use:   "weights [UID=SHARE…]",
		Short: "Show the weights of a subnet, or set your own by hand",
		Long: `Without arguments it shows the stored weights of every validator, or of --uid alone. With them it
sets the hotkey's weights: shares in any unit, the largest becomes 65535. How they go is the
subnet's choice: in the open, or as a commit that is opened later. A commit sealed to the chain's
beacon is opened by the chain itself; one behind a salt is revealed by this command, which
therefore stays until then; its salt is kept in a file until the chain has it opened, and where this
command ends before, --reveal FILE goes on. --wait stays in either case. A running validator sets
its own weights.`,
		Example: `  basilica subnet weights --network finney --netuid 39
  basilica subnet weights --network finney --netuid 39 --wallet main --hotkey validator 4=0.7 9=0.3 --dry-run
  basilica subnet weights --network finney --wallet main --hotkey validator --reveal ~/.basilica/client/commits/0x….json`,
		Args: arguments(cobra.ArbitraryArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reveal != "" {
				if len(args) > 0 || at.dryRun || uid >= 0 {
					return wrongUsage(cmd, errors.New("--reveal goes on with a commit: it takes no weights, no --uid and no --dry-run"))
				}
				return at.on(cmd, func(_ context.Context, chain *subtensor.Client, _ basilica.NetUID) error {
					return at.reveal(cmd, chain, reveal)
				})
			}
			weights, err := weightsOf(args)
			if err != nil {
				return wrongUsage(cmd, err)
			}
			return at.on(cmd, func(ctx context.Context, chain *subtensor.Client, netuid basilica.NetUID) error {
				to := subtensor.Target{NetUID: netuid, Mechanism: mechanism}
				if len(args) == 0 {
					return showWeights(ctx, cmd, chain, to, uid)
				}
				if !cmd.Flags().Changed("version-key") {
					m, err := chain.Metagraph(ctx, netuid)
					if err != nil {
						return err
					}
					version = m.WeightsVersion
				}
				hotkey, err := at.signHotkey()
				if err != nil {
					return err
				}
				return at.weigh(cmd, chain, to, hotkey, weights, version, wait)
			})
		},
	})
	at.register(cmd, false, true)
	f := cmd.Flags()
	f.IntVar(&uid, "uid", -1, "show the weights of this neuron alone")
	f.Uint8Var(&mechanism, "mechanism", 0, "mechanism of the subnet")
	f.Uint64Var(&version, "version-key", 0, "version of the weights' program; default: the one that the subnet wants")
	f.BoolVar(&wait, "wait", false, "stay until a commit has been opened")
	f.StringVar(&reveal, "reveal", "", "go on with the commit in this file, of an earlier call, and stay until it has been opened")
	return cmd
}

// weightsOf reads UID=SHARE; the largest share becomes 65535, and what rounds to 0 is left out, as official clients do it.
func weightsOf(args []string) ([]basilica.Weight, error) {
	var (
		uids   []uint16
		shares []float64
	)
	for _, a := range args {
		number, part, _ := strings.Cut(a, "=")
		uid, err := strconv.ParseUint(number, 10, 16)
		share, err2 := strconv.ParseFloat(part, 64)
		if errors.Join(err, err2) != nil || share < 0 || math.IsInf(share, 0) || math.IsNaN(share) {
			return nil, fmt.Errorf("%.40q is not UID=SHARE, e.g. 4=0.7", a)
		}
		uids, shares = append(uids, uint16(uid)), append(shares, share)
	}
	row, err := yuma.FromFloats(uids, shares)
	if err != nil {
		return nil, err
	}
	if len(args) > 0 && len(row) == 0 {
		return nil, errors.New("all shares are 0")
	}
	out := make([]basilica.Weight, len(row))
	for i, e := range row {
		out[i] = basilica.Weight{UID: basilica.UID(e.UID), Value: e.Value}
	}
	return out, nil
}

// commitOfWeights is what became of a commit.
type commitOfWeights struct {
	basilica.WeightCommit
	RevealBlock basilica.BlockNumber `json:"reveal_block"` // first that can open it
}

// weigh plans the weights as the subnet takes them, sends them, and follows a commit where it must be.
func (f *actFlags) weigh(cmd *cobra.Command, chain *subtensor.Client, to subtensor.Target, hotkey *keys.Pair, weights []basilica.Weight, version uint64, wait bool) error {
	plan, err := chain.PlanWeights(cmd.Context(), to, hotkey, weights, version)
	if err != nil {
		return err
	}
	var o *opening
	var more []subtensor.SubmitOption
	if plan.Commit != nil {
		if o, err = f.opening(cmd, chain, to, hotkey, weights, *plan.Commit); err != nil {
			return err
		}
		more = append(more, subtensor.Intend(o.keep))
	}
	v, err := f.perform(cmd, chain, plan.Action(to, weights), hotkey, more...)
	if err != nil {
		if o != nil {
			o.refused(err)
		}
		return err
	}
	if plan.Commit != nil {
		v.Commit = &commitOfWeights{*plan.Commit.Public(), plan.Reveal}
	}
	if v.Result != nil && plan.Commit != nil && (wait || plan.Commit.Kind == basilica.CommitSalt) {
		fmt.Fprintf(cmd.ErrOrStderr(), "committed in block %d; waiting for block %d, in which it can be opened\n", v.Result.Inclusion.Block, plan.Reveal)
		o.Commit.Block = v.Result.Inclusion.Block
		if err := o.wait(cmd.Context()); err != nil {
			return err
		}
		v.Commit.WeightCommit = *o.Commit.Public()
	}
	return show(cmd, v, func(w io.Writer) error {
		if v.Result == nil {
			fmt.Fprintf(w, "would send: %s\n", weightsText(weights))
			return nil
		}
		describeDone(w, *v.Result)
		if v.Commit != nil {
			describeOpened(w, v.Commit.WeightCommit)
		}
		return nil
	})
}

// weightsRow is the stored weights of one neuron.
type weightsRow struct {
	UID     basilica.UID      `json:"uid"`
	Hotkey  basilica.Hotkey   `json:"hotkey"`
	Updated uint64            `json:"updated"` // block of its last change
	Weights []basilica.Weight `json:"weights"`
}

func showWeights(ctx context.Context, cmd *cobra.Command, chain *subtensor.Client, of subtensor.Target, only int) error {
	m, err := chain.Metagraph(ctx, of.NetUID)
	if err != nil {
		return err
	}
	all := []weightsRow{}
	for _, n := range m.Neurons {
		if only >= 0 && int(n.UID) != only || only < 0 && !n.ValidatorPermit {
			continue
		}
		row, err := chain.MechanismWeights(ctx, of, n.UID)
		if err != nil {
			return err
		}
		if row == nil {
			row = []basilica.Weight{}
		}
		all = append(all, weightsRow{n.UID, n.Hotkey, uint64(n.LastUpdate), row})
	}
	return show(cmd, map[string]any{"netuid": of.NetUID, "mechanism": of.Mechanism, "rows": all}, func(w io.Writer) error {
		rows := newTable(w, "UID", "HOTKEY", "UPDATED", "TO", "WEIGHT", "SHARE")
		for _, r := range all {
			sum := 0
			for _, x := range r.Weights {
				sum += int(x.Value)
			}
			if sum == 0 {
				rows.AppendRow(line(r.UID, r.Hotkey, r.Updated, "-", "", ""))
				continue
			}
			for _, x := range r.Weights {
				rows.AppendRow(line(r.UID, r.Hotkey, r.Updated, x.UID, x.Value, percent(float64(x.Value)/float64(sum))))
			}
		}
		rows.Render()
		return nil
	})
}

func weightsText(weights []basilica.Weight) string {
	parts := make([]string, len(weights))
	for i, w := range weights {
		parts[i] = fmt.Sprintf("%d=%d", w.UID, w.Value)
	}
	return strings.Join(parts, " ")
}
