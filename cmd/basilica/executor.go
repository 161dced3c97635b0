package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/node"
)

func executorCommand() *cobra.Command {
	cmd := withUnit(roleVerb("executor", "Run a machine that has joined a fleet", `Takes tasks from its miner and challenges from validators, runs containers, gives each GPU one
holder at a time. The machine must have joined: see `+"`basilica join`"+`.`,
		(*commonFlags).register,
		func(ctx context.Context, cfg node.Config, deps node.Deps) (role, error) {
			return node.NewExecutor(ctx, cfg.Executor, deps)
		}), executorUnit)
	cmd.AddCommand(rekeyCommand())
	return cmd
}

func rekeyCommand() *cobra.Command {
	var at commonFlags
	cmd := &cobra.Command{
		Use: "rekey", Short: "Replace the key that signs this machine's proofs",
		Long: `Makes a new attestation key where executor.attestation_key says (file or tpm), has the old key and the miner's hotkey sign for
it, and puts it in the old one's place. Validators take the new key for the same machine. Stop the executor first; tasks
go on where executor.keep_tasks is true.`,
		Example: "  basilica executor rekey --config executor.toml",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, deps, err := at.load(cmd)
			if err != nil {
				return err
			}
			done, err := node.Rekey(cmd.Context(), file.Executor, deps)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "executor %s signs its proofs with a new key (%s) from now on\nnow run: basilica executor\n", done.Executor, done.Kind)
			return err
		},
	}
	at.register(cmd)
	return cmd
}

// executorUnit ends in half a minute where tasks go on without their executor, and else in the time that ending and
// removing them may take.
func executorUnit(cfg node.Config) unit {
	u := unit{role: "executor", data: cfg.Executor.DataDir, mounts: true, engine: true, stopSec: 150}
	if cfg.Executor.KeepTasks {
		u.stopSec = 30
	}
	return u
}

const (
	tokenVariable = "BASILICA_JOIN_TOKEN"
	maxTokenLine  = 4096
)

func joinCommand() *cobra.Command {
	var (
		at  commonFlags
		cfg node.JoinConfig
	)
	cmd := withJSON(&cobra.Command{
		Use:     "join [TOKEN | -]",
		Example: `  basilica token create --name box-1 | ssh box-1 basilica join -`,
		Short:   "Add this machine to a miner's fleet",
		Long: `Makes this machine's keys, enrolls it with the miner that the token names, and leaves an
identity and a configuration with which ` + "`basilica executor`" + ` starts, now and after every reboot.

Everybody on the machine can read arguments: with - the token is read from standard input,
without an argument from ` + tokenVariable + `.`,
		Args: arguments(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if cfg.Token, err = joinToken(cmd, args); err != nil {
				return err
			}
			file, deps, err := at.load(cmd)
			if err != nil {
				return err
			}
			cfg.Executor = file.Executor
			joined, err := node.Join(cmd.Context(), cfg, deps)
			if err != nil {
				return err
			}
			return show(cmd, joined, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "joined miner %s as %s\nnow run: basilica executor --config %s\n", joined.Miner, joined.Executor, joined.ConfigPath)
				return err
			})
		},
	})
	at.register(cmd)
	f := cmd.Flags()
	f.StringVar(&cfg.Name, "name", "", "wished executor id; default: the miner chooses")
	f.StringVar(&cfg.Advertise, "advertise", "", "host:port at which the miner reaches this machine; default: found out")
	f.StringVar(&cfg.SSHAdvertise, "ssh-advertise", "", "host:port at which validators reach this machine; default: found out")
	f.StringVar(&cfg.ConfigPath, "write", "", "file for the executor's configuration; default: executor.toml in its data directory")
	return cmd
}

func joinToken(cmd *cobra.Command, args []string) (string, error) {
	switch {
	case len(args) == 1 && args[0] != "-":
		return args[0], nil
	case len(args) == 1:
		line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), maxTokenLine)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the token: %w", err)
		}
		return strings.TrimSpace(line), nil
	case os.Getenv(tokenVariable) != "":
		return os.Getenv(tokenVariable), nil
	}
	return "", basilica.E(basilica.Invalid, "TOKEN_MISSING", "no join token was given", "make one on the miner with `basilica token create`, then: basilica join TOKEN")
}
