package axon

import (
	"crypto/sha3"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"basilica"
)

// The protocol of Dendrite and Axon, as the Bittensor SDKs 6 to 10 speak it over plain HTTP: a synapse is one request and
// its answer, in JSON, with much of it again in headers. The names stand in headers as they are here, in lower case; their
// reader in Python minds the case.
const (
	headerAxon     = "bt_header_axon_"
	headerDendrite = "bt_header_dendrite_"
	headerInput    = "bt_header_input_obj_"
	headerBodyHash = "computed_body_hash"

	// synapseVersion is the SDK whose protocol this is: 10.5.0.
	synapseVersion = 10_005_000
	// synapseDelta is by how much the nonce of a request may be older than its timeout.
	synapseDelta = 4 * time.Second
	// synapseTimeout is the most, and what holds where a request names none.
	synapseTimeout = 12 * time.Second
	// noSynapse is the name that stands where none was recognised; every axon has it attached, with nothing to do.
	noSynapse = "Synapse"
)

// terminal is what a synapse says of one of its two ends; nil where it says nothing.
type terminal struct {
	StatusCode    *int     `json:"status_code"`
	StatusMessage *string  `json:"status_message"`
	ProcessTime   *float64 `json:"process_time"` // seconds
	IP            *string  `json:"ip"`
	Port          *uint16  `json:"port"`
	Version       *int64   `json:"version"`
	Nonce         *int64   `json:"nonce"` // unix nanoseconds
	UUID          *string  `json:"uuid"`
	Hotkey        *string  `json:"hotkey"` // SS58
	Signature     *string  `json:"signature"`
}

// write puts what is known into headers.
func (t terminal) write(h http.Header, prefix string) {
	put := func(name, text string) { h[prefix+name] = []string{text} }
	texts := []struct {
		name string
		text *string
	}{{"status_message", t.StatusMessage}, {"ip", t.IP}, {"uuid", t.UUID}, {"hotkey", t.Hotkey}, {"signature", t.Signature}}
	for _, x := range texts {
		if x.text != nil {
			put(x.name, basilica.OneLine(*x.text))
		}
	}
	if t.StatusCode != nil {
		put("status_code", strconv.Itoa(*t.StatusCode))
	}
	if t.ProcessTime != nil {
		put("process_time", strconv.FormatFloat(*t.ProcessTime, 'g', -1, 64))
	}
	if t.Port != nil {
		put("port", strconv.FormatUint(uint64(*t.Port), 10))
	}
	if t.Version != nil {
		put("version", strconv.FormatInt(*t.Version, 10))
	}
	if t.Nonce != nil {
		put("nonce", strconv.FormatInt(*t.Nonce, 10))
	}
}

// readTerminal reads what write wrote, by whichever case the names have.
func readTerminal(h http.Header, prefix string) (t terminal, err error) {
	var bad []string
	text := func(name string) *string {
		if v := h.Get(prefix + name); v != "" {
			return &v
		}
		return nil
	}
	number := func(name string, bits int) *int64 {
		v := text(name)
		if v == nil {
			return nil
		}
		n, err := strconv.ParseInt(*v, 10, bits)
		if err != nil {
			bad = append(bad, prefix+name)
		}
		return &n
	}
	t = terminal{StatusMessage: text("status_message"), IP: text("ip"), UUID: text("uuid"), Hotkey: text("hotkey"), Signature: text("signature")}
	t.Version, t.Nonce = number("version", 64), number("nonce", 64)
	if n := number("status_code", 32); n != nil {
		t.StatusCode = new(int(*n))
	}
	if n := number("port", 32); n != nil {
		if *n < 0 || *n > 65535 {
			bad = append(bad, prefix+"port")
		}
		t.Port = new(uint16(*n))
	}
	if v := text("process_time"); v != nil {
		f, err := strconv.ParseFloat(*v, 64)
		if err != nil {
			bad = append(bad, prefix+"process_time")
		}
		t.ProcessTime = &f
	}
	if bad != nil {
		return terminal{}, fmt.Errorf("%s: not numbers", strings.Join(bad, ", "))
	}
	return t, nil
}

// synapse is what the headers of a request or of an answer say.
type synapse struct {
	name     string
	timeout  float64 // seconds
	axon     terminal
	dendrite terminal
	inputs   map[string]string // JSON of an empty value of each field that the synapse requires, by the field's name in lower case
	bodyHash string
}

// readSynapse reads headers.
func readSynapse(h http.Header) (synapse, error) {
	s := synapse{name: h.Get("name"), timeout: synapseTimeout.Seconds(), bodyHash: h.Get(headerBodyHash), inputs: map[string]string{}}
	var err error
	if s.axon, err = readTerminal(h, headerAxon); err != nil {
		return synapse{}, err
	}
	if s.dendrite, err = readTerminal(h, headerDendrite); err != nil {
		return synapse{}, err
	}
	if v := h.Get("timeout"); v != "" {
		if s.timeout, err = strconv.ParseFloat(v, 64); err != nil {
			return synapse{}, fmt.Errorf("timeout: %w", err)
		}
	}
	for name, v := range h {
		field, ok := strings.CutPrefix(strings.ToLower(name), headerInput)
		if !ok {
			continue
		}
		text, err := base64.StdEncoding.DecodeString(v[0])
		if err == nil && json.Valid(text) {
			s.inputs[field] = string(text)
		}
	}
	return s, nil
}

// write puts the synapse into headers; size is how many bytes its body has.
func (s synapse) write(h http.Header, size int) {
	before := headerBytes(h)
	h["name"] = []string{s.name}
	h["timeout"] = []string{pythonFloat(s.timeout)}
	s.axon.write(h, headerAxon)
	s.dendrite.write(h, headerDendrite)
	for field, text := range s.inputs {
		h[headerInput+field] = []string{base64.StdEncoding.EncodeToString([]byte(text))}
	}
	h[headerBodyHash] = []string{s.bodyHash}
	own := headerBytes(h) - before
	h["header_size"] = []string{strconv.Itoa(own)}
	h["total_size"] = []string{strconv.Itoa(own + size)}
}

func headerBytes(h http.Header) (n int) {
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(v)
		}
	}
	return n
}

// pythonFloat writes a float as Python's str does where it needs no exponent.
func pythonFloat(f float64) string {
	text := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text
}

// bodyHash is what stands for the body in the signature: of each hashed field, in the order that the synapse's class
// declares, the SHA3-256 of its text in Python, and the SHA3-256 of these in hex one after the other.
func bodyHash(texts ...string) string {
	all := sha3.New256()
	for _, t := range texts {
		one := sha3.Sum256([]byte(t))
		all.Write([]byte(hex.EncodeToString(one[:])))
	}
	return hex.EncodeToString(all.Sum(nil))
}

// pythonText is what Python's str makes of a JSON value. Strings, integers, booleans and null have one text in every
// language; others are refused.
func pythonText(value json.RawMessage) (string, error) {
	text := strings.TrimSpace(string(value))
	switch text {
	case "", "null":
		return "None", nil
	case "true":
		return "True", nil
	case "false":
		return "False", nil
	}
	if text[0] == '"' {
		var s string
		err := json.Unmarshal(value, &s)
		return s, err
	}
	digits := strings.TrimPrefix(text, "-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return "", fmt.Errorf("%.40s is neither text nor a whole number: its hash differs between languages", text)
	}
	return text, nil
}

// hashFields is the bodyHash of some fields of a body.
func hashFields(fields map[string]json.RawMessage, hashed []string) (string, error) {
	texts := make([]string, len(hashed))
	for i, name := range hashed {
		var err error
		if texts[i], err = pythonText(fields[name]); err != nil {
			return "", fmt.Errorf("field %s: %w", name, err)
		}
	}
	return bodyHash(texts...), nil
}

// emptyOf is the JSON of an empty value of the type that a value has.
func emptyOf(value json.RawMessage) string {
	switch text := strings.TrimSpace(string(value)); {
	case text == "" || text == "null":
		return "null"
	case text[0] == '"':
		return `""`
	case text[0] == '[':
		return "[]"
	case text[0] == '{':
		return "{}"
	case text == "true" || text == "false":
		return "false"
	case strings.ContainsAny(text, ".eE"):
		return "0.0"
	default:
		return "0"
	}
}

// requestMessage is what a dendrite signs, and axonMessage what an axon does.
func requestMessage(nonce int64, dendrite, axon, uuid, bodyHash string) string {
	return strings.Join([]string{strconv.FormatInt(nonce, 10), dendrite, axon, uuid, bodyHash}, ".")
}

func axonMessage(nonce int64, dendrite, axon, uuid string) string {
	return strings.Join([]string{strconv.FormatInt(nonce, 10), dendrite, axon, uuid}, ".")
}

// synapseBody is a synapse's JSON: what every class has, and the class's own fields beside it.
func synapseBody(s synapse, size int, fields map[string]json.RawMessage) ([]byte, error) {
	body := make(map[string]any, len(fields)+7)
	for name, v := range fields {
		if ofEverySynapse(name) {
			return nil, fmt.Errorf("a synapse's own field is named %s", name)
		}
		body[name] = v
	}
	body["name"], body["timeout"], body["total_size"], body["header_size"] = s.name, s.timeout, size, 0
	body["dendrite"], body["axon"], body[headerBodyHash] = s.dendrite, s.axon, ""
	return json.Marshal(body)
}

// ofEverySynapse says whether the body of every class has this field.
func ofEverySynapse(field string) bool {
	switch field {
	case "name", "timeout", "total_size", "header_size", "dendrite", "axon", headerBodyHash:
		return true
	}
	return false
}
