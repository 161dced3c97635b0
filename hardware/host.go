package hardware

import (
	"context"
	"crypto/rand"
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
)

// oldestKernel is the first whose containers can have a view of their own of the control groups.
const oldestMajor, oldestMinor = 4, 6

// Kernel gives the kernel's release, and refuses one that is too old to contain a stranger: KERNEL_OLD.
func (r Root) Kernel() (release string, err error) {
	release = r.line("/proc/sys/kernel/osrelease")
	var major, minor int
	if n, err := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 || err != nil {
		return release, nil // who does not say is not refused
	}
	if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		return release, basilica.E(basilica.Unavailable, "KERNEL_OLD", fmt.Sprintf("the kernel %.60s is older than %d.%d, the first with namespaces of control groups", release, oldestMajor, oldestMinor), "install a newer kernel")
	}
	return release, nil
}

// controllers are those by which a container is bounded.
var controllers = [...]string{"cpu", "memory", "pids"}

// Cgroups gives the version of the control groups, 1 or 2, and refuses a kernel that has not all controllers by which a
// container is bounded: CGROUP_MISSING.
func (r Root) Cgroups() (version int, err error) {
	const root = "/sys/fs/cgroup"
	var missing []string
	have, err := r.text(filepath.Join(root, "cgroup.controllers"))
	switch {
	case err == nil:
		version = 2
		for _, c := range controllers {
			if !slices.Contains(strings.Fields(have), c) {
				missing = append(missing, c)
			}
		}
	case errors.Is(err, fs.ErrNotExist):
		version = 1
		for _, c := range controllers {
			if _, _, err := r.resolve(filepath.Join(root, c)); err != nil {
				missing = append(missing, c)
			}
		}
	default:
		return 0, fmt.Errorf("read control groups: %w", err)
	}
	if len(missing) > 0 {
		return version, basilica.E(basilica.Unavailable, "CGROUP_MISSING", "the kernel's control groups lack "+strings.Join(missing, ", "),
			"mount all of them, or boot with cgroup_enable=memory and without cgroup_disable")
	}
	return version, nil
}

// DiskKind says what a path's disk is: "ssd", "hdd", "memory", or "" where the kernel does not say.
func (r Root) DiskKind(path string) string {
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) == nil && (fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC) {
		return "memory"
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ""
	}
	at := filepath.Join("/sys/dev/block", fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	real, _, err := r.resolve(at)
	if err != nil {
		return ""
	}
	for _, queue := range []string{"queue/rotational", "../queue/rotational"} { // of a disk, of its partition
		switch r.line(filepath.Join(real, queue)) {
		case "0":
			return "ssd"
		case "1":
			return "hdd"
		}
	}
	return ""
}

// DiskSpeed is how fast a disk took what was written.
type DiskSpeed struct {
	BytesPerSecond float64       // of one long write, until it was safe
	Sync           time.Duration // the longest of some small writes, until each was safe
}

const (
	speedChunk = 1 << 20
	speedSyncs = 8
)

// MeasureDisk writes so many bytes into a file of dir that has no name, and some small pieces after it.
func MeasureDisk(ctx context.Context, dir string, bytes int64) (s DiskSpeed, err error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return s, fmt.Errorf("write to %s: %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	chunk := make([]byte, speedChunk)
	if _, err := rand.Read(chunk); err != nil {
		return s, err
	}
	write := func(p []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		_, err := f.Write(p)
		return err
	}
	begun := Uptime()
	for left := bytes; left > 0; left -= speedChunk {
		if err := write(chunk[:min(left, speedChunk)]); err != nil {
			return s, fmt.Errorf("write to %s: %w", dir, err)
		}
	}
	if err := f.Sync(); err != nil {
		return s, fmt.Errorf("write to %s: %w", dir, err)
	}
	s.BytesPerSecond = float64(bytes) / max(Uptime()-begun, time.Microsecond).Seconds()
	for range speedSyncs {
		begun := Uptime()
		if err := write(chunk[:4096]); err != nil {
			return s, fmt.Errorf("write to %s: %w", dir, err)
		}
		if err := f.Sync(); err != nil {
			return s, fmt.Errorf("write to %s: %w", dir, err)
		}
		s.Sync = max(s.Sync, Uptime()-begun)
	}
	return s, nil
}
