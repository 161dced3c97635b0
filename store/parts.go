package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"basilica"
)

// part is an upload that has not ended: the first bytes of one owner's blob, in a file of its own, so that an upload goes
// on where it broke off. The last writer that came is the only one that may write: one whose connection has died without
// anybody noticing must not hold up the one that takes its place.
type part struct {
	mu   sync.Mutex // guards the rest, and the file's content
	path string
	size int64     // bytes in the file
	sum  hash.Hash // of these; nil where this process has not seen them
	turn uint64    // of the writer that may go on
	open int       // writers that have not returned
	gone bool      // finished or forgotten
}

// partPrefix begins the names of an owner's parts.
func partPrefix(owner basilica.Hotkey) string {
	sum := sha256.Sum256([]byte(owner))
	return hex.EncodeToString(sum[:16]) + "-"
}

func partName(owner basilica.Hotkey, sum basilica.Digest) string {
	return partPrefix(owner) + sum.String()
}

func (b *Blobs) partsDir() string { return filepath.Join(b.dir, "parts") }

// openParts finds the parts of an earlier process.
func (b *Blobs) openParts() error {
	if err := os.MkdirAll(b.partsDir(), 0o700); err != nil {
		return fmt.Errorf("make directory of uploads: %w", err)
	}
	entries, err := os.ReadDir(b.partsDir())
	if err != nil {
		return fmt.Errorf("list uploads: %w", err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			return fmt.Errorf("list uploads: %w", err)
		}
		b.parts[entry.Name()] = &part{path: filepath.Join(b.partsDir(), entry.Name()), size: info.Size()}
	}
	return nil
}

// Parts gives the bytes of each upload of owner's that has not ended.
func (b *Blobs) Parts(owner basilica.Hotkey) map[basilica.Digest]int64 {
	prefix := partPrefix(owner)
	own := map[basilica.Digest]int64{}
	for name, p := range b.allParts() {
		var sum basilica.Digest
		if hexed, ok := strings.CutPrefix(name, prefix); ok && sum.UnmarshalText([]byte(hexed)) == nil {
			p.mu.Lock()
			if !p.gone {
				own[sum] = p.size
			}
			p.mu.Unlock()
		}
	}
	return own
}

func (b *Blobs) allParts() map[string]*part {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[string]*part, len(b.parts))
	for name, p := range b.parts {
		all[name] = p
	}
	return all
}

// Fill appends content to owner's part of blob, from offset on to the blob's end. Bytes that the part has beyond offset
// are written anew; an offset beyond them is a Conflict (BLOB_OFFSET). What came before content broke off is kept. A later
// Fill of the same part ends an earlier one (BLOB_TAKEN_OVER). It ends when content does: what a connection has brought is
// kept also after the connection's own end.
func (b *Blobs) Fill(owner basilica.Hotkey, blob basilica.Blob, offset int64, content io.Reader) (err error) {
	if blob.Size < 0 || blob.Size > basilica.MaxBlobBytes || offset < 0 || offset > blob.Size {
		return basilica.E(basilica.Invalid, "BLOB_SIZE", fmt.Sprintf("a blob of %d bytes from byte %d on is outside 0..%d", blob.Size, offset, int64(basilica.MaxBlobBytes)), "split the file")
	}
	name := partName(owner, blob.SHA256)
	b.mu.Lock()
	if b.parts[name] == nil {
		b.parts[name] = &part{path: filepath.Join(b.partsDir(), name), sum: sha256.New()}
	}
	p, room := b.parts[name], b.max-b.used
	b.mu.Unlock()

	p.mu.Lock()
	turn, file, err := p.begin(b, blob, offset, room)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	defer func() {
		p.mu.Lock()
		p.open--
		p.mu.Unlock()
		err = errors.Join(err, file.Close())
	}()
	w := partWriter{b: b, p: p, file: file, turn: turn}
	n, err := io.Copy(w, io.LimitReader(content, blob.Size-offset+1))
	if err != nil {
		return fmt.Errorf("receive blob %s: %w", blob.SHA256, err)
	}
	if n != blob.Size-offset {
		return basilica.E(basilica.Invalid, "BLOB_SIZE", fmt.Sprintf("blob %.12s… has not the %d bytes that were announced", blob.SHA256, blob.Size), "send exactly the announced content")
	}
	return nil
}

// begin opens the part for a new writer at offset; the caller holds p.mu.
func (p *part) begin(b *Blobs, blob basilica.Blob, offset, room int64) (turn uint64, file *os.File, err error) {
	switch {
	case p.gone:
		return 0, nil, basilica.E(basilica.Unavailable, "BLOB_TAKEN_OVER", "that upload has just ended", "ask how much is here and send the rest")
	case offset > p.size:
		return 0, nil, basilica.E(basilica.Conflict, "BLOB_OFFSET", fmt.Sprintf("the upload cannot go on at byte %d: %d are here", offset, p.size), "ask how much is here and send the rest")
	case blob.Size-p.size > room:
		return 0, nil, noBlobSpace(b.max-room, b.max, blob.Size-p.size)
	}
	if file, err = os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return 0, nil, fileError(b.dir, fmt.Errorf("open upload: %w", err))
	}
	if p.sum == nil || offset < p.size {
		p.sum = sha256.New()
		if _, err := io.Copy(p.sum, io.NewSectionReader(file, 0, offset)); err != nil {
			p.sum = nil
			return 0, nil, errors.Join(fmt.Errorf("read upload: %w", err), file.Close())
		}
	}
	if err := file.Truncate(offset); err != nil {
		p.sum = nil
		return 0, nil, errors.Join(fileError(b.dir, fmt.Errorf("cut upload: %w", err)), file.Close())
	}
	b.free(p.size - offset)
	p.size = offset
	p.turn++
	p.open++
	return p.turn, file, nil
}

// partWriter is one writer of a part.
type partWriter struct {
	b    *Blobs
	p    *part
	file *os.File
	turn uint64
}

// Write implements io.Writer.
func (w partWriter) Write(data []byte) (int, error) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	if w.p.gone || w.p.turn != w.turn {
		return 0, basilica.E(basilica.Unavailable, "BLOB_TAKEN_OVER", "another upload of the same content has taken this one's place", "let one upload of a file end before the next")
	}
	if err := w.b.reserve(int64(len(data))); err != nil {
		return 0, err
	}
	if _, err := w.file.WriteAt(data, w.p.size); err != nil {
		w.b.free(int64(len(data)))
		return 0, fileError(w.b.dir, fmt.Errorf("write upload: %w", err))
	}
	w.p.sum.Write(data)
	w.p.size += int64(len(data))
	return len(data), nil
}

// Finish makes a blob of owner's part once it has all of it. One of another hash is dropped (BLOB_MISMATCH).
func (b *Blobs) Finish(owner basilica.Hotkey, blob basilica.Blob) error {
	name := partName(owner, blob.SHA256)
	b.mu.Lock()
	p := b.parts[name]
	b.mu.Unlock()
	if p == nil {
		return unknownBlob(blob.SHA256)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone || p.size != blob.Size || p.sum == nil {
		return basilica.E(basilica.Conflict, "BLOB_OFFSET", fmt.Sprintf("%d of %d bytes of blob %.12s… are here", p.size, blob.Size, blob.SHA256), "ask how much is here and send the rest")
	}
	if basilica.Digest(p.sum.Sum(nil)) != blob.SHA256 {
		return errors.Join(blobMismatch(blob.SHA256), b.drop(name, p))
	}
	if err := syncFile(p.path); err != nil {
		return fileError(b.dir, fmt.Errorf("store blob: %w", err))
	}
	kept, err := b.link(p.path, b.Path(blob.SHA256))
	if err != nil {
		return err
	}
	if !kept { // the same content is here already
		return b.drop(name, p)
	}
	b.leave(name, p)
	return nil
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// drop removes a part and its bytes; the caller holds p.mu.
func (b *Blobs) drop(name string, p *part) error {
	if err := os.Remove(p.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop upload: %w", err)
	}
	b.free(p.size)
	b.leave(name, p)
	return nil
}

// leave takes a part out of the list; the caller holds p.mu.
func (b *Blobs) leave(name string, p *part) {
	p.gone = true
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.parts, name)
}

// ForgetParts drops the uploads that nobody sends and to which nothing was added since the given time.
func (b *Blobs) ForgetParts(before time.Time) error {
	var errs []error
	for name, p := range b.allParts() {
		p.mu.Lock()
		info, err := os.Stat(p.path)
		if !p.gone && p.open == 0 && (errors.Is(err, fs.ErrNotExist) || err == nil && info.ModTime().Before(before)) {
			errs = append(errs, b.drop(name, p))
		}
		p.mu.Unlock()
	}
	return errors.Join(errs...)
}
