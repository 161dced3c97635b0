package localnet

import "testing"

// BenchmarkSeal is the price of an empty block on the genesis state.
func BenchmarkSeal(b *testing.B) {
	c, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := c.Seal(); err != nil {
			b.Fatal(err)
		}
	}
}
