package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mounts: changing what stands where, and writing where nothing may be written.
func mounts() {
	for _, m := range []struct {
		name, source, target, kind string
		flags                      uintptr
	}{
		{"mount a tmpfs", "none", "/tmp", "tmpfs", 0},
		{"mount proc", "proc", "/tmp", "proc", 0},
		{"mount a cgroup file system", "none", "/tmp", "cgroup", 0},
		{"mount overlay", "overlay", "/tmp", "overlay", 0},
		{"bind / to /tmp", "/", "/tmp", "", unix.MS_BIND},
		{"remount / for writing", "", "/", "", unix.MS_REMOUNT},
		{"remount /sys for writing", "", "/sys", "", unix.MS_REMOUNT},
		{"remount /proc/sys for writing", "", "/proc/sys", "", unix.MS_REMOUNT | unix.MS_BIND},
		{"remount /in for writing", "", "/in", "", unix.MS_REMOUNT | unix.MS_BIND},
		{"remount /tmp with set-user-ID", "", "/tmp", "", unix.MS_REMOUNT},
		{"make / shared with the host", "", "/", "", unix.MS_SHARED | unix.MS_REC},
	} {
		refused(m.name, unix.Mount(m.source, m.target, m.kind, m.flags, ""))
	}
	refused("unmount /proc/kcore, to see what it covers", unix.Unmount("/proc/kcore", unix.MNT_DETACH))
	refused("unmount /sys/firmware", unix.Unmount("/sys/firmware", unix.MNT_DETACH))
	refused("pivot_root", unix.PivotRoot("/tmp", "/tmp"))
	_, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE)
	refused("open_tree of /", err)
	_, err = unix.Fsopen("proc", 0)
	refused("fsopen of proc", err)
	refused("move_mount", unix.MoveMount(unix.AT_FDCWD, "/in", unix.AT_FDCWD, "/tmp", 0))
	refused("mount_setattr of /", unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}))
	writableFiles()
}

// expected are the places that a job may write; the disk attempt fills each of them.
var expected = [...]string{"/dev/mqueue", "/dev/shm", "/home/job", "/out", "/tmp", "/volume"}

// writableFiles walks the whole tree but the kernel's and tries to write every file and into every folder.
func writableFiles() {
	var wrote, into []string
	tried := 0
	err := filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fs.SkipDir
		case path == "/proc" || path == "/sys":
			return fs.SkipDir
		case d.IsDir():
			tried++
			f, err := os.CreateTemp(path, ".escape-*")
			if err != nil {
				return nil
			}
			f.Close()
			os.Remove(f.Name())
			into = append(into, path)
		case d.Type().IsRegular():
			tried++
			if under(path, expected[:]) {
				return nil
			}
			if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
				f.Close()
				wrote = append(wrote, path)
			}
		}
		return nil
	})
	slices.Sort(into)
	say("write any file of the image or the engine", err == nil && wrote == nil, "%d places tried, written %v", tried, wrote)
	say("write into any folder but one's own", err == nil && slices.Equal(into, expected[:]), "written into %v", into)
	f, err := os.OpenFile("/in/data", os.O_WRONLY, 0)
	if err == nil {
		f.Close()
	}
	refused("write an input", err)
	refused("delete an input", os.Remove("/in/data"))
	refused("open an input to all by chmod", os.Chmod("/in/data", 0o777))
	refused("link an input into /out", os.Link("/in/data", "/out/linked"))
	refused("link a file of the image into /tmp", os.Link("/escape", "/tmp/linked"))
	refused("write this very program (/proc/self/exe)", writable("/proc/self/exe"))
	refused("write the container's init, a file of the host (/proc/1/exe)", writable("/proc/1/exe"))
}

func under(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return path == r || strings.HasPrefix(path, r+"/") })
}

func writable(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// devices: everything beneath /dev, and nodes of one's own.
func devices() {
	harmless := []string{"full", "null", "ptmx", "random", "tty", "urandom", "zero"}
	var odd, opened []string
	entries, err := os.ReadDir("/dev")
	if err != nil {
		say("list /dev", false, "%v", err)
		return
	}
	for _, e := range entries {
		if e.Type()&fs.ModeDevice == 0 {
			continue
		}
		if !slices.Contains(harmless, e.Name()) {
			odd = append(odd, e.Name())
		}
		if e.Type()&fs.ModeCharDevice == 0 {
			opened = append(opened, e.Name())
		}
	}
	say("find a device of the host in /dev", odd == nil, "beside the harmless %v: %v", harmless, odd)
	say("find a block device in /dev", opened == nil, "%v", opened)
	for _, d := range []string{"mem", "kmem", "kmsg", "port", "fuse", "kvm", "net/tun", "vsock", "vhost-net", "vda", "sda", "nvme0n1", "loop-control", "mapper/control", "hpet", "snapshot", "uinput", "cpu/0/msr"} {
		f, err := os.Open("/dev/" + d)
		if err == nil {
			f.Close()
		}
		refused("open /dev/"+d, err)
	}
	// The kernel names its disks to everybody; reading one would need its node.
	disks := [][2]uint32{{8, 0}, {254, 0}, {259, 0}}
	if text, err := os.ReadFile("/proc/partitions"); err == nil {
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) == 4 {
				major, merr := strconv.ParseUint(f[0], 10, 32)
				minor, nerr := strconv.ParseUint(f[1], 10, 32)
				if merr == nil && nerr == nil {
					disks = append(disks, [2]uint32{uint32(major), uint32(minor)})
				}
			}
		}
	}
	made := map[string]int{}
	ok := true
	for _, d := range disks {
		for _, dir := range []string{"/tmp", "/dev/shm", "/out", "/home/job", "/volume"} {
			err := unix.Mknod(dir+"/disk", unix.S_IFBLK|0o666, int(unix.Mkdev(d[0], d[1])))
			ok = ok && err != nil
			made[fmt.Sprint(err)]++
		}
	}
	say("make nodes of the host's disks in every writable place", ok, "%s", describe(made))
	for _, n := range []string{"/disk", "/memory", "/log"} { // the engine made them when it unpacked the image
		f, err := os.OpenFile(n, os.O_RDWR, 0)
		if err == nil {
			f.Close()
		}
		refused("open the image's own node of the host's "+n[1:], err)
	}
	refused("make a node of /dev/kmsg", unix.Mknod("/tmp/kmsg", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 11))))
}

// processes: others' processes, and the container's first.
func processes() {
	pids, comms := 0, []string{}
	strange := false
	entries, err := os.ReadDir("/proc")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		pids++
		comm, err := os.ReadFile("/proc/" + e.Name() + "/comm")
		name := strings.TrimSpace(string(comm))
		if err != nil {
			continue
		}
		comms = append(comms, name)
		strange = strange || !slices.Contains([]string{"docker-init", "escape", "exe", "tini"}, name)
	}
	say("see a process of the host or of another task", err == nil && !strange, "%d processes: %v", pids, comms)
	pid, err := strconv.Atoi(host("PID"))
	if err != nil {
		say("signal a process of the host", false, "the test named none")
		return
	}
	refused("signal a process of the host", unix.Kill(pid, 0))
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0)
	refused("trace a process of the host", asError(e))
	buf := make([]byte, 8)
	local := []unix.Iovec{{Base: &buf[0], Len: 8}}
	_, err = unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
	refused("read the memory of a process of the host", err)
	// The container's init has the job's own user and nothing more; tracing it gives what the job has already.
	_, _, e = unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, 1, 0, 0, 0, 0)
	text, err := os.ReadFile("/proc/1/status")
	bare := err == nil && bytes.Contains(text, []byte("CapEff:\t0000000000000000")) && bytes.Contains(text, []byte("CapPrm:\t0000000000000000"))
	what := "refused: " + e.Error()
	if e == 0 {
		what = "it is the container's own init, of the same user and without a capability"
	}
	say("trace pid 1 for its privileges", e != 0 || bare, "%s", what)
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		fd, err := unix.Open("/proc/1/ns/"+ns, unix.O_RDONLY, 0)
		if err != nil {
			refused("enter pid 1's "+ns+" namespace", err)
			continue
		}
		refused("enter pid 1's "+ns+" namespace", unix.Setns(fd, 0))
		unix.Close(fd)
	}
	_, err = os.Stat("/proc/1/root" + host("FILE"))
	refused("reach the host's files through /proc/1/root", err)
	for _, dir := range []string{"cwd", "root"} {
		_, err = os.Stat("/proc/self/" + dir + "/../../../.." + host("FILE"))
		refused("reach the host's files through /proc/self/"+dir+"/..", err)
	}
}

// procAndSys: the kernel's own files.
func procAndSys() {
	for _, f := range []string{
		"/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug",
		"/proc/sys/fs/binfmt_misc/register", "/proc/sys/vm/overcommit_memory", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/hostname",
		"/sys/kernel/uevent_helper", "/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/memory/memory.limit_in_bytes",
		"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cgroup.procs", "/sys/power/state", "/sys/kernel/debug", "/sys/kernel/security",
	} {
		refused("write "+f, writable(f))
	}
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/devices", "/sys/fs/cgroup/pids", "/sys/kernel/config"} {
		if _, err := os.Stat(dir); err == nil {
			refused("make a cgroup or object in "+dir, os.Mkdir(dir+"/escape", 0o755))
		}
	}
	for _, root := range []string{"/proc", "/sys"} {
		tried, wrote := 0, []string{}
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return fs.SkipDir
			}
			if d.IsDir() {
				if rel, _ := filepath.Rel("/proc", path); root == "/proc" && rel != "." {
					if _, err := strconv.Atoi(rel); err == nil { // processes: the job's own
						return fs.SkipDir
					}
				}
				return nil
			}
			if !d.Type().IsRegular() {
				return nil
			}
			tried++
			if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
				// What is masked leads to the container's own /dev/null.
				if st, err := f.Stat(); err != nil || st.Mode()&fs.ModeCharDevice == 0 {
					wrote = append(wrote, path)
				}
				f.Close()
			}
			return nil
		})
		say("open every file of "+root+" for writing", err == nil && tried > 100 && len(wrote) == 0, "%d files tried, opened %v", tried, wrote)
	}
	for _, f := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kmsg", "/proc/kpageflags", "/proc/kpagecount", "/proc/sched_debug", "/proc/slabinfo", "/proc/iomem", "/proc/1/mem"} {
		readNothing(f)
	}
	for _, dir := range []string{"/sys/firmware", "/proc/acpi", "/proc/scsi", "/proc/pressure", "/sys/devices/virtual/powercap", "/sys/kernel/debug", "/sys/kernel/tracing"} {
		entries, err := os.ReadDir(dir)
		say("read "+dir, err != nil || len(entries) == 0, "%s", nothing(err, len(entries)))
	}
	text, err := os.ReadFile("/proc/kallsyms")
	leaked := 0
	for line := range strings.Lines(string(text)) {
		if address, _, _ := strings.Cut(line, " "); strings.Trim(address, "0") != "" {
			leaked++
		}
	}
	say("read the kernel's addresses (/proc/kallsyms)", leaked == 0, "%s", nothing(err, leaked))
}

// readNothing reads what must be closed, masked or hold no secret: iomem's addresses are zero to strangers.
func readNothing(path string) {
	f, err := os.Open(path)
	if err != nil {
		say("read "+path, true, "%v", err)
		return
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	n, err := f.Read(buf)
	if path == "/proc/iomem" {
		n = len(bytes.Trim(bytes.ReplaceAll(firstFields(buf[:n]), []byte("-"), nil), "0\n"))
	}
	say("read "+path, n == 0, "%s", nothing(err, n))
}

func firstFields(text []byte) []byte {
	var out []byte
	for line := range bytes.Lines(text) {
		first, _, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		out = append(append(out, first...), '\n')
	}
	return out
}

func nothing(err error, n int) string {
	if err != nil && n == 0 {
		return err.Error()
	}
	return fmt.Sprintf("%d things in it", n)
}

// others: files, sockets and shared memory of the host and of other tasks.
func others() {
	for what, path := range map[string]string{
		"a file of the host": host("FILE"), "the engine's socket": host("DOCKER"), "another task's secret": host("SECRET"),
	} {
		if path == "" {
			say("read "+what, false, "the test named none")
			continue
		}
		_, err := os.Stat(path)
		refused("find "+what+" under its name on the host", err)
	}
	for _, s := range []string{"/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/dbus/system_bus_socket", "/run/systemd/private"} {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: s})
			unix.Close(fd)
		}
		refused("connect to "+s, err)
	}
	// Another task's secret, by content, wherever this job can read.
	secret, found, read := []byte(host("CANARY")), "", 0
	err := filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || path == "/sys" || path == "/proc/kcore":
			return fs.SkipDir
		case path == "/proc/"+strconv.Itoa(os.Getpid()) || path == "/proc/1": // its environment, which the test filled
			return fs.SkipDir
		case !d.Type().IsRegular() || strings.HasPrefix(path, "/proc/") && !strings.HasSuffix(path, "environ"):
			return nil
		}
		if info, err := d.Info(); err != nil || info.Size() > 1<<20 {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		read++
		if bytes.Contains(text, secret) {
			found = path
		}
		return nil
	})
	say("find another task's secret in any file", err == nil && found == "" && len(secret) > 0, "%d files read, found in %q", read, found)
	key, err := strconv.Atoi(host("SHM"))
	if err != nil {
		say("open the host's shared memory", false, "the test named none")
		return
	}
	_, _, e := unix.Syscall(unix.SYS_SHMGET, uintptr(key), 0, 0)
	refused("open the host's shared memory", asError(e))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: "@" + host("ABSTRACT")})
		unix.Close(fd)
	}
	refused("connect to an abstract Unix socket of the host", err)
	name, err := unix.BytePtrFromString(strings.TrimPrefix(host("QUEUE"), "/"))
	if err == nil {
		_, _, e = unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_RDONLY, 0, 0, 0, 0)
		err = asError(e)
	}
	refused("open a message queue of the host", err)
	if errors.Is(err, unix.EINVAL) {
		say("name a message queue of the host", false, "the test named none")
	}
}
