package node

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// removed stands in a support file where something was that nobody else may know.
const removed = "[removed]"

// supportFile is what a machine's owner may hand to others.
type supportFile struct {
	Diagnosis Diagnosis        `json:"diagnosis"`
	Machine   about            `json:"machine"`
	Settings  []supportSetting `json:"settings"`
	Files     []supportEntry   `json:"files"` // of the data directory: names and sizes, no content
}

type supportSetting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

type supportEntry struct {
	Path  string `json:"path"` // below the data directory
	Mode  string `json:"mode"`
	Bytes int64  `json:"bytes"`
}

const (
	maxSupportFiles = 1000
	maxSecretFile   = 64 << 10 // bytes of a file that is searched for a key
)

// Support makes the support file of a diagnosis (JSON): findings, facts, settings, and what files there are. Keys, passwords,
// tokens and what a URL holds beside its host are left out; whatever remained of a key of the data directory would be removed
// at the end.
func Support(cfg DoctorConfig, d Diagnosis, environ []string) ([]byte, error) {
	section, dir := "executor", cfg.Config.Executor.DataDir
	if cfg.Role == "miner" {
		section, dir = "miner", cfg.Config.Miner.DataDir
	}
	out := supportFile{Diagnosis: d, Machine: d.about, Settings: []supportSetting{}, Files: []supportEntry{}}
	// A file that cannot be read is the first finding; there are no settings then.
	if settings, err := Settings(cfg.Path, environ, "chain", section); err == nil {
		for _, s := range settings {
			out.Settings = append(out.Settings, supportSetting{s.Key, harmlessSetting(s.Key, s.Value), s.Source})
		}
	}
	var err error
	if cfg.Unreadable == nil {
		if dir, err = DataDir(dir); err != nil {
			return nil, err
		}
		if out.Files, err = supportFiles(dir); err != nil {
			return nil, err
		}
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode support file: %w", err)
	}
	if cfg.Unreadable == nil {
		secrets, err := secretsOf(dir)
		if err != nil {
			return nil, err
		}
		for _, s := range secrets {
			text = bytes.ReplaceAll(text, []byte(s), []byte(removed))
		}
	}
	return append(text, '\n'), nil
}

// harmlessSetting keeps of a value what others may know. A hotkey is a path, or the secret itself where it is a development
// key's URI or a phrase; nodes are often paid for by a key in their URL's path.
func harmlessSetting(key, value string) string {
	name := strings.ToLower(key[strings.LastIndexByte(key, '.')+1:])
	text := strings.Trim(value, `"'`)
	switch {
	case name == "hotkey" && text != "" && (strings.Contains(text, "//") || strings.ContainsAny(text, " \t") || !strings.ContainsAny(text, `/\`)):
		return removed
	case slices.ContainsFunc(secretWords[:], func(w string) bool { return strings.Contains(name, w) }):
		return removed
	case strings.Contains(value, "://"):
		return hostsOnly(value)
	}
	return value
}

// hostsOnly leaves scheme and host of each URL of a value.
func hostsOnly(value string) string {
	words := strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(`"', []`+"\n", r) })
	for i, w := range words {
		u, err := url.Parse(w)
		switch {
		case err != nil:
			words[i] = removed
		case u.Host != "" && (u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != ""):
			words[i] = u.Scheme + "://" + u.Host + "/" + removed
		}
	}
	return strings.Join(words, ", ")
}

// supportFiles lists what is in the data directory.
func supportFiles(dir string) ([]supportEntry, error) {
	out := []supportEntry{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil && path == dir:
			return filepath.SkipAll // there is none, or it may not be read: a finding says so
		case err != nil:
			return nil
		case path == dir:
			return nil
		case len(out) == maxSupportFiles:
			return filepath.SkipAll
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		// What tenants bring and leave is listed by nobody.
		if top, _, _ := strings.Cut(rel, string(filepath.Separator)); e.IsDir() && slices.Contains([]string{"blobs", "logs", "work"}, top) {
			out = append(out, supportEntry{Path: rel, Mode: e.Type().String()})
			return filepath.SkipDir
		}
		info, err := e.Info()
		if err != nil {
			return nil // gone meanwhile
		}
		out = append(out, supportEntry{rel, info.Mode().String(), info.Size()})
		return nil
	})
	return out, err
}

// secretsOf gives what may be written of every private key in the data directory, in each of the forms that it is seen in.
func secretsOf(dir string) (out []string, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil //nolint:nilerr // what cannot be read cannot have been copied either
		}
		info, err := e.Info()
		if err != nil || info.Size() > maxSecretFile {
			return nil //nolint:nilerr // no key file
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // see above
		}
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if !strings.Contains(block.Type, "PRIVATE KEY") {
				continue
			}
			out = append(out, inForms(block.Bytes)...)
			if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if k, ok := key.(interface{ Bytes() ([]byte, error) }); ok {
					if raw, err := k.Bytes(); err == nil {
						out = append(out, inForms(raw)...)
					}
				}
			}
			for line := range strings.Lines(string(pem.EncodeToMemory(block))) {
				if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "-----") {
					out = append(out, line)
				}
			}
		}
		return nil
	})
	return out, err
}

func inForms(secret []byte) []string {
	return []string{
		hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)),
		base64.StdEncoding.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret),
	}
}
