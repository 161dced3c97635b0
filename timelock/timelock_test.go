package timelock

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	bls12381 "github.com/consensys/gnark-crypto/ecc/bls12-381"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"basilica/internal/vectors"
)

// hexBytes is a byte string written as 0x… in vectors.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(strings.TrimPrefix(string(text), "0x"))
	*h = b
	return err
}

type sealed struct {
	Name                                                                     string
	Round                                                                    uint64
	PublicKey, Signature, Identity, Plaintext, Esk, Sigma, Nonce, Ciphertext hexBytes
	GtLittleEndianSha256                                                     hexBytes
	CiphertextLength                                                         int
}

type sealedFile struct {
	WeightsPayload struct {
		Hotkey       hexBytes
		UIDs, Values []uint16
		VersionKey   uint64
	}
	Vectors      []sealed
	FinneyCommit struct {
		RevealRound uint64
		Ciphertext  hexBytes
	}
}

func sealedVectors(t testing.TB) sealedFile {
	var file sealedFile
	vectors.JSON(t, "bittensor/timelock.json", &file)
	return file
}

func TestCiphertextVectors(t *testing.T) {
	file := sealedVectors(t)
	for _, v := range file.Vectors {
		key, err := ParsePublicKey(v.PublicKey)
		if err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		if err := key.Verify(v.Round, v.Signature); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
		if msg := message(v.Round); !bytes.Equal(msg[:], v.Identity) {
			t.Errorf("%s: message %x", v.Name, msg)
		}
		random := bytes.NewReader(append(append(bytes.Clone(v.Esk), v.Sigma...), v.Nonce...))
		got, err := Encrypt(key, v.Round, v.Plaintext, random)
		if err != nil || !bytes.Equal(got, v.Ciphertext) {
			t.Errorf("%s: sealed\n%x, want\n%x (%v)", v.Name, got, []byte(v.Ciphertext), err)
		}
		if len(got) != v.CiphertextLength || len(got) != Overhead+len(v.Plaintext) {
			t.Errorf("%s: %d bytes, want %d", v.Name, len(got), v.CiphertextLength)
		}
		if sig, err := parseSignature(v.Signature); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		} else if c, err := parse(v.Ciphertext); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		} else if g, err := bls12381.Pair([]bls12381.G1Affine{sig}, []bls12381.G2Affine{c.u}); err != nil || hashGT(&g) != [32]byte(v.GtLittleEndianSha256) {
			t.Errorf("%s: pairing hashes to %x (%v)", v.Name, hashGT(&g), err)
		}
		opened, err := Decrypt(v.Signature, v.Ciphertext)
		if err != nil || !bytes.Equal(opened, v.Plaintext) {
			t.Errorf("%s: opened %x, want %x (%v)", v.Name, opened, []byte(v.Plaintext), err)
		}
		if !strings.Contains(v.Name, "payload") {
			continue
		}
		want := Weights{UIDs: file.WeightsPayload.UIDs, Values: file.WeightsPayload.Values, VersionKey: file.WeightsPayload.VersionKey}
		if !strings.Contains(v.Name, "without-hotkey") {
			want.Hotkey = file.WeightsPayload.Hotkey
		}
		if got := want.Encode(); !bytes.Equal(got, v.Plaintext) {
			t.Errorf("%s: payload %x, want %x", v.Name, got, []byte(v.Plaintext))
		}
		weights, err := DecodeWeights(opened)
		if err != nil || !cmp.Equal(weights, want) {
			t.Errorf("%s: weights %+v, want %+v (%v)", v.Name, weights, want, err)
		}
	}
	commit, err := parse(file.FinneyCommit.Ciphertext)
	if err != nil || len(commit.sealed) != len(file.WeightsPayload.Hotkey)+1+9+9+8+tagSize {
		t.Errorf("finney's commit: %+v, %v", commit, err)
	}
	t.Logf("timelock: %d ciphertexts, 1 commit of finney", len(file.Vectors))
}

func TestBeaconVectors(t *testing.T) {
	type round struct {
		Round                                     uint64
		Identity, HashToG1, Signature, Randomness hexBytes
	}
	var file struct {
		Quicknet struct {
			GenesisTime, PeriodSeconds int64
			DST                        string
			PublicKey                  hexBytes
			Rounds                     []round
		}
		Own struct {
			SecretScalar, PublicKey hexBytes
			Rounds                  []round
		}
	}
	vectors.JSON(t, "bittensor/drand-beacons.json", &file)
	q := Quicknet()
	if !bytes.Equal(q.PublicKey[:], file.Quicknet.PublicKey) || q.Genesis != file.Quicknet.GenesisTime || q.Period != file.Quicknet.PeriodSeconds ||
		file.Quicknet.DST != domain {
		t.Errorf("quicknet is %+v", q)
	}
	own, err := NewSigner(file.Own.SecretScalar)
	if err != nil {
		t.Fatal(err)
	}
	if got := own.PublicKey().Bytes(); !bytes.Equal(got[:], file.Own.PublicKey) {
		t.Errorf("own public key %x", got)
	}
	public, err := ParsePublicKey(q.PublicKey[:])
	if err != nil {
		t.Fatal(err)
	}
	check := func(key, other PublicKey, r round) {
		t.Helper()
		if err := key.Verify(r.Round, r.Signature); err != nil {
			t.Errorf("round %d: %v", r.Round, err)
		}
		if err := key.Verify(r.Round+1, r.Signature); !errors.Is(err, ErrSignature) {
			t.Errorf("round %d passes as the next: %v", r.Round, err)
		}
		if err := other.Verify(r.Round, r.Signature); !errors.Is(err, ErrSignature) {
			t.Errorf("round %d passes for the other beacon: %v", r.Round, err)
		}
		if got := Randomness(r.Signature); !bytes.Equal(got[:], r.Randomness) {
			t.Errorf("round %d: randomness %x", r.Round, got)
		}
		if msg := message(r.Round); !bytes.Equal(msg[:], r.Identity) {
			t.Errorf("round %d: message %x", r.Round, msg)
		}
		id, err := identity(r.Round)
		if got := id.Bytes(); err != nil || len(r.HashToG1) > 0 && !bytes.Equal(got[:], r.HashToG1) {
			t.Errorf("round %d: point %x, %v", r.Round, got, err)
		}
	}
	for _, r := range file.Quicknet.Rounds {
		check(public, own.PublicKey(), r)
	}
	for _, r := range file.Own.Rounds {
		check(own.PublicKey(), public, r)
		if got, err := own.Sign(r.Round); err != nil || !bytes.Equal(got, r.Signature) {
			t.Errorf("own round %d: %x, %v", r.Round, got, err)
		}
	}
	t.Logf("beacons: %d rounds of quicknet, %d of our own", len(file.Quicknet.Rounds), len(file.Own.Rounds))
}

func TestRevealRoundVectors(t *testing.T) {
	var file struct {
		Plan []struct {
			Name                                                    string
			LastEpochBlock, PendingEpochAt, SubnetEpochIndex        uint64
			Tempo                                                   uint16
			BlocksSinceLastStep, HeadBlock, RevealPeriodEpochs      uint64
			CommitEpoch, TargetEpoch, FirstRevealBlock, RevealRound uint64
			HeadTimeUnix, BlockTimeSeconds                          float64
		}
		PlanErrors []struct {
			Name, Error string
			Tempo       uint16
		}
		NextEpochStartBlock []struct {
			Name                           string
			LastEpochBlock, PendingEpochAt uint64
			Tempo                          uint16
			NextEpochStartBlock            *uint64
		}
		Legacy []struct {
			NetUID, Tempo                                                          uint16
			CurrentBlock, RevealPeriodEpochs, Epoch, FirstRevealBlock, TargetBlock uint64
		}
		RoundTimes []struct {
			Round uint64
			Unix  int64
		}
	}
	vectors.JSON(t, "bittensor/reveal-round.json", &file)
	quicknet := Quicknet()
	for _, v := range file.Plan {
		s := Schedule{
			Tempo: v.Tempo, LastEpochBlock: v.LastEpochBlock, PendingEpochAt: v.PendingEpochAt,
			SubnetEpochIndex: v.SubnetEpochIndex, BlocksSinceLastStep: v.BlocksSinceLastStep,
		}
		p, err := s.Plan(v.HeadBlock, v.RevealPeriodEpochs)
		if want := (Plan{v.CommitEpoch, v.TargetEpoch, v.FirstRevealBlock, v.FirstRevealBlock + 3}); err != nil || p != want {
			t.Errorf("%s: %+v, want %+v (%v)", v.Name, p, want, err)
		}
		whole, part := math.Modf(v.HeadTimeUnix)
		now := time.Unix(int64(whole), int64(part*1e9))
		if got := p.Round(quicknet, now, v.HeadBlock, time.Duration(v.BlockTimeSeconds*1e9)); got != v.RevealRound {
			t.Errorf("%s: round %d, want %d", v.Name, got, v.RevealRound)
		}
	}
	for _, v := range file.PlanErrors {
		if _, err := (Schedule{Tempo: v.Tempo}).Plan(1, 1); err == nil || err.Error() != v.Error {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
	for _, v := range file.NextEpochStartBlock {
		got, ok := Schedule{Tempo: v.Tempo, LastEpochBlock: v.LastEpochBlock, PendingEpochAt: v.PendingEpochAt}.Next()
		if ok != (v.NextEpochStartBlock != nil) || ok && got != *v.NextEpochStartBlock {
			t.Errorf("%s: %d, %v", v.Name, got, ok)
		}
	}
	for _, v := range file.Legacy {
		p, err := LegacyPlan(v.NetUID, v.Tempo, v.CurrentBlock, v.RevealPeriodEpochs)
		if want := (Plan{v.Epoch, v.Epoch + v.RevealPeriodEpochs, v.FirstRevealBlock, v.TargetBlock}); err != nil || p != want {
			t.Errorf("legacy %d: %+v, want %+v (%v)", v.NetUID, p, want, err)
		}
	}
	for _, v := range file.RoundTimes {
		if at := quicknet.TimeOf(v.Round); at.Unix() != v.Unix || quicknet.RoundAt(at) != v.Round || quicknet.RoundAt(at.Add(-time.Nanosecond)) != v.Round-1 {
			t.Errorf("round %d appears at %d", v.Round, at.Unix())
		}
	}
	t.Logf("reveal rounds: %d plans, %d errors, %d next epochs, %d legacy, %d times",
		len(file.Plan), len(file.PlanErrors), len(file.NextEpochStartBlock), len(file.Legacy), len(file.RoundTimes))
}

func TestPlanRefusals(t *testing.T) {
	s := Schedule{Tempo: 360}
	for _, period := range []uint64{0, MaxRevealPeriod + 1, math.MaxUint64} {
		if _, err := s.Plan(5, period); !errors.Is(err, ErrRevealPeriod) {
			t.Errorf("period %d: %v", period, err)
		}
		if _, err := LegacyPlan(1, 360, 5, period); !errors.Is(err, ErrRevealPeriod) {
			t.Errorf("legacy period %d: %v", period, err)
		}
	}
	if _, err := LegacyPlan(1, 0, 5, 1); !errors.Is(err, ErrNoEpochs) {
		t.Errorf("legacy tempo 0: %v", err)
	}
	if got := (Plan{Target: 10}).Round(Quicknet(), time.Unix(0, 0), 5, time.Second); got != 1 {
		t.Errorf("round %d before the first", got)
	}
	for _, period := range []int64{1 << 31, 1 << 55, math.MaxInt64, -1} { // nanoseconds of them do not fit
		if got := (Plan{Target: 10}).Round(Beacon{Genesis: 0, Period: period}, time.Unix(1e9, 0), 5, time.Second); got != 1 {
			t.Errorf("a period of %d s: round %d, want 1", period, got)
		}
	}
}

// TestPlanMeetsTheWalk: whatever the schedule, a chain that walks by the same rules reveals in the planned block and not
// in the one before.
func TestPlanMeetsTheWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		last := rapid.Uint64Range(0, 5000).Draw(t, "last")
		head := last + rapid.Uint64Range(0, 300).Draw(t, "since")
		s := Schedule{
			Tempo: rapid.Uint16Range(1, 400).Draw(t, "tempo"), LastEpochBlock: last, SubnetEpochIndex: rapid.Uint64Range(0, 1<<40).Draw(t, "index"),
			BlocksSinceLastStep: rapid.Uint64Range(0, MaxTempo+5).Draw(t, "steps"),
		}
		if rapid.Bool().Draw(t, "asked") {
			s.PendingEpochAt = head + rapid.Uint64Range(1, 50).Draw(t, "pending")
		}
		period := rapid.Uint64Range(1, 6).Draw(t, "period")
		p, err := s.Plan(head, period)
		if err != nil {
			t.Fatal(err)
		}
		for block := head + 1; block < p.FirstReveal; block++ {
			if at := s.Lookahead(block); at >= p.TargetEpoch {
				t.Fatalf("block %d is in epoch %d already", block, at)
			}
			s = s.Pass(block)
		}
		if at := s.Lookahead(p.FirstReveal); at != p.CommitEpoch+period {
			t.Fatalf("epoch %d at the reveal", at)
		}
	})
}

// TestSealProperties: what is sealed opens, with the right round's signature alone, and no changed byte passes.
func TestSealProperties(t *testing.T) {
	beacon, err := NewSigner(append(make([]byte, 31), 7))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		round := rapid.Uint64().Draw(t, "round")
		plaintext := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "plaintext")
		random := rapid.SliceOfN(rapid.Byte(), 76, 76).Draw(t, "random")
		ciphertext, err := Encrypt(beacon.PublicKey(), round, plaintext, bytes.NewReader(random))
		if err != nil {
			t.Fatal(err)
		}
		signature, err := beacon.Sign(round)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decrypt(signature, ciphertext); err != nil || !bytes.Equal(got, plaintext) {
			t.Fatalf("opened %x, %v", got, err)
		}
		other, err := beacon.Sign(round + 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decrypt(other, ciphertext); !errors.Is(err, ErrCiphertext) {
			t.Fatalf("opened with another round: %v", err)
		}
		at := rapid.IntRange(0, len(ciphertext)-1).Draw(t, "at")
		ciphertext[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := Decrypt(signature, ciphertext); !errors.Is(err, ErrCiphertext) {
			t.Fatalf("opened with byte %d changed: %v", at, err)
		}
	})
}

func TestRefusals(t *testing.T) {
	v := sealedVectors(t).Vectors[0]
	key, err := ParsePublicKey(v.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for n := range v.Ciphertext {
		if n%7 != 0 && n < len(v.Ciphertext)-20 {
			continue
		}
		if _, err := Decrypt(v.Signature, v.Ciphertext[:n]); !errors.Is(err, ErrCiphertext) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := Decrypt(v.Signature, append(bytes.Clone(v.Ciphertext), 0)); !errors.Is(err, ErrCiphertext) {
		t.Errorf("a byte more: %v", err)
	}
	infinity := append([]byte{0xc0}, make([]byte, 95)...)
	for name, bad := range map[string][]byte{
		"empty": nil, "short": v.PublicKey[:95], "neutral": infinity, "zeros": make([]byte, 96), "off the curve": append([]byte{0x80}, infinity[1:]...),
	} {
		if _, err := ParsePublicKey(bad); !errors.Is(err, ErrPublicKey) {
			t.Errorf("public key, %s: %v", name, err)
		}
	}
	for name, bad := range map[string][]byte{"empty": nil, "short": v.Signature[:47], "zeros": make([]byte, 48), "neutral": infinity[:48]} {
		if err := key.Verify(v.Round, bad); !errors.Is(err, ErrSignature) {
			t.Errorf("signature, %s: %v", name, err)
		}
	}
	if _, err := Decrypt(v.Signature[1:], v.Ciphertext); !errors.Is(err, ErrSignature) {
		t.Errorf("cut signature: %v", err)
	}
	order, _ := hex.DecodeString("73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001")
	for name, bad := range map[string][]byte{"empty": nil, "zero": make([]byte, 32), "order": order, "long": make([]byte, 33)} {
		if _, err := NewSigner(bad); !errors.Is(err, ErrSecret) {
			t.Errorf("secret, %s: %v", name, err)
		}
	}
	if _, err := Encrypt(key, 1, nil, bytes.NewReader(make([]byte, 75))); err == nil {
		t.Error("sealed with too little randomness")
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "text": []byte("hello"), "huge": {0xfe, 0xff, 0xff, 0xff}, "big": {3, 1, 1, 1, 1}, "no key": {0, 0},
	} {
		if w, err := DecodeWeights(bad); !errors.Is(err, ErrPayload) {
			t.Errorf("payload, %s: %+v, %v", name, w, err)
		}
	}
}

func FuzzDecrypt(f *testing.F) {
	file := sealedVectors(f)
	signature := []byte(file.Vectors[0].Signature)
	for _, v := range file.Vectors {
		f.Add([]byte(v.Ciphertext))
	}
	f.Add([]byte(file.FinneyCommit.Ciphertext))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		plaintext, err := Decrypt(signature, data)
		switch {
		case err != nil && !errors.Is(err, ErrCiphertext):
			t.Errorf("unnamed error: %v", err)
		case err == nil && len(plaintext)+Overhead != len(data):
			t.Errorf("%d bytes of %d", len(plaintext), len(data))
		}
	})
}

func FuzzWeights(f *testing.F) {
	for _, v := range sealedVectors(f).Vectors {
		f.Add([]byte(v.Plaintext))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := DecodeWeights(data)
		if err != nil {
			if !errors.Is(err, ErrPayload) {
				t.Errorf("unnamed error: %v", err)
			}
			return
		}
		if again, err := DecodeWeights(w.Encode()); err != nil || !cmp.Equal(w, again) {
			t.Errorf("%+v reads back as %+v, %v", w, again, err)
		}
	})
}

func BenchmarkDecrypt(b *testing.B) {
	v := sealedVectors(b).Vectors[2]
	for b.Loop() {
		if _, err := Decrypt(v.Signature, v.Ciphertext); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyPulse(b *testing.B) {
	v := sealedVectors(b).Vectors[0]
	key, err := ParsePublicKey(v.PublicKey)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := key.Verify(v.Round, v.Signature); err != nil {
			b.Fatal(err)
		}
	}
}
