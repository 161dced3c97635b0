package main

import (
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"basilica/node"
)

// unit is what a role's systemd unit is made of.
type unit struct {
	role    string
	data    string // data directory as configured
	mounts  bool   // the role makes mounts that other processes of the host must see, as root
	engine  bool   // it needs the container engine
	stopSec int    // how long an orderly end may take

	flags    []string       // of the command line, beside --config
	withheld []string       // keys of the settings whose flags may hold a secret
	settings []node.Setting // what holds for the role, and where that comes from
}

// withUnit gives a role's verb its --print-unit.
func withUnit(cmd *cobra.Command, about func(node.Config) unit) *cobra.Command {
	var print bool
	cmd.Flags().BoolVar(&print, "print-unit", false, "print a systemd unit that runs this role with this configuration, and end")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !print {
			return run(cmd, args)
		}
		var at commonFlags
		at.config, at.logLevel = cmd.Flag("config").Value.String(), cmd.Flag("log-level").Value.String()
		cfg, _, err := at.load(cmd)
		if err != nil {
			return err
		}
		u := about(cfg)
		sections := []string{u.role}
		for _, name := range []string{"network", "netuid", "log-level"} {
			f := cmd.Flag(name)
			switch {
			case f == nil || !f.Changed:
			case name == "network" && mayBeSecret(f.Value.String()):
				u.withheld = append(u.withheld, "chain.url")
			default:
				u.flags = append(u.flags, "--"+name, f.Value.String())
			}
		}
		if cmd.Flag("network") != nil {
			sections = append(sections, "chain")
		}
		if u.settings, err = node.Settings(at.config, os.Environ(), sections...); err != nil {
			return err
		}
		return printUnit(cmd.OutOrStdout(), u, at.config)
	}
	return cmd
}

func printUnit(w io.Writer, u unit, config string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	command := []string{self, u.role}
	if config != "" {
		if config, err = filepath.Abs(config); err != nil {
			return err
		}
		command = append(command, "--config", config)
	}
	command = append(command, u.flags...)
	if u.data, err = node.DataDir(u.data); err != nil {
		return err
	}
	me, err := user.Current()
	if err != nil {
		return fmt.Errorf("find own user: %w", err)
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# /etc/systemd/system/basilica-%s.service, printed by basilica %s --print-unit.", u.role, u.role)
	line("[Unit]\nDescription=Basilica %s\nWants=network-online.target time-sync.target\nAfter=network-online.target time-sync.target", u.role)
	if u.engine {
		line("# Not Requires: a restart of the engine must not end this role, which waits for it.\nWants=docker.service\nAfter=docker.service")
	}
	line("StartLimitIntervalSec=0\n\n[Service]\nType=exec\nExecStart=%s", strings.ReplaceAll(quoteAll(command), "$", "$$"))
	environment, err := u.environment(config)
	if err != nil {
		return err
	}
	for _, l := range environment {
		line("%s", l)
	}
	line("Restart=always\nRestartPreventExitStatus=%d\nRestartSec=5\nKillMode=mixed\nKillSignal=SIGTERM\nTimeoutStopSec=%d\nUser=%s\nUMask=0077\nLimitNOFILE=65536", exitRevoked, u.stopSec, me.Username)
	rest, state := strings.CutPrefix(u.data, "/var/lib/")
	if state {
		line("StateDirectory=%s\nStateDirectoryMode=0700", strings.ReplaceAll(rest, "%", "%%"))
	}
	line("NoNewPrivileges=yes\nLockPersonality=yes\nRestrictRealtime=yes\nRestrictSUIDSGID=yes\nSystemCallArchitectures=native")
	line("RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK")
	if u.mounts {
		line("# Nothing here that gives the role a view of its own of the file system (Protect…, Private…, ReadWritePaths): the engine must\n# see the size-limited directories that it mounts for tasks.")
		line("CapabilityBoundingSet=CAP_SYS_ADMIN CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_KILL CAP_SYS_PTRACE CAP_NET_BIND_SERVICE CAP_SYS_RESOURCE\nOOMScoreAdjust=-500")
	} else {
		line("CapabilityBoundingSet=\nProtectSystem=strict\nProtectHome=read-only")
		if !state {
			line("# This directory must exist before the first start.\nReadWritePaths=%s", quoteAll([]string{u.data}))
		}
		line("PrivateTmp=yes\nPrivateDevices=yes\nProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectKernelLogs=yes\nProtectControlGroups=yes\nProtectClock=yes\nProtectHostname=yes")
		line("RestrictNamespaces=yes\nMemoryDenyWriteExecute=yes\nSystemCallFilter=@system-service\nSystemCallErrorNumber=EPERM")
	}
	line("\n[Install]\nWantedBy=multi-user.target")
	_, err = io.WriteString(w, b.String())
	return err
}

// pathKeys are the settings that hold a path, by their last words. The unit starts in another directory than this call.
var pathKeys = []string{"data_dir", "hotkey", "attestor", "check_binary", "tpm_device", "profiles", "cc_root"}

// environment hands on what is set by variables here. A unit may be read by everybody: what may hold a key of a chain's
// provider is named alone, with the place in the configuration where it belongs.
func (u unit) environment(config string) (lines []string, err error) {
	comment := func(what, key string) {
		where := fmt.Sprintf("into %q as %s.", config, key)
		if config == "" {
			where = fmt.Sprintf("into a configuration file as %s, and add --config and the path of that file to ExecStart.", key)
		}
		lines = append(lines, "# "+what+" where this was printed, and may hold a secret: write its value "+where)
	}
	for _, key := range u.withheld {
		comment("--network is given", key)
	}
	for _, s := range u.settings {
		name, ok := strings.CutPrefix(s.Source, "$")
		if !ok || slices.Contains(u.withheld, s.Key) { // a variable would hide what is then in the configuration
			continue
		}
		value := os.Getenv(name)
		if mayBeSecret(value) {
			comment(name+" is set", s.Key)
			continue
		}
		if value, err = absolute(s.Key, value); err != nil {
			return nil, err
		}
		lines = append(lines, "Environment="+quoteAll([]string{name + "=" + value}))
	}
	if host, ok := os.LookupEnv("DOCKER_HOST"); ok && u.engine {
		lines = append(lines, "Environment="+quoteAll([]string{"DOCKER_HOST=" + host}))
	}
	return lines, nil
}

// absolute makes the value of a setting that holds a path mean the same wherever the role starts.
func absolute(key, value string) (string, error) {
	key = key[strings.LastIndexByte(key, '.')+1:]
	switch {
	case !slices.Contains(pathKeys, key), filepath.IsAbs(value), value == "", strings.HasPrefix(value, "~/"):
		return value, nil
	case key == "attestor" && !strings.Contains(value, "/"): // looked up in $PATH
		return value, nil
	}
	return filepath.Abs(value)
}

// mayBeSecret tells an address that has more than a host and a port.
func mayBeSecret(value string) bool {
	_, rest, url := strings.Cut(value, "://")
	return url && strings.ContainsAny(rest, "/@?")
}

// quoteAll writes words as systemd reads them back in a list of paths, and with dollars doubled in a command line.
func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = `"` + strings.NewReplacer("%", "%%", `\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(word) + `"`
	}
	return strings.Join(quoted, " ")
}
