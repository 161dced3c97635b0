// Package docker is the container engine: it turns a stranger's container into an engine's settings that give it
// nothing, and follows its life. It knows no task, no lease and no miner.
package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"basilica"
	"basilica/internal/crashpoint"
)

// DefaultHost is where the engine listens unless the configuration says otherwise.
const DefaultHost = "unix:///var/run/docker.sock"

const callTimeout = 30 * time.Second

// Engine is one Docker engine on this machine. Its methods may be called at the same time.
type Engine struct {
	// Images is the policy on images; it is set before the first use.
	Images Images

	api *client.Client
	log *slog.Logger

	containerd string // directory of containerd, where engines with its image store keep images

	lookEvery time.Duration // how often a container is asked for whose end nobody has told of
	creating  time.Duration // how long each step of Create may take

	cgroups []string // directories in which it makes containers' memory cgroups

	userns atomic.Bool // the engine maps containers' users into a namespace of their own; Available finds out

	loading     chan struct{}  // holds one word while an image is given to the engine: two that see the same free disk would share it
	late        sync.WaitGroup // the image that is given to the engine, also when nobody waits for it any more
	downloading atomic.Int64   // bytes of images that are on their way to Images.Dir
}

// New makes a client of the engine at host, a unix:// address; the engine need not run yet. Bind mounts need the engine
// on the same machine, so no other scheme is taken.
func New(host string, log *slog.Logger) (*Engine, error) {
	if host == "" {
		host = DefaultHost
	}
	if !strings.HasPrefix(host, "unix://") {
		return nil, basilica.E(basilica.Invalid, "DOCKER_REMOTE", fmt.Sprintf("the engine %q is not a Unix socket of this machine", host), "set executor.docker_host to unix:///var/run/docker.sock or another local socket")
	}
	options := []client.Opt{client.WithHost(host)}
	if crashpoint.On {
		options = append(options, client.WithHTTPRequestHook(func(r *http.Request) error {
			crashpoint.Hit(crashpoint.Request("docker", r) + ".before")
			return nil
		}), client.WithHTTPResponseHook(func(r *http.Response) { crashpoint.Hit(crashpoint.Request("docker", r.Request) + ".after") }))
	}
	api, err := client.New(options...)
	if err != nil {
		return nil, fmt.Errorf("make engine client: %w", err)
	}
	return &Engine{api: api, log: log, lookEvery: lookEvery, creating: callTimeout, cgroups: cgroupParents, containerd: containerdDir("/etc/containerd/config.toml"), loading: make(chan struct{}, 1)}, nil
}

// Close gives the connections to the engine back.
func (e *Engine) Close() error { return e.api.Close() }

// Available says which engine answers. An engine that is away is Unavailable (DOCKER_ABSENT), one that cannot contain a
// stranger Denied (ENGINE_UNSAFE).
func (e *Engine) Available(ctx context.Context) (name, version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := e.api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return "", "", e.mapped("ask the engine", err)
	}
	info := res.Info
	if !info.MemoryLimit || !info.PidsLimit || !(info.CPUCfsQuota || info.CPUCfsPeriod) {
		return "", "", unsafe("limits of memory, processes or CPU do not work")
	}
	// Which profile is the default does not matter: every container brings its own.
	if !slices.ContainsFunc(info.SecurityOptions, func(o string) bool { return strings.HasPrefix(o, "name=seccomp") }) {
		return "", "", unsafe("its kernel filters no system calls (seccomp)")
	}
	e.userns.Store(slices.ContainsFunc(info.SecurityOptions, func(o string) bool { return strings.HasPrefix(o, "name=userns") }))
	return "docker", info.ServerVersion, nil
}

// About is what an engine says of itself beside its version.
type About struct {
	Version       string
	Storage       string // driver of images and containers
	Root          string // directory of them; where there are two, the one whose disk has less room
	CgroupVersion string // "1" or "2"
	Kernel        string
	Running       int    // containers, of everybody
	Runtime       string // release or commit of the runtime, runc; empty where the engine does not say
}

// OldestEngine is the first version that knows all settings by which a stranger is contained (API 1.41: a cgroup namespace
// of its own).
func OldestEngine() Release { return Release{20, 10, 0} }

// About asks the engine what it works with. An engine older than OldestEngine is ENGINE_OLD, one that copies every image
// whole ENGINE_STORAGE; what it said comes with both.
func (e *Engine) About(ctx context.Context) (About, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := e.api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return About{}, e.mapped("ask the engine", err)
	}
	i := res.Info
	root, _, _ := e.fullest(i)
	a := About{Version: i.ServerVersion, Storage: i.Driver, Root: root, CgroupVersion: i.CgroupVersion, Kernel: i.KernelVersion, Running: i.ContainersRunning, Runtime: i.RuncCommit.ID}
	if a.Runtime == "N/A" { // so it says where it does not know
		a.Runtime = ""
	}
	if v, err := ParseRelease(i.ServerVersion); err == nil && v.Before(OldestEngine()) {
		return a, basilica.E(basilica.Unavailable, "ENGINE_OLD", fmt.Sprintf("the container engine has version %.40s, and %s is the oldest that can contain a stranger", i.ServerVersion, OldestEngine()), "install a newer Docker")
	}
	// vfs has no layers: each container is a copy of its whole image.
	if i.Driver == "vfs" {
		return a, basilica.E(basilica.Unavailable, "ENGINE_STORAGE", "the container engine keeps a whole copy of the image for every container (storage driver vfs)",
			"use overlay2: keep Docker's data root on ext4 or on xfs with ftype=1, and remove storage-driver from /etc/docker/daemon.json")
	}
	return a, nil
}

func unsafe(what string) error {
	return basilica.E(basilica.Denied, "ENGINE_UNSAFE", "the container engine cannot contain a stranger: "+what, "use an engine and a kernel with cgroup limits and seccomp; docker info names what is missing")
}

func (e *Engine) absent(err error) error {
	return basilica.E(basilica.Unavailable, "DOCKER_ABSENT", "the container engine does not answer at "+e.api.DaemonHost(), "install Docker and start it (Debian: apt-get install docker.io; then scripts/dockerd.sh start or systemctl start docker)").With(err)
}

// mapped gives the kind of an engine's failure.
func (e *Engine) mapped(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case client.IsErrConnectionFailed(err):
		return e.absent(err)
	case errdefs.IsNotFound(err):
		return basilica.E(basilica.NotFound, "CONTAINER_GONE", "the container does not exist", "").With(fmt.Errorf("%s: %w", doing, err))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Create makes a container without starting it. Its image must be local.
func (e *Engine) Create(ctx context.Context, spec basilica.ContainerSpec) (id string, err error) {
	inspecting, cancel := context.WithTimeout(ctx, e.creating)
	defer cancel()
	img, err := e.api.ImageInspect(inspecting, spec.Image)
	if err != nil {
		return "", e.imageError(spec.Image, err)
	}
	var volumes map[string]struct{}
	workdir := ""
	if img.Config != nil {
		volumes, workdir = img.Config.Volumes, img.Config.WorkingDir
		if err := workable(workdir); err != nil {
			return "", err
		}
	}
	user := strangerID(spec.Name)
	if e.userns.Load() {
		user = mappedID
	}
	cfg, host, err := contained(spec, slices.Sorted(maps.Keys(volumes)), user)
	if err != nil {
		return "", err
	}
	// The engine does not stop making a container when nobody waits for it any more: who cancels learns its id all the same
	// and removes it.
	making, done := context.WithTimeout(context.WithoutCancel(ctx), e.creating)
	defer done()
	res, err := e.api.ContainerCreate(making, client.ContainerCreateOptions{Config: cfg, HostConfig: host, Name: spec.Name})
	if err != nil {
		return "", e.mapped("create container", err)
	}
	looking, enough := context.WithTimeout(ctx, e.creating)
	defer enough()
	if err := e.enterable(looking, res.ID, workdir); err != nil {
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil { // the engine's fault, not the image's
			err = e.absent(err)
		}
		return "", errors.Join(err, e.Remove(context.WithoutCancel(ctx), res.ID))
	}
	for _, w := range res.Warnings {
		e.log.Warn("the engine warns of a new container", "container", res.ID, "warning", w)
	}
	return res.ID, nil
}

// Logs attaches to the output of a created container, before its start, so that no byte is lost. The function that it
// gives calls f with every piece in the order in which the engine read it, until the container has ended, f fails or ctx
// ends; a job that talks faster than f listens waits.
func (e *Engine) Logs(ctx context.Context, id string) (follow func(f func(basilica.LogStream, []byte) error) error, err error) {
	// The connection outlives this context, which bounds the engine's answer alone.
	attaching, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := e.api.ContainerAttach(attaching, id, client.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return nil, e.mapped("attach to container", err)
	}
	return followed(ctx, res.Reader, res.Close), nil
}

type streamWriter struct {
	stream basilica.LogStream
	f      func(basilica.LogStream, []byte) error
}

func (w streamWriter) Write(p []byte) (int, error) {
	if err := w.f(w.stream, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Stop asks the container to end and kills it after grace. One that has ended or is gone is no error.
func (e *Engine) Stop(ctx context.Context, id string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+grace)
	defer cancel()
	seconds := int(grace.Round(time.Second) / time.Second)
	var err error
	if seconds == 0 {
		_, err = e.api.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: "SIGKILL"})
	} else {
		_, err = e.api.ContainerStop(ctx, id, client.ContainerStopOptions{Timeout: &seconds})
	}
	if err == nil || errdefs.IsNotFound(err) || errdefs.IsConflict(err) || errdefs.IsNotModified(err) {
		return nil
	}
	return e.mapped("stop container", err)
}

// Remove kills the container where it runs and removes it with its volumes. One that is gone is no error.
func (e *Engine) Remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := e.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{RemoveVolumes: true, Force: true})
	for errdefs.IsConflict(err) { // another removal of the same container is under way
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove container: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
		_, err = e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		if err == nil {
			_, err = e.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{RemoveVolumes: true, Force: true})
		}
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return e.mapped("remove container", err)
}

// List gives every container, ended ones too, that carries label=value.
func (e *Engine) List(ctx context.Context, label, value string) ([]basilica.ContainerState, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := e.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", label+"="+value)})
	if err != nil {
		return nil, e.mapped("list containers", err)
	}
	out := make([]basilica.ContainerState, 0, len(res.Items))
	for _, c := range res.Items {
		out = append(out, basilica.ContainerState{ID: c.ID, Image: c.ImageID, Labels: c.Labels, Running: c.State == container.StateRunning})
	}
	return out, nil
}
