package basilica

import (
	"errors"
	"strings"
)

// Kind sorts failures by what the caller can do about them. Kinds cross every wire unchanged;
// the zero kind is Internal.
type Kind uint8

// The kinds. Everything else is Internal: one word to the caller, the full text to the operator.
const (
	Internal    Kind = iota // a fault of ours
	NotFound                // the named thing does not exist
	Denied                  // who asks may not
	Invalid                 // the request itself is wrong
	Exhausted               // a limit or quota is reached
	Conflict                // another holder, a repeated key with other content, a stale fencing number
	Unavailable             // a peer, the chain or the engine is away; the same call may succeed later
)

var kindNames = [...]string{"internal", "not_found", "denied", "invalid", "exhausted", "conflict", "unavailable"}

// String gives the name that stands in JSON and on wires.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[Internal]
}

// HTTPStatus is the status of RFC 9110 under which an HTTP door answers with a failure of this kind.
func (k Kind) HTTPStatus() int {
	switch k {
	case NotFound:
		return 404
	case Denied:
		return 403
	case Invalid:
		return 400
	case Exhausted:
		return 429
	case Conflict:
		return 409
	case Unavailable:
		return 503
	}
	return 500
}

// ParseKind reverses String; an unknown name is Internal.
func ParseKind(name string) Kind {
	for i, n := range kindNames {
		if n == name {
			return Kind(i)
		}
	}
	return Internal
}

// Error is a failure that a person may meet: a code to look up, one plain sentence, and the next step.
type Error struct {
	Kind     Kind
	Code     string // upper-case words, e.g. PORT_TAKEN; stable across versions
	Sentence string // one plain sentence without a full stop at its end
	Fix      string // what to do next
	Err      error  // the cause, for the operator; never sent over a wire
}

// E makes an Error without a cause. An empty fix means the table's (Explain).
func E(kind Kind, code, sentence, fix string) *Error {
	if fix == "" {
		x, _ := Explain(code)
		fix = x.Fix
	}
	return &Error{Kind: kind, Code: code, Sentence: sentence, Fix: fix}
}

// With returns a copy of e that carries its cause.
func (e *Error) With(cause error) *Error {
	c := *e
	c.Err = cause
	return &c
}

// Error gives sentence, code and cause in one line, without the fix.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Sentence)
	if e.Code != "" {
		b.WriteString(" [" + e.Code + "]")
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf finds the kind of an error chain; Internal where none is named.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// CodeOf finds the code of an error chain, or "".
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// FixOf finds the next step of an error chain, or "".
func FixOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Fix
	}
	return ""
}
