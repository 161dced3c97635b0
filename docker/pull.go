package docker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"basilica"
)

const parallelLayers = 3

// pull fetches an image by digest and loads it. The engine's own pull is not asked: it would unpack whatever a stranger's
// registry sends before anybody has weighed it, dial whatever address a stranger names, and keep the image for whoever
// comes next without credentials.
func (e *Engine) pull(ctx context.Context, name string, login *basilica.RegistryLogin, arrives func(config string) (known string, err error)) (id string, err error) {
	ref, err := parseReference(name)
	if err != nil {
		return "", err
	}
	g, err := newRegistry(ref, login, e.Images.AllowPrivate)
	if err != nil {
		return "", err
	}
	defer g.close()
	m, err := g.manifest(ctx)
	if err != nil {
		return "", err
	}
	// Who may read the manifest may have the image that is here already; its config's digest is its address, unless the engine
	// gave it another one.
	if id, err := e.localImage(ctx, m.Config.Digest); basilica.KindOf(err) != basilica.NotFound {
		return id, err
	}
	if arrives != nil {
		known, err := arrives(m.Config.Digest)
		if err != nil {
			return "", err
		}
		if known != "" && known != m.Config.Digest {
			if id, err := e.localImage(ctx, known); basilica.KindOf(err) != basilica.NotFound {
				return id, err
			}
		}
	}
	limit, err := e.imageLimit(ctx, imageCopies)
	if err != nil {
		return "", err
	}
	var total int64
	for _, l := range m.Layers {
		if total += l.Size; total > limit || l.Size > limit {
			return "", tooLarge(limit)
		}
	}
	var config bytes.Buffer
	if err := g.blob(ctx, m.Config, &config); err != nil {
		return "", err
	}
	if err := checkConfig(config.Bytes(), len(m.Layers)); err != nil {
		return "", err
	}
	arrived, err := e.promise(total)
	if err != nil {
		return "", err
	}
	layers, err := e.download(ctx, g, m.Layers)
	arrived()
	defer func() {
		for _, f := range layers {
			f.Close()
		}
	}()
	if err != nil {
		return "", err
	}
	done, err := e.alone(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	// Others may have taken disk while this one was on its way.
	if limit, err = e.imageLimit(ctx, loadCopies); err != nil {
		return "", err
	}
	place := make([]int, len(layers))
	return e.send(ctx, func(w io.Writer) error {
		out := newImageWriter(w, limit)
		for i, f := range layers {
			place[i] = i
			if err := out.layer(i, io.NewSectionReader(f, 0, m.Layers[i].Size), m.Layers[i].Size); err != nil {
				return err
			}
		}
		return out.close(config.Bytes(), place)
	})
}

// download keeps layers in files without a name: nothing of them is left, whatever becomes of this process.
func (e *Engine) download(ctx context.Context, g *registryClient, layers []descriptor) ([]*os.File, error) {
	var files []*os.File
	for range layers {
		f, err := spool(e.Images.Dir)
		if err != nil {
			return files, fmt.Errorf("keep layer: %w", err)
		}
		files = append(files, f)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelLayers)
	for i, l := range layers {
		group.Go(func() error { return g.blob(ctx, l, files[i]) })
	}
	return files, group.Wait()
}

// spool opens a temporary file and takes its name away.
func spool(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".layer-*")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}
