package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"basilica"
	"basilica/keys"
	"basilica/node"
	"basilica/subtensor"
)

func subnetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "subnet", Short: "Look at subnets, take part in one, own one, stake",
		Long: `Reads and writes what a Bittensor chain keeps of its subnets. What writes says first what it
costs and asks; --yes answers, --dry-run only says. What spends is signed by a coldkey, all else
by a hotkey.`,
		Args: arguments(cobra.NoArgs),
	}
	cmd.AddCommand(
		subnetListCommand(), subnetShowCommand(), metagraphCommand(), hyperparametersCommand(),
		subnetRegisterCommand(), serveCommand(), weightsCommand(), commitmentCommand(), childrenCommand(),
		subnetCreateCommand(), subnetStartCommand(), tempoCommand(), epochCommand(), stakeCommand(),
	)
	return cmd
}

// chainFlags are those of every verb that only reads the chain.
type chainFlags struct {
	commonFlags
	keys []string // references of the keys in use
}

func (f *chainFlags) register(cmd *cobra.Command) {
	f.registerChain(cmd)
	cmd.Flags().Lookup("log-level").DefValue = "warn"
	f.logLevel = "warn"
}

// on opens the chain for f and closes it.
func (f *chainFlags) on(cmd *cobra.Command, do func(ctx context.Context, chain *subtensor.Client, netuid basilica.NetUID) error) error {
	cfg, deps, err := f.load(cmd)
	if err != nil {
		return err
	}
	if err := cfg.Chain.Validate(); err != nil {
		return err
	}
	chain := subtensor.New(cfg.Chain.Nodes(cfg.Client.DataDir, f.keys...), deps.Log)
	return errors.Join(do(cmd.Context(), chain, cfg.Chain.NetUID), chain.Close())
}

// keyFlags name the keys of a verb. A key is a file, a name in a wallet, or //Name on a development chain.
type keyFlags struct {
	walletFlags
	coldkey string
}

func (f *keyFlags) register(cmd *cobra.Command, coldkey, hotkey bool) {
	f.walletFlags.register(cmd, false)
	if coldkey {
		cmd.Flags().StringVar(&f.coldkey, "coldkey", "", "coldkey: a key file, or //Name on a development chain; default: that of --wallet")
	}
	if hotkey {
		cmd.Flags().StringVar(&f.hotkey, "hotkey", firstOf("default", "BT_WALLET_HOTKEY"),
			"hotkey: its name in --wallet, a key file, or //Name on a development chain; its SS58 address where it does not sign")
	}
}

// signColdkey loads the coldkey.
func (f *keyFlags) signColdkey() (*keys.Pair, error) {
	if f.coldkey != "" {
		return node.LoadKey("--coldkey", f.coldkey)
	}
	w, err := node.OpenWallet(f.path, f.wallet, "")
	if err != nil {
		return nil, err
	}
	return node.LoadKey("--wallet", w.ColdkeyPath())
}

// signHotkey loads the hotkey.
func (f *keyFlags) signHotkey() (*keys.Pair, error) {
	if strings.Contains(f.hotkey, "/") {
		return node.LoadKey("--hotkey", f.hotkey)
	}
	w, err := f.open()
	if err != nil {
		return nil, err
	}
	return node.LoadKey("--hotkey", w.HotkeyPath(f.hotkey))
}

// hotkeyAddress is the hotkey's address; its public part suffices.
func (f *keyFlags) hotkeyAddress() (basilica.Hotkey, error) {
	address, err := f.address("--hotkey", f.hotkey, func(w keys.Wallet) (string, string) { return w.HotkeyPubPath(f.hotkey), w.HotkeyPath(f.hotkey) })
	return basilica.Hotkey(address), err
}

// coldkeyAddress is the coldkey's address; its public part suffices.
func (f *keyFlags) coldkeyAddress() (basilica.Coldkey, error) {
	address, err := f.address("--coldkey", f.coldkey, func(w keys.Wallet) (string, string) { return w.ColdkeyPubPath(), w.ColdkeyPath() })
	return basilica.Coldkey(address), err
}

func (f *keyFlags) address(flag, ref string, files func(keys.Wallet) (public, secret string)) (string, error) {
	if _, err := keys.DecodeSS58(ref); err == nil {
		return ref, nil
	}
	if strings.HasPrefix(ref, "//") {
		pair, err := node.LoadKey(flag, ref)
		if err != nil {
			return "", err
		}
		return pair.SS58(), nil
	}
	if strings.Contains(ref, "/") {
		k, err := node.ReadKeyfile(flag, ref)
		return k.SS58(), err
	}
	w, err := node.OpenWallet(f.path, f.wallet, ref)
	if err != nil {
		return "", err
	}
	public, secret := files(w)
	k, err := node.ReadKeyfile(flag, public)
	if errors.Is(err, fs.ErrNotExist) {
		k, err = node.ReadKeyfile(flag, secret)
	}
	return k.SS58(), err
}

// actFlags are those of every verb that writes to the chain.
type actFlags struct {
	chainFlags
	keyFlags
	yes, dryRun, shield bool
}

// register adds the flags; who signs decides which keys the verb needs.
func (f *actFlags) register(cmd *cobra.Command, coldkey, hotkey bool) {
	f.chainFlags.register(cmd)
	f.keyFlags.register(cmd, coldkey, hotkey)
	fs := cmd.Flags()
	fs.BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	fs.BoolVar(&f.dryRun, "dry-run", false, "say what it would cost and do, and send nothing")
	fs.BoolVar(&f.shield, "shield", false, "send it sealed through MevShield: nobody reads it before it has its place in a block")
}

// on opens the chain for f and the keys of the verb, and closes it.
func (f *actFlags) on(cmd *cobra.Command, do func(ctx context.Context, chain *subtensor.Client, netuid basilica.NetUID) error) error {
	f.keys = []string{f.coldkey, f.hotkey}
	return f.chainFlags.on(cmd, do)
}

func (f *actFlags) options() []subtensor.SubmitOption {
	if f.shield {
		return []subtensor.SubmitOption{subtensor.Shielded()}
	}
	return nil
}

// acted is what a verb that writes prints with --json.
type acted struct {
	Quote  subtensor.Quote  `json:"quote"`
	Result *subtensor.Done  `json:"result"` // null where nothing was sent
	Commit *commitOfWeights `json:"commit,omitempty"`
}

// act says what an action costs, asks, sends it, and says what came of it.
func (f *actFlags) act(cmd *cobra.Command, chain *subtensor.Client, a subtensor.Action, signer keys.Signer, more ...subtensor.SubmitOption) error {
	v, err := f.perform(cmd, chain, a, signer, more...)
	if err != nil {
		return err
	}
	return show(cmd, v, func(w io.Writer) error {
		if v.Result != nil {
			describeDone(w, *v.Result)
		}
		return nil
	})
}

// perform is act without its last word: more goes with the transaction, beside what the flags say.
func (f *actFlags) perform(cmd *cobra.Command, chain *subtensor.Client, a subtensor.Action, signer keys.Signer, more ...subtensor.SubmitOption) (acted, error) {
	opts := append(f.options(), more...)
	q, err := chain.Quote(cmd.Context(), a, signer, opts...)
	if err != nil {
		return acted{}, err
	}
	v := acted{Quote: q}
	describeQuote(cmd.ErrOrStderr(), q)
	if f.dryRun {
		return v, nil
	}
	if err := f.confirm(cmd); err != nil {
		return v, err
	}
	opts = append(opts, subtensor.Intend(func(s basilica.Signed) error {
		fmt.Fprintf(cmd.ErrOrStderr(), "sending %s, nonce %d: it takes effect up to block %d or never\n", s.Extrinsic, s.Nonce, s.Death-1)
		return nil
	}))
	done, err := chain.Do(cmd.Context(), a, signer, opts...)
	if err != nil {
		return v, err
	}
	v.Result = &done
	if u := done.Unread; u != nil {
		report(&basilica.Error{Kind: basilica.Unavailable, Code: u.Code, Sentence: u.Sentence, Fix: u.Fix}, false, nil, cmd.ErrOrStderr())
	}
	return v, nil
}

// confirm asks whether to go on. Without a terminal there is nobody to ask.
func (f *actFlags) confirm(cmd *cobra.Command) error {
	if f.yes {
		return nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return basilica.E(basilica.Invalid, "CONFIRMATION_NEEDED", "nothing was sent: this asks before it goes on, and there is no terminal to ask on", "read what it costs above, then repeat it with --yes")
	}
	fmt.Fprint(cmd.ErrOrStderr(), "Go on? [y/N] ")
	said := make(chan string, 1)
	go func() {
		// The end of the terminal counts as no.
		line, _ := bufio.NewReader(in).ReadString('\n')
		said <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-cmd.Context().Done():
		return cmd.Context().Err()
	case word := <-said:
		if word == "y" || word == "yes" {
			return nil
		}
	}
	return basilica.E(basilica.Denied, "NOT_CONFIRMED", "nothing was sent: the answer was no", "repeat it and answer y, or give --yes")
}

// describeQuote says before anything is sent what it is, who pays how much and what is left.
func describeQuote(w io.Writer, q subtensor.Quote) {
	fmt.Fprintf(w, "%s\n\n", basilica.OneLine(q.Action))
	line := func(name, text string) { fmt.Fprintf(w, "  %-9s %s\n", name, text) }
	via := ""
	if q.Shielded {
		via = ", sealed in MevShield.submit_encrypted"
	}
	line("call", q.Call+via)
	line("signed by", fmt.Sprintf("%s, balance %s TAO", q.Signer, q.Balance.TAO()))
	if q.Cost > 0 {
		line(q.Use, q.Cost.TAO()+" TAO")
	}
	fee := q.Fee.TAO() + " TAO"
	if q.Fee == 0 {
		fee = "none"
	}
	line("fee", fee)
	if q.Cost+q.Fee > 0 {
		line("left", q.Left().TAO()+" TAO")
	}
	for _, n := range q.Notes {
		line("note", basilica.OneLine(n))
	}
	fmt.Fprintln(w)
}

// describeDone says what came of an action.
func describeDone(w io.Writer, d subtensor.Done) {
	fmt.Fprintf(w, "done: %s\n", basilica.OneLine(d.Action))
	line := func(name string, value any) { fmt.Fprintf(w, "%-20s %s\n", name, basilica.OneLine(fmt.Sprint(value))) }
	line("block", fmt.Sprintf("%d %s", d.Inclusion.Block, d.Inclusion.BlockHash))
	line("extrinsic", d.Inclusion.Extrinsic)
	if d.Unread != nil {
		line("result", "not read")
		return
	}
	line("fee", d.Fee.TAO()+" TAO")
	for _, f := range d.Facts {
		line(strings.ReplaceAll(f.Name, "_", " "), inWords(f.Value))
	}
}

// inWords is a fact's value for a person.
func inWords(v any) any {
	switch x := v.(type) {
	case basilica.Rao:
		return x.TAO()
	case basilica.Axon:
		return axonText(x)
	case []subtensor.Child:
		return childrenText(x)
	case *subtensor.PendingChildren:
		if x == nil {
			return "none"
		}
		return fmt.Sprintf("%s from block %d on", childrenText(x.Children), x.From)
	case *subtensor.Commitment:
		return commitmentText(x)
	case []basilica.Weight:
		return weightsText(x)
	}
	return v
}
