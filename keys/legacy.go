package keys

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// Encryptions that older wallets wrote: read, never written.

// An Ansible Vault is a line "$ANSIBLE_VAULT;1.1;AES256" and hex of three lines of hex: salt, HMAC-SHA256 of the ciphertext,
// ciphertext (AES-256-CTR, PKCS #7). PBKDF2-HMAC-SHA256 gives both keys and the counter's beginning.
const (
	vaultPrefix = "$ANSIBLE_VAULT"
	vaultRounds = 10_000
	vaultKeys   = 32 + 32 + aes.BlockSize
)

// vault is what an Ansible Vault holds.
type vault struct{ salt, mac, sealed []byte }

func openVault(data, password []byte) ([]byte, error) {
	v, err := parseVault(string(data))
	if err != nil {
		return nil, err
	}
	deriving.Lock()
	defer deriving.Unlock()
	derived, err := pbkdf2.Key(sha256.New, string(password), v.salt, vaultRounds, vaultKeys)
	if err != nil {
		return nil, fmt.Errorf("derive the vault's keys: %w", err)
	}
	return v.open(derived)
}

// parseVault takes a vault apart: version 1.1, and 1.2, which adds a label.
func parseVault(text string) (vault, error) {
	header, body, _ := strings.Cut(strings.TrimSpace(text), "\n")
	parts := strings.Split(strings.TrimSpace(header), ";")
	known := len(parts) == 3 && parts[1] == "1.1" || len(parts) == 4 && parts[1] == "1.2"
	if !known || parts[0] != vaultPrefix || parts[2] != "AES256" {
		return vault{}, fmt.Errorf("not an Ansible Vault of version 1.1 or 1.2 with AES256: %w", ErrKey)
	}
	inner, err := hex.DecodeString(strings.Join(strings.Fields(body), ""))
	if err != nil && !cutHex(err) {
		return vault{}, fmt.Errorf("the vault's body is not hex: %w", ErrKey)
	}
	lines := bytes.Split(inner, []byte("\n"))
	if err != nil || len(lines) < 3 {
		return vault{}, ErrKeyfileCut
	}
	var v vault
	for i, into := range []*[]byte{&v.salt, &v.mac, &v.sealed} {
		if *into, err = hex.DecodeString(string(lines[i])); err != nil && !cutHex(err) {
			return vault{}, fmt.Errorf("a line inside the vault is not hex: %w", ErrKey)
		} else if err != nil {
			return vault{}, ErrKeyfileCut
		}
	}
	if len(v.mac) != sha256.Size || len(v.sealed) == 0 || len(v.sealed)%aes.BlockSize != 0 {
		return vault{}, ErrKeyfileCut
	}
	return v, nil
}

func cutHex(err error) bool { return err == hex.ErrLength }

// open decrypts with the 80 bytes that the password gives.
func (v vault) open(derived []byte) ([]byte, error) {
	mac := hmac.New(sha256.New, derived[32:64])
	mac.Write(v.sealed)
	if !hmac.Equal(mac.Sum(nil), v.mac) {
		return nil, ErrPassword
	}
	block, err := aes.NewCipher(derived[:32])
	if err != nil {
		return nil, fmt.Errorf("decrypt the vault: %w", err)
	}
	plain := make([]byte, len(v.sealed))
	cipher.NewCTR(block, derived[64:]).XORKeyStream(plain, v.sealed)
	return unpad(plain)
}

// unpad takes PKCS #7 padding off. Its bytes are authenticated by then.
func unpad(plain []byte) ([]byte, error) {
	n := 0
	if len(plain) > 0 {
		n = int(plain[len(plain)-1])
	}
	if n == 0 || n > aes.BlockSize || n > len(plain) || !bytes.Equal(plain[len(plain)-n:], bytes.Repeat([]byte{byte(n)}, n)) {
		return nil, fmt.Errorf("the key file's padding is wrong: %w", ErrKey)
	}
	return plain[:len(plain)-n], nil
}

// A Fernet token is base64url of a version byte, a time of 8 bytes, an IV of 16, the ciphertext (AES-128-CBC, PKCS #7) and an
// HMAC-SHA256 over all before. The first btwallet made its 32 bytes of key, HMAC's half first, by PBKDF2 with one salt for
// everybody.
const (
	fernetPrefix  = "gAAAAA"
	fernetSalt    = "Iguesscyborgslikemyselfhaveatendencytobeparanoidaboutourorigins"
	fernetRounds  = 10_000_000
	fernetVersion = 0x80
	fernetHead    = 1 + 8 + aes.BlockSize
)

func openFernet(data, password []byte) ([]byte, error) {
	token, err := parseFernet(string(data))
	if err != nil {
		return nil, err
	}
	derived, err := fernetKey(password)
	if err != nil {
		return nil, err
	}
	return decryptFernet(token, derived)
}

func fernetKey(password []byte) ([]byte, error) {
	deriving.Lock()
	defer deriving.Unlock()
	derived, err := pbkdf2.Key(sha256.New, string(password), []byte(fernetSalt), fernetRounds, 32)
	if err != nil {
		return nil, fmt.Errorf("derive the token's key: %w", err)
	}
	return derived, nil
}

// parseFernet gives the token's bytes, of a length that a token can have.
func parseFernet(text string) ([]byte, error) {
	text = strings.TrimRight(strings.TrimSpace(text), "=")
	token, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		if strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == "" {
			return nil, ErrKeyfileCut // of an impossible length, or with bits left over
		}
		return nil, fmt.Errorf("the key file's token is not base64: %w", ErrKey)
	}
	if len(token) < fernetHead+aes.BlockSize+sha256.Size || (len(token)-fernetHead-sha256.Size)%aes.BlockSize != 0 {
		return nil, ErrKeyfileCut
	}
	if token[0] != fernetVersion {
		return nil, fmt.Errorf("a Fernet token of version %#x: %w", token[0], ErrKey)
	}
	return token, nil
}

// decryptFernet opens a token of parseFernet; derived is the HMAC's key and the cipher's, 16 bytes each.
func decryptFernet(token, derived []byte) ([]byte, error) {
	signed, sum := token[:len(token)-sha256.Size], token[len(token)-sha256.Size:]
	mac := hmac.New(sha256.New, derived[:16])
	mac.Write(signed)
	if !hmac.Equal(mac.Sum(nil), sum) {
		return nil, ErrPassword
	}
	block, err := aes.NewCipher(derived[16:])
	if err != nil {
		return nil, fmt.Errorf("decrypt the token: %w", err)
	}
	plain := make([]byte, len(signed)-fernetHead)
	cipher.NewCBCDecrypter(block, signed[fernetHead-aes.BlockSize:fernetHead]).CryptBlocks(plain, signed[fernetHead:])
	return unpad(plain)
}
