package attest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"

	"basilica/internal/vectors"
)

func ramp(from, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(from + i)
	}
	return b
}

// TestVectorsGPOW compares all 45 values of the specification.
func TestVectorsGPOW(t *testing.T) {
	ctx := context.Background()
	p := Params{N: 64, Layers: 5, Lanes: 64, Steps: 12, Batches: 3, WinLayers: 2, Cells: 64, Rounds: 8}
	bind := Binding{
		SessionID: ramp(0, 32), HostKey: []byte("host-key"),
		MinerHotkey: Key(ramp(0x80, 32)), ValidatorHotkey: Key(ramp(0xa0, 32)),
	}.Bind([]byte("spki"))
	seed := Seed(Digest(ramp(0, 32)), bind, 0, UUID(ramp(0x40, 16)), p)
	dev := NewCPU(Serial)
	roots, err := dev.Fill(ctx, p, seed)
	if err != nil {
		t.Fatal(err)
	}
	w := WalkKey(Digest(ramp(0x60, 32)), 0, seed)
	wroots, err := dev.Walk(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	m := MixKey(Digest(ramp(0xc0, 32)), 0, w)
	last, err := dev.Mix(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	trace, err := dev.Trace(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	add := func(k string, b []byte) { got[k] = hex.EncodeToString(b) }
	dig := func(k string, d Digest) { add(k, d[:]) }
	got["fmix(1)"] = fmt.Sprintf("%08x", fmix(1))
	got["phi(-12345,6,7,0x89abcdef)"] = fmt.Sprintf("%02x", phi(uint32(0xffffffff-12344), 6, 7, 0x89abcdef))
	dig("bind", bind)
	dig("ph_0", p.Hash())
	dig("seed_0", seed)
	for l := range p.Layers {
		add(fmt.Sprintf("X_%d first 16 bytes", l), dev.layer(l)[:16])
		add(fmt.Sprintf("root_%d", l), roots[l][:])
		if l >= 2 {
			a, rk := schedule(&seed, l)
			got[fmt.Sprintf("sched %d: pi/rk", l)] = fmt.Sprintf("%d/%08x", a, rk)
		}
	}
	final := Final(seed, roots)
	dig("final_0", final)
	dig("w_0", w)
	dig("bs_0", chain(final, w[:]))
	got["win(w_0, 0..2)"] = fmt.Sprint(p.window(&w, 0), p.window(&w, 1), p.window(&w, 2))
	for b := range wroots {
		add(fmt.Sprintf("wroot_%d", b), wroots[b][:])
	}
	if err := dev.replayWalk(ctx, func(b int, _, after []byte) {
		if b == 2 {
			add("lane 5 after batch 2", after[5*StateSize:6*StateSize])
		}
	}, func(b int) Node { return wroots[b] }); err != nil {
		t.Fatal(err)
	}
	dig("m_0", m)
	got["win(m_0, 0..1)"] = fmt.Sprint(p.window(&m, 0), p.window(&m, 1))
	c0 := firstCell(&m, 5)
	var cb [CellSize]byte
	c0.put(cb[:])
	add("Y_0 cell 5 first 16 bytes", cb[:16])
	j1, j2 := c0.partners(p.Cells)
	got["partners of cell 5 in round 1"] = fmt.Sprint(j1, j2)
	yroots := append(append([]Node(nil), trace...), last)
	for r := range yroots {
		add(fmt.Sprintf("yroot_%d", r+1), yroots[r][:])
	}
	if err := dev.replayMix(ctx, func(r int, _, after []byte) {
		if r == 8 {
			add("Y_8 cell 5 first 16 bytes", after[5*CellSize:5*CellSize+16])
		}
	}); err != nil {
		t.Fatal(err)
	}
	o, err := dev.Open(ctx, OpenRequest{
		Fill: []FillIndex{{0, 3, 9, 11}},
		Walk: []WalkIndex{{0, 5, 2}, {0, 5, 0}},
		Mix:  []MixIndex{{0, 8, 5}, {0, 1, 5}, {0, 2, 5}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for k, b := range map[string][]byte{
		"fill (3,9,11)": o.Fill[0], "walk (5,2)": o.Walk[0], "walk (5,0)": o.Walk[1],
		"mix (8,5)": o.Mix[0], "mix (1,5)": o.Mix[1], "mix (2,5)": o.Mix[2],
	} {
		h := sha256.Sum256(b)
		got["opening "+k] = fmt.Sprintf("%d B, H = %x", len(b), h[:8])
	}
	want := map[string]string{}
	vectors.JSON(t, "gpow/gpow.json", &want)
	if len(want) != 45 || len(got) != len(want) {
		t.Errorf("%d values computed, %d in the file", len(got), len(want))
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%-40s %s, want %q", k, got[k], v)
		}
	}
	c, err := NewChecker(p, seed, roots)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetWalk(w, wroots); err != nil {
		t.Fatal(err)
	}
	if err := c.SetMix(m, yroots); err != nil {
		t.Fatal(err)
	}
	if err := c.Fill(FillIndex{0, 3, 9, 11}, o.Fill[0]); err != nil {
		t.Error(err)
	}
	if err := c.Walk(WalkIndex{0, 5, 2}, o.Walk[0]); err != nil {
		t.Error(err)
	}
	if err := c.Mix(MixIndex{0, 8, 5}, o.Mix[0]); err != nil {
		t.Error(err)
	}
}
