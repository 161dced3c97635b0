package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/subtensor"
)

// ownerVerb makes a verb that a coldkey signs and that needs nothing but the subnet.
func ownerVerb(use, short, long, example string, args cobra.PositionalArgs, action func(netuid basilica.NetUID, args []string) (subtensor.Action, error)) *cobra.Command {
	var at actFlags
	cmd := withJSON(&cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: arguments(args),
		RunE: func(cmd *cobra.Command, args []string) error {
			return at.on(cmd, func(_ context.Context, chain *subtensor.Client, netuid basilica.NetUID) error {
				a, err := action(netuid, args)
				if err != nil {
					return wrongUsage(cmd, err)
				}
				payer, err := at.signColdkey()
				if err != nil {
					return err
				}
				return at.act(cmd, chain, a, payer)
			})
		},
	})
	at.register(cmd, true, false)
	return cmd
}

func subnetCreateCommand() *cobra.Command {
	var at actFlags
	cmd := withJSON(&cobra.Command{
		Use:   "create",
		Short: "Make a new subnet that belongs to the coldkey",
		Long: `Makes a subnet. Its price is locked from the coldkey's balance; it doubles with every new subnet
of the chain and falls with time. Nobody can stake on it before ` + "`basilica subnet start`" + `.`,
		Example: `  basilica subnet create --network finney --wallet owner --hotkey default --dry-run`,
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return at.on(cmd, func(_ context.Context, chain *subtensor.Client, _ basilica.NetUID) error {
				hotkey, err := at.hotkeyAddress()
				if err != nil {
					return err
				}
				payer, err := at.signColdkey()
				if err != nil {
					return err
				}
				return at.act(cmd, chain, subtensor.RegisterNetwork(hotkey), payer)
			})
		},
	})
	at.register(cmd, true, true)
	return cmd
}

func subnetStartCommand() *cobra.Command {
	return ownerVerb("start", "Let emission and staking of your new subnet begin", "", "  basilica subnet start --network finney --netuid 39 --wallet owner",
		cobra.NoArgs, func(netuid basilica.NetUID, _ []string) (subtensor.Action, error) {
			return subtensor.StartCall(netuid), nil
		})
}

func tempoCommand() *cobra.Command {
	return ownerVerb("tempo BLOCKS", "Change how many blocks an epoch of your subnet has", "", "  basilica subnet tempo 720 --network finney --netuid 39 --wallet owner",
		cobra.ExactArgs(1), func(netuid basilica.NetUID, args []string) (subtensor.Action, error) {
			n, err := strconv.ParseUint(args[0], 10, 16)
			if err != nil {
				return subtensor.Action{}, fmt.Errorf("%.20q is not a number of blocks up to 65535", args[0])
			}
			return subtensor.SetTempo(netuid, uint16(n)), nil
		})
}

func epochCommand() *cobra.Command {
	return ownerVerb("epoch", "Let your subnet have an epoch before its time", "", "  basilica subnet epoch --network finney --netuid 39 --wallet owner",
		cobra.NoArgs, func(netuid basilica.NetUID, _ []string) (subtensor.Action, error) {
			return subtensor.TriggerEpoch(netuid), nil
		})
}

func childrenCommand() *cobra.Command {
	var (
		at   actFlags
		set  []string
		none bool
	)
	cmd := withJSON(&cobra.Command{
		Use:   "children",
		Short: "Show or set to whom a hotkey hands parts of its stake's weight",
		Long: `Without --set and --clear it shows the children of a hotkey. With them it replaces all of them; the
coldkey that owns the hotkey signs, and the chain carries it out after a cooldown.`,
		Example: `  basilica subnet children --network finney --netuid 39 --hotkey 5F…
  basilica subnet children --network finney --netuid 39 --wallet main --hotkey validator --set 5G…=0.25 --set 5H…=0.5
  basilica subnet children --network finney --netuid 39 --wallet main --hotkey validator --clear`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf(cmd, "set", "clear"); err != nil {
				return err
			}
			children, err := childrenOf(set)
			if err != nil {
				return wrongUsage(cmd, err)
			}
			return at.on(cmd, func(ctx context.Context, chain *subtensor.Client, netuid basilica.NetUID) error {
				hotkey, err := at.hotkeyAddress()
				if err != nil {
					return err
				}
				if len(set) == 0 && !none {
					return showChildren(ctx, cmd, chain, netuid, hotkey)
				}
				owner, err := at.signColdkey()
				if err != nil {
					return err
				}
				return at.act(cmd, chain, subtensor.SetChildren(netuid, hotkey, children), owner)
			})
		},
	})
	at.register(cmd, true, true)
	cmd.Flags().StringArrayVar(&set, "set", nil, "a child and its share of the whole, HOTKEY=0.25; may be repeated")
	cmd.Flags().BoolVar(&none, "clear", false, "take all children away")
	return cmd
}

func childrenOf(set []string) ([]subtensor.Child, error) {
	var out []subtensor.Child
	sum := 0.0
	for _, s := range set {
		hotkey, part, _ := strings.Cut(s, "=")
		share, err := strconv.ParseFloat(part, 64)
		if err != nil || !(share > 0 && share <= 1) {
			return nil, fmt.Errorf("--set %.80q is not HOTKEY=SHARE with a share above 0 and up to 1", s)
		}
		sum += share
		out = append(out, subtensor.ChildOf(basilica.Hotkey(hotkey), share))
	}
	if sum > 1 {
		return nil, fmt.Errorf("--set: the shares sum to %g, above 1", sum)
	}
	return out, nil
}

func showChildren(ctx context.Context, cmd *cobra.Command, chain *subtensor.Client, netuid basilica.NetUID, hotkey basilica.Hotkey) error {
	now, pending, err := chain.Children(ctx, netuid, hotkey)
	if err != nil {
		return err
	}
	v := struct {
		NetUID   basilica.NetUID            `json:"netuid"`
		Hotkey   basilica.Hotkey            `json:"hotkey"`
		Children []subtensor.Child          `json:"children"`
		Pending  *subtensor.PendingChildren `json:"pending"`
	}{netuid, hotkey, now, pending}
	return show(cmd, v, func(w io.Writer) error {
		rows := newTable(w, "CHILD", "SHARE", "FROM BLOCK")
		for _, c := range now {
			rows.AppendRow(line(c.Hotkey, percent(c.Share()), "now"))
		}
		if pending != nil {
			for _, c := range pending.Children {
				rows.AppendRow(line(c.Hotkey, percent(c.Share()), pending.From))
			}
		}
		rows.Render()
		return nil
	})
}

func percent(share float64) string { return strconv.FormatFloat(100*share, 'f', 2, 64) + " %" }

func childrenText(children []subtensor.Child) string {
	if len(children) == 0 {
		return "none"
	}
	parts := make([]string, len(children))
	for i, c := range children {
		parts[i] = fmt.Sprintf("%s %s", c.Hotkey, percent(c.Share()))
	}
	return strings.Join(parts, ", ")
}

func commitmentCommand() *cobra.Command {
	var (
		at   actFlags
		file string
	)
	cmd := withJSON(&cobra.Command{
		Use:   "commitment [TEXT]",
		Short: "Show or publish a hotkey's commitment: up to 512 bytes for everybody",
		Example: `  basilica subnet commitment --network finney --netuid 39 --hotkey 5F…
  basilica subnet commitment --network finney --netuid 39 --wallet main --hotkey miner1 "https://example.org/model"`,
		Args: arguments(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return at.on(cmd, func(ctx context.Context, chain *subtensor.Client, netuid basilica.NetUID) error {
				if len(args) == 0 && file == "" {
					return showCommitment(ctx, cmd, chain, netuid, &at)
				}
				data := []byte(strings.Join(args, ""))
				if file != "" {
					var err error
					if data, err = os.ReadFile(file); err != nil {
						return wrongUsage(cmd, fmt.Errorf("--file: %w", err))
					}
				}
				hotkey, err := at.signHotkey()
				if err != nil {
					return err
				}
				return at.act(cmd, chain, subtensor.SetCommitment(netuid, data), hotkey)
			})
		},
	})
	at.register(cmd, false, true)
	cmd.Flags().StringVar(&file, "file", "", "publish what is in this file")
	return cmd
}

func showCommitment(ctx context.Context, cmd *cobra.Command, chain *subtensor.Client, netuid basilica.NetUID, at *actFlags) error {
	hotkey, err := at.hotkeyAddress()
	if err != nil {
		return err
	}
	c, err := chain.Commitment(ctx, netuid, hotkey)
	if err != nil {
		return err
	}
	v := struct {
		NetUID     basilica.NetUID       `json:"netuid"`
		Hotkey     basilica.Hotkey       `json:"hotkey"`
		Commitment *subtensor.Commitment `json:"commitment"`
	}{netuid, hotkey, c}
	return show(cmd, v, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, commitmentText(c))
		return err
	})
}

func commitmentText(c *subtensor.Commitment) string {
	if c == nil {
		return "none"
	}
	parts := make([]string, len(c.Fields))
	for i, f := range c.Fields {
		if parts[i] = fmt.Sprintf("0x%x", f); utf8.Valid(f) {
			parts[i] = basilica.OneLine(string(f))
		}
	}
	return fmt.Sprintf("%s (block %d)", strings.Join(parts, ", "), c.Block)
}
