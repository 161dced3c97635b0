package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/subtensor"
)

func subnetRegisterCommand() *cobra.Command {
	var (
		at      actFlags
		maxBurn string
		root    bool
	)
	cmd := withJSON(&cobra.Command{
		Use: "register --max-burn TAO",
		Example: `  basilica subnet register --network finney --netuid 39 --wallet main --hotkey miner1 --max-burn 0.5
  basilica subnet register --network local --netuid 39 --coldkey //Bob --hotkey //Bob//miner --max-burn 0.5 --yes
  basilica subnet register --network finney --root --wallet main --hotkey validator --max-burn 0.5`,
		Short: "Register a hotkey, at a price of at most so much",
		Long: `Registers a hotkey on the subnet. The price is burned from the coldkey's balance; it moves with
demand, and where it is above --max-burn when the call takes effect, the chain refuses it and only
the fee is lost.

With --root the hotkey gets a place on the root subnet. Runtimes up to 425 give it by stake and burn
nothing: there --max-burn is refused. Later ones burn a price, by a call that the chain knows no cap
for: the price is read again right before the call is sent, and refused above --max-burn.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !root {
				if err := requireFlags(cmd, "max-burn"); err != nil {
					return err
				}
			}
			var most *basilica.Rao
			if cmd.Flags().Changed("max-burn") {
				amount, err := parseTAO(maxBurn)
				if err != nil {
					return wrongUsage(cmd, fmt.Errorf("--max-burn: %w", err))
				}
				most = &amount
			}
			return at.on(cmd, func(_ context.Context, chain *subtensor.Client, netuid basilica.NetUID) error {
				hotkey, err := at.hotkeyAddress()
				if err != nil {
					return err
				}
				payer, err := at.signColdkey()
				if err != nil {
					return err
				}
				if !root {
					return at.act(cmd, chain, subtensor.RegisterLimit(netuid, hotkey, *most), payer)
				}
				a := subtensor.RootRegister(hotkey, most)
				// Some time may have gone over the answer of who was asked.
				return at.act(cmd, chain, a, payer, subtensor.Intend(func(basilica.Signed) error {
					_, err := chain.Quote(cmd.Context(), a, payer, at.options()...)
					return err
				}))
			})
		},
	})
	at.register(cmd, true, true)
	cmd.Flags().StringVar(&maxBurn, "max-burn", "", "highest price in TAO, e.g. 1.5")
	cmd.Flags().BoolVar(&root, "root", false, "register on the root subnet instead")
	return cmd
}

func serveCommand() *cobra.Command {
	var (
		at          actFlags
		certificate string
		version     uint32
		protocol    uint8
		prometheus  bool
	)
	cmd := withJSON(&cobra.Command{
		Use:   "serve ADDRESS:PORT",
		Short: "Publish where a neuron listens",
		Long: `Publishes an axon, or with --prometheus where its metrics are. The hotkey signs and pays nothing.
Address 0.0.0.0 with port 1 takes an axon back. A running miner publishes its own axon: this is for others.`,
		Example: `  basilica subnet serve --network finney --netuid 39 --wallet main --hotkey miner1 203.0.113.7:8091
  basilica subnet serve --network local --netuid 39 --hotkey //Bob//miner 127.0.0.2:8091 --tls-cert axon.pem --yes`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf(cmd, "prometheus", "tls-cert"); err != nil {
				return err
			}
			to, err := netip.ParseAddrPort(args[0])
			if err != nil {
				return wrongUsage(cmd, fmt.Errorf("%.60q is not an address and port such as 203.0.113.7:8091", args[0]))
			}
			axon := basilica.Axon{Addr: to, Version: version, Protocol: protocol}
			if certificate != "" {
				if axon.TLSKey, err = tlsKey(certificate); err != nil {
					return err
				}
			}
			return at.on(cmd, func(_ context.Context, chain *subtensor.Client, netuid basilica.NetUID) error {
				hotkey, err := at.signHotkey()
				if err != nil {
					return err
				}
				a := subtensor.ServeAxon(netuid, axon)
				if prometheus {
					a = subtensor.ServePrometheus(netuid, to, version)
				}
				return at.act(cmd, chain, a, hotkey)
			})
		},
	})
	at.register(cmd, false, true)
	f := cmd.Flags()
	f.StringVar(&certificate, "tls-cert", "", "certificate (PEM) whose P-256 key is published beside the address")
	f.Uint32Var(&version, "axon-version", 1, "version number to publish")
	f.Uint8Var(&protocol, "protocol", 4, "protocol number to publish")
	f.BoolVar(&prometheus, "prometheus", false, "publish where metrics are, not an axon")
	return cmd
}

// tlsKey is the public key of a certificate file as the chain keeps it: x and y of a point on P-256.
func tlsKey(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err == nil {
		block, _ := pem.Decode(raw)
		if block == nil {
			err = errors.New("no PEM block")
		} else if raw, err = pointOf(block.Bytes); err == nil {
			return raw, nil
		}
	}
	return nil, basilica.E(basilica.Invalid, "AXON_TLS_KEY", fmt.Sprintf("--tls-cert: %s is no certificate of a P-256 key", path), "give the PEM file that the axon presents").With(err)
}

func pointOf(der []byte) ([]byte, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("another kind of key")
	}
	point, err := key.ECDH()
	if err != nil {
		return nil, err
	}
	if b := point.Bytes(); len(b) == 65 {
		return b[1:], nil // without the mark of an uncompressed point
	}
	return nil, errors.New("another curve")
}
