package client_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/client"
)

// fakeHub is the other end of a pipe: it says hello and then does what the
// test's script says with each line.
type fakeHub struct {
	t      testing.TB
	mu     sync.Mutex // of writes and conns
	conns  []net.Conn
	wg     sync.WaitGroup
	on     func(h *fakeConn, f line)
	refuse func(n int) error // of the nth dial, from 0; nil: none
	dials  int
	frozen atomic.Bool // it reads and does nothing
}

type fakeConn struct {
	*fakeHub
	net.Conn
	n int // which connection it is, from 0
}

// line is any frame of the client.
type line struct {
	Action    string
	RequestID string `json:"request_id"`
	Method    string
	Params    json.RawMessage
	Timeout   *float64
	Stream    bool
	Seq       uint64
	N         uint64
	Data      json.RawMessage
	Result    json.RawMessage
	Error     *string
	ErrorKind *string         `json:"error_kind"`
	ErrorData json.RawMessage `json:"error_data"`
	Retry     string
	Token     string
	Identity  string
	Version   int
	Features  []string
	text      string
}

func newFake(t testing.TB, on func(*fakeConn, line)) *fakeHub {
	h := &fakeHub{t: t, on: on}
	t.Cleanup(h.close)
	return h
}

func (h *fakeHub) close() {
	h.mu.Lock()
	for _, c := range h.conns {
		c.Close()
	}
	h.mu.Unlock()
	h.wg.Wait()
}

// dial is an Options.Dialer.
func (h *fakeHub) dial(context.Context) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.dials
	h.dials++
	if h.refuse != nil {
		if err := h.refuse(n); err != nil {
			return nil, err
		}
	}
	ours, theirs := net.Pipe()
	h.conns = append(h.conns, theirs)
	c := &fakeConn{fakeHub: h, Conn: theirs, n: n}
	h.wg.Go(c.serve)
	return ours, nil
}

func (c *fakeConn) serve() {
	r := bufio.NewReader(c.Conn)
	for {
		text, err := r.ReadString('\n')
		if err != nil {
			if err != io.EOF && err != io.ErrClosedPipe {
				c.t.Errorf("fake hub: %v", err)
			}
			return
		}
		f := line{text: strings.TrimSuffix(text, "\n")}
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			c.t.Errorf("fake hub: %v in %q", err, text)
			return
		}
		if f.Action == "hello" {
			c.say(`{"type":"hello","version":1,"server":"hubd/test","identity":"main","features":["stream","credit"]}`)
		}
		if f.Action == "ping" && !c.frozen.Load() {
			c.say(`{"type":"pong","agent_id":"a1b2c3d4e5f6"}`)
			continue
		}
		if c.frozen.Load() {
			continue
		}
		c.on(c, f)
	}
}

// say writes one line. The pipe has no buffer, so the client is reading.
func (c *fakeConn) say(format string, args ...any) {
	text := format
	if len(args) > 0 {
		text = fmt.Sprintf(format, args...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	io.WriteString(c.Conn, text+"\n")
}

func (c *fakeConn) reply(f line, result string) {
	c.say(`{"action":"rpc_reply","request_id":%q,"result":%s,"error":null,"error_kind":null}`, f.RequestID, result)
}

func (c *fakeConn) fail(f line, kind, text, more string) {
	c.say(`{"action":"rpc_reply","request_id":%q,"result":null,"error":%q,"error_kind":%q%s}`, f.RequestID, text, kind, more)
}

func (c *fakeConn) chunk(f line, seq int, data string) {
	c.say(`{"action":"rpc_chunk","request_id":%q,"seq":%d,"data":%s}`, f.RequestID, seq, data)
}

// connect dials the fake hub.
func (h *fakeHub) connect(opts client.Options) *client.Client {
	h.t.Helper()
	opts.Dialer = h.dial
	c, err := client.Dial(context.Background(), "", &opts)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}

func wantKind(t testing.TB, err error, kind client.Kind) *client.Error {
	t.Helper()
	e, ok := err.(*client.Error)
	if !ok || e.Kind != kind {
		t.Fatalf("got error %v (%T), want kind %s", err, err, kind)
	}
	return e
}

// wait fails the test when c is not closed in time; it measures nothing.
func wait[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came within 20 s")
	}
	panic("unreachable")
}

// connectThrough is connect by way of what between makes of the connection.
func (h *fakeHub) connectThrough(opts client.Options, between func(net.Conn) net.Conn) *client.Client {
	h.t.Helper()
	opts.Dialer = func(ctx context.Context) (net.Conn, error) {
		nc, err := h.dial(ctx)
		if err != nil {
			return nil, err
		}
		return between(nc), nil
	}
	c, err := client.Dial(context.Background(), "", &opts)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}
