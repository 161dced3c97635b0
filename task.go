package basilica

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// TaskSpec is what a client wants run. Its JSON, byte for byte as the client signed it, is what SpecDigest hashes.
type TaskSpec struct {
	Name           string            `json:"name,omitempty"`
	Image          string            `json:"image"`   // by digest from a registry, a name that the engine knows, or ImageBlobPrefix and a digest
	Command        []string          `json:"command"` // argv; the image's own entry point is not used unless this is empty
	Env            map[string]string `json:"env,omitempty"`
	GPUs           int               `json:"gpus"`
	AllowSoftware  bool              `json:"allow_software,omitempty"` // a software device may serve as a GPU
	CPUMillis      int64             `json:"cpu_millis,omitempty"`     // thousandths of one CPU; 0: the executor's default
	MemoryBytes    int64             `json:"memory_bytes,omitempty"`   // 0: the executor's default
	OutputBytes    int64             `json:"output_bytes,omitempty"`   // size of /out; 0: the executor's default
	TimeoutSeconds int64             `json:"timeout_seconds,omitempty"`
	Inputs         []TaskFile        `json:"inputs,omitempty"` // mounted read-only at /in/NAME
	Labels         map[string]string `json:"labels,omitempty"`
	Registry       *RegistryAuth     `json:"registry,omitempty"` // for a private registry
	Retries        int               `json:"retries,omitempty"`  // how often the task may be run again from its start after an attempt that may have run was lost
}

// TaskFile is one input or output by name and content.
type TaskFile struct {
	Name string `json:"name"` // a relative path with / that stays beneath its root
	Blob
}

// Caps of a task spec; a door refuses more.
const (
	MaxSpecBytes    = 64 << 10
	MaxTaskFiles    = 256
	MaxFileName     = 255
	MaxBlobBytes    = 8 << 30
	MaxLogBytes     = 64 << 20
	MaxTaskGPUs     = 64
	MaxTaskRetries  = 3
	MaxTaskTimeout  = 30 * 24 * time.Hour
	DefaultTimeout  = time.Hour
	maxCommandWords = 1024
)

// Names and labels are shown to people of other parties, in tables and logs.
var (
	taskName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	labelName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$`)
)

const maxLabelValue = 256 // bytes

// ValidateName checks the name of a task, which may be empty (NAME_INVALID).
func ValidateName(name string) error {
	if name != "" && !taskName.MatchString(name) {
		return E(Invalid, "NAME_INVALID", fmt.Sprintf("%.80q is no name of a task", name), "use 1 to 63 letters, digits, dots, hyphens and underscores, a letter or digit first")
	}
	return nil
}

// ValidateLabels checks the labels of a task (LABEL_INVALID).
func ValidateLabels(labels map[string]string) error {
	for k, v := range labels {
		if !labelName.MatchString(k) || len(v) > maxLabelValue || OneLine(v) != v {
			return E(Invalid, "LABEL_INVALID", fmt.Sprintf("%.80q=%.80q is no label", k, v), "use KEY=VALUE: the key of 1 to 63 letters, digits and ._/-, the value of at most 256 printable bytes")
		}
	}
	return nil
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// Validate checks everything that does not depend on a machine.
func (s *TaskSpec) Validate() error {
	bad := func(format string, args ...any) error {
		return E(Invalid, "TASK_INVALID", "the task is not valid: "+fmt.Sprintf(format, args...), "correct that part of the task and submit it again")
	}
	switch {
	case s.Image == "" || len(s.Image) > 512:
		return bad("image is empty or longer than 512 bytes")
	case strings.HasPrefix(s.Image, "blob:") && !isImageBlob(s.Image):
		return bad("an image of a file is written %s and 64 hex digits", ImageBlobPrefix)
	case len(s.Command) > maxCommandWords:
		return bad("more than %d words of command", maxCommandWords)
	case s.GPUs < 0 || s.GPUs > MaxTaskGPUs:
		return bad("gpus %d is outside 0..%d", s.GPUs, MaxTaskGPUs)
	case s.CPUMillis < 0 || s.MemoryBytes < 0 || s.OutputBytes < 0 || s.TimeoutSeconds < 0:
		return bad("a negative resource")
	case s.TimeoutSeconds > int64(MaxTaskTimeout/time.Second):
		return bad("timeout is over %s", MaxTaskTimeout)
	case s.Retries < 0 || s.Retries > MaxTaskRetries:
		return bad("retries %d is outside 0..%d", s.Retries, MaxTaskRetries)
	case len(s.Inputs) > MaxTaskFiles:
		return bad("more than %d inputs", MaxTaskFiles)
	case len(s.Env) > 256 || len(s.Labels) > 64:
		return bad("more than 256 variables or 64 labels")
	}
	for k, v := range s.Env {
		if !envName.MatchString(k) || strings.ContainsRune(v, 0) {
			return bad("environment variable %.40q", k)
		}
	}
	if err := errors.Join(ValidateName(s.Name), ValidateLabels(s.Labels)); err != nil {
		return err
	}
	return ValidateFiles(s.Inputs)
}

func isImageBlob(image string) bool {
	_, ok := ImageBlob(image)
	return ok
}

// ValidateFiles checks names and sizes of inputs or outputs: relative, beneath their root, regular, and distinct even
// where case is ignored.
func ValidateFiles(files []TaskFile) error {
	seen := make(map[string]bool, len(files))
	for _, f := range files {
		if !ValidFileName(f.Name) {
			return E(Invalid, "FILE_NAME", fmt.Sprintf("file name %.80q does not stay beneath its root", f.Name), "use a relative name without .., empty parts or control characters")
		}
		if f.Size < 0 || f.Size > MaxBlobBytes {
			return E(Invalid, "FILE_SIZE", fmt.Sprintf("file %q has %d bytes, outside 0..%d", f.Name, f.Size, int64(MaxBlobBytes)), "split the file")
		}
		folded := strings.ToLower(f.Name)
		if seen[folded] {
			return E(Invalid, "FILE_TWICE", fmt.Sprintf("file name %q stands twice, or differs by case alone", f.Name), "rename one of the files")
		}
		seen[folded] = true
	}
	for _, f := range files {
		for i, c := range f.Name {
			if c == '/' && seen[strings.ToLower(f.Name[:i])] {
				return E(Invalid, "FILE_TWICE", fmt.Sprintf("file name %q stands for a directory of %q too", f.Name[:i], f.Name), "rename one of the files")
			}
		}
	}
	return nil
}

// ValidFileName says whether name is a clean relative path with / of printable characters.
func ValidFileName(name string) bool {
	if name == "" || len(name) > MaxFileName || strings.ContainsAny(name, "\\\x00") {
		return false
	}
	for _, r := range name {
		if r < 0x20 || r == 0x7f || r == '\uFFFD' {
			return false
		}
	}
	return !slices.ContainsFunc(strings.Split(name, "/"), func(p string) bool { return p == "" || p == "." || p == ".." })
}

// TaskState is where a task stands in its life.
type TaskState string

// The states. The miner moves queued to placed and to lost; the executor's witnessed events move the rest;
// the client moves to cancelled through the miner.
const (
	TaskQueued    TaskState = "queued"
	TaskPlaced    TaskState = "placed"
	TaskPulling   TaskState = "pulling"
	TaskRunning   TaskState = "running"
	TaskSucceeded TaskState = "succeeded"
	TaskFailed    TaskState = "failed"
	TaskCancelled TaskState = "cancelled"
	TaskTimedOut  TaskState = "timed_out"
	TaskLost      TaskState = "lost"
)

var taskMoves = map[TaskState][]TaskState{
	TaskQueued:  {TaskPlaced, TaskCancelled, TaskFailed},
	TaskPlaced:  {TaskQueued, TaskPulling, TaskRunning, TaskFailed, TaskCancelled, TaskTimedOut, TaskLost},
	TaskPulling: {TaskQueued, TaskRunning, TaskFailed, TaskCancelled, TaskTimedOut, TaskLost},
	TaskRunning: {TaskQueued, TaskSucceeded, TaskFailed, TaskCancelled, TaskTimedOut, TaskLost},
}

// Terminal says that the state is final.
func (s TaskState) Terminal() bool {
	switch s {
	case TaskSucceeded, TaskFailed, TaskCancelled, TaskTimedOut, TaskLost:
		return true
	}
	return false
}

// Step moves a task's state; it refuses a move that the table does not have. A task goes back to queued where its attempt
// certainly never ran, however often that happens up to the miner's bound; where it may have run, only as often as
// TaskSpec.Retries says. So a task of which its client says nothing runs at most once.
func (s TaskState) Step(to TaskState) (TaskState, error) {
	if s == to {
		return s, nil
	}
	if !slices.Contains(taskMoves[s], to) {
		return s, E(Conflict, "TASK_STATE", fmt.Sprintf("a task cannot go from %s to %s", s, to), "")
	}
	return to, nil
}

// Reason explains an end or a refusal: a code, one sentence, and the next step where there is one.
type Reason struct {
	Code     string `json:"code"`
	Sentence string `json:"sentence"`
	Fix      string `json:"fix,omitempty"`
}

// Task is one submitted spec and what became of it.
type Task struct {
	ID             TaskID         `json:"id"`
	Client         Hotkey         `json:"client"`
	IdempotencyKey string         `json:"idempotency_key"`
	Spec           TaskSpec       `json:"spec"`
	SpecDigest     Digest         `json:"spec_digest"` // of the spec's bytes as signed by the client
	State          TaskState      `json:"state"`
	Reason         *Reason        `json:"reason,omitempty"`
	Executor       ExecutorID     `json:"executor,omitempty"`
	Attempt        int            `json:"attempt"` // counts what executors may have held, from 1; an earlier attempt's word is ignored
	GPUs           []string       `json:"gpus,omitempty"`
	Created        time.Time      `json:"created"`
	Started        *time.Time     `json:"started,omitempty"`
	Ended          *time.Time     `json:"ended,omitempty"`
	ExitCode       *int           `json:"exit_code,omitempty"`
	Outputs        []TaskFile     `json:"outputs,omitempty"`
	LogBytes       int64          `json:"log_bytes"`
	LogStart       int64          `json:"log_start,omitempty"` // bytes of the log that earlier attempts wrote; a receipt speaks of those behind them
	Receipt        *SignedReceipt `json:"receipt,omitempty"`
}

// LogStream tells the two streams of a container apart.
type LogStream uint8

// The streams.
const (
	Stdout LogStream = 1
	Stderr LogStream = 2
)

// LogChunk is a piece of a task's log. Offset counts bytes of both streams together, in the order in which they were
// read, so that one number resumes a log.
type LogChunk struct {
	Offset int64     `json:"offset"`
	Stream LogStream `json:"stream"`
	Data   []byte    `json:"data"`
}

// TaskEvent is one step of a running task: a change of state, or a piece of log.
type TaskEvent struct {
	Task     TaskID         `json:"task"`
	Attempt  int            `json:"attempt"`
	State    TaskState      `json:"state"`               // the state after this event
	LogStart int64          `json:"log_start,omitempty"` // where this attempt's log begins
	At       time.Time      `json:"at"`
	Reason   *Reason        `json:"reason,omitempty"`
	Log      *LogChunk      `json:"log,omitempty"`
	ExitCode *int           `json:"exit_code,omitempty"`
	Outputs  []TaskFile     `json:"outputs,omitempty"`
	Receipt  *SignedReceipt `json:"receipt,omitempty"` // with the last event of a task that ended on an executor
	// LogForgotten says with the last event that the log from where it was asked for is kept no more, or not all of it.
	LogForgotten bool `json:"log_forgotten,omitempty"`
}
