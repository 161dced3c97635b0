package basilica

import (
	"context"
	"net/netip"

	"basilica/keys"
)

// Header is one block's place in the chain.
type Header struct {
	Number BlockNumber `json:"number"`
	Hash   Hash        `json:"hash"`
	Parent Hash        `json:"parent"`
}

// Axon is where a neuron listens, as published on chain. Addr is invalid where none was served.
type Axon struct {
	Addr     netip.AddrPort `json:"addr"`
	Version  uint32         `json:"version"`
	Protocol uint8          `json:"protocol"`
	Block    BlockNumber    `json:"block"`             // when it was served
	TLSKey   []byte         `json:"tls_key,omitempty"` // P-256 x then y, 64 bytes; nil where none was published
}

// Neuron is one registered hotkey of a subnet.
type Neuron struct {
	UID             UID         `json:"uid"`
	Hotkey          Hotkey      `json:"hotkey"`
	Coldkey         Coldkey     `json:"coldkey"`
	Axon            Axon        `json:"axon"`
	Stake           Rao         `json:"stake"` // alpha and weighed TAO, as the chain counts it on this subnet
	ValidatorPermit bool        `json:"validator_permit"`
	Active          bool        `json:"active"`
	Incentive       uint16      `json:"incentive"` // share of 65535
	Dividends       uint16      `json:"dividends"` // share of 65535
	LastUpdate      BlockNumber `json:"last_update"`
	RegisteredAt    BlockNumber `json:"registered_at"`
}

// Metagraph is one subnet at one block. Neurons stand in UID order, Neurons[i].UID == i.
type Metagraph struct {
	Genesis          Hash        `json:"genesis"`
	NetUID           NetUID      `json:"netuid"`
	Block            BlockNumber `json:"block"`
	BlockHash        Hash        `json:"block_hash"`
	Tempo            uint16      `json:"tempo"` // blocks between epochs
	Burn             Rao         `json:"burn"`  // price of a registration
	OwnerHotkey      Hotkey      `json:"owner_hotkey"`
	OwnerColdkey     Coldkey     `json:"owner_coldkey"`
	WeightsRateLimit uint64      `json:"weights_rate_limit"` // blocks between two set_weights of one neuron
	WeightsVersion   uint64      `json:"weights_version"`
	CommitReveal     bool        `json:"commit_reveal"`
	Neurons          []Neuron    `json:"neurons"`
}

// ByHotkey finds a neuron; the second value is false where the hotkey is not registered.
func (m *Metagraph) ByHotkey(h Hotkey) (Neuron, bool) {
	for _, n := range m.Neurons {
		if n.Hotkey == h {
			return n, true
		}
	}
	return Neuron{}, false
}

// Weight is one entry of a weight vector; a whole vector sums to 65535.
type Weight struct {
	UID   UID    `json:"uid"`
	Value uint16 `json:"weight"`
}

// Inclusion says where an extrinsic took effect. It is only given for a successful dispatch.
type Inclusion struct {
	Block     BlockNumber `json:"block"`
	BlockHash Hash        `json:"block_hash"`
	Index     int         `json:"index"` // position in the block
	Extrinsic Hash        `json:"hash"`  // blake2-256 of its bytes with length prefix
}

// Signed names a transaction that is signed and not yet sent. It can take effect in the blocks from Born to Death-1 alone.
type Signed struct {
	Extrinsic Hash        `json:"hash"`  // as in Inclusion
	Nonce     uint64      `json:"nonce"` // of the signing account
	Born      BlockNumber `json:"born"`  // finalized head at which it was signed
	Death     BlockNumber `json:"death"` // first block that cannot hold it
	// Commit is what the transaction commits to; nil where it does what it says at once.
	Commit *WeightCommit `json:"commit,omitempty"`
}

// Chain is a Bittensor node as roles need it. Reads are at the finalized head. A submission returns
// once the extrinsic's block has been read and its events say success; a dispatch error is an Error
// whose Code is the chain's own name for it, e.g. SubtensorModule.NeuronNoValidatorPermit. An Error of code TRANSACTION_SENT,
// which is Unavailable, leaves open what became of what was sent.
type Chain interface {
	// Genesis is the hash of block 0; every stored row that speaks of the chain is keyed by it.
	Genesis(ctx context.Context) (Hash, error)
	// Head is the finalized head.
	Head(ctx context.Context) (Header, error)
	// WatchHeads calls f with every finalized head in order, without a gap across reconnects, until ctx
	// ends or f fails; it returns that error. The first call is the head at the time of the call.
	WatchHeads(ctx context.Context, f func(Header) error) error
	// Metagraph reads one subnet.
	Metagraph(ctx context.Context, netuid NetUID) (*Metagraph, error)
	// Weights reads the stored weight row of one neuron at the finalized head.
	Weights(ctx context.Context, netuid NetUID, uid UID) ([]Weight, error)
	// Register registers hotkey at a price of at most maxBurn, signed and paid by coldkey.
	Register(ctx context.Context, netuid NetUID, hotkey Hotkey, coldkey keys.Signer, maxBurn Rao) (UID, Inclusion, error)
	// AddStake stakes amount on hotkey, signed and paid by coldkey.
	AddStake(ctx context.Context, netuid NetUID, hotkey Hotkey, coldkey keys.Signer, amount Rao) (Inclusion, error)
	// ServeAxon publishes an axon: serve_axon_tls where TLSKey is set, serve_axon elsewhere.
	ServeAxon(ctx context.Context, netuid NetUID, hotkey keys.Signer, axon Axon) (Inclusion, error)
	// SetWeights submits one weight vector in the way that the subnet takes: in the open, or as a commit, which the Signed that
	// intend sees then names. intend is called with every signed transaction before it is sent; where it fails nothing is sent
	// and its error is returned. It may be nil.
	SetWeights(ctx context.Context, netuid NetUID, hotkey keys.Signer, weights []Weight, versionKey uint64, intend func(Signed) error) (Inclusion, error)
	// Fate says where a transaction stands that was sent; false while it may still come. A refusal by the chain has the chain's
	// own name, and TRANSACTION_LOST means that it stands nowhere and can come no more.
	Fate(ctx context.Context, s Signed) (Inclusion, bool, error)
	// FollowCommit says what has become of a commit of hotkey whose Block is known: it gives the commit back with Epoch, Seen,
	// State, Revealed and Reason as they are at the finalized head.
	FollowCommit(ctx context.Context, netuid NetUID, hotkey Hotkey, c WeightCommit, weights []Weight) (WeightCommit, error)
	// RevealWeights opens a commit of kind salt that is due.
	RevealWeights(ctx context.Context, netuid NetUID, hotkey keys.Signer, c WeightCommit, weights []Weight) (Inclusion, error)
}
