package subtensor_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ChainSafe/go-schnorrkel"

	"basilica/keys"
	"basilica/localnet"
	"basilica/pallet"
	"basilica/scale"
	"basilica/subtensor"
	"basilica/yuma"
)

// Each benchmark of this file has a sub-benchmark "ours" and one or more baselines, measured in the same run; scripts/bench.sh
// prints them side by side. Absolute times are goals alone: they depend on the machine.

func realWords(b *testing.B) (raw []byte, words *pallet.Runtime) {
	b.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "testdata", "subtensor425", "decoding", "metadata-v15.scale"))
	if err != nil {
		b.Fatal(err)
	}
	meta, err := scale.DecodeMetadata(raw)
	if err != nil {
		b.Fatal(err)
	}
	if words, err = pallet.New(meta); err != nil {
		b.Fatal(err)
	}
	return raw, words
}

func benchPair(b *testing.B, uri string) *keys.Pair {
	b.Helper()
	p, err := keys.FromURI(keys.Sr25519, uri)
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// schnorrkelKey is the same key in go-schnorrkel, the library that other Go clients sign with.
func schnorrkelKey(b *testing.B, p *keys.Pair) (*schnorrkel.SecretKey, *schnorrkel.PublicKey) {
	b.Helper()
	mini, err := schnorrkel.NewMiniSecretKeyFromRaw([32]byte(p.Seed()))
	if err != nil {
		b.Fatal(err)
	}
	return mini.ExpandEd25519(), mini.Public()
}

// BenchmarkSignEncode makes a signed set_weights of 256 neurons; the baseline is go-schnorrkel's signature over as many bytes,
// without the encoding.
func BenchmarkSignEncode(b *testing.B) {
	_, words := realWords(b)
	alice := benchPair(b, "//Alice")
	dests, weights := make([]uint16, 256), make([]uint16, 256)
	for i := range dests {
		dests[i], weights[i] = uint16(i), uint16(255*i)
	}
	args := map[string]any{"netuid": 39, "dests": dests, "weights": weights, "version_key": 1}
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			call, err := words.Call("SubtensorModule", "set_weights", args)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := words.Sign(call, pallet.Signing{Era: pallet.MortalEra(64, 100), Nonce: 7}, alice); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("go-schnorrkel", func(b *testing.B) {
		secret, _ := schnorrkelKey(b, alice)
		payload := make([]byte, 32) // what is longer than 256 bytes is signed by its hash
		for b.Loop() {
			if _, err := secret.Sign(schnorrkel.NewSigningContext([]byte("substrate"), payload)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkVerify checks one sr25519 signature.
func BenchmarkVerify(b *testing.B) {
	alice := benchPair(b, "//Alice")
	msg := make([]byte, 32)
	sig, err := alice.Sign(msg)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			if !keys.Verify(keys.Sr25519, alice.PublicKey(), msg, sig) {
				b.Fatal("a good signature is refused")
			}
		}
	})
	b.Run("go-schnorrkel", func(b *testing.B) {
		_, public := schnorrkelKey(b, alice)
		var s schnorrkel.Signature
		if err := s.Decode([64]byte(sig)); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if ok, err := public.Verify(&s, schnorrkel.NewSigningContext([]byte("substrate"), msg)); err != nil || !ok {
				b.Fatal("a good signature is refused")
			}
		}
	})
}

// BenchmarkMetadata decodes the metadata of spec 425 (V15) into its registry; the baseline reads the same as JSON.
func BenchmarkMetadata(b *testing.B) {
	raw, words := realWords(b)
	b.Run("ours", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		for b.Loop() {
			meta, err := scale.DecodeMetadata(raw)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := pallet.New(meta); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		text, err := json.Marshal(words.Metadata())
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			var meta scale.Metadata
			if err := json.Unmarshal(text, &meta); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// epoch256 is a full subnet: 64 validators that each weigh all others.
func epoch256() yuma.Input {
	const n, validators = 256, 64
	dice := rand.New(rand.NewPCG(1, 2))
	in := yuma.Input{
		Params: yuma.Params{
			Rules: yuma.Spec425(), ActivityCutoff: 5000, Kappa: 32767, BondsPenalty: 65535, BondsMovingAverage: 900_000, MaxValidators: validators, Yuma3: true,
		},
		Block: 10_000, BondsSince: 9_000, Emission: 1e9,
		LastUpdate: make([]uint64, n), BlockAtRegistration: make([]uint64, n), ValidatorPermit: make([]bool, n),
		Stake: make([]yuma.Stake, n), Weights: make([][]yuma.Entry, n), Bonds: make([][]yuma.Entry, n),
	}
	for i := range n {
		in.LastUpdate[i], in.BlockAtRegistration[i] = 9_990, uint64(i)
		if i >= validators {
			continue
		}
		in.ValidatorPermit[i] = true
		in.Stake[i] = yuma.WeightedStake(uint64(i+1)*1e12, 0, 0)
		for j := validators; j < n; j++ {
			in.Weights[i] = append(in.Weights[i], yuma.Entry{UID: uint16(j), Value: uint16(1 + dice.IntN(65535))})
			in.Bonds[i] = append(in.Bonds[i], yuma.Entry{UID: uint16(j), Value: uint16(dice.IntN(65536))})
		}
	}
	return in
}

// BenchmarkEpoch runs one epoch of 256 neurons, bit for bit as the chain; the baseline is the same consensus in float64, which
// is not what the chain pays by.
func BenchmarkEpoch(b *testing.B) {
	in := epoch256()
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			if _, err := yuma.Epoch(in); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("float64", func(b *testing.B) {
		for b.Loop() {
			if sum := floatEpoch(in); sum == 0 {
				b.Fatal("no dividends")
			}
		}
	})
}

// floatEpoch is consensus, clipped ranks, bonds and dividends in float64.
func floatEpoch(in yuma.Input) float64 {
	n := len(in.Stake)
	stake, total := make([]float64, n), 0.0
	for i := range in.Weights {
		if len(in.Weights[i]) > 0 {
			stake[i] = float64(i + 1)
			total += stake[i]
		}
	}
	weights := make([][]float64, n)
	for i, row := range in.Weights {
		weights[i] = make([]float64, n)
		sum := 0.0
		for _, e := range row {
			sum += float64(e.Value)
		}
		for _, e := range row {
			weights[i][e.UID] = float64(e.Value) / sum
		}
		stake[i] /= total
	}
	type vote struct{ weight, stake float64 }
	incentive, dividends, sum := make([]float64, n), make([]float64, n), 0.0
	for j := range n {
		var votes []vote
		for i := range n {
			if stake[i] > 0 {
				votes = append(votes, vote{weights[i][j], stake[i]})
			}
		}
		slices.SortFunc(votes, func(a, b vote) int {
			switch {
			case a.weight < b.weight:
				return 1
			case a.weight > b.weight:
				return -1
			}
			return 0
		})
		consensus, support := 0.0, 0.0
		for _, v := range votes {
			if support += v.stake; support >= 0.5 {
				consensus = v.weight
				break
			}
		}
		for i := range n {
			weights[i][j] = min(weights[i][j], consensus)
			incentive[j] += stake[i] * weights[i][j]
		}
	}
	for i, row := range in.Bonds {
		for _, e := range row {
			bond := 0.9*float64(e.Value)/65535 + 0.1*weights[i][e.UID]
			dividends[i] += bond * incentive[e.UID]
		}
		sum += dividends[i]
	}
	return sum
}

// benchChain is a chain that seals by hand, with the words of its own metadata.
func benchChain(b *testing.B) (*localnet.Chain, *pallet.Runtime) {
	b.Helper()
	chain, err := localnet.New(localnet.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { chain.Close() })
	answer, err := chain.CallAPI(chain.Genesis(), "Metadata_metadata_at_version", scale.AppendU32(nil, 15))
	if err != nil {
		b.Fatal(err)
	}
	meta, err := scale.DecodeOpaqueMetadata(answer)
	if err != nil {
		b.Fatal(err)
	}
	words, err := pallet.New(meta)
	if err != nil {
		b.Fatal(err)
	}
	return chain, words
}

// signer signs calls of one account one after the other, immortal.
type signer struct {
	b     *testing.B
	words *pallet.Runtime
	by    pallet.Signing
	key   *keys.Pair
}

func newSigner(b *testing.B, chain *localnet.Chain, words *pallet.Runtime, key *keys.Pair) *signer {
	b.Helper()
	answer, err := chain.CallAPI(chain.Genesis(), "Core_version", nil)
	if err != nil {
		b.Fatal(err)
	}
	r := scale.NewReader(answer)
	r.Bytes() // spec_name
	r.Bytes() // impl_name
	r.U32()   // authoring_version
	spec := r.U32()
	r.U32() // impl_version
	for range r.Count(12) {
		r.Raw(12) // an API's id and version
	}
	return &signer{b: b, words: words, key: key, by: pallet.Signing{SpecVersion: spec, TxVersion: r.U32(), Genesis: chain.Genesis(), BirthHash: chain.Genesis(), Nonce: uint64(chain.NextIndex(key.PublicKey()))}}
}

func (s *signer) sign(module, call string, args map[string]any) []byte {
	s.b.Helper()
	data, err := s.words.Call(module, call, args)
	if err != nil {
		s.b.Fatal(err)
	}
	raw, err := s.words.Sign(data, s.by, s.key)
	if err != nil {
		s.b.Fatal(err)
	}
	s.by.Nonce++
	return raw
}

// BenchmarkLocalnetBlock takes 1,000 signed transfers into the pool and seals them as one block; the baseline only checks their
// signatures once, which every chain must.
func BenchmarkLocalnetBlock(b *testing.B) {
	const extrinsics = 1000
	chain, words := benchChain(b)
	bob := benchPair(b, "//Bob")
	var senders []*signer // the pool holds 256 of each
	for _, uri := range []string{"//Bob", "//Charlie", "//Dave", "//Eve"} {
		senders = append(senders, newSigner(b, chain, words, benchPair(b, uri)))
	}
	args := map[string]any{"dest": pallet.AccountAddress(benchPair(b, "//Alice").PublicKey()), "value": 1000}
	batch := func() [][]byte {
		out := make([][]byte, extrinsics)
		for i := range out {
			out[i] = senders[i%len(senders)].sign("Balances", "transfer_keep_alive", args)
		}
		return out
	}
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			raws := batch()
			b.StartTimer()
			for _, raw := range raws {
				if _, err := chain.Submit(raw, nil); err != nil {
					b.Fatal(err)
				}
			}
			head, err := chain.Seal()
			if err != nil {
				b.Fatal(err)
			}
			if _, held, _ := chain.Block(head.Hash); len(held) < extrinsics {
				b.Fatalf("the block holds %d extrinsics", len(held))
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "blocks/s")
	})
	b.Run("signatures", func(b *testing.B) {
		msg := make([]byte, 120)
		sig, err := bob.Sign(msg)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			for range extrinsics {
				if !keys.Verify(keys.Sr25519, bob.PublicKey(), msg, sig) {
					b.Fatal("a good signature is refused")
				}
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "blocks/s")
	})
}

// BenchmarkMetagraph reads 256 neurons over the network: by the runtime's API, and from a node without it, out of the storage.
func BenchmarkMetagraph(b *testing.B) {
	for name, old := range map[string]bool{"ours": false, "storage": true} {
		b.Run(name, func(b *testing.B) {
			url := fullNetwork(b, old)
			client := subtensor.New(subtensor.Config{URL: url}, quiet())
			b.Cleanup(func() { client.Close() })
			for b.Loop() {
				m, err := client.Metagraph(context.Background(), netuid)
				if err != nil {
					b.Fatal(err)
				}
				if len(m.Neurons) != 256 {
					b.Fatalf("%d neurons", len(m.Neurons))
				}
			}
		})
	}
	for _, sdk := range []string{"sdk11", "sdk10"} {
		b.Run(sdk, func(b *testing.B) {
			count := officialMetagraph(b, sdk, fullNetwork(b, false))
			for b.Loop() {
				if n := count(); n != 256 {
					b.Fatalf("%d neurons", n)
				}
			}
		})
	}
}

// officialMetagraph starts an official SDK (scripts/official.sh) and gives a call that has it read the metagraph once and count
// its neurons.
func officialMetagraph(b *testing.B, sdk, url string) (count func() int) {
	b.Helper()
	program, err := filepath.Abs("../bin/official/" + sdk + "/bin/python")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		b.Skipf("%v: install the official clients with scripts/setup.sh test", err)
	}
	cmd := exec.Command(program, "../internal/official/testdata/"+sdk+".py")
	cmd.Env, cmd.Stderr = append(os.Environ(), "HOME="+b.TempDir(), "BT_NO_PARSE_CLI_ARGS=true"), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close() // it ends at the end of its input
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	ask := func(request string, value any) {
		if _, err := io.WriteString(in, request+"\n"); err != nil {
			b.Fatal(err)
		}
		for lines.Scan() {
			var answer struct {
				OK    json.RawMessage
				Error string
			}
			if json.Unmarshal(lines.Bytes(), &answer) != nil {
				continue // a client that talks
			}
			if answer.Error != "" {
				b.Fatalf("%s: %s", sdk, answer.Error)
			}
			if err := json.Unmarshal(answer.OK, value); err != nil {
				b.Fatal(err)
			}
			return
		}
		b.Fatalf("%s has ended: %v", sdk, lines.Err())
	}
	count = func() (n int) {
		ask(fmt.Sprintf(`{"do":"count","netuid":%d}`, netuid), &n)
		return n
	}
	var connected map[string]any
	ask(fmt.Sprintf(`{"do":"connect","url":%q}`, url), &connected)
	count() // what it keeps, it has from now on
	return count
}

// fullNetwork serves a chain whose subnet has 256 neurons; old hides its metadata of version 15, and with it the runtime APIs.
func fullNetwork(b *testing.B, old bool) (url string) {
	b.Helper()
	chain, words := benchChain(b)
	s := newSigner(b, chain, words, benchPair(b, "//Bob"))
	for i := range 255 {
		hot := benchPair(b, fmt.Sprintf("//Bob//%d", i))
		if _, err := chain.Submit(s.sign("SubtensorModule", "burned_register", map[string]any{"netuid": netuid, "hotkey": hot.PublicKey()}), nil); err != nil {
			b.Fatal(err)
		}
		if _, err := chain.Seal(); err != nil {
			b.Fatal(err)
		}
	}
	node := subtensor.Node(chain)
	if old {
		node = oldNode{node}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- subtensor.NewServer(node, chain, subtensor.ServerConfig{}, quiet()).Serve(ctx, ln) }()
	b.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return "ws://" + ln.Addr().String()
}
