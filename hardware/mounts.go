package hardware

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// mount is one line of /proc/self/mountinfo (proc(5)).
type mount struct {
	id, parent int
	device     string // major:minor
	root       string // which part of its file system is mounted; / is all of it
	point      string // where
	kind       string // of file system
	source     string
	super      string // options of the file system
}

// maxMounts bounds the table.
const maxMounts = 32768

// mounts is the table of this process's mounts in the kernel's order.
type mounts []mount

var errMounts = errors.New("a line of mountinfo is malformed")

// parseMounts reads mountinfo: "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue".
func parseMounts(text string) (mounts, error) {
	var table mounts
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		left, right := strings.Split(before, " "), strings.Split(after, " ")
		if !ok || len(left) < 6 || len(right) < 3 || len(table) == maxMounts {
			return nil, errMounts
		}
		id, err := strconv.Atoi(left[0])
		parent, err2 := strconv.Atoi(left[1])
		if err != nil || err2 != nil || !strings.HasPrefix(left[4], "/") {
			return nil, errMounts
		}
		table = append(table, mount{
			id: id, parent: parent, device: left[2], root: unescape(left[3]), point: unescape(left[4]),
			kind: right[0], source: unescape(right[1]), super: right[2],
		})
	}
	if len(table) == 0 {
		return nil, errMounts
	}
	return table, nil
}

// unescape reads the kernel's \ooo for space, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// below says whether path is dir or stands in it.
func below(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// covering gives the mount that a path without symbolic links lies on, as the kernel walks it: at each directory the mount
// whose parent is the one walked on, the last one over the others. It is false where no mount is the root's.
func (t mounts) covering(path string) (mount, bool) {
	// The root is the mount at / that stands on none of the table.
	at := slices.IndexFunc(t, func(m mount) bool {
		return m.point == "/" && (m.parent == m.id || !slices.ContainsFunc(t, func(p mount) bool { return p.id == m.parent }))
	})
	if at < 0 {
		return mount{}, false
	}
	for range t { // each step goes one mount up; a table that names itself its parent ends here too
		next := -1
		for i, m := range t {
			if i != at && m.id != m.parent && m.parent == t[at].id && below(path, m.point) && below(m.point, t[at].point) &&
				(next < 0 || len(m.point) <= len(t[next].point)) {
				next = i
			}
		}
		if next < 0 {
			break
		}
		at = next
	}
	return t[at], true
}

// mounts reads the table; an error says that it cannot be used.
func (r Root) mounts() (mounts, error) {
	b, whole, err := r.read("/proc/self/mountinfo", maxTable)
	if err != nil {
		return nil, err
	}
	if !whole {
		return nil, errors.New("mountinfo is too long")
	}
	return parseMounts(string(b))
}
