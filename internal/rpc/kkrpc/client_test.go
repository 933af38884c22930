package kkrpc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func jsonOf(t *testing.T, v rpc.Value) string {
	t.Helper()
	if v.IsUndefined() {
		return "undefined"
	}
	text, err := v.AppendJSON(nil, rpc.Form{})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// eachClient runs body with a client of each dialect over WebSocket and lines.
func eachClient(t *testing.T, opt Options, body func(t *testing.T, c *Client, d *demo)) {
	for _, dialect := range []Dialect{Classic, Compact} {
		for _, way := range []string{"websocket", "lines"} {
			t.Run(fmt.Sprint(way, dialect), func(t *testing.T) {
				d := newDemo()
				url, w, sv := serveDemo(t, d, Config{})
				opt.Dialect = dialect
				var c *Client
				if way == "lines" {
					c = NewClient(linesTo(t, sv), opt)
				} else {
					var err error
					if c, err = Dial(t.Context(), url+"/?streams=1", opt); err != nil {
						t.Fatal(err)
					}
				}
				s := <-w.opened
				body(t, c, d)
				if err := c.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				if err := <-w.ended; err != nil {
					t.Errorf("the server's end: %v", err)
				}
				for _, s := range []*Session{s, c.s} {
					if n := s.Counts(); n != (Counts{}) {
						t.Errorf("left behind: %+v", n)
					}
				}
				if n := w.ignored.Load(); n != 0 {
					t.Errorf("%d messages were ignored", n)
				}
			})
		}
	}
}

func TestClient(t *testing.T) {
	var self *Client
	own := rpc.NewTable()
	own.MustAdd(
		rpc.NewMethod(&rpc.Method{Name: "hello", Scope: rpc.ScopeCall}, func(c *rpc.Call) (rpc.Value, error) {
			name, err := c.Args.First().AsString()
			return rpc.String("hello " + name), err
		}),
		rpc.NewMethod(&rpc.Method{Name: "deep.again", Scope: rpc.ScopeCall}, func(c *rpc.Call) (rpc.Value, error) {
			return self.Call(c, "math.add", 2, 3)
		}),
		rpc.NewMethod(&rpc.Method{Name: "boom", Scope: rpc.ScopeCall}, func(*rpc.Call) (rpc.Value, error) {
			return rpc.Value{}, rpc.HandlerError("RangeError", "client boom")
		}),
	)
	peer := &rpc.Peer{UID: -1, GID: -1, PID: -1, Scopes: rpc.AllScopes}
	eachClient(t, Options{API: &API{Table: own}, Peer: peer}, func(t *testing.T, c *Client, d *demo) {
		self = c
		ctx := t.Context()
		call := func(method string, args ...any) string {
			t.Helper()
			v, err := c.Call(ctx, method, args...)
			if err != nil {
				return err.Error()
			}
			return jsonOf(t, v)
		}
		for _, tt := range []struct{ got, want string }{
			{call("math.add", 1, 2, 3), "6"},
			{call("math.deep.mul", 6, 7), "42"},
			{call("echo", rpc.RawString(`{"n": 1.0, "big": 12345678901234567890, "ü": "\ud800"}`)), `{"n": 1.0, "big": 12345678901234567890, "ü": "\ud800"}`},
			{call("echo", rpc.RawString(`{"__kkrpc_next_arg__":"callback","id":"x"}`)), `{"__kkrpc_next_arg__":"callback","id":"x"}`},
			{call("hub.undef"), "undefined"},
			{call("hub.nul"), "null"},
			{call("hub.failString", "just text"), "handler: just text"},
			{call("hub.fail", "kaput"), "TypeError: kaput"},
			{call("hub.callClient", "hello", "go"), `"hello go"`},
			{call("hub.callClient", "deep.again"), "5"},
			{call("hub.callClient", "boom"), "RangeError: client boom"},
		} {
			if tt.got != tt.want {
				// lines escape what is not ASCII
				if v, err := rpc.Parse([]byte(tt.got)); err != nil || fmt.Sprint(v.Expand()) != fmt.Sprint(rpc.RawString(tt.want).Expand()) {
					t.Errorf("got %s, want %s", tt.got, tt.want)
				}
			}
		}
		_, err := c.Call(ctx, "hub.fail", "kaput")
		if e, ok := errors.AsType[*rpc.Error](err); !ok || e.Code != rpc.CodeHandler || e.Ran != rpc.RanYes || jsonOf(t, e.Data) != `{"detail":"kaput","n":7}` {
			t.Errorf("error facts: %+v", err)
		}
		_, err = c.Call(ctx, "no.such")
		if e, ok := errors.AsType[*rpc.Error](err); !ok || e.Code != rpc.CodeNotFound || e.Ran != rpc.RanNo {
			t.Errorf("error facts: %+v", err)
		}
		if err := c.Set(ctx, []any{1, "ü"}, "state", "a", "b"); err != nil {
			t.Error(err)
		}
		if v, err := c.Get(ctx, "state", "a", "b"); err != nil || fmt.Sprint(v.Expand()) != "[1 ü]" {
			t.Errorf("%v, %v", v, err)
		}
		if _, err := c.Construct(ctx, "Counter", 5); err == nil {
			t.Error("a constructor was found")
		}

		var got []int64
		fn := Func(func(args []rpc.Value) {
			n, _ := args[0].AsInt()
			got = append(got, n)
		})
		v, err := c.Call(ctx, "hub.callback", fn, 1000)
		if err != nil || jsonOf(t, v) != "1000" || len(got) != 1000 || got[0] != 0 || got[999] != 999 {
			t.Errorf("callback: %v, %v, %d invocations", v, err, len(got))
		}
		fn.Release()

		ctx, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			_, err := c.Call(ctx, "hub.sleep", 3600)
			done <- err
		}()
		eventually(t, "the call runs", func() bool { return d.running.Load() == 1 })
		stop()
		if err := <-done; err == nil {
			t.Error("a cancelled call was answered")
		}
	})
	// A handler that goes on for nobody ends with its connection: eachClient has seen that.
}

func TestClientStreams(t *testing.T) {
	eachClient(t, Options{}, func(t *testing.T, c *Client, d *demo) {
		ctx := t.Context()
		items := func(method string, n int) (list []int64, err error) {
			t.Helper()
			r, err := c.Stream(ctx, method, n)
			if err != nil {
				return nil, err
			}
			for v, err := range r.All(ctx) {
				if err != nil {
					return list, err
				}
				i, _ := v.AsInt()
				list = append(list, i)
			}
			return list, nil
		}
		list, err := items("hub.count", 1000)
		if err != nil || len(list) != 1000 || !slices.IsSorted(list) {
			t.Errorf("%d items, %v", len(list), err)
		}
		if list, err := items("hub.count", 0); err != nil || len(list) != 0 {
			t.Errorf("%d items of none, %v", len(list), err)
		}
		if _, err := items("hub.countFail", 2); err == nil || err.Error() != "handler: stream broke" {
			t.Errorf("a stream that breaks: %v", err)
		}
		v, err := c.Call(ctx, "hub.count", 5)
		if err != nil || jsonOf(t, v) != "[0,1,2,3,4]" {
			t.Errorf("collected: %v, %v", v, err)
		}
		if !c.streams(t) {
			return // over lines nothing asks for streams
		}
		r, err := c.Stream(ctx, "hub.count", 1<<40)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if _, ok, err := r.Recv(ctx); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
		r.Close(nil)
		eventually(t, "the source ends", func() bool { return d.running.Load() == 0 })
	})
}

// streams reports whether the peer sends streams as such.
func (c *Client) streams(*testing.T) bool {
	_, ok := c.s.wire.(*socket)
	return ok
}

// The peer of this test is this test binary, serving kkrpc on its standard streams.
func TestClientOfAChildProcess(t *testing.T) {
	for _, dialect := range []Dialect{Classic, Compact} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChildProcess$")
		cmd.Env = append(os.Environ(), "KKRPC_CHILD=1")
		cmd.Stderr = os.Stderr
		c, err := Start(cmd, Options{Dialect: dialect})
		if err != nil {
			t.Fatal(err)
		}
		v, err := c.Call(t.Context(), "echo", "grüße 😀")
		if err != nil || jsonOf(t, v) != `"gr\u00fc\u00dfe \ud83d\ude00"` {
			t.Errorf("%v, %v", v, err)
		}
		// A mount: the child's method under another name in a table of ours.
		table := rpc.NewTable()
		table.MustAdd(rpc.NewTarget(&rpc.Method{Name: "child.mul", Scope: rpc.ScopeCall}, c.Method("math.deep.mul")))
		v, err = rpc.Do(t.Context(), table.Lookup("child.mul"), &rpc.Call{Args: rpc.ListArgs(rpc.Int(6), rpc.Int(7)), Peer: rpc.Local})
		if err != nil || jsonOf(t, v) != "42" {
			t.Errorf("mounted: %v, %v", v, err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("the child ended with %v", err)
		}
		if _, err := c.Call(t.Context(), "echo", 1); err == nil {
			t.Error("a closed client calls")
		}
	}
}

func TestChildProcess(t *testing.T) {
	if os.Getenv("KKRPC_CHILD") == "" {
		t.Skip("this is what TestClientOfAChildProcess starts")
	}
	fmt.Println("a line of its own")
	peer := &rpc.Peer{UID: -1, GID: -1, PID: -1, Scopes: rpc.AllScopes}
	err := New(Config{API: newDemo().api}).Serve(context.Background(), Conn{
		Admission: Admission{Peer: peer}, Reader: os.Stdin, Wire: pipeWire{os.Stdout, os.Stdout},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Streams that are passed to a method of the peer arrive there as arrays.
func TestStreamsForAMethodOfThePeer(t *testing.T) {
	eachClient(t, Options{}, func(t *testing.T, c *Client, _ *demo) {
		v, err := rpc.Do(t.Context(), c.Method("hub.sum"), &rpc.Call{
			Args: rpc.ListArgs(rpc.TreeValue(rpc.Items(rpc.Int(40), rpc.Int(2)))), Peer: rpc.Local,
		})
		if err != nil || jsonOf(t, v) != "42" {
			t.Errorf("as an argument: %v, %v", v, err)
		}
		in := rpc.NewReader(nil)
		row := &rpc.Method{Name: "far.sum", Params: []rpc.Param{{Name: "values", Stream: true}, {Name: "more"}}}
		done := make(chan string, 1)
		go func() {
			v, err := rpc.Do(t.Context(), c.Method("echo"), &rpc.Call{Method: row, Args: rpc.ListArgs(rpc.String("behind")), Input: in, Peer: rpc.Local})
			done <- fmt.Sprint(v.Expand(), err)
		}()
		in.Item(nil, rpc.Int(1))
		in.Item(nil, rpc.String("x"))
		in.End(nil, nil)
		if got := <-done; got != "[1 x] <nil>" {
			t.Errorf("beside the arguments: %s", got)
		}
		_, err = rpc.Do(t.Context(), c.Method("hub.sum"), &rpc.Call{Input: endless{}, Peer: rpc.Local})
		if rpc.AsError(t.Context(), err).Code != rpc.CodeTooLarge {
			t.Errorf("without end: %v", err)
		}
	})
}

// endless is a stream that has always more.
type endless struct{}

func (endless) Attach(s rpc.Sink) rpc.Source { return always{s} }
func (endless) Close(*rpc.Error)             {}

type always struct{ s rpc.Sink }

func (a always) Grant(n int) {
	go func() {
		for range n {
			a.s.Item(nil, rpc.Int(1))
		}
	}()
}
func (always) Stop(*rpc.Error) {}
