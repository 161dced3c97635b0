package axon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"basilica"
)

// line is one line of a watch: an event, the error that ends the stream, or, where neither is set, a sign of life.
type line struct {
	Event *basilica.TaskEvent `json:"event,omitempty"`
	Error *errorBody          `json:"error,omitempty"`
	Alive bool                `json:"alive,omitempty"`
}

func (s *Server) offer(w http.ResponseWriter, r *http.Request, _ time.Time) error {
	offer, err := s.miner.Offer(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, offer)
	return nil
}

func (s *Server) openValidation(w http.ResponseWriter, r *http.Request, c call) error {
	req, err := decode[basilica.ValidationRequest](c.body)
	if err != nil {
		return err
	}
	grant, err := s.validationFor(r.Context(), c.caller, req)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, grant)
	return nil
}

func (s *Server) validationFor(ctx context.Context, caller basilica.Hotkey, req basilica.ValidationRequest) (basilica.ValidationGrant, error) {
	req.Validator = caller
	return s.miner.OpenValidation(ctx, req)
}

func (s *Server) submit(w http.ResponseWriter, r *http.Request, c call) error {
	req, err := decode[basilica.Submission](c.body)
	if err != nil {
		return err
	}
	task, err := s.submitFor(r.Context(), c.caller, req)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, task)
	return nil
}

func (s *Server) submitFor(ctx context.Context, caller basilica.Hotkey, req basilica.Submission) (basilica.Task, error) {
	if !validKey(req.IdempotencyKey) {
		return basilica.Task{}, basilica.E(basilica.Invalid, "IDEMPOTENCY_KEY", fmt.Sprintf("the idempotency key is not 1 to %d printable characters", maxIdempotency), "choose another key")
	}
	if len(req.Spec) > basilica.MaxSpecBytes {
		return basilica.Task{}, basilica.E(basilica.Exhausted, codeBodySize, fmt.Sprintf("the task's spec is over %d bytes", basilica.MaxSpecBytes), "give large things as input files")
	}
	req.Caller = caller
	return s.miner.Submit(ctx, req)
}

// planRequest is the body of a plan.
type planRequest struct {
	Spec []byte `json:"spec"`
}

func (s *Server) plan(w http.ResponseWriter, r *http.Request, c call) error {
	req, err := decode[planRequest](c.body)
	if err != nil {
		return err
	}
	plan, err := s.miner.Plan(r.Context(), c.caller, req.Spec)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, plan)
	return nil
}

func validKey(key string) bool {
	if key == "" || len(key) > maxIdempotency {
		return false
	}
	for _, r := range key {
		if r < 0x20 || r > 0x7e {
			return false
		}
	}
	return true
}

func (s *Server) tasks(w http.ResponseWriter, r *http.Request, c call) error {
	q, err := taskQuery(r)
	if err != nil {
		return err
	}
	page, err := s.miner.Tasks(r.Context(), c.caller, q)
	if err != nil {
		return err
	}
	if page.Tasks == nil {
		page.Tasks = []basilica.Task{}
	}
	writeJSON(w, http.StatusOK, page)
	return nil
}

// taskQuery reads what restricts a list of tasks: limit, after, name, state, and label=KEY=VALUE any number of times.
func taskQuery(r *http.Request) (q basilica.TaskQuery, err error) {
	limit, err := number(r, "limit", 1, basilica.MaxPage, basilica.DefaultPage)
	if err != nil {
		return q, err
	}
	values := r.URL.Query()
	q.Limit, q.After, q.Name, q.State = int(limit), values.Get("after"), values.Get("name"), basilica.TaskState(values.Get("state"))
	if len(values["label"]) > maxLabels {
		return q, basilica.E(basilica.Invalid, "QUERY", fmt.Sprintf("more than %d labels", maxLabels), "ask for fewer")
	}
	for _, l := range values["label"] {
		key, value, ok := strings.Cut(l, "=")
		if !ok {
			return q, basilica.E(basilica.Invalid, "QUERY", fmt.Sprintf("label %.80q is not KEY=VALUE", l), "write it like label=run=7")
		}
		if q.Labels == nil {
			q.Labels = map[string]string{}
		}
		q.Labels[key] = value
	}
	return q, nil
}

func (s *Server) task(w http.ResponseWriter, r *http.Request, c call) error {
	task, err := s.miner.Task(r.Context(), c.caller, basilica.TaskID(r.PathValue("id")))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, task)
	return nil
}

func (s *Server) cancel(w http.ResponseWriter, r *http.Request, c call) error {
	task, err := s.miner.Cancel(r.Context(), c.caller, basilica.TaskID(r.PathValue("id")))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, task)
	return nil
}

// watch streams lines of JSON. The task is looked up first, so that an absent one is a plain 404.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, c call) error {
	offset, err := number(r, "offset", 0, 1<<50, 0)
	if err != nil {
		return err
	}
	id := basilica.TaskID(r.PathValue("id"))
	if _, err := s.miner.Task(r.Context(), c.caller, id); err != nil {
		return err
	}
	leave, err := s.watches.enter(c.caller)
	if err != nil {
		return err
	}
	defer leave()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	out := &lines{w: w, rc: http.NewResponseController(w)}
	if err := out.send(line{Alive: true}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel() // a caller that takes no line is gone
		tick := time.NewTicker(aliveEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if out.send(line{Alive: true}) != nil {
					return
				}
			}
		}
	})
	err = s.miner.WatchTask(ctx, c.caller, id, offset, func(e basilica.TaskEvent) error { return out.send(line{Event: &e}) })
	cancel()
	wg.Wait()
	if err != nil {
		if _, body := toBody(err); out.send(line{Error: &body}) != nil {
			return err
		}
	}
	return nil
}

// lines writes one line at a time, each with a deadline of its own.
type lines struct {
	rc *http.ResponseController

	mu sync.Mutex
	w  io.Writer
}

func (l *lines) send(v line) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode line: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.rc.SetWriteDeadline(time.Now().Add(chunkTime)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	if _, err := l.w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write line: %w", err)
	}
	return l.rc.Flush()
}

// blobName reads sha256:HEX.
func blobName(r *http.Request) (basilica.Digest, error) {
	var sum basilica.Digest
	text, ok := strings.CutPrefix(r.PathValue("name"), "sha256:")
	if !ok || text != strings.ToLower(text) || sum.UnmarshalText([]byte(text)) != nil {
		return sum, basilica.E(basilica.Invalid, "BLOB_NAME", "the blob's name is not sha256: and 64 lower-case hex digits", "correct it")
	}
	return sum, nil
}

// blobState says how much of a blob need not be sent.
func (s *Server) blobState(w http.ResponseWriter, r *http.Request, c call) error {
	blob, err := blobAsked(r)
	if err != nil {
		return err
	}
	state, err := s.miner.BlobState(r.Context(), c.caller, blob)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, state)
	return nil
}

// blobAsked reads a blob's name and its size.
func blobAsked(r *http.Request) (basilica.Blob, error) {
	sum, err := blobName(r)
	if err != nil {
		return basilica.Blob{}, err
	}
	size, err := number(r, "size", 0, basilica.MaxBlobBytes, -1)
	if err == nil && size < 0 {
		err = basilica.E(basilica.Invalid, "BLOB_SIZE", "the target does not say the blob's size", "add ?size=BYTES")
	}
	return basilica.Blob{SHA256: sum, Size: size}, err
}

// putBlob takes content whose digest stands in the target: the signature is checked before a byte of it is read.
func (s *Server) putBlob(w http.ResponseWriter, r *http.Request, headersIn time.Time) error {
	a, err := s.headers(r, headersIn)
	if err != nil {
		return err
	}
	sum, err := blobName(r)
	if err != nil {
		return err
	}
	if err := s.admit(r, a, sum, s.cfg.Compute); err != nil {
		return err
	}
	blob, err := blobAsked(r)
	if err != nil {
		return err
	}
	offset, err := number(r, "offset", 0, blob.Size, 0)
	if err != nil {
		return err
	}
	if r.ContentLength >= 0 && r.ContentLength != blob.Size-offset {
		return basilica.E(basilica.Invalid, "BLOB_SIZE", "the body's length is not what the target says: size less offset", "send the blob from the offset to its end")
	}
	leave, err := s.transfers.enter(a.hotkey)
	if err != nil {
		return err
	}
	defer leave()
	rc := http.NewResponseController(w)
	body := &blobReader{r: r.Body, rc: rc, left: blob.Size - offset}
	if err := s.miner.PutBlob(r.Context(), a.hotkey, blob, offset, body); err != nil {
		return err
	}
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	if err := rc.SetWriteDeadline(time.Now().Add(replyTime)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// blobReader gives every piece of a body a deadline and refuses a byte more than was announced. The reply's deadline
// moves along: a slow upload has not used it up.
type blobReader struct {
	r     io.Reader
	rc    *http.ResponseController
	left  int64
	piece int // bytes that the present deadline is still for
}

// Read implements io.Reader.
func (b *blobReader) Read(p []byte) (int, error) {
	if b.piece == 0 {
		now := time.Now()
		if err := b.rc.SetReadDeadline(now.Add(chunkTime)); err != nil {
			return 0, fmt.Errorf("set deadline: %w", err)
		}
		if err := b.rc.SetWriteDeadline(now.Add(chunkTime + replyTime)); err != nil {
			return 0, fmt.Errorf("set deadline: %w", err)
		}
		b.piece = pieceBytes
	}
	n, err := b.r.Read(p[:min(len(p), b.piece)])
	b.piece -= n
	if int64(n) > b.left {
		return 0, basilica.E(basilica.Exhausted, codeBodySize, "the body is longer than the target says", "send the blob that was announced")
	}
	b.left -= int64(n)
	return n, err
}

func (s *Server) getBlob(w http.ResponseWriter, r *http.Request, c call) error {
	sum, err := blobName(r)
	if err != nil {
		return err
	}
	offset, err := number(r, "offset", 0, basilica.MaxBlobBytes, 0)
	if err != nil {
		return err
	}
	leave, err := s.transfers.enter(c.caller)
	if err != nil {
		return err
	}
	defer leave()
	w.Header().Set("Content-Type", "application/octet-stream")
	out := &blobWriter{w: w, rc: http.NewResponseController(w)}
	if err := s.miner.GetBlob(r.Context(), c.caller, sum, offset, out); err != nil {
		return err
	}
	if !out.begun {
		w.WriteHeader(http.StatusOK)
	}
	return nil
}

const pieceBytes = 256 << 10

// blobWriter gives every piece of a reply a deadline.
type blobWriter struct {
	w     io.Writer
	rc    *http.ResponseController
	begun bool
}

// Write implements io.Writer.
func (b *blobWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if err := b.rc.SetWriteDeadline(time.Now().Add(chunkTime)); err != nil {
			return done, fmt.Errorf("set deadline: %w", err)
		}
		b.begun = true
		n, err := b.w.Write(p[done:min(done+pieceBytes, len(p))])
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}
