package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"basilica"
)

// Client is the asking end of a miner's administration door.
type Client struct {
	path string
	http *http.Client
}

var _ Fleet = (*Client)(nil)

// NewClient speaks to the miner with that data directory; nothing is dialled yet. Where no miner runs there, every call is
// Unavailable (MINER_NOT_HERE).
func NewClient(dataDir string) *Client {
	path := SocketPath(dataDir)
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &Client{path: path, http: &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}, DisableKeepAlives: true},
	}}
}

// CreateToken implements Fleet.
func (c *Client) CreateToken(ctx context.Context, name basilica.ExecutorID, ttl time.Duration) (string, basilica.TokenRecord, error) {
	req := tokenRequest{Name: name}
	if ttl != 0 {
		req.TTL = ttl.String()
	}
	var reply tokenReply
	err := c.call(ctx, http.MethodPost, "/v1/tokens", req, &reply)
	return reply.Token, reply.Record, err
}

// Tokens implements Fleet.
func (c *Client) Tokens(ctx context.Context) (tokens []basilica.TokenRecord, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/tokens", nil, &tokens)
	return tokens, err
}

// RevokeToken implements Fleet.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/v1/tokens/"+url.PathEscape(id), nil, &struct{}{})
}

// Members implements Fleet.
func (c *Client) Members(ctx context.Context, cursor string, limit int) (page basilica.MemberPage, err error) {
	q := url.Values{}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	err = c.call(ctx, http.MethodGet, "/v1/executors?"+q.Encode(), nil, &page)
	return page, err
}

// Member implements Fleet.
func (c *Client) Member(ctx context.Context, id basilica.ExecutorID) (member basilica.MemberView, err error) {
	err = c.call(ctx, http.MethodGet, executorPath(id, ""), nil, &member)
	return member, err
}

func executorPath(id basilica.ExecutorID, rest string) string {
	return "/v1/executors/" + url.PathEscape(string(id)) + rest
}

// Drain implements Fleet.
func (c *Client) Drain(ctx context.Context, id basilica.ExecutorID, drain bool, deadline time.Duration) error {
	req := drainRequest{Drain: drain}
	if deadline != 0 {
		req.Deadline = deadline.String()
	}
	return c.call(ctx, http.MethodPut, executorPath(id, "/drain"), req, &struct{}{})
}

// Revoke implements Fleet.
func (c *Client) Revoke(ctx context.Context, id basilica.ExecutorID) error {
	return c.call(ctx, http.MethodDelete, executorPath(id, ""), nil, &struct{}{})
}

// Rename implements Fleet.
func (c *Client) Rename(ctx context.Context, id basilica.ExecutorID, name string) error {
	return c.call(ctx, http.MethodPut, executorPath(id, "/name"), nameRequest{Name: name}, &struct{}{})
}

// Label implements Fleet.
func (c *Client) Label(ctx context.Context, id basilica.ExecutorID, set map[string]string, remove []string) (labels map[string]string, err error) {
	err = c.call(ctx, http.MethodPatch, executorPath(id, "/labels"), labelRequest{Set: set, Remove: remove}, &labels)
	return labels, err
}

// RotateKeys implements Fleet.
func (c *Client) RotateKeys(ctx context.Context) (v basilica.RotationView, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/rotation", struct{}{}, &v)
	return v, err
}

// Rotation implements Fleet.
func (c *Client) Rotation(ctx context.Context) (v basilica.RotationView, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/rotation", nil, &v)
	return v, err
}

// RekeyAxon implements Fleet.
func (c *Client) RekeyAxon(ctx context.Context) (v basilica.AxonKeyView, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/axon-key", struct{}{}, &v)
	return v, err
}

// AxonKey implements Fleet.
func (c *Client) AxonKey(ctx context.Context) (v basilica.AxonKeyView, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/axon-key", nil, &v)
	return v, err
}

func (c *Client) call(ctx context.Context, method, path string, body, into any) (err error) {
	var sent io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		sent = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://miner"+path, sent)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.notHere(err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReplyBytes+1))
	if err != nil {
		return fmt.Errorf("read the miner's answer: %w", err)
	}
	if len(text) > maxReplyBytes {
		return basilica.E(basilica.Exhausted, "ADMIN_REPLY_SIZE", fmt.Sprintf("the miner's answer has more than %d bytes", maxReplyBytes), "use the basilica of the same version as the miner's")
	}
	if resp.StatusCode != http.StatusOK {
		var f failure
		if err := json.Unmarshal(text, &f); err != nil || f.Sentence == "" {
			return fmt.Errorf("the miner answered %s", resp.Status)
		}
		return basilica.E(basilica.ParseKind(f.Kind), f.Code, f.Sentence, f.Fix)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("read the miner's answer: %w", err)
	}
	return nil
}

func (c *Client) notHere(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EINVAL):
		return basilica.E(basilica.Unavailable, "MINER_NOT_HERE", fmt.Sprintf("the miner does not run here: nobody answers on %s", c.path),
			"start it with `basilica miner`, or name its data directory with --data").With(err)
	case errors.Is(err, fs.ErrPermission):
		return basilica.E(basilica.Denied, "ADMIN_DENIED", fmt.Sprintf("this user may not use %s", c.path), "run the command as the miner's user").With(err)
	}
	return fmt.Errorf("ask the miner: %w", err)
}
