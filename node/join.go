package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"time"

	"basilica"
	"basilica/executor"
	"basilica/pki"
	"basilica/wire"
)

// JoinConfig says how a machine joins a fleet.
type JoinConfig struct {
	// Token is the miner's join token.
	Token string
	// Name is the wished executor id; empty lets the miner choose.
	Name string
	// Advertise is the host:port at which the miner reaches the gRPC door; empty is the address by which this machine
	// reaches the miner, with the port of the door. Port 0 is the door's.
	Advertise string
	// SSHAdvertise is the same for validators and the SSH door.
	SSHAdvertise string
	// Executor is what the executor will start with; MinerAddr comes from the token.
	Executor ExecutorConfig
	// ConfigPath is where the executor's configuration is written; empty is executor.toml in its data directory. Other
	// sections that the file has stay.
	ConfigPath string
}

// Joined is what a machine got.
type Joined struct {
	Executor   basilica.ExecutorID `json:"executor"`
	Miner      basilica.Hotkey     `json:"miner"`
	ConfigPath string              `json:"config"`
	Addr       string              `json:"addr"`
	SSHAddr    string              `json:"ssh_addr"`
}

const (
	joinTime           = 60 * time.Second
	executorConfigFile = "executor.toml"
)

// executorFile is the part of a configuration file that `basilica executor` reads.
type executorFile struct {
	Executor ExecutorConfig `toml:"executor"`
}

// Join makes this machine's keys, enrolls it with the miner that the token names, and leaves an identity and a
// configuration with which `basilica executor --config FILE` starts, now and after every reboot. A machine that joins the
// same miner again keeps its id and keys and gets a new certificate.
func Join(ctx context.Context, cfg JoinConfig, deps Deps) (_ Joined, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	token, err := pki.ParseJoinToken(cfg.Token)
	if err != nil {
		return Joined{}, basilica.E(basilica.Invalid, "TOKEN_MALFORMED", "that is not a join token", "make one on the miner: basilica token create").With(err)
	}
	e := cfg.Executor
	e.MinerAddr = token.Addr
	if err := e.Validate(); err != nil {
		return Joined{}, err
	}
	if e.DataDir, err = DataDir(e.DataDir); err != nil {
		return Joined{}, err
	}
	// Whoever holds the store's lock is the only one in this directory.
	db, err := openExecutorDir(ctx, e.DataDir)
	if err != nil {
		return Joined{}, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	path := cfg.ConfigPath
	if path == "" {
		path = filepath.Join(e.DataDir, executorConfigFile)
	}
	// Read first: a file that no executor would start with is refused before the token is spent.
	file, err := openConfigFile(path)
	if err != nil {
		return Joined{}, err
	}
	known, err := loadIdentity(e.DataDir)
	switch {
	case basilica.CodeOf(err) == codeNotJoined:
		return enroll(ctx, cfg, "", e, file, token, deps)
	case err != nil:
		return Joined{}, err
	case cfg.Name != "" && cfg.Name != string(known.Executor):
		return Joined{}, basilica.E(basilica.Conflict, "ALREADY_JOINED", fmt.Sprintf("%s holds the identity of executor %s of miner %s already", e.DataDir, known.Executor, known.Miner), "start it with basilica executor, or join with another data directory")
	}
	// The same miner again renews the certificate, also where its authority's keys were replaced since. What the machine starts
	// with is what its owner made of the file since.
	cfg.Name = string(known.Executor)
	if file.says() {
		dir := e.DataDir
		e = file.executor
		e.DataDir, e.MinerAddr = dir, token.Addr
	}
	return enroll(ctx, cfg, known.Miner, e, file, token, deps)
}

// configFile is a configuration file as it stood before a join wrote the executor's part of it.
type configFile struct {
	path     string
	sections map[string]any // of the file; none where there is no file
	executor ExecutorConfig // what [executor] says, over the defaults
}

func openConfigFile(path string) (configFile, error) {
	f, whole := configFile{path: path, sections: map[string]any{}}, DefaultConfig()
	err := loadFile(path, &whole)
	if err == nil {
		err = loadFile(path, &f.sections)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	f.executor = whole.Executor
	return f, err
}

// says tells whether the file has a section [executor].
func (f configFile) says() bool { return f.sections["executor"] != nil }

// write puts e in the place of section [executor] and leaves every other section. A file that says so already stays as it is.
func (f configFile) write(e ExecutorConfig, log *slog.Logger) error {
	if f.says() && f.executor == e {
		return nil
	}
	if len(f.sections) > 0 {
		log.Warn("the configuration file is written anew, its comments are not kept", "file", f.path)
	}
	sections := maps.Clone(f.sections)
	sections["executor"] = e
	return WriteConfig(f.path, sections)
}

// enroll asks for an identity; miner is whose executor this is already, empty: nobody's.
func enroll(ctx context.Context, cfg JoinConfig, miner basilica.Hotkey, e ExecutorConfig, file configFile, token pki.JoinToken, deps Deps) (Joined, error) {
	m, err := inspect(ctx, e, deps.Log)
	if err != nil {
		return Joined{}, err
	}
	defer m.engine.Close()
	key, host, err := machineKeys(e.DataDir)
	if err != nil {
		return Joined{}, err
	}
	grpcLn, err := listen(ctx, "executor's gRPC door", "executor.listen", e.Listen)
	if err != nil {
		return Joined{}, err
	}
	defer grpcLn.Close()
	sshLn, err := listen(ctx, "executor's SSH door", "executor.ssh_listen", e.SSHListen)
	if err != nil {
		return Joined{}, err
	}
	defer sshLn.Close()
	// The ports that were free now are the ports from now on.
	if e.Listen, err = withPort(e.Listen, grpcLn); err != nil {
		return Joined{}, err
	}
	if e.SSHListen, err = withPort(e.SSHListen, sshLn); err != nil {
		return Joined{}, err
	}
	addr, err := advertised(ctx, cfg.Advertise, e.Listen, token.Addr)
	if err != nil {
		return Joined{}, err
	}
	sshAddr, err := advertised(ctx, cfg.SSHAdvertise, e.SSHListen, token.Addr)
	if err != nil {
		return Joined{}, err
	}
	out, err := executor.Join(ctx, executor.Joining{
		Token: cfg.Token, Name: cfg.Name, Miner: miner, Key: key, Addr: addr, SSHAddr: sshAddr, HostKey: host.PublicKey().Marshal(), AttestSPKI: m.detection.SPKI, Facts: m.facts,
		ServeKey: func(ctx context.Context) error { return wire.ServeKey(ctx, grpcLn, key.Signer()) },
		Enroll: func(ctx context.Context, req basilica.EnrollRequest) (basilica.Enrollment, error) {
			return wire.JoinFleet(ctx, token.Addr, token.CAHash, deps.Now, req)
		},
	})
	if err != nil {
		return Joined{}, err
	}
	if err := saveIdentity(e.DataDir, out); err != nil {
		return Joined{}, err
	}
	if err := file.write(e, deps.Log); err != nil {
		return Joined{}, err
	}
	return Joined{Executor: out.Executor, Miner: out.Miner, ConfigPath: file.path, Addr: addr, SSHAddr: sshAddr}, nil
}

// withPort puts the listener's port into its configured address.
func withPort(addr string, ln net.Listener) (string, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(host, port), nil
}

// advertised is the address of a door for others: as configured, else the address by which this machine reaches the
// miner.
func advertised(ctx context.Context, wish, bound, miner string) (string, error) {
	host, port, err := net.SplitHostPort(bound)
	if err != nil {
		return "", err
	}
	if wish != "" {
		wishHost, wishPort, err := net.SplitHostPort(wish)
		if err != nil || wishHost == "" {
			return "", basilica.E(basilica.Invalid, "ADVERTISE", fmt.Sprintf("%.80q is not host:port", wish), "write what others dial, e.g. 203.0.113.7:50051")
		}
		if wishPort == "0" {
			wishPort = port
		}
		return net.JoinHostPort(wishHost, wishPort), nil
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return bound, nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", miner) // sends nothing; the kernel chooses the source address
	if err != nil {
		return "", basilica.E(basilica.Unavailable, "ADVERTISE", "this machine's address towards the miner could not be found", "name it with --advertise").With(err)
	}
	defer conn.Close()
	own, _, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(own, port), nil
}
