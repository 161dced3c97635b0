// Package pty gives tests a terminal of their own: a pair of ends of which one is what a program has as its terminal, and
// the other what a person sees.
package pty

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Open gives both ends of a new terminal that passes bytes on as they are written. The test's end closes them.
func Open(t testing.TB) (person, program *os.File) {
	t.Helper()
	person, program, err := open()
	if err != nil {
		t.Fatalf("open a terminal: %v", err)
	}
	t.Cleanup(func() {
		// A test may have closed an end itself.
		person.Close()
		program.Close()
	})
	return person, program
}

func open() (person, program *os.File, err error) {
	if person, err = os.OpenFile("/dev/ptmx", os.O_RDWR, 0); err != nil {
		return nil, nil, err
	}
	fd := int(person.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, errors.Join(err, person.Close())
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, errors.Join(err, person.Close())
	}
	if program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, errors.Join(err, person.Close())
	}
	mode, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err == nil {
		mode.Oflag &^= unix.OPOST
		mode.Lflag &^= unix.ECHO
		err = unix.IoctlSetTermios(int(program.Fd()), unix.TCSETS, mode)
	}
	if err != nil {
		return nil, nil, errors.Join(err, person.Close(), program.Close())
	}
	return person, program, nil
}

// Seen gives what a person sees of what write writes to a terminal. It ends the terminal.
func Seen(t testing.TB, write func(program *os.File)) []byte {
	t.Helper()
	person, program := Open(t)
	seen := make(chan []byte)
	go func() {
		var all []byte
		buf := make([]byte, 64<<10)
		for {
			n, err := person.Read(buf)
			all = append(all, buf[:n]...)
			if err != nil { // EIO: the program's end is closed
				seen <- all
				return
			}
		}
	}()
	write(program)
	if err := program.Close(); err != nil {
		t.Error(err)
	}
	return <-seen
}
