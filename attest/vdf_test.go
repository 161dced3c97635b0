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

// RSA-2048 of the factoring challenge: 617 digits, digit sum 2738.
const rsa2048 = "2519590847565789349402718324004839857142928212620403202777713783604366202070" +
	"7595556264018525880784406918290641249515082189298559149176184502808489120072" +
	"8449926873928072877767359714183472702618963750149718246911650776133798590957" +
	"0009733045974880842840179742910064245869181719511874612151517265463228221686" +
	"9987549182422433637259085141865462043576798423387184774447920739934236584823" +
	"8242811981638150106748104516603773060562016196762561338441436038339044149526" +
	"3443219011465754445417842402092461651572335077870774981712577246796292638635" +
	"6373289912154831438167899885040445364023527381951378636564391212010397122822" +
	"120720357"

func TestVectorsVDF(t *testing.T) {
	n, ok := new(big.Int).SetString(rsa2048, 10)
	if !ok {
		t.Fatal("modulus")
	}
	z := Puzzle{N: n, X: VDFInput(Digest(ramp(0, 32)), n), T: 4096, Wesolowski: true}
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

func BenchmarkVDF(b *testing.B) {
	trap, err := trapdoor()
	if err != nil {
		b.Fatal(err)
	}
	z := trap.Puzzle(Digest{1}, 1<<14)
	y, _, err := z.Solve(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("squarings16384", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := z.Solve(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(z.T)*float64(b.N)/b.Elapsed().Seconds(), "squarings/s")
	})
	b.Run("trapdoor", func(b *testing.B) {
		for b.Loop() {
			if err := trap.Verify(z, y); err != nil {
				b.Fatal(err)
			}
		}
	})
}
