package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// reply records how a call was answered, and when. A second answer is a fault.
type reply struct {
	id   []byte // borrowed until Own
	mu   sync.Mutex
	n    int
	v    Value
	err  *Error
	at   time.Time
	done chan struct{}
	open func(b *Batch, c *Call, src Source) Sink // nil: Collect
}

func newReply() *reply { return &reply{done: make(chan struct{})} }

func (r *reply) answer(v Value, e *Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	if r.n > 1 {
		panic(fmt.Sprintf("answered %d times, now with %v", r.n, e))
	}
	r.v, r.err, r.at = v.Own(), e, time.Now()
	close(r.done)
}

func (r *reply) Result(_ *Batch, _ *Call, v Value) { r.answer(v, nil) }
func (r *reply) Error(_ *Batch, _ *Call, e *Error) { r.answer(Value{}, e) }
func (r *reply) Own()                              { r.id = append([]byte(nil), r.id...) }
func (r *reply) Open(b *Batch, c *Call, src Source) Sink {
	if r.open != nil {
		return r.open(b, c, src)
	}
	return Collect(c, src)
}

func (r *reply) wait(t testing.TB) (string, *Error) {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(20 * time.Second):
		t.Fatal("no answer")
	}
	if r.err != nil {
		return "", r.err
	}
	text, err := r.v.JSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(text), nil
}

// answered reports whether the answer is there.
func (r *reply) answered() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// watcher counts what the hub would count.
type watcher struct {
	done, slow, late, panics atomic.Int64
	mu                       sync.Mutex
	rejected                 []string
	codes                    map[Code]int
	onSlow                   func(c *Call, age time.Duration)
}

func (w *watcher) Done(_ *Call, e *Error, took time.Duration) {
	w.done.Add(1)
	code := CodeOK
	if e != nil {
		code = e.Code
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.codes == nil {
		w.codes = map[Code]int{}
	}
	w.codes[code]++
	if took < 0 {
		panic("a call took less than no time")
	}
}

func (w *watcher) Slow(c *Call, age time.Duration) {
	w.slow.Add(1)
	if w.onSlow != nil {
		w.onSlow(c, age)
	}
}
func (w *watcher) Late(*Call)               { w.late.Add(1) }
func (w *watcher) Panic(*Call, any, []byte) { w.panics.Add(1) }
func (w *watcher) Rejected(limit string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rejected = append(w.rejected, limit)
}

// start starts a call as a protocol does whose read buffer holds the arguments:
// when Start has returned the buffer is overwritten.
func start(l *Link, m Target, c *Call, args string) *reply {
	r, ok := c.Reply.(*reply)
	if !ok {
		r = newReply()
		c.Reply = r
	}
	if c.Peer == nil {
		c.Peer = Local
	}
	if row, ok := m.(*Method); ok && row != nil && row.Scope == 0 {
		row.Scope = ScopeCall // as Table.Add does
	}
	buf := []byte(args)
	id := []byte(c.Key)
	r.id = id
	if args != "" {
		v, err := Parse(buf)
		if err != nil {
			panic(err)
		}
		c.Args = WholeArgs(v)
	}
	var b Batch
	b.Begin()
	l.Start(&b, m, c)
	for i := range buf {
		buf[i] = '#'
	}
	for i := range id {
		id[i] = '#'
	}
	b.Flush()
	return r
}

type none struct{}

func method(mode Mode, f Func) *Method {
	return NewMethod(&Method{Name: "m", Run: mode, Scope: ScopeCall}, f)
}

// blocking waits for the end of its context and passes that on.
func blocking(started chan<- struct{}) *Method {
	return method(Concurrent, func(c *Call) (Value, error) {
		if started != nil {
			started <- struct{}{}
		}
		<-c.Done()
		return Value{}, c.Err()
	})
}

func TestModesAnswer(t *testing.T) {
	for _, mode := range []Mode{Inline, Concurrent, Serial} {
		w := &watcher{}
		l := NewLink(&Gate{Observer: w})
		m := method(mode, func(c *Call) (Value, error) { return c.Args.First(), nil })
		for _, test := range []string{`["a"]`, `[{"deep":[1.0,"x"]}]`, `[]`} {
			want := "null"
			if test != `[]` {
				want = test[1 : len(test)-1]
			}
			if got, err := start(l, m, &Call{}, test).wait(t); err != nil || got != want {
				t.Errorf("mode %d: %s gave %s, %v", mode, test, got, err)
			}
		}
		fail := method(mode, func(*Call) (Value, error) { return Value{}, fmt.Errorf("no luck") })
		if _, err := start(l, fail, &Call{}, "").wait(t); err == nil || err.Code != CodeHandler || err.Text() != "no luck" || err.Ran != RanYes {
			t.Errorf("mode %d: %v", mode, err)
		}
		bad := method(mode, func(*Call) (Value, error) { panic("/secret/path") })
		if _, err := start(l, bad, &Call{}, "").wait(t); err == nil || err.Code != CodeInternal || err.Text() != "internal error" {
			t.Errorf("mode %d: %v", mode, err)
		}
		if got, err := start(l, m, &Call{}, "[1]").wait(t); err != nil || got != "1" {
			t.Errorf("mode %d after a panic: %s, %v", mode, got, err)
		}
		if !l.Close(ErrPeerGone, 20*time.Second) {
			t.Errorf("mode %d: handlers go on", mode)
		}
		if l.N() != 0 || l.gate.InFlight() != 0 || w.panics.Load() != 1 || w.done.Load() != 6 || w.late.Load() != 0 {
			t.Errorf("mode %d: %d in flight, %d in all, %d panics, %d done, %d late", mode, l.N(), l.gate.InFlight(), w.panics.Load(), w.done.Load(), w.late.Load())
		}
	}
}

func TestStartRefuses(t *testing.T) {
	echo := method(Inline, func(c *Call) (Value, error) { return c.Args.First(), nil })
	admin := NewMethod(&Method{Name: "hub.cancel", Scope: ScopeAdmin}, func(*Call) (Value, error) { return Null, nil })
	table := NewTable()
	for _, test := range []struct {
		name string
		t    Target
		peer *Peer
		code Code
	}{
		{"no target", nil, Local, CodeNotFound},
		{"a row that is not there", table.Lookup("x"), Local, CodeNotFound},
		{"no scope", admin, &Peer{Scopes: ScopeCall | ScopeRead}, CodePermissionDenied},
		{"not authenticated", admin, &Peer{Unauthenticated: true}, CodeUnauthenticated},
		{"not on its list", echo, &Peer{Scopes: AllScopes, Methods: []string{"math.*", "mm"}}, CodePermissionDenied},
	} {
		c := &Call{Peer: test.peer}
		l := NewLink(nil)
		_, err := start(l, test.t, c, "[1]").wait(t)
		if err == nil || err.Code != test.code || err.Ran != RanNo {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	for _, patterns := range [][]string{{"m"}, {"x", "m*"}, {"*"}} {
		if _, err := start(NewLink(nil), echo, &Call{Peer: &Peer{Scopes: ScopeCall, Methods: patterns}}, "").wait(t); err != nil {
			t.Errorf("%v: %v", patterns, err)
		}
	}
	l := NewLink(nil)
	r := newReply()
	l.Start(nil, echo, &Call{Reply: r})
	if _, err := r.wait(t); err == nil || err.Code != CodePermissionDenied {
		t.Errorf("nobody may call: %v", err)
	}
}

func TestLimits(t *testing.T) {
	for _, test := range []struct {
		limit string
		gate  *Gate
	}{
		{LimitCallsPerConnection, &Gate{CallsPerLink: 3}},
		{LimitCallsPerUID, &Gate{CallsPerUID: 3}},
		{LimitCalls, &Gate{Calls: 3}},
	} {
		w := &watcher{}
		test.gate.Observer = w
		quota := new(Quota)
		a, b := NewLink(test.gate), NewLink(test.gate)
		a.Quota, b.Quota = quota, quota
		started := make(chan struct{}, 10)
		m := blocking(started)
		var replies []*reply
		for range 3 {
			replies = append(replies, start(a, m, &Call{}, ""))
			<-started
		}
		if n := quota.N(); n != 3 || a.N() != 3 || test.gate.InFlight() != 3 {
			t.Errorf("%s: %d, %d, %d in flight", test.limit, n, a.N(), test.gate.InFlight())
		}
		for _, mode := range []Mode{Inline, Concurrent} {
			extra := method(mode, func(*Call) (Value, error) { return Null, nil })
			if _, err := start(a, extra, &Call{}, "").wait(t); err == nil || err.Code != CodeOverloaded || err.Ran != RanNo {
				t.Errorf("%s: %v", test.limit, err)
			}
		}
		_, err := start(b, method(Inline, func(*Call) (Value, error) { return Null, nil }), &Call{}, "").wait(t)
		if other := test.limit == LimitCallsPerConnection; (err == nil) != other {
			t.Errorf("%s: another connection gets %v", test.limit, err)
		}
		a.Close(ErrPeerGone, 20*time.Second)
		for _, r := range replies {
			r.wait(t)
		}
		if quota.N() != 0 || test.gate.InFlight() != 0 {
			t.Errorf("%s: %d and %d are left", test.limit, quota.N(), test.gate.InFlight())
		}
		if len(w.rejected) < 2 || w.rejected[0] != test.limit {
			t.Errorf("%s: %v", test.limit, w.rejected)
		}
		b.Close(ErrPeerGone, 0)
	}
}

func TestDraining(t *testing.T) {
	g := &Gate{}
	l := NewLink(g)
	started := make(chan struct{}, 1)
	r := start(l, blocking(started), &Call{Key: "a"}, "")
	<-started
	g.Drain()
	if _, err := start(l, blocking(nil), &Call{}, "").wait(t); err == nil || err.Code != CodeUnavailable || err.Ran != RanNo {
		t.Errorf("a new call: %v", err)
	}
	if r.answered() {
		t.Error("the running call is over")
	}
	l.Cancel([]byte("a"), ErrShutdown)
	if _, err := r.wait(t); err != ErrShutdown {
		t.Errorf("the running call: %v", err)
	}
}

func TestDuplicateKeys(t *testing.T) {
	for _, late := range []bool{false, true} {
		l := NewLink(nil)
		started := make(chan struct{}, 2)
		first := start(l, blocking(started), &Call{Key: "k"}, "")
		<-started
		c := &Call{Key: "k"}
		if late { // a protocol that sets its key when the call is owned
			c.Key = ""
			c.Reply = &lateKey{reply: newReply(), c: c, key: "k"}
		}
		var second *reply
		if late {
			c.Peer = Local
			l.Start(nil, blocking(started), c)
			second = c.Reply.(*lateKey).reply
		} else {
			second = start(l, blocking(started), c, "")
		}
		if _, err := second.wait(t); err == nil || err.Code != CodeDuplicate || err.Ran != RanNo {
			t.Errorf("late %v: the second is answered with %v", late, err)
		}
		if first.answered() || !l.InFlight("k") || l.N() != 1 {
			t.Errorf("late %v: the first call was touched (%d in flight)", late, l.N())
		}
		l.Cancel([]byte("k"), ErrCancelled)
		if _, err := first.wait(t); err != ErrCancelled {
			t.Errorf("the first call: %v", err)
		}
		again := start(l, blocking(started), &Call{Key: "k"}, "")
		<-started
		if again.answered() {
			t.Error("the key is not free")
		}
		if !l.Close(ErrPeerGone, 20*time.Second) {
			t.Error("handlers go on")
		}
		again.wait(t)
	}
}

type lateKey struct {
	*reply
	c   *Call
	key string
}

func (r *lateKey) Own() { r.c.Key = r.key }

func TestCancelUnknownKey(t *testing.T) {
	l := NewLink(nil)
	l.Cancel([]byte("nobody"), ErrCancelled)
	if l.Find([]byte("nobody")) != nil {
		t.Error("found")
	}
}

// TestExactlyOneAnswer lets Finish, deadline, Cancel and Close race. reply
// panics at a second answer, and one that is missing is waited for in vain.
func TestExactlyOneAnswer(t *testing.T) {
	for round := range 40 {
		w := &watcher{}
		g := &Gate{Observer: w}
		l := NewLink(g)
		grace := time.Duration(round%2) * time.Millisecond
		var replies []*reply
		var wg sync.WaitGroup
		for i := range 64 {
			key := fmt.Sprint(i)
			var target Target
			switch i % 4 {
			case 0:
				target = method(Concurrent, func(c *Call) (Value, error) { return Null, nil })
			case 1: // several that finish at once
				target = TargetFunc(func(b *Batch, c *Call) {
					c.Own()
					for range 3 {
						wg.Go(func() { c.Finish(nil, Null, nil) })
					}
				})
			case 2:
				target = method(Serial, func(c *Call) (Value, error) { <-c.Done(); return Value{}, c.Err() })
			case 3: // a stream
				target = HandleStream("s", func(ctx context.Context, _ none, send func(int) error) error {
					for n := range 100 {
						if err := send(n); err != nil {
							return err
						}
					}
					return nil
				})
			}
			replies = append(replies, start(l, target, &Call{Key: key, Timeout: time.Millisecond, Grace: grace}, ""))
			wg.Go(func() { l.Cancel([]byte(key), ErrCancelled) })
		}
		if round%3 == 0 {
			wg.Go(func() { l.Close(ErrPeerGone, 20*time.Second) })
		}
		for i, r := range replies {
			select {
			case <-r.done:
			case <-time.After(20 * time.Second):
				t.Fatalf("round %d: call %d is not answered", round, i)
			}
		}
		wg.Wait()
		if !l.Close(ErrPeerGone, 20*time.Second) {
			t.Fatal("handlers go on")
		}
		waitFor(t, "not every call was observed", func() bool { return w.done.Load() >= 64 }) // a moment after its answer
		if w.done.Load() != 64 || l.N() != 0 || g.InFlight() != 0 || len(l.byKey) != 0 || len(l.heap) != 0 {
			t.Fatalf("%d done, %d left, %d in all, %d keys", w.done.Load(), l.N(), g.InFlight(), len(l.byKey))
		}
	}
}

func TestContext(t *testing.T) {
	l := NewLink(nil)
	ready, checked := make(chan context.Context), make(chan struct{})
	m := method(Concurrent, func(c *Call) (Value, error) {
		type key struct{}
		ctx, cancel := context.WithTimeout(context.WithValue(c, key{}, 1), time.Hour)
		defer cancel()
		if From(ctx) != c || From(c) != c || From(context.Background()) != nil || ctx.Value(key{}) != 1 || c.Value(key{}) != nil {
			t.Error("From does not find the call")
		}
		if at, ok := ctx.Deadline(); !ok || !at.Equal(c.deadline) {
			t.Errorf("deadline of the child: %v, %v", at, ok)
		}
		if c.Err() != nil || context.Cause(c) != nil {
			t.Error("it has ended")
		}
		ready <- ctx
		<-ctx.Done()
		if ctx.Err() != context.Canceled || context.Cause(ctx) != error(ErrByAdmin) || c.Err() != context.Canceled || AsError(ctx, ctx.Err()) != ErrByAdmin {
			t.Errorf("%v, %v, %v", ctx.Err(), context.Cause(ctx), c.Err())
		}
		close(checked)
		return Value{}, ctx.Err()
	})
	r := start(l, m, &Call{Key: "k"}, "")
	<-ready
	l.Cancel([]byte("k"), ErrByAdmin)
	if _, err := r.wait(t); err != ErrByAdmin {
		t.Error(err)
	}
	<-checked
	l.Close(ErrPeerGone, 20*time.Second)

	// After a regular answer the context ends as well.
	var kept context.Context
	r = start(NewLink(nil), method(Inline, func(c *Call) (Value, error) { kept = c; return Null, nil }), &Call{}, "")
	r.wait(t)
	select {
	case <-kept.Done():
	default:
		t.Error("the context of an answered call goes on")
	}
	if kept.Err() != context.Canceled || !errors.Is(context.Cause(kept), errFinished) {
		t.Errorf("%v, %v", kept.Err(), context.Cause(kept))
	}
}

func TestOnCancel(t *testing.T) {
	l := NewLink(nil)
	var c *Call
	var causes []*Error
	hook := func(e *Error) { causes = append(causes, e) }
	target := TargetFunc(func(_ *Batch, call *Call) { call.Own(); c = call; call.OnCancel(hook) })
	r := start(l, target, &Call{}, "")
	c.Cancel(ErrCancelled)
	c.Cancel(ErrByAdmin)
	c.OnCancel(hook)
	r.wait(t)
	if len(causes) != 2 || causes[0] != ErrCancelled || causes[1] != ErrCancelled {
		t.Errorf("hooks ran with %v", causes)
	}
	causes = nil
	r = start(l, target, &Call{}, "")
	c.Finish(nil, Null, nil)
	c.Cancel(ErrCancelled)
	c.OnCancel(hook)
	r.wait(t)
	if len(causes) != 0 {
		t.Errorf("hooks ran after an answer: %v", causes)
	}
}

func TestLateAnswersAreCounted(t *testing.T) {
	w := &watcher{}
	l := NewLink(&Gate{Observer: w})
	var c *Call
	r := start(l, TargetFunc(func(_ *Batch, call *Call) { call.Own(); c = call }), &Call{}, "")
	c.Cancel(ErrCancelled)
	c.Finish(nil, Int(1), nil)
	if _, err := r.wait(t); err != ErrCancelled || w.late.Load() != 1 || w.done.Load() != 1 {
		t.Errorf("%v, %d late, %d done", err, w.late.Load(), w.done.Load())
	}
}

func TestErrAnswered(t *testing.T) {
	for _, mode := range []Mode{Inline, Concurrent, Serial} {
		l := NewLink(nil)
		r := start(l, method(mode, func(c *Call) (Value, error) {
			c.Finish(nil, Int(7), nil)
			return Value{}, ErrAnswered
		}), &Call{}, "")
		if got, err := r.wait(t); got != "7" || err != nil {
			t.Errorf("mode %d: %s, %v", mode, got, err)
		}
		l.Close(ErrPeerGone, 20*time.Second)
	}
}
