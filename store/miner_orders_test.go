package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"basilica"
)

// TestOrdersOfOneHeartbeatAreBounded: an executor refuses a longer answer, and would fall silent of what two validators can
// do: each list is cut, and all of it comes in some answers.
func TestOrdersOfOneHeartbeatAreBounded(t *testing.T) {
	ctx, m := context.Background(), openMiner(t)
	must(t, m.AddToken(ctx, basilica.TokenRecord{Hash: basilica.Digest{1}, Created: start, Expires: start.Add(time.Hour)}))
	must(t, m.Enroll(ctx, basilica.Digest{1}, member("e", 1)))
	const many = basilica.MaxOrders + 50
	must(t, m.AddGrant(ctx, basilica.GrantRecord{ID: "g0", Validator: "v", Executors: []basilica.ExecutorID{"e"}, Issued: start, Expires: start.Add(time.Hour)}, time.Hour, 1))
	must(t, m.RevokeGrant(ctx, "g0"))
	copies(t, m, "g0", "g", many)
	_, err := m.write.ExecContext(ctx, `INSERT INTO tasks (id, client, idempotency_key, spec, spec_digest, state, created, ended) VALUES ('t', 'c', 'k', x'7b7d', x'', 'lost', 1, 2)`)
	must(t, err)
	_, err = m.write.ExecContext(ctx, `INSERT INTO attempts (task, attempt, executor, placed, outcome) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) SELECT 't', i, 'e', 1, 'abandoned' FROM n`, many)
	must(t, err)
	told := map[basilica.GrantID]bool{}
	for beats := 1; len(told) < many; beats++ {
		reply, err := m.Beat(ctx, "e", basilica.LastBeat{At: start}, nil, basilica.Digest{}, time.Minute)
		must(t, err)
		if len(reply.Revoked) != basilica.MaxOrders || len(reply.Cancel) != basilica.MaxOrders || beats > 100 {
			t.Fatalf("beat %d: %d revoked grants, %d cancels, %d grants told", beats, len(reply.Revoked), len(reply.Cancel), len(told))
		}
		for _, g := range reply.Revoked {
			told[g] = true
		}
	}
}

// TestUnreleasedOfGoneExecutorsHideNothing: what stays on machines that are gone leaves room for the others'.
func TestUnreleasedOfGoneExecutorsHideNothing(t *testing.T) {
	ctx, m := context.Background(), openMiner(t)
	for i, id := range []string{"gone", "here", "revoked"} {
		must(t, m.AddToken(ctx, basilica.TokenRecord{Hash: basilica.Digest{byte(i)}, Created: start, Expires: start.Add(time.Hour)}))
		must(t, m.Enroll(ctx, basilica.Digest{byte(i)}, member(id, byte(i))))
	}
	must(t, m.RevokeExecutor(ctx, "revoked", start))
	n := 0
	left := func(executor string, placed int) {
		n++
		_, err := m.write.ExecContext(ctx, `INSERT INTO tasks (id, client, idempotency_key, spec, spec_digest, state, created, ended) VALUES ($1, 'c', $1, x'7b7d', x'', 'lost', 1, 2)`, fmt.Sprint(n))
		must(t, err)
		_, err = m.write.ExecContext(ctx, `INSERT INTO attempts (task, attempt, executor, placed, outcome) VALUES ($1, 1, $2, $3, 'ended')`, fmt.Sprint(n), executor, placed)
		must(t, err)
	}
	for i := range 5 {
		left("gone", i)
		left("revoked", i)
	}
	left("here", 100)
	got, err := m.Unreleased(ctx, 3)
	must(t, err)
	if len(got) != 3 || got[0].Executor != "gone" || got[1].Executor != "here" || got[2].Executor != "gone" {
		t.Errorf("unreleased %+v", got)
	}
}

// copies adds the grants prefix1 to prefix(many-1), alike grant of and one minute apart, faster than AddGrant would.
func copies(t *testing.T, m *Miner, of, prefix string, many int) {
	t.Helper()
	for _, statement := range []string{
		`INSERT INTO grants (id, genesis, netuid, validator, round, issued, expires, revoked, given, ends)
			WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1 - 1)
			SELECT $2 || i, genesis, netuid, validator, round, issued, expires, revoked, given + i * 60000000, ends + i * 60000000 FROM grants, n WHERE id = $3`,
		`INSERT INTO grant_executors (grant_id, executor) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1 - 1)
			SELECT $2 || i, executor FROM grant_executors, n WHERE grant_id = $3`,
	} {
		_, err := m.write.ExecContext(t.Context(), statement, many, prefix, of)
		must(t, err)
	}
}
