package localnet

import (
	"slices"
	"sort"
	"strings"
)

// history is the chain's state at every kept block: for each key its values with the block that wrote them. It is
// not safe for concurrent use; Chain's lock guards it.
type history struct {
	keys    []string // sorted; every key that has a value at some kept block
	values  map[string][]revision
	touched map[uint64][]string // keys that a block wrote
	oldest  uint64              // first block whose state is kept
}

// revision is a value and the block that wrote it; nil means removed.
type revision struct {
	block uint64
	value []byte
}

func newHistory(oldest uint64) *history {
	return &history{values: map[string][]revision{}, touched: map[uint64][]string{}, oldest: oldest}
}

// get reads a key as it was after block.
func (h *history) get(block uint64, key string) ([]byte, bool) {
	revisions := h.values[key]
	i := sort.Search(len(revisions), func(i int) bool { return revisions[i].block > block })
	if i == 0 || revisions[i-1].value == nil {
		return nil, false
	}
	return revisions[i-1].value, true
}

// list gives the keys under prefix that lie strictly after start and have a value after block, at most limit (no
// limit when negative).
func (h *history) list(block uint64, prefix, start string, limit int) []string {
	from := max(prefix, start)
	i, found := slices.BinarySearch(h.keys, from)
	if found && from == start {
		i++
	}
	var out []string
	for ; i < len(h.keys) && strings.HasPrefix(h.keys[i], prefix) && len(out) != limit; i++ {
		if _, ok := h.get(block, h.keys[i]); ok {
			out = append(out, h.keys[i])
		}
	}
	return out
}

// apply writes what a block changed.
func (h *history) apply(block uint64, changes map[string][]byte) {
	fresh := make([]string, 0)
	for key, value := range changes {
		revisions, known := h.values[key]
		if !known {
			if value == nil {
				continue
			}
			fresh = append(fresh, key)
		}
		h.values[key] = append(revisions, revision{block, value})
		h.touched[block] = append(h.touched[block], key)
	}
	if len(fresh) == 0 {
		return
	}
	slices.Sort(fresh)
	merged := make([]string, 0, len(h.keys)+len(fresh))
	for len(h.keys) > 0 && len(fresh) > 0 {
		if h.keys[0] < fresh[0] {
			merged, h.keys = append(merged, h.keys[0]), h.keys[1:]
		} else {
			merged, fresh = append(merged, fresh[0]), fresh[1:]
		}
	}
	h.keys = append(append(merged, h.keys...), fresh...)
}

// revert takes back what the last block wrote.
func (h *history) revert(block uint64) {
	for _, key := range h.touched[block] {
		revisions := h.values[key]
		if last := len(revisions) - 1; last > 0 {
			h.values[key] = revisions[:last:last]
			continue
		}
		delete(h.values, key)
		if at, found := slices.BinarySearch(h.keys, key); found {
			h.keys = slices.Delete(h.keys, at, at+1)
		}
	}
	delete(h.touched, block)
}

// forget drops the states before block.
func (h *history) forget(block uint64) {
	for ; h.oldest < block; h.oldest++ {
		delete(h.touched, h.oldest)
		// What the next block wrote is now the oldest that can be asked for; what it replaced goes.
		for _, key := range h.touched[h.oldest+1] {
			h.trim(key, h.oldest+1)
		}
	}
}

func (h *history) trim(key string, oldest uint64) {
	revisions := h.values[key]
	i := sort.Search(len(revisions), func(i int) bool { return revisions[i].block > oldest })
	if i > 1 {
		clear(revisions[:i-1]) // the array stays until it is full, what it held goes now
		if revisions = revisions[i-1:]; len(revisions) == 1 {
			revisions = slices.Clone(revisions)
		}
	}
	if len(revisions) == 1 && revisions[0].value == nil && revisions[0].block <= oldest {
		delete(h.values, key)
		if at, found := slices.BinarySearch(h.keys, key); found {
			h.keys = slices.Delete(h.keys, at, at+1)
		}
		return
	}
	h.values[key] = revisions
}

// snapshot is every key with its value after block.
func (h *history) snapshot(block uint64) map[string][]byte {
	out := map[string][]byte{}
	for _, key := range h.keys {
		if v, ok := h.get(block, key); ok {
			out[key] = v
		}
	}
	return out
}

// past is the state after one block, as pallets read it.
type past struct {
	h     *history
	block uint64
}

func (p past) get(key string) ([]byte, bool) { return p.h.get(p.block, key) }
func (p past) scan(prefix string) []string   { return p.h.list(p.block, prefix, "", -1) }

// overlay is the state while a block is made: layers of changes over what the parent left. The last layer is the
// open one; a call that fails loses its layer.
type overlay struct {
	base   reader
	layers []map[string][]byte
}

func newOverlay(base reader) *overlay {
	return &overlay{base: base, layers: []map[string][]byte{{}}}
}

func (o *overlay) get(key string) ([]byte, bool) {
	for i := len(o.layers) - 1; i >= 0; i-- {
		if v, ok := o.layers[i][key]; ok {
			return v, v != nil
		}
	}
	return o.base.get(key)
}

func (o *overlay) put(key string, value []byte) { o.layers[len(o.layers)-1][key] = value }

func (o *overlay) scan(prefix string) []string {
	seen := map[string]bool{}
	keys := o.base.scan(prefix)
	for _, k := range keys {
		seen[k] = true
	}
	for _, layer := range o.layers {
		for k := range layer {
			if strings.HasPrefix(k, prefix) && !seen[k] {
				seen[k] = true
				keys = append(keys, k)
			}
		}
	}
	keys = slices.DeleteFunc(keys, func(k string) bool { _, ok := o.get(k); return !ok })
	slices.Sort(keys)
	return keys
}

func (o *overlay) begin() { o.layers = append(o.layers, map[string][]byte{}) }

func (o *overlay) rollback() { o.layers = o.layers[:len(o.layers)-1] }

func (o *overlay) commit() {
	last := o.layers[len(o.layers)-1]
	o.rollback()
	for k, v := range last {
		o.put(k, v)
	}
}

// changes is what the block did, once all layers are closed.
func (o *overlay) changes() map[string][]byte { return o.layers[0] }
