// Package store keeps what each role must not lose, in SQLite: one file per role in its data directory, one schema per
// file. It knows SQL and nouns, and no role.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"

	"basilica"
	"basilica/internal/crashpoint"
)

//go:embed migrations
var migrations embed.FS

// DB is one role's database: a pool of one writer, so that transactions queue instead of failing, and readers that
// cannot write. It holds the data directory's lock until Close.
type DB struct {
	write *sql.DB
	read  *sql.DB
	lock  *os.File
	dir   string
}

// open takes the lock of dir, opens dir/ROLE.sqlite and brings its schema to this version. A directory that another
// process holds is a Conflict, a schema newer than this program Invalid.
func open(ctx context.Context, dir, role string) (_ *DB, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fileError(dir, fmt.Errorf("make data directory: %w", err))
	}
	lock, err := lockDir(dir, role)
	if err != nil {
		return nil, err
	}
	db := &DB{lock: lock, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	path := filepath.Join(dir, role+".sqlite")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fileError(dir, fmt.Errorf("open database: %w", err))
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	const writePragmas = "_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_txlock=immediate"
	const readPragmas = "mode=ro&_pragma=busy_timeout(5000)&_pragma=query_only(1)"
	name := (&url.URL{Scheme: "file", Path: path}).String()
	if db.write, err = sql.Open("sqlite", name+"?"+writePragmas); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db.write.SetMaxOpenConns(1)
	if err := migrate(ctx, db.write, role); err != nil {
		return nil, mappedIn(dir, err)
	}
	if db.read, err = sql.Open("sqlite", name+"?"+readPragmas); err != nil {
		return nil, fmt.Errorf("open database for reading: %w", err)
	}
	db.read.SetMaxOpenConns(4)
	return db, nil
}

func lockDir(dir, role string) (*os.File, error) {
	path := filepath.Join(dir, role+".lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fileError(dir, fmt.Errorf("open lock: %w", err))
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 16))
		f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		who := "another process"
		if pid, err := strconv.Atoi(strings.TrimSpace(string(holder))); err == nil {
			who = fmt.Sprintf("another process (pid %d)", pid)
		}
		return nil, basilica.E(basilica.Conflict, "DATA_IN_USE", fmt.Sprintf("%s uses the data directory %s", who, dir), "stop the other process, or give this one a directory of its own")
	}
	// Whoever finds the directory in use is told by whom. Only the lock counts: a full disk is no reason not to start.
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return f, nil
}

// schema is what this program knows of a role's database: its migrations.
func schema(db *sql.DB, role string) (*goose.Provider, error) {
	steps, err := fs.Sub(migrations, "migrations/"+role)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", role, err)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, steps, goose.WithVerbose(false))
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", role, err)
	}
	return provider, nil
}

func migrate(ctx context.Context, db *sql.DB, role string) error {
	provider, err := schema(db, role)
	if err != nil {
		return err
	}
	have, err := provider.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("schema version of %s: %w", role, err)
	}
	known := provider.ListSources()
	if newest := known[len(known)-1].Version; have > newest {
		return basilica.E(basilica.Invalid, "SCHEMA_NEWER", fmt.Sprintf("the %s database has schema %d, this program knows %d", role, have, newest), "run the newer basilica that wrote it, or use another data directory")
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("bring schema of %s up to date: %w", role, err)
	}
	return nil
}

// Close closes both pools and gives the data directory's lock back.
func (db *DB) Close() error {
	var errs []error
	for _, pool := range []*sql.DB{db.read, db.write} {
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	if db.lock != nil { // beside another process there is none
		errs = append(errs, db.lock.Close())
	}
	return errors.Join(errs...)
}

// tx runs f in one write transaction: all of it or nothing. A loss of power may undo it until a durable one comes after it.
func (db *DB) tx(ctx context.Context, f func(*sql.Tx) error) error {
	return db.run(ctx, db.write, f)
}

// durable is tx for what is confirmed to somebody outside: once it returns, no loss of power undoes it, nor what came before
// it. It waits for the disk.
func (db *DB) durable(ctx context.Context, f func(*sql.Tx) error) error {
	conn, err := db.write.Conn(ctx)
	if err != nil {
		return mappedIn(db.dir, fmt.Errorf("begin transaction: %w", err))
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, `PRAGMA synchronous = FULL`); err != nil {
		return mappedIn(db.dir, fmt.Errorf("begin transaction: %w", err))
	}
	defer func() {
		// Where this fails, the connection is slower than it must be, and the transaction is as it is.
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), `PRAGMA synchronous = NORMAL`)
	}()
	return db.run(ctx, conn, f)
}

// beginner is the pool, or one connection of it.
type beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// run is a transaction of its caller's caller, whose name its crash points have.
func (db *DB) run(ctx context.Context, on beginner, f func(*sql.Tx) error) error {
	tx, err := on.BeginTx(ctx, nil)
	if err != nil {
		return mappedIn(db.dir, fmt.Errorf("begin transaction: %w", err))
	}
	defer func() { _ = tx.Rollback() }() // does something only where f does not return
	if err := f(tx); err != nil {
		return mappedIn(db.dir, errors.Join(err, ignoreDone(tx.Rollback())))
	}
	crashpoint.HitCaller(2, "commit.before")
	if err := tx.Commit(); err != nil {
		return mappedIn(db.dir, fmt.Errorf("commit: %w", err))
	}
	crashpoint.HitCaller(2, "commit.after")
	return nil
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// micros is how every time is stored: Unix microseconds, UTC; 0 is the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
