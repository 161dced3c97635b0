package node

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"basilica"
	"basilica/keys"
)

const maxPassword = 1024

// Terminal is where a person is asked, wherever the process's input comes from.
const Terminal = "/dev/tty"

// password is what may open an encrypted key file. Two readings are tried where a variable can be read in two ways.
type password struct {
	from     string // the variable, the file or the terminal, for errors
	readings [][]byte
}

// openKeyfile makes what opens the encrypted key file at path.
func openKeyfile(path string) func(sealed []byte) (keys.Keyfile, error) {
	return func(sealed []byte) (keys.Keyfile, error) {
		if keys.EncryptionOf(sealed) == keys.NaCl {
			if err := enoughMemory(cgroups, path); err != nil {
				return keys.Keyfile{}, err
			}
		}
		p, err := passwordOf(path, os.Getenv, promptOn(Terminal))
		if err != nil {
			return keys.Keyfile{}, err
		}
		for _, reading := range p.readings {
			k, err := keys.OpenKeyfile(sealed, reading)
			if !errors.Is(err, keys.ErrPassword) {
				return k, err
			}
		}
		return keys.Keyfile{}, basilica.E(basilica.Denied, "KEY_PASSWORD_WRONG", fmt.Sprintf("wrong password in %s for the key file %s", p.from, path),
			"correct the password; if you are sure of it, the file was damaged: compare it with your backup")
	}
}

// NewPassword gives the password under which the new key file at path is to be encrypted, from where an old one's would come;
// the terminal is asked twice. Weak ones are refused. A variable that may be in the official tools' form is taken to be where
// that gives printable text, and tell says so.
func NewPassword(path string, tell io.Writer) ([]byte, error) {
	if err := enoughMemory(cgroups, path); err != nil {
		return nil, err
	}
	return newPassword(path, tell, os.Getenv, Terminal)
}

const (
	cgroups      = "/sys/fs/cgroup"
	beside       = 64 << 20 // what a process has beside the derivation
	memoryNeeded = keys.NaClMemory + beside
)

// enoughMemory refuses a derivation for which the kernel would kill this process, in a container whose limit is too low. It
// reads both versions of cgroups; without a limit there is enough.
func enoughMemory(root, path string) error {
	for _, name := range []string{"memory.max", "memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			continue // no limit, or the other version
		}
		limit, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && limit < memoryNeeded {
			return basilica.E(basilica.Exhausted, "KEY_MEMORY", fmt.Sprintf("the encrypted key file %s takes %d MiB of memory, and this container may use %d", path, keys.NaClMemory>>20, limit>>20),
				fmt.Sprintf("let the container use %d MiB, or take a hotkey file in clear with mode 0600", memoryNeeded>>20))
		}
	}
	return nil
}

func newPassword(path string, tell io.Writer, getenv func(string) string, terminal string) ([]byte, error) {
	p, err := passwordOf(path, getenv, func(path string) ([]byte, error) { return promptTwice(terminal, path) })
	if err != nil {
		return nil, err
	}
	word := p.readings[len(p.readings)-1]
	if stored := p.readings[0]; len(p.readings) > 1 && printable(stored) {
		word = stored
		if _, err := fmt.Fprintf(tell, "%s holds the password in the form in which the official tools store it\n", p.from); err != nil {
			return nil, fmt.Errorf("say how the password is read: %w", err)
		}
	}
	if why := weakness(string(word)); why != "" {
		return nil, basilica.E(basilica.Invalid, "KEY_PASSWORD_WEAK", "the new password "+why,
			"take at least 6 characters of two kinds (small letters, capitals, digits, others), or 12 of one kind, 4 of them different")
	}
	return word, nil
}

func printable(word []byte) bool {
	return utf8.Valid(word) && !strings.ContainsFunc(string(word), func(r rune) bool { return !unicode.IsPrint(r) })
}

// weakness says why a password is not taken for a new key file; empty means that it is.
func weakness(word string) string {
	different, kinds := map[rune]bool{}, map[string]bool{}
	for _, r := range word {
		different[r] = true
		switch {
		case unicode.IsLower(r):
			kinds["small"] = true
		case unicode.IsUpper(r):
			kinds["capital"] = true
		case unicode.IsDigit(r):
			kinds["digit"] = true
		default:
			kinds["other"] = true
		}
	}
	switch n := utf8.RuneCountInString(word); {
	case n < 6:
		return fmt.Sprintf("has %d characters, fewer than 6", n)
	case len(word) > maxPassword:
		return fmt.Sprintf("is longer than %d bytes", maxPassword)
	case len(different) < 4:
		return fmt.Sprintf("has only %d different characters", len(different))
	case len(kinds) < 2 && n < 12:
		return fmt.Sprintf("has %d characters of one kind", n)
	}
	return ""
}

// passwordOf looks where the official wallet looks: BT_PW_ and the file's path, plain or as the official tools store it;
// BT_WALLET_PASSWORD; the file that BT_WALLET_PASSWORD_FILE names; then the terminal. An empty variable is none.
func passwordOf(path string, getenv func(string) string, prompt func(path string) ([]byte, error)) (password, error) {
	whole, err := filepath.Abs(path)
	if err != nil {
		return password{}, fmt.Errorf("find %s: %w", path, err)
	}
	name := "BT_PW_" + strings.ToUpper(strings.NewReplacer("/", "_", ".", "_").Replace(whole))
	if value := getenv(name); value != "" {
		p := password{from: name}
		// The official tools store base64 of the password, XORed with the variable's own name. A plain password may be
		// valid base64 too, so both readings count.
		if raw, err := base64.StdEncoding.DecodeString(value); err == nil && len(raw) > 0 {
			for i := range raw {
				raw[i] ^= name[i%len(name)]
			}
			p.readings = append(p.readings, raw)
		}
		p.readings = append(p.readings, []byte(value))
		return p, nil
	}
	if value := getenv("BT_WALLET_PASSWORD"); value != "" {
		return password{"BT_WALLET_PASSWORD", [][]byte{[]byte(value)}}, nil
	}
	if file := getenv("BT_WALLET_PASSWORD_FILE"); file != "" {
		word, err := passwordFile(file)
		return password{file, [][]byte{word}}, err
	}
	word, err := prompt(path)
	return password{"what was typed", [][]byte{word}}, err
}

// passwordFile reads the first line of a file that its owner alone may read.
func passwordFile(path string) ([]byte, error) {
	const fix = "write the password into a file of mode 0600 and name it in BT_WALLET_PASSWORD_FILE"
	f, err := os.Open(path)
	if err != nil {
		return nil, basilica.E(basilica.Invalid, "KEY_PASSWORD_FILE", fmt.Sprintf("the password file %s cannot be read", path), fix).With(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && st.Mode().Perm()&0o077 != 0 {
		return nil, basilica.E(basilica.Denied, "KEY_PASSWORD_FILE", fmt.Sprintf("the password file %s has mode %04o: others may read it", path, st.Mode().Perm()), "chmod 600 "+path)
	}
	raw, rerr := io.ReadAll(io.LimitReader(f, maxPassword+1))
	line, _, _ := strings.Cut(string(raw), "\n")
	line = strings.TrimSuffix(line, "\r")
	if err = errors.Join(err, rerr); err != nil || line == "" || len(raw) > maxPassword {
		return nil, basilica.E(basilica.Invalid, "KEY_PASSWORD_FILE", fmt.Sprintf("the password file %s holds no line of at most %d bytes", path, maxPassword), fix).With(err)
	}
	return []byte(line), nil
}

// promptOn asks on a terminal, without an echo.
func promptOn(terminal string) func(path string) ([]byte, error) {
	return func(path string) ([]byte, error) {
		words, err := AskHidden(terminal, fmt.Sprintf("Password of %s: ", path))
		if err != nil || words[0] == "" {
			return nil, basilica.E(basilica.Denied, "KEY_PASSWORD_MISSING", fmt.Sprintf("the key file %s is encrypted and no password was given", path),
				"set BT_WALLET_PASSWORD_FILE to a file of mode 0600 that holds it, or run the command on a terminal").With(err)
		}
		return []byte(words[0]), nil
	}
}

// promptTwice asks for a new password.
func promptTwice(terminal, path string) ([]byte, error) {
	words, err := AskHidden(terminal, fmt.Sprintf("New password of %s: ", path), "The same again: ")
	if err != nil || words[0] == "" {
		return nil, basilica.E(basilica.Denied, "KEY_PASSWORD_MISSING", fmt.Sprintf("no password was given for the new key file %s", path),
			"set BT_WALLET_PASSWORD_FILE to a file of mode 0600 that holds it, or run the command on a terminal").With(err)
	}
	if words[0] != words[1] {
		return nil, basilica.E(basilica.Invalid, "KEY_PASSWORD_DIFFERS", "the two passwords that were typed differ", "run the command again and type the same password twice; nothing was written")
	}
	return []byte(words[0]), nil
}

// AskHidden asks questions on a terminal and gives the answers, which are not echoed. Ctrl-C, Ctrl-D and a process without a
// terminal are errors; the terminal is left as it was.
func AskHidden(terminal string, questions ...string) (answers []string, err error) {
	tty, err := os.OpenFile(terminal, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer tty.Close()
	// Raw, so that Ctrl-C is read here and cannot leave a terminal without its echo.
	before, err := term.MakeRaw(int(tty.Fd()))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, term.Restore(int(tty.Fd()), before)) }()
	lines := term.NewTerminal(tty, "")
	for _, q := range questions {
		if _, err := io.WriteString(tty, q); err != nil {
			return nil, err
		}
		answer, err := lines.ReadPassword("")
		if err != nil {
			return nil, errors.Join(err, endLine(tty))
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

func endLine(tty io.Writer) error {
	_, err := io.WriteString(tty, "\r\n")
	return err
}
