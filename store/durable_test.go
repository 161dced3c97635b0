package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"basilica"
)

// Values of SQLite's synchronous setting, from its documentation.
const (
	syncNormal = 1
	syncFull   = 2
)

// TestDurableCommitsWaitForTheDisk: a durable transaction runs under another setting than the rest, and leaves none behind.
func TestDurableCommitsWaitForTheDisk(t *testing.T) {
	ctx, m := t.Context(), openMiner(t)
	refused := errors.New("refused")
	for _, c := range []struct {
		name string
		run  func(context.Context, func(*sql.Tx) error) error
		want int
		err  error
	}{
		{"tx", m.tx, syncNormal, nil},
		{"durable", m.durable, syncFull, nil},
		{"durable that is refused", m.durable, syncFull, refused},
		{"tx after both", m.tx, syncNormal, nil},
	} {
		var within, after int
		err := c.run(ctx, func(tx *sql.Tx) error {
			return errors.Join(tx.QueryRowContext(ctx, `PRAGMA synchronous`).Scan(&within), c.err)
		})
		must(t, m.write.QueryRowContext(ctx, `PRAGMA synchronous`).Scan(&after))
		if !errors.Is(err, c.err) || within != c.want || after != syncNormal {
			t.Errorf("%s: synchronous %d within, want %d, and %d after; %v", c.name, within, c.want, after, err)
		}
	}
}

// TestTransactionThatDoesNotReturn: one whose body panics is undone, and the next one runs as if it had not been.
func TestTransactionThatDoesNotReturn(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	m := openMiner(t)
	for _, run := range []func(context.Context, func(*sql.Tx) error) error{m.tx, m.durable} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic is lost")
				}
			}()
			_ = run(ctx, func(tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, `CREATE TABLE undone (n INTEGER)`)
				must(t, err)
				panic("bad body")
			})
		}()
		var level, tables int
		must(t, m.tx(ctx, func(tx *sql.Tx) error {
			return errors.Join(tx.QueryRowContext(ctx, `PRAGMA synchronous`).Scan(&level), tx.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE name = 'undone'`).Scan(&tables))
		}))
		if level != syncNormal || tables != 0 {
			t.Errorf("after it synchronous is %d, and %d of its tables are there", level, tables)
		}
	}
}

// watchSync has every change of the tables note the setting under which it is made, and gives the settings since it was asked last.
func watchSync(t *testing.T, db *DB, tables ...string) func() []int {
	t.Helper()
	ctx := t.Context()
	_, err := db.write.ExecContext(ctx, `CREATE TEMP TABLE synced (level INTEGER)`)
	must(t, err)
	for _, table := range tables {
		for _, op := range []string{"INSERT", "UPDATE"} {
			_, err := db.write.ExecContext(ctx, fmt.Sprintf(`CREATE TEMP TRIGGER %s_%s AFTER %s ON main.%s BEGIN INSERT INTO synced SELECT synchronous FROM pragma_synchronous; END`, table, op, op, table))
			must(t, err)
		}
	}
	return func() []int {
		rows, err := db.write.QueryContext(ctx, `DELETE FROM synced RETURNING level`)
		levels, err := collect(rows, err, func(row scanner) (n int, err error) { return n, row.Scan(&n) })
		must(t, err)
		return levels
	}
}

// TestWhatWasConfirmedIsDurable: nothing that somebody was told is done is lost with the power; what is told often is not waited for.
func TestWhatWasConfirmedIsDurable(t *testing.T) {
	ctx, m, v, e := t.Context(), openMiner(t), openValidator(t), openExecutor(t, t.TempDir())
	defer e.Close()
	b := openBook(t, v, 1)
	token := func(n byte) error {
		return m.AddToken(ctx, basilica.TokenRecord{Hash: basilica.Digest{n}, Created: start, Expires: start.Add(time.Hour)})
	}
	second := func(_ any, err error) error { return err }
	must(t, errors.Join(token(1), token(2), token(3)))
	a := basilica.Attempt{Task: "t1", Number: 1, Client: "c", Spec: []byte("{}"), State: basilica.TaskPlaced, Accepted: start, Holding: basilica.Holding{Kind: basilica.HolderTask, Holder: "t1", Expires: start.Add(time.Hour)}}
	var claimed []basilica.TaskRecord
	miner, book, machine := watchSync(t, m.DB, "tokens", "executors", "tasks"), watchSync(t, v.DB, "weight_intents"), watchSync(t, e.DB, "attempts")
	for _, c := range []struct {
		name string
		do   func() error
		seen func() []int
		want int
	}{
		{"AddToken", func() error { return token(4) }, miner, syncNormal},
		{"Enroll", func() error { return m.Enroll(ctx, basilica.Digest{1}, member("e", 1)) }, miner, syncFull},
		{"RevokeToken", func() error { return m.RevokeToken(ctx, basilica.Digest{2}.String()[:12], start) }, miner, syncFull},
		{"RevokeTokens", func() error { return second(m.RevokeTokens(ctx, start)) }, miner, syncFull},
		{"RenewCertificate", func() error { return m.RenewCertificate(ctx, "e", []byte{2}, []byte{3}, nil) }, miner, syncFull},
		{"Beat", func() error {
			return second(m.Beat(ctx, "e", basilica.LastBeat{At: start}, nil, basilica.Digest{}, time.Minute))
		}, miner, syncNormal},
		{"RevokeExecutor", func() error { return m.RevokeExecutor(ctx, "e", start) }, miner, syncFull},
		{"AddTask", func() error { return second(m.AddTask(ctx, record(1, "c", basilica.TaskSpec{Image: "i"}), 9, 9)) }, miner, syncFull},
		{"Place", func() error { return m.Place(ctx, "t1", "e", start) }, miner, syncNormal},
		{"Claim", func() (err error) { claimed, err = m.Claim(ctx, "w", time.Minute, 1); return err }, miner, syncNormal},
		{"WantCancel", func() error { return second(m.WantCancel(ctx, "c", "t1", basilica.Reason{}, start)) }, miner, syncFull},
		{"End", func() error {
			claimed[0].State, claimed[0].Ended = basilica.TaskCancelled, &start
			return m.End(ctx, claimed[0], false)
		}, miner, syncFull},
		{"IntendWeights", func() error { return b.IntendWeights(ctx, basilica.WeightIntent{Round: basilica.RoundID{First: 20}}) }, book, syncFull},
		{"Accept", func() error { _, _, err := e.Accept(ctx, a, nil, 1, start); return err }, machine, syncFull},
		{"SaveAttempt", func() error { a.State = basilica.TaskRunning; return e.SaveAttempt(ctx, a) }, machine, syncNormal},
		{"SaveAttempt at the end", func() error { a.State, a.Ended = basilica.TaskFailed, start; return e.SaveAttempt(ctx, a) }, machine, syncFull},
	} {
		must(t, c.do())
		levels := c.seen()
		if len(levels) == 0 {
			t.Errorf("%s changed nothing", c.name)
		}
		for _, level := range levels {
			if level != c.want {
				t.Errorf("%s: committed with synchronous %d, want %d", c.name, level, c.want)
			}
		}
	}
}

// BenchmarkCommit measures what waiting for the disk costs.
func BenchmarkCommit(b *testing.B) {
	m, err := OpenMiner(b.Context(), b.TempDir(), time.Now)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	for _, kind := range []struct {
		name string
		run  func(context.Context, func(*sql.Tx) error) error
	}{{"tx", m.tx}, {"durable", m.durable}} {
		b.Run(kind.name, func(b *testing.B) {
			for b.Loop() {
				if err := kind.run(b.Context(), func(tx *sql.Tx) error { _, err := m.clock.mark(b.Context(), tx); return err }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}
