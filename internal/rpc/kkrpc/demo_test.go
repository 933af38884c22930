package kkrpc

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/testkit"
)

// patience bounds every wait: it turns a hang into a failure and measures nothing.
const patience = testkit.Patience

var eventually = testkit.Eventually

// demo is the API that the captured peers had.
type demo struct {
	table *rpc.Table
	api   API

	mu      sync.Mutex
	state   map[string]rpc.Value
	kept    []*rpc.Ref
	running atomic.Int64 // handlers
}

func newDemo() *demo {
	d := &demo{table: rpc.NewTable(), state: map[string]rpc.Value{
		"counter": rpc.Int(42), "theme": rpc.String("light"), "nested": rpc.RawString(`{"x":1}`),
	}}
	inline := rpc.In(rpc.Inline)
	method := func(name string, f rpc.Func) *rpc.Method {
		return rpc.NewMethod(&rpc.Method{Name: name, Run: rpc.Inline, Scope: rpc.ScopeCall}, f)
	}
	product := func(one int64, f func(a, b int64) int64) rpc.Func {
		return func(c *rpc.Call) (rpc.Value, error) {
			for v := range c.Args.List() {
				n, err := v.AsInt()
				if err != nil {
					return rpc.Value{}, err
				}
				one = f(one, n)
			}
			return rpc.Int(one), nil
		}
	}
	type none struct{}
	type count struct {
		N int64 `rpc:"n"`
	}
	d.table.MustAdd(
		method("echo", func(c *rpc.Call) (rpc.Value, error) { return c.Args.First(), nil }),
		method("math.add", func(c *rpc.Call) (rpc.Value, error) { return product(0, func(a, b int64) int64 { return a + b })(c) }),
		method("math.deep.mul", func(c *rpc.Call) (rpc.Value, error) { return product(1, func(a, b int64) int64 { return a * b })(c) }),
		method("hub.undef", func(*rpc.Call) (rpc.Value, error) { return rpc.Value{}, nil }),
		method("hub.nul", func(*rpc.Call) (rpc.Value, error) { return rpc.Null, nil }),
		rpc.Handle("hub.sleep", func(ctx context.Context, in struct {
			Seconds float64 `rpc:"seconds"`
		}) (float64, error) {
			d.running.Add(1)
			defer d.running.Add(-1)
			select {
			case <-time.After(time.Duration(in.Seconds * float64(time.Second))):
				return in.Seconds, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}),
		rpc.Handle("hub.fail", func(_ context.Context, in struct {
			Message string `rpc:"message"`
		}) (none, error) {
			e := rpc.HandlerError("TypeError", in.Message)
			return none{}, e.With(rpc.MustEncode(map[string]any{"detail": in.Message, "n": 7}))
		}, inline),
		rpc.Handle("hub.failString", func(_ context.Context, in struct {
			Message string `rpc:"message"`
		}) (none, error) {
			return none{}, errors.New(in.Message)
		}, inline),
		rpc.Handle("hub.callback", func(ctx context.Context, in struct {
			Fn *rpc.Ref `rpc:"fn"`
			N  int64    `rpc:"n"`
		}) (int64, error) {
			d.running.Add(1)
			defer d.running.Add(-1)
			for i := range in.N {
				if _, err := in.Fn.Call(ctx, rpc.Int(i)); err != nil {
					return 0, err
				}
			}
			return in.N, nil
		}),
		rpc.Handle("hub.release", func(ctx context.Context, in struct {
			Fn *rpc.Ref `rpc:"fn"`
		}) (bool, error) {
			_, err := in.Fn.Call(ctx, rpc.String("before release"))
			return true, err
		}),
		rpc.Handle("hub.keep", func(_ context.Context, in struct {
			Fn *rpc.Ref `rpc:"fn"`
		}) (int, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.kept = append(d.kept, in.Fn.Retain())
			return len(d.kept), nil
		}, inline),
		rpc.Handle("hub.callClient", func(ctx context.Context, in struct {
			Method string      `rpc:"method"`
			Args   []rpc.Value `rpc:"args,rest"`
		}) (rpc.Value, error) {
			d.running.Add(1)
			defer d.running.Add(-1)
			return rpc.From(ctx).CallClient(ctx, parts(strings.Split(in.Method, ".")), in.Args...)
		}),
		rpc.HandleStream("hub.count", func(_ context.Context, in count, send func(int64) error) error {
			d.running.Add(1)
			defer d.running.Add(-1)
			for i := range in.N {
				if err := send(i); err != nil {
					return err
				}
			}
			return nil
		}),
		rpc.HandleStream("hub.countFail", func(_ context.Context, in count, send func(int64) error) error {
			for i := range in.N {
				if err := send(i); err != nil {
					return err
				}
			}
			return errors.New("stream broke")
		}),
		rpc.Handle("hub.sum", func(ctx context.Context, in struct {
			Values *rpc.Reader `rpc:"values"`
		}) (rpc.Value, error) {
			sum := rpc.Int(0)
			for v, err := range in.Values.All(ctx) {
				if err != nil {
					return rpc.Value{}, err
				}
				if sum, err = rpc.Add(sum, v); err != nil {
					return rpc.Value{}, err
				}
			}
			return sum, nil
		}),
	)
	d.api = API{Table: d.table, Properties: &Properties{
		Name: "state",
		Get: method("state.get", func(c *rpc.Call) (rpc.Value, error) {
			key, err := c.Args.First().AsString()
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.state[key], err
		}),
		Set: rpc.NewMethod(&rpc.Method{Name: "state.put", Scope: rpc.ScopeCall}, func(c *rpc.Call) (rpc.Value, error) {
			key, _ := c.Args.Get(0, "")
			value, _ := c.Args.Get(1, "")
			name, err := key.AsString()
			d.mu.Lock()
			defer d.mu.Unlock()
			d.state[name] = value.Own()
			return rpc.True, err
		}),
	}}
	return d
}

// takeKept returns what hub.keep holds.
func (d *demo) takeKept() []*rpc.Ref {
	d.mu.Lock()
	defer d.mu.Unlock()
	kept := d.kept
	d.kept = nil
	return kept
}

// watcher is an Observer that gives tests a look at the sessions.
type watcher struct {
	opened  chan *Session
	ended   chan error
	ignored atomic.Int64
}

func newWatcher() *watcher {
	return &watcher{opened: make(chan *Session, 16), ended: make(chan error, 16)}
}

func (w *watcher) MessageIn(int)                      {}
func (w *watcher) MessageOut(int)                     {}
func (w *watcher) Ignored(*Session, string)           { w.ignored.Add(1) }
func (w *watcher) SessionOpened(s *Session)           { w.opened <- s }
func (w *watcher) SessionEnded(_ *Session, err error) { w.ended <- err }

// serveDemo starts a server over HTTP and returns the address of its WebSocket.
func serveDemo(t testing.TB, d *demo, conf Config) (url string, w *watcher, sv *Server) {
	t.Helper()
	w = newWatcher()
	conf.API, conf.Observer = d.api, w
	sv = New(conf)
	hs := httptest.NewServer(sv)
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), patience)
		defer stop()
		if err := sv.Close(ctx); err != nil {
			t.Error(err)
		}
		hs.Close()
	})
	return "ws" + strings.TrimPrefix(hs.URL, "http"), w, sv
}

// linesTo serves one end of a socket pair and returns the other.
func linesTo(t *testing.T, sv *Server) net.Conn {
	t.Helper()
	dir, err := os.MkdirTemp("", "kk")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		peer := &rpc.Peer{UID: -1, GID: -1, PID: -1, Scopes: rpc.AllScopes}
		_ = sv.Serve(context.Background(), Conn{Admission: Admission{Peer: peer}, Reader: nc, Wire: pipeWire{nc, nc}})
	}()
	nc, err := net.Dial("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		l.Close()
		<-served
		os.RemoveAll(dir)
	})
	return nc
}

var _ io.Closer = (*Client)(nil)
