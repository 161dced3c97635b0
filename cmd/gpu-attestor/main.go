// Command gpu-attestor runs on a GPU machine as a child of the executor: it names the devices, proves them to a
// validator over stdin and stdout (GPOW1), and tests itself. It needs no network. Its log goes to stderr, one JSON
// value or the protocol to stdout.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/attestor"
	"basilica/tpm"
)

// version is set by the linker: -ldflags "-X main.version=…".
var version = "dev"

// system is the directory under which the kernel's /proc and /sys are looked for. Only tests link another one than the root.
var system = "/"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gpu-attestor:", err)
		if fix := basilica.FixOf(err); fix != "" {
			fmt.Fprintln(os.Stderr, "Fix:", fix)
		}
	}
	os.Exit(exitCode(err))
}

// exitCode is 0 for what was done, 2 for a command line that is wrong, 1 for all else, as with basilica; and
// attestor.ExitLeft for a proof that its validator left.
func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case basilica.CodeOf(err) == "USAGE":
		return 2
	case errors.Is(err, attestor.ErrLeft):
		return attestor.ExitLeft
	}
	return 1
}

// wrongUsage is a command line that cannot be understood.
func wrongUsage(cmd *cobra.Command, err error) error {
	return basilica.E(basilica.Invalid, "USAGE", err.Error(), fmt.Sprintf("see `%s --help`", cmd.CommandPath()))
}

// strict has a command and those below it tell of wrong arguments as of wrong flags.
func strict(c *cobra.Command) {
	if c.HasSubCommands() {
		c.Args, c.RunE = cobra.NoArgs, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	check := c.Args
	c.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return wrongUsage(cmd, err)
		}
		return nil
	}
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

// options are the flags that several verbs share.
type options struct {
	key      string
	keyKind  string
	tpm      string
	software int
	parallel int
	json     bool
	verbose  bool
}

func root() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:           "gpu-attestor",
		Short:         "Names and proves the GPUs of this machine",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.PersistentFlags().StringVar(&o.key, "key", os.Getenv(attestor.EnvKey), "file of the attestation key (environment "+attestor.EnvKey+")")
	cmd.PersistentFlags().StringVar(&o.keyKind, "key-kind", cmp.Or(os.Getenv(attestor.EnvKeyKind), string(attestor.KeyFile)), "where a new attestation key is made, file or tpm (environment "+attestor.EnvKeyKind+")")
	cmd.PersistentFlags().StringVar(&o.tpm, "tpm", cmp.Or(os.Getenv(attestor.EnvTPM), tpm.DefaultDevice), "device of the TPM (environment "+attestor.EnvTPM+")")
	cmd.PersistentFlags().IntVar(&o.software, "software-gpus", -1, "number of software devices, 0 to 16 (environment "+attestor.EnvSoftwareGPUs+", else 0)")
	cmd.PersistentFlags().IntVar(&o.parallel, "parallel", 0, "goroutines of a software device; 0: one per processor")
	cmd.PersistentFlags().BoolVar(&o.verbose, "verbose", false, "log every phase")
	cmd.AddCommand(detectCommand(o), proveCommand(o), selftestCommand(o), keygenCommand(o), rotateCommand(o), versionCommand(o))
	cmd.SetFlagErrorFunc(wrongUsage)
	strict(cmd)
	return cmd
}

func (o *options) log() *slog.Logger {
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// softwareGPUs is the flag, else the environment, else none.
func (o *options) softwareGPUs() (int, error) {
	n := o.software
	if text := os.Getenv(attestor.EnvSoftwareGPUs); n < 0 && text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			n = -2
		}
	}
	if n == -1 {
		n = 0
	}
	if n < 0 || n > 16 {
		return 0, basilica.E(basilica.Invalid, "SOFTWARE_GPUS", "the number of software devices is not 0 to 16",
			"give --software-gpus N or "+attestor.EnvSoftwareGPUs+"=N")
	}
	return n, nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func versionCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := attestor.Version{Version: version, Adversary: adversaryBuild}
			if o.json {
				return printJSON(cmd.OutOrStdout(), v)
			}
			suffix := ""
			if v.Adversary {
				suffix = " (adversary build: can cheat, for localnet only)"
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "gpu-attestor %s%s\n", v.Version, suffix)
			return err
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}
