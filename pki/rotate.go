package pki

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// RotationOverlap is how long the keys that were replaced stay in force after the new ones began to sign: until what they
// signed last has ended, on a clock that is off as far as is tolerated.
const RotationOverlap = MaxSSHLife + 2*Backdate

// Phase says where a rotation of the authority's keys stands. Each phase is on disk before it holds, so that a miner that
// was killed goes on where it stopped.
type Phase string

// The phases.
const (
	PhaseNone      Phase = ""          // one set of keys
	PhaseAnnounced Phase = "announced" // machines learn of a second set, which signs their new certificates and nothing else
	PhaseSwitched  Phase = "switched"  // the second set signs everything; the first is still trusted
)

// ErrRotation refuses a step of a rotation that does not follow from its phase.
var ErrRotation = errors.New("the rotation is not at that step")

// Rotation gives the phase and, in PhaseSwitched, when the new keys began to sign.
func (a *Authority) Rotation() (Phase, time.Time) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	switch {
	case a.next != nil:
		return PhaseAnnounced, time.Time{}
	case a.old != nil:
		return PhaseSwitched, a.switched
	}
	return PhaseNone, time.Time{}
}

// BeginRotation makes a second set of keys beside the one that signs. A rotation that is under way already is ErrRotation.
func (a *Authority) BeginRotation() error {
	fresh, err := newKeySet()
	if err != nil {
		return err
	}
	return a.step(PhaseNone, func(a *Authority) { a.next = fresh })
}

// SwitchRotation lets the second set sign from now on; the first stays in force. The caller knows that every machine
// trusts both.
func (a *Authority) SwitchRotation(now time.Time) error {
	return a.step(PhaseAnnounced, func(a *Authority) {
		a.signing, a.next, a.old, a.switched = a.next, nil, a.signing, now.UTC().Truncate(time.Second)
	})
}

// EndRotation forgets the keys that were replaced. The caller knows that nothing that they signed is in use.
func (a *Authority) EndRotation() error {
	return a.step(PhaseSwitched, func(a *Authority) { a.old, a.switched = nil, time.Time{} })
}

// step takes one step on disk, then here.
func (a *Authority) step(from Phase, change func(*Authority)) error {
	if at, _ := a.Rotation(); at != from {
		return fmt.Errorf("%w: it is at %q, want %q", ErrRotation, at, from)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	to := &Authority{dir: a.dir, signing: a.signing, next: a.next, old: a.old, switched: a.switched}
	change(to)
	text, err := to.encode()
	if err != nil {
		return err
	}
	if err := replaceSecret(filepath.Join(a.dir, authorityFile), text); err != nil {
		return fmt.Errorf("write authority: %w", err)
	}
	a.signing, a.next, a.old, a.switched = to.signing, to.next, to.old, to.switched
	return nil
}

// sets lists what is in force, the set that signs first.
func (a *Authority) sets() []*keySet {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.DeleteFunc([]*keySet{a.signing, a.next, a.old}, func(k *keySet) bool { return k == nil })
}

// signer is the set that signs; issuer is the one that signs machines' certificates: the newest.
func (a *Authority) signer() *keySet { return a.sets()[0] }

func (a *Authority) issuer() *keySet {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.next != nil {
		return a.next
	}
	return a.signing
}

// FleetCAs are the DER of every fleet CA in force, the one that signs first; more than one only during a rotation.
func (a *Authority) FleetCAs() (ders [][]byte) {
	for _, k := range a.sets() {
		ders = append(ders, slices.Clone(k.ca.Raw))
	}
	return ders
}

// SSHCAKeys are the keys (SSH wire encoding) of every SSH CA in force, the one that signs first.
func (a *Authority) SSHCAKeys() (blobs [][]byte) {
	for _, k := range a.sets() {
		blobs = append(blobs, k.ssh.PublicKey().Marshal())
	}
	return blobs
}

// JWTPublicKeys verify the miner's tokens, the one that signs first.
func (a *Authority) JWTPublicKeys() (public [][]byte) {
	for _, k := range a.sets() {
		public = append(public, slices.Clone(k.jwtKey.Public().(ed25519.PublicKey)))
	}
	return public
}
