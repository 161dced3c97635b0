package docker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"basilica"
	"basilica/internal/provoke"
)

// breaking is a file whose reading fails behind its first bytes.
type breaking struct {
	*bytes.Reader
	after int64
	err   error
}

func (b breaking) Read(p []byte) (int, error) {
	at := b.Size() - int64(b.Len())
	if at >= b.after {
		return 0, b.err
	}
	return b.Reader.Read(p[:min(int64(len(p)), b.after-at)])
}

// TestUnreadImage: what fails while an image is read is told as it is, wherever it fails; a file is called no tar file only
// where it was read and is none.
func TestUnreadImage(t *testing.T) {
	t.Parallel()
	// What does not repeat itself stays long when it is packed.
	var noise strings.Builder
	for x := uint32(1); noise.Len() < 8<<10; x = x*1664525 + 1013904223 {
		noise.WriteByte(byte(x >> 24))
	}
	plain := string(tarOf(t, file("a", noise.String()), file("b", "x")))
	for _, layer := range []string{plain, zipped(t, []byte(plain))} {
		content := tarOf(t, file("c.json", configOf(runtime.GOARCH, 1)), file("l.tar", layer), file("manifest.json", `[{"Config":"c.json","Layers":["l.tar"]}]`))
		saved, err := readSaved(bytes.NewReader(content), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		within := int64(bytes.Index(content, []byte(layer)))
		for _, at := range []int64{0, 100, within + 2, within + 700, within + int64(len(layer)) - 2} {
			from := func(err error) breaking { return breaking{bytes.NewReader(content), at, err} }
			_, first := readSaved(struct{ io.Reader }{from(syscall.EIO)}, 1<<20)
			for _, err := range []error{first, nameless(io.Discard, from(syscall.EIO), saved, 1<<20)} {
				if provoke.Refused(t, err, "IMAGE_UNREAD"); !strings.Contains(err.Error(), "input/output error") || basilica.KindOf(err) != basilica.Internal {
					t.Errorf("at byte %d: %v", at, err)
				}
			}
			if err := nameless(io.Discard, from(context.Canceled), saved, 1<<20); !errors.Is(err, context.Canceled) || basilica.CodeOf(err) != "" {
				t.Errorf("ended at byte %d: %v", at, err)
			}
			if err := nameless(io.Discard, bytes.NewReader(content[:at]), saved, 1<<20); at > 0 && (basilica.CodeOf(err) != "IMAGE_FILE" || !strings.Contains(err.Error(), "cut off")) {
				t.Errorf("cut off at byte %d: %v", at, err)
			}
		}
		// The layer itself ends too early, in a file that is whole.
		short := tarOf(t, file("l.tar", layer[:len(layer)/2]))
		if err := nameless(io.Discard, bytes.NewReader(short), saved, 1<<20); basilica.CodeOf(err) != "IMAGE_FILE" || !strings.Contains(err.Error(), "a layer is cut off") {
			t.Errorf("a short layer: %v", err)
		}
		// The engine hangs up while the layer is copied to it.
		r, w := io.Pipe()
		r.Close()
		if err := nameless(w, bytes.NewReader(content), saved, 1<<20); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("an engine that is gone: %v", err)
		}
	}
	for content, want := range map[string]string{
		strings.Repeat("no tar ", 200):                            "a layer is no tar file",
		"\x1f\x8b\x00broken beyond repair":                        "a layer is no gzip file",
		zipped(t, []byte(plain))[:40] + strings.Repeat("x", 4000): "a layer is damaged",
	} {
		s := scale{limit: 1 << 20}
		if err := s.weigh(strings.NewReader(content)); basilica.CodeOf(err) != "IMAGE_FILE" || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
