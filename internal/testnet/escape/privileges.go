package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// users: who the job is, and becoming somebody else.
func users() {
	say("be root", os.Getuid() != 0 && os.Geteuid() != 0 && os.Getgid() != 0, "user %d, group %d", os.Getuid(), os.Getgid())
	groups, err := os.Getgroups()
	strange := false
	for _, g := range groups {
		strange = strange || g != os.Getgid()
	}
	say("be in a group of the host", err == nil && !strange, "groups %v", groups)
	say("no-new-privileges and seccomp are on", status("NoNewPrivs") == "1" && status("Seccomp") == "2", "NoNewPrivs %s, Seccomp %s", status("NoNewPrivs"), status("Seccomp"))
	// The calls themselves: the library's would change every thread.
	_, _, e := unix.RawSyscall(unix.SYS_SETUID, 0, 0, 0)
	refused("setuid(0)", asError(e))
	_, _, e = unix.RawSyscall(unix.SYS_SETGID, 0, 0, 0)
	refused("setgid(0)", asError(e))
	zero := uint32(0)
	_, _, e = unix.RawSyscall(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&zero)), 0)
	refused("setgroups to root's", asError(e))
	for _, program := range []string{"/suid", "/privileged"} {
		out, err := exec.Command(program, "effective").CombinedOutput()
		said := strings.TrimSpace(string(out))
		name := map[string]string{"/suid": "run a set-user-ID program of the image", "/privileged": "run a program of the image that has capabilities"}[program]
		mine := fmt.Sprintf("%d 0000000000000000", os.Geteuid())
		if err != nil {
			say(name, !errors.Is(err, os.ErrNotExist), "%v", err)
			continue
		}
		say(name, said == mine, "it ran as user and with capabilities %s", said)
	}
	refused("make a user namespace's root by writing uid_map", os.WriteFile("/proc/self/uid_map", []byte("0 0 1"), 0))
}

// capabilities: every one of the kernel's.
func capabilities() {
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		v := status(set)
		say("capabilities in "+set, v == "0000000000000000", "%s", v)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var bounded, ambient, raised []int
	known := 0
	for c := 0; ; c++ {
		in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err != nil {
			break
		}
		known++
		if in != 0 {
			bounded = append(bounded, c)
		}
		if unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0) == nil {
			ambient = append(ambient, c)
		}
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		data[c/32].Permitted, data[c/32].Effective, data[c/32].Inheritable = 1<<(c%32), 1<<(c%32), 1<<(c%32)
		if unix.Capset(&head, &data[0]) == nil {
			raised = append(raised, c)
		}
	}
	say("find one of the kernel's capabilities in the bounding set", known > 30 && bounded == nil, "of %d: %v", known, bounded)
	say("raise each capability with capset", known > 30 && raised == nil, "of %d: %v", known, raised)
	say("raise each capability as ambient", known > 30 && ambient == nil, "of %d: %v", known, ambient)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	if err == nil {
		unix.Close(fd)
	}
	refused("CAP_NET_RAW: a raw socket", err)
	refused("CAP_SYS_ADMIN: sethostname", unix.Sethostname([]byte("x")))
	refused("CAP_MKNOD: a device node", unix.Mknod("/tmp/mem", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 1))))
	f, err := os.Open("/shadow") // the image has it, of root and for root alone
	if err == nil {
		f.Close()
	}
	refused("CAP_DAC_OVERRIDE: read a file of root's", err)
	refused("CAP_CHOWN: give a file away", func() error {
		if err := os.WriteFile("/tmp/owned", nil, 0o600); err != nil {
			return nil // that it cannot be written is no refusal of what is tried
		}
		return os.Chown("/tmp/owned", 0, 0)
	}())
	refused("CAP_SYS_CHROOT: chroot", unix.Chroot("/tmp"))
	refused("CAP_SYS_TIME: set the clock", unix.Settimeofday(&unix.Timeval{Sec: 1}))
	refused("CAP_SYS_BOOT: reboot", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART))
	refused("CAP_NET_BIND_SERVICE aside: configure lo", configureLoopback())
}

// configureLoopback asks for another size of lo's packets, which needs CAP_NET_ADMIN.
func configureLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil // the socket is allowed; without it nothing was tried
	}
	defer unix.Close(fd)
	var req struct {
		name [unix.IFNAMSIZ]byte
		mtu  int32
		_    [20]byte
	}
	copy(req.name[:], "lo")
	req.mtu = 1400
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFMTU, uintptr(unsafe.Pointer(&req)))
	return asError(e)
}

// limits: taking more than the limits of a process.
func limits() {
	raise := func(name string, resource int) {
		var was unix.Rlimit
		if err := unix.Getrlimit(resource, &was); err != nil {
			say("raise the limit of "+name, false, "not read: %v", err)
			return
		}
		if was.Max == unix.RLIM_INFINITY {
			say("raise the limit of "+name, false, "it has none")
			return
		}
		refused(fmt.Sprintf("raise the limit of %s over %d", name, was.Max), unix.Setrlimit(resource, &unix.Rlimit{Cur: was.Max + 1, Max: was.Max + 1}))
	}
	raise("open files", unix.RLIMIT_NOFILE)
	raise("core files", unix.RLIMIT_CORE)
	raise("nice", unix.RLIMIT_NICE)
	raise("real-time priority", unix.RLIMIT_RTPRIO)
	raise("queues' bytes", unix.RLIMIT_MSGQUEUE)
	refused("nice -20", unix.Setpriority(unix.PRIO_PROCESS, 0, -20))
	_, _, e := unix.Syscall(unix.SYS_IOPRIO_SET, 1, 0, 1<<13)
	refused("real-time disk priority (ionice)", asError(e))
	param := int32(1)
	_, _, e = unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, 0, 1, uintptr(unsafe.Pointer(&param)))
	refused("real-time scheduling (SCHED_FIFO)", asError(e))
	score, err := os.ReadFile("/proc/self/oom_score_adj")
	say("be left alone by the host's memory killer", err == nil && strings.TrimSpace(string(score)) == "500", "it takes the job before the host's own: oom_score_adj %s", strings.TrimSpace(string(score)))
	refused("be spared by the host's memory killer", os.WriteFile("/proc/self/oom_score_adj", []byte("-1"), 0))
	refused("prctl PR_SET_DUMPABLE to root's dumps", unix.Prctl(unix.PR_SET_DUMPABLE, 2, 0, 0, 0))
	coreFile()
}

// coreFile lets a child crash where it may write.
func coreFile() {
	c := exec.Command("/proc/self/exe", "crash")
	c.Dir = "/tmp"
	err := c.Run()
	state, _ := c.ProcessState.Sys().(syscall.WaitStatus)
	left, gerr := os.ReadDir("/tmp")
	files := 0
	for _, f := range left {
		if strings.HasPrefix(f.Name(), "core") {
			files++
		}
	}
	say("leave a core file", err != nil && gerr == nil && state.Signaled() && !state.CoreDump() && files == 0, "the crashed child: %v; %d core files", err, files)
}

// crash ends this process the way that leaves a core file where one may be left.
func crash() {
	unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	// The runtime would take the signal for itself.
	var act [4]uint64
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGSEGV), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
	unix.RawSyscall(unix.SYS_TGKILL, uintptr(os.Getpid()), uintptr(unix.Gettid()), uintptr(unix.SIGSEGV))
	for {
		unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

// asError gives nil for no errno.
func asError(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}
