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

	"golang.org/x/sys/unix"

	"basilica"
)

// Caps of what a job may leave in /out beside its bytes.
const (
	maxOutputDepth   = 16
	maxOutputEntries = 4096 // files and folders
)

// refuse makes the refusal of all outputs for one of them; more says it with its name and numbers.
func refuse(e *basilica.Error, format string, args ...any) error {
	refusal := *e
	refusal.Sentence += ": " + fmt.Sprintf(format, args...)
	return &refusal
}

var (
	outputLink    = basilica.E(basilica.Invalid, "OUTPUT_LINK", "the task left a link among its outputs", "copy the file that the link names into /out")
	outputSpecial = basilica.E(basilica.Invalid, "OUTPUT_SPECIAL", "the task left a device, pipe or socket among its outputs", "leave plain files in /out; make pipes and sockets in /tmp")
	outputName    = basilica.E(basilica.Invalid, "OUTPUT_NAME", "an output's name cannot be given to other machines", "use names of printable characters, without backslashes, of at most 255 bytes with their folders")
	outputTwice   = basilica.E(basilica.Invalid, "OUTPUT_TWICE", "two outputs differ by upper and lower case alone", "rename one of them; some clients' disks would keep only one")
	outputSize    = basilica.E(basilica.Exhausted, "OUTPUT_SIZE", "the outputs are larger than the task's output size", "ask for more with --output-size, or leave less; a file with holes counts as large as it says it is")
	outputCount   = basilica.E(basilica.Exhausted, "OUTPUT_COUNT", "the outputs are too many or in too deep folders", "pack them into one archive")
	outputChanged = basilica.E(basilica.Invalid, "OUTPUT_CHANGED", "an output changed while it was read", "end every process of the job before the job ends")
)

// collect reads a job's outputs beneath their root and keeps them as blobs. The job chose every name and every byte, so
// nothing outside the root is followed, and whatever is no regular file refuses all of it. limit counts bytes as the
// files claim them: a file with holes claims more than its disk holds.
func (e *Executor) collect(ctx context.Context, dir string, limit int64) ([]basilica.TaskFile, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open output directory: %w", err)
	}
	defer root.Close()
	listed, err := listOutputs(root, limit)
	if err != nil {
		return nil, err
	}
	files := make([]basilica.TaskFile, 0, len(listed))
	for _, l := range listed {
		f, err := hashOutput(ctx, root, l)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	if err := basilica.ValidateFiles(files); err != nil {
		return nil, err
	}
	for i, f := range files {
		if err := e.keepOutput(ctx, root, listed[i], f); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// output is one listed file; info is what it was when it was listed.
type output struct {
	name string
	info fs.FileInfo
}

// listOutputs walks the tree and checks everything but contents.
func listOutputs(root *os.Root, limit int64) ([]output, error) {
	var listed []output
	var total int64
	folded := map[string]string{}
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("list outputs: %w", err)
		}
		if name == "." {
			return nil
		}
		lower := strings.ToLower(name)
		twin, clash := folded[lower]
		folded[lower] = name
		switch {
		case len(folded) > maxOutputEntries:
			return refuse(outputCount, "more than %d files and folders", maxOutputEntries)
		case strings.Count(name, "/") >= maxOutputDepth:
			return refuse(outputCount, "folders deeper than %d", maxOutputDepth)
		case !basilica.ValidFileName(name):
			return refuse(outputName, "%.80q", name)
		case clash:
			return refuse(outputTwice, "%.80q and %.80q", twin, name)
		case d.IsDir():
			return nil
		case d.Type()&fs.ModeSymlink != 0:
			return refuse(outputLink, "%.80q", name)
		case !d.Type().IsRegular():
			return refuse(outputSpecial, "%.80q is a %s", name, typeName(d.Type()))
		}
		info, err := d.Info()
		if err != nil {
			return fmt.Errorf("list outputs: %w", err)
		}
		if total += info.Size(); total > limit || info.Size() > limit {
			return refuse(outputSize, "files of more than %d bytes in all", limit)
		}
		if listed = append(listed, output{name, info}); len(listed) > basilica.MaxTaskFiles {
			return refuse(outputCount, "more than %d files", basilica.MaxTaskFiles)
		}
		return nil
	})
	return listed, err
}

func typeName(m fs.FileMode) string {
	switch {
	case m&fs.ModeNamedPipe != 0:
		return "pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

// open opens the very file that was listed. Where a name means something else by now, nobody waits for a pipe's other
// end, and nothing is read.
func (o output) open(root *os.Root) (*os.File, error) {
	f, err := root.OpenFile(o.name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, refuse(outputChanged, "%.80q: %v", o.name, err)
	}
	if now, err := f.Stat(); err != nil || !os.SameFile(o.info, now) || !now.Mode().IsRegular() {
		return nil, errors.Join(refuse(outputChanged, "%.80q", o.name), err, f.Close())
	}
	return f, nil
}

func hashOutput(ctx context.Context, root *os.Root, o output) (basilica.TaskFile, error) {
	out := basilica.TaskFile{Name: path.Clean(o.name)}
	f, err := o.open(root)
	if err != nil {
		return out, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, contextReader{ctx, io.LimitReader(f, o.info.Size()+1)})
	if err != nil {
		return out, fmt.Errorf("read output: %w", err)
	}
	if n != o.info.Size() {
		return out, refuse(outputChanged, "%.80q", o.name)
	}
	out.Size = n
	sum.Sum(out.SHA256[:0])
	return out, nil
}

func (e *Executor) keepOutput(ctx context.Context, root *os.Root, o output, file basilica.TaskFile) (err error) {
	f, err := o.open(root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return e.keepBlob(ctx, file.Blob, f) // what a job has done may go below the floor of free disk
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
