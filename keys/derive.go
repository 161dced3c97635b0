package keys

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
	"github.com/oasisprotocol/curve25519-voi/primitives/merlin"
	"github.com/oasisprotocol/curve25519-voi/primitives/sr25519"
	"github.com/tyler-smith/go-bip39"
	"golang.org/x/crypto/blake2b"
)

// DevPhrase is the well-known development mnemonic. A secret URI without a
// phrase starts from it; whatever it guards is public.
const DevPhrase = "bottom drive obey lake curtain smoke basket hold race lonely fit walk"

// NewMnemonic makes a random English mnemonic of 12, 15, 18, 21 or 24 words.
func NewMnemonic(words int) (string, error) {
	if words < 12 || words > 24 || words%3 != 0 {
		return "", fmt.Errorf("%d words, want 12, 15, 18, 21 or 24: %w", words, ErrKey)
	}
	entropy := make([]byte, words/3*4)
	if _, err := io.ReadFull(rand.Reader, entropy); err != nil {
		return "", fmt.Errorf("read randomness: %w", err)
	}
	return bip39.NewMnemonic(entropy)
}

// SeedFromMnemonic is the 32-byte mini secret of a mnemonic by substrate-bip39:
// PBKDF2 over the entropy bytes, not over the sentence as BIP-39 has it.
func SeedFromMnemonic(mnemonic, password string) ([]byte, error) {
	words := strings.Fields(mnemonic)
	if len(words) < 12 || len(words) > 24 || len(words)%3 != 0 {
		return nil, fmt.Errorf("mnemonic of %d words, want 12, 15, 18, 21 or 24: %w", len(words), ErrKey)
	}
	entropy, err := bip39.EntropyFromMnemonic(strings.Join(words, " "))
	if err != nil {
		return nil, fmt.Errorf("mnemonic has an unknown word or a wrong checksum: %w", ErrKey)
	}
	seed, err := pbkdf2.Key(sha512.New, string(entropy), []byte("mnemonic"+password), 2048, 64)
	if err != nil {
		return nil, fmt.Errorf("stretch mnemonic: %w", err)
	}
	return seed[:32], nil
}

// FromMnemonic makes the pair of a mnemonic and an optional password.
func FromMnemonic(scheme Scheme, mnemonic, password string) (*Pair, error) {
	seed, err := SeedFromMnemonic(mnemonic, password)
	if err != nil {
		return nil, err
	}
	return FromSeed(scheme, seed)
}

// FromURI makes the pair of a secret URI: a mnemonic or a 0x seed of 32 bytes
// (the development phrase where neither is given), then junctions //hard and
// /soft, then an optional ///password. ed25519 knows hard junctions only.
func FromURI(scheme Scheme, uri string) (*Pair, error) {
	rest, password, _ := strings.Cut(uri, "///")
	phrase, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		phrase, path = rest[:i], rest[i:]
	}
	phrase = strings.TrimSpace(phrase)
	p, err := rootPair(scheme, phrase, password)
	if err != nil {
		return nil, err
	}
	for path != "" {
		path = path[1:]
		hard := strings.HasPrefix(path, "/")
		if hard {
			path = path[1:]
		}
		name := path
		if i := strings.IndexByte(path, '/'); i >= 0 {
			name, path = path[:i], path[i:]
		} else {
			path = ""
		}
		if name == "" {
			return nil, fmt.Errorf("secret URI has an empty junction: %w", ErrKey)
		}
		if p, err = p.derive(chainCode(name), hard); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func rootPair(scheme Scheme, phrase, password string) (*Pair, error) {
	if phrase == "" {
		phrase = DevPhrase
	}
	if digits, ok := strings.CutPrefix(phrase, "0x"); ok {
		seed, err := hex.DecodeString(digits)
		if err != nil || len(seed) != 32 {
			return nil, fmt.Errorf("secret URI's seed is not 32 bytes of hex: %w", ErrKey)
		}
		return FromSeed(scheme, seed)
	}
	return FromMnemonic(scheme, phrase, password)
}

// chainCode is a junction's 32 bytes: SCALE of the number (u64) or of the
// string, padded with zeros, hashed when longer.
func chainCode(name string) [32]byte {
	var cc [32]byte
	if n, err := strconv.ParseUint(name, 10, 64); err == nil {
		binary.LittleEndian.PutUint64(cc[:], n)
		return cc
	}
	b := scaleString(name)
	if len(b) > 32 {
		return blake2b.Sum256(b)
	}
	copy(cc[:], b)
	return cc
}

// scaleString is a compact length and the bytes. keys and scale stand on one
// floor and so do not import each other.
func scaleString(s string) []byte {
	n := len(s)
	switch {
	case n < 1<<6:
		return append([]byte{byte(n << 2)}, s...)
	case n < 1<<14:
		return append(binary.LittleEndian.AppendUint16(nil, uint16(n<<2|1)), s...)
	}
	return append(binary.LittleEndian.AppendUint32(nil, uint32(n<<2|2)), s...)
}

func (p *Pair) derive(cc [32]byte, hard bool) (*Pair, error) {
	switch {
	case p.scheme == Ed25519 && !hard:
		return nil, fmt.Errorf("ed25519 has no soft junctions: %w", ErrKey)
	case p.scheme == Ed25519:
		msg := append(scaleString("Ed25519HDKD"), p.seed...)
		seed := blake2b.Sum256(append(msg, cc[:]...))
		return FromSeed(Ed25519, seed[:])
	case hard:
		return p.deriveHard(cc)
	}
	return p.deriveSoft(cc)
}

// deriveHard is schnorrkel's HardDeriveMiniSecretKey with an empty index.
func (p *Pair) deriveHard(cc [32]byte) (*Pair, error) {
	t := hdkdTranscript(cc)
	t.AppendMessage("secret-key", p.expanded()[:32])
	var mini [32]byte
	t.ExtractBytes(mini[:], "HDKD-hard")
	return FromSeed(Sr25519, mini[:])
}

// deriveSoft is schnorrkel's derived_key_simple: the scalar moves by one that
// the public key fixes. Schnorrkel draws the new nonce at random; here it is a
// hash of the old nonce and the chain code, so that one URI is one secret.
func (p *Pair) deriveSoft(cc [32]byte) (*Pair, error) {
	t := hdkdTranscript(cc)
	t.AppendMessage("public-key", p.pub[:])
	var wide [64]byte
	t.ExtractBytes(wide[:], "HDKD-scalar")
	move, err := scalar.NewFromBytesModOrderWide(wide[:])
	if err != nil {
		return nil, fmt.Errorf("soft junction: %w", ErrKey)
	}
	old := p.expanded()
	key, err := scalar.NewFromCanonicalBytes(old[:32])
	if err != nil {
		return nil, fmt.Errorf("soft junction: %w", ErrKey)
	}
	secret := make([]byte, 32, 64)
	if err := key.Add(key, move).ToBytes(secret); err != nil {
		return nil, fmt.Errorf("soft junction: %w", ErrKey)
	}
	nonce := blake2b.Sum256(append(append([]byte("basilica soft nonce"), old[32:]...), cc[:]...))
	sk, err := sr25519.NewSecretKeyFromBytes(append(secret, nonce[:]...))
	if err != nil {
		return nil, fmt.Errorf("soft junction: %w", ErrKey)
	}
	return fromSecret(sk, nil)
}

func hdkdTranscript(cc [32]byte) *merlin.Transcript {
	t := merlin.NewTranscript("SchnorrRistrettoHDKD")
	t.AppendMessage("sign-bytes", nil)
	t.AppendMessage("chain-code", cc[:])
	return t
}
