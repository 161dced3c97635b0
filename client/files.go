package client

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
func makeRoom(req Results) error {
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

func existing(path string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return basilica.E(basilica.Conflict, "FILE_EXISTS", fmt.Sprintf("%s exists already", path), "give another --output directory, or --force to replace files")
	}
	return fmt.Errorf("write %s: %w", path, err)
}

// Entry is one own task in the index.
type Entry struct {
	Task    basilica.TaskID `json:"task,omitempty"`
	Miner   basilica.Hotkey `json:"miner"`
	Image   string          `json:"image,omitempty"`
	Name    string          `json:"name,omitempty"`
	Spec    basilica.Digest `json:"spec_sha256,omitzero"` // of the task's description as it was submitted
	Created time.Time       `json:"created"`
	// Key is the SHA-256 of an idempotency key. A line that has it has no Task: it was written before the submission, whose
	// answer may never come.
	Key basilica.Digest `json:"key_sha256,omitzero"`
}

// LoadedImage is one tar file of an image that a miner has.
type LoadedImage struct {
	Image  string          `json:"image"` // basilica.ImageBlobPrefix and its digest: what `run` takes
	Tags   []string        `json:"tags,omitempty"`
	Miner  basilica.Hotkey `json:"miner"`
	File   string          `json:"file"`
	Size   int64           `json:"size"`
	Loaded time.Time       `json:"loaded"`
}

// Index remembers which miner has which own task and image: one line of JSON each in files of the client's data directory.
type Index struct {
	dir string
}

const (
	tasksFile  = "tasks.jsonl"
	imagesFile = "images.jsonl"
)

// OpenIndex makes dir where it is missing.
func OpenIndex(dir string) (*Index, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	return &Index{dir: dir}, nil
}

// Add remembers a task.
func (x *Index) Add(e Entry) error { return x.add(tasksFile, e) }

// Bind remembers which miner a submission with an idempotency key goes to; empty: to any again.
func (x *Index) Bind(key string, miner basilica.Hotkey, at time.Time) error {
	return x.add(tasksFile, Entry{Key: sha256.Sum256([]byte(key)), Miner: miner, Created: at})
}

// Bound is the miner that an idempotency key went to; empty: none.
func (x *Index) Bound(key string) (basilica.Hotkey, error) {
	sum := basilica.Digest(sha256.Sum256([]byte(key)))
	lines, err := readIndex(filepath.Join(x.dir, tasksFile), func(e Entry) bool { return e.Key == sum })
	if err != nil || len(lines) == 0 {
		return "", err
	}
	return lines[len(lines)-1].Miner, nil
}

// Miners lists every miner that has an own task, or that a key was bound to after since: it may have that key's task without the
// client's knowing.
func (x *Index) Miners(since time.Time) ([]basilica.Hotkey, error) {
	lines, err := readIndex(filepath.Join(x.dir, tasksFile), func(e Entry) bool { return e.Task != "" && e.Miner != "" || e.Key != basilica.Digest{} })
	if err != nil {
		return nil, err
	}
	bound := map[basilica.Digest]Entry{}
	for _, e := range lines {
		bound[e.Key] = e
	}
	var miners []basilica.Hotkey
	for _, e := range lines {
		if e.Task == "" {
			e = bound[e.Key]
		}
		if e.Task == "" && !e.Created.After(since) {
			continue
		}
		if e.Miner != "" && !slices.Contains(miners, e.Miner) {
			miners = append(miners, e.Miner)
		}
	}
	return miners, nil
}

// AddImage remembers an image.
func (x *Index) AddImage(i LoadedImage) error { return x.add(imagesFile, i) }

// add appends one line in one write: processes may add at the same time.
func (x *Index) add(file string, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("remember: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(x.dir, file), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("remember: %w", err)
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		f.Close()
		return fmt.Errorf("remember: %w", err)
	}
	return f.Close()
}

// Entries lists all tasks, oldest first. A line that a crash cut short is left out.
func (x *Index) Entries() ([]Entry, error) {
	return readIndex(filepath.Join(x.dir, tasksFile), func(e Entry) bool { return e.Task != "" && e.Miner != "" })
}

// Images lists all loaded images, oldest first.
func (x *Index) Images() ([]LoadedImage, error) {
	return readIndex(filepath.Join(x.dir, imagesFile), func(i LoadedImage) bool { return i.Image != "" && i.Miner != "" })
}

func readIndex[T any](path string, whole func(T) bool) ([]T, error) {
	text, err := readCapped(path, maxIndexBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	return parseIndex(text, whole), nil
}

func parseIndex[T any](text []byte, whole func(T) bool) []T {
	var entries []T
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<16)
	for lines.Scan() {
		var e T
		if json.Unmarshal(lines.Bytes(), &e) == nil && whole(e) {
			entries = append(entries, e)
		}
	}
	return entries
}
