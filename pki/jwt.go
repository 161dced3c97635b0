package pki

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// MaxJWTLife bounds the life of a token, counted from its making.
const MaxJWTLife = 60 * time.Second

// JWTIssuer is the issuer of every token.
const JWTIssuer = MinerURI

const maxJWT = 2048

// ErrJWT is the root of every refusal of a token.
var ErrJWT = errors.New("token refused")

// JWTTimeError refuses a token for time alone. Difference is the receiver's clock less the clock that made the token: as
// a token is made for the call that carries it, this is how far the two clocks are apart. It is an ErrJWT.
type JWTTimeError struct{ Difference time.Duration }

// Error says by how many seconds the clocks differ.
func (e *JWTTimeError) Error() string {
	d := e.Difference.Round(time.Second)
	if d < 0 {
		return fmt.Sprintf("token refused: this machine's clock is %d s behind the clock that made it", -d/time.Second)
	}
	return fmt.Sprintf("token refused: this machine's clock is %d s ahead of the clock that made it", d/time.Second)
}

// Unwrap makes it an ErrJWT.
func (e *JWTTimeError) Unwrap() error { return ErrJWT }

// JWTPublicKey verifies the miner's tokens.
func (a *Authority) JWTPublicKey() ed25519.PublicKey {
	return a.JWTPublicKeys()[0]
}

// MintJWT makes a token (EdDSA) for one executor: audience = executor, in force from Backdate before now to ttl after.
// A ttl outside 0..MaxJWTLife becomes MaxJWTLife.
func (a *Authority) MintJWT(executor string, now time.Time, ttl time.Duration) (string, error) {
	if ttl <= 0 || ttl > MaxJWTLife {
		ttl = MaxJWTLife
	}
	claims := jwt.RegisteredClaims{
		Issuer:    JWTIssuer,
		Audience:  jwt.ClaimStrings{executor},
		IssuedAt:  jwt.NewNumericDate(now),
		NotBefore: jwt.NewNumericDate(now.Add(-Backdate)),
		ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims).SignedString(a.signer().jwtKey)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return token, nil
}

// VerifyJWT checks a token against the miner's keys, one of which must have signed it: algorithm EdDSA and no other,
// issuer, audience = executor alone, a life of at most MaxJWTLife, in force at now with a tolerance of Backdate on either
// side of the clock that made it. A refusal for time is a *JWTTimeError, any other an ErrJWT.
func VerifyJWT(keys [][]byte, token, executor string, now time.Time) (err error) {
	if len(token) > maxJWT {
		return fmt.Errorf("%w: more than %d bytes", ErrJWT, maxJWT)
	}
	if len(keys) == 0 {
		return fmt.Errorf("%w: no key of the miner is known", ErrJWT)
	}
	for _, key := range keys {
		if err = verifyJWT(key, token, executor, now); !errors.Is(err, jwt.ErrTokenSignatureInvalid) {
			return err
		}
	}
	return err
}

func verifyJWT(key ed25519.PublicKey, token, executor string, now time.Time) error {
	if len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: the miner's key has %d bytes, want %d", ErrJWT, len(key), ed25519.PublicKeySize)
	}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithIssuer(JWTIssuer), jwt.WithAudience(executor), jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(func() time.Time { return now }),
	)
	var claims jwt.RegisteredClaims
	_, err := parser.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return key, nil })
	if onlyTime(err) && claims.ExpiresAt != nil && !now.Before(claims.ExpiresAt.Time) && now.Before(claims.ExpiresAt.Add(Backdate)) {
		err = nil // this clock may be ahead as far as it may be behind
	}
	switch {
	case err == nil:
	case onlyTime(err) && claims.IssuedAt != nil:
		return &JWTTimeError{Difference: now.Sub(claims.IssuedAt.Time)}
	default:
		return fmt.Errorf("%w: %w", ErrJWT, err)
	}
	switch {
	case claims.IssuedAt == nil || claims.NotBefore == nil:
		return fmt.Errorf("%w: it does not say when it was made or begins", ErrJWT)
	case len(claims.Audience) != 1:
		return fmt.Errorf("%w: it names %d audiences, want one", ErrJWT, len(claims.Audience))
	case claims.ExpiresAt.Sub(claims.IssuedAt.Time) > MaxJWTLife:
		return fmt.Errorf("%w: it lives longer than %s", ErrJWT, MaxJWTLife)
	}
	return nil
}

// onlyTime says that nothing but the clock is wrong: whoever signed it is known and it is meant for us.
func onlyTime(err error) bool {
	if !errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenNotValidYet) {
		return false
	}
	for _, other := range []error{
		jwt.ErrTokenMalformed, jwt.ErrTokenUnverifiable, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenRequiredClaimMissing,
		jwt.ErrTokenInvalidAudience, jwt.ErrTokenInvalidIssuer, jwt.ErrTokenInvalidId, jwt.ErrTokenInvalidSubject,
	} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}
