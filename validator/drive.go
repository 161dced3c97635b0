package validator

import (
	"context"
	"io"
	"time"

	"basilica/attest"
)

// Drive runs one challenge over a channel as a round does, without waiting for other machines: the verifier is decided when
// it returns. hangUp must release a blocked Read or Write of stream. Where the machine refused before CHALLENGE was sent, it
// gives that refusal.
func Drive(ctx context.Context, v *attest.Verifier, stream io.ReadWriter, hangUp func(), now func() time.Time) (refusal error) {
	c := challenge{verifier: v, stream: stream, hangUp: hangUp, ready: func(context.Context) error { return nil }, now: now}
	return c.run(ctx)
}
