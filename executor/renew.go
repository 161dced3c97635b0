package executor

import (
	"context"
	"fmt"
	"time"

	"basilica"
)

// Identity is the machine's certificate, and whom it trusts beside it.
type Identity interface {
	// Trust names what is trusted.
	Trust() basilica.Digest
	// Life is of the certificate that is shown.
	Life() (begins, ends time.Time)
	// Request makes a certificate request (DER) over the machine's key.
	Request() (csr []byte, err error)
	// Renewed keeps a new certificate and what is trusted, on disk before anything else, and shows it from then on; what
	// stands goes on.
	Renewed(r basilica.Renewal) error
}

// renewAt is the part of a certificate's life, from its end, in which it is renewed.
const renewAt = 3

// renewalDue says why the identity should be renewed now; "" where it need not. want is what the miner says is to be
// trusted; zero: it does not say.
func renewalDue(id Identity, want basilica.Digest, now time.Time) string {
	begins, ends := id.Life()
	switch {
	case want != (basilica.Digest{}) && want != id.Trust():
		return "the miner rotates its keys"
	case ends.Sub(now) < ends.Sub(begins)/renewAt:
		return "a third of its life is left"
	case now.Before(begins):
		return "it begins in the future"
	}
	return ""
}

// renew asks the miner for a new certificate over the same key.
func (e *Executor) renew(ctx context.Context, why string) error {
	csr, err := e.cfg.Identity.Request()
	if err != nil {
		return err
	}
	r, err := e.cfg.Fleet.Renew(ctx, e.cfg.Executor, basilica.RenewRequest{CSR: csr})
	if err != nil {
		return fmt.Errorf("renew certificate (%s): %w", why, err)
	}
	if err := e.cfg.Identity.Renewed(r); err != nil {
		return fmt.Errorf("keep renewed certificate: %w", err)
	}
	_, ends := e.cfg.Identity.Life()
	e.cfg.Log.Info("certificate renewed", "why", why, "ends", ends)
	return nil
}
