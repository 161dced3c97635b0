package hardware

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const listening = "0A" // TCP_LISTEN in /proc/net/tcp

// PortHolder finds the process that listens on a TCP port: its pid and the name of its program, as far as this user may
// see them. The third value is false where nobody is found.
func (r Root) PortHolder(port uint16) (pid int, program string, found bool) {
	sockets := map[string]bool{}
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		r.listeners(filepath.Join(r.dir, "proc", table), port, sockets)
	}
	if len(sockets) == 0 {
		return 0, "", false
	}
	links, err := filepath.Glob(filepath.Join(r.dir, "proc", "[0-9]*", "fd", "*"))
	if err != nil {
		return 0, "", false
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || !sockets[to] {
			continue
		}
		process := filepath.Dir(filepath.Dir(link))
		if pid, err = strconv.Atoi(filepath.Base(process)); err != nil {
			continue
		}
		name, err := r.text(filepath.Join("/proc", filepath.Base(process), "comm"))
		if err != nil {
			continue // it ended meanwhile
		}
		return pid, strings.TrimSpace(name), true
	}
	return 0, "", false
}

// listeners adds the sockets that listen on port, as /proc/PID/fd names them.
func (r Root) listeners(table string, port uint16, into map[string]bool) {
	f, err := os.Open(table)
	if err != nil {
		return
	}
	defer f.Close()
	suffix := fmt.Sprintf(":%04X", port)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
		words := strings.Fields(lines.Text())
		if len(words) > 9 && strings.HasSuffix(words[1], suffix) && words[3] == listening {
			into["socket:["+words[9]+"]"] = true
		}
	}
}
