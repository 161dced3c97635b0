package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/attest"
	"basilica/attestor"
)

func proveCommand(o *options) *cobra.Command {
	var unbound bool
	var device string
	cmd := &cobra.Command{
		Use: "prove", Short: "Answer one challenge on stdin and stdout", Args: cobra.NoArgs,
		Long: "Answer one GPOW1 challenge on stdin and stdout. " + attestor.EnvBinding + ` holds what the SSH server knows of the
channel, as JSON: {"session_id","host_key","miner_hotkey","validator_hotkey"}, all hex. A challenge that is bound to
another channel is refused.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var binding *attest.Binding
			text := os.Getenv(attestor.EnvBinding)
			switch {
			case text != "":
				var err error
				if binding, err = attestor.ParseChannel(text); err != nil {
					return basilica.E(basilica.Invalid, "ATTEST_BINDING", "the channel's description cannot be read", "start gpu-attestor through the executor").With(err)
				}
			case !unbound:
				return basilica.E(basilica.Invalid, "ATTEST_UNBOUND", "nothing says which channel this proof runs over",
					"start gpu-attestor through the executor, or behind a foreign SSH server with --unbound")
			}
			return o.prove(cmd, binding, device)
		},
	}
	cmd.Flags().StringVar(&device, "device", "", "cuda or software; empty: both, as far as they are there")
	cmd.Flags().BoolVar(&unbound, "unbound", false, "take the validator's binding as sent (behind an SSH server that tells its children nothing)")
	return cmd
}

func (o *options) prove(cmd *cobra.Command, binding *attest.Binding, device string) (err error) {
	key, err := o.loadKey()
	if err != nil {
		return err
	}
	m, err := o.machine(key.SPKI(), device)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	if len(m.devices) == 0 {
		return basilica.E(basilica.NotFound, "NO_DEVICES", "this machine has no device to prove",
			"use a machine with a GPU, or --software-gpus N where the validator allows software devices")
	}
	digest, err := buildDigest()
	if err != nil {
		return err
	}
	caps := uint32(0)
	if binding != nil {
		caps = 1 << 2
	}
	quote := quoter(key)
	if quote != nil {
		caps |= 1 << 0
	}
	sign, err := signer(key)
	if err != nil {
		return err
	}
	// A read of stdin ends with nothing but its other end: a signal has to reach who waits behind it, memory and all.
	in, arrived := io.Pipe()
	stdin := os.Stdin
	go func() {
		_, err := io.Copy(arrived, stdin)
		arrived.CloseWithError(err)
	}()
	defer context.AfterFunc(cmd.Context(), func() { arrived.CloseWithError(cmd.Context().Err()) })()
	rw := struct {
		io.Reader
		io.Writer
	}{in, os.Stdout}
	_, err = attestor.Prove(cmd.Context(), rw, attestor.Config{
		Binding: binding,
		Greeting: attest.Greeting{
			Version: version, BuildSHA256: digest, KernelsSHA256: m.kernels, Driver: m.driver,
			SPKI: key.SPKI(), TPM: kindOf(key) == attestor.KeyTPM, Caps: caps,
		},
		Devices: m.devices, Sign: sign, Quote: quote, Now: time.Now, Log: o.log(),
	})
	return err
}
