package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/keys"
	"basilica/node"
	"basilica/subtensor"
)

func subnetCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "subnet", Short: "Take part in a subnet", Args: arguments(cobra.NoArgs)}
	cmd.AddCommand(subnetRegisterCommand())
	return cmd
}

func subnetRegisterCommand() *cobra.Command {
	var (
		at                       commonFlags
		coldkey, hotkey, maxBurn string
	)
	cmd := withJSON(&cobra.Command{
		Use:     "register --coldkey KEY --hotkey KEY --max-burn TAO",
		Example: `  basilica subnet register --coldkey ~/.bittensor/wallets/default/coldkey --hotkey ~/.bittensor/wallets/default/hotkeys/default --max-burn 0.5`,
		Short:   "Register a hotkey, at a price of at most so much",
		Long: `Registers a hotkey on the subnet. The price is burned from the coldkey's balance; it moves with
demand, and where it is above --max-burn when the call takes effect, the chain refuses it and only
the fee is lost.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := requireFlags(cmd, "coldkey", "hotkey", "max-burn"); err != nil {
				return err
			}
			most, err := parseTAO(maxBurn)
			if err != nil {
				return wrongUsage(cmd, fmt.Errorf("--max-burn: %w", err))
			}
			cfg, deps, err := at.load(cmd)
			if err != nil {
				return err
			}
			if err := cfg.Chain.Validate(); err != nil {
				return err
			}
			payer, err := node.LoadKey("--coldkey", coldkey)
			if err != nil {
				return err
			}
			address, err := hotkeyAddress(hotkey)
			if err != nil {
				return err
			}
			chain := subtensor.New(subtensor.Config{URL: cfg.Chain.URL}, deps.Log)
			uid, in, err := chain.Register(cmd.Context(), cfg.Chain.NetUID, address, payer, most)
			if err = errors.Join(err, chain.Close()); err != nil {
				return err
			}
			v := struct {
				UID       basilica.UID       `json:"uid"`
				NetUID    basilica.NetUID    `json:"netuid"`
				Hotkey    basilica.Hotkey    `json:"hotkey"`
				Inclusion basilica.Inclusion `json:"inclusion"`
			}{uid, cfg.Chain.NetUID, address, in}
			return show(cmd, v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "registered %s on subnet %d as uid %d in block %d\n", v.Hotkey, v.NetUID, v.UID, in.Block)
				return err
			})
		},
	})
	at.registerChain(cmd)
	f := cmd.Flags()
	f.StringVar(&coldkey, "coldkey", "", "key that pays: a key file, or //Name on a development chain")
	f.StringVar(&hotkey, "hotkey", "", "key to register: an SS58 address, a key file, or //Name")
	f.StringVar(&maxBurn, "max-burn", "", "highest price in TAO, e.g. 1.5")
	return cmd
}

func hotkeyAddress(ref string) (basilica.Hotkey, error) {
	if !strings.Contains(ref, "/") {
		if _, err := keys.DecodeSS58(ref); err == nil {
			return basilica.Hotkey(ref), nil
		}
	}
	pair, err := node.LoadKey("--hotkey", ref)
	if err != nil {
		return "", err
	}
	return basilica.Hotkey(pair.SS58()), nil
}
