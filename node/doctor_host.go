package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"basilica"
	"basilica/docker"
	"basilica/hardware"
)

// What an executor needs of its machine.
const (
	leastMemory = 1 << 30          // bytes: one small task, a validator's check, and the programs themselves
	diskRate    = 20 << 20         // bytes a second: images of many GiB are unpacked on it
	diskSync    = time.Second      // for a small write to be safe: every state of a task is one
	diskProbe   = 32 << 20         // bytes that are written to measure that
	enginePlace = 2 << 30          // free bytes where the engine keeps images: what it keeps free, and as much again
	hostTime    = 30 * time.Second // for a disk to take the probe
)

// secretFiles are the keys of an executor, by their names in its data directory.
var secretFiles = [...]string{"executor.key", "ssh_host.key", "attest.key"}

// identity looks at keys and certificate.
func (d *doctor) identity(ctx context.Context) {
	d.check(ctx, "keys", "those that the miner certified, readable by their owner alone", func(context.Context) (string, error) {
		if _, err := os.Stat(filepath.Join(d.dir, identityFile)); errors.Is(err, fs.ErrNotExist) {
			return "", notDone{"this machine has not joined a fleet"}
		}
		for _, name := range secretFiles {
			st, err := os.Stat(filepath.Join(d.dir, name))
			switch {
			case errors.Is(err, fs.ErrNotExist): // reading them would make a new one
				return "", basilica.E(basilica.NotFound, "EXECUTOR_KEY_CHANGED", fmt.Sprintf("%s is missing in %s", name, d.dir), "put the old file back, or join again with another data directory")
			case err != nil:
				return "", fmt.Errorf("look at %s: %w", name, err)
			case st.Mode().Perm()&0o077 != 0:
				return "", basilica.E(basilica.Denied, "KEY_MODE", fmt.Sprintf("others than its owner may read %s (mode %04o)", filepath.Join(d.dir, name), st.Mode().Perm()), "chmod 600 the file; if others use this machine, take the key for known to them, and join again with another data directory")
			}
		}
		self, err := loadIdentity(d.dir)
		if err != nil {
			return "", err
		}
		d.self = self
		return fmt.Sprintf("executor %s of miner %s", self.Executor, self.Miner), nil
	})
	d.check(ctx, "certificate", "in force, and renewed before a quarter of its life is left", func(context.Context) (string, error) {
		if d.self == nil {
			return "", notDone{"this machine has no certificate: it has not joined a fleet, or its keys cannot be used"}
		}
		return d.certificate(d.deps.Now())
	})
}

func (d *doctor) certificate(now time.Time) (string, error) {
	if err := d.self.inForce(now); err != nil {
		return "", err
	}
	begins, ends := d.self.Life()
	day := ends.UTC().Format(time.DateOnly)
	switch left := ends.Sub(now); {
	case now.Before(begins):
		return "", basilica.E(basilica.Unavailable, "CERTIFICATE_EARLY", fmt.Sprintf("this executor's certificate begins %d s from now: this machine's clock is behind, or one was ahead when it was made", begins.Sub(now)/time.Second),
			"set this machine's clock by NTP: timedatectl set-ntp true; where it is right, the executor replaces the certificate by itself")
	case left < ends.Sub(begins)/4:
		return "", basilica.E(basilica.Unavailable, "CERTIFICATE_ENDS", fmt.Sprintf("this executor's certificate ends on %s and was not renewed", day), "start the executor and look that it reaches its miner: it renews by itself; after that day it must join again")
	}
	return "ends on " + day, nil
}

// host looks at kernel, memory and disk.
func (d *doctor) host(ctx context.Context, cfg ExecutorConfig) {
	d.check(ctx, "kernel", "4.6 or later", func(context.Context) (string, error) { return d.root.Kernel() })
	d.check(ctx, "control groups", "cpu, memory and pids", func(context.Context) (string, error) {
		version, err := d.root.Cgroups()
		return fmt.Sprintf("version %d with all of them", version), err
	})
	d.check(ctx, "mounts", "a directory of limited size can be mounted", func(context.Context) (string, error) {
		dir, err := os.MkdirTemp("", "basilica-doctor-*")
		if err != nil {
			return "", fmt.Errorf("probe mounts: %w", err)
		}
		return "mounted and unmounted", mountProbe(dir)
	})
	d.check(ctx, "memory", fmt.Sprintf("%s, and as much as tasks are to get", gibibytes(leastMemory)), func(ctx context.Context) (string, error) {
		facts, err := d.root.Facts(ctx, existing(d.dir))
		if err != nil {
			return "", err
		}
		d.out.about.Facts = facts
		return judgeMemory(facts.MemoryBytes)
	})
	d.check(ctx, "disk", "more free than executor.min_free_disk", func(context.Context) (string, error) {
		return enoughDisk("the data directory", existing(d.dir), max(int64(cfg.MinFreeDisk), 64<<20), "free space on it, or lower executor.min_free_disk")
	})
	d.check(ctx, "disk speed", fmt.Sprintf("%d MB/s, and a small write safe within %s", diskRate/1_000_000, diskSync), func(ctx context.Context) (string, error) { return d.diskSpeed(ctx) })
}

// judgeMemory says whether so many bytes are enough; 0 is not known.
func judgeMemory(bytes int64) (string, error) {
	switch {
	case bytes == 0:
		return "", notDone{"neither the kernel nor a control group says how much there is"}
	case bytes < leastMemory:
		return "", basilica.E(basilica.Exhausted, "MEMORY_SMALL", fmt.Sprintf("this machine gives the executor %s of memory, and %s are needed", gibibytes(bytes), gibibytes(leastMemory)), "give it more memory, or raise the limit of its control group")
	}
	return gibibytes(bytes), nil
}

// mountProbe tries the mount that every task needs in a directory of its own, which goes with it.
func mountProbe(dir string) error {
	err := docker.MountOutput(filepath.Join(dir, "out"), 64<<10)
	return errors.Join(err, docker.UnmountAll(dir), os.RemoveAll(dir))
}

func enoughDisk(what, path string, needed int64, fix string) (string, error) {
	free, err := hardware.FreeDisk(path)
	if err != nil {
		return "", err
	}
	if free < needed {
		return "", basilica.E(basilica.Exhausted, "DISK_FULL", fmt.Sprintf("the disk of %s (%s) has %s free, and %s are needed", what, path, gibibytes(free), gibibytes(needed)), fix)
	}
	return fmt.Sprintf("%s free at %s", gibibytes(free), path), nil
}

func (d *doctor) diskSpeed(ctx context.Context) (string, error) {
	dir := existing(d.dir)
	if free, err := hardware.FreeDisk(dir); err != nil || free < 4*diskProbe {
		return "", notDone{"there is too little free disk to try"}
	}
	ctx, cancel := context.WithTimeout(ctx, hostTime)
	defer cancel()
	speed, err := hardware.MeasureDisk(ctx, dir, diskProbe)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR):
		return "", notDone{"the file system cannot hold a file without a name, by which it is tried"}
	case errors.Is(err, context.DeadlineExceeded):
		return "", diskSlow(fmt.Sprintf("the disk of the data directory did not take %d MB in %s", diskProbe/1_000_000, hostTime))
	case err != nil:
		return "", err
	}
	return judgeDisk(d.root.DiskKind(dir), speed)
}

func diskSlow(what string) error {
	return basilica.E(basilica.Unavailable, "DISK_SLOW", what, "put executor.data_dir on a disk of this machine that is not held back: an SSD, not a network share")
}

// judgeDisk says in what class a disk is.
func judgeDisk(kind string, s hardware.DiskSpeed) (string, error) {
	if kind == "" {
		kind = "disk of unknown kind"
	}
	found := fmt.Sprintf("%s, %.0f MB/s, slowest small write %s", kind, s.BytesPerSecond/1e6, s.Sync.Round(time.Millisecond))
	if s.BytesPerSecond < diskRate || s.Sync > diskSync {
		return "", diskSlow("the disk of the data directory is slow: " + found)
	}
	return found, nil
}

// containers looks at the engine and its GPU hook.
func (d *doctor) containers(ctx context.Context, cfg ExecutorConfig) {
	var about docker.About
	var unfit error
	d.check(ctx, "container engine", fmt.Sprintf("Docker %s or later, with limits of memory, processes and CPU, and seccomp", docker.OldestEngine()), func(ctx context.Context) (string, error) {
		engine, err := docker.New(cfg.DockerHost, d.deps.Log)
		if err != nil {
			return "", err
		}
		d.closers.add(engine.Close)
		if _, _, err := engine.Available(ctx); err != nil {
			return "", err
		}
		d.engine = engine
		if about, unfit = engine.About(ctx); about.Version != "" {
			d.out.about.Engine = &about
			d.out.about.Facts.Engine, d.out.about.Facts.EngineVersion = "docker", about.Version
		}
		if basilica.CodeOf(unfit) == "ENGINE_STORAGE" {
			return "docker " + about.Version, nil // the next row's
		}
		runtime := ""
		if about.Runtime != "" {
			runtime = ", runc " + about.Runtime
		}
		return fmt.Sprintf("docker %s%.60s, control groups %s", about.Version, runtime, about.CgroupVersion), unfit
	})
	d.check(ctx, "images", fmt.Sprintf("a storage driver with layers, and %s free where the engine keeps them", gibibytes(enginePlace)), func(context.Context) (string, error) {
		if d.engine == nil || about.Version == "" {
			return "", notDone{"the container engine cannot be asked"}
		}
		if basilica.CodeOf(unfit) == "ENGINE_STORAGE" {
			return "", unfit
		}
		found, err := enoughDisk("the container engine", existing(about.Root), enginePlace, "free space on it, e.g. docker system prune, or move the data root of Docker")
		return about.Storage + ", " + found, err
	})
}

// toolkitRow looks at the engine's GPU hook once it is known whether the machine has a real GPU.
func (d *doctor) toolkitRow(ctx context.Context, gpus []basilica.GPU) {
	d.check(ctx, "NVIDIA container toolkit", docker.ToolkitNeeded().String()+" or later, where tasks are to get real GPUs", func(ctx context.Context) (string, error) {
		t := d.toolkit(ctx)
		d.out.about.Toolkit = t.String()
		if !haveReal(gpus) {
			return t.String() + "; not needed: this machine has no real GPU", nil
		}
		return t.String(), t.Usable()
	})
}

func haveReal(gpus []basilica.GPU) bool {
	return slices.ContainsFunc(gpus, func(g basilica.GPU) bool { return !isSoftware(g) })
}

func isSoftware(g basilica.GPU) bool { return g.Kind == basilica.GPUSoftware }

func gibibytes(n int64) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/(1<<30)), ".0") + " GiB"
}
