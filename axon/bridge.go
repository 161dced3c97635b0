package axon

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"basilica"
	"basilica/keys"
)

// bridge is the door in plain HTTP for callers that know the protocol of Dendrite and Axon alone. What it hands to the
// miner, and who may come in, are those of the HTTPS door. It is stricter than the Axon of SDK 10: every request is signed,
// a nonce is taken once and not from the future, a body is as small as elsewhere, and no caller makes its own time longer.
type bridge struct {
	s      *Server
	signer keys.Signer // the miner's hotkey, for the signature of a refusal
	uuid   string      // of this door
	kinds  []kind
}

// kind is one class of synapse that the bridge has attached.
type kind struct {
	name    string
	hashed  []string // fields of the body hash, as the class declares them
	may     Policy
	forward func(ctx context.Context, caller basilica.Hotkey, fields map[string]json.RawMessage) (map[string]any, error)
}

// newBridge attaches what the miner answers with one JSON value: a class of the call's name, with a field request of text,
// JSON as the HTTPS door takes it and the one hashed field, and a field reply, JSON again.
func newBridge(s *Server, signer keys.Signer) *bridge {
	m, validation, compute := s.miner, s.cfg.Validation, s.cfg.Compute
	return &bridge{s: s, signer: signer, uuid: newUUID(), kinds: []kind{
		{name: noSynapse, forward: func(context.Context, basilica.Hotkey, map[string]json.RawMessage) (map[string]any, error) {
			return nil, nil
		}},
		spoken("Offer", nil, func(ctx context.Context, _ basilica.Hotkey, _ struct{}) (basilica.Offer, error) { return m.Offer(ctx) }),
		spoken("OpenValidation", validation, func(ctx context.Context, who basilica.Hotkey, req basilica.ValidationRequest) (basilica.ValidationGrant, error) {
			return s.validationFor(ctx, who, req)
		}),
		spoken("Submit", compute, func(ctx context.Context, who basilica.Hotkey, req basilica.Submission) (basilica.Task, error) {
			return s.submitFor(ctx, who, req)
		}),
		spoken("Plan", compute, func(ctx context.Context, who basilica.Hotkey, req planRequest) (basilica.Plan, error) {
			return m.Plan(ctx, who, req.Spec)
		}),
		spoken("Task", compute, func(ctx context.Context, who basilica.Hotkey, req taskRequest) (basilica.Task, error) {
			return m.Task(ctx, who, req.ID)
		}),
		spoken("Cancel", compute, func(ctx context.Context, who basilica.Hotkey, req cancelRequest) (basilica.Task, error) {
			return m.Cancel(ctx, who, req.Cancel)
		}),
	}}
}

// taskRequest names a task; the HTTPS door has it in the path.
type taskRequest struct {
	ID basilica.TaskID `json:"id"`
}

// cancelRequest has a shape of its own: the protocol signs a request's fields and not its class, so that whoever sits between
// can send what was signed to another class.
type cancelRequest struct {
	Cancel basilica.TaskID `json:"cancel"`
}

// spoken makes a kind of a call that takes one JSON value and gives one.
func spoken[In, Out any](name string, may Policy, call func(context.Context, basilica.Hotkey, In) (Out, error)) kind {
	return kind{name: name, hashed: []string{"request"}, may: may, forward: func(ctx context.Context, caller basilica.Hotkey, fields map[string]json.RawMessage) (map[string]any, error) {
		var text string
		if err := json.Unmarshal(fields["request"], &text); err != nil {
			return nil, basilica.E(basilica.Invalid, "BODY_JSON", "the synapse's field request is not text", "give the request as JSON in text")
		}
		in, err := decode[In]([]byte(text))
		if err != nil {
			return nil, err
		}
		out, err := call(ctx, caller, in)
		if err != nil {
			return nil, err
		}
		reply, err := json.Marshal(out)
		return map[string]any{"reply": string(reply)}, err
	}}
}

// handler answers every plain request.
func (b *bridge) handler() http.Handler {
	return b.s.answerWith(b.s.refuseSynapse, b.serve)
}

// refuseSynapse says of a request why the door's common rules refuse it, before anything of it was read.
func (s *Server) refuseSynapse(w *reply, r *http.Request, err error) {
	s.refused(r, err)
	if w.begun {
		panic(http.ErrAbortHandler)
	}
	s.answerSynapse(w, refusal(unread(), err), s.cfg.Now())
}

// unread is the synapse that stands in an answer where the request's headers were not, or could not be, read.
func unread() synapse {
	return synapse{name: noSynapse, timeout: synapseTimeout.Seconds(), bodyHash: bodyHash()}
}

// refusal puts an error of ours into an answer.
func refusal(s synapse, err error) synapse {
	status, body := toBody(err)
	message := body.Code + ": " + body.Sentence
	if body.Fix != "" {
		message += " (" + body.Fix + ")"
	}
	var said *saidError
	switch {
	case errors.As(err, &said):
		status, message = said.status, said.message
	case status == http.StatusInternalServerError:
		message = fault()
	}
	s.axon.StatusCode, s.axon.StatusMessage = &status, &message
	return s
}

// saidError is a refusal in the words that the Axon of SDK 10 has for it, and what it is here.
type saidError struct {
	status  int
	message string
	is      *basilica.Error
}

// Error implements error.
func (e *saidError) Error() string { return e.is.Error() }

// Unwrap gives what it is here.
func (e *saidError) Unwrap() error { return e.is }

func say(status int, format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	return &saidError{status, message, basilica.E(kindOfHTTP(status), "SYNAPSE_REFUSED", message, "")}
}

// amiss is a caller's error that the Axon of SDK 10 answers as a fault of its own.
func amiss(code, sentence, fix string, cause error) error {
	return &saidError{http.StatusInternalServerError, fault(), basilica.E(basilica.Invalid, code, sentence, fix).With(cause)}
}

// fault is all that a caller hears of a fault here: a number that nothing else has.
func fault() string { return "Internal Server Error #" + newUUID() }

// newUUID gives a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// answerSynapse answers with a refusal.
func (s *Server) answerSynapse(w http.ResponseWriter, with synapse, started time.Time) {
	with.axon.ProcessTime = new(s.cfg.Now().Sub(started).Seconds())
	body, err := json.Marshal(map[string]string{"message": *with.axon.StatusMessage})
	if err != nil {
		panic(err) // a map of strings is always JSON
	}
	with.write(w.Header(), len(body))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Connection", "close") // what is left of a body is not read
	w.WriteHeader(*with.axon.StatusCode)
	_, _ = w.Write(body) // a caller that hung up is not our error
}

// serve answers one request; what it returns is a fault of ours.
func (b *bridge) serve(w http.ResponseWriter, r *http.Request, started time.Time) error {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	at := slices.IndexFunc(b.kinds, func(k kind) bool { return k.name == name })
	if at < 0 {
		names := make([]string, len(b.kinds))
		for i, k := range b.kinds {
			names[i] = "'" + k.name + "'"
		}
		err := say(http.StatusNotFound, "Synapse name '%.64s' not found. Available synapses [%s]", basilica.OneLine(name), strings.Join(names, ", "))
		b.s.answerSynapse(w, refusal(unread(), err), started)
		return nil
	}
	k := b.kinds[at]
	s, err := readSynapse(r.Header)
	if err != nil {
		err = amiss("AUTH_MALFORMED", "a header of the synapse cannot be read", "use an SDK of Bittensor", err)
		b.s.refused(r, err)
		b.s.answerSynapse(w, refusal(unread(), err), started)
		return nil
	}
	fields, out, err := b.exchange(w, r, k, s, started)
	if err != nil {
		var notJSON *notJSONError
		if errors.As(err, &notJSON) {
			notJSON.answer(w)
			return nil
		}
		b.s.refused(r, err)
		b.s.answerSynapse(w, refusal(b.ends(k, s, r), err), started)
		return nil
	}
	for field, v := range out {
		raw, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode field %s: %w", field, err)
		}
		fields[field] = raw
	}
	return b.succeed(w, k, s, fields, b.s.cfg.Now().Sub(started).Seconds())
}

// exchange admits a request and has the miner answer it: the fields that came, and those that go back besides.
func (b *bridge) exchange(w http.ResponseWriter, r *http.Request, k kind, s synapse, started time.Time) (fields map[string]json.RawMessage, out map[string]any, err error) {
	caller, err := b.verify(s, started)
	if err != nil {
		return nil, nil, err
	}
	if err := b.s.permit(r, caller, k.may); err != nil {
		var e *basilica.Error
		if errors.As(err, &e) && e.Kind == basilica.Denied {
			err = say(http.StatusForbidden, "Forbidden. Key is blacklisted: %s.", e.Sentence)
		}
		return nil, nil, err
	}
	if r.Method != http.MethodPost {
		return nil, nil, amiss("ROUTE", "a synapse comes by POST", "use an SDK of Bittensor", nil)
	}
	fresh, err := b.s.cfg.Replays.Remember(r.Context(), string(caller), *s.dendrite.UUID+"."+fmt.Sprint(*s.dendrite.Nonce), b.s.cfg.Now().Add(replayLife))
	if err != nil {
		return nil, nil, fmt.Errorf("remember nonce: %w", err)
	}
	if !fresh {
		return nil, nil, say(http.StatusUnauthorized, "Not Verified with error: Nonce is too old, a newer one was last processed")
	}
	body, err := readBody(w, r)
	if err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(body, &fields); err != nil || fields == nil {
		return nil, nil, &notJSONError{err}
	}
	switch hash, err := hashFields(fields, k.hashed); {
	case err != nil:
		return nil, nil, amiss("BODY_JSON", "a hashed field of the synapse is neither text nor a whole number", "give the request as JSON in text", err)
	case hash != s.bodyHash:
		return nil, nil, amiss("AUTH_SIGNATURE", "the body's hash is not the one that is signed", "sign the body as it is sent", nil)
	}
	ctx, cancel := context.WithTimeout(r.Context(), window(s.timeout))
	defer cancel()
	out, err = k.forward(ctx, caller, fields)
	return fields, out, err
}

// notJSONError is a body that is no JSON object: the framework below the Python Axon refuses it in a form of its own.
type notJSONError struct{ err error }

// Error implements error.
func (e *notJSONError) Error() string { return fmt.Sprintf("the body is not a JSON object: %v", e.err) }

func (e *notJSONError) answer(w http.ResponseWriter) {
	type detail struct {
		Type string `json:"type"`
		Loc  []any  `json:"loc"`
		Msg  string `json:"msg"`
	}
	d := detail{"json_invalid", []any{"body"}, "JSON decode error"}
	var syntax *json.SyntaxError
	if errors.As(e.err, &syntax) {
		d.Loc = append(d.Loc, syntax.Offset)
	}
	w.Header().Set("Connection", "close")
	writeJSON(w, http.StatusUnprocessableEntity, map[string]any{"detail": []detail{d}})
}

// window is how long a request of this timeout may take; nobody gets more than the common one.
func window(timeout float64) time.Duration {
	if !(timeout > 0 && timeout < synapseTimeout.Seconds()) { // not a number neither
		return synapseTimeout
	}
	return time.Duration(math.Ceil(timeout * float64(time.Second)))
}

// verify says whose request it is: signed by its hotkey for this axon, at a time that is not over and has begun.
func (b *bridge) verify(s synapse, now time.Time) (basilica.Hotkey, error) {
	refused := func(format string, args ...any) (basilica.Hotkey, error) {
		return "", say(http.StatusUnauthorized, "Not Verified with error: "+format, args...)
	}
	d := s.dendrite
	switch {
	case d.Nonce == nil:
		return refused("Missing Nonce")
	case d.Signature == nil:
		return refused("Missing Signature")
	case d.Hotkey == nil || d.UUID == nil || len(*d.UUID) > 64:
		return refused("Missing Hotkey or UUID")
	}
	public, err := keys.DecodeSS58(*d.Hotkey)
	if err != nil {
		return refused("Hotkey is not an SS58 address")
	}
	age, most := now.Sub(time.Unix(0, *d.Nonce)), synapseDelta+window(s.timeout)
	switch {
	case age > most:
		return refused("Nonce is too old: acceptable delta is %.2f seconds but request was %.2f seconds old", most.Seconds(), age.Seconds())
	case age < -maxAhead:
		return refused("Nonce is %.2f seconds in the future: acceptable are %.2f seconds", -age.Seconds(), maxAhead.Seconds())
	}
	message := requestMessage(*d.Nonce, *d.Hotkey, string(b.s.cfg.Hotkey), *d.UUID, s.bodyHash)
	signature, err := keys.ParseSignature(*d.Signature)
	if err != nil || !keys.Verify(keys.Sr25519, public, []byte(message), signature) {
		return refused("Signature mismatch with %s and %.140s", message, *d.Signature)
	}
	return basilica.Hotkey(*d.Hotkey), nil
}

// ends is what an answer that is no success says of both ends: the axon signs, the dendrite hears where it came from.
func (b *bridge) ends(k kind, s synapse, r *http.Request) synapse {
	hotkey, nonce, dendrite := string(b.s.cfg.Hotkey), b.s.cfg.Now().UnixNano(), ""
	if s.dendrite.Hotkey != nil {
		dendrite = *s.dendrite.Hotkey
	}
	s.name = k.name
	s.axon.Version, s.axon.Nonce, s.axon.UUID, s.axon.Hotkey = new(int64(synapseVersion)), &nonce, &b.uuid, &hotkey
	if signature, err := b.signer.Sign([]byte(axonMessage(nonce, dendrite, hotkey, b.uuid))); err == nil {
		s.axon.Signature = new(fmt.Sprintf("0x%x", signature))
	}
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		s.dendrite.IP, s.dendrite.Port = new(from.Addr().Unmap().String()), new(from.Port())
	}
	// The hash is that of the empty values in the headers: a refusal has no body of the class.
	empty := make(map[string]json.RawMessage, len(s.inputs))
	for field, text := range s.inputs {
		empty[field] = json.RawMessage(text)
	}
	hash, err := hashFields(empty, k.hashed)
	if err != nil {
		hash = bodyHash()
	}
	s.bodyHash = hash
	return s
}

// succeed answers with the synapse that came, the status, and what the miner filled in.
func (b *bridge) succeed(w http.ResponseWriter, k kind, s synapse, fields map[string]json.RawMessage, took float64) error {
	// The answer repeats the ends as the body has them, which nobody signed and nobody here read.
	var said struct {
		Dendrite  terminal
		Axon      terminal
		TotalSize json.RawMessage `json:"total_size"`
	}
	whole, err := json.Marshal(fields)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	if err := json.Unmarshal(whole, &said); err != nil {
		return basilica.E(basilica.Invalid, "BODY_JSON", "the synapse's dendrite or axon is not what an SDK writes", "use an SDK of Bittensor")
	}
	s.name, s.dendrite, s.axon = k.name, said.Dendrite, said.Axon
	s.axon.StatusCode, s.axon.StatusMessage, s.axon.ProcessTime = new(http.StatusOK), new("Success"), &took
	own := make(map[string]json.RawMessage, len(fields))
	for field, v := range fields {
		if !ofEverySynapse(field) {
			own[field] = v
		}
	}
	body, err := synapseBody(s, len(whole), own)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	s.write(w.Header(), len(body))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body) // a caller that hung up is not our error
	return nil
}
