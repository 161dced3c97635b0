package hardware

import (
	"net"
	"os"
	"strings"
	"testing"
)

func TestPortHolder(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::]:0"} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		port := uint16(ln.Addr().(*net.TCPAddr).Port)
		pid, program, found := Real().PortHolder(port)
		if !found || pid != os.Getpid() || !strings.HasPrefix(program, "hardware") {
			t.Errorf("%s: pid %d, %q, %v; this is pid %d", addr, pid, program, found, os.Getpid())
		}
		ln.Close()
		if pid, _, found := Real().PortHolder(port); found {
			t.Errorf("%s: closed, and pid %d is said to listen", addr, pid)
		}
	}
}
