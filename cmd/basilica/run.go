package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/client"
	"basilica/node"
)

// taskFlags are the flags that describe a task.
type taskFlags struct {
	gpus          int
	cpus          float64
	memory        string
	outputSize    string
	maxSeconds    int64
	env           []string
	inputs        []string
	name          string
	labels        []string
	retries       int
	allowSoftware bool
}

func (t *taskFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&t.gpus, "gpus", 0, "GPUs on one machine")
	f.Float64Var(&t.cpus, "cpus", 0, "CPUs; 0 takes the machine's default")
	f.StringVar(&t.memory, "memory", "", `memory, e.g. "4Gi"; empty takes the machine's default`)
	f.StringVar(&t.outputSize, "output-size", "", `room for output files, e.g. "1Gi"; empty takes the machine's default`)
	f.Int64Var(&t.maxSeconds, "max-seconds", int64(basilica.DefaultTimeout/time.Second), "time limit of the job in seconds")
	f.StringArrayVar(&t.env, "env", nil, "environment variable KEY=VALUE; may be repeated")
	f.StringArrayVar(&t.inputs, "input", nil, "file, or NAME=FILE, that the job finds at /in/NAME; may be repeated")
	f.StringVar(&t.name, "name", "", "a name for people, that ps shows and finds")
	f.StringArrayVar(&t.labels, "label", nil, "label KEY=VALUE, that ps finds; may be repeated")
	f.IntVar(&t.retries, "retries", 0, fmt.Sprintf("run the job again from its start if a machine that may have run it is lost; at most %d times", basilica.MaxTaskRetries))
	f.BoolVar(&t.allowSoftware, "allow-software", false, "accept a simulated device as a GPU (development networks)")
}

// request makes a task of the flags; what they get wrong is an error for wrongUsage.
func (t *taskFlags) request(image string, command []string) (client.Request, error) {
	const most = int64(basilica.MaxTaskTimeout / time.Second)
	switch {
	case t.gpus < 0:
		return client.Request{}, fmt.Errorf("--gpus %d is negative", t.gpus)
	case !(t.cpus >= 0 && t.cpus <= 1e6):
		return client.Request{}, fmt.Errorf("--cpus %g is no number of CPUs", t.cpus)
	case t.maxSeconds <= 0 || t.maxSeconds > most:
		return client.Request{}, fmt.Errorf("--max-seconds %d is outside 1..%d", t.maxSeconds, most)
	}
	spec := basilica.TaskSpec{
		Name: t.name, Image: image, Command: command, GPUs: t.gpus, AllowSoftware: t.allowSoftware,
		CPUMillis: int64(math.Ceil(t.cpus * 1000)), TimeoutSeconds: t.maxSeconds, Retries: t.retries,
	}
	for _, size := range []struct {
		flag, text string
		into       *int64
	}{{"--memory", t.memory, &spec.MemoryBytes}, {"--output-size", t.outputSize, &spec.OutputBytes}} {
		if size.text == "" {
			continue
		}
		n, err := node.ParseByteSize(size.text)
		if err != nil {
			return client.Request{}, fmt.Errorf("%s: %w", size.flag, err)
		}
		*size.into = int64(n)
	}
	var err error
	if spec.Env, err = pairs("--env", t.env); err != nil {
		return client.Request{}, err
	}
	if spec.Labels, err = pairs("--label", t.labels); err != nil {
		return client.Request{}, err
	}
	req := client.Request{Spec: spec}
	for _, text := range t.inputs {
		name, path, ok := strings.Cut(text, "=")
		if !ok {
			name, path = filepath.Base(text), text
		}
		req.Inputs = append(req.Inputs, client.Input{Name: name, Path: path})
	}
	return req, nil
}

// pairs reads the values of a flag KEY=VALUE.
func pairs(flag string, texts []string) (map[string]string, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(texts))
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("%s %.40q is not KEY=VALUE", flag, key)
		}
		m[key] = value
	}
	return m, nil
}

// resultFlags say where what a task made goes, and how its log is shown.
type resultFlags struct {
	output, receipt string
	force, raw      bool
}

func (r *resultFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&r.output, "output", "o", "", "directory for the job's output files and its receipt.json")
	f.StringVar(&r.receipt, "receipt", "", "file for the signed receipt")
	f.BoolVar(&r.force, "force", false, "replace files that exist")
	f.BoolVar(&r.raw, "raw", false, "let the job's output control the terminal; else its control codes are shown as text")
}

func (r *resultFlags) results() client.Results {
	return client.Results{OutputDir: r.output, ReceiptPath: r.receipt, Overwrite: r.force}
}

// streams are where a job's output goes: with --json all of it to stderr.
func streams(cmd *cobra.Command, rawToo bool) (stdout, stderr io.Writer) {
	stdout, stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
	if asJSON(cmd) {
		stdout = stderr
	}
	if rawToo {
		return raw(stdout), raw(stderr)
	}
	return stdout, stderr
}

func runCommand() *cobra.Command {
	var (
		at         clientFlags
		task       taskFlags
		results    resultFlags
		login      loginFlags
		miner, key string
		detach     bool
		dry        bool
	)
	cmd := withJSON(&cobra.Command{
		Use:   "run [flags] IMAGE -- COMMAND…",
		Short: "Run a container on a miner's machine and fetch what it made",
		Long: `Picks a miner from the metagraph, sends the inputs, submits the job, prints its log as it
comes, fetches the files that it left in /out, checks the receipt, and ends with the job's
exit code. Log and files go on where they stopped when a connection breaks.

` + interrupts + `

IMAGE is name@sha256:… of a registry, an image that the machine has, or what ` + "`image load`" + `
prints. The job runs without network, without root, on a read-only image; /in, /out and /tmp
are its files. The machine's owner can read whatever the container reads: send no secret that
the owner must not know.

A login for a private registry is read from BASILICA_REGISTRY_USER and
BASILICA_REGISTRY_PASSWORD, from --registry-config, or as two lines from standard input, and
is sealed to the keys of the miner's executors.

With --detach the task's id stands alone on stdout. With --json the job's own output goes to
stderr and one object to stdout.

` + exitCodes,
		Example: `  basilica run --gpus 1 --input data.bin --output out IMAGE -- sh -c 'sha256sum /in/data.bin >/out/sum'
  basilica run --max-seconds 600 --name nightly --label team=a IMAGE -- ./train
  id=$(basilica run --detach IMAGE -- ./train); basilica attach $id --output out
  basilica run --gpus 8 --dry-run IMAGE -- ./train
  pass show registry | basilica run --registry-login registry.example.org registry.example.org/app@sha256:… -- ./app`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return wrongUsage(cmd, errors.New("no image is named"))
			}
			if dash := cmd.ArgsLenAtDash(); dash > 1 || dash < 0 && len(args) > 1 {
				return wrongUsage(cmd, errors.New("the command stands after --"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			req, err := task.request(args[0], args[1:])
			if err != nil {
				return wrongUsage(cmd, err)
			}
			if detach && (results.output != "" || results.receipt != "") {
				return wrongUsage(cmd, errors.New("--detach fetches nothing: give --output and --receipt to `basilica attach`"))
			}
			req.Miner, req.IdempotencyKey, req.Results = basilica.Hotkey(miner), key, results.results()
			if !dry {
				if req.Login, err = login.read(cmd); err != nil {
					return codeOf(err)
				}
			}
			c, err := at.open(cmd)
			if err != nil {
				return codeOf(err)
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			switch {
			case dry:
				return dryRun(cmd, c, req)
			case detach:
				return runDetached(cmd, c, req)
			}
			var stop func()
			req.Leave, stop = secondInterrupt()
			defer stop()
			stdout, stderr := streams(cmd, results.raw)
			result, err := c.Run(cmd.Context(), req, stdout, stderr)
			if err != nil {
				return codeOf(err)
			}
			return ended(cmd, result)
		},
	})
	at.register(cmd)
	task.register(cmd)
	results.register(cmd)
	login.register(cmd)
	f := cmd.Flags()
	f.StringVar(&miner, "miner", "", "hotkey (SS58) of the miner; default: the best offer")
	f.StringVar(&key, "idempotency-key", "", "the same key with the same job gives the same task; default: a new one")
	f.BoolVarP(&detach, "detach", "d", false, "print the task's id and leave it to itself; see attach")
	f.BoolVar(&dry, "dry-run", false, "say which machine would take the job, and why not the others; nothing runs")
	return cmd
}

func runDetached(cmd *cobra.Command, c *node.Client, req client.Request) error {
	result, err := c.Detach(cmd.Context(), req)
	if err != nil {
		return codeOf(err)
	}
	return show(cmd, result, func(w io.Writer) error {
		fmt.Fprintf(cmd.ErrOrStderr(), "basilica: submitted to miner %s; come back to it: basilica attach %s\n", result.Miner, result.Task.ID)
		_, err := fmt.Fprintln(w, result.Task.ID)
		return err
	})
}

// dryRun prints what every miner would do with a task.
func dryRun(cmd *cobra.Command, c *node.Client, req client.Request) error {
	planned, err := c.DryRun(cmd.Context(), req)
	if err != nil && len(planned) == 0 {
		return codeOf(err)
	}
	shown := show(cmd, map[string]any{"miners": planned}, func(w io.Writer) error {
		rows := newTable(w, "UID", "MINER", "EXECUTOR", "TAKES IT", "WHY NOT")
		for _, p := range planned {
			uid := fmt.Sprint(p.Neuron.UID)
			if p.Chosen {
				uid += " *"
			}
			switch {
			case p.Plan == nil:
				rows.AppendRow(line(uid, p.Neuron.Hotkey, "", "no", reasonText(p.Why)))
			case len(p.Plan.Boxes) == 0:
				rows.AppendRow(line(uid, p.Neuron.Hotkey, "", "no", "it has no executor"))
			default:
				for _, b := range p.Plan.Boxes {
					takes := "no"
					if b.Why == nil {
						takes = "yes"
					}
					rows.AppendRow(line(uid, p.Neuron.Hotkey, b.Executor, takes, reasonText(b.Why)))
				}
			}
		}
		rows.Render()
		return nil
	})
	if err = errors.Join(shown, err); err != nil {
		return codeOf(err)
	}
	return nil
}

func reasonText(r *basilica.Reason) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf("%s [%s]", r.Sentence, r.Code)
}

func attachCommand() *cobra.Command {
	var (
		at      clientFlags
		results resultFlags
		miner   string
		since   int64
	)
	cmd := withJSON(&cobra.Command{
		Use:   "attach TASK",
		Short: "Follow a task that was submitted before to its end, as run does",
		Long: `Prints a task's log from its start and goes on until the task ends, then fetches its files
and checks its receipt. It may be used any number of times, also after the end.

` + interrupts + `

` + exitCodes,
		Example: `  basilica attach t-q7x2hm5zrw4kd --output out
  basilica attach t-q7x2hm5zrw4kd --since-offset 4096`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: completeTasks(&at),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			c, err := at.open(cmd)
			if err != nil {
				return codeOf(err)
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			how := results.results()
			how.ShowFrom = since
			var stop func()
			how.Leave, stop = secondInterrupt()
			defer stop()
			stdout, stderr := streams(cmd, results.raw)
			result, err := c.Attach(cmd.Context(), basilica.TaskID(args[0]), basilica.Hotkey(miner), how, stdout, stderr)
			if err != nil {
				return codeOf(err)
			}
			return ended(cmd, result)
		},
	})
	at.register(cmd)
	results.register(cmd)
	cmd.Flags().StringVar(&miner, "miner", "", "hotkey (SS58) of the miner that has the task; default: as remembered")
	cmd.Flags().Int64Var(&since, "since-offset", 0, "byte of the log from which on it is printed")
	return cmd
}

// ended says how a job ended and turns its end into an exit code.
func ended(cmd *cobra.Command, result client.Result) error {
	if asJSON(cmd) {
		if err := show(cmd, result, nil); err != nil {
			return err
		}
	} else {
		describeEnd(cmd.ErrOrStderr(), result)
	}
	if code := result.ExitCode(); code != exitOK {
		return exit{code, nil}
	}
	return nil
}

func describeEnd(w io.Writer, result client.Result) {
	t, state := result.Task, basilica.OneLine(string(result.Task.State))
	if t.Reason != nil {
		fmt.Fprintf(w, "basilica: task %s %s: %s [%s]\n", t.ID, state, basilica.OneLine(t.Reason.Sentence), basilica.OneLine(t.Reason.Code))
		if t.Reason.Fix != "" {
			fmt.Fprintf(w, "Fix: %s\n", basilica.OneLine(t.Reason.Fix))
		}
	} else if t.State != basilica.TaskSucceeded {
		fmt.Fprintf(w, "basilica: task %s %s\n", t.ID, state)
	}
	if n := len(result.Outputs); n > 0 && !result.OutputsSaved {
		fmt.Fprintf(w, "basilica: %d output files stayed at the miner: basilica attach %s --output DIR\n", n, t.ID)
	}
	if result.LogForgotten {
		fmt.Fprintln(w, "basilica: the miner keeps the task's log no more")
	}
	if result.ReceiptPath != "" {
		fmt.Fprintf(w, "basilica: receipt verified: %s\n", result.ReceiptPath)
	}
}
