package node

import (
	"bytes"
	"strings"
	"testing"
)

func TestBusyboxImageIsReproducible(t *testing.T) {
	path, err := findBusybox()
	if err != nil {
		t.Skipf("%v; apt-get install busybox-static", err)
	}
	var a, b bytes.Buffer
	nameA, err := writeBusyboxImage(&a, path, "basilica-demo")
	if err != nil {
		t.Fatal(err)
	}
	nameB, err := writeBusyboxImage(&b, path, "basilica-demo")
	if err != nil {
		t.Fatal(err)
	}
	if nameA != nameB || !bytes.Equal(a.Bytes(), b.Bytes()) || !strings.HasPrefix(nameA, "basilica-demo:") {
		t.Fatalf("images %s and %s differ", nameA, nameB)
	}
	docker := t.TempDir()
	if err := unmountBeneath(docker, func(string) error { t.Fatal("nothing is mounted there"); return nil }); err != nil {
		t.Fatal(err)
	}
}
