package store

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"basilica"
)

// Holder finds the process that holds a role's data directory, without touching its lock. The second value is false where
// none does.
func Holder(dir, role string) (pid int, held bool, err error) {
	path := filepath.Join(dir, role+".lock")
	said, err := os.ReadFile(path) // the last holder's pid
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Stat(path, &st)
	}
	if err != nil {
		return 0, false, fmt.Errorf("look at the lock of %s: %w", dir, err)
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return 0, false, fmt.Errorf("look at the lock of %s: %w", dir, err)
	}
	defer f.Close()
	inode := fmt.Sprintf(":%d", st.Ino)
	place := fmt.Sprintf("%02x:%02x%s", unix.Major(st.Dev), unix.Minor(st.Dev), inode)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// number: FLOCK ADVISORY WRITE pid major:minor:inode start end
		words := strings.Fields(lines.Text())
		if len(words) < 6 || words[1] != "FLOCK" {
			continue
		}
		// A file of an overlay stands there under another device than stat gives.
		if words[5] != place && !(strings.HasSuffix(words[5], inode) && words[4] == strings.TrimSpace(string(said))) {
			continue
		}
		pid, err := strconv.Atoi(words[4])
		if err != nil {
			return 0, true, fmt.Errorf("read /proc/locks: %w", err)
		}
		return pid, true, nil
	}
	return 0, false, lines.Err()
}

// OpenExecutorBeside opens dir/executor.sqlite without the directory's lock, for a process that looks at a machine whose
// executor may be running; what it enters, the executor sees. It makes no file and changes no schema: without a database the
// error is fs.ErrNotExist, with another schema than this program's SCHEMA_OTHER.
func OpenExecutorBeside(ctx context.Context, dir string) (_ *Executor, err error) {
	path := filepath.Join(dir, "executor.sqlite")
	if _, err := os.Stat(path); err != nil {
		return nil, fileError(dir, fmt.Errorf("open database: %w", err))
	}
	db := &DB{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	name := (&url.URL{Scheme: "file", Path: path}).String()
	const pragmas = "mode=rw&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)"
	if db.write, err = sql.Open("sqlite", name+"?"+pragmas+"&_txlock=immediate"); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db.write.SetMaxOpenConns(1)
	if err := sameSchema(ctx, db.write, "executor"); err != nil {
		return nil, mappedIn(dir, err)
	}
	if db.read, err = sql.Open("sqlite", name+"?"+pragmas+"&_pragma=query_only(1)"); err != nil {
		return nil, fmt.Errorf("open database for reading: %w", err)
	}
	return &Executor{db}, nil
}

func sameSchema(ctx context.Context, db *sql.DB, role string) error {
	provider, err := schema(db, role)
	if err != nil {
		return err
	}
	known := provider.ListSources()
	var have int64
	if err := db.QueryRowContext(ctx, `SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&have); err != nil {
		return fmt.Errorf("schema version of %s: %w", role, err)
	}
	if newest := known[len(known)-1].Version; have != newest {
		return basilica.E(basilica.Conflict, "SCHEMA_OTHER", fmt.Sprintf("the %s database has schema %d, this program knows %d", role, have, newest), "look at it with the program that the role runs, or start the role with this one")
	}
	return nil
}
