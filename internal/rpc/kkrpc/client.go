package kkrpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
	"github.com/hubd-dev/hubd/internal/rpc/ws"
)

// endpoint is where hubs speak kkrpc.
const endpoint = "/kkrpc"

// Options are the options of a Client. The zero value will do.
type Options struct {
	// Dialect is what the peer is called in. 0: the dialect of its own latest
	// request, Compact before the first.
	Dialect Dialect
	// API is what the peer may call and read of ours; nil offers nothing.
	API *API
	// Peer is on whose behalf the peer's calls run; nil may call nothing that a
	// method guards.
	Peer   *rpc.Peer
	Gate   *rpc.Gate
	Limits Limits
	// StreamResults says that the peer takes results of ours as streams.
	StreamResults bool

	// For Dial alone.
	Header http.Header
	TLS    *tls.Config
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client is the side of a connection that opened it. A session is symmetric:
// what Options.API offers, the peer may call, also while it is being called.
type Client struct {
	s    *Session
	done chan struct{}
	err  error
	stop func() // tells the reader to end

	closing sync.Once
}

// Dial opens a session over WebSocket. address is ws://host/path,
// wss://host/path, or unix:///path/to/socket with the path of the endpoint
// behind a colon; without one it is /kkrpc. ctx bounds the handshake only.
func Dial(ctx context.Context, address string, opt Options) (*Client, error) {
	limits := opt.Limits.withDefaults()
	conn, err := ws.Dial(ctx, address, endpoint, ws.DialOptions{
		Options: ws.Options{Limit: limits.MaxMessage + 1}, Header: opt.Header, TLS: opt.TLS, Dial: opt.Dial,
	})
	if err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	sock := &socket{Conn: conn}
	c := newClient(sock, conn.Out(), opt, false)
	c.stop = func() { conn.Hangup(ws.CloseNormal, "") }
	go func() { // the reader; ends with the connection
		defer close(c.done)
		c.err = sock.run(c.s, clientDrain)
	}()
	return c, nil
}

// NewClient opens a session over a byte stream, such as a Unix socket of a
// listener with protocols=kkrpc: messages are lines. Close closes it.
func NewClient(conn io.ReadWriteCloser, opt Options) *Client {
	return overStream(conn, pipeWire{conn, conn}, opt, nil)
}

// overStream runs a session over lines; after comes behind its end.
func overStream(r io.Reader, wire rpc.Wire, opt Options, after func() error) *Client {
	st := &stream{out: rpc.NewOutbox(wire, 0, 0), lines: frame.NewLineReader(r, opt.Limits.withDefaults().MaxMessage)}
	c := newClient(st, st.out, opt, true)
	ctx, cancel := context.WithCancelCause(context.Background())
	c.stop = func() { cancel(errClosed) }
	go func() { // the reader; ends with the stream
		defer close(c.done)
		err := st.run(ctx, c.s, nil, clientDrain)
		cancel(nil)
		if after != nil {
			err = errors.Join(err, after())
		}
		if !errors.Is(err, errClosed) {
			c.err = err
		}
	}()
	return c
}

var errClosed = &rpc.Error{Code: rpc.CodeUnavailable, Message: "the connection was closed"}

const (
	exitLimit   = 5 * time.Second // how long a child process may go on after its input has ended
	clientDrain = 2 * time.Second // how long what is queued may take at the end
)

// Start starts cmd and opens a session over its standard input and output;
// cmd.Stderr is the caller's. Close ends its input, waits for it to exit, and
// kills it if it does not.
func Start(cmd *exec.Cmd, opt Options) (*Client, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	limit := time.AfterFunc(exitLimit, func() { _ = cmd.Process.Kill() })
	limit.Stop()
	wait := func() error { // behind the end of its output
		limit.Reset(exitLimit)
		defer limit.Stop()
		return cmd.Wait()
	}
	c := overStream(out, pipeWire{in, in}, opt, wait)
	stop := c.stop
	c.stop = func() {
		limit.Reset(exitLimit)
		stop()
	}
	return c, nil
}

func newClient(wire transport, out *rpc.Outbox, opt Options, ascii bool) *Client {
	link := rpc.NewLink(opt.Gate)
	link.Out = out
	s := newSession(wire, link, opt.Peer, opt.API, opt.Limits, ascii)
	s.wants.Streams = opt.StreamResults
	s.dialect.Store(uint32(Compact))
	if opt.Dialect != 0 {
		s.fixed = true
		s.dialect.Store(uint32(opt.Dialect))
	}
	return &Client{s: s, done: make(chan struct{})}
}

// pipeWire is an rpc.Wire for streams that cannot be tried.
type pipeWire struct {
	io.Writer
	io.Closer
}

func (pipeWire) TryWrite([]byte) (int, error) { return 0, nil }

// Session returns the session, for its counts.
func (c *Client) Session() *Session { return c.s }

// Done is closed when the session is over.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the session is over, nil while it is not or after a regular end.
func (c *Client) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Close ends the session and waits until everything is given back. Calls that
// run fail.
func (c *Client) Close() error {
	c.closing.Do(func() {
		c.s.link.Close(rpc.ErrPeerGone, 0) // the peer's calls are answered
		c.s.End(errClosed)
		c.stop()
	})
	<-c.done
	return c.Err()
}

// Target is the peer's API as a target: what is called on it is called there,
// by the path of the call.
func (c *Client) Target() rpc.Target { return c.s.client }

// Method is a method of the peer as a target, to be mounted as a row of a
// method table under any name.
func (c *Client) Method(name string) rpc.Target {
	path := parts(strings.Split(name, "."))
	return rpc.TargetFunc(func(b *rpc.Batch, call *rpc.Call) {
		call.Path = path
		c.s.call(b, call, isCall)
	})
}

func parts(names []string) []rpc.PathPart {
	path := make([]rpc.PathPart, len(names))
	for i, n := range names {
		path[i].Name = n
	}
	return path
}

// Func makes a function that may be passed as an argument. What it returns is
// dropped: invocations are not answered. The caller releases the reference when
// the peer shall not invoke it any more and the call has ended.
func Func(fn func(args []rpc.Value)) *rpc.Ref {
	return rpc.NewRef(rpc.TargetFunc(func(b *rpc.Batch, c *rpc.Call) {
		var args []rpc.Value
		for v := range c.Args.List() {
			args = append(args, v)
		}
		fn(args)
		c.Finish(b, rpc.Value{}, nil)
	}), nil)
}

// Call calls a method by its dotted name and waits for the answer under ctx. A
// streamed answer arrives as an array.
func (c *Client) Call(ctx context.Context, method string, args ...any) (rpc.Value, error) {
	return c.do(ctx, isCall, strings.Split(method, "."), args)
}

// Get reads a property.
func (c *Client) Get(ctx context.Context, path ...string) (rpc.Value, error) {
	return c.do(ctx, isGet, path, nil)
}

// Set writes a property.
func (c *Client) Set(ctx context.Context, value any, path ...string) error {
	_, err := c.do(ctx, isSet, path, []any{value})
	return err
}

// Construct calls a constructor; the answer is the object as a value.
func (c *Client) Construct(ctx context.Context, name string, args ...any) (rpc.Value, error) {
	return c.do(ctx, isNew, strings.Split(name, "."), args)
}

func (c *Client) do(ctx context.Context, op kind, path []string, args []any) (rpc.Value, error) {
	list, err := encodeAll(args)
	if err != nil {
		return rpc.Value{}, err
	}
	t := rpc.TargetFunc(func(b *rpc.Batch, call *rpc.Call) { c.s.call(b, call, op) })
	return rpc.Do(ctx, t, &rpc.Call{Path: parts(path), Args: rpc.ListArgs(list...), Peer: rpc.Local, Protocol: rpc.Kkrpc})
}

func encodeAll(args []any) ([]rpc.Value, error) {
	list := make([]rpc.Value, len(args))
	for i, x := range args {
		v, err := rpc.Encode(x)
		if err != nil {
			return nil, err
		}
		list[i] = v
	}
	return list, nil
}

// Stream calls a method whose answer is a stream and waits under ctx until it
// begins. The reader has to be read to its end or closed. An answer that is a
// value is a stream of one item, an array one of its elements.
func (c *Client) Stream(ctx context.Context, method string, args ...any) (*rpc.Reader, error) {
	list, err := encodeAll(args)
	if err != nil {
		return nil, err
	}
	reply := &streamReply{began: make(chan struct{})}
	call := &rpc.Call{
		Path: parts(strings.Split(method, ".")), Args: rpc.ListArgs(list...), Peer: rpc.Local, Protocol: rpc.Kkrpc, Reply: reply,
	}
	c.s.call(nil, call, isCall)
	select {
	case <-reply.began:
	case <-ctx.Done():
		call.Cancel(rpc.ErrCancelled)
		<-reply.began // by the cancel at the latest
		if reply.r != nil {
			reply.r.Close(rpc.ErrCancelled)
		}
		return nil, context.Cause(ctx)
	}
	if reply.err != nil {
		return nil, reply.err
	}
	return reply.r, nil
}

// streamReply is the Reply of a call whose answer is read as a stream.
type streamReply struct {
	began chan struct{}
	r     *rpc.Reader
	err   error
}

func (s *streamReply) Result(_ *rpc.Batch, _ *rpc.Call, v rpc.Value) {
	v = v.Own()
	if list, err := v.AsList(); err == nil {
		s.r = rpc.Items(list...)
	} else {
		s.r = rpc.Items(v)
	}
	close(s.began)
}

func (s *streamReply) Error(_ *rpc.Batch, _ *rpc.Call, e *rpc.Error) {
	s.err = e
	close(s.began)
}

func (s *streamReply) Open(_ *rpc.Batch, _ *rpc.Call, src rpc.Source) rpc.Sink {
	s.r = rpc.NewReader(src)
	close(s.began)
	return s.r
}

func (s *streamReply) Own() {}
