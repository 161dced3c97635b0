package localnet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"basilica/internal/vectors"
	"basilica/keys"
	"basilica/pallet"
	"basilica/scale"
	"basilica/subtensor"
)

// refusedOnPurpose lists what recorded sessions name and localnet does not have, with the reason.
var refusedOnPurpose = map[string]string{
	"dev_newBlock": "a method of the recorder's node, sent by its script and by no client; localnet has engine_createBlock",
	"SubtensorModule.get_commit_reveal_weights_enabled": "no runtime has it: bittensor-cli 9.23.2 asks for a function by the name of a storage item, and its command is broken everywhere",
}

// recordedCall is the first of the calls of one method and one shape of parameters.
type recordedCall struct {
	Method      string
	Params      json.RawMessage
	ParamsRaw   json.RawMessage `json:"params_raw"`
	ResultShape json.RawMessage `json:"result_shape"`
	Errors      json.RawMessage
	Needed      string
}

// recordedSession is one operation of an official client.
type recordedSession struct {
	Client        string
	Order         []string
	Calls         []recordedCall
	Notifications []struct {
		Notification string
		Sequence     []json.RawMessage
	}
	Logical []struct{ Kind, Item string }
}

// TestRecordedSessionsVector replays every recorded session of the official clients: in the order of the recording, with
// the ids, null hashes and missing 0x of each client, and with keys and hashes of this chain in place of the recorded
// ones. Every method, runtime API, storage item, constant and call must exist, and answers must have the recorded shape
// and decode by this chain's metadata.
func TestRecordedSessionsVector(t *testing.T) {
	t.Parallel()
	s := newSim(t, Config{Genesis: exampleGenesis(t)})
	s.seal(30)
	signer, long := s.key("//Bob"), map[[32]byte]json.RawMessage{}
	seen := map[string]map[string]bool{"methods": {}, "runtime APIs": {}, "storage items": {}, "calls": {}, "constants": {}}
	refused := map[string]bool{}
	gaps := map[string]int{}
	for _, folder := range []string{"rpc-sessions", "rpc-sessions-425"} {
		clients := map[string]int{}
		for _, name := range sessionFiles(t, folder) {
			var recorded recordedSession
			vectors.JSON(t, name, &recorded)
			clients[recorded.Client]++
			// One server would refuse so many clients of one address, on a machine that is quick: each asks for all metadata.
			server := httptest.NewServer(subtensor.NewServer(s.Chain, s.Chain, subtensor.ServerConfig{Seal: s.Seal}, slog.New(slog.DiscardHandler)))
			r := &replay{
				t: t, sim: s, signer: signer, long: long, session: recorded, seen: seen, refused: refused, gaps: gaps, name: name,
				url: "ws" + strings.TrimPrefix(server.URL, "http"), notes: map[string][]json.RawMessage{},
			}
			r.run()
			server.Close()
		}
		t.Logf("%s: sessions replayed: %v", folder, clients)
	}
	for what, set := range seen {
		t.Logf("%d %s", len(set), what)
	}
	for what, n := range gaps {
		t.Errorf("%d sessions: %s", n, what)
	}
	for what := range refusedOnPurpose {
		if !refused[what] {
			t.Errorf("%s is listed as refused on purpose, and no session asks for it", what)
		}
	}
}

// sessionFiles are the files of a folder of sessions below the vectors.
func sessionFiles(t *testing.T, folder string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(vectors.Dir(), folder))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if strings.HasSuffix(strings.TrimSuffix(f.Name(), ".gz"), ".json") {
			names = append(names, folder+"/"+f.Name())
		}
	}
	return names
}

// replay is one session on its way.
type replay struct {
	t       *testing.T
	sim     *sim
	signer  *keys.Pair
	session recordedSession
	name    string
	url     string
	ws      *websocket.Conn
	seen    map[string]map[string]bool
	refused map[string]bool
	gaps    map[string]int
	missing map[string]bool
	next    int
	sub     string // id of the latest subscription
	notes   map[string][]json.RawMessage
	long    map[[32]byte]json.RawMessage // long answers of all sessions, by their digest
	read    bool                         // the latest answer was read and checked before
}

// wireMessage is anything that the server sends.
type wireMessage struct {
	ID     json.RawMessage
	Result json.RawMessage
	Error  *struct {
		Code    int
		Message string
		Data    json.RawMessage
	}
	Method string
	Params struct {
		Subscription json.RawMessage
		Result       json.RawMessage
	}
	read bool // the same answer was read and checked before
}

// gap records what a session missed, once a session.
func (r *replay) gap(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	for name := range refusedOnPurpose {
		if strings.HasPrefix(what, name) {
			r.refused[name] = true
			return
		}
	}
	if !r.missing[what] {
		r.missing[what] = true
		r.gaps[what]++
	}
}

var orderLine = regexp.MustCompile(`^(\S+)(?: ([A-Za-z]\S*))?(?: x\d+)?(?: \(x\d+\))?$`)

func (r *replay) run() {
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	r.missing = map[string]bool{}
	ws, _, err := websocket.Dial(ctx, r.url, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	ws.SetReadLimit(64 << 20)
	r.ws = ws
	sent := map[int]bool{}
	for _, line := range r.session.Order {
		m := orderLine.FindStringSubmatch(line)
		if m == nil {
			r.t.Fatalf("%s: order has %q", r.name, line)
		}
		for i, c := range r.session.Calls {
			if c.Method == m[1] && (m[2] == "" || strings.Contains(string(c.Params), m[2])) {
				sent[i] = true
				r.send(ctx, c)
			}
		}
	}
	for i, c := range r.session.Calls {
		if !sent[i] {
			r.t.Errorf("%s: call %d, %s, is not in the order", r.name, i, c.Method)
		}
	}
	for _, n := range r.session.Notifications {
		for len(r.notes[n.Notification]) == 0 {
			if _, err := r.receive(ctx); err != nil {
				r.t.Fatalf("%s: no notification %s: %v", r.name, n.Notification, err)
			}
		}
	}
	for _, l := range r.session.Logical {
		r.logical(l.Kind, l.Item)
	}
	if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		r.t.Errorf("%s: %v", r.name, err)
	}
}

// logical checks what the recorder substituted: it never reached the wire, and must exist all the same.
func (r *replay) logical(kind, item string) {
	module, name, _ := strings.Cut(item, ".")
	set := map[string]string{
		"storage": "storage items", "storage_map": "storage items", "storage_batch": "storage items", "runtime_api": "runtime APIs",
		"runtime_api_probe": "runtime APIs", "call": "calls", "constant": "constants",
	}[kind]
	if set == "" {
		r.t.Fatalf("%s: logical kind %q", r.name, kind)
	}
	if set == "runtime APIs" {
		r.seen[set][module+"_"+name] = true
	} else {
		r.seen[set][item] = true
	}
	meta := r.sim.rt.Metadata()
	found := false
	switch set {
	case "runtime APIs":
		found = apiMethodOf(meta, module, name) != nil
	case "storage items":
		found = storageItem(meta, module, name) != nil
	default:
		for _, p := range meta.Pallets {
			if p.Name != module {
				continue
			}
			for _, c := range p.Constants {
				found = found || set == "constants" && c.Name == name
			}
			if set == "calls" && p.HasCalls {
				for _, v := range meta.Types[p.Calls].Def.Variants {
					found = found || v.Name == name
				}
			}
		}
	}
	if !found {
		r.gap("%s (%s) is missing", item, kind)
	}
}

func apiMethodOf(meta *scale.Metadata, api, name string) *scale.RuntimeMethod {
	for _, a := range meta.APIs {
		for i, m := range a.Methods {
			if a.Name == api && m.Name == name {
				return &a.Methods[i]
			}
		}
	}
	return nil
}

func storageItem(meta *scale.Metadata, module, name string) *scale.StorageEntry {
	for _, p := range meta.Pallets {
		for i, e := range p.Storage.Entries {
			if p.Name == module && e.Name == name {
				return &p.Storage.Entries[i]
			}
		}
	}
	return nil
}

// send puts a recorded call on the wire and checks its answer.
func (r *replay) send(ctx context.Context, c recordedCall) {
	r.seen["methods"][c.Method] = true
	var shapes, values []any
	if err := json.Unmarshal(c.Params, &shapes); err != nil {
		r.t.Fatalf("%s: %s: %v", r.name, c.Method, err)
	}
	if json.Unmarshal(c.ParamsRaw, &values) != nil { // shortened to its first element
		values = make([]any, len(shapes))
		for i, shape := range shapes {
			if shape != "null" {
				values[i] = map[string]any{"sha256": ""}
			}
		}
		var short struct{ First any }
		if err := json.Unmarshal(c.ParamsRaw, &short); err != nil {
			r.t.Fatalf("%s: %s: %v", r.name, c.Method, err)
		}
		values[0] = short.First
	}
	params := make([]any, len(values))
	for i := range values {
		params[i] = r.localized(c.Method, values[0], shapes[i], values[i])
	}
	if strings.HasPrefix(c.Method, "state_") {
		r.note(shapes)
	}
	result, fault := r.ask(ctx, c.Method, params)
	if c.Errors != nil || c.ResultShape == nil {
		return // no answer was recorded; what went wrong then stands in an extrinsic that cannot be signed again; see TestErrorTextsVector
	}
	if fault != nil {
		r.gap("%s %s: %v", c.Method, asked(shapes), fault)
		return
	}
	if r.read {
		return
	}
	var want, got any
	if err := json.Unmarshal(c.ResultShape, &want); err != nil {
		r.t.Fatalf("%s: %s: %v", r.name, c.Method, err)
	}
	if err := json.Unmarshal(result, &got); err != nil {
		r.t.Fatalf("%s: %s: %v", r.name, c.Method, err)
	}
	if err := fits(want, got); err != nil {
		r.gap("%s %s: %v", c.Method, asked(shapes), err)
		return
	}
	if err := r.decodes(c.Method, params, got); err != nil {
		r.gap("%s %s: %v", c.Method, asked(shapes), err)
	}
	switch {
	case strings.HasPrefix(c.Method, "author_submit"):
		r.sim.seal(1)
		if strings.Contains(c.Method, "Watch") {
			r.sub = got.(string)
			r.inclusion(ctx)
		}
	case strings.Contains(c.Method, "_subscribe"):
		r.sub = got.(string)
		r.sim.seal(1)
		r.hear(ctx, c.Method)
	}
}

// hear waits for the first notification of a subscription, where the session had one: its client may end it with the next
// call.
func (r *replay) hear(ctx context.Context, method string) {
	name := map[string]string{
		"chain_subscribeNewHeads": "chain_newHead", "chain_subscribeNewHead": "chain_newHead", "chain_subscribeFinalizedHeads": "chain_finalizedHead",
		"state_subscribeStorage": "state_storage", "state_subscribeRuntimeVersion": "state_runtimeVersion",
	}[method]
	for _, n := range r.session.Notifications {
		for n.Notification == name && len(r.notes[name]) == 0 {
			if _, err := r.receive(ctx); err != nil {
				r.t.Fatalf("%s: no notification %s: %v", r.name, name, err)
			}
		}
	}
}

// inclusion waits for the end of what was submitted; block and events are readable when inBlock comes.
func (r *replay) inclusion(ctx context.Context) {
	var states []string
	for len(states) == 0 || states[len(states)-1] != "finalized" {
		for len(r.notes["author_extrinsicUpdate"]) == len(states) {
			if _, err := r.receive(ctx); err != nil {
				r.t.Fatalf("%s: %v after %v", r.name, err, states)
			}
		}
		note := r.notes["author_extrinsicUpdate"][len(states)]
		var object map[string]any
		var word string
		if json.Unmarshal(note, &word) != nil {
			if err := json.Unmarshal(note, &object); err != nil {
				r.t.Fatal(err)
			}
			for word = range object {
			}
		}
		states = append(states, word)
		if word == "inBlock" {
			if _, fault := r.ask(ctx, "chain_getBlock", []any{object[word]}); fault != nil {
				r.gap("the block of inBlock cannot be read: %v", fault)
			}
		}
	}
	if want := []string{"ready", "inBlock", "finalized"}; !slices.Equal(slices.DeleteFunc(states, func(s string) bool { return s == "broadcast" }), want) {
		r.gap("an extrinsic went through %v", states)
	}
	r.notes["author_extrinsicUpdate"] = r.notes["author_extrinsicUpdate"][:1]
}

var keyShape = regexp.MustCompile(`^key (\w+)\.(\w+) \+(\d+)B$`)

// note records which items and APIs the parameters name, and what of them does not exist.
func (r *replay) note(shapes []any) {
	for _, s := range shapes {
		switch v := s.(type) {
		case []any:
			r.note(v)
		case map[string]any:
			if list, ok := v["array"].([]any); ok {
				r.note(list)
			}
		case string:
			if m := keyShape.FindStringSubmatch(v); m != nil {
				r.seen["storage items"][m[1]+"."+m[2]] = true
				if storageItem(r.sim.rt.Metadata(), m[1], m[2]) == nil {
					r.gap("%s.%s (storage) is missing", m[1], m[2])
				}
			} else if api, method, found := strings.Cut(v, "_"); found {
				r.seen["runtime APIs"][v] = true
				if apiMethodOf(r.sim.rt.Metadata(), api, method) == nil {
					r.gap("%s (runtime API) is missing", v)
				}
			}
		}
	}
}

func asked(shapes []any) string {
	b, _ := json.Marshal(shapes) // of strings and lists
	if m := regexp.MustCompile(`"(?:key )?(\w+[._]\w+)`).FindSubmatch(b); m != nil {
		return string(m[1])
	}
	return ""
}

// localized is a recorded parameter in the words of this chain.
func (r *replay) localized(method string, first, shape, value any) any {
	switch {
	case shape == "hash32":
		if strings.HasPrefix(value.(string), "0x45454545") {
			return r.sim.Genesis()
		}
		return r.sim.Head().Hash
	case strings.Contains(method, "nsubscribe") || method == "author_unwatchExtrinsic":
		return r.sub
	case strings.HasPrefix(method, "author_submit"):
		return "0x" + hex.EncodeToString(r.extrinsic())
	case method == "chain_getBlockHash":
		return min(value.(float64), float64(r.sim.Head().Number))
	}
	cut, shortened := value.(map[string]any)
	if list, ok := value.([]any); ok {
		out := make([]any, len(list))
		for i := range list {
			out[i] = r.localized(method, first, elementShape(shape, i), list[i])
		}
		return out
	}
	if !shortened || cut["sha256"] == nil {
		return value
	}
	prefix := "0x"
	if strings.HasPrefix(shape.(string), "hex without") {
		prefix = ""
	}
	switch first {
	case "TransactionPaymentApi_query_info":
		raw := r.extrinsic()
		return prefix + hex.EncodeToString(scale.AppendU32(raw, uint32(len(raw))))
	case "SubnetInfoRuntimeApi_get_selective_mechagraph", "SubnetInfoRuntimeApi_get_selective_metagraph":
		args := []byte{2, 0}
		if first == "SubnetInfoRuntimeApi_get_selective_mechagraph" {
			args = append(args, 0)
		}
		args = scale.AppendCompact(args, 74)
		for i := range uint16(74) {
			args = scale.AppendU16(args, i)
		}
		return prefix + hex.EncodeToString(args)
	}
	if m := keyShape.FindStringSubmatch(shape.(string)); m != nil {
		n, err := strconv.Atoi(m[3])
		if err != nil {
			r.t.Fatal(err)
		}
		key := append(pallet.Twox128([]byte(m[1])), pallet.Twox128([]byte(m[2]))...)
		return "0x" + hex.EncodeToString(append(key, make([]byte, n)...))
	}
	r.t.Fatalf("%s: %s: a shortened parameter %v of shape %v", r.name, method, first, shape)
	return nil
}

func elementShape(shape any, i int) any {
	switch v := shape.(type) {
	case []any:
		return v[i]
	case map[string]any:
		list := v["array"].([]any)
		return list[min(i, len(list)-1)]
	}
	return nil
}

// extrinsic signs what any account may send.
func (r *replay) extrinsic() []byte {
	return r.sim.sign(r.sim.call("System.remark", map[string]any{"remark": []byte(r.name)}), r.sim.signing(r.signer.PublicKey()), r.signer)
}

// ask sends a request with an id as the client makes them, and returns its answer.
func (r *replay) ask(ctx context.Context, method string, params []any) (json.RawMessage, error) {
	r.next++
	var id any = r.next
	if r.session.Client == "sdk10" || r.session.Client == "btcli9" {
		id = fmt.Sprintf("sZ%d", r.next)
	}
	message, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "method": method, "params": params, "id": id})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.ws.Write(ctx, websocket.MessageText, message); err != nil {
		r.t.Fatalf("%s: %s: %v", r.name, method, err)
	}
	want, err := json.Marshal(id)
	if err != nil {
		r.t.Fatal(err)
	}
	for {
		m, err := r.receive(ctx)
		switch {
		case err != nil:
			r.t.Fatalf("%s: %s: %v", r.name, method, err)
		case m.Method != "":
		case string(m.ID) != string(want):
			r.t.Fatalf("%s: %s: asked with id %s, answered with %s", r.name, method, want, m.ID)
		case m.Error != nil:
			return nil, fmt.Errorf("%d %s %s", m.Error.Code, m.Error.Message, m.Error.Data)
		default:
			r.read = m.read
			return m.Result, nil
		}
	}
}

// receive reads one message and keeps it where it is a notification.
func (r *replay) receive(ctx context.Context) (wireMessage, error) {
	var m wireMessage
	_, b, err := r.ws.Read(ctx)
	if err != nil {
		return m, err
	}
	// Metadata is asked in half of the sessions and is the same in all: it is read once.
	end := bytes.LastIndex(b, []byte(`,"id":`))
	var key [32]byte
	if long := len(b) > 1<<16 && end > 0; long {
		key = sha256.Sum256(b[:end])
		if answer, read := r.long[key]; read {
			return wireMessage{ID: b[end+6 : len(b)-1], Result: answer, read: true}, nil
		}
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, err
	}
	if key != [32]byte{} {
		r.long[key] = m.Result
	}
	if m.Method != "" {
		r.notes[m.Method] = append(r.notes[m.Method], m.Params.Result)
	}
	return m, nil
}

// fits holds an answer against a recorded shape. A value that one chain has and the other has not is null.
func fits(want, got any) error {
	differs := fmt.Errorf("answered %.80v where %.80v was recorded", got, want)
	switch w := want.(type) {
	case nil:
		return nil
	case string:
		text, isText := got.(string)
		isHex := isText && strings.HasPrefix(text, "0x")
		switch {
		case w == "null", got == nil && strings.HasPrefix(w, "hex["), isHex && strings.HasPrefix(w, "hex["):
			return nil
		case w == "hash32" && isHex && len(text) == 66, (w == "string" || w == "ss58") && isText:
			return nil
		case w == "number":
			if _, ok := got.(float64); ok {
				return nil
			}
		case w == "boolean":
			if _, ok := got.(bool); ok {
				return nil
			}
		case strings.HasPrefix(w, "key ") && isHex:
			m := keyShape.FindStringSubmatch(w)
			prefix := append(pallet.Twox128([]byte(m[1])), pallet.Twox128([]byte(m[2]))...)
			if strings.HasPrefix(text, "0x"+hex.EncodeToString(prefix)) {
				return nil
			}
		case w == "hash32" && got == nil:
			return nil // a value of 32 bytes looks like a hash
		}
	case []any:
		list, ok := got.([]any)
		if !ok {
			return differs
		}
		for i := range min(len(w), len(list)) {
			if err := fits(w[i], list[i]); err != nil {
				return err
			}
		}
		return nil
	case map[string]any:
		if names, ok := w["object"].([]any); ok {
			object, ok := got.(map[string]any)
			if !ok {
				return differs
			}
			for _, name := range names {
				if _, there := object[name.(string)]; !there {
					return fmt.Errorf("%v is missing in %.80v", name, got)
				}
			}
			return nil
		}
		if kinds, ok := w["array"].([]any); ok {
			list, ok := got.([]any)
			if !ok {
				return differs
			}
			for _, element := range list {
				var err error
				for _, kind := range kinds {
					if err = fits(kind, element); err == nil {
						break
					}
				}
				if err != nil {
					return err
				}
			}
			return nil
		}
		object, ok := got.(map[string]any)
		if !ok {
			return differs
		}
		for name, kind := range w {
			if err := fits(kind, object[name]); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	}
	return differs
}

// decodes reads an answer by this chain's metadata, to its last byte.
func (r *replay) decodes(method string, params []any, got any) error {
	switch method {
	case "state_call":
		name := params[0].(string)
		raw, err := hex.DecodeString(strings.TrimPrefix(got.(string), "0x"))
		if err != nil {
			return err
		}
		trait, call, _ := strings.Cut(name, "_")
		m := apiMethodOf(r.sim.rt.Metadata(), trait, call)
		if m == nil {
			return fmt.Errorf("not in metadata")
		}
		_, err = r.sim.rt.Registry().DecodeAll(raw, m.Output)
		return err
	case "state_getStorage", "state_getStorageAt":
		return r.decodesValue(params[0], got)
	case "state_queryStorageAt":
		for _, set := range got.([]any) {
			for _, change := range set.(map[string]any)["changes"].([]any) {
				if err := r.decodesValue(change.([]any)[0], change.([]any)[1]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (r *replay) decodesValue(key, value any) error {
	if value == nil {
		return nil
	}
	for _, p := range r.sim.rt.Metadata().Pallets {
		for _, e := range p.Storage.Entries {
			prefix := "0x" + hex.EncodeToString(append(pallet.Twox128([]byte(p.Name)), pallet.Twox128([]byte(e.Name))...))
			if strings.HasPrefix(key.(string), prefix) {
				raw, err := hex.DecodeString(strings.TrimPrefix(value.(string), "0x"))
				if err != nil {
					return err
				}
				_, err = r.sim.rt.Registry().DecodeAll(raw, e.Value)
				return err
			}
		}
	}
	return fmt.Errorf("no item has the key %v", key)
}
