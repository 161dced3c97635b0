package basilica_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"basilica"
)

func TestFileNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "a/b.txt": true, "ünï.dat": true, ".hidden": true, "a b": true,
		"": false, "/a": false, "a/": false, "a//b": false, "..": false, "a/../b": false, ".": false, "a\\b": false,
		"a\x00b": false, "a\nb": false, "\xff": false, strings.Repeat("x", 256): false,
	} {
		if basilica.ValidFileName(name) != ok {
			t.Errorf("%q: valid is %v", name, !ok)
		}
	}
	twice := []basilica.TaskFile{{Name: "A"}, {Name: "a"}}
	if err := basilica.ValidateFiles(twice); basilica.CodeOf(err) != "FILE_TWICE" {
		t.Errorf("names that differ by case alone: %v", err)
	}
}

func TestSpecValidate(t *testing.T) {
	good := func() basilica.TaskSpec {
		return basilica.TaskSpec{Image: "busybox", Command: []string{"true"}, Env: map[string]string{"A_1": "x"}}
	}
	s := good()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*basilica.TaskSpec){
		"image":    func(s *basilica.TaskSpec) { s.Image = "" },
		"blob":     func(s *basilica.TaskSpec) { s.Image = "blob:sha256:abc" },
		"gpus":     func(s *basilica.TaskSpec) { s.GPUs = -1 },
		"many":     func(s *basilica.TaskSpec) { s.GPUs = basilica.MaxTaskGPUs + 1 },
		"memory":   func(s *basilica.TaskSpec) { s.MemoryBytes = -1 },
		"timeout":  func(s *basilica.TaskSpec) { s.TimeoutSeconds = 1 << 40 },
		"variable": func(s *basilica.TaskSpec) { s.Env["A=B"] = "" },
		"zero":     func(s *basilica.TaskSpec) { s.Env["A"] = "\x00" },
		"input":    func(s *basilica.TaskSpec) { s.Inputs = []basilica.TaskFile{{Name: "../etc/passwd"}} },
		"name":     func(s *basilica.TaskSpec) { s.Name = "a\nlevel=ERROR" },
		"label":    func(s *basilica.TaskSpec) { s.Labels = map[string]string{"k": "\x1b[2J"} },
		"key":      func(s *basilica.TaskSpec) { s.Labels = map[string]string{"a=b": ""} },
	} {
		s := good()
		spoil(&s)
		if basilica.KindOf(s.Validate()) != basilica.Invalid {
			t.Errorf("%s: %v", name, s.Validate())
		}
	}
}

// TestTaskStatesEndOnce: no walk of moves leaves a terminal state.
func TestTaskStatesEndOnce(t *testing.T) {
	states := []basilica.TaskState{
		basilica.TaskQueued, basilica.TaskPlaced, basilica.TaskPulling, basilica.TaskRunning, basilica.TaskSucceeded,
		basilica.TaskFailed, basilica.TaskCancelled, basilica.TaskTimedOut, basilica.TaskLost,
	}
	rapid.Check(t, func(t *rapid.T) {
		s := basilica.TaskQueued
		for _, to := range rapid.SliceOf(rapid.SampledFrom(states)).Draw(t, "walk") {
			next, err := s.Step(to)
			if s.Terminal() && next != s {
				t.Fatalf("left %s for %s", s, next)
			}
			if err == nil && next != to {
				t.Fatalf("asked for %s, came to %s", to, next)
			}
			s = next
		}
	})
	if _, err := basilica.TaskQueued.Step(basilica.TaskSucceeded); basilica.KindOf(err) != basilica.Conflict {
		t.Fatalf("queued to succeeded: %v", err)
	}
}

func TestErrorKinds(t *testing.T) {
	cause := errors.New("socket closed")
	err := fmt.Errorf("fetch metagraph: %w", basilica.E(basilica.Unavailable, "CHAIN_AWAY", "the chain does not answer", "check the URL").With(cause))
	if basilica.KindOf(err) != basilica.Unavailable || basilica.CodeOf(err) != "CHAIN_AWAY" || basilica.FixOf(err) != "check the URL" || !errors.Is(err, cause) {
		t.Fatalf("%v", err)
	}
	if basilica.KindOf(cause) != basilica.Internal || basilica.KindOf(nil) != basilica.Internal {
		t.Fatal("an error without a kind is internal")
	}
	for k := basilica.Internal; k <= basilica.Unavailable; k++ {
		if basilica.ParseKind(k.String()) != k {
			t.Fatalf("kind %s does not survive its name", k)
		}
	}
}
