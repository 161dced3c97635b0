package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"basilica"
	"basilica/attestor"
	"basilica/docker"
	"basilica/hardware"
	"basilica/store"
)

// CheckState is what came of one check of a doctor.
type CheckState string

// The states of a check.
const (
	CheckPassed  CheckState = "pass"
	CheckFailed  CheckState = "fail"
	CheckNotDone CheckState = "not_checked" // Found says why
)

// Finding is one row of a diagnosis.
type Finding struct {
	Check  string     `json:"check"`
	State  CheckState `json:"state"`
	Found  string     `json:"found"`
	Needed string     `json:"needed"`
	Code   string     `json:"code,omitempty"` // of a failed check, see `basilica explain`
	Fix    string     `json:"fix,omitempty"`
}

// Diagnosis is what a doctor found on this machine.
type Diagnosis struct {
	Role     string    `json:"role"`
	OK       bool      `json:"ok"` // every check passed
	Version  string    `json:"version"`
	At       time.Time `json:"at"` // by this machine's clock
	Findings []Finding `json:"findings"`

	about about
}

// about is what a support file tells beside the findings.
type about struct {
	Facts     basilica.Facts      `json:"facts"`
	Detection *attestor.Detection `json:"detection,omitempty"`
	Engine    *docker.About       `json:"engine,omitempty"`
	Toolkit   string              `json:"toolkit,omitempty"`
}

// DoctorConfig says what is looked at.
type DoctorConfig struct {
	// Role is "executor" or "miner".
	Role string
	// Path is the configuration file that Config was read from; empty: none.
	Path   string
	Config Config
	// Unreadable is why it could not be read; Config is then of no account.
	Unreadable error
	// Full runs the GPU proof at its full size.
	Full bool
	// Busy runs it although somebody holds the GPUs.
	Busy bool
	// Began is told of each check before it is done; nil: nobody watches.
	Began func(check string)
}

// Examine looks at a role's machine as those who will judge it do. It changes nothing that stays: beside a running role it
// reads without the data directory's lock, and while it proves the GPUs it holds them in the machine's ledger. What ctx ends
// is not checked.
func Examine(ctx context.Context, cfg DoctorConfig, deps Deps) Diagnosis {
	d := &doctor{cfg: cfg, deps: deps, root: hardware.Real(), toolkit: docker.FindToolkit}
	d.out = Diagnosis{Role: cfg.Role, Version: Version(), At: deps.Now().UTC(), Findings: []Finding{}}
	defer d.close()
	switch cfg.Role {
	case "miner":
		d.examineMiner(ctx)
	default:
		d.examineExecutor(ctx)
	}
	d.out.OK = !slices.ContainsFunc(d.out.Findings, func(f Finding) bool { return f.State != CheckPassed })
	return d.out
}

// kernelFiles is what a doctor reads of the kernel.
type kernelFiles interface {
	Kernel() (release string, err error)
	Cgroups() (version int, err error)
	DiskKind(path string) string
	Facts(ctx context.Context, disk string) (basilica.Facts, error)
}

// doctor is one examination.
type doctor struct {
	cfg     DoctorConfig
	deps    Deps
	root    kernelFiles
	toolkit func(context.Context) docker.Toolkit

	out     Diagnosis
	closers closers

	dir     string // data directory, absolute
	running bool   // a process has its lock
	engine  *docker.Engine
	child   *attestor.Child // nil: it cannot be run
	self    *identity       // nil: not joined, or not readable
	clocks  []reading
	miner   *basilica.Reached // nil: the miner was not asked, or did not answer
	away    error             // why it did not answer
	own     [2]error          // of this machine's own calls to its gRPC and SSH door, at their announced addresses
}

// notDone is why a check could not be done.
type notDone struct{ why string }

func (n notDone) Error() string { return n.why }

// check does one check and makes its row. Its error is a failure, or notDone.
func (d *doctor) check(ctx context.Context, name, needed string, do func(context.Context) (found string, err error)) {
	if d.cfg.Began != nil {
		d.cfg.Began(name)
	}
	f := Finding{Check: name, Needed: needed}
	var err error
	if ctx.Err() != nil {
		err = notDone{"interrupted"}
	} else {
		f.Found, err = do(ctx)
	}
	d.out.Findings = append(d.out.Findings, judged(f, err))
}

// judged fills in what came of a check.
func judged(f Finding, err error) Finding {
	var undone notDone
	var e *basilica.Error
	switch {
	case err == nil:
		f.State = CheckPassed
	case errors.As(err, &undone) || errors.Is(err, context.Canceled):
		f.State, f.Found = CheckNotDone, undone.why
		if f.Found == "" {
			f.Found = "interrupted"
		}
	case errors.As(err, &e):
		f.State, f.Found, f.Code, f.Fix = CheckFailed, e.Sentence, e.Code, e.Fix
		if e.Err != nil {
			f.Found += fmt.Sprintf(" (%.300s)", e.Err)
		}
		if row, known := basilica.Explain(e.Code); known && f.Fix == "" {
			f.Fix = row.Fix
		}
	default:
		f.State, f.Found, f.Code, f.Fix = CheckFailed, err.Error(), "EXECUTOR_FAULT", "run it as the user of the role, and read the sentence: it is what the system said"
	}
	f.Found, f.Needed, f.Fix = basilica.OneLine(f.Found), basilica.OneLine(f.Needed), basilica.OneLine(f.Fix)
	return f
}

func (d *doctor) close() {
	if err := d.closers.close(); err != nil {
		d.deps.Log.Debug("close what was looked at", "err", err)
	}
}

// examineExecutor looks at a GPU machine, from its own file outwards to its miner.
func (d *doctor) examineExecutor(ctx context.Context) {
	cfg := d.cfg.Config.Executor
	d.check(ctx, "configuration", "no key is unknown and every value in its range", func(context.Context) (string, error) {
		return d.configured(cfg.Validate())
	})
	if d.out.Findings[0].State == CheckFailed {
		return // what would be looked at stands in it
	}
	d.check(ctx, "data directory", "readable by this user", func(context.Context) (found string, err error) {
		found, _, err = d.dataDir(cfg.DataDir, "executor")
		return found, err
	})
	d.identity(ctx)
	d.host(ctx, cfg)
	d.containers(ctx, cfg)
	d.gpus(ctx, cfg)
	d.fleet(ctx, cfg)
}

// configured is the row of a configuration.
func (d *doctor) configured(wrong error) (string, error) {
	if err := cmp.Or(d.cfg.Unreadable, wrong); err != nil {
		return "", err
	}
	if d.cfg.Path == "" {
		return "no file: defaults and environment", nil
	}
	return d.cfg.Path, nil
}

// dataDir finds the data directory and the process that uses it.
func (d *doctor) dataDir(dir, role string) (found string, pid int, err error) {
	if d.dir, err = DataDir(dir); err != nil {
		return "", 0, err
	}
	st, err := os.Stat(d.dir)
	if errors.Is(err, os.ErrNotExist) {
		return d.dir + " does not exist yet", 0, nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("look at the data directory: %w", err)
	}
	if pid, d.running, err = store.Holder(d.dir, role); err != nil {
		return "", 0, err
	}
	if !st.IsDir() {
		return "", pid, invalid(role+".data_dir", fmt.Sprintf("%s is no directory", d.dir), "name a directory")
	}
	if !d.running {
		return d.dir + ", in which nothing runs", 0, nil
	}
	return fmt.Sprintf("%s, in which a process (pid %d) runs", d.dir, pid), pid, nil
}

// existing is the nearest directory to a path that exists.
func existing(path string) string {
	for {
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			return path
		}
		parent := filepath.Dir(path)
		if parent == path {
			return path
		}
		path = parent
	}
}

// portOf is the port of host:port.
func portOf(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	return port
}
