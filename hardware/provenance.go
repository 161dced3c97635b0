package hardware

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"basilica"
)

// File says where something that was read comes from: a file or directory of the kernel, or a library of the driver.
type File struct {
	Path   string   `json:"path"`
	Real   string   `json:"real,omitempty"`  // without symbolic links, where it differs
	Links  []string `json:"links,omitempty"` // symbolic links on the way
	Kind   string   `json:"kind"`            // of the file system; empty where the table of mounts cannot be read
	Mount  string   `json:"mount"`           // where that is mounted
	Root   string   `json:"root"`            // which part of it
	Source string   `json:"source"`          // what was mounted
	SHA256 string   `json:"sha256,omitempty"`
	OK     bool     `json:"ok"` // it comes from where it should
}

// maxLibrary bounds the bytes that are hashed of one library.
const maxLibrary = 512 << 20

// origin follows what is read in one detection: it keeps the provenance of each file, and says once of each mount, link or
// library what is wrong with it.
type origin struct {
	root     Root
	table    mounts
	files    []File
	findings []basilica.Reason
	said     map[string]bool
}

// watched are the places of the kernel's file systems that speak of GPUs: nothing may be mounted there.
var watched = [...]string{"/proc/driver", "/sys/bus/pci", "/sys/devices", "/sys/module", "/sys/class/drm"}

func (r Root) origin() *origin {
	o := &origin{root: r, said: map[string]bool{}}
	var err error
	if o.table, err = r.mounts(); err != nil {
		o.find("mounts", "GPU_FILES", fmt.Sprintf("the table of mounts cannot be used: %s", basilica.OneLine(err.Error())), "")
		return o
	}
	for _, m := range o.table {
		if !slices.ContainsFunc(watched[:], func(dir string) bool { return below(m.point, dir) }) {
			continue
		}
		if top, ok := o.table.covering(m.point); ok && top.id == m.id { // else it is hidden under a later one
			o.foreign(m)
		}
	}
	return o
}

// find keeps a finding once for each cause.
func (o *origin) find(cause, code, sentence, fix string) {
	if !o.said[cause] {
		o.said[cause] = true
		o.findings = append(o.findings, reason(code, sentence, fix))
	}
}

// reason makes a finding; without a next step of its own it has the table's.
func reason(code, sentence, fix string) basilica.Reason {
	if row, ok := basilica.Explain(code); ok && fix == "" {
		fix = row.Fix
	}
	return basilica.Reason{Code: code, Sentence: basilica.OneLine(sentence), Fix: fix}
}

func (o *origin) foreign(m mount) {
	what := "a file system of kind " + m.kind
	if m.root != "/" {
		what = fmt.Sprintf("%s of a file system of kind %s", m.root, m.kind)
	}
	o.find(fmt.Sprintf("mount %d", m.id), "GPU_FILES", fmt.Sprintf("%s is mounted over %s (source %s)", what, m.point, m.source), "")
}

// kernel says whether a path belongs to the kernel's own file system at place (/proc or /sys), and keeps its provenance. A
// link may lead only below the directory into, where that is given.
func (o *origin) kernel(path, place, into string) {
	real, links, err := o.root.resolve(path)
	if err != nil {
		return // what does not exist says nothing
	}
	f := File{Path: path, Links: links, OK: true}
	if real != path {
		f.Real = real
		if into == "" || !below(real, into) {
			f.OK = false
			o.find("link "+links[0], "GPU_FILES", fmt.Sprintf("%s is reached through the symbolic link %s and is really %s", path, links[0], real), "")
		}
	}
	kind, magic := "proc", int64(magicProc)
	if place == "/sys" {
		kind, magic = "sysfs", magicSys
	}
	m, ok := o.place(&f, real)
	switch {
	case !ok:
		f.OK = false // the table of mounts was complained of
	case m.point != place || m.kind != kind || m.root != "/":
		f.OK = false
		o.foreign(m)
	default:
		// The table of mounts may itself be false: the kernel says of the open file what it is.
		if id, err := o.root.identify(filepath.Join(o.root.dir, real)); err != nil || id.magic != magic || id.device != m.device {
			f.OK = false
			o.find("identity "+place, "GPU_FILES", fmt.Sprintf("%s lies on device %s with magic number %x, and the table of mounts says %s on %s", path, id.device, id.magic, m.kind, m.device), "")
		}
	}
	o.files = append(o.files, f)
}

// place writes the mount of a path into its provenance.
func (o *origin) place(f *File, real string) (mount, bool) {
	m, ok := o.table.covering(real)
	f.Kind, f.Mount, f.Root, f.Source = m.kind, m.point, m.root, m.source
	return m, ok
}

// library is one file of the driver that is loaded into this process.
type library struct {
	path    string
	version string // of the driver, from the file's name; empty where that has none
}

var (
	libraryName    = regexp.MustCompile(`^(libcuda|libnvidia-[a-z0-9-]+)\.so(\.[0-9.]+)?$`)
	libraryVersion = regexp.MustCompile(`\.so\.([0-9]{3,4}\.[0-9]+(?:\.[0-9]+)*)$`)
)

// maxLibraries bounds the libraries of the driver in one process.
const maxLibraries = 64

// parseMaps gives the driver's libraries among the files that are mapped into a process (/proc/self/maps), each once; a file
// that was removed after it had been loaded ends in " (deleted)".
func parseMaps(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		// address perms offset dev inode path
		at := strings.IndexByte(line, '/')
		if at < 0 || len(strings.Fields(line[:at])) != 5 {
			continue
		}
		path := strings.TrimSuffix(line[at:], "\n")
		name := filepath.Base(strings.TrimSuffix(path, " (deleted)"))
		if libraryName.MatchString(name) && !slices.Contains(out, path) && len(out) < maxLibraries {
			out = append(out, path)
		}
	}
	return out
}

// libraries looks at the driver's libraries that this process has loaded, and at what makes a loader put others in front.
func (o *origin) libraries() []library {
	if text, err := o.root.text("/etc/ld.so.preload"); err == nil && strings.TrimSpace(text) != "" {
		o.find("ld.so.preload", "GPU_PRELOAD", fmt.Sprintf("/etc/ld.so.preload puts %.200q in front of every library", strings.TrimSpace(text)), "")
	}
	if text, err := o.root.text("/proc/self/environ"); err == nil {
		for v := range strings.SplitSeq(text, "\x00") {
			for _, name := range [...]string{"LD_PRELOAD=", "LD_AUDIT="} {
				if value, ok := strings.CutPrefix(v, name); ok && value != "" {
					o.find(name, "GPU_PRELOAD", fmt.Sprintf("%s%.200q is in front of every library", name, value), "")
				}
			}
		}
	}
	b, _, err := o.root.read("/proc/self/maps", maxTable)
	if err != nil {
		return nil
	}
	var out []library
	for _, path := range parseMaps(string(b)) {
		out = append(out, o.library(path))
	}
	return out
}

func (o *origin) library(path string) library {
	l := library{path: path}
	if m := libraryVersion.FindStringSubmatch(path); m != nil {
		l.version = m[1]
	}
	f := File{Path: path, OK: true}
	wrong := func(format string, args ...any) {
		f.OK = false
		o.find("library "+path, "GPU_LIBRARY", "the library "+path+" "+fmt.Sprintf(format, args...), "")
	}
	defer func() { o.files = append(o.files, f) }()
	real, links, err := o.root.resolve(path)
	if err != nil {
		wrong("that is loaded stands no longer at its path")
		return l
	}
	f.Links = links
	if real != path { // the kernel names mapped files without links
		f.Real = real
		wrong("was replaced by a symbolic link to %s after it had been loaded", real)
	}
	m, ok := o.place(&f, real)
	family, _, _ := strings.Cut(m.kind, ".") // fuse.NAME
	switch {
	case !ok:
		f.OK = false
	case m.point == real || m.point != "/" && m.root != "/" && strings.Count(m.point, "/") > 1:
		wrong("lies under a mount of its own: %s of %s (%s) at %s", m.root, m.source, m.kind, m.point)
	case m.point != "/" && slices.Contains(volatile[:], family):
		wrong("lies on a file system of kind %s, mounted at %s", m.kind, m.point)
	}
	if id, err := o.root.identify(filepath.Join(o.root.dir, real)); err != nil || id.owner != 0 || id.writable {
		wrong("may be changed by others than root")
	}
	f.SHA256 = o.digest(real)
	return l
}

// volatile are kinds of file systems on which no distribution installs a driver.
var volatile = [...]string{"tmpfs", "ramfs", "overlay", "aufs", "fuse"}

// digest is the SHA-256 of a library in hex, or nothing where it cannot be read whole.
func (o *origin) digest(real string) string {
	f, err := o.root.open(real)
	if err != nil {
		return ""
	}
	defer f.Close()
	h := sha256.New()
	if n, err := io.Copy(h, io.LimitReader(f, maxLibrary+1)); err != nil || n > maxLibrary {
		return ""
	}
	return hex.EncodeToString(h.Sum(nil))
}
