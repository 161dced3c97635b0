package executor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"basilica"
)

// Caps of what a job may leave in /out beside its bytes.
const (
	maxOutputDepth   = 16
	maxOutputEntries = 4096 // files and folders
)

func badOutput(format string, args ...any) error {
	return basilica.E(basilica.Invalid, "OUTPUT_REFUSED", "the task's outputs are refused: "+fmt.Sprintf(format, args...), "leave plain files in /out, few, shallow and with distinct names")
}

// collect reads a job's outputs beneath their root and keeps them as blobs. The job chose every name and every byte, so
// nothing outside the root is followed, and whatever is no regular file refuses all of it. limit counts bytes as the
// files claim them: a file with holes claims more than its disk holds.
func (e *Executor) collect(ctx context.Context, dir string, limit int64) ([]basilica.TaskFile, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open output directory: %w", err)
	}
	defer root.Close()
	names, err := listOutputs(root, limit)
	if err != nil {
		return nil, err
	}
	files := make([]basilica.TaskFile, 0, len(names))
	for _, name := range names {
		f, err := hashOutput(ctx, root, name)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	if err := basilica.ValidateFiles(files); err != nil {
		return nil, badOutput("%s", reasonOf(err).Sentence)
	}
	for _, f := range files {
		if err := e.keepOutput(ctx, root, f); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// listOutputs walks the tree and checks everything but contents.
func listOutputs(root *os.Root, limit int64) ([]string, error) {
	var names []string
	var total int64
	entries := 0
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("list outputs: %w", err)
		}
		if name == "." {
			return nil
		}
		entries++
		switch {
		case entries > maxOutputEntries:
			return badOutput("more than %d files and folders", maxOutputEntries)
		case strings.Count(name, "/") >= maxOutputDepth:
			return badOutput("folders deeper than %d", maxOutputDepth)
		case !basilica.ValidFileName(name):
			return badOutput("the name %.80q", name)
		case d.IsDir():
			return nil
		case !d.Type().IsRegular():
			return badOutput("%.80q is a %s, not a plain file", name, typeName(d.Type()))
		}
		info, err := d.Info()
		if err != nil {
			return fmt.Errorf("list outputs: %w", err)
		}
		if total += info.Size(); total > limit || info.Size() > limit {
			return badOutput("files of more than %d bytes in all", limit)
		}
		if names = append(names, name); len(names) > basilica.MaxTaskFiles {
			return badOutput("more than %d files", basilica.MaxTaskFiles)
		}
		return nil
	})
	return names, err
}

func typeName(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "symbolic link"
	case m&fs.ModeNamedPipe != 0:
		return "pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

func hashOutput(ctx context.Context, root *os.Root, name string) (basilica.TaskFile, error) {
	out := basilica.TaskFile{Name: path.Clean(name)}
	f, err := root.Open(name)
	if err != nil {
		return out, fmt.Errorf("open output: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, contextReader{ctx, f})
	if err != nil {
		return out, fmt.Errorf("read output: %w", err)
	}
	out.Size = n
	sum.Sum(out.SHA256[:0])
	return out, nil
}

func (e *Executor) keepOutput(ctx context.Context, root *os.Root, file basilica.TaskFile) (err error) {
	f, err := root.Open(file.Name)
	if err != nil {
		return fmt.Errorf("open output: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return e.PutBlob(ctx, file.Blob, f)
}

// contextReader fails once its context has ended.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
