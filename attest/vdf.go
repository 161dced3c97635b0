package attest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
)

// The delay function of gpu-proof.md section 10: T squarings in a group of unknown order, one after the other. What a right
// answer proves: between CHALLENGE and EVIDENCE somebody spent the time of T squarings on the fastest hardware there is; it
// is reported as sequential_time_lower_bound. What it does not prove: which hardware, on which machine, or that a GPU took
// part. The longer an honest machine takes, the less the bound says of it: at 2e7 squarings a second on an FPGA and 0.9
// million on a CPU, a CPU's answer of 2.3 s proves 0.1 s.

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

// rsa2048 is the modulus RSA-2048 of the RSA factoring challenge of 1991: 617 decimal digits, digit sum 2738. Its maker
// destroyed the factors, and nobody has found them since; whoever knew them could forge proofs.
const rsa2048 = "2519590847565789349402718324004839857142928212620403202777713783604366202070" +
	"7595556264018525880784406918290641249515082189298559149176184502808489120072" +
	"8449926873928072877767359714183472702618963750149718246911650776133798590957" +
	"0009733045974880842840179742910064245869181719511874612151517265463228221686" +
	"9987549182422433637259085141865462043576798423387184774447920739934236584823" +
	"8242811981638150106748104516603773060562016196762561338441436038339044149526" +
	"3443219011465754445417842402092461651572335077870774981712577246796292638635" +
	"6373289912154831438167899885040445364023527381951378636564391212010397122822" +
	"120720357"

// PublicPuzzle asks for so many squarings of the nonce's x modulo RSA-2048, with a proof that anybody can check.
func PublicPuzzle(nonce Digest, squarings uint64) Puzzle {
	n, _ := new(big.Int).SetString(rsa2048, 10)
	return Puzzle{N: n, X: VDFInput(nonce, n), T: squarings, Wesolowski: true}
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

// Squarings between two looks at the context: enough to hide the set-up of Exp, the fastest way to square in pure Go. Where a
// proof is wanted, also the distance of the powers that are kept for it.
const (
	solveStretch = 1 << 14
	proofStretch = 1 << 10
)

// Solve does the T squarings and, if asked, the Wesolowski proof, which takes about a quarter longer. y and pi are 256
// bytes; pi is nil without a proof. The end of ctx is looked at about every 20 ms.
func (z Puzzle) Solve(ctx context.Context) (y, pi []byte, err error) {
	if err := z.Check(); err != nil {
		return nil, nil, err
	}
	stretch := uint64(solveStretch)
	if z.Wesolowski {
		stretch = proofStretch
	}
	var kept []*big.Int
	v, e := new(big.Int).Set(z.X), new(big.Int)
	for left := z.T; left > 0; left -= min(left, stretch) {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		if z.Wesolowski {
			kept = append(kept, new(big.Int).Set(v))
		}
		e.Lsh(big.NewInt(1), uint(min(left, stretch)))
		v.Exp(v, e, z.N)
	}
	if !z.Wesolowski {
		return v.FillBytes(make([]byte, VDFBytes)), nil, nil
	}
	v = canonical(v, z.N)
	p, err := z.prove(ctx, kept, v)
	if err != nil {
		return nil, nil, err
	}
	return v.FillBytes(make([]byte, VDFBytes)), p.FillBytes(make([]byte, VDFBytes)), nil
}

// prove makes x^floor(2^T/l) out of the powers x^(2^(k*proofStretch)). The bytes of the quotient are its digits to the base
// 256; digit k*per+j belongs to power k raised to 256^j. All powers with the same digit are multiplied first, so that a digit
// costs one multiplication (Wesolowski, "Efficient verifiable delay functions", section 4.1).
func (z Puzzle) prove(ctx context.Context, kept []*big.Int, y *big.Int) (*big.Int, error) {
	const per = proofStretch / 8
	l := challengePrime(z.N, z.X, y, z.T)
	digits := new(big.Int).Lsh(big.NewInt(1), uint(z.T))
	q := digits.Quo(digits, l).Bytes()
	slices.Reverse(q)
	product, quotient := new(big.Int), new(big.Int)
	multiply := func(a, b *big.Int) { // into a
		product.Mul(a, b)
		quotient.QuoRem(product, z.N, a)
	}
	pi := big.NewInt(1)
	for j := per - 1; j >= 0; j-- {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var same [256]*big.Int
		for k := range kept {
			i := k*per + j
			if i >= len(q) {
				break
			}
			switch d := q[i]; {
			case d == 0:
			case same[d] == nil:
				same[d] = new(big.Int).Set(kept[k])
			default:
				multiply(same[d], kept[k])
			}
		}
		for range 8 {
			multiply(pi, pi)
		}
		above := big.NewInt(1) // the product of all with a larger digit; each is taken once for every digit below
		for d := 255; d > 0; d-- {
			if same[d] != nil {
				multiply(above, same[d])
			}
			multiply(pi, above)
		}
	}
	return canonical(pi, z.N), nil
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
