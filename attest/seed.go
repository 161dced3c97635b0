package attest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Digest is a SHA-256 value: a seed, a nonce, a link of a chain. Its text form is lower-case hex.
type Digest [sha256.Size]byte

// Node is a node of a Merkle tree: the first 24 bytes of a SHA-256 (NIST SP 800-208 "SHA-256/192").
type Node [NodeSize]byte

// Key is a raw 32-byte public key of a hotkey. Its text form is lower-case hex.
type Key [32]byte

// UUID is a GPU's UUID as its driver gives it; all zeros if unknown. Its text form is lower-case hex.
type UUID [16]byte

// MarshalText gives lower-case hex.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText reads exactly 64 hex digits.
func (d *Digest) UnmarshalText(b []byte) error { return unhex(d[:], b) }

// MarshalText gives lower-case hex.
func (k Key) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, k[:]), nil }

// UnmarshalText reads exactly 64 hex digits.
func (k *Key) UnmarshalText(b []byte) error { return unhex(k[:], b) }

// MarshalText gives lower-case hex.
func (u UUID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, u[:]), nil }

// UnmarshalText reads exactly 32 hex digits.
func (u *UUID) UnmarshalText(b []byte) error { return unhex(u[:], b) }

// String gives the 8-4-4-4-12 form without a prefix.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

func unhex(dst, text []byte) error {
	if len(text) != 2*len(dst) {
		return fmt.Errorf("attest: %d hex digits, want %d", len(text), 2*len(dst))
	}
	_, err := hex.Decode(dst, text)
	return err
}

// message builds the input of a hash: tag, then fields in order.
type message []byte

func tagged(tag string) message { return append(make(message, 0, 256), tag...) }

func (m message) u32(v uint32) message { return binary.LittleEndian.AppendUint32(m, v) }
func (m message) raw(b []byte) message { return append(m, b...) }
func (m message) lp(b []byte) message  { return append(m.u32(uint32(len(b))), b...) }
func (m message) sum() Digest          { return sha256.Sum256(m) }
func (d *Digest) word(i int) uint32    { return binary.LittleEndian.Uint32(d[4*i:]) }
func (d *Digest) mod(n uint64) uint64  { return binary.LittleEndian.Uint64(d[:8]) % n }

// Binding says between whom a challenge runs: what bind32 hashes.
type Binding struct {
	SessionID       []byte `json:"session_id"` // SSH session id (the exchange hash)
	HostKey         []byte `json:"host_key"`   // SSH wire encoding of the host key
	MinerHotkey     Key    `json:"miner_hotkey"`
	ValidatorHotkey Key    `json:"validator_hotkey"`
}

// Bind is bind32 of the channel for an attestation key (DER SubjectPublicKeyInfo).
func (b Binding) Bind(spki []byte) Digest {
	return tagged("BSLBIND\x00").lp(b.SessionID).lp(b.HostKey).lp(spki).lp(b.MinerHotkey[:]).lp(b.ValidatorHotkey[:]).sum()
}

// Hash is ph_g: it ties a seed to the sizes.
func (p Params) Hash() Digest {
	m := tagged("BSLPARM\x00").u32(1)
	for _, v := range [...]int{p.N, p.Layers, p.Lanes, p.Steps, p.Batches, p.WinLayers, p.Cells, p.Rounds, LeafSize} {
		m = m.u32(uint32(v))
	}
	return m.sum()
}

// Seed is seed_g, from which everything in the fill of GPU g follows.
func Seed(nonce, bind Digest, g int, uuid UUID, p Params) Digest {
	ph := p.Hash()
	return tagged("BSLSEED\x00").raw(nonce[:]).raw(bind[:]).u32(uint32(g)).raw(uuid[:]).raw(ph[:]).sum()
}

// WalkKey is w_g, drawn after the barrier.
func WalkKey(nonceW Digest, g int, seed Digest) Digest {
	return tagged("BSLWALK\x00").raw(nonceW[:]).u32(uint32(g)).raw(seed[:]).sum()
}

// MixKey is m_g, drawn after the walk.
func MixKey(nonceM Digest, g int, walkKey Digest) Digest {
	return tagged("BSLMIX\x00\x00").raw(nonceM[:]).u32(uint32(g)).raw(walkKey[:]).sum()
}

// schedule gives the operand-A layer and the round key of layer l >= 2. Only the validator's seed decides:
// nothing that the prover commits to can steer it, so there is nothing to grind.
func schedule(seed *Digest, l int) (layer int, roundKey uint32) {
	h := tagged("BSLSCHED").raw(seed[:]).u32(uint32(l)).sum()
	return int(h.mod(uint64(l - 1))), h.word(2)
}

// windows is the number of windows of a pass.
func (p Params) windows() int { return (p.Layers + p.WinLayers - 1) / p.WinLayers }

// window gives the first layer of window number b under a key (w_g for the walk, m_g for the mix). Every pass
// is a permutation of all windows, again from the validator's randomness alone.
func (p Params) window(key *Digest, b int) int {
	nw := p.windows()
	perm := make([]int, nw)
	for i := range perm {
		perm[i] = i
	}
	for i := nw - 1; i > 0; i-- {
		h := tagged("BSLWIN\x00\x00").raw(key[:]).u32(uint32(b / nw)).u32(uint32(i)).sum()
		j := int(h.mod(uint64(i + 1)))
		perm[i], perm[j] = perm[j], perm[i]
	}
	return min(perm[b%nw]*p.WinLayers, p.Layers-p.WinLayers)
}

// Final is final_g: one digest for the whole fill.
func Final(seed Digest, roots []Node) (d Digest) {
	h := sha256.New()
	h.Write([]byte("BSLFILL\x00"))
	h.Write(seed[:])
	for i := range roots {
		h.Write(roots[i][:])
	}
	h.Sum(d[:0])
	return d
}

// chain links the batches of the walk: a batch cannot begin before all lanes of the last one are committed.
func chain(prev Digest, next []byte) Digest { return tagged("BSLCHAIN").raw(prev[:]).raw(next).sum() }

// PingBlock is the block of the fill that a PING asks for.
func PingBlock(r [16]byte, final Digest, p Params) uint64 {
	h := message(nil).raw(r[:]).raw(final[:]).sum()
	return h.mod(p.Blocks())
}

// PongHash answers a PING with its block, and an ECHO with none.
func PongHash(r [16]byte, block []byte) Digest { return message(nil).raw(r[:]).raw(block).sum() }
