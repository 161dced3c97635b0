package docker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"basilica"
)

// Times and caps of a talk with a registry (OCI distribution specification 1.1).
const (
	registryDial  = 10 * time.Second
	registryQuiet = 30 * time.Second // without a byte; a deadline on the connection itself
	maxToken      = 64 << 10
	maxRedirects  = 5
)

// Media types of manifests, OCI's and Docker's.
const (
	typeIndex       = "application/vnd.oci.image.index.v1+json"
	typeManifest    = "application/vnd.oci.image.manifest.v1+json"
	typeDockerList  = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeDockerImage = "application/vnd.docker.distribution.manifest.v2+json"
)

// reference is an image by digest at a registry.
type reference struct {
	name   string // as the client wrote it
	host   string // as it stands in the name; docker.io where it has none
	repo   string
	digest string
}

var (
	repoName = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	hostName = regexp.MustCompile(`^(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?$`)
)

// parseReference reads [HOST/]REPO[:TAG]@sha256:HEX; a tag beside the digest says nothing.
func parseReference(ref string) (reference, error) {
	name, digest, _ := strings.Cut(ref, "@")
	r := reference{name: ref, host: "docker.io", repo: name, digest: digest}
	if first, rest, ok := strings.Cut(name, "/"); ok && (strings.ContainsAny(first, ".:[") || first == "localhost") {
		r.host, r.repo = first, rest
	}
	if i := strings.LastIndexByte(r.repo, ':'); i > strings.LastIndexByte(r.repo, '/') {
		r.repo = r.repo[:i]
	}
	if r.host == "docker.io" && !strings.Contains(r.repo, "/") {
		r.repo = "library/" + r.repo
	}
	if !imageID.MatchString(digest) || !repoName.MatchString(r.repo) || !hostName.MatchString(r.host) {
		return r, noImage(ref)
	}
	return r, nil
}

// base is where the registry's interface is. Loopback alone is spoken to without TLS, as engines do.
func (r reference) base() string {
	host := r.host
	if host == "docker.io" {
		host = "registry-1.docker.io"
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	if addr, err := netip.ParseAddr(strings.Trim(name, "[]")); name == "localhost" || err == nil && addr.IsLoopback() {
		return "http://" + host
	}
	return "https://" + host
}

// registryClient speaks with one registry about one image.
type registryClient struct {
	ref   reference
	login *basilica.RegistryLogin
	http  *http.Client

	mu   sync.Mutex
	auth string // header of the requests; empty before the registry asked for it
}

func newRegistry(ref reference, login *basilica.RegistryLogin, allowPrivate bool) (*registryClient, error) {
	if login != nil && serverName(login.Server) != ref.host {
		return nil, basilica.E(basilica.Denied, "IMAGE_DENIED", fmt.Sprintf("the credentials are for %.100q and the image is at %.100q", login.Server, ref.host), "give the credentials of the registry in the image's name")
	}
	dialer := &net.Dialer{Timeout: registryDial, Control: func(_, addr string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(addr)
		if err != nil || !allowPrivate && !basilica.PublicAddr(at.Addr()) {
			return basilica.E(basilica.Denied, "IMAGE_DENIED", fmt.Sprintf("the image's registry is at %.60s, which is no address of the public Internet", addr), "use a registry on the public Internet, or load the image from a file: basilica image load FILE.tar")
		}
		return nil
	}}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return quietConn{c}, nil
		},
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: registryDial, ResponseHeaderTimeout: registryQuiet,
		MaxResponseHeaderBytes: 64 << 10, DisableCompression: true, ForceAttemptHTTP2: true,
	}
	g := &registryClient{ref: ref, login: login}
	g.http = &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects || req.URL.Scheme != "https" && !strings.HasPrefix(ref.base(), "http:") {
			return errors.New("the registry sends elsewhere too often, or to a place without TLS")
		}
		if req.URL.Host != via[0].URL.Host { // net/http keeps it for other ports and for names below
			req.Header.Del("Authorization")
		}
		return nil
	}}
	return g, nil
}

// serverName is a registry's host as it stands in images' names.
func serverName(server string) string {
	s := strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	s, _, _ = strings.Cut(s, "/")
	switch s {
	case "index.docker.io", "registry-1.docker.io", "":
		return "docker.io"
	}
	return s
}

// quietConn fails where nothing came or went for a while.
type quietConn struct{ net.Conn }

// Read implements net.Conn.
func (c quietConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(registryQuiet)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write implements net.Conn.
func (c quietConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(registryQuiet)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (g *registryClient) close() { g.http.CloseIdleConnections() }

// get asks for one thing; where the registry wants to know who asks, it is told and asked again.
func (g *registryClient) get(ctx context.Context, path string, accept ...string) (*http.Response, error) {
	for again := false; ; again = true {
		g.mu.Lock()
		auth := g.auth
		g.mu.Unlock()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.ref.base()+"/v2/"+g.ref.repo+path, nil)
		if err != nil {
			return nil, noImage(g.ref.name).With(err)
		}
		if len(accept) > 0 {
			req.Header.Set("Accept", strings.Join(accept, ", "))
		}
		if auth != "" {
			req.Header.Set("Authorization", auth)
		}
		res, err := g.http.Do(req)
		if err != nil {
			return nil, g.away(err)
		}
		if res.StatusCode == http.StatusOK {
			return res, nil
		}
		res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized || again {
			return nil, g.refusal(res.StatusCode)
		}
		if err := g.authorize(ctx, auth, res.Header.Values("WWW-Authenticate")); err != nil {
			return nil, err
		}
	}
}

// away is a registry that does not answer as one; what basilica itself said on the way stands.
func (g *registryClient) away(err error) error {
	var ours *basilica.Error
	if errors.As(err, &ours) {
		return ours
	}
	return basilica.E(basilica.Unavailable, "IMAGE_REGISTRY", fmt.Sprintf("the image %.200q could not be pulled", g.ref.name), "check that the executor reaches the registry, or load the image from a file: basilica image load FILE.tar").With(err)
}

func (g *registryClient) refusal(status int) error {
	switch status {
	case http.StatusNotFound:
		return noImage(g.ref.name)
	case http.StatusUnauthorized, http.StatusForbidden:
		if g.login == nil {
			return basilica.E(basilica.Denied, "IMAGE_DENIED", fmt.Sprintf("the registry does not give the image %.200q to strangers, or does not have it", g.ref.name), "check the name, or give the registry's credentials with the task")
		}
		return basilica.E(basilica.Denied, "IMAGE_DENIED", fmt.Sprintf("the registry does not give the image %.200q for these credentials", g.ref.name), "check user name, password and that they may read the image")
	}
	return g.away(fmt.Errorf("the registry answers with status %d", status))
}

var challengeWord = regexp.MustCompile(`([a-z]+)="([^"]*)"`)

// authorize answers a registry's question of who asks (RFC 9110 section 11; the distribution specification's tokens),
// unless another download has done so since: tokens end while a large image is on its way.
func (g *registryClient) authorize(ctx context.Context, refused string, challenges []string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.auth != refused {
		return nil
	}
	for _, c := range challenges {
		scheme, rest, _ := strings.Cut(c, " ")
		switch {
		case strings.EqualFold(scheme, "Basic") && g.login != nil:
			req := http.Request{Header: http.Header{}}
			req.SetBasicAuth(g.login.Username, g.login.Password)
			g.auth = req.Header.Get("Authorization")
			return nil
		case strings.EqualFold(scheme, "Bearer"):
			words := map[string]string{}
			for _, m := range challengeWord.FindAllStringSubmatch(rest, 16) {
				words[m[1]] = m[2]
			}
			return g.token(ctx, words["realm"], words["service"])
		}
	}
	return g.refusal(http.StatusUnauthorized)
}

// token fetches a token to read this one repository; the caller holds mu.
func (g *registryClient) token(ctx context.Context, realm, service string) error {
	at, err := url.Parse(realm)
	if err != nil || at.Host == "" || at.Scheme != "https" && !strings.HasPrefix(g.ref.base(), "http:") {
		return g.away(errors.New("the registry names no place for tokens that could be trusted with credentials"))
	}
	q := at.Query()
	q.Set("service", service)
	q.Set("scope", "repository:"+g.ref.repo+":pull")
	at.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return g.away(err)
	}
	if g.login != nil {
		req.SetBasicAuth(g.login.Username, g.login.Password)
	}
	res, err := g.http.Do(req)
	if err != nil {
		return g.away(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return g.refusal(res.StatusCode)
	}
	var said struct {
		Token  string `json:"token"`
		Access string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxToken)).Decode(&said); err != nil {
		return g.away(errors.New("the registry's token cannot be read"))
	}
	if said.Token == "" {
		said.Token = said.Access
	}
	g.auth = "Bearer " + said.Token
	return nil
}

// descriptor names content by digest.
type descriptor struct {
	MediaType string   `json:"mediaType"`
	Digest    string   `json:"digest"`
	Size      int64    `json:"size"`
	URLs      []string `json:"urls"`
	Platform  *struct {
		OS   string `json:"os"`
		Arch string `json:"architecture"`
	} `json:"platform"`
}

// manifest is an image's, or the list of an image for several platforms.
type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
	Manifests     []descriptor `json:"manifests"`
}

func (g *registryClient) bad(why string) error {
	return basilica.E(basilica.Invalid, "IMAGE_MANIFEST", fmt.Sprintf("the image %.200q cannot be pulled: %s", g.ref.name, why), "build and push the image again with docker build and docker push, layers packed by gzip")
}

// manifest gives the image's manifest for this machine.
func (g *registryClient) manifest(ctx context.Context) (manifest, error) {
	m, err := g.oneManifest(ctx, g.ref.digest)
	if err != nil || len(m.Manifests) == 0 {
		return m, err
	}
	offered := []string{}
	for _, d := range m.Manifests {
		if d.Platform == nil || d.Platform.OS == "unknown" { // attestations of the build
			continue
		}
		if d.Platform.OS == "linux" && d.Platform.Arch == runtime.GOARCH {
			if !imageID.MatchString(d.Digest) {
				return m, g.bad("its index names no SHA-256")
			}
			m, err = g.oneManifest(ctx, d.Digest)
			if err == nil && len(m.Manifests) > 0 {
				err = g.bad("its index leads to another index")
			}
			return m, err
		}
		offered = append(offered, d.Platform.OS+"/"+d.Platform.Arch)
	}
	return m, wrongPlatform(strings.Join(offered, ", "))
}

// oneManifest fetches and checks one manifest.
func (g *registryClient) oneManifest(ctx context.Context, digest string) (manifest, error) {
	res, err := g.get(ctx, "/manifests/"+digest, typeIndex, typeManifest, typeDockerList, typeDockerImage)
	if err != nil {
		return manifest{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxManifest+1))
	if err != nil {
		return manifest{}, g.away(err)
	}
	if len(text) > maxManifest {
		return manifest{}, g.bad(fmt.Sprintf("its manifest has more than %d bytes", maxManifest))
	}
	if sum := sha256.Sum256(text); "sha256:"+hex.EncodeToString(sum[:]) != digest {
		return manifest{}, g.differs(digest)
	}
	return g.readManifest(text)
}

// readManifest decodes and checks a manifest whose digest is right: whoever made the digest is a stranger all the same.
func (g *registryClient) readManifest(text []byte) (m manifest, err error) {
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&m); err != nil {
		return m, g.bad("its manifest cannot be read")
	}
	if m.SchemaVersion != 2 {
		return m, g.bad(fmt.Sprintf("its manifest is of version %d, not 2", m.SchemaVersion))
	}
	if len(m.Manifests) > 0 {
		if len(m.Manifests) > 256 || len(m.Layers) > 0 {
			return m, g.bad("its index is too long, or an image at once")
		}
		return m, nil
	}
	if len(m.Layers) > maxLayers {
		return m, g.bad(fmt.Sprintf("it has more than %d layers", maxLayers))
	}
	if m.Config.Size < 0 || m.Config.Size > maxImageConfig {
		return m, g.bad(fmt.Sprintf("its config has more than %d bytes", maxImageConfig))
	}
	for _, d := range append(m.Layers, m.Config) {
		switch {
		case !imageID.MatchString(d.Digest) || d.Size < 0:
			return m, g.bad("its manifest names a part by no SHA-256 or no size")
		case len(d.URLs) > 0:
			return m, g.bad("a layer of it is kept elsewhere")
		}
	}
	return m, nil
}

func (g *registryClient) differs(digest string) error {
	return basilica.E(basilica.Invalid, "IMAGE_DIGEST", fmt.Sprintf("what the registry gave for %.80s is something else", digest), "do not trust this registry; push the image again, or use another one")
}

// kept is where a part of an image is kept, and remembers what that failed with.
type kept struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (k *kept) Write(p []byte) (int, error) {
	n, err := k.w.Write(p)
	k.err = errors.Join(k.err, err)
	return n, err
}

// unkept is this machine's own failure to keep what a registry gave.
func unkept(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return basilica.E(basilica.Exhausted, "DISK_FULL", "the disk on which this machine keeps an image while it is pulled is full", "free space on it, or run the job on another machine").With(err)
	}
	return basilica.E(basilica.Internal, "IMAGE_UNREAD", fmt.Sprintf("the image could not be kept on this machine: %v", err), "look at the machine's disk (dmesg), or run the job on another machine").With(err)
}

// blob writes one part of the image to w and checks it; nothing over its size is taken.
func (g *registryClient) blob(ctx context.Context, d descriptor, w io.Writer) error {
	res, err := g.get(ctx, "/blobs/"+d.Digest)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	sum := sha256.New()
	to := &kept{w: w}
	n, err := io.Copy(io.MultiWriter(to, sum), io.LimitReader(res.Body, d.Size+1))
	switch {
	case to.err != nil:
		return unkept(to.err)
	case err != nil:
		return g.away(err)
	}
	if n != d.Size || "sha256:"+hex.EncodeToString(sum.Sum(nil)) != d.Digest {
		return g.differs(d.Digest)
	}
	return nil
}
