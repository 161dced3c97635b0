//go:build !nocuda

package nvidia_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"basilica/attest"
	"basilica/nvidia"
	"basilica/nvidia/kernels"
)

// trial is a module with one of its products.
type trial struct {
	module  string
	ptx     []byte
	product nvidia.Product
}

// trials are the products of the module that the card gets, and those of the files that BASILICA_GPU_PTX names, separated by commas:
// "FILE KERNEL ROWS COLUMNS THREADS SHARED", with " 1" behind it for a kernel whose blocks share out the tiles among them.
func trials(t *testing.T, d *nvidia.Driver, c nvidia.Card) []trial {
	t.Helper()
	m, ok := kernels.For(c.Major, c.Minor, d.Version)
	if !ok {
		t.Fatalf("no kernels for compute capability %s", c.CC())
	}
	var all []trial
	for _, p := range nvidia.Products(m, c.SMs) {
		all = append(all, trial{m.Name, []byte(m.PTX), p})
	}
	for _, words := range strings.FieldsFunc(os.Getenv("BASILICA_GPU_PTX"), func(r rune) bool { return r == ',' }) {
		var x trial
		p := &x.product
		n, err := fmt.Sscan(words, &x.module, &p.Kernel, &p.Rows, &p.Columns, &p.Threads, &p.Shared, &p.Blocks)
		if n < 6 {
			t.Fatalf("BASILICA_GPU_PTX: %q: %v", words, err)
		}
		p.Blocks *= uint32(c.SMs)
		if x.ptx, err = os.ReadFile(x.module); err != nil {
			t.Fatal(err)
		}
		all = append(all, x)
	}
	return all
}

// TestCardProducts times every product on the card that is there, with its module's hashing, and holds their bytes against one another:
// the roots of 64 layers of n = 4096, and the last layer itself.
func TestCardProducts(t *testing.T) {
	if os.Getenv("BASILICA_GPU") != "1" {
		t.Skip("BASILICA_GPU=1 is not set: this test needs an NVIDIA GPU")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	d, err := nvidia.OpenDriver(nvidia.SearchDriver("/"))
	if err != nil {
		t.Fatal(err)
	}
	cards, _, err := d.Cards()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s, compute capability %s, %d multiprocessors, CUDA %d", cards[0].Name, cards[0].CC(), cards[0].SMs, d.Version)
	var first made
	for i, x := range trials(t, d, cards[0]) {
		o, err := x.run(t.Context(), d)
		if err != nil {
			t.Errorf("%s, %s: %v", x.module, x.product.Kernel, err)
			continue
		}
		t.Logf("%s, %s: %s Tops, hashed at %s GB/s, module loaded in %.2f s", x.module, x.product.Kernel, strings.Join(o.rates, " "), strings.Join(o.hash, " "), o.load.Seconds())
		if i == 0 {
			first = o
		} else if !slices.Equal(o.roots, first.roots) || !bytes.Equal(o.last, first.last) {
			t.Errorf("%s, %s makes other bytes than the first", x.module, x.product.Kernel)
		}
	}
}

// made is what a product made, and how fast.
type made struct {
	roots []attest.Node
	last  []byte
	rates []string
	hash  []string
	load  time.Duration
}

func (x trial) run(ctx context.Context, d *nvidia.Driver) (o made, err error) {
	began := time.Now()
	c, err := d.Use(0, x.ptx, nvidia.Kernels([]nvidia.Product{x.product}))
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	o.load = time.Since(began)
	g := nvidia.NewProver(c, []nvidia.Product{x.product}, time.Now)
	defer g.Release()
	p := attest.Params{N: 4096, Layers: 64, Lanes: 1 << 20, Steps: 64, Batches: 8, WinLayers: 16, Cells: 1 << 20, Rounds: 8}
	for range 4 {
		if o.roots, err = g.Fill(ctx, p, sha256.Sum256([]byte("card"))); err != nil {
			return o, err
		}
		o.rates = append(o.rates, fmt.Sprintf("%.1f", p.FillOps()/g.Spent().Products.Seconds()/1e12))
		o.hash = append(o.hash, fmt.Sprintf("%.0f", float64(p.FillBytes())/g.Spent().Hash.Seconds()/1e9))
	}
	return o, g.Bytes(func(l int, data []byte) error {
		if l == p.Layers-1 {
			o.last = slices.Clone(data)
		}
		return nil
	})
}
