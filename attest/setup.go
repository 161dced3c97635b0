package attest

import (
	"bytes"
	"fmt"
	"math"
	"time"
)

// MaxGPUs bounds the devices of one challenge.
const MaxGPUs = 16

// Setup is everything that decides a challenge before its first byte, on the validator's side. It stands in the record.
type Setup struct {
	Started  time.Time `json:"started"`
	Binding  Binding   `json:"binding"`
	SPKI     []byte    `json:"spki,omitempty"`   // pinned at enrolment; empty on first contact: HELLO's is taken
	Claims   []Claim   `json:"claims,omitempty"` // the GPUs to prove; empty: all that HELLO names
	Strength Strength  `json:"strength"`
	Policy   Policy    `json:"policy"`
	Profiles Profiles  `json:"profiles"`
	Trapdoor []byte    `json:"trapdoor,omitempty"` // Trapdoor.Bytes; needed where Policy asks for squarings without a proof
	parsed   *Trapdoor // Trapdoor, if SetTrapdoor has set it
}

// SetTrapdoor sets Trapdoor, and spares the challenge the check of its primes, which takes longer than that of an answer.
func (s *Setup) SetTrapdoor(t *Trapdoor) { s.Trapdoor, s.parsed = t.Bytes(), t }

// trapdoor gives Trapdoor.
func (s *Setup) trapdoor() (*Trapdoor, error) {
	if s.parsed != nil && bytes.Equal(s.parsed.Bytes(), s.Trapdoor) {
		return s.parsed, nil
	}
	return ParseTrapdoor(s.Trapdoor)
}

// Claim is one GPU that a machine is said to have.
type Claim struct {
	UUID  UUID   `json:"uuid"`
	Model string `json:"model,omitempty"` // empty: the name in HELLO
}

// Policy holds what a validator's configuration decides.
type Policy struct {
	AllowSoftware bool   `json:"allow_software"`      // take CPU provers; for tests and localnet only
	Squarings     uint64 `json:"squarings,omitempty"` // T of the VDF; 0: none
	// Wesolowski asks for a proof that third parties can check, modulo RSA-2048, instead of an answer that convinces the owner
	// of a trapdoor alone.
	Wesolowski bool `json:"wesolowski,omitempty"`
	// CCRoot is the certificate (DER) under which CC reports must be signed; empty: none is looked at.
	CCRoot []byte `json:"cc_root,omitempty"`
	// RTTFloor is the round trip pinned at enrolment; 0: none.
	RTTFloor time.Duration `json:"rtt_floor_ns,omitempty"`
	Limits   Limits        `json:"limits"`
}

// Limits are how long each answer may take. A zero takes the default of gpu-proof.md section 5.
type Limits struct {
	Hello    time.Duration `json:"hello_ns,omitempty"`
	Fill     time.Duration `json:"fill_ns,omitempty"`
	Roots    time.Duration `json:"roots_ns,omitempty"` // of all GPUs
	Walk     time.Duration `json:"walk_ns,omitempty"`
	Mix      time.Duration `json:"mix_ns,omitempty"`
	Trace    time.Duration `json:"trace_ns,omitempty"` // of all GPUs
	Ping     time.Duration `json:"ping_ns,omitempty"`  // each
	Proof    time.Duration `json:"proof_ns,omitempty"` // all
	Evidence time.Duration `json:"evidence_ns,omitempty"`
	Write    time.Duration `json:"write_ns,omitempty"` // one frame to the attestor
}

// withDefaults fills in what no GPU is needed to know.
func (l Limits) withDefaults() Limits {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&l.Hello, 10*time.Second)
	set(&l.Roots, 30*time.Second)
	set(&l.Trace, 30*time.Second)
	set(&l.Ping, 2*time.Second)
	set(&l.Evidence, 10*time.Second)
	set(&l.Write, 10*time.Second)
	return l
}

// forGPUs fills in the timed phases: max(5 s, 4 x expected) of the slowest GPU, 60 s for an unknown model.
func (l Limits) forGPUs(gpus []*gpuRun) Limits {
	var need Expect
	for _, g := range gpus {
		e := Expect{}
		if g.profile != nil {
			e = g.profile.expect(g.params)
		}
		need.Fill, need.Walk, need.Mix = slower(need.Fill, e.Fill), slower(need.Walk, e.Walk), slower(need.Mix, e.Mix)
	}
	set := func(d *time.Duration, seconds float64) {
		if *d == 0 {
			*d = time.Duration(seconds * float64(time.Second))
		}
	}
	set(&l.Fill, need.Fill)
	set(&l.Walk, need.Walk)
	set(&l.Mix, need.Mix)
	return l
}

func slower(longest, expected float64) float64 {
	if expected == 0 {
		return math.Max(longest, 60)
	}
	return math.Max(longest, math.Min(600, math.Max(5, 4*expected)))
}

// check refuses a set-up that cannot be run: the caller's fault.
func (s *Setup) check() error {
	if s.Started.IsZero() || len(s.Claims) > MaxGPUs {
		return fmt.Errorf("%w: no start time, or more than %d claims", ErrParams, MaxGPUs)
	}
	for i, c := range s.Claims {
		for _, d := range s.Claims[:i] {
			if c.UUID == d.UUID {
				return fmt.Errorf("%w: GPU %v claimed twice", ErrParams, c.UUID)
			}
		}
	}
	if s.Policy.Squarings > maxSquarings || s.Policy.RTTFloor < 0 {
		return fmt.Errorf("%w: policy", ErrParams)
	}
	l := s.Policy.Limits
	for _, d := range [...]time.Duration{l.Hello, l.Fill, l.Roots, l.Walk, l.Mix, l.Trace, l.Ping, l.Proof, l.Evidence, l.Write} {
		if d < 0 || d > time.Hour {
			return fmt.Errorf("%w: a limit outside 0..1h", ErrParams)
		}
	}
	if err := s.Strength.check(); err != nil {
		return err
	}
	return s.Profiles.check()
}
