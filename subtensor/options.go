package subtensor

import "basilica"

// SubmitOption changes how a transaction is sent.
type SubmitOption func(*submitOptions)

type submitOptions struct {
	intend []func(basilica.Signed) error
	shield bool
}

func optionsOf(opts []SubmitOption) submitOptions {
	var o submitOptions
	for _, set := range opts {
		set(&o)
	}
	return o
}

// Intend has f see every signed transaction before it is sent; where f fails nothing is sent and its error is returned.
// A nil f sees nothing; of several, all are called in order.
func Intend(f func(basilica.Signed) error) SubmitOption {
	return func(o *submitOptions) {
		if f != nil {
			o.intend = append(o.intend, f)
		}
	}
}

// Shielded sends a transaction sealed, through MevShield: nobody but the author of its block reads the call before it has
// its place. It takes the nonce after its carrier's and costs the carrier's fee besides.
func Shielded() SubmitOption {
	return func(o *submitOptions) { o.shield = true }
}
