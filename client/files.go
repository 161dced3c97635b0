package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"basilica"
)

const (
	maxReceiptBytes = 1 << 20
	maxIndexBytes   = 64 << 20
)

func readCapped(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("larger than %d bytes", limit)
	}
	return text, nil
}

// makeRoom finds out before the job runs whether its outputs and receipt could not be saved after it.
func makeRoom(req Request) error {
	if req.OutputDir != "" {
		if err := os.MkdirAll(req.OutputDir, 0o755); err != nil {
			return basilica.E(basilica.Invalid, "OUTPUT_DIR", fmt.Sprintf("output directory %s cannot be made", req.OutputDir), "give --output a directory that you may write").With(err)
		}
	}
	path := req.receiptPath()
	if path == "" || req.Overwrite {
		return nil
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return existing(path, errors.Join(fs.ErrExist, err))
	}
	return nil
}

// saveOutputs fetches every output beneath dir. A file gets its name only once its content has been checked.
func saveOutputs(ctx context.Context, door basilica.Miner, self basilica.Hotkey, dir string, files []basilica.TaskFile, overwrite bool) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make output directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open output directory: %w", err)
	}
	defer root.Close()
	for _, f := range files {
		if !overwrite {
			if _, err := root.Lstat(f.Name); !errors.Is(err, fs.ErrNotExist) {
				return existing(filepath.Join(dir, f.Name), errors.Join(fs.ErrExist, err))
			}
		}
	}
	for _, f := range files {
		if err := saveOutput(ctx, door, self, root, f); err != nil {
			return fmt.Errorf("fetch output %s: %w", f.Name, err)
		}
	}
	return nil
}

func existing(path string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return basilica.E(basilica.Conflict, "FILE_EXISTS", fmt.Sprintf("%s exists already", path), "give another --output directory, or --force to replace files")
	}
	return fmt.Errorf("write %s: %w", path, err)
}

func saveOutput(ctx context.Context, door basilica.Miner, self basilica.Hotkey, root *os.Root, file basilica.TaskFile) (err error) {
	dir, base := path.Split(file.Name)
	if dir != "" {
		if err := root.MkdirAll(path.Clean(dir), 0o755); err != nil {
			return err
		}
	}
	part := dir + "." + base + ".part"
	f, err := root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreClosed(f.Close()), root.Remove(part))
		}
	}()
	sum := sha256.New()
	w := &cappedWriter{w: io.MultiWriter(f, sum), left: file.Size}
	if err := door.GetBlob(ctx, self, file.SHA256, 0, w); err != nil {
		return err
	}
	if w.left != 0 || basilica.Digest(sum.Sum(nil)) != file.SHA256 {
		return basilica.E(basilica.Invalid, "BLOB_MISMATCH", "what came is not what the receipt names", "do not trust this result; report it to the miner")
	}
	if err := f.Close(); err != nil {
		return err
	}
	return root.Rename(part, file.Name)
}

func ignoreClosed(err error) error {
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	return err
}

// cappedWriter refuses the first byte after its limit.
type cappedWriter struct {
	w    io.Writer
	left int64
}

func (c *cappedWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		return 0, basilica.E(basilica.Invalid, "BLOB_SIZE", "more bytes came than the receipt names", "do not trust this result; report it to the miner")
	}
	n, err := c.w.Write(p)
	c.left -= int64(n)
	return n, err
}

// Entry is one own task in the index.
type Entry struct {
	Task    basilica.TaskID `json:"task"`
	Miner   basilica.Hotkey `json:"miner"`
	Image   string          `json:"image"`
	Created time.Time       `json:"created"`
}

// Index remembers which miner has which own task: one line of JSON per task in a file of the client's data directory.
type Index struct {
	path string
}

// OpenIndex makes dir where it is missing.
func OpenIndex(dir string) (*Index, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	return &Index{path: filepath.Join(dir, "tasks.jsonl")}, nil
}

// Add remembers a task. One write of one line: processes may add at the same time.
func (x *Index) Add(e Entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("remember task: %w", err)
	}
	f, err := os.OpenFile(x.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("remember task: %w", err)
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		f.Close()
		return fmt.Errorf("remember task: %w", err)
	}
	return f.Close()
}

// Entries lists all tasks, oldest first. A line that a crash cut short is left out.
func (x *Index) Entries() ([]Entry, error) {
	text, err := readCapped(x.path, maxIndexBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read task index: %w", err)
	}
	return parseIndex(text), nil
}

func parseIndex(text []byte) []Entry {
	var entries []Entry
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<16)
	for lines.Scan() {
		var e Entry
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Task != "" && e.Miner != "" {
			entries = append(entries, e)
		}
	}
	return entries
}
