package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"basilica"
)

func blobOf(content string) basilica.Blob {
	return basilica.Blob{SHA256: sha256.Sum256([]byte(content)), Size: int64(len(content))}
}

func TestBlobs(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "blobs")
	b, err := OpenBlobs(dir, 100)
	if err != nil {
		t.Fatal(err)
	}
	put := func(blob basilica.Blob, content string) error { return b.Put(ctx, blob, strings.NewReader(content)) }

	if err := put(blobOf("hello"), "hello"); err != nil {
		t.Fatal(err)
	}
	if err := put(blobOf("hello"), "hello"); err != nil {
		t.Fatalf("second put: %v", err)
	}
	for name, c := range map[string]struct {
		blob    basilica.Blob
		content string
		code    string
	}{
		"other content":                  {blobOf("abc"), "abd", "BLOB_MISMATCH"},
		"short":                          {blobOf("abc"), "ab", "BLOB_SIZE"},
		"long":                           {blobOf("abc"), "abcd", "BLOB_SIZE"},
		"negative":                       {basilica.Blob{Size: -1}, "", "BLOB_SIZE"},
		"no room":                        {blobOf(strings.Repeat("x", 96)), strings.Repeat("x", 96), "BLOB_SPACE"},
		"claimed without having it":      {blobOf("hello"), "", "BLOB_SIZE"},
		"claimed with something instead": {blobOf("hello"), "hellx", "BLOB_MISMATCH"},
	} {
		if err := put(c.blob, c.content); basilica.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	if b.used != 5 {
		t.Errorf("used = %d after refusals, want 5", b.used)
	}
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || len(left) != 0 {
		t.Errorf("unfinished files remain: %v %v", left, err)
	}

	r, size, err := b.Open(blobOf("hello").SHA256)
	if err != nil || size != 5 {
		t.Fatalf("open: %d %v", size, err)
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || string(got) != "hello" {
		t.Fatalf("read %q: %v", got, err)
	}
	again, err := OpenBlobs(dir, 100)
	if err != nil || again.used != 5 {
		t.Fatalf("reopened: used %d, %v", again.used, err)
	}
	if err := errors.Join(b.Delete(blobOf("hello").SHA256), b.Delete(blobOf("hello").SHA256)); err != nil || b.used != 0 {
		t.Fatalf("delete: used %d, %v", b.used, err)
	}
	if _, _, err := b.Open(blobOf("hello").SHA256); basilica.KindOf(err) != basilica.NotFound {
		t.Errorf("open after delete: %v", err)
	}
}

func TestBlobsManyWriters(t *testing.T) {
	b, err := OpenBlobs(t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("basilica"), 1000)
	blob := blobOf(string(content))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := b.Put(context.Background(), blob, bytes.NewReader(content)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if b.used != blob.Size {
		t.Errorf("used = %d, want %d", b.used, blob.Size)
	}
}

func TestBlobsEndedContext(t *testing.T) {
	b, err := OpenBlobs(t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.Put(ctx, blobOf("x"), strings.NewReader("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("put under an ended context: %v", err)
	}
}
