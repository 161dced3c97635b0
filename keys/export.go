package keys

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/nacl/secretbox"
	"golang.org/x/crypto/scrypt"
)

// The export of polkadot.js is JSON whose "encoded" is base64 of salt, N, p, r (u32 little endian), nonce and a secretbox;
// inside is a PKCS #8 head, a secret, a divider and the public key (polkadot-js/common, packages/util-crypto/src/json and
// packages/keyring/src/pair/decode.ts).
const (
	exportSalt  = 32
	exportNonce = 24
	exportHead  = "\x30\x53\x02\x01\x01\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20"
	exportDiv   = "\xa1\x23\x03\x21\x00"
	// What a file may ask of scrypt: 256 MiB (128 N r bytes), and twice the work of polkadot.js's dearest setting
	// (N 131072, p 1, r 8).
	scryptMemory = 256 << 20
	scryptWork   = 1 << 21 // N r p
)

// export is an account that polkadot.js wrote.
type export struct {
	Encoded  string `json:"encoded"`
	Address  string `json:"address"`
	Encoding struct {
		Content words `json:"content"`
		Type    words `json:"type"`
	} `json:"encoding"`
}

// words is one string or a list of them: the first versions wrote one.
type words []string

// UnmarshalJSON implements json.Unmarshaler.
func (w *words) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*w = words{one}
		return nil
	}
	var several []string
	err := json.Unmarshal(data, &several)
	*w = several
	return err
}

func isExport(fields map[string]json.RawMessage) bool {
	return fields["encoded"] != nil && fields["encoding"] != nil
}

// encryptedExport tells whether text is an export that needs a password.
func encryptedExport(text string) bool {
	if !strings.HasPrefix(text, "{") {
		return false
	}
	var fields map[string]json.RawMessage
	var e export
	return json.Unmarshal([]byte(text), &fields) == nil && isExport(fields) && json.Unmarshal([]byte(text), &e) == nil && e.encrypted()
}

func (e export) encrypted() bool { return slices.Contains(e.Encoding.Type, "xsalsa20-poly1305") }

// sealedExport is an export taken apart.
type sealedExport struct {
	scheme  Scheme
	address string
	stretch bool // by scrypt; else the password itself is the key
	salt    []byte
	n, p, r int
	nonce   [exportNonce]byte
	box     []byte
}

func openExport(data, password []byte) (Keyfile, error) {
	s, err := parseExport(data)
	if err != nil {
		return Keyfile{}, err
	}
	var key [32]byte
	copy(key[:], password)
	if s.stretch {
		deriving.Lock()
		defer deriving.Unlock()
		derived, err := scrypt.Key(password, s.salt, s.n, s.r, s.p, len(key))
		if err != nil {
			return Keyfile{}, fmt.Errorf("stretch the export's password: %w", err)
		}
		copy(key[:], derived)
	}
	return s.open(&key)
}

// parseExport reads an encrypted export and refuses one that asks for more of scrypt than is allowed.
func parseExport(data []byte) (sealedExport, error) {
	var e export
	if err := json.Unmarshal(data, &e); err != nil {
		return sealedExport{}, fmt.Errorf("the export is not as polkadot.js writes it: %w", ErrKey)
	}
	s := sealedExport{address: e.Address, stretch: slices.Contains(e.Encoding.Type, "scrypt")}
	var err error
	if s.scheme, err = e.scheme(); err != nil {
		return s, err
	}
	rest, err := e.bytes()
	if err != nil {
		return s, err
	}
	if s.stretch {
		const numbers = 3 * 4
		if len(rest) < exportSalt+numbers {
			return s, ErrKeyfileCut
		}
		s.salt = rest[:exportSalt]
		n, p, r := u32(rest[exportSalt:]), u32(rest[exportSalt+4:]), u32(rest[exportSalt+8:])
		if !scryptAllowed(n, p, r) {
			return s, fmt.Errorf("the export asks scrypt for N %d, p %d, r %d, which is none or more than 256 MiB and 2^21 blocks: %w", n, p, r, ErrKey)
		}
		s.n, s.p, s.r = int(n), int(p), int(r)
		rest = rest[exportSalt+numbers:]
	}
	if len(rest) <= exportNonce+secretbox.Overhead {
		return s, ErrKeyfileCut
	}
	copy(s.nonce[:], rest)
	s.box = rest[exportNonce:]
	return s, nil
}

func u32(b []byte) uint64 { return uint64(binary.LittleEndian.Uint32(b)) }

// scryptAllowed bounds what a file may ask for. The factors are below 2^32, and each product is checked before the next.
func scryptAllowed(n, p, r uint64) bool {
	if n < 2 || n&(n-1) != 0 || p == 0 || r == 0 || n*r > scryptMemory/128 {
		return false
	}
	return p <= scryptWork/(n*r)
}

// scheme is the kind of the account. Accounts of other curves than the chain's are refused.
func (e export) scheme() (Scheme, error) {
	kind := "ed25519" // as the first versions had it, which wrote no kind
	if c := e.Encoding.Content; len(c) > 1 {
		kind = c[1]
	}
	switch {
	case len(e.Encoding.Content) == 0 || e.Encoding.Content[0] != "pkcs8":
		return 0, fmt.Errorf("the export holds no pkcs8 account: %w", ErrKey)
	case kind == Sr25519.String():
		return Sr25519, nil
	case kind == Ed25519.String():
		return Ed25519, nil
	}
	return 0, fmt.Errorf("the export is of a key of kind %.20q, want sr25519 or ed25519: %w", kind, ErrKey)
}

// bytes is what "encoded" holds: base64, or hex in the first versions.
func (e export) bytes() ([]byte, error) {
	if digits, ok := strings.CutPrefix(e.Encoded, "0x"); ok {
		b, err := hex.DecodeString(digits)
		if err != nil {
			return nil, fmt.Errorf("the export is not hex: %w", ErrKey)
		}
		return b, nil
	}
	b, err := base64.StdEncoding.DecodeString(e.Encoded)
	if err != nil {
		return nil, fmt.Errorf("the export is not base64: %w", ErrKey)
	}
	return b, nil
}

func (s sealedExport) open(key *[32]byte) (Keyfile, error) {
	plain, ok := secretbox.Open(nil, s.box, &s.nonce, key)
	if !ok {
		return Keyfile{}, ErrPassword
	}
	return parsePKCS8(plain, s.scheme, s.address)
}

// plainExport reads an export that is not encrypted.
func plainExport(data []byte) (Keyfile, error) {
	var e export
	if err := json.Unmarshal(data, &e); err != nil {
		return Keyfile{}, fmt.Errorf("the export is not as polkadot.js writes it: %w", ErrKey)
	}
	scheme, err := e.scheme()
	if err != nil {
		return Keyfile{}, err
	}
	plain, err := e.bytes()
	if err != nil {
		return Keyfile{}, err
	}
	return parsePKCS8(plain, scheme, e.Address)
}

// parsePKCS8 reads head, secret (64 bytes in ed25519's form, or a seed of 32), divider and public key. The public key, and
// the address where it is one of this chain, must be the secret's.
func parsePKCS8(plain []byte, scheme Scheme, address string) (Keyfile, error) {
	rest, ok := bytes.CutPrefix(plain, []byte(exportHead))
	if !ok {
		return Keyfile{}, fmt.Errorf("the export does not begin as polkadot.js writes it: %w", ErrKey)
	}
	var secret, pub []byte
	for _, size := range []int{64, 32} {
		if len(rest) == size+len(exportDiv)+32 && string(rest[size:size+len(exportDiv)]) == exportDiv {
			secret, pub = rest[:size], rest[size+len(exportDiv):]
		}
	}
	var p *Pair
	var err error
	switch {
	case secret == nil:
		return Keyfile{}, fmt.Errorf("the export has no divider between its keys: %w", ErrKey)
	case len(secret) == 32 || scheme == Ed25519:
		p, err = FromSeed(scheme, secret[:32])
	default:
		p, err = fromEd25519Form(secret)
	}
	if err != nil {
		return Keyfile{}, fmt.Errorf("the export's secret: %w", err)
	}
	k := Keyfile{PublicKey: p.PublicKey(), Scheme: scheme, Pair: p}
	if !bytes.Equal(pub, k.PublicKey[:]) {
		return Keyfile{}, fmt.Errorf("the export's public key is not its secret's: %w", ErrKey)
	}
	if at, err := DecodeSS58(address); err == nil && at != k.PublicKey {
		return Keyfile{}, fmt.Errorf("the export's address is not its secret's: %w", ErrKey)
	}
	return k, nil
}

// fromEd25519Form makes the pair of an sr25519 secret as polkadot.js stores it: the scalar times 8 (little endian), the nonce.
func fromEd25519Form(secret []byte) (*Pair, error) {
	canonical := bytes.Clone(secret)
	low := byte(0)
	for i := 31; i >= 0; i-- {
		canonical[i], low = secret[i]>>3|low<<5, secret[i]&7
	}
	if low != 0 {
		return nil, fmt.Errorf("not a multiple of 8: %w", ErrKey)
	}
	return FromExpanded(canonical)
}
