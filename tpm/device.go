package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"basilica"
)

// DefaultDevice is the kernel's TPM behind its resource manager: what one process loads, no other one sees.
const DefaultDevice = "/dev/tpmrm0"

const (
	headerSize = 10               // bytes of an answer's header: tag, length, code (TPM 2.0 Library, Part 1, section 18)
	maxAnswer  = 4096             // bytes of one answer
	answerTime = 60 * time.Second // of one command: old chips take seconds to make a key
)

// device is an open TPM: a character device, or the Unix socket of an emulator.
type device struct {
	path string
	fd   int
}

// open connects to a TPM. What keeps it from that is a coded refusal: TPM_ABSENT, TPM_DENIED.
func open(path string) (*device, error) {
	fd, err := dial(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ECONNREFUSED):
		return nil, basilica.E(basilica.NotFound, "TPM_ABSENT", fmt.Sprintf("there is no TPM at %s", path),
			`enable the TPM 2.0 in the firmware and load the kernel's driver, or set executor.attestation_key = "file"`).With(err)
	case errors.Is(err, fs.ErrPermission):
		return nil, basilica.E(basilica.Denied, "TPM_DENIED", fmt.Sprintf("this user may not use the TPM at %s", path),
			"add the user to the device's group (usually tss) and start again").With(err)
	case err != nil:
		return nil, fmt.Errorf("open TPM %s: %w", path, err)
	}
	return &device{path, fd}, nil
}

func dial(path string) (fd int, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return -1, err
	}
	if st.Mode().Type() != fs.ModeSocket {
		// Not to block: a command is then run by the kernel while we wait in poll, where the wait can end.
		return unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}
	if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// Close gives the TPM back.
func (d *device) Close() error { return unix.Close(d.fd) }

// Send implements transport.TPM: one command, one answer.
func (d *device) Send(command []byte) ([]byte, error) {
	for rest := command; len(rest) > 0; {
		n, err := unix.Write(d.fd, rest)
		if err != nil {
			return nil, fmt.Errorf("send command to the TPM: %w", err)
		}
		rest = rest[n:]
	}
	answer := make([]byte, maxAnswer)
	n := 0
	for want := headerSize; n < want; {
		if err := d.await(); err != nil {
			return nil, fmt.Errorf("wait for the TPM's answer: %w", err)
		}
		m, err := unix.Read(d.fd, answer[n:])
		switch {
		case err != nil:
			return nil, fmt.Errorf("read the TPM's answer: %w", err)
		case m == 0:
			return nil, fmt.Errorf("read the TPM's answer: %w", io.ErrUnexpectedEOF)
		}
		if n += m; n >= headerSize {
			size := binary.BigEndian.Uint32(answer[2:])
			if size < headerSize || size > maxAnswer || uint32(n) > size {
				return nil, fmt.Errorf("the TPM's answer of %d bytes says that it has %d", n, size)
			}
			want = int(size)
		}
	}
	return answer[:n], nil
}

// await returns when there is something to read.
func (d *device) await() error {
	for {
		ready := []unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, int(answerTime.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return os.ErrDeadlineExceeded
		default:
			return nil
		}
	}
}
