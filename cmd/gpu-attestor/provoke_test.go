package main

import (
	"path/filepath"
	"testing"

	"basilica/attestor"
	"basilica/internal/provoke"
)

func TestOwnRefusals(t *testing.T) {
	provoke.Each(t, map[string]func(*testing.T) error{
		"ATTEST_BINDING": func(t *testing.T) error {
			t.Setenv(attestor.EnvBinding, `{"session_id":"no hex"}`)
			cmd := root()
			cmd.SetArgs([]string{"prove", "--key", filepath.Join(t.TempDir(), "key.pem")})
			return cmd.ExecuteContext(t.Context())
		},
		// A machine that computes another value is one for which the specification names another value.
		"SELFTEST_FAILED": func(t *testing.T) error {
			right := vectors["wroot_2"]
			vectors["wroot_2"] = vectors["yroot_8"]
			defer func() { vectors["wroot_2"] = right }()
			_, err := run(t, "selftest")
			return err
		},
	})
}
