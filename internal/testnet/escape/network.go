package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// families are the kernel's families of addresses by number; those that have no name here are tried too.
var families = map[int]string{
	1: "UNIX", 2: "INET", 3: "AX25", 4: "IPX", 5: "APPLETALK", 8: "ATMPVC", 9: "X25", 10: "INET6", 15: "KEY", 16: "NETLINK", 17: "PACKET", 20: "ATMSVC",
	21: "RDS", 23: "IRDA", 24: "PPPOX", 26: "LLC", 27: "IB", 28: "MPLS", 29: "CAN", 30: "TIPC", 31: "BLUETOOTH", 33: "RXRPC", 35: "PHONET",
	36: "IEEE802154", 37: "CAIF", 38: "ALG", 39: "NFC", 40: "VSOCK", 41: "KCM", 42: "QIPCRTR", 43: "SMC", 44: "XDP", 45: "MCTP",
}

// network: every family of sockets, and every way out.
func network() {
	for family := range 64 {
		name := families[family]
		if name == "" {
			if family > 45 || family == 0 {
				continue
			}
			name = fmt.Sprint(family)
		}
		counts := map[string]int{}
		worked := 0
		for kind := 1; kind <= 10; kind++ {
			for protocol := range 32 {
				fd, err := unix.Socket(family, kind, protocol)
				if err != nil {
					counts[err.Error()]++
					continue
				}
				unix.Close(fd)
				if !ordinary(family, kind, protocol) {
					worked++
				}
				counts["given"]++
			}
		}
		say("sockets of family "+name+" beyond Unix, TCP, UDP and routes", worked == 0, "%s", describe(counts))
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 132)
	if err == nil {
		unix.Close(fd)
	}
	refused("an SCTP socket, which loads a module", err)
	interfaces, err := net.Interfaces()
	var names []string
	for _, i := range interfaces {
		names = append(names, i.Name)
	}
	say("find an interface to the outside", err == nil && strings.Trim(strings.Join(names, " "), " ") == "lo", "%v", names)
	routes, err := os.ReadFile("/proc/net/route")
	say("find a route", err == nil && strings.Count(string(routes), "\n") <= 1, "%d lines of /proc/net/route", strings.Count(string(routes), "\n"))
	targets := append(strings.Fields(host("DOORS")), "169.254.169.254:80", "172.17.0.1:22", "8.8.8.8:53", "[2001:4860:4860::8888]:53", "[fd00:ec2::254]:80", "[fe80::1%lo]:80")
	for _, to := range targets {
		for _, network := range []string{"tcp", "udp"} {
			what := "reach " + to + " by " + network
			if to == targets[len(targets)-6] {
				what = "reach the cloud's metadata address by " + network
			}
			refused(what, reach(network, to))
		}
	}
	refused("reach the virtual machine's host (vsock)", func() error {
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Connect(fd, &unix.SockaddrVM{CID: 2, Port: 1})
	}())
	_, err = net.LookupHost("example.com")
	refused("resolve a name", err)
}

// ordinary says whether a job may have such a socket.
func ordinary(family, kind, protocol int) bool {
	switch family {
	case unix.AF_UNIX:
		return true
	case unix.AF_INET, unix.AF_INET6:
		return kind == unix.SOCK_STREAM && (protocol == 0 || protocol == unix.IPPROTO_TCP) ||
			kind == unix.SOCK_DGRAM && (protocol == 0 || protocol == unix.IPPROTO_UDP)
	case unix.AF_NETLINK:
		return protocol == unix.NETLINK_ROUTE
	}
	return false
}

// reach sends a word to an address and, by TCP, waits for the connection.
func reach(network, to string) error {
	d := net.Dialer{Timeout: 2 * time.Second}
	c, err := d.Dial(network, to)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("escape"))
	if err == nil && network == "udp" {
		// A refusal of the own loopback comes back with the next word.
		if err := c.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return nil
		}
		_, err = c.Read(make([]byte, 1))
	}
	return err
}
