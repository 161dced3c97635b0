package docker

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"basilica"
)

func TestImagesAreNamelessAndChecked(t *testing.T) {
	t.Parallel()
	e := engine(t)
	name := fmt.Sprintf("localhost/basilica-test:%d", os.Getpid())
	file := saved(t, []string{name}, nil)
	id := load(t, e, file)
	if _, err := e.EnsureImage(t.Context(), name, nil, nil); basilica.CodeOf(err) != "IMAGE_NOT_FOUND" {
		t.Errorf("a stranger's file took a name: %v", err)
	}
	if got, err := e.EnsureImage(t.Context(), id, nil, nil); err != nil || got != id {
		t.Errorf("by address: %s %v", got, err)
	}
	for _, ref := range []string{"", "a b", "no-such-image:1", "UPPER/case", "sha256:" + strings.Repeat("0", 64)} {
		if _, err := e.EnsureImage(t.Context(), ref, nil, nil); basilica.CodeOf(err) != "IMAGE_NOT_FOUND" {
			t.Errorf("image %q: %v", ref, err)
		}
	}
	// Its owner's name for it is nobody else's, nor is a part of its address.
	if _, err := e.api.ImageTag(t.Context(), client.ImageTagOptions{Source: id, Target: name}); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{name, strings.TrimPrefix(id, "sha256:"), strings.TrimPrefix(id, "sha256:")[:12]} {
		if _, err := e.EnsureImage(t.Context(), ref, nil, nil); basilica.CodeOf(err) != "IMAGE_NOT_FOUND" {
			t.Errorf("image %q of this machine's owner: %v", ref, err)
		}
	}
	for range 2 {
		if err := e.RemoveImage(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if _, err := e.EnsureImage(t.Context(), id, nil, nil); basilica.CodeOf(err) != "IMAGE_NOT_FOUND" {
		t.Errorf("a removed image: %v", err)
	}
}

// entry is one of a hostile tar file.
type entry struct {
	tar.Header
	content string
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Size == 0 {
			e.Size = int64(len(e.content))
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string) entry {
	return entry{tar.Header{Name: name, Mode: 0o644}, content}
}

// configOf is an image's config with that many layers.
func configOf(arch string, layers int) string {
	ids := make([]string, layers)
	for i := range ids {
		ids[i] = "sha256:" + strings.Repeat("1", 64)
	}
	text, err := json.Marshal(map[string]any{"architecture": arch, "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
	if err != nil {
		panic(err)
	}
	return string(text)
}

func zipped(t testing.TB, content []byte) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// sparse is an archive of one file of n bytes of holes, in the form of GNU tar's format 1.0, as an engine unpacks it.
func sparse(t testing.TB, n int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	records := fmt.Sprintf("GNU.sparse.major=1\n GNU.sparse.minor=0\n GNU.sparse.name=holes\n GNU.sparse.realsize=%d\n", n)
	var pax strings.Builder
	for line := range strings.SplitSeq(strings.TrimSuffix(records, "\n"), "\n") {
		line = strings.TrimSpace(line) + "\n"
		size := len(line) + 3
		for len(fmt.Sprintf("%d %s", size, line)) != size {
			size++
		}
		fmt.Fprintf(&pax, "%d %s", size, line)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.Reset()
	raw := func(name string, kind byte, content string) {
		var h [512]byte
		copy(h[:], name)
		copy(h[100:], "0000644\x000000000\x000000000\x00")
		copy(h[124:], fmt.Sprintf("%011o\x0000000000000\x00", len(content)))
		copy(h[148:], "        ")
		h[156] = kind
		copy(h[257:], "ustar\x0000")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		b.Write(h[:])
		b.WriteString(content)
		b.Write(make([]byte, -len(content)&511))
	}
	raw("PaxHeaders/holes", 'x', pax.String())
	// One empty piece of data at the end, and nothing before it.
	table := fmt.Sprintf("1\n%d\n0\n", n)
	raw("GNUSparseFile/holes", '0', table+strings.Repeat("\x00", 512-len(table)))
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

// TestHostileImageFiles: each is refused by its code, and none reaches the engine.
func TestHostileImageFiles(t *testing.T) {
	t.Parallel()
	const limit = 4 << 20
	manifest := func(layers ...string) entry {
		text, err := json.Marshal([]savedImage{{Config: "c.json", RepoTags: []string{"basilica/check:latest"}, Layers: layers}})
		if err != nil {
			t.Fatal(err)
		}
		return file("manifest.json", string(text))
	}
	config := func(layers int) entry { return file("c.json", configOf(runtime.GOARCH, layers)) }
	layer := string(tarOf(t, file("a", "a")))
	large, some := zipped(t, tarOf(t, file("a", strings.Repeat("x", limit*2/3)))), zipped(t, tarOf(t, file("a", strings.Repeat("x", limit*2/5))))
	link := func(name, to string) entry {
		return entry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}, ""}
	}
	many := []entry{config(0)}
	for i := range maxTarFiles + 1 {
		many = append(many, file(fmt.Sprint(i), ""))
	}
	for name, c := range map[string]struct {
		file []byte
		code string
	}{
		"nothing":                {nil, "IMAGE_FILE"},
		"text":                   {[]byte(strings.Repeat("no tar ", 200)), "IMAGE_FILE"},
		"no manifest":            {tarOf(t, config(0)), "IMAGE_FILE"},
		"two images":             {tarOf(t, config(0), file("manifest.json", `[{"Config":"c.json"},{"Config":"c.json"}]`)), "IMAGE_FILE"},
		"a huge manifest":        {tarOf(t, config(0), file("manifest.json", "["+strings.Repeat(" ", maxManifest)+"]")), "IMAGE_FILE"},
		"two manifests":          {tarOf(t, config(0), manifest(), manifest()), "IMAGE_FILE"},
		"two configs":            {tarOf(t, config(0), file("./c.json", configOf(runtime.GOARCH, 1)), manifest()), "IMAGE_FILE"},
		"no config":              {tarOf(t, manifest()), "IMAGE_FILE"},
		"a config outside":       {tarOf(t, config(0), file("manifest.json", `[{"Config":"../../etc/passwd"}]`)), "IMAGE_FILE"},
		"a layer outside":        {tarOf(t, config(1), manifest("../../../etc/shadow")), "IMAGE_FILE"},
		"an absolute layer":      {tarOf(t, config(1), manifest("/etc/shadow")), "IMAGE_FILE"},
		"a link that leads out":  {tarOf(t, config(1), link("l.tar", "/etc/shadow"), manifest("l.tar")), "IMAGE_FILE"},
		"links in a circle":      {tarOf(t, config(1), link("l.tar", "m.tar"), link("m.tar", "l.tar"), manifest("l.tar")), "IMAGE_FILE"},
		"a hard link":            {tarOf(t, config(1), entry{tar.Header{Name: "l.tar", Typeflag: tar.TypeLink, Linkname: "c.json"}, ""}, manifest("l.tar")), "IMAGE_FILE"},
		"a device":               {tarOf(t, config(1), entry{tar.Header{Name: "l.tar", Typeflag: tar.TypeBlock, Devmajor: 8}, ""}, manifest("l.tar")), "IMAGE_FILE"},
		"a pipe":                 {tarOf(t, config(1), entry{tar.Header{Name: "l.tar", Typeflag: tar.TypeFifo}, ""}, manifest("l.tar")), "IMAGE_FILE"},
		"fewer layers than said": {tarOf(t, config(2), file("l.tar", layer), manifest("l.tar")), "IMAGE_FILE"},
		"too many entries":       {tarOf(t, many...), "IMAGE_FILE"},
		"a layer of text":        {tarOf(t, config(1), file("l.tar", strings.Repeat("no tar ", 200)), manifest("l.tar")), "IMAGE_FILE"},
		"a broken gzip":          {tarOf(t, config(1), file("l.tar", "\x1f\x8b\x00broken"), manifest("l.tar")), "IMAGE_FILE"},
		"zstd":                   {tarOf(t, config(1), file("l.tar", "\x28\xb5\x2f\xfd----"), manifest("l.tar")), "IMAGE_FILE"},
		"zstd behind a tar":      {tarOf(t, config(1), file("l.tar", string(tarOf(t, file("P*M\x18", "")))), manifest("l.tar")), "IMAGE_FILE"},
		"cut off":                {tarOf(t, config(1), file("l.tar", layer), manifest("l.tar"))[:2000], "IMAGE_FILE"},
		"another machine":        {tarOf(t, file("c.json", configOf("s390x", 0)), manifest()), "IMAGE_PLATFORM"},
		"too large":              {tarOf(t, config(1), file("l.tar", strings.Repeat("x", limit+1)), manifest("l.tar")), "IMAGE_TOO_LARGE"},
		"too large unpacked":     {tarOf(t, config(1), file("l.tar", zipped(t, tarOf(t, file("a", strings.Repeat("x", limit+1))))), manifest("l.tar")), "IMAGE_TOO_LARGE"},
		"a bomb after the end":   {tarOf(t, config(1), file("l.tar", zipped(t, append(tarOf(t), make([]byte, 2*limit)...))), manifest("l.tar")), "IMAGE_TOO_LARGE"},
		"holes":                  {tarOf(t, config(1), file("l.tar", string(sparse(t, 1<<40))), manifest("l.tar")), "IMAGE_TOO_LARGE"},
		"layers together": {
			tarOf(t, config(2), file("l.tar", zipped(t, tarOf(t, file("a", strings.Repeat("x", limit*2/3))))), link("m.tar", "l.tar"),
				file("n.tar", zipped(t, tarOf(t, file("b", strings.Repeat("x", limit*2/3))))), manifest("m.tar", "n.tar")), "IMAGE_TOO_LARGE",
		},
		"a layer at two places":   {tarOf(t, config(2), file("l.tar", large), manifest("l.tar", "l.tar")), "IMAGE_TOO_LARGE"},
		"a layer by many names":   {tarOf(t, config(3), link("m.tar", "l.tar"), link("n.tar", "m.tar"), file("l.tar", some), manifest("l.tar", "m.tar", "n.tar")), "IMAGE_TOO_LARGE"},
		"holes behind many names": {tarOf(t, config(2), file("l.tar", string(sparse(t, limit*2/3))), manifest("l.tar", "l.tar")), "IMAGE_TOO_LARGE"},
		"empty files without end": {tarOf(t, config(1), file("l.tar", zipped(t, func() []byte {
			var e []entry
			for i := range limit/fileCost + 1 {
				e = append(e, file(fmt.Sprint(i), ""))
			}
			return tarOf(t, e...)
		}())), manifest("l.tar")), "IMAGE_TOO_LARGE"},
	} {
		err := rewrite(io.Discard, c.file, limit)
		if basilica.CodeOf(err) != c.code || basilica.FixOf(err) == "" {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	// The same parts, honest: a layer twice by a link, files beside the image, names of others.
	var out bytes.Buffer
	honest := tarOf(t, config(2), file("x/layer.tar", layer), link("y/layer.tar", "../x/layer.tar"), file("repositories", `{"basilica/check":{}}`), file("../../etc/cron.d/x", "evil"), manifest("x/layer.tar", "y/layer.tar"))
	if err := rewrite(&out, honest, limit); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	r := tar.NewReader(&out)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names[h.Name] = string(text)
	}
	if len(names) != 3 || names["layer0.tar"] != layer || strings.Contains(names["manifest.json"], "check") || !strings.Contains(names["manifest.json"], `["layer0.tar","layer0.tar"]`) {
		t.Errorf("written: %q", names)
	}
}

// rewrite is what LoadImage does before the engine hears of a file.
func rewrite(w io.Writer, content []byte, limit int64) error {
	s, err := readSaved(bytes.NewReader(content), limit)
	if err != nil {
		return err
	}
	return nameless(w, bytes.NewReader(content), s, limit)
}

// TestBombReachesNoEngine: what is refused half-way through the file leaves nothing in the engine.
func TestBombReachesNoEngine(t *testing.T) {
	t.Parallel()
	e := engine(t)
	e.Images.MaxBytes = 64 << 20
	bomb := sparse(t, 1<<40)
	sum := sha256.Sum256(bomb)
	config := strings.ReplaceAll(configOf(runtime.GOARCH, 1), strings.Repeat("1", 64), hex.EncodeToString(sum[:]))
	content := tarOf(t, file("c.json", config), file("l.tar", string(bomb)), file("manifest.json", `[{"Config":"c.json","Layers":["l.tar"],"RepoTags":["busybox:latest"]}]`))
	_, err := e.LoadImage(t.Context(), bytes.NewReader(content), nil)
	if basilica.CodeOf(err) != "IMAGE_TOO_LARGE" || basilica.KindOf(err) != basilica.Exhausted {
		t.Errorf("bomb: %v", err)
	}
	address := sha256.Sum256([]byte(config))
	if _, err := e.EnsureImage(t.Context(), "sha256:"+hex.EncodeToString(address[:]), nil, nil); basilica.CodeOf(err) != "IMAGE_NOT_FOUND" {
		t.Errorf("the bomb is in the engine: %v", err)
	}
}

// TestLoadProgram also proves that the address is known beforehand: what the engine has is not sent again.
func TestLoadProgram(t *testing.T) {
	t.Parallel()
	e := engine(t)
	program := fmt.Appendf(busybox(t), "%d", time.Now().UnixNano()) // no other test's image
	img, err := newProgramImage("busybox-alone", bytes.NewReader(program), int64(len(program)))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		id, err := e.LoadProgram(t.Context(), "busybox-alone", bytes.NewReader(program), int64(len(program)), nil)
		if err != nil || id != img.id() {
			t.Fatalf("%q, expected %q: %v", id, img.id(), err)
		}
	}
	t.Cleanup(func() {
		if err := e.RemoveImage(context.Background(), img.id()); err != nil {
			t.Error(err)
		}
	})
	end, text, _ := job(t, e, img.id(), nil, "/busybox-alone", "echo", "alone")
	if end.ExitCode != 0 || text != "alone\n" {
		t.Errorf("%+v %q", end, text)
	}
	if _, err := newProgramImage("x", bytes.NewReader(program), int64(len(program))+1); err == nil {
		t.Error("a program that is shorter than said")
	}
}

// shop is a registry in this process that asks who comes, in one of two ways.
type shop struct {
	*httptest.Server
	host string
}

const (
	shopUser = "tenant"
	shopWord = "s3cret-of-the-tenant"
)

func newShop(t *testing.T, how string) *shop {
	t.Helper()
	s := &shop{}
	inner := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, word, basic := r.BasicAuth()
		known := basic && user == shopUser && word == shopWord
		if r.URL.Path == "/token" {
			if !known {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fmt.Fprintf(w, `{"token":"t-%s"}`, r.URL.Query().Get("scope"))
			return
		}
		switch how {
		case "basic":
			if r.Method == http.MethodGet && !known {
				w.Header().Set("WWW-Authenticate", `Basic realm="shop"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
		case "bearer":
			if r.Method == http.MethodGet && r.Header.Get("Authorization") != "Bearer t-repository:private/job:pull" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="shop",scope="repository:private/job:pull"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	s.host = strings.TrimPrefix(s.URL, "http://")
	return s
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (s *shop) send(t *testing.T, method, path, kind string, content []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s", method, path, res.Status)
	}
}

// push puts an image of one program, packed by gzip, into the registry; change may spoil its manifest. It gives the
// reference by digest.
func (s *shop) push(t *testing.T, repo, arch string, program []byte, change func(m map[string]any)) string {
	t.Helper()
	layer := tarOf(t, entry{tar.Header{Name: "busybox", Mode: 0o755}, string(program)}, file("unique", repo+t.Name()+s.URL))
	packed := []byte(zipped(t, layer))
	config := []byte(strings.ReplaceAll(configOf(arch, 1), "sha256:"+strings.Repeat("1", 64), digestOf(layer)))
	for _, b := range [][]byte{packed, config} {
		s.send(t, http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest="+digestOf(b), "application/octet-stream", b)
	}
	m := map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest,
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digestOf(config), "size": len(config)},
		"layers": []map[string]any{{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digestOf(packed), "size": len(packed)}},
	}
	if change != nil {
		change(m)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	s.send(t, http.MethodPut, "/v2/"+repo+"/manifests/latest", typeManifest, text)
	return s.host + "/" + repo + "@" + digestOf(text)
}

func (s *shop) login() *basilica.RegistryLogin {
	return &basilica.RegistryLogin{Server: s.host, Username: shopUser, Password: shopWord}
}

// TestPullWithCredentials: a private image comes with its client's credentials, in both ways that registries ask for
// them, runs, and nobody without them has it while it is here.
func TestPullWithCredentials(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"basic", "bearer"} {
		e := engine(t)
		e.Images = Images{AllowPrivate: true, Dir: t.TempDir()}
		s := newShop(t, how)
		ref := s.push(t, "private/job", runtime.GOARCH, busybox(t), nil)
		id, err := e.EnsureImage(t.Context(), ref, s.login(), nil)
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		t.Cleanup(func() { e.RemoveImage(context.Background(), id) })
		end, text, _ := job(t, e, id, nil, "/busybox", "echo", "pulled")
		if end.ExitCode != 0 || text != "pulled\n" {
			t.Errorf("%s: %+v %q", how, end, text)
		}
		if again, err := e.EnsureImage(t.Context(), ref, s.login(), nil); err != nil || again != id {
			t.Errorf("%s again: %s %v", how, again, err)
		}
		for name, login := range map[string]*basilica.RegistryLogin{
			"nobody":        nil,
			"a wrong word":  {Server: s.host, Username: shopUser, Password: "wrong-" + shopWord},
			"another place": {Server: "registry.example", Username: shopUser, Password: shopWord},
		} {
			_, err := e.EnsureImage(t.Context(), ref, login, nil)
			if basilica.CodeOf(err) != "IMAGE_DENIED" || basilica.KindOf(err) != basilica.Denied || basilica.FixOf(err) == "" {
				t.Errorf("%s, %s: %v", how, name, err)
			}
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), shopWord) {
				t.Errorf("%s, %s: the error tells the password", how, name)
			}
		}
		if left, err := os.ReadDir(e.Images.Dir); err != nil || len(left) != 0 {
			t.Errorf("files of a pull remain: %v %v", left, err)
		}
	}
}

// TestPullRefusals: each way in which an image cannot be pulled has its code.
func TestPullRefusals(t *testing.T) {
	t.Parallel()
	e := engine(t)
	e.Images = Images{AllowPrivate: true, Dir: t.TempDir()}
	s := newShop(t, "open")
	good := s.push(t, "a/good", runtime.GOARCH, nil, nil)
	swapped := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"schemaVersion":2}`) }))
	defer swapped.Close()
	layer := func(m map[string]any) map[string]any { return m["layers"].([]map[string]any)[0] }
	for name, c := range map[string]struct {
		ref  string
		code string
		kind basilica.Kind
	}{
		"no such repository":    {s.host + "/none@sha256:" + strings.Repeat("1", 64), "IMAGE_NOT_FOUND", basilica.NotFound},
		"no such digest":        {s.host + "/a/good@sha256:" + strings.Repeat("1", 64), "IMAGE_NOT_FOUND", basilica.NotFound},
		"no repository's name":  {s.host + "/../a@sha256:" + strings.Repeat("1", 64), "IMAGE_NOT_FOUND", basilica.NotFound},
		"no host's name":        {"host?x:1/a@sha256:" + strings.Repeat("1", 64), "IMAGE_NOT_FOUND", basilica.NotFound},
		"another manifest":      {strings.Replace(good, s.host, strings.TrimPrefix(swapped.URL, "http://"), 1), "IMAGE_DIGEST", basilica.Invalid},
		"another machine":       {s.push(t, "a/arch", "s390x", nil, nil), "IMAGE_PLATFORM", basilica.Invalid},
		"a lie about a size":    {s.push(t, "a/size", runtime.GOARCH, nil, func(m map[string]any) { layer(m)["size"] = 7 }), "IMAGE_DIGEST", basilica.Invalid},
		"larger than may be":    {s.push(t, "a/large", runtime.GOARCH, nil, func(m map[string]any) { layer(m)["size"] = int64(1 << 50) }), "IMAGE_TOO_LARGE", basilica.Exhausted},
		"a layer kept away":     {s.push(t, "a/away", runtime.GOARCH, nil, func(m map[string]any) { layer(m)["urls"] = []string{"http://169.254.169.254/"} }), "IMAGE_MANIFEST", basilica.Invalid},
		"an old manifest":       {s.push(t, "a/old", runtime.GOARCH, nil, func(m map[string]any) { m["schemaVersion"] = 1 }), "IMAGE_MANIFEST", basilica.Invalid},
		"more layers than said": {s.push(t, "a/more", runtime.GOARCH, nil, func(m map[string]any) { m["layers"] = append(m["layers"].([]map[string]any), layer(m)) }), "IMAGE_FILE", basilica.Invalid},
	} {
		_, err := e.EnsureImage(t.Context(), c.ref, nil, nil)
		if basilica.CodeOf(err) != c.code || basilica.KindOf(err) != c.kind || basilica.FixOf(err) == "" {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	s.Close()
	if _, err := e.EnsureImage(t.Context(), good, nil, nil); basilica.CodeOf(err) != "IMAGE_REGISTRY" || basilica.KindOf(err) != basilica.Unavailable {
		t.Errorf("registry away: %v", err)
	}
	// A stranger names the registry: nothing private is dialled for it unless the owner allows that.
	e.Images.AllowPrivate = false
	for _, ref := range []string{good, "169.254.169.254/latest/meta@sha256:" + strings.Repeat("1", 64), "10.0.0.1:5000/a@sha256:" + strings.Repeat("1", 64)} {
		if _, err := e.EnsureImage(t.Context(), ref, nil, nil); basilica.CodeOf(err) != "IMAGE_DENIED" {
			t.Errorf("private registry %s: %v", ref, err)
		}
	}
}

// TestCredentialsFollowNoRedirect: a registry that keeps its blobs elsewhere, even at another port, gives no credentials
// away there.
func TestCredentialsFollowNoRedirect(t *testing.T) {
	t.Parallel()
	e := engine(t)
	e.Images = Images{AllowPrivate: true, Dir: t.TempDir()}
	var asked, told atomic.Int32
	s := newShop(t, "open")
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("Authorization") != "" {
			told.Add(1)
		}
		s.Config.Handler.ServeHTTP(w, r)
	}))
	t.Cleanup(store.Close)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch user, word, _ := r.BasicAuth(); {
		case user != shopUser || word != shopWord:
			w.Header().Set("WWW-Authenticate", `Basic realm="shop"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, store.URL+r.URL.Path, http.StatusTemporaryRedirect)
		default:
			s.Config.Handler.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(front.Close)
	host := strings.TrimPrefix(front.URL, "http://")
	ref := strings.Replace(s.push(t, "a/elsewhere", runtime.GOARCH, nil, nil), s.host, host, 1)
	id, err := e.EnsureImage(t.Context(), ref, &basilica.RegistryLogin{Server: host, Username: shopUser, Password: shopWord}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveImage(t.Context(), id); err != nil {
		t.Error(err)
	}
	if asked.Load() < 2 || told.Load() != 0 {
		t.Errorf("the other place was asked %d times, %d of them with credentials", asked.Load(), told.Load())
	}
}

// TestPullsShareTheDisk: what is set aside for one download is not another's, and images go to the engine one by one.
func TestPullsShareTheDisk(t *testing.T) {
	t.Parallel()
	e := engine(t)
	e.Images = Images{AllowPrivate: true, Dir: t.TempDir()}
	s := newShop(t, "open")
	ref := s.push(t, "a/shared", runtime.GOARCH, nil, nil)
	var st unix.Statfs_t
	if err := unix.Statfs(e.Images.Dir, &st); err != nil {
		t.Fatal(err)
	}
	promised := freeOf(st) * 9 / 10
	done, err := e.promise(promised)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.promise(freeOf(st) / 5); basilica.CodeOf(err) != "IMAGE_TOO_LARGE" {
		t.Errorf("the same disk twice: %v", err)
	}
	// The engine's own disk may be another one; what is promised counts on it all the same.
	info, err := e.api.Info(t.Context(), client.InfoOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var own unix.Statfs_t
	if err := unix.Statfs(info.Info.DockerRootDir, &own); err != nil {
		t.Fatal(err)
	}
	const others = 1 << 30 // what else may come and go on that disk meanwhile
	if left, err := e.imageLimit(t.Context(), 1); err != nil || left > max(0, freeOf(own)-promised)+others {
		t.Errorf("an image may take %d; the engine's disk has %d for images, %d bytes are promised: %v", left, freeOf(own), promised, err)
	}
	done()
	if got := e.downloading.Load(); got != 0 {
		t.Errorf("%d bytes stay set aside", got)
	}
	free, err := e.alone(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if id, err := e.EnsureImage(ctx, ref, nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("loaded beside another: %s %v", id, err)
	}
	free()
	id, err := e.EnsureImage(t.Context(), ref, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveImage(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// TestReferences reads names as engines do.
func TestReferences(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("a", 64)
	for name, want := range map[string]string{
		"busybox": "docker.io library/busybox https://registry-1.docker.io", "a/b:1": "docker.io a/b https://registry-1.docker.io",
		"ghcr.io/x/y": "ghcr.io x/y https://ghcr.io", "localhost/x": "localhost x http://localhost", "[::1]:5000/x": "[::1]:5000 x http://[::1]:5000",
		"127.0.0.2:80/x:tag": "127.0.0.2:80 x http://127.0.0.2:80", "reg:5000/x": "reg:5000 x https://reg:5000",
	} {
		r, err := parseReference(name + digest)
		if got := r.host + " " + r.repo + " " + r.base(); err != nil || got != want {
			t.Errorf("%s: %s %v", name, got, err)
		}
	}
}

// FuzzImageFile gives the door for image files arbitrary bytes: what passes is one image without a name, of no more than
// the limit.
func FuzzImageFile(f *testing.F) {
	var b bytes.Buffer
	if err := BinaryImage(&b, "x", strings.NewReader("hello"), 5); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte("x"))
	f.Add(tarOf(f, file("c.json", configOf(runtime.GOARCH, 1)), file("l.tar", string(sparse(f, 1<<40))), file("manifest.json", `[{"Config":"c.json","Layers":["l.tar"]}]`)))
	f.Fuzz(func(t *testing.T, content []byte) {
		const limit = 1 << 20
		var out bytes.Buffer
		if err := rewrite(&out, content, limit); err != nil {
			if basilica.CodeOf(err) == "" {
				t.Fatalf("a refusal without a code: %v", err)
			}
			return
		}
		s, err := readSaved(bytes.NewReader(out.Bytes()), 2*limit)
		if err != nil {
			t.Fatalf("wrote a file that is refused: %v", err)
		}
		r, sum := tar.NewReader(&out), int64(0)
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("wrote a broken tar file: %v", err)
			}
			sum += h.Size
			if text, err := io.ReadAll(r); err != nil || h.Name == "manifest.json" && bytes.Contains(text, []byte(`"RepoTags":[`)) {
				t.Fatalf("%s: %s %v", h.Name, text, err)
			}
			if h.Name != "config.json" && h.Name != "manifest.json" && s.is[h.Name] != 0 && h.Name != layerName(s.is[h.Name]) {
				t.Fatalf("name %q", h.Name)
			}
		}
		if sum > limit+2*maxImageConfig {
			t.Fatalf("%d bytes written", sum)
		}
	})
}

// FuzzRegistryManifest gives the door for registries' manifests arbitrary bytes.
func FuzzRegistryManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:` + strings.Repeat("a", 64) + `","size":1},"layers":[]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"x"}]}`))
	g := &registryClient{}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := g.readManifest(text)
		if err != nil {
			if basilica.CodeOf(err) == "" {
				t.Fatalf("a refusal without a code: %v", err)
			}
			return
		}
		for _, d := range m.Layers {
			if d.Size < 0 || !imageID.MatchString(d.Digest) || len(d.URLs) > 0 {
				t.Fatalf("layer %+v", d)
			}
		}
	})
}
