package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"basilica"
	"basilica/admin"
	"basilica/docker"
	"basilica/executor"
	"basilica/keys"
	"basilica/subtensor"
)

// UpConfig is how a whole network on one machine is made.
type UpConfig struct {
	// DataDir holds keys, certificates, configuration, state and logs of every part. Empty: a temporary directory that is
	// removed at the end. A directory of an earlier run goes on where that ended.
	DataDir string
	// RPC is where the chain answers; port 0 takes any free one.
	RPC string
	// DockerHost is the engine's socket; empty is the engine's usual one.
	DockerHost string
	// Attestor is the path of gpu-attestor.
	Attestor string
	// Cheat is handed to an adversary build of gpu-attestor, e.g. "fill:0.05".
	Cheat string
	// Launcher starts the parts; nil runs them as processes of Executable.
	Launcher Launcher
	// Executable is the path of the static basilica program: what processes run, and what answers validators' checks in a
	// container.
	Executable string
	// Say hears of progress, one sentence at a time; nil: nobody does.
	Say func(sentence string)
}

// Launcher starts the parts of a network.
type Launcher interface {
	// Start runs a role with a configuration file until Stop, and returns when its doors listen. Where ctx ends before, the
	// part may be given beside the error (PROCESS_SLOW): it goes on.
	Start(ctx context.Context, role, name, config, log string) (Part, error)
	// Join enrolls the machine of a configuration file with a token, and writes the file anew.
	Join(ctx context.Context, name, config, token string) error
	// Close ends what the launcher itself holds.
	Close() error
}

// Part is one running role.
type Part interface {
	PID() int
	Addrs() map[string]string // by name of the door
	Ended() <-chan struct{}   // closed when the role has ended
	Failure() error           // after Ended: that and why it ended by itself
	Stop()                    // ends it and waits
}

// box is one machine of the network.
type box struct {
	id   basilica.ExecutorID
	gpus int
}

// boxes are the machines of the network's one miner.
func boxes() []box { return []box{{"box-1", 2}, {"box-2", 1}} }

func boxIDs() []basilica.ExecutorID {
	var ids []basilica.ExecutorID
	for _, b := range boxes() {
		ids = append(ids, b.id)
	}
	return ids
}

const netUID = basilica.NetUID(39)

// Network is a whole network on one machine: a chain, a miner with two machines, a validator.
type Network struct {
	cfg     UpConfig
	deps    Deps
	dir     string
	keep    bool // dir outlives the run
	started time.Time
	engine  *docker.Engine
	image   string // of the job
	program string // path of busybox in it
	chain   *subtensor.Client
	http    http.Client // asks the validator's API

	minerUID, validatorUID basilica.UID

	mu      sync.Mutex // guards parts while Start runs, and calls of Say
	parts   []running
	context context.Context
	cancel  context.CancelCauseFunc
	watches sync.WaitGroup
}

// running is a part with its names.
type running struct {
	Part
	role, name string
}

// NewNetwork makes or opens the data directory and looks for what the machine must have.
func NewNetwork(ctx context.Context, cfg UpConfig, deps Deps) (_ *Network, err error) {
	n := &Network{cfg: cfg, deps: deps, http: http.Client{Transport: &http.Transport{}}, started: deps.Now(), keep: cfg.DataDir != ""}
	if n.cfg.Say == nil {
		n.cfg.Say = func(string) {}
	}
	n.context, n.cancel = context.WithCancelCause(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if n.cfg.Launcher == nil {
		n.cfg.Launcher = newProcessLauncher(cfg.Executable, cfg.Cheat)
	}
	if n.engine, err = docker.New(cfg.DockerHost, deps.Log); err != nil {
		return nil, err
	}
	name, version, err := n.engine.Available(ctx)
	if err != nil {
		return nil, err
	}
	n.say("engine: %s %s", name, version)
	if _, err := os.Stat(cfg.Attestor); err != nil {
		return nil, basilica.E(basilica.NotFound, "ATTESTOR_MISSING", fmt.Sprintf("the prover %s is not there", cfg.Attestor), "build it with `make build`, or give its path with --attestor").With(err)
	}
	if n.cfg.Attestor, err = filepath.Abs(cfg.Attestor); err != nil {
		return nil, fmt.Errorf("find the prover: %w", err)
	}
	if err := n.openDir(); err != nil {
		return nil, err
	}
	if err := n.loadImage(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

func (n *Network) say(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cfg.Say(fmt.Sprintf("[%5.1fs] ", n.deps.Now().Sub(n.started).Seconds()) + fmt.Sprintf(format, args...))
}

func (n *Network) openDir() error {
	if !n.keep {
		dir, err := os.MkdirTemp("", "basilica-up-")
		if err != nil {
			return fmt.Errorf("make data directory: %w", err)
		}
		n.dir = dir
		return nil
	}
	dir, err := filepath.Abs(n.cfg.DataDir)
	if err != nil {
		return fmt.Errorf("find data directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	n.dir = dir
	return nil
}

// loadImage makes the job's image of the machine's static busybox; no registry is asked.
func (n *Network) loadImage(ctx context.Context) error {
	path, err := findBusybox()
	if err != nil {
		return err
	}
	program, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read busybox: %w", err)
	}
	defer program.Close()
	info, err := program.Stat()
	if err != nil {
		return fmt.Errorf("read busybox: %w", err)
	}
	// A name of this run's own makes an image of its own: another network on the same engine removes only its own.
	name := "busybox-" + strings.ToLower(rand.Text()[:8])
	n.program = "/" + name
	n.image, err = n.engine.LoadProgram(ctx, name, program, info.Size(), nil)
	return err
}

// Context ends when the network's own context ends, or a part has ended by itself that was not revoked; its cause says which.
func (n *Network) Context() context.Context { return n.context }

// Image is the content address of the image that holds a static busybox at Program.
func (n *Network) Image() string { return n.image }

// Program is the path of busybox in Image.
func (n *Network) Program() string { return n.program }

// start runs one part and watches that it does not end by itself.
func (n *Network) start(ctx context.Context, role, name, config string) (Part, error) {
	part, err := n.cfg.Launcher.Start(ctx, role, name, config, n.logPath(name))
	if part == nil {
		return nil, err
	}
	n.mu.Lock()
	n.parts = append(n.parts, running{part, role, name})
	n.mu.Unlock()
	n.watches.Go(func() {
		<-part.Ended()
		if role == "executor" && n.revoked(basilica.ExecutorID(name)) {
			n.say("executor: %s was revoked and has ended; the network goes on without it", name)
			return
		}
		n.cancel(part.Failure())
	})
	return part, err
}

// revoked says whether the miner's owner ended the membership of a machine, which then ends by itself.
func (n *Network) revoked(id basilica.ExecutorID) bool {
	ctx, cancel := context.WithTimeout(n.context, askAPI)
	defer cancel()
	miner, err := n.minerAdmin()
	if err != nil {
		return false
	}
	m, err := miner.Member(ctx, id)
	return err == nil && m.Revoked != nil
}

func (n *Network) minerAdmin() (*admin.Client, error) {
	return MinerAdmin(MinerConfig{DataDir: filepath.Join(n.dir, "miner")})
}

func (n *Network) logPath(name string) string { return filepath.Join(n.dir, "logs", name+".log") }

// Start brings every part up: chain, registrations, miner, machines, validator.
func (n *Network) Start() error {
	steps := []func(context.Context) error{n.startChain, n.takeParts, n.startMiner, n.startBoxes, n.startValidator, n.writeClientConfig}
	for _, step := range steps {
		if err := step(n.context); err != nil {
			if cause := context.Cause(n.context); cause != nil && !errors.Is(err, cause) && n.context.Err() != nil {
				return cause
			}
			return err
		}
	}
	return nil
}

func (n *Network) startChain(ctx context.Context) error {
	cfg := defaultLocalnet()
	cfg.Listen, cfg.StatusListen, cfg.DataDir = n.cfg.RPC, "127.0.0.1:0", filepath.Join(n.dir, "localnet")
	path, err := n.writeSections("localnet", map[string]any{"localnet": cfg})
	if err != nil {
		return err
	}
	part, err := n.start(ctx, "localnet", "localnet", path)
	if err != nil {
		return err
	}
	n.chain = subtensor.New(subtensor.Config{URL: "ws://" + part.Addrs()["rpc"]}, n.deps.Log)
	n.say("chain: subnet %d at ws://%s", netUID, part.Addrs()["rpc"])
	return nil
}

func (n *Network) chainConfig() ChainConfig {
	return ChainConfig{URL: "ws://" + n.parts[0].Addrs()["rpc"], NetUID: netUID, AllowPrivate: true}
}

func (n *Network) takeParts(ctx context.Context) (err error) {
	if n.minerUID, err = takePart(ctx, n.chain, netUID, minerColdURI, minerHotURI); err != nil {
		return fmt.Errorf("register the miner: %w", err)
	}
	if n.validatorUID, err = takePart(ctx, n.chain, netUID, validatorColdURI, validatorHotURI); err != nil {
		return fmt.Errorf("register the validator: %w", err)
	}
	if err := stakeOnce(ctx, n.chain, netUID, n.validatorUID); err != nil {
		return fmt.Errorf("stake for the validator: %w", err)
	}
	n.say("registered: miner uid %d, validator uid %d with stake", n.minerUID, n.validatorUID)
	return nil
}

func (n *Network) startMiner(ctx context.Context) error {
	fleet, err := n.stablePort("fleet")
	if err != nil {
		return err
	}
	cfg := DefaultMinerConfig()
	cfg.DataDir, cfg.Hotkey = filepath.Join(n.dir, "miner"), minerHotURI
	// The chain refuses 127.0.0.1 as an axon's address and takes the rest of the loopback network.
	cfg.AxonListen, cfg.FleetListen, cfg.FleetAdvertise, cfg.StatusListen = "127.0.0.2:0", fleet, fleet, "127.0.0.1:0"
	cfg.AllowPrivateExecutors, cfg.AxonBridge = true, true
	path, err := n.writeSections("miner", map[string]any{"chain": n.chainConfig(), "miner": cfg})
	if err != nil {
		return err
	}
	part, err := n.start(ctx, "miner", "miner", path)
	if err != nil {
		return err
	}
	n.say("miner: axon https://%s, fleet door %s", part.Addrs()["axon"], part.Addrs()["fleet"])
	return nil
}

func (n *Network) startBoxes(ctx context.Context) error {
	minerAdmin, err := n.minerAdmin()
	if err != nil {
		return err
	}
	page, err := minerAdmin.Members(ctx, "", 0)
	if err != nil {
		return fmt.Errorf("list the fleet: %w", err)
	}
	var group errgroup.Group
	for _, b := range boxes() {
		path, err := n.boxConfig(b)
		if err == nil && !n.joined(b, page.Executors) {
			err = n.enrollBox(ctx, minerAdmin, b, path)
		}
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		group.Go(func() error { return n.startBox(ctx, b, path) })
	}
	return group.Wait()
}

// joined says whether both the miner and the machine know of its membership: a join that was cut off may have left the machine
// without its identity, and is done again.
func (n *Network) joined(b box, members []basilica.MemberView) bool {
	_, err := os.Stat(filepath.Join(n.boxDir(b.id), identityFile))
	return err == nil && slices.ContainsFunc(members, func(m basilica.MemberView) bool { return m.Executor == b.id && m.Revoked == nil })
}

func (n *Network) boxDir(id basilica.ExecutorID) string { return filepath.Join(n.dir, string(id)) }

func (n *Network) enrollBox(ctx context.Context, miner *admin.Client, b box, config string) error {
	token, _, err := miner.CreateToken(ctx, b.id, time.Minute)
	if err != nil {
		return fmt.Errorf("make a join token: %w", err)
	}
	if err := n.cfg.Launcher.Join(ctx, string(b.id), config, token); err != nil {
		return fmt.Errorf("join %s: %w", b.id, err)
	}
	return nil
}

// startBox starts one machine. One that is slow is for the validator to judge, and stops nothing here.
func (n *Network) startBox(ctx context.Context, b box, config string) error {
	ctx, cancel := context.WithTimeout(ctx, boxPatience)
	defer cancel()
	_, err := n.start(ctx, "executor", string(b.id), config)
	if basilica.CodeOf(err) == codeSlow {
		n.say("executor: %s was started and does not answer", b.id)
		return nil
	}
	if err == nil {
		n.say("executor: %s with %d software GPUs", b.id, b.gpus)
	}
	return err
}

const boxPatience = 30 * time.Second

// boxConfig writes the machine's configuration, or brings that of an earlier run up to date: its ports stay, for the miner
// has written them down.
func (n *Network) boxConfig(b box) (string, error) {
	file := executorFile{DefaultExecutorConfig()}
	path := filepath.Join(n.dir, string(b.id)+".toml")
	if _, err := os.Stat(path); err == nil {
		if err := LoadConfig(path, nil, &file); err != nil {
			return "", err
		}
	} else {
		file.Executor.DataDir = n.boxDir(b.id)
		addrs, err := steadyAddrs(2)
		if err != nil {
			return "", err
		}
		file.Executor.Listen, file.Executor.SSHListen, file.Executor.StatusListen = addrs[0], addrs[1], "127.0.0.1:0"
	}
	file.Executor.SoftwareGPUs, file.Executor.Attestor, file.Executor.CheckBinary = b.gpus, n.cfg.Attestor, n.cfg.Executable
	if n.cfg.DockerHost != "" {
		file.Executor.DockerHost = n.cfg.DockerHost
	}
	file.Executor.AllowAdversaryAttestor = true // the chain's money is play money
	file.Executor.AllowPrivateRegistries = true // as is whose registry it is
	file.Executor.Heartbeat = Duration(500 * time.Millisecond)
	return path, WriteConfig(path, file)
}

func (n *Network) startValidator(ctx context.Context) error {
	cfg := DefaultValidatorConfig()
	cfg.DataDir, cfg.Hotkey, cfg.APIListen = filepath.Join(n.dir, "validator"), validatorHotURI, "127.0.0.1:0"
	cfg.RoundBlocks, cfg.Slots, cfg.AllowSoftware, cfg.Squarings = devRoundBlocks, 1, true, devSquarings
	path, err := n.writeSections("validator", map[string]any{"chain": n.chainConfig(), "validator": cfg})
	if err != nil {
		return err
	}
	part, err := n.start(ctx, "validator", "validator", path)
	if err != nil {
		return err
	}
	n.say("validator: http://%s/api/v1/status", part.Addrs()["api"])
	return nil
}

// On a chain with a block every 250 ms: a round every five seconds, and a delay function that takes a core a third of a
// second.
const (
	devRoundBlocks = 20
	devSquarings   = 1 << 18
)

func (n *Network) clientConfig() ClientConfig {
	return ClientConfig{Hotkey: clientURI, DataDir: filepath.Join(n.dir, "client")}
}

func (n *Network) writeClientConfig(context.Context) error {
	_, err := n.writeSections("client", map[string]any{"chain": n.chainConfig(), "client": n.clientConfig()})
	return err
}

func (n *Network) writeSections(name string, sections map[string]any) (string, error) {
	path := filepath.Join(n.dir, name+".toml")
	return path, WriteConfig(path, sections)
}

// stablePort gives a loopback address with a port that was free when the directory was made. It stays the same in later
// runs, because other parts have written it down: a join token, a member's record.
func (n *Network) stablePort(name string) (string, error) {
	path := filepath.Join(n.dir, "ports", name)
	if text, err := os.ReadFile(path); err == nil {
		return strings.TrimSpace(string(text)), nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read port of %s: %w", name, err)
	}
	addrs, err := steadyAddrs(1)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("remember port of %s: %w", name, err)
	}
	return addrs[0], WriteFile(path, []byte(addrs[0]+"\n"))
}

// Ports that others write down lie below what Linux hands out by itself (32768 and up), or between two runs on one
// directory any connection of the machine could take them.
const (
	steadyFirst = 20000
	steadyPorts = 12000
)

// steadyAddrs gives count loopback addresses whose ports are free now.
func steadyAddrs(count int) ([]string, error) {
	var addrs []string
	for range 1000 {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", steadyFirst+mathrand.IntN(steadyPorts)))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer ln.Close() // held until all are found, so that they differ
		if addrs = append(addrs, ln.Addr().String()); len(addrs) == count {
			return addrs, nil
		}
	}
	return nil, basilica.E(basilica.Exhausted, "NO_FREE_PORT", fmt.Sprintf("no free port was found from %d to %d", steadyFirst, steadyFirst+steadyPorts-1), "stop programs that listen there")
}

// Dir is the data directory; it holds client.toml and miner.toml, with which the other verbs find this network.
func (n *Network) Dir() string { return n.dir }

// Close ends every part, last started first, and leaves nothing behind: no process, container, volume, mount or, unless
// it was named, directory.
func (n *Network) Close() error {
	n.cancel(context.Canceled)
	var errs []error
	if len(n.parts) > 0 {
		n.say("ending")
	}
	for _, tier := range [][]string{{"validator"}, {"executor"}, {"miner"}, {"localnet"}} {
		var wg sync.WaitGroup
		for _, p := range n.parts {
			if slices.Contains(tier, p.role) {
				wg.Go(p.Stop)
			}
		}
		wg.Wait()
	}
	n.watches.Wait()
	n.http.CloseIdleConnections()
	if n.chain != nil {
		errs = append(errs, n.chain.Close())
	}
	if n.cfg.Launcher != nil {
		errs = append(errs, n.cfg.Launcher.Close())
	}
	sweeping, cancel := context.WithTimeout(context.Background(), sweepTimeout)
	defer cancel()
	errs = append(errs, n.removeContainers(sweeping)) // an executor that had to be killed left its tasks running
	if n.image != "" {
		errs = append(errs, n.engine.RemoveImage(sweeping, n.image))
	}
	if n.engine != nil {
		errs = append(errs, n.engine.Close())
	}
	if n.dir != "" {
		errs = append(errs, docker.UnmountAll(n.dir)) // an executor that had to be killed left its outputs mounted
		if !n.keep {
			errs = append(errs, os.RemoveAll(n.dir))
		}
	}
	return errors.Join(errs...)
}

const sweepTimeout = 30 * time.Second

// removeContainers removes what the machines of this run left on the engine. One that never started here may be another
// run's.
func (n *Network) removeContainers(ctx context.Context) error {
	var errs []error
	for _, p := range n.parts {
		if p.role != "executor" {
			continue
		}
		key, err := keys.LoadP256(filepath.Join(n.boxDir(basilica.ExecutorID(p.name)), executorKeyFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		left, err := n.engine.List(ctx, executor.LabelMachine, machineLabel(key))
		errs = append(errs, err)
		for _, c := range left {
			errs = append(errs, n.engine.Remove(ctx, c.ID))
		}
	}
	return errors.Join(errs...)
}

// sampleInput writes the default input of the job: a mebibyte of random bytes.
func (n *Network) sampleInput() (string, error) {
	path := filepath.Join(n.dir, "input")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	content := make([]byte, 1<<20)
	_, _ = rand.Read(content) // never fails since Go 1.24
	return path, WriteFile(path, content)
}
