package basilica

import "net/netip"

// notPublic lists what IANA's special-purpose registries keep from the public Internet and netip has no word for.
var notPublic = [...]netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),       // this network
	netip.MustParsePrefix("100.64.0.0/10"),   // shared by carriers' translators
	netip.MustParsePrefix("192.0.0.0/24"),    // protocol assignments
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarks
	netip.MustParsePrefix("198.51.100.0/24"), // documentation
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation
	netip.MustParsePrefix("240.0.0.0/4"),     // reserved, broadcast
	netip.MustParsePrefix("64:ff9b::/96"),    // translation: any IPv4 address in IPv6 clothes
	netip.MustParsePrefix("64:ff9b:1::/48"),  // local translation
	netip.MustParsePrefix("100::/64"),        // discard
	netip.MustParsePrefix("2001::/23"),       // protocol assignments, Teredo among them
	netip.MustParsePrefix("2001:db8::/32"),   // documentation
	netip.MustParsePrefix("2002::/16"),       // 6to4: any IPv4 address in IPv6 clothes
	netip.MustParsePrefix("fec0::/10"),       // site-local, withdrawn
}

// PublicAddr says whether a stranger may have us dial addr: not loopback, private, link-local, multicast or reserved.
// It must be asked after resolution, about the very address that is dialled.
func PublicAddr(addr netip.Addr) bool {
	addr = addr.Unmap()
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsLoopback() || addr.IsPrivate() || addr.IsLinkLocalUnicast() || addr.IsMulticast() {
		return false
	}
	addr = addr.WithZone("")
	for _, p := range notPublic {
		if p.Contains(addr) {
			return false
		}
	}
	return true
}

// Network is what counts as one place that strangers come from: an IPv4 address, or the /64 that one customer of IPv6
// has.
func Network(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(addr, bits).Masked()
}

// Held is a refusal because GPUs have another holder: a Conflict, code BUSY, that names the holder, whose receipt can
// be asked for.
type Held struct {
	Holding Holding
	Err     *Error
}

// NewHeld makes the refusal for one holding.
func NewHeld(h Holding) *Held {
	return &Held{Holding: h, Err: E(Conflict, "BUSY", "the GPUs are held by "+string(h.Kind)+" "+h.Holder+" until "+h.Expires.UTC().Format("15:04:05 MST"), "come again when the holder is gone")}
}

// Error gives the sentence and code of the refusal.
func (h *Held) Error() string { return h.Err.Error() }

// Unwrap gives the Conflict.
func (h *Held) Unwrap() error { return h.Err }
