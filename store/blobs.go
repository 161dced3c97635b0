package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"basilica"
	"basilica/internal/crashpoint"
)

// Blobs keeps content under its own SHA-256 as plain files: DIR/ab/abcd…, written beside and renamed, so that a name
// holds all of its content or does not exist. Its methods may be called at the same time.
type Blobs struct {
	dir string
	max int64

	mu    sync.Mutex // guards the rest
	used  int64      // bytes stored or being written
	parts map[string]*part
}

// OpenBlobs opens or makes the directory dir, which holds at most maxBytes of content, and clears what an interrupted
// write left behind.
func OpenBlobs(dir string, maxBytes int64) (*Blobs, error) {
	tmp := filepath.Join(dir, "tmp")
	if err := os.RemoveAll(tmp); err != nil {
		return nil, fmt.Errorf("clear unfinished blobs: %w", err)
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return nil, fmt.Errorf("make blob directory: %w", err)
	}
	b := &Blobs{dir: dir, max: maxBytes, parts: map[string]*part{}}
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		b.used += info.Size()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("measure blob directory: %w", err)
	}
	return b, b.openParts()
}

// Path is where content of that digest stands, whether or not it is there. The file must not be changed.
func (b *Blobs) Path(sum basilica.Digest) string {
	name := sum.String()
	return filepath.Join(b.dir, name[:2], name)
}

// Put stores content that must have blob's size and SHA-256. It reads all of content even where the blob is stored
// already: having sent it is what makes a caller one of its owners. Content of another size or hash is Invalid
// (BLOB_SIZE, BLOB_MISMATCH), a full store Exhausted (BLOB_SPACE).
func (b *Blobs) Put(ctx context.Context, blob basilica.Blob, content io.Reader) (err error) {
	if blob.Size < 0 || blob.Size > basilica.MaxBlobBytes {
		return basilica.E(basilica.Invalid, "BLOB_SIZE", fmt.Sprintf("a blob of %d bytes is outside 0..%d", blob.Size, int64(basilica.MaxBlobBytes)), "split the file")
	}
	path := b.Path(blob.SHA256)
	if _, err := os.Stat(path); err == nil {
		return copyExactly(ctx, io.Discard, content, blob)
	}
	if err := b.reserve(blob.Size); err != nil {
		return err
	}
	kept := false
	defer func() {
		if !kept {
			b.free(blob.Size)
		}
	}()
	tmp, err := os.CreateTemp(filepath.Join(b.dir, "tmp"), blob.SHA256.String()[:8]+"-*")
	if err != nil {
		return fileError(b.dir, fmt.Errorf("store blob: %w", err))
	}
	defer func() {
		if !kept {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	err = copyExactly(ctx, tmp, content, blob)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return fileError(b.dir, err)
	}
	kept, err = b.link(tmp.Name(), path)
	return err
}

// link gives a finished file its name; false where another writer was first with the same content.
func (b *Blobs) link(from, to string) (bool, error) {
	dir := filepath.Dir(to)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fileError(b.dir, fmt.Errorf("store blob: %w", err))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := os.Stat(to); err == nil {
		return false, nil
	}
	defer crashpoint.Around("store.Blobs.rename")()
	if err := os.Rename(from, to); err != nil {
		return false, fileError(b.dir, fmt.Errorf("store blob: %w", err))
	}
	d, err := os.Open(dir)
	if err != nil {
		return true, fileError(b.dir, fmt.Errorf("store blob: %w", err))
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return true, fileError(b.dir, fmt.Errorf("store blob: %w", err))
	}
	return true, nil
}

// copyExactly copies content and refuses any other than blob's.
func copyExactly(ctx context.Context, w io.Writer, content io.Reader, blob basilica.Blob) error {
	hash := sha256.New()
	limited := io.LimitReader(contextReader{ctx, content}, blob.Size+1)
	n, err := io.Copy(io.MultiWriter(w, hash), limited)
	if err != nil {
		return fmt.Errorf("read blob %s: %w", blob.SHA256, err)
	}
	if n != blob.Size {
		return basilica.E(basilica.Invalid, "BLOB_SIZE", fmt.Sprintf("blob %.12s… has not the %d bytes that were announced", blob.SHA256, blob.Size), "send exactly the announced content")
	}
	if basilica.Digest(hash.Sum(nil)) != blob.SHA256 {
		return blobMismatch(blob.SHA256)
	}
	return nil
}

func blobMismatch(sum basilica.Digest) error {
	return basilica.E(basilica.Invalid, "BLOB_MISMATCH", fmt.Sprintf("the content is not blob %.12s…", sum), "hash the file again and send it unchanged")
}

// contextReader fails once its context has ended.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func (b *Blobs) reserve(n int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.max-b.used {
		return noBlobSpace(b.used, b.max, n)
	}
	b.used += n
	return nil
}

func noBlobSpace(used, most, more int64) error {
	return basilica.E(basilica.Exhausted, "BLOB_SPACE", fmt.Sprintf("the blob store holds %d of %d bytes and has no room for %d more", used, most, more), "try again later, or ask the machine's owner for more blob space")
}

func (b *Blobs) free(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
}

// Open reads stored content and gives its size in bytes; NotFound (BLOB_UNKNOWN) where it is not there.
func (b *Blobs) Open(sum basilica.Digest) (io.ReadSeekCloser, int64, error) {
	f, err := os.Open(b.Path(sum))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, unknownBlob(sum)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open blob: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("open blob: %w", err), f.Close())
	}
	return f, info.Size(), nil
}

func unknownBlob(sum basilica.Digest) error {
	return basilica.E(basilica.NotFound, "BLOB_UNKNOWN", fmt.Sprintf("blob %.12s… is not stored here", sum), "send it first")
}

// Delete forgets content; what is not there is forgotten already. Readers that have it open go on reading.
func (b *Blobs) Delete(sum basilica.Digest) error {
	path := b.Path(sum)
	b.mu.Lock()
	defer b.mu.Unlock()
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete blob: %w", err)
	}
	defer crashpoint.Around("store.Blobs.remove")()
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("delete blob: %w", err)
	}
	b.used -= info.Size()
	return nil
}
