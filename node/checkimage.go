package node

import (
	"context"
	"debug/elf"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"basilica"
	"basilica/docker"
)

// checkImage is the image of one static program that answers a validator's check.
type checkImage struct {
	engine *docker.Engine
	path   string
	marks  imageMarks

	mu sync.Mutex
	id string
}

// imageMarks remembers which image was loaded, for a process that comes after one that died.
type imageMarks interface {
	KeepImage(ctx context.Context, source, id string) error
	LoadedImages(ctx context.Context) (map[string]string, error)
	ForgetImage(ctx context.Context, source string) error
}

// The sources under which images are remembered: the one that is here, and one that is being loaded, whose config's digest
// follows. Most engines take that for its id; one with containerd's image store has ids of its own.
const (
	checkMark   = "check"
	loadingMark = "check:"
)

// newCheckImage loads the image of the program at path; empty is this very program. One that an earlier process left of
// another program goes.
func newCheckImage(ctx context.Context, engine *docker.Engine, path string, marks imageMarks) (*checkImage, error) {
	if path == "" {
		path = "/proc/self/exe"
	}
	if err := static(path); err != nil {
		return nil, err
	}
	c := &checkImage{engine: engine, path: path, marks: marks}
	_, err := c.ensure(ctx)
	return c, err
}

// arrives remembers an image that is being loaded, beside the one before it.
func (c *checkImage) arrives(ctx context.Context, config string) error {
	return c.marks.KeepImage(ctx, loadingMark+config, config)
}

// mark remembers the image that was loaded in the place of those before it, which go.
func (c *checkImage) mark(ctx context.Context, id string) error {
	loaded, err := c.marks.LoadedImages(ctx)
	if err != nil {
		return err
	}
	maps.DeleteFunc(loaded, func(source, _ string) bool {
		return source != checkMark && !strings.HasPrefix(source, loadingMark)
	})
	for _, former := range loaded {
		if former != id {
			if err := c.engine.RemoveImage(ctx, former); err != nil {
				return err
			}
		}
	}
	if err := c.marks.KeepImage(ctx, checkMark, id); err != nil {
		return err
	}
	delete(loaded, checkMark)
	for source := range loaded {
		if err := c.marks.ForgetImage(ctx, source); err != nil {
			return err
		}
	}
	return nil
}

// static insists on a program that needs no library: its image holds nothing else.
func static(path string) error {
	wrong := basilica.E(basilica.Invalid, "CHECK_BINARY", fmt.Sprintf("%s is no static program, so it cannot run alone in a container", path), "build it with CGO_ENABLED=0 (make build) and set executor.check_binary to it")
	bin, err := elf.Open(path)
	if err != nil {
		return wrong.With(err)
	}
	defer bin.Close()
	for _, p := range bin.Progs {
		if p.Type == elf.PT_INTERP {
			return wrong
		}
	}
	return nil
}

// ensure gives the image's address; where somebody removed it, it is loaded again.
func (c *checkImage) ensure(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.id != "" {
		if id, err := c.engine.EnsureImage(ctx, c.id, nil, nil); basilica.KindOf(err) != basilica.NotFound {
			return id, err
		}
	}
	f, err := os.Open(c.path)
	if err != nil {
		return "", fmt.Errorf("read check program: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("read check program: %w", err)
	}
	// It is on record before it is there: a process that dies in between leaves no image that nobody knows of.
	id, err := c.engine.LoadProgram(ctx, "basilica", f, st.Size(), func(config string) error { return c.arrives(ctx, config) })
	if err == nil {
		err = c.mark(context.WithoutCancel(ctx), id)
	}
	if err != nil {
		return "", err
	}
	c.id = id
	return id, nil
}

// remove takes the image off the engine unless another executor on it uses it right now.
func (c *checkImage) remove() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.id == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.engine.RemoveImage(ctx, c.id); err != nil {
		return err
	}
	c.id = ""
	return c.marks.ForgetImage(ctx, checkMark)
}
