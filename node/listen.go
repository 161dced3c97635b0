package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"basilica"
)

// listen opens a TCP door. what names it in errors, key is the configuration key that holds addr.
func listen(ctx context.Context, what, key, addr string) (net.Listener, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	switch {
	case err == nil:
		return ln, nil
	case errors.Is(err, syscall.EADDRINUSE):
		_, port, _ := net.SplitHostPort(addr)
		return nil, basilica.E(basilica.Conflict, "PORT_TAKEN", fmt.Sprintf("the %s cannot listen on %s: another process uses that port", what, addr),
			fmt.Sprintf("find it with `ss -ltnp 'sport = :%s'` and stop it, or set %s to another port; port 0 takes any free one", port, key))
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
