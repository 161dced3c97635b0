package basilica_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// in finds the text of the first group of a pattern in a source file.
func in(t *testing.T, file, pattern string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(pattern).FindSubmatch(text)
	if m == nil {
		t.Fatalf("%s has nothing like %s", file, pattern)
	}
	out := strings.NewReplacer(" * time.Second", " s", "*time.Second", " s", " * time.Minute", " min", "256 << 10", "256 KiB", "64 << 10", "64 KiB", "16 << 10", "16 KiB", "1 << 20", "1 MiB").Replace(string(m[1]))
	return strings.TrimSpace(out)
}

// TestTableOfDoors holds the numbers of docs/contributor.md against the source.
func TestTableOfDoors(t *testing.T) {
	constant := func(file, name string) string { t.Helper(); return in(t, file, `(?m)^\s+`+name+`\s+= ([^/\n]+)`) }
	or := func(file, name string) string {
		t.Helper()
		return in(t, file, `orDefault\(&cfg\.`+name+`, ([^\n]+)\)\n`)
	}
	const axon, status, wire, ssh, chain = "axon/server.go", "status/status.go", "wire/door.go", "sshdoor/server.go", "subtensor/server.go"
	rows := []string{
		"| door | connections, of one place | headers within | body or message | old protocols |",
		"|---|---|---|---|---|",
		fmt.Sprintf("| axon | %s, %s | %s | %s within %s, blobs by the piece | TLS 1.3 only; with `axon_bridge` the synapses of older SDKs in plain HTTP beside it |", constant(axon, "maxConns"), constant(axon, "maxConnsNetwork"), constant(axon, "headerTime"), constant(axon, "maxBody"), constant(axon, "bodyTime")),
		fmt.Sprintf("| fleet, executor | %s, %s; %s more for every known machine | %s | %s within %s | TLS 1.3 only |", constant(wire, "maxConns"), constant(wire, "maxConnsHost"), constant(wire, "maxConnsKnown"), constant(wire, "handshakeTime"), constant(wire, "maxMessage"), constant(wire, "callTime")),
		fmt.Sprintf("| executor SSH | %s strangers, %s of one place; %s known | %s for the version line, %s for the whole handshake | %s in a connection | Curve25519, AEAD ciphers, certificates only |", or(ssh, "MaxHandshakes"), or(ssh, "MaxConnsPerAddr"), or(ssh, "MaxConns"), or(ssh, "Version"), or(ssh, "Handshake"), strings.Replace(or(ssh, "MaxBytes"), "1<<30", "1 GiB", 1)),
		fmt.Sprintf("| status, validator API | %s, %s | %s | %s within %s | – |", constant(status, "maxConnections"), constant(status, "maxConnectionsNetwork"), constant(status, "headerTimeout"), constant(status, "maxBodyBytes"), constant(status, "readTimeout")),
		fmt.Sprintf("| chain | %s WebSockets | %s | %s within %s | – |", in(t, chain, `c\.MaxConnections = (\d+)`), in(t, chain, `ReadHeaderTimeout: ([^,]+),`), in(t, chain, `c\.MaxMessage = ([^\n]+)`), in(t, chain, `ReadTimeout: (30[^,]+),`)),
	}
	docs, err := os.ReadFile("docs/contributor.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(rows, "\n"); !strings.Contains(string(docs), want) {
		t.Errorf("docs/contributor.md has another table of doors than\n%s", want)
	}
}
