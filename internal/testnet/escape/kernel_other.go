//go:build !amd64

package main

import (
	"fmt"
	"os"
)

// machineCalls are those that this architecture alone has.
func machineCalls() []call { return nil }

// int80 has nothing to ask here.
func int80() int {
	fmt.Println(noSuchCalls)
	os.Exit(0)
	return 0
}
