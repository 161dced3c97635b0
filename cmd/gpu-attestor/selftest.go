package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/attest"
	"basilica/attestor"
	"basilica/keys"
)

// selftestReport is what `gpu-attestor selftest --json` prints. Seconds are of one software device.
type selftestReport struct {
	OK           bool    `json:"ok"`
	Vectors      int     `json:"vectors"`  // that equal the specification's
	Openings     int     `json:"openings"` // that verified
	FillSeconds  float64 `json:"fill_seconds"`
	WalkSeconds  float64 `json:"walk_seconds"`
	MixSeconds   float64 `json:"mix_seconds"`
	OpenSeconds  float64 `json:"open_seconds"`
	CheckSeconds float64 `json:"check_seconds"`
	OpsPerSecond float64 `json:"ops_per_second"`
	Squarings    float64 `json:"squarings_per_second"`
}

func selftestCommand(o *options) *cobra.Command {
	runs, device := 3, ""
	cmd := &cobra.Command{
		Use: "selftest", Short: "Compare this machine's arithmetic with the specification and time it", Args: cobra.NoArgs,
		Long: `Compare this machine's arithmetic with the specification and time it. With --device cuda: every GPU against
the CPU, then challenges that fill its memory, beside a plain copy. The entry "profile" of --json is one for attest/models.json.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runs < 1 || runs > 1000 {
				return basilica.E(basilica.Invalid, "USAGE", "the number of runs is not 1 to 1000", "give --runs N")
			}
			if err := checkDevice(device); err != nil {
				return err
			}
			if device == deviceCUDA {
				r, err := selftestCUDA(cmd.Context(), runs, fullSize, attestor.Workers(o.parallel))
				switch {
				case err != nil:
					return selftestError(err)
				case o.json:
					return printJSON(cmd.OutOrStdout(), r)
				}
				return r.print(cmd.OutOrStdout())
			}
			r, err := selftest(cmd.Context(), attestor.Workers(o.parallel))
			if err != nil {
				return selftestError(err)
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), r)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok: %d vectors, %d openings; fill %.2f s (%.1f Gops), walk %.2f s, mix %.2f s, openings %.2f s, check %.3f s, %.2f M squarings/s\n",
				r.Vectors, r.Openings, r.FillSeconds, r.OpsPerSecond/1e9, r.WalkSeconds, r.MixSeconds, r.OpenSeconds, r.CheckSeconds, r.Squarings/1e6)
			return err
		},
	}
	cmd.Flags().StringVar(&device, "device", deviceSoftware, "cuda or software")
	cmd.Flags().IntVar(&runs, "runs", runs, "timed challenges on every GPU")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// selftestError gives a wrong result its code; a device that could not be used has its own.
func selftestError(err error) error {
	if basilica.CodeOf(err) != "" || errors.Is(err, context.Canceled) {
		return err
	}
	return basilica.E(basilica.Internal, "SELFTEST_FAILED", "this machine does not compute what the specification says",
		"check its memory and the binary's checksum").With(err)
}

// vectors are values of gpu-proof.md section 4: final_0 and the last roots of walk and mix.
var vectors = map[string]string{
	"final_0": "19db50ab080f6df7efa589719255f88a00aa5ef8042450b7bab5a4d5bc1ca8fd",
	"wroot_2": "aca5794403d256dd96eb81e0c32eec5a2c95f2cba4bde9bb",
	"yroot_8": "e84be928a44f3b87c3685bd4f6afc8f4094a79399f269dc9",
}

func ramp(from, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(from + i)
	}
	return b
}

// proof is one device's work from seed to traces.
type proof struct {
	seed, walk, mix             attest.Digest
	roots, wroots, yroots       []attest.Node
	fill, walked, mixed, traced time.Duration
	kernel                      string // of a GPU, which made the layers
}

// equal compares what two devices committed to under the same keys.
func (w proof) equal(other proof) error {
	switch {
	case !slices.Equal(w.roots, other.roots):
		return errors.New("the roots of the layers differ")
	case !slices.Equal(w.wroots, other.wroots):
		return errors.New("the roots of the walk differ")
	case !slices.Equal(w.yroots, other.yroots):
		return errors.New("the roots of the mix differ")
	}
	return nil
}

func work(ctx context.Context, dev attestor.Worker, p attest.Params, seed, nonceW, nonceM attest.Digest) (w proof, err error) {
	w.seed, w.walk = seed, attest.WalkKey(nonceW, 0, seed)
	w.mix = attest.MixKey(nonceM, 0, w.walk)
	t := time.Now()
	if w.roots, err = dev.Fill(ctx, p, seed); err != nil {
		return w, err
	}
	w.fill, t = time.Since(t), time.Now()
	if w.wroots, err = dev.Walk(ctx, w.walk); err != nil {
		return w, err
	}
	w.walked, t = time.Since(t), time.Now()
	last, err := dev.Mix(ctx, w.mix)
	if err != nil {
		return w, err
	}
	w.mixed, t = time.Since(t), time.Now()
	trace, err := dev.Trace(ctx)
	w.traced = time.Since(t)
	w.yroots = append(slices.Clone(trace), last)
	return w, err
}

func selftest(ctx context.Context, parallel attest.Parallel) (r selftestReport, err error) {
	if r.Vectors, err = compareVectors(ctx, parallel); err != nil {
		return r, err
	}
	var random [96]byte
	if _, err := rand.Read(random[:]); err != nil {
		return r, err
	}
	p := attest.SoftwareParams()
	dev := attest.NewCPU(parallel)
	w, err := work(ctx, dev, p, attest.Digest(random[:32]), attest.Digest(random[32:64]), attest.Digest(random[64:]))
	if err != nil {
		return r, err
	}
	r.FillSeconds, r.WalkSeconds, r.MixSeconds = w.fill.Seconds(), w.walked.Seconds(), w.mixed.Seconds()
	r.OpsPerSecond = p.FillOps() / r.FillSeconds
	if r.Openings, r.OpenSeconds, r.CheckSeconds, err = checkOpenings(ctx, dev, p, w, attest.EnrolmentStrength()); err != nil {
		return r, err
	}
	if err := timeSquarings(ctx, &r); err != nil {
		return r, err
	}
	r.OK = true
	return r, nil
}

func compareVectors(ctx context.Context, parallel attest.Parallel) (int, error) {
	p := attest.Params{N: 64, Layers: 5, Lanes: 64, Steps: 12, Batches: 3, WinLayers: 2, Cells: 64, Rounds: 8}
	bind := attest.Binding{
		SessionID: ramp(0, 32), HostKey: []byte("host-key"),
		MinerHotkey: attest.Key(ramp(0x80, 32)), ValidatorHotkey: attest.Key(ramp(0xa0, 32)),
	}.Bind([]byte("spki"))
	seed := attest.Seed(attest.Digest(ramp(0, 32)), bind, 0, attest.UUID(ramp(0x40, 16)), p)
	dev := attest.NewCPU(parallel)
	w, err := work(ctx, dev, p, seed, attest.Digest(ramp(0x60, 32)), attest.Digest(ramp(0xc0, 32)))
	if err != nil {
		return 0, err
	}
	final := attest.Final(seed, w.roots)
	for name, got := range map[string][]byte{"final_0": final[:], "wroot_2": w.wroots[2][:], "yroot_8": w.yroots[7][:]} {
		if want, err := hex.DecodeString(vectors[name]); err != nil || !bytes.Equal(got, want) {
			return 0, fmt.Errorf("%s is %x, want %s", name, got, vectors[name])
		}
	}
	return len(vectors), nil
}

// drawn is what a validator of that strength asks for, drawn anew.
func drawn(p attest.Params, s attest.Strength, random *mathrand.Rand) (q attest.OpenRequest) {
	for range s.Fill {
		q.Fill = append(q.Fill, attest.FillIndex{L: 2 + random.IntN(p.Layers-2), I: random.IntN(p.N), J: random.IntN(p.N)})
	}
	for range s.Walk {
		q.Walk = append(q.Walk, attest.WalkIndex{Lane: random.IntN(p.Lanes), Batch: random.IntN(p.Batches)})
	}
	for k := range s.Mix * p.Rounds {
		q.Mix = append(q.Mix, attest.MixIndex{Round: 1 + k%p.Rounds, Cell: random.IntN(p.Cells)})
	}
	for k := range s.PRG {
		q.PRG = append(q.PRG, attest.PRGIndex{L: k % 2, Leaf: random.IntN(p.Leaves(0))})
	}
	for range s.Ping {
		q.Blocks = append(q.Blocks, random.Uint64N(p.Blocks()))
	}
	return q
}

// checkOpenings opens as much as a validator of that strength asks for, and verifies everything as a validator would.
func checkOpenings(ctx context.Context, dev attestor.Worker, p attest.Params, w proof, s attest.Strength) (openings int, openSeconds, checkSeconds float64, err error) {
	q := drawn(p, s, mathrand.New(mathrand.NewChaCha8(w.seed)))
	t := time.Now()
	o, err := dev.Open(ctx, q)
	if err != nil {
		return 0, 0, 0, err
	}
	openSeconds, t = time.Since(t).Seconds(), time.Now()
	c, err := attest.NewChecker(p, w.seed, w.roots)
	if err == nil {
		err = errors.Join(c.SetWalk(w.walk, w.wroots), c.SetMix(w.mix, w.yroots))
	}
	if err != nil {
		return 0, 0, 0, err
	}
	check := func(err error) error {
		openings++
		return err
	}
	for k, x := range q.Fill {
		if err := check(c.Fill(x, o.Fill[k])); err != nil {
			return 0, 0, 0, err
		}
	}
	for k, x := range q.PRG {
		if err := check(c.PRG(x, o.PRG[k])); err != nil {
			return 0, 0, 0, err
		}
	}
	for k, x := range q.Walk {
		if err := check(c.Walk(x, o.Walk[k])); err != nil {
			return 0, 0, 0, err
		}
	}
	for k, x := range q.Mix {
		if err := check(c.Mix(x, o.Mix[k])); err != nil {
			return 0, 0, 0, err
		}
	}
	for k, i := range q.Blocks {
		_, err := c.Block(i, o.Blocks[k])
		if err := check(err); err != nil {
			return 0, 0, 0, err
		}
	}
	return openings, openSeconds, time.Since(t).Seconds(), nil
}

// timeSquarings solves and checks a short VDF, and signs and verifies with a throw-away key.
func timeSquarings(ctx context.Context, r *selftestReport) error {
	const squarings = 1 << 16
	trap, err := attest.NewTrapdoor(rand.Reader)
	if err != nil {
		return err
	}
	z := trap.Puzzle(attest.Digest{1}, squarings)
	t := time.Now()
	y, _, err := z.Solve(ctx)
	if err != nil {
		return err
	}
	r.Squarings = squarings / time.Since(t).Seconds()
	if err := trap.Verify(z, y); err != nil {
		return err
	}
	k, err := keys.GenerateP256()
	if err != nil {
		return err
	}
	sig, err := k.Sign([]byte("selftest"))
	if err != nil {
		return err
	}
	return keys.VerifyP256(k.SPKI(), []byte("selftest"), sig)
}
