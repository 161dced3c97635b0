package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"basilica"
	"basilica/client"
)

const jobTimeout = 90 * time.Second

// hashScript is the job: it reads its input inside the container and leaves the digest in an output file.
const hashScript = `set -e
sha256sum /in/input | cut -c1-64 >/out/input.sha256
echo "hashed $(wc -c </in/input) bytes as user $(id -u)"`

const hashOutput = "input.sha256"

// RunJob runs one real job on the network through the client, checks that the digest that came back is that of the input,
// and adds it to the report. inputPath may be empty: then a file of random bytes is made.
func (n *Network) RunJob(r *Report, inputPath string) (err error) {
	defer func() {
		r.Seconds = n.deps.Now().Sub(n.started).Seconds()
		if err != nil && r.Error == nil {
			r.Error = startError(err)
		}
	}()
	if inputPath == "" {
		if inputPath, err = n.sampleInput(); err != nil {
			return err
		}
	}
	want, err := fileDigest(inputPath)
	if err != nil {
		return err
	}
	c, err := NewClient(n.chainConfig(), n.clientConfig(), n.deps)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	out, err := os.MkdirTemp(n.dir, "job-")
	if err != nil {
		return fmt.Errorf("make output directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(n.context, jobTimeout)
	defer cancel()
	n.say("job: one GPU, input of %s", inputPath)
	result, err := c.Run(ctx, client.Request{
		Spec: basilica.TaskSpec{
			Name: "demo", Image: n.image, Command: []string{n.program, "sh", "-c", hashScript},
			GPUs: 1, AllowSoftware: true, MemoryBytes: 64 << 20, TimeoutSeconds: 60,
		},
		Inputs: []client.Input{{Name: "input", Path: inputPath}}, Results: client.Results{OutputDir: out},
	}, io.Discard, io.Discard)
	if result.Task.ID != "" {
		r.Task = n.reportTask(result, want, out)
	}
	if err != nil {
		return fmt.Errorf("run the job: %w", err)
	}
	if err := judgeJob(result, out, want); err != nil {
		return err
	}
	n.say("job: %s, exit code 0, receipt verified", result.Task.State)
	return nil
}

// judgeJob says whether the job ended well and left the digest of its input in the output directory.
func judgeJob(result client.Result, out string, want basilica.Digest) error {
	if result.Task.State != basilica.TaskSucceeded {
		reason := ""
		if result.Task.Reason != nil {
			reason = ": " + result.Task.Reason.Sentence
		}
		return basilica.E(basilica.Unavailable, "JOB_FAILED", fmt.Sprintf("the job ended as %s%s", result.Task.State, reason), "run it again with --data DIR and read DIR/logs")
	}
	got, err := os.ReadFile(filepath.Join(out, hashOutput))
	if err != nil {
		return fmt.Errorf("read the job's output: %w", err)
	}
	if strings.TrimSpace(string(got)) != want.String() {
		return basilica.E(basilica.Internal, "JOB_WRONG", fmt.Sprintf("the job read an input of digest %.80q, the input's is %s", bytes.TrimSpace(got), want), "run it again; if it stays so, read the executor's log in the data directory (--data keeps it)")
	}
	return nil
}

func (n *Network) reportTask(result client.Result, input basilica.Digest, out string) *ReportedTask {
	t := &ReportedTask{
		ID: result.Task.ID, State: result.Task.State, Executor: result.Task.Executor, GPUs: result.Task.GPUs, ExitCode: result.Task.ExitCode,
		InputSHA256: input, StdoutSHA256: result.Stdout, Outputs: []ReportedOutput{}, Receipt: result.Task.Receipt, ReceiptVerified: result.Receipt != nil,
	}
	if n.keep {
		t.ReceiptPath = result.ReceiptPath
	}
	for _, f := range result.Outputs {
		reported := ReportedOutput{Name: f.Name, SHA256: f.SHA256}
		if f.Name == hashOutput && f.Size < 128 {
			if text, err := os.ReadFile(filepath.Join(out, hashOutput)); err == nil {
				reported.Content = strings.TrimSpace(string(text))
			}
		}
		t.Outputs = append(t.Outputs, reported)
	}
	return t
}

func fileDigest(path string) (basilica.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return basilica.Digest{}, basilica.E(basilica.Invalid, "INPUT_UNREADABLE", fmt.Sprintf("input file %s cannot be read", path), "give the path of a regular file that you may read").With(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return basilica.Digest{}, fmt.Errorf("read %s: %w", path, err)
	}
	return basilica.Digest(sum.Sum(nil)), nil
}
