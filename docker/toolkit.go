package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"basilica"
)

// Release is the version of a release: major, minor, patch.
type Release [3]int

// Before says whether r is older than other.
func (r Release) Before(other Release) bool { return slices.Compare(r[:], other[:]) < 0 }

// String writes it with dots.
func (r Release) String() string { return fmt.Sprintf("%d.%d.%d", r[0], r[1], r[2]) }

// Flaw is a published flaw of the NVIDIA container toolkit, by which the engine gives GPUs to containers.
type Flaw struct {
	CVE    string
	Fixed  Release // the first release without it
	Escape bool    // a container may reach what is the host's: code, files, devices or network
	What   string
}

// toolkitFlaws is the one table of them, from the vendor's security bulletins 5582, 5585, 5599, 5616, 5659 and 5850
// (github.com/NVIDIA/product-security). For CVE-2024-0135 bulletin 5599 names 1.17.1, the vendor's page on the GPU operator
// 1.17.3; the later one stands here. How the toolkit is configured is not asked: some flaws need a setting that is not the
// default, or are in one of its two modes alone, and either can change after the look.
var toolkitFlaws = [...]Flaw{
	{"CVE-2024-0132", Release{1, 16, 2}, true, "an image reaches the host's file system while it is mounted"},
	{"CVE-2024-0133", Release{1, 16, 2}, false, "an image makes empty files on the host"},
	{"CVE-2024-0134", Release{1, 17, 0}, false, "an image makes files on the host whose names it cannot choose"},
	{"CVE-2024-0135", Release{1, 17, 3}, true, "an image changes a program of the host"},
	{"CVE-2024-0136", Release{1, 17, 1}, true, "an image reads and writes devices of the host"},
	{"CVE-2024-0137", Release{1, 17, 1}, true, "an image runs code in the host's network"},
	{"CVE-2025-23359", Release{1, 17, 4}, true, "an image reaches the host's file system while it is mounted"},
	{"CVE-2025-23266", Release{1, 17, 8}, true, "a container's environment runs code as root of the host in a hook"},
	{"CVE-2025-23267", Release{1, 17, 8}, false, "an image has a hook follow its links: files are damaged or the service ends"},
	{"CVE-2026-24260", Release{1, 19, 1}, true, "a race between check and use gives code on the host"},
}

// ToolkitNeeded is the first release of the toolkit without a flaw of the table.
func ToolkitNeeded() (r Release) {
	for _, f := range toolkitFlaws {
		if r.Before(f.Fixed) {
			r = f.Fixed
		}
	}
	return r
}

// toolkitParts are the programs whose flaws these are: each is a package of its own and may be older than the others.
var toolkitParts = [...]string{"nvidia-ctk", "nvidia-container-cli"}

// Part is one program of the toolkit.
type Part struct {
	Program string
	Version Release // of nothing known: zero
	Err     error   // why the version is not known
}

// Toolkit is what is installed of the NVIDIA container toolkit.
type Toolkit struct{ Parts []Part }

const (
	toolkitTime = 10 * time.Second // for one program to say its version
	maxVersion  = 16 << 10         // bytes of that
)

// FindToolkit asks each part that is on PATH for its version. Without any part the list is empty.
func FindToolkit(ctx context.Context) Toolkit {
	var t Toolkit
	for _, name := range toolkitParts {
		path, err := exec.LookPath(name)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		p := Part{Program: name, Err: err}
		if err == nil {
			p.Version, p.Err = askVersion(ctx, path)
		}
		t.Parts = append(t.Parts, p)
	}
	return t
}

func askVersion(ctx context.Context, path string) (Release, error) {
	ctx, cancel := context.WithTimeout(ctx, toolkitTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.WaitDelay = time.Second
	out := &firstBytes{left: maxVersion}
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		return Release{}, fmt.Errorf("%s --version: %w", path, err)
	}
	return ParseRelease(out.b.String())
}

// firstBytes keeps the beginning of what is written.
type firstBytes struct {
	b    bytes.Buffer
	left int
}

// Write never fails.
func (w *firstBytes) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	w.b.Write(p[:n])
	return len(p), nil
}

// releaseText is a version in a program's answer: after the word version, else the first one that stands by itself.
var releaseText = regexp.MustCompile(`(?i)(?:version:?\s+|^|\s)v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})([-~+.][0-9A-Za-z.~+-]*)?`)

// preview marks what comes before the release whose numbers it has.
var preview = regexp.MustCompile(`(?i)^[-~.]?(rc|alpha|beta|dev|pre)`)

// ParseRelease reads the first version in a program's answer to --version. A preview counts as older than its release.
func ParseRelease(text string) (Release, error) {
	m := releaseText.FindStringSubmatch(text)
	if m == nil {
		return Release{}, fmt.Errorf("%.80q holds no version", strings.TrimSpace(text))
	}
	var r Release
	for i := range r {
		n, err := strconv.Atoi(m[i+1])
		if err != nil {
			return Release{}, fmt.Errorf("read version %.40q: %w", m[0], err)
		}
		r[i] = n
	}
	if preview.MatchString(m[4]) {
		r = r.previous()
	}
	return r, nil
}

// previous is a release right before r, for comparisons alone.
func (r Release) previous() Release {
	switch {
	case r[2] > 0:
		r[2]--
	case r[1] > 0:
		r[1], r[2] = r[1]-1, 1<<20
	case r[0] > 0:
		r[0], r[1], r[2] = r[0]-1, 1<<20, 1<<20
	}
	return r
}

// Flaws lists what is published of the installed parts.
func (t Toolkit) Flaws() (out []Flaw) {
	for _, f := range toolkitFlaws {
		if slices.ContainsFunc(t.Parts, func(p Part) bool { return p.Err == nil && p.Version.Before(f.Fixed) }) {
			out = append(out, f)
		}
	}
	return out
}

// String names the installed parts.
func (t Toolkit) String() string {
	var words []string
	for _, p := range t.Parts {
		if p.Err != nil {
			words = append(words, p.Program+" of unknown version")
			continue
		}
		words = append(words, p.Program+" "+p.Version.String())
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

// Escapes refuses a toolkit by which a container may get out of its bounds: TOOLKIT_ESCAPE.
func (t Toolkit) Escapes() error {
	var names []string
	for _, f := range t.Flaws() {
		if f.Escape {
			names = append(names, f.CVE)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return basilica.E(basilica.Unavailable, "TOOLKIT_ESCAPE", fmt.Sprintf("the NVIDIA container toolkit of this machine (%s) lets a container out of its bounds: %s", t, strings.Join(names, ", ")), t.upgrade())
}

// Usable refuses a toolkit that is missing, that lets a container out, or that does not say its version.
func (t Toolkit) Usable() error {
	if len(t.Parts) == 0 {
		return basilica.E(basilica.NotFound, "TOOLKIT_ABSENT", "the NVIDIA container toolkit is not installed, so the engine can give no GPU to a container", t.upgrade())
	}
	if err := t.Escapes(); err != nil {
		return err
	}
	for _, p := range t.Parts {
		if p.Err != nil {
			return basilica.E(basilica.Unavailable, "TOOLKIT_UNKNOWN", p.Program+" of the NVIDIA container toolkit does not say its version", "run "+p.Program+" on this machine and mend what it says, or install the toolkit again").With(p.Err)
		}
	}
	return nil
}

func (Toolkit) upgrade() string {
	return fmt.Sprintf("install nvidia-container-toolkit and libnvidia-container-tools %s or later, then restart Docker", ToolkitNeeded())
}
