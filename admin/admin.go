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
	// Members lists the fleet; grants are left out.
	Members(ctx context.Context) ([]basilica.MemberView, error)
	// Member shows one executor with its tasks, and with what validators opened on it, newest first.
	Member(ctx context.Context, id basilica.ExecutorID) (basilica.MemberView, error)
	// Drain says whether an executor takes new tasks.
	Drain(ctx context.Context, id basilica.ExecutorID, drain bool) error
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
	Drain bool `json:"drain"`
}

type failure struct {
	Kind     string `json:"kind"`
	Code     string `json:"code,omitempty"`
	Sentence string `json:"sentence"`
	Fix      string `json:"fix,omitempty"`
}
