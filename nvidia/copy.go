package nvidia

import (
	"errors"
	"time"

	"basilica/attest"
)

// copyRounds is how often CopyRate copies.
const copyRounds = 8

// CopyRate measures a device-to-device copy between the two cell arrays of the last challenge, in bytes per second, read and written
// both counted: what walk and mix are held against. The device needs a method Copy, as Context has.
func (g *Prover) CopyRate() (float64, error) {
	dev, ok := g.dev.(interface {
		Copy(to, from Memory, bytes uint64) error
	})
	if !ok || g.work == 0 {
		return 0, errors.New("nvidia: nothing to copy, or no way to")
	}
	bytes := uint64(g.p.Cells * attest.CellSize)
	var began time.Time
	for i := range copyRounds + 1 { // the first one only warms up
		if i == 1 {
			if err := g.dev.Sync(); err != nil {
				return 0, err
			}
			began = g.now()
		}
		if err := dev.Copy(g.cells(1), g.cells(0), bytes); err != nil {
			return 0, err
		}
	}
	if err := g.dev.Sync(); err != nil {
		return 0, err
	}
	return 2 * copyRounds * float64(bytes) / g.now().Sub(began).Seconds(), nil
}

// Bytes reads the whole fill, in pieces of a layer, for comparisons.
func (g *Prover) Bytes(visit func(layer int, data []byte) error) error {
	if g.roots == nil {
		return attest.ErrOrder
	}
	data := make([]byte, g.p.LayerBytes())
	for l := range g.p.Layers {
		if err := g.dev.Read(data, g.at(l)); err != nil {
			return err
		}
		if err := visit(l, data); err != nil {
			return err
		}
	}
	return nil
}
