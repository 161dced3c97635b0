package client

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"basilica"
)

// Caps of the tar file of an image. What is beyond them no `docker save` makes.
const (
	maxImageEntries  = 4096
	maxImageManifest = 1 << 20
	maxImageLayers   = 128
)

// imageManifest is one image of a tar file's manifest.json.
type imageManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func badImage(path, what string, err error) error {
	return basilica.E(basilica.Invalid, "IMAGE_FILE", fmt.Sprintf("%s is not the file of one image: %s", path, what), "make it with `docker save IMAGE -o FILE.tar` or `podman save`; one image, not compressed").With(err)
}

// checkImage reads the tar file of an image as far as is needed to know that it is one, and gives its tags.
func checkImage(path string) (tags []string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, unreadable(path, errors.Join(err, errors.New("not a regular file")))
	} else if info.Size() > basilica.MaxBlobBytes {
		return nil, badImage(path, fmt.Sprintf("it has %d bytes, more than %d", info.Size(), int64(basilica.MaxBlobBytes)), nil)
	}
	tags, what, err := readImage(f)
	if what != "" || err != nil {
		return nil, badImage(path, what, err)
	}
	return tags, nil
}

// readImage gives the tags, or what is wrong.
func readImage(r io.Reader) (tags []string, what string, err error) {
	entries := tar.NewReader(r)
	has := map[string]bool{}
	var manifests []imageManifest
	for n := 0; ; n++ {
		head, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, "it is no tar file", err
		}
		if n >= maxImageEntries {
			return nil, fmt.Sprintf("it has more than %d entries", maxImageEntries), nil
		}
		name := strings.TrimSuffix(strings.TrimPrefix(head.Name, "./"), "/")
		if name != "" && !basilica.ValidFileName(name) {
			return nil, fmt.Sprintf("its entry %.80q leaves it", head.Name), nil
		}
		switch head.Typeflag {
		case tar.TypeReg, tar.TypeSymlink, tar.TypeLink: // docker links layers that are the same
			has[name] = true
		case tar.TypeDir:
		default:
			return nil, fmt.Sprintf("its entry %.80q is neither file nor directory", head.Name), nil
		}
		if name != "manifest.json" {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(entries, maxImageManifest+1))
		if err != nil || len(text) > maxImageManifest {
			return nil, "its manifest.json cannot be read", err
		}
		if err := json.Unmarshal(text, &manifests); err != nil {
			return nil, "its manifest.json is not JSON", err
		}
	}
	if len(manifests) != 1 {
		return nil, fmt.Sprintf("its manifest.json names %d images", len(manifests)), nil
	}
	m := manifests[0]
	if len(m.Layers) > maxImageLayers || len(m.RepoTags) > maxImageLayers {
		return nil, fmt.Sprintf("it has more than %d layers or tags", maxImageLayers), nil
	}
	for _, part := range append(slices.Clone(m.Layers), m.Config) {
		if !has[part] {
			return nil, fmt.Sprintf("%.80q is missing", part), nil
		}
	}
	for i, tag := range m.RepoTags {
		m.RepoTags[i] = basilica.OneLine(tag)
	}
	return m.RepoTags, "", nil
}

// LoadImage sends the tar file of an image to a miner, the best offer where none is named, and remembers that it is there.
func (c *Client) LoadImage(ctx context.Context, path string, miner basilica.Hotkey) (LoadedImage, error) {
	tags, err := checkImage(path)
	if err != nil {
		return LoadedImage{}, err
	}
	blob, err := hashFile(path)
	if err != nil {
		return LoadedImage{}, err
	}
	at, err := c.choose(ctx, Request{Miner: miner})
	if err != nil {
		return LoadedImage{}, err
	}
	if err := c.upload(ctx, at.door, path, path, blob); err != nil {
		return LoadedImage{}, fmt.Errorf("send image: %w", err)
	}
	loaded := LoadedImage{Image: basilica.ImageBlobPrefix + blob.SHA256.String(), Tags: tags, Miner: at.neuron.Hotkey, File: path, Size: blob.Size, Loaded: c.cfg.Now().UTC()}
	return loaded, c.cfg.Index.AddImage(loaded)
}

// Images lists the images that were loaded from here, the last load of each at each miner, newest first.
func (c *Client) Images() ([]LoadedImage, error) {
	all, err := c.cfg.Index.Images()
	if err != nil {
		return nil, err
	}
	slices.Reverse(all)
	type key struct {
		image string
		miner basilica.Hotkey
	}
	seen := map[key]bool{}
	return slices.DeleteFunc(all, func(i LoadedImage) bool {
		k := key{i.Image, i.Miner}
		again := seen[k]
		seen[k] = true
		return again
	}), nil
}

// withImage leaves the miners that have an image of a file.
func (c *Client) withImage(offers []Offered, image string) ([]Offered, error) {
	images, err := c.Images()
	if err != nil {
		return nil, err
	}
	with := slices.DeleteFunc(slices.Clone(offers), func(o Offered) bool {
		return !slices.ContainsFunc(images, func(i LoadedImage) bool { return i.Image == image && i.Miner == o.Neuron.Hotkey })
	})
	if len(with) == 0 {
		return nil, basilica.E(basilica.NotFound, "BLOB_MISSING", fmt.Sprintf("no miner is known to have the image %.40s…", image), "send it: basilica image load FILE.tar; or name the miner that has it with --miner")
	}
	return with, nil
}
