package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"basilica"
)

const membersList = "executors"

// MembersPage lists enrolled executors by id, at most limit from the cursor on ("": the first), and gives the cursor of the
// next part, "" where there is none. A cut or foreign cursor is Invalid (BAD_CURSOR).
func (m *Miner) MembersPage(ctx context.Context, from string, limit int) ([]basilica.Member, string, error) {
	var after cursor
	if from != "" {
		var err error
		if after, err = parseCursor(from, membersList); err != nil {
			return nil, "", err
		}
	}
	rows, err := m.read.QueryContext(ctx, `SELECT `+memberColumns+` FROM executors WHERE id > $1 ORDER BY id LIMIT $2`, after.id, limit+1)
	members, err := collect(rows, err, m.scanMember)
	if err != nil {
		return nil, "", err
	}
	part, next := page(members, limit, membersList, func(e basilica.Member) cursor { return cursor{id: string(e.Executor)} })
	return part, next, nil
}

// change runs one statement about one executor, which is $1; EXECUTOR_UNKNOWN where it is not enrolled.
func (m *Miner) change(ctx context.Context, id basilica.ExecutorID, statement string, args ...any) error {
	return m.durable(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, statement, append([]any{string(id)}, args...)...)
		return oneRow(res, err, unknownExecutor(id))
	})
}

// SetDrain says whether an executor takes new tasks, and until when what runs may go on; zero: until it ends.
func (m *Miner) SetDrain(ctx context.Context, id basilica.ExecutorID, drain bool, until time.Time) error {
	var ends int64
	if !until.IsZero() {
		ends = m.clock.moment(until)
	}
	return m.change(ctx, id, `UPDATE executors SET drain = $2, drain_until = $3, drain_ends = $4 WHERE id = $1`, drain, micros(until), ends)
}

// SetName changes the name that an executor is shown under.
func (m *Miner) SetName(ctx context.Context, id basilica.ExecutorID, name string) error {
	return m.change(ctx, id, `UPDATE executors SET name = $2 WHERE id = $1`, name)
}

// SetLabels sets some labels of an executor and removes others, and gives all that it has then; more than most are refused
// (LABELS_FULL).
func (m *Miner) SetLabels(ctx context.Context, id basilica.ExecutorID, set map[string]string, remove []string, most int) (labels map[string]string, err error) {
	err = m.tx(ctx, func(tx *sql.Tx) error {
		e, err := m.scanMember(tx.QueryRowContext(ctx, `SELECT `+memberColumns+` FROM executors WHERE id = $1`, string(id)))
		if err != nil {
			return orUnknown(err, id)
		}
		labels = map[string]string{}
		for k, v := range e.Labels {
			labels[k] = v
		}
		for _, k := range remove {
			delete(labels, k)
		}
		for k, v := range set {
			labels[k] = v
		}
		if len(labels) > most {
			return basilica.E(basilica.Exhausted, "LABELS_FULL", fmt.Sprintf("executor %s would have %d labels, more than %d", id, len(labels), most), "remove some of them: basilica fleet label EXECUTOR KEY-")
		}
		text, err := json.Marshal(labels)
		if err != nil {
			return fmt.Errorf("encode labels: %w", err)
		}
		_, err = tx.ExecContext(ctx, `UPDATE executors SET labels = $1 WHERE id = $2`, string(text), string(id))
		return err
	})
	return labels, err
}

// RevokeExecutor ends every certificate of an executor. One that is revoked already keeps its time.
func (m *Miner) RevokeExecutor(ctx context.Context, id basilica.ExecutorID, now time.Time) error {
	return m.change(ctx, id, `UPDATE executors SET revoked = CASE revoked WHEN 0 THEN $2 ELSE revoked END, certificate = x'', previous = x'' WHERE id = $1`, micros(now))
}

// RenewCertificate records an executor's new certificate beside the one that it showed for it; both are DER. A revoked
// executor is refused (EXECUTOR_REVOKED). rotated is the endorsement of a new attestation key, nil: the key stays. One that
// does not replace the key on record is a Conflict.
func (m *Miner) RenewCertificate(ctx context.Context, id basilica.ExecutorID, shown, fresh []byte, rotated *basilica.SignedEndorsement) error {
	return m.durable(ctx, func(tx *sql.Tx) error {
		e, err := m.scanMember(tx.QueryRowContext(ctx, `SELECT `+memberColumns+` FROM executors WHERE id = $1`, string(id)))
		if err != nil {
			return orUnknown(err, id)
		}
		if err := e.Admits(shown); err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, `UPDATE executors SET certificate = $1, previous = $2 WHERE id = $3`, fresh, shown, string(id)); err != nil || rotated == nil {
			return err
		}
		return rotateEndorsement(ctx, tx, e, *rotated)
	})
}

func rotateEndorsement(ctx context.Context, tx *sql.Tx, e basilica.Member, rotated basilica.SignedEndorsement) error {
	present, err := e.Endorsement.Open()
	if err != nil {
		return fmt.Errorf("stored endorsement of %s: %w", e.Executor, err)
	}
	next, err := rotated.Open()
	if err != nil {
		return err
	}
	if !bytes.Equal(next.Replaces, present.AttestSPKI) {
		return basilica.E(basilica.Conflict, "ROTATION_INVALID", fmt.Sprintf("the attestation key of executor %s was replaced meanwhile", e.Executor), "ask again with basilica executor rekey")
	}
	earlier := append(e.Earlier, e.Endorsement)
	content, list, err := jsonPair(rotated, earlier[max(0, len(earlier)-basilica.MaxRotations):])
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE executors SET endorsement = $1, earlier = $2 WHERE id = $3`, content, list, string(e.Executor))
	return err
}

// RevokeTokens ends every unused join token.
func (m *Miner) RevokeTokens(ctx context.Context, now time.Time) (n int, err error) {
	err = m.durable(ctx, func(tx *sql.Tx) error {
		at, err := m.clock.mark(ctx, tx)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `UPDATE tokens SET expires = $1, ends = $2 WHERE used_at = 0 AND ends > $2`, micros(now), at)
		if err != nil {
			return err
		}
		ended, err := res.RowsAffected()
		n = int(ended)
		return err
	})
	return n, err
}
