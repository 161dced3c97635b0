package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/node"
)

func localnetCommand() *cobra.Command {
	var (
		listen, data string
		genesis      string
		pulses       string
		blockTime    time.Duration
		netuid       uint16
		manual       bool
		cmd          *cobra.Command
	)
	cmd = roleVerb("localnet", "Run a development chain on this machine", `Speaks the JSON-RPC of a Bittensor node on one port (9944), keeps a subnet 39 with development
accounts, and makes a block every 250 ms. Its money is play money: //Alice, //Bob, //Charlie and
the others are known to everybody. With --manual it makes a block only when a client asks for one:

  curl -H 'Content-Type: application/json' http://127.0.0.1:9944 \
    -d '{"jsonrpc":"2.0","id":1,"method":"engine_createBlock","params":[true,true]}'`,
		(*commonFlags).register,
		func(ctx context.Context, cfg node.Config, deps node.Deps) (role, error) {
			given := cmd.Flags().Changed
			if given("listen") {
				cfg.Localnet.Listen = listen
			}
			if given("data") {
				cfg.Localnet.DataDir = data
			}
			if given("block-time") {
				cfg.Localnet.BlockTime = node.Duration(blockTime)
			}
			if given("netuid") {
				cfg.Localnet.NetUID = basilica.NetUID(netuid)
			}
			if given("genesis") {
				cfg.Localnet.Genesis = genesis
			}
			if given("pulses") {
				cfg.Localnet.Pulses = pulses
			}
			if given("manual") {
				cfg.Localnet.Manual = manual
			}
			return node.NewLocalnet(ctx, cfg.Localnet, deps)
		})
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "", "address for JSON-RPC; default: localnet.listen")
	f.StringVar(&data, "data", "", "directory that keeps the chain; default: localnet.data_dir, else none")
	f.DurationVar(&blockTime, "block-time", 0, "time between two blocks, 20ms to 1m; default: localnet.block_time")
	f.Uint16Var(&netuid, "netuid", 0, "number of the subnet in a new chain; default: localnet.netuid")
	f.StringVar(&genesis, "genesis", "", "TOML file with what a new chain begins with: accounts, subnets, hyperparameters, neurons, stakes; default: localnet.genesis, else one subnet")
	f.StringVar(&pulses, "pulses", "", "file with quicknet's pulses, for clients that seal weights to the public beacon; default: localnet.pulses, else a beacon of the chain's own")
	f.BoolVar(&manual, "manual", false, "make blocks only when engine_createBlock asks for them")
	return cmd
}
