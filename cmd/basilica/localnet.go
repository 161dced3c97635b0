package main

import (
	"context"

	"github.com/spf13/cobra"

	"basilica/node"
)

func localnetCommand() *cobra.Command {
	return roleVerb("localnet", "Run a development chain on this machine", `Speaks the JSON-RPC of a Bittensor node on one port (9944), keeps a subnet 39 with development
accounts, and makes a block every 250 ms. Its money is play money: //Alice, //Bob, //Charlie and
the others are known to everybody.`,
		func(ctx context.Context, cfg node.Config, deps node.Deps) (role, error) {
			return node.NewLocalnet(ctx, cfg.Localnet, deps)
		})
}
