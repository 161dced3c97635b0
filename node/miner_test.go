package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica"
	"basilica/admin"
	"basilica/axon"
	"basilica/internal/provoke"
	"basilica/keys"
	"basilica/pki"
	"basilica/wire"
)

func TestMinerConfigNamesTheWrongKey(t *testing.T) {
	good := DefaultMinerConfig()
	good.Hotkey = minerHotURI
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(*MinerConfig){
		"miner.data_dir":             func(c *MinerConfig) { c.DataDir = "" },
		"miner.hotkey":               func(c *MinerConfig) { c.Hotkey = "" },
		"miner.axon_listen":          func(c *MinerConfig) { c.AxonListen = "8080" },
		"miner.fleet_listen":         func(c *MinerConfig) { c.FleetListen = "8090" },
		"miner.status_listen":        func(c *MinerConfig) { c.StatusListen = "" },
		"miner.fleet_advertise":      func(c *MinerConfig) { c.FleetAdvertise = ":8090" },
		"miner.compute":              func(c *MinerConfig) { c.Compute = "some" },
		"miner.allow_list":           func(c *MinerConfig) { c.AllowList = []basilica.Hotkey{"5x"} },
		"miner.blob_bytes":           func(c *MinerConfig) { c.BlobBytes = 0 },
		"miner.lost_after":           func(c *MinerConfig) { c.LostAfter = Duration(2 * time.Hour) },
		"miner.max_tasks_per_client": func(c *MinerConfig) { c.MaxTasksPerClient = 0 },
		"miner.max_queue":            func(c *MinerConfig) { c.MaxQueue = -1 },
		"miner.client_blob_bytes":    func(c *MinerConfig) { c.ClientBlobBytes = 0 },
		"miner.keep_blobs":           func(c *MinerConfig) { c.KeepBlobs = 0 },
		"miner.keep_logs":            func(c *MinerConfig) { c.KeepLogs = Duration(time.Minute) },
		"miner.keep_tasks":           func(c *MinerConfig) { c.KeepTasks = Duration(time.Hour) },
	} {
		bad := good
		change(&bad)
		if err := bad.Validate(); basilica.CodeOf(err) != "CONFIG_VALUE" || !strings.Contains(err.Error(), key) || basilica.FixOf(err) == "" {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func minerOn(t *testing.T, chain ChainConfig, ready chan<- map[string]string) (*Miner, MinerConfig) {
	t.Helper()
	cfg := DefaultMinerConfig()
	cfg.DataDir, cfg.Hotkey, cfg.Chain, cfg.AllowPrivateExecutors = t.TempDir(), minerHotURI, chain, true
	cfg.AxonListen, cfg.FleetListen, cfg.StatusListen = "127.0.0.2:0", "127.0.0.1:0", "127.0.0.1:0"
	m, err := NewMiner(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Ready: func(a map[string]string) { ready <- a }})
	if err != nil {
		t.Fatal(err)
	}
	return m, cfg
}

func TestMinerWithoutRegistration(t *testing.T) {
	chain, _ := devChain(t)
	m, cfg := minerOn(t, chain, make(chan map[string]string, 1))
	if _, err := NewMiner(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now}); basilica.CodeOf(err) != "DATA_IN_USE" {
		t.Errorf("a second miner on the same data: %v", err)
	}
	if err := m.Run(t.Context()); basilica.CodeOf(err) != "MINER_NOT_REGISTERED" || basilica.FixOf(err) == "" {
		t.Errorf("run: %v", err)
	}
	check(t, m.Close())
	left := filepath.Join(cfg.DataDir, ".axon.key.next.5") // by a death while it was made
	check(t, os.WriteFile(left, []byte("a copy"), 0o600))
	m, err := NewMiner(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	check(t, err)
	check(t, m.Close())
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a copy of a key is left: %v", err)
	}
}

// echoBox is a machine that answers every task with the bytes of its first input as log and as output.
type echoBox struct {
	id          basilica.ExecutorID
	key         *keys.P256
	endorsement basilica.SignedEndorsement
	content     []byte
	task        chan basilica.ExecuteRequest
	fleet       *wire.FleetClient
	cut         chan struct{} // the miner has ended the stream of heartbeats
}

func (b *echoBox) Execute(_ context.Context, req basilica.ExecuteRequest) (basilica.Holding, error) {
	b.task <- req
	return basilica.Holding{Kind: basilica.HolderTask, Holder: string(req.Task), Fence: 1, Expires: time.Now().Add(req.Lease)}, nil
}

func (b *echoBox) Watch(ctx context.Context, _ basilica.TaskID, _ int, offset int64, f func(basilica.TaskEvent) error) error {
	req, code, now := <-b.task, 0, time.Now().UTC()
	event := basilica.TaskEvent{Task: req.Task, Attempt: req.Attempt, State: basilica.TaskRunning, At: now, Log: &basilica.LogChunk{Offset: offset, Stream: basilica.Stdout, Data: b.content}}
	if err := f(event); err != nil {
		return err
	}
	out := basilica.TaskFile{Name: "echo", Blob: basilica.Blob{SHA256: sha256.Sum256(b.content), Size: int64(len(b.content))}}
	receipt, err := basilica.SignReceipt(basilica.Receipt{
		Task: req.Task, Attempt: req.Attempt, Client: req.Client, Executor: b.id, SpecDigest: sha256.Sum256(req.Spec), State: basilica.TaskSucceeded, ExitCode: &code,
		Started: now, Ended: now, Outputs: []basilica.TaskFile{out},
	}, b.endorsement, b.key.Sign)
	if err != nil {
		return err
	}
	return f(basilica.TaskEvent{Task: req.Task, Attempt: req.Attempt, State: basilica.TaskSucceeded, At: now, ExitCode: &code, Outputs: []basilica.TaskFile{out}, Receipt: &receipt})
}

func (b *echoBox) Cancel(context.Context, basilica.TaskID, int) error  { return nil }
func (b *echoBox) Release(context.Context, basilica.TaskID, int) error { return nil }

func (b *echoBox) SystemInfo(context.Context) (basilica.Facts, error) { return basilica.Facts{}, nil }

func (b *echoBox) Health(context.Context) (basilica.Health, error) {
	return basilica.Health{OK: true}, nil
}

func (b *echoBox) PutBlob(_ context.Context, _ basilica.Blob, r io.Reader) (err error) {
	b.content, err = io.ReadAll(r)
	return err
}

func (b *echoBox) GetBlob(_ context.Context, _ basilica.Digest, w io.Writer) error {
	_, err := w.Write(b.content)
	return err
}

// join enrolls a box at the miner over the real doors and serves it until the test ends.
func joinEcho(t *testing.T, ctx context.Context, token string) *echoBox {
	t.Helper()
	parsed, err := pki.ParseJoinToken(token)
	check(t, err)
	key, err := keys.GenerateP256()
	check(t, err)
	csr, err := pki.NewCSR(key.Signer())
	check(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	addr := ln.Addr().String()
	dial, stop := context.WithCancel(ctx)
	var served errgroup.Group
	served.Go(func() error { return wire.ServeKey(dial, ln, key.Signer()) })
	out, err := wire.JoinFleet(ctx, parsed.Addr, parsed.CAHash, time.Now, basilica.EnrollRequest{
		Token: token, CSR: csr, Addr: addr, SSHAddr: "127.0.0.1:22", HostKey: []byte("host key"), AttestSPKI: key.SPKI(), Facts: basilica.Facts{CPUs: 2, MemoryBytes: 1 << 30},
	})
	stop()
	check(t, errors.Join(err, served.Wait()))

	box := &echoBox{id: out.Executor, key: key, endorsement: out.Endorsement, task: make(chan basilica.ExecuteRequest, 1)}
	cert := tls.Certificate{Certificate: [][]byte{out.Certificate}, PrivateKey: key.Signer()}
	log := slog.New(slog.DiscardHandler)
	server, err := wire.NewExecutorServer(box, wire.ExecutorServerConfig{Executor: out.Executor, Certificate: shows(cert), CAs: func() [][]byte { return out.Trust.FleetCAs }, JWTKeys: func() [][]byte { return out.Trust.JWTKeys }, Now: time.Now, Log: log})
	check(t, err)
	box.cut = make(chan struct{}, 1)
	fleet, err := wire.DialFleet(parsed.Addr, wire.FleetClientConfig{
		Certificate: shows(cert), CAs: func() [][]byte { return out.Trust.FleetCAs }, Now: time.Now, Ended: func() { box.cut <- struct{}{} },
	})
	check(t, err)
	box.fleet = fleet
	door, err := net.Listen("tcp", addr)
	check(t, err)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	var g errgroup.Group
	g.Go(func() error { return server.Serve(life, door) })
	t.Cleanup(func() {
		end()
		if err := errors.Join(g.Wait(), fleet.Close()); err != nil {
			t.Error(err)
		}
	})
	reply, err := fleet.Heartbeat(ctx, out.Executor, basilica.Heartbeat{At: time.Now(), Version: "test", Health: basilica.Health{OK: true, MaxTasks: 1}})
	check(t, err)
	if reply.Lease <= 0 {
		t.Errorf("heartbeat reply %+v", reply)
	}
	return box
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestMinerOverItsRealDoors registers a miner on a development chain, joins a machine by a token from the administration
// socket, and runs a task through axon and wire; machine and container alone are doubles.
func TestMinerOverItsRealDoors(t *testing.T) {
	chain, client := devChain(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	uid, err := takePart(ctx, client, chain.NetUID, minerColdURI, minerHotURI)
	check(t, err)
	ready := make(chan map[string]string, 1)
	m, cfg := minerOn(t, chain, ready)
	runUntilEnd(t, m)
	<-ready

	var neuron basilica.Neuron
	found := errors.New("published")
	err = client.WatchHeads(ctx, func(basilica.Header) error {
		graph, err := client.Metagraph(ctx, chain.NetUID)
		if err != nil {
			return err
		}
		if neuron = graph.Neurons[uid]; neuron.Axon.Addr.IsValid() && len(neuron.Axon.TLSKey) == 64 {
			return found
		}
		return nil
	})
	if !errors.Is(err, found) {
		t.Fatalf("the axon was never published: %v", err)
	}

	owner, err := MinerAdmin(cfg)
	check(t, err)
	token, _, err := owner.CreateToken(ctx, "", time.Minute)
	check(t, err)
	box := joinEcho(t, ctx, token)
	view, err := owner.Member(ctx, box.id)
	check(t, err)
	if !view.Ready || view.LastBeat == nil || view.LastBeat.Version != "test" {
		t.Errorf("fleet show: %+v", view)
	}

	dave, err := keys.FromURI(keys.Sr25519, "//Dave//client")
	check(t, err)
	door, err := axon.NewClient(axon.ClientConfig{Signer: dave, Miner: neuron.Hotkey, Addr: neuron.Axon.Addr, TLSKey: neuron.Axon.TLSKey, AllowPrivate: true, Now: time.Now})
	check(t, err)
	offer, err := door.Offer(ctx)
	check(t, err)
	if len(offer.Executors) != 1 || !offer.Executors[0].Ready {
		t.Errorf("offer %+v", offer)
	}
	_, err = door.OpenValidation(ctx, basilica.ValidationRequest{SSHPublicKey: []byte("x")})
	if basilica.CodeOf(err) != "VALIDATOR_UNKNOWN" {
		t.Errorf("validation by a client: %v", err)
	}
	input := []byte("hello over every door")
	blob := basilica.Blob{SHA256: sha256.Sum256(input), Size: int64(len(input))}
	check(t, door.PutBlob(ctx, "", blob, 0, bytes.NewReader(input)))
	spec := `{"image":"i","command":["x"],"gpus":0,"inputs":[{"name":"in","sha256":"` + blob.SHA256.String() + `","size":21}]}`
	task, err := door.Submit(ctx, basilica.Submission{IdempotencyKey: "k", Spec: []byte(spec)})
	check(t, err)
	var log []byte
	var last basilica.TaskEvent
	check(t, door.WatchTask(ctx, "", task.ID, 0, func(e basilica.TaskEvent) error {
		if e.Log != nil {
			log = append(log, e.Log.Data...)
		}
		last = e
		return nil
	}))
	if !bytes.Equal(log, input) || last.State != basilica.TaskSucceeded || len(last.Outputs) != 1 || last.Receipt == nil {
		t.Fatalf("log %q, last %+v %v", log, last, last.Reason)
	}
	receipt, endorsement, err := last.Receipt.Open()
	check(t, err)
	if receipt.Task != task.ID || endorsement.Miner != neuron.Hotkey {
		t.Errorf("receipt %+v", receipt)
	}
	var output bytes.Buffer
	check(t, door.GetBlob(ctx, "", last.Outputs[0].SHA256, 0, &output))
	if !bytes.Equal(output.Bytes(), input) {
		t.Errorf("output %q", output.Bytes())
	}
	revokedOverRealDoors(ctx, t, owner, m, box)
}

// revokedOverRealDoors: the owner revokes the machine over the socket; its stream ends within a second, it learns why, and
// neither end meets the other again.
func revokedOverRealDoors(ctx context.Context, t *testing.T, owner *admin.Client, m *Miner, box *echoBox) {
	t.Helper()
	begun := time.Now()
	check(t, owner.Revoke(ctx, box.id))
	<-box.cut
	if took := time.Since(begun); took > 3*time.Second { // it is a third of one, on a machine that is not busy
		t.Errorf("cut %s after the word was given", took)
	}
	provoke.Refused(t, provoke.Answered(t, func() error {
		_, err := box.fleet.Heartbeat(ctx, box.id, basilica.Heartbeat{At: time.Now()})
		return err
	}), "EXECUTOR_REVOKED")
	view, err := owner.Member(ctx, box.id)
	check(t, err)
	provoke.Refused(t, provoke.Answered(t, func() error {
		_, err := m.pool.Executor(box.id, view.Addr).Health(ctx)
		return err
	}), "EXECUTOR_REVOKED")
	if view.State != "revoked" || view.Ready {
		t.Errorf("fleet show: %+v", view)
	}
}
