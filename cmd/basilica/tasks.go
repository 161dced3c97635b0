package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"basilica"
	"basilica/client"
)

func psCommand() *cobra.Command {
	var (
		at          clientFlags
		name, state string
		labels      []string
		all         bool
	)
	const latest = 50
	cmd := withJSON(&cobra.Command{
		Use:   "ps",
		Short: "List your tasks",
		Long:  "Asks every miner to which this data directory has submitted. The flags choose tasks that fit all of them.",
		Example: `  basilica ps
  basilica ps --state running --label team=a
  basilica ps --all --json`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			q := basilica.TaskQuery{Name: name, State: basilica.TaskState(state)}
			if q.Labels, err = pairs("--label", labels); err != nil {
				return wrongUsage(cmd, err)
			}
			if state != "" && !slices.Contains(taskStates, q.State) {
				return wrongUsage(cmd, fmt.Errorf("--state %.20q is none of %v", state, taskStates))
			}
			limit := latest
			if all {
				limit = client.MaxListed
			}
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			listed, away, err := c.Tasks(cmd.Context(), q, limit)
			if err = errors.Join(err, c.Close()); err != nil {
				return err
			}
			v := struct {
				Tasks []client.Listed `json:"tasks"`
				Away  []client.Away   `json:"away"`
			}{listed, away}
			return show(cmd, v, func(w io.Writer) error {
				for _, a := range away {
					fmt.Fprintf(cmd.ErrOrStderr(), "basilica: miner %s cannot be asked: %s\n", a.Miner, basilica.OneLine(a.Error))
				}
				rows := newTable(w, "TASK", "NAME", "STATE", "EXIT", "IMAGE", "EXECUTOR", "CREATED")
				for _, l := range listed {
					code := ""
					if l.Task.ExitCode != nil {
						code = fmt.Sprint(*l.Task.ExitCode)
					}
					rows.AppendRow(line(l.Task.ID, l.Task.Spec.Name, l.Task.State, code, l.Task.Spec.Image, l.Task.Executor, l.Task.Created.Local().Format(time.DateTime)))
				}
				rows.Render()
				return nil
			})
		},
	})
	at.register(cmd)
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "tasks of this name alone")
	f.StringArrayVar(&labels, "label", nil, "tasks with this KEY=VALUE alone; may be repeated")
	f.StringVar(&state, "state", "", "tasks in this state alone")
	f.BoolVarP(&all, "all", "a", false, fmt.Sprintf("all that a miner remembers, not the latest %d of each", latest))
	return cmd
}

var taskStates = []basilica.TaskState{
	basilica.TaskQueued, basilica.TaskPlaced, basilica.TaskPulling, basilica.TaskRunning,
	basilica.TaskSucceeded, basilica.TaskFailed, basilica.TaskCancelled, basilica.TaskTimedOut, basilica.TaskLost,
}

func logsCommand() *cobra.Command {
	var (
		at     clientFlags
		miner  string
		since  int64
		follow bool
		rawToo bool
	)
	cmd := withJSON(&cobra.Command{
		Use:   "logs TASK",
		Short: "Print a task's log",
		Long: `Prints what a task has written so far, its stderr on stderr. A broken connection is taken up
where it stopped. On a terminal control codes of the job are shown as text; a pipe gets every
byte as it is.

With --json all of the log goes to stderr and the task as one object to stdout.`,
		Example: `  basilica logs t-q7x2hm5zrw4kd
  basilica logs -f --since-offset 4096 t-q7x2hm5zrw4kd >rest.log`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: completeTasks(&at),
		RunE: func(cmd *cobra.Command, args []string) error {
			if since < 0 {
				return wrongUsage(cmd, fmt.Errorf("--since-offset %d is negative", since))
			}
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			stdout, stderr := streams(cmd, rawToo)
			task, err := c.Logs(cmd.Context(), basilica.TaskID(args[0]), basilica.Hotkey(miner), since, follow, stdout, stderr)
			if err = errors.Join(err, c.Close()); err != nil {
				return err
			}
			return show(cmd, task, func(io.Writer) error { return nil })
		},
	})
	at.register(cmd)
	f := cmd.Flags()
	f.StringVar(&miner, "miner", "", "hotkey (SS58) of the miner that has the task; default: as remembered")
	f.Int64Var(&since, "since-offset", 0, "byte of the log to begin at; both streams count together")
	f.BoolVarP(&follow, "follow", "f", false, "go on until the task has ended")
	f.BoolVar(&rawToo, "raw", false, "let the job's output control the terminal")
	return cmd
}

func cancelCommand() *cobra.Command {
	var (
		at    clientFlags
		miner string
	)
	cmd := withJSON(&cobra.Command{
		Use:               "cancel TASK",
		Short:             "Ask for a task's end",
		Example:           `  basilica cancel t-q7x2hm5zrw4kd`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: completeTasks(&at),
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
				_, err := fmt.Fprintf(w, "task %s is %s\n", task.ID, basilica.OneLine(string(task.State)))
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
		Example: `  basilica ls
  basilica ls --json`,
		Args: arguments(cobra.NoArgs),
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
						rows.AppendRow(line(o.Neuron.UID, o.Neuron.Hotkey, "cannot be asked: "+o.Error))
						continue
					}
					for _, b := range o.Offer.Executors {
						rows.AppendRow(line(o.Neuron.UID, o.Neuron.Hotkey, b.Executor, b.Ready, b.GPUs, b.GPUsFree, b.GPUKind, float64(b.TaskCPUMillis)/1000, gib(b.TaskMemoryBytes), o.Offer.Queue))
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

// line is one row of a table: whatever text other parties put into it stays in its row.
func line(cells ...any) table.Row {
	row := make(table.Row, len(cells))
	for i, c := range cells {
		row[i] = basilica.OneLine(fmt.Sprint(c))
	}
	return row
}

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
