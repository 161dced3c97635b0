//go:build !nocuda

package nvidia

import (
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/ebitengine/purego"

	"basilica/attest"
)

// envCard is set to 1 for the tests that need a card.
const envCard = "BASILICA_GPU"

func needCard(t *testing.T) {
	t.Helper()
	if os.Getenv(envCard) != "1" {
		t.Skip("needs a card: set " + envCard + "=1")
	}
}

// The driver's virtual memory (CUDA Driver API, "Virtual Memory Management"), which only the cheat needs.
const (
	allocationPinned = 1
	locationDevice   = 1
	locationHostNUMA = 3
	accessReadWrite  = 3
	hostDeviceMap    = 2 // of cuMemHostAlloc
)

type (
	memoryLocation struct{ kind, id int32 }
	memoryProps    struct {
		kind, _ int32
		at      memoryLocation
		_       uintptr
		_       uint64
	}
	memoryAccess struct {
		at    memoryLocation
		flags int32
	}
)

// pager is the driver with the calls by which a range of addresses is put together of memory from several places.
type pager struct {
	t                     *testing.T
	d                     *Driver
	cuMemAddressReserve   func(at *Memory, bytes, alignment uint64, fixed Memory, flags uint64) result
	cuMemAddressFree      func(at Memory, bytes uint64) result
	cuMemCreate           func(handle *uint64, bytes uint64, props *memoryProps, flags uint64) result
	cuMemRelease          func(handle uint64) result
	cuMemMap              func(at Memory, bytes, offset, handle, flags uint64) result
	cuMemUnmap            func(at Memory, bytes uint64) result
	cuMemSetAccess        func(at Memory, bytes uint64, access *memoryAccess, count uint64) result
	cuMemHostAlloc        func(at *uintptr, bytes uint64, flags uint32) result
	cuMemHostGetDevicePtr func(at *Memory, host uintptr, flags uint32) result
	cuMemFreeHost         func(at uintptr) result
	cuMemcpyAsync         func(to, from Memory, bytes uint64, stream uintptr) result
}

func newPager(t *testing.T, d *Driver) *pager {
	t.Helper()
	l, err := load(SearchDriver("/"))
	if err != nil {
		t.Fatal(err)
	}
	p := &pager{t: t, d: d}
	for symbol, function := range map[string]any{
		"cuMemAddressReserve": &p.cuMemAddressReserve, "cuMemAddressFree": &p.cuMemAddressFree, "cuMemCreate": &p.cuMemCreate,
		"cuMemRelease": &p.cuMemRelease, "cuMemMap": &p.cuMemMap, "cuMemUnmap": &p.cuMemUnmap, "cuMemSetAccess": &p.cuMemSetAccess,
		"cuMemHostAlloc": &p.cuMemHostAlloc, "cuMemHostGetDevicePointer_v2": &p.cuMemHostGetDevicePtr, "cuMemFreeHost": &p.cuMemFreeHost,
		"cuMemcpyAsync": &p.cuMemcpyAsync,
	} {
		if _, err := purego.Dlsym(l.handle, symbol); err != nil {
			t.Fatal(err)
		}
		purego.RegisterLibFunc(function, l.handle, symbol)
	}
	return p
}

// must ends the test where a call fails.
func (p *pager) must(call string, r result) {
	p.t.Helper()
	if r != 0 {
		p.t.Fatalf("%s: %s", call, p.d.name(r))
	}
}

// place maps new memory of a location at an address, and says whether the driver gives any.
func (p *pager) place(at Memory, bytes uint64, where memoryLocation) bool {
	p.t.Helper()
	var handle uint64
	if r := p.cuMemCreate(&handle, bytes, &memoryProps{kind: allocationPinned, at: where}, 0); r != 0 {
		p.t.Logf("cuMemCreate of %d MiB at %+v: %s", bytes>>20, where, p.d.name(r))
		return false
	}
	p.must("cuMemMap", p.cuMemMap(at, bytes, 0, handle, 0))
	p.t.Cleanup(func() {
		p.must("cuMemUnmap", p.cuMemUnmap(at, bytes))
		p.must("cuMemRelease", p.cuMemRelease(handle))
	})
	p.must("cuMemSetAccess", p.cuMemSetAccess(at, bytes, &memoryAccess{memoryLocation{locationDevice, 0}, accessReadWrite}, 1))
	return true
}

// halves gives the addresses of a fill's two halves, the first on the card and the second in the host's memory: next to each
// other where the driver maps the host's memory into the range, else wherever cuMemHostAlloc puts it.
func (p *pager) halves(half uint64, chunk uint64) (first, second Memory, how string) {
	p.t.Helper()
	p.must("cuMemAddressReserve", p.cuMemAddressReserve(&first, 2*half, 0, 0, 0))
	p.t.Cleanup(func() { p.must("cuMemAddressFree", p.cuMemAddressFree(first, 2*half)) })
	for at := uint64(0); at < half; at += chunk {
		if !p.place(first+Memory(at), chunk, memoryLocation{locationDevice, 0}) {
			p.t.Fatal("the card has no room for the half")
		}
	}
	mapped := true
	for at := half; at < 2*half && mapped; at += chunk {
		mapped = p.place(first+Memory(at), chunk, memoryLocation{locationHostNUMA, 0})
	}
	if mapped {
		return first, first + Memory(half), "one range, its second half the host's memory (cuMemCreate, NUMA node 0)"
	}
	var host uintptr
	p.must("cuMemHostAlloc", p.cuMemHostAlloc(&host, half, hostDeviceMap))
	p.t.Cleanup(func() { p.must("cuMemFreeHost", p.cuMemFreeHost(host)) })
	p.must("cuMemHostGetDevicePointer", p.cuMemHostGetDevicePtr(&second, host, 0))
	return first, second, "two ranges, the second pinned memory of the host (cuMemHostAlloc)"
}

// walkOver is Prover.Walk with the fill where base says, batch by batch.
func walkOver(t *testing.T, g *Prover, base func(b int) Memory) (roots []attest.Node, took time.Duration) {
	t.Helper()
	if err := g.dev.Sync(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	bs := attest.FirstLink(attest.Digest{}, g.walkKey)
	for b := range g.p.Batches {
		g.fill = base(b)
		if err := g.batch(b, bs); err != nil {
			t.Fatal(err)
		}
		root, err := g.hash(g.work, 1, attest.StateTag(b), g.walkDigests()).read(g, 1)
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, root[0])
		bs = attest.NextLink(bs, root[0])
	}
	return roots, time.Since(began)
}

// TestCardWithHalfItsMemory is a cheat whose card holds half of the fill and keeps the rest in the host's memory: whether its walk
// reads there or fetches every missing window first, it takes more than ten times as long as one over the card's own memory. The
// windows have the size of an H200's; each is either wholly on the card or wholly not.
func TestCardWithHalfItsMemory(t *testing.T) {
	needCard(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	d, err := OpenDriver(SearchDriver("/"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Session(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	g := NewProver(s.Device, s.Products, time.Now)
	g.p = attest.Params{N: 4096, Layers: 4 * 919, Lanes: 1 << 23, Steps: 16, Batches: 8, WinLayers: 919, Cells: 1 << 20, Rounds: 4}
	g.walkKey = attest.WalkKey(attest.Digest{7}, 0, attest.Digest{})
	alloc := func(bytes uint64) Memory {
		m, err := s.Device.Alloc(bytes)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Device.Free(m); err != nil {
				t.Error(err)
			}
		})
		return m
	}
	g.work = alloc(g.p.WorkBytes())
	bytes, window := g.p.FillBytes(), uint64(g.p.WinLayers)*uint64(g.p.LayerBytes())
	began := time.Now()
	pages := newPager(t, d)
	whole, fetched := alloc(bytes), alloc(window)
	first, second, how := pages.halves(bytes/2, window)
	t.Logf("%d MiB, half of them on the card; %s; taken in %.1f s", bytes>>20, how, time.Since(began).Seconds())
	for at := uint64(0); at < bytes; at += window { // the same bytes in both, made on the card
		to := first + Memory(at)
		if at >= bytes/2 {
			to = second + Memory(at-bytes/2)
		}
		if err := g.generate(whole+Memory(at), window, uint32(at>>20), 1); err != nil {
			t.Fatal(err)
		}
		pages.must("cuMemcpyAsync", pages.cuMemcpyAsync(to, whole+Memory(at), window, 0))
	}
	missing := 0
	for b := range g.p.Batches {
		if g.windowAt(g.walkKey, b) >= bytes/2 {
			missing++
		}
	}
	honest := func(int) Memory { return whole }
	walkOver(t, g, honest) // to warm up
	want, alone := walkOver(t, g, honest)
	report := func(what string, roots []attest.Node, took time.Duration) {
		factor := float64(took) / float64(alone)
		t.Logf("%d batches, %d of them over a window that is not on the card: %.3f s %s, %.3f s honestly: %.1f times", g.p.Batches, missing, took.Seconds(), what, alone.Seconds(), factor)
		if !slices.Equal(roots, want) {
			t.Errorf("%s: the roots are not those of an honest walk", what)
		}
		if factor < 10 {
			t.Errorf("%s: less than ten times slower", what)
		}
	}
	roots, took := walkOver(t, g, func(b int) Memory {
		at := Memory(g.windowAt(g.walkKey, b))
		if at < Memory(bytes/2) {
			return first
		}
		pages.must("cuMemcpyAsync", pages.cuMemcpyAsync(fetched, second+at-Memory(bytes/2), window, 0))
		return fetched - at // the kernel adds the window's place
	})
	report("with every missing window fetched", roots, took)
	roots, took = walkOver(t, g, func(b int) Memory {
		if Memory(g.windowAt(g.walkKey, b)) < Memory(bytes/2) {
			return first
		}
		return second - Memory(bytes/2)
	})
	report("with reads over the link", roots, took)
}
