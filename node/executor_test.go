package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
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

	"golang.org/x/crypto/ssh"

	"basilica"
	"basilica/attest"
	"basilica/docker"
	"basilica/executor"
	"basilica/internal/provoke"
	"basilica/keys"
	"basilica/pki"
	"basilica/sshdoor"
	"basilica/wire"
)

func TestExecutorConfigNamesTheWrongKey(t *testing.T) {
	good := DefaultExecutorConfig()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(*ExecutorConfig){
		"executor.data_dir":                           func(c *ExecutorConfig) { c.DataDir = "" },
		"executor.listen":                             func(c *ExecutorConfig) { c.Listen = "50051" },
		"executor.ssh_listen":                         func(c *ExecutorConfig) { c.SSHListen = "" },
		"executor.status_listen":                      func(c *ExecutorConfig) { c.StatusListen = "x" },
		"executor.software_gpus":                      func(c *ExecutorConfig) { c.SoftwareGPUs = -1 },
		"executor.heartbeat":                          func(c *ExecutorConfig) { c.Heartbeat = 0 },
		"executor.blob_bytes":                         func(c *ExecutorConfig) { c.BlobBytes = 0 },
		"executor.min_free_disk":                      func(c *ExecutorConfig) { c.MinFreeDisk = -1 },
		"executor.image_bytes":                        func(c *ExecutorConfig) { c.ImageBytes = 0 },
		"executor.log_bytes":                          func(c *ExecutorConfig) { c.LogBytes = 1 << 40 },
		"executor.resources.max_containers":           func(c *ExecutorConfig) { c.Resources.MaxContainers = 0 },
		"executor.resources.max_memory_per_container": func(c *ExecutorConfig) { c.Resources.MaxMemoryPerContainer = 1 },
		"executor.resources.max_cpu_per_container":    func(c *ExecutorConfig) { c.Resources.MaxCPUPerContainer = 0 },
		"executor.resources.gpu_allocation_mode":      func(c *ExecutorConfig) { c.Resources.GPUAllocationMode = "shared" },
	} {
		bad := good
		change(&bad)
		if err := bad.Validate(); basilica.CodeOf(err) != "CONFIG_VALUE" || !strings.Contains(err.Error(), key+":") || basilica.FixOf(err) == "" {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestExecutorThatNeverJoined(t *testing.T) {
	cfg := DefaultExecutorConfig()
	cfg.DataDir = t.TempDir()
	_, err := NewExecutor(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if basilica.CodeOf(err) != "NOT_JOINED" || basilica.FixOf(err) == "" {
		t.Error(err)
	}
}

// programs builds both binaries the way that they are shipped.
func programs(t *testing.T) (basilicaPath, attestorPath string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"basilica", "gpu-attestor"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, name), "../cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return filepath.Join(dir, "basilica"), filepath.Join(dir, "gpu-attestor")
}

// testFleet is a miner's authority and its answers, without a chain or decisions.
type testFleet struct {
	authority *pki.Authority
	hotkey    *keys.Pair
	dialBack  func(ctx context.Context, addr string) ([]byte, error)

	mu     sync.Mutex
	member basilica.EnrollRequest
	beats  int
	clock  time.Duration // ahead of the machine's
}

func (f *testFleet) Enroll(ctx context.Context, req basilica.EnrollRequest) (basilica.Enrollment, error) {
	spki, err := pki.CSRKey(req.CSR)
	if err != nil {
		return basilica.Enrollment{}, err
	}
	shown, err := f.dialBack(ctx, req.Addr)
	if err != nil {
		return basilica.Enrollment{}, err
	}
	if !bytes.Equal(shown, spki) {
		return basilica.Enrollment{}, errors.New("another key answers")
	}
	cert, err := f.authority.IssueExecutor(req.CSR, "box-1", time.Now())
	if err != nil {
		return basilica.Enrollment{}, err
	}
	endorsement, err := basilica.Endorse(basilica.Endorsement{Executor: "box-1", KeySPKI: spki, AttestSPKI: req.AttestSPKI, HostKey: req.HostKey, Issued: time.Now()}, f.hotkey)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.member = req
	return basilica.Enrollment{
		Executor: "box-1", Miner: basilica.Hotkey(f.hotkey.SS58()), Certificate: cert, Trust: f.trust(), Endorsement: endorsement,
	}, err
}

func (f *testFleet) Heartbeat(context.Context, basilica.ExecutorID, basilica.Heartbeat) (basilica.HeartbeatReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.beats++
	return basilica.HeartbeatReply{At: time.Now(), Lease: time.Minute}, nil
}

func (f *testFleet) trust() basilica.Trust {
	return basilica.Trust{FleetCAs: f.authority.FleetCAs(), SSHCAs: f.authority.SSHCAKeys(), JWTKeys: f.authority.JWTPublicKeys()}
}

func (f *testFleet) Renew(_ context.Context, id basilica.ExecutorID, req basilica.RenewRequest) (basilica.Renewal, error) {
	cert, err := f.authority.IssueExecutor(req.CSR, string(id), time.Now())
	return basilica.Renewal{Certificate: cert, Trust: f.trust()}, err
}

func (f *testFleet) Reach(ctx context.Context, _ basilica.ExecutorID) (basilica.Reached, error) {
	f.mu.Lock()
	member, clock := f.member, f.clock
	f.mu.Unlock()
	out := basilica.Reached{Addr: member.Addr, SSHAddr: member.SSHAddr}
	refused := func(addr string, err error) *basilica.Reason {
		return &basilica.Reason{Code: "EXECUTOR_UNREACHABLE", Sentence: "the miner cannot reach " + addr + ": " + err.Error(), Fix: "open that port"}
	}
	if _, err := f.dialBack(ctx, member.Addr); err != nil {
		out.GRPC = refused(member.Addr, err)
	}
	if err := wire.Knock(ctx, member.SSHAddr, true); err != nil {
		out.SSH = refused(member.SSHAddr, err)
	}
	out.At = time.Now().Add(clock)
	return out, nil
}

// anyone is a miner that knows every executor of its fleet.
func anyone(context.Context, basilica.ExecutorID, []byte) error { return nil }

// shows gives one certificate to whoever asks.
func shows(c tls.Certificate) wire.CertificateFunc {
	return func() (*tls.Certificate, error) { return &c, nil }
}

// TestExecutorJoinsWorksAndStartsAgain: join by token, start from the file that join left, answer a validator and run a
// task over the real doors, stop without a trace, and start again.
func TestExecutorJoinsWorksAndStartsAgain(t *testing.T) {
	t.Parallel()
	engine, err := docker.New("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	if _, _, err := engine.Available(t.Context()); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("no container engine (%v): run scripts/dockerd.sh start", err)
	}
	program, prover := programs(t)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	fleet := &testFleet{dialBack: func(ctx context.Context, addr string) ([]byte, error) { return wire.PeerKey(ctx, addr, true) }}
	if fleet.hotkey, err = keys.FromURI(keys.Sr25519, minerHotURI); err != nil {
		t.Fatal(err)
	}
	if fleet.authority, err = pki.Create(filepath.Join(t.TempDir(), "pki")); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := fleet.authority.ServerCertificate(time.Now(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	server, err := wire.NewFleetServer(fleet, wire.FleetServerConfig{Certificate: shows(cert), CAs: fleet.authority.FleetCAs, Known: anyone, Now: time.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	serving, stopServing := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(serving, ln) }()
	defer func() {
		stopServing()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	token, _, err := pki.NewJoinToken(ln.Addr().String(), fleet.authority.CACert())
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultExecutorConfig()
	cfg.DataDir, cfg.Listen, cfg.SSHListen, cfg.StatusListen = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.SoftwareGPUs, cfg.Attestor, cfg.CheckBinary, cfg.Heartbeat = 2, prover, program, Duration(100*time.Millisecond)
	deps := Deps{Log: log, Now: time.Now}
	joined, err := Join(t.Context(), JoinConfig{Token: token, Executor: cfg}, deps)
	if err != nil {
		t.Fatal(err)
	}
	joinsAgain(t, cfg, deps, ln.Addr().String(), fleet, joined)
	if len(fleet.member.Facts.GPUs) != 2 || fleet.member.Facts.Engine != "docker" || fleet.member.Addr != joined.Addr {
		t.Errorf("enrolled with %+v", fleet.member)
	}
	for i := range 2 {
		whole := DefaultConfig()
		if err := LoadConfig(joined.ConfigPath, nil, &whole); err != nil {
			t.Fatal(err)
		}
		if i == 1 { // it has run, so it has a ledger
			doctorOnJoinedMachine(t, whole.Executor, deps, fleet, token)
		}
		runJoinedExecutor(t, whole.Executor, deps, fleet, joined, engine)
	}
}

// joinsAgain: the same fleet renews the certificate and leaves what the owner made of the configuration; another fleet or
// another name is refused.
func joinsAgain(t *testing.T, cfg ExecutorConfig, deps Deps, addr string, fleet *testFleet, joined Joined) {
	t.Helper()
	own, _, err := pki.NewJoinToken(addr, fleet.authority.CACert())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Join(t.Context(), JoinConfig{Token: own, Name: "box-9", Executor: cfg}, deps); basilica.CodeOf(err) != "ALREADY_JOINED" {
		t.Errorf("another name: %v", err)
	}
	hotkey := fleet.hotkey
	if fleet.hotkey, err = keys.FromURI(keys.Sr25519, clientURI); err != nil {
		t.Fatal(err)
	}
	if _, err := Join(t.Context(), JoinConfig{Token: own, Executor: cfg}, deps); basilica.CodeOf(err) != "ENROLLMENT_UNFIT" {
		t.Errorf("another miner: %v", err)
	}
	fleet.hotkey = hotkey
	whole := DefaultConfig()
	if err := LoadConfig(joined.ConfigPath, nil, &whole); err != nil {
		t.Fatal(err)
	}
	whole.Executor.Resources.MaxContainers = 3
	if err := WriteConfig(joined.ConfigPath, map[string]any{"chain": map[string]any{"netuid": 7}, "executor": whole.Executor}); err != nil {
		t.Fatal(err)
	}
	before, err := loadIdentity(cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	if before.inForce(before.cert.NotAfter.Add(time.Second)) == nil || before.inForce(deps.Now()) != nil {
		t.Error("an identity is judged wrongly by its dates")
	}
	if again, err := Join(t.Context(), JoinConfig{Token: own, Executor: cfg}, deps); err != nil || again != joined {
		t.Fatalf("joined again as %+v, %v", again, err)
	}
	after, err := loadIdentity(cfg.DataDir)
	if err != nil || bytes.Equal(after.cert.Raw, before.cert.Raw) || !bytes.Equal(after.key.SPKI(), before.key.SPKI()) {
		t.Errorf("the certificate was not renewed over the same key: %v", err)
	}
	kept := DefaultConfig()
	if err := LoadConfig(joined.ConfigPath, nil, &kept); err != nil || kept.Executor != whole.Executor || kept.Chain.NetUID != 7 {
		t.Errorf("the configuration changed: %+v, %v", kept, err)
	}
	if err := os.Rename(filepath.Join(cfg.DataDir, "executor.key"), filepath.Join(cfg.DataDir, "kept.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := NewExecutor(t.Context(), whole.Executor, deps); basilica.CodeOf(err) != "EXECUTOR_KEY_CHANGED" {
		t.Errorf("with a lost key: %v", err)
	}
	if err := os.Rename(filepath.Join(cfg.DataDir, "kept.key"), filepath.Join(cfg.DataDir, "executor.key")); err != nil {
		t.Fatal(err)
	}
	attest := filepath.Join(cfg.DataDir, "attest.key")
	if err := os.Rename(attest, attest+".kept"); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), cfg.Attestor, "keygen", "--key", attest).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, err = NewExecutor(t.Context(), whole.Executor, deps)
	provoke.Refused(t, err, "ATTEST_KEY_CHANGED")
	if err := os.Rename(attest+".kept", attest); err != nil {
		t.Fatal(err)
	}
}

func runJoinedExecutor(t *testing.T, cfg ExecutorConfig, deps Deps, fleet *testFleet, joined Joined, engine *docker.Engine) {
	t.Helper()
	ready := make(chan map[string]string, 1)
	deps.Ready = func(addrs map[string]string) { ready <- addrs }
	n, err := NewExecutor(t.Context(), cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	if addrs := <-ready; addrs["grpc"] != joined.Addr || addrs["ssh"] != joined.SSHAddr {
		t.Errorf("doors at %v, enrolled as %+v", addrs, joined)
	}
	visitJoinedExecutor(t, cfg.DataDir, fleet, joined)
	taskOnJoinedExecutor(t, fleet, joined)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if m, err := docker.Mounted(cfg.DataDir); err != nil || len(m) != 0 {
		t.Errorf("mounts remain: %v %v", m, err)
	}
	// Others on this engine may have the same executor id.
	if own, err := engine.List(t.Context(), executor.LabelMachine, machineLabel(n.self.key)); err != nil || len(own) != 0 {
		t.Errorf("containers remain: %+v %v", own, err)
	}
}

// visitJoinedExecutor is a validator with a grant of the miner.
func visitJoinedExecutor(t *testing.T, dir string, fleet *testFleet, joined Joined) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	validator, err := keys.FromURI(keys.Sr25519, validatorHotURI)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := fleet.authority.SSHUserCertificate(signer.PublicKey().Marshal(), string(joined.Executor), "grant-1", validator.SS58(), []string{"attest", "facts", "check"}, time.Now(), 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	c, err := sshdoor.Dial(t.Context(), joined.SSHAddr, sshdoor.DialConfig{HostKey: fleet.member.HostKey, Signer: signer, Certificate: cert, AllowPrivate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func(name, request string) []byte {
		ch, err := c.Subsystem(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		defer ch.Close()
		if _, err := io.WriteString(ch, request); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(ch)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return answer
	}
	var facts basilica.Facts
	if err := json.Unmarshal(ask("facts", ""), &facts); err != nil || len(facts.GPUs) != 2 || facts.GPUs[0].Kind != basilica.GPUSoftware {
		t.Errorf("facts %+v %v", facts, err)
	}
	nonce := bytes.Repeat([]byte{7}, 32)
	var reply struct {
		ExitCode int    `json:"exit_code"`
		Output   string `json:"output"`
	}
	sum := sha256.Sum256(append([]byte("BSLTASK\x00"), nonce...))
	want := hex.EncodeToString([]byte(hex.EncodeToString(sum[:])))
	if err := json.Unmarshal(ask("check", fmt.Sprintf("{\"nonce\":\"%x\"}\n", nonce)), &reply); err != nil || reply.ExitCode != 0 || reply.Output != want {
		t.Errorf("check %+v %v", reply, err)
	}
	ch, err := c.Subsystem(t.Context(), "attest")
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	hello, err := attest.ReadFrame(ch, attest.RelayCap)
	if err != nil || len(hello) == 0 {
		t.Errorf("hello: %v", err)
	}
	busyForDoctor(t, dir, "grant-1")
	// The challenge holds both devices, so a second one is refused with its holder.
	second, err := sshdoor.Dial(t.Context(), joined.SSHAddr, sshdoor.DialConfig{HostKey: fleet.member.HostKey, Signer: signer, Certificate: cert, AllowPrivate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	busy, err := second.Subsystem(t.Context(), "attest")
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(busy)
	var held *basilica.Held
	if !errors.As(err, &held) || held.Holding.Holder != "grant-1" {
		t.Errorf("a second challenge: %v", err)
	}
}

// taskOnJoinedExecutor is the miner with a task, over gRPC. The challenge of a validator that hung up leaves the ledger a
// moment later, so the first tries may be refused.
func taskOnJoinedExecutor(t *testing.T, fleet *testFleet, joined Joined) {
	t.Helper()
	cert, err := fleet.authority.ServerCertificate(time.Now(), []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	pool := wire.NewExecutors(wire.ExecutorsConfig{Certificate: shows(cert), CAs: fleet.authority.FleetCAs, Known: anyone, Now: time.Now, MintJWT: func(id basilica.ExecutorID) (string, error) {
		return fleet.authority.MintJWT(string(id), time.Now(), 30*time.Second)
	}})
	defer pool.Close()
	box := pool.Executor(joined.Executor, joined.Addr)
	spec, err := json.Marshal(basilica.TaskSpec{Image: "no-such-image:1", GPUs: 2, AllowSoftware: true})
	if err != nil {
		t.Fatal(err)
	}
	task := basilica.TaskID(fmt.Sprintf("t%d", time.Now().UnixNano()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		_, err = box.Execute(ctx, basilica.ExecuteRequest{Task: task, Attempt: 1, Client: "5c", Spec: spec, Lease: time.Minute})
		if basilica.CodeOf(err) != "BUSY" {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	var last basilica.TaskEvent
	if err := box.Watch(ctx, task, 1, 0, func(e basilica.TaskEvent) error { last = e; return nil }); err != nil {
		t.Fatal(err)
	}
	if last.State != basilica.TaskFailed || last.Reason.Code != "IMAGE_NOT_FOUND" || last.Receipt == nil {
		t.Errorf("end %+v", last)
	} else if _, err := last.Receipt.Countersign(fleet.hotkey); err != nil {
		t.Errorf("receipt: %v", err)
	}
	if h, err := box.Health(ctx); err != nil || !h.OK || len(h.Ledger) != 0 {
		t.Errorf("health %+v %v", h, err)
	}
}
