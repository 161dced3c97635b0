package timelock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrPayload says that an opened commit holds no weights; it comes wrapped with the reason.
var ErrPayload = errors.New("not the payload of a timelocked weights commit")

// Weights is what a timelocked commit seals.
type Weights struct {
	// Hotkey is the public key of who commits, 32 bytes; nil in the older form, which has none.
	Hotkey []byte
	// UIDs and Values have one length; a value of 65535 is the largest weight.
	UIDs, Values []uint16
	VersionKey   uint64
}

// Encode is the SCALE form {hotkey Vec<u8>, uids Vec<u16>, values Vec<u16>, version_key u64}, without the hotkey where
// there is none.
func (w Weights) Encode() []byte {
	out := make([]byte, 0, 3*4+len(w.Hotkey)+2*len(w.UIDs)+2*len(w.Values)+8)
	if w.Hotkey != nil {
		out = append(appendCompact(out, len(w.Hotkey)), w.Hotkey...)
	}
	for _, list := range [][]uint16{w.UIDs, w.Values} {
		out = appendCompact(out, len(list))
		for _, v := range list {
			out = binary.LittleEndian.AppendUint16(out, v)
		}
	}
	return binary.LittleEndian.AppendUint64(out, w.VersionKey)
}

// DecodeWeights reads both forms, up to the last byte: with a hotkey of 32 bytes, else the older one without. Errors:
// ErrPayload.
func DecodeWeights(data []byte) (Weights, error) {
	if hotkey, rest, err := vec(data, 1); err == nil && len(hotkey) == 32 {
		if w, err := decodeLists(rest); err == nil {
			w.Hotkey = hotkey
			return w, nil
		}
	}
	return decodeLists(data)
}

// decodeLists reads the part that both forms have.
func decodeLists(data []byte) (Weights, error) {
	var w Weights
	for _, list := range []*[]uint16{&w.UIDs, &w.Values} {
		raw, rest, err := vec(data, 2)
		if err != nil {
			return Weights{}, fmt.Errorf("%w: %w", err, ErrPayload)
		}
		*list = make([]uint16, len(raw)/2)
		for i := range *list {
			(*list)[i] = binary.LittleEndian.Uint16(raw[2*i:])
		}
		data = rest
	}
	if len(data) != 8 {
		return Weights{}, fmt.Errorf("%d bytes where a version key of 8 belongs: %w", len(data), ErrPayload)
	}
	w.VersionKey = binary.LittleEndian.Uint64(data)
	return w, nil
}

// vec cuts a vector of elements of a size off data: its length as a compact integer below 2^30, then its bytes.
func vec(data []byte, size int) (raw, rest []byte, err error) {
	if len(data) == 0 {
		return nil, nil, io.ErrUnexpectedEOF
	}
	width := 1 << (data[0] & 3)
	if width == 8 || len(data) < width {
		return nil, nil, io.ErrUnexpectedEOF
	}
	var padded [4]byte
	copy(padded[:], data[:width])
	n := int(binary.LittleEndian.Uint32(padded[:])>>2) * size
	if data = data[width:]; n > len(data) {
		return nil, nil, io.ErrUnexpectedEOF
	}
	return data[:n:n], data[n:], nil
}

// appendCompact appends a length below 2^30 as a compact integer.
func appendCompact(out []byte, n int) []byte {
	switch {
	case n < 1<<6:
		return append(out, byte(n<<2))
	case n < 1<<14:
		return binary.LittleEndian.AppendUint16(out, uint16(n<<2|1))
	default:
		return binary.LittleEndian.AppendUint32(out, uint32(n<<2|2))
	}
}
