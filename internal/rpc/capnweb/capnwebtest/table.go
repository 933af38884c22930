// Package capnwebtest has a method table with one method of each kind, for
// tests of the protocol without a hub.
package capnwebtest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubd-dev/hubd/internal/demo"
	"github.com/hubd-dev/hubd/internal/rpc"
)

// Demo is a table and what its methods remember.
type Demo struct {
	Table    *rpc.Table
	Counters atomic.Int64 // counters that somebody holds
	Watches  atomic.Int64 // state watches that somebody holds
	Running  atomic.Int64 // calls that sleep or wait for their client

	mu       sync.Mutex
	state    map[string]entry
	revision int64
	watchers map[string]map[*rpc.Ref]*watch
}

type entry struct {
	value    rpc.Value
	revision int64
}

type watch struct {
	mu    sync.Mutex
	queue []rpc.Value
	busy  bool
}

// New returns a fresh demo.
func New() *Demo {
	d := &Demo{Table: rpc.NewTable(), state: map[string]entry{}, watchers: map[string]map[*rpc.Ref]*watch{}}
	inline := rpc.In(rpc.Inline)
	read := rpc.Needs(rpc.ScopeRead)
	d.Table.MustAdd(demo.Methods(
		"math.add", "demo.fail", "demo.range", "demo.count", "demo.sum", "demo.upper", "demo.callClient", "demo.authenticate", "demo.getUserProfile",
	)...)
	d.Table.MustAdd(
		rpc.NewMethod(&rpc.Method{Name: "echo", Run: rpc.Inline, Scope: rpc.ScopeRead}, func(c *rpc.Call) (rpc.Value, error) {
			return c.Args.First(), nil
		}),
		rpc.NewMethod(&rpc.Method{Name: "echo_later", Scope: rpc.ScopeRead}, func(c *rpc.Call) (rpc.Value, error) {
			return c.Args.First(), nil
		}),
		rpc.Handle("demo.sleep", d.sleep, read, rpc.NeverSlow()),
		rpc.Handle("demo.failType", failType, inline, read),
		rpc.Handle("demo.panic", func(context.Context, struct{}) (struct{}, error) { panic("secret: /etc/passwd") }, inline, read),
		rpc.Handle("demo.conflict", func(context.Context, struct{}) (struct{}, error) {
			return struct{}{}, rpc.Errorf(rpc.CodeConflict, "revision is 7").With(rpc.RawString(`{"key":"k","revision":7}`))
		}, inline, read),
		rpc.Handle("demo.undef", func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil }, inline, read),
		rpc.HandleStream("demo.bytes", func(_ context.Context, in struct {
			N int `rpc:"n"`
		}, send func(rpc.Value) error) error {
			for i := range in.N {
				data := make([]byte, 100<<10)
				data[0] = byte(i)
				if err := send(rpc.TreeValue(rpc.Bytes{Data: data})); err != nil {
					return err
				}
			}
			return nil
		}, read, rpc.NeverSlow()),
		rpc.HandleStream("demo.failingStream", func(_ context.Context, _ struct{}, send func(int) error) error {
			if err := send(1); err != nil {
				return err
			}
			return rpc.HandlerError("RangeError", "source broke")
		}, read),
		rpc.Handle("demo.callback", d.callback, rpc.NeverSlow()),
		rpc.Handle("demo.counter", d.counter, inline),
		rpc.Handle("demo.useCounter", func(ctx context.Context, in struct {
			C  *rpc.Ref `rpc:"c"`
			By int64    `rpc:"by"`
		}) (rpc.Value, error) {
			return rpc.Do(ctx, in.C.Target, &rpc.Call{
				Path: []rpc.PathPart{{Name: "increment"}}, Args: rpc.ListArgs(rpc.Int(in.By)), Peer: rpc.Local, Protocol: rpc.Capnweb,
			})
		}),
		rpc.Handle("demo.nested", func(context.Context, struct{}) (rpc.Value, error) {
			inner := rpc.RawString(`[{"c":41},{"c":42}]`)
			return rpc.TreeValue(&rpc.Map{Items: []rpc.Item{
				{Key: "a", Value: &rpc.Map{Items: []rpc.Item{{Key: "b", Value: inner}}}},
				{Key: "counter", Value: d.newCounter(7)},
				{Key: "fn", Value: rpc.NewRef(rpc.TargetFunc(rpc.Handle("double", func(_ context.Context, in struct {
					X int64 `rpc:"x"`
				}) (int64, error) {
					return 2 * in.X, nil
				}, inline).Start), nil)},
			}}), nil
		}, inline),
		rpc.Handle("admin.only", func(context.Context, struct{}) (string, error) { return "secret", nil }, inline, rpc.Needs(rpc.ScopeAdmin)),
		rpc.Handle("state.put", d.put, inline),
		rpc.Handle("state.get", d.get, inline, read),
		rpc.Handle("state.watch", d.watch, inline),
		rpc.HandleStream("demo.forever", func(ctx context.Context, _ struct{}, send func(int) error) error {
			d.Running.Add(1)
			defer d.Running.Add(-1)
			if err := send(0); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}, read, rpc.NeverSlow(), rpc.Endless()),
	)
	return d
}

func (d *Demo) sleep(ctx context.Context, in struct {
	Seconds float64 `rpc:"seconds"`
}) (float64, error) {
	d.Running.Add(1)
	defer d.Running.Add(-1)
	t := time.NewTimer(time.Duration(in.Seconds * float64(time.Second)))
	defer t.Stop()
	select {
	case <-t.C:
		return in.Seconds, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func failType(_ context.Context, in struct {
	Kind string `rpc:"kind"`
}) (struct{}, error) {
	return struct{}{}, rpc.HandlerError(in.Kind, in.Kind+" message")
}

func (d *Demo) callback(ctx context.Context, in struct {
	Fn *rpc.Ref `rpc:"fn"`
	N  int64    `rpc:"n"`
}) (int64, error) {
	d.Running.Add(1)
	defer d.Running.Add(-1)
	for i := range in.N {
		v, err := in.Fn.Call(ctx, rpc.Int(i))
		if err != nil {
			return 0, err
		}
		rpc.Drop(v)
	}
	return in.N, nil
}

type counter struct {
	mu sync.Mutex
	n  int64
}

func (d *Demo) newCounter(start int64) *rpc.Ref {
	c := &counter{n: start}
	d.Counters.Add(1)
	return rpc.NewRef(rpc.Object{
		"increment": rpc.Handle("increment", func(_ context.Context, in struct {
			By int64 `rpc:"by" default:"1"`
		}) (int64, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.n += in.By
			return c.n, nil
		}, rpc.In(rpc.Inline)),
		"value": rpc.Handle("value", func(context.Context, struct{}) (int64, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.n, nil
		}, rpc.In(rpc.Inline)),
	}, func() { d.Counters.Add(-1) })
}

func (d *Demo) counter(_ context.Context, in struct {
	Start int64 `rpc:"start" default:"0"`
}) (*rpc.Ref, error) {
	return d.newCounter(in.Start), nil
}

func (d *Demo) put(_ context.Context, in struct {
	Key   string    `rpc:"key"`
	Value rpc.Value `rpc:"value"`
}) (map[string]int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.revision++
	e := entry{in.Value.Own(), d.revision}
	d.state[in.Key] = e
	for fn, w := range d.watchers[in.Key] {
		w.tell(fn, rpc.TreeValue(&rpc.Map{Items: []rpc.Item{
			{Key: "type", Value: "put"}, {Key: "key", Value: in.Key}, {Key: "value", Value: e.value}, {Key: "revision", Value: e.revision},
		}}))
	}
	return map[string]int64{"revision": d.revision}, nil
}

// tell calls fn for each event, one after another.
func (w *watch) tell(fn *rpc.Ref, event rpc.Value) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, event)
	if w.busy {
		return
	}
	w.busy = true
	fn.Retain()
	go func() { // ends when the queue is empty
		defer fn.Release()
		for {
			w.mu.Lock()
			if len(w.queue) == 0 {
				w.busy = false
				w.mu.Unlock()
				return
			}
			next := w.queue[0]
			w.queue = w.queue[1:]
			w.mu.Unlock()
			ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
			_, _ = fn.Call(ctx, next)
			stop()
		}
	}()
}

func (d *Demo) get(_ context.Context, in struct {
	Key string `rpc:"key"`
}) (rpc.Value, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.state[in.Key]
	if !ok {
		return rpc.Value{}, rpc.Errorf(rpc.CodeNotFound, "no such key %q", in.Key)
	}
	return rpc.TreeValue(&rpc.Map{Items: []rpc.Item{{Key: "key", Value: in.Key}, {Key: "value", Value: e.value}, {Key: "revision", Value: e.revision}}}), nil
}

func (d *Demo) watch(_ context.Context, in struct {
	Key string   `rpc:"key"`
	Fn  *rpc.Ref `rpc:"fn"`
}) (*rpc.Ref, error) {
	fn := in.Fn.Retain()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watchers[in.Key] == nil {
		d.watchers[in.Key] = map[*rpc.Ref]*watch{}
	}
	d.watchers[in.Key][fn] = new(watch)
	d.Watches.Add(1)
	return rpc.NewRef(rpc.Object{}, func() {
		d.mu.Lock()
		delete(d.watchers[in.Key], fn)
		d.mu.Unlock()
		d.Watches.Add(-1)
		fn.Release()
	}), nil
}

// String describes what is held, for messages of failed tests.
func (d *Demo) String() string {
	return fmt.Sprintf("counters %d, watches %d, running %d", d.Counters.Load(), d.Watches.Load(), d.Running.Load())
}
