// Package axon is a miner's public HTTPS door, both ends: routes, request signatures (btauth/1), pinned keys and limits.
// It refuses to know what a validation or a task is; it hands each call to a basilica.Miner with the hotkey that signed.
package axon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"basilica"
	"basilica/keys"
)

// btauth/1, as bittensor SDK 11 speaks it: these headers, and a signature over eight lines.
const (
	headerVersion   = "X-Bittensor-Version"
	headerHotkey    = "X-Bittensor-Hotkey"
	headerReceiver  = "X-Bittensor-Receiver"
	headerNonce     = "X-Bittensor-Nonce"
	headerCrypto    = "X-Bittensor-Crypto"
	headerSignature = "X-Bittensor-Signature"

	authVersion = "1"
	maxAge      = 10 * time.Second
	maxAhead    = 2 * time.Second
	maxDrift    = 24 * time.Hour // beyond it no clock went wrong: it was never set, or the nonce is no time in nanoseconds
	// replayLife is how long a nonce is remembered: longer than it can be fresh, whatever a clock does meanwhile.
	replayLife = 60 * time.Second
)

// Codes of refused signatures; all of them are HTTP 401.
const (
	codeMalformed = "AUTH_MALFORMED"
	codeReceiver  = "AUTH_RECEIVER"
	codeStale     = "AUTH_STALE"
	codeUnset     = "AUTH_CLOCK_UNSET"
	codeSignature = "AUTH_SIGNATURE"
	codeReplayed  = "AUTH_REPLAYED"
)

// auth is what a request's headers claim.
type auth struct {
	hotkey    basilica.Hotkey
	public    [32]byte
	scheme    keys.Scheme
	receiver  string // "" where none was named
	nonce     string // unix nanoseconds, decimal
	signature []byte
}

func malformed(what string) error {
	return basilica.E(basilica.Denied, codeMalformed, "the request's signature headers are malformed: "+what, "sign the request as btauth/1 says")
}

// parseAuth reads the headers' shape and nothing more. A header that stands twice is refused: two readers could take
// different ones.
func parseAuth(h http.Header) (auth, error) {
	one := make(map[string]string, 6)
	for _, name := range [...]string{headerVersion, headerHotkey, headerReceiver, headerNonce, headerCrypto, headerSignature} {
		switch v := h.Values(name); len(v) {
		case 0:
		case 1:
			one[name] = v[0]
		default:
			return auth{}, malformed(name + " stands more than once")
		}
	}
	if one[headerVersion] != authVersion {
		return auth{}, malformed(fmt.Sprintf("version %.20q, want 1", one[headerVersion]))
	}
	a := auth{hotkey: basilica.Hotkey(one[headerHotkey]), receiver: one[headerReceiver], nonce: one[headerNonce]}
	switch strings.ToLower(strings.TrimSpace(one[headerCrypto])) {
	case "", "sr25519", "1":
		a.scheme = keys.Sr25519
	case "ed25519", "0":
		a.scheme = keys.Ed25519
	default:
		return auth{}, malformed(fmt.Sprintf("scheme %.20q is unknown", one[headerCrypto]))
	}
	if n, err := strconv.ParseInt(a.nonce, 10, 64); err != nil || n <= 0 || strconv.FormatInt(n, 10) != a.nonce {
		return auth{}, malformed("the nonce is not a time in decimal nanoseconds")
	}
	var err error
	if a.public, err = keys.DecodeSS58(string(a.hotkey)); err != nil {
		return auth{}, malformed("the hotkey is not an SS58 address")
	}
	if a.signature, err = keys.ParseSignature(one[headerSignature]); err != nil {
		return auth{}, malformed("the signature is not 64 bytes in hex")
	}
	return a, nil
}

// check judges all that does not need the body: receiver, then freshness at now, the time when the headers were in.
func (a auth) check(receiver basilica.Hotkey, now time.Time) error {
	if a.receiver != string(receiver) {
		return basilica.E(basilica.Denied, codeReceiver, "the request is not signed for this miner", "sign it for hotkey "+string(receiver))
	}
	made, err := strconv.ParseInt(a.nonce, 10, 64)
	if err != nil {
		return malformed("the nonce is not a time in decimal nanoseconds")
	}
	age := now.Sub(time.Unix(0, made))
	switch {
	case age.Abs() > maxDrift:
		return basilica.E(basilica.Denied, codeUnset, fmt.Sprintf("the request was signed at a time that lies %s of the miner's clock (offset %s): check that the clock is set", apart(age), offset(age)),
			"set the caller's clock by NTP, e.g. `timedatectl set-ntp true`; a nonce is nanoseconds since 1970")
	case age > maxAge:
		return basilica.E(basilica.Denied, codeStale, fmt.Sprintf("the request was signed at a time %s the miner's clock (offset %s); %s is the most", apart(age), offset(age), maxAge),
			"set the caller's clock forward by NTP, or send the request faster; where it shows the right time, tell the miner that its clock is ahead")
	case age < -maxAhead:
		return basilica.E(basilica.Denied, codeStale, fmt.Sprintf("the request was signed at a time %s of the miner's clock (offset %s); %s is the most", apart(age), offset(age), maxAhead),
			"set the caller's clock back by NTP; where it shows the right time, tell the miner that its clock is behind")
	}
	return nil
}

// apart says how far the caller's clock lies from ours: seconds and the side; age is ours less the caller's.
func apart(age time.Duration) string {
	side := "behind"
	if age < 0 {
		side = "ahead"
	}
	return seconds(age.Abs()) + " s " + side
}

// offset is the caller's clock less ours, signed.
func offset(age time.Duration) string {
	if age < 0 {
		return "+" + seconds(age.Abs()) + " s"
	}
	return "-" + seconds(age.Abs()) + " s"
}

// seconds gives at most three decimals, rounded up: what lies a little outside of a bound must not read like the bound.
func seconds(d time.Duration) string {
	ms := int64(d / time.Millisecond)
	if d%time.Millisecond != 0 {
		ms++
	}
	return strconv.FormatFloat(float64(ms)/1000, 'f', -1, 64)
}

// verify checks the signature under the declared scheme only, over the raw message.
func (a auth) verify(method, target string, body [32]byte) error {
	if !keys.Verify(a.scheme, a.public, message(a.scheme, method, target, body, a.nonce, string(a.hotkey), a.receiver), a.signature) {
		return basilica.E(basilica.Denied, codeSignature, "the signature does not fit the request and its hotkey", "sign method, target and body exactly as they are sent")
	}
	return nil
}

// message is the eight lines that are signed.
func message(scheme keys.Scheme, method, target string, body [32]byte, nonce, sender, receiver string) []byte {
	if receiver == "" {
		receiver = "-"
	}
	return []byte(strings.Join([]string{
		"btauth/" + authVersion, scheme.String(), strings.ToUpper(method), target, hex.EncodeToString(body[:]), nonce, sender, receiver,
	}, "\n"))
}

// sign puts a signature on an outgoing request.
func sign(h http.Header, signer keys.Signer, method, target string, body [32]byte, nonce int64, receiver basilica.Hotkey) error {
	text := strconv.FormatInt(nonce, 10)
	sig, err := signer.Sign(message(signer.Scheme(), method, target, body, text, signer.SS58(), string(receiver)))
	if err != nil {
		return fmt.Errorf("sign request: %w", err)
	}
	h.Set(headerVersion, authVersion)
	h.Set(headerHotkey, signer.SS58())
	h.Set(headerReceiver, string(receiver))
	h.Set(headerNonce, text)
	if signer.Scheme() != keys.Sr25519 {
		h.Set(headerCrypto, signer.Scheme().String())
	}
	h.Set(headerSignature, "0x"+hex.EncodeToString(sig))
	return nil
}

var emptyBody = sha256.Sum256(nil)

// Replays remembers nonces. Replicas of one miner share one.
type Replays interface {
	// Remember records (hotkey, nonce) until a time and says whether it was new. Where a hotkey has too many on record the
	// error is Exhausted.
	Remember(ctx context.Context, hotkey, nonce string, until time.Time) (fresh bool, err error)
}

// isAuth says whether an error is a refused signature.
func isAuth(err error) bool {
	var e *basilica.Error
	return errors.As(err, &e) && e.Kind == basilica.Denied && strings.HasPrefix(e.Code, "AUTH_")
}
