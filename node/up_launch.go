package node

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"basilica/attestor"
)

// processLauncher runs every part as a process of this very program.
type processLauncher struct {
	processes  *processes
	executable string
	env        []string
}

func newProcessLauncher(executable, cheat string) *processLauncher {
	l := &processLauncher{processes: newProcesses(), executable: executable}
	for _, entry := range os.Environ() {
		// What is set for this process in BASILICA_… is not meant for its children, whose files say everything.
		if !strings.HasPrefix(entry, "BASILICA_") {
			l.env = append(l.env, entry)
		}
	}
	if cheat != "" {
		l.env = append(l.env, attestor.EnvCheat+"="+cheat)
	}
	return l
}

// Start implements Launcher.
func (l *processLauncher) Start(ctx context.Context, role, _, config, log string) (Part, error) {
	c, err := l.processes.start(ctx, role, l.executable, []string{role, "--config", config}, l.env, log)
	if c == nil {
		return nil, err
	}
	return c, err
}

const joinTimeout = 30 * time.Second

// Join implements Launcher. The token goes by standard input: arguments can be read by everybody on the machine.
func (l *processLauncher) Join(ctx context.Context, name, config, token string) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, l.executable, "join", "--config", config, "--write", config, "--name", name, "-")
	cmd.Env = l.env
	cmd.Stdin = strings.NewReader(token + "\n")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

// Close implements Launcher.
func (l *processLauncher) Close() error {
	l.processes.close()
	return nil
}
