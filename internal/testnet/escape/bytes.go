package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func uintptrOf(ts *unix.Timespec) uintptr { return uintptr(unsafe.Pointer(ts)) }

// fill writes into every page of memory that the kernel attached at an address.
func fill(at uintptr, size int) {
	for i := 0; i < size; i += 4096 {
		*(*byte)(unsafe.Add(unsafe.Pointer(nil), at+uintptr(i))) = 1
	}
}
