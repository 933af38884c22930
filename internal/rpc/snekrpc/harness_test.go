package snekrpc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/demo"
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/testkit"
)

// patience bounds every wait: it turns a hang into a failure and measures nothing.
const patience = testkit.Patience

var eventually = testkit.Eventually

// testTable has the services that the captures were recorded with; demo stands
// for their service hub.
func testTable(t testing.TB) *rpc.Table {
	t.Helper()
	table := rpc.NewTable()
	table.Describe("echo", "Echo service.")
	table.MustAdd(demo.Methods("math.add", "demo.sleep", "demo.fail", "demo.count", "demo.sum", "demo.upper")...)
	table.MustAdd(
		rpc.NewMethod(&rpc.Method{
			Name: "echo", Doc: "Return the value unchanged.", Run: rpc.Inline, Scope: rpc.ScopeRead,
			Params: []rpc.Param{{Name: "value", Type: rpc.Type{Kind: rpc.KindAny}, Required: true}}, Result: rpc.Type{Kind: rpc.KindAny},
		}, func(c *rpc.Call) (rpc.Value, error) {
			v, _ := c.Args.Get(0, "value")
			return v, nil
		}),
		rpc.HandleStream("health.ping", func(ctx context.Context, in struct {
			Count    int64   `rpc:"count" default:"1"`
			Interval float64 `rpc:"interval" default:"1.0"`
		}, send func(rpc.Value) error) error {
			for i := int64(1); i < in.Count; i++ {
				if err := send(rpc.Null); err != nil {
					return err
				}
			}
			return nil
		}, rpc.Returns(rpc.Type{Kind: rpc.KindNull})),
	)
	return table
}

// netWire is an rpc.Wire over a net.Conn, without attempts that cannot block.
type netWire struct{ net.Conn }

func (netWire) TryWrite([]byte) (int, error) { return 0, nil }

// testConn is the client's end of a connection that a server serves.
type testConn struct {
	t     testing.TB
	net   net.Conn
	in    *reader
	codec codec
	http  bool
	done  chan struct{}
	err   error // of Serve, after done
	link  *rpc.Link
}

type serveOptions struct {
	chunked bool
	change  func(*Config)
	conn    func(*Conn)
	codec   codec // nil: JSON
}

// unixPair returns two ends of a socket, which buffers as real ones do.
func unixPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type accepted struct {
		c   net.Conn
		err error
	}
	ch := make(chan accepted, 1)
	go func() {
		c, err := l.Accept()
		ch <- accepted{c, err}
	}()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b := <-ch
	if b.err != nil {
		t.Fatal(b.err)
	}
	return a, b.c
}

// serve serves one end of a connection and returns the other.
func serve(t testing.TB, table *rpc.Table, o serveOptions) *testConn {
	t.Helper()
	client, server := unixPair(t)
	cfg := Config{Table: table, Version: "9.9"}
	if o.change != nil {
		o.change(&cfg)
	}
	peer := &rpc.Peer{UID: -1, GID: -1, PID: -1, Scopes: rpc.ScopeRead | rpc.ScopeCall}
	tc := &testConn{t: t, net: client, http: o.chunked, codec: o.codec, done: make(chan struct{})}
	if tc.codec == nil {
		tc.codec = jsonCodec{}
	}
	linked := make(chan *rpc.Link, 1)
	k := Conn{
		Reader: server, Wire: netWire{server}, Peer: func() *rpc.Peer { return peer }, Transport: "tcp", Chunked: o.chunked,
		OnLink: func(l *rpc.Link) { linked <- l },
	}
	if o.conn != nil {
		o.conn(&k)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := New(cfg)
	go func() {
		defer close(tc.done)
		tc.err = s.Serve(ctx, k)
	}()
	tc.link = <-linked
	tc.in = newReader(client, false, DefaultMaxFrame)
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		cancel()
		select {
		case <-tc.done:
		case <-time.After(patience):
			t.Error("the connection was not given up")
		}
	})
	return tc
}

// write sends bytes as they are.
func (c *testConn) write(p []byte) {
	c.t.Helper()
	if _, err := c.net.Write(p); err != nil {
		c.t.Fatal(err)
	}
}

// raw sends one message.
func (c *testConn) raw(msg []byte) {
	c.t.Helper()
	from := 0
	p := append(beginFrame(nil, c.http), msg...)
	c.write(endFrame(p, from, c.http))
}

// json sends a message written as JSON, in the connection's codec.
func (c *testConn) json(format string, args ...any) {
	c.t.Helper()
	text := fmt.Sprintf(format, args...)
	v, err := rpc.Parse([]byte(text))
	if err != nil {
		c.t.Fatalf("%s: %v", text, err)
	}
	msg, err := c.codec.value(nil, v)
	if err != nil {
		c.t.Fatal(err)
	}
	c.raw(msg)
}

// head reads the head of the response of a tunnel.
func (c *testConn) head() string {
	c.t.Helper()
	var head []byte
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		b, err := c.in.byte()
		if err != nil {
			c.t.Fatalf("head %q: %v", head, err)
		}
		head = append(head, b)
	}
	c.in.chunked = true
	return string(head)
}

// next returns the next message as it came.
func (c *testConn) next() []byte {
	c.t.Helper()
	if c.http && !c.in.chunked {
		c.head()
	}
	msg, err := c.in.next()
	if err != nil {
		c.t.Fatalf("read: %v", err)
	}
	return append([]byte(nil), msg...)
}

// want reads one message and compares it, written as JSON.
func (c *testConn) want(format string, args ...any) {
	c.t.Helper()
	want := fmt.Sprintf(format, args...)
	if got := readable(c.t, c.codec, c.next()); got != want {
		c.t.Errorf("got  %s\nwant %s", got, want)
	}
}

// wantError reads an error message of that name and returns its text.
func (c *testConn) wantError(name string) string {
	c.t.Helper()
	var m message
	msg := c.next()
	if err := c.codec.decode(msg, &m); err != nil {
		c.t.Fatalf("%q: %v", msg, err)
	}
	if m.kind != errorMsg || m.name != name {
		c.t.Fatalf("got %s, want an error %s", readable(c.t, c.codec, msg), name)
	}
	return m.text
}

// readable writes a message as JSON, the handshake's answer as its text.
func readable(t testing.TB, cd codec, msg []byte) string {
	t.Helper()
	if len(msg) > 0 && msg[0] == handshake {
		return fmt.Sprintf("%q", msg)
	}
	if cd.name() == codecJSON {
		return string(msg)
	}
	d := unpacker{whole: msg, b: msg, left: maxElements}
	x, err := d.value(0)
	if err != nil {
		t.Fatalf("%x: %v", msg, err)
	}
	text, err := rpc.TreeValue(x).AppendJSON(nil, rpc.Form{NonFinite: true})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// ended waits until the server has given the connection up, and returns its reason.
func (c *testConn) ended() error {
	c.t.Helper()
	select {
	case <-c.done:
		return c.err
	case <-time.After(patience):
		c.t.Fatal("the connection was not given up")
		return nil
	}
}

// script is a reader of prepared pieces, one per Read.
type script struct {
	mu     sync.Mutex
	pieces [][]byte
}

func (s *script) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}
