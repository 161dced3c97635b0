package subtensor

import "basilica"

// SubmitOption changes how a transaction is sent.
type SubmitOption func(*submitOptions)

type submitOptions struct {
	intend func(basilica.Signed) error
}

func optionsOf(opts []SubmitOption) submitOptions {
	var o submitOptions
	for _, set := range opts {
		set(&o)
	}
	return o
}

// Intend has f see every signed transaction before it is sent; where f fails nothing is sent and its error is returned.
// A nil f sees nothing.
func Intend(f func(basilica.Signed) error) SubmitOption {
	return func(o *submitOptions) { o.intend = f }
}
