package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"basilica/axon"
	"basilica/keys"
)

// The TLS keys of an axon: the one that is published, and the one before it.
const (
	axonKeyFile   = "axon.key"
	formerKeyFile = "axon.key.old"
)

// loadAxonKeys reads both keys, and makes the first one the first time; former is nil where there is none.
func loadAxonKeys(dir string) (key, former *keys.P256, err error) {
	if key, err = keys.LoadOrCreateP256(filepath.Join(dir, axonKeyFile)); err != nil {
		return nil, nil, err
	}
	former, err = keys.LoadP256(filepath.Join(dir, formerKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return key, nil, nil
	}
	if err == nil && bytes.Equal(former.SPKI(), key.SPKI()) { // a replacement was cut short
		former = nil
	}
	return key, former, err
}

// replaceAxonKey makes a new key and keeps the present one as the former. Whenever that ends, axon.key is the one or the other, whole.
func replaceAxonKey(dir string) (err error) {
	at := filepath.Join(dir, axonKeyFile)
	next, kept := at+".next", at+".kept"
	for _, left := range []string{next, kept} {
		if err := os.Remove(left); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if _, err := keys.CreateP256(next); err != nil {
		return err
	}
	if err := os.Link(at, kept); err != nil {
		return err
	}
	if err := os.Rename(kept, filepath.Join(dir, formerKeyFile)); err != nil {
		return err
	}
	if err := os.Remove(kept); err != nil && !errors.Is(err, fs.ErrNotExist) { // two names of one file are left as they are
		return err
	}
	if err := os.Rename(next, at); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// rekeyAxon gives the running axon a new key beside the present one, and the new one as a chain has it.
func (n *Miner) rekeyAxon() ([]byte, error) {
	if err := replaceAxonKey(n.cfg.DataDir); err != nil {
		return nil, err
	}
	key, former, err := loadAxonKeys(n.cfg.DataDir)
	if err != nil {
		return nil, err
	}
	if err := n.axon.Rotate(key, former); err != nil {
		return nil, fmt.Errorf("show the new key: %w", err)
	}
	return axon.PublicKey(key)
}
