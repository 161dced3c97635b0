package store

import (
	"bufio"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"basilica"
	"basilica/internal/crashpoint"
)

// evidencePath is where a record of raw frames stands.
func (v *Validator) evidencePath(sum basilica.Digest) string {
	return filepath.Join(v.evidence, sum.String()+".gpow1")
}

// spool is a file without a name: it goes with Close, and with the process.
type spool struct {
	*os.File
	dir string
}

// Write gives the kind of a full disk.
func (s spool) Write(b []byte) (int, error) {
	n, err := s.File.Write(b)
	return n, fileError(s.dir, err)
}

// Spool is a new file for what a running challenge brings.
func (v *Validator) Spool() (basilica.Spool, error) {
	f, err := os.CreateTemp(v.evidence, ".record-*")
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err != nil {
		return nil, fmt.Errorf("make a spool of evidence: %w", fileError(v.evidence, err))
	}
	return spool{f, v.evidence}, nil
}

// PutEvidence writes a record under its own SHA-256, mode 0600, whole and synced or not at all. The row that speaks of
// it follows with the verification.
func (v *Validator) PutEvidence(record io.WriterTo) (blob basilica.Blob, err error) {
	f, err := os.CreateTemp(v.evidence, ".record-*")
	if err != nil {
		return basilica.Blob{}, fmt.Errorf("write evidence: %w", fileError(v.evidence, err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write evidence: %w", fileError(v.evidence, err)), f.Close(), os.Remove(f.Name()))
		}
	}()
	sum, buffered := sha256.New(), bufio.NewWriterSize(f, 64<<10)
	if blob.Size, err = record.WriteTo(io.MultiWriter(buffered, sum)); err != nil {
		return basilica.Blob{}, err
	}
	sum.Sum(blob.SHA256[:0])
	if err := buffered.Flush(); err != nil {
		return basilica.Blob{}, err
	}
	if err := f.Sync(); err != nil {
		return basilica.Blob{}, err
	}
	defer crashpoint.Around("store.Validator.PutEvidence.rename")()
	if err := os.Rename(f.Name(), v.evidencePath(blob.SHA256)); err != nil {
		return basilica.Blob{}, err
	}
	return blob, f.Close()
}

// Evidence opens a record; one that retention has dropped is NotFound.
func (v *Validator) Evidence(sum basilica.Digest) (io.ReadCloser, int64, error) {
	f, err := os.Open(v.evidencePath(sum))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, basilica.E(basilica.NotFound, "EVIDENCE_GONE", "the record of that verification is no longer kept", "ask for a newer verification")
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open evidence: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("open evidence: %w", err), f.Close())
	}
	return f, info.Size(), nil
}

// share is what is kept of one miner's records.
type share struct {
	miner basilica.Hotkey
	count int
	bytes int64
}

// DropEvidence removes records until at most maxCount of at most maxBytes are kept, and says how many went: each time the oldest of
// the miner that has most, so that no miner's bulk pushes out another's.
func (v *Validator) DropEvidence(ctx context.Context, maxCount int, maxBytes int64, now time.Time) (int, error) {
	v.dropping.Lock()
	defer v.dropping.Unlock()
	rows, err := v.read.QueryContext(ctx, `SELECT miner, count(*), sum(size) FROM evidence WHERE dropped = 0 GROUP BY miner ORDER BY miner`)
	shares, err := scanRows(rows, err, func(scan func(...any) error) (s share, err error) {
		return s, scan(&s.miner, &s.count, &s.bytes)
	})
	if err != nil {
		return 0, fmt.Errorf("count evidence: %w", err)
	}
	var count int
	var bytes int64
	for _, s := range shares {
		count, bytes = count+s.count, bytes+s.bytes
	}
	n := 0
	for ; count > 0 && (count > maxCount || bytes > maxBytes); n++ {
		most := &shares[0]
		for i := range shares {
			if s := &shares[i]; bytes > maxBytes && s.bytes > most.bytes || bytes <= maxBytes && s.count > most.count {
				most = s
			}
		}
		old, err := v.oldest(ctx, most.miner)
		if err == nil {
			crashpoint.Hit("store.Validator.DropEvidence.remove.before")
			err = os.Remove(v.evidencePath(old.SHA256))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, fmt.Errorf("drop evidence: %w", err)
		}
		err = v.tx(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE evidence SET dropped = $2 WHERE sha256 = $1`, old.SHA256[:], micros(now))
			return err
		})
		if err != nil {
			return n, fmt.Errorf("drop evidence: %w", err)
		}
		most.count, most.bytes = most.count-1, most.bytes-old.Size
		count, bytes = count-1, bytes-old.Size
	}
	return n, nil
}

// oldest is the oldest record that is kept of a miner, who has one.
func (v *Validator) oldest(ctx context.Context, miner basilica.Hotkey) (b basilica.Blob, err error) {
	var raw []byte
	err = v.read.QueryRowContext(ctx, `SELECT sha256, size FROM evidence WHERE dropped = 0 AND miner = $1 ORDER BY stored, sha256 LIMIT 1`, miner).Scan(&raw, &b.Size)
	copy(b.SHA256[:], raw)
	return b, mapped(err)
}

// Evidence is Validator.Evidence.
func (b *Book) Evidence(sum basilica.Digest) (io.ReadCloser, int64, error) { return b.v.Evidence(sum) }

// sweep makes files and rows agree after a crash: files that no row speaks of go (a record was written, its finding was
// not), and rows whose file is gone say so (it was dropped, its row was not).
func (v *Validator) sweep(ctx context.Context) error {
	rows, err := v.read.QueryContext(ctx, `SELECT sha256 FROM evidence WHERE dropped = 0`)
	kept, err := scanRows(rows, err, func(scan func(...any) error) (sum basilica.Digest, err error) {
		var raw []byte
		err = scan(&raw)
		copy(sum[:], raw)
		return sum, err
	})
	if err != nil {
		return fmt.Errorf("look up evidence: %w", err)
	}
	missing := make(map[basilica.Digest]bool, len(kept))
	for _, sum := range kept {
		missing[sum] = true
	}
	entries, err := os.ReadDir(v.evidence)
	if err != nil {
		return fmt.Errorf("list evidence: %w", err)
	}
	for _, e := range entries {
		var sum basilica.Digest
		name, isRecord := strings.CutSuffix(e.Name(), ".gpow1")
		if isRecord && sum.UnmarshalText([]byte(name)) == nil {
			if missing[sum] {
				delete(missing, sum)
				continue
			}
		} else if !strings.HasPrefix(e.Name(), ".record-") {
			continue // not ours
		}
		if err := os.Remove(filepath.Join(v.evidence, e.Name())); err != nil {
			return fmt.Errorf("remove orphaned evidence: %w", err)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return v.tx(ctx, func(tx *sql.Tx) error {
		for sum := range missing {
			if _, err := tx.ExecContext(ctx, `UPDATE evidence SET dropped = max(stored, 1) WHERE sha256 = $1`, sum[:]); err != nil {
				return fmt.Errorf("mark lost evidence: %w", err)
			}
		}
		return nil
	})
}
