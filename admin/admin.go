// Package admin is a miner's administration door: HTTP over a Unix socket in its data directory, both ends. Who may use it
// is decided by the file's mode; it knows no role.
package admin

import (
	"context"
	"path/filepath"
	"time"

	"basilica"
)

// Fleet is what a miner's owner asks of it. Both ends implement it: the role behind the server, and Client.
type Fleet interface {
	// CreateToken makes a join token for the executor id name, or any where it is empty. ttl 0 is one hour. The text is
	// shown this once.
	CreateToken(ctx context.Context, name basilica.ExecutorID, ttl time.Duration) (text string, t basilica.TokenRecord, err error)
	// Tokens lists the latest join tokens, newest first.
	Tokens(ctx context.Context) ([]basilica.TokenRecord, error)
	// RevokeToken ends an unused join token by its id.
	RevokeToken(ctx context.Context, id string) error
	// Members lists a part of the fleet by id, at most limit (0: 1000) from the cursor of the part before on; grants are left
	// out.
	Members(ctx context.Context, cursor string, limit int) (basilica.MemberPage, error)
	// Member shows one executor with its tasks, and with what validators opened on it, newest first.
	Member(ctx context.Context, id basilica.ExecutorID) (basilica.MemberView, error)
	// Drain says whether an executor takes new tasks, and for how long what runs may go on; 0: until it ends.
	Drain(ctx context.Context, id basilica.ExecutorID, drain bool, deadline time.Duration) error
	// Revoke ends an executor's membership at once and for good; only a new token brings it back.
	Revoke(ctx context.Context, id basilica.ExecutorID) error
	// Rename changes the name that an executor is shown under, never its id; empty removes it.
	Rename(ctx context.Context, id basilica.ExecutorID, name string) error
	// Label sets some labels of an executor, removes others, and gives all that it has then.
	Label(ctx context.Context, id basilica.ExecutorID, set map[string]string, remove []string) (map[string]string, error)
	// RotateKeys begins to replace the keys of the miner's own authority, unless that is under way.
	RotateKeys(ctx context.Context) (basilica.RotationView, error)
	// Rotation says where that stands.
	Rotation(ctx context.Context) (basilica.RotationView, error)
	// RekeyAxon gives the axon a new TLS key, unless the present one is not on the chain yet.
	RekeyAxon(ctx context.Context) (basilica.AxonKeyView, error)
	// AxonKey says where that stands.
	AxonKey(ctx context.Context) (basilica.AxonKeyView, error)
}

// SocketPath is where the door of the miner with that data directory is.
func SocketPath(dataDir string) string { return filepath.Join(dataDir, "admin.sock") }

// Caps of the door.
const (
	maxRequestBytes = 64 << 10
	maxReplyBytes   = 64 << 20
	requestTimeout  = 30 * time.Second
	shutdownTimeout = 3 * time.Second
	dialTimeout     = 2 * time.Second
)

type tokenRequest struct {
	Name basilica.ExecutorID `json:"name,omitempty"`
	TTL  string              `json:"ttl,omitempty"` // Go's form, e.g. 1h
}

type tokenReply struct {
	Token  string               `json:"token"`
	Record basilica.TokenRecord `json:"record"`
}

type drainRequest struct {
	Drain    bool   `json:"drain"`
	Deadline string `json:"deadline,omitempty"` // Go's form, e.g. 1h
}

type nameRequest struct {
	Name string `json:"name"`
}

type labelRequest struct {
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

type failure struct {
	Kind     string `json:"kind"`
	Code     string `json:"code,omitempty"`
	Sentence string `json:"sentence"`
	Fix      string `json:"fix,omitempty"`
}
