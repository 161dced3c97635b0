package localnet

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
)

// sim is a chain whose blocks the test seals, with the chain's own metadata to speak to it.
type sim struct {
	*Chain
	t  *testing.T
	rt *pallet.Runtime
}

func newSim(t *testing.T, cfg Config) *sim {
	t.Helper()
	if cfg.Clock == nil {
		cfg.Clock = func() time.Time { return time.Unix(1_790_000_000, 0) }
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	answer, err := c.CallAPI(c.Genesis(), "Metadata_metadata_at_version", binary.LittleEndian.AppendUint32(nil, 15))
	if err != nil {
		t.Fatal(err)
	}
	meta, err := scale.DecodeOpaqueMetadata(answer)
	if err != nil {
		t.Fatal(err)
	}
	rt, err := pallet.New(meta)
	if err != nil {
		t.Fatal(err)
	}
	return &sim{c, t, rt}
}

func pair(t *testing.T, scheme keys.Scheme, uri string) *keys.Pair {
	t.Helper()
	p, err := keys.FromURI(scheme, uri)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (s *sim) key(uri string) *keys.Pair { return pair(s.t, keys.Sr25519, uri) }

// signing is what a client signs at the head, immortal.
func (s *sim) signing(who [32]byte) pallet.Signing {
	return pallet.Signing{SpecVersion: s.Chain.rt.code.spec, TxVersion: txVersion, Genesis: s.Genesis(), Nonce: uint64(s.NextIndex(who))}
}

func (s *sim) call(name string, args map[string]any) []byte {
	s.t.Helper()
	module, call, _ := strings.Cut(name, ".")
	b, err := s.rt.Call(module, call, args)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *sim) sign(call []byte, signing pallet.Signing, signer *keys.Pair) []byte {
	s.t.Helper()
	b, err := s.rt.Sign(call, signing, signer)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// submit signs at the head and puts it into the pool.
func (s *sim) submit(signer *keys.Pair, name string, args map[string]any) error {
	s.t.Helper()
	_, err := s.Submit(s.sign(s.call(name, args), s.signing(signer.PublicKey()), signer), nil)
	return err
}

// do submits and seals, and gives what became of it: nil, a *Rejection or a *pallet.DispatchError.
func (s *sim) do(signer *keys.Pair, name string, args map[string]any) error {
	s.t.Helper()
	var where basilica.Hash
	raw := s.sign(s.call(name, args), s.signing(signer.PublicKey()), signer)
	if _, err := s.Submit(raw, func(state string, block basilica.Hash) {
		if state == "inBlock" {
			where = block
		}
	}); err != nil {
		return err
	}
	s.seal(1)
	_, extrinsics, ok := s.Block(where)
	if !ok {
		s.t.Fatalf("%s was not included", name)
	}
	for i, e := range extrinsics {
		if string(e) == string(raw) {
			return s.rt.Outcome(s.eventsAt(where), i)
		}
	}
	s.t.Fatalf("%s is not in its block", name)
	return nil
}

func (s *sim) must(signer *keys.Pair, name string, args map[string]any) {
	s.t.Helper()
	if err := s.do(signer, name, args); err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
}

func (s *sim) seal(n int) {
	s.t.Helper()
	for range n {
		if _, err := s.Seal(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// calls names the calls of the head's extrinsics, those that somebody signed or the bare ones.
func (s *sim) calls(signed bool) (out []string) {
	s.t.Helper()
	_, extrinsics, _ := s.Block(s.Head().Hash)
	for _, raw := range extrinsics {
		x, err := s.rt.DecodeExtrinsic(raw)
		if err != nil {
			s.t.Fatal(err)
		}
		call, err := s.rt.DecodeCall(x.Call)
		if err != nil {
			s.t.Fatal(err)
		}
		if x.Signed == signed {
			out = append(out, call.Pallet+"."+call.Name)
		}
	}
	return out
}

func (s *sim) eventsAt(at basilica.Hash) []pallet.Event {
	s.t.Helper()
	events, err := s.rt.Events(s.raw(at, "System", "Events"))
	if err != nil {
		s.t.Fatal(err)
	}
	return events
}

func (s *sim) raw(at basilica.Hash, module, item string, args ...any) []byte {
	s.t.Helper()
	k, err := s.rt.StorageKey(module, item, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	v, _, err := s.Storage(at, k)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// read gives a storage value at the head, decoded by metadata.
func (s *sim) read(module, item string, args ...any) any {
	s.t.Helper()
	v, err := s.rt.DecodeStorage(module, item, s.raw(s.Head().Hash, module, item, args...))
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// wantError checks the name of a refusal: a rejection's data or a dispatch error's text.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	var refused *Rejection
	var failed *pallet.DispatchError
	switch {
	case err == nil:
		t.Errorf("succeeded, want %s", want)
	case errors.As(err, &refused):
		if refused.Data != want {
			t.Errorf("rejected with %q, want %s", refused.Data, want)
		}
	case errors.As(err, &failed):
		if !strings.Contains(failed.Error(), want) {
			t.Errorf("failed with %q, want %s", failed.Error(), want)
		}
	default:
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestGenesisAndBlocks(t *testing.T) {
	s := newSim(t, Config{})
	s.seal(25)
	if got := s.Head().Number; got != 25 {
		t.Fatalf("head is %d", got)
	}
	header, _, ok := s.Block(s.Head().Hash)
	if !ok || header.Hash() != s.Head().Hash {
		t.Fatalf("block 25: %v", ok)
	}
	if got := s.calls(false); !slices.Equal(got, []string{"Timestamp.set", "MevShield.announce_next_key", "Drand.write_pulse"}) {
		t.Errorf("inherents %v", got)
	}
	if got := s.read("SubtensorModule", "SubnetEpochIndex", uint16(39)); got != uint64(1) {
		t.Errorf("epoch index %v after 25 blocks of tempo 20", got)
	}
	s.eventsAt(s.Head().Hash)
}

func registered(t *testing.T, cfg Config) (s *sim, validator, miner *keys.Pair) {
	s = newSim(t, cfg)
	validator, miner = s.key("//Bob//hot"), s.key("//Charlie//hot")
	for cold, hot := range map[string]*keys.Pair{"//Bob": validator, "//Charlie": miner} {
		s.must(s.key(cold), "SubtensorModule.register_limit", map[string]any{
			"netuid": uint16(39), "hotkey": hot.PublicKey(), "limit_price": uint64(1e9),
		})
	}
	return s, validator, miner
}

func TestEpochTurnsWeightsIntoIncentive(t *testing.T) {
	s, validator, miner := registered(t, Config{Path: filepath.Join(t.TempDir(), "chain")})
	minerUID := s.read("SubtensorModule", "Uids", uint16(39), miner.PublicKey())
	s.must(s.key("//Bob"), "SubtensorModule.add_stake", map[string]any{
		"hotkey": validator.PublicKey(), "netuid": uint16(39), "amount_staked": uint64(1e12),
	})
	s.seal(21)
	s.must(validator, "SubtensorModule.set_mechanism_weights", map[string]any{
		"netuid": uint16(39), "mecid": uint8(0), "dests": []any{minerUID}, "weights": []any{uint16(7)}, "version_key": uint64(0),
	})
	s.seal(20)
	incentive := s.read("SubtensorModule", "Incentive", uint16(39)).([]any)
	uid, err := scale.AsUint64(minerUID)
	if err != nil {
		t.Fatal(err)
	}
	if incentive[uid] != uint64(65535) {
		t.Errorf("incentive is %v, want all of it for uid %d", incentive, uid)
	}
	if staked := s.read("SubtensorModule", "TotalHotkeyAlpha", miner.PublicKey(), uint16(39)).(uint64); staked == 0 {
		t.Error("the miner earned nothing")
	}
}
