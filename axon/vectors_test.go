package axon

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"basilica"
	"basilica/internal/vectors"
	"basilica/keys"
)

func TestMessageVectors(t *testing.T) {
	var file struct {
		Vectors []struct {
			Name, Scheme, Method, Target, BodyHex, BodySha256, Nonce, Sender, Receiver, Message string
			Headers                                                                             map[string]string
		}
	}
	vectors.JSON(t, "bittensor/http-btauth1.json", &file)
	if len(file.Vectors) == 0 {
		t.Fatal("no vectors")
	}
	for _, v := range file.Vectors {
		t.Run(v.Name, func(t *testing.T) {
			body, err := hex.DecodeString(strings.TrimPrefix(v.BodyHex, "0x"))
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(body)
			if hex.EncodeToString(sum[:]) != v.BodySha256 {
				t.Fatal("body digest")
			}
			h := http.Header{}
			for k, s := range v.Headers {
				h.Set(k, s)
			}
			a, err := parseAuth(h)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(message(a.scheme, v.Method, v.Target, sum, a.nonce, string(a.hotkey), a.receiver)); got != v.Message {
				t.Fatalf("message\n%s\nwant\n%s", got, v.Message)
			}
			if a.scheme.String() != v.Scheme || a.nonce != v.Nonce {
				t.Fatalf("%+v", a)
			}
			if err := a.verify(v.Method, v.Target, sum); err != nil {
				t.Fatal(err)
			}
			a.signature[3] ^= 1
			if a.verify(v.Method, v.Target, sum) == nil {
				t.Fatal("a changed signature passed")
			}
		})
	}
}

// TestSessionVectors replays what SDK 11.3.0 signed and judged. Where ours is stricter by choice, ours stands in stricter.
func TestSessionVectors(t *testing.T) {
	var file struct {
		ServerHotkey string `json:"server_hotkey"`
		Sessions     []struct {
			Case    string
			Request struct {
				Method, Target string
				Headers        [][2]string
				BodyUTF8       string `json:"body_utf8"`
				BodySHA256     string `json:"body_sha256"`
			}
			Verifier struct{ Error, Caller string }
		}
	}
	vectors.JSON(t, "bittensor/btauth-sessions.json", &file)
	codes := map[string]string{"": "", "MalformedAuth": codeMalformed, "WrongReceiver": codeReceiver, "StaleRequest": codeStale, "BadSignature": codeSignature, "ReplayedRequest": codeReplayed}
	stricter := map[string]string{"nonce_underscores": codeMalformed, "nonce_plus": codeMalformed, "bytes_wrapped": codeSignature}
	receiver := basilica.Hotkey(strings.Fields(file.ServerHotkey)[0])
	// Nonces are the recorder's clock, shifted for the stale and the future one; the first session's is the present.
	first, err := strconv.ParseInt(headerOf(file.Sessions[0].Request.Headers, headerNonce), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, first)
	replays := newReplays(t, func() time.Time { return now })
	for _, s := range file.Sessions {
		t.Run(s.Case, func(t *testing.T) {
			want, known := codes[s.Verifier.Error]
			if !known {
				t.Fatalf("unknown verdict %q", s.Verifier.Error)
			}
			if code, ok := stricter[s.Case]; ok {
				want = code
			}
			h := http.Header{}
			for _, kv := range s.Request.Headers {
				h.Add(kv[0], kv[1])
			}
			raw, err := hex.DecodeString(s.Request.BodySHA256)
			if err != nil {
				t.Fatal(err)
			}
			if s.Request.BodyUTF8 != "" && sha256.Sum256([]byte(s.Request.BodyUTF8)) != [32]byte(raw) {
				t.Fatal("body and digest differ")
			}
			if got := basilica.CodeOf(judge(t, h, s.Request.Method, s.Request.Target, [32]byte(raw), receiver, now, replays)); got != want {
				t.Fatalf("%q, want %q", got, want)
			}
		})
	}
}

func headerOf(headers [][2]string, name string) string {
	for _, kv := range headers {
		if strings.EqualFold(kv[0], name) {
			return kv[1]
		}
	}
	return ""
}

func judge(t *testing.T, h http.Header, method, target string, body [32]byte, receiver basilica.Hotkey, now time.Time, replays Replays) error {
	a, err := parseAuth(h)
	if err != nil {
		return err
	}
	if err := a.check(receiver, now); err != nil {
		return err
	}
	if err := a.verify(method, target, body); err != nil {
		return err
	}
	fresh, err := replays.Remember(t.Context(), string(a.hotkey), a.nonce, now.Add(replayLife))
	if err == nil && !fresh {
		err = basilica.E(basilica.Denied, codeReplayed, "", "")
	}
	return err
}

func FuzzParseAuth(f *testing.F) {
	p, err := keys.FromURI(keys.Sr25519, "//Alice")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("1", p.SS58(), p.SS58(), "1752076800000000000", "sr25519", strings.Repeat("ab", 64))
	f.Add("", "", "", "-1", "1", "0x")
	f.Fuzz(func(t *testing.T, version, hotkey, receiver, nonce, scheme, signature string) {
		h := http.Header{}
		for k, v := range map[string]string{headerVersion: version, headerHotkey: hotkey, headerReceiver: receiver, headerNonce: nonce, headerCrypto: scheme, headerSignature: signature} {
			h.Set(k, v)
		}
		a, err := parseAuth(h)
		if err != nil {
			if !isAuth(err) {
				t.Fatalf("not a refusal: %v", err)
			}
			return
		}
		if len(a.signature) != 64 || a.nonce != nonce || version != "1" {
			t.Fatalf("%+v", a)
		}
		_ = a.check(basilica.Hotkey(receiver), time.Unix(1752076800, 0))
	})
}

func FuzzBodies(f *testing.F) {
	f.Add([]byte(`{"idempotency_key":"k","spec":"e30="}`))
	f.Add([]byte(`{"ssh_public_key":"","round":1}`))
	f.Add([]byte(`{"event":{"task":"t","state":"running","log":{"data":""}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if s, err := decode[basilica.Submission](body); err == nil && s.Caller != "" {
			t.Fatal("a body named its caller")
		}
		if r, err := decode[basilica.ValidationRequest](body); err == nil && r.Validator != "" {
			t.Fatal("a body named its validator")
		}
		var l line
		_ = json.Unmarshal(body, &l)
		var e errorReply
		_ = json.Unmarshal(body, &e)
	})
}
