package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

const (
	joinPrefix  = "basj1."
	maxJoinAddr = 260
)

// ErrJoinToken says that a text is not a join token.
var ErrJoinToken = errors.New("not a join token")

// JoinToken lets one machine join one miner's fleet once. How long it lasts is the store's to say.
type JoinToken struct {
	Addr   string   // host:port of the miner's fleet door
	CAHash [32]byte // SHA-256 of the fleet CA's DER: what the joining machine will meet there
	Secret [32]byte
}

// String shows the address only, so that a token never leaks into a log.
func (t JoinToken) String() string { return "join token for " + t.Addr }

// GoString shows the address only.
func (t JoinToken) GoString() string { return t.String() }

// Matches compares the hash of the token's secret with a stored one in constant time.
func (t JoinToken) Matches(hash [32]byte) bool {
	own := HashSecret(t.Secret)
	return subtle.ConstantTimeCompare(own[:], hash[:]) == 1
}

// NewJoinToken makes a token for the fleet door at addr (host:port). The text is `basj1.` and unpadded base64url of CA
// hash, secret and address; hash is what a store keeps of it.
func NewJoinToken(addr string, caDER []byte) (text string, hash [32]byte, err error) {
	if err := checkAddr(addr); err != nil {
		return "", hash, err
	}
	t := JoinToken{Addr: addr, CAHash: CAHash(caDER)}
	if _, err := io.ReadFull(rand.Reader, t.Secret[:]); err != nil {
		return "", hash, fmt.Errorf("make join token: %w", err)
	}
	packed := append(append(append([]byte(nil), t.CAHash[:]...), t.Secret[:]...), addr...)
	return joinPrefix + base64.RawURLEncoding.EncodeToString(packed), HashSecret(t.Secret), nil
}

// ParseJoinToken reads a token's text; white space around it is ignored. Everything else is ErrJoinToken.
func ParseJoinToken(text string) (JoinToken, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), joinPrefix)
	if !ok {
		return JoinToken{}, fmt.Errorf("%w: it does not begin with %s", ErrJoinToken, joinPrefix)
	}
	if len(rest) > base64.RawURLEncoding.EncodedLen(64+maxJoinAddr) {
		return JoinToken{}, fmt.Errorf("%w: it is too long", ErrJoinToken)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil || len(raw) <= 64 {
		return JoinToken{}, fmt.Errorf("%w: it is cut off or changed", ErrJoinToken)
	}
	t := JoinToken{Addr: string(raw[64:])}
	copy(t.CAHash[:], raw[:32])
	copy(t.Secret[:], raw[32:64])
	if err := checkAddr(t.Addr); err != nil {
		return JoinToken{}, err
	}
	return t, nil
}

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || len(addr) > maxJoinAddr || host == "" {
		return fmt.Errorf("%w: its address %.80q is not host:port", ErrJoinToken, addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%w: its address %.80q has no usable port", ErrJoinToken, addr)
	}
	for _, r := range host {
		if r <= 0x20 || r >= 0x7f {
			return fmt.Errorf("%w: its address %.80q has a character that no host name has", ErrJoinToken, addr)
		}
	}
	return nil
}

// HashSecret is what a store keeps of a secret: SHA-256 under a label of its own.
func HashSecret(secret [32]byte) [32]byte {
	return sha256.Sum256(append([]byte("basilica join secret\x00"), secret[:]...))
}
