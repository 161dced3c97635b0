package store

import (
	"fmt"
	"io/fs"
	"path/filepath"

	"basilica"
)

// Sums lists the stored content.
func (b *Blobs) Sums() ([]basilica.Digest, error) {
	var sums []basilica.Digest
	err := filepath.WalkDir(b.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var sum basilica.Digest
		if entry.Type().IsRegular() && sum.UnmarshalText([]byte(entry.Name())) == nil && b.Path(sum) == path {
			sums = append(sums, sum)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list blobs: %w", err)
	}
	return sums, nil
}
