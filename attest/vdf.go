package attest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
)

// The delay function of gpu-proof.md section 10: T squarings in a group of unknown order. It is no hardware proof;
// it gives a lower bound of sequential time and is named so wherever it is reported.

// VDFBytes is the length of every group element on the wire, big-endian.
const VDFBytes = 256

// maxSquarings bounds T: 2^26 takes more than a minute on a fast core.
const maxSquarings = 1 << 26

// ErrVDF says that a puzzle or its answer is wrong or out of range.
var ErrVDF = errors.New("attest: vdf")

// Puzzle asks for X^(2^T) mod N.
type Puzzle struct {
	N, X       *big.Int
	T          uint64
	Wesolowski bool // with a proof; otherwise the asker knows the factors of N
}

// Check refuses what a prover should not start: N not odd and of 2048 bits, X outside 1..N-1, T outside 1..2^26.
func (z Puzzle) Check() error {
	if z.N.BitLen() != 8*VDFBytes || z.N.Bit(0) == 0 || z.X.Sign() <= 0 || z.X.Cmp(z.N) >= 0 || z.T < 1 || z.T > maxSquarings {
		return fmt.Errorf("%w: puzzle out of range", ErrVDF)
	}
	return nil
}

// VDFInput derives x from the challenge's nonce: a square in Z/N.
func VDFInput(nonce Digest, n *big.Int) *big.Int {
	var b []byte
	for c := range uint32(9) {
		h := tagged("BSLVDFX\x00").raw(nonce[:]).u32(c).sum()
		b = append(b, h[:]...)
	}
	x := new(big.Int).SetBytes(b)
	x.Mod(x, n)
	return x.Mul(x, x).Mod(x, n)
}

// Solve does the T squarings and, if asked, the Wesolowski proof (as many again). y and pi are 256 bytes; pi is nil
// without a proof. The end of ctx is looked at about every 20 ms during the squarings.
func (z Puzzle) Solve(ctx context.Context) (y, pi []byte, err error) {
	if err := z.Check(); err != nil {
		return nil, nil, err
	}
	const stretch = 1 << 14 // squarings per call of Exp: long enough to hide its set-up
	v, e := new(big.Int).Set(z.X), new(big.Int)
	for left := z.T; left > 0; left -= min(left, stretch) {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		e.Lsh(big.NewInt(1), uint(min(left, stretch)))
		v.Exp(v, e, z.N)
	}
	if !z.Wesolowski {
		return v.FillBytes(make([]byte, VDFBytes)), nil, nil
	}
	e.Lsh(big.NewInt(1), uint(z.T))
	v = canonical(v, z.N)
	l := challengePrime(z.N, z.X, v, z.T)
	p := canonical(new(big.Int).Exp(z.X, e.Quo(e, l), z.N), z.N)
	return v.FillBytes(make([]byte, VDFBytes)), p.FillBytes(make([]byte, VDFBytes)), nil
}

// VerifyWesolowski checks y and its proof without any secret.
func (z Puzzle) VerifyWesolowski(y, pi []byte) error {
	if err := z.Check(); err != nil {
		return err
	}
	v, ok := element(y, z.N)
	p, ok2 := element(pi, z.N)
	if !ok || !ok2 || canonical(v, z.N).Cmp(v) != 0 || canonical(p, z.N).Cmp(p) != 0 {
		return fmt.Errorf("%w: answer is not a canonical group element", ErrVDF)
	}
	l := challengePrime(z.N, z.X, v, z.T)
	r := new(big.Int).Exp(big.NewInt(2), new(big.Int).SetUint64(z.T), l)
	a := new(big.Int).Exp(p, l, z.N)
	a.Mul(a, new(big.Int).Exp(z.X, r, z.N)).Mod(a, z.N)
	if canonical(a, z.N).Cmp(v) != 0 {
		return fmt.Errorf("%w: proof does not verify", ErrVDF)
	}
	return nil
}

// element reads 256 big-endian bytes as a number in 1..n-1.
func element(b []byte, n *big.Int) (*big.Int, bool) {
	v := new(big.Int).SetBytes(b)
	return v, len(b) == VDFBytes && v.Sign() > 0 && v.Cmp(n) < 0
}

// canonical picks one of v and -v: without it a prover could also prove the negative of y.
func canonical(v, n *big.Int) *big.Int {
	if w := new(big.Int).Sub(n, v); w.Cmp(v) < 0 {
		return w
	}
	return v
}

// challengePrime is the Fiat-Shamir prime l of a Wesolowski proof.
func challengePrime(n, x, y *big.Int, t uint64) *big.Int {
	m := tagged("BSLVDFP\x00")
	for _, v := range [...]*big.Int{n, x, y} {
		m = m.raw(v.FillBytes(make([]byte, VDFBytes)))
	}
	m = binary.LittleEndian.AppendUint64(m, t)
	for c := uint32(0); ; c++ {
		h := m.u32(c).sum()
		l := new(big.Int).SetBytes(h[:])
		l.SetBit(l, 255, 1).SetBit(l, 0, 1)
		if l.ProbablyPrime(32) {
			return l
		}
	}
}

// Trapdoor is a validator's RSW modulus with its factors: it checks any T in under a millisecond. Whoever holds the
// factors can also forge answers, so an answer convinces their owner only.
type Trapdoor struct{ p, q, n, p1, q1, qInv *big.Int }

// NewTrapdoor draws a 2048-bit modulus from random; it takes a few tenths of a second.
func NewTrapdoor(random io.Reader) (*Trapdoor, error) {
	p, err := randomPrime(random)
	if err != nil {
		return nil, err
	}
	q, err := randomPrime(random)
	if err != nil {
		return nil, err
	}
	return newTrapdoor(p, q)
}

// randomPrime draws a 1024-bit prime with both top bits set, so that a product of two has 2048 bits.
func randomPrime(random io.Reader) (*big.Int, error) {
	b := make([]byte, VDFBytes/2)
	for {
		if _, err := io.ReadFull(random, b); err != nil {
			return nil, fmt.Errorf("draw prime: %w", err)
		}
		b[0] |= 0xc0
		b[len(b)-1] |= 1
		if p := new(big.Int).SetBytes(b); p.ProbablyPrime(20) {
			return p, nil
		}
	}
}

func newTrapdoor(p, q *big.Int) (*Trapdoor, error) {
	one := big.NewInt(1)
	t := &Trapdoor{p: p, q: q, n: new(big.Int).Mul(p, q), p1: new(big.Int).Sub(p, one), q1: new(big.Int).Sub(q, one)}
	t.qInv = new(big.Int).ModInverse(q, p)
	if t.n.BitLen() != 8*VDFBytes || t.n.Bit(0) == 0 || t.qInv == nil {
		return nil, fmt.Errorf("%w: not two distinct 1024-bit primes", ErrVDF)
	}
	return t, nil
}

// ParseTrapdoor reads the factors written by Bytes.
func ParseTrapdoor(b []byte) (*Trapdoor, error) {
	if len(b) != VDFBytes {
		return nil, fmt.Errorf("%w: trapdoor of %d bytes, want %d", ErrVDF, len(b), VDFBytes)
	}
	p, q := new(big.Int).SetBytes(b[:VDFBytes/2]), new(big.Int).SetBytes(b[VDFBytes/2:])
	if !p.ProbablyPrime(1) || !q.ProbablyPrime(1) {
		return nil, fmt.Errorf("%w: trapdoor is not two primes", ErrVDF)
	}
	return newTrapdoor(p, q)
}

// Bytes gives both factors, 128 bytes each. They are a secret until nobody relies on answers under this modulus.
func (t *Trapdoor) Bytes() []byte {
	b := make([]byte, VDFBytes)
	t.p.FillBytes(b[:VDFBytes/2])
	t.q.FillBytes(b[VDFBytes/2:])
	return b
}

// Puzzle asks for so many squarings of the nonce's x.
func (t *Trapdoor) Puzzle(nonce Digest, squarings uint64) Puzzle {
	return Puzzle{N: t.n, X: VDFInput(nonce, t.n), T: squarings}
}

// Verify computes y by the short way and compares it exactly.
func (t *Trapdoor) Verify(z Puzzle, y []byte) error {
	two, e := big.NewInt(2), new(big.Int).SetUint64(z.T)
	yp := new(big.Int).Exp(new(big.Int).Mod(z.X, t.p), new(big.Int).Exp(two, e, t.p1), t.p)
	yq := new(big.Int).Exp(new(big.Int).Mod(z.X, t.q), new(big.Int).Exp(two, e, t.q1), t.q)
	h := new(big.Int).Sub(yp, yq)
	h.Mul(h, t.qInv).Mod(h, t.p)
	want := h.Mul(h, t.q).Add(h, yq)
	if got, ok := element(y, t.n); !ok || got.Cmp(want) != 0 {
		return fmt.Errorf("%w: y is not x^(2^T)", ErrVDF)
	}
	return nil
}
