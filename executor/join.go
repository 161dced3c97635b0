package executor

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"basilica"
	"basilica/keys"
	"basilica/pki"
)

// Joining is a machine on its way into a fleet.
type Joining struct {
	Token      string
	Name       string          // wished id; empty: the miner chooses
	Miner      basilica.Hotkey // whose executor it is already; empty: nobody's
	Key        *keys.P256
	Addr       string // host:port of the gRPC door, as the miner reaches it
	SSHAddr    string // host:port of the SSH door, as validators reach it
	HostKey    []byte // SSH wire encoding
	AttestSPKI []byte
	Facts      basilica.Facts

	// ServeKey shows Key to the miner that dials Addr back, until its context ends.
	ServeKey func(ctx context.Context) error
	// Enroll asks the miner that the token names.
	Enroll func(ctx context.Context, req basilica.EnrollRequest) (basilica.Enrollment, error)
}

// Join enrolls the machine: it asks with a request for a certificate over its key, shows that key to the miner's
// dial-back meanwhile, and checks that the miner endorsed exactly these keys.
func Join(ctx context.Context, j Joining) (basilica.Enrollment, error) {
	csr, err := pki.NewCSR(j.Key.Signer())
	if err != nil {
		return basilica.Enrollment{}, fmt.Errorf("make certificate request: %w", err)
	}
	var out basilica.Enrollment
	g, gctx := errgroup.WithContext(ctx)
	serving, served := context.WithCancel(gctx)
	g.Go(func() error { return j.ServeKey(serving) })
	g.Go(func() (err error) {
		defer served()
		out, err = j.Enroll(gctx, basilica.EnrollRequest{
			Token: j.Token, Name: j.Name, CSR: csr, Addr: j.Addr, SSHAddr: j.SSHAddr, HostKey: j.HostKey, AttestSPKI: j.AttestSPKI, Facts: j.Facts,
			Miner: j.Miner,
		})
		return err
	})
	if err := g.Wait(); err != nil {
		return basilica.Enrollment{}, err
	}
	if err := endorsed(out, j); err != nil {
		return basilica.Enrollment{}, basilica.E(basilica.Invalid, "ENROLLMENT_UNFIT", "the miner's answer does not fit this machine", "make a new token and join again").With(err)
	}
	return out, nil
}

// endorsed checks that the miner's hotkey vouches for this machine's keys under the id that it gave.
func endorsed(out basilica.Enrollment, j Joining) error {
	e, err := out.Endorsement.Open()
	if err != nil {
		return err
	}
	switch {
	case j.Miner != "" && out.Miner != j.Miner:
		return fmt.Errorf("it is an executor of miner %s, and %s answers", j.Miner, out.Miner)
	case e.Miner != out.Miner:
		return fmt.Errorf("endorsed by %s, enrolled by %s", e.Miner, out.Miner)
	case e.Executor != out.Executor || out.Executor == "":
		return fmt.Errorf("endorsed as %q, enrolled as %q", e.Executor, out.Executor)
	case !bytes.Equal(e.KeySPKI, j.Key.SPKI()):
		return errors.New("another receipt key is endorsed")
	case !bytes.Equal(e.AttestSPKI, j.AttestSPKI):
		return errors.New("another attestation key is endorsed")
	case !bytes.Equal(e.HostKey, j.HostKey):
		return errors.New("another SSH host key is endorsed")
	}
	return nil
}
