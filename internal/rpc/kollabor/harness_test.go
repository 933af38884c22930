package kollabor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/demo"
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// testTable has methods as the hub has them, and those that only captures know.
func testTable() *rpc.Table {
	t := rpc.NewTable()
	sleep := demo.Methods("demo.sleep")[0]
	sleep.Scope = rpc.ScopeCall // as if it did something: nobody knows whether to repeat it
	t.MustAdd(sleep)
	t.MustAdd(demo.Methods("demo.fail", "demo.count", "demo.sum", "demo.upper", "demo.callClient")...)
	t.MustAdd(
		rpc.NewMethod(&rpc.Method{
			Name: "echo", Run: rpc.Inline, Scope: rpc.ScopeRead,
			Params: []rpc.Param{{Name: "value", Type: rpc.Type{Kind: rpc.KindAny}}},
		}, func(c *rpc.Call) (rpc.Value, error) {
			whole, _ := c.Args.Whole()
			if whole.Kind() == '[' {
				if list, _ := whole.AsList(); len(list) == 1 {
					return list[0], nil
				}
			}
			return whole, nil
		}),
		rpc.Handle("ping", func(context.Context, struct{}) (rpc.Value, error) {
			return rpc.RawString(`{"status":"ok","daemon_pid":1,"uptime":0.5,"identity":"demo"}`), nil
		}, rpc.In(rpc.Inline), rpc.Needs(rpc.ScopeRead), rpc.Lenient()),
		rpc.Handle("demo.failAs", func(_ context.Context, in struct {
			Code string    `rpc:"code"`
			Name string    `rpc:"name,optional"`
			Data rpc.Value `rpc:"data,optional"`
		}) (rpc.Value, error) {
			e := rpc.Errorf(rpc.Code(in.Code), "failed as %s", in.Code)
			e.Name = in.Name
			return rpc.Value{}, e.With(in.Data)
		}),
		rpc.Handle("demo.panic", func(context.Context, struct{}) (rpc.Value, error) { panic("as wished") }),
		rpc.HandleStream("demo.endless", func(ctx context.Context, _ struct{}, send func(int) error) error {
			for i := 0; ; i++ {
				if err := send(i); err != nil {
					return err
				}
			}
		}, rpc.Endless(), rpc.NeverSlow()),
		rpc.HandleStream("demo.blobs", func(ctx context.Context, in struct {
			N    int `rpc:"n"`
			Size int `rpc:"size"`
		}, send func(string) error) error {
			text := strings.Repeat("x", in.Size)
			for range in.N {
				if err := send(text); err != nil {
					return err
				}
			}
			return nil
		}),
		rpc.NewMethod(&rpc.Method{Name: "admin.only", Scope: rpc.ScopeAdmin, Run: rpc.Inline},
			func(*rpc.Call) (rpc.Value, error) { return rpc.Null, nil }),
		rpc.Handle("blob", func(_ context.Context, in struct {
			Size int `rpc:"size"`
		}) (rpc.Value, error) {
			return rpc.RawString(fmt.Sprintf(`{"size": %d, "data": "%s"}`, in.Size, strings.Repeat("x", in.Size))), nil
		}),
		rpc.Handle("circular", func(context.Context, struct{}) (any, error) {
			type node struct{ Next *node }
			n := new(node)
			n.Next = n
			return n, nil
		}),
		rpc.Handle("badkey", func(context.Context, struct{}) (rpc.Value, error) {
			m := &rpc.Map{}
			m.Set([]any{int64(1)}, "tuple")
			return rpc.TreeValue(m), nil
		}),
		rpc.Handle("coerced", func(context.Context, struct{}) (rpc.Value, error) {
			return rpc.RawString(`{"obj": "weird-object"}`), nil
		}),
		rpc.Handle("permission.respond", func(_ context.Context, in struct {
			ToolID   string `rpc:"tool_id"`
			Response string `rpc:"response"`
		}) (rpc.Value, error) {
			if in.Response == "DENY" { // the late answer of the capture
				return rpc.RawString(`{"ok":false,"error":"no pending prompt for ` + in.ToolID + `"}`), nil
			}
			return rpc.RawString(`{"ok":true}`), nil
		}),
	)
	return t
}

// wire is a net.Conn as a Wire without an attempt that cannot block.
type wire struct{ net.Conn }

func (wire) TryWrite([]byte) (int, error) { return 0, nil }

// gauge counts what an Observer and a Gate's Observer hear.
type gauge struct {
	mu       sync.Mutex
	in, out  map[string]int
	failed   map[frame.Reason]int
	attached int
	done     map[rpc.Code]int
	late     int
}

func newGauge() *gauge {
	return &gauge{in: map[string]int{}, out: map[string]int{}, failed: map[frame.Reason]int{}, done: map[rpc.Code]int{}}
}

func (g *gauge) count(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

func (g *gauge) FrameIn(action string, _ int)  { g.count(func() { g.in[action]++ }) }
func (g *gauge) FrameOut(action string, _ int) { g.count(func() { g.out[action]++ }) }
func (g *gauge) FailedFrame(r frame.Reason, _ *Conn, _ error) {
	g.count(func() { g.failed[r]++ })
}
func (g *gauge) Denied(*Conn, string) {}
func (g *gauge) Attached(delta int)   { g.count(func() { g.attached += delta }) }
func (g *gauge) Done(_ *rpc.Call, err *rpc.Error, _ time.Duration) {
	g.count(func() {
		if err == nil {
			g.done[rpc.CodeOK]++
		} else {
			g.done[err.Code]++
		}
	})
}
func (g *gauge) Slow(*rpc.Call, time.Duration)   {}
func (g *gauge) Late(*rpc.Call)                  { g.count(func() { g.late++ }) }
func (g *gauge) Panic(*rpc.Call, any, []byte)    {}
func (g *gauge) Rejected(string)                 {}
func (g *gauge) failures(r frame.Reason) (n int) { g.count(func() { n = g.failed[r] }); return n }

// everybody may do everything.
var everybody = &rpc.Peer{UID: 1000, Name: "test", Scopes: rpc.AllScopes}

// peer is the far end of one connection.
type peer struct {
	t     testing.TB
	conn  net.Conn
	r     *bufio.Reader
	link  *rpc.Link
	ended chan error
	wmu   sync.Mutex

	patience time.Duration // for one line; 0: 30 s
}

type setup struct {
	cfg  Config
	conn func(*Conn)
	unix bool // a real socket instead of a pipe
}

// dial serves one connection of s.
func dialServer(t testing.TB, s *Server, o setup) *peer {
	t.Helper()
	var near, far net.Conn
	if o.unix {
		near, far = unixPair(t)
	} else {
		near, far = net.Pipe()
	}
	p := &peer{t: t, conn: far, r: bufio.NewReaderSize(far, 64<<10), ended: make(chan error, 1)}
	c := Conn{Reader: near, Wire: wire{near}, Peer: everybody, Session: "demo", ID: 7, OnLink: func(l *rpc.Link) { p.link = l }}
	if o.conn != nil {
		o.conn(&c)
	}
	go func() { p.ended <- s.Serve(t.Context(), c) }()
	t.Cleanup(func() { far.Close() })
	return p
}

func newTestServer(o setup) *Server {
	if o.cfg.Table == nil {
		o.cfg.Table = testTable()
	}
	if o.cfg.Version == "" {
		o.cfg.Version = "test"
	}
	o.cfg.AgentID = "a1b2c3d4e5f6"
	return New(o.cfg)
}

func dial(t testing.TB, o setup) *peer {
	t.Helper()
	return dialServer(t, newTestServer(o), o)
}

func unixPair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if far, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	return near, far
}

// send writes lines without waiting for an answer.
func (p *peer) send(lines ...string) {
	p.t.Helper()
	text := strings.Join(lines, "\n") + "\n"
	p.wmu.Lock()
	defer p.wmu.Unlock()
	if _, err := io.WriteString(p.conn, text); err != nil {
		p.t.Errorf("write: %v", err)
	}
}

// line reads one line.
func (p *peer) line() (string, error) {
	patience := p.patience
	if patience == 0 {
		patience = 30 * time.Second
	}
	p.conn.SetReadDeadline(time.Now().Add(patience))
	text, err := p.r.ReadString('\n')
	return strings.TrimSuffix(text, "\n"), err
}

// read reads one frame.
func (p *peer) read() map[string]any {
	p.t.Helper()
	text, err := p.line()
	if err != nil {
		p.t.Fatalf("read: %v (after %q)", err, text)
	}
	return decode(p.t, text)
}

// want reads one frame and compares it, as JSON.
func (p *peer) want(text string) {
	p.t.Helper()
	got, err := p.line()
	if err != nil {
		p.t.Fatalf("read: %v, want %s", err, text)
	}
	if !sameJSON(p.t, got, text) {
		p.t.Fatalf("got  %s\nwant %s", cutText(got), cutText(text))
	}
}

// quiet checks that nothing comes before the answer of a ping.
func (p *peer) quiet() {
	p.t.Helper()
	p.send(`{"action":"rpc_request","request_id":"quiet","method":"ping"}`)
	if m := p.read(); m["request_id"] != "quiet" {
		p.t.Fatalf("unexpected frame %v", m)
	}
}

// close ends the connection and waits for the server's side.
func (p *peer) close() error {
	p.t.Helper()
	p.conn.Close()
	return p.wait()
}

func (p *peer) wait() error {
	p.t.Helper()
	select {
	case err := <-p.ended:
		return err
	case <-time.After(60 * time.Second):
		p.t.Fatal("the connection does not end")
		return nil
	}
}

func cutText(s string) string {
	if len(s) > 600 {
		return s[:300] + " ... " + s[len(s)-300:]
	}
	return s
}

// decode reads a JSON text, Python's tokens included; numbers stay literals.
func decode(t testing.TB, text string) map[string]any {
	t.Helper()
	v, err := rpc.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v: %s", err, cutText(text))
	}
	m, ok := plain(v).(map[string]any)
	if !ok {
		t.Fatalf("no object: %s", cutText(text))
	}
	return m
}

// plain is v made of maps, slices and strings, with numbers and odd strings as
// their text.
func plain(v rpc.Value) any {
	switch v.Kind() {
	case '{':
		m := map[string]any{}
		for key, e := range v.Members() {
			m[rpc.Unquote(key)] = plain(e)
		}
		return m
	case '[':
		list := []any{}
		for e := range v.Elements() {
			list = append(list, plain(e))
		}
		return list
	case '"':
		text, _ := v.Raw()
		if bytes.Contains(bytes.ToLower(text), []byte(`\ud`)) {
			return "raw:" + string(text)
		}
		return rpc.Unquote(text)
	case 'n':
		return nil
	case 't':
		return true
	case 'f':
		return false
	}
	text, _ := v.Raw()
	return json.Number(text)
}

func sameJSON(t testing.TB, a, b string) bool {
	t.Helper()
	return fmt.Sprint(decode(t, a)) == fmt.Sprint(decode(t, b))
}

func pipe() (near, far net.Conn) { return net.Pipe() }

func newReader(c net.Conn) *bufio.Reader { return bufio.NewReaderSize(c, 64<<10) }

// sink is a Wire that keeps what is written.
type sink struct {
	mu sync.Mutex
	b  *bytes.Buffer
}

func (s *sink) TryWrite(p []byte) (int, error) { return s.Write(p) }
func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *sink) Close() error { return nil }
