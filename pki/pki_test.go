package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"
)

var testNow = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func newTestAuthority(t testing.TB) *Authority {
	t.Helper()
	a, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newCSR(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestCreateIsNotOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("load of nothing: %v", err)
	}
	a, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(dir); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("second create: %v", err)
	}
	b, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.CACert(), b.CACert()) || !a.JWTPublicKey().Equal(b.JWTPublicKey()) ||
		!bytes.Equal(a.SSHCAKey().Marshal(), b.SSHCAKey().Marshal()) {
		t.Fatal("loaded authority differs from the created one")
	}
	path := filepath.Join(dir, authorityFile)
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", st.Mode(), err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Fatalf("files left: %v", left)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Fatalf("readable key file: %v", err)
	}
}

func TestExecutorCertificate(t *testing.T) {
	a, other := newTestAuthority(t), newTestAuthority(t)
	key := newKey(t, elliptic.P256())
	der, err := a.IssueExecutor(newCSR(t, key), "box-1", testNow)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := ExecutorOf(cert); !ok || id != "box-1" || IsMiner(cert) {
		t.Fatalf("role %q %v", id, ok)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		t.Fatal("certificate is over another key")
	}
	chain := []*x509.Certificate{cert}
	for name, c := range map[string]struct {
		ca *Authority
		at time.Time
		ok bool
	}{
		"now":          {a, testNow, true},
		"59 s behind":  {a, testNow.Add(-59 * time.Second), true},
		"61 s behind":  {a, testNow.Add(-61 * time.Second), false},
		"last day":     {a, testNow.Add(ExecutorLife - time.Hour), true},
		"expired":      {a, testNow.Add(ExecutorLife + time.Second), false},
		"other fleet":  {other, testNow, false},
		"long after":   {a, testNow.AddDate(50, 0, 0), false},
		"before it is": {a, testNow.AddDate(-1, 0, 0), false},
	} {
		if err := VerifyPeer(chain, c.at, c.ca.CACert()); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := VerifyPeer(nil, testNow, a.CACert()); err == nil {
		t.Error("no certificate passed")
	}
}

func TestMinerCertificate(t *testing.T) {
	a := newTestAuthority(t)
	pair, err := a.ServerCertificate(testNow, []string{"fleet.example", "192.0.2.7"})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := ExecutorOf(leaf); ok || !IsMiner(leaf) {
		t.Fatal("wrong role")
	}
	if len(leaf.DNSNames) != 1 || len(leaf.IPAddresses) != 1 {
		t.Fatalf("names %v %v", leaf.DNSNames, leaf.IPAddresses)
	}
	if CAHash(pair.Certificate[1]) != CAHash(a.CACert()) {
		t.Fatal("chain without the CA")
	}
}

func TestCSRRefused(t *testing.T) {
	a := newTestAuthority(t)
	good := newCSR(t, newKey(t, elliptic.P256()))
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for name, der := range map[string][]byte{
		"empty": nil, "trailing": append(bytes.Clone(good), 0), "signature": flipped,
		"p384": newCSR(t, newKey(t, elliptic.P384())), "rsa": newCSR(t, rsaKey), "ed25519": newCSR(t, edKey),
		"huge": make([]byte, maxCSR+1),
	} {
		if _, err := a.IssueExecutor(der, "box", testNow); !errors.Is(err, ErrCSR) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := CSRKey(der); !errors.Is(err, ErrCSR) {
			t.Errorf("%s key: %v", name, err)
		}
	}
	for _, id := range []string{"", "-a", "a-", "A", "a/b", "a b", strings.Repeat("a", 64), "ä", "a\n"} {
		if _, err := a.IssueExecutor(good, id, testNow); err == nil {
			t.Errorf("id %q passed", id)
		}
	}
}

func TestSSHUserCertificate(t *testing.T) {
	a := newTestAuthority(t)
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	wire, err := a.SSHUserCertificate(sshPub.Marshal(), "box-1", "g-1", "5FHn", []string{"attest", "facts"}, testNow, 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ssh.ParsePublicKey(wire)
	if err != nil {
		t.Fatal(err)
	}
	cert := parsed.(*ssh.Certificate)
	if cert.KeyId != "g-1" || cert.CertType != ssh.UserCert || len(cert.Extensions) != 2 ||
		cert.Extensions[SubsystemsExtension] != "attest,facts" || cert.Extensions[ValidatorExtension] != "5FHn" {
		t.Fatalf("certificate %+v", cert)
	}
	check := func(at time.Time, principal string) error {
		c := ssh.CertChecker{
			IsUserAuthority: func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), a.SSHCAKey().Marshal()) },
			Clock:           func() time.Time { return at },
		}
		return c.CheckCert(principal, cert)
	}
	for at, want := range map[time.Duration]bool{0: true, -59 * time.Second: true, -2 * time.Minute: false, 9 * time.Minute: true, 10*time.Minute + time.Second: false} {
		if err := check(testNow.Add(at), "box-1"); (err == nil) != want {
			t.Errorf("%s: %v", at, err)
		}
	}
	if check(testNow, "box-2") == nil {
		t.Error("another principal passed")
	}
	for name, f := range map[string]func() ([]byte, error){
		"long": func() ([]byte, error) {
			return a.SSHUserCertificate(sshPub.Marshal(), "box", "g", "v", []string{"attest"}, testNow, MaxSSHLife+1)
		},
		"nothing": func() ([]byte, error) {
			return a.SSHUserCertificate(sshPub.Marshal(), "box", "g", "v", nil, testNow, time.Minute)
		},
		"comma": func() ([]byte, error) {
			return a.SSHUserCertificate(sshPub.Marshal(), "box", "g", "v", []string{"a,b"}, testNow, time.Minute)
		},
		"cert": func() ([]byte, error) {
			return a.SSHUserCertificate(wire, "box", "g", "v", []string{"a"}, testNow, time.Minute)
		},
		"bytes": func() ([]byte, error) {
			return a.SSHUserCertificate([]byte("x"), "box", "g", "v", []string{"a"}, testNow, time.Minute)
		},
		"nogrant": func() ([]byte, error) {
			return a.SSHUserCertificate(sshPub.Marshal(), "box", "", "v", []string{"a"}, testNow, time.Minute)
		},
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s passed", name)
		}
	}
}

func TestJWT(t *testing.T) {
	a, other := newTestAuthority(t), newTestAuthority(t)
	key := a.JWTPublicKeys()
	token, err := a.MintJWT("box-1", testNow, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key  [][]byte
		aud  string
		at   time.Time
		want string // "", "time" or "jwt"
	}{
		"now":            {key, "box-1", testNow, ""},
		"55 s behind":    {key, "box-1", testNow.Add(-55 * time.Second), ""},
		"59 s later":     {key, "box-1", testNow.Add(59 * time.Second), ""},
		"60 s behind":    {key, "box-1", testNow.Add(-60 * time.Second), ""},
		"60 s ahead":     {key, "box-1", testNow.Add(119 * time.Second), ""},
		"expired":        {key, "box-1", testNow.Add(120 * time.Second), "time"},
		"not yet":        {key, "box-1", testNow.Add(-90 * time.Second), "time"},
		"audience":       {key, "box-2", testNow, "jwt"},
		"audience, late": {key, "box-2", testNow.Add(time.Hour), "jwt"},
		"key":            {other.JWTPublicKeys(), "box-1", testNow, "jwt"},
		"short key":      {[][]byte{key[0][:31]}, "box-1", testNow, "jwt"},
		"no key":         {nil, "box-1", testNow, "jwt"},
		"second key":     {append(other.JWTPublicKeys(), key...), "box-1", testNow, ""},
	} {
		err := VerifyJWT(c.key, token, c.aud, c.at)
		var te *JWTTimeError
		switch {
		case c.want == "" && err != nil, c.want == "time" && !errors.As(err, &te), c.want == "jwt" && (errors.As(err, &te) || !errors.Is(err, ErrJWT)):
			t.Errorf("%s: %v", name, err)
		}
	}
	late := VerifyJWT(key, token, "box-1", testNow.Add(125*time.Second))
	if !strings.Contains(late.Error(), "125 s ahead") || !errors.Is(late, ErrJWT) {
		t.Error(late)
	}
	if early := VerifyJWT(key, token, "box-1", testNow.Add(-90*time.Second)); !strings.Contains(early.Error(), "90 s behind") {
		t.Error(early)
	}
	if long, _ := a.MintJWT("box-1", testNow, time.Hour); VerifyJWT(key, long, "box-1", testNow.Add(121*time.Second)) == nil {
		t.Error("a token lived longer than MaxJWTLife")
	}
}

func TestJWTForged(t *testing.T) {
	a := newTestAuthority(t)
	claims := jwt.RegisteredClaims{
		Issuer: JWTIssuer, Audience: jwt.ClaimStrings{"box-1"}, IssuedAt: jwt.NewNumericDate(testNow),
		NotBefore: jwt.NewNumericDate(testNow), ExpiresAt: jwt.NewNumericDate(testNow.Add(time.Minute)),
	}
	sign := func(m jwt.SigningMethod, key any, edit func(*jwt.RegisteredClaims)) string {
		c := claims
		if edit != nil {
			edit(&c)
		}
		s, err := jwt.NewWithClaims(m, c).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ed := jwt.SigningMethodEdDSA
	if err := VerifyJWT(a.JWTPublicKeys(), sign(ed, a.signing.jwtKey, nil), "box-1", testNow); err != nil {
		t.Fatalf("the unforged one: %v", err)
	}
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." +
		strings.Split(sign(ed, a.signing.jwtKey, nil), ".")[1] + "."
	for name, token := range map[string]string{
		"none":                 none,
		"lib none":             sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil),
		"hmac with public key": sign(jwt.SigningMethodHS256, []byte(a.JWTPublicKey()), nil),
		"no exp":               sign(ed, a.signing.jwtKey, func(c *jwt.RegisteredClaims) { c.ExpiresAt = nil }),
		"no iat":               sign(ed, a.signing.jwtKey, func(c *jwt.RegisteredClaims) { c.IssuedAt = nil }),
		"no aud":               sign(ed, a.signing.jwtKey, func(c *jwt.RegisteredClaims) { c.Audience = nil }),
		"two aud":              sign(ed, a.signing.jwtKey, func(c *jwt.RegisteredClaims) { c.Audience = jwt.ClaimStrings{"box-1", "box-2"} }),
		"issuer":               sign(ed, a.signing.jwtKey, func(c *jwt.RegisteredClaims) { c.Issuer = "someone" }),
		"long":                 sign(ed, a.signing.jwtKey, func(c *jwt.RegisteredClaims) { c.ExpiresAt = jwt.NewNumericDate(testNow.Add(time.Hour)) }),
		"empty":                "",
		"dots":                 "..",
		"huge":                 strings.Repeat("a", 1<<20),
	} {
		if err := VerifyJWT(a.JWTPublicKeys(), token, "box-1", testNow); !errors.Is(err, ErrJWT) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestJoinToken(t *testing.T) {
	ca := newTestAuthority(t).CACert()
	rapid.Check(t, func(r *rapid.T) {
		addr := fmt.Sprintf("%s:%d", rapid.StringMatching(`[a-z0-9.-]{1,40}|\[[0-9a-f:]{2,20}\]`).Draw(r, "host"), rapid.IntRange(1, 65535).Draw(r, "port"))
		text, hash, err := NewJoinToken(addr, ca)
		if err != nil {
			r.Fatal(err)
		}
		got, err := ParseJoinToken(" " + text + "\n")
		if err != nil {
			r.Fatal(err)
		}
		if got.Addr != addr || got.CAHash != CAHash(ca) || !got.Matches(hash) {
			r.Fatalf("%+v", got)
		}
		got.Secret[rapid.IntRange(0, 31).Draw(r, "byte")] ^= 1
		if got.Matches(hash) {
			r.Fatal("another secret matches")
		}
		if strings.Contains(fmt.Sprintf("%v %+v %#v", got, got, got), "Secret") {
			r.Fatal("secret printed")
		}
	})
	for _, addr := range []string{"", "host", ":1", "h:0", "h:99999", "h:x", "a b:1", strings.Repeat("a", 300) + ":1"} {
		if _, _, err := NewJoinToken(addr, ca); !errors.Is(err, ErrJoinToken) {
			t.Errorf("%q: %v", addr, err)
		}
	}
}

func FuzzParseJoinToken(f *testing.F) {
	text, _, err := NewJoinToken("miner.example:8090", []byte("ca"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add("basj1.")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseJoinToken(text)
		if err != nil {
			return
		}
		if err := checkAddr(token.Addr); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzVerifyJWT(f *testing.F) {
	a := newTestAuthority(f)
	token, err := a.MintJWT("box", testNow, time.Minute)
	if err != nil {
		f.Fatal(err)
	}
	good := strings.Split(token, ".")
	f.Add(token)
	f.Add("e30.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		if err := VerifyJWT(a.JWTPublicKeys(), token, "box", testNow); err == nil && !strings.HasPrefix(token, good[0]+"."+good[1]+".") {
			t.Fatalf("forged: %q", token)
		}
	})
}

func FuzzCSRKey(f *testing.F) {
	f.Add(newCSR(f, newKey(f, elliptic.P256())))
	f.Fuzz(func(t *testing.T, der []byte) {
		if spki, err := CSRKey(der); err == nil {
			if _, err := x509.ParsePKIXPublicKey(spki); err != nil {
				t.Fatal(err)
			}
		}
	})
}
