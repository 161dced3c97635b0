package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"basilica"
	"basilica/admin"
	"basilica/node"
)

// adminFlags are those of every verb that speaks to the miner on this machine over its socket.
type adminFlags struct {
	commonFlags
	data string
}

func (f *adminFlags) register(cmd *cobra.Command) {
	f.commonFlags.register(cmd)
	cmd.Flags().StringVar(&f.data, "data", "", "data directory of the miner on this machine; default: miner.data_dir")
}

func (f *adminFlags) open(cmd *cobra.Command) (*admin.Client, error) {
	cfg, _, err := f.load(cmd)
	if err != nil {
		return nil, err
	}
	if f.data != "" {
		cfg.Miner.DataDir = f.data
	}
	return node.MinerAdmin(cfg.Miner)
}

func tokenCommand() *cobra.Command {
	var (
		at   adminFlags
		name string
		life time.Duration
	)
	create := withJSON(&cobra.Command{
		Use:   "create",
		Short: "Make a join token for one machine",
		Long: `Prints a token with which one machine joins the miner's fleet, once. The token holds the
miner's address and the hash of its authority; whoever has it can add a machine until it is
used or has expired.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			text, record, err := c.CreateToken(cmd.Context(), basilica.ExecutorID(name), life)
			if err != nil {
				return err
			}
			v := struct {
				Token string               `json:"token"`
				About basilica.TokenRecord `json:"about"`
			}{text, record}
			return show(cmd, v, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, text)
				return err
			})
		},
	})
	at.register(create)
	create.Flags().StringVar(&name, "name", "", "executor id that the token is for; default: any")
	create.Flags().DurationVar(&life, "ttl", time.Hour, "how long the token can be used")
	cmd := &cobra.Command{Use: "token", Short: "Join tokens of a miner", Args: arguments(cobra.NoArgs)}
	cmd.AddCommand(create, tokenListCommand(), tokenRevokeCommand())
	return cmd
}

func tokenListCommand() *cobra.Command {
	var at adminFlags
	cmd := withJSON(&cobra.Command{
		Use:   "list",
		Short: "List join tokens, never their secrets",
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			tokens, err := c.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, map[string]any{"tokens": tokens}, func(w io.Writer) error {
				rows := newTable(w, "TOKEN", "FOR", "EXPIRES", "USED BY")
				for _, t := range tokens {
					rows.AppendRow(table.Row{t.ID, t.Name, t.Expires.Local().Format(time.DateTime), t.UsedBy})
				}
				rows.Render()
				return nil
			})
		},
	})
	at.register(cmd)
	return cmd
}

func tokenRevokeCommand() *cobra.Command {
	var at adminFlags
	cmd := &cobra.Command{
		Use:   "revoke TOKEN",
		Short: "End a join token that was not used, by its id of token list",
		Args:  arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			return c.RevokeToken(cmd.Context(), args[0])
		},
	}
	at.register(cmd)
	return cmd
}

func fleetCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "fleet", Short: "See a miner's machines", Args: arguments(cobra.NoArgs)}
	cmd.AddCommand(fleetLsCommand(), fleetShowCommand(), fleetDrainCommand())
	return cmd
}

func fleetLsCommand() *cobra.Command {
	var at adminFlags
	cmd := withJSON(&cobra.Command{
		Use:   "ls",
		Short: "List the machines",
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			members, err := c.Members(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, map[string]any{"executors": members}, func(w io.Writer) error {
				rows := newTable(w, "EXECUTOR", "READY", "GPUS", "TASKS", "ADDRESS", "LAST SEEN", "WHY NOT")
				for _, m := range members {
					rows.AppendRow(table.Row{m.Executor, m.Ready, gpuNames(m.Facts.GPUs), len(m.Tasks), m.Addr, lastSeen(m), whyNot(m)})
				}
				rows.Render()
				return nil
			})
		},
	})
	at.register(cmd)
	return cmd
}

func fleetShowCommand() *cobra.Command {
	var at adminFlags
	cmd := withJSON(&cobra.Command{
		Use:   "show EXECUTOR",
		Short: "Show one machine: facts, tasks, and what validators opened on it",
		Args:  arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			m, err := c.Member(cmd.Context(), basilica.ExecutorID(args[0]))
			if err != nil {
				return err
			}
			return show(cmd, m, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "executor   %s\nready      %v %s\naddress    %s, ssh %s\nenrolled   %s\nlast seen  %s\nGPUs       %s\nmachine    %s, %d CPUs, %s\n",
					m.Executor, m.Ready, whyNot(m), m.Addr, m.SSHAddr, m.Enrolled.Local().Format(time.DateTime), lastSeen(m), gpuNames(m.Facts.GPUs), m.Facts.Hostname, m.Facts.CPUs, gib(m.Facts.MemoryBytes))
				for _, t := range m.Tasks {
					if err == nil {
						_, err = fmt.Fprintf(w, "task       %s %s\n", t.ID, t.State)
					}
				}
				for _, g := range m.Grants {
					if err == nil {
						_, err = fmt.Fprintf(w, "opened     %s by validator %s, round %d\n", g.Issued.Local().Format(time.DateTime), g.Validator, g.Round)
					}
				}
				return err
			})
		},
	})
	at.register(cmd)
	return cmd
}

func fleetDrainCommand() *cobra.Command {
	var (
		at  adminFlags
		end bool
	)
	cmd := &cobra.Command{
		Use:   "drain EXECUTOR",
		Short: "Give a machine no new task; what runs goes on",
		Args:  arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			return c.Drain(cmd.Context(), basilica.ExecutorID(args[0]), !end)
		},
	}
	at.register(cmd)
	cmd.Flags().BoolVar(&end, "end", false, "give it tasks again")
	return cmd
}

func gpuNames(gpus []basilica.GPU) string {
	if len(gpus) == 0 {
		return "none"
	}
	names := make([]string, len(gpus))
	for i, g := range gpus {
		names[i] = strings.TrimSpace(fmt.Sprintf("%s %s", g.Model, "("+string(g.Kind)+")"))
	}
	return strings.Join(names, ", ")
}

func lastSeen(m basilica.MemberView) string {
	if m.LastBeat == nil {
		return "never"
	}
	return m.LastBeat.At.Local().Format(time.DateTime)
}

func whyNot(m basilica.MemberView) string {
	if m.Why == nil {
		return ""
	}
	return m.Why.Sentence
}
