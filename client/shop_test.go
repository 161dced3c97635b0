package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"basilica"
	"basilica/axon"
	"basilica/keys"
	"basilica/store"
)

// shop is a miner with one machine whose every task writes log and leaves output. Its content and its logs stand in the
// rooms that a miner keeps them in.
type shop struct {
	basilica.Miner
	t       *testing.T
	self    basilica.Hotkey // the client
	hotkey  *keys.Pair
	machine *keys.P256
	blobs   *store.Blobs
	logs    *store.TaskLogs
	log     []byte
	output  []byte
	more    [][]byte // outputs beside it: e/0, e/1 …

	forgot bool          // it says that it keeps the log no more
	age    time.Duration // of a task at its end

	mu   sync.Mutex // guards task
	task basilica.Task
}

func newShop(t *testing.T, self basilica.Hotkey, log, output []byte) *shop {
	t.Helper()
	hotkey, err := keys.FromURI(keys.Sr25519, "//Bob//miner")
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{t: t, self: self, hotkey: hotkey, log: log, output: output}
	if s.machine, err = keys.GenerateP256(); err != nil {
		t.Fatal(err)
	}
	if s.blobs, err = store.OpenBlobs(filepath.Join(t.TempDir(), "blobs"), 1<<30); err != nil {
		t.Fatal(err)
	}
	if s.logs, err = store.OpenTaskLogs(filepath.Join(t.TempDir(), "logs")); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *shop) endorsement() basilica.SignedEndorsement {
	e, err := basilica.Endorse(basilica.Endorsement{Executor: "box", KeySPKI: s.machine.SPKI()}, s.hotkey)
	if err != nil {
		s.t.Error(err)
	}
	return e
}

func (s *shop) Offer(context.Context) (basilica.Offer, error) {
	box := basilica.OfferedBox{Executor: "box", Ready: true, TaskCPUMillis: 1000, TaskMemoryBytes: 1 << 30, Endorsement: s.endorsement()}
	return basilica.Offer{Miner: basilica.Hotkey(s.hotkey.SS58()), Compute: "open", Executors: []basilica.OfferedBox{box}}, nil
}

// Submit runs the task at once: its log and its output are there when it returns.
func (s *shop) Submit(ctx context.Context, sub basilica.Submission) (basilica.Task, error) {
	var spec basilica.TaskSpec
	if err := json.Unmarshal(sub.Spec, &spec); err != nil {
		return basilica.Task{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.task.ID != "" {
		return s.task, nil
	}
	half := len(s.log) / 2
	for i, part := range [][]byte{s.log[:half], s.log[half:]} {
		for at := 0; at < len(part); at += 32 << 10 {
			c := basilica.LogChunk{Offset: int64(i*half + at), Stream: basilica.LogStream(i + 1), Data: part[at:min(at+32<<10, len(part))]}
			if err := s.logs.Append("t-1", c); err != nil {
				return basilica.Task{}, err
			}
		}
	}
	var outs []basilica.TaskFile
	for i, content := range append([][]byte{s.output}, s.more...) {
		out := basilica.TaskFile{Name: "d/result", Blob: basilica.Blob{SHA256: sha256.Sum256(content), Size: int64(len(content))}}
		if i > 0 {
			out.Name = fmt.Sprintf("e/%d", i-1)
		}
		if err := s.blobs.Put(ctx, out.Blob, bytes.NewReader(content)); err != nil {
			return basilica.Task{}, err
		}
		outs = append(outs, out)
	}
	code, now := 0, time.Now().UTC().Add(-s.age)
	receipt, err := basilica.SignReceipt(basilica.Receipt{
		Task: "t-1", Attempt: 1, Client: s.self, Executor: "box", Image: spec.Image, SpecDigest: sha256.Sum256(sub.Spec), State: basilica.TaskSucceeded, ExitCode: &code,
		Started: now, Ended: now, Inputs: spec.Inputs, Outputs: outs, LogBytes: int64(len(s.log)), Stdout: sha256.Sum256(s.log[:half]), Stderr: sha256.Sum256(s.log[half:]),
	}, s.endorsement(), s.machine.Sign)
	if err == nil {
		receipt, err = receipt.Countersign(s.hotkey)
	}
	s.task = basilica.Task{
		ID: "t-1", Client: s.self, IdempotencyKey: sub.IdempotencyKey, Spec: spec, SpecDigest: sha256.Sum256(sub.Spec), State: basilica.TaskSucceeded, Created: now, Started: &now, Ended: &now,
		ExitCode: &code, Outputs: outs, LogBytes: int64(len(s.log)), Receipt: &receipt,
	}
	return s.task, err
}

func (s *shop) Task(context.Context, basilica.Hotkey, basilica.TaskID) (basilica.Task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.task, nil
}

func (s *shop) WatchTask(_ context.Context, _ basilica.Hotkey, id basilica.TaskID, offset int64, f func(basilica.TaskEvent) error) error {
	if _, err := s.logs.Read(id, offset, func(c basilica.LogChunk) error {
		return f(basilica.TaskEvent{Task: id, Attempt: 1, State: basilica.TaskRunning, Log: &c})
	}); err != nil {
		return err
	}
	return f(basilica.TaskEvent{Task: id, Attempt: 1, State: basilica.TaskSucceeded, LogForgotten: s.forgot})
}

func (s *shop) BlobState(_ context.Context, caller basilica.Hotkey, blob basilica.Blob) (basilica.BlobState, error) {
	if r, _, err := s.blobs.Open(blob.SHA256); err == nil {
		return basilica.BlobState{Bytes: blob.Size, Whole: true}, r.Close()
	}
	return basilica.BlobState{Bytes: s.blobs.Parts(caller)[blob.SHA256]}, nil
}

func (s *shop) PutBlob(_ context.Context, caller basilica.Hotkey, blob basilica.Blob, offset int64, content io.Reader) error {
	if err := s.blobs.Fill(caller, blob, offset, content); err != nil {
		return err
	}
	return s.blobs.Finish(caller, blob)
}

func (s *shop) GetBlob(_ context.Context, _ basilica.Hotkey, sum basilica.Digest, offset int64, w io.Writer) error {
	r, _, err := s.blobs.Open(sum)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := r.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return err
}

// street is a way to an axon that breaks each connection after so many bytes of both directions, every other one with all
// that is on its way.
type street struct {
	ln      net.Listener
	to      string
	most    int64
	cuts    atomic.Int64
	up      atomic.Int64 // bytes to the axon
	down    atomic.Int64
	serving sync.WaitGroup
}

func newStreet(t *testing.T, to string, most int64) *street {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &street{ln: ln, to: to, most: most}
	s.serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.serving.Go(func() { s.carry(conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		s.serving.Wait()
	})
	return s
}

func (s *street) carry(near net.Conn) {
	far, err := net.Dial("tcp", s.to)
	if err != nil {
		near.Close()
		return
	}
	defer near.Close()
	defer far.Close()
	var left atomic.Int64
	left.Store(s.most)
	var once sync.Once
	cut := func() {
		if s.cuts.Add(1)%2 == 0 { // a reset, which takes what nobody has read yet
			near.Close()
			far.Close()
			return
		}
		for _, c := range []net.Conn{near, far} {
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				c.Close()
			}
		}
	}
	pipe := func(dst, src net.Conn, count *atomic.Int64) {
		buf := make([]byte, 16<<10)
		for {
			n, err := src.Read(buf)
			if left.Add(-int64(n)) < 0 {
				once.Do(cut)
				_, _ = io.Copy(io.Discard, src) // what is unread when a socket closes becomes a reset
				return
			}
			count.Add(int64(n))
			if _, werr := dst.Write(buf[:n]); werr != nil || err != nil {
				once.Do(func() { near.Close(); far.Close() })
				return
			}
		}
	}
	var both sync.WaitGroup
	both.Go(func() { pipe(far, near, &s.up) })
	both.Go(func() { pipe(near, far, &s.down) })
	both.Wait()
}

// open serves a miner at a real axon and gives a client that reaches it by a street.
func open(t *testing.T, m basilica.Miner, hotkey *keys.Pair, most int64) (*Client, *street) {
	t.Helper()
	key, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	point, err := axon.PublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	db, err := store.OpenMiner(t.Context(), t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	server, err := axon.NewServer(m, axon.ServerConfig{Hotkey: basilica.Hotkey(hotkey.SS58()), Key: key, Replays: db, RateNetwork: 1e4, RateHotkey: 1e4, Now: time.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	way := newStreet(t, ln.Addr().String(), most)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	dave := daveKey(t)
	neuron := basilica.Neuron{Hotkey: basilica.Hotkey(hotkey.SS58()), Axon: basilica.Axon{Addr: netip.MustParseAddrPort(way.ln.Addr().String()), TLSKey: point}}
	index, err := OpenIndex(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := New(Config{Chain: graph{Neurons: []basilica.Neuron{neuron}}, Hotkey: basilica.Hotkey(dave.SS58()), Index: index, Log: log, Now: time.Now, Dial: func(n basilica.Neuron) (basilica.Miner, error) {
		door, err := axon.NewClient(axon.ClientConfig{Signer: dave, Miner: n.Hotkey, Addr: n.Axon.Addr, TLSKey: n.Axon.TLSKey, AllowPrivate: true, Now: time.Now})
		if err == nil {
			t.Cleanup(func() { door.Close() })
		}
		return door, err
	}})
	c.step = 2 * time.Millisecond
	return c, way
}

func daveKey(t *testing.T) *keys.Pair {
	t.Helper()
	dave, err := keys.FromURI(keys.Sr25519, "//Dave//client")
	if err != nil {
		t.Fatal(err)
	}
	return dave
}
