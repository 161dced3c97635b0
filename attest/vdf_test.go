package attest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/big"
	"sync"
	"testing"
)

func TestVectorsVDF(t *testing.T) {
	z := PublicPuzzle(Digest(ramp(0, 32)), 4096)
	n := z.N
	if n == nil || len(rsa2048) != 617 || digitSum(rsa2048) != 2738 {
		t.Fatal("not RSA-2048")
	}
	y, pi, err := z.Solve(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	sum := func(b []byte) string { h := sha256.Sum256(b); return hex.EncodeToString(h[:]) }
	num := func(v *big.Int) string { return sum(v.FillBytes(make([]byte, VDFBytes))) }
	for _, x := range [][2]string{
		{num(n), "6ae9d033c1d76c4f535b5ad5c0073933a0b375b4120a75fbb66be814eab1a9ce"},
		{num(z.X), "62c867871b8b767430f584fc34a8f999b0847c19b2dbb150365ee283f6fb89bb"},
		{sum(y), "814ca3599707e1b99a8a40beaa702b20ff6c6f680ad505d20c66f0107a32daa6"},
		{challengePrime(n, z.X, new(big.Int).SetBytes(y), z.T).Text(16), "df802c111653467cfb1e56a20138cba206d65566b0c537dbf052dbb0ba424dd3"},
		{sum(pi), "41ba7089af3cad74896726462885326e28c54c6b94c18fda67da7b8fd1c1d6fd"},
	} {
		if x[0] != x[1] {
			t.Errorf("%s, want %s", x[0], x[1])
		}
	}
	if err := z.VerifyWesolowski(y, pi); err != nil {
		t.Fatal(err)
	}
	neg := new(big.Int).Sub(n, new(big.Int).SetBytes(y)).FillBytes(make([]byte, VDFBytes))
	other := bytes.Clone(pi)
	other[200] ^= 1
	more := z
	more.T++
	for name, err := range map[string]error{
		"-y": z.VerifyWesolowski(neg, pi), "pi": z.VerifyWesolowski(y, other), "T": more.VerifyWesolowski(y, pi),
		"zero": z.VerifyWesolowski(make([]byte, VDFBytes), pi), "short": z.VerifyWesolowski(y[1:], pi),
	} {
		if !errors.Is(err, ErrVDF) {
			t.Errorf("%s accepted: %v", name, err)
		}
	}
}

func digitSum(s string) (sum int) {
	for _, c := range s {
		sum += int(c - '0')
	}
	return sum
}

// TestProofOfAnyLength: the proof that is made of kept powers is the one by definition, also where the last stretch is
// shorter, or T is less than one stretch or one digit.
func TestProofOfAnyLength(t *testing.T) {
	t.Parallel()
	for _, squarings := range []uint64{1, 300, 1024, 2*1024 + 17} {
		z := PublicPuzzle(Digest{byte(squarings)}, squarings)
		y, pi, err := z.Solve(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		e := new(big.Int).Lsh(big.NewInt(1), uint(squarings))
		value := canonical(new(big.Int).Exp(z.X, e, z.N), z.N)
		l := challengePrime(z.N, z.X, value, z.T)
		want := canonical(new(big.Int).Exp(z.X, e.Quo(e, l), z.N), z.N)
		if new(big.Int).SetBytes(y).Cmp(value) != 0 || new(big.Int).SetBytes(pi).Cmp(want) != 0 {
			t.Errorf("T = %d: another y or pi", squarings)
		}
		if err := z.VerifyWesolowski(y, pi); err != nil {
			t.Errorf("T = %d: %v", squarings, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	z := PublicPuzzle(Digest{1}, 1<<20)
	if _, err := z.prove(ctx, nil, z.X); !errors.Is(err, context.Canceled) {
		t.Errorf("a proof outlives its context: %v", err)
	}
}

// trapdoor is made once: it takes a few tenths of a second.
var trapdoor = sync.OnceValues(func() (*Trapdoor, error) { return NewTrapdoor(rand.Reader) })

func TestTrapdoor(t *testing.T) {
	trap, err := trapdoor()
	if err != nil {
		t.Fatal(err)
	}
	if trap, err = ParseTrapdoor(trap.Bytes()); err != nil {
		t.Fatal(err)
	}
	for _, squarings := range []uint64{1, 4096, 1<<14 + 3} {
		z := trap.Puzzle(Digest{9}, squarings)
		y, pi, err := z.Solve(context.Background())
		if err != nil || pi != nil {
			t.Fatal(pi, err)
		}
		if err := trap.Verify(z, y); err != nil {
			t.Fatal(squarings, err)
		}
		for i := range y {
			y[i] ^= 1
			if trap.Verify(z, y) == nil {
				t.Fatalf("byte %d of y changed and accepted", i)
			}
			y[i] ^= 1
		}
		if trap.Verify(z, y[1:]) == nil || trap.Verify(z, append([]byte{0}, y...)) == nil || trap.Verify(z, nil) == nil {
			t.Fatal("y of another length accepted")
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := trap.Puzzle(Digest{}, 1<<20).Solve(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for _, b := range [][]byte{nil, make([]byte, VDFBytes), trap.Bytes()[1:], append(trap.Bytes()[:128:128], trap.Bytes()[:128]...)} {
		if _, err := ParseTrapdoor(b); !errors.Is(err, ErrVDF) {
			t.Fatalf("trapdoor of %d bytes accepted", len(b))
		}
	}
}

// BenchmarkVDF: ours is the loop of Solve. The baselines of the same run: one Exp over all squarings and a multiplication
// with a division each, the two ways that the standard library offers.
func BenchmarkVDF(b *testing.B) {
	trap, err := trapdoor()
	if err != nil {
		b.Fatal(err)
	}
	z := trap.Puzzle(Digest{1}, 1<<16)
	y, _, err := z.Solve(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	squarings := func(b *testing.B, f func()) {
		b.ReportMetric(float64(z.T)/cpuLoop(b, f).Seconds()/1e6, "Msq/s")
	}
	b.Run("ours", func(b *testing.B) {
		squarings(b, func() {
			if _, _, err := z.Solve(context.Background()); err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("exp", func(b *testing.B) {
		e := new(big.Int).Lsh(big.NewInt(1), uint(z.T))
		squarings(b, func() { new(big.Int).Exp(z.X, e, z.N) })
	})
	b.Run("mulmod", func(b *testing.B) {
		v, p, q := new(big.Int), new(big.Int), new(big.Int)
		squarings(b, func() {
			v.Set(z.X)
			for range z.T {
				p.Mul(v, v)
				q.QuoRem(p, z.N, v)
			}
		})
	})
	b.Run("trapdoor", func(b *testing.B) {
		b.ReportMetric(cpuLoop(b, func() {
			if err := trap.Verify(z, y); err != nil {
				b.Fatal(err)
			}
		}).Seconds()*1e3, "cpu-ms")
	})
	b.Run("wesolowski", func(b *testing.B) { // the search for its prime is most of it, so over several nonces
		type answer struct {
			z     Puzzle
			y, pi []byte
		}
		var answers [8]answer
		for i := range answers {
			z := PublicPuzzle(Digest{byte(i)}, 64)
			y, pi, err := z.Solve(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			answers[i] = answer{z, y, pi}
		}
		i := 0
		b.ReportMetric(cpuLoop(b, func() {
			a := answers[i%len(answers)]
			if err := a.z.VerifyWesolowski(a.y, a.pi); err != nil {
				b.Fatal(err)
			}
			i++
		}).Seconds()*1e3, "cpu-ms")
	})
}
