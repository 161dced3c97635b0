//go:build !nocuda

package nvidia

import (
	"fmt"

	"basilica"
	"basilica/nvidia/kernels"
)

// Session opens a card on the calling thread with the best kernels for it: what NewWorker asks for.
func (d *Driver) Session(index int) (Session, error) {
	_, card, err := d.card(index)
	if err != nil {
		return Session{}, err
	}
	m, ok := kernels.For(card.Major, card.Minor, d.Version)
	if !ok {
		return Session{}, basilica.E(basilica.Unavailable, "CUDA_MODULE", fmt.Sprintf("GPU %d (%.100s) of compute capability %s is older than the kernels", index, card.Name, card.CC()),
			"use a card of compute capability 7.0 or newer")
	}
	products := Products(m, card.SMs)
	c, err := d.Use(index, []byte(m.PTX), Kernels(products))
	if err != nil {
		return Session{}, err
	}
	return Session{Device: c, Products: products, Close: c.Close}, nil
}
