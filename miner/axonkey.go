package miner

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"

	"basilica"
)

// serves is the axon as the chain is to show it.
type serves struct {
	change sync.Mutex // held while the key is replaced

	mu   sync.Mutex // guards axon
	axon basilica.Axon
}

func (s *serves) now() basilica.Axon {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.axon
}

// AxonKey says which TLS key the axon has, and whether the chain shows it.
func (m *Miner) AxonKey(ctx context.Context) (basilica.AxonKeyView, error) {
	if err := m.Health(ctx); err != nil {
		return basilica.AxonKeyView{}, err
	}
	v := basilica.AxonKeyView{Key: hex.EncodeToString(m.serves.now().TLSKey)}
	if snapshot, _ := m.subnet.read(); snapshot != nil {
		n, ok := snapshot.ByHotkey(m.self)
		v.Published = ok && m.published(n.Axon)
	}
	return v, nil
}

// RekeyAxon gives the axon a new TLS key, unless the present one is not on the chain yet, and says where that stands. The former
// key stays in use beside it until the next replacement: who read the chain before the new one was there finds what it expects.
func (m *Miner) RekeyAxon(ctx context.Context) (basilica.AxonKeyView, error) {
	m.serves.change.Lock()
	defer m.serves.change.Unlock()
	v, err := m.AxonKey(ctx)
	if err != nil || !v.Published {
		return v, err
	}
	key, err := m.Parts.RekeyAxon()
	if err != nil {
		return v, fmt.Errorf("replace the axon's TLS key: %w", err)
	}
	m.serves.mu.Lock()
	m.serves.axon.TLSKey = key
	m.serves.mu.Unlock()
	m.Log.InfoContext(ctx, "the axon has a new TLS key, which is about to be published", "key", hex.EncodeToString(key))
	return m.AxonKey(ctx)
}

// PublishedKey is the axon's TLS key as the chain showed it last; nil where it showed none.
func (m *Miner) PublishedKey() []byte {
	snapshot, _ := m.subnet.read()
	if snapshot == nil {
		return nil
	}
	n, _ := snapshot.ByHotkey(m.self)
	return slices.Clone(n.Axon.TLSKey)
}
