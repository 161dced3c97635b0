package wire

import (
	"context"
	"strings"

	"google.golang.org/grpc"

	"basilica/internal/crashpoint"
)

// What stands here names the places around every call and every message of a stream, for builds of the tag `crash` alone:
// wire.SIDE.METHOD.before and .after, and for a stream .send and .recv in between.

func pointOf(side, method string) string {
	return "wire." + side + "." + method[strings.LastIndexByte(method, '/')+1:]
}

func crashCall(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	defer crashpoint.Around(pointOf("client", method))()
	return invoke(ctx, method, req, reply, cc, opts...)
}

func crashStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	return crashClientStream{s, pointOf("client", method)}, err
}

type crashClientStream struct {
	grpc.ClientStream
	point string
}

// SendMsg implements grpc.ClientStream.
func (s crashClientStream) SendMsg(m any) error {
	defer crashpoint.Around(s.point + ".send")()
	return s.ClientStream.SendMsg(m)
}

// RecvMsg implements grpc.ClientStream.
func (s crashClientStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	crashpoint.Hit(s.point + ".recv")
	return err
}

type crashServerStream struct {
	grpc.ServerStream
	point string
}

// SendMsg implements grpc.ServerStream.
func (s crashServerStream) SendMsg(m any) error {
	defer crashpoint.Around(s.point + ".send")()
	return s.ServerStream.SendMsg(m)
}

// RecvMsg implements grpc.ServerStream.
func (s crashServerStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	crashpoint.Hit(s.point + ".recv")
	return err
}
