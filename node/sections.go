package node

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"

	"github.com/pelletier/go-toml/v2"

	"basilica"
)

// Config is one configuration file: a section per role, and [chain] for all of them.
type Config struct {
	Chain     ChainConfig     `toml:"chain"`
	Client    ClientConfig    `toml:"client"`
	Localnet  LocalnetConfig  `toml:"localnet"`
	Miner     MinerConfig     `toml:"miner"`
	Executor  ExecutorConfig  `toml:"executor"`
	Validator ValidatorConfig `toml:"validator"`
}

// DefaultConfig is what holds where neither file, environment nor flag says otherwise.
func DefaultConfig() Config {
	return Config{
		Chain:     ChainConfig{URL: "ws://127.0.0.1:9944", NetUID: 39},
		Client:    ClientConfig{DataDir: "~/.basilica/client"},
		Localnet:  defaultLocalnet(),
		Miner:     DefaultMinerConfig(),
		Executor:  DefaultExecutorConfig(),
		Validator: DefaultValidatorConfig(),
	}
}

// CheckConfig reads a file as a role would, checks every section that the file has, and names these sections.
func CheckConfig(path string, environ []string) ([]string, error) {
	cfg := DefaultConfig()
	if err := LoadConfig(path, environ, &cfg); err != nil {
		return nil, err
	}
	names, err := Sections(path)
	if err != nil {
		return nil, err
	}
	cfg.Miner.Chain = cfg.Chain // what a miner may publish depends on the chain
	var errs []error
	v := reflect.ValueOf(&cfg).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("toml")
		if !slices.Contains(names, name) {
			continue
		}
		if section, ok := v.Field(i).Addr().Interface().(interface{ Validate() error }); ok {
			errs = append(errs, section.Validate())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, basilica.E(basilica.Invalid, "CONFIG_EMPTY", fmt.Sprintf("%s has no section", path), "write at least [chain] and the section of a role")
	}
	return names, nil
}

// Sections names the sections that a file has, in their order by name, whatever stands in them.
func Sections(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the sections of %s: %w", path, err)
	}
	var present map[string]any
	if err := toml.Unmarshal(text, &present); err != nil {
		return nil, fmt.Errorf("read the sections of %s: %w", path, err)
	}
	return slices.Sorted(maps.Keys(present)), nil
}

// ClientConfig is section [client].
type ClientConfig struct {
	// Hotkey signs the client's requests: the path of a plain key file, or //Name on a development chain.
	Hotkey string `toml:"hotkey"`
	// DataDir remembers own tasks.
	DataDir string `toml:"data_dir"`
	// AllowPlain speaks plain HTTP to miners that published no TLS key: anybody on the way reads and changes what is sent.
	AllowPlain bool `toml:"allow_plain"`
}

// Validate checks what can be checked without a network.
func (c *ClientConfig) Validate() error {
	if c.Hotkey == "" {
		return invalid("client.hotkey", "is not set", "give the path of a key file with --hotkey or in the configuration file")
	}
	if c.DataDir == "" {
		return invalid("client.data_dir", "is empty", "name a directory")
	}
	return nil
}
