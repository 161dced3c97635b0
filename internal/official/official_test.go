package official

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/keys"
	"basilica/localnet"
	"basilica/subtensor"
	"basilica/timelock"
)

// netuid is the subnet of every chain here, blockTime the pace: what a client seals for a block must arrive within eight.
const (
	netuid    = 39
	blockTime = 500 * time.Millisecond
	password  = "a password of the tests"
)

// installed gives the absolute path of what scripts/official.sh puts below the root of the repository. Where it is not there,
// the test fails under `make test` and in CI, and is skipped elsewhere.
func installed(t testing.TB, path string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts official clients")
	}
	path, err := filepath.Abs(filepath.Join("../..", path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		const fix = "%v: install the official clients with scripts/setup.sh test"
		if os.Getenv("BASILICA_OFFICIAL") == "1" || os.Getenv("CI") == "true" {
			t.Fatalf(fix, err)
		}
		t.Skipf(fix, err)
	}
	return path
}

// network is a chain at its pace behind its real server.
type network struct {
	chain *localnet.Chain
	url   string
}

func startNetwork(t testing.TB, pace time.Duration) network {
	t.Helper()
	chain, err := localnet.New(localnet.Config{NetUID: netuid, BlockTime: pace})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- chain.Run(ctx) }()
	go func() {
		done <- subtensor.NewServer(chain, chain, subtensor.ServerConfig{}, slog.New(slog.DiscardHandler)).Serve(ctx, ln)
	}()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	return network{chain, "ws://" + ln.Addr().String()}
}

// pass waits for some blocks.
func (n network) pass(t *testing.T, blocks basilica.BlockNumber) {
	t.Helper()
	for head, until := n.chain.Head(), n.chain.Head().Number+blocks; head.Number < until; {
		var err error
		if head, err = n.chain.NextHead(t.Context(), head.Number); err != nil {
			t.Fatal(err)
		}
	}
}

// pair is the key of a secret URI.
func pair(t testing.TB, uri string) *keys.Pair {
	t.Helper()
	p, err := keys.FromURI(keys.Sr25519, uri)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fileKey is derived once: that takes 512 MiB and a second.
var fileKey = sync.OnceValue(func() *keys.FileKey { return keys.DeriveFileKey([]byte(password)) })

// wallets makes plain wallets of ours, each of a development account with the hotkey //NAME//hot.
func wallets(t testing.TB) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, uri := range map[string]string{"alice": "//Alice", "dave": "//Dave", "eve": "//Eve"} {
		makeWallet(t, root, name, uri, nil)
	}
	return root
}

func makeWallet(t testing.TB, root, name, uri string, seal func([]byte) []byte) {
	t.Helper()
	w := keys.Wallet{Root: root, Name: name}
	if err := w.CreateColdkey(pair(t, uri), "", seal); err != nil {
		t.Fatal(err)
	}
	if err := w.CreateHotkey("default", pair(t, uri+"//hot"), "", nil); err != nil {
		t.Fatal(err)
	}
}

// python is a process that does one step of a script of testdata after the other.
type python struct {
	t      testing.TB
	script string
	in     io.Writer
	lines  chan []byte
	stderr *bytes.Buffer
}

// environment is what official clients find: a home of their own, no colours.
func environment(home string) []string {
	return []string{
		"HOME=" + home, "PATH=/usr/bin:/bin", "LANG=C.UTF-8", "NO_COLOR=1", "TERM=dumb", "PYTHONUNBUFFERED=1",
		"PYTHONWARNINGS=ignore", "BT_NO_PARSE_CLI_ARGS=true",
	}
}

func startPython(t testing.TB, sdk string) *python {
	t.Helper()
	script, err := filepath.Abs(filepath.Join("testdata", sdk+".py"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, installed(t, "bin/official/"+sdk+"/bin/python"), script)
	p := &python{t: t, script: sdk + ".py", lines: make(chan []byte), stderr: new(bytes.Buffer)}
	cmd.Env, cmd.Dir, cmd.Stderr = environment(t.TempDir()), t.TempDir(), p.stderr
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(p.lines)
		scan := bufio.NewScanner(stdout)
		scan.Buffer(nil, 64<<20)
		for scan.Scan() {
			select {
			case p.lines <- bytes.Clone(scan.Bytes()):
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = cmd.Wait() // it was killed
	})
	return p
}

// patience is how long one step of a client may take on a busy machine.
const patience = 3 * time.Minute

// try does one step; the text is the client's error, empty where it had none.
func (p *python) try(step string, args map[string]any, value any) string {
	p.t.Helper()
	request := map[string]any{"do": step}
	for k, v := range args {
		request[k] = v
	}
	line, err := json.Marshal(request)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		p.t.Fatalf("%s %s: %v\n%s", p.script, step, err, p.stderr)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("%s %s: it ended\n%s", p.script, step, p.stderr)
			}
			if !bytes.HasPrefix(line, []byte("{")) { // a client that talks
				continue
			}
			var answer struct {
				OK    json.RawMessage
				Error string
			}
			if err := json.Unmarshal(line, &answer); err != nil {
				p.t.Fatalf("%s %s: %v: %s", p.script, step, err, line)
			}
			if answer.Error == "" && value != nil {
				if err := json.Unmarshal(answer.OK, value); err != nil {
					p.t.Fatalf("%s %s: %v: %s", p.script, step, err, answer.OK)
				}
			}
			return answer.Error
		case <-timer.C:
			p.t.Fatalf("%s %s: no answer within %s", p.script, step, patience)
		}
	}
}

// do is try where an error ends the test.
func (p *python) do(step string, args map[string]any, value any) {
	p.t.Helper()
	began := time.Now()
	if text := p.try(step, args, value); text != "" {
		p.t.Fatalf("%s %s: %s", p.script, step, text)
	}
	p.t.Logf("%s %s: %.1fs", p.script, step, time.Since(began).Seconds())
}

// btcli runs one command of a btcli and reads the JSON that it prints.
func btcli(t testing.TB, sdk string, value any, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, installed(t, "bin/official/"+sdk+"/bin/btcli"), args...)
	var stderr bytes.Buffer
	cmd.Env, cmd.Dir, cmd.Stderr = environment(t.TempDir()), t.TempDir(), &stderr
	if sdk == "sdk10" {
		cmd.Env = append(cmd.Env, "COLUMNS=100000") // it breaks its JSON at the edge of the terminal
	}
	began := time.Now()
	out, err := cmd.Output()
	what := sdk + " btcli " + strings.Join(args[:2], " ")
	if err != nil {
		t.Fatalf("%s: %v\n%.2000s\n%.2000s", what, err, out, &stderr)
	}
	t.Logf("%s: %.1fs", what, time.Since(began).Seconds())
	at := bytes.IndexAny(out, "{[")
	if at < 0 {
		t.Fatalf("%s: no JSON in %q\n%s", what, out, &stderr)
	}
	if err := json.NewDecoder(bytes.NewReader(out[at:])).Decode(value); err != nil {
		t.Fatalf("%s: %v: %s", what, err, out)
	}
}

// exchangeWallets: the SDK opens wallets of ours, sealed and plain, and signs with them; ours opens what the SDK wrote.
func exchangeWallets(t *testing.T, p *python, root string) {
	t.Helper()
	makeWallet(t, root, "sealed", "//Ferdie", fileKey().Seal)
	const message = "signed by keys that changed hands"
	for name, uri := range map[string]string{"dave": "//Dave", "sealed": "//Ferdie"} {
		var got struct {
			Coldkey, Coldkeypub, Hotkey string
			Signatures                  [2]string
		}
		args := map[string]any{"root": root, "name": name, "password": nil, "message": message}
		if name == "sealed" {
			args["password"] = password
		}
		p.do("open_wallet", args, &got)
		cold, hot := pair(t, uri), pair(t, uri+"//hot")
		if got.Coldkey != cold.SS58() || got.Coldkeypub != cold.SS58() || got.Hotkey != hot.SS58() {
			t.Errorf("%s read %s as %+v", p.script, name, got)
		}
		for i, k := range []*keys.Pair{cold, hot} {
			raw, err := hex.DecodeString(strings.TrimPrefix(got.Signatures[i], "0x"))
			if err != nil || !keys.Verify(keys.Sr25519, k.PublicKey(), []byte(message), raw) {
				t.Errorf("%s: signature %d of %s: %v", p.script, i, name, err)
			}
		}
	}
	if text := p.try("open_wallet", map[string]any{"root": root, "name": "sealed", "password": "wrong", "message": ""}, nil); text == "" {
		t.Errorf("%s opened a sealed coldkey with a wrong password", p.script)
	}
	var made struct{ Coldkey, Hotkey string }
	p.do("make_wallet", map[string]any{"root": root, "name": "theirs", "password": password}, &made)
	w := keys.Wallet{Root: root, Name: "theirs"}
	sealed, err := os.ReadFile(w.ColdkeyPath())
	if err != nil {
		t.Fatal(err)
	}
	if kind := keys.EncryptionOf(sealed); kind.String() == "none" {
		t.Errorf("%s wrote a coldkey without encryption", p.script)
	}
	for path, want := range map[string]string{w.ColdkeyPath(): made.Coldkey, w.HotkeyPath("default"): made.Hotkey, w.ColdkeyPubPath(): made.Coldkey} {
		got, err := keys.ReadKeyfile(path, func(data []byte) (keys.Keyfile, error) { return keys.OpenKeyfile(data, []byte(password)) })
		if err != nil || got.SS58() != want {
			t.Errorf("ours read %s as %q: %v", filepath.Base(path), got.SS58(), err)
		}
	}
}

// neuron is what every client says of one.
type neuron struct {
	UID                   int
	Hotkey, Coldkey, Axon string
	Permit                bool
	Stake, Update         uint64
}

// neurons reads the metagraph of a client.
func (p *python) neurons() []neuron {
	p.t.Helper()
	var got struct{ Neurons []neuron }
	p.do("metagraph", map[string]any{"netuid": netuid}, &got)
	return got.Neurons
}

// commit is one sealed weight vector in storage.
type commit struct {
	Hotkey       string
	Block, Round uint64
	Bytes        int
}

// readBasics asks what every wallet shows first, of a fresh chain.
func readBasics(t *testing.T, p *python) {
	t.Helper()
	var balance uint64
	p.do("balance", map[string]any{"address": pair(t, "//Dave").SS58()}, &balance)
	if balance != 2e12 {
		t.Errorf("balance %d", balance)
	}
	type subnet struct{ Netuid, Tempo int }
	var all []subnet
	p.do("subnets", nil, &all)
	if fmt.Sprint(all) != fmt.Sprint([]subnet{{0, 100}, {netuid, 20}}) {
		t.Errorf("subnets %v", all)
	}
	var one struct {
		Netuid, Tempo int
		Burn          uint64
	}
	p.do("subnet", map[string]any{"netuid": netuid}, &one)
	if one.Netuid != netuid || one.Tempo != 20 || one.Burn == 0 {
		t.Errorf("subnet %+v", one)
	}
	if all := p.neurons(); len(all) != 1 || all[0].Hotkey != pair(t, "//Alice//hot").SS58() || all[0].Coldkey != pair(t, "//Alice").SS58() {
		t.Errorf("metagraph %+v", all)
	}
}

// liveAsNeuron registers dave, serves his axon, stakes on him, has the owner set weights in plain and sealed.
func liveAsNeuron(t *testing.T, p *python, chain network, root string, more map[string]any, seal func()) {
	t.Helper()
	with := func(extra map[string]any) map[string]any {
		args := map[string]any{"root": root, "name": "dave", "netuid": netuid}
		for k, v := range extra {
			args[k] = v
		}
		return args
	}
	p.do("register", with(nil), nil)
	p.do("serve", with(map[string]any{"ip": "127.0.0.2", "port": 8091}), nil)
	p.do("stake", with(map[string]any{"tao": 10}), nil)
	all := p.neurons()
	if len(all) != 2 || all[1].Hotkey != pair(t, "//Dave//hot").SS58() || all[1].Axon != "127.0.0.2:8091" || all[1].Stake == 0 {
		t.Fatalf("metagraph %+v", all)
	}
	owned := func(extra map[string]any) map[string]any {
		args := with(extra)
		args["name"] = "alice"
		return args
	}
	vector := owned(map[string]any{"uids": []int{0, 1}, "weights": []float64{0.25, 0.75}})
	for k, v := range more {
		vector[k] = v
	}
	p.do("weights", vector, nil)
	if after := p.neurons(); after[0].Update <= all[0].Update {
		t.Errorf("last update %d, before it %d", after[0].Update, all[0].Update)
	}
	seal()
	chain.pass(t, 11) // the rate limit of weights, and one
	p.do("weights", vector, nil)
	var stored []commit
	p.do("commits", map[string]any{"netuid": netuid}, &stored)
	if len(stored) != 1 || stored[0].Hotkey != pair(t, "//Alice//hot").SS58() || stored[0].Bytes != sealedSize(t, stored[0].Hotkey) {
		t.Errorf("sealed weights in storage: %+v, ours has %d bytes", stored, sealedSize(t, pair(t, "//Alice//hot").SS58()))
	}
	// At this pace the epoch that reveals lies twenty seconds ahead at most.
	beacon := timelock.Quicknet()
	first, last := beacon.RoundAt(time.Now().Add(-patience)), beacon.RoundAt(time.Now().Add(time.Minute))
	if round := stored[0].Round; round < first || round > last {
		t.Errorf("sealed to round %d, which is not from %d to %d", round, first, last)
	}
}

// sealedSize is how many bytes two weights of a hotkey have when ours seals them.
func sealedSize(t *testing.T, hotkey string) int {
	t.Helper()
	public, err := keys.DecodeSS58(hotkey)
	if err != nil {
		t.Fatal(err)
	}
	plain := timelock.Weights{Hotkey: public[:], UIDs: []uint16{0, 1}, Values: []uint16{1, 2}}.Encode()
	beacon := timelock.Quicknet()
	key, err := timelock.ParsePublicKey(beacon.PublicKey[:])
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := timelock.Encrypt(key, 1, plain, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return len(sealed)
}
