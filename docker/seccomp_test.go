package docker

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// refused names every call that the profile does not allow, and why. A call that is neither here nor in the profile fails
// the test: a new kernel's call is decided by a person.
var refused = map[string]string{
	"mounts and roots":                       "chroot fsconfig fsmount fsopen fspick listmount mount mount_setattr move_mount open_tree open_tree_attr pivot_root statmount umount2",
	"namespaces":                             "listns setns unshare",
	"keyrings are shared beyond a container": "add_key keyctl request_key",
	"programs in the kernel":                 "bpf create_module delete_module finit_module init_module kexec_file_load kexec_load uprobe uretprobe",
	"files by handle, past any mount":        "name_to_handle_at open_by_handle_at",
	"the host's clock, name, log and state":  "acct adjtimex clock_adjtime clock_settime quotactl quotactl_fd reboot setdomainname sethostname settimeofday swapoff swapon sync syslog vhangup",
	"hardware":                               "ioperm iopl modify_ldt",
	"helps exploits more than programs":      "fanotify_init fanotify_mark lookup_dcookie memfd_secret perf_event_open remap_file_pages userfaultfd",
	"other processes' memory and files":      "kcmp migrate_pages move_pages pidfd_getfd process_madvise process_mrelease",
	"placement on NUMA nodes, which the engine's default refuses too": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
	"answers ENOSYS": "clone3 io_uring_enter io_uring_register io_uring_setup",
	"no program needs them yet": "file_getattr file_setattr getxattrat listxattrat lsm_get_self_attr lsm_list_modules lsm_set_self_attr " +
		"removexattrat rseq_slice_yield setxattrat",
	"obsolete": "_sysctl afs_syscall arch_specific_syscall get_kernel_syms getpmsg nfsservctl putpmsg query_module security sysfs tuxcall uselib ustat vserver",
}

type seccompRule struct {
	Comment  string
	Names    []string
	Action   string
	ErrnoRet int
	Args     []struct {
		Index           int
		Value, ValueTwo uint64
		Op              string
	}
}

// TestSeccompDecidesEveryCall: every call that x/sys knows for our architectures is allowed by the profile or refused with
// a reason, never both, and the profile names no other.
func TestSeccompDecidesEveryCall(t *testing.T) {
	t.Parallel()
	var profile struct {
		DefaultAction string
		Syscalls      []seccompRule
	}
	if err := json.Unmarshal(seccompProfile, &profile); err != nil {
		t.Fatal(err)
	}
	if profile.DefaultAction != "SCMP_ACT_ERRNO" {
		t.Errorf("default action %s", profile.DefaultAction)
	}
	allowed := map[string]bool{}
	for _, r := range profile.Syscalls {
		if r.Comment == "" || !slices.IsSorted(r.Names) {
			t.Errorf("rule for %v: no comment, or not in order", r.Names)
		}
		for _, n := range r.Names {
			if r.Action != "SCMP_ACT_ALLOW" {
				if !strings.Contains(refused["answers ENOSYS"], n) || r.ErrnoRet != 38 {
					t.Errorf("%s: %s %d", n, r.Action, r.ErrnoRet)
				}
				continue
			}
			// A call stands in several rules only where each of them asks for arguments of its own.
			if allowed[n] && len(r.Args) == 0 {
				t.Errorf("%s is allowed without conditions beside a rule that has some", n)
			}
			allowed[n] = true
		}
	}
	known := map[string]bool{}
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Fatal(err)
	}
	number := regexp.MustCompile(`SYS_([A-Z0-9_]+) +=`)
	for _, arch := range []string{"amd64", "arm64"} {
		text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "unix", "zsysnum_linux_"+arch+".go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range number.FindAllSubmatch(text, -1) {
			name := strings.ToLower(string(m[1]))
			known[name] = true
		}
	}
	reasons := map[string]string{}
	for why, names := range refused {
		for n := range strings.FieldsSeq(names) {
			if reasons[n] != "" || allowed[n] {
				t.Errorf("%s is refused (%s) and stands elsewhere too", n, why)
			}
			reasons[n] = why
		}
	}
	for n := range known {
		if !allowed[n] && reasons[n] == "" {
			t.Errorf("%s is neither allowed nor refused", n)
		}
	}
	for n := range allowed {
		if !known[n] {
			t.Errorf("%s is allowed and no call that x/sys knows", n)
		}
	}
}

// TestSeccompNamespaces: no bit of clone that makes a namespace passes.
func TestSeccompNamespaces(t *testing.T) {
	var profile struct{ Syscalls []seccompRule }
	if err := json.Unmarshal(seccompProfile, &profile); err != nil {
		t.Fatal(err)
	}
	const namespaces = 0x02000000 | 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
	seen := 0
	for _, r := range profile.Syscalls {
		if !slices.Contains(r.Names, "clone") {
			continue
		}
		seen++
		if len(r.Args) != 1 || r.Args[0].Op != "SCMP_CMP_MASKED_EQ" || r.Args[0].Value != namespaces || r.Args[0].ValueTwo != 0 {
			t.Errorf("%+v", r)
		}
	}
	if seen != 1 {
		t.Errorf("%d rules for clone", seen)
	}
}
