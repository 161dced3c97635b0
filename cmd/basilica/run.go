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
	timeout       time.Duration
	env           []string
	inputs        []string
	name          string
	allowSoftware bool
}

func (t *taskFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&t.gpus, "gpus", 0, "GPUs on one machine")
	f.Float64Var(&t.cpus, "cpus", 0, "CPUs; 0 takes the machine's default")
	f.StringVar(&t.memory, "memory", "", `memory, e.g. "4Gi"; empty takes the machine's default`)
	f.StringVar(&t.outputSize, "output-size", "", `room for output files, e.g. "1Gi"; empty takes the machine's default`)
	f.DurationVar(&t.timeout, "timeout", basilica.DefaultTimeout, "time limit of the job")
	f.StringArrayVar(&t.env, "env", nil, "environment variable KEY=VALUE; may be repeated")
	f.StringArrayVar(&t.inputs, "input", nil, "file, or NAME=FILE, that the job finds at /in/NAME; may be repeated")
	f.StringVar(&t.name, "name", "", "a name for people")
	f.BoolVar(&t.allowSoftware, "allow-software", false, "accept a simulated device as a GPU (development networks)")
}

// request makes a task of the flags; what they get wrong is an error for wrongUsage.
func (t *taskFlags) request(image string, command []string) (client.Request, error) {
	switch {
	case t.gpus < 0:
		return client.Request{}, fmt.Errorf("--gpus %d is negative", t.gpus)
	case !(t.cpus >= 0 && t.cpus <= 1e6):
		return client.Request{}, fmt.Errorf("--cpus %g is no number of CPUs", t.cpus)
	case t.timeout <= 0 || t.timeout > basilica.MaxTaskTimeout:
		return client.Request{}, fmt.Errorf("--timeout %s is outside 0s..%s", t.timeout, basilica.MaxTaskTimeout)
	}
	spec := basilica.TaskSpec{
		Name: t.name, Image: image, Command: command, GPUs: t.gpus, AllowSoftware: t.allowSoftware,
		CPUMillis: int64(math.Ceil(t.cpus * 1000)), TimeoutSeconds: int64(math.Ceil(t.timeout.Seconds())),
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
	for _, pair := range t.env {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return client.Request{}, fmt.Errorf("--env %.40q is not KEY=VALUE", key)
		}
		if spec.Env == nil {
			spec.Env = map[string]string{}
		}
		spec.Env[key] = value
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

func runCommand() *cobra.Command {
	var (
		at                  clientFlags
		task                taskFlags
		output, receiptPath string
		miner, key          string
		force               bool
	)
	cmd := withJSON(&cobra.Command{
		Use:   "run [flags] IMAGE -- COMMAND…",
		Short: "Run a container on a miner's machine and fetch what it made",
		Long: `Picks a miner from the metagraph, sends the inputs, submits the job, prints its log as it
comes, fetches the files that it left in /out, checks the receipt, and ends with the job's
exit code. Ctrl-C cancels the job.

The job runs without network, without root, on a read-only image; /in, /out and /tmp are its
files. The machine's owner can read whatever the container reads: send no secret that the
owner must not know.

With --json the job's own output goes to stderr and one object to stdout.`,
		Example: `  basilica run --gpus 1 --input data.bin --output out IMAGE -- sh -c 'sha256sum /in/data.bin >/out/sum'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return wrongUsage(cmd, errors.New("no image is named"))
			}
			if dash := cmd.ArgsLenAtDash(); dash > 1 || dash < 0 && len(args) > 1 {
				return wrongUsage(cmd, errors.New("the command stands after --"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := task.request(args[0], args[1:])
			if err != nil {
				return wrongUsage(cmd, err)
			}
			req.OutputDir, req.ReceiptPath, req.Miner, req.IdempotencyKey, req.Overwrite = output, receiptPath, basilica.Hotkey(miner), key, force
			c, err := at.open(cmd)
			if err != nil {
				return exit{client.ExitFailure, err}
			}
			stdout := cmd.OutOrStdout()
			if asJSON(cmd) {
				stdout = cmd.ErrOrStderr()
			}
			result, err := c.Run(cmd.Context(), req, stdout, cmd.ErrOrStderr())
			err = errors.Join(err, c.Close())
			switch {
			case basilica.CodeOf(err) == "INTERRUPTED":
				return exit{client.ExitCancelled, err}
			case err != nil:
				return exit{client.ExitFailure, err}
			}
			return ended(cmd, result)
		},
	})
	at.register(cmd)
	task.register(cmd)
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "", "directory for the job's output files and its receipt.json")
	f.StringVar(&receiptPath, "receipt", "", "file for the signed receipt")
	f.BoolVar(&force, "force", false, "replace files that exist")
	f.StringVar(&miner, "miner", "", "hotkey (SS58) of the miner; default: the best offer")
	f.StringVar(&key, "idempotency-key", "", "the same key with the same job gives the same task; default: a new one")
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
	t := result.Task
	if t.Reason != nil {
		fmt.Fprintf(w, "basilica: task %s %s: %s [%s]\n", t.ID, t.State, t.Reason.Sentence, t.Reason.Code)
		if t.Reason.Fix != "" {
			fmt.Fprintf(w, "Fix: %s\n", t.Reason.Fix)
		}
	} else if t.State != basilica.TaskSucceeded {
		fmt.Fprintf(w, "basilica: task %s %s\n", t.ID, t.State)
	}
	if n := len(result.Outputs); n > 0 && !result.OutputsSaved {
		fmt.Fprintf(w, "basilica: %d output files stayed at the miner; --output DIR fetches them\n", n)
	}
	if result.ReceiptPath != "" {
		fmt.Fprintf(w, "basilica: receipt verified: %s\n", result.ReceiptPath)
	}
}
