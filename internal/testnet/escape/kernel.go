package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is one system call with arguments of no sense: where a filter lets it through, the kernel says so in another word.
type call struct {
	name   string
	number uintptr
	args   [4]uintptr
}

// kernel: calls that reach past a container, and namespaces of one's own.
func kernel() {
	for _, c := range append(calls(), machineCalls()...) {
		_, _, e := unix.Syscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], 0, 0)
		what := "the kernel took it"
		if e != 0 {
			what = e.Error()
		}
		say("call "+c.name, e == unix.EPERM || e == unix.ENOSYS, "%s", what)
	}
	for _, ns := range []struct {
		name string
		flag uintptr
	}{
		{"user", unix.CLONE_NEWUSER},
		{"mount", unix.CLONE_NEWNS},
		{"pid", unix.CLONE_NEWPID},
		{"network", unix.CLONE_NEWNET},
		{"ipc", unix.CLONE_NEWIPC},
		{"uts", unix.CLONE_NEWUTS},
		{"cgroup", unix.CLONE_NEWCGROUP},
		{"time", unix.CLONE_NEWTIME},
	} {
		refused("unshare a "+ns.name+" namespace", unix.Unshare(int(ns.flag)))
		if ns.flag == unix.CLONE_NEWTIME {
			continue // clone has no bit for it
		}
		pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, ns.flag|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if pid == 0 && e == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		refused("clone into a "+ns.name+" namespace", asError(e))
	}
	_, _, e := unix.Syscall(unix.SYS_PERSONALITY, 0x0040000|0x0400000, 0, 0) // no randomized addresses, readable means executable
	refused("personality without address randomization", asError(e))
	say("supervise one's own calls (seccomp user notification)", userNotify() != nil, "%v", userNotify())
	out, err := exec.Command("/proc/self/exe", "int80").CombinedOutput()
	var ended *exec.ExitError
	said := strings.TrimSpace(string(out))
	say("32-bit calls (int 0x80), which hide their arguments", errors.As(err, &ended) || said == killedThread || said == noSuchCalls, "%s", said)
}

// What oldCalls says where there are none.
const (
	killedThread = "the kernel killed the thread"
	noSuchCalls  = "no such calls"
)

// oldCalls makes a 32-bit call. A filter that kills only the thread leaves another one to tell.
func oldCalls() {
	answered := make(chan int, 1)
	go func() {
		runtime.LockOSThread()
		answered <- int80()
	}()
	select {
	case pid := <-answered:
		fmt.Println("answered:", pid)
	case <-time.After(500 * time.Millisecond):
		fmt.Println(killedThread)
	}
	os.Exit(0)
}

// userNotify asks for a listener on a filter that notifies of unshare.
func userNotify() error {
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(unix.SYS_UNSHARE), Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fc00000}, // SECCOMP_RET_USER_NOTIF
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fff0000}, // SECCOMP_RET_ALLOW
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, 1, 1<<3, uintptr(unsafe.Pointer(&fprog)))
	return asError(e)
}

// calls are those that every architecture has.
func calls() []call {
	name, err := unix.BytePtrFromString("/tmp")
	if err != nil {
		panic(err)
	}
	path := uintptr(unsafe.Pointer(name))
	list := []call{
		{"add_key", unix.SYS_ADD_KEY, [4]uintptr{path, path, path, 1}},
		{"request_key", unix.SYS_REQUEST_KEY, [4]uintptr{path, path, 0, 0}},
		{"keyctl: the session's keyring", unix.SYS_KEYCTL, [4]uintptr{0, ^uintptr(2), 0, 0}},
		{"keyctl: the user's keyring", unix.SYS_KEYCTL, [4]uintptr{0, ^uintptr(3), 1, 0}},
		{"bpf", unix.SYS_BPF, [4]uintptr{0, path, 64, 0}},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [4]uintptr{path, 0, 0, 0}},
		{"userfaultfd", unix.SYS_USERFAULTFD, [4]uintptr{1, 0, 0, 0}},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [4]uintptr{1, path, 0, 0}},
		{"io_uring_enter", unix.SYS_IO_URING_ENTER, [4]uintptr{0, 0, 0, 0}},
		{"io_uring_register", unix.SYS_IO_URING_REGISTER, [4]uintptr{0, 0, 0, 0}},
		{"clone3", unix.SYS_CLONE3, [4]uintptr{0, 0, 0, 0}},
		{"kexec_load", unix.SYS_KEXEC_LOAD, [4]uintptr{0, 0, 0, 0}},
		{"kexec_file_load", unix.SYS_KEXEC_FILE_LOAD, [4]uintptr{0, 0, 0, 0}},
		{"init_module", unix.SYS_INIT_MODULE, [4]uintptr{path, 4, path, 0}},
		{"finit_module", unix.SYS_FINIT_MODULE, [4]uintptr{0, path, 0, 0}},
		{"delete_module", unix.SYS_DELETE_MODULE, [4]uintptr{path, 0, 0, 0}},
		{"name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT, [4]uintptr{0, path, 0, 0}},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [4]uintptr{0, path, 0, 0}},
		{"quotactl", unix.SYS_QUOTACTL, [4]uintptr{0, 0, 0, 0}},
		{"acct", unix.SYS_ACCT, [4]uintptr{path, 0, 0, 0}},
		{"syslog: the kernel's log", unix.SYS_SYSLOG, [4]uintptr{3, path, 4, 0}},
		{"sync: flush the host's disks", unix.SYS_SYNC, [4]uintptr{0, 0, 0, 0}},
		{"swapon", unix.SYS_SWAPON, [4]uintptr{path, 0, 0, 0}},
		{"swapoff", unix.SYS_SWAPOFF, [4]uintptr{path, 0, 0, 0}},
		{"setdomainname", unix.SYS_SETDOMAINNAME, [4]uintptr{path, 4, 0, 0}},
		{"clock_settime", unix.SYS_CLOCK_SETTIME, [4]uintptr{0, path, 0, 0}},
		{"adjtimex", unix.SYS_ADJTIMEX, [4]uintptr{0, 0, 0, 0}},
		{"clock_adjtime", unix.SYS_CLOCK_ADJTIME, [4]uintptr{0, 0, 0, 0}},
		{"vhangup", unix.SYS_VHANGUP, [4]uintptr{0, 0, 0, 0}},
		{"fanotify_init", unix.SYS_FANOTIFY_INIT, [4]uintptr{0x200, 0, 0, 0}},
		{"memfd_secret", unix.SYS_MEMFD_SECRET, [4]uintptr{0, 0, 0, 0}},
		{"kcmp", unix.SYS_KCMP, [4]uintptr{1, 1, 0, 0}},
		{"pidfd_getfd", unix.SYS_PIDFD_GETFD, [4]uintptr{0, 0, 0, 0}},
		{"process_madvise", unix.SYS_PROCESS_MADVISE, [4]uintptr{0, 0, 0, 0}},
		{"move_pages", unix.SYS_MOVE_PAGES, [4]uintptr{1, 0, 0, 0}},
		{"migrate_pages", unix.SYS_MIGRATE_PAGES, [4]uintptr{1, 0, 0, 0}},
		{"setns", unix.SYS_SETNS, [4]uintptr{0, 0, 0, 0}},
		{"statmount", unix.SYS_STATMOUNT, [4]uintptr{0, 0, 0, 0}},
	}
	return list
}

// describe joins names of errors and counts for a line of the table.
func describe(counts map[string]int) string {
	var parts []string
	for what, n := range counts {
		parts = append(parts, fmt.Sprintf("%d× %s", n, what))
	}
	return strings.Join(parts, ", ")
}
