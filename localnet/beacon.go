package localnet

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"time"

	"basilica"
	"basilica/timelock"
)

// Pulse is what a drand beacon publishes of one round: its signature of the round's number, and the hash of that.
type Pulse struct {
	Round      uint64
	Randomness []byte // 32 bytes
	Signature  []byte // 48 bytes, a compressed point of G1
}

// maxPulsesFile bounds a file of pulses in bytes.
const maxPulsesFile = 64 << 20

// ReadPulses reads pulses of the public quicknet beacon as a drand node's HTTP interface gives them, one JSON object after
// another: {"round": 1000, "randomness": "fe29…", "signature": "b446…"}, in any order. Its errors have the code
// LOCALNET_PULSES. Whether a pulse is the beacon's own is checked when the chain takes it.
func ReadPulses(r io.Reader) ([]Pulse, error) {
	dec := json.NewDecoder(io.LimitReader(r, maxPulsesFile))
	var out []Pulse
	for {
		var p struct {
			Round                 uint64
			Randomness, Signature string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, errPulses(len(out)+1, "is no JSON object with a round", err)
		}
		randomness, err := hex.DecodeString(strings.TrimPrefix(p.Randomness, "0x"))
		if err != nil {
			return nil, errPulses(len(out)+1, "has a randomness that is not hex", err)
		}
		signature, err := hex.DecodeString(strings.TrimPrefix(p.Signature, "0x"))
		if err != nil {
			return nil, errPulses(len(out)+1, "has a signature that is not hex", err)
		}
		if hash := sha256.Sum256(signature); p.Round == 0 || len(signature) != timelock.SignatureSize || !bytes.Equal(randomness, hash[:]) {
			return nil, errPulses(len(out)+1, "has no round, or a randomness that is not the hash of its signature", nil)
		}
		out = append(out, Pulse{p.Round, randomness, signature})
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Round < out[j].Round })
	return slices.CompactFunc(out, func(a, b Pulse) bool { return a.Round == b.Round }), nil
}

func errPulses(n int, sentence string, cause error) error {
	e := basilica.E(basilica.Invalid, "LOCALNET_PULSES", fmt.Sprintf("pulse %d of the file %s", n, sentence),
		"give the answers of a drand node for quicknet's rounds as they came, one after another")
	if cause != nil {
		return e.With(cause)
	}
	return e
}

// beacon gives a chain its pulses.
type beacon interface {
	// after gives the pulses of rounds after last that have appeared by now, oldest first, maxFetched at most.
	after(last uint64, about beaconConfig, now time.Time) ([]pulse, error)
	// own says that nobody else can have made the pulses.
	own() bool
}

// simulator is a beacon of the chain's own, for machines without Internet. Its secret is known to everybody, like those
// of the development accounts.
type simulator struct{ signer *timelock.Signer }

func newSimulator() (simulator, error) {
	secret := sha256.Sum256([]byte("basilica localnet beacon"))
	secret[0] &= 0x3f // below the order of the group
	signer, err := timelock.NewSigner(secret[:])
	return simulator{signer}, err
}

// about is what the chain's own beacon publishes: a round each second from genesis on.
func (s simulator) about(genesis time.Time) beaconConfig {
	key := s.signer.PublicKey().Bytes()
	id := []byte("basilica localnet")
	hash := sha256.Sum256(append(id, key[:]...))
	return beaconConfig{
		key: key[:], period: 1, genesis: uint32(genesis.Unix()), hash: hash[:], group: hash[:],
		scheme: []byte("bls-unchained-g1-rfc9380"), id: id,
	}
}

func (simulator) own() bool { return true }

func (s simulator) after(last uint64, about beaconConfig, now time.Time) (out []pulse, err error) {
	newest := timelock.Beacon{Genesis: int64(about.genesis), Period: int64(about.period)}.RoundAt(now)
	for round := last + 1; round <= newest && len(out) < maxFetched; round++ {
		p, err := s.pulse(round)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func (s simulator) pulse(round uint64) (pulse, error) {
	signature, err := s.signer.Sign(round)
	if err != nil {
		return pulse{}, err
	}
	randomness := timelock.Randomness(signature)
	return pulse{round, randomness[:], signature}, nil
}

// recorded is a beacon whose pulses were read from a file, oldest first.
type recorded []Pulse

func (recorded) own() bool { return false }

func (r recorded) after(last uint64, about beaconConfig, now time.Time) (out []pulse, err error) {
	newest := timelock.Beacon{Genesis: int64(about.genesis), Period: int64(about.period)}.RoundAt(now)
	for i := sort.Search(len(r), func(i int) bool { return r[i].Round > last }); i < len(r) && r[i].Round <= newest && len(out) < maxFetched; i++ {
		out = append(out, pulse{r[i].Round, r[i].Randomness, r[i].Signature})
	}
	return out, nil
}

// beaconOf chooses the chain's source of pulses by the key that the chain names in BeaconConfig.
func (c *Chain) beaconOf(view reader) (beacon, error) {
	own, err := newSimulator()
	if err != nil {
		return nil, err
	}
	key := own.signer.PublicKey().Bytes()
	if bytes.Equal(c.rt.drand.config.get(view).key, key[:]) {
		if c.config.Pulses != nil {
			return nil, basilica.E(basilica.Conflict, "LOCALNET_PULSES", "the chain has a beacon of its own, and quicknet's pulses do not open what is sealed to it",
				"leave the pulses out, or start a new chain with them")
		}
		return own, nil
	}
	return recorded(c.config.Pulses), nil
}

// Pulse is what the chain's own beacon says in a round, for those who write pulses themselves. ok is false where the chain
// follows another beacon.
func (c *Chain) Pulse(round uint64) (p Pulse, ok bool) {
	own, simulated := c.beacon.(simulator)
	if !simulated {
		return Pulse{}, false
	}
	made, err := own.pulse(round)
	return Pulse{made.round, made.randomness, made.signature}, err == nil
}

// HoldPulses stops the chain from writing its beacon's pulses, and lets it go on where it stopped.
func (c *Chain) HoldPulses(hold bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pulsesHeld = hold
}
