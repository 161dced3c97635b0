package docker

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"basilica"
)

// Where a stranger's container finds its files.
const (
	inputDir  = "/in"
	outputDir = "/out"
	homeDir   = "/home/job"
	tempDir   = "/tmp"
	shmDir    = "/dev/shm"
)

// mappedID is a stranger's user and group where the engine maps users into a namespace of 65536: there every number is
// nobody's on the host.
const mappedID = "65534"

// strangerID is a stranger's user and group otherwise: no account of any host, above what systemd and useradd give to
// containers, and another one for every container, for the kernel counts some things (keyrings, inotify instances,
// locked memory, queues) by user and not by container.
func strangerID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return strconv.Itoa(0x70000000 + int(binary.BigEndian.Uint32(sum[:])&0x07ffffff))
}

const (
	minMemory  = 16 << 20 // less than this does not even hold the tmpfs mounts
	maxVolumes = 16
	maxFiles   = 16384 // open files of one process: an engine without CAP_SYS_RESOURCE cannot give more than it has
	oomScore   = 500   // where the host itself runs out of memory, a stranger goes first
)

// masked are the kernel's files that a stranger sees empty: those of engines' own lists up to version 28, and the host's
// pressure, which any user may set triggers on.
var masked = [...]string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/pressure", "/proc/sched_debug",
	"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
}

// tmpfsPlan divides at most half of a container's memory among what lives in memory and counts in it.
type tmpfsPlan struct {
	temp, home, shm, volume int64 // bytes; volume is one of the image's VOLUMEs
}

func planTmpfs(memory, output int64, volumes int) (tmpfsPlan, error) {
	if memory < minMemory {
		return tmpfsPlan{}, basilica.E(basilica.Invalid, "MEMORY_TOO_SMALL", fmt.Sprintf("a container needs at least %d bytes of memory, the task gives %d", minMemory, memory), "ask for more with --memory")
	}
	if output < 0 || output > memory/4 {
		return tmpfsPlan{}, basilica.E(basilica.Invalid, "OUTPUT_TOO_LARGE", fmt.Sprintf("outputs of %d bytes are over a quarter of the task's memory of %d bytes, in which they are kept", output, memory), "ask for more memory or for less output")
	}
	p := tmpfsPlan{
		temp: min(memory/16, 1<<30),
		home: min(memory/32, 256<<20),
		shm:  min(memory/32, 1<<30),
	}
	if volumes > 0 {
		p.volume = max(memory/32/int64(volumes), 4<<10)
	}
	return p, nil
}

// contained is the container of a stranger, who is the given user and group: everything that DESIGN section 5 says of it
// stands here.
func contained(spec basilica.ContainerSpec, volumes []string, user string) (*container.Config, *container.HostConfig, error) {
	if spec.CPUMillis <= 0 || spec.Pids <= 0 || spec.LogBytes <= 0 {
		return nil, nil, basilica.E(basilica.Invalid, "CONTAINER_LIMITS", "a container without limits of CPU, processes or log is not made", "")
	}
	volumes, err := maskable(volumes)
	if err != nil {
		return nil, nil, err
	}
	plan, err := planTmpfs(spec.MemoryBytes, spec.OutputBytes, len(volumes))
	if err != nil {
		return nil, nil, err
	}
	seccomp, err := seccompOption()
	if err != nil {
		return nil, nil, err
	}
	cfg := &container.Config{
		Image:           spec.Image,
		User:            user + ":" + user,
		Env:             environment(spec.Env, spec.GPUs),
		Labels:          spec.Labels,
		Hostname:        "job",
		NetworkDisabled: true,
		Healthcheck:     &container.HealthConfig{Test: []string{"NONE"}},
		StopSignal:      "SIGTERM",
	}
	if len(spec.Command) > 0 {
		cfg.Entrypoint, cfg.Cmd = spec.Command[:1], spec.Command[1:]
	}
	tmpfs := map[string]string{tempDir: tmpfsOptions(plan.temp, user), homeDir: tmpfsOptions(plan.home, user), shmDir: tmpfsOptions(plan.shm, user)}
	for _, v := range volumes {
		tmpfs[v] = tmpfsOptions(plan.volume, user)
	}
	var mounts []mount.Mount
	if spec.Input != "" {
		mounts = append(mounts, bind(spec.Input, inputDir, true))
	}
	if spec.Output != "" {
		mounts = append(mounts, bind(spec.Output, outputDir, false))
	}
	yes := true
	pids := spec.Pids
	host := &container.HostConfig{
		NetworkMode:    "none",
		IpcMode:        "private",
		CgroupnsMode:   "private",
		CapDrop:        []string{"ALL"},
		SecurityOpt:    []string{"no-new-privileges:true", seccomp},
		ReadonlyRootfs: true,
		Init:           &yes,
		OomScoreAdj:    oomScore,
		MaskedPaths:    masked[:],
		Tmpfs:          tmpfs,
		Mounts:         mounts,
		RestartPolicy:  container.RestartPolicy{Name: "no"},
		// This driver keeps every byte as it came, so that a later process finds the log again (PastLogs). A record costs some 28
		// bytes beside its line.
		LogConfig: container.LogConfig{Type: "local", Config: map[string]string{
			"max-size": strconv.FormatInt(2*spec.LogBytes, 10), "max-file": "2", "compress": "false",
		}},
		Resources: container.Resources{
			Memory:     spec.MemoryBytes,
			MemorySwap: spec.MemoryBytes, // the sum of memory and swap: no swap
			NanoCPUs:   spec.CPUMillis * 1_000_000,
			PidsLimit:  &pids,
			Ulimits: []*container.Ulimit{
				{Name: "core"}, // no core file anywhere
				{Name: "nofile", Soft: maxFiles, Hard: maxFiles},
			},
			DeviceRequests: deviceRequests(spec.GPUs),
			Devices:        gpuDevices("/proc", "/dev", spec.GPUs),
		},
	}
	return cfg, host, nil
}

// visibleDevices is the variable by which a GPU runtime that is its engine's default takes the wish of an image or a task
// for GPUs: any of the host's, whoever holds it.
const visibleDevices = "NVIDIA_VISIBLE_DEVICES"

// environment puts the caller's variables after ours, which they may replace, but for the one that names the GPUs. Sorted:
// the same task gives the same container.
func environment(env map[string]string, gpus []basilica.GPU) []string {
	out := []string{"HOME=" + homeDir, "TMPDIR=" + tempDir}
	for k, v := range env {
		if k != visibleDevices {
			out = append(out, k+"="+v)
		}
	}
	slices.Sort(out[2:])
	visible := "void" // no GPU, and no driver either
	if ids := deviceIDs(gpus); len(ids) > 0 {
		visible = strings.Join(ids, ",")
	}
	return append(out, visibleDevices+"="+visible)
}

// tmpfsOptions are those of everything that a container may write. It is the stranger's own, for where the image has the
// folder a runtime gives the mount that folder's mode, and there its owner alone may write. Programs may run from it: whoever compiles at run time
// needs that, and without set-user-ID bits, devices and privileges to be had it gives nothing that /in and the image do
// not.
func tmpfsOptions(size int64, user string) string {
	return fmt.Sprintf("rw,exec,nosuid,nodev,size=%d,nr_inodes=%d,mode=1777,uid=%s,gid=%s", size, inodes(size), user, user)
}

// inodes bounds the files of a file system in memory by its size, for each takes kernel memory that the size does not
// count: about as much as a small file's page.
func inodes(size int64) int64 { return size/4096 + 16 }

func bind(source, target string, readOnly bool) mount.Mount {
	return mount.Mount{Type: mount.TypeBind, Source: source, Target: target, ReadOnly: readOnly, BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate}}
}

// maskable checks the VOLUMEs of an image, which would be written on the host's disk and outlive the container, and
// leaves out those that our own mounts cover already.
func maskable(volumes []string) ([]string, error) {
	bad := func(v, why string) error {
		return basilica.E(basilica.Invalid, "IMAGE_VOLUME", fmt.Sprintf("the image's VOLUME %.100q cannot be masked: %s", v, why), "use an image without that VOLUME")
	}
	if len(volumes) > maxVolumes {
		return nil, bad(volumes[0], fmt.Sprintf("the image has more than %d of them", maxVolumes))
	}
	ours := []string{inputDir, outputDir, homeDir, tempDir}
	var out []string
	for _, v := range volumes {
		clean := path.Clean(v)
		if !path.IsAbs(v) || clean == "/" || strings.ContainsAny(v, ":,\x00") {
			return nil, bad(v, "it is no plain absolute path below /")
		}
		if kernel := kernelAt(clean); kernel != "" {
			return nil, bad(v, "it covers "+kernel)
		}
		switch {
		case slices.Contains(ours, clean):
			continue
		case slices.ContainsFunc(ours, func(o string) bool {
			return strings.HasPrefix(clean, o+"/") || strings.HasPrefix(o, clean+"/")
		}):
			return nil, bad(v, "it overlaps "+strings.Join(ours, ", "))
		}
		if !slices.Contains(out, clean) {
			out = append(out, clean)
		}
	}
	return out, nil
}

// workable refuses an image whose WORKDIR lies in the kernel's file systems: a runtime may still hold folders of the host
// open there when the program begins (CVE-2024-21626).
func workable(dir string) error {
	if kernel := kernelAt(path.Clean("/" + dir)); kernel != "" {
		return badWorkdir(dir, "lies in "+kernel)
	}
	return nil
}

func badWorkdir(dir, why string) error {
	return basilica.E(basilica.Invalid, "IMAGE_WORKDIR", fmt.Sprintf("the image's WORKDIR %.100q %.100s", dir, why), "use an image with another WORKDIR")
}

// kernelAt gives the kernel's file system in which a clean path lies, or "".
func kernelAt(clean string) string {
	for _, kernel := range []string{"/proc", "/sys", "/dev"} {
		if clean == kernel || strings.HasPrefix(clean, kernel+"/") {
			return kernel
		}
	}
	return ""
}

// maxSteps bounds the folders and links on the way to a WORKDIR.
const maxSteps = 128

// enterable refuses a WORKDIR of a created container from which links lead into the kernel's file systems. They are read one
// by one, as the kernel will: an engine that resolves them sees what the image itself has at /proc, where another link may
// lead out of it again.
func (e *Engine) enterable(ctx context.Context, id, dir string) error {
	at, left := "/", strings.Split(path.Clean("/"+dir), "/")
	for steps := 0; len(left) > 0; {
		name := left[0]
		left = left[1:]
		if name == "" {
			continue
		}
		if steps++; steps > maxSteps {
			return badWorkdir(dir, "has too many folders and links on its way")
		}
		next := path.Join(at, name)
		if kernel := kernelAt(next); kernel != "" {
			return badWorkdir(dir, "leads into "+kernel)
		}
		if name == "." || name == ".." {
			at = next
			continue
		}
		target, err := e.readLink(ctx, id, next)
		switch {
		case err != nil:
			return err
		case target == "": // a folder, or nothing yet: the container's own mounts may be there
			at = next
			continue
		case path.IsAbs(target):
			at = "/"
		}
		left = append(strings.Split(target, "/"), left...)
	}
	return nil
}

// lookFault is the engine's word on an image in which it cannot look for a path, or not mount what belongs there.
var lookFault = regexp.MustCompile(`not a directory|file exists|too many l`)

func badPaths(err error) error {
	return basilica.E(basilica.Invalid, "CONTAINER_PATHS", "the image has a link or a file where the container's folders go", "use an image in which /tmp, /dev/shm, /home/job, /in, /out, its VOLUMEs and its WORKDIR are folders or absent").With(err)
}

// readLink gives what a link in a container says; what is no link or is not there gives nothing. The path's own folders must be
// no links.
func (e *Engine) readLink(ctx context.Context, id, at string) (target string, err error) {
	st, err := e.api.ContainerStatPath(ctx, id, client.ContainerStatPathOptions{Path: at})
	if errdefs.IsNotFound(err) || err == nil && st.Stat.Mode&fs.ModeSymlink == 0 {
		return "", nil
	}
	// What a link says is in its archive alone; and so is why an engine cannot look.
	link, err := e.api.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: at})
	if err != nil {
		if lookFault.MatchString(err.Error()) {
			return "", badPaths(err)
		}
		return "", e.mapped("look at the image's WORKDIR", err)
	}
	defer link.Content.Close()
	h, err := tar.NewReader(link.Content).Next()
	if err != nil {
		return "", fmt.Errorf("read link %.100q of an image: %w", at, err)
	}
	if h.Typeflag != tar.TypeSymlink || h.Linkname == "" {
		return "", fmt.Errorf("read link %.100q of an image: the engine gives another thing", at)
	}
	return h.Linkname, nil
}

// deviceIDs names real GPUs as their driver does; a software device is computed on the CPU and has no name there.
func deviceIDs(gpus []basilica.GPU) (ids []string) {
	for _, g := range gpus {
		switch g.Kind {
		case basilica.GPUSoftware:
		case basilica.GPUMIG:
			ids = append(ids, "MIG-"+g.UUID)
		default:
			ids = append(ids, "GPU-"+g.UUID)
		}
	}
	return ids
}

// deviceRequests asks the engine's GPU hook for real GPUs.
func deviceRequests(gpus []basilica.GPU) []container.DeviceRequest {
	ids := deviceIDs(gpus)
	if len(ids) == 0 {
		return nil
	}
	return []container.DeviceRequest{{DeviceIDs: ids, Capabilities: [][]string{{"gpu", "compute", "utility"}}}}
}
