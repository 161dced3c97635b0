package docker

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"

	"basilica"
)

// Caps of an image in a file.
const (
	maxManifest    = 1 << 20
	maxImageConfig = 4 << 20
	maxImageTexts  = 16 << 20 // of all entries that may be the config, while nobody knows yet which is
	maxTarFiles    = 4096     // entries of the file itself
	maxLayers      = 127      // more than an engine takes
	maxImageFiles  = 4 << 20  // entries of all layers together
	fileCost       = 4 << 10  // disk that a file or folder takes beside its bytes
)

func badImage(why string) error {
	return basilica.E(basilica.Invalid, "IMAGE_FILE", "the image file cannot be loaded: "+why, "make it with docker save IMAGE -o FILE, one image per file")
}

// source is an image's file or layer, and remembers what reading it failed with: readers of archives tell that in words of
// their own, or not at all.
type source struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// Seek implements io.Seeker, as far as what is read does: a tar file's entries are skipped by it.
func (s *source) Seek(offset int64, whence int) (int64, error) {
	if seeker, ok := s.r.(io.Seeker); ok {
		return seeker.Seek(offset, whence)
	}
	return 0, errors.ErrUnsupported
}

// unread says why what came from the source could not be read to its end, where a reader of archives gave err: only what was
// read well and is no archive is the file's fault.
func (s *source) unread(what string, err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(s.err, io.ErrUnexpectedEOF):
		return badImage(what + " is cut off")
	case errors.Is(s.err, io.ErrClosedPipe), errors.Is(s.err, context.Canceled), errors.Is(s.err, context.DeadlineExceeded):
		return fmt.Errorf("read image: %w", s.err) // who ended it knows why
	case s.err != nil:
		return basilica.E(basilica.Internal, "IMAGE_UNREAD", fmt.Sprintf("the image could not be read on this machine: %v", s.err), "look at the machine's disk (dmesg), or run the job on another machine")
	case errors.Is(err, tar.ErrHeader):
		return badImage(what + " is no tar file")
	case errors.Is(err, gzip.ErrHeader):
		return badImage(what + " is no gzip file")
	}
	return badImage(fmt.Sprintf("%s is damaged: %v", what, err))
}

func tooLarge(limit int64) error {
	return basilica.E(basilica.Exhausted, "IMAGE_TOO_LARGE", fmt.Sprintf("the image takes more than the %d MiB of disk that this machine gives an image", limit>>20), "make the image smaller, or use a machine with more free disk")
}

// savedImage is one entry of manifest.json in a docker-save file.
type savedImage struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

// savedFile is what the first reading of a docker-save file finds: which of its entries hold the image.
type savedFile struct {
	config []byte
	layers []string       // names of entries, in order; one entry may serve twice
	is     map[string]int // name of an entry that is a layer: the first place where it stands
}

// readSaved reads a docker-save file once and insists on one image, whose config and layers are plain files of it. Links,
// by which docker save names a layer twice, are resolved here and go no further.
func readSaved(file io.Reader, limit int64) (*savedFile, error) {
	from := &source{r: file}
	r := tar.NewReader(from)
	files, links := map[string]int64{}, map[string]string{}
	contents := map[string][]byte{}
	var images []savedImage
	var total, texts int64
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, from.unread("it", err)
		}
		if n >= maxTarFiles {
			return nil, badImage(fmt.Sprintf("it has more than %d entries", maxTarFiles))
		}
		name := path.Clean(h.Name)
		if _, twice := files[name]; twice || links[name] != "" {
			return nil, badImage(fmt.Sprintf("it has two entries %.80q", name))
		}
		switch h.Typeflag {
		case tar.TypeDir:
			continue
		case tar.TypeSymlink:
			links[name] = path.Join(path.Dir(name), h.Linkname)
			continue
		case tar.TypeReg:
		default:
			return nil, badImage(fmt.Sprintf("its entry %.80q is neither file, folder nor link", name))
		}
		if total += h.Size; total > limit || total < 0 {
			return nil, tooLarge(limit)
		}
		files[name] = h.Size
		switch {
		case name == "manifest.json":
			if err := json.NewDecoder(io.LimitReader(r, maxManifest)).Decode(&images); from.err != nil {
				return nil, from.unread("it", err)
			} else if err != nil {
				return nil, badImage("its manifest.json cannot be read")
			}
		case h.Size <= maxImageConfig && texts+h.Size <= maxImageTexts: // one of them is the config; the manifest comes last and says which
			start, err := io.ReadAll(io.LimitReader(r, 1))
			if err == nil && string(start) == "{" {
				var rest []byte
				if rest, err = io.ReadAll(r); err == nil {
					contents[name] = append(start, rest...)
					texts += h.Size
				}
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return nil, from.unread("it", err)
			}
		}
	}
	switch {
	case images == nil:
		return nil, badImage("it has no manifest.json")
	case len(images) != 1:
		return nil, badImage(fmt.Sprintf("it holds %d images", len(images)))
	}
	return images[0].resolve(files, links, contents)
}

// resolve finds the entries that a manifest names.
func (img savedImage) resolve(files map[string]int64, links map[string]string, contents map[string][]byte) (*savedFile, error) {
	s := &savedFile{config: contents[path.Clean(img.Config)], is: map[string]int{}}
	if s.config == nil {
		return nil, badImage(fmt.Sprintf("its config %.80q is missing", img.Config))
	}
	if len(img.Layers) > maxLayers {
		return nil, badImage(fmt.Sprintf("it has more than %d layers", maxLayers))
	}
	for i, l := range img.Layers {
		name := path.Clean(l)
		for range 8 {
			to, ok := links[name]
			if !ok {
				break
			}
			name = to
		}
		if _, ok := files[name]; !ok || name == "manifest.json" {
			return nil, badImage(fmt.Sprintf("its layer %.80q is missing", l))
		}
		if _, ok := s.is[name]; !ok {
			s.is[name] = i
		}
		s.layers = append(s.layers, name)
	}
	return s, checkConfig(s.config, len(s.layers))
}

// checkConfig checks that an image is for this machine and has as many layers as came with it.
func checkConfig(text []byte, layers int) error {
	var c struct {
		OS     string `json:"os"`
		Arch   string `json:"architecture"`
		RootFS struct {
			Type    string   `json:"type"`
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return badImage("its config cannot be read")
	}
	if c.OS != "linux" || c.Arch != runtime.GOARCH {
		return wrongPlatform(c.OS + "/" + c.Arch)
	}
	if len(c.RootFS.DiffIDs) != layers {
		return badImage(fmt.Sprintf("its config counts %d layers, its manifest %d", len(c.RootFS.DiffIDs), layers))
	}
	for _, id := range c.RootFS.DiffIDs {
		if !imageID.MatchString(id) {
			return badImage("its config names a layer by no SHA-256")
		}
	}
	return nil
}

func wrongPlatform(is string) error {
	return basilica.E(basilica.Invalid, "IMAGE_PLATFORM", fmt.Sprintf("the image is for %.60s and this machine is linux/%s", is, runtime.GOARCH), "build or pull the image for linux/"+runtime.GOARCH+" (docker build --platform)")
}

// imageWriter writes a docker-save file that an engine may be given: a config, layers that were weighed on the way, and a
// manifest that names nothing, for a stranger's file must not take the name of another's image.
type imageWriter struct {
	out   *tar.Writer
	scale scale
}

func newImageWriter(w io.Writer, limit int64) *imageWriter {
	return &imageWriter{out: tar.NewWriter(w), scale: scale{limit: limit}}
}

func layerName(i int) string { return fmt.Sprintf("layer%d.tar", i) }

// layer copies one layer. What it weighs unpacked is known only as it passes, so an engine must not have begun to unpack
// before the end of the file.
func (w *imageWriter) layer(i int, r io.Reader, size int64) error {
	if err := w.out.WriteHeader(&tar.Header{Name: layerName(i), Size: size, Mode: 0o644}); err != nil {
		return fmt.Errorf("copy layer: %w", err)
	}
	passing := io.TeeReader(r, w.out)
	if err := w.scale.weigh(passing); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, passing); err != nil {
		return fmt.Errorf("copy layer: %w", err)
	}
	return nil
}

// close writes config and manifest; place gives for each layer the number under which it was written.
func (w *imageWriter) close(config []byte, place []int) error {
	img := savedImage{Config: "config.json"}
	for _, i := range place {
		img.Layers = append(img.Layers, layerName(i))
	}
	manifest, err := json.Marshal([]savedImage{img})
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	if err := writeFile(w.out, img.Config, config); err != nil {
		return err
	}
	if err := writeFile(w.out, "manifest.json", manifest); err != nil {
		return err
	}
	return w.out.Close()
}

// nameless copies what s found of a docker-save file, and nothing else of it.
func nameless(w io.Writer, file io.Reader, s *savedFile, limit int64) error {
	from, out := &source{r: file}, newImageWriter(w, limit)
	r := tar.NewReader(from)
	place, named := make([]int, len(s.layers)), map[int]int{}
	for i, name := range s.layers {
		place[i] = s.is[name]
		named[place[i]]++
	}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return from.unread("it", err)
		}
		if i, ok := s.is[path.Clean(h.Name)]; ok && h.Typeflag == tar.TypeReg {
			before := out.scale
			if err := out.layer(i, r, h.Size); err != nil {
				return err
			}
			if err := out.scale.again(before, named[i]-1); err != nil {
				return err
			}
		}
	}
	return out.close(s.config, place)
}

// scale weighs layers before an engine unpacks them: ten thousand bytes of a compressed or sparse archive can hold a full
// disk.
type scale struct {
	limit int64
	bytes int64 // of files as they claim them, with what each takes besides
	read  int64 // of archives, decompressed
	files int
}

// weigh reads one layer's archive, plain or gzip, to its end.
func (s *scale) weigh(layer io.Reader) error {
	const what = "a layer"
	from := &source{r: layer}
	buffered := bufio.NewReaderSize(from, 64<<10)
	start, err := buffered.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return from.unread(what, err)
	}
	var plain io.Reader = buffered
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		unzipped, err := gzip.NewReader(buffered)
		if err != nil {
			return from.unread(what, err)
		}
		plain = unzipped
	case bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd}), skippable(start), bytes.HasPrefix(start, []byte("BZh")), bytes.HasPrefix(start, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return badImage("a layer is compressed by another method than gzip, whose weight is not known beforehand")
	}
	counted := countReader{plain, s}
	r := tar.NewReader(counted)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if s.over() {
			return tooLarge(s.limit)
		}
		if err != nil {
			return from.unread(what, err)
		}
		s.files++
		if h.Size < 0 || h.Size > s.limit {
			return tooLarge(s.limit)
		}
		if s.bytes += h.Size + fileCost; s.over() {
			return tooLarge(s.limit)
		}
	}
	// What follows an archive's end is kept by engines too.
	if _, err := io.Copy(io.Discard, counted); err != nil && !s.over() {
		return from.unread(what, err)
	}
	if s.over() {
		return tooLarge(s.limit)
	}
	return nil
}

// again adds what was weighed since before, that many times: an engine unpacks a layer at every place that names it.
func (s *scale) again(before scale, times int) error {
	layer := scale{bytes: s.bytes - before.bytes, read: s.read - before.read, files: s.files - before.files}
	for range times {
		s.bytes, s.read, s.files = s.bytes+layer.bytes, s.read+layer.read, s.files+layer.files
		if s.over() {
			return tooLarge(s.limit)
		}
	}
	return nil
}

// skippable says whether a layer begins with a frame that zstd skips (RFC 8878, section 3.1.2). Engines take it for zstd and
// unpack what follows the frame, and it may be the name of an honest archive's first file too, behind which that hides.
func skippable(start []byte) bool {
	return len(start) >= 4 && start[0]&0xf0 == 0x50 && bytes.Equal(start[1:4], []byte{0x2a, 0x4d, 0x18})
}

func (s *scale) over() bool { return s.bytes > s.limit || s.read > s.limit || s.files > maxImageFiles }

// countReader ends once a scale has more than its limit.
type countReader struct {
	r io.Reader
	s *scale
}

// Read implements io.Reader.
func (c countReader) Read(p []byte) (int, error) {
	if c.s.over() {
		return 0, tooLarge(c.s.limit)
	}
	n, err := c.r.Read(p)
	c.s.read += int64(n)
	return n, err
}

func writeFile(w *tar.Writer, name string, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if _, err := w.Write(content); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// BinaryImage writes a docker-save file of an image that holds one static program of size bytes at /NAME and nothing else.
func BinaryImage(w io.Writer, name string, program io.ReadSeeker, size int64) error {
	img, err := newProgramImage(name, program, size)
	if err != nil {
		return err
	}
	return img.write(w)
}

// programImage is the image of one static program at /NAME and nothing else.
type programImage struct {
	program io.ReadSeeker
	size    int64
	head    []byte // of the layer, before the program
	tail    []byte // and behind it
	config  []byte
}

// newProgramImage reads the program once, for the digest of the layer that it becomes.
func newProgramImage(name string, program io.ReadSeeker, size int64) (*programImage, error) {
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o755}); err != nil {
		return nil, fmt.Errorf("write layer: %w", err)
	}
	const block = 512
	p := &programImage{program: program, size: size, head: head.Bytes(), tail: make([]byte, (block-size%block)%block+2*block)}
	sum := sha256.New()
	layer, err := p.layer()
	if err != nil {
		return nil, err
	}
	if n, err := io.Copy(sum, layer); err != nil {
		return nil, fmt.Errorf("read the image's program: %w", err)
	} else if n != p.layerSize() {
		return nil, fmt.Errorf("the image's program has %d bytes, not %d", n-int64(len(p.head)+len(p.tail)), size)
	}
	p.config, err = json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": []string{"/" + name}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum.Sum(nil))}},
	})
	if err != nil {
		return nil, fmt.Errorf("encode image: %w", err)
	}
	return p, nil
}

func (p *programImage) layer() (io.Reader, error) {
	if _, err := p.program.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the image's program: %w", err)
	}
	return io.MultiReader(bytes.NewReader(p.head), io.LimitReader(p.program, p.size), bytes.NewReader(p.tail)), nil
}

func (p *programImage) layerSize() int64 { return int64(len(p.head)) + p.size + int64(len(p.tail)) }

// id is the content address that an engine gives the image: the digest of its configuration.
func (p *programImage) id() string {
	sum := sha256.Sum256(p.config)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// write writes the image in docker-save form.
func (p *programImage) write(w io.Writer) error {
	out := newImageWriter(w, p.size+layerSlack)
	layer, err := p.layer()
	if err != nil {
		return err
	}
	if err := out.layer(0, layer, p.layerSize()); err != nil {
		return err
	}
	return out.close(p.config, []int{0})
}

// layerSlack is what an archive of one file takes over the file's bytes, at most.
const layerSlack = 64 << 10
