package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/attest"
	"basilica/attestor"
	"basilica/docker"
	"basilica/hardware"
	"basilica/internal/provoke"
	"basilica/keys"
	"basilica/store"
	"basilica/wire"
)

// finding gives the row of a check.
func finding(t *testing.T, d Diagnosis, check string) Finding {
	t.Helper()
	i := slices.IndexFunc(d.Findings, func(f Finding) bool { return f.Check == check })
	if i < 0 {
		t.Fatalf("no row %q among %+v", check, d.Findings)
	}
	return d.Findings[i]
}

func TestCaseA2_1DoctorSaysBySecondsAndSide(t *testing.T) {
	f, err := os.Open("testdata/cases/A2-1-nonce-offsets.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows := csv.NewReader(f)
	rows.Comment, rows.FieldsPerRecord = '#', -1
	all, err := rows.ReadAll()
	if err != nil || len(all) != 8 {
		t.Fatal(len(all), err)
	}
	for _, row := range all {
		off, err := strconv.ParseFloat(row[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		other := []reading{{whose: "the miner's", off: time.Duration(off * float64(time.Second))}}
		found, err := judgeClock(other, tolerance{behind: 10 * time.Second, ahead: 2 * time.Second})
		switch {
		case row[1] == "200" && err != nil:
			t.Errorf("%s: %v", row[0], err)
		case row[1] == "200" && !strings.Contains(found, "(offset "):
			t.Errorf("%s: %q names no offset", row[0], found)
		case row[1] == "200":
			continue
		}
		code, way := "CLOCK_OFF", "forward"
		if off > 0 {
			way = "back"
		}
		if strings.Contains(row[2], "is set") {
			code, way = "CLOCK_UNSET", "NTP"
		}
		provoke.Refused(t, err, code)
		if !strings.Contains(err.Error(), row[2]) || !strings.Contains(basilica.FixOf(err), way) {
			t.Errorf("%s: %v, fix %q", row[0], err, basilica.FixOf(err))
		}
	}
	// Which side is to be mended: the one with which nobody agrees.
	minute := tolerance{behind: time.Minute, ahead: time.Minute}
	for name, c := range map[string]struct {
		miner, chain time.Duration
		fix          string
	}{
		"both say so":     {95 * time.Second, 99 * time.Second, "set this machine's clock back by 95 s"},
		"the miner's":     {-95 * time.Second, 6 * time.Second, "agrees with the chain's newest block"},
		"a chain that is": {0, 500 * time.Second, "agrees with the miner's"},
	} {
		_, err := judgeClock([]reading{{whose: "the miner's", off: c.miner}, {whose: "the chain's newest block", off: c.chain, late: chainLate}}, minute)
		if !strings.Contains(basilica.FixOf(err), c.fix) {
			t.Errorf("%s: fix %q", name, basilica.FixOf(err))
		}
	}
	if _, err := judgeClock([]reading{{whose: "the chain's newest block", off: 20 * time.Second, late: chainLate}}, tolerance{}); err != nil {
		t.Errorf("an honest clock is blamed for the age of a block: %v", err)
	}
}

func TestCaseA2_5DoctorTellsOutsideFromHairpin(t *testing.T) {
	why := &basilica.Reason{Code: "EXECUTOR_UNREACHABLE", Sentence: "the miner cannot reach the gRPC door of executor box at 203.0.113.77:41234: connection refused"}
	noWay := errors.New("i/o timeout")
	for name, c := range map[string]struct {
		why   *basilica.Reason
		own   error
		said  string
		wrong bool
	}{
		"all well":             {nil, nil, "the miner reaches it at 203.0.113.77:41234 (port 50051 of this machine)", false},
		"no hairpin":           {nil, noWay, "cannot reach itself there, as behind a router without hairpin: no harm", false},
		"closed from outside":  {why, nil, "this machine reaches itself there, so the way from outside is closed", true},
		"reached by nobody":    {why, noWay, "this machine cannot reach itself there either: i/o timeout", true},
		"another port outside": {why, noWay, "203.0.113.77:41234", true},
	} {
		found, err := doorFound(metDoor{"advertise", "0.0.0.0:50051", "203.0.113.77:41234", c.why, c.own})
		if (err != nil) != c.wrong || !strings.Contains(found+fmt.Sprint(err), c.said) {
			t.Errorf("%s: %q, %v", name, found, err)
		}
		if c.wrong {
			provoke.Refused(t, err, "EXECUTOR_UNREACHABLE")
			if fix := basilica.FixOf(err); !strings.Contains(fix, "TCP port 41234") || !strings.Contains(fix, "port 50051 of this machine") || !strings.Contains(fix, "--advertise HOST:PORT") {
				t.Errorf("%s: fix %q", name, fix)
			}
		}
	}
	self := basilica.E(basilica.Unavailable, "AXON_SELF", "this machine cannot reach itself at 203.0.113.77:41234", "")
	for outside, want := range map[CheckState]CheckState{CheckPassed: CheckPassed, CheckNotDone: CheckNotDone, CheckFailed: CheckFailed} {
		here := judged(Finding{}, self)
		hairpin(&here, Finding{State: outside})
		if here.State != want || (want == CheckFailed) != (here.Code != "") {
			t.Errorf("outside %s: %+v", outside, here)
		}
	}
}

// TestDoctorOnAMinersBox: each slip is the first finding, and what is not known without a chain is not checked.
func TestDoctorOnAMinersBox(t *testing.T) {
	t.Parallel()
	_, slips := slipsOf(t)
	examine := func(change func(*Config)) Diagnosis {
		t.Helper()
		cfg := DefaultConfig()
		cfg.Miner.DataDir, cfg.Miner.Hotkey, cfg.Miner.AxonListen = t.TempDir(), minerHotURI, "0.0.0.0:8080"
		cfg.Chain.URL = "ws://127.0.0.1:1"
		change(&cfg)
		return Examine(t.Context(), DoctorConfig{Role: "miner", Config: cfg}, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	}
	for _, slip := range slips {
		d := examine(func(c *Config) { c.Miner.AxonAdvertise = slip })
		if first := d.Findings[0]; d.OK || len(d.Findings) != 1 || !strings.HasPrefix(first.Code, "ADVERTISE_") || first.Fix == "" {
			t.Errorf("slip %q: %+v", slip, d.Findings)
		}
	}
	d := examine(func(*Config) {})
	for _, check := range []string{"axon from here", "axon from outside"} {
		if f := finding(t, d, check); f.State != CheckNotDone {
			t.Errorf("without a chain: %+v", f)
		}
	}
	if f := finding(t, d, "published address"); f.State != CheckFailed || f.Fix == "" {
		t.Errorf("without a chain: %+v", f)
	}
}

// TestDoctorsFixtures are machines with one thing wrong.
func TestDoctorsFixtures(t *testing.T) {
	dir := t.TempDir()
	full := filepath.Join(dir, "full")
	if err := docker.MountOutput(full, 1<<20); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, docker.UnmountAll(full)) })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	addr := netip.MustParseAddrPort(closed.Addr().String())
	old := docker.Toolkit{Parts: []docker.Part{{Program: "nvidia-ctk", Version: docker.Release{1, 17, 3}}}}
	card := []basilica.GPU{{Kind: basilica.GPUWhole, UUID: "u"}}
	of := func(run func(*doctor)) Finding {
		d := &doctor{deps: Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now}, root: hardware.Real(), dir: dir, toolkit: func(context.Context) docker.Toolkit { return old }}
		run(d)
		return d.out.Findings[len(d.out.Findings)-1]
	}
	provoke.Each(t, map[string]func(*testing.T) error{
		"DISK_FULL": func(*testing.T) error {
			_, err := enoughDisk("the data directory", full, 64<<20, "free space on it")
			return err
		},
		"DISK_SLOW": func(*testing.T) error {
			if _, err := judgeDisk("ssd", hardware.DiskSpeed{BytesPerSecond: 500e6, Sync: time.Millisecond}); err != nil {
				t.Error(err)
			}
			_, err := judgeDisk("hdd", hardware.DiskSpeed{BytesPerSecond: 500e6, Sync: 3 * time.Second})
			return err
		},
		"MEMORY_SMALL": func(*testing.T) error {
			if _, err := judgeMemory(0); basilica.CodeOf(err) != "" || err == nil {
				t.Errorf("memory that nobody tells: %v", err)
			}
			_, err := judgeMemory(512 << 20)
			return err
		},
		"TOOLKIT_ESCAPE": func(t *testing.T) error {
			if f := of(func(d *doctor) { d.toolkitRow(t.Context(), []basilica.GPU{{Kind: basilica.GPUSoftware}}) }); f.State != CheckPassed {
				t.Errorf("software devices need a toolkit: %+v", f)
			}
			return refusalOf(of(func(d *doctor) { d.toolkitRow(t.Context(), card) }))
		},
		"AXON_OTHER_ADDRESS": func(*testing.T) error {
			shown := netip.MustParseAddrPort("203.0.113.77:41234")
			if err := otherAddress("203.0.113.77:41234", shown); err != nil {
				t.Error(err)
			}
			return otherAddress("203.0.113.77:8080", shown)
		},
		"AXON_SELF": func(t *testing.T) error {
			check(t, closed.Close())
			_, err := metOwnAxon(t.Context(), basilica.Axon{Addr: addr})
			return err
		},
		"AXON_OTHER": func(t *testing.T) error {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			check(t, err)
			key, err := keys.GenerateP256()
			check(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- wire.ServeKey(ctx, ln, key.Signer()) }()
			_, err = metOwnAxon(t.Context(), basilica.Axon{Addr: netip.MustParseAddrPort(ln.Addr().String()), TLSKey: make([]byte, 64)})
			cancel()
			check(t, <-served)
			return err
		},
		"AXON_UNREACHED": func(t *testing.T) error {
			for _, known := range []func() (string, error){
				func() (string, error) { return judgeCalls(1, 3, 1, 0, false) },
				func() (string, error) { return judgeCalls(0, 0, 1, 24*time.Hour, false) },
				func() (string, error) { return judgeCalls(0, 3, 0, 24*time.Hour, false) },
				func() (string, error) { return judgeCalls(0, 3, 1, time.Hour, false) },
			} {
				if _, err := known(); basilica.CodeOf(err) != "" {
					t.Error(err)
				}
			}
			_, err := judgeCalls(0, 3, 1, 24*time.Hour, true)
			if !strings.Contains(basilica.FixOf(err), "this machine reaches itself") || !strings.Contains(err.Error(), "not reachable from outside: of 3 validators") {
				t.Errorf("%v, fix %q", err, basilica.FixOf(err))
			}
			return err
		},
		"SOFTWARE_REFUSED": func(t *testing.T) error {
			d := &doctor{cfg: DoctorConfig{Full: true}, deps: Deps{Now: time.Now}}
			soft := basilica.GPU{Kind: basilica.GPUSoftware, Model: "software"}
			for allow, gpus := range map[bool][]basilica.GPU{true: {soft, soft}, false: {card[0], soft}} {
				s, err := d.setup(attestor.Detection{GPUs: gpus})
				if err != nil || s.Policy.AllowSoftware != allow {
					t.Errorf("%v: software devices are taken: %v, %v", gpus, s.Policy.AllowSoftware, err)
				}
			}
			if _, err := d.detected(attestor.Detection{GPUs: []basilica.GPU{soft}}); err != nil {
				t.Error(err)
			}
			_, proof := d.judgement(attest.Judgement{Result: attest.Unknown, Reason: "SOFTWARE_REFUSED"})
			_, err := d.detected(attestor.Detection{GPUs: []basilica.GPU{card[0], soft}})
			if !strings.Contains(basilica.FixOf(err), "executor.software_gpus = 0") || basilica.FixOf(proof) != basilica.FixOf(err) {
				t.Errorf("fix %q, %q", basilica.FixOf(err), basilica.FixOf(proof))
			}
			return err
		},
		"CUDA_MEMORY": func(t *testing.T) error {
			d := &doctor{cfg: DoctorConfig{Full: true}, deps: Deps{Now: time.Now}}
			key, err := keys.GenerateP256()
			check(t, err)
			room := func(free uint64) error {
				p, err := attest.NewProver(attest.Greeting{SPKI: key.SPKI(), Devices: []attest.DeviceInfo{{UUID: attest.UUID{1}, Name: "NVIDIA H200", VRAMBytes: 143771 << 20, FreeBytes: free}}}, nil)
				check(t, err)
				setup, err := d.setup(attestor.Detection{GPUs: card})
				check(t, err)
				v, err := attest.NewVerifier(setup, rand.Reader, nil)
				check(t, err)
				hello, _ := p.Next()
				v.Receive(hello, time.Now())
				return roomFor(v.Offered())
			}
			if err := errors.Join(room(143000<<20), roomFor([]attest.DeviceInfo{{Software: true}})); err != nil {
				t.Error(err)
			}
			return room(139000 << 20) // another process holds 4 GB
		},
		"NO_GPU": func(*testing.T) error {
			_, err := (&doctor{}).detected(attestor.Detection{Notes: []string{"no driver"}})
			return err
		},
	})
	up := time.Duration(0)
	looks := 0
	gate := &toolkitGate{up: func() time.Duration { return up }, find: func(context.Context) docker.Toolkit { looks++; return old }}
	provoke.Refused(t, gate.refused(t.Context()), "TOOLKIT_ESCAPE")
	old = docker.Toolkit{}
	if err := gate.refused(t.Context()); err == nil || looks != 1 {
		t.Errorf("%d looks, %v", looks, err)
	}
	up = toolkitEvery
	if err := gate.refused(t.Context()); err != nil || looks != 2 {
		t.Errorf("%d looks, %v", looks, err)
	}
}

// refusalOf is a failed row as the refusal that it was made of.
func refusalOf(f Finding) error {
	if f.State != CheckFailed {
		return fmt.Errorf("%+v", f)
	}
	return basilica.E(basilica.Unavailable, f.Code, f.Found, f.Fix)
}

// doctorOnJoinedMachine examines a machine that has joined and does not run: all is well, and then one thing after the other is
// not. No secret of its data directory stands in the support file.
func doctorOnJoinedMachine(t *testing.T, cfg ExecutorConfig, deps Deps, fleet *testFleet, token string) {
	t.Helper()
	whole := DefaultConfig()
	whole.Executor, whole.Chain.URL = cfg, "ws://127.0.0.1:1"
	at := DoctorConfig{Role: "executor", Config: whole}
	before := namesIn(t, cfg.DataDir)
	d := Examine(t.Context(), at, deps)
	ok := true
	for _, f := range d.Findings {
		busy := f.Check == "disk speed" && f.Code == "DISK_SLOW" // it is measured, and the tests of other packages write to it
		ok = ok && !busy
		if f.State != CheckPassed && !busy {
			t.Errorf("%+v", f)
		}
	}
	if f := finding(t, d, "GPU proof"); d.OK != ok || !strings.Contains(f.Found, "2 devices, 4.0 MiB proven") {
		t.Errorf("%+v", f)
	}
	if after := namesIn(t, cfg.DataDir); !slices.Equal(before, after) {
		t.Errorf("the look changed the data directory from %v to %v", before, after)
	}
	text, err := Support(at, d, []string{"BASILICA_CHAIN_URL=wss://node.example/an-api-key-that-was-paid-for", "BASILICA_CHAIN_FALLBACKS=wss://user:hunter2@node.example"})
	check(t, err)
	for _, secret := range append(secretsInDir(t, cfg.DataDir), token, "an-api-key", "hunter2") {
		if strings.Contains(string(text), secret) {
			t.Errorf("the support file holds %.20q…", secret)
		}
	}
	var back supportFile
	if err := json.Unmarshal(text, &back); err != nil || len(back.Diagnosis.Findings) != len(d.Findings) || len(back.Files) == 0 || len(back.Settings) < 10 || !strings.Contains(string(text), "wss://node.example/[removed]") {
		t.Errorf("%v: %s", err, text)
	}
	again := func() *doctor {
		d := &doctor{cfg: at, deps: deps, root: hardware.Real()}
		if _, _, err := d.dataDir(cfg.DataDir, "executor"); err != nil {
			t.Fatal(err)
		}
		d.identity(t.Context())
		d.fleet(t.Context(), cfg)
		return d
	}
	fleet.mu.Lock()
	fleet.clock = -95 * time.Second
	fleet.mu.Unlock()
	off := regexp.MustCompile(`s ahead of the miner's \(offset \+(9[5-9]|10[0-9])\b`) // and what the answer took
	if f := finding(t, again().out, "clock"); f.Code != "CLOCK_OFF" || !off.MatchString(f.Found) || !regexp.MustCompile(`clock back by (9[5-9]|10[0-9])\b`).MatchString(f.Fix) {
		t.Errorf("%+v", f)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	check(t, closed.Close())
	fleet.mu.Lock()
	announced := fleet.member.SSHAddr
	fleet.clock, fleet.member.SSHAddr = 0, closed.Addr().String()
	fleet.mu.Unlock()
	out := again().out
	if f := finding(t, out, "SSH door"); f.Code != "EXECUTOR_UNREACHABLE" || !strings.Contains(f.Found, "cannot reach itself there either") || !strings.Contains(f.Fix, "--ssh-advertise") {
		t.Errorf("%+v", f)
	}
	if f := finding(t, out, "gRPC door"); f.State != CheckPassed {
		t.Errorf("%+v", f)
	}
	fleet.mu.Lock()
	fleet.member.SSHAddr = announced
	fleet.mu.Unlock()
	// What the keys are.
	key := filepath.Join(cfg.DataDir, "ssh_host.key")
	keys := func(code string) {
		t.Helper()
		d := &doctor{cfg: at, deps: deps, dir: cfg.DataDir}
		d.identity(t.Context())
		if f := finding(t, d.out, "keys"); f.Code != code {
			t.Errorf("%+v, want %q", f, code)
		}
	}
	check(t, os.Chmod(key, 0o644))
	keys("KEY_MODE")
	check(t, errors.Join(os.Chmod(key, 0o600), os.Rename(key, key+".away")))
	keys("EXECUTOR_KEY_CHANGED")
	check(t, os.Rename(key+".away", key))
	keys("")
	self, err := loadIdentity(cfg.DataDir)
	check(t, err)
	begins, ends := self.Life()
	for code, now := range map[string]time.Time{"CERTIFICATE_EARLY": begins.Add(-time.Hour), "CERTIFICATE_ENDS": ends.Add(-time.Hour), "CERTIFICATE_EXPIRED": ends.Add(time.Hour)} {
		_, err := (&doctor{self: self}).certificate(now)
		provoke.Refused(t, err, code)
	}
}

// busyForDoctor: beside a running executor whose GPUs a validator has, the doctor leaves them alone and says who has them.
func busyForDoctor(t *testing.T, dir, holder string) {
	t.Helper()
	d := &doctor{deps: Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now}, root: hardware.Real(), dir: dir}
	if held, err := d.holders(t.Context()); err != nil || !strings.Contains(held, holder) {
		t.Errorf("held by %q, %v", held, err)
	}
	db, err := store.OpenExecutorBeside(t.Context(), dir)
	check(t, err)
	defer db.Close()
	now, err := d.ledgerNow(t.Context(), db)
	check(t, err)
	ledger, err := db.Ledger(t.Context(), now)
	if err != nil || len(ledger) != 1 {
		t.Fatal(ledger, err)
	}
	_, err = d.hold(t.Context(), []basilica.GPU{{UUID: ledger[0].GPUs[0]}}, time.Minute)
	var held *basilica.Held
	if !errors.As(err, &held) || held.Holding.Holder != holder {
		t.Errorf("the doctor took a GPU that is held: %v", err)
	}
}

// TestDoctorBeforeJoining: what needs a miner is not checked and says so, and the look makes nothing.
func TestDoctorBeforeJoining(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.Executor.DataDir, cfg.Executor.Attestor, cfg.Chain.URL = filepath.Join(t.TempDir(), "box"), filepath.Join(t.TempDir(), "nothing"), "ws://127.0.0.1:1"
	var begun []string
	at := DoctorConfig{Role: "executor", Config: cfg, Began: func(check string) { begun = append(begun, check) }}
	d := Examine(t.Context(), at, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	for _, name := range []string{"keys", "certificate", "miner", "clock", "gRPC door", "SSH door", "GPU proof", "self-test"} {
		if f := finding(t, d, name); f.State != CheckNotDone || f.Found == "" || f.Code != "" {
			t.Errorf("%+v", f)
		}
	}
	if f := finding(t, d, "GPU detection"); f.Code != "ATTESTOR_FAILED" || f.Fix == "" {
		t.Errorf("%+v", f)
	}
	if _, err := os.Stat(cfg.Executor.DataDir); d.OK || len(begun) < len(d.Findings) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ok %v, %d begun, %v", d.OK, len(begun), err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, f := range Examine(ended, at, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now}).Findings {
		if f.State != CheckNotDone {
			t.Errorf("after the end: %+v", f)
		}
	}
	bad := Examine(t.Context(), DoctorConfig{Role: "executor", Unreadable: basilica.E(basilica.Invalid, "CONFIG_SYNTAX", "line 3", "correct it")}, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if len(bad.Findings) != 1 || bad.Findings[0].Code != "CONFIG_SYNTAX" || bad.OK {
		t.Errorf("%+v", bad)
	}
	if text, err := Support(DoctorConfig{Unreadable: errors.New("x")}, bad, nil); err != nil || strings.Contains(string(text), "doctor_test.go") {
		t.Errorf("%v: %s", err, text)
	}
}

func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	check(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if !strings.HasSuffix(path, "-wal") && !strings.HasSuffix(path, "-shm") { // SQLite's own while it is open
			names = append(names, path)
		}
		return err
	}))
	return names
}

// secretsInDir gives every private key of a directory in each of its forms, and every line of the files that hold them.
func secretsInDir(t *testing.T, dir string) (out []string) {
	t.Helper()
	keys := 0
	for _, path := range namesIn(t, dir) {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // a directory
		}
		block, _ := pem.Decode(text)
		if block == nil {
			continue
		}
		keys++
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "-----") {
				out = append(out, strings.TrimSpace(line))
			}
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		check(t, err)
		scalar, err := parsed.(*ecdsa.PrivateKey).Bytes()
		check(t, err)
		out = append(out, hex.EncodeToString(scalar), base64.StdEncoding.EncodeToString(scalar), hex.EncodeToString(block.Bytes))
	}
	if keys < len(secretFiles) {
		t.Fatalf("only %d keys in %s", keys, dir)
	}
	return out
}
