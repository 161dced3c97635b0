package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"basilica"
	"basilica/client"
)

// loginFlags say where the login of a private registry comes from; never from the command line, which every process of
// the machine may read.
type loginFlags struct {
	server string
	config string
}

func (l *loginFlags) register(cmd *cobra.Command) {
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
	lines := bufio.NewReader(io.LimitReader(f, 64<<10))
	user, err := lines.ReadString('\n')
	if err != nil {
		return login, fmt.Errorf("read user: %w", err)
	}
	fmt.Fprint(cmd.ErrOrStderr(), "password: ")
	password, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(cmd.ErrOrStderr())
	if err != nil {
		return login, fmt.Errorf("read password: %w", err)
	}
	login.Username, login.Password = strings.TrimSpace(user), string(password)
	return login, nil
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
