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
	"sync"
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
	// replayLife is how long a nonce is remembered: longer than it can be fresh, whatever a clock does meanwhile.
	replayLife = 60 * time.Second
)

// Codes of refused signatures; all of them are HTTP 401.
const (
	codeMalformed = "AUTH_MALFORMED"
	codeReceiver  = "AUTH_RECEIVER"
	codeStale     = "AUTH_STALE"
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
	if age > maxAge || age < -maxAhead {
		side := "behind"
		if age < 0 {
			side = "ahead of"
		}
		seconds := int64(age.Abs().Round(time.Second) / time.Second)
		return basilica.E(basilica.Denied, codeStale, fmt.Sprintf("the request was signed by a clock %d s %s the miner's, or was %d s on its way", seconds, side, seconds), "set the clock by NTP and send the request again")
	}
	return nil
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

// Bounds of MemoryReplays.
const (
	maxNonces  = 4096 // of one hotkey
	maxHotkeys = 4096
)

// MemoryReplays is Replays for one process; it forgets with it, so a request may pass again within its ten seconds after
// a restart.
type MemoryReplays struct {
	now func() time.Time

	mu   sync.Mutex
	seen map[string]map[string]time.Time
}

// NewMemoryReplays makes an empty store.
func NewMemoryReplays(now func() time.Time) *MemoryReplays {
	return &MemoryReplays{now: now, seen: make(map[string]map[string]time.Time)}
}

// Remember implements Replays.
func (m *MemoryReplays) Remember(_ context.Context, hotkey, nonce string, until time.Time) (bool, error) {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	own := m.seen[hotkey]
	if own == nil {
		if len(m.seen) >= maxHotkeys {
			for k := range m.seen {
				m.prune(k, now)
			}
		}
		if len(m.seen) >= maxHotkeys {
			return false, basilica.E(basilica.Exhausted, "REPLAY_STORE_FULL", "too many callers at once", "try again in a minute")
		}
		own = make(map[string]time.Time)
		m.seen[hotkey] = own
	}
	if at, ok := own[nonce]; ok && at.After(now) {
		return false, nil
	}
	if len(own) >= maxNonces {
		m.prune(hotkey, now)
	}
	if len(own) >= maxNonces {
		return false, basilica.E(basilica.Exhausted, "REPLAY_STORE_FULL", "too many requests of this hotkey at once", "try again in a minute")
	}
	own[nonce] = until
	m.seen[hotkey] = own
	return true, nil
}

// prune forgets what has ended; the caller holds mu.
func (m *MemoryReplays) prune(hotkey string, now time.Time) {
	own := m.seen[hotkey]
	for nonce, at := range own {
		if !at.After(now) {
			delete(own, nonce)
		}
	}
	if len(own) == 0 {
		delete(m.seen, hotkey)
	}
}

// isAuth says whether an error is a refused signature.
func isAuth(err error) bool {
	var e *basilica.Error
	return errors.As(err, &e) && e.Kind == basilica.Denied && strings.HasPrefix(e.Code, "AUTH_")
}
