package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"basilica"
	"basilica/attest"
	"basilica/attestor"
	"basilica/hardware"
	"basilica/keys"
	"basilica/store"
	"basilica/validator"
)

// A doctor's challenge.
const (
	// doctorHolder is whom the ledger names while a doctor proves the GPUs.
	doctorHolder     = "doctor"
	reducedMemory    = 2 << 30 // bytes of each GPU; the least that the layout takes
	reducedSquarings = 1 << 16
	fullSquarings    = 1 << 21 // a validator's default
	reducedTime      = 3 * time.Minute
	fullTime         = 15 * time.Minute
	detectTime       = time.Minute
	selftestTime     = 2 * time.Minute
)

// gpus looks at the devices, tests the arithmetic, and has the machine answer a challenge.
func (d *doctor) gpus(ctx context.Context, cfg ExecutorConfig) {
	var found attestor.Detection
	d.check(ctx, "GPU detection", "a device that can be proven, on which all witnesses agree", func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, detectTime)
		defer cancel()
		key, err := d.attestKey()
		if err != nil {
			return "", err
		}
		child, err := childOf(ctx, cfg, d.deps.Log)
		if err != nil {
			return "", err
		}
		child.Key = key
		if found, err = child.Detect(ctx); err != nil {
			return "", err
		}
		d.child, d.out.about.Detection = &child, &found
		return d.detected(found)
	})
	for _, why := range found.Findings {
		d.out.Findings = append(d.out.Findings, judged(Finding{Check: "GPU witnesses", Needed: "no disagreement"}, basilica.E(basilica.Unavailable, why.Code, why.Sentence, why.Fix)))
	}
	d.toolkitRow(ctx, found.GPUs)
	held, err := d.holders(ctx)
	d.check(ctx, "self-test", "this machine's arithmetic equals the specification's", func(ctx context.Context) (string, error) {
		switch {
		case d.child == nil:
			return "", notDone{"gpu-attestor cannot be run"}
		case held != "" && !d.cfg.Busy:
			return "", notDone{held}
		}
		ctx, cancel := context.WithTimeout(ctx, selftestTime)
		defer cancel()
		r, err := d.child.Selftest(ctx)
		if err != nil {
			return "", err
		}
		if !r.OK {
			return "", basilica.E(basilica.Internal, "SELFTEST_FAILED", "this machine does not compute what the specification says", "")
		}
		return fmt.Sprintf("%d vectors and %d openings are equal", r.Vectors, r.Openings), nil
	})
	size := "at reduced size"
	if d.cfg.Full {
		size = "at full size"
	}
	d.check(ctx, "GPU proof", "a validator's verifier passes it, "+size, func(ctx context.Context) (string, error) {
		switch {
		case err != nil:
			return "", err
		case d.child == nil || len(found.GPUs) == 0:
			return "", notDone{"there is no device to prove"}
		case held != "" && !d.cfg.Busy:
			return "", notDone{held}
		}
		return d.prove(ctx, found, held != "")
	})
}

// attestKey is the machine's, where it has joined, and else one that goes with the examination: a look makes no identity.
func (d *doctor) attestKey() (string, error) {
	if d.self != nil {
		return filepath.Join(d.dir, "attest.key"), nil
	}
	dir, err := os.MkdirTemp("", "basilica-doctor-*")
	if err != nil {
		return "", fmt.Errorf("make a key for the examination: %w", err)
	}
	d.closers.add(func() error { return os.RemoveAll(dir) })
	return filepath.Join(dir, "attest.key"), nil
}

// detected judges what the attestor names.
func (d *doctor) detected(found attestor.Detection) (string, error) {
	if d.self != nil {
		e, err := d.self.Endorsement.Open()
		if err != nil {
			return "", err
		}
		if !slices.Equal(e.AttestSPKI, found.SPKI) {
			return "", basilica.E(basilica.Invalid, "ATTEST_KEY_CHANGED", "the attestation key is not the one that the miner endorsed", "")
		}
	}
	if len(found.GPUs) == 0 {
		return "", basilica.E(basilica.Unavailable, "NO_GPU", "this machine has no device that could be proven"+notes(found.Notes), "")
	}
	models := map[string]int{}
	for _, g := range found.GPUs {
		models[g.Model]++
	}
	var words []string
	for model, n := range models {
		words = append(words, fmt.Sprintf("%d × %s", n, model))
	}
	slices.Sort(words)
	said := strings.Join(words, ", ")
	if slices.ContainsFunc(found.GPUs, isSoftware) && haveReal(found.GPUs) {
		return "", basilica.E(basilica.Unavailable, "SOFTWARE_REFUSED", "validators refuse the whole machine: beside its GPUs it has software devices ("+said+")", noSoftware)
	}
	if !haveReal(found.GPUs) {
		said += "; validators take software devices on development networks alone"
	}
	return said, nil
}

// noSoftware is the way out of a machine with both kinds of devices.
const noSoftware = "set executor.software_gpus = 0 and restart the executor: software devices are for development networks alone"

func notes(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return ": " + strings.Join(all, "; ")
}

// holders says who holds GPUs in the machine's ledger; "" where nobody does.
func (d *doctor) holders(ctx context.Context) (string, error) {
	db, err := store.OpenExecutorBeside(ctx, d.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer db.Close()
	now, err := d.ledgerNow(ctx, db)
	if err != nil {
		return "", err
	}
	ledger, err := db.Ledger(ctx, now)
	if err != nil {
		return "", err
	}
	for _, h := range ledger {
		if len(h.GPUs) > 0 {
			return fmt.Sprintf("%s %s holds the GPUs; --busy proves them all the same", h.Kind, h.Holder), nil
		}
	}
	return "", nil
}

// ledgerNow is the time on the ledger's own line.
func (d *doctor) ledgerNow(ctx context.Context, db *store.Executor) (time.Time, error) {
	facts, err := d.root.Facts(ctx, d.dir)
	if err != nil {
		return time.Time{}, err
	}
	up := hardware.Uptime()
	begin, at, err := db.TimeLine(ctx, facts.BootID, d.deps.Now(), up)
	return begin.Add(up - at), err
}

// hold enters the GPUs in the machine's ledger, so that no task and no validator meets the doctor at them.
func (d *doctor) hold(ctx context.Context, gpus []basilica.GPU, life time.Duration) (leave func(), err error) {
	db, err := store.OpenExecutorBeside(ctx, d.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil // no executor has run here, so there is nobody to meet
	}
	if err != nil {
		return nil, err
	}
	now, err := d.ledgerNow(ctx, db)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	var ids []string
	for _, g := range gpus {
		if g.UUID != "" {
			ids = append(ids, g.UUID)
		}
	}
	h, err := db.Hold(ctx, basilica.Holding{Kind: basilica.HolderChallenge, Holder: doctorHolder, GPUs: ids, Expires: now.Add(life)}, now)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := errors.Join(db.Leave(last, h.Fence), db.Close()); err != nil {
			d.deps.Log.Warn("the doctor's holding stays in the ledger until it expires", "err", err)
		}
	}, nil
}

// prove has the machine answer one challenge, which this process judges as a validator does.
func (d *doctor) prove(ctx context.Context, found attestor.Detection, busy bool) (string, error) {
	life := reducedTime
	if d.cfg.Full {
		life = fullTime
	}
	ctx, cancel := context.WithTimeout(ctx, life)
	defer cancel()
	if !busy {
		leave, err := d.hold(ctx, found.GPUs, life+time.Minute)
		var held *basilica.Held
		switch {
		case errors.As(err, &held) && !d.cfg.Busy:
			return "", notDone{fmt.Sprintf("%s %s has just taken the GPUs", held.Holding.Kind, held.Holding.Holder)}
		case err == nil:
			defer leave()
		case held == nil:
			return "", err
		}
	}
	j, offered, err := d.challenge(ctx, found)
	if err != nil {
		return "", err
	}
	said, err := d.judgement(j)
	if err == nil && !d.cfg.Full && !busy {
		err = roomFor(offered)
	}
	return said, err
}

// roomFor refuses GPUs with less free memory than a validator's challenge takes; one of reduced size does not need it.
func roomFor(gpus []attest.DeviceInfo) error {
	profiles, err := attest.DefaultProfiles()
	if err != nil {
		return err
	}
	for i, g := range gpus {
		p, err := profiles.Sizes(g.Name, g.VRAMBytes)
		if g.Software || err != nil { // a card that is too small is the validator's to refuse
			continue
		}
		if p.DeviceBytes() > g.FreeBytes {
			return basilica.E(basilica.Exhausted, "CUDA_MEMORY", fmt.Sprintf("GPU %d (%s) has %d MiB of free memory, and a validator's proof of it takes %d MiB", i, g.Name, g.FreeBytes>>20, p.DeviceBytes()>>20), "")
		}
	}
	return nil
}

// challenge drives the verifier over a pair of sockets, at whose other end gpu-attestor answers as it does to a validator.
func (d *doctor) challenge(ctx context.Context, found attestor.Detection) (j attest.Judgement, offered []attest.DeviceInfo, err error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return j, nil, err
	}
	setup, err := d.setup(found)
	if err != nil {
		return j, nil, err
	}
	copy(setup.Binding.ValidatorHotkey[:], public)
	v, err := attest.NewVerifier(setup, rand.Reader, func(msg []byte) ([]byte, error) { return ed25519.Sign(private, msg), nil })
	if err != nil {
		return j, nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return j, nil, err
	}
	served := make(chan error, 1)
	go func() { served <- d.child.Serve(ctx, theirs, setup.Binding) }()
	refusal := validator.Drive(ctx, v, ours, func() { ours.Close() }, d.deps.Now)
	// A socket that hangUp closed already is no failure.
	_ = ours.Close()
	if err := errors.Join(refusal, <-served); err != nil && v.Judgement().Result == "" {
		return j, nil, err
	}
	return v.Judgement(), v.Offered(), nil
}

// setup is what decides the challenge: a validator's of a machine that it sees for the first time, but for its size.
func (d *doctor) setup(found attestor.Detection) (attest.Setup, error) {
	profiles, err := attest.DefaultProfiles()
	if err != nil {
		return attest.Setup{}, err
	}
	trapdoor, err := attest.NewTrapdoor(rand.Reader)
	if err != nil {
		return attest.Setup{}, err
	}
	s := attest.Setup{
		Started: d.deps.Now(), SPKI: found.SPKI, Strength: attest.EnrolmentStrength(), Profiles: profiles, Trapdoor: trapdoor.Bytes(),
		Policy: attest.Policy{AllowSoftware: !haveReal(found.GPUs), Squarings: reducedSquarings},
	}
	var session [64]byte // a channel of its own: session id, and a key of no host
	if _, err := rand.Read(session[:]); err != nil {
		return s, err
	}
	s.Binding.SessionID, s.Binding.HostKey = session[:32], session[32:]
	if d.self != nil {
		s.Binding.HostKey = d.self.host.PublicKey().Marshal()
		if s.Binding.MinerHotkey, err = keys.DecodeSS58(string(d.self.Miner)); err != nil {
			return s, err
		}
	}
	if d.cfg.Full {
		s.Policy.Squarings = fullSquarings
		return s, nil
	}
	return s, reduce(&s, found.GPUs)
}

// reducedModel is the name under which real GPUs are given a part of their memory to fill. It has no rates, so it sets no
// floors: how fast so short a run was says little.
const reducedModel = "reduced"

func reduce(s *attest.Setup, gpus []basilica.GPU) error {
	if !haveReal(gpus) {
		return nil // a software device's challenge is small as it is
	}
	p, err := attest.ParamsFor(reducedMemory, 0)
	if err != nil {
		return err
	}
	s.Profiles = append(slices.Clone(s.Profiles), attest.Profile{Model: reducedModel, Params: &p})
	for _, g := range gpus {
		c := attest.Claim{Model: reducedModel}
		if err := c.UUID.UnmarshalText([]byte(strings.ReplaceAll(g.UUID, "-", ""))); err != nil {
			return fmt.Errorf("read the UUID of GPU %d: %w", g.Index, err)
		}
		s.Claims = append(s.Claims, c)
	}
	return nil
}

// judgement turns what the verifier decided into a row. A short run fits no model for certain, so there an unsure verdict, in
// which every rule held, is enough.
func (d *doctor) judgement(j attest.Judgement) (string, error) {
	var bytes uint64
	for _, g := range j.GPUs {
		bytes += g.M
	}
	proven := fmt.Sprintf("%d devices, %.1f MiB proven", len(j.GPUs), float64(bytes)/(1<<20))
	switch verdict := j.Verdict(); {
	case verdict == basilica.Pass:
		return proven, nil
	case verdict == basilica.Unsure && !d.cfg.Full:
		return proven + ", every rule held", nil
	}
	fix := ""
	if j.Reason == "SOFTWARE_REFUSED" {
		fix = noSoftware
	}
	return "", basilica.E(basilica.Unavailable, j.Reason, fmt.Sprintf("a validator would come to %s: %s", j.Verdict(), j.Detail), fix)
}

// socketPair is a connection inside this process with buffers, as an SSH channel has them.
func socketPair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket pair")
		conns[i], err = net.FileConn(f) // a copy
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
		}
	}
	return conns[0], conns[1], nil
}
