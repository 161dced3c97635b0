package axon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"basilica/internal/provoke"
)

// answering gives a client of a program at a miner's address that is no miner.
func (m *market) answering(t *testing.T, answer http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return m.client(func(c *ClientConfig) {
		c.Addr, c.TLSKey, c.AllowPlain = netip.MustParseAddrPort(s.Listener.Addr().String()), nil, true
	})
}

func TestRefusals(t *testing.T) {
	m := newMarket(t, nil)
	asked := func(answer http.HandlerFunc) func(*testing.T) error {
		return func(t *testing.T) error {
			_, err := m.answering(t, answer).Offer(t.Context())
			return err
		}
	}
	provoke.Each(t, map[string]func(*testing.T) error{
		"ANSWER_CUT": asked(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"mi`)
		}),
		"ANSWER_JSON": asked(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }),
		"ANSWER_SIZE": asked(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxAnswer+1)) }),
		"MINER_HTTP":  asked(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }),
		"MINER_FAULT": func(t *testing.T) error {
			_, err := newMarketOf(t, &shop{fail: errors.New("secret of the miner")}, nil).client(nil).Offer(t.Context())
			return err
		},
		"BODY_UNREAD": func(t *testing.T) error {
			plain := newMarket(t, func(c *ServerConfig) { c.Key = nil })
			conn, err := net.Dial("tcp", plain.addr.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			body := []byte(`{"spec":"half of it"}`)
			fmt.Fprintf(conn, "POST /v1/tasks HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", plain.addr, len(body))
			if err := plain.headers(t, http.MethodPost, "/v1/tasks", body, plain.now()).Write(conn); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "\r\n%s", body[:10])
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			var reply errorReply
			if err := json.NewDecoder(res.Body).Decode(&reply); err != nil {
				t.Fatal(err)
			}
			return fromBody(reply.Error)
		},
		"SYNAPSE_REFUSED": func(t *testing.T) error {
			_, d := bridged(t, &shop{}, nil)
			_, err := d.Call(t.Context(), "Nothing", nil, nil, 10*time.Second)
			return err
		},
		"STALLED": func(t *testing.T) error {
			ctx, _, stop := guard(t.Context(), time.Millisecond)
			defer stop()
			<-ctx.Done()
			return context.Cause(ctx)
		},
	})
}
