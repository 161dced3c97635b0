package hardware

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is the directory under which a machine's /proc, /sys, /etc and libraries stand; symbolic links in it stay below it.
type Root struct {
	dir      string
	identify func(path string) (identity, error)
}

// Real gives this machine's own root.
func Real() Root { return At("/") }

// At gives the root of a machine that stands below a directory.
func At(dir string) Root { return Root{dir: dir, identify: identify} }

// identity is what the kernel itself says of an open file, whatever stands in the table of mounts.
type identity struct {
	magic    int64  // of the file system, statfs(2)
	device   string // major:minor of the file system
	owner    uint32 // user id
	writable bool   // by others than the owner
}

// Magic numbers of the kernel's own file systems, from linux/magic.h.
const (
	magicProc = 0x9fa0
	magicSys  = 0x62656572
)

func identify(path string) (identity, error) {
	var sfs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Statfs(path, &sfs), unix.Stat(path, &st)); err != nil {
		return identity{}, err
	}
	return identity{
		magic: int64(sfs.Type), device: fmt.Sprintf("%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))),
		owner: st.Uid, writable: st.Mode&0o022 != 0,
	}, nil
}

const (
	maxFile  = 64 << 10 // bytes that are read of a kernel file
	maxTable = 8 << 20  // of a table that grows with the machine: mounts, mapped libraries
	maxLinks = 40       // symbolic links on one path, as the kernel allows
)

// text reads a small file; path is absolute, as on the machine.
func (r Root) text(path string) (string, error) {
	b, _, err := r.read(path, maxFile)
	return string(b), err
}

// read gives at most limit bytes of a regular file, and whether that was all of it.
func (r Root) read(path string, limit int) (b []byte, whole bool, err error) {
	f, err := r.open(path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	b, err = io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if len(b) > limit {
		return b[:limit], false, err
	}
	return b, err == nil, err
}

// open opens a regular file. A pipe or a device in its place is refused: reading it could wait for ever.
func (r Root) open(path string) (*os.File, error) {
	real, _, err := r.resolve(path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(r.dir, real), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is no regular file", path), f.Close())
	}
	return f, nil
}

// line reads the first line of a small file, or nothing.
func (r Root) line(path string) string {
	text, err := r.text(path)
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(first)
}

// names lists a directory in order, at most maxNames entries.
func (r Root) names(path string) ([]string, error) {
	real, _, err := r.resolve(path)
	if err != nil {
		return nil, err
	}
	d, err := os.Open(filepath.Join(r.dir, real))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxNames)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// ring reads the kernel's log as far as it is kept and this user may read it.
func (r Root) ring() string {
	fd, err := unix.Open(filepath.Join(r.dir, "dev/kmsg"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var b strings.Builder
	for buf := make([]byte, 8192); b.Len() < maxTable; { // each read gives one message
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EINTR) {
			continue // the oldest message was overwritten meanwhile
		}
		if n <= 0 || err != nil {
			break
		}
		b.Write(buf[:n])
	}
	return b.String()
}

// maxNames bounds the entries that are read of a directory.
const maxNames = 4096

// link gives the last part of what a symbolic link points to, or nothing.
func (r Root) link(path string) string {
	target, err := os.Readlink(filepath.Join(r.dir, path))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// resolve follows the symbolic links of an absolute path below the root, and gives the path without links and the links
// that it met.
func (r Root) resolve(path string) (real string, links []string, err error) {
	rest := strings.Split(filepath.Clean("/"+path), "/")[1:]
	real = "/"
	for len(rest) > 0 {
		next := filepath.Join(real, rest[0])
		rest = rest[1:]
		st, err := os.Lstat(filepath.Join(r.dir, next))
		if err != nil {
			return "", links, err
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			real = next
			continue
		}
		if links = append(links, next); len(links) > maxLinks {
			return "", links, fmt.Errorf("resolve %s: more than %d symbolic links", path, maxLinks)
		}
		target, err := os.Readlink(filepath.Join(r.dir, next))
		if err != nil {
			return "", links, err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(real, target)
		}
		real, rest = "/", append(strings.Split(filepath.Clean(target), "/")[1:], rest...)
	}
	return real, links, nil
}
