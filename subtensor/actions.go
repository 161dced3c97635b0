package subtensor

import (
	"fmt"

	"basilica"
	"basilica/keys"
)

func account(ss58 string) ([32]byte, error) {
	pub, err := keys.DecodeSS58(ss58)
	if err != nil {
		return pub, basilica.E(basilica.Invalid, "ADDRESS", fmt.Sprintf("%.60q is not an SS58 address of this network", ss58),
			"give an address of 48 characters that begins with 5").With(err)
	}
	return pub, nil
}
