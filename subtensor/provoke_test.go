package subtensor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"basilica"
	"basilica/internal/provoke"
	"basilica/keys"
	"basilica/subtensor"
)

// answering is a node that answers one method with rest of a JSON-RPC message, and all others with a hash.
func answering(t *testing.T, method, rest string) *subtensor.Client {
	return answeringTo(t, subtensor.Config{}, method, rest)
}

func answeringTo(t *testing.T, cfg subtensor.Config, method, rest string) *subtensor.Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer ws.CloseNow() //nolint:errcheck // the client has left by then
		for {
			_, text, err := ws.Read(context.WithoutCancel(r.Context()))
			if err != nil {
				return
			}
			var asked struct {
				ID     json.RawMessage
				Method string
			}
			if err := json.Unmarshal(text, &asked); err != nil {
				return
			}
			answer := fmt.Sprintf(`"result":"0x%064d"`, 1)
			if asked.Method == method {
				answer = rest
			}
			if err := ws.Write(r.Context(), websocket.MessageText, fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,%s}`, asked.ID, answer)); err != nil {
				return
			}
		}
	}))
	cfg.URL = strings.Replace(s.URL, "http", "ws", 1)
	c := subtensor.New(cfg, quiet())
	t.Cleanup(func() { c.Close(); s.Close() })
	return c
}

func TestRefusals(t *testing.T) {
	n := newNetwork(t)
	bob := pair(t, keys.Sr25519, "//Bob")
	provoke.Each(t, map[string]func(*testing.T) error{
		"ADDRESS": func(*testing.T) error {
			_, err := n.client.AddStake(n.ctx, netuid, "5Cut", bob, 1)
			return err
		},
		"AXON_TLS_KEY": func(*testing.T) error {
			_, err := n.client.ServeAxon(n.ctx, netuid, bob, basilica.Axon{Addr: netip.MustParseAddrPort("127.0.0.1:8091"), TLSKey: []byte("short")})
			return err
		},
		"BALANCE_SHORT": func(*testing.T) error {
			_, err := n.client.Quote(n.ctx, subtensor.AddStake(netuid, hotkeyOf(pair(t, keys.Sr25519, "//Alice//hot")), 1e18), bob)
			return err
		},
		"BLOCK_UNKNOWN": func(t *testing.T) error {
			_, err := answering(t, "chain_getHeader", `"result":null`).Head(n.ctx)
			if basilica.KindOf(err) != basilica.Unavailable {
				t.Errorf("a node that is behind would end who asks: %v", basilica.KindOf(err))
			}
			return err
		},
		"CALL_MISSING": func(*testing.T) error {
			_, err := n.client.Quote(n.ctx, subtensor.UnknownCall(), bob)
			return err
		},
		"CHAIN_API_MISSING": func(t *testing.T) error {
			old := newNetworkWith(t, func(node subtensor.Node) subtensor.Node { return oldNode{node} }, nil)
			_, err := old.client.AlphaPrice(old.ctx, netuid)
			return err
		},
		"CHAIN_BUSY": func(t *testing.T) error {
			_, err := answering(t, "chain_getFinalizedHead", `"error":{"code":-32005,"message":"Too many requests"}`).Head(n.ctx)
			return err
		},
		"COMMITMENT_SIZE": func(*testing.T) error {
			_, err := n.client.Quote(n.ctx, subtensor.SetCommitment(netuid, make([]byte, 513)), bob)
			return err
		},
		"KEY_DEVELOPMENT": func(t *testing.T) error {
			var last error
			for _, name := range []string{"finney", "test"} {
				network, _ := subtensor.LookupNetwork(name)
				genesis := fmt.Sprintf(`"result":%q`, network.Genesis)
				if got, err := answering(t, "chain_getBlockHash", genesis).Genesis(n.ctx); err != nil || got != *network.Genesis {
					t.Errorf("%s without such a key: %s, %v", name, got, err)
				}
				if _, last = answeringTo(t, subtensor.Config{Development: true}, "chain_getBlockHash", genesis).Genesis(n.ctx); basilica.CodeOf(last) != "KEY_DEVELOPMENT" {
					t.Errorf("%s: %v", name, last)
				}
			}
			if _, err := answeringTo(t, subtensor.Config{Development: true}, "", "").Genesis(n.ctx); err != nil {
				t.Errorf("another chain: %v", err)
			}
			return last
		},
		"REGISTRATION_CAP": func(*testing.T) error {
			_, _, err := n.client.Register(n.ctx, netuid, hotkeyOf(bob), bob, 0)
			return err
		},
		"SUBNET_OWNER": func(*testing.T) error {
			_, err := n.client.Quote(n.ctx, subtensor.StartCall(netuid), bob)
			return err
		},
	})
}
