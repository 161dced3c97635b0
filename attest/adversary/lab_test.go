package adversary

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"math/big"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"basilica/attest"
	"basilica/attest/attestpb"
	"basilica/keys"
)

// The lab plays one challenge after the other between the real state machines, on a clock of its own: no network, no waiting.
// Everything random follows from a class's name and the number of the round; keys are fixed. What an attestor's owner does
// with frames is done here in one loop, so that a lie can sit anywhere in it.

// labKey and otherKey are keys of machines that never existed.
const labKey = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgR3geNQhKWwYKu74b
TIKGmi4BjKTqUIZgKtSwcdaKrX2hRANCAAQHHuIEqkNFn7FNeD2q/+ym3gutgwgJ
zONMqNAWV7bFr5JLxYYNrrPYWZNmeA2qyYfKvxGqIEAUF1s6H8gA9o9/
-----END PRIVATE KEY-----`

// lab is what all challenges share.
type lab struct {
	key, other *keys.P256
	profiles   attest.Profiles
	trapdoor   func() *attest.Trapdoor // made when the first time-lock is
}

var channel = attest.Binding{SessionID: []byte("session"), HostKey: []byte("host"), MinerHotkey: attest.Key{1}, ValidatorHotkey: attest.Key{2}}

// must is for what only a fault of the lab itself can make fail.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// theLab is the lab of all tests.
var theLab = sync.OnceValue(func() *lab {
	l := &lab{key: must(keys.ParseP256([]byte(labKey))), other: must(keys.GenerateP256())} // nothing is drawn from the other one
	l.trapdoor = sync.OnceValue(func() *attest.Trapdoor { return must(attest.NewTrapdoor(rand.NewChaCha8([32]byte{1}))) })
	l.profiles = attest.Profiles{{Model: "software", Software: true, Params: &small, Expect: attest.Expect{Fill: 5, Walk: 5, Mix: 5}}}
	for _, m := range models {
		l.profiles = append(l.profiles, m.profile())
	}
	return l
})

// Shapes of the challenges: a few milliseconds each, and fractions of a power of two.
var (
	tiny    = attest.Params{N: 32, Layers: 3, Lanes: 16, Steps: 1, Batches: 2, WinLayers: 2, Cells: 16, Rounds: 4}
	small   = attest.Params{N: 32, Layers: 6, Lanes: 64, Steps: 2, Batches: 2, WinLayers: 3, Cells: 64, Rounds: 8}
	layered = attest.Params{N: 32, Layers: 66, Lanes: 64, Steps: 2, Batches: 2, WinLayers: 33, Cells: 64, Rounds: 8}
	wide    = attest.Params{N: 64, Layers: 8, Lanes: 4096, Steps: 2, Batches: 2, WinLayers: 4, Cells: 64, Rounds: 8}
	mixing  = attest.Params{N: 32, Layers: 6, Lanes: 64, Steps: 2, Batches: 2, WinLayers: 3, Cells: 64, Rounds: 64}
)

// challenge is one challenge and how the machine lies in it. The zero value of every hook is honest.
type challenge struct {
	lab     *lab
	random  io.Reader // the validator's
	rng     *rand.Rand
	setup   attest.Setup
	greet   attest.Greeting
	binding *attest.Binding // what the attestor knows of its channel
	cheat   Cheat
	receipt attest.Signer // signs VERDICT; nil: none is sent
	key     *keys.P256    // signs evidence

	forge     func(t attest.FrameType, g int, roots []attest.Node) // changes roots before they are committed to
	up        func(f attest.Frame, n int) []attest.Frame           // the attestor sends this in place of its n-th frame of a type, and signs for it
	statement func(r *run, st *attestpb.Statement)                 // changes what is signed
	solve     func(z attest.Puzzle) (y, pi []byte)                 // another way to the time-lock's answer
	tap       func(f attest.Frame, n int) []attest.Frame           // someone on the way changes what the attestor sent
	down      func(f attest.Frame, n int) []attest.Frame           // and what the validator sent
	takes     func(r *run, f attest.Frame) time.Duration           // from the frame before to this one's arrival; nil: a millisecond
	quit      func(r *run, f attest.Frame) bool                    // gives up in place of an answer to f, in a way of its own

	run *run // once it is judged
}

// challenge makes an honest one for round number n of a class.
func (l *lab) challenge(name string, n int, p attest.Params) *challenge {
	seed := sha256.Sum256(binary.LittleEndian.AppendUint32([]byte(name), uint32(n)))
	random := rand.NewChaCha8(seed)
	profiles := l.profiles
	if p != small {
		profiles = slices.Clone(profiles)
		profiles[0].Params = &p
	}
	own := channel
	return &challenge{
		lab: l, random: random, rng: rand.New(rand.NewChaCha8(sha256.Sum256(seed[:]))), binding: &own, key: l.key,
		setup: attest.Setup{
			Started: time.Unix(1_800_000_000, 0), Binding: channel, SPKI: l.key.SPKI(), Strength: attest.DefaultStrength(), Profiles: profiles,
			Policy: attest.Policy{AllowSoftware: true},
		},
		greet: attest.Greeting{Version: "test", SPKI: l.key.SPKI(), Devices: softwareDevices(1)},
	}
}

// brief leaves as few openings as there can be, but for those of one check; and as few PINGs, for a machine that is far away.
func (c *challenge) brief(but string) {
	q, full := attest.Strength{Name: "brief", Fill: 8, Walk: 4, Mix: 1, PRG: 2, Ping: 2}, attest.DefaultStrength()
	switch but {
	case "CHEAT_FILL":
		q.Fill = full.Fill
	case "CHEAT_WALK":
		q.Walk = full.Walk
	case "CHEAT_PRG":
		q.PRG = full.PRG
	case "CHEAT_PING":
		q.Ping = full.Ping
		c.setup.Strength = q
		return // of 64 PINGs
	}
	c.setup.Strength = q
	c.takes = func(r *run, _ attest.Frame) time.Duration {
		if r.last.After(r.now) {
			return 0
		}
		return 60 * time.Millisecond
	}
}

func softwareDevices(n int) (ds []attest.DeviceInfo) {
	for i := range n {
		ds = append(ds, attest.DeviceInfo{UUID: attest.UUID{byte(i + 1)}, Name: "software", VRAMBytes: 64 << 20, FreeBytes: 64 << 20, Software: true})
	}
	return ds
}

// arrival is bytes on their way to the validator.
type arrival struct {
	at   time.Time
	data []byte
}

// run is a challenge in progress.
type run struct {
	c       *challenge
	v       *attest.Verifier
	p       *attest.Prover
	devices []*Device
	jobs    []attest.Job
	puzzle  *attest.Puzzle
	now     time.Time
	asked   attest.Frame // what the validator sent last

	resigns      bool      // a lie changes what is signed: it is hashed a second time
	toward, back hash.Hash // as the attestor would sign them
	hello        attest.Frame
	out          []arrival
	rest         []byte
	last         time.Time                 // when the last byte that is on its way arrives
	paid         map[attest.FrameType]bool // phases whose time has passed
	gone, closed bool                      // the attestor works no more; the connection has ended
	sent, heard  map[attest.FrameType]int
	frames       []attest.Frame // that went to the validator
	err          error          // why the attestor gave up
}

// judge runs the challenge to its end.
func (c *challenge) judge() (attest.Judgement, *run) {
	v := must(attest.NewVerifier(c.setup, c.random, c.receipt))
	p := must(attest.NewProver(c.greet, c.binding))
	r := &run{
		c: c, v: v, p: p, now: c.setup.Started, last: c.setup.Started,
		resigns: c.up != nil || c.statement != nil, toward: sha256.New(), back: sha256.New(),
		sent: map[attest.FrameType]int{}, heard: map[attest.FrameType]int{}, paid: map[attest.FrameType]bool{},
	}
	c.run = r
	m := NewMachine(c.cheat, attest.Serial)
	for range c.greet.Devices {
		r.devices = append(r.devices, m.Device())
	}
	r.collect()
	for steps := 0; !v.Done(); steps++ {
		if steps > 10_000 {
			panic("a challenge that never ends")
		}
		if f, ok := v.Next(); ok {
			v.Sent(r.now)
			r.hear(f)
			continue
		}
		deadline := v.Deadline()
		f, err := r.read(v.Cap)
		switch {
		case r.now.After(deadline):
			r.now = deadline
			v.Fail(attest.FailTimeout, "nothing came", r.now)
		case err != nil:
			v.Fail(attest.FailureOf(err), err.Error(), r.now)
		default:
			v.Receive(f, r.now)
		}
	}
	for _, d := range r.devices {
		d.Release()
	}
	return v.Judgement(), r
}

// read gives the validator the next frame: as it is where it came whole, alone and no longer than it may be.
func (r *run) read(limit attest.Cap) (attest.Frame, error) {
	if len(r.rest) == 0 && len(r.out) > 0 {
		f := attest.Frame(r.out[0].data)
		if most, ok := limit(f.Type()); ok && len(f) <= most+6 && f[5] == 1 && uint64(binary.LittleEndian.Uint32(f))+4 == uint64(len(f)) {
			r.arrive()
			r.rest = nil
			return f, nil
		}
	}
	return attest.ReadFrame(r, limit)
}

// arrive takes what comes next off the line, and moves the validator's clock to when it did.
func (r *run) arrive() {
	if r.out[0].at.After(r.now) {
		r.now = r.out[0].at
	}
	r.rest, r.out = r.out[0].data, r.out[1:]
}

// Read gives the validator what has arrived.
func (r *run) Read(b []byte) (int, error) {
	if len(r.rest) == 0 {
		switch {
		case len(r.out) > 0:
			r.arrive()
		case r.closed:
			return 0, io.EOF
		default:
			r.now = r.v.Deadline()
			return 0, os.ErrDeadlineExceeded
		}
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// hear has the attestor take a frame of the validator and do what it asks for.
func (r *run) hear(f attest.Frame) {
	n := r.heard[f.Type()]
	r.heard[f.Type()]++
	got := []attest.Frame{f}
	if r.c.down != nil {
		got = r.c.down(f, n)
	}
	for _, f := range got {
		if r.gone {
			return
		}
		r.asked = f
		if r.now.After(r.last) {
			r.last = r.now
		}
		if r.c.quit != nil && r.c.quit(r, f) {
			r.gone = true
			return
		}
		if r.resigns && f.Type() != attest.FrameAbort && f.Type() != attest.FrameVerdict {
			r.toward.Write(f)
		}
		task, err := r.p.Receive(f)
		if err == nil {
			err = r.do(f, task)
		}
		if err != nil {
			var a *attest.AbortError
			if !errors.As(err, &a) {
				a = &attest.AbortError{Code: attest.AbortDevice, Text: err.Error()}
			}
			r.err, r.gone = err, true
			r.p.Abort(a.Code, a.Text)
		}
		r.collect()
	}
}

// collect sends what the attestor has queued.
func (r *run) collect() {
	for {
		f, ok := r.p.Next()
		if !ok || r.closed {
			return
		}
		n := r.sent[f.Type()]
		r.sent[f.Type()]++
		fs := []attest.Frame{f}
		if r.c.up != nil {
			fs = r.c.up(slices.Clone(f), n)
		}
		for _, f := range fs {
			if f.Type() == attest.FrameEvidence && r.resigns {
				f = r.testify(f)
			}
			if r.resigns && f.Type() != attest.FrameEvidence {
				r.back.Write(f)
			}
			if f.Type() == attest.FrameHello {
				r.hello = f
			}
			if r.c.tap == nil {
				r.send(f)
				continue
			}
			for _, g := range r.c.tap(slices.Clone(f), n) {
				r.send(g)
			}
		}
	}
}

func (r *run) send(f attest.Frame) {
	took := time.Millisecond
	if r.c.takes != nil {
		took = r.c.takes(r, f)
	}
	r.last = r.last.Add(took)
	r.frames = append(r.frames, f)
	r.out = append(r.out, arrival{r.last, f})
}

// testify signs for what was really sent, or for what the lie wants.
func (r *run) testify(f attest.Frame) attest.Frame {
	var e attestpb.Evidence
	var st attestpb.Statement
	if err := errors.Join(unpack(f, &e), proto.Unmarshal(e.GetPayload(), &st)); err != nil {
		return f // the lie made it so
	}
	h := sha256.New()
	h.Write([]byte("BSLTRAN\x00"))
	h.Write(r.toward.Sum(nil))
	h.Write(r.back.Sum(nil))
	hello := sha256.Sum256(r.hello)
	st.Transcript32, st.HelloSha256 = h.Sum(nil), hello[:]
	if r.c.statement != nil {
		r.c.statement(r, &st)
	}
	e.Payload = must(proto.Marshal(&st))
	e.Sig64 = must(r.c.key.Sign(keys.PAE(attest.EvidenceType, e.GetPayload())))
	return pack(attest.FrameEvidence, &e)
}

// pack makes a frame by the layout of gpu-proof.md section 5.
func pack(t attest.FrameType, m proto.Message) attest.Frame {
	payload := must(proto.MarshalOptions{Deterministic: true}.Marshal(m))
	f := binary.LittleEndian.AppendUint32(nil, uint32(len(payload)+2))
	return append(append(f, byte(t), 1), payload...)
}

func unpack(f attest.Frame, m proto.Message) error { return proto.Unmarshal(f[6:], m) }

// reported is what a device gives, changed as the lie wants before it is committed to.
func (r *run) reported(t attest.FrameType, g int, roots []attest.Node) []attest.Node {
	if r.c.forge != nil {
		roots = slices.Clone(roots)
		r.c.forge(t, g, roots)
	}
	return roots
}

// do does one task as attestor.Prove does, one device after the other.
func (r *run) do(f attest.Frame, task attest.Task) error {
	ctx := context.Background()
	switch task.Kind {
	case attest.TaskFill:
		r.jobs, r.puzzle = task.Jobs, task.Puzzle
		for g, j := range task.Jobs {
			roots, err := r.devices[j.Device].Fill(ctx, j.Params, j.Seed)
			if err == nil {
				err = r.p.Filled(g, r.reported(attest.FrameRoots, g, roots))
			}
			if err != nil {
				return err
			}
		}
	case attest.TaskWalk:
		for g, j := range r.jobs {
			roots, err := r.devices[j.Device].Walk(ctx, task.Keys[g])
			if err == nil {
				err = r.p.Walked(g, r.reported(attest.FrameWalkDone, g, roots))
			}
			if err != nil {
				return err
			}
		}
	case attest.TaskMix:
		for g, j := range r.jobs {
			last, err := r.devices[j.Device].Mix(ctx, task.Keys[g])
			if err == nil {
				err = r.p.Mixed(g, r.reported(attest.FrameMixDone, g, []attest.Node{last})[0])
			}
			if err != nil {
				return err
			}
		}
		for g, j := range r.jobs {
			roots, err := r.devices[j.Device].Trace(ctx)
			if err == nil {
				err = r.p.Traced(g, r.reported(attest.FrameTrace, g, roots))
			}
			if err != nil {
				return err
			}
		}
	case attest.TaskBlock:
		b, err := r.devices[r.jobs[task.G].Device].Block(ctx, task.Block)
		if err != nil {
			return err
		}
		return r.p.Answer(f, b)
	case attest.TaskOpen:
		return r.open(ctx, task)
	}
	return nil
}

func (r *run) open(ctx context.Context, task attest.Task) error {
	var all []attest.Opened
	for g, j := range r.jobs {
		o, err := r.devices[j.Device].Open(ctx, task.Requests[g])
		if err != nil {
			return err
		}
		all = append(all, o)
	}
	if err := r.p.Proved(all); err != nil {
		return err
	}
	var e attest.Evidence
	if r.puzzle != nil {
		var err error
		if r.c.solve != nil {
			e.VDFY, e.VDFPi = r.c.solve(*r.puzzle)
		} else if e.VDFY, e.VDFPi, err = r.puzzle.Solve(ctx); err != nil {
			return err
		}
	}
	return r.p.Sign(e, r.c.key.Sign)
}

// each calls f for every round, on as many goroutines as there are processors.
func each(workers, rounds int, f func(round int)) {
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for n := w; n < rounds; n += workers {
				f(n)
			}
		})
	}
	wg.Wait()
}

// squared does so many squarings.
func squared(z attest.Puzzle, t uint64) []byte {
	z.T = t
	y, _, err := z.Solve(context.Background())
	return must(y, err)
}

// proven does so many squarings and proves them.
func proven(z attest.Puzzle, t uint64) (y, pi []byte) {
	z.T = t
	y, pi, err := z.Solve(context.Background())
	must(0, err)
	return y, pi
}

// negative is N - y: as good as y to whoever has only the square to compare.
func negative(z attest.Puzzle, y []byte) []byte {
	v := new(big.Int).SetBytes(y)
	return v.Sub(z.N, v).FillBytes(make([]byte, attest.VDFBytes))
}

// fitted is an answer of no squarings at all and a proof that holds for a prime of the liar's choice: y is made out of pi.
func fitted(z attest.Puzzle, r *rand.Rand) (y, pi []byte) {
	l := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	p := new(big.Int).SetBytes(noise(r, attest.VDFBytes))
	p.Mod(p, z.N)
	v := new(big.Int).Exp(z.X, new(big.Int).Exp(big.NewInt(2), new(big.Int).SetUint64(z.T), l), z.N)
	v.Mul(v, new(big.Int).Exp(p, l, z.N)).Mod(v, z.N)
	return lower(z.N, v), lower(z.N, p)
}

// lower is the smaller one of v and -v, as the verifier wants it.
func lower(n, v *big.Int) []byte {
	if w := new(big.Int).Sub(n, v); w.Cmp(v) < 0 {
		v = w
	}
	return v.FillBytes(make([]byte, attest.VDFBytes))
}
