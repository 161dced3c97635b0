package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"basilica"
)

const verificationColumns = `v.seq, v.id, v.round, v.block, v.miner, v.miner_uid, v.executor, v.started, v.ended, v.strength, v.after_open, v.holder, v.gpus, v.facts`

type verificationRow struct {
	seq int64
	basilica.Verification
}

func (b *Book) scanVerification(scan func(...any) error) (r verificationRow, err error) {
	var started, ended int64
	var gpus, facts string
	v := &r.Verification
	if err := scan(&r.seq, &v.ID, &v.Round, &v.Block, &v.Miner, &v.MinerUID, &v.Executor, &started, &ended, &v.Strength, &v.AfterOpen, &v.Holder, &gpus, &facts); err != nil {
		return r, err
	}
	v.Genesis, v.NetUID, v.Validator = b.genesis, b.netuid, b.validator
	v.Started, v.Ended = fromMicros(started), fromMicros(ended)
	err = errors.Join(json.Unmarshal([]byte(gpus), &v.GPUs), json.Unmarshal([]byte(facts), &v.Facts))
	if len(v.GPUs) == 0 {
		v.GPUs = nil
	}
	return r, err
}

// withVerdicts reads the verdicts of verifications.
func (b *Book) withVerdicts(ctx context.Context, rows []verificationRow) ([]basilica.Verification, error) {
	at := make(map[int64]int, len(rows))
	ids := make([]int64, len(rows))
	out := make([]basilica.Verification, len(rows))
	for i, r := range rows {
		at[r.seq], ids[i], out[i] = i, r.seq, r.Verification
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	// One question for all of them: each question by itself would cost more than its rows.
	q, err := b.v.read.QueryContext(ctx, `SELECT d.verification, d.check_name, d.result, d.reason, d.detail, d.evidence, coalesce(e.size, 0), d.class, d.signed
		FROM json_each($1) j JOIN verdicts d ON d.verification = j.value LEFT JOIN evidence e ON e.sha256 = d.evidence ORDER BY d.verification, d.place`, string(list))
	_, err = scanRows(q, err, func(scan func(...any) error) (none struct{}, err error) {
		var seq int64
		var sum []byte
		var d basilica.Verdict
		var e basilica.Evidence
		if err := scan(&seq, &d.Check, &d.Result, &d.Reason, &d.Detail, &sum, &e.Size, &e.Class, &e.Signed); err != nil {
			return none, err
		}
		if sum != nil {
			copy(e.SHA256[:], sum)
			d.Evidence = &e
		}
		v := &out[at[seq]]
		v.Verdicts = append(v.Verdicts, d)
		return none, nil
	})
	return out, err
}

// Verifications gives one page, newest first.
func (b *Book) Verifications(ctx context.Context, q basilica.VerificationQuery) (basilica.VerificationPage, error) {
	limit := pageSize(q.Limit)
	where, args := []string{"v.book = $1"}, []any{b.id}
	and := func(column string, value any) {
		args = append(args, value)
		where = append(where, column+" $"+strconv.Itoa(len(args)))
	}
	if q.Miner != "" {
		and("v.miner =", q.Miner)
	}
	if q.Executor != "" {
		and("v.executor =", q.Executor)
	}
	if q.Round != nil {
		and("v.round =", *q.Round)
	}
	if q.Result != "" {
		and("v.result =", q.Result)
	}
	list := fmt.Sprintf("verifications of %d%q%v", b.id, []string{string(q.Miner), string(q.Executor), string(q.Result)}, where)
	if q.Round != nil {
		list += fmt.Sprint(*q.Round)
	}
	if q.After != "" {
		from, err := parseCursor(q.After, list)
		if err != nil {
			return basilica.VerificationPage{}, err
		}
		and("v.seq <", from.at)
	}
	and("1 = 1 ORDER BY v.seq DESC LIMIT", limit+1)
	rows, err := b.v.read.QueryContext(ctx, `SELECT `+verificationColumns+` FROM verifications v WHERE `+strings.Join(where, " AND "), args...)
	found, err := scanRows(rows, err, b.scanVerification)
	if err != nil {
		return basilica.VerificationPage{}, err
	}
	found, next := page(found, limit, list, func(r verificationRow) cursor { return cursor{at: r.seq} })
	verifications, err := b.withVerdicts(ctx, found)
	return basilica.VerificationPage{Verifications: verifications, Next: next}, err
}

// Verification reads one; an unknown id is NotFound.
func (b *Book) Verification(ctx context.Context, id basilica.VerificationID) (basilica.Verification, error) {
	rows, err := b.v.read.QueryContext(ctx, `SELECT `+verificationColumns+` FROM verifications v WHERE v.book = $1 AND v.id = $2`, b.id, id)
	rowsFound, err := scanRows(rows, err, b.scanVerification)
	if err != nil {
		return basilica.Verification{}, err
	}
	if len(rowsFound) == 0 {
		return basilica.Verification{}, basilica.E(basilica.NotFound, "NO_SUCH_VERIFICATION", "this validator has no verification of that id", "list them at /api/v1/verifications")
	}
	out, err := b.withVerdicts(ctx, rowsFound)
	if err != nil {
		return basilica.Verification{}, err
	}
	return out[0], nil
}

// LatestVerifications gives the newest verification of every executor, by miner and executor, at most limit of them: those that
// ever passed before mere names, and of each those that were seen last.
func (b *Book) LatestVerifications(ctx context.Context, limit int) ([]basilica.Verification, error) {
	rows, err := b.v.read.QueryContext(ctx, `SELECT `+verificationColumns+` FROM
		(SELECT * FROM standings WHERE book = $1 ORDER BY json_extract(standing, '$.last_pass') IS NULL, seen DESC, miner, executor LIMIT $2) s
		JOIN verifications v ON v.seq = (SELECT max(w.seq) FROM verifications w WHERE w.book = s.book AND w.miner = s.miner AND w.executor = s.executor)
		ORDER BY v.miner_uid, v.executor`, b.id, limit)
	latest, err := scanRows(rows, err, b.scanVerification)
	if err != nil {
		return nil, err
	}
	return b.withVerdicts(ctx, latest)
}

// History gives all verifications of one executor, oldest first: what its standing is the fold of.
func (b *Book) History(ctx context.Context, k basilica.ExecutorKey) ([]basilica.Verification, error) {
	rows, err := b.v.read.QueryContext(ctx, `SELECT `+verificationColumns+` FROM verifications v WHERE v.book = $1 AND v.miner = $2 AND v.executor = $3 ORDER BY v.seq`, b.id, k.Miner, k.Executor)
	all, err := scanRows(rows, err, b.scanVerification)
	if err != nil {
		return nil, err
	}
	return b.withVerdicts(ctx, all)
}
