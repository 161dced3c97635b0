//go:build adversary

package main

import (
	"testing"

	"basilica/attestor"
	"basilica/internal/provoke"
)

func TestCheatThatNobodyKnows(t *testing.T) {
	t.Setenv(attestor.EnvCheat, "honesty:1")
	_, err := cheat()
	provoke.Refused(t, err, "CHEAT_SPEC")
}
