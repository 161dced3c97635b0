// Command basilica is every role of the network and its client. It knows flags, files, signals and exit codes, and leaves
// wiring to node.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/subtensor"
)

// Exit codes. Those of `basilica run` and `basilica attach` stand in their help.
const (
	exitOK      = 0
	exitFailure = 1 // the sentence on stderr says what
	exitUsage   = 2 // unknown verb, flag or argument
	exitRevoked = 3 // this machine was revoked: to start it again changes nothing

	exitInterrupted = 130 // by a signal, as a shell says it
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for an orderly end; after it the default holds again, so that a second one ends at once.
	context.AfterFunc(ctx, stop)
	stdout, stderr := output(os.Stdout), output(os.Stderr)
	code := run(ctx, os.Args[1:], os.Stdin, stdout, stderr)
	for _, w := range []io.Writer{stdout, stderr} {
		if s, ok := w.(*screen); ok {
			_ = s.flush() // the terminal may be gone
		}
	}
	stop()
	os.Exit(code)
}

// exit is an error that carries an exit code; its cause may be nil where all has been said.
type exit struct {
	code int
	err  error
}

func (e exit) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e exit) Unwrap() error { return e.err }

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	verb, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code := exitFailure
	var e exit
	if errors.As(err, &e) {
		code, err = e.code, e.err
	}
	if code == exitFailure && ctx.Err() != nil {
		switch {
		case basilica.CodeOf(err) == subtensor.CodeSent:
			code = exitInterrupted // and who ended it must know what is on its way
		case errors.Is(err, context.Canceled) && basilica.CodeOf(err) == "":
			return exitInterrupted // who ends a verb that has changed nothing knows why it ended
		}
	}
	if err != nil {
		report(err, asJSON(verb) && verb.Annotations[shownAnnotation] == "", stdout, stderr)
	}
	return code
}

// report prints what went wrong: sentence, code, next step; with --json also as an object where the result would stand.
func report(err error, jsonToo bool, stdout, stderr io.Writer) {
	fmt.Fprintf(stderr, "basilica: %s\n", severalLines(err.Error()))
	if fix := basilica.FixOf(err); fix != "" {
		fmt.Fprintf(stderr, "Fix: %s\n", basilica.OneLine(fix))
	}
	if _, known := basilica.Explain(basilica.CodeOf(err)); known {
		fmt.Fprintf(stderr, "More: basilica explain %s\n", basilica.CodeOf(err))
	}
	if !jsonToo {
		return
	}
	type failure struct {
		Code     string `json:"code"`
		Kind     string `json:"kind"`
		Sentence string `json:"sentence"`
		Fix      string `json:"fix,omitempty"`
	}
	f := failure{Code: basilica.CodeOf(err), Kind: basilica.KindOf(err).String(), Sentence: err.Error(), Fix: basilica.FixOf(err)}
	// stdout may be gone; the sentence on stderr has been said.
	_ = json.NewEncoder(stdout).Encode(map[string]failure{"error": f})
}

// newRoot makes the map of verbs. Without a verb it is printed.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "basilica",
		Short: "A marketplace for GPU compute without a trusted middleman",
		Long: strings.TrimSpace(`
Basilica: GPU owners offer machines, validators prove that the machines are what
they claim and set weights on the Bittensor network, clients run containers on them.

Exit codes: 0 done; 1 failed, stderr has the sentence, a code and the next step;
2 the command line was wrong; 3 this machine was revoked, and starting it again
changes nothing. ` + "`basilica run`" + ` and ` + "`basilica attach`" + ` end with the job's
own code, or one of the table in ` + "`basilica run --help`" + `.

Every key of a configuration file can be set by an environment variable:
BASILICA_SECTION_KEY. Flags come last.`),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return wrongUsage(cmd, err) })
	root.AddGroup(
		&cobra.Group{ID: "all", Title: "All at once:"},
		&cobra.Group{ID: "client", Title: "Run work:"},
		&cobra.Group{ID: "role", Title: "Roles:"},
		&cobra.Group{ID: "fleet", Title: "A miner's machines:"},
		&cobra.Group{ID: "keys", Title: "Keys:"},
		&cobra.Group{ID: "check", Title: "Check and inspect:"},
	)
	root.AddCommand(inGroup("all", upCommand())...)
	root.AddCommand(inGroup("client", runCommand(), attachCommand(), psCommand(), logsCommand(), cancelCommand(), lsCommand(), imageCommand())...)
	root.AddCommand(inGroup("role", validatorCommand(), minerCommand(), executorCommand(), localnetCommand(), subnetCommand())...)
	root.AddCommand(inGroup("fleet", tokenCommand(), joinCommand(), fleetCommand())...)
	root.AddCommand(inGroup("keys", walletCommand())...)
	root.AddCommand(inGroup("check", doctorCommand(), explainCommand(), configCommand(), receiptCommand(), verifyCommand(), versionCommand())...)
	root.AddCommand(taskCheckCommand())
	root.SetHelpCommandGroupID("check")
	root.SetCompletionCommandGroupID("check")
	onlyVerbs(root)
	return root
}

// onlyVerbs has every command that only holds others print its help, and refuse what is none of them: a misspelt
// `fleet revoke` must not end as if it had been done.
func onlyVerbs(c *cobra.Command) {
	if c.HasSubCommands() && !c.Runnable() {
		c.Args = arguments(cobra.NoArgs)
		c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	for _, sub := range c.Commands() {
		onlyVerbs(sub)
	}
}

func inGroup(id string, commands ...*cobra.Command) []*cobra.Command {
	for _, c := range commands {
		c.GroupID = id
	}
	return commands
}

// wrongUsage is a command line that cannot be understood.
func wrongUsage(cmd *cobra.Command, err error) error {
	return exit{exitUsage, basilica.E(basilica.Invalid, "USAGE", err.Error(), fmt.Sprintf("see `%s --help`", cmd.CommandPath()))}
}

// arguments wraps cobra's checks of positional arguments so that a wrong number is a usage error.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return wrongUsage(cmd, err)
		}
		return nil
	}
}

// requireFlags refuses a command line that lacks one of the named flags.
func requireFlags(cmd *cobra.Command, names ...string) error {
	for _, name := range names {
		if !cmd.Flags().Changed(name) {
			return wrongUsage(cmd, fmt.Errorf("--%s is needed", name))
		}
	}
	return nil
}

const jsonFlag = "json"

// withJSON gives a verb its --json.
func withJSON(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().Bool(jsonFlag, false, "print JSON for a program to read")
	return cmd
}

func asJSON(cmd *cobra.Command) bool {
	if cmd == nil {
		return false
	}
	f := cmd.Flags().Lookup(jsonFlag)
	return f != nil && f.Value.String() == "true"
}

// show prints v as JSON where the verb was asked for it, and otherwise lets text do it.
func show(cmd *cobra.Command, v any, text func(io.Writer) error) error {
	if !asJSON(cmd) {
		return text(cmd.OutOrStdout())
	}
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[shownAnnotation] = "true"
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// shownAnnotation marks a verb that has printed its JSON: what fails after that is told on stderr alone, for a program reads
// one value.
const shownAnnotation = "basilica.shown"
