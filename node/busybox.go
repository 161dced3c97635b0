package node

import (
	"os/exec"

	"basilica"
)

// findBusybox looks for a static busybox, which needs no library in its image.
func findBusybox() (string, error) {
	missing := basilica.E(basilica.NotFound, "BUSYBOX_MISSING", "no static busybox is installed, of which the demo makes its image", "install it: apt-get install busybox-static")
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", missing.With(err)
	}
	if err := static(path); err != nil {
		return "", missing.With(err)
	}
	return path, nil
}
