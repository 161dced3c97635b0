package executor

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"basilica"
)

// TestOutputsSwappedWhileRead: whoever swaps files, links and pipes under a reader gets a refusal or its own bytes read;
// never the host's, and nobody waits on a pipe.
func TestOutputsSwappedWhileRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	out := filepath.Join(dir, "out")
	if err := errors.Join(os.Mkdir(out, 0o755), os.WriteFile(secret, []byte("host's"), 0o600)); err != nil {
		t.Fatal(err)
	}
	own := []byte("own")
	side := filepath.Join(dir, "side")
	if err := errors.Join(os.Mkdir(side, 0o755), os.WriteFile(filepath.Join(side, "file"), own, 0o644), os.Symlink(secret, filepath.Join(side, "link")),
		unix.Mkfifo(filepath.Join(side, "pipe"), 0o644), os.Symlink(filepath.Dir(secret), filepath.Join(side, "folder")), os.WriteFile(filepath.Join(out, "x"), own, 0o644)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			for _, name := range []string{"link", "pipe", "folder", "file"} {
				select {
				case <-done:
					return
				default:
				}
				if err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(side, name), unix.AT_FDCWD, filepath.Join(out, "x"), unix.RENAME_EXCHANGE); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	root, err := os.OpenRoot(out)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	codes := map[string]int{}
	for range 3000 {
		listed, err := listOutputs(root, 1<<20)
		if err == nil {
			var f basilica.TaskFile
			if f, err = hashOutput(t.Context(), root, listed[0]); err == nil && f.SHA256 != sha256.Sum256(own) {
				t.Fatalf("read something else: %+v", f)
			}
		}
		switch code := basilica.CodeOf(err); {
		case err == nil, code == "OUTPUT_LINK", code == "OUTPUT_SPECIAL", code == "OUTPUT_CHANGED", errors.Is(err, fs.ErrNotExist):
			codes[code]++
		default:
			t.Fatal(err)
		}
	}
	close(done)
	swapping.Wait()
	t.Log(codes)
	if codes["OUTPUT_LINK"] == 0 || codes["OUTPUT_SPECIAL"] == 0 {
		t.Errorf("the race was not met: %v", codes)
	}
}

// TestOutputNames: each name that another machine could not keep as it is has its code.
func TestOutputNames(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		code  string
	}{
		"case":                  {[]string{"a/B", "a/b"}, "OUTPUT_TWICE"},
		"a folder's case":       {[]string{"Data/x", "data"}, "OUTPUT_TWICE"},
		"a backslash":           {[]string{`a\..\b`}, "OUTPUT_NAME"},
		"a line's end":          {[]string{"a\nb"}, "OUTPUT_NAME"},
		"an escape code":        {[]string{"a\x1b[2Jb"}, "OUTPUT_NAME"},
		"no UTF-8":              {[]string{"a\xff"}, "OUTPUT_NAME"},
		"too long with folders": {[]string{strings.Repeat("d", 200) + "/" + strings.Repeat("f", 100)}, "OUTPUT_NAME"},
		"too deep":              {[]string{strings.Repeat("d/", maxOutputDepth) + "f"}, "OUTPUT_COUNT"},
		"ordinary":              {[]string{"a", "b/c", "b/Ü"}, ""},
	} {
		dir := t.TempDir()
		for _, f := range c.files {
			path := filepath.Join(dir, f)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, err = listOutputs(root, 1<<20)
		if basilica.CodeOf(err) != c.code || (err != nil) != (c.code != "") || err != nil && basilica.FixOf(err) == "" {
			t.Errorf("%s: %v, want %q", name, err, c.code)
		}
		root.Close()
	}
}
