package axon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"basilica"
	"basilica/keys"
)

// TestKeyIsReplaced: while the TLS key is replaced, who knows the old one and who knows the new one are served alike, and a connection
// that is there goes on. Who knows one that is older still asks the chain once and comes back; nobody else is believed.
func TestKeyIsReplaced(t *testing.T) {
	var server *Server
	var chain atomic.Pointer[[]byte] // what it shows
	m := newMarketWith(t, &shop{blobs: map[basilica.Digest][]byte{}}, func(c *ServerConfig) { c.Published = func() []byte { return *chain.Load() } }, func(s *Server) { server = s })
	all := []*keys.P256{m.key}
	points := [][]byte{m.tlsKey}
	for range 2 {
		key, err := keys.GenerateP256()
		if err != nil {
			t.Fatal(err)
		}
		point, err := PublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		all, points = append(all, key), append(points, point)
	}
	chain.Store(&points[0])
	knows := func(i int) *Client { return m.client(func(c *ClientConfig) { c.TLSKey = points[i] }) }
	unnamed := func() []byte {
		conn, err := tls.Dial("tcp", m.addr.String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) //nolint:gosec // the test looks at the key
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		spki, err := conn.ConnectionState().PeerCertificates[0].PublicKey.(interface{ Bytes() ([]byte, error) }).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return spki[1:]
	}
	served := func(what string, c *Client, code string) {
		t.Helper()
		if _, err := c.Offer(t.Context()); basilica.CodeOf(err) != code {
			t.Errorf("%s: %v, want %q", what, err, code)
		}
	}
	early := knows(0)
	served("before", early, "")
	if err := server.Rotate(all[1], all[0]); err != nil {
		t.Fatal(err)
	}
	served("an open connection", early, "")
	served("the old key", knows(0), "")
	served("the new key", knows(1), "")
	served("a key that nobody made", knows(2), "AXON_KEY_MISMATCH")
	if !bytes.Equal(unnamed(), points[0]) {
		t.Error("who names no key is not shown the published one")
	}
	if chain.Store(&points[1]); !bytes.Equal(unnamed(), points[1]) {
		t.Error("who names no key is not shown the key that was published since")
	}
	served("the old key, still", knows(0), "")

	if err := server.Rotate(all[2], all[1]); err != nil {
		t.Fatal(err)
	}
	chain.Store(&points[2])
	served("the oldest key", knows(0), "AXON_KEY_MISMATCH")
	var asked atomic.Int64
	late := func(axon basilica.Axon, err error) *Client {
		return m.client(func(c *ClientConfig) {
			c.TLSKey, c.Published = points[0], func(context.Context) (basilica.Axon, error) { asked.Add(1); return axon, err }
		})
	}
	content := bytes.Repeat([]byte("x"), 1<<20)
	c, blob := late(basilica.Axon{Addr: m.addr, TLSKey: points[2]}, nil), basilica.Blob{SHA256: sha256.Sum256(content), Size: int64(len(content))}
	if err := c.PutBlob(t.Context(), "", blob, 0, bytes.NewReader(content)); err != nil || asked.Load() != 1 || !bytes.Equal(m.shop.blobs[blob.SHA256], content) {
		t.Errorf("%v; the chain was asked %d times", err, asked.Load())
	}
	if served("again", c, ""); asked.Load() != 1 {
		t.Errorf("the chain was asked %d times", asked.Load())
	}
	forged := slices.Clone(points[2])
	forged[0] ^= 1
	for what, c := range map[string]*Client{
		"the same key":   late(basilica.Axon{Addr: m.addr, TLSKey: points[0]}, nil),
		"another key":    late(basilica.Axon{Addr: m.addr, TLSKey: forged}, nil),
		"no key":         late(basilica.Axon{Addr: m.addr}, nil),
		"no chain":       late(basilica.Axon{}, errors.New("the chain is away")),
		"a key, no door": late(basilica.Axon{TLSKey: points[2]}, nil),
	} {
		asked.Store(0)
		if served("the chain shows "+what, c, "AXON_KEY_MISMATCH"); asked.Load() != 1 {
			t.Errorf("the chain shows %s: it was asked %d times", what, asked.Load())
		}
	}
}
