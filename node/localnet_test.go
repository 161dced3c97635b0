package node

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestLocalnetManual: a chain of manual blocks stands still, healthy, until a client asks for a block.
func TestLocalnetManual(t *testing.T) {
	cfg := defaultLocalnet()
	cfg.Listen, cfg.StatusListen, cfg.BlockTime, cfg.Manual = "127.0.0.1:0", "", Duration(20*time.Millisecond), true
	ready := make(chan string, 1)
	deps := Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Ready: func(addrs map[string]string) { ready <- addrs["rpc"] }}
	l, err := NewLocalnet(t.Context(), cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	addr := <-ready
	wait, stop := context.WithTimeout(ctx, 10*20*time.Millisecond)
	if h, err := l.chain.NextHead(wait, 0); err == nil {
		t.Errorf("block %d came by itself", h.Number)
	}
	stop()
	if err := l.health(ctx); err != nil {
		t.Errorf("a chain that waits: %v", err)
	}
	resp, err := http.Post("http://"+addr, "application/json", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"engine_createBlock","params":[true,true]}`))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if head := l.chain.Head(); err != nil || head.Number != 1 || !strings.Contains(string(answer), head.Hash.String()) {
		t.Errorf("head %+v, answer %s, %v", head, answer, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
