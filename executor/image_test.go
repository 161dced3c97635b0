package executor

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"basilica"
	"basilica/docker"
	"basilica/store"
)

// slowEngine loads images and removes them, no more. It ends a load though nobody waits for it any more.
type slowEngine struct {
	*docker.Engine
	own    bool          // it gives images ids of its own, as one with containerd's image store does
	given  chan struct{} // gets a word when a whole image is here
	finish chan bool     // gives a word for each load that may end; false: nobody is told

	mu     sync.Mutex
	images map[string]bool
}

func newSlowEngine(t *testing.T) *slowEngine {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	e := &slowEngine{given: make(chan struct{}, 10), finish: make(chan bool, 10), images: map[string]bool{}}
	root := t.TempDir()
	s := &httptest.Server{Listener: ln, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/info"):
			fmt.Fprintf(w, `{"DockerRootDir":%q,"MemoryLimit":true,"PidsLimit":true,"CpuCfsQuota":true,"SecurityOptions":["name=seccomp"]}`, root)
		case strings.HasSuffix(r.URL.Path, "/images/load"):
			e.load(w, r.Body)
		case strings.Contains(r.URL.Path, "/images/"):
			e.image(w, r)
		}
	})}}
	s.Start()
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(e.finish) })
	if e.Engine, err = docker.New("unix://"+path, testLog(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	e.Images = docker.Images{AllowPrivate: true, Dir: t.TempDir()}
	return e
}

func (e *slowEngine) load(w http.ResponseWriter, body io.Reader) {
	id := ""
	for r := tar.NewReader(body); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return
		}
		if h.Name == "config.json" {
			config, _ := io.ReadAll(r)
			if e.own {
				config = append(config, "manifest"...)
			}
			id = "sha256:" + basilica.Digest(sha256.Sum256(config)).String()
		}
	}
	_, _ = io.Copy(io.Discard, body)
	e.given <- struct{}{}
	told := <-e.finish
	if !told {
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			c.Close()
		}
	}
	e.mu.Lock()
	e.images[id] = true
	e.mu.Unlock()
	if told {
		fmt.Fprintf(w, `{"stream":"Loaded image ID: %s\n"}`, id)
	}
}

func (e *slowEngine) image(w http.ResponseWriter, r *http.Request) {
	id := strings.TrimSuffix(r.URL.Path[strings.Index(r.URL.Path, "/images/")+len("/images/"):], "/json")
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case !e.images[id]:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"message":"no such image"}`)
	case r.Method == http.MethodDelete:
		delete(e.images, id)
		fmt.Fprint(w, `[]`)
	default:
		fmt.Fprintf(w, `{"Id":%q}`, id)
	}
}

func (e *slowEngine) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.images)
}

// imageMachine is as much of a machine as finds and forgets images. later is by how much time has passed more than it has.
func imageMachine(t *testing.T, engine Engine) (e *Executor, later *atomic.Int64) {
	t.Helper()
	dir := t.TempDir()
	db, err := store.OpenExecutor(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	blobs, err := store.OpenBlobs(filepath.Join(dir, "blobs"), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	later = &atomic.Int64{}
	return &Executor{
		cfg:  Config{Engine: engine, Ledger: db, Attempts: db, Marks: db, Blobs: blobs, Log: testLog(t), Now: time.Now, Uptime: func() time.Duration { return time.Duration(later.Load()) }},
		live: map[basilica.TaskAttempt]*life{}, imageUse: make(chan struct{}, 1), idle: map[string]time.Time{},
	}, later
}

// marks gives how many images are on record.
func (e *Executor) marks(t *testing.T) int {
	t.Helper()
	loaded, err := e.cfg.Marks.LoadedImages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(loaded)
}

// forgets forgets images once, after that time.
func forgets(t *testing.T, e *Executor, later *atomic.Int64, after, keep time.Duration) {
	t.Helper()
	later.Add(int64(after))
	if err := e.forgetImages(t.Context(), keep); err != nil {
		t.Error(err)
	}
}

// cancelled has a task cancelled when the engine has its whole image.
func cancelled(t *testing.T, e *Executor, engine *slowEngine, image string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := e.image(ctx, &life{}, basilica.TaskSpec{Image: image})
		ended <- err
	}()
	select {
	case <-engine.given:
	case err := <-ended:
		t.Fatalf("%s: %v", image, err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("%s: %v", image, err)
	}
}

// TestImageThatComesLateGoes: an engine that has the whole of an image ends its load whatever becomes of the task, whose
// blob is gone by then, and of the process. The image goes all the same; what never comes is not looked for for ever.
func TestImageThatComesLateGoes(t *testing.T) {
	t.Parallel()
	for _, pulled := range []bool{false, true} {
		engine := newSlowEngine(t)
		e, later := imageMachine(t, engine)
		file := imageFile(t, []byte("program"))
		blob := basilica.Blob{SHA256: sha256.Sum256(file), Size: int64(len(file))}
		if err := e.cfg.Blobs.Put(t.Context(), blob, bytes.NewReader(file)); err != nil {
			t.Fatal(err)
		}
		image := basilica.ImageBlobPrefix + blob.SHA256.String()
		if pulled {
			image = pushed(t, []byte("program"))
		}
		cancelled(t, e, engine, image)
		if err := e.cfg.Blobs.Delete(blob.SHA256); err != nil {
			t.Fatal(err)
		}
		forgets(t, e, later, 0, 0)
		engine.finish <- false
		waitFor(t, func() bool { return engine.count() == 1 })
		forgets(t, e, later, tidyEvery, 0)
		if n, m := engine.count(), e.marks(t); n != 0 || m != 0 {
			t.Errorf("%s: %d images and %d marks remain", image, n, m)
		}
		if err := e.cfg.Blobs.Put(t.Context(), blob, bytes.NewReader(file)); err != nil {
			t.Fatal(err)
		}
		cancelled(t, e, engine, image)
		forgets(t, e, later, 0, 0)
		forgets(t, e, later, lateImages-time.Second, 0)
		before := e.marks(t)
		forgets(t, e, later, time.Second, 0)
		if after := e.marks(t); before != 1 || after != 0 {
			t.Errorf("%s: an image that never comes: %d marks, later %d", image, before, after)
		}
		engine.finish <- false
	}
}

// TestImageWithAnIDOfTheEngine: an engine need not take the config's digest for an image's id. What it took is found for
// the next task, by the next process too, and goes in the end.
func TestImageWithAnIDOfTheEngine(t *testing.T) {
	t.Parallel()
	engine := newSlowEngine(t)
	engine.own = true
	engine.finish <- true
	engine.finish <- true // for a load that should not be
	e, later := imageMachine(t, engine)
	spec := basilica.TaskSpec{Image: pushed(t, []byte("program"))}
	at := basilica.TaskAttempt{Task: "job", Attempt: 1}
	first := ""
	for range 2 {
		e = &Executor{cfg: e.cfg, live: map[basilica.TaskAttempt]*life{at: {}}, imageUse: make(chan struct{}, 1), idle: map[string]time.Time{}}
		id, err := e.image(t.Context(), e.live[at], spec)
		if err != nil || first != "" && id != first {
			t.Fatalf("%s, first %s: %v", id, first, err)
		}
		first = id
		forgets(t, e, later, unusedImages, 0)
	}
	if n := len(engine.given); n != 1 || engine.count() != 1 || e.marks(t) != 1 {
		t.Errorf("given to the engine %d times; %d images and %d marks while it is needed", n, engine.count(), e.marks(t))
	}
	delete(e.live, at)
	forgets(t, e, later, 0, unusedImages)
	if engine.count() != 1 {
		t.Error("it went at once")
	}
	forgets(t, e, later, unusedImages, unusedImages)
	if n, m := engine.count(), e.marks(t); n != 0 || m != 0 {
		t.Errorf("%d images and %d marks remain", n, m)
	}
}

// TestLateImageIsRemovedByItsID: an engine with ids of its own tells the id when it has unpacked an image. That is awaited
// where the task is cancelled, and no other image is given to the engine meanwhile.
func TestLateImageIsRemovedByItsID(t *testing.T) {
	t.Parallel()
	engine := newSlowEngine(t)
	engine.own = true
	e, _ := imageMachine(t, engine)
	cancelled(t, e, engine, pushed(t, []byte("one")))
	next, ended := pushed(t, []byte("two")), make(chan error, 1)
	go func() {
		_, err := e.image(t.Context(), &life{}, basilica.TaskSpec{Image: next})
		ended <- err
	}()
	select {
	case <-engine.given:
		t.Error("two images at once")
	case <-time.After(200 * time.Millisecond):
	}
	engine.finish <- true
	engine.finish <- true
	if err := <-ended; err != nil || engine.count() != 1 {
		t.Errorf("%d images: %v", engine.count(), err)
	}
}

// TestWaitForAnotherImageHearsTheEnd: a task that waits while another's image is loaded can be cancelled.
func TestWaitForAnotherImageHearsTheEnd(t *testing.T) {
	t.Parallel()
	engine := newSlowEngine(t)
	e, _ := imageMachine(t, engine)
	file := imageFile(t, []byte("program"))
	blob := basilica.Blob{SHA256: sha256.Sum256(file), Size: int64(len(file))}
	if err := e.cfg.Blobs.Put(t.Context(), blob, bytes.NewReader(file)); err != nil {
		t.Fatal(err)
	}
	loads := func(ctx context.Context) <-chan error {
		ended := make(chan error, 1)
		go func() {
			_, err := e.image(ctx, &life{}, basilica.TaskSpec{Image: basilica.ImageBlobPrefix + blob.SHA256.String()})
			ended <- err
		}()
		return ended
	}
	first := loads(t.Context())
	<-engine.given
	ctx, cancel := context.WithCancel(t.Context())
	waits := loads(ctx)
	cancel()
	select {
	case err := <-waits:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it waits on")
	}
	engine.finish <- true
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := <-loads(t.Context()); err != nil { // the slot is free again
		t.Error(err)
	}
}

// TestEngineDiskIsInHealth: the disk of the images counts beside that of the data directory.
func TestEngineDiskIsInHealth(t *testing.T) {
	t.Parallel()
	engine := newSlowEngine(t)
	e, _ := imageMachine(t, engine)
	for floor, codes := range map[int64][]string{1 << 20: nil, 1 << 62: {"DISK_FULL"}} {
		e.engine = engineState{}
		e.cfg.MinFreeDisk, e.cfg.FreeDisk = floor, func() (int64, error) { return 1 << 62, nil }
		var got []string
		h, err := e.Health(t.Context())
		for _, r := range h.Reasons {
			if r.Code != "NOT_RUNNING" {
				got = append(got, r.Code)
			}
		}
		if err != nil || !slices.Equal(got, codes) {
			t.Errorf("floor %d: %+v %v", floor, h.Reasons, err)
		}
	}
}

// crowded is an engine that says this of its disk.
type crowded struct {
	Engine
	room error
}

func (crowded) Available(context.Context) (name, version string, err error) {
	return "docker", "1", nil
}
func (c crowded) Room(context.Context, int64) error { return c.room }

// TestUnusedImagesGoForAFullDiskAlone: a disk of which nothing is known, or which fails, takes no pulled image from the next
// task.
func TestUnusedImagesGoForAFullDiskAlone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		engine, own error
		free        int64
		keep        time.Duration
	}{
		"room":               {free: 1 << 30, keep: unusedImages},
		"engine's disk full": {engine: diskFull("full"), free: 1 << 30},
		"own disk full":      {},
		"engine slow":        {engine: context.DeadlineExceeded, free: 1 << 30, keep: unusedImages},
		"engine's disk bad":  {engine: basilica.E(basilica.Unavailable, "STORE_DISK", "it fails", ""), free: 1 << 30, keep: unusedImages},
		"own disk unknown":   {own: errors.New("not seen"), keep: unusedImages},
	} {
		e := &Executor{cfg: Config{Engine: crowded{room: c.engine}, Now: time.Now, MinFreeDisk: 1 << 20, FreeDisk: func() (int64, error) { return c.free, c.own }}}
		if keep := e.keepUnused(t.Context()); keep != c.keep {
			t.Errorf("%s: kept for %s", name, keep)
		}
	}
}
