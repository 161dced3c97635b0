package store

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"basilica"
	"basilica/internal/provoke"
)

func TestRefusals(t *testing.T) {
	ctx := context.Background()
	token := basilica.TokenRecord{Hash: basilica.Digest{1}, Created: start, Expires: start.Add(time.Hour)}
	provoke.Each(t, map[string]func(*testing.T) error{
		"ALREADY_STORED": func(t *testing.T) error {
			m := openMiner(t)
			must(t, m.AddToken(ctx, token))
			return m.AddToken(ctx, token)
		},
		"ATTEMPT_STALE": func(t *testing.T) error {
			e := openExecutor(t, t.TempDir())
			defer e.Close()
			a := basilica.Attempt{Task: "t", Number: 2, Spec: []byte("{}")}
			_, _, err := e.Accept(ctx, a, nil, 4, start)
			must(t, err)
			a.Number = 1
			_, _, err = e.Accept(ctx, a, nil, 4, start)
			return err
		},
		"COMMIT_CLOSED": func(t *testing.T) error {
			return openBook(t, openValidator(t), 1).SaveCommit(ctx, basilica.HeldCommit{WeightCommit: basilica.WeightCommit{Hash: basilica.Hash{1}, State: basilica.CommitLost}})
		},
		"GRANT_UNKNOWN": func(t *testing.T) error { return openMiner(t).RevokeGrant(ctx, "g") },
		"NO_SUCH_ROW": func(t *testing.T) error {
			return openMiner(t).Refused(ctx, "t", 1, time.Second, basilica.Reason{Code: "BUSY", Sentence: "busy"})
		},
		"REPLAY_FULL": func(t *testing.T) error {
			m := openMiner(t)
			_, err := m.write.ExecContext(ctx, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
				INSERT INTO replays (hotkey, nonce, until) SELECT 'h', i, $2 FROM n`, maxReplaysPerKey, micros(start.Add(time.Hour)))
			must(t, err)
			if fresh, err := m.Remember(ctx, "other", "1", start.Add(time.Hour)); err != nil || !fresh {
				t.Errorf("another hotkey: %v, %v", fresh, err)
			}
			_, err = m.Remember(ctx, "h", "new", start.Add(time.Hour))
			return err
		},
		"SCHEMA_NEWER": func(t *testing.T) error {
			dir := t.TempDir()
			e := openExecutor(t, dir)
			_, err := e.write.ExecContext(ctx, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999999, 1)`)
			must(t, err)
			must(t, e.Close())
			_, err = OpenExecutor(ctx, dir)
			return err
		},
		"STORE_DISK": func(t *testing.T) error {
			dir := t.TempDir()
			must(t, os.Mkdir(filepath.Join(dir, "executor.sqlite-wal"), 0o700))
			_, err := OpenExecutor(ctx, dir)
			return err
		},
		"TOKENS_FULL": func(t *testing.T) error {
			m := openMiner(t)
			_, err := m.write.ExecContext(ctx, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
				INSERT INTO tokens (hash, name, created, expires, ends) SELECT randomblob(32), '', $2, $3, $3 FROM n`,
				maxTokens, micros(start), micros(start.Add(time.Hour)))
			must(t, err)
			return m.AddToken(ctx, token)
		},
	})
}
