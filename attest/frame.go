package attest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// FrameType names a message of the protocol (gpu-proof.md section 5).
type FrameType uint8

// The frames. HELLO, FILL_DONE, ROOTS, WALK_DONE, MIX_DONE, TRACE, PONG, ECHO_REPLY, PROOF and EVIDENCE go from the
// attestor to the validator, ABORT both ways, the others from the validator to the attestor.
const (
	FrameHello     FrameType = 1
	FrameChallenge FrameType = 2
	FrameFillDone  FrameType = 3
	FrameRoots     FrameType = 4
	FrameWalk      FrameType = 5
	FrameWalkDone  FrameType = 6
	FrameMix       FrameType = 7
	FrameMixDone   FrameType = 8
	FrameTrace     FrameType = 9
	FramePing      FrameType = 10
	FramePong      FrameType = 11
	FrameEcho      FrameType = 12
	FrameEchoReply FrameType = 13
	FrameOpen      FrameType = 14
	FrameProof     FrameType = 15
	FrameEvidence  FrameType = 16
	FrameVerdict   FrameType = 17
	FrameAbort     FrameType = 18
)

var frameNames = [...]string{
	"", "HELLO", "CHALLENGE", "FILL_DONE", "ROOTS", "WALK", "WALK_DONE", "MIX", "MIX_DONE", "TRACE",
	"PING", "PONG", "ECHO", "ECHO_REPLY", "OPEN", "PROOF", "EVIDENCE", "VERDICT", "ABORT",
}

// String gives the name of the specification.
func (t FrameType) String() string {
	if t >= 1 && int(t) < len(frameNames) {
		return frameNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

const (
	frameVersion = 1
	frameHeader  = 6 // u32 len | u8 type | u8 ver, len counts from the type on
	slack        = 64
	kib          = 1024
	// MaxFrame is more than any frame of valid parameters that this package sends: a relay's cap, in bytes.
	MaxFrame = 32 << 20
)

// ErrFrame says that bytes are no frame, or none that may come now.
var ErrFrame = errors.New("attest: bad frame")

// Frame is one whole frame with its header. What is signed and hashed are these bytes.
type Frame []byte

// Type is the frame's type; 0 for what is too short to be a frame.
func (f Frame) Type() FrameType {
	if len(f) < frameHeader {
		return 0
	}
	return FrameType(f[4])
}

func (f Frame) payload() []byte { return f[frameHeader:] }

// sealed writes the header in front of the payload.
func sealed(f Frame, t FrameType) Frame {
	binary.LittleEndian.PutUint32(f, uint32(len(f.payload())+2))
	f[4], f[5] = byte(t), frameVersion
	return f
}

// Cap gives the most payload bytes that a frame of a type may have now, and whether one may come at all.
type Cap func(t FrameType) (payload int, ok bool)

// RelayCap lets every type through at MaxFrame: for those who pass frames on and do not read them.
func RelayCap(t FrameType) (int, bool) { return MaxFrame, t >= FrameHello && t <= FrameAbort }

// ReadFrame reads one frame. Type, version and length are judged before the payload is allocated; what they forbid
// is ErrFrame, an end inside of a frame io.ErrUnexpectedEOF, an end before one io.EOF.
func ReadFrame(r io.Reader, limit Cap) (Frame, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n, err := checkHeader(head[:], limit)
	if err != nil {
		return nil, err
	}
	f := make(Frame, frameHeader+n)
	copy(f, head[:])
	if _, err := io.ReadFull(r, f[frameHeader:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return f, nil
}

// checkHeader judges a header and returns the payload's length.
func checkHeader(head []byte, limit Cap) (int, error) {
	n, t := binary.LittleEndian.Uint32(head), FrameType(head[4])
	most, ok := limit(t)
	switch {
	case head[5] != frameVersion:
		return 0, fmt.Errorf("%w: version %d", ErrFrame, head[5])
	case !ok:
		return 0, fmt.Errorf("%w: %v is not due", ErrFrame, t)
	case n < 2 || int64(n)-2 > int64(most):
		return 0, fmt.Errorf("%w: %v of %d bytes, at most %d", ErrFrame, t, n, most+2)
	}
	return int(n) - 2, nil
}

// parseFrame checks that f is exactly one frame that may come now.
func parseFrame(f Frame, limit Cap) error {
	if len(f) < frameHeader {
		return fmt.Errorf("%w: %d bytes", ErrFrame, len(f))
	}
	n, err := checkHeader(f[:frameHeader], limit)
	if err != nil {
		return err
	}
	if len(f) != frameHeader+n {
		return fmt.Errorf("%w: %v of %d bytes names %d", ErrFrame, f.Type(), len(f), frameHeader+n)
	}
	return nil
}
