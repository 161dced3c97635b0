package nvidia_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"testing"
	"time"

	"basilica"
	"basilica/attest"
	"basilica/attestor"
	"basilica/keys"
	"basilica/nvidia"
	"basilica/nvidia/kernels"
	"basilica/nvidia/ptxsim"
)

// small are sizes that an interpreter of PTX gets through.
func small(n int) attest.Params {
	return attest.Params{N: n, Layers: 4, Lanes: 32, Steps: 3, Batches: 3, WinLayers: 2, Cells: 32, Rounds: 8}
}

// interpreted is a worker on the interpreter of the module's PTX.
func interpreted(t *testing.T, m kernels.Module) *nvidia.Worker {
	t.Helper()
	parsed, err := ptxsim.Parse(m.PTX)
	if err != nil {
		t.Fatal(err)
	}
	w, err := nvidia.NewWorker(func() (nvidia.Session, error) {
		dev := ptxsim.New(parsed, ptxsim.Limits{Memory: 64 << 20, Steps: 1 << 26})
		return nvidia.Session{Device: dev, Products: nvidia.Products(m, 3), Close: func() error { return nil }}, nil
	}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// outcome is all that a prover says.
type outcome struct {
	roots, walk, mix []attest.Node
	block            []byte
	opened           attest.Opened
}

func prove(t *testing.T, w attestor.Worker, p attest.Params, seed attest.Digest) (o outcome) {
	t.Helper()
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	o.roots, err = w.Fill(t.Context(), p, seed)
	try(err)
	key := attest.WalkKey(attest.Digest{7}, 0, seed)
	o.walk, err = w.Walk(t.Context(), key)
	try(err)
	last, err := w.Mix(t.Context(), attest.MixKey(attest.Digest{8}, 0, key))
	try(err)
	o.mix, err = w.Trace(t.Context())
	try(err)
	o.mix = append(slices.Clone(o.mix), last)
	o.block, err = w.Block(t.Context(), 5)
	try(err)
	q := attest.OpenRequest{Blocks: []uint64{0, p.Blocks() - 1}, PRG: []attest.PRGIndex{{L: 1, Leaf: 3}}}
	for k := range 8 {
		q.Fill = append(q.Fill, attest.FillIndex{L: 2 + k%(p.Layers-2), I: k * 37 % p.N, J: k * 101 % p.N})
		q.Walk = append(q.Walk, attest.WalkIndex{Lane: k * 29 % p.Lanes, Batch: k % p.Batches})
	}
	for r := range p.Rounds {
		q.Mix = append(q.Mix, attest.MixIndex{Round: r + 1, Cell: r * 17 % p.Cells}, attest.MixIndex{Round: p.Rounds - r, Cell: r})
	}
	o.opened, err = w.Open(t.Context(), q)
	try(err)
	return o
}

// same compares what two provers said.
func same(a, b outcome) error {
	for _, x := range []struct {
		what string
		a, b any
	}{
		{"roots of layers", a.roots, b.roots},
		{"roots of batches", a.walk, b.walk},
		{"roots of rounds", a.mix, b.mix},
		{"block", a.block, b.block},
		{"openings of elements", a.opened.Fill, b.opened.Fill},
		{"openings of generated leaves", a.opened.PRG, b.opened.PRG},
		{"openings of lanes", a.opened.Walk, b.opened.Walk},
		{"openings of cells", a.opened.Mix, b.opened.Mix},
		{"openings of blocks", a.opened.Blocks, b.opened.Blocks},
	} {
		if fmt.Sprint(x.a) != fmt.Sprint(x.b) {
			return fmt.Errorf("%s differ", x.what)
		}
	}
	return nil
}

// TestProverEqualsTheReference: over the interpreted PTX the GPU prover says what the CPU prover says, byte for byte.
func TestProverEqualsTheReference(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		m kernels.Module
		n int
	}{{kernels.Oldest(), 64}, {kernels.TensorCores(), 128}, {kernels.Hopper(), 256}} {
		t.Run(fmt.Sprintf("%s n=%d", c.m.Name, c.n), func(t *testing.T) {
			t.Parallel()
			p, seed := small(c.n), sha256.Sum256([]byte{byte(c.n)})
			w := interpreted(t, c.m)
			got, want := prove(t, w, p, seed), prove(t, attest.NewCPU(attest.Serial), p, seed)
			if err := same(got, want); err != nil {
				t.Fatal(err)
			}
			cpu := attest.NewCPU(attest.Serial)
			if _, err := cpu.Fill(t.Context(), p, seed); err != nil {
				t.Fatal(err)
			}
			err := w.Do(func(_ nvidia.Device, g *nvidia.Prover) error {
				return g.Bytes(func(l int, data []byte) error {
					for i := 0; i < len(data); i += attest.BlockSize {
						b, err := cpu.Block(t.Context(), uint64(l*len(data)+i)/attest.BlockSize)
						if err != nil {
							return err
						}
						if !bytes.Equal(b, data[i:i+attest.BlockSize]) {
							return fmt.Errorf("byte %d of layer %d or one behind it differs", i, l)
						}
					}
					return nil
				})
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// gpu is a worker as a device of the attestor.
type gpu struct {
	*nvidia.Worker
	info attest.DeviceInfo
}

func (g gpu) Info() attest.DeviceInfo { return g.info }

// session runs one challenge between the validator's state machine and the attestor over a connection.
func session(t *testing.T, profiles attest.Profiles, devices ...attestor.Device) attest.Judgement {
	t.Helper()
	key, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	binding := attest.Binding{SessionID: []byte("session"), HostKey: []byte("host"), MinerHotkey: attest.Key{1}, ValidatorHotkey: attest.Key{2}}
	ours, theirs := net.Pipe()
	proved := make(chan error, 1)
	go func() {
		_, err := attestor.Prove(t.Context(), theirs, attestor.Config{
			Binding: &binding, Greeting: attest.Greeting{Version: "test", SPKI: key.SPKI()}, Devices: devices,
			Sign: key.Sign, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		proved <- err
	}()
	v, err := attest.NewVerifier(attest.Setup{
		Binding: binding, Strength: attest.RecheckStrength(), Profiles: profiles, Started: time.Now(),
	}, rand.Reader, func([]byte) ([]byte, error) { return []byte("sig"), nil })
	if err != nil {
		t.Fatal(err)
	}
	for !v.Done() {
		if err := ours.SetDeadline(v.Deadline()); err != nil {
			t.Fatal(err)
		}
		if f, ok := v.Next(); ok {
			if _, err := ours.Write(f); err != nil {
				v.Fail(attest.FailureOf(err), err.Error(), time.Now())
				continue
			}
			v.Sent(time.Now())
			continue
		}
		f, err := attest.ReadFrame(ours, v.Cap)
		if err != nil {
			v.Fail(attest.FailureOf(err), err.Error(), time.Now())
			continue
		}
		v.Receive(f, time.Now())
	}
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-proved; err != nil {
		t.Log("attestor:", err)
	}
	r, err := v.Record()
	if err != nil {
		t.Fatal(err)
	}
	return r.Judgement
}

// profileOf makes a model of these sizes that has all the time it wants.
func profileOf(model string, p attest.Params) attest.Profiles {
	return attest.Profiles{{Model: model, Params: &p, Expect: attest.Expect{Fill: 60, Walk: 60, Mix: 60}}}
}

// TestSessionOverPTX: a whole challenge of an interpreted card passes at the validator.
func TestSessionOverPTX(t *testing.T) {
	t.Parallel()
	p := attest.Params{N: 128, Layers: 4, Lanes: 16, Steps: 2, Batches: 2, WinLayers: 2, Cells: 16, Rounds: 4}
	card := gpu{interpreted(t, kernels.TensorCores()), attest.DeviceInfo{UUID: attest.UUID{1}, Name: "interpreted", VRAMBytes: p.FillBytes(), FreeBytes: p.DeviceBytes()}}
	j := session(t, profileOf("interpreted", p), card)
	if v := j.Verdict(); v != basilica.Pass && v != basilica.Unsure || len(j.GPUs) != 1 || j.GPUs[0].M != p.FillBytes() {
		t.Fatalf("%+v", j)
	}
}

// TestProverKeepsTheOrder: nothing is answered before its time, and sizes that no kernel makes are refused.
func TestProverKeepsTheOrder(t *testing.T) {
	t.Parallel()
	w := interpreted(t, kernels.Oldest())
	p := small(64)
	if _, err := w.Walk(t.Context(), attest.Digest{}); !errors.Is(err, attest.ErrOrder) {
		t.Error("walk:", err)
	}
	if _, err := w.Mix(t.Context(), attest.Digest{}); !errors.Is(err, attest.ErrOrder) {
		t.Error("mix:", err)
	}
	if _, err := w.Trace(t.Context()); !errors.Is(err, attest.ErrOrder) {
		t.Error("trace:", err)
	}
	if _, err := w.Open(t.Context(), attest.OpenRequest{}); !errors.Is(err, attest.ErrOrder) {
		t.Error("open:", err)
	}
	if _, err := w.Block(t.Context(), 0); !errors.Is(err, attest.ErrOrder) {
		t.Error("block:", err)
	}
	p.Rounds = 3
	if _, err := w.Fill(t.Context(), p, attest.Digest{}); !errors.Is(err, attest.ErrParams) {
		t.Error("three rounds:", err)
	}
	g := nvidia.NewProver(nil, []nvidia.Product{{Kernel: "gemm_mma", Rows: 128, Columns: 128, Threads: 256}}, time.Now)
	if _, err := g.Fill(t.Context(), small(64), attest.Digest{}); !errors.Is(err, attest.ErrParams) {
		t.Error("n below the tile:", err)
	}
}
