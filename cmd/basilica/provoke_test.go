package main

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"basilica"
	"basilica/admin"
	"basilica/internal/provoke"
	"basilica/internal/pty"
	"basilica/node"
)

// undone is a miner whose drains somebody undoes at once.
type undone struct{ admin.Fleet }

func (undone) Drain(context.Context, basilica.ExecutorID, bool, time.Duration) error { return nil }

func (undone) Member(_ context.Context, id basilica.ExecutorID) (basilica.MemberView, error) {
	return basilica.MemberView{Member: basilica.Member{Executor: id}}, nil
}

func TestRefusals(t *testing.T) {
	provoke.Each(t, map[string]func(*testing.T) error{
		"CONFIRMATION_NEEDED": func(*testing.T) error {
			cmd := subnetRegisterCommand()
			cmd.SetIn(&bytes.Buffer{})
			return (&actFlags{}).confirm(cmd)
		},
		"FILE_UNWRITTEN": func(t *testing.T) error {
			return writeSupport(filepath.Join(t.TempDir(), "absent", "support.json"), node.DoctorConfig{}, node.Diagnosis{})
		},
		"DRAIN_UNDONE": func(t *testing.T) error {
			dir := t.TempDir()
			ln, err := admin.Listen(dir)
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- admin.NewServer(undone{}, slog.New(slog.DiscardHandler)).Serve(ctx, ln) }()
			defer func() {
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			cmd := fleetCommand()
			cmd.SetOut(&bytes.Buffer{})
			cmd.SetArgs([]string{"drain", "box", "--wait", "--data", dir})
			return cmd.ExecuteContext(t.Context())
		},
		"NOT_CONFIRMED": func(t *testing.T) error {
			person, program := pty.Open(t)
			if _, err := person.WriteString("n\n"); err != nil {
				t.Fatal(err)
			}
			cmd := subnetRegisterCommand()
			cmd.SetContext(t.Context())
			cmd.SetIn(program)
			cmd.SetErr(&bytes.Buffer{})
			return (&actFlags{}).confirm(cmd)
		},
		"RECORD_UNREADABLE": func(t *testing.T) error {
			_, err := judgeFile(filepath.Join(t.TempDir(), "none.gpow1"))
			return err
		},
	})
}
