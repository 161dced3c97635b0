package axon

import (
	"errors"
	"net"
	"testing"

	"basilica"
)

// TestRefusedDial: whoever submits can tell that nothing of a job has arrived.
func TestRefusedDial(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	c := newMarket(t, nil).client(func(c *ClientConfig) {
		c.Addr, c.TLSKey, c.AllowPlain = ln.Addr().(*net.TCPAddr).AddrPort(), nil, true
	})
	_, err = c.Submit(t.Context(), basilica.Submission{})
	var op *net.OpError
	if basilica.CodeOf(err) != "MINER_UNREACHABLE" || !errors.As(err, &op) || op.Op != "dial" {
		t.Errorf("%v", err)
	}
}
