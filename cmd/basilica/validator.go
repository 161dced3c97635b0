package main

import (
	"context"

	"github.com/spf13/cobra"

	"basilica/node"
)

func validatorCommand() *cobra.Command {
	return withUnit(roleVerb("validator", "Run a validator: prove machines, score, set weights", `Every round it opens the machines of every miner, runs the GPU proof and a small task on them,
stores verdicts with their evidence, and sets weights that anyone can compute again. The hotkey
must be registered, and needs a validator permit to set weights.`,
		(*commonFlags).registerChain,
		func(ctx context.Context, cfg node.Config, deps node.Deps) (role, error) {
			cfg.Validator.Chain = cfg.Chain
			return node.NewValidator(ctx, cfg.Validator, deps)
		}), func(cfg node.Config) unit { return unit{role: "validator", data: cfg.Validator.DataDir, stopSec: 60} })
}
