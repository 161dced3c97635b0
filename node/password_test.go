package node

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basilica"
	"basilica/internal/vectors"
	"basilica/keys"
)

// caseLines reads the variables of case A1-2, in order.
func caseLines(t *testing.T) (name string, values []string) {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(string(vectors.Read(t, "cases/A1-2-password.env"))))
	for lines.Scan() {
		if n, value, ok := strings.Cut(lines.Text(), "="); ok && strings.HasPrefix(n, "BT_PW_") {
			name, values = n, append(values, value)
		}
	}
	if len(values) != 6 {
		t.Fatalf("the case has %d lines, want 6", len(values))
	}
	return name, values
}

// TestCaseA1_2PasswordHasTwoReadings shows that a variable is read plain and as the official tools store it, that no more
// than two derivations are needed for it, and that an empty one asks.
func TestCaseA1_2PasswordHasTwoReadings(t *testing.T) {
	const path = "/root/.bittensor/wallets/roving/coldkey"
	name, values := caseLines(t)
	asked := errors.New("asked")
	for i, want := range []string{"test-Passw0rd", "test-Passw0rd", "", "", "", "Passw0rd1234"} {
		p, err := passwordOf(path, func(n string) string {
			if n == name {
				return values[i]
			}
			return ""
		}, func(string) ([]byte, error) { return nil, asked })
		if values[i] == "" {
			if !errors.Is(err, asked) {
				t.Errorf("line %d, empty: nobody was asked (%v)", i+1, err)
			}
			continue
		}
		if err != nil || len(p.readings) > 2 || p.from != name {
			t.Fatalf("line %d: %d readings from %s, %v", i+1, len(p.readings), p.from, err)
		}
		found := false
		for _, r := range p.readings {
			found = found || string(r) == want
		}
		if found != (want != "") && want != "" {
			t.Errorf("line %d: %q is not among its readings", i+1, want)
		}
		if want == "" {
			for _, r := range p.readings {
				if string(r) == "test-Passw0rd" {
					t.Errorf("line %d gives the password", i+1)
				}
			}
		}
	}
}

func TestPasswordFile(t *testing.T) {
	dir := t.TempDir()
	write := func(text string, mode os.FileMode) string {
		path := filepath.Join(dir, "word")
		_ = os.Remove(path)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if got, err := passwordFile(write("secret word\r\nmore", 0o600)); err != nil || string(got) != "secret word" {
		t.Errorf("%q, %v", got, err)
	}
	for what, path := range map[string]string{
		"readable by others": write("word", 0o644),
		"absent":             filepath.Join(dir, "none"),
	} {
		if _, err := passwordFile(path); basilica.CodeOf(err) != "KEY_PASSWORD_FILE" || basilica.FixOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, bad := range []string{"", "\nword", strings.Repeat("a", maxPassword+1)} {
		if _, err := passwordFile(write(bad, 0o600)); basilica.CodeOf(err) != "KEY_PASSWORD_FILE" {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

// TestEncryptedHotkey opens a role's key file as a service does, by a password file, and meets each way in which that fails.
func TestEncryptedHotkey(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "hotkey")
	pair, err := keys.FromURI(keys.Sr25519, "//Alice")
	if err != nil {
		t.Fatal(err)
	}
	word := filepath.Join(dir, "word")
	if err := errors.Join(keys.WriteKeyfile(path, pair, "", keys.DeriveFileKey([]byte("right word")).Seal), os.WriteFile(word, []byte("right word\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BT_WALLET_PASSWORD", "")
	t.Setenv("BT_WALLET_PASSWORD_FILE", word)
	if got, err := LoadKey("miner.hotkey", path); err != nil || got.SS58() != pair.SS58() {
		t.Errorf("right password: %v", err)
	}
	t.Setenv("BT_WALLET_PASSWORD", "wrong word")
	_, err = LoadKey("miner.hotkey", path)
	if basilica.CodeOf(err) != "KEY_PASSWORD_WRONG" || basilica.FixOf(err) == "" || !strings.Contains(err.Error(), "BT_WALLET_PASSWORD") || strings.Contains(err.Error(), "wrong word") {
		t.Errorf("wrong password: %v", err)
	}
	if err := os.Truncate(path, 40); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey("miner.hotkey", path); basilica.CodeOf(err) != "KEY_CUT" {
		t.Errorf("cut file: %v", err)
	}
	old := filepath.Join(dir, "old")
	if err := os.WriteFile(old, []byte("$ANSIBLE_VAULT;1.1;AES256\n00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey("miner.hotkey", old); basilica.CodeOf(err) != "KEY_ENCRYPTION" {
		t.Errorf("old format: %v", err)
	}
}
