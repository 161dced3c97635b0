package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"basilica"
	"basilica/hardware"
)

// listen opens a TCP door. what names it in errors, key is the configuration key that holds addr.
func listen(ctx context.Context, what, key, addr string) (net.Listener, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	switch {
	case err == nil:
		return ln, nil
	case errors.Is(err, syscall.EADDRINUSE):
		_, port, _ := net.SplitHostPort(addr)
		holder := "another process uses that port"
		find := fmt.Sprintf("find it with `ss -ltnp 'sport = :%s'` and stop it", port)
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			if pid, program, ok := hardware.Real().PortHolder(uint16(n)); ok {
				holder, find = fmt.Sprintf("%q (pid %d) uses that port", program, pid), fmt.Sprintf("stop it (pid %d)", pid)
			}
		}
		return nil, basilica.E(basilica.Conflict, "PORT_TAKEN", fmt.Sprintf("the %s cannot listen on %s: %s", what, addr, holder),
			fmt.Sprintf("%s, or set %s to another port; port 0 takes any free one", find, key))
	case errors.Is(err, syscall.EACCES):
		return nil, basilica.E(basilica.Denied, "PORT_DENIED", fmt.Sprintf("the %s may not listen on %s", what, addr), fmt.Sprintf("set %s to a port from 1024 up", key)).With(err)
	default:
		return nil, basilica.E(basilica.Invalid, "LISTEN_ADDRESS", fmt.Sprintf("the %s cannot listen on %.80q", what, addr), fmt.Sprintf("set %s to an address of this machine, e.g. 127.0.0.1:0", key)).With(err)
	}
}

// door is a listener of a role: where it is kept, and how listen names it.
type door struct {
	ln              *net.Listener
	what, key, addr string
}

// openDoors opens doors in their order; each is closed by closers from then on.
func openDoors(ctx context.Context, closers *closers, doors ...door) error {
	for _, d := range doors {
		ln, err := listen(ctx, d.what, d.key, d.addr)
		if err != nil {
			return err
		}
		*d.ln = ln
		closers.add(closeListener(ln))
	}
	return nil
}

// closeListener closes a listener that a server may have closed already.
func closeListener(ln net.Listener) func() error {
	return func() error {
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}
