package testnet

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"basilica/docker"
)

// Some points a process meets only after a long life, or when another dies in the same second. What brings it there is done
// here to a process that is to die at one.

// provoked says that a point is met only when the chain dies too, in the right moment.
func provoked(p crashPoint) bool {
	return strings.HasPrefix(p.name, "subtensor.author_submitExtrinsic.")
}

// age gives a role that is not running the files of one that is old.
func (c *crashCampaign) age(m *mortal, p crashPoint) error {
	switch {
	case strings.HasPrefix(p.name, "store.Executor.ForgetRevoked."): // a validator left long ago
		return execute(c.ctx, filepath.Join(c.network.Dir(), m.name, "executor.sqlite"), `INSERT INTO revoked_grants (id, at) VALUES ('long ago', 1) ON CONFLICT DO NOTHING`)
	case strings.HasPrefix(p.name, "store.Validator.sweep."): // a disk lost a file
		kept, err := filepath.Glob(filepath.Join(c.network.Dir(), "validator", "evidence", "*.gpow1"))
		if err != nil || len(kept) == 0 {
			return err
		}
		return os.Remove(kept[0])
	case m.role == "miner" && strings.HasPrefix(p.name, "store.Blobs.remove."): // it died between a blob and the row that owns it
		content := []byte("nobody's, " + time.Now().String())
		name := fmt.Sprintf("%x", sha256.Sum256(content))
		dir := filepath.Join(c.network.Dir(), "miner", "blobs", name[:2])
		return errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, name), content, 0o600))
	case strings.HasPrefix(p.name, "store.Miner.DisownBlobs."): // a disk lost a blob
		return execute(c.ctx, filepath.Join(c.network.Dir(), "miner", "miner.sqlite"), `INSERT INTO blob_owners (client, digest, size, since) VALUES ('somebody', randomblob(32), 1, 0)`)
	}
	return nil
}

// execute changes the database of a role that is not running.
func execute(ctx context.Context, path, text string) error {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, text)
	return errors.Join(err, db.Close())
}

// provoke has the chain die so that a process comes to the point; c.alone is held for writing then. It returns at once.
func (c *crashCampaign) provoke(p crashPoint) error {
	if !provoked(p) {
		return nil
	}
	// The chain has taken the next transaction and dies before it says so: whoever sent it has to send it again.
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
