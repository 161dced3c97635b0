package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/subtensor"
)

func subnetListCommand() *cobra.Command {
	var at chainFlags
	cmd := withJSON(&cobra.Command{
		Use:     "list",
		Short:   "List the chain's subnets",
		Example: "  basilica subnet list --network finney\n  basilica subnet list --network local --json",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return at.on(cmd, func(ctx context.Context, chain *subtensor.Client, _ basilica.NetUID) error {
				subnets, err := chain.Subnets(ctx)
				if err != nil {
					return err
				}
				return show(cmd, map[string]any{"subnets": subnets}, func(w io.Writer) error {
					rows := newTable(w, "NETUID", "NAME", "SYMBOL", "PRICE", "POOL TAO", "NEURONS", "BURN", "TEMPO", "COMMIT-REVEAL", "OPEN")
					for _, s := range subnets {
						rows.AppendRow(line(s.NetUID, s.Name, s.Symbol, price(s.Price), s.TAO.TAO(), fmt.Sprintf("%d of %d", s.Neurons, s.MaxNeurons),
							s.Burn.TAO(), s.Tempo, yesNo(s.CommitReveal), yesNo(s.Registration)))
					}
					rows.Render()
					return nil
				})
			})
		},
	})
	at.register(cmd)
	return cmd
}

func price(p *basilica.Rao) string {
	if p == nil {
		return "-"
	}
	return p.TAO()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func subnetShowCommand() *cobra.Command {
	var at chainFlags
	cmd := withJSON(&cobra.Command{
		Use:     "show",
		Short:   "Show one subnet: owner, price of a place, pool",
		Example: "  basilica subnet show --network finney --netuid 39",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return at.on(cmd, func(ctx context.Context, chain *subtensor.Client, netuid basilica.NetUID) error {
				s, err := chain.Subnet(ctx, netuid)
				if err != nil {
					return err
				}
				return show(cmd, s, func(w io.Writer) error {
					rows := newTable(w, "SUBNET", fmt.Sprint(s.NetUID))
					for _, r := range [][2]string{
						{"name", s.Name},
						{"symbol", s.Symbol},
						{"owner", string(s.Owner)},
						{"owner's hotkey", string(s.OwnerHotkey)},
						{"neurons", fmt.Sprintf("%d of %d", s.Neurons, s.MaxNeurons)},
						{"registration", s.Burn.TAO() + " TAO, open: " + yesNo(s.Registration)},
						{"epoch", fmt.Sprintf("%d blocks", s.Tempo)},
						{"weights by commit", yesNo(s.CommitReveal)},
						{"price of alpha", price(s.Price) + " TAO"},
						{"pool", s.TAO.TAO() + " TAO, " + s.AlphaIn.TAO() + " alpha"},
						{"staked alpha", s.AlphaOut.TAO()},
						{"started", yesNo(s.Staking)},
						{"since block", fmt.Sprint(s.RegisteredAt)},
					} {
						rows.AppendRow(line(r[0], r[1]))
					}
					rows.Render()
					return nil
				})
			})
		},
	})
	at.register(cmd)
	return cmd
}

func metagraphCommand() *cobra.Command {
	var at chainFlags
	cmd := withJSON(&cobra.Command{
		Use:     "metagraph",
		Short:   "List the neurons of a subnet",
		Example: "  basilica subnet metagraph --network finney --netuid 39\n  basilica subnet metagraph --network local --netuid 39 --json",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return at.on(cmd, func(ctx context.Context, chain *subtensor.Client, netuid basilica.NetUID) error {
				m, err := chain.Metagraph(ctx, netuid)
				if basilica.KindOf(err) == basilica.Unavailable {
					last, read, none := chain.LastMetagraph(netuid)
					if none != nil {
						return err
					}
					fmt.Fprintf(cmd.ErrOrStderr(), "%v\nThis is what was read %s ago:\n", err, time.Since(read).Round(time.Second))
					m, err = last, nil
				}
				if err != nil {
					return err
				}
				return show(cmd, m, func(w io.Writer) error {
					fmt.Fprintf(w, "subnet %d at block %d, %d neurons, epochs of %d blocks\n\n", m.NetUID, m.Block, len(m.Neurons), m.Tempo)
					rows := newTable(w, "UID", "HOTKEY", "STAKE", "PERMIT", "INCENTIVE", "DIVIDENDS", "UPDATED", "AXON")
					for _, n := range m.Neurons {
						rows.AppendRow(line(n.UID, n.Hotkey, n.Stake.TAO(), yesNo(n.ValidatorPermit), share(n.Incentive), share(n.Dividends), n.LastUpdate, axonText(n.Axon)))
					}
					rows.Render()
					return nil
				})
			})
		},
	})
	at.register(cmd)
	return cmd
}

// share is a part of 65535 as a decimal.
func share(v uint16) string { return strconv.FormatFloat(float64(v)/65535, 'f', 4, 64) }

func axonText(a basilica.Axon) string {
	if !a.Addr.IsValid() {
		return "-"
	}
	if a.TLSKey != nil {
		return a.Addr.String() + " TLS"
	}
	return a.Addr.String()
}

func hyperparametersCommand() *cobra.Command {
	var at chainFlags
	cmd := withJSON(&cobra.Command{
		Use:     "hyperparameters",
		Short:   "List the rules of a subnet, as the chain names them",
		Example: "  basilica subnet hyperparameters --network finney --netuid 39",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return at.on(cmd, func(ctx context.Context, chain *subtensor.Client, netuid basilica.NetUID) error {
				rules, err := chain.Hyperparameters(ctx, netuid)
				if err != nil {
					return err
				}
				return show(cmd, map[string]any{"netuid": netuid, "hyperparameters": rules}, func(w io.Writer) error {
					rows := newTable(w, "HYPERPARAMETER", "VALUE")
					for _, r := range rules {
						rows.AppendRow(line(r.Name, r.Value))
					}
					rows.Render()
					return nil
				})
			})
		},
	})
	at.register(cmd)
	return cmd
}
