package node

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"basilica"
	"basilica/internal/crashpoint"
	"basilica/subtensor"
)

const maxConfigBytes = 1 << 20

// ChainConfig is section [chain]: which chain and which subnet of it.
type ChainConfig struct {
	// URL of the node's WebSocket JSON-RPC, e.g. ws://127.0.0.1:9944 or wss://…, or the name of a network: finney, test,
	// archive and lite (other public nodes of finney), local. A node of another chain than the named one is refused.
	URL string `toml:"url"`
	// Fallbacks are further nodes of the same chain, named as url is. They are asked in this order while url's does not
	// answer, limits its callers, or finalizes no blocks.
	Fallbacks []string `toml:"fallbacks"`
	// NetUID numbers the subnet.
	NetUID basilica.NetUID `toml:"netuid"`
	// AllowPrivate lets this process dial addresses that strangers named even where they are loopback or private. Only for
	// a chain on this machine or in a closed network: elsewhere it hands the inner network to strangers.
	AllowPrivate bool `toml:"allow_private"`
}

// Validate checks what can be checked without a network.
func (c *ChainConfig) Validate() error {
	if !subtensor.IsEndpoint(c.URL) {
		return invalid("chain.url", fmt.Sprintf("%.80q is neither a ws:// or wss:// address nor a network's name", c.URL), `set it, e.g. url = "ws://127.0.0.1:9944" or url = "finney"`)
	}
	for _, f := range c.Fallbacks {
		if !subtensor.IsEndpoint(f) {
			return invalid("chain.fallbacks", fmt.Sprintf("%.80q is neither a ws:// or wss:// address nor a network's name", f), `set it, e.g. fallbacks = ["wss://node.example:443"], or remove it`)
		}
	}
	return nil
}

// Nodes is the configuration of a chain client for this section. snapshots is the directory in which it keeps the last
// metagraph, ~ and all; "": it keeps none. keys are the references of the keys in use, as LoadKey takes them: with one that
// everybody knows, such as //Alice, the client speaks to no node of finney or test.
func (c *ChainConfig) Nodes(snapshots string, keys ...string) subtensor.Config {
	if dir, err := expandHome(snapshots); err == nil {
		snapshots = dir
	}
	known := slices.ContainsFunc(keys, func(ref string) bool { return strings.HasPrefix(ref, "//") })
	return subtensor.Config{URL: c.URL, Fallbacks: c.Fallbacks, Snapshots: snapshots, Development: known}
}

// ByteSize is a number of bytes; as text a whole number with an optional unit: Ki, Mi, Gi, Ti (powers of 1024) or k, M,
// G, T (powers of 1000).
type ByteSize int64

var byteUnits = []struct {
	suffix string
	bytes  int64
}{
	{"Ti", 1 << 40},
	{"Gi", 1 << 30},
	{"Mi", 1 << 20},
	{"Ki", 1 << 10},
	{"T", 1e12},
	{"G", 1e9},
	{"M", 1e6},
	{"k", 1e3},
}

// ParseByteSize reads "8Gi", "500M" or "1048576".
func ParseByteSize(text string) (ByteSize, error) {
	digits, factor := strings.TrimSpace(text), int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(digits, u.suffix); ok {
			digits, factor = rest, u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/factor {
		return 0, fmt.Errorf(`%.40q is not a size such as "8Gi", "500M" or "1048576"`, text)
	}
	return ByteSize(n * factor), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *ByteSize) UnmarshalText(text []byte) (err error) {
	*b, err = ParseByteSize(string(text))
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (b ByteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// String gives the shortest exact form in powers of 1024.
func (b ByteSize) String() string {
	for _, u := range byteUnits[:4] {
		if b != 0 && int64(b)%u.bytes == 0 {
			return strconv.FormatInt(int64(b)/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// Duration is a span of time; as text Go's form, e.g. "250ms" or "1h30m".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf(`%.40q is not a span of time such as "250ms" or "1h30m"`, text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String gives Go's form.
func (d Duration) String() string { return time.Duration(d).String() }

// LoadConfig fills into, a pointer to a struct of sections with toml tags, from the file at path (none where path is
// empty) and then from the environment: BASILICA_SECTION_KEY sets key of [section]. What into holds before is the
// default. An unknown key is CONFIG_UNKNOWN_KEY and names the nearest known one.
func LoadConfig(path string, environ []string, into any) error {
	if path != "" {
		if err := loadFile(path, into); err != nil {
			return err
		}
	}
	return overlay(environ, into)
}

func loadFile(path string, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return basilica.E(basilica.NotFound, "CONFIG_UNREADABLE", fmt.Sprintf("the configuration file %s cannot be read", path), "give the right path with --config, or make the file readable").With(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if len(text) > maxConfigBytes {
		return basilica.E(basilica.Invalid, "CONFIG_SIZE", fmt.Sprintf("the configuration file %s is larger than %d bytes", path, maxConfigBytes), "give the right path with --config")
	}
	return decode(path, text, into)
}

func decode(path string, text []byte, into any) error {
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(into)
	var missing *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &missing) && len(missing.Errors) > 0:
		first := missing.Errors[0]
		line, _ := first.Position()
		key := strings.Join(first.Key(), ".")
		near := nearest(key, knownKeys(reflect.TypeOf(into), ""))
		return basilica.E(basilica.Invalid, "CONFIG_UNKNOWN_KEY", fmt.Sprintf("%s:%d: key %q is unknown; the nearest known key is %q", path, line, key, near), fmt.Sprintf("write %q, or remove the line", near))
	case errors.As(err, &bad):
		line, _ := bad.Position()
		return basilica.E(basilica.Invalid, "CONFIG_SYNTAX", fmt.Sprintf("%s:%d: %s", path, line, strings.TrimPrefix(bad.Error(), "toml: ")), "correct that line")
	default:
		return basilica.E(basilica.Invalid, "CONFIG_SYNTAX", fmt.Sprintf("%s: %s", path, strings.TrimPrefix(err.Error(), "toml: ")), "correct that value")
	}
}

// field is one settable key: its dotted name and its place in the struct.
type field struct {
	key   string
	index []int
}

func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func fields(t reflect.Type, prefix string, at []int) []field {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		if name == "" || name == "-" || !f.IsExported() {
			continue
		}
		index := append(slices.Clone(at), i)
		if isSection(f.Type) {
			out = append(out, fields(f.Type, prefix+name+".", index)...)
			continue
		}
		out = append(out, field{prefix + name, index})
	}
	return out
}

// knownKeys lists sections and keys by their dotted names.
func knownKeys(t reflect.Type, prefix string) []string {
	var keys []string
	for _, f := range fields(t, prefix, nil) {
		for i, r := range f.key {
			if r == '.' && !slices.Contains(keys, f.key[:i]) {
				keys = append(keys, f.key[:i])
			}
		}
		keys = append(keys, f.key)
	}
	return keys
}

// nearest finds the known key with the least edit distance; the last word counts more than where it stands.
func nearest(key string, known []string) string {
	best, least := "", 1<<30
	section, word := cutLast(key)
	for _, k := range known {
		s, w := cutLast(k)
		if d := 2*basilica.EditDistance(word, w) + basilica.EditDistance(section, s); d < least {
			best, least = k, d
		}
	}
	return best
}

func cutLast(key string) (section, word string) {
	i := strings.LastIndexByte(key, '.')
	return key[:max(i, 0)], key[i+1:]
}

// overlay sets keys from the environment. A name that begins like a section's and is no key of it is refused.
func overlay(environ []string, into any) error {
	v := reflect.ValueOf(into).Elem()
	byName := map[string]field{}
	sections := map[string]bool{}
	for _, f := range fields(v.Type(), "", nil) {
		byName[envKey(f.key)] = f
		section, _, _ := strings.Cut(f.key, ".")
		sections[envKey(section)+"_"] = true
	}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		f, ok := byName[name]
		if !ok {
			for s := range sections {
				if strings.HasPrefix(name, s) {
					names := make([]string, 0, len(byName))
					for n := range byName {
						names = append(names, n)
					}
					slices.Sort(names)
					near := nearest(name, names)
					return basilica.E(basilica.Invalid, "CONFIG_UNKNOWN_KEY", fmt.Sprintf("environment variable %s sets no known key; the nearest known one is %s", name, near), fmt.Sprintf("set %s, or unset %s", near, name))
				}
			}
			continue
		}
		if err := set(v.FieldByIndex(f.index), value); err != nil {
			return basilica.E(basilica.Invalid, "CONFIG_SYNTAX", fmt.Sprintf("environment variable %s: %s", name, err), "correct its value")
		}
	}
	return nil
}

func envKey(key string) string {
	return "BASILICA_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

func set(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%.40q is not true or false", text)
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%.40q is not a whole number in range", text)
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%.40q is not a whole number in range", text)
		}
		v.SetUint(n)
	case reflect.Float64:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("%.40q is not a number", text)
		}
		v.SetFloat(n)
	case reflect.Slice:
		parts := strings.Split(text, ",")
		list := reflect.MakeSlice(v.Type(), len(parts), len(parts))
		for i, p := range parts {
			if err := set(list.Index(i), strings.TrimSpace(p)); err != nil {
				return err
			}
		}
		v.Set(list)
	default:
		return errors.New("this key can be set in the file only")
	}
	return nil
}

// WriteConfig writes v, a struct of sections, as TOML to path with mode 0600, whole or not at all.
func WriteConfig(path string, v any) error {
	text, err := toml.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	return WriteFile(path, text)
}

// WriteFile replaces path by content, mode 0600: a temporary file beside it, synced, then renamed.
func WriteFile(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), f.Close(), os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	defer crashpoint.Around("node.file.rename")()
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return f.Close()
}

// sweepPartial removes what a process that died left beside these files of dir, which may be absent: the temporary copies of
// WriteFile and keys.CreateSecret, .NAME.DIGITS, and those of files whose names go on after a dot. The caller holds the
// directory's lock.
func sweepPartial(dir string, names ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for unfinished files: %w", err)
	}
	var errs []error
	for _, e := range entries {
		rest := strings.TrimRight(e.Name(), "0123456789")
		if e.Type().IsRegular() && rest != e.Name() && strings.HasSuffix(rest, ".") && slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(rest, "."+name+".") }) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// invalid is a wrong value of one key.
func invalid(key, what, fix string) error {
	return basilica.E(basilica.Invalid, "CONFIG_VALUE", key+": "+what, fix)
}
