package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"time"

	"basilica"
)

// Transfer says how far one file is on its way. The calls of one transfer come in order; Done never grows over Total.
type Transfer struct {
	Name  string
	Send  bool // to the miner
	Done  int64
	Total int64
}

// attempts repeats what a broken connection has cut, with a growing pause, until nothing has moved for reconnectFor.
type attempts struct {
	c     *Client
	since time.Time // of the last progress
	wait  time.Duration
}

func (c *Client) attempts() *attempts {
	return &attempts{c: c, since: c.cfg.Now(), wait: c.step}
}

// next waits before another try after err. It gives err back where trying on is no use: it is of another kind, ctx has
// ended, or the miner was away for too long.
func (a *attempts) next(ctx context.Context, err error, moved bool) error {
	if moved {
		a.since, a.wait = a.c.cfg.Now(), a.c.step
	}
	if ctx.Err() != nil || !broken(err) || a.c.cfg.Now().Sub(a.since) > reconnectFor {
		return err
	}
	wait := a.wait/2 + rand.N(a.wait)
	a.wait = min(2*a.wait, reconnectMost)
	if pause(ctx, wait) != nil {
		return err
	}
	return nil
}

// broken says that the same transfer may succeed when it goes on.
func broken(err error) bool {
	return basilica.KindOf(err) == basilica.Unavailable || basilica.CodeOf(err) == "BLOB_OFFSET"
}

func (c *Client) progress(t Transfer) {
	if c.cfg.Progress != nil {
		c.cfg.Progress(t)
	}
}

// upload sends a file that the miner does not have, from where an earlier attempt broke off.
func (c *Client) upload(ctx context.Context, door basilica.Miner, name, path string, blob basilica.Blob) error {
	f, err := os.Open(path)
	if err != nil {
		return unreadable(path, err)
	}
	defer f.Close()
	tries, most := c.attempts(), int64(-1)
	for {
		state, err := door.BlobState(ctx, c.cfg.Hotkey, blob)
		if err == nil && state.Whole {
			c.progress(Transfer{Name: name, Send: true, Done: blob.Size, Total: blob.Size})
			return nil
		}
		if err == nil {
			content := &watched{Reader: io.NewSectionReader(f, state.Bytes, blob.Size-state.Bytes), c: c, t: Transfer{Name: name, Send: true, Done: state.Bytes, Total: blob.Size}}
			if err = door.PutBlob(ctx, c.cfg.Hotkey, blob, state.Bytes, content); err == nil {
				return nil
			}
			if state.Bytes > 0 && basilica.CodeOf(err) == "BLOB_MISMATCH" { // what the miner had was spoilt; it has dropped it
				most = -1
				continue
			}
		}
		moved := state.Bytes > most
		most = max(most, state.Bytes)
		if err := tries.next(ctx, err, moved); err != nil {
			return err
		}
		c.cfg.Log.Debug("sending on", "name", name, "err", err)
	}
}

// watched tells of every piece that is read.
type watched struct {
	io.Reader
	c *Client
	t Transfer
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.t.Done += int64(n)
	w.c.progress(w.t)
	return n, err
}

// saveOutputs fetches every output beneath dir that does not stand there whole. A file gets its name only once its content
// has been checked.
func (c *Client) saveOutputs(ctx context.Context, door basilica.Miner, dir string, files []basilica.TaskFile, overwrite bool) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make output directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open output directory: %w", err)
	}
	defer root.Close()
	var missing []basilica.TaskFile
	for _, f := range files {
		whole, err := stands(root, f)
		if whole {
			continue
		}
		if !overwrite && !errors.Is(err, fs.ErrNotExist) {
			return existing(filepath.Join(dir, f.Name), errors.Join(fs.ErrExist, err))
		}
		missing = append(missing, f)
	}
	for _, f := range missing {
		if err := c.saveOutput(ctx, door, root, f); err != nil {
			return fmt.Errorf("fetch output %s: %w", f.Name, err)
		}
	}
	return nil
}

// stands says whether a plain file with just an output's content has its place already, as an earlier process leaves it.
func stands(root *os.Root, file basilica.TaskFile) (bool, error) {
	named, err := root.Lstat(file.Name)
	if err != nil || !named.Mode().IsRegular() || named.Size() != file.Size {
		return false, err
	}
	f, err := root.Open(file.Name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !os.SameFile(named, info) {
		return false, err
	}
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(f, file.Size+1))
	return err == nil && n == file.Size && basilica.Digest(sum.Sum(nil)) == file.SHA256, err
}

// incoming is a file of which a beginning has come. The beginning stands beside the file's place under a name with the
// content's digest, so that a later process goes on with it.
type incoming struct {
	c     *Client
	blob  basilica.Blob
	t     Transfer
	f     *os.File
	sum   hash.Hash // of the first have bytes
	have  int64
	heard bool // bytes came since the last look
}

// Write implements io.Writer. It refuses the first byte beyond the file's size.
func (in *incoming) Write(p []byte) (int, error) {
	if int64(len(p)) > in.blob.Size-in.have {
		return 0, basilica.E(basilica.Invalid, "BLOB_SIZE", "more bytes came than the receipt names", "do not trust this result; report it to the miner")
	}
	n, err := in.f.WriteAt(p, in.have)
	in.sum.Write(p[:n])
	in.have, in.heard = in.have+int64(n), true
	in.t.Done = in.have
	in.c.progress(in.t)
	return n, err
}

// begin reads what an earlier process has left.
func (in *incoming) begin() error {
	info, err := in.f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > in.blob.Size {
		return in.empty()
	}
	in.sum = sha256.New()
	in.have, err = io.Copy(in.sum, io.NewSectionReader(in.f, 0, info.Size()))
	return err
}

func (in *incoming) empty() error {
	in.sum, in.have = sha256.New(), 0
	return in.f.Truncate(0)
}

// fetch goes on until all of the content is here and right. A beginning of an earlier process that is not the content's
// is thrown away once.
func (in *incoming) fetch(ctx context.Context, door basilica.Miner) error {
	if err := in.begin(); err != nil {
		return err
	}
	old, tries := in.have > 0, in.c.attempts()
	for {
		in.heard = false
		err := door.GetBlob(ctx, in.c.cfg.Hotkey, in.blob.SHA256, in.have, in)
		if err == nil {
			if in.have == in.blob.Size && basilica.Digest(in.sum.Sum(nil)) == in.blob.SHA256 {
				return nil
			}
			if !old {
				return basilica.E(basilica.Invalid, "BLOB_MISMATCH", "what came is not what the receipt names", "do not trust this result; report it to the miner")
			}
			old = false
			if err := in.empty(); err != nil {
				return err
			}
			continue
		}
		if err := tries.next(ctx, err, in.heard); err != nil {
			return err
		}
		in.c.cfg.Log.Debug("fetching on", "name", in.t.Name, "offset", in.have, "err", err)
	}
}

func (c *Client) saveOutput(ctx context.Context, door basilica.Miner, root *os.Root, file basilica.TaskFile) (err error) {
	dir, _ := path.Split(file.Name)
	if dir != "" {
		if err := root.MkdirAll(path.Clean(dir), 0o755); err != nil {
			return err
		}
	}
	part := fmt.Sprintf("%s.basilica-%.16s.part", dir, file.SHA256)
	f, err := root.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	in := &incoming{c: c, blob: file.Blob, t: Transfer{Name: file.Name, Total: file.Size}, f: f}
	err = in.fetch(ctx, door)
	if err = errors.Join(err, f.Close()); err != nil {
		if broken(err) || ctx.Err() != nil {
			return err // the beginning stays for the next time
		}
		return errors.Join(err, root.Remove(part))
	}
	return root.Rename(part, file.Name)
}
