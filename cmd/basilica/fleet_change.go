package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/admin"
)

// lookEvery is the time between two looks at what a verb waits for.
const lookEvery = 500 * time.Millisecond

// until looks again and again until done says so or ctx ends.
func until(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func fleetDrainCommand() *cobra.Command {
	var (
		at       adminFlags
		undo     bool
		wait     bool
		deadline time.Duration
	)
	cmd := withJSON(&cobra.Command{
		Use:     "drain EXECUTOR",
		Example: `  basilica fleet drain box-1`,
		Short:   "Give a machine no new task; what runs goes on",
		Long: `The machine takes no new task from now on. What runs on it goes on to its end, or until
--deadline: then it is ended. With --wait the verb ends when nothing runs there any more.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if undo && (wait || deadline != 0) {
				return wrongUsage(cmd, fmt.Errorf("--undo goes without --wait and --deadline"))
			}
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			id := basilica.ExecutorID(args[0])
			if err := c.Drain(cmd.Context(), id, !undo, deadline); err != nil {
				return err
			}
			if wait {
				if err := waitDrained(cmd, c, id); err != nil {
					return err
				}
			}
			m, err := c.Member(cmd.Context(), id)
			if err != nil {
				return err
			}
			return show(cmd, m, func(w io.Writer) error {
				if undo {
					_, err := fmt.Fprintf(w, "%s takes tasks again\n", m.Executor)
					return err
				}
				_, err := fmt.Fprintf(w, "%s is %s, %d tasks run\n", m.Executor, m.State, len(m.Tasks))
				return err
			})
		},
	})
	at.register(cmd)
	cmd.Flags().DurationVar(&deadline, "deadline", 0, "how long what runs may go on, e.g. 1h; default: until it ends")
	cmd.Flags().BoolVar(&wait, "wait", false, "end when nothing runs there any more; what still runs is told on stderr")
	cmd.Flags().BoolVar(&undo, "undo", false, "give it tasks again")
	return cmd
}

// waitDrained tells what still runs whenever that changes.
func waitDrained(cmd *cobra.Command, c *admin.Client, id basilica.ExecutorID) error {
	said := ""
	return until(cmd.Context(), func() (bool, error) {
		m, err := c.Member(cmd.Context(), id)
		if err != nil {
			return false, err
		}
		if !m.Drain {
			return false, basilica.E(basilica.Conflict, "DRAIN_UNDONE", fmt.Sprintf("executor %s takes tasks again: somebody has undone the drain", id), "drain it again")
		}
		if len(m.Tasks) == 0 {
			return true, nil
		}
		tasks := make([]string, len(m.Tasks))
		for i, t := range m.Tasks {
			tasks[i] = fmt.Sprintf("%s %s", t.ID, t.State)
		}
		now := fmt.Sprintf("%d tasks run on %s: %s", len(tasks), id, strings.Join(tasks, ", "))
		if m.DrainUntil != nil {
			now += "; until " + m.DrainUntil.Local().Format(time.TimeOnly)
		}
		if now != said {
			said = now
			_, err = fmt.Fprintln(cmd.ErrOrStderr(), now)
		}
		return false, err
	})
}

func fleetRevokeCommand() *cobra.Command {
	var at adminFlags
	cmd := withJSON(&cobra.Command{
		Use:     "revoke EXECUTOR",
		Example: `  basilica fleet revoke box-1`,
		Short:   "End a machine's membership at once, for good",
		Long: `For a machine that is lost, sold or not to be trusted any more: its connections end within a
second, its certificates are refused at every door, no validator is sent to it, and what ran on it is
lost or placed again. It comes back with a new join token alone. To take a machine out of service
without harm, drain it.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			if err := c.Revoke(cmd.Context(), basilica.ExecutorID(args[0])); err != nil {
				return err
			}
			return show(cmd, map[string]string{"revoked": args[0]}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is revoked\n", args[0])
				return err
			})
		},
	})
	at.register(cmd)
	return cmd
}

func fleetRenameCommand() *cobra.Command {
	var at adminFlags
	cmd := withJSON(&cobra.Command{
		Use:     "rename EXECUTOR NAME",
		Example: `  basilica fleet rename box-1 rack-2-box-1`,
		Short:   "Show a machine under a name of yours; its id stays",
		Long: `The id stands in certificates and receipts and stays. The name is what lists show beside it; an
empty one removes it.`,
		Args: arguments(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			if err := c.Rename(cmd.Context(), basilica.ExecutorID(args[0]), args[1]); err != nil {
				return err
			}
			return show(cmd, map[string]string{"executor": args[0], "name": args[1]}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is shown as %q\n", args[0], args[1])
				return err
			})
		},
	})
	at.register(cmd)
	return cmd
}

func fleetLabelCommand() *cobra.Command {
	var at adminFlags
	cmd := withJSON(&cobra.Command{
		Use:     "label EXECUTOR KEY=VALUE | KEY- …",
		Example: `  basilica fleet label box-1 rack=2 old-`,
		Short:   "Set and remove labels of a machine",
		Args:    arguments(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, remove := map[string]string{}, []string{}
			for _, arg := range args[1:] {
				key, value, sets := strings.Cut(arg, "=")
				old, removes := strings.CutSuffix(arg, "-")
				switch {
				case sets && key != "":
					set[key] = value
				case removes && old != "":
					remove = append(remove, old)
				default:
					return wrongUsage(cmd, fmt.Errorf("%.80q is neither KEY=VALUE nor KEY-", arg))
				}
			}
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			all, err := c.Label(cmd.Context(), basilica.ExecutorID(args[0]), set, remove)
			if err != nil {
				return err
			}
			return show(cmd, map[string]any{"executor": args[0], "labels": all}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s %s\n", args[0], labelText(all))
				return err
			})
		},
	})
	at.register(cmd)
	return cmd
}

func fleetRotateCommand() *cobra.Command {
	var (
		at   adminFlags
		wait bool
		only bool
	)
	cmd := withJSON(&cobra.Command{
		Use:     "rotate-ca",
		Example: `  basilica fleet rotate-ca`,
		Short:   "Replace the keys of the miner's own authority; nothing drops",
		Long: `Makes new keys for certificates, SSH certificates and tokens beside those in force. Each machine
learns of them with its next heartbeat and gets a new certificate; when all have it, the new keys
sign, and twelve minutes later the old ones are forgotten. A machine that is away holds this up: wait
for it, or revoke it. Join tokens that were not used end when the new keys sign. A miner that is
stopped meanwhile goes on where it was. Use it again to see where it stands.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			look := c.RotateKeys
			if only {
				look = c.Rotation
			}
			v, err := look(cmd.Context())
			if err != nil {
				return err
			}
			if wait && v.Phase == "announced" {
				err = until(cmd.Context(), func() (bool, error) {
					v, err = c.Rotation(cmd.Context())
					return v.Phase != "announced", err
				})
				if err != nil {
					return err
				}
			}
			return show(cmd, v, func(w io.Writer) error { return printRotation(w, v) })
		},
	})
	at.register(cmd)
	cmd.Flags().BoolVar(&wait, "wait", false, "end when the new keys sign")
	cmd.Flags().BoolVar(&only, "status", false, "begin nothing, say only where it stands")
	return cmd
}

func printRotation(w io.Writer, v basilica.RotationView) (err error) {
	switch {
	case v.Phase == "announced" && len(v.Waiting) > 0:
		ids := make([]string, len(v.Waiting))
		for i, id := range v.Waiting {
			ids[i] = string(id)
		}
		_, err = fmt.Fprintf(w, "new keys are made; these machines have not taken them yet: %s\n", strings.Join(ids, ", "))
	case v.Phase == "announced":
		_, err = fmt.Fprintln(w, "new keys are made, and every machine has taken them; they sign in a moment")
	case v.NextStep != nil:
		_, err = fmt.Fprintf(w, "the new keys sign; the old ones are forgotten at %s\n", v.NextStep.Local().Format(time.TimeOnly))
	default:
		_, err = fmt.Fprintln(w, "no rotation is under way")
	}
	return err
}
