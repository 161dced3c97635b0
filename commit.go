package basilica

// CommitKind says how weights that the chain took sealed are opened.
type CommitKind string

// Kinds of commits.
const (
	CommitTimelock CommitKind = "timelock" // by the chain itself, with a round of its beacon
	CommitSalt     CommitKind = "salt"     // by who committed: it sends them again in the open, with the salt
)

// CommitState is what became of a commit.
type CommitState string

// States of a commit.
const (
	CommitWaiting  CommitState = "waiting"     // its epoch has not come, or the chain has not opened it yet
	CommitDue      CommitState = "due"         // it can be revealed now; of kind salt alone
	CommitRevealed CommitState = "revealed"    // its weights took effect
	CommitReplaced CommitState = "replaced"    // a later commit of the same epoch was revealed in its place
	CommitLost     CommitState = "commit_lost" // its weights can take no effect any more
)

// WeightCommit is weights that a chain with commit-reveal holds, or shall hold, sealed.
type WeightCommit struct {
	Kind       CommitKind  `json:"kind"`
	Hash       Hash        `json:"hash"`           // blake2-256 of the ciphertext, or of hotkey, subnet, weights and salt
	Round      uint64      `json:"round"`          // of the beacon, which opens it; 0 where kind is salt
	Salt       []uint16    `json:"salt,omitempty"` // nobody may know it before the reveal
	VersionKey uint64      `json:"version_key"`
	Block      BlockNumber `json:"block"`    // that holds it; 0 before it is known
	Epoch      uint64      `json:"epoch"`    // index of the subnet's epoch that it counts to; 0 before it is known
	Seen       BlockNumber `json:"seen"`     // last block at whose end it was known to wait
	State      CommitState `json:"state"`    // empty before its block is known
	Revealed   BlockNumber `json:"revealed"` // that revealed it
	Reason     *Reason     `json:"reason,omitempty"`
}

// Open says that something may still come of the commit.
func (c WeightCommit) Open() bool { return c.State == CommitWaiting || c.State == CommitDue }

// Public is the commit as everybody may see it.
func (c WeightCommit) Public() *WeightCommit {
	c.Salt = nil
	return &c
}

// HeldCommit is a commit with what it was made of.
type HeldCommit struct {
	Round   RoundID // whose scores the weights follow from
	Weights []Weight
	WeightCommit
}
