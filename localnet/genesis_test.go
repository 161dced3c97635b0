package localnet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/internal/provoke"
)

// exampleGenesis is the file of localnet/README.md.
func exampleGenesis(t *testing.T) *Genesis {
	t.Helper()
	g, err := ReadGenesis("testdata/genesis.toml")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestGenesisFile: what the file says is what clients find in block 0 and after.
func TestGenesisFile(t *testing.T) {
	t.Parallel()
	s := newSim(t, Config{Genesis: exampleGenesis(t)})
	bob, charlie := s.key("//Bob"), s.key("//Charlie")
	hot := s.key("//Bob//hot").PublicKey()
	for _, c := range []struct {
		item string
		args []any
		want any
	}{
		{"NetworksAdded", []any{uint16(3)}, true},
		{"Tempo", []any{uint16(1)}, uint64(20)},
		{"Tempo", []any{uint16(2)}, uint64(10)},
		{"WeightsSetRateLimit", []any{uint16(2)}, uint64(0)},
		{"CommitRevealWeightsEnabled", []any{uint16(2)}, false},
		{"CommitRevealWeightsEnabled", []any{uint16(3)}, true},
		{"RevealPeriodEpochs", []any{uint16(3)}, uint64(2)},
		{"SubnetMechanism", []any{uint16(2)}, uint64(1)},
		{"SubnetTAO", []any{uint16(2)}, uint64(1000e9)},
		{"SubnetAlphaIn", []any{uint16(2)}, uint64(250e9)},
		{"SubnetAlphaOut", []any{uint16(2)}, uint64(100e9)},
		{"SubnetTAO", []any{uint16(0)}, uint64(50e9)},
		{"SubnetworkN", []any{uint16(2)}, uint64(3)},
		{"Uids", []any{uint16(2), hot}, uint64(1)},
		{"TotalHotkeyAlpha", []any{hot, uint16(2)}, uint64(100e9)},
		{"TotalNetworks", nil, uint64(4)},
		{"TotalStake", nil, uint64(1050e9)},
	} {
		if got := s.read("SubtensorModule", c.item, c.args...); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.item, c.args, got, c.want)
		}
	}
	view := past{s.state, s.head()}
	if got := s.Chain.rt.system.account.get(view, account(bob.PublicKey())).free; got != 2500_500_000_000 {
		t.Errorf("Bob has %d rao", got)
	}
	if got := s.Chain.rt.alphaOf(view, account(hot), account(charlie.PublicKey()), rootNetuid); got != 50e9 {
		t.Errorf("Charlie holds %d rao of root stake", got)
	}
	s.seal(11)
	s.must(bob, "SubtensorModule.remove_stake", map[string]any{"hotkey": hot, "netuid": uint16(2), "amount_unstaked": uint64(1e9)})
}

// TestGenesisIsRefused: every mistake is said with its place and what to do.
func TestGenesisIsRefused(t *testing.T) {
	t.Parallel()
	const subnet = "[[subnet]]\nnetuid = 1\n"
	for _, c := range []struct{ name, text, want, fix string }{
		{"no TOML", "subnet = ", "line 1", "amounts stand in quotes"},
		{"an unknown key", "[[subnet]]\nnetid = 2\n", `there is no key "subnet.netid"`, `write "subnet.netuid"`},
		{"a number for an amount", "[[account]]\nkey = \"//Alice\"\ntao = 5\n", "line 3", "amounts stand in quotes"},
		{"too many decimals", "[[account]]\nkey = \"//Alice\"\ntao = \"0.0000000001\"\n", "account 1", "nine decimals"},
		{"no account", "[[account]]\ntao = \"1\"\n", "account 1 is missing", "//Alice//hot"},
		{"a cut address", "[[account]]\nkey = \"5Grwva\"\n", "account 1 \"5Grwva\" is no address", "//Alice//hot"},
		{"too much TAO", "[[account]]\nkey = \"//Alice\"\ntao = \"21000001\"\n", "more TAO than there can be", "21000000"},
		{"the root network", "[[subnet]]\nnetuid = 0\n", "is the root network", "leave it out"},
		{"a high number", "[[subnet]]\nnetuid = 4096\n", "too high a number", "1 to 4095"},
		{"a subnet twice", subnet + subnet, "subnet 1 stands there twice", "of its own"},
		{"half a pool", subnet + "pool_tao = \"1\"\n", "half a pool", "both"},
		{"an unknown hyperparameter", subnet + "[subnet.hyperparameters]\ntemp = 1\n", `no hyperparameter "temp"`, `write "tempo"`},
		{"a high value", subnet + "[subnet.hyperparameters]\ntempo = 65536\n", "tempo: 65536 is not from 0 to 65535", "correct the value"},
		{"a number for a switch", subnet + "[subnet.hyperparameters]\nliquid_alpha_enabled = 1\n", "is true or false", "correct the value"},
		{"a hotkey twice", subnet + "[[subnet.neuron]]\nhotkey = \"//Alice//hot\"\ncoldkey = \"//Alice\"\n", "has a hotkey that the subnet has already", "once"},
		{"a hotkey of two", subnet + "[[subnet.neuron]]\nhotkey = \"//Alice//hot\"\ncoldkey = \"//Bob\"\n", "of another coldkey", "one coldkey"},
		{"stake on nothing", "[[stake]]\nnetuid = 7\nhotkey = \"//A\"\ncoldkey = \"//B\"\namount = \"1\"\n", "is on subnet 7, which is not in the file", "[[subnet]]"},
	} {
		_, err := ParseGenesis([]byte(c.text))
		switch {
		case basilica.CodeOf(err) != "GENESIS_FILE":
			t.Errorf("%s: %v", c.name, err)
		case !strings.Contains(err.Error(), c.want) || !strings.Contains(basilica.FixOf(err), c.fix):
			t.Errorf("%s: %q, fix %q; want %q and %q", c.name, err, basilica.FixOf(err), c.want, c.fix)
		}
	}
}

func TestGenesisRefusals(t *testing.T) {
	provoke.Each(t, map[string]func(*testing.T) error{
		"GENESIS_FILE": func(t *testing.T) error {
			_, err := ReadGenesis(filepath.Join(t.TempDir(), "none.toml"))
			return err
		},
		"GENESIS_CHAIN_EXISTS": func(t *testing.T) error {
			path := filepath.Join(t.TempDir(), "chain")
			c, err := New(Config{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			_, err = New(Config{Path: path, Genesis: exampleGenesis(t)})
			return err
		},
	})
}

// FuzzParseGenesis: whatever a file says is taken or refused with its code; what is taken makes a chain.
func FuzzParseGenesis(f *testing.F) {
	example, err := os.ReadFile("testdata/genesis.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(example))
	f.Add("")
	f.Add("[[stake]]\nnetuid = 0\nhotkey = \"//A\"\ncoldkey = \"//A\"\namount = \".5\"")
	f.Add("[[subnet]]\nnetuid=1\n[subnet.hyperparameters]\nalpha_low = -1")
	rt, err := newRuntime(250)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		g, err := ParseGenesis([]byte(text))
		if err != nil {
			if basilica.CodeOf(err) != "GENESIS_FILE" {
				t.Errorf("%v has the code %q", err, basilica.CodeOf(err))
			}
			return
		}
		x := &execution{overlay: newOverlay(past{newHistory(0), 0}), rt: rt}
		rt.found(x, g)
	})
}

// TestAmounts: an amount is read exactly, or not at all.
func TestAmounts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{"1": 1e9, "0.000000001": 1, "2.5": 25e8, "18446744073": 18446744073e9} {
		f := &founding{}
		if got := f.rao("here", text); got != want || f.err != nil {
			t.Errorf("%s is %d, %v", text, got, f.err)
		}
	}
	for _, text := range []string{".5", "-1", "1e3", "1.0000000000", "18446744074", "1,5", " 1"} {
		f := &founding{}
		if got := f.rao("here", text); f.err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

// TestGenesisHashCoversMetadata: SDK 11 caches metadata by genesis and spec version, so chains that differ in their
// metadata alone, here in Aura.SlotDuration, are different chains.
func TestGenesisHashCoversMetadata(t *testing.T) {
	t.Parallel()
	digest := func(blockTime time.Duration) string {
		s := newSim(t, Config{BlockTime: blockTime})
		header, _, known := s.Block(s.Genesis())
		if !known || len(header.Digest) != 1 || header.Hash() != s.Genesis() {
			t.Fatalf("block 0: %v %+v", known, header)
		}
		return string(header.Digest[0])
	}
	first, again, other := digest(time.Second), digest(time.Second), digest(2*time.Second)
	if first != again {
		t.Error("one time and one metadata give two digests")
	}
	if first == other {
		t.Error("block 0 says nothing of the metadata")
	}
}
