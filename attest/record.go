package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"basilica"
)

// A record file: the magic, then sections. A section is u8 kind | u32 length (little-endian) | payload | SHA-256.
// The hash runs over the hash of the section before (for the first one: over the magic), the header and the payload,
// so that a changed byte is named by the first section that does not verify, and no section can be left out, doubled
// or moved. The last section is the verdict; nothing follows it.
const recordMagic = "BSLGPOW1REC\x01"

// Sections of a record file.
const (
	sectionSetup   = 1 // JSON of Setup
	sectionTape    = 2 // the random bytes that the validator drew
	sectionEvent   = 3 // u8 kind | u64 nanoseconds since Started | frame, or u8 Failure and text
	sectionVerdict = 4 // JSON of Judgement
)

const (
	maxSetupBytes  = 1 << 20
	maxTapeBytes   = 8 << 20
	maxEvents      = 1 << 17
	maxRecordBytes = 1 << 30
	eventHeader    = 9
)

// ErrRecord says that a record is damaged, not one, or does not give the verdict that it names.
var ErrRecord = errors.New("attest: record refused")

type eventKind uint8

const (
	eventSent     eventKind = 1
	eventReceived eventKind = 2
	eventFailed   eventKind = 3
)

// event is one thing that happened to a verifier, at a time since Setup.Started by the validator's clock.
type event struct {
	kind   eventKind
	at     time.Duration
	data   []byte // nil where it lies in the spool
	offset int64  // there
	size   int
}

// recorder collects while a verifier runs.
type recorder struct {
	tape   bytes.Buffer
	events []event
	spool  basilica.Spool // nil: all stays in memory
	length int64          // of spool
	err    error          // of writing to it
}

// add keeps an event. Only what comes while nothing is timed goes to the spool.
func (r *recorder) add(k eventKind, at time.Duration, data []byte) {
	e := event{kind: k, at: at, data: data}
	if t := Frame(data).Type(); r.spool != nil && k == eventReceived && (t == FrameRoots || t == FrameProof) && r.err == nil {
		if _, r.err = r.spool.Write(data); r.err == nil {
			e.data, e.offset, e.size = nil, r.length, len(data)
			r.length += int64(e.size)
		}
	}
	r.events = append(r.events, e)
}

// load gives the data of an event.
func (e event) load(spool basilica.Spool) ([]byte, error) {
	if e.size == 0 {
		return e.data, nil
	}
	data := make([]byte, e.size)
	if _, err := spool.ReadAt(data, e.offset); err != nil {
		return nil, fmt.Errorf("read spooled frame: %w", err)
	}
	return data, nil
}

// Record holds everything that a challenge was judged by: the set-up, the validator's randomness, the raw frames of
// both directions with their times, and the verdict. It holds the VDF's trapdoor: publish it when its epoch is over.
type Record struct {
	Setup     Setup
	Judgement Judgement
	tape      []byte
	events    []event
	spool     basilica.Spool
}

// Spool has the verifier put long frames there instead of keeping them in memory. It is called before the first frame, and the
// spool must be there for as long as the record is used.
func (v *Verifier) Spool(to basilica.Spool) { v.rec.spool = to }

// Record gives the record of a challenge that is Done; before that it is ErrOrder. Where the spool failed there is none.
func (v *Verifier) Record() (*Record, error) {
	if !v.Done() {
		return nil, ErrOrder
	}
	if v.rec.err != nil {
		return nil, fmt.Errorf("spool a frame: %w", v.rec.err)
	}
	return &Record{Setup: v.setup, Judgement: v.judgement, tape: v.rec.tape.Bytes(), events: v.rec.events, spool: v.rec.spool}, nil
}

// sectionWriter writes sections chained by their hashes.
type sectionWriter struct {
	w    io.Writer
	prev []byte
	n    int64
	err  error
}

func (s *sectionWriter) write(b []byte) {
	if s.err == nil {
		var n int
		n, s.err = s.w.Write(b)
		s.n += int64(n)
	}
}

func (s *sectionWriter) section(kind byte, parts ...[]byte) {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	head := append([]byte{kind}, binary.LittleEndian.AppendUint32(nil, uint32(n))...)
	h := startSection(s.prev, head)
	s.write(head)
	for _, p := range parts {
		h.Write(p)
		s.write(p)
	}
	s.prev = h.Sum(nil)
	s.write(s.prev)
}

func startSection(prev, head []byte) hash.Hash {
	h := sha256.New()
	h.Write(prev)
	h.Write(head)
	return h
}

// WriteTo writes the record file.
func (r *Record) WriteTo(w io.Writer) (int64, error) {
	setup, err := json.Marshal(r.Setup)
	if err != nil {
		return 0, fmt.Errorf("encode record: %w", err)
	}
	verdict, err := json.Marshal(r.Judgement)
	if err != nil {
		return 0, fmt.Errorf("encode record: %w", err)
	}
	s := &sectionWriter{w: w, prev: []byte(recordMagic)}
	s.write([]byte(recordMagic))
	s.section(sectionSetup, setup)
	s.section(sectionTape, r.tape)
	for _, e := range r.events {
		data, err := e.load(r.spool)
		if err != nil {
			return s.n, err
		}
		head := binary.LittleEndian.AppendUint64([]byte{byte(e.kind)}, uint64(e.at))
		s.section(sectionEvent, head, data)
	}
	s.section(sectionVerdict, verdict)
	return s.n, s.err
}

// sectionReader reads them back, with a cap per kind before allocation.
type sectionReader struct {
	r     io.Reader
	prev  []byte
	index int
	total int64
}

func (s *sectionReader) section() (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return 0, nil, fmt.Errorf("%w: ends inside of section %d", ErrRecord, s.index)
	}
	n := int64(binary.LittleEndian.Uint32(head[1:]))
	limit := map[byte]int64{
		sectionSetup: maxSetupBytes, sectionTape: maxTapeBytes, sectionEvent: MaxFrame + eventHeader, sectionVerdict: maxSetupBytes,
	}[head[0]]
	if s.total += n; n > limit || s.total > maxRecordBytes {
		return 0, nil, fmt.Errorf("%w: section %d of kind %d names %d bytes, at most %d", ErrRecord, s.index, head[0], n, limit)
	}
	payload, err = readCapped(s.r, int(n))
	if err != nil {
		return 0, nil, fmt.Errorf("%w: ends inside of section %d", ErrRecord, s.index)
	}
	var sum [sha256.Size]byte
	if _, err := io.ReadFull(s.r, sum[:]); err != nil {
		return 0, nil, fmt.Errorf("%w: ends inside of section %d", ErrRecord, s.index)
	}
	h := startSection(s.prev, head[:])
	h.Write(payload)
	if s.prev = h.Sum(nil); !bytes.Equal(s.prev, sum[:]) {
		return 0, nil, fmt.Errorf("%w: section %d (%s) was changed: its SHA-256 does not match", ErrRecord, s.index, describe(head[0], payload))
	}
	s.index++
	return head[0], payload, nil
}

// readCapped reads n bytes without trusting n for the allocation.
func readCapped(r io.Reader, n int) ([]byte, error) {
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// describe names a section for the person who looks for the changed byte.
func describe(kind byte, payload []byte) string {
	switch kind {
	case sectionSetup:
		return "set-up"
	case sectionTape:
		return "randomness"
	case sectionVerdict:
		return "verdict"
	case sectionEvent:
		if len(payload) > eventHeader {
			if f := Frame(payload[eventHeader:]); eventKind(payload[0]) != eventFailed && f.Type() != 0 {
				return "frame " + f.Type().String()
			}
		}
		return "event"
	}
	return fmt.Sprintf("kind %d", kind)
}

// ReadRecord reads a whole record file and checks its hashes; what it says is for Judge to check. Any damage is
// ErrRecord, and names the section.
func ReadRecord(r io.Reader) (*Record, error) {
	magic := make([]byte, len(recordMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != recordMagic {
		return nil, fmt.Errorf("%w: not a GPOW1 record of version 1", ErrRecord)
	}
	s := &sectionReader{r: r, prev: []byte(recordMagic)}
	rec := &Record{}
	for want := byte(sectionSetup); ; {
		kind, payload, err := s.section()
		if err != nil {
			return nil, err
		}
		if kind != want && (want != sectionEvent || kind != sectionVerdict) {
			return nil, fmt.Errorf("%w: section %d is of kind %d, want %d", ErrRecord, s.index-1, kind, want)
		}
		switch kind {
		case sectionSetup:
			err = strictJSON(payload, &rec.Setup)
			want = sectionTape
		case sectionTape:
			rec.tape = payload
			want = sectionEvent
		case sectionEvent:
			err = rec.addEvent(payload)
		case sectionVerdict:
			if err = strictJSON(payload, &rec.Judgement); err == nil {
				return rec, s.end()
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%w: section %d: %w", ErrRecord, s.index-1, err)
		}
	}
}

func (s *sectionReader) end() error {
	if n, err := s.r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: bytes after the verdict", ErrRecord)
	}
	return nil
}

func (r *Record) addEvent(b []byte) error {
	if len(b) < eventHeader || len(r.events) >= maxEvents {
		return errors.New("event without a header, or too many")
	}
	at := binary.LittleEndian.Uint64(b[1:])
	if at > uint64(24*time.Hour) {
		return errors.New("event more than a day after the start")
	}
	r.events = append(r.events, event{kind: eventKind(b[0]), at: time.Duration(at), data: b[eventHeader:]})
	return nil
}

// strictJSON reads one value without unknown keys and nothing after it, in the very form that this package writes.
func strictJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	again, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, b) {
		return errors.New("not in canonical form")
	}
	return nil
}
