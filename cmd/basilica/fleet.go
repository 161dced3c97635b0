package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

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
		Use:     "create",
		Example: `  basilica token create --name box-1 --ttl 10m`,
		Short:   "Make a join token for one machine",
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
		Use:     "list",
		Example: `  basilica token list`,
		Short:   "List join tokens, never their secrets",
		Args:    arguments(cobra.NoArgs),
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
				rows := newTable(w, "TOKEN", "STATE", "FOR", "EXPIRES", "USED BY")
				for _, t := range tokens {
					rows.AppendRow(line(t.ID, tokenState(t, time.Now()), t.Name, t.Expires.Local().Format(time.DateTime), t.UsedBy))
				}
				rows.Render()
				return nil
			})
		},
	})
	at.register(cmd)
	return cmd
}

func tokenState(t basilica.TokenRecord, now time.Time) string {
	switch {
	case t.UsedAt != nil:
		return "used"
	case !now.Before(t.Expires):
		return "expired"
	}
	return "open"
}

func tokenRevokeCommand() *cobra.Command {
	var at adminFlags
	cmd := withJSON(&cobra.Command{
		Use:     "revoke TOKEN",
		Example: `  basilica token revoke 0123456789ab`,
		Short:   "End a join token that was not used, by its id of token list",
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			if err := c.RevokeToken(cmd.Context(), args[0]); err != nil {
				return err
			}
			return show(cmd, map[string]string{"revoked": args[0]}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "token %s cannot be used any more\n", args[0])
				return err
			})
		},
	})
	at.register(cmd)
	return cmd
}

func fleetCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "fleet", Short: "See and change a miner's machines", Args: arguments(cobra.NoArgs)}
	cmd.AddCommand(fleetLsCommand(), fleetShowCommand(), fleetDrainCommand(), fleetRevokeCommand(), fleetRenameCommand(), fleetLabelCommand(), fleetRotateCommand())
	return cmd
}

// members reads the whole fleet, part by part.
func members(cmd *cobra.Command, c *admin.Client) ([]basilica.MemberView, error) {
	all, cursor := []basilica.MemberView{}, ""
	for {
		page, err := c.Members(cmd.Context(), cursor, 0)
		if err != nil {
			return nil, err
		}
		all, cursor = append(all, page.Executors...), page.Next
		if cursor == "" {
			return all, nil
		}
	}
}

func fleetLsCommand() *cobra.Command {
	var at adminFlags
	cmd := withJSON(&cobra.Command{
		Use:     "ls",
		Example: `  basilica fleet ls`,
		Short:   "List the machines, and what to do about those that are not well",
		Long: `STATE is ready; draining or drained (no new task); unknown (never heard of), silent (not heard of
lately), unreachable (heard of, but the miner cannot dial it), clock (its time is off too far),
unhealthy (it says so itself), or revoked. CLOCK is its clock minus the miner's. Under the table
stands what is wrong with a machine and how to mend it.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			fleet, err := members(cmd, c)
			if err != nil {
				return err
			}
			return show(cmd, map[string]any{"executors": fleet}, func(w io.Writer) error { return printFleet(w, fleet) })
		},
	})
	at.register(cmd)
	return cmd
}

func printFleet(w io.Writer, fleet []basilica.MemberView) error {
	rows := newTable(w, "EXECUTOR", "STATE", "GPUS", "TASKS", "CLOCK", "VERSION", "LABELS", "ADDRESS", "LAST SEEN")
	for _, m := range fleet {
		rows.AppendRow(line(named(m), m.State, gpuNames(m.Facts.GPUs), len(m.Tasks), skew(m), version(m), labelText(m.Labels), m.Addr, lastSeen(m)))
	}
	rows.Render()
	for _, m := range fleet {
		for _, r := range wrong(m) {
			if _, err := fmt.Fprintf(w, "\n%s [%s]\n", r.Sentence, r.Code); err != nil {
				return err
			}
			if r.Fix == "" {
				continue
			}
			if _, err := fmt.Fprintf(w, "  Fix: %s\n", r.Fix); err != nil {
				return err
			}
		}
	}
	return nil
}

// wrong is what the owner of a machine should read: why it is not ready, and what else is to be mended. The machine itself
// may have said it.
func wrong(m basilica.MemberView) []basilica.Reason {
	all := slices.Clone(m.Notes)
	if m.Why != nil {
		all = slices.Insert(all, 0, *m.Why)
	}
	for i, r := range all {
		all[i] = basilica.Reason{Code: basilica.OneLine(r.Code), Sentence: basilica.OneLine(r.Sentence), Fix: basilica.OneLine(r.Fix)}
	}
	return all
}

func named(m basilica.MemberView) string {
	if m.Name == "" {
		return string(m.Executor)
	}
	return fmt.Sprintf("%s (%s)", m.Executor, m.Name)
}

// skew is the executor's clock minus the miner's, in whole seconds.
func skew(m basilica.MemberView) string {
	if m.LastBeat == nil {
		return ""
	}
	return fmt.Sprintf("%+d s", int64(m.LastBeat.Clock.Round(time.Second)/time.Second))
}

func version(m basilica.MemberView) string {
	if m.LastBeat == nil {
		return basilica.OneLine(m.Facts.Version)
	}
	return basilica.OneLine(m.LastBeat.Version)
}

func labelText(labels map[string]string) string {
	pairs := make([]string, 0, len(labels))
	for k, v := range labels {
		pairs = append(pairs, k+"="+v)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

func fleetShowCommand() *cobra.Command {
	var at adminFlags
	cmd := withJSON(&cobra.Command{
		Use:     "show EXECUTOR",
		Example: `  basilica fleet show box-1`,
		Short:   "Show one machine: facts, tasks, and what validators opened on it",
		Args:    arguments(cobra.ExactArgs(1)),
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
				_, err := fmt.Fprintf(w, "executor   %s\nstate      %s\nlabels     %s\naddress    %s, ssh %s\nenrolled   %s\nlast seen  %s, clock %s, basilica %s\nidentity   until %s\nGPUs       %s\nmachine    %s, %d CPUs, %s\n",
					named(m), m.State, labelText(m.Labels), basilica.OneLine(m.Addr), basilica.OneLine(m.SSHAddr), m.Enrolled.Local().Format(time.DateTime), lastSeen(m), skew(m), version(m), identityEnds(m),
					basilica.OneLine(gpuNames(m.Facts.GPUs)), basilica.OneLine(m.Facts.Hostname), m.Facts.CPUs, gib(m.Facts.MemoryBytes))
				for _, r := range wrong(m) {
					if err == nil {
						_, err = fmt.Fprintf(w, "wrong      %s [%s]\n           Fix: %s\n", r.Sentence, r.Code, r.Fix)
					}
				}
				for _, t := range m.Tasks {
					if err == nil {
						_, err = fmt.Fprintf(w, "task       %s %s\n", basilica.OneLine(string(t.ID)), basilica.OneLine(string(t.State)))
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

func identityEnds(m basilica.MemberView) string {
	if m.Ends.IsZero() {
		return "revoked"
	}
	return m.Ends.Local().Format(time.DateOnly)
}
