package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/node"
)

// commonFlags are those of every verb that reads a configuration.
type commonFlags struct {
	config   string
	logLevel string
	network  string
	netuid   uint16
}

func (f *commonFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.config, "config", "c", os.Getenv("BASILICA_CONFIG"), "configuration file (TOML); default: $BASILICA_CONFIG")
	cmd.Flags().StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
}

func (f *commonFlags) registerChain(cmd *cobra.Command) {
	f.register(cmd)
	cmd.Flags().StringVar(&f.network, "network", "", "network (finney, test, local) or address of a node, ws:// or wss://; default: chain.url")
	cmd.Flags().Uint16Var(&f.netuid, "netuid", 0, "number of the subnet; default: chain.netuid")
}

// load reads file, environment and flags, in this order, and makes the log.
func (f *commonFlags) load(cmd *cobra.Command) (node.Config, node.Deps, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return node.Config{}, node.Deps{}, wrongUsage(cmd, fmt.Errorf("--log-level %.20q is none of debug, info, warn, error", f.logLevel))
	}
	cfg := node.DefaultConfig()
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		cfg.Executor.DockerHost = host
	}
	if err := node.LoadConfig(f.config, os.Environ(), &cfg); err != nil {
		return node.Config{}, node.Deps{}, err
	}
	if cmd.Flags().Changed("network") {
		cfg.Chain.URL = f.network
	}
	if cmd.Flags().Changed("netuid") {
		cfg.Chain.NetUID = basilica.NetUID(f.netuid)
	}
	deps := node.Deps{Log: node.NewLog(os.Stderr, level), Now: time.Now, Ready: func(map[string]string) {}}
	return cfg, deps, nil
}

// clientFlags are those of every verb that speaks to miners as a client.
type clientFlags struct {
	commonFlags
	hotkey string
	data   string
}

func (f *clientFlags) register(cmd *cobra.Command) {
	f.registerChain(cmd)
	cmd.Flags().StringVar(&f.hotkey, "hotkey", "", "your key: a key file, or //Name on a development chain; default: client.hotkey")
	cmd.Flags().StringVar(&f.data, "data", "", "directory that remembers your tasks; default: client.data_dir")
	cmd.Flags().Lookup("log-level").DefValue = "warn"
	f.logLevel = "warn"
}

// open wires the client of one verb. Only asking for offers needs no key.
func (f *clientFlags) open(cmd *cobra.Command) (*node.Client, error) {
	c, cfg, err := f.openAnyone(cmd)
	if err != nil {
		return nil, err
	}
	if err := cfg.Validate(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (f *clientFlags) openAnyone(cmd *cobra.Command) (*node.Client, *node.ClientConfig, error) {
	cfg, deps, err := f.load(cmd)
	if err != nil {
		return nil, nil, err
	}
	f.apply(&cfg.Client)
	deps.Progress = progressOf(cmd.ErrOrStderr())
	c, err := node.NewClient(cfg.Chain, cfg.Client, deps)
	return c, &cfg.Client, err
}

// apply puts the flags over a configuration.
func (f *clientFlags) apply(cfg *node.ClientConfig) {
	if f.hotkey != "" {
		cfg.Hotkey = f.hotkey
	}
	if f.data != "" {
		cfg.DataDir = f.data
	}
}

// oneOf refuses a command line that has more than one of the named flags.
func oneOf(cmd *cobra.Command, names ...string) error {
	given := ""
	for _, name := range names {
		if !cmd.Flags().Changed(name) {
			continue
		}
		if given != "" {
			return wrongUsage(cmd, fmt.Errorf("--%s and --%s exclude each other", given, name))
		}
		given = name
	}
	return nil
}

// parseTAO reads an amount of TAO with at most nine decimals.
func parseTAO(text string) (basilica.Rao, error) {
	whole, part, _ := strings.Cut(text, ".")
	w, err := strconv.ParseUint(whole, 10, 34)
	if err != nil || len(part) > 9 || strings.Trim(part, "0123456789") != "" {
		return 0, fmt.Errorf("%.40q is not an amount of TAO such as 1.5", text)
	}
	p, err := strconv.ParseUint((part + "000000000")[:9], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not an amount of TAO such as 1.5", text)
	}
	return basilica.Rao(w*1e9 + p), nil
}
