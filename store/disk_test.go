package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"basilica"
)

// smallDisk mounts a tmpfs of so many KiB and gives its directory.
func smallDisk(t *testing.T, kib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dk", kib)); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("mounting takes root")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all that is left of a disk, and gives it back when release is called.
func fill(t *testing.T, dir string) (release func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	must(t, err)
	for chunk := make([]byte, 64<<10); len(chunk) > 0; {
		if _, err := f.Write(chunk); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			chunk = chunk[:len(chunk)/2]
		}
	}
	must(t, f.Close())
	return func() { must(t, os.Remove(path)) }
}

func wantFix(t *testing.T, err error, code string, kind basilica.Kind, dir string) {
	t.Helper()
	if basilica.CodeOf(err) != code || basilica.KindOf(err) != kind || !strings.Contains(err.Error()+basilica.FixOf(err), dir) || basilica.FixOf(err) == "" {
		t.Errorf("%v (kind %s, fix %q), want %s about %s", err, basilica.KindOf(err), basilica.FixOf(err), code, dir)
	}
}

// TestDiskFull: a role whose disk is full refuses by name what it cannot record, keeps what it confirmed, reads on, and
// works again when there is space, without a restart.
func TestDiskFull(t *testing.T) {
	ctx, dir := context.Background(), smallDisk(t, 4<<10)
	m, err := OpenMiner(ctx, dir, time.Now)
	must(t, err)
	defer m.Close()
	logs, err := OpenTaskLogs(filepath.Join(dir, "logs"))
	must(t, err)
	blobs, err := OpenBlobs(filepath.Join(dir, "blobs"), 1<<30)
	must(t, err)
	big := strings.Repeat("x", 60<<10)
	add := func(n int) error {
		_, err := m.AddTask(ctx, record(n, "c", basilica.TaskSpec{Image: "i", Command: []string{big}}), 1000, 1000)
		return err
	}
	must(t, add(0))
	must(t, logs.Append("t0", basilica.LogChunk{Stream: basilica.Stdout, Data: []byte("kept")}))
	release := fill(t, dir)

	var full error
	stored := 1
	for ; full == nil && stored < 100; stored++ {
		full = add(stored)
	}
	wantFix(t, full, "DISK_FULL", basilica.Unavailable, dir)
	content := []byte(big)
	blob := basilica.Blob{SHA256: sha256.Sum256(content), Size: int64(len(content))}
	wantFix(t, blobs.Put(ctx, blob, bytes.NewReader(content)), "DISK_FULL", basilica.Unavailable, dir)
	wantFix(t, blobs.Fill("c", blob, 0, bytes.NewReader(content)), "DISK_FULL", basilica.Unavailable, dir)
	wantFix(t, logs.Append("t0", basilica.LogChunk{Offset: 4, Stream: basilica.Stdout, Data: content}), "DISK_FULL", basilica.Unavailable, dir)
	if _, err := m.Task(ctx, "t0"); err != nil {
		t.Errorf("what was confirmed cannot be read: %v", err)
	}

	release()
	must(t, add(stored))
	must(t, blobs.Put(ctx, blob, bytes.NewReader(content)))
	must(t, logs.Append("t0", basilica.LogChunk{Offset: 4, Stream: basilica.Stdout, Data: []byte(" on")}))
	if logs, err = OpenTaskLogs(filepath.Join(dir, "logs")); err != nil {
		t.Fatal(err)
	}
	if got, _ := readLog(t, logs, 0); got != "" { // of "t"; t0 is read below
		t.Errorf("log of another task: %q", got)
	}
	if size, err := logs.Size("t0"); size != 7 || err != nil {
		t.Errorf("the log has %d bytes, %v", size, err)
	}
	open, err := m.OpenTasks(ctx)
	if err != nil || len(open) != stored {
		t.Errorf("%d tasks of %d confirmed, %v", len(open), stored, err)
	}
}

// TestReadOnlyDisk: a file system that turned read-only is named, at the start too.
func TestReadOnlyDisk(t *testing.T) {
	ctx, dir := context.Background(), smallDisk(t, 4<<10)
	m, err := OpenMiner(ctx, dir, time.Now)
	must(t, err)
	must(t, m.Close())
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	_, err = OpenMiner(ctx, dir, time.Now)
	wantFix(t, err, "STORE_READ_ONLY", basilica.Unavailable, dir)
}

// TestForeignLock: another program that holds the database is waited for, and named in the end; it never surfaces as a
// fault of ours.
func TestForeignLock(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	m, err := OpenMiner(ctx, dir, time.Now)
	must(t, err)
	defer m.Close()
	if _, err := m.write.ExecContext(ctx, `PRAGMA busy_timeout = 50`); err != nil {
		t.Fatal(err)
	}
	foreign, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "miner.sqlite")+"?_txlock=immediate")
	must(t, err)
	defer foreign.Close()
	tx, err := foreign.BeginTx(ctx, nil)
	must(t, err)
	_, err = m.AddTask(ctx, record(1, "c", basilica.TaskSpec{Image: "i"}), 1, 1)
	wantFix(t, err, "STORE_BUSY", basilica.Unavailable, dir)
	must(t, tx.Rollback())
	_, err = m.AddTask(ctx, record(1, "c", basilica.TaskSpec{Image: "i"}), 1, 1)
	must(t, err)
}

// TestCorruptFile: a damaged database is named as such, whether it is no database at all or one with a broken page.
func TestCorruptFile(t *testing.T) {
	ctx := context.Background()
	for name, damage := range map[string]func(raw []byte) []byte{
		"no database": func([]byte) []byte { return bytes.Repeat([]byte("not sqlite "), 1000) },
		"broken pages": func(raw []byte) []byte {
			for i := 4096; i < len(raw); i++ {
				raw[i] ^= 0xa5
			}
			return raw
		},
	} {
		dir := t.TempDir()
		m, err := OpenMiner(ctx, dir, time.Now)
		must(t, err)
		must(t, m.Close())
		path := filepath.Join(dir, "miner.sqlite")
		raw, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, damage(raw), 0o600))
		m, err = OpenMiner(ctx, dir, time.Now)
		if err == nil {
			must(t, m.Close())
		}
		t.Log(name)
		wantFix(t, err, "STORE_CORRUPT", basilica.Internal, dir)
	}
}
