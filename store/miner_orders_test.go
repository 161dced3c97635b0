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
	for i := range many {
		id := basilica.GrantID(fmt.Sprintf("g%d", i))
		must(t, m.AddGrant(ctx, basilica.GrantRecord{ID: id, Validator: "v", Executors: []basilica.ExecutorID{"e"}, Issued: start, Expires: start.Add(time.Hour)}, time.Hour, many))
		must(t, m.RevokeGrant(ctx, id))
	}
	_, err := m.write.ExecContext(ctx, `INSERT INTO tasks (id, client, idempotency_key, spec, spec_digest, state, created, ended) VALUES ('t', 'c', 'k', x'7b7d', x'', 'lost', 1, 2)`)
	must(t, err)
	for i := range many {
		_, err := m.write.ExecContext(ctx, `INSERT INTO attempts (task, attempt, executor, placed, outcome) VALUES ('t', $1, 'e', 1, 'abandoned')`, i+1)
		must(t, err)
	}
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
