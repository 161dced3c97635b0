package main

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"basilica"
	"basilica/subtensor"
)

// heard is a stderr that another goroutine reads.
type heard struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.Write(p)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// TestInterruptedAfterSending: who ends a verb that has sent something hears what, and until when it may take effect; and who
// repeats the verb is warned by its quote.
func TestInterruptedAfterSending(t *testing.T) {
	url, stop, err := startChain("", time.Minute) // no block while this looks
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	args := []string{"subnet", "stake", "add", "100", "--network", url, "--netuid", "39", "--coldkey", "//Bob", "--hotkey", "//Alice//hot", "--no-limit"}
	quote := func() string {
		var errs strings.Builder
		if code := run(t.Context(), slices.Concat(args, []string{"--dry-run"}), strings.NewReader(""), io.Discard, &errs); code != exitOK {
			t.Fatalf("exit code %d, %s", code, errs.String())
		}
		return errs.String()
	}
	const warning = "this key has sent more than is final, up to nonce 0:"
	if before := quote(); strings.Contains(before, warning) {
		t.Fatal(before)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out strings.Builder
	var errs heard
	code := make(chan int, 1)
	go func() { code <- run(ctx, slices.Concat(args, []string{"--yes"}), strings.NewReader(""), &out, &errs) }()
	for !strings.Contains(quote(), warning) {
		if t.Context().Err() != nil {
			t.Fatal(errs.String())
		}
	}
	cancel()
	if code := <-code; code != exitInterrupted || out.String() != "" {
		t.Errorf("exit code %d, %q", code, out.String())
	}
	said := errs.String()
	_, sending, _ := strings.Cut(said, "\nsending ")
	hash, _, _ := strings.Cut(sending, ", nonce 0: it takes effect up to block 63 or never\n")
	if len(hash) != 66 || !strings.Contains(said, "transaction "+hash+" with nonce 0 was sent, ") || !strings.Contains(said, "[TRANSACTION_SENT]") ||
		!strings.Contains(said, "\nFix: do not repeat it before block 63 is final") {
		t.Error(said)
	}
}

// TestDoneWithoutItsResult: what took effect is said to be done, with its block, and that the rest could not be read.
func TestDoneWithoutItsResult(t *testing.T) {
	var out strings.Builder
	describeDone(&out, subtensor.Done{Action: "stake", Inclusion: basilica.Inclusion{Block: 7}, Unread: &basilica.Reason{Code: "RESULT_UNREAD"}})
	if got := out.String(); !strings.HasPrefix(got, "done: stake\nblock                7 0x") || !strings.HasSuffix(got, "\nresult               not read\n") {
		t.Error(got)
	}
}
