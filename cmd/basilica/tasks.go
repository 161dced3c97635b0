package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"basilica"
	"basilica/client"
)

func psCommand() *cobra.Command {
	var at clientFlags
	cmd := withJSON(&cobra.Command{
		Use:   "ps",
		Short: "List your tasks",
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			listed, away, err := c.Tasks(cmd.Context())
			if err = errors.Join(err, c.Close()); err != nil {
				return err
			}
			v := struct {
				Tasks []client.Listed `json:"tasks"`
				Away  []client.Away   `json:"away"`
			}{listed, away}
			return show(cmd, v, func(w io.Writer) error {
				for _, a := range away {
					fmt.Fprintf(cmd.ErrOrStderr(), "basilica: miner %s cannot be asked: %s\n", a.Miner, a.Error)
				}
				rows := newTable(w, "TASK", "STATE", "EXIT", "IMAGE", "EXECUTOR", "CREATED")
				for _, l := range listed {
					code := ""
					if l.Task.ExitCode != nil {
						code = fmt.Sprint(*l.Task.ExitCode)
					}
					rows.AppendRow(table.Row{l.Task.ID, l.Task.State, code, l.Task.Spec.Image, l.Task.Executor, l.Task.Created.Local().Format(time.DateTime)})
				}
				rows.Render()
				return nil
			})
		},
	})
	at.register(cmd)
	return cmd
}

func logsCommand() *cobra.Command {
	var (
		at     clientFlags
		miner  string
		follow bool
	)
	cmd := withJSON(&cobra.Command{
		Use:   "logs TASK",
		Short: "Print a task's log",
		Long: `Prints what a task has written so far, its stderr on stderr.

With --json all of the log goes to stderr and the task as one object to stdout.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			stdout := cmd.OutOrStdout()
			if asJSON(cmd) {
				stdout = cmd.ErrOrStderr()
			}
			task, err := c.Logs(cmd.Context(), basilica.TaskID(args[0]), basilica.Hotkey(miner), follow, stdout, cmd.ErrOrStderr())
			if err = errors.Join(err, c.Close()); err != nil {
				return err
			}
			return show(cmd, task, func(io.Writer) error { return nil })
		},
	})
	at.register(cmd)
	cmd.Flags().StringVar(&miner, "miner", "", "hotkey (SS58) of the miner that has the task; default: as remembered")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the task has ended")
	return cmd
}

func cancelCommand() *cobra.Command {
	var (
		at    clientFlags
		miner string
	)
	cmd := withJSON(&cobra.Command{
		Use:   "cancel TASK",
		Short: "Ask for a task's end",
		Args:  arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			task, err := c.Cancel(cmd.Context(), basilica.TaskID(args[0]), basilica.Hotkey(miner))
			if err = errors.Join(err, c.Close()); err != nil {
				return err
			}
			return show(cmd, task, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "task %s is %s\n", task.ID, task.State)
				return err
			})
		},
	})
	at.register(cmd)
	cmd.Flags().StringVar(&miner, "miner", "", "hotkey (SS58) of the miner that has the task; default: as remembered")
	return cmd
}

func lsCommand() *cobra.Command {
	var at clientFlags
	cmd := withJSON(&cobra.Command{
		Use:   "ls",
		Short: "List what the subnet's miners offer",
		Long:  "Asks every miner of the subnet what it has. MAX CPUS and MAX MEMORY are what one task gets at most.",
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := at.openAnyone(cmd)
			if err != nil {
				return err
			}
			offers, err := c.Offers(cmd.Context())
			if err = errors.Join(err, c.Close()); err != nil {
				return err
			}
			return show(cmd, map[string]any{"miners": offers}, func(w io.Writer) error {
				rows := newTable(w, "UID", "MINER", "EXECUTOR", "READY", "GPUS", "FREE", "KIND", "MAX CPUS", "MAX MEMORY", "QUEUE")
				for _, o := range offers {
					if o.Offer == nil {
						rows.AppendRow(table.Row{o.Neuron.UID, o.Neuron.Hotkey, "cannot be asked: " + o.Error})
						continue
					}
					for _, b := range o.Offer.Executors {
						rows.AppendRow(table.Row{o.Neuron.UID, o.Neuron.Hotkey, b.Executor, b.Ready, b.GPUs, b.GPUsFree, b.GPUKind, float64(b.TaskCPUMillis) / 1000, gib(b.TaskMemoryBytes), o.Offer.Queue})
					}
				}
				rows.Render()
				return nil
			})
		},
	})
	at.register(cmd)
	return cmd
}

func gib(bytes int64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }

// newTable is a plain table in the style of every listing.
func newTable(w io.Writer, columns ...string) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	style := table.StyleLight
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft = ""
	style.Box.PaddingRight = "  "
	t.SetStyle(style)
	header := make(table.Row, len(columns))
	for i, c := range columns {
		header[i] = c
	}
	t.AppendHeader(header)
	return t
}
