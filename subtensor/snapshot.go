package subtensor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"basilica"
)

// snapshotEvery is how old the snapshot on disk must be before it is written again.
const snapshotEvery = 30 * time.Second

// maxSnapshot bounds a snapshot that is read back, in bytes; a full subnet takes about 200 KB.
const maxSnapshot = 64 << 20

// snapshot is the last metagraph of one subnet, as it is kept on disk.
type snapshot struct {
	Read      time.Time           `json:"read"` // by this machine's clock
	Metagraph *basilica.Metagraph `json:"metagraph"`
}

func (c *Client) snapshotPath(netuid basilica.NetUID) string {
	return filepath.Join(c.cfg.Snapshots, fmt.Sprintf("metagraph-%d.json", netuid))
}

// keep writes a metagraph to disk now and then. That it fails is no reason to keep a fresh metagraph from who asked for it.
func (c *Client) keep(m *basilica.Metagraph) {
	if c.cfg.Snapshots == "" {
		return
	}
	now := time.Now()
	c.mu.Lock()
	due := now.Sub(c.kept[m.NetUID]) >= snapshotEvery
	if due {
		c.kept[m.NetUID] = now
	}
	c.mu.Unlock()
	if !due {
		return
	}
	if err := c.write(snapshot{Read: now, Metagraph: m}); err != nil {
		c.log.Warn("the metagraph is not kept for times without a node", "err", err)
	}
}

// write replaces the snapshot of a subnet as a whole.
func (c *Client) write(s snapshot) (err error) {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	path := c.snapshotPath(s.Metagraph.NetUID)
	if err := os.MkdirAll(c.cfg.Snapshots, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(c.cfg.Snapshots, filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// LastMetagraph is the metagraph of a subnet that was read last, by this process or one before it with the same directory,
// and when that was by this machine's clock: for times in which no node answers. It is NotFound where none was kept, and
// never of another chain than the one that this client is for.
func (c *Client) LastMetagraph(netuid basilica.NetUID) (*basilica.Metagraph, time.Time, error) {
	m, at, err := c.lastMetagraph(netuid)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read the last metagraph: %w", err)
	}
	return m, at, nil
}

func (c *Client) lastMetagraph(netuid basilica.NetUID) (*basilica.Metagraph, time.Time, error) {
	none := func(why string) error {
		return basilica.E(basilica.NotFound, "SNAPSHOT_NONE", fmt.Sprintf("no metagraph of subnet %d is kept here: %s", netuid, why), "wait until the chain's node answers")
	}
	if c.cfg.Snapshots == "" {
		return nil, time.Time{}, none("this program keeps none")
	}
	info, err := os.Stat(c.snapshotPath(netuid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, none("none was read yet")
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	if info.Size() > maxSnapshot {
		return nil, time.Time{}, none("the file is not one of ours")
	}
	text, err := os.ReadFile(c.snapshotPath(netuid))
	if err != nil {
		return nil, time.Time{}, err
	}
	var s snapshot
	if err := json.Unmarshal(text, &s); err != nil || s.Metagraph == nil || s.Metagraph.NetUID != netuid {
		return nil, time.Time{}, none("the file is damaged")
	}
	c.mu.Lock()
	genesis := c.genesis
	c.mu.Unlock()
	if genesis != nil && *genesis != s.Metagraph.Genesis {
		return nil, time.Time{}, none("the one on disk is of another chain")
	}
	return s.Metagraph, s.Read, nil
}
