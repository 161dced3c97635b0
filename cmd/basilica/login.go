package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"basilica"
	"basilica/client"
	"basilica/node"
)

// loginFlags say where the login of a private registry comes from; never from the command line, which every process of
// the machine may read.
type loginFlags struct {
	server   string
	config   string
	terminal string // on which the password is asked for
}

func (l *loginFlags) register(cmd *cobra.Command) {
	l.terminal = node.Terminal
	cmd.Flags().StringVar(&l.server, "registry-login", "", "host of a private registry whose login is read from the environment, a file or standard input")
	cmd.Flags().StringVar(&l.config, "registry-config", "", "file with the login, in the form of Docker's config.json")
}

// read gives the login, or nil where none is wanted.
func (l *loginFlags) read(cmd *cobra.Command) (*basilica.RegistryLogin, error) {
	if l.server == "" {
		if l.config != "" {
			return nil, wrongUsage(cmd, fmt.Errorf("--registry-config needs --registry-login HOST"))
		}
		return nil, nil
	}
	login, err := l.find(cmd)
	if err == nil {
		err = client.CheckLogin(login)
	}
	if err != nil {
		return nil, err
	}
	return &login, nil
}

func (l *loginFlags) find(cmd *cobra.Command) (basilica.RegistryLogin, error) {
	if l.config != "" {
		return client.ReadRegistryLogin(l.config, l.server)
	}
	login := basilica.RegistryLogin{Server: l.server, Username: os.Getenv("BASILICA_REGISTRY_USER"), Password: os.Getenv("BASILICA_REGISTRY_PASSWORD")}
	if login.Username != "" || login.Password != "" {
		return login, nil
	}
	in := cmd.InOrStdin()
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return loginOf(in, l.server)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "user of %s: ", l.server)
	user, err := typedLine(cmd.Context(), f)
	if err != nil {
		return login, l.untold(err)
	}
	words, err := node.AskHidden(l.terminal, "password: ")
	if err != nil {
		return login, l.untold(err)
	}
	login.Username, login.Password = user, words[0]
	return login, nil
}

func (l *loginFlags) untold(err error) error {
	return basilica.E(basilica.Invalid, "REGISTRY_LOGIN", fmt.Sprintf("no login of %.80q was given", l.server), "run the command again and answer, or give the login by --registry-config").With(err)
}

// typedLine reads what a person types until the line or ctx ends: a read of a terminal has no end of its own.
func typedLine(ctx context.Context, in io.Reader) (string, error) {
	line, failed := make(chan string, 1), make(chan error, 1)
	go func() {
		text, err := bufio.NewReader(io.LimitReader(in, 64<<10)).ReadString('\n')
		if err != nil {
			failed <- err
			return
		}
		line <- strings.TrimSpace(text)
	}()
	select {
	case text := <-line:
		return text, nil
	case err := <-failed:
		return "", err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// loginOf reads two lines: user and password.
func loginOf(in io.Reader, server string) (basilica.RegistryLogin, error) {
	lines := bufio.NewScanner(io.LimitReader(in, 64<<10))
	var text [2]string
	for i := range text {
		if lines.Scan() {
			text[i] = lines.Text()
		}
	}
	if err := lines.Err(); err != nil {
		return basilica.RegistryLogin{}, fmt.Errorf("read login: %w", err)
	}
	return basilica.RegistryLogin{Server: server, Username: text[0], Password: text[1]}, nil
}
