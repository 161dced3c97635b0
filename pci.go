package basilica

import (
	"fmt"
	"strconv"
	"strings"
)

// PCIAddress is the place of a device on the PCI bus, as numbers: libraries and kernel write the same address with other
// widths and another case. The domain has 32 bits; a form that cuts it to 16 makes two cards equal.
type PCIAddress struct {
	Domain   uint32
	Bus      uint8
	Device   uint8 // 0 to 31
	Function uint8 // 0 to 7
}

// ParsePCI reads [domain:]bus:device.function in hex of any case and width that the numbers allow: at most 8 digits of domain,
// 2 of bus and device, 1 of function. Without a domain it is 0.
func ParsePCI(s string) (PCIAddress, error) {
	bad := func() (PCIAddress, error) { return PCIAddress{}, fmt.Errorf("%.40q is no PCI address", s) }
	rest, function, ok := strings.Cut(s, ".")
	parts := strings.Split(rest, ":")
	if !ok || len(parts) < 2 || len(parts) > 3 {
		return bad()
	}
	if len(parts) == 2 {
		parts = append([]string{"0"}, parts...)
	}
	var n [4]uint64
	for i, field := range [...]struct {
		text   string
		digits int
		most   uint64
	}{{parts[0], 8, 1<<32 - 1}, {parts[1], 2, 0xff}, {parts[2], 2, 0x1f}, {function, 1, 7}} {
		v, err := strconv.ParseUint(field.text, 16, 32)
		if err != nil || len(field.text) > field.digits || v > field.most {
			return bad()
		}
		n[i] = v
	}
	return PCIAddress{Domain: uint32(n[0]), Bus: uint8(n[1]), Device: uint8(n[2]), Function: uint8(n[3])}, nil
}

// String writes the address as Linux names the device in sysfs: small letters, at least four digits of domain.
func (p PCIAddress) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", p.Domain, p.Bus, p.Device, p.Function)
}
