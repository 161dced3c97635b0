package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"basilica"
)

// Limits of an image.
const (
	pullTimeout  = 30 * time.Minute
	maxManifest  = 1 << 20
	maxTarFiles  = 4096
	maxImageName = 512
)

var imageID = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func noImage(ref string) *basilica.Error {
	return basilica.E(basilica.NotFound, "IMAGE_NOT_FOUND", fmt.Sprintf("the image %.200q does not exist", ref), "check the name, name it by digest (NAME@sha256:…) so that it can be pulled, or have the machine's owner load it into the engine (docker load)")
}

func (e *Engine) imageError(ref string, err error) error {
	if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
		return noImage(ref).With(err)
	}
	return e.mapped("look for image", err)
}

// EnsureImage finds a local image by name or pulls one that is named by digest, and gives its content address. A name
// without a digest is never pulled: what it means is its registry's choice at that moment, and no receipt could say
// what ran. An image that does not exist is NotFound (IMAGE_NOT_FOUND), a registry that is away Unavailable.
func (e *Engine) EnsureImage(ctx context.Context, ref string, login *basilica.RegistryLogin) (id string, err error) {
	if ref == "" || len(ref) > maxImageName || strings.ContainsAny(ref, " \t\r\n\x00") {
		return "", noImage(ref)
	}
	if id, err = e.localImage(ctx, ref); basilica.KindOf(err) != basilica.NotFound {
		return id, err
	}
	if !strings.Contains(ref, "@sha256:") {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	pull, perr := e.api.ImagePull(ctx, ref, client.ImagePullOptions{})
	if perr == nil {
		perr = errors.Join(pull.Wait(ctx), pull.Close())
	}
	switch {
	case perr == nil:
	case errdefs.IsNotFound(perr) || strings.Contains(perr.Error(), "manifest unknown") || strings.Contains(perr.Error(), "not found"):
		return "", noImage(ref).With(perr)
	case client.IsErrConnectionFailed(perr):
		return "", e.mapped("pull image", perr)
	case ctx.Err() != nil:
		return "", ctx.Err()
	default:
		return "", basilica.E(basilica.Unavailable, "IMAGE_REGISTRY", fmt.Sprintf("the image %.200q could not be pulled", ref), "check that the executor reaches the registry and that the image is public, or have the machine's owner load it into the engine (docker load)").With(perr)
	}
	return e.localImage(ctx, ref)
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

// LoadImage loads the one image of a tar file in docker-save form and gives its content address. The image gets no name:
// a stranger's file must not take the name of another's image.
func (e *Engine) LoadImage(ctx context.Context, file io.ReadSeeker) (id string, err error) {
	config, err := manifestOf(file)
	if err != nil {
		return "", err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("read image file: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	r, w := io.Pipe()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := nameless(w, file, config)
		w.CloseWithError(err)
		return err
	})
	var said string
	g.Go(func() error {
		defer r.CloseWithError(io.ErrClosedPipe)
		said, err = e.load(ctx, r)
		return err
	})
	if err := g.Wait(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return "", err
	}
	if !imageID.MatchString(said) {
		return "", badImage("the engine loaded no image from it")
	}
	return said, nil
}

func badImage(why string) error {
	return basilica.E(basilica.Invalid, "IMAGE_FILE", "the image file cannot be loaded: "+why, "make it with docker save IMAGE -o FILE, one image per file")
}

// load sends a tar file and reads the image's address from the engine's answer.
func (e *Engine) load(ctx context.Context, r io.Reader) (string, error) {
	res, err := e.api.ImageLoad(ctx, r, client.ImageLoadWithQuiet(true))
	if err != nil {
		if client.IsErrConnectionFailed(err) {
			return "", e.mapped("load image", err)
		}
		return "", badImage(tail(err.Error()))
	}
	defer res.Close()
	var said string
	dec := json.NewDecoder(io.LimitReader(res, 1<<20))
	for {
		var m struct {
			Stream      string `json:"stream"`
			ErrorDetail *struct {
				Message string `json:"message"`
			} `json:"errorDetail"`
		}
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return said, nil
		} else if err != nil {
			return "", fmt.Errorf("read the engine's answer: %w", err)
		}
		if m.ErrorDetail != nil {
			return "", badImage(tail(m.ErrorDetail.Message))
		}
		if id, ok := strings.CutPrefix(strings.TrimSpace(m.Stream), "Loaded image ID: "); ok {
			said = id
		}
	}
}

func tail(s string) string {
	if len(s) > 200 {
		return s[len(s)-200:]
	}
	return s
}

// savedImage is one entry of manifest.json in a docker-save file.
type savedImage struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

// manifestOf reads manifest.json of a docker-save file and insists on one image.
func manifestOf(file io.Reader) (savedImage, error) {
	r := tar.NewReader(file)
	for range maxTarFiles {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return savedImage{}, badImage("it is no tar file")
		}
		if path.Clean(h.Name) != "manifest.json" {
			continue
		}
		var images []savedImage
		if err := json.NewDecoder(io.LimitReader(r, maxManifest)).Decode(&images); err != nil {
			return savedImage{}, badImage("its manifest.json cannot be read")
		}
		if len(images) != 1 || images[0].Config == "" {
			return savedImage{}, badImage(fmt.Sprintf("it holds %d images", len(images)))
		}
		return images[0], nil
	}
	return savedImage{}, badImage("it has no manifest.json")
}

// nameless copies a docker-save file without the names of its image: only files, folders and the links between layers
// that docker save makes, with a manifest that names nothing.
func nameless(w io.Writer, file io.Reader, img savedImage) error {
	img.RepoTags = nil
	manifest, err := json.Marshal([]savedImage{img})
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	r, out := tar.NewReader(file), tar.NewWriter(w)
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || n >= maxTarFiles {
			return badImage("it is no tar file, or has too many entries")
		}
		name := path.Clean(h.Name)
		if name == "." || path.IsAbs(name) || strings.HasPrefix(name, "../") || name == ".." {
			continue
		}
		switch name {
		case "manifest.json", "repositories", "index.json", "oci-layout":
			continue
		}
		keep := &tar.Header{Typeflag: h.Typeflag, Name: name, Size: h.Size, Mode: 0o644}
		switch h.Typeflag {
		case tar.TypeReg:
		case tar.TypeDir:
			keep.Name, keep.Mode = name+"/", 0o755
		case tar.TypeSymlink:
			target := path.Join(path.Dir(name), h.Linkname)
			if path.IsAbs(h.Linkname) || strings.HasPrefix(target, "../") {
				return badImage("it has a link that leads out of it")
			}
			keep.Linkname, keep.Mode = h.Linkname, 0o777
		default:
			return badImage("it has an entry that is neither file, folder nor link")
		}
		if err := out.WriteHeader(keep); err != nil {
			return fmt.Errorf("copy image file: %w", err)
		}
		if _, err := io.Copy(out, r); err != nil {
			return fmt.Errorf("copy image file: %w", err)
		}
	}
	if err := writeFile(out, "manifest.json", manifest); err != nil {
		return err
	}
	return out.Close()
}

func writeFile(w *tar.Writer, name string, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if _, err := w.Write(content); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
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

// BinaryImage writes a docker-save file of an image that holds one static program at /NAME and nothing else.
func BinaryImage(w io.Writer, name string, program io.Reader, size int64) error {
	var layer bytes.Buffer
	lw := tar.NewWriter(&layer)
	if err := lw.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o755}); err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	if _, err := io.Copy(lw, program); err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	if err := lw.Close(); err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	sum := sha256.Sum256(layer.Bytes())
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": []string{"/" + name}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		return fmt.Errorf("encode image: %w", err)
	}
	manifest, err := json.Marshal([]savedImage{{Config: "config.json", Layers: []string{"layer.tar"}}})
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	out := tar.NewWriter(w)
	for _, f := range []struct {
		name    string
		content []byte
	}{{"config.json", config}, {"layer.tar", layer.Bytes()}, {"manifest.json", manifest}} {
		if err := writeFile(out, f.name, f.content); err != nil {
			return err
		}
	}
	return out.Close()
}
