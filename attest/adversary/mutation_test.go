package adversary

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"basilica"
	"basilica/attest"
	"basilica/attest/attestpb"
)

// message is an empty one of a frame's type.
func message(t attest.FrameType) proto.Message {
	switch t {
	case attest.FrameHello:
		return &attestpb.Hello{}
	case attest.FrameChallenge:
		return &attestpb.Challenge{}
	case attest.FrameFillDone:
		return &attestpb.FillDone{}
	case attest.FrameRoots:
		return &attestpb.Roots{}
	case attest.FrameWalk:
		return &attestpb.Walk{}
	case attest.FrameWalkDone:
		return &attestpb.WalkDone{}
	case attest.FrameMix:
		return &attestpb.Mix{}
	case attest.FrameMixDone:
		return &attestpb.MixDone{}
	case attest.FrameTrace:
		return &attestpb.Trace{}
	case attest.FramePing, attest.FrameEcho:
		return &attestpb.Ping{}
	case attest.FramePong, attest.FrameEchoReply:
		return &attestpb.Pong{}
	case attest.FrameOpen:
		return &attestpb.Open{}
	case attest.FrameProof:
		return &attestpb.Proof{}
	case attest.FrameEvidence:
		return &attestpb.Evidence{}
	case attest.FrameVerdict:
		return &attestpb.Verdict{}
	}
	return &attestpb.Abort{}
}

// mutants gives, by what was done to which field, copies of m in each of which one field differs; fields of messages inside
// of it are changed too. Every field that it comes to is noted in seen.
func mutants(m proto.Message, seen map[protoreflect.FullName]bool) map[string]proto.Message {
	out := map[string]proto.Message{}
	walk(m.ProtoReflect(), "", seen, func(root protoreflect.Message) protoreflect.Message { return root }, func(what string, at func(protoreflect.Message) protoreflect.Message, change func(protoreflect.Message)) {
		c := proto.Clone(m)
		change(at(c.ProtoReflect()))
		if !proto.Equal(c, m) {
			out[what] = c
		}
	})
	return out
}

type place = func(root protoreflect.Message) protoreflect.Message

func walk(m protoreflect.Message, path string, seen map[protoreflect.FullName]bool, at place, try func(what string, at place, change func(protoreflect.Message))) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		seen[fd.FullName()] = true
		name := path + "." + string(fd.Name())
		inner := fd.Kind() == protoreflect.MessageKind
		switch {
		case fd.IsList():
			l := m.Get(fd).List()
			try(name+" longer", at, func(m protoreflect.Message) {
				l := m.Mutable(fd).List()
				l.Append(l.NewElement())
			})
			if l.Len() == 0 {
				continue
			}
			try(name+" shorter", at, func(m protoreflect.Message) { l := m.Mutable(fd).List(); l.Truncate(l.Len() - 1) })
			try(name+" empty", at, func(m protoreflect.Message) { m.Clear(fd) })
			try(name+" doubled", at, func(m protoreflect.Message) { l := m.Mutable(fd).List(); l.Append(l.Get(0)) })
			try(name+" turned", at, func(m protoreflect.Message) {
				l := m.Mutable(fd).List()
				first, last := l.Get(0), l.Get(l.Len()-1)
				l.Set(0, last)
				l.Set(l.Len()-1, first)
			})
			if inner {
				walk(l.Get(0).Message(), name+"[0]", seen, func(root protoreflect.Message) protoreflect.Message {
					return at(root).Mutable(fd).List().Get(0).Message()
				}, try)
				continue
			}
			for what, v := range others(fd, l.Get(l.Len()-1)) {
				try(name+" last "+what, at, func(m protoreflect.Message) { l := m.Mutable(fd).List(); l.Set(l.Len()-1, v) })
			}
		case inner:
			if !m.Has(fd) {
				try(name+" there", at, func(m protoreflect.Message) { m.Mutable(fd) })
				continue
			}
			try(name+" gone", at, func(m protoreflect.Message) { m.Clear(fd) })
			walk(m.Get(fd).Message(), name, seen, func(root protoreflect.Message) protoreflect.Message { return at(root).Mutable(fd).Message() }, try)
		default:
			for what, v := range others(fd, m.Get(fd)) {
				try(name+" "+what, at, func(m protoreflect.Message) { m.Set(fd, v) })
			}
		}
	}
	try(path+" with a field that the message does not have", at, func(m protoreflect.Message) {
		m.SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1))
	})
}

// others are values that a scalar field does not have.
func others(fd protoreflect.FieldDescriptor, v protoreflect.Value) map[string]protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return map[string]protoreflect.Value{"other": protoreflect.ValueOfBool(!v.Bool())}
	case protoreflect.Uint32Kind:
		u := uint32(v.Uint())
		return map[string]protoreflect.Value{
			"one more": protoreflect.ValueOfUint32(u + 1), "zero": protoreflect.ValueOfUint32(0), "huge": protoreflect.ValueOfUint32(u ^ 1<<31),
		}
	case protoreflect.Uint64Kind:
		u := v.Uint()
		return map[string]protoreflect.Value{
			"one more": protoreflect.ValueOfUint64(u + 1), "zero": protoreflect.ValueOfUint64(0), "huge": protoreflect.ValueOfUint64(u ^ 1<<63),
		}
	case protoreflect.StringKind:
		return map[string]protoreflect.Value{"longer": protoreflect.ValueOfString(v.String() + "x"), "empty": protoreflect.ValueOfString("")}
	case protoreflect.BytesKind:
		b := v.Bytes()
		out := map[string]protoreflect.Value{
			"longer": protoreflect.ValueOfBytes(append(bytes.Clone(b), 0)), "empty": protoreflect.ValueOfBytes(nil),
		}
		if len(b) > 0 {
			first, last := bytes.Clone(b), bytes.Clone(b)
			first[0] ^= 1
			last[len(last)-1] ^= 0x80
			out["first bit"], out["last bit"] = protoreflect.ValueOfBytes(first), protoreflect.ValueOfBytes(last)
			out["shorter"] = protoreflect.ValueOfBytes(bytes.Clone(b[:len(b)-1]))
		}
		return out
	}
	panic(fmt.Sprintf("%s: a kind of field that the lab does not change: %v", fd.FullName(), fd.Kind()))
}

// inside gives changes of what a frame carries encoded in a bytes field: the statement of EVIDENCE, the receipt of VERDICT.
func inside(f attest.Frame, seen map[protoreflect.FullName]bool) map[string]proto.Message {
	out := map[string]proto.Message{}
	switch f.Type() {
	case attest.FrameEvidence:
		var e attestpb.Evidence
		var st attestpb.Statement
		must(0, errors.Join(unpack(f, &e), proto.Unmarshal(e.GetPayload(), &st)))
		for what, m := range mutants(&st, seen) {
			out["payload"+what] = &attestpb.Evidence{PayloadType: e.GetPayloadType(), Payload: must(proto.Marshal(m)), Sig64: e.GetSig64()}
		}
	case attest.FrameVerdict:
		var v attestpb.Verdict
		var r attestpb.Receipt
		must(0, errors.Join(unpack(f, &v), proto.Unmarshal(v.GetReceipt(), &r)))
		for what, m := range mutants(&r, seen) {
			out["receipt"+what] = &attestpb.Verdict{Receipt: must(proto.Marshal(m)), Signature: v.GetSignature()}
		}
	}
	return out
}

func framesOf(f attest.Frame, seen map[protoreflect.FullName]bool) map[string]attest.Frame {
	m := message(f.Type())
	must(0, unpack(f, m))
	out := map[string]attest.Frame{}
	for what, m := range mutants(m, seen) {
		out[f.Type().String()+what] = pack(f.Type(), m)
	}
	for what, m := range inside(f, seen) {
		out[f.Type().String()+" "+what] = pack(f.Type(), m)
	}
	return out
}

func signReceipt(msg []byte) ([]byte, error) {
	h := sha256.Sum256(msg)
	return h[:], nil
}

func verifyReceipt(_ attest.Key, msg, sig []byte) bool {
	h := sha256.Sum256(msg)
	return bytes.Equal(h[:], sig)
}

// signed is an honest challenge that ends with a receipt, with a time-lock or without.
func (l *lab) signed(locked bool) *challenge {
	c := l.tiny("mutation", 0)
	if locked {
		c.locked()
	}
	c.receipt = signReceipt
	return c
}

// ofLock says that a change is of the time-lock: most are made without one, for it takes most of the time.
func ofLock(what string) bool { return strings.Contains(what, "vdf") }

// places says which of a run's frames are changed: the first of each type, and of PROOF the first of each kind.
func places(fs []attest.Frame) (at []int) {
	seen := map[string]bool{}
	for i, f := range fs {
		key := f.Type().String()
		if f.Type() == attest.FrameProof {
			var m attestpb.Proof
			must(0, unpack(f, &m))
			key += fmt.Sprint(m.GetKind())
		}
		if !seen[key] {
			at = append(at, i)
		}
		seen[key] = true
	}
	return at
}

// TestEveryFieldOnTheWire changes every field of every message between two honest state machines, one at a time: no challenge
// passes.
func TestEveryFieldOnTheWire(t *testing.T) {
	t.Parallel()
	l := theLab()
	c := l.signed(true)
	takes := c.takes
	honest := c.faulty()
	c.takes = takes
	if j, _ := c.judge(); j.Result != attest.Pass {
		t.Fatalf("%+v", j)
	}
	changed := 0
	for d := range honest.made {
		for _, at := range places(honest.made[d]) {
			f := honest.made[d][at]
			if f.Type() == attest.FrameVerdict {
				continue // the last word: whoever keeps it has its signature
			}
			for what, mutant := range framesOf(f, map[protoreflect.FullName]bool{}) {
				c, n := l.signed(ofLock(what)), -1
				swap := func(g attest.Frame, _ int) []attest.Frame {
					if n++; n != at {
						return []attest.Frame{g}
					}
					if ofLock(what) || g.Type() == attest.FrameChallenge || g.Type() == attest.FrameEvidence { // not the same in every run
						return []attest.Frame{framesOf(g, map[protoreflect.FullName]bool{})[what]}
					}
					return []attest.Frame{mutant}
				}
				if d == 0 {
					c.down = swap
				} else {
					c.tap = swap
				}
				j, _ := c.judge()
				changed++
				if v := j.Verdict(); v == basilica.Pass || v == basilica.Unsure {
					t.Errorf("%s: %s", what, j.Result)
				}
			}
		}
	}
	t.Logf("%d changes, none passed", changed)
}

// TestEveryFieldThatIsSignedFor has the attestor itself change what its statement says of the run, and sign for that: nothing but
// what is of its own word passes, which nobody relies on.
func TestEveryFieldThatIsSignedFor(t *testing.T) {
	t.Parallel()
	l := theLab()
	own := []string{".timings_ns", ".vdf_pi", ".tpm_quote", ".cc_report", ".cc_chain", " with a field"}
	var st attestpb.Statement
	c := l.signed(true)
	c.statement = func(_ *run, s *attestpb.Statement) { proto.Merge(&st, s) }
	if j, _ := c.judge(); j.Result != attest.Pass {
		t.Fatalf("%+v", j)
	}
	for what := range mutants(&st, map[protoreflect.FullName]bool{}) {
		c := l.signed(ofLock(what))
		c.statement = func(_ *run, s *attestpb.Statement) {
			m := mutants(s, map[protoreflect.FullName]bool{})[what]
			proto.Reset(s)
			proto.Merge(s, m)
		}
		j, _ := c.judge()
		free := slices.ContainsFunc(own, func(p string) bool { return strings.HasPrefix(what, p) })
		if passed(j) != free {
			t.Errorf("%s: %s (%s)", what, j.Result, j.Detail)
		}
	}
}

// section is one of a record file.
type section struct {
	kind byte
	data []byte
}

const magic = "BSLGPOW1REC\x01"

// sections takes a record file apart; joined puts one together, with hashes that are right.
func sections(file []byte) (out []section) {
	for b := file[len(magic):]; len(b) > 0; {
		n := int(binary.LittleEndian.Uint32(b[1:]))
		out = append(out, section{b[0], b[5 : 5+n]})
		b = b[5+n+sha256.Size:]
	}
	return out
}

func joined(ss []section) []byte {
	file, prev := []byte(magic), []byte(magic)
	for _, s := range ss {
		body := append(binary.LittleEndian.AppendUint32([]byte{s.kind}, uint32(len(s.data))), s.data...)
		h := sha256.Sum256(append(slices.Clone(prev), body...))
		prev = h[:]
		file = append(append(file, body...), h[:]...)
	}
	return file
}

func judgedAgain(file []byte) (attest.Judgement, error) {
	r, err := attest.ReadRecord(bytes.NewReader(file))
	if err != nil {
		return attest.Judgement{}, err
	}
	return attest.Judge(r, verifyReceipt)
}

// TestEveryFieldOfARecord changes every field of every message of a record, and every value of its verdict, with all hashes made
// anew, one at a time: whoever judges it again refuses it. There is no message of the protocol of which a field is left out.
func TestEveryFieldOfARecord(t *testing.T) {
	t.Parallel()
	l := theLab()
	seen := map[protoreflect.FullName]bool{}
	refused := 0
	const passed, locked, aborted = "passed", "passed with a time-lock", "aborted by the attestor"
	for _, end := range []string{passed, locked, aborted} {
		c := l.signed(end == locked)
		if end == aborted {
			c.quit = func(r *run, f attest.Frame) bool {
				if f.Type() != attest.FrameOpen {
					return false
				}
				r.p.Abort(attest.AbortDevice, "a card is lost")
				r.collect()
				return true
			}
		}
		_, r := c.judge()
		var file bytes.Buffer
		must(must(r.v.Record()).WriteTo(&file))
		ss := sections(file.Bytes())
		if !bytes.Equal(joined(ss), file.Bytes()) {
			t.Fatal("a record is put together in another way than it was written")
		}
		if _, err := judgedAgain(file.Bytes()); err != nil {
			t.Fatalf("%s: %v", end, err)
		}
		try := func(what string, i int, data []byte) {
			other := slices.Clone(ss)
			other[i].data = data
			refused++
			if _, err := judgedAgain(joined(other)); !errors.Is(err, attest.ErrRecord) {
				t.Errorf("%s: %s: not refused: %v", end, what, err)
			}
		}
		const event, header, sent, received = 3, 9, 1, 2
		var frames []attest.Frame
		var at []int
		for i, s := range ss {
			if s.kind == event && (s.data[0] == sent || s.data[0] == received) {
				frames, at = append(frames, s.data[header:]), append(at, i)
			}
		}
		for _, k := range places(frames) {
			if end == aborted && frames[k].Type() != attest.FrameAbort {
				continue
			}
			head := ss[at[k]].data[:header]
			for what, f := range framesOf(frames[k], seen) {
				if end == aborted || ofLock(what) == (end == locked) {
					try(what, at[k], slices.Concat(head, f))
				}
			}
		}
		if end == locked {
			continue
		}
		last := len(ss) - 1
		for what, b := range values(t, ss[last].data) {
			try("verdict "+what, last, b)
		}
	}
	messages := attestpb.File_attest_attestpb_attest_proto.Messages()
	for i := range messages.Len() {
		fields := messages.Get(i).Fields()
		for k := range fields.Len() {
			if name := fields.Get(k).FullName(); !seen[name] {
				t.Errorf("%s was never changed", name)
			}
		}
	}
	t.Logf("%d changes, all refused", refused)
}

// values gives a JSON object with one of its values changed, in the form that it was written in.
func values(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	var j attest.Judgement
	if err := json.Unmarshal(b, &j); err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	try := func(what string, change func(j *attest.Judgement)) {
		c := j
		c.GPUs, c.SPKI = slices.Clone(j.GPUs), slices.Clone(j.SPKI)
		change(&c)
		if changed := must(json.Marshal(c)); !bytes.Equal(changed, b) {
			out[what] = changed
		}
	}
	try("result", func(j *attest.Judgement) { j.Result = attest.PassOther })
	try("reason", func(j *attest.Judgement) { j.Reason += "X" })
	try("detail", func(j *attest.Judgement) { j.Detail += "x" })
	try("class", func(j *attest.Judgement) { j.Class = "C" })
	try("signed", func(j *attest.Judgement) { j.Signed = !j.Signed })
	try("after open", func(j *attest.Judgement) { j.AfterOpen = !j.AfterOpen })
	try("key", func(j *attest.Judgement) { j.SPKI[20] ^= 1 })
	try("transcript", func(j *attest.Judgement) { j.Transcript[0] ^= 1 })
	try("round trip", func(j *attest.Judgement) { j.RTT *= 2 })
	try("ping excess", func(j *attest.Judgement) { j.PingExcess++ })
	try("sequential time", func(j *attest.Judgement) { j.SequentialTimeLowerBound++ })
	if len(j.GPUs) > 0 {
		try("gpus", func(j *attest.Judgement) { j.GPUs = j.GPUs[1:] })
		try("uuid", func(j *attest.Judgement) { j.GPUs[0].UUID[0] ^= 1 })
		try("software", func(j *attest.Judgement) { j.GPUs[0].Software = false })
		try("claim", func(j *attest.Judgement) { j.GPUs[0].Claim = "H200" })
		try("memory", func(j *attest.Judgement) { j.GPUs[0].M++ })
		try("rates", func(j *attest.Judgement) { j.GPUs[0].C, j.GPUs[0].BW, j.GPUs[0].BM = 1, 1, 1 })
		try("models", func(j *attest.Judgement) { j.GPUs[0].Models = []string{"H200"} })
	}
	return out
}
