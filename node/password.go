package node

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"

	"basilica"
	"basilica/keys"
)

const maxPassword = 1024

// password is what may open an encrypted key file. Two readings are tried where a variable can be read in two ways.
type password struct {
	from     string // the variable, the file or the terminal, for errors
	readings [][]byte
}

// openKeyfile makes what opens the encrypted key file at path.
func openKeyfile(path string) func(sealed []byte) ([]byte, error) {
	return func(sealed []byte) ([]byte, error) {
		p, err := passwordOf(path, os.Getenv, promptOn("/dev/tty"))
		if err != nil {
			return nil, err
		}
		for _, reading := range p.readings {
			plain, err := keys.DeriveFileKey(reading).Open(sealed)
			if err == nil {
				return plain, nil
			}
			if !errors.Is(err, keys.ErrPassword) {
				return nil, basilica.E(basilica.Invalid, "KEY_CUT", fmt.Sprintf("the key file %s is cut short", path), "take a whole copy from your backup; nothing was changed here").With(err)
			}
		}
		return nil, basilica.E(basilica.Denied, "KEY_PASSWORD_WRONG", fmt.Sprintf("wrong password in %s for the key file %s", p.from, path),
			"correct the password; if you are sure of it, the file was damaged: compare it with your backup")
	}
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
	return func(path string) ([]byte, error) { return prompt(terminal, path) }
}

func prompt(terminal, path string) ([]byte, error) {
	missing := basilica.E(basilica.Denied, "KEY_PASSWORD_MISSING", fmt.Sprintf("the key file %s is encrypted and no password was given", path),
		"set BT_WALLET_PASSWORD_FILE to a file of mode 0600 that holds it, or run the command on a terminal")
	tty, err := os.OpenFile(terminal, os.O_RDWR, 0)
	if err != nil {
		return nil, missing
	}
	defer tty.Close()
	if _, err := fmt.Fprintf(tty, "Password of %s: ", path); err != nil {
		return nil, missing.With(err)
	}
	word, err := term.ReadPassword(int(tty.Fd()))
	_, _ = fmt.Fprintln(tty)
	if err != nil || len(word) == 0 {
		return nil, missing.With(err)
	}
	return word, nil
}
