package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"basilica/node"
)

func minerCommand() *cobra.Command {
	cmd := withUnit(roleVerb("miner", "Run a miner: its fleet, its tasks, its public door", `Publishes the axon's address and TLS key on chain, takes executors into the fleet by join token,
places clients' tasks on them, and gives validators with a permit access to prove them. The
hotkey must be registered: see `+"`basilica subnet register`"+`.`,
		(*commonFlags).registerChain,
		func(ctx context.Context, cfg node.Config, deps node.Deps) (role, error) {
			cfg.Miner.Chain = cfg.Chain
			return node.NewMiner(ctx, cfg.Miner, deps)
		}), func(cfg node.Config) unit { return unit{role: "miner", data: cfg.Miner.DataDir, stopSec: 30} })
	cmd.AddCommand(axonRekeyCommand())
	return cmd
}

func axonRekeyCommand() *cobra.Command {
	var (
		at   adminFlags
		wait bool
	)
	cmd := withJSON(&cobra.Command{
		Use: "rekey", Short: "Replace the TLS key of the miner's axon; nothing drops",
		Long: `Makes a new TLS key for the running miner's axon and publishes it on chain, as soon as the chain takes
it. The axon holds the former key beside it until the next replacement: clients and validators find the key that they
read from the chain, old or new. Use it again to see where it stands: no further key is made before the chain shows
this one.`,
		Example: "  basilica miner rekey --wait --config miner.toml",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			v, err := c.RekeyAxon(cmd.Context())
			if err != nil {
				return err
			}
			if wait && !v.Published {
				err = until(cmd.Context(), func() (bool, error) {
					v, err = c.AxonKey(cmd.Context())
					return v.Published, err
				})
				if err != nil {
					return err
				}
			}
			return show(cmd, v, func(w io.Writer) error {
				state := "the chain does not show it yet"
				if v.Published {
					state = "the chain shows it"
				}
				_, err := fmt.Fprintf(w, "axon key %s\n%s; the former key stays valid beside it\n", v.Key, state)
				return err
			})
		},
	})
	at.register(cmd)
	cmd.Flags().BoolVar(&wait, "wait", false, "end when the chain shows the new key")
	return cmd
}
