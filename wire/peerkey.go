package wire

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"basilica"
	"basilica/pki"
)

const (
	dialBackTime  = 10 * time.Second
	maxDialBacks  = 8
	dialBackProto = "basilica-key/1"
)

// PeerKey dials a joining machine back at addr (host:port) and gives the DER SubjectPublicKeyInfo of the P-256 key that
// it proved to hold in a TLS 1.3 handshake; nothing else is said. Addresses that no stranger may send us to (loopback,
// private, link-local, multicast) are refused after resolution unless allowPrivate.
func PeerKey(ctx context.Context, addr string, allowPrivate bool) (spki []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialBackTime)
	defer cancel()
	conn, err := dialStranger(ctx, addr, allowPrivate)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, fmt.Errorf("set deadline: %w", err)
		}
	}
	client := tls.Client(conn, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{dialBackProto, "h2"},
		InsecureSkipVerify: true, //nolint:gosec // whoever answers is nobody yet: only the key that it holds is read
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("no certificate")
			}
			pub, ok := cs.PeerCertificates[0].PublicKey.(*ecdsa.PublicKey)
			if !ok || pub.Curve != elliptic.P256() {
				return errors.New("the peer's key is not ECDSA P-256")
			}
			spki = append([]byte(nil), cs.PeerCertificates[0].RawSubjectPublicKeyInfo...)
			return nil
		},
	})
	if err := client.HandshakeContext(ctx); err != nil {
		return nil, basilica.E(basilica.Unavailable, "DIAL_BACK_KEY", fmt.Sprintf("what answers at %.80q does not show a P-256 key over TLS 1.3", addr), "check that the address is this machine's and that no other program has the port").With(err)
	}
	return spki, nil
}

func dialStranger(ctx context.Context, addr string, allowPrivate bool) (net.Conn, error) {
	d := net.Dialer{Control: func(_, address string, _ syscall.RawConn) error { return checkDialled(address, allowPrivate) }}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil && basilica.CodeOf(err) == "" {
		return nil, basilica.E(basilica.Unavailable, "DIAL_BACK", fmt.Sprintf("the miner cannot reach the machine at %.80q", addr), "open that port towards the miner, or name an address that it can reach").With(err)
	}
	return conn, err
}

// Knock dials addr (host:port) under the rules of PeerKey and hangs up; nil where something answers.
func Knock(ctx context.Context, addr string, allowPrivate bool) error {
	ctx, cancel := context.WithTimeout(ctx, dialBackTime)
	defer cancel()
	conn, err := dialStranger(ctx, addr, allowPrivate)
	if err != nil {
		return err
	}
	return conn.Close()
}

// checkDialled judges an address after resolution.
func checkDialled(address string, allowPrivate bool) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("parse address: %w", err)
	}
	a := ap.Addr().Unmap()
	if basilica.PublicAddr(a) || allowPrivate && !a.IsUnspecified() && !a.IsMulticast() {
		return nil
	}
	return basilica.E(basilica.Denied, "ADDRESS_PRIVATE", fmt.Sprintf("address %s is not on the public internet", a), "name a public address, or allow private ones on the miner")
}

// ServeKey is the joining machine's side of the dial-back: it shows a self-signed certificate over key (ECDSA P-256) to
// whoever comes to ln and says nothing else, until ctx ends. It closes ln.
func ServeKey(ctx context.Context, ln net.Listener, key crypto.Signer) error {
	cert, err := pki.SelfSigned(key)
	if err != nil {
		ln.Close()
		return err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{dialBackProto}, SessionTicketsDisabled: true}
	capped := newCappedListener(ln, maxDialBacks, maxDialBacks)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	defer ln.Close()
	for {
		conn, err := capped.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept dial-back: %w", err)
		}
		wg.Go(func() {
			defer conn.Close()
			hctx, cancel := context.WithTimeout(ctx, dialBackTime)
			defer cancel()
			// A failed handshake is the dialling end's to report.
			_ = tls.Server(conn, conf).HandshakeContext(hctx)
		})
	}
}
