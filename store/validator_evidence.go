package store

import (
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

// PutEvidence writes a record under its own SHA-256, mode 0600, whole and synced or not at all. The row that speaks of
// it follows with the verification.
func (v *Validator) PutEvidence(record []byte) (_ basilica.Blob, err error) {
	blob := basilica.Blob{SHA256: sha256.Sum256(record), Size: int64(len(record))}
	f, err := os.CreateTemp(v.evidence, ".record-*")
	if err != nil {
		return basilica.Blob{}, fmt.Errorf("write evidence: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write evidence: %w", err), f.Close(), os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(record); err != nil {
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

// DropEvidence removes the oldest records until at most maxCount of at most maxBytes are kept, and says how many went.
func (v *Validator) DropEvidence(ctx context.Context, maxCount int, maxBytes int64, now time.Time) (int, error) {
	rows, err := v.read.QueryContext(ctx, `SELECT sha256, size FROM evidence WHERE dropped = 0 ORDER BY stored DESC, sha256`)
	kept, err := scanRows(rows, err, func(scan func(...any) error) (b basilica.Blob, err error) {
		var sum []byte
		err = scan(&sum, &b.Size)
		copy(b.SHA256[:], sum)
		return b, err
	})
	if err != nil {
		return 0, fmt.Errorf("list evidence: %w", err)
	}
	var bytes int64
	n := 0
	for i, b := range kept {
		bytes += b.Size
		if i < maxCount && bytes <= maxBytes {
			continue
		}
		crashpoint.Hit("store.Validator.DropEvidence.remove.before")
		if err := os.Remove(v.evidencePath(b.SHA256)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, fmt.Errorf("drop evidence: %w", err)
		}
		err := v.tx(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE evidence SET dropped = $2 WHERE sha256 = $1`, b.SHA256[:], micros(now))
			return err
		})
		if err != nil {
			return n, fmt.Errorf("drop evidence: %w", err)
		}
		n++
	}
	return n, nil
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
