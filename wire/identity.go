package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"basilica"
	"basilica/pki"
)

// CertificateFunc gives the certificate that an end shows. It is asked at every handshake, so that a renewed one is shown
// from then on while connections that stand go on.
type CertificateFunc func() (*tls.Certificate, error)

// CAsFunc gives the DER of every fleet CA in force; it is asked at every handshake and call.
type CAsFunc func() [][]byte

const (
	fixClock = "set both clocks by NTP: timedatectl set-ntp true"
	fixJoin  = "make a token on the miner (basilica token create), then on the executor's machine: basilica join TOKEN"
)

// peerCertificate is what the caller of a call showed, judged by nobody yet; nil where it showed none.
func peerCertificate(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil
	}
	return info.State.PeerCertificates[0]
}

// judge checks a shown certificate: of this fleet, and in force. whose names its holder in refusals, own the clock here.
// The holder has proven in the handshake that it has the key.
func judge(cert *x509.Certificate, cas [][]byte, now time.Time, whose, own string) error {
	if cert == nil {
		return basilica.E(basilica.Denied, "CERTIFICATE_MISSING", "the call shows no certificate", fixJoin)
	}
	err := pki.VerifyPeer([]*x509.Certificate{cert}, now, cas...)
	var dates *pki.CertificateTimeError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &dates):
		return basilica.E(basilica.Denied, "CERTIFICATE_FOREIGN", whose+" certificate is not of this fleet", fixJoin).With(err)
	case dates.Difference < 0:
		return basilica.E(basilica.Denied, "CERTIFICATE_EARLY", fmt.Sprintf("%s certificate is not yet in force: %s clock is at least %d s behind the one that dated it", whose, own, -seconds(dates.Difference)), fixClock)
	}
	return basilica.E(basilica.Denied, "CERTIFICATE_EXPIRED", fmt.Sprintf("%s certificate ended %d s ago by %s clock", whose, seconds(dates.Difference), own), "where that clock is right: "+fixJoin)
}

func seconds(d time.Duration) int64 { return int64(d.Round(time.Second) / time.Second) }

// clockSentence says how far two clocks are apart; difference is the first less the second.
func clockSentence(first, second string, difference time.Duration) string {
	if difference < 0 {
		return fmt.Sprintf("%s clock is %d s behind %s", first, -seconds(difference), second)
	}
	return fmt.Sprintf("%s clock is %d s ahead of %s", first, seconds(difference), second)
}

// meeting remembers why the last handshake of a connection was refused at this end: gRPC passes that on as text alone.
type meeting struct {
	mu   sync.Mutex
	last error
}

// verifier wraps what judges the peer.
func (m *meeting) verifier(verify func(tls.ConnectionState) error) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		err := verify(cs)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.last = err
		return err
	}
}

// transport wraps what dials: where nobody answers, the refusal of who answered before says nothing any more.
func (m *meeting) transport(dial Transport) Transport {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := dial(ctx, addr)
		if err != nil {
			m.mu.Lock()
			m.last = nil
			m.mu.Unlock()
		}
		return conn, err
	}
}

// explain puts the refusal in the place of a connection that could not be made for it.
func (m *meeting) explain(err error) error {
	if basilica.CodeOf(err) != "PEER_UNREACHABLE" {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var e *basilica.Error
	if errors.As(m.last, &e) {
		return e
	}
	return err
}

// judgeServer checks, at a calling end, whom it met: the refusal of an honest clock names the seconds.
func judgeServer(cs tls.ConnectionState, cas [][]byte, now time.Time, whose string, role func(*x509.Certificate) error) error {
	err := pki.VerifyPeer(cs.PeerCertificates, now, cas...)
	var dates *pki.CertificateTimeError
	switch {
	case errors.As(err, &dates) && dates.Difference < 0:
		return basilica.E(basilica.Unavailable, "CLOCK_SKEW", fmt.Sprintf("this machine's clock is at least %d s behind %s", -seconds(dates.Difference), whose), fixClock+"; nothing else is needed, the connection comes by itself then")
	case errors.As(err, &dates):
		return basilica.E(basilica.Unavailable, "CERTIFICATE_ENDED", fmt.Sprintf("%s certificate ended %d s ago by this machine's clock", whose, seconds(dates.Difference)), "where this clock is right, restart the other end; else "+fixClock)
	case err != nil:
		return basilica.E(basilica.Unavailable, "PEER_FOREIGN", "who answers there is not of this fleet", "check the address; behind it may be another machine").With(err)
	}
	return role(cs.PeerCertificates[0])
}
