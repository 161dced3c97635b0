package axon

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"basilica"
	"basilica/keys"
)

// DendriteConfig says who calls which axon of a Bittensor SDK 6 to 10.
type DendriteConfig struct {
	Signer       keys.Signer     // sr25519, as these SDKs verify nothing else
	Axon         basilica.Hotkey // the requests are signed for it
	Addr         netip.AddrPort
	AllowPrivate bool // addresses that are not on the public Internet may be dialled
	Now          func() time.Time
}

// Dendrite calls one such axon, in plain HTTP: it proves who asks, and nobody proves who answers. It is safe for use by many
// goroutines.
type Dendrite struct {
	cfg  DendriteConfig
	uuid string
	http *http.Client
	last atomic.Int64 // the last nonce
}

// NewDendrite makes the calling end; it dials at the first call.
func NewDendrite(cfg DendriteConfig) (*Dendrite, error) {
	transport, err := dialling(cfg.Addr, cfg.AllowPrivate)
	if err != nil {
		return nil, err
	}
	return &Dendrite{cfg: cfg, uuid: newUUID(), http: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// Close ends connections that no call uses.
func (d *Dendrite) Close() error {
	d.http.CloseIdleConnections()
	return nil
}

// Call sends the synapse of a class, with its fields, and gives the fields of the answer. Hashed are the fields that the
// class declares as required_hash_fields, in their order: texts, whole numbers, booleans. Without an answer within timeout the
// error is Unavailable; an axon that says no is a SYNAPSE_REFUSED, in its own words.
func (d *Dendrite) Call(ctx context.Context, class string, fields map[string]any, hashed []string, timeout time.Duration) (map[string]json.RawMessage, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, basilica.E(basilica.Unavailable, "DEADLINE", "the miner did not answer in time", "try again, or use another miner"))
	defer cancel()
	req, err := d.request(ctx, class, fields, hashed, timeout)
	if err != nil {
		return nil, err
	}
	res, err := d.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, d.cfg.Addr, err)
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		return nil, refusedBy(res)
	}
	var answer map[string]json.RawMessage
	if err := readJSON(ctx, res, &answer); err != nil {
		return nil, err
	}
	maps.DeleteFunc(answer, func(field string, _ json.RawMessage) bool { return ofEverySynapse(field) })
	return answer, nil
}

func (d *Dendrite) request(ctx context.Context, class string, fields map[string]any, hashed []string, timeout time.Duration) (*http.Request, error) {
	own, inputs := make(map[string]json.RawMessage, len(fields)), make(map[string]string, len(fields))
	for field, v := range fields {
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("encode field %s: %w", field, err)
		}
		own[field] = raw
		if v != nil {
			inputs[field] = emptyOf(raw)
		}
	}
	hash, err := hashFields(own, hashed)
	if err != nil {
		return nil, err
	}
	me, axon := d.cfg.Signer.SS58(), string(d.cfg.Axon)
	nonce := nextNonce(&d.last, d.cfg.Now())
	signature, err := d.cfg.Signer.Sign([]byte(requestMessage(nonce, me, axon, d.uuid, hash)))
	if err != nil {
		return nil, fmt.Errorf("sign request: %w", err)
	}
	s := synapse{
		name: class, timeout: timeout.Seconds(), inputs: inputs, bodyHash: hash,
		axon:     terminal{IP: new(d.cfg.Addr.Addr().Unmap().String()), Port: new(d.cfg.Addr.Port()), Hotkey: &axon},
		dendrite: terminal{Version: new(int64(synapseVersion)), Nonce: &nonce, UUID: &d.uuid, Hotkey: &me, Signature: new("0x" + hex.EncodeToString(signature))},
	}
	body, err := synapseBody(s, 0, own)
	if err != nil {
		return nil, err
	}
	// A body that cannot be read again keeps net/http from repeating a request by itself: that would be a replay.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.cfg.Addr.String()+"/"+class, io.NopCloser(onlyReader{bytes.NewReader(body)}))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.ContentLength = int64(len(body))
	s.write(req.Header, len(body))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "basilica")
	return req, nil
}

// refusedBy is the error of an answer that is no success.
func refusedBy(res *http.Response) error {
	var answer struct{ Message string }
	text, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil || json.Unmarshal(text, &answer) != nil || answer.Message == "" {
		return fromHTTP(res.StatusCode)
	}
	return basilica.E(kindOfHTTP(res.StatusCode), "SYNAPSE_REFUSED", "the axon refused the synapse with "+strconv.Itoa(res.StatusCode)+": "+said(answer.Message, 1000), "see what its operator asks of callers")
}
