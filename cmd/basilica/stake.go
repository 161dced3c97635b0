package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/subtensor"
)

func stakeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "stake", Short: "Stake, unstake, and list what is staked", Args: arguments(cobra.NoArgs)}
	cmd.AddCommand(stakeListCommand(), stakeChangeCommand(true), stakeChangeCommand(false))
	return cmd
}

func stakeListCommand() *cobra.Command {
	var (
		at    chainFlags
		names keyFlags
	)
	cmd := withJSON(&cobra.Command{
		Use:   "list",
		Short: "List what a coldkey has staked, and its balance",
		Example: `  basilica subnet stake list --network finney --wallet main
  basilica subnet stake list --network finney --coldkey 5F… --json`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			coldkey, err := names.coldkeyAddress()
			if err != nil {
				return err
			}
			return at.on(cmd, func(ctx context.Context, chain *subtensor.Client, _ basilica.NetUID) error {
				stakes, balance, err := chain.Stakes(ctx, coldkey)
				if err != nil {
					return err
				}
				v := struct {
					Coldkey basilica.Coldkey  `json:"coldkey"`
					Balance basilica.Rao      `json:"balance"`
					Stakes  []subtensor.Stake `json:"stakes"`
				}{coldkey, balance, stakes}
				return show(cmd, v, func(w io.Writer) error {
					fmt.Fprintf(w, "%s has %s TAO free\n\n", coldkey, balance.TAO())
					rows := newTable(w, "NETUID", "HOTKEY", "ALPHA", "PRICE", "TAO", "REGISTERED")
					for _, s := range stakes {
						rows.AppendRow(line(s.NetUID, s.Hotkey, s.Alpha.TAO(), price(s.Price), price(s.TAO), yesNo(s.Registered)))
					}
					rows.Render()
					return nil
				})
			})
		},
	})
	at.register(cmd)
	names.register(cmd, true, false)
	return cmd
}

// limitFlags cap the price at which stake is changed.
type limitFlags struct {
	tolerance string
	limit     string
	partial   bool
	unlimited bool
}

func (f *limitFlags) register(cmd *cobra.Command, add bool) {
	fs := cmd.Flags()
	most := map[bool]string{true: "highest", false: "lowest"}[add]
	fs.StringVar(&f.tolerance, "tolerance", "5%", "by how much the price of alpha may be worse than it is now")
	fs.StringVar(&f.limit, "limit", "", most+" price in TAO for one alpha, instead of --tolerance")
	fs.BoolVar(&f.partial, "allow-partial", false, "do as much as the limit allows; without it all is done or nothing")
	fs.BoolVar(&f.unlimited, "no-limit", false, "take any price")
}

// read gives the limit; nil where there is none.
func (f *limitFlags) read(ctx context.Context, cmd *cobra.Command, chain *subtensor.Client, netuid basilica.NetUID, add bool) (*subtensor.Limit, error) {
	switch {
	case f.unlimited:
		return nil, nil
	case f.limit != "":
		price, err := parseTAO(f.limit)
		if err != nil {
			return nil, wrongUsage(cmd, fmt.Errorf("--limit: %w", err))
		}
		return &subtensor.Limit{Price: price, Partial: f.partial}, nil
	}
	share, err := strconv.ParseFloat(strings.TrimSuffix(f.tolerance, "%"), 64)
	if err != nil || !(share >= 0 && share < 100) || !strings.HasSuffix(f.tolerance, "%") {
		return nil, wrongUsage(cmd, fmt.Errorf("--tolerance %.20q is not a part such as 5%%, under 100%%", f.tolerance))
	}
	now, err := chain.AlphaPrice(ctx, netuid)
	if err != nil {
		return nil, err
	}
	if !add {
		share = -share
	}
	return &subtensor.Limit{Price: basilica.Rao(float64(now) * (1 + share/100)), Partial: f.partial}, nil
}

func stakeChangeCommand(add bool) *cobra.Command {
	var (
		at     actFlags
		limits limitFlags
	)
	cmd := &cobra.Command{
		Use:   "add TAO",
		Short: "Stake TAO on a hotkey, at a price of at most so much",
		Long: `Turns TAO of the coldkey into alpha of the subnet, staked on the hotkey. The price of alpha moves
with every stake: where it would rise above the limit, the chain refuses. Needed for a validator's
permit, which goes to the hotkeys with the most stake.`,
		Example: `  basilica subnet stake add 100 --network finney --netuid 39 --wallet main --hotkey validator --dry-run
  basilica subnet stake add 100 --network finney --netuid 39 --wallet main --hotkey validator --tolerance 1% --shield`,
	}
	if !add {
		cmd.Use, cmd.Short = "remove ALPHA|all", "Take stake back as TAO, at a price of at least so much"
		cmd.Long = `Turns alpha of the subnet back into TAO of the coldkey. Where the price would fall under the limit,
the chain refuses.`
		cmd.Example = `  basilica subnet stake remove all --network finney --netuid 39 --wallet main --hotkey validator --dry-run`
	}
	cmd.Args = arguments(cobra.ExactArgs(1))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := cmp.Or(oneOf(cmd, "tolerance", "limit", "no-limit"), oneOf(cmd, "allow-partial", "no-limit")); err != nil {
			return err
		}
		all := !add && args[0] == "all"
		var amount basilica.Rao
		if !all {
			var err error
			if amount, err = parseTAO(args[0]); err != nil {
				return wrongUsage(cmd, err)
			}
		}
		return at.on(cmd, func(ctx context.Context, chain *subtensor.Client, netuid basilica.NetUID) error {
			hotkey, err := at.hotkeyAddress()
			if err != nil {
				return err
			}
			limit, err := limits.read(ctx, cmd, chain, netuid, add)
			if err != nil {
				return err
			}
			payer, err := at.signColdkey()
			if err != nil {
				return err
			}
			if all {
				if amount, err = chain.StakeOf(ctx, netuid, hotkey, basilica.Coldkey(payer.SS58())); err != nil {
					return err
				}
			}
			return at.act(cmd, chain, stakeAction(netuid, hotkey, amount, add, limit), payer)
		})
	}
	at.register(cmd, true, true)
	limits.register(cmd, add)
	return withJSON(cmd)
}

func stakeAction(netuid basilica.NetUID, hotkey basilica.Hotkey, amount basilica.Rao, add bool, limit *subtensor.Limit) subtensor.Action {
	switch {
	case add && limit != nil:
		return subtensor.AddStakeLimit(netuid, hotkey, amount, *limit)
	case add:
		return subtensor.AddStake(netuid, hotkey, amount)
	case limit != nil:
		return subtensor.RemoveStakeLimit(netuid, hotkey, amount, *limit)
	}
	return subtensor.RemoveStake(netuid, hotkey, amount)
}
