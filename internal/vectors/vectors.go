// Package vectors reads recorded test vectors for the tests of all rooms; it refuses to know what is in them. Only test
// files may import it.
package vectors

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Dir is the folder of the vectors: BASILICA_TESTDATA where set, else testdata beside the go.mod found by walking up
// from the working directory, which under go test is the folder of the package under test. Without a go.mod above, it
// is testdata in the working directory.
func Dir() string {
	if dir := os.Getenv("BASILICA_TESTDATA"); dir != "" {
		return dir
	}
	const name = "testdata"
	at, err := os.Getwd()
	if err != nil {
		return name
	}
	for {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return filepath.Join(at, name)
		}
		up := filepath.Dir(at)
		if up == at {
			return name
		}
		at = up
	}
}

// Read returns the bytes of a file by its slash-separated path below [Dir], unpacked where the name ends in .gz. It
// fails the test where the file cannot be read or unpacked.
func Read(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join(Dir(), filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(name, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return data
}

// JSON decodes the one JSON value of a file that [Read] finds. It fails the test where the value does not fit into.
func JSON(t testing.TB, name string, into any) {
	t.Helper()
	if err := json.Unmarshal(Read(t, name), into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
