package main

import (
	"context"

	"github.com/spf13/cobra"

	"basilica/node"
)

func minerCommand() *cobra.Command {
	return withUnit(roleVerb("miner", "Run a miner: its fleet, its tasks, its public door", `Publishes the axon's address and TLS key on chain, takes executors into the fleet by join token,
places clients' tasks on them, and gives validators with a permit access to prove them. The
hotkey must be registered: see `+"`basilica subnet register`"+`.`,
		(*commonFlags).registerChain,
		func(ctx context.Context, cfg node.Config, deps node.Deps) (role, error) {
			cfg.Miner.Chain = cfg.Chain
			return node.NewMiner(ctx, cfg.Miner, deps)
		}), func(cfg node.Config) unit { return unit{role: "miner", data: cfg.Miner.DataDir, stopSec: 30} })
}
