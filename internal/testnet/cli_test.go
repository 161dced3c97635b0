package testnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"basilica/internal/provoke"
	"basilica/internal/vectors"
	"basilica/node"
)

// scripts runs the command-line scripts of a folder with the program on PATH.
func scripts(t *testing.T, dir string, vars map[string]string) {
	t.Helper()
	testscript.Run(t, testscript.Params{
		Dir:  filepath.Join("testdata", dir),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"json": provoke.JSON},
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("PATH", binaries+string(os.PathListSeparator)+env.Getenv("PATH"))
			for k, v := range vars {
				env.Setenv(k, v)
			}
			return nil
		},
	})
}

// TestCommandLine: wrong input gets a sentence, a code and the next step.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() }) // the scripts run after this function has returned
	scripts(t, "script", map[string]string{"CHEAT": program(cheatName), "TAKEN": taken.Addr().String(), "VECTORS": oldKeyfiles(t)})
}

// oldKeyfiles writes key files of older wallets, by //Alice under the password test-Passw0rd, into a directory.
func oldKeyfiles(t *testing.T) string {
	t.Helper()
	var old struct {
		AnsibleVault struct{ File string }
		Fernet       struct{ Token string }
	}
	vectors.JSON(t, "bittensor/keyfile-legacy.json", &old)
	var export struct {
		Vectors []struct {
			Name string
			JSON json.RawMessage
		}
	}
	vectors.JSON(t, "bittensor/keyfile-polkadot-js.json", &export)
	dir := t.TempDir()
	for name, content := range map[string]string{"vault": old.AnsibleVault.File, "fernet": old.Fernet.Token, "export.json": string(export.Vectors[1].JSON)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestCommandLineOnNetwork does the same, and what should work, on a running network.
func TestCommandLineOnNetwork(t *testing.T) {
	needEngine(t)
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	deps := node.Deps{Log: log, Now: time.Now}
	dir := t.TempDir()
	network, err := node.NewNetwork(t.Context(), node.UpConfig{
		DataDir: dir, RPC: "127.0.0.1:0", Attestor: program(attestorName), Executable: program(programName), Launcher: InProcess{Log: log, Now: time.Now},
	}, deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := network.Start(); err != nil {
		t.Fatal(err)
	}
	report, err := network.CloseLoop()
	if err != nil {
		t.Fatal(err)
	}
	scripts(t, "network", map[string]string{
		"CHAIN": "ws://" + report.Addresses["localnet.rpc"], "CLIENT": filepath.Join(dir, "client.toml"), "MINER": filepath.Join(dir, "miner.toml"), "BOX": filepath.Join(dir, "box-2.toml"),
		"IMAGE": network.Image(), "BUSYBOX": network.Program(),
	})
	badSignature(t, "http://"+report.Addresses["localnet.rpc"])
}

// badSignature sends an extrinsic of the right form under a signature that is none.
func badSignature(t *testing.T, rpc string) {
	t.Helper()
	chain := dialRaw(t, rpc)
	head := ""
	chain.call("chain_getBlockHash", &head)
	var body struct {
		Block struct {
			Extrinsics []string `json:"extrinsics"`
		} `json:"block"`
	}
	var header struct {
		Number string `json:"number"`
		Parent string `json:"parentHash"`
	}
	// The last signed extrinsic of the chain is the validator's; one bit of its signature is turned.
	var raw []byte
	for hash := head; ; hash = header.Parent {
		chain.call("chain_getBlock", &body, hash)
		if raw = chain.hex(body.Block.Extrinsics[len(body.Block.Extrinsics)-1]); signed(raw) {
			break
		}
		chain.call("chain_getHeader", &header, hash)
		if header.Number == "0x0" {
			t.Fatal("no signed extrinsic on the chain")
		}
	}
	raw[60] ^= 1 // length prefix, version, address: the signature begins before byte 40
	request, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": "author_submitExtrinsic", "params": []string{"0x" + hexOf(raw)}})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(rpc, "application/json", bytes.NewReader(request))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(answer), "bad signature") || !strings.Contains(string(answer), "1010") {
		t.Errorf("a bad signature is answered by %s", answer)
	}
}

// TestUpKilled: kill -9 of `up` takes every process with it, and the next run on the directory works.
func TestUpKilled(t *testing.T) {
	needEngine(t)
	t.Parallel()
	dir := t.TempDir()
	cmd := basilicaCommand(t.Context(), nil, "up", "--json", "--rpc", "127.0.0.1:0", "--data", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var r upReport
	if err := json.NewDecoder(out).Decode(&r); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var killed *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &killed) {
		t.Fatalf("after SIGKILL: %v", err)
	}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for tries := 0; len(leftovers(t, dir)) > 0; tries++ {
		if tries == 200 {
			t.Fatalf("left behind: %v", leftovers(t, dir))
		}
		<-ticker.C
	}
	again, code := runUp(t, nil, "--once", "--data", dir)
	if code != 0 || again.Task == nil || again.Task.State != "succeeded" {
		t.Errorf("the next run: exit code %d, error %+v", code, again.Error)
	}
	mustEnd(t, dir, again)
}

// TestValidatorWithoutPermit: a validator that the chain gave no permit says so, and sets nothing.
func TestValidatorWithoutPermit(t *testing.T) {
	dir := t.TempDir()
	launch := InProcess{Log: slog.New(slog.DiscardHandler), Now: time.Now}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	chain, err := launch.Start(t.Context(), "localnet", "localnet", write("localnet.toml", "[localnet]\nlisten = '127.0.0.1:0'\nstatus_listen = ''\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer chain.Stop()
	url := "ws://" + chain.Addrs()["rpc"]
	if said, err := basilicaCommand(t.Context(), nil, "subnet", "register", "--network", url, "--netuid", "39", "--coldkey", "//Eve", "--hotkey", "//Eve//v", "--max-burn", "10", "--yes").CombinedOutput(); err != nil {
		t.Fatalf("register: %v: %s", err, said)
	}
	config := write("validator.toml", "[chain]\nurl = '"+url+"'\nnetuid = 39\nallow_private = true\n[validator]\nhotkey = '//Eve//v'\napi_listen = '127.0.0.1:0'\nround_blocks = 4\nslots = 1\ndata_dir = '"+dir+"'\n")
	validator, err := launch.Start(t.Context(), "validator", "validator", config, "")
	if err != nil {
		t.Fatal(err)
	}
	defer validator.Stop()
	defer http.DefaultClient.CloseIdleConnections()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for tries := 0; ; tries++ {
		resp, err := http.Get("http://" + validator.Addrs()["api"] + "/api/v1/status")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(body), "NO_PERMIT") {
			return
		}
		if tries == 100 {
			t.Fatalf("the status never spoke of the permit: %s", body)
		}
		<-ticker.C
	}
}
