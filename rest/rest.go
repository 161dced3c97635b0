// Package rest is the validator's public HTTP door: what it found, what it rests on and what weights followed. It only
// reads, and it knows neither the role nor its store.
package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"basilica"
	"basilica/score"
)

// Results is what the door shows.
type Results interface {
	Scores(ctx context.Context) ([]basilica.Score, error)
	LatestVerifications(ctx context.Context, limit int) ([]basilica.Verification, error)
	Verifications(ctx context.Context, q basilica.VerificationQuery) (basilica.VerificationPage, error)
	Verification(ctx context.Context, id basilica.VerificationID) (basilica.Verification, error)
	WeightSets(ctx context.Context, limit int) ([]basilica.WeightSet, error)
	Rounds(ctx context.Context, limit int) ([]basilica.Round, error)
	Evidence(sum basilica.Digest) (io.ReadCloser, int64, error)
}

// Config is what the door needs. Zero limits take the defaults named beside them.
type Config struct {
	Version string
	Results Results
	Now     func() time.Time
	PerSec  float64 // requests of one address, 20
	Burst   int     // of one address, 60
	// Failed is told the full text of errors of which a caller learns one word only.
	Failed func(operation string, err error)
}

const (
	answerTimeout     = 10 * time.Second
	maxDownloads      = 8 // at once
	maxDownloadsPlace = 2 // of them to one place
	maxExecutors      = 5000

	pieceBytes   = 256 << 10 // of a download
	pieceTimeout = 30 * time.Second

	// of a whole download
	leastPerSecond = 64 << 10
	spareTime      = 10 * time.Minute
)

// New makes the door. It carries its own rate limit; caps on headers and the Host check are its listener's.
func New(cfg Config) (http.Handler, error) {
	if cfg.Results == nil || cfg.Now == nil || cfg.Failed == nil {
		return nil, errors.New("rest: results, a clock and a place for failures are needed")
	}
	if cfg.PerSec <= 0 {
		cfg.PerSec = 20
	}
	if cfg.Burst <= 0 {
		cfg.Burst = 60
	}
	mux := http.NewServeMux()
	api := huma.DefaultConfig("Basilica validator", cfg.Version)
	api.DocsPath = "" // its page loads scripts from elsewhere
	api.Info.Description = "What this validator found about executors, the evidence, and the weights that followed. Read-only."
	api.CreateHooks = nil // no $schema links in answers
	d := &door{cfg: cfg, downloads: map[string]int{}}
	d.routes(humago.New(mux, api))
	return limited(cfg, mux), nil
}

type door struct {
	cfg Config

	mu        sync.Mutex
	running   int            // downloads
	downloads map[string]int // of them, by place
}

// problem is an error in JSON under the HTTP status of its kind.
type problem struct {
	Failure struct {
		Kind     string `json:"kind"`
		Code     string `json:"code"`
		Sentence string `json:"sentence"`
		Fix      string `json:"fix,omitempty"`
	} `json:"error"`
	status int
}

// Error implements error.
func (p *problem) Error() string { return p.Failure.Sentence + " [" + p.Failure.Code + "]" }

// GetStatus implements huma.StatusError.
func (p *problem) GetStatus() int { return p.status }

func (d *door) problem(operation string, err error) error {
	var e *basilica.Error
	if !errors.As(err, &e) || e.Kind == basilica.Internal {
		d.cfg.Failed(operation, err)
		e = basilica.E(basilica.Internal, "INTERNAL", "internal error", "see the validator's log")
	}
	p := &problem{status: e.Kind.HTTPStatus()}
	p.Failure.Kind, p.Failure.Code, p.Failure.Sentence, p.Failure.Fix = e.Kind.String(), e.Code, e.Sentence, e.Fix
	return p
}

type body[T any] struct{ Body T }

// get registers one reading operation under a deadline.
func get[I, O any](d *door, api huma.API, path, id, summary string, f func(ctx context.Context, in *I) (O, error)) {
	huma.Register(api, huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Summary: summary}, func(ctx context.Context, in *I) (*body[O], error) {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		out, err := f(ctx, in)
		if err != nil {
			return nil, d.problem(id, err)
		}
		return &body[O]{out}, nil
	})
}

type none struct{}

type latest struct {
	Limit int `query:"limit" minimum:"1" maximum:"100" default:"10" doc:"how many, newest first"`
}

type verificationParams struct {
	Miner    string `query:"miner" maxLength:"64" doc:"hotkey, SS58"`
	Executor string `query:"executor" maxLength:"64"`
	Round    int64  `query:"round" minimum:"-1" default:"-1" doc:"first block of a round; -1: every round"`
	Result   string `query:"result" enum:"pass,fail,not_run,unsure" doc:"of gpu_proof"`
	After    string `query:"after" maxLength:"512" doc:"place to go on from: next of the page before, of the same query"`
	Limit    int    `query:"limit" minimum:"1" maximum:"500" default:"50"`
}

type byID struct {
	ID string `path:"id" maxLength:"64" pattern:"^[a-zA-Z0-9-]+$"`
}

// Miner is one miner as its score says.
type Miner struct {
	basilica.Score
	Passed int `json:"passed"` // executors that earn
}

// Executor is one executor with its score and what was found last.
type Executor struct {
	Miner    basilica.Hotkey         `json:"miner"`
	MinerUID basilica.UID            `json:"miner_uid"`
	Executor basilica.ExecutorID     `json:"executor"`
	Score    *basilica.ExecutorScore `json:"score,omitempty"`
	Last     basilica.Verification   `json:"last"`
}

// Formula is everything published that turns verifications into weights.
type Formula struct {
	Formula        string        `json:"formula"`
	Classes        []score.Class `json:"classes"`
	DefaultRounds  int           `json:"default_rounds"`
	BusyFullHours  float64       `json:"busy_full_hours"` // a busy machine's last pass counts in full so long
	BusyFallHours  float64       `json:"busy_fall_hours"` // and falls to nothing within this
	TaskPathCredit float64       `json:"task_path_credit"`
	MissesInARow   int           `json:"misses_in_a_row"`
	WeightTotal    int           `json:"weight_total"`
}

func (d *door) routes(api huma.API) {
	r := d.cfg.Results
	get(d, api, "/api/v1/miners", "list-miners", "Miners with their scores", func(ctx context.Context, _ *none) ([]Miner, error) {
		scores, err := r.Scores(ctx)
		out := make([]Miner, 0, len(scores))
		for _, s := range scores {
			m := Miner{Score: s}
			for _, e := range s.Executors {
				if e.Value > 0 {
					m.Passed++
				}
			}
			out = append(out, m)
		}
		return out, err
	})
	get(d, api, "/api/v1/executors", "list-executors", "Executors with what was found last", d.executors)
	get(d, api, "/api/v1/verifications", "list-verifications", "Verifications, newest first", d.verifications)
	get(d, api, "/api/v1/verifications/{id}", "get-verification", "One verification", func(ctx context.Context, in *byID) (basilica.Verification, error) {
		v, err := r.Verification(ctx, basilica.VerificationID(in.ID))
		return public(v), err
	})
	get(d, api, "/api/v1/weights", "list-weights", "Weight vectors, newest first, with the scores they follow from", func(ctx context.Context, in *latest) ([]basilica.WeightSet, error) {
		sets, err := r.WeightSets(ctx, in.Limit)
		return nonNil(sets), err
	})
	get(d, api, "/api/v1/rounds", "list-rounds", "Rounds, newest first", func(ctx context.Context, in *latest) ([]basilica.Round, error) {
		rounds, err := r.Rounds(ctx, in.Limit)
		return nonNil(rounds), err
	})
	get(d, api, "/api/v1/formula", "get-formula", "How verifications become weights", func(context.Context, *none) (Formula, error) {
		return Formula{
			Formula: score.Formula, Classes: score.Classes(), DefaultRounds: score.DefaultRounds, BusyFullHours: score.BusyFull.Hours(),
			BusyFallHours: score.BusyFall.Hours(), TaskPathCredit: score.TaskPathCredit, MissesInARow: score.MissesInARow, WeightTotal: score.Total,
		}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-frames", Method: http.MethodGet, Path: "/api/v1/verifications/{id}/frames", Summary: "The raw frames of the GPU proof, for `basilica verify`",
		Responses: map[string]*huma.Response{"200": {Description: "a GPOW1 record file", Content: map[string]*huma.MediaType{"application/octet-stream": {}}}},
	}, d.frames)
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// public leaves out what an owner may not want the world to know of a machine and what proves nothing.
func public(v basilica.Verification) basilica.Verification {
	if v.Facts != nil {
		f := *v.Facts
		f.Hostname, f.BootID, f.Network = "", "", nil
		v.Facts = &f
	}
	return v
}

func (d *door) executors(ctx context.Context, _ *none) ([]Executor, error) {
	latest, err := d.cfg.Results.LatestVerifications(ctx, maxExecutors)
	if err != nil {
		return nil, err
	}
	scores, err := d.cfg.Results.Scores(ctx)
	if err != nil {
		return nil, err
	}
	byKey := map[basilica.ExecutorKey]*basilica.ExecutorScore{}
	for i := range scores {
		for j, e := range scores[i].Executors {
			byKey[basilica.ExecutorKey{Miner: scores[i].Miner, Executor: e.Executor}] = &scores[i].Executors[j]
		}
	}
	out := make([]Executor, 0, len(latest))
	for _, v := range latest {
		k := basilica.ExecutorKey{Miner: v.Miner, Executor: v.Executor}
		out = append(out, Executor{Miner: v.Miner, MinerUID: v.MinerUID, Executor: v.Executor, Score: byKey[k], Last: public(v)})
	}
	return out, nil
}

func (d *door) verifications(ctx context.Context, in *verificationParams) (basilica.VerificationPage, error) {
	q := basilica.VerificationQuery{
		Miner: basilica.Hotkey(in.Miner), Executor: basilica.ExecutorID(in.Executor), Result: basilica.Result(in.Result), After: in.After, Limit: in.Limit,
	}
	if in.Round >= 0 {
		round := basilica.BlockNumber(in.Round)
		q.Round = &round
	}
	page, err := d.cfg.Results.Verifications(ctx, q)
	page.Verifications = nonNil(page.Verifications)
	for i, v := range page.Verifications {
		page.Verifications[i] = public(v)
	}
	return page, err
}

func (d *door) frames(ctx context.Context, in *byID) (*huma.StreamResponse, error) {
	const id = "get-frames"
	v, err := d.cfg.Results.Verification(ctx, basilica.VerificationID(in.ID))
	if err != nil {
		return nil, d.problem(id, err)
	}
	evidence := v.Verdict(basilica.CheckGPUProof).Evidence
	if evidence == nil {
		return nil, d.problem(id, basilica.E(basilica.NotFound, "NO_EVIDENCE", "no challenge was judged in that verification", "look at its verdict's reason"))
	}
	leave, err := d.download(placeOf(ctx))
	if err != nil {
		return nil, d.problem(id, err)
	}
	file, size, err := d.cfg.Results.Evidence(evidence.SHA256)
	if err != nil {
		leave()
		return nil, d.problem(id, err)
	}
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		defer leave()
		defer file.Close()
		hctx.SetHeader("Content-Type", "application/octet-stream")
		hctx.SetHeader("Content-Length", fmt.Sprint(size))
		hctx.SetHeader("Content-Disposition", fmt.Sprintf("attachment; filename=%q", evidence.SHA256.String()+".gpow1"))
		hctx.SetHeader("ETag", `"`+evidence.SHA256.String()+`"`)
		_, w := humago.Unwrap(hctx)
		if err := send(hctx.BodyWriter(), http.NewResponseController(w), file, size); err != nil {
			d.cfg.Failed(id, fmt.Errorf("send frames: %w", err))
		}
	}}, nil
}

// download takes one of the places for downloads until leave is called.
func (d *door) download(place string) (leave func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.downloads[place] >= maxDownloadsPlace:
		return nil, basilica.E(basilica.Exhausted, "DOWNLOADS", fmt.Sprintf("%d downloads to this address run already", maxDownloadsPlace), "let one of them end first")
	case d.running >= maxDownloads:
		return nil, basilica.E(basilica.Exhausted, "DOWNLOADS", fmt.Sprintf("%d downloads run already", maxDownloads), "try again in a minute")
	}
	d.running++
	d.downloads[place]++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.running--
		if d.downloads[place]--; d.downloads[place] == 0 {
			delete(d.downloads, place)
		}
	}, nil
}

// send copies a record of that size with a deadline for every piece: whoever stands still has little time, whoever goes on has
// enough for a slow line.
func send(w io.Writer, rc *http.ResponseController, from io.Reader, size int64) error {
	began := time.Now()
	for {
		if err := rc.SetWriteDeadline(deadline(time.Now(), began, size)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return fmt.Errorf("set deadline: %w", err)
		}
		if _, err := io.CopyN(w, from, pieceBytes); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// deadline is that of the piece which starts now, in a download of size bytes.
func deadline(now, began time.Time, size int64) time.Time {
	piece, whole := now.Add(pieceTimeout), began.Add(spareTime+time.Duration(size/leastPerSecond)*time.Second)
	if whole.Before(piece) {
		return whole
	}
	return piece
}
