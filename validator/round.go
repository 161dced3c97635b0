package validator

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"basilica"
	"basilica/attest"
	"basilica/score"
)

// maxDoors bounds the miners that are asked at once.
const maxDoors = 64

// visit is one miner in one round.
type visit struct {
	neuron basilica.Neuron
	known  []basilica.ExecutorID // that this validator has seen before and still counts
	reason string                // why the miner cannot be asked; "" if it can
	detail string
	waits  int // rounds in a row that ended before its turn
}

// round does everything of one round but the weights: discover, ask, inspect, score, store.
func (v *Validator) round(ctx context.Context, r basilica.Round) error {
	if head := v.Status().Head; uint64(head-r.First) >= v.cfg.RoundBlocks {
		v.cfg.Log.Warn("round skipped: the one before took longer than a round", "round", r.First, "head", head)
		return nil
	}
	mg, err := v.metagraph(ctx, r.First)
	if err != nil {
		return err
	}
	me, err := v.me(mg)
	if err != nil {
		return err
	}
	if !me.ValidatorPermit {
		v.cfg.Log.Warn("round skipped: no validator permit", "round", r.First, "uid", me.UID)
		return nil
	}
	r.Started = v.now()
	if err := v.cfg.Book.OpenRound(ctx, r); err != nil {
		if basilica.KindOf(err) == basilica.Conflict {
			v.cfg.Log.Warn("round skipped: it is recorded already", "round", r.First)
			return nil
		}
		return fmt.Errorf("record round %d: %w", r.First, asInternal(err))
	}
	visits := v.discover(mg)
	v.say(CodeVerifying, fmt.Sprintf("round %d: asking %d miners", r.First, len(visits)), "")
	v.update(func(s *Status) { s.Round = &r.First })
	v.cfg.Log.Info("round begins", "round", r.First, "slot", r.Slot, "miners", len(visits), "block", mg.Block)
	found, starts, err := v.visitAll(ctx, time.Now().Add(v.cfg.RoundTimeout), r, visits)
	if ctx.Err() != nil {
		return nil // the round stays open; the next start closes it
	}
	if err != nil {
		return err
	}
	r.Starts = starts
	passed := 0
	for _, f := range found {
		if f.verification.Verdict(basilica.CheckGPUProof).Result == basilica.Pass {
			passed++
		}
	}
	return v.finish(ctx, r, mg, found, basilica.Reason{Code: outcomeCompleted, Sentence: fmt.Sprintf("%d executors, %d passed", len(found), passed)})
}

// Outcomes of rounds that judged somebody, so that weights can be made of them. One that a restart ended before has that as
// its outcome.
const (
	outcomeCompleted = "COMPLETED"
	outcomeCut       = "ROUND_CUT" // ended by a restart
)

// asInternal keeps a store's failure from being taken for the chain's.
func asInternal(err error) error {
	if basilica.KindOf(err) == basilica.Unavailable {
		return basilica.E(basilica.Internal, basilica.CodeOf(err), "the validator's database does not answer", basilica.FixOf(err)).With(err)
	}
	return err
}

// discover lists the miners of the subnet: everyone who serves an axon or whose executors are known, but for this
// validator itself and the owner's hotkey, to which is burned.
func (v *Validator) discover(mg *basilica.Metagraph) []visit {
	known, waits := map[basilica.Hotkey][]basilica.ExecutorID{}, map[basilica.Hotkey]int{}
	for k, s := range v.standings {
		if v.counts(s) {
			known[k.Miner] = append(known[k.Miner], k.Executor)
			waits[k.Miner] = max(waits[k.Miner], s.Waits)
		}
	}
	var out []visit
	for _, n := range mg.Neurons {
		if n.Hotkey == v.self || n.Hotkey == mg.OwnerHotkey {
			continue
		}
		slices.Sort(known[n.Hotkey])
		x := visit{neuron: n, known: known[n.Hotkey], waits: waits[n.Hotkey]}
		switch addr := n.Axon.Addr; {
		case !addr.IsValid() || addr.Port() == 0:
			x.reason, x.detail = reasonNoAxon, "the miner serves no axon"
		case !v.cfg.AllowPrivate && !basilica.PublicAddr(addr.Addr()):
			x.reason, x.detail = reasonAxonAddr, fmt.Sprintf("the miner's axon is at %s, which no stranger may have us dial", addr.Addr())
		case len(n.Axon.TLSKey) != 64 && !v.cfg.AllowPlain:
			x.reason, x.detail = reasonAxonTLS, "the miner published no TLS key with its axon"
		}
		if x.reason != "" && len(x.known) == 0 {
			continue
		}
		out = append(out, x)
	}
	return out
}

// counts says whether an executor that its miner no longer names is still worth a row: not once its whole window is empty,
// unless it waits for its turn.
func (v *Validator) counts(s score.Standing) bool {
	return s.Waits > 0 || len(s.Recent) < max(v.cfg.Policy.Rounds, 1) || slices.ContainsFunc(s.Recent, func(c float64) bool { return c > 0 })
}

// findings collects what all miners' executors brought, and keeps each at once: a restart must not cost a verdict.
type findings struct {
	keep func(inspection) error

	mu     sync.Mutex
	all    []inspection
	starts []basilica.Start
}

// started keeps how near to one instant the machines of a gate began.
func (f *findings) started(g *gate) {
	if s, any := g.result(); any {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.starts = append(f.starts, s)
	}
}

func (f *findings) add(x inspection, err error) error {
	if err == nil {
		err = f.keep(x)
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, x)
	return nil
}

// shares is how many miners at least have room for their machines at once: none may hold more than one part in so many of the
// slots, whatever its machines do.
const shares = 8

// visitAll inspects everybody's machines. All of one miner start near one instant, however many they are: one GPU behind several
// of them answers once. Slots bound the machines whose proofs are read at once. A miner's turn comes when it has its slots, which
// are a share of all at most; with it come all its machines, and their proofs are read in so many slots. After the end nobody is
// told any more what to open.
func (v *Validator) visitAll(whole context.Context, ends time.Time, r basilica.Round, visits []visit) ([]inspection, []basilica.Start, error) {
	ctx, cancel := context.WithDeadline(whole, ends)
	defer cancel()
	var trapdoor *attest.Trapdoor
	if v.cfg.Squarings > 0 && !v.cfg.PublicVDF {
		// One modulus per round: its factors are in the records, which are published when the round is over.
		var err error
		if trapdoor, err = attest.NewTrapdoor(v.cfg.Random); err != nil {
			return nil, nil, fmt.Errorf("draw the round's modulus: %w", err)
		}
	}
	// Those first who had no turn, the others in an order that nobody can count on: whoever makes us wait cannot choose whose turn
	// never comes.
	var seed [32]byte
	if _, err := io.ReadFull(v.cfg.Random, seed[:]); err != nil {
		return nil, nil, fmt.Errorf("draw the order of visits: %w", err)
	}
	rand.New(rand.NewChaCha8(seed)).Shuffle(len(visits), func(i, j int) { visits[i], visits[j] = visits[j], visits[i] })
	slices.SortStableFunc(visits, func(a, b visit) int { return cmp.Compare(b.waits, a.waits) })
	found := findings{keep: func(x inspection) error {
		if whole.Err() != nil {
			return nil // the validator is ending: what it found now says nothing of the machine
		}
		if err := v.cfg.Book.KeepFinding(context.WithoutCancel(ctx), r, x.verification, x.pin); err != nil {
			return fmt.Errorf("keep verification %s: %w", x.verification.ID, asInternal(err))
		}
		return nil
	}}
	parties := make([]party, len(visits))
	doors := errgroup.Group{}
	doors.SetLimit(maxDoors)
	for i, x := range visits {
		doors.Go(func() (err error) {
			parties[i], err = v.enter(ctx, r, x, &found)
			return err
		})
	}
	if err := doors.Wait(); err != nil {
		return nil, nil, err
	}
	parties = slices.DeleteFunc(parties, func(p party) bool { return len(p.accesses) == 0 })
	machines := 0
	for _, p := range parties {
		machines += len(p.accesses)
	}
	// Where all machines of the subnet fit, they start near one instant: a GPU answers once, whoever shares it.
	everybody := newGate(whole, machines, machines)
	group, slots, gates := errgroup.Group{}, semaphore.NewWeighted(int64(v.cfg.Parallel)), []*gate{everybody}
	for _, p := range parties {
		n, together := len(p.accesses), everybody
		if machines > v.cfg.Parallel {
			n = min(n, max(1, v.cfg.Parallel/min(len(parties), shares)))
			together = newGate(whole, len(p.accesses), n)
			gates = append(gates, together)
		}
		err := slots.Acquire(ctx, int64(n))
		if err != nil || v.tooLate(ctx) {
			if err == nil {
				slots.Release(int64(n))
			}
			group.Go(func() error {
				return v.missing(r, p.neuron, idsOf(p.accesses), score.ReasonNoTurn, "the round ended before this executor's turn", &found)
			})
			continue
		}
		group.Go(func() error { return v.inspectAll(ctx, r, p, trapdoor, together, slots, n, &found) })
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	for _, g := range gates {
		found.started(g)
	}
	slices.SortFunc(found.starts, func(a, b basilica.Start) int { return a.At.Compare(b.At) })
	return found.all, found.starts, nil
}

// party is a miner that gave access.
type party struct {
	neuron   basilica.Neuron
	accesses []basilica.GrantedAccess
	key      ed25519.PrivateKey           // that the certificates are for
	said     map[basilica.HolderID]answer // on whom they were busy with
}

// missing records executors that could not be looked at.
func (v *Validator) missing(r basilica.Round, n basilica.Neuron, ids []basilica.ExecutorID, reason, detail string, found *findings) error {
	for _, id := range ids {
		if err := found.add(v.unmeasured(r, n, id, reason, detail)); err != nil {
			return err
		}
	}
	return nil
}

// enter asks one miner for access. What it gives none to is found to be missing.
func (v *Validator) enter(ctx context.Context, r basilica.Round, x visit, found *findings) (party, error) {
	if x.reason != "" {
		return party{}, v.missing(r, x.neuron, x.known, x.reason, x.detail, found)
	}
	if v.tooLate(ctx) {
		return party{}, v.missing(r, x.neuron, x.known, score.ReasonNoTurn, "the round ended before this miner's turn", found)
	}
	public, private, err := ed25519.GenerateKey(v.cfg.Random)
	if err != nil {
		return party{}, fmt.Errorf("draw an SSH key: %w", err)
	}
	asked := v.holdersOf(x.neuron.Hotkey, x.known)
	grant, err := v.openDoor(ctx, x.neuron, basilica.ValidationRequest{Validator: v.self, SSHPublicKey: sshPublicKey(public), Round: r.First, Holders: asked})
	if err != nil {
		reason, detail, _ := reasonOf(ctx, err)
		v.cfg.Log.Warn("miner gave no access", "miner", x.neuron.Hotkey, "uid", x.neuron.UID, "axon", x.neuron.Axon.Addr, "reason", reason, "err", err)
		if reason == score.ReasonBusy || reason == score.ReasonBusyChallenge {
			reason = reasonRefused // a miner's door has no ledger
		}
		if basilica.KindOf(err) == basilica.Unavailable {
			reason = reasonMinerAway
		}
		if ctx.Err() != nil {
			reason, detail = score.ReasonNoTurn, "the round ended while the miner was asked"
		}
		return party{}, v.missing(r, x.neuron, x.known, reason, detail, found)
	}
	accesses, rest := v.plan(x, grant)
	v.cfg.Log.Info("miner gave access", "miner", x.neuron.Hotkey, "uid", x.neuron.UID, "grant", grant.ID, "executors", len(accesses), "skipped", len(rest))
	for _, s := range rest {
		if err := v.missing(r, x.neuron, []basilica.ExecutorID{s.Executor}, s.Reason.Code, s.Reason.Sentence, found); err != nil {
			return party{}, err
		}
	}
	return party{x.neuron, accesses, private, v.answers(x.neuron.Hotkey, asked, grant.Occupied)}, nil
}

// inspectAll looks at a miner's executors at once; their GPUs start when the gate opens. It gives back held slots, each as soon
// as no machine is left that needs it.
func (v *Validator) inspectAll(ctx context.Context, r basilica.Round, p party, trapdoor *attest.Trapdoor, together *gate, slots *semaphore.Weighted, held int, found *findings) error {
	group, left := errgroup.Group{}, atomic.Int64{}
	left.Store(int64(len(p.accesses)))
	for _, access := range p.accesses {
		key := basilica.ExecutorKey{Miner: p.neuron.Hotkey, Executor: access.Executor}
		t := target{round: r, neuron: p.neuron, access: access, standing: v.standings[key], key: p.key, trapdoor: trapdoor, gate: together}
		t.holder = holderVerdict(access.Executor, t.standing, p.said)
		if pin, ok := v.pins[key]; ok {
			t.pin = &pin
		}
		group.Go(func() error {
			defer func() {
				if left.Add(-1) < int64(held) {
					slots.Release(1)
				}
			}()
			return found.add(v.inspect(ctx, t))
		})
	}
	return group.Wait()
}

// tooLate says that the round has too little time left for a machine to be blamed for not finishing in it.
func (v *Validator) tooLate(ctx context.Context) bool {
	ends, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && time.Until(ends) < v.cfg.RoundTimeout/4
}

func (v *Validator) openDoor(ctx context.Context, n basilica.Neuron, req basilica.ValidationRequest) (_ basilica.ValidationGrant, err error) {
	ctx, cancel := context.WithTimeout(ctx, v.cfg.ConnectTimeout)
	defer cancel()
	door, err := v.cfg.Door(n)
	if err != nil {
		return basilica.ValidationGrant{}, err
	}
	if c, ok := door.(io.Closer); ok {
		defer func() { err = errors.Join(err, c.Close()) }()
	}
	grant, err := door.OpenValidation(ctx, req)
	if err != nil {
		return basilica.ValidationGrant{}, fmt.Errorf("open validation: %w", asUnavailable(err))
	}
	return grant, nil
}

// newcomers bounds the executors of one miner that have a row while they are worth nothing, in units of MaxExecutors: names
// cost a miner nothing.
const newcomers = 4

// plan picks the executors to inspect out of a grant, those that are known before new ones, and says of the others why not.
// Every known executor is in one of both lists: what a miner does not show, or hides behind too many names, counts as a miss,
// and so does its own word on an executor that it skipped.
func (v *Validator) plan(x visit, grant basilica.ValidationGrant) ([]basilica.GrantedAccess, []basilica.SkippedBox) {
	var take []basilica.GrantedAccess
	var rest []basilica.SkippedBox
	known, seen, addrs := map[basilica.ExecutorID]bool{}, map[basilica.ExecutorID]bool{}, map[string]bool{}
	for _, id := range x.known {
		known[id] = true
	}
	room, ignored := newcomers*v.cfg.MaxExecutors-len(known), 0
	// admit says whether an executor gets a row in this round.
	admit := func(id basilica.ExecutorID) bool {
		switch {
		case seen[id] || !executorID.MatchString(string(id)):
			v.cfg.Log.Warn("miner named an executor twice or by no id", "miner", x.neuron.Hotkey, "executor", clip(string(id), 64))
			return false
		case !known[id] && room <= 0:
			ignored++
			return false
		case !known[id]:
			room--
		}
		seen[id] = true
		return true
	}
	skip := func(id basilica.ExecutorID, code, text string) {
		rest = append(rest, basilica.SkippedBox{Executor: id, Reason: basilica.Reason{Code: code, Sentence: text}})
	}
	offered := slices.Clone(grant.Executors)
	slices.SortStableFunc(offered, func(a, b basilica.GrantedAccess) int {
		return cmp.Compare(rank(known[a.Executor]), rank(known[b.Executor]))
	})
	for _, a := range offered {
		full := len(take) == v.cfg.MaxExecutors
		switch {
		case full && !known[a.Executor]:
			ignored++
		case !admit(a.Executor):
		case full:
			skip(a.Executor, reasonTooMany, "the miner has more executors than this validator looks at")
		case addrs[a.Addr]:
			skip(a.Executor, reasonAddressTwice, "another executor of this miner has the same SSH address")
		default:
			take, addrs[a.Addr] = append(take, a), true
		}
	}
	for _, s := range grant.Skipped[:min(len(grant.Skipped), v.cfg.MaxExecutors)] {
		if !seen[s.Executor] && admit(s.Executor) {
			skip(s.Executor, "MINER_SKIPPED", clip("the miner says: "+s.Reason.Code+": "+s.Reason.Sentence, 400))
		}
	}
	for _, id := range x.known {
		if !seen[id] {
			skip(id, reasonAbsent, "the miner no longer names this executor")
		}
	}
	if ignored > 0 {
		v.cfg.Log.Warn("miner has more executors than this validator looks at", "miner", x.neuron.Hotkey, "executors", len(grant.Executors), "most", v.cfg.MaxExecutors, "ignored", ignored)
	}
	return take, rest
}

// rank puts what is known first.
func rank(known bool) int {
	if known {
		return 0
	}
	return 1
}

func idsOf(batch []basilica.GrantedAccess) []basilica.ExecutorID {
	out := make([]basilica.ExecutorID, len(batch))
	for i, a := range batch {
		out[i] = a.Executor
	}
	return out
}

// finish settles GPUs that two executors proved, scores, and stores the round in one transaction.
func (v *Validator) finish(ctx context.Context, r basilica.Round, mg *basilica.Metagraph, found []inspection, outcome basilica.Reason) error {
	slices.SortFunc(found, func(a, b inspection) int {
		return cmp.Or(a.verification.Ended.Compare(b.verification.Ended), cmp.Compare(a.verification.ID, b.verification.ID))
	})
	v.settle(found)
	v.selective(ctx, mg, found)
	next := make(map[basilica.ExecutorKey]score.Standing, len(found))
	verifications, pins, passed := make([]basilica.Verification, 0, len(found)), []basilica.Pin(nil), 0
	for _, f := range found {
		f.verification.Genesis = mg.Genesis
		k := basilica.ExecutorKey{Miner: f.verification.Miner, Executor: f.verification.Executor}
		next[k] = v.standings[k].Next(f.verification, v.cfg.Policy)
		verifications = append(verifications, f.verification)
		if f.pin != nil {
			pins = append(pins, *f.pin)
		}
		if f.verification.Verdict(basilica.CheckGPUProof).Result == basilica.Pass {
			passed++
		}
	}
	for k, s := range v.standings {
		if _, ok := next[k]; !ok {
			next[k] = s
		}
	}
	r.Ended, r.Outcome = v.now(), outcome
	r.Scores = v.scores(mg, next)
	changed := make(map[basilica.ExecutorKey]score.Standing, len(found))
	for _, x := range verifications {
		k := basilica.ExecutorKey{Miner: x.Miner, Executor: x.Executor}
		changed[k] = next[k]
	}
	if err := v.cfg.Book.CloseRound(ctx, r, verifications, pins, changed); err != nil {
		return fmt.Errorf("store round %d: %w", r.First, asInternal(err))
	}
	v.standings = next
	for _, p := range pins {
		v.pins[p.ExecutorKey] = p
	}
	id := r.ID()
	v.completed, v.completedAt = &id, lastVerdict(r, found)
	v.update(func(s *Status) { s.Rounds++; s.Executors, s.Passed = len(found), passed })
	v.say(CodeWaiting, "waiting for the next round", "")
	v.cfg.Log.Info("round completed", "round", r.First, "executors", len(found), "passed", passed, "seconds", r.Ended.Sub(r.Started).Seconds())
	v.dropEvidence(ctx)
	return nil
}

// lastVerdict is the block of a round's last verdict; what a restart left without one has none.
func lastVerdict(r basilica.Round, found []inspection) basilica.BlockNumber {
	at := r.First
	for _, f := range found {
		if f.verification.Verdict(basilica.CheckGPUProof).Reason != score.ReasonRestarted {
			at = max(at, f.verification.Block)
		}
	}
	return at
}

// settle gives every GPU that several executors proved in this round to one of them: to the one whose last pass had it
// before, else to the one that this validator has known longer, and of newcomers to the one that was done first. A GPU of an
// executor that could not prove it now (its tenant is in, or it was away) stays that one's: nobody can take such a machine's
// place by naming its GPU, and none is paid for twice. The others proved nothing that we can tell apart: unsure.
func (v *Validator) settle(found []inspection) {
	owner := map[string]int{}
	had := func(i int, uuid string) bool {
		k := basilica.ExecutorKey{Miner: found[i].verification.Miner, Executor: found[i].verification.Executor}
		return slices.ContainsFunc(v.standings[k].GPUs, func(g basilica.ProvenGPU) bool { return g.UUID == uuid })
	}
	since := func(i int) basilica.BlockNumber {
		pin, ok := v.pins[basilica.ExecutorKey{Miner: found[i].verification.Miner, Executor: found[i].verification.Executor}]
		if !ok {
			return math.MaxUint64
		}
		return pin.Since
	}
	// before says that a's right to a GPU goes before b's.
	before := func(a, b int, uuid string) bool {
		if had(a, uuid) != had(b, uuid) {
			return had(a, uuid)
		}
		return since(a) < since(b)
	}
	for i := range found {
		for _, g := range found[i].verification.GPUs {
			if known := g.UUID != "" && g.UUID != unknownUUID; known {
				if first, taken := owner[g.UUID]; !taken || before(i, first, g.UUID) {
					owner[g.UUID] = i
				}
			}
		}
	}
	holders := v.holders(found)
	for i := range found {
		x := &found[i].verification
		for _, g := range x.GPUs {
			detail := ""
			if h, held := holders[g.UUID]; held && h != (basilica.ExecutorKey{Miner: x.Miner, Executor: x.Executor}) {
				detail = fmt.Sprintf("GPU %s is that of executor %s of miner %s, which has not lost it", g.UUID, h.Executor, h.Miner)
			} else if first, taken := owner[g.UUID]; taken && first != i {
				other := found[first].verification
				detail = fmt.Sprintf("GPU %s was proven by executor %s of uid %d in the same round", g.UUID, other.Executor, other.MinerUID)
			}
			if detail == "" {
				continue
			}
			x.GPUs = nil
			for j, d := range x.Verdicts {
				if d.Check == basilica.CheckGPUProof {
					x.Verdicts[j].Result, x.Verdicts[j].Reason, x.Verdicts[j].Detail = basilica.Unsure, reasonDuplicateUUID, detail
				}
			}
			v.cfg.Log.Warn("GPU proven twice", "verification", x.ID, "miner", x.Miner, "executor", x.Executor, "gpu", g.UUID, "detail", detail)
			break
		}
	}
}

// holders gives the GPUs of executors that had them at their last pass and were not judged in this round, as long as their
// window is not empty: whoever is away, even too long to earn, finds its GPUs its own. One that its miner no longer names holds
// nothing (the machine may have come back under a new id), nor does one whose claim was proven false.
func (v *Validator) holders(found []inspection) map[string]basilica.ExecutorKey {
	judged := map[basilica.ExecutorKey]bool{}
	for _, f := range found {
		d := f.verification.Verdict(basilica.CheckGPUProof)
		if d.Result != basilica.NotRun || d.Reason == reasonAbsent {
			judged[basilica.ExecutorKey{Miner: f.verification.Miner, Executor: f.verification.Executor}] = true
		}
	}
	out := map[string]basilica.ExecutorKey{}
	for k, s := range v.standings {
		if judged[k] || s.Failed || !v.counts(s) {
			continue
		}
		for _, g := range s.GPUs {
			if other, taken := out[g.UUID]; g.UUID != unknownUUID && (!taken || v.standings[other].LastPass.Before(s.LastPass)) {
				out[g.UUID] = k
			}
		}
	}
	return out
}

const unknownUUID = "00000000-0000-0000-0000-000000000000"

// scores computes the score of every registered miner with a known executor.
func (v *Validator) scores(mg *basilica.Metagraph, standings map[basilica.ExecutorKey]score.Standing) []basilica.Score {
	byMiner := map[basilica.Hotkey]map[basilica.ExecutorID]score.Standing{}
	for k, s := range standings {
		if !v.counts(s) {
			continue
		}
		if byMiner[k.Miner] == nil {
			byMiner[k.Miner] = map[basilica.ExecutorID]score.Standing{}
		}
		byMiner[k.Miner][k.Executor] = s
	}
	out := []basilica.Score{}
	for _, n := range mg.Neurons {
		if executors := byMiner[n.Hotkey]; executors != nil && n.Hotkey != v.self && n.Hotkey != mg.OwnerHotkey {
			out = append(out, score.Miner(n, executors, v.cfg.Policy))
		}
	}
	return out
}

// sshPublicKey is the SSH wire encoding of an Ed25519 key (RFC 8709 section 4).
func sshPublicKey(key ed25519.PublicKey) []byte {
	const name = "ssh-ed25519"
	b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(key)))
	return append(b, key...)
}
