package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"path/filepath"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"basilica"
)

// TestPartsHoldWhatCame: however an upload breaks off, goes on, or is begun anew by another writer or another process, the
// store counts exactly the bytes that it holds, and what is finished is the content.
func TestPartsHoldWhatCame(t *testing.T) {
	root := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(root, string(rune('a'+n%26)), time.Now().Format("150405.000000000"))
		b, err := OpenBlobs(dir, 1000)
		if err != nil {
			t.Fatal(err)
		}
		content := rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "content")
		blob := basilica.Blob{SHA256: sha256.Sum256(content), Size: int64(len(content))}
		broken := errors.New("broken")
		for have := int64(0); ; {
			if rapid.IntRange(0, 4).Draw(t, "restart") == 0 {
				if b, err = OpenBlobs(dir, 1000); err != nil {
					t.Fatal(err)
				}
			}
			if got := b.Parts("owner")[blob.SHA256]; got != have || b.used != have {
				t.Fatalf("holds %d and counts %d of %d bytes", got, b.used, have)
			}
			from := rapid.Int64Range(0, have).Draw(t, "from")
			to := rapid.Int64Range(from, blob.Size).Draw(t, "to")
			piece := io.Reader(bytes.NewReader(content[from:to]))
			if to == blob.Size {
				if err := b.Fill("owner", blob, from, piece); err != nil {
					t.Fatal(err)
				}
				break
			}
			if err := b.Fill("owner", blob, from, io.MultiReader(piece, iotest.ErrReader(broken))); !errors.Is(err, broken) {
				t.Fatal(err)
			}
			have = to
			if err := b.Fill("owner", blob, have+1, piece); have < blob.Size && basilica.CodeOf(err) != "BLOB_OFFSET" {
				t.Fatalf("from beyond what is here: %v", err)
			}
		}
		if err := b.Finish("owner", blob); err != nil {
			t.Fatal(err)
		}
		if b.used != blob.Size || len(b.Parts("owner")) != 0 {
			t.Fatalf("counts %d of %d bytes, parts %v", b.used, blob.Size, b.Parts("owner"))
		}
	})
}

// TestPartsTakenOver: a writer whose connection is dead without anybody's knowledge gives way to the next.
func TestPartsTakenOver(t *testing.T) {
	b, err := OpenBlobs(t.TempDir(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	content := []byte("0123456789")
	blob := blobOf(string(content))
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- b.Fill("owner", blob, 0, r) }()
	if _, err := w.Write(content[:4]); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content[4:5]); err != nil { // taken: so the first piece is written
		t.Fatal(err)
	}
	if err := b.Fill("owner", blob, 4, bytes.NewReader(content[4:])); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = w.Write(content[5:]) }() // ends with the reader
	if err := <-ended; basilica.CodeOf(err) != "BLOB_TAKEN_OVER" {
		t.Fatal(err)
	}
	r.Close()
	if err := b.ForgetParts(time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := b.Finish("owner", blob); err != nil {
		t.Fatal(err)
	}
	half := blobOf("another")
	if err := b.Fill("owner", half, 0, iotest.TimeoutReader(bytes.NewReader([]byte("ano")))); err == nil {
		t.Fatal("half a blob was taken for all of it")
	}
	if err := b.ForgetParts(time.Now().Add(time.Hour)); err != nil || b.used != blob.Size || len(b.Parts("owner")) != 0 {
		t.Fatalf("forgotten: %v, %d bytes counted, parts %v", err, b.used, b.Parts("owner"))
	}
}
