package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/internal/crashpoint"
	"basilica/node"
)

// role is a wired role, as node makes it.
type role interface {
	Run(ctx context.Context) error
	Close() error
}

// roleVerb runs a role until a signal ends it. register is (*commonFlags).registerChain for a role that speaks to a
// chain's node, (*commonFlags).register for another.
func roleVerb(name, short, long string, register func(*commonFlags, *cobra.Command), open func(context.Context, node.Config, node.Deps) (role, error)) *cobra.Command {
	var at commonFlags
	cmd := &cobra.Command{
		Use:     name,
		Example: "  basilica " + name + " --config " + name + ".toml",
		Short:   short,
		Long:    long,
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			reporter, err := node.NewReporter(name)
			if err != nil {
				return err
			}
			err = runRole(cmd, &at, name, reporter, open)
			reporter.Fail(err)
			if basilica.CodeOf(err) == "EXECUTOR_REVOKED" {
				return exit{exitRevoked, err}
			}
			return err
		},
	}
	register(&at, cmd)
	return cmd
}

func runRole(cmd *cobra.Command, at *commonFlags, name string, reporter *node.Reporter, open func(context.Context, node.Config, node.Deps) (role, error)) error {
	cfg, deps, err := at.load(cmd)
	if err != nil {
		return err
	}
	crashpoint.Listen()
	deps.Log = deps.Log.With("role", name)
	slog.SetDefault(deps.Log) // what net/http says of a panic comes through here
	deps.Ready = func(addrs map[string]string) {
		deps.Log.Info("ready", "version", node.Version(), "addrs", addrs)
		reporter.Ready(addrs)
	}
	r, err := open(cmd.Context(), cfg, deps)
	if err != nil {
		return err
	}
	err = errors.Join(r.Run(cmd.Context()), r.Close())
	if err == nil {
		deps.Log.Info("ended in good order")
	}
	return err
}
