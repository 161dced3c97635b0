package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"

	"basilica/subtensor"
)

// TestNoKnownKeysOnFinney: a key that everybody knows is used by no verb at a node of finney, however that node is named.
func TestNoKnownKeysOnFinney(t *testing.T) {
	finney, _ := subtensor.LookupNetwork("finney")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer ws.CloseNow() //nolint:errcheck // the verb has left by then
		var asked struct{ ID json.RawMessage }
		if err := wsjson.Read(r.Context(), ws, &asked); err != nil {
			return
		}
		_ = ws.Write(r.Context(), websocket.MessageText, fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":%q}`, asked.ID, finney.Genesis))
	}))
	t.Cleanup(s.Close)
	url, file := strings.Replace(s.URL, "http", "ws", 1), filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("0x"+strings.Repeat("07", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, verb := range [][]string{
		{"subnet", "register", "--coldkey", "//Bob", "--hotkey", file, "--max-burn", "1"},
		{"subnet", "register", "--coldkey", file, "--hotkey", "//Bob//miner", "--max-burn", "1"},
		{"subnet", "weights", "--hotkey", "//Alice", "0=1"},
		{"ls", "--hotkey", "//Alice", "--data", t.TempDir()},
	} {
		var errs strings.Builder
		if code := run(t.Context(), append(verb, "--network", url, "--netuid", "39"), strings.NewReader(""), io.Discard, &errs); code != exitFailure || !strings.Contains(errs.String(), "KEY_DEVELOPMENT") {
			t.Errorf("%v: exit code %d, %s", verb, code, errs.String())
		}
	}
}
