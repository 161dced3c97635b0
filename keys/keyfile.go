package keys

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxKeyfile bounds what is read from a key file, in bytes.
const maxKeyfile = 64 << 10

// ErrEncrypted is returned for an encrypted key file where nobody gives a password.
var ErrEncrypted = errors.New("key file is encrypted")

// Keyfile is the content of one Bittensor key file. Pair is nil when the file
// holds a public key only.
type Keyfile struct {
	PublicKey [32]byte
	Scheme    Scheme
	Pair      *Pair
	Mnemonic  string // empty where the file has none
}

// SS58 is the address of the file's key.
func (k Keyfile) SS58() string { return EncodeSS58(k.PublicKey) }

// ParseKeyfile reads the content of a key file: the JSON of btwallet in every combination of fields, an export of polkadot.js
// that is not encrypted, or a bare seed, private key or mnemonic. Secrets win in the order secretPhrase, secretSeed,
// privateKey. Every public key in the file must be the one that the secret gives, which catches a private key in
// polkadot.js's form. Encrypted content is ErrEncrypted, JSON that stops short ErrKeyfileCut, all else ErrKey.
func ParseKeyfile(data []byte) (Keyfile, error) {
	if EncryptionOf(data) != None {
		return Keyfile{}, ErrEncrypted
	}
	text := strings.TrimSpace(string(data))
	if text == "" {
		return Keyfile{}, ErrKeyfileCut
	}
	if !strings.HasPrefix(text, "{") {
		return parseBare(Sr25519, text)
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		var bad *json.SyntaxError
		if errors.As(err, &bad) && bad.Offset == int64(len(text)) && bad.Error() == "unexpected end of JSON input" {
			return Keyfile{}, ErrKeyfileCut
		}
		return Keyfile{}, fmt.Errorf("key file is not JSON: %w", ErrKey)
	}
	if isExport(raw) {
		return plainExport([]byte(text))
	}
	fields := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(raw)) { // a name with a space before it comes first, and yields to the one without
		name, value := strings.TrimSpace(key), raw[key]
		var s string
		if json.Unmarshal(value, &s) == nil && s != "" {
			fields[name] = s
		}
		if n := json.Number(""); name == "cryptoType" && json.Unmarshal(value, &n) == nil && n != "" {
			fields[name] = n.String()
		}
	}
	return fromFields(fields)
}

// schemeOf reads a cryptoType, which wallets wrote as a number and as a word. Without one the key is sr25519.
func schemeOf(cryptoType string) (Scheme, error) {
	for _, s := range []Scheme{Ed25519, Sr25519} {
		if cryptoType == fmt.Sprint(uint8(s)) || strings.EqualFold(cryptoType, s.String()) {
			return s, nil
		}
	}
	if cryptoType == "" {
		return Sr25519, nil
	}
	return 0, fmt.Errorf("key file's cryptoType %.20q is neither sr25519 nor ed25519: %w", cryptoType, ErrKey)
}

func fromFields(fields map[string]string) (Keyfile, error) {
	scheme, err := schemeOf(fields["cryptoType"])
	if err != nil {
		return Keyfile{}, err
	}
	k := Keyfile{Scheme: scheme}
	source := ""
	switch {
	case fields["secretPhrase"] != "":
		source = "secretPhrase"
		k.Mnemonic = fields[source]
		k.Pair, err = FromMnemonic(scheme, k.Mnemonic, "")
	case fields["secretSeed"] != "":
		source = "secretSeed"
		k.Pair, err = fromHexSeed(scheme, fields[source])
	case fields["privateKey"] != "":
		source = "privateKey"
		k.Pair, err = fromHexPrivate(scheme, fields[source])
	}
	if err != nil {
		return Keyfile{}, fmt.Errorf("key file's %s: %w", source, err)
	}
	if k.Pair != nil {
		k.PublicKey = k.Pair.PublicKey()
	}
	return k, checkPublic(fields, &k, source)
}

// checkPublic compares every public field with the derived key; without a
// secret the first public field becomes the key.
func checkPublic(fields map[string]string, k *Keyfile, source string) error {
	known := k.Pair != nil
	for _, name := range []string{"publicKey", "accountId", "ss58Address"} {
		text := fields[name]
		if text == "" {
			continue
		}
		var pub [32]byte
		var err error
		if name == "ss58Address" {
			if pub, err = DecodeSS58(text); err != nil {
				return fmt.Errorf("key file's ss58Address: %w", err)
			}
		} else {
			b, err := hexBytes(text, 32)
			if err != nil {
				return fmt.Errorf("key file's %s: %w", name, err)
			}
			copy(pub[:], b)
		}
		if known && pub != k.PublicKey {
			if source == "" {
				return fmt.Errorf("key file's public fields do not agree: %w", ErrKey)
			}
			return fmt.Errorf("public key derived from %s does not match %s: %w", source, name, ErrKey)
		}
		k.PublicKey, known = pub, true
	}
	if !known {
		return fmt.Errorf("key file holds no key: %w", ErrKey)
	}
	return nil
}

func parseBare(scheme Scheme, text string) (Keyfile, error) {
	digits := trimHex(text)
	k := Keyfile{Scheme: scheme}
	var err error
	switch {
	case len(strings.Fields(text)) > 1:
		k.Mnemonic = strings.Join(strings.Fields(text), " ")
		k.Pair, err = FromMnemonic(scheme, text, "")
	case len(digits) == 64:
		k.Pair, err = fromHexSeed(scheme, text)
	case len(digits) == 128:
		k.Pair, err = fromHexPrivate(scheme, text)
	default:
		err = fmt.Errorf("neither a seed, a private key nor a mnemonic: %w", ErrKey)
	}
	if err != nil {
		return Keyfile{}, err
	}
	k.PublicKey = k.Pair.PublicKey()
	return k, nil
}

// ParseSecret reads what a person has of a key: a mnemonic, a seed or private key in hex, or a secret URI of FromURI that
// begins with one of these. Junctions alone are refused: they would start from the development phrase, which everybody knows,
// and a path of a file looks like them. The mnemonic is given back where it alone makes the key.
func ParseSecret(scheme Scheme, text string) (*Pair, string, error) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "/") {
		return nil, "", fmt.Errorf("no mnemonic or seed stands before the first /: %w", ErrKey)
	}
	if strings.Contains(text, "/") {
		p, err := FromURI(scheme, text)
		return p, "", err
	}
	k, err := parseBare(scheme, text)
	return k.Pair, k.Mnemonic, err
}

func fromHexSeed(scheme Scheme, text string) (*Pair, error) {
	seed, err := hexBytes(text, 32)
	if err != nil {
		return nil, err
	}
	return FromSeed(scheme, seed)
}

// fromHexPrivate reads a privateKey: 64 bytes of sr25519; of ed25519 the seed, with or without the public key behind it.
func fromHexPrivate(scheme Scheme, text string) (*Pair, error) {
	if scheme == Ed25519 && len(trimHex(text)) == 64 {
		return fromHexSeed(scheme, text)
	}
	b, err := hexBytes(text, 64)
	if err != nil {
		return nil, err
	}
	if scheme == Ed25519 {
		return FromSeed(Ed25519, b[:32])
	}
	return FromExpanded(b)
}

// trimHex drops any number of leading 0x, as btwallet 4.0 does.
func trimHex(text string) string {
	for strings.HasPrefix(text, "0x") {
		text = text[2:]
	}
	return text
}

func hexBytes(text string, size int) ([]byte, error) {
	b, err := hex.DecodeString(trimHex(text))
	if err != nil || len(b) != size {
		return nil, fmt.Errorf("not %d bytes of hex: %w", size, ErrKey)
	}
	return b, nil
}

// keyfileJSON is what is written. cryptoType is left out for sr25519: btwallet
// 4.0 fails on a number there.
type keyfileJSON struct {
	AccountID    string `json:"accountId"`
	PublicKey    string `json:"publicKey"`
	PrivateKey   string `json:"privateKey,omitempty"`
	SecretPhrase string `json:"secretPhrase,omitempty"`
	SecretSeed   string `json:"secretSeed,omitempty"`
	SS58Address  string `json:"ss58Address"`
	CryptoType   *int   `json:"cryptoType,omitempty"`
}

// WriteKeyfile writes a secret key file, mode 0600, encrypted where seal is not nil (FileKey.Seal). A file that is
// already there is never replaced (fs.ErrExist). The mnemonic may be empty.
func WriteKeyfile(path string, p *Pair, mnemonic string, seal func(plain []byte) []byte) error {
	k := publicJSON(p.PublicKey(), p.Scheme())
	k.SecretPhrase = mnemonic
	if seed := p.Seed(); seed != nil {
		k.SecretSeed = "0x" + hex.EncodeToString(seed)
	}
	if secret := p.expanded(); secret == nil {
		k.PrivateKey = k.SecretSeed // ed25519's is its seed
	} else {
		k.PrivateKey = "0x" + hex.EncodeToString(secret)
	}
	return writeNew(path, k, seal)
}

// WritePublicKeyfile writes the public part of a key, as coldkeypub.txt has it.
func WritePublicKeyfile(path string, pub [32]byte, scheme Scheme) error {
	return writeNew(path, publicJSON(pub, scheme), nil)
}

func publicJSON(pub [32]byte, scheme Scheme) keyfileJSON {
	text := "0x" + hex.EncodeToString(pub[:])
	k := keyfileJSON{AccountID: text, PublicKey: text, SS58Address: EncodeSS58(pub)}
	if scheme == Ed25519 {
		zero := 0
		k.CryptoType = &zero
	}
	return k
}

// writeNew creates path, and the directories above it, with v as one line of JSON, encrypted where seal is not nil. A file
// that is there is never replaced.
func writeNew(path string, v any, seal func(plain []byte) []byte) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write key file: %w", err)
	}
	if seal != nil {
		data = seal(data)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write key file: %w", err)
	}
	if err := CreateSecret(path, data); err != nil {
		return fmt.Errorf("write key file: %w", err)
	}
	return nil
}
