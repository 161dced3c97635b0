package axon

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"basilica"
)

const codeBodySize = "BODY_SIZE"

// errorBody is how a failure stands in JSON. Causes stay where they happened.
type errorBody struct {
	Kind     string `json:"kind"`
	Code     string `json:"code"`
	Sentence string `json:"sentence"`
	Fix      string `json:"fix,omitempty"`
}

type errorReply struct {
	Error errorBody `json:"error"`
}

// toBody turns an error of ours into what a stranger may read, and its HTTP status.
func toBody(err error) (int, errorBody) {
	var e *basilica.Error
	if !errors.As(err, &e) {
		e = basilica.E(basilica.Internal, "", "", "")
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			e = basilica.E(basilica.Unavailable, "DEADLINE", "the miner did not finish in time", "try again")
		}
	}
	status := e.Kind.HTTPStatus()
	switch {
	case e.Kind == basilica.Internal:
		return status, errorBody{Kind: basilica.Internal.String(), Code: "MINER_FAULT", Sentence: "the miner met a fault of its own", Fix: "try again later"}
	case isAuth(e):
		status = http.StatusUnauthorized
	case e.Code == codeBodySize:
		status = http.StatusRequestEntityTooLarge
	}
	return status, errorBody{Kind: e.Kind.String(), Code: e.Code, Sentence: e.Sentence, Fix: e.Fix}
}

// fromBody reverses toBody at the calling end. A miner's words go to a person's terminal and log: they stay on their line
// and are not longer than a person reads.
func fromBody(b errorBody) error {
	return basilica.E(basilica.ParseKind(b.Kind), said(b.Code, 64), said(b.Sentence, 1000), said(b.Fix, 1000))
}

func said(text string, most int) string {
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return basilica.OneLine(text)
}

// fromHTTP says what a reply without an error of ours means.
func fromHTTP(status int) error {
	return basilica.E(kindOfHTTP(status), "MINER_HTTP", "the miner answered with HTTP "+http.StatusText(status)+" and no explanation", "check that the address is a Basilica miner's")
}

func kindOfHTTP(status int) basilica.Kind {
	switch status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed:
		return basilica.Invalid
	case http.StatusUnauthorized, http.StatusForbidden:
		return basilica.Denied
	case http.StatusNotFound:
		return basilica.NotFound
	case http.StatusConflict:
		return basilica.Conflict
	case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests, http.StatusRequestHeaderFieldsTooLarge:
		return basilica.Exhausted
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return basilica.Unavailable
	}
	return basilica.Internal
}
