package main

import (
	"bytes"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basilica"
	"basilica/internal/provoke"
	"basilica/internal/pty"
	"basilica/keys"
)

// TestMnemonicOnATerminalOnce: the words of a new key are on the terminal once and nowhere else; a pipe gets none, and no other
// verb shows them.
func TestMnemonicOnATerminalOnce(t *testing.T) {
	dir := t.TempDir()
	args := func(verb, hotkey string) []string { return []string{"wallet", verb, "--path", dir, "--hotkey", hotkey} }
	phrase := func(hotkey string) string {
		k, err := keys.ReadKeyfile(keys.Wallet{Root: dir}.HotkeyPath(hotkey), nil)
		if err != nil {
			t.Fatal(err)
		}
		return k.Mnemonic
	}
	seen := string(pty.Seen(t, func(f *os.File) {
		if code := run(t.Context(), args("new-hotkey", "seen"), strings.NewReader(""), output(f), io.Discard); code != exitOK {
			t.Errorf("exit %d", code)
		}
	}))
	if n := strings.Count(seen, phrase("seen")); n != 1 || len(strings.Fields(phrase("seen"))) != 12 {
		t.Errorf("the mnemonic is %d times in %q", n, seen)
	}
	var out, errs bytes.Buffer
	for _, line := range [][]string{args("new-hotkey", "piped"), args("show", "piped"), {"wallet", "list", "--path", dir}, append(args("sign", "piped"), "x")} {
		if code := run(t.Context(), line, strings.NewReader(""), &out, &errs); code != exitOK {
			t.Errorf("%v: exit %d: %s", line, code, errs.String())
		}
	}
	said := out.String() + errs.String()
	piped, err := keys.ReadKeyfile(keys.Wallet{Root: dir}.HotkeyPath("piped"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{piped.Mnemonic, hex.EncodeToString(piped.Pair.Seed())} {
		if hidden == "" || strings.Contains(said, hidden) {
			t.Errorf("%q stands in %q", hidden, said)
		}
	}
}

// wallet runs one verb of the wallet on what is typed.
func wallet(t *testing.T, typed string, args ...string) error {
	t.Helper()
	cmd := walletCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetIn(strings.NewReader(typed))
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	cmd.SetArgs(args)
	return cmd.ExecuteContext(t.Context())
}

// TestImportOfNothingSecret: a path of a file, or junctions whose phrase was lost in pasting, make no key.
func TestImportOfNothingSecret(t *testing.T) {
	for _, typed := range []string{"/home/op/backup/coldkey.json", "//stash//0", " //Alice", "/soft", "///password", "//Alice///password"} {
		dir := t.TempDir()
		for _, what := range []string{"coldkey", "hotkey"} {
			if err := wallet(t, typed+"\n", "import", what, "--path", dir, "--encrypt=false"); basilica.CodeOf(err) != "WALLET_SECRET" {
				t.Errorf("%s of %q: %v", what, typed, err)
			}
		}
		if made, err := os.ReadDir(dir); err != nil || len(made) > 0 {
			t.Errorf("%q left %v, %v", typed, made, err)
		}
	}
	if err := wallet(t, keys.DevPhrase+"//Alice\n", "import", "hotkey", "--path", t.TempDir()); err != nil {
		t.Errorf("a phrase with a junction: %v", err)
	}
}

func TestWalletRefusals(t *testing.T) {
	provoke.Each(t, map[string]func(*testing.T) error{
		"KEY_EXISTS": func(t *testing.T) error {
			dir := t.TempDir()
			if err := wallet(t, "", "new-hotkey", "--path", dir); err != nil {
				t.Fatal(err)
			}
			return wallet(t, "", "new-hotkey", "--path", dir)
		},
		"KEY_UNWRITTEN": func(t *testing.T) error {
			file := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return wallet(t, "", "new-hotkey", "--path", file)
		},
		"SIGNATURE_INVALID": func(t *testing.T) error {
			return wallet(t, "", "verify", "--signature", strings.Repeat("00", keys.SignatureSize), "--address", "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY", "hello")
		},
		"WALLET_ABSENT": func(t *testing.T) error { return wallet(t, "", "show", "--path", t.TempDir()) },
		"WALLET_SECRET": func(t *testing.T) error {
			return wallet(t, "bottom drive obey\n", "import", "hotkey", "--path", t.TempDir())
		},
	})
}
