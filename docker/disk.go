package docker

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"basilica"
	"basilica/internal/crashpoint"
)

// outputInodes bounds the files of one output directory, however large: nobody collects as many.
const outputInodes = 16384

// MountOutput makes dir and mounts a file system of that many bytes on it, so that a job that writes more meets ENOSPC
// and the host's disk never fills. The directory beneath the mount is closed to the job: where the mount is missing in
// the engine's view, writing fails instead of filling the host.
func MountOutput(dir string, bytes int64) error {
	if bytes <= 0 {
		return fmt.Errorf("output directory of %d bytes", bytes)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make output directory: %w", err)
	}
	options := fmt.Sprintf("size=%d,nr_inodes=%d,mode=0777", bytes, min(outputInodes, inodes(bytes)))
	crashpoint.Hit("docker.mount.before")
	err := unix.Mount("basilica-out", dir, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, options)
	if errors.Is(err, unix.EPERM) {
		err = basilica.E(basilica.Denied, "MOUNT_DENIED", "this process may not mount the size-limited output directory", "run the executor as root or with CAP_SYS_ADMIN").With(err)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("mount output directory: %w", err), os.Remove(dir))
	}
	crashpoint.Hit("docker.mount.after")
	return nil
}

// OutputFull says whether a directory of MountOutput has no room left, for bytes or for another file.
func OutputFull(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, fmt.Errorf("look at output directory: %w", err)
	}
	return st.Bavail == 0 || st.Ffree == 0, nil
}

// UnmountAll unmounts whatever is mounted at or beneath root, deepest first.
func UnmountAll(root string) error {
	mounted, err := Mounted(root)
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range mounted {
		// Lazily: a process that still looks into it must not keep it.
		crashpoint.Hit("docker.unmount.before")
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", dir, err))
		}
		crashpoint.Hit("docker.unmount.after")
	}
	return errors.Join(errs...)
}

// Mounted lists the mount points at or beneath root, deepest first.
func Mounted(root string) ([]string, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if real, err := filepath.EvalSymlinks(root); err == nil {
		root = real
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	var out []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		if dir := unescapeMount(fields[4]); dir == root || strings.HasPrefix(dir, root+"/") {
			out = append(out, dir)
		}
	}
	slices.Reverse(out) // the kernel lists a mount after the one that it stands on
	return out, lines.Err()
}

// unescapeMount undoes the octal escapes of proc(5).
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
