package main

import "golang.org/x/sys/unix"

// machineCalls are those that this architecture alone has.
func machineCalls() []call {
	return []call{
		{"iopl", unix.SYS_IOPL, [4]uintptr{3, 0, 0, 0}},
		{"ioperm", unix.SYS_IOPERM, [4]uintptr{0, 1, 1, 0}},
		{"modify_ldt", unix.SYS_MODIFY_LDT, [4]uintptr{0, 0, 0, 0}},
		{"lookup_dcookie", unix.SYS_LOOKUP_DCOOKIE, [4]uintptr{0, 0, 0, 0}},
	}
}

// int80 asks for this process's id the way that a 32-bit program would.
func int80() int
