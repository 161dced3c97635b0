package docker

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"basilica"
	"basilica/internal/provoke"
)

// installed puts programs on PATH that answer --version as the real ones of those releases do.
func installed(t *testing.T, answers map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, said := range answers {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\ncat <<'END'\n"+said+"\nEND\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":/bin:/usr/bin")
}

// toolkit is the answer of both parts of one release.
func toolkit(release string) map[string]string {
	return map[string]string{
		"nvidia-ctk":           "NVIDIA Container Toolkit CLI version " + release + "\ncommit: f202b80a9b9d0db00d9b1d73c0128c8962c55f4d",
		"nvidia-container-cli": "cli-version: " + release + "\nlib-version: " + release + "\nbuild date: 2025-01-23T10:53+00:00\nbuild compiler: x86_64-linux-gnu-gcc-7 7.5.0\nbuild platform: x86_64",
	}
}

// TestToolkitFlaws: each release has the flaws that its bulletins name, up to the first release without it.
func TestToolkitFlaws(t *testing.T) {
	for release, want := range map[string]string{
		"1.19.1":      "",
		"1.20.0":      "",
		"1.19.0":      "CVE-2026-24260",
		"1.19.1-rc.1": "CVE-2026-24260",
		"1.17.8":      "CVE-2026-24260",
		"1.17.7":      "CVE-2025-23266 CVE-2025-23267 CVE-2026-24260",
		"1.17.3":      "CVE-2025-23359 CVE-2025-23266 CVE-2025-23267 CVE-2026-24260",
		"1.16.2":      "CVE-2024-0134 CVE-2024-0135 CVE-2024-0136 CVE-2024-0137 CVE-2025-23359 CVE-2025-23266 CVE-2025-23267 CVE-2026-24260",
	} {
		installed(t, toolkit(release))
		found := FindToolkit(t.Context())
		var names []string
		for _, f := range found.Flaws() {
			names = append(names, f.CVE)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %q, want %q", release, got, want)
		}
		if len(found.Parts) != 2 {
			t.Errorf("%s: found %s", release, found)
		}
		err := found.Escapes()
		if want == "" && (err != nil || found.Usable() != nil) {
			t.Errorf("%s: %v", release, err)
		}
		if want != "" {
			provoke.Refused(t, err, "TOOLKIT_ESCAPE")
			provoke.Refused(t, found.Usable(), "TOOLKIT_ESCAPE")
			if !strings.Contains(err.Error(), "CVE-2026-24260") || !strings.Contains(basilica.FixOf(err), "1.19.1") {
				t.Errorf("%s: %v, fix %q", release, err, basilica.FixOf(err))
			}
		}
	}
	// The parts are packages of their own: the older one counts.
	mixed := toolkit("1.19.1")
	mixed["nvidia-container-cli"] = toolkit("1.17.3")["nvidia-container-cli"]
	installed(t, mixed)
	if err := FindToolkit(t.Context()).Escapes(); err == nil || !strings.Contains(err.Error(), "nvidia-container-cli 1.17.3") {
		t.Error(err)
	}
}

// TestToolkitRefusals are those that are no escape.
func TestToolkitRefusals(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if found := FindToolkit(t.Context()); found.String() != "none" || found.Escapes() != nil {
		t.Error(found)
	}
	provoke.Refused(t, FindToolkit(t.Context()).Usable(), "TOOLKIT_ABSENT")
	installed(t, map[string]string{"nvidia-ctk": "what version?"})
	provoke.Refused(t, FindToolkit(t.Context()).Usable(), "TOOLKIT_UNKNOWN")
	if err := os.Chmod(filepath.Join(strings.Split(os.Getenv("PATH"), ":")[0], "nvidia-ctk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if found := FindToolkit(t.Context()); len(found.Parts) > 0 && found.Parts[0].Err == nil {
		t.Errorf("a program that cannot be run has a version: %+v", found)
	}
}

// TestFlawsAreNamed: names as the register writes them, each once, and every fix at or under what is needed.
func TestFlawsAreNamed(t *testing.T) {
	var names []string
	for _, f := range toolkitFlaws {
		if !regexp.MustCompile(`^CVE-20\d\d-\d{4,}$`).MatchString(f.CVE) || f.What == "" || slices.Contains(names, f.CVE) || ToolkitNeeded().Before(f.Fixed) {
			t.Errorf("%+v", f)
		}
		names = append(names, f.CVE)
	}
}

func FuzzParseRelease(f *testing.F) {
	for _, s := range []string{"1.19.1", "cli-version: 1.17.8\nlib-version: 1.17.8", "NVIDIA Container Toolkit CLI version 1.18.0-rc.2", "v0.0.0~rc1", "999999.0.1+x", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRelease(text)
		if err != nil {
			return
		}
		again, err := ParseRelease(fmt.Sprint(r))
		if r[1] < 1<<20 && r[2] < 1<<20 && (err != nil || again != r) {
			t.Fatalf("%q: %v, again %v (%v)", text, r, again, err)
		}
	})
}

// TestAboutEngine: what the engine says of itself, and what makes it unfit though it answers.
func TestAboutEngine(t *testing.T) {
	about, err := answering(t, `{"ServerVersion":"28.2.2","Driver":"overlay2","DockerRootDir":"/var/lib/docker","CgroupVersion":"2","KernelVersion":"6.1.0","ContainersRunning":3,"RuncCommit":{"ID":"v1.1.12-0-g51d5e94"}}`).About(t.Context())
	if want := (About{"28.2.2", "overlay2", "/var/lib/docker", "2", "6.1.0", 3, "v1.1.12-0-g51d5e94"}); err != nil || about != want {
		t.Errorf("%+v, %v", about, err)
	}
	about, err = answering(t, `{"ServerVersion":"19.03.15","Driver":"overlay2"}`).About(t.Context())
	provoke.Refused(t, err, "ENGINE_OLD")
	if about.Version != "19.03.15" {
		t.Errorf("%+v", about)
	}
	_, err = answering(t, `{"ServerVersion":"20.10.24+dfsg1","Driver":"vfs"}`).About(t.Context())
	provoke.Refused(t, err, "ENGINE_STORAGE")
}
