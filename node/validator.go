package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"basilica"
	"basilica/attest"
	"basilica/axon"
	"basilica/keys"
	"basilica/rest"
	"basilica/score"
	"basilica/sshdoor"
	"basilica/status"
	"basilica/store"
	"basilica/subtensor"
	"basilica/validator"
)

// ValidatorConfig is section [validator].
type ValidatorConfig struct {
	// DataDir holds the validator's database and the records of all challenges. Losing it loses what executors earned
	// since their last rounds, and the keys that they are known by.
	DataDir string `toml:"data_dir"`
	// Hotkey is the registered key: the path of a plain key file, or //Name on a development chain.
	Hotkey string `toml:"hotkey"`
	// APIListen is where the API, /health, /metrics and /api/v1/status are. It has no transport security of its own, so it
	// must be on loopback.
	APIListen string `toml:"api_listen"`
	// RoundBlocks is the length of a round in blocks: every executor is challenged once in it. Shorter rounds find a cheat
	// sooner and take more of the machines' time.
	RoundBlocks uint64 `toml:"round_blocks"`
	// Slots divides a round; the hash of its first block says in which slot this validator looks. 1: at once.
	Slots uint64 `toml:"slots"`
	// Rounds is N of the score formula: how many rounds the pass ratio looks back.
	Rounds int `toml:"rounds"`
	// AllowSoftware lets software devices pass and earn. For development networks alone: nobody else may pay for them.
	AllowSoftware bool `toml:"allow_software"`
	// AllowPlain speaks plain HTTP to miners that published no TLS key. For development networks alone: anybody on the way
	// reads and changes what is sent.
	AllowPlain bool `toml:"allow_plain"`
	// BurnShare is the share of all weight, 0 to 1, that goes to the subnet owner's UID. All of it goes there while no miner
	// has a score.
	BurnShare float64 `toml:"burn_share"`
	// MaxExecutorsPerMiner bounds how many executors of one miner are looked at.
	MaxExecutorsPerMiner int `toml:"max_executors_per_miner"`
	// Parallel bounds how many executors' proofs are read at once, which `make bench` measures: about 4 MB per GPU. A miner's
	// executors start together, however many; one miner's proofs have an eighth of it at most, or an equal part where there are
	// fewer miners.
	Parallel int `toml:"parallel"`
	// Profiles is a file of GPU models (JSON, as attest/models.json) instead of the one that ships with this version.
	Profiles string `toml:"profiles"`
	// Squarings is T of the delay function in every challenge, 0 for none, at most 2^26; 2^21 takes a machine about 2.4 s.
	Squarings uint64 `toml:"vdf_squarings"`
	// PublicVDF asks for a proof of the delay that third parties can check in a record, and takes a machine about a quarter longer.
	PublicVDF bool `toml:"vdf_public"`
	// CCRoot is a file with the one certificate (PEM) that the confidential-computing reports of GPUs must lead to. Empty: they are
	// not looked at. A report shows that a genuine GPU answered, not in which machine: it changes no verdict.
	CCRoot string `toml:"cc_root"`
	// EvidenceCount and EvidenceBytes bound the record files that are kept; the oldest of the miner that has
	// most go first.
	EvidenceCount int `toml:"evidence_count"`
	// EvidenceBytes is the other bound.
	EvidenceBytes ByteSize `toml:"evidence_bytes"`
	// KeepResults is how long rounds, verifications and weight sets are kept, at least "24h". The latest
	// verifications of every executor stay, and each whose record is kept: no score changes.
	KeepResults Duration `toml:"keep_results"`
	// RoundTimeout bounds everything that is done in one round; a miner's grant ends after 10 minutes anyway.
	RoundTimeout Duration `toml:"round_timeout"`

	// Chain is section [chain]. Its allow_private lets axons and executors be dialled on loopback and private addresses.
	Chain ChainConfig `toml:"-"`
}

// DefaultValidatorConfig is what holds where nothing else says otherwise.
func DefaultValidatorConfig() ValidatorConfig {
	return ValidatorConfig{
		DataDir: "~/.basilica/validator", APIListen: "127.0.0.1:8081", RoundBlocks: 100, Slots: 10, Rounds: score.DefaultRounds,
		MaxExecutorsPerMiner: 256, Parallel: 32, Squarings: 1 << 21, EvidenceCount: 10_000, EvidenceBytes: 20 << 30, KeepResults: Duration(90 * 24 * time.Hour), RoundTimeout: Duration(10 * time.Minute),
	}
}

// Validate checks what can be checked without a network.
func (c *ValidatorConfig) Validate() error {
	switch {
	case c.DataDir == "":
		return invalid("validator.data_dir", "is empty", "name a directory")
	case c.Hotkey == "":
		return invalid("validator.hotkey", "is not set", "give the path of the hotkey's file, e.g. ~/.bittensor/wallets/default/hotkeys/default")
	case c.RoundBlocks < 1 || c.RoundBlocks > 1<<20:
		return invalid("validator.round_blocks", fmt.Sprintf("%d is outside 1..%d", c.RoundBlocks, 1<<20), "set it, e.g. round_blocks = 100")
	case c.Slots < 1 || c.Slots > c.RoundBlocks:
		return invalid("validator.slots", fmt.Sprintf("%d is outside 1..round_blocks", c.Slots), "set it, e.g. slots = 10")
	case c.Rounds < 1 || c.Rounds > score.MaxRounds:
		return invalid("validator.rounds", fmt.Sprintf("%d is outside 1..%d", c.Rounds, score.MaxRounds), "set it, e.g. rounds = 20")
	case !(c.BurnShare >= 0 && c.BurnShare <= 1):
		return invalid("validator.burn_share", fmt.Sprintf("%g is outside 0..1", c.BurnShare), "set it, e.g. burn_share = 0.1")
	case c.MaxExecutorsPerMiner < 1 || c.MaxExecutorsPerMiner > 10_000:
		return invalid("validator.max_executors_per_miner", fmt.Sprintf("%d is outside 1..10000", c.MaxExecutorsPerMiner), "set it, e.g. max_executors_per_miner = 256")
	case c.Parallel < 1 || c.Parallel > 1024:
		return invalid("validator.parallel", fmt.Sprintf("%d is outside 1..1024", c.Parallel), "set it, e.g. parallel = 32")
	case c.Squarings > 1<<26:
		return invalid("validator.vdf_squarings", fmt.Sprintf("%d is over 2^26", c.Squarings), "set it, e.g. vdf_squarings = 2097152")
	case c.EvidenceCount < 1 || c.EvidenceBytes < 1:
		return invalid("validator.evidence_count, validator.evidence_bytes", "must be positive", `set both, e.g. evidence_count = 10000 and evidence_bytes = "20Gi"`)
	case time.Duration(c.KeepResults) < 24*time.Hour:
		return invalid("validator.keep_results", fmt.Sprintf("%s is under 24h", c.KeepResults), `set it, e.g. keep_results = "2160h"`)
	case time.Duration(c.RoundTimeout) < time.Second || time.Duration(c.RoundTimeout) > time.Hour:
		return invalid("validator.round_timeout", fmt.Sprintf("%s is outside 1s..1h", c.RoundTimeout), `set it, e.g. round_timeout = "10m"`)
	}
	host, _, err := net.SplitHostPort(c.APIListen)
	if err != nil {
		return invalid("validator.api_listen", fmt.Sprintf("%.80q is not host:port", c.APIListen), "write it like 127.0.0.1:8081")
	}
	if addr, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !addr.Unmap().IsLoopback()) {
		return invalid("validator.api_listen", fmt.Sprintf("%.80q is not on loopback, and this door speaks plain HTTP", c.APIListen), "listen on 127.0.0.1:8081, and publish it through a proxy with TLS that sends Host: 127.0.0.1")
	}
	return nil
}

// Validator is a wired validator.
type Validator struct {
	cfg     ValidatorConfig
	deps    Deps
	role    *validator.Validator
	status  *status.Server
	door    net.Listener
	closers closers
}

// Timeouts of what a validator asks of others.
const (
	askTimeout   = 15 * time.Second // of a miner's door, an SSH connection, a read of the chain
	checkTimeout = 60 * time.Second // of facts and task_path: an image may have to be made first
)

// NewValidator opens the store, binds the API's door and asks the chain which one it is.
func NewValidator(ctx context.Context, cfg ValidatorConfig, deps Deps) (_ *Validator, err error) {
	if err := errors.Join(cfg.Validate(), cfg.Chain.Validate()); err != nil {
		return nil, err
	}
	if cfg.DataDir, err = expandHome(cfg.DataDir); err != nil {
		return nil, err
	}
	hotkey, err := LoadKey("validator.hotkey", cfg.Hotkey)
	if err != nil {
		return nil, err
	}
	profiles, err := loadProfiles(cfg.Profiles)
	if err != nil {
		return nil, err
	}
	ccRoot, err := loadCCRoot(cfg.CCRoot)
	if err != nil {
		return nil, err
	}
	n := &Validator{cfg: cfg, deps: deps}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	db, err := store.OpenValidator(ctx, cfg.DataDir)
	if err != nil {
		return nil, err
	}
	n.closers.add(db.Close)
	if n.door, err = listen(ctx, "validator's API", "validator.api_listen", cfg.APIListen); err != nil {
		return nil, err
	}
	n.closers.add(closeListener(n.door))
	chain := subtensor.New(cfg.Chain.Nodes(cfg.DataDir, cfg.Hotkey), deps.Log.With("room", "subtensor"))
	n.closers.add(chain.Close)
	genesis, err := chain.Genesis(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the chain for its genesis: %w", err)
	}
	book, err := db.Book(ctx, genesis, cfg.Chain.NetUID, basilica.Hotkey(hotkey.SS58()))
	if err != nil {
		return nil, err
	}
	if err := n.wire(hotkey, chain, db, book, profiles, ccRoot); err != nil {
		return nil, err
	}
	return n, nil
}

func loadProfiles(path string) (attest.Profiles, error) {
	if path == "" {
		return attest.DefaultProfiles()
	}
	path, err := expandHome(path)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, invalid("validator.profiles", fmt.Sprintf("the file %s cannot be read", path), "give the right path, or remove the key to use the profiles of this version")
	}
	profiles, err := attest.ParseProfiles(text)
	if err != nil {
		return nil, invalid("validator.profiles", fmt.Sprintf("the file %s holds no profiles: %v", path, err), "write it like attest/models.json")
	}
	return profiles, nil
}

// loadCCRoot gives the DER of the certificate in a file.
func loadCCRoot(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	path, err := expandHome(path)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, invalid("validator.cc_root", fmt.Sprintf("the file %s cannot be read", path), "give the right path, or remove the key")
	}
	block, rest := pem.Decode(text)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, invalid("validator.cc_root", fmt.Sprintf("the file %s does not hold one certificate", path), "put the root's certificate there, as PEM")
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return nil, invalid("validator.cc_root", fmt.Sprintf("the file %s holds no certificate: %v", path, err), "put the root's certificate there, as PEM")
	}
	return block.Bytes, nil
}

// wire makes the role and hands it to its door.
func (n *Validator) wire(hotkey *keys.Pair, chain *subtensor.Client, db *store.Validator, book *store.Book, profiles attest.Profiles, ccRoot []byte) (err error) {
	cfg, deps := n.cfg, n.deps
	n.role, err = validator.New(validator.Config{
		NetUID: cfg.Chain.NetUID, Hotkey: hotkey, Chain: chain, Book: book, Archive: db,
		Door: func(m basilica.Neuron) (validator.MinerDoor, error) {
			return axon.NewClient(axon.ClientConfig{
				Signer: hotkey, Miner: m.Hotkey, Addr: m.Axon.Addr, TLSKey: m.Axon.TLSKey,
				AllowPrivate: cfg.Chain.AllowPrivate, AllowPlain: cfg.AllowPlain, Now: deps.Now,
			})
		},
		Dial: func(ctx context.Context, access basilica.GrantedAccess, key ed25519.PrivateKey) (validator.Session, error) {
			return dialExecutor(ctx, access, key, cfg.Chain.AllowPrivate)
		},
		RoundBlocks: cfg.RoundBlocks, Slots: cfg.Slots, Policy: score.Policy{Rounds: cfg.Rounds, AllowSoftware: cfg.AllowSoftware}, BurnShare: cfg.BurnShare,
		Profiles: profiles, Squarings: cfg.Squarings, PublicVDF: cfg.PublicVDF, CCRoot: ccRoot, MaxExecutors: cfg.MaxExecutorsPerMiner, Parallel: cfg.Parallel,
		AllowPrivate: cfg.Chain.AllowPrivate, AllowPlain: cfg.AllowPlain, EvidenceCount: cfg.EvidenceCount, EvidenceBytes: int64(cfg.EvidenceBytes), KeepResults: time.Duration(cfg.KeepResults),
		ConnectTimeout: askTimeout, CheckTimeout: checkTimeout, RoundTimeout: time.Duration(cfg.RoundTimeout),
		Now: deps.Now, Uptime: uptime(), Random: rand.Reader, Log: deps.Log,
	})
	if err != nil {
		return err
	}
	api, err := rest.New(rest.Config{Version: Version(), Results: book, Now: deps.Now, Failed: func(operation string, err error) {
		deps.Log.Error("API request failed", "operation", operation, "err", err)
	}})
	if err != nil {
		return err
	}
	n.status = status.New("validator", Version(), n.role.Health, func(context.Context) (any, error) { return n.role.Status(), nil })
	n.status.Mount("/", api)
	return n.status.Registry().Register(validatorMetrics{n.role})
}

// uptime is a clock that no one can set.
func uptime() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}

// dialExecutor connects to an executor's SSH door as its grant says.
func dialExecutor(ctx context.Context, access basilica.GrantedAccess, key ed25519.PrivateKey, allowPrivate bool) (validator.Session, error) {
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, fmt.Errorf("ephemeral SSH key: %w", err)
	}
	client, err := sshdoor.Dial(ctx, access.Addr, sshdoor.DialConfig{HostKey: access.HostKey, Signer: signer, Certificate: access.Certificate, AllowPrivate: allowPrivate})
	if err != nil {
		return nil, err
	}
	return client, nil
}

// Run verifies and serves until ctx ends or a part fails. It refuses a hotkey that is not registered; without a validator
// permit it waits and its status says so.
func (n *Validator) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.role.Run(ctx) })
	g.Go(func() error { return n.status.Serve(ctx, n.door) })
	if n.deps.Ready != nil {
		n.deps.Ready(map[string]string{"api": n.door.Addr().String()})
	}
	return g.Wait()
}

// Close gives everything back that NewValidator took, last first.
func (n *Validator) Close() error { return n.closers.close() }

// validatorMetrics reads the role's status at every scrape.
type validatorMetrics struct{ role *validator.Validator }

var (
	validatorHead      = prometheus.NewDesc("basilica_validator_head", "Finalized head that the validator saw last.", nil, nil)
	validatorRounds    = prometheus.NewDesc("basilica_validator_rounds_completed_total", "Rounds completed since the start.", nil, nil)
	validatorExecutors = prometheus.NewDesc("basilica_validator_executors", "Executors of the last round by what became of their GPU proof.", []string{"passed"}, nil)
	validatorWeights   = prometheus.NewDesc("basilica_validator_weights_block", "Block whose events confirmed the last weights; absent before the first.", nil, nil)
	validatorState     = prometheus.NewDesc("basilica_validator_state", "1 for the code of what the validator is doing or waiting for.", []string{"code"}, nil)
	validatorSealed    = prometheus.NewDesc("basilica_validator_commits_awaited", "Commits of weights whose reveal is awaited.", nil, nil)
	validatorLost      = prometheus.NewDesc("basilica_validator_commits_lost_total", "Commits of weights that were lost since the start.", nil, nil)
	validatorRefused   = prometheus.NewDesc("basilica_validator_weights_refused", "1 while the last attempt to set weights failed.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m validatorMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{validatorHead, validatorRounds, validatorExecutors, validatorWeights, validatorState, validatorSealed, validatorLost, validatorRefused} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m validatorMetrics) Collect(out chan<- prometheus.Metric) {
	s := m.role.Status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(validatorHead, float64(s.Head))
	out <- prometheus.MustNewConstMetric(validatorRounds, prometheus.CounterValue, float64(s.Rounds))
	gauge(validatorExecutors, float64(s.Passed), "true")
	gauge(validatorExecutors, float64(s.Executors-s.Passed), "false")
	gauge(validatorState, 1, s.Code)
	gauge(validatorSealed, float64(len(s.Commits)))
	out <- prometheus.MustNewConstMetric(validatorLost, prometheus.CounterValue, float64(s.CommitsLost))
	refused := 0.0
	if s.LastError != nil {
		refused = 1
	}
	gauge(validatorRefused, refused)
	if s.Weights != nil && s.Weights.Submitted != nil {
		gauge(validatorWeights, float64(s.Weights.Submitted.Block))
	}
}
