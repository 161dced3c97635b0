package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// taskCheckCommand runs inside the container of a validator's task_path check; no person calls it.
func taskCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "task-check",
		Short:  "Answer a validator's check from inside a container",
		Hidden: true,
		Args:   arguments(cobra.NoArgs),
		RunE:   func(*cobra.Command, []string) error { return taskCheck("/in/nonce", "/out/proof") },
	}
}

// taskCheck writes the hex SHA-256 of "BSLTASK", a zero byte and the 32-byte nonce.
func taskCheck(in, out string) error {
	nonce, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	if len(nonce) != 32 {
		return fmt.Errorf("%s has %d bytes, want 32", in, len(nonce))
	}
	sum := sha256.Sum256(append([]byte("BSLTASK\x00"), nonce...))
	return os.WriteFile(out, []byte(hex.EncodeToString(sum[:])), 0o644)
}
