package attest

import (
	"errors"
	"fmt"
	"math/bits"
)

// Sizes in bytes that the wire layout fixes.
const (
	LeafSize  = 512 // data bytes of a Merkle leaf
	NodeSize  = 24  // a tree node: SHA-256 cut to 24 bytes
	BlockSize = 128 // what one step of the walk reads
	StateSize = 32  // one lane
	CellSize  = 128 // one cell of the mix
)

// mixEvery is the distance of the rounds of the mix that read the fill.
const mixEvery = 4

// ErrParams says that a set of parameters is outside of what the arithmetic covers.
var ErrParams = errors.New("attest: parameters out of range")

// Params are the sizes of one GPU's challenge (gpu-proof.md section 6). The fill has Layers layers of N*N bytes.
type Params struct {
	N         int `json:"n"`          // matrix dimension, a power of two in 32..65536
	Layers    int `json:"layers"`     // L, at least 3
	Lanes     int `json:"lanes"`      // independent walkers, a power of two from 16
	Steps     int `json:"steps"`      // reads per lane and batch
	Batches   int `json:"batches"`    // barriers of the walk
	WinLayers int `json:"win_layers"` // layers per window, 1..Layers
	Cells     int `json:"cells"`      // cells of the mix, a power of two in 16..2^27
	Rounds    int `json:"rounds"`     // rounds of the mix, a multiple of 4
}

func powerOfTwo(x int) bool { return x > 0 && x&(x-1) == 0 }

// Check refuses shapes that the arithmetic does not cover: ErrParams.
func (p Params) Check() error {
	switch {
	case !powerOfTwo(p.N) || p.N < 32 || p.N > 65536:
		return fmt.Errorf("%w: n = %d", ErrParams, p.N)
	case p.Layers < 3 || p.Layers >= 1<<30:
		return fmt.Errorf("%w: L = %d", ErrParams, p.Layers)
	case p.WinLayers < 1 || p.WinLayers > p.Layers || p.WinBlocks() >= 1<<32:
		return fmt.Errorf("%w: winLayers = %d", ErrParams, p.WinLayers)
	case !powerOfTwo(p.Lanes) || p.Lanes < 16 || p.Lanes > 1<<31:
		return fmt.Errorf("%w: lanes = %d", ErrParams, p.Lanes)
	case p.Steps < 1 || p.Steps > 1<<16:
		return fmt.Errorf("%w: steps = %d", ErrParams, p.Steps)
	case p.Batches < 1 || p.Batches > 1<<20:
		return fmt.Errorf("%w: batches = %d", ErrParams, p.Batches)
	case !powerOfTwo(p.Cells) || p.Cells < 16 || p.Cells > 1<<27:
		return fmt.Errorf("%w: cells = %d", ErrParams, p.Cells)
	case p.Rounds < mixEvery || p.Rounds%mixEvery != 0 || p.Rounds > 1<<20:
		return fmt.Errorf("%w: rounds = %d", ErrParams, p.Rounds)
	}
	return nil
}

// LayerBytes is the size of one layer.
func (p Params) LayerBytes() int { return p.N * p.N }

// FillBytes is the size of the whole fill: what M_g claims.
func (p Params) FillBytes() uint64 { return uint64(p.Layers) * uint64(p.LayerBytes()) }

// DeviceBytes is what a device needs.
func (p Params) DeviceBytes() uint64 { return p.FillBytes() + p.WorkBytes() }

// WorkBytes is what a device needs besides the fill: both cell arrays, in whose memory the lanes and the trees live too, two
// nodes a leaf.
func (p Params) WorkBytes() uint64 {
	trees := func(leaves int) uint64 { return 2 * NodeSize * uint64(leaves) }
	return max(2*uint64(p.Cells)*CellSize, uint64(p.Lanes)*StateSize+256+trees(p.stateLeaves()), trees(p.layerLeaves()))
}

// FillOps counts the int8 operations of the fill, a multiply-add as two.
func (p Params) FillOps() float64 {
	n := float64(p.N)
	return float64(p.Layers-2) * 2 * n * n * n
}

// WalkBytes counts the bytes that the walk reads.
func (p Params) WalkBytes() float64 {
	return float64(p.Batches) * float64(p.Lanes) * float64(p.Steps) * BlockSize
}

// MixBytes counts the bytes that the mix moves: own read and write, two partners and a quarter block a cell and round.
func (p Params) MixBytes() float64 { return float64(p.Rounds) * float64(p.Cells) * 544 }

// WinBlocks is the number of 128-byte blocks of a window.
func (p Params) WinBlocks() int { return p.WinLayers * p.LayerBytes() / BlockSize }

// Blocks is the number of 128-byte blocks of the whole fill.
func (p Params) Blocks() uint64 { return p.FillBytes() / BlockSize }

func (p Params) layerLeaves() int     { return p.LayerBytes() / LeafSize }
func (p Params) stateLeaves() int     { return p.Lanes * StateSize / LeafSize }
func (p Params) cellLeaves() int      { return p.Cells * CellSize / LeafSize }
func (p Params) rowLeaves() int       { return max(1, p.N/LeafSize) }
func (p Params) rowLeaf(i int) int    { rl := p.rowLeaves(); return i * p.N / LeafSize / rl * rl }
func (p Params) readsFill(r int) bool { return r%mixEvery == 0 }

// openSize is the exact length of an opening of cnt leaves of a tree of so many leaves.
func openSize(leaves, cnt int) int {
	return cnt*LeafSize + NodeSize*(bits.Len(uint(leaves))-bits.Len(uint(cnt)))
}

// LeafOpening is the exact length in bytes of an opened leaf of a layer (prg, ping).
func (p Params) LeafOpening() int { return openSize(p.layerLeaves(), 1) }

// FillOpening is the exact length in bytes of an opened product element.
func (p Params) FillOpening() int {
	return 2*openSize(p.layerLeaves(), p.rowLeaves()) + p.LeafOpening()
}

// WalkOpening is the exact length in bytes of an opened lane of a batch.
func (p Params) WalkOpening(batch int) int {
	states := openSize(p.stateLeaves(), 1)
	if batch > 0 {
		states *= 2
	}
	return states + p.Steps*p.LeafOpening()
}

// MixOpening is the exact length in bytes of an opened cell of round r >= 1.
func (p Params) MixOpening(r int) int {
	s := openSize(p.cellLeaves(), 1)
	if r > 1 {
		s *= 4
	}
	if p.readsFill(r) {
		s += p.LeafOpening()
	}
	return s
}

// Strength says how many openings a challenge asks for, per GPU.
type Strength struct {
	Name string `json:"name"`
	Fill int    `json:"fill"` // product elements
	Walk int    `json:"walk"` // lanes of a batch
	Mix  int    `json:"mix"`  // cells in every round
	PRG  int    `json:"prg"`  // leaves of layers 0 and 1, half each
	Ping int    `json:"ping"` // blocks of answered PINGs
}

// DefaultStrength, EnrolmentStrength and RecheckStrength are the three strengths of gpu-proof.md section 6.
func DefaultStrength() Strength { return Strength{"default", 256, 64, 1, 4, 4} }

// EnrolmentStrength is for machines seen for the first time, and after an exhausted abort budget.
func EnrolmentStrength() Strength { return Strength{"enrolment", 512, 128, 2, 4, 4} }

// RecheckStrength is the cheap one.
func RecheckStrength() Strength { return Strength{"recheck", 96, 24, 1, 4, 4} }

// mostStrength bounds what OPEN may hold, so that it stays under its cap for MaxGPUs, and what a prover opens at once.
func mostStrength() Strength { return Strength{Fill: 512, Walk: 128, Mix: 2, PRG: 16, Ping: 16} }

func (s Strength) check() error {
	most := mostStrength()
	if s.Fill < 1 || s.Fill > most.Fill || s.Walk < 1 || s.Walk > most.Walk || s.Mix < 1 || s.Mix > most.Mix ||
		s.PRG < 2 || s.PRG > most.PRG || s.PRG%2 != 0 || s.Ping < 1 || s.Ping > most.Ping {
		return fmt.Errorf("%w: strength %+v", ErrParams, s)
	}
	return nil
}

// SoftwareParams are the sizes for the CPU prover: 2 MiB of fill, 1 G operations, a fraction of a second on a core.
func SoftwareParams() Params {
	return Params{N: 256, Layers: 32, Lanes: 1024, Steps: 16, Batches: 12, WinLayers: 8, Cells: 2048, Rounds: 64}
}

// ParamsFor sizes a challenge for a GPU with so much memory, 2 to 512 GiB (gpu-proof.md section 6, n = 4096). bmRef is the
// reference rate of the mix in bytes/s of its profile, 0 if unknown. Memory too small for the layout is ErrParams.
func ParamsFor(vramBytes uint64, bmRef float64) (Params, error) {
	const n, lanes, steps, passes = 4096, 1 << 23, 16, 16
	if vramBytes < 1<<31 || vramBytes > 1<<39 { // HELLO may say anything, and the validator keeps 24 bytes of every layer
		return Params{}, fmt.Errorf("%w: a GPU with %d bytes", ErrParams, vramBytes)
	}
	p := Params{N: n, Lanes: lanes, Steps: steps, Rounds: 64}
	p.Layers = int(vramBytes / 100 * 92 / (n * n))
	windows := (p.Layers*n*n + 1<<34 - 1) >> 34
	p.WinLayers = (p.Layers + windows - 1) / windows
	p.Batches = passes * p.windows()
	for p.Cells = 16; 256*2*uint64(p.Cells) <= vramBytes/100*6 && p.Cells < 1<<27; p.Cells *= 2 {
	}
	if bmRef > 0 {
		perFour := 4 * 544 * float64(p.Cells)
		p.Rounds = max(64, 4*int(0.3*bmRef/perFour+0.999))
	}
	return p, p.Check()
}
