package testnet

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"basilica"
	"basilica/docker"
	"basilica/keys"
	"basilica/node"
	"basilica/pallet"
	"basilica/pki"
	"basilica/scale"
)

// Some points a process meets only after a long life, or when another dies in the same second. What brings it there is done
// here to a process that is to die at one.

// provoked says that a point is met only when another role dies or has work of a kind, in the right moment.
func provoked(p crashPoint) bool {
	return strings.HasPrefix(p.name, "subtensor.author_submitExtrinsic.") || strings.HasPrefix(p.name, "store.Executor.RevokeGrants.") || rotates(p)
}

// rotates says that a role comes to a point when the miner replaces its authority's keys.
func rotates(p crashPoint) bool {
	for _, name := range map[string][]string{
		"miner":    {"store.Miner.RenewCertificate.", "store.Miner.RevokeTokens.", "miner.authority.write.", "wire.server.Renew.", "admin.server.POST./rotation."},
		"executor": {"wire.client.Renew.", "node.file.rename."},
	}[p.role] {
		if strings.HasPrefix(p.name, name) {
			return true
		}
	}
	return false
}

// age gives a role that is not running the files of one that is old, or a configuration for its next start alone: the
// function that it gives takes that back.
func (c *crashCampaign) age(m *mortal, p crashPoint) (back func() error, err error) {
	back = func() error { return nil }
	switch {
	case strings.HasPrefix(p.name, "store.Executor.ForgetRevoked."): // a validator left long ago
		return back, execute(c.ctx, filepath.Join(c.network.Dir(), m.name, "executor.sqlite"), `INSERT INTO revoked_grants (id, at) VALUES ('long ago', 1) ON CONFLICT DO NOTHING`)
	case strings.HasPrefix(p.name, "store.Validator.sweep."): // a disk lost a file
		kept, err := filepath.Glob(filepath.Join(c.network.Dir(), "validator", "evidence", "*.gpow1"))
		if err != nil || len(kept) == 0 {
			return back, err
		}
		return back, os.Remove(kept[0])
	case m.role == "miner" && strings.HasPrefix(p.name, "store.Blobs.remove."): // it died between a blob and the row that owns it
		content := []byte("nobody's, " + time.Now().String())
		name := fmt.Sprintf("%x", sha256.Sum256(content))
		dir := filepath.Join(c.network.Dir(), "miner", "blobs", name[:2])
		return back, errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, name), content, 0o600))
	case strings.HasPrefix(p.name, "store.Miner.DisownBlobs."): // a disk lost a blob
		return back, execute(c.ctx, filepath.Join(c.network.Dir(), "miner", "miner.sqlite"), `INSERT INTO blob_owners (client, digest, size, since) VALUES ('somebody', randomblob(32), 1, 0)`)
	case strings.HasPrefix(p.name, "store.Miner.RevokeGrant."):
		return func() error { return distrust(m, false) }, distrust(m, true)
	case m.role == "miner" && rotates(p):
		return back, c.rotatedLongAgo()
	}
	return back, nil
}

// rotatedLongAgo has a miner that does not run begin its next life with keys that may be replaced again.
func (c *crashCampaign) rotatedLongAgo() error {
	path := filepath.Join(c.network.Dir(), "miner", "pki", "authority.pem")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, switchedAt.ReplaceAll(text, []byte("Switched: 2020-01-01T00:00:00Z")), 0o600)
}

var switchedAt = regexp.MustCompile(`(?m)^Switched: \S+$`)

// distrust has a miner that does not run ask for more stake than any validator has, or for none.
func distrust(miner *mortal, on bool) error {
	return rewrite(miner.role, miner.config, func(c *node.Config) {
		c.Miner.MinValidatorStake = 0
		if on {
			c.Miner.MinValidatorStake = 1 << 60
		}
	})
}

// execute changes the database of a role that is not running.
func execute(ctx context.Context, path, text string) error {
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path}).String()+"?_pragma=busy_timeout(10000)") // the audit looks at it too
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, text)
	return errors.Join(err, db.Close())
}

// provoke brings a process to a point, which it could hardly meet by itself. It returns at once.
func (c *crashCampaign) provoke(m *mortal, p crashPoint) error {
	switch {
	case strings.HasPrefix(p.name, "subtensor.author_submitExtrinsic."):
		return c.interrupt()
	case strings.HasPrefix(p.name, "store.Executor.RevokeGrants."):
		c.withdraw(m)
	case strings.HasPrefix(p.name, "store.Executor.Quarantine."):
		ended := m.life()
		c.provoking.Go(func() {
			if err := c.linger(m.name, ended); err != nil && c.ctx.Err() == nil {
				c.t.Error(err)
			}
		})
	case strings.HasPrefix(p.name, "store.Book.SaveCommit."):
		c.sealed.Store(true)
	case m.role == "miner" && rotates(p):
		c.provoking.Go(func() { c.rotate(m) })
	case rotates(p):
		c.renewal(m)
	}
	return nil
}

// interrupt has the chain take the next transaction and die before it says so: whoever sent it has to send it again. c.alone is
// held for writing then.
func (c *crashCampaign) interrupt() error {
	chain := c.launch.role("localnet")
	chain.own.Lock()
	if err := chain.tell("run", "subtensor.server.author_submitAndWatchExtrinsic.after"); err != nil {
		chain.own.Unlock()
		return err
	}
	c.provoking.Go(func() {
		defer chain.own.Unlock()
		if !chain.died(firstPatience + pointPatience) {
			if dead, err := c.disarm(chain); !dead && err == nil {
				return
			}
		}
		if err := chain.revive(c.ctx); err != nil {
			c.t.Error(err)
		}
	})
	return nil
}

// withdraw has the miner refuse the validator, and with it all that was granted to it, until a machine has died of that. c.alone
// is held for writing then.
func (c *crashCampaign) withdraw(m *mortal) {
	miner, ended := c.launch.role("miner"), m.life()
	miner.own.Lock()
	c.provoking.Go(func() {
		defer miner.own.Unlock()
		miner.kill()
		err := errors.Join(distrust(miner, true), miner.revive(c.ctx))
		over(ended, firstPatience+pointPatience)
		miner.kill()
		if err := errors.Join(err, distrust(miner, false), miner.revive(c.ctx)); err != nil && c.ctx.Err() == nil {
			c.t.Error(err)
		}
	})
}

// renewal has the miner replace its keys, until a machine has died of that. c.alone is held for writing then.
func (c *crashCampaign) renewal(m *mortal) {
	miner, ended := c.launch.role("miner"), m.life()
	miner.own.Lock()
	c.provoking.Go(func() {
		defer miner.own.Unlock()
		miner.kill()
		if err := errors.Join(c.rotatedLongAgo(), miner.revive(c.ctx)); err != nil {
			if c.ctx.Err() == nil {
				c.t.Error(err)
			}
			return
		}
		c.rotate(miner)
		over(ended, firstPatience+pointPatience)
	})
}

// over waits for the end of a life.
func over(ended <-chan struct{}, patience time.Duration) bool {
	select {
	case <-ended:
		return true
	case <-time.After(patience):
		return false
	}
}

// rotate asks until the miner, which may have to start yet, replaces its keys: one that comes back still forgets the last ones.
func (c *crashCampaign) rotate(miner *mortal) {
	ctx, cancel := context.WithTimeout(c.ctx, startPatience)
	defer cancel()
	asking := time.Time{}
	for rest(ctx, 50*time.Millisecond) == nil {
		switch _, ready := miner.living(); {
		case !ready && !asking.IsZero(): // it died
			return
		case !ready:
			continue
		case asking.IsZero():
			asking = time.Now()
		case time.Since(asking) > firstPatience: // they were replaced not long ago
			return
		}
		if v, err := c.admin.RotateKeys(ctx); err == nil && v.Phase == string(pki.PhaseAnnounced) {
			return
		}
	}
}

// linger has every container of a machine leave a process behind when it ends, until the machine's life does.
func (c *crashCampaign) linger(machine string, ended <-chan struct{}) (err error) {
	left := map[string]*exec.Cmd{}
	defer func() {
		for id, cmd := range left {
			if cmd.Process != nil {
				err = errors.Join(err, cmd.Process.Kill())
				_ = cmd.Wait() // by the signal
			}
			err = errors.Join(err, os.Remove(lingering(id)))
		}
	}()
	for deadline := time.Now().Add(firstPatience + pointPatience); !over(ended, 50*time.Millisecond) && time.Now().Before(deadline); {
		containers, err := c.audit.containers(c.ctx, machine)
		if err != nil {
			return err
		}
		for id := range containers {
			if left[id] != nil {
				continue
			}
			if err := os.Mkdir(lingering(id), 0o755); err != nil {
				return err
			}
			left[id] = exec.Command("sleep", "60")
			if err := left[id].Start(); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(lingering(id), "cgroup.procs"), fmt.Append(nil, left[id].Process.Pid), 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// lingering is a control group of ours that has the name of a container.
func lingering(id string) string {
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil { // version 1
		root = filepath.Join(root, "pids")
	}
	return filepath.Join(root, "left-of-"+id)
}

// thirdName is the machine that joins again and again, is revoked and never works.
const thirdName = "box-3"

// joinThird has the third machine join, and die at a point of joining where the queue has one.
func (c *crashCampaign) joinThird() {
	ctx, cancel := context.WithTimeout(c.ctx, pointPatience)
	defer cancel()
	if c.queue == nil {
		_ = c.join(ctx, "") // the miner may die under it
		return
	}
	p, n, _, dies := c.queue.next("join")
	if !dies {
		_ = c.join(ctx, "")
		return
	}
	err := c.join(ctx, fmt.Sprintf("%s#%d", p.name, n))
	switch {
	case errors.Is(err, errDied):
		c.table.note(thirdName + " at " + p.String())
		c.table.tally(p, func(row *crashTally) { row.kills++; c.charge(row, p.String()) })
	case err != nil:
		c.queue.later(p)
	case !c.queue.again(p):
		c.t.Logf("%s: join did not come to this point", p)
	}
}

// revokeThird has the third machine, where it is a member, be none: the miner would wait for it for ever before it replaces its
// keys.
func (c *crashCampaign) revokeThird() {
	ctx, cancel := context.WithTimeout(c.ctx, pointPatience)
	defer cancel()
	for {
		if err := c.admin.Revoke(ctx, thirdName); err == nil || basilica.KindOf(err) == basilica.NotFound || rest(ctx, 200*time.Millisecond) != nil {
			return
		}
	}
}

func (c *crashCampaign) join(ctx context.Context, plan string) error {
	token, _, err := c.admin.CreateToken(ctx, thirdName, time.Minute)
	if err != nil {
		return err
	}
	return c.launch.join(ctx, thirdName, filepath.Join(c.network.Dir(), thirdName+".toml"), token, plan)
}

// joined proves that a machine whose joining died again and again can join, and that nothing of those deaths is left there.
func (c *crashCampaign) joined() {
	if err := c.join(c.t.Context(), ""); err != nil {
		c.t.Errorf("%s cannot join in the end: %v", thirdName, err)
	}
	if mounts, err := docker.Mounted(filepath.Join(c.network.Dir(), thirdName)); err != nil || len(mounts) > 0 {
		c.t.Errorf("%s has mounts: %v, %v", thirdName, mounts, err)
	}
}

// ask puts a question to the chain as other programs than ours do. The chain may die under it, and before the answer.
func (c *crashCampaign) ask(ctx context.Context, method string, params ...any) (answer []byte) {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		c.t.Error(err)
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.Replace(c.chain, "ws://", "http://", 1), strings.NewReader(string(body)))
	if err != nil {
		c.t.Error(err)
		return nil
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	answer, _ = io.ReadAll(resp.Body) // half an answer is none
	return answer
}

// repeat sends the last transaction of the newest block again, as whoever lost the answer does, without watching it.
func (c *crashCampaign) repeat(ctx context.Context) {
	var answer struct {
		Result struct {
			Block struct {
				Extrinsics []string `json:"extrinsics"`
			} `json:"block"`
		} `json:"result"`
	}
	if json.Unmarshal(c.ask(ctx, "chain_getBlock"), &answer) != nil {
		return
	}
	if all := answer.Result.Block.Extrinsics; len(all) > 0 {
		c.ask(ctx, "author_submitExtrinsic", all[len(all)-1])
	}
}

// seal has the subnet's owner want weights sealed or open, unless that is so. The chain allows it at times alone, and may die:
// the next round asks again.
func (c *crashCampaign) seal(ctx context.Context, want bool) {
	if err := c.sealNow(ctx, want); err != nil && ctx.Err() == nil {
		c.t.Errorf("seal weights: %v", err)
	}
}

func (c *crashCampaign) sealNow(ctx context.Context, want bool) error {
	if c.words == nil {
		raw, ok := c.askHex(ctx, "state_getMetadata")
		if !ok {
			return nil
		}
		meta, err := scale.DecodeMetadata(raw)
		if err != nil {
			return err
		}
		if c.words, err = pallet.New(meta); err != nil {
			return err
		}
	}
	const netuid = uint16(39)
	key, err := c.words.StorageKey("SubtensorModule", "CommitRevealWeightsEnabled", netuid)
	if err != nil {
		return err
	}
	if now, ok := c.askHex(ctx, "state_getStorage", "0x"+hex.EncodeToString(key)); !ok || (len(now) == 1 && now[0] == 1) == want {
		return nil
	}
	owner, err := keys.FromURI(keys.Sr25519, "//Alice")
	if err != nil {
		return err
	}
	var version struct {
		Result struct{ SpecVersion, TransactionVersion uint32 }
	}
	var nonce struct{ Result *uint64 }
	genesis, ok := c.askHex(ctx, "chain_getBlockHash", 0)
	if !ok || json.Unmarshal(c.ask(ctx, "state_getRuntimeVersion"), &version) != nil || json.Unmarshal(c.ask(ctx, "account_nextIndex", owner.SS58()), &nonce) != nil || nonce.Result == nil {
		return nil
	}
	call, err := c.words.Call("AdminUtils", "sudo_set_commit_reveal_weights_enabled", map[string]any{"netuid": netuid, "enabled": want})
	if err != nil {
		return err
	}
	by := pallet.Signing{SpecVersion: version.Result.SpecVersion, TxVersion: version.Result.TransactionVersion, Nonce: *nonce.Result}
	copy(by.Genesis[:], genesis)
	by.BirthHash = by.Genesis
	raw, err := c.words.Sign(call, by, owner)
	if err != nil {
		return err
	}
	c.ask(ctx, "author_submitExtrinsic", "0x"+hex.EncodeToString(raw))
	return nil
}

// askHex is ask for bytes; false where none came.
func (c *crashCampaign) askHex(ctx context.Context, method string, params ...any) ([]byte, bool) {
	var answer struct{ Result string }
	if json.Unmarshal(c.ask(ctx, method, params...), &answer) != nil {
		return nil, false
	}
	raw, err := hex.DecodeString(strings.TrimPrefix(answer.Result, "0x"))
	return raw, err == nil && strings.HasPrefix(answer.Result, "0x")
}
