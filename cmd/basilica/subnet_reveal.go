package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/keys"
	"basilica/node"
	"basilica/subtensor"
)

// opening is a commit to weights on its way from the transaction to where it is opened. One behind a salt stands in a file all
// that time: without the salt nobody can open it. All but what is not exported stands there.
type opening struct {
	Genesis   basilica.Hash         `json:"genesis"`
	NetUID    basilica.NetUID       `json:"netuid"`
	Mechanism uint8                 `json:"mechanism"`
	Hotkey    basilica.Hotkey       `json:"hotkey"`
	Until     basilica.BlockNumber  `json:"until"` // last block that can take the commit
	Weights   []basilica.Weight     `json:"weights"`
	Commit    basilica.WeightCommit `json:"commit"` // block 0 before it is known

	chain  *subtensor.Client
	signer *keys.Pair
	path   string    // of the file; "" where there is no salt
	words  io.Writer // what is said on the way
	kept   bool
	away   bool // the node did not answer at the last head
}

// opening prepares to follow a commit that is not sent yet.
func (f *actFlags) opening(cmd *cobra.Command, chain *subtensor.Client, to subtensor.Target, hotkey *keys.Pair, weights []basilica.Weight, commit basilica.WeightCommit) (*opening, error) {
	genesis, err := chain.Genesis(cmd.Context())
	if err != nil {
		return nil, err
	}
	o := &opening{
		Genesis: genesis, NetUID: to.NetUID, Mechanism: to.Mechanism, Hotkey: basilica.Hotkey(hotkey.SS58()), Weights: weights, Commit: commit,
		chain: chain, signer: hotkey, words: cmd.ErrOrStderr(),
	}
	if commit.Kind != basilica.CommitSalt {
		return o, nil
	}
	cfg, _, err := f.load(cmd)
	if err != nil {
		return nil, err
	}
	dir, err := node.DataDir(cfg.Client.DataDir)
	o.path = filepath.Join(dir, "commits", commit.Hash.String()+".json")
	return o, err
}

// reveal goes on with a commit of an earlier call.
func (f *actFlags) reveal(cmd *cobra.Command, chain *subtensor.Client, path string) error {
	hotkey, err := f.signHotkey()
	if err != nil {
		return err
	}
	genesis, err := chain.Genesis(cmd.Context())
	if err != nil {
		return err
	}
	o := &opening{chain: chain, signer: hotkey, path: path, words: cmd.ErrOrStderr(), kept: true}
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, o)
	}
	switch {
	case err != nil:
	case o.Commit.Kind != basilica.CommitSalt || len(o.Commit.Salt) == 0:
		err = errors.New("it holds no salt")
	case o.Genesis != genesis:
		err = fmt.Errorf("it is of the chain %s, this one is %s", o.Genesis, genesis)
	case string(o.Hotkey) != hotkey.SS58():
		err = fmt.Errorf("it is of the hotkey %s, this one is %s", o.Hotkey, hotkey.SS58())
	}
	if err != nil {
		return basilica.E(basilica.Invalid, "COMMIT_FILE", fmt.Sprintf("--reveal: there is no commit to go on with in %s", path),
			"give the file that `basilica subnet weights` named, and the same network and hotkey").With(err)
	}
	if err := o.wait(cmd.Context()); err != nil {
		return err
	}
	c := o.Commit.Public()
	return show(cmd, c, func(w io.Writer) error {
		describeOpened(w, *c)
		return nil
	})
}

// keep writes the commit down before it is sent.
func (o *opening) keep(s basilica.Signed) error {
	if o.path == "" {
		return nil
	}
	o.Until = s.Death - 1
	if err := o.write(); err != nil {
		return basilica.E(basilica.Invalid, "COMMIT_FILE", fmt.Sprintf("the commit cannot be kept in %s, and without its salt nobody can open it: nothing was sent", o.path),
			"set client.data_dir to a directory that this user may write").With(err)
	}
	o.kept = true
	o.say()
	return nil
}

func (o *opening) write() error {
	raw, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.path), 0o700); err != nil {
		return err
	}
	return node.WriteFile(o.path, append(raw, '\n'))
}

// say names the file, and what to do with it.
func (o *opening) say() {
	fmt.Fprintf(o.words, "the salt is kept in %s\nif this ends before the commit is opened: basilica subnet weights --reveal %s, with the same network and hotkey\n", o.path, o.path)
}

// refused forgets a commit that the chain did not take; where that is not certain it stays.
func (o *opening) refused(err error) {
	// Codes of the chain's own refusals have a dot.
	if code := basilica.CodeOf(err); o.kept && strings.Contains(code, ".") {
		o.forget()
	} else if o.kept {
		o.say()
	}
}

func (o *opening) forget() {
	if err := os.Remove(o.path); err != nil {
		fmt.Fprintf(o.words, "%s may be removed: %v\n", o.path, err)
	}
}

// wait follows the commit until it is opened or lost, and removes its file then.
func (o *opening) wait(ctx context.Context) error {
	if o.kept && o.Commit.Block > 0 {
		if err := o.write(); err != nil {
			fmt.Fprintf(o.words, "block %d of the commit is not noted in %s: %v\n", o.Commit.Block, o.path, err)
		}
	}
	over, err := o.follow(ctx)
	switch {
	case o.kept && over:
		o.forget()
	case o.kept:
		o.say()
	}
	return err
}

var errOver = errors.New("nothing more comes of the commit")

// follow looks at the commit block by block, and reveals one that only its committer can. over says that nothing more comes of it.
func (o *opening) follow(ctx context.Context) (over bool, err error) {
	err = o.chain.WatchHeads(ctx, func(h basilica.Header) error {
		if h.Number < o.Commit.Block {
			return nil
		}
		err := o.look(ctx)
		unanswered := basilica.KindOf(err) == basilica.Unavailable || errors.Is(err, context.DeadlineExceeded)
		if !unanswered || ctx.Err() != nil {
			o.away = false
			return err
		}
		if !o.away {
			fmt.Fprintf(o.words, "block %d: %s; asking again at the next ones\n", h.Number, basilica.OneLine(err.Error()))
		}
		o.away = true
		return nil
	})
	if !errors.Is(err, errOver) {
		return false, err
	}
	if r := o.Commit.Reason; o.Commit.State == basilica.CommitLost && r != nil {
		return true, basilica.E(basilica.Unavailable, "COMMIT_LOST", r.Sentence, "set the weights again")
	}
	return true, nil
}

// look asks once what has become of the commit; errOver where that is its end.
func (o *opening) look(ctx context.Context) error {
	to := subtensor.Target{NetUID: o.NetUID, Mechanism: o.Mechanism}
	if o.Commit.Block == 0 {
		held, head, err := o.chain.HoldsCommit(ctx, to, o.Hotkey, o.Commit.Hash)
		switch {
		case err != nil:
			return err
		case held:
			o.Commit.Block = head // from which on it is followed
		case head < o.Until:
			return nil
		default:
			o.Commit.State = basilica.CommitLost
			o.Commit.Reason = &basilica.Reason{Code: "COMMIT_LOST", Sentence: fmt.Sprintf("the chain lists no such commit at block %d: it was never taken, or has been opened or has expired since", head)}
			return errOver
		}
	}
	commit, err := o.chain.FollowMechanismCommit(ctx, to, o.Hotkey, o.Commit, o.Weights)
	if err != nil {
		return err
	}
	o.Commit = commit
	switch {
	case commit.State == basilica.CommitDue:
		_, err := o.chain.RevealMechanismWeights(ctx, to, o.signer, commit, o.Weights)
		return err
	case !commit.Open():
		return errOver
	}
	return nil
}

func describeOpened(w io.Writer, c basilica.WeightCommit) {
	switch c.State {
	case basilica.CommitRevealed:
		fmt.Fprintf(w, "%-20s block %d\n", "opened", c.Revealed)
	case basilica.CommitReplaced:
		fmt.Fprintf(w, "%-20s block %d, by a later commit\n", "replaced", c.Revealed)
	}
}
