package node

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
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

// checkMark is the source under which the image is remembered.
const checkMark = "check"

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
	loaded, err := marks.LoadedImages(ctx)
	if err != nil {
		return nil, err
	}
	id, err := c.ensure(ctx)
	if last := loaded[checkMark]; err == nil && last != "" && last != id {
		err = engine.RemoveImage(ctx, last)
	}
	if err == nil {
		err = marks.KeepImage(ctx, checkMark, id)
	}
	return c, err
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
	c.id, err = c.engine.LoadProgram(ctx, "basilica", f, st.Size())
	return c.id, err
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
