package testnet

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"basilica/internal/pty"
)

// TestWalletOnATerminal: what a person types is not seen, a new password is asked for twice, and the next verb asks for it again
// wherever its input comes from.
func TestWalletOnATerminal(t *testing.T) {
	t.Parallel()
	home, binary := t.TempDir(), program(programName)
	const phrase, word = "bottom drive obey lake curtain smoke basket hold race lonely fit walk", "Correct h0rse"
	// typed gives what a person sees who answers each question in turn.
	typed := func(answers []string, args ...string) (string, error) {
		t.Helper()
		person, program := pty.Open(t)
		cmd := exec.CommandContext(t.Context(), binary, args...)
		cmd.Env = []string{"HOME=" + home}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := program.Close(); err != nil {
			t.Fatal(err)
		}
		seen := ""
		for buf := make([]byte, 4096); ; {
			n, err := person.Read(buf)
			seen += string(buf[:n])
			if err != nil { // EIO: the program has ended
				return seen, cmd.Wait()
			}
			if strings.HasSuffix(seen, ": ") && len(answers) > 0 {
				if _, err := person.WriteString(answers[0] + "\r"); err != nil {
					t.Fatal(err)
				}
				answers = answers[1:]
			}
		}
	}
	seen, err := typed([]string{phrase, word, word}, "wallet", "import", "hotkey", "--encrypt")
	if err != nil || !strings.Contains(seen, "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV") || !strings.Contains(seen, "The same again: ") {
		t.Errorf("import: %v: %q", err, seen)
	}
	path := filepath.Join(home, ".bittensor", "wallets", "default", "hotkeys", "default")
	if data, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(data), "$NACL") {
		t.Errorf("the key file: %.20q, %v", data, err)
	}
	again, err := typed([]string{word}, "wallet", "sign", "hello")
	if err != nil || !strings.Contains(again, "Password of "+path+": ") || !strings.Contains(again, "\n0x") {
		t.Errorf("sign: %v: %q", err, again)
	}
	for _, secret := range []string{"obey", word} {
		if strings.Contains(seen+again, secret) {
			t.Errorf("%q is seen in %q", secret, seen+again)
		}
	}
	// Ctrl-C at the question ends the verb, and nothing is written.
	if seen, err := typed([]string{"\x03"}, "wallet", "import", "hotkey", "--hotkey", "other"); err == nil || !strings.Contains(seen, "WALLET_SECRET") {
		t.Errorf("Ctrl-C: %v: %q", err, seen)
	}
	if _, err := os.Lstat(filepath.Join(filepath.Dir(path), "other")); !os.IsNotExist(err) {
		t.Errorf("a key was written: %v", err)
	}
}
