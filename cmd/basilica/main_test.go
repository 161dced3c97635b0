package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// TestInterruptedQuietly: who ends a reading verb by a signal is told nothing, and the shell learns it by the exit code.
func TestInterruptedQuietly(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	code := run(ctx, []string{"ls", "--network", "ws://127.0.0.1:1", "--data", t.TempDir()}, strings.NewReader(""), &out, &errs)
	if code != exitInterrupted || errs.Len() > 0 || out.Len() > 0 {
		t.Errorf("exit %d, %q, %q", code, out.String(), errs.String())
	}
}
