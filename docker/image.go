package docker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"basilica"
)

// Limits of an image.
const (
	pullTimeout     = 30 * time.Minute
	maxImageName    = 512
	defaultImage    = 64 << 30
	imageReserve    = 1 << 30 // of the engine's disk that no image takes
	imageCopies     = 3       // of an image on its way: downloaded, in the engine's hands, unpacked
	loadCopies      = 2       // of one that is here: in the engine's hands, unpacked
	maxEngineAnswer = 1 << 20
)

// Images says which images strangers may bring to an engine.
type Images struct {
	// MaxBytes bounds an image as it takes disk, unpacked; zero: 64 GiB. The engine's free disk bounds it too.
	MaxBytes int64
	// AllowPrivate lets registries on loopback and private addresses be asked: a stranger names them.
	AllowPrivate bool
	// Dir is where layers are kept while they are downloaded, as files without a name; empty: the system's directory for
	// temporary files.
	Dir string
}

var imageID = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func noImage(ref string) *basilica.Error {
	return basilica.E(basilica.NotFound, "IMAGE_NOT_FOUND", fmt.Sprintf("the image %.200q does not exist", ref), "check the name, name it by digest (NAME@sha256:…) so that it can be pulled, or load a file: basilica image load FILE.tar")
}

func (e *Engine) imageError(ref string, err error) error {
	if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
		return noImage(ref).With(err)
	}
	return e.mapped("look for image", err)
}

// EnsureImage finds a local image by its content address, or by digest, which it pulls where it is not here, and gives the
// content address. A name without a digest is never pulled: what it means is its registry's choice at that moment, and no
// receipt could say what ran. Nor does it find an image that is here: names are their owner's, and whoever guesses one would
// read what the owner keeps in it. login may be nil; it goes to its own server alone, and nowhere else. arrives, which may be
// nil, is called with the digest of the config of an image that is not here by it, before the engine has any of it: whoever
// wants it gone later must know it. It gives the id that the engine had for that image before, or none: one with containerd's
// image store has ids of its own.
//
// An image that does not exist is NotFound (IMAGE_NOT_FOUND), one that the registry does not give to whoever asks Denied
// (IMAGE_DENIED), one that takes too much disk Exhausted (IMAGE_TOO_LARGE), one for other machines Invalid
// (IMAGE_PLATFORM); a registry that is away is Unavailable (IMAGE_REGISTRY).
func (e *Engine) EnsureImage(ctx context.Context, ref string, login *basilica.RegistryLogin, arrives func(config string) (known string, err error)) (id string, err error) {
	if ref == "" || len(ref) > maxImageName || strings.ContainsAny(ref, " \t\r\n\x00") {
		return "", noImage(ref)
	}
	pullable := strings.Contains(ref, "@sha256:")
	if !pullable && !imageID.MatchString(ref) {
		return "", noImage(ref)
	}
	if id, err = e.localImage(ctx, ref); basilica.KindOf(err) != basilica.NotFound || !pullable {
		return id, err
	}
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	return e.pull(ctx, ref, login, arrives)
}

func (e *Engine) localImage(ctx context.Context, ref string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	img, err := e.api.ImageInspect(ctx, ref)
	if err != nil {
		return "", e.imageError(ref, err)
	}
	return img.ID, nil
}

// imageLimit is how many bytes one image, that many copies of which are still to come, may take on the engine's disk now.
func (e *Engine) imageLimit(ctx context.Context, copies int64) (int64, error) {
	limit := e.Images.MaxBytes
	if limit <= 0 {
		limit = defaultImage
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := e.api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return 0, e.mapped("ask the engine", err)
	}
	dir, st, err := e.fullest(res.Info)
	if err != nil {
		e.log.Warn("the engine's free disk is not known", "dir", dir, "err", err)
		return limit, nil
	}
	return min(limit, max(0, freeOf(st)-e.downloading.Load())/copies), nil
}

// containerdStore is how an engine tells that it keeps images with containerd, in a directory of that one's.
var containerdStore = [2]string{"driver-type", "io.containerd.snapshotter.v1"}

var containerdRoot = regexp.MustCompile(`(?m)^root\s*=\s*["']([^"']+)["']`)

// containerdDir is where containerd keeps what it has, by its configuration.
func containerdDir(config string) string {
	text, err := os.ReadFile(config)
	if m := containerdRoot.FindSubmatch(text); err == nil && m != nil {
		return string(m[1])
	}
	return "/var/lib/containerd"
}

// fullest gives the directory of the engine's images whose disk has the least room. An engine that runs a containerd of its
// own keeps that one's directory in its own, and there may be no other.
func (e *Engine) fullest(info system.Info) (dir string, st unix.Statfs_t, err error) {
	dir = info.DockerRootDir
	err = unix.Statfs(dir, &st)
	var other unix.Statfs_t
	if !slices.Contains(info.DriverStatus, containerdStore) || unix.Statfs(e.containerd, &other) != nil || err == nil && freeOf(st) <= freeOf(other) {
		return dir, st, err
	}
	return e.containerd, other, nil
}

// freeOf is how much of a disk images may take, in bytes.
func freeOf(st unix.Statfs_t) int64 { return int64(min(st.Bavail, 1<<40))*st.Bsize - imageReserve }

// promise sets bytes of the disk aside on which layers are kept while they are downloaded, until done is called: strangers
// that pull at the same time must not fill it together.
func (e *Engine) promise(bytes int64) (done func(), err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cmp.Or(e.Images.Dir, os.TempDir()), &st); err != nil {
		return nil, fmt.Errorf("look at the disk for downloads: %w", err)
	}
	done = func() { e.downloading.Add(-bytes) }
	if all := e.downloading.Add(bytes); all > freeOf(st) {
		done()
		return nil, tooLarge(max(0, freeOf(st)-all+bytes))
	}
	return done, nil
}

// alone waits until the engine has ended with every other image.
func (e *Engine) alone(ctx context.Context) (done func(), err error) {
	select {
	case e.loading <- struct{}{}:
		return func() {
			go func() {
				e.late.Wait()
				<-e.loading
			}()
		}, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another image: %w", ctx.Err())
	}
}

// LoadImage loads the one image of a tar file in docker-save form and gives its content address. The image gets no name:
// a stranger's file must not take the name of another's image. arrives, which may be nil, is called with the digest of the
// image's config before the engine gets anything: an engine may end the load after whoever asked for it has gone. Where it
// has the image already, which is somebody's, arrives is not called.
func (e *Engine) LoadImage(ctx context.Context, file io.ReadSeeker, arrives func(config string) error) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	done, err := e.alone(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	limit, err := e.imageLimit(ctx, imageCopies)
	if err != nil {
		return "", err
	}
	saved, err := readSaved(file, limit)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(saved.config)
	config := "sha256:" + hex.EncodeToString(sum[:])
	if id, err := e.localImage(ctx, config); basilica.KindOf(err) != basilica.NotFound {
		return id, err
	}
	if arrives != nil {
		if err := arrives(config); err != nil {
			return "", err
		}
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("read image file: %w", err)
	}
	return e.send(ctx, func(w io.Writer) error { return nameless(w, file, saved, limit) })
}

// LoadProgram makes the image that holds one static program of size bytes at /NAME and nothing else, unless the engine has
// it, and gives its content address. arrives, which may be nil, is called with the address before the engine gets anything.
func (e *Engine) LoadProgram(ctx context.Context, name string, program io.ReadSeeker, size int64, arrives func(id string) error) (id string, err error) {
	img, err := newProgramImage(name, program, size)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	done, err := e.alone(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	if id, err := e.localImage(ctx, img.id()); basilica.KindOf(err) != basilica.NotFound {
		return id, err
	}
	if arrives != nil {
		if err := arrives(img.id()); err != nil {
			return "", err
		}
	}
	return e.send(ctx, img.write)
}

// send gives an engine the file that write writes, all of it or, where write fails, none. Of a file that it has wholly some
// engines do not let go when nobody waits any more: what becomes of it is removed.
func (e *Engine) send(ctx context.Context, write func(io.Writer) error) (id string, err error) {
	type result struct {
		id  string
		err error
	}
	r, w := io.Pipe()
	var wrote error
	written, ended := make(chan struct{}), make(chan result)
	go func() {
		defer close(written)
		wrote = write(w)
		w.CloseWithError(wrote)
	}()
	e.late.Go(func() {
		defer context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })()
		lasting, cancel := context.WithTimeout(context.WithoutCancel(ctx), pullTimeout)
		defer cancel()
		id, err := e.load(lasting, r)
		r.CloseWithError(io.ErrClosedPipe)
		select {
		case ended <- result{id, err}:
		case <-ctx.Done():
			if err != nil || !imageID.MatchString(id) {
				return
			}
			if err := e.ForgetImage(lasting, id); err != nil {
				e.log.Warn("an image that nobody waits for any more remains", "image", id, "err", err)
			}
		}
	})
	var loaded result
	select {
	case loaded = <-ended:
		<-written
	case <-ctx.Done():
		<-written
		return "", fmt.Errorf("load image: %w", ctx.Err())
	}
	id, err = loaded.id, loaded.err
	if wrote != nil && !errors.Is(wrote, io.ErrClosedPipe) { // the engine's complaint about it says less
		return "", wrote
	}
	if err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return "", err
	}
	if !imageID.MatchString(id) {
		return "", badImage("the engine loaded no image from it")
	}
	return id, nil
}

// load sends a tar file and reads the image's address from the engine's answer.
func (e *Engine) load(ctx context.Context, r io.Reader) (string, error) {
	res, err := e.api.ImageLoad(ctx, r, client.ImageLoadWithQuiet(true))
	if err != nil {
		if client.IsErrConnectionFailed(err) || ctx.Err() != nil {
			return "", e.mapped("load image", err)
		}
		return "", unloaded(err.Error())
	}
	defer res.Close()
	var said, broken string
	dec := json.NewDecoder(io.LimitReader(res, maxEngineAnswer))
	for {
		var m struct {
			Stream      string `json:"stream"`
			ErrorDetail *struct {
				Message string `json:"message"`
			} `json:"errorDetail"`
		}
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			if broken != "" {
				return "", errors.Join(unloaded(broken), e.ForgetImage(context.WithoutCancel(ctx), said))
			}
			return said, nil
		} else if err != nil {
			return "", fmt.Errorf("read the engine's answer: %w", err)
		}
		if m.ErrorDetail != nil {
			return "", unloaded(m.ErrorDetail.Message)
		}
		if id, ok := strings.CutPrefix(strings.TrimSpace(m.Stream), "Loaded image ID: "); ok {
			said = id
		}
		// With containerd's image store an engine keeps what it cannot unpack.
		if why, ok := strings.CutPrefix(strings.TrimSpace(m.Stream), "Error unpacking image "); ok {
			broken = why
		}
	}
}

// diskWords end what an engine says where its disk is at fault; names from the image may stand before.
var diskWords = regexp.MustCompile(`: (no space left on device|disk quota exceeded|read-only file system|input/output error)(?:: unknown)?\s*$`)

// unloaded is why an engine did not load an image: its own disk, or the image.
func unloaded(said string) error {
	m := diskWords.FindStringSubmatch(said)
	switch {
	case m == nil:
		return badImage(tail(said))
	case m[1] == "no space left on device" || m[1] == "disk quota exceeded":
		return diskFull("the disk of the machine's container engine is full")
	}
	return diskFault(m[1])
}

const fixDisk = "free space on it, e.g. docker system prune, or move the data root of Docker"

func diskFull(what string) error { return basilica.E(basilica.Exhausted, "DISK_FULL", what, fixDisk) }

func diskFault(what string) error {
	return basilica.E(basilica.Unavailable, "STORE_DISK", "the disk of the machine's container engine fails: "+what, "look at dmesg and at the disk on which Docker keeps images")
}

// Room refuses an engine whose disk of images has less than so many bytes free (DISK_FULL) or takes nothing (STORE_DISK). A
// disk that this process does not see is no reason, nor is an engine that does not answer: Available tells of that.
func (e *Engine) Room(ctx context.Context, least int64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := e.api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return nil
	}
	_, st, err := e.fullest(res.Info)
	if err != nil {
		return nil
	}
	switch free := freeOf(st) + imageReserve; {
	case st.Flags&unix.ST_RDONLY != 0:
		return diskFault("it is read-only")
	case free < least:
		return diskFull(fmt.Sprintf("the disk of the machine's container engine has %d bytes free, and %d are kept free", free, least))
	}
	return nil
}

func tail(s string) string {
	if len(s) > 200 {
		return s[len(s)-200:]
	}
	return s
}

// RemoveImage removes an image that nothing uses; one that is gone or in use is no error.
func (e *Engine) RemoveImage(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := e.api.ImageRemove(ctx, id, client.ImageRemoveOptions{PruneChildren: true})
	// Two that remove the same image at once: the engine says this to the second.
	raced := err != nil && strings.Contains(err.Error(), "unrecognized image ID")
	if errdefs.IsNotFound(err) || errdefs.IsConflict(err) || raced {
		return nil
	}
	return e.mapped("remove image", err)
}
