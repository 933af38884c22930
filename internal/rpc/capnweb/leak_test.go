package capnweb

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// sessions is an Observer that keeps the server's side of each session.
type sessions struct{ opened chan *Session }

func (sessions) MessageIn(int)                {}
func (sessions) MessageOut(int)               {}
func (o sessions) SessionOpened(s *Session)   { o.opened <- s }
func (sessions) SessionEnded(*Session, error) {}

// TestNothingIsLeft uses references in every place in which they can stand and
// counts the tables of both sides afterwards, and the objects that were given back.
func TestNothingIsLeft(t *testing.T) {
	o := sessions{make(chan *Session, 1)}
	_, socket, demo := startServer(t, func(c *Config) { c.Observer = o })
	c := dial(t, socket, DialOptions{})
	server := <-o.opened
	ctx := t.Context()

	var made, freed atomic.Int64
	object := func() *rpc.Ref { // an object of the client's
		made.Add(1)
		return rpc.NewRef(rpc.TargetFunc(func(b *rpc.Batch, call *rpc.Call) { call.Finish(b, rpc.Int(1), nil) }), func() { freed.Add(1) })
	}
	stream := func(refs ...*rpc.Ref) *rpc.Reader {
		var items []rpc.Value
		for i, r := range refs {
			items = append(items, rpc.TreeValue([]any{int64(i), r}))
		}
		return rpc.Items(items...)
	}
	use := func(t *testing.T, method string, args ...any) {
		t.Helper()
		st := c.Main().Call(method, args...)
		v, err := st.Value(ctx)
		if err == nil {
			if r, ok := v.Tree().(rpc.Readable); ok { // a stream: read it to its end
				for v, err := range rpc.ReaderOf(r).All(ctx) {
					if err != nil {
						break
					}
					_ = v
				}
			}
		}
		st.Release()
	}
	for _, step := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"an argument", func(t *testing.T) {
			r := object()
			use(t, "echo", map[string]any{"a": r})
			r.Release()
		}},
		{"the result of a callback", func(t *testing.T) {
			fn := rpc.NewRef(rpc.TargetFunc(func(b *rpc.Batch, call *rpc.Call) {
				call.Finish(b, rpc.TreeValue([]any{object()}), nil)
			}), nil)
			use(t, "demo.callback", fn, 5)
		}},
		{"the result of a callback that fails later", func(t *testing.T) {
			n := 0
			fn := rpc.NewRef(rpc.TargetFunc(func(b *rpc.Batch, call *rpc.Call) {
				if n++; n > 2 {
					call.Finish(b, rpc.Value{}, rpc.HandlerError("", "no more"))
					return
				}
				call.Finish(b, rpc.TreeValue(object()), nil)
			}), nil)
			use(t, "demo.callback", fn, 5)
		}},
		{"chunks that a method reads", func(t *testing.T) {
			a, b := object(), object()
			use(t, "demo.sum", stream(a, b))
		}},
		{"chunks that a method sends back", func(t *testing.T) {
			a, b := object(), object()
			use(t, "demo.upper", stream(a, b))
		}},
		{"chunks of a stream that comes back", func(t *testing.T) {
			var refs []*rpc.Ref
			for range 200 {
				refs = append(refs, object())
			}
			use(t, "echo", stream(refs...))
		}},
		{"chunks that nobody reads", func(t *testing.T) {
			a, b := object(), object()
			use(t, "demo.fail", "on purpose", stream(a, b))
		}},
		{"a stream that is given up", func(t *testing.T) {
			a, b := object(), object()
			st := c.Main().Call("echo", stream(a, b))
			v, err := st.Value(ctx)
			if err != nil {
				t.Fatal(err)
			}
			_ = v
			st.Release()
		}},
		{"objects of the hub", func(t *testing.T) {
			use(t, "demo.nested")
			counter := c.Main().Call("demo.counter", 1)
			use(t, "demo.useCounter", counter, 1)
			counter.Release()
		}},
	} {
		t.Run(step.name, func(t *testing.T) {
			for range 3 {
				step.run(t)
			}
			probe := func() string {
				ex, im := c.Session().Entries()
				sex, sim := server.Entries()
				return fmt.Sprintf("client %d %d, hub %d %d; counters %d; objects %d of %d", ex, im, sex, sim, demo.Counters.Load(), freed.Load(), made.Load())
			}
			want := func() string {
				return fmt.Sprintf("client 0 0, hub 0 0; counters 0; objects %d of %d", made.Load(), made.Load())
			}
			last := ""
			defer func() {
				if t.Failed() {
					t.Log(last)
				}
			}()
			eventually(t, "tables are empty", func() bool { last = probe(); return last == want() })
		})
	}
}
