package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
	"github.com/hubd-dev/hubd/internal/rpc/ws"
)

// kkrpcEndpoint is where every listener of the hub speaks kkrpc.
const kkrpcEndpoint = "/kkrpc"

// kkrpcBridge joins lines on stdin and stdout to the WebSocket messages of the
// hub: lines of kkrpc look like those of the native protocol, so that the
// socket alone cannot tell them apart.
type kkrpcBridge struct {
	conn *ws.Conn
	out  io.Writer

	mu      sync.Mutex
	pending map[string]struct{} // requests from stdin that were not answered
	ended   bool                // stdin
	quiet   *time.Timer         // ends the bridge when no answer comes any more; nil before stdin has ended
}

// bridgeKkrpc runs until stdin has ended and what was asked is answered, or the
// hub hangs up.
func (a *app) bridgeKkrpc(ctx context.Context, query url.Values) error {
	addr, err := a.address()
	if err != nil {
		return err
	}
	conn, err := a.dialKkrpc(ctx, addr, query)
	if err != nil {
		return unreachable{addr, errors.Join(&client.Error{Kind: client.KindDisconnected, Retry: client.RetrySafe}, err)}
	}
	b := &kkrpcBridge{conn: conn, out: a.out, pending: make(map[string]struct{})}
	stop := context.AfterFunc(ctx, conn.Cut)
	defer stop()
	broken := make(chan error, 1)
	go func() { // ends with stdin, or with the program
		if err := b.input(ctx, a.in); err != nil {
			broken <- err
			conn.Cut()
		}
	}()
	err = b.output()
	conn.End()
	select {
	case err := <-broken:
		return err
	default:
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case b.over():
		return nil
	case errors.Is(err, errStdout):
		return err
	}
	return &client.Error{Kind: client.KindDisconnected, Message: "the hub closed the connection", Retry: client.RetryUnsafe}
}

func (a *app) dialKkrpc(ctx context.Context, addr client.Address, query url.Values) (*ws.Conn, error) {
	target := "ws://localhost" + kkrpcEndpoint
	if addr.Network != "unix" {
		target = "ws://" + addr.Path + kkrpcEndpoint
	}
	opts, err := a.options()
	if err != nil {
		return nil, err
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	opt := ws.DialOptions{
		Options: ws.Options{Limit: frame.MaxLine + 1},
		Dial:    func(ctx context.Context, _, _ string) (net.Conn, error) { return addr.Dial(ctx, opts.TLS) },
	}
	if opts.Token != "" && addr.Network != "unix" {
		opt.Header = http.Header{"Authorization": {"Bearer " + opts.Token}}
	}
	return ws.Dial(ctx, target, kkrpcEndpoint, opt)
}

// input sends each line of stdin as a message.
func (b *kkrpcBridge) input(ctx context.Context, in io.Reader) error {
	lines := frame.NewLineReader(in, 0)
	defer lines.Release()
	for {
		line, err := lines.Next()
		if err == io.EOF {
			b.end()
			return nil
		}
		if err != nil {
			return err
		}
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0 || line[0] != '{' && line[0] != '_':
			continue // not a message: what a program prints beside them
		case bytes.HasPrefix(line, []byte("__DESTROY__")):
			b.end()
			return nil
		}
		b.note(line, true)
		if b.conn.Send(nil, line) != nil || b.conn.Out().Wait(ctx) != nil {
			return nil // the hub has hung up: output tells
		}
	}
}

var errStdout = errors.New("stdout is closed")

// output writes each message as a line, in ASCII: some clients decode each
// chunk of bytes for itself, others in the encoding of their locale.
func (b *kkrpcBridge) output() error {
	var msg, line []byte
	for {
		var err error
		if msg, err = b.conn.Next(msg); err != nil {
			return err
		}
		v, err := rpc.Parse(msg)
		if err != nil {
			continue
		}
		if line, err = v.AppendJSON(line[:0], rpc.Form{ASCII: true}); err != nil {
			continue
		}
		if _, err := b.out.Write(append(line, '\n')); err != nil {
			return errors.Join(errStdout, err)
		}
		b.note(msg, false)
	}
}

// note keeps count of requests and of their answers.
func (b *kkrpcBridge) note(msg []byte, in bool) {
	id, request, response := kkrpcKind(msg)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case in && request:
		b.pending[id] = struct{}{}
	case !in && response: // callbacks and streams are for a client that is there
		delete(b.pending, id)
		b.settleLocked()
	}
}

// kkrpcKind says whether a message of either dialect is a request or a response.
func kkrpcKind(msg []byte) (id string, request, response bool) {
	v, err := rpc.Parse(msg)
	if err != nil {
		return "", false, false
	}
	if inner, ok := v.Member("json"); ok { // SuperJSON's envelope
		v = inner
	}
	text := func(name string) string {
		m, _ := v.Member(name)
		s, _ := m.AsString()
		return s
	}
	raw, _ := v.Member("id")
	bytes, _ := raw.Raw()
	id = string(bytes)
	switch text("t") {
	case "q":
		return id, true, false
	case "r":
		return id, false, true
	}
	switch text("type") {
	case "request", "get", "set", "construct":
		return id, true, false
	case "response":
		return id, false, true
	}
	return id, false, false
}

// end notes that stdin has ended: the client is gone, or waits for its answers.
func (b *kkrpcBridge) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.quiet = time.AfterFunc(bridgeQuiet, b.conn.Cut)
	b.settleLocked()
}

// settleLocked ends the bridge once nothing is due any more.
func (b *kkrpcBridge) settleLocked() {
	switch {
	case b.quiet == nil:
	case len(b.pending) == 0:
		b.quiet.Stop()
		b.conn.Hangup(ws.CloseNormal, "")
	default:
		b.quiet.Reset(bridgeQuiet)
	}
}

// over reports whether stdin has ended.
func (b *kkrpcBridge) over() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.quiet != nil {
		b.quiet.Stop()
	}
	return b.ended
}
