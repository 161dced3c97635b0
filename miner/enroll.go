package miner

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/pki"
)

// Enrollments keeps join tokens and who used them.
type Enrollments interface {
	AddToken(ctx context.Context, t basilica.TokenRecord) error
	Token(ctx context.Context, hash basilica.Digest) (basilica.TokenRecord, error)
	Tokens(ctx context.Context) ([]basilica.TokenRecord, error)
	RevokeToken(ctx context.Context, id string, now time.Time) error
	RevokeTokens(ctx context.Context, now time.Time) (int, error)
	MemberByKey(ctx context.Context, spki []byte) (basilica.Member, bool, error)
	// Enroll spends the token and records the executor in one transaction.
	Enroll(ctx context.Context, token basilica.Digest, e basilica.Member) error
}

const (
	defaultTokenTTL = time.Hour
	maxTokenTTL     = 24 * time.Hour
	dialBackTimeout = 10 * time.Second
	maxHostKey      = 1 << 10 // bytes
	maxFactsGPUs    = 64
)

// CreateToken makes a join token that works once within ttl (0: one hour; at most a day), for the executor id name or,
// where that is empty, for any. The text is shown once; only its hash is kept.
func (m *Miner) CreateToken(ctx context.Context, name basilica.ExecutorID, ttl time.Duration) (text string, t basilica.TokenRecord, err error) {
	if name != "" && !pki.ValidExecutorID(string(name)) {
		return "", t, badName(name)
	}
	ttl = cmp.Or(ttl, defaultTokenTTL)
	if ttl < 0 || ttl > maxTokenTTL {
		return "", t, basilica.E(basilica.Invalid, "TOKEN_TTL", fmt.Sprintf("a join token cannot live for %s", ttl), fmt.Sprintf("choose at most %s", maxTokenTTL))
	}
	m.joining.RLock()
	defer m.joining.RUnlock()
	text, hash, err := pki.NewJoinToken(m.cfg.FleetAddr, m.Authority.CACert())
	if err != nil {
		return "", t, err
	}
	t = basilica.TokenRecord{Hash: hash, Name: name, Created: m.Now(), Expires: m.Now().Add(ttl)}
	t.ID = t.Hash.String()[:12]
	if err := m.Store.AddToken(ctx, t); err != nil {
		return "", t, fmt.Errorf("record join token: %w", err)
	}
	return text, t, nil
}

// Tokens lists the latest join tokens.
func (m *Miner) Tokens(ctx context.Context) ([]basilica.TokenRecord, error) {
	return m.Store.Tokens(ctx)
}

// RevokeToken ends an unused join token by its id.
func (m *Miner) RevokeToken(ctx context.Context, id string) error {
	return m.Store.RevokeToken(ctx, id, m.Now())
}

func badName(name basilica.ExecutorID) error {
	return basilica.E(basilica.Invalid, "EXECUTOR_NAME", fmt.Sprintf("%.80q is no executor id", name), "use 1 to 63 lower-case letters, digits and hyphens, a letter or digit first and last")
}

// Enroll implements basilica.Fleet.
func (m *Miner) Enroll(ctx context.Context, req basilica.EnrollRequest) (basilica.Enrollment, error) {
	token, err := pki.ParseJoinToken(req.Token)
	if err != nil {
		return basilica.Enrollment{}, basilica.E(basilica.Denied, "TOKEN_UNKNOWN", "that is not a join token of this miner", "make one on the miner: basilica token create").With(err)
	}
	hash := basilica.Digest(pki.HashSecret(token.Secret))
	record, err := m.Store.Token(ctx, hash)
	if err != nil {
		return basilica.Enrollment{}, err
	}
	if req.Miner != "" && req.Miner != m.self {
		return basilica.Enrollment{}, basilica.E(basilica.Conflict, "ALREADY_JOINED", fmt.Sprintf("the machine is an executor of miner %.64s, and this is miner %s", basilica.OneLine(string(req.Miner)), m.self),
			"start it with basilica executor, or join with another data directory")
	}
	spki, err := checkEnroll(req)
	if err != nil {
		return basilica.Enrollment{}, err
	}
	if err := m.dialBack(ctx, req.Addr, spki); err != nil {
		return basilica.Enrollment{}, err
	}
	id, err := m.chooseID(ctx, record, req.Name, spki)
	if err != nil {
		return basilica.Enrollment{}, err
	}
	m.joining.RLock()
	defer m.joining.RUnlock()
	// Before the certificate: what names a new authority beside an older one's certificate would not be renewed.
	trust := m.trust()
	member, err := m.admit(id, req, spki)
	if err != nil {
		return basilica.Enrollment{}, err
	}
	if err := m.Store.Enroll(ctx, hash, member); err != nil {
		return basilica.Enrollment{}, err
	}
	m.Log.InfoContext(ctx, "executor enrolled", "executor", id, "addr", req.Addr, "gpus", len(req.Facts.GPUs))
	return basilica.Enrollment{
		Executor: id, Miner: m.self, Certificate: member.Certificate, Trust: trust, Endorsement: member.Endorsement,
	}, nil
}

// checkEnroll checks what does not need the network and gives the CSR's key.
func checkEnroll(req basilica.EnrollRequest) (spki []byte, err error) {
	bad := func(what string, err error) error {
		return basilica.E(basilica.Invalid, "ENROLL_INVALID", "the enrolment is not valid: "+what, "use the same version of basilica on both machines").With(err)
	}
	if spki, err = pki.CSRKey(req.CSR); err != nil {
		return nil, bad("its certificate request", err)
	}
	if _, err := keys.ParseP256SPKI(req.AttestSPKI); err != nil {
		return nil, bad("its attestation key", err)
	}
	if len(req.HostKey) == 0 || len(req.HostKey) > maxHostKey {
		return nil, bad(fmt.Sprintf("a host key of %d bytes", len(req.HostKey)), nil)
	}
	for _, addr := range []string{req.Addr, req.SSHAddr} {
		host, port, err := net.SplitHostPort(addr)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" || len(host) > 255 {
			return nil, basilica.E(basilica.Invalid, "ENROLL_ADDRESS", fmt.Sprintf("%.80q is not host:port as others reach it", addr), "set the advertised addresses of [executor]")
		}
	}
	if len(req.Facts.GPUs) > maxFactsGPUs {
		return nil, bad(fmt.Sprintf("more than %d GPUs", maxFactsGPUs), nil)
	}
	return spki, nil
}

// dialBack meets the machine at the address that it named and compares its key with the one that asks for a certificate.
func (m *Miner) dialBack(ctx context.Context, addr string, spki []byte) error {
	ctx, cancel := context.WithTimeout(ctx, dialBackTimeout)
	defer cancel()
	met, err := m.PeerKey(ctx, addr)
	if err != nil {
		if code := basilica.CodeOf(err); code != "" && code != "DIAL_BACK" {
			return err
		}
		_, port, _ := net.SplitHostPort(addr)
		return basilica.E(basilica.Unavailable, "DIAL_BACK", fmt.Sprintf("the miner cannot reach the executor at %s", addr),
			fmt.Sprintf("open TCP port %s of that machine to the miner, or set the address under which the miner reaches it; then join again with the same token", port)).With(err)
	}
	if !bytes.Equal(met, spki) {
		return basilica.E(basilica.Denied, "DIAL_BACK_KEY", fmt.Sprintf("another machine answers at %s", addr), "give the address of this machine as the miner reaches it")
	}
	return nil
}

// chooseID takes the token's name, the wished one, the one that the key has already, or makes one.
func (m *Miner) chooseID(ctx context.Context, token basilica.TokenRecord, wished string, spki []byte) (basilica.ExecutorID, error) {
	id := basilica.ExecutorID(wished)
	if token.Name != "" {
		if id != "" && id != token.Name {
			return "", basilica.E(basilica.Denied, "TOKEN_NAME", fmt.Sprintf("this join token is for %s, not for %.64s", token.Name, id), "join under that name, or without one")
		}
		id = token.Name
	}
	if id == "" {
		known, ok, err := m.Store.MemberByKey(ctx, spki)
		if err != nil {
			return "", err
		}
		if ok {
			return known.Executor, nil
		}
		id = basilica.ExecutorID("executor-" + randomName())
	}
	if !pki.ValidExecutorID(string(id)) {
		return "", badName(id)
	}
	return id, nil
}

// admit issues certificate and endorsement.
func (m *Miner) admit(id basilica.ExecutorID, req basilica.EnrollRequest, spki []byte) (basilica.Member, error) {
	now := m.Now()
	cert, err := m.Authority.IssueExecutor(req.CSR, string(id), now)
	if err != nil {
		return basilica.Member{}, fmt.Errorf("issue certificate: %w", err)
	}
	endorsement, err := basilica.Endorse(basilica.Endorsement{Executor: id, KeySPKI: spki, AttestSPKI: req.AttestSPKI, HostKey: req.HostKey, Issued: now.UTC()}, m.Hotkey)
	if err != nil {
		return basilica.Member{}, err
	}
	return basilica.Member{
		Executor: id, Addr: req.Addr, SSHAddr: req.SSHAddr, HostKey: req.HostKey, KeySPKI: spki,
		Certificate: cert, Endorsement: endorsement, Facts: req.Facts, Enrolled: now,
	}, nil
}

// randomName is 13 lower-case letters and digits, 65 bits.
func randomName() string {
	text := []byte(rand.Text()[:13])
	return string(bytes.ToLower(text))
}

// isCode says whether an error carries one of the codes.
func isCode(err error, codes ...string) bool {
	var e *basilica.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e.Code == c {
			return true
		}
	}
	return false
}
