package wire

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"basilica"
	"basilica/wire/wirepb"
)

// internalSentence is all that a peer learns of a fault of ours.
const internalSentence = "the peer met a fault of its own"

// kindCodes maps kinds to gRPC codes, position is the kind; the detail message says the kind again.
var kindCodes = [...]codes.Code{
	basilica.Internal: codes.Internal, basilica.NotFound: codes.NotFound, basilica.Denied: codes.PermissionDenied, basilica.Invalid: codes.InvalidArgument,
	basilica.Exhausted: codes.ResourceExhausted, basilica.Conflict: codes.Aborted, basilica.Unavailable: codes.Unavailable,
}

// toStatus turns an error of ours into what crosses the wire: kind, code, sentence and fix, never a cause. A fault of
// ours crosses as one constant sentence.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	var e *basilica.Error
	if !errors.As(err, &e) || e.Kind == basilica.Internal || int(e.Kind) >= len(kindCodes) {
		switch {
		case errors.Is(err, context.Canceled):
			return status.Error(codes.Canceled, "the call was given up")
		case errors.Is(err, context.DeadlineExceeded):
			e = basilica.E(basilica.Unavailable, "DEADLINE", "the peer did not finish in time", "try again")
		default:
			return status.Error(codes.Internal, internalSentence)
		}
	}
	st, err := status.New(kindCodes[e.Kind], text(e.Sentence)).WithDetails(&wirepb.ErrorDetail{
		Kind: e.Kind.String(), Code: text(e.Code), Sentence: text(e.Sentence), Fix: text(e.Fix),
	})
	if err != nil {
		return status.Error(codes.Internal, internalSentence)
	}
	return st.Err()
}

// fromStatus reverses toStatus at the calling end. peer names who was called, as in "executor box-1". What gRPC itself
// has to say of a connection becomes Unavailable with the reason as the cause.
func fromStatus(ctx context.Context, peer string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, d := range st.Details() {
		if d, ok := d.(*wirepb.ErrorDetail); ok && basilica.ParseKind(d.GetKind()) != basilica.Internal {
			return basilica.E(basilica.ParseKind(d.GetKind()), d.GetCode(), d.GetSentence(), d.GetFix())
		}
	}
	if ctx.Err() != nil && (st.Code() == codes.Canceled || st.Code() == codes.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	switch st.Code() {
	case codes.Unavailable, codes.Canceled:
		return basilica.E(basilica.Unavailable, "PEER_UNREACHABLE", peer+" cannot be reached", "check that it runs and that its port is open").With(errors.New(st.Message()))
	case codes.DeadlineExceeded:
		return basilica.E(basilica.Unavailable, "DEADLINE", peer+" did not answer in time", "try again").With(errors.New(st.Message()))
	case codes.ResourceExhausted:
		return basilica.E(basilica.Exhausted, "MESSAGE_SIZE", "a message to or from "+peer+" is over a limit", "run the same version of basilica on both machines").With(errors.New(st.Message()))
	case codes.Unimplemented:
		return basilica.E(basilica.Invalid, "PEER_VERSION", peer+" does not know this call", "run the same version of basilica on both machines").With(errors.New(st.Message()))
	}
	return basilica.E(basilica.Internal, "PEER_FAULT", peer+" met a fault of its own", "read its log").With(errors.New(st.Message()))
}
