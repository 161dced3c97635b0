package node

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"basilica"
	"basilica/internal/pty"
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
	if err := errors.Join(os.Remove(path), keys.WriteKeyfile(path, pair, "", nil), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey("miner.hotkey", path); basilica.CodeOf(err) != "KEY_MODE" || basilica.FixOf(err) != "chmod 600 "+path {
		t.Errorf("readable by others: %v", err)
	}
}

// TestOldKeyfiles: a role's hotkey may stand in any format that a wallet ever wrote.
func TestOldKeyfiles(t *testing.T) {
	var old struct {
		AnsibleVault struct{ Password, File string }
	}
	vectors.JSON(t, "bittensor/keyfile-legacy.json", &old)
	var export struct {
		Vectors []struct {
			Password string
			JSON     json.RawMessage
		}
	}
	vectors.JSON(t, "bittensor/keyfile-polkadot-js.json", &export)
	for content, want := range map[string]struct{ password, address string }{
		old.AnsibleVault.File:          {old.AnsibleVault.Password, "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"},
		string(export.Vectors[0].JSON): {export.Vectors[0].Password, "5CuByUQBWZci5AtXonuHHhcbRL3yxM5xDdJsTNaYN3vPDY6f"},
	} {
		t.Setenv("BT_WALLET_PASSWORD", want.password)
		if got, err := LoadKey("miner.hotkey", file(t, content)); err != nil || got.SS58() != want.address {
			t.Errorf("%.20q: %v", content, err)
		}
		t.Setenv("BT_WALLET_PASSWORD", want.password+"x")
		if _, err := LoadKey("miner.hotkey", file(t, content)); basilica.CodeOf(err) != "KEY_PASSWORD_WRONG" {
			t.Errorf("%.20q, another password: %v", content, err)
		}
	}
}

// TestPasswordVariableVectors: the variable's name and what it stores are those of the official wallet.
func TestPasswordVariableVectors(t *testing.T) {
	var v struct {
		PasswordVariables []struct{ KeyfilePath, Variable, Password, Value string }
	}
	vectors.JSON(t, "bittensor/keyfile-legacy.json", &v)
	for _, c := range v.PasswordVariables {
		p, err := passwordOf(c.KeyfilePath, func(name string) string {
			if name == c.Variable {
				return c.Value
			}
			return ""
		}, func(string) ([]byte, error) { return nil, errors.New("asked") })
		if err != nil || string(p.readings[0]) != c.Password || p.from != c.Variable {
			t.Errorf("%s: %s, %v", c.KeyfilePath, p.from, err)
		}
	}
	t.Logf("%d password variables", len(v.PasswordVariables))
}

// TestNewPassword: which password a new key file gets from each place, and which are refused.
func TestNewPassword(t *testing.T) {
	const path = "/root/.bittensor/wallets/roving/coldkey"
	name, values := caseLines(t)
	take := func(variable, value string) (string, string, error) {
		var told strings.Builder
		got, err := newPassword(path, &told, func(n string) string {
			if n == variable {
				return value
			}
			return ""
		}, "/nowhere/tty")
		return string(got), told.String(), err
	}
	for _, c := range []struct {
		variable, value, want string
		told                  bool
	}{
		{name, values[0], "test-Passw0rd", false},
		{name, values[1], "test-Passw0rd", true},
		{name, values[5], "Passw0rd1234", false}, // valid base64, but of no text
		{"BT_WALLET_PASSWORD", "a B c", "", false},
		{"BT_WALLET_PASSWORD", "abcd e", "abcd e", false},
		{"BT_WALLET_PASSWORD", "correcthorse", "correcthorse", false},
		{"BT_WALLET_PASSWORD", "pässword", "", false},
		{"BT_WALLET_PASSWORD", "aaaaaaaaaaaaaaaaB", "", false},
		{"BT_WALLET_PASSWORD", "123456", "", false},
		{"BT_WALLET_PASSWORD", strings.Repeat("abcD", 257), "", false},
		{"BT_WALLET_PASSWORD_FILE", file(t, "from a File\n"), "from a File", false},
	} {
		got, told, err := take(c.variable, c.value)
		if got != c.want || (told != "") != c.told || (c.want == "") != (basilica.CodeOf(err) == "KEY_PASSWORD_WEAK") {
			t.Errorf("%s=%.20s: %q, said %q, %v", c.variable, c.value, got, told, err)
		}
		if err != nil && strings.Contains(err.Error(), c.value) {
			t.Errorf("%.20s: the error tells the password", c.value)
		}
	}
	if _, _, err := take("", ""); basilica.CodeOf(err) != "KEY_PASSWORD_MISSING" {
		t.Errorf("nowhere: %v", err)
	}
}

// TestAskHidden: answers are not seen, are asked for twice where they are new, and Ctrl-C leaves the terminal as it was.
func TestAskHidden(t *testing.T) {
	ask := func(typed string, do func(terminal string) error) (seen string, err error) {
		t.Helper()
		person, program := pty.Open(t)
		before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- do(fmt.Sprintf("/dev/pts/%d", number(t, person))) }()
		text, answers := "", strings.SplitAfter(strings.TrimSuffix(typed, "\r"), "\r")
		for buf := make([]byte, 1024); len(answers) > 0; {
			n, err := person.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if text += string(buf[:n]); strings.HasSuffix(text, ": ") { // a question
				end := ""
				if len(answers) == 1 && strings.HasSuffix(typed, "\r") {
					end = "\r"
				}
				if _, err := person.WriteString(answers[0] + end); err != nil {
					t.Fatal(err)
				}
				answers = answers[1:]
			}
		}
		err = <-done
		after, gerr := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
		if gerr != nil || *after != *before {
			t.Errorf("the terminal is not as it was: %v", gerr)
		}
		return text, err
	}
	got := ""
	one := func(terminal string) error {
		word, err := promptOn(terminal)("key")
		got = string(word)
		return err
	}
	two := func(terminal string) error {
		word, err := promptTwice(terminal, "key")
		got = string(word)
		return err
	}
	for _, c := range []struct {
		typed string
		do    func(string) error
		want  string
		code  string
	}{
		{"sEcret\r", one, "sEcret", ""},
		{"sEcrex\x7ft\r", one, "sEcret", ""},
		{"sEcret\x03", one, "", "KEY_PASSWORD_MISSING"},
		{"\r", one, "", "KEY_PASSWORD_MISSING"},
		{"sEcret\rsEcret\r", two, "sEcret", ""},
		{"sEcret\rsEcreT\r", two, "", "KEY_PASSWORD_DIFFERS"},
		{"sEcret\r\x04", two, "", "KEY_PASSWORD_MISSING"},
	} {
		got = ""
		seen, err := ask(c.typed, c.do)
		if got != c.want || basilica.CodeOf(err) != c.code || strings.Contains(seen, "sEcre") {
			t.Errorf("%q: %q, seen %q, %v", c.typed, got, seen, err)
		}
	}
}

// number is that of the terminal of which person is the far end.
func number(t *testing.T, person *os.File) int {
	t.Helper()
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
