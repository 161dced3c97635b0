package store

import (
	"database/sql"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"

	"basilica"
)

// SQLite's result codes, from its documentation. The low byte is the code, what stands above it says it more exactly.
const (
	codeBusy       = 5
	codeLocked     = 6
	codeReadOnly   = 8
	codeIO         = 10
	codeCorrupt    = 11
	codeFull       = 13
	codeCantOpen   = 14
	codeNotADB     = 26
	codePrimaryKey = 1555
	codeUnique     = 2067
)

// lowSpace is the free space, in bytes, under which a failure of the disk is taken for a full one: SQLite says "I/O error"
// where it cannot enlarge the files beside its own.
const lowSpace = 1 << 20

// mapped gives the kind of a database error where the directory does not matter: a read, mostly.
func mapped(err error) error { return mappedIn("", err) }

// mappedIn gives the kind of an error of the database in dir: a duplicate key is a Conflict, a missing row NotFound, a full
// disk (DISK_FULL), a foreign lock (STORE_BUSY) and a disk that cannot be written (STORE_READ_ONLY, STORE_DISK) Unavailable:
// the role goes on, and the same call succeeds when that has been mended. A damaged file (STORE_CORRUPT) mends no call.
func mappedIn(dir string, err error) error {
	if err == nil || basilica.CodeOf(err) != "" {
		return err
	}
	if errors.Is(err, sql.ErrNoRows) {
		return basilica.E(basilica.NotFound, "NO_SUCH_ROW", "the stored thing does not exist", "list what there is").With(err)
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return fileError(dir, err)
	}
	if code := e.Code(); code == codePrimaryKey || code == codeUnique {
		return basilica.E(basilica.Conflict, "ALREADY_STORED", "that key is stored already", "look at what is stored before doing it again").With(err)
	}
	switch e.Code() & 0xff {
	case codeFull:
		return diskFull(dir, err)
	case codeBusy, codeLocked:
		return basilica.E(basilica.Unavailable, "STORE_BUSY", fmt.Sprintf("another program has held the database in %s for five seconds", place(dir)),
			"close what has it open (a database browser, a backup); fuser FILE names it").With(err)
	case codeReadOnly:
		return readOnly(dir, err)
	case codeCorrupt, codeNotADB:
		return basilica.E(basilica.Internal, "STORE_CORRUPT", fmt.Sprintf("the database in %s is damaged", place(dir)),
			"stop the role, keep a copy of the directory, look at the disk (dmesg), and put the last backup back").With(err)
	case codeIO, codeCantOpen:
		var fs unix.Statfs_t
		if dir != "" && unix.Statfs(dir, &fs) == nil && fs.Bavail*uint64(fs.Bsize) < lowSpace {
			return diskFull(dir, err)
		}
		if fs.Flags&unix.ST_RDONLY != 0 {
			return readOnly(dir, err)
		}
		return diskFault(dir, err)
	}
	return err
}

// fileError gives the kind of a failure with a file beneath dir.
func fileError(dir string, err error) error {
	switch {
	case err == nil || basilica.CodeOf(err) != "":
		return err
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return diskFull(dir, err)
	case errors.Is(err, unix.EROFS):
		return readOnly(dir, err)
	case errors.Is(err, unix.EIO):
		return diskFault(dir, err)
	}
	return err
}

func place(dir string) string {
	if dir == "" {
		return "the data directory"
	}
	return dir
}

func diskFull(dir string, err error) error {
	return basilica.E(basilica.Unavailable, "DISK_FULL", fmt.Sprintf("the disk of %s is full", place(dir)),
		fmt.Sprintf("free space on the disk of %s; nothing that was confirmed is lost, and the role goes on by itself", place(dir))).With(err)
}

func readOnly(dir string, err error) error {
	return basilica.E(basilica.Unavailable, "STORE_READ_ONLY", fmt.Sprintf("%s cannot be written", place(dir)),
		"mount its file system for writing (a disk with errors is made read-only by the kernel: dmesg says so), or correct the owner of its files").With(err)
}

func diskFault(dir string, err error) error {
	return basilica.E(basilica.Unavailable, "STORE_DISK", fmt.Sprintf("the disk of %s fails", place(dir)),
		"look at dmesg and at the disk; nothing that was confirmed is lost").With(err)
}
