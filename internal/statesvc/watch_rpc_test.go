package statesvc

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func TestWatchItems(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	c.must("state.put", `["a",1]`)
	c.must("state.put", `["b",{"x": 2}]`)
	c.must("state.put", `["a",3]`)

	_, all := c.start("state.watch", `{}`)
	c.expect(all, `{"type":"put","key":"a","value":3,"revision":3,"previous_revision":0}`,
		`{"type":"put","key":"b","value":{"x": 2},"revision":2,"previous_revision":0}`, `{"type":"synced","revision":3}`)
	_, bare := c.start("state.watch", `{"key":"a","values":false}`)
	c.expect(bare, `{"type":"put","key":"a","revision":3,"previous_revision":0}`, `{"type":"synced","revision":3}`)
	_, from := c.start("state.watch", `{"from_revision":1}`)
	c.expect(from, `{"type":"put","key":"b","value":{"x": 2},"revision":2,"previous_revision":0}`,
		`{"type":"put","key":"a","value":3,"revision":3,"previous_revision":1}`, `{"type":"synced","revision":3}`)
	_, live := c.start("state.watch", `[null,"a",null,false]`)
	c.expect(live, `{"type":"synced","revision":3}`)
	_, later := c.start("state.watch", `{"from_revision":4}`)

	c.must("state.delete", `["a"]`)
	deleted := `{"type":"delete","key":"a","value":null,"revision":4,"previous_revision":3}`
	c.expect(all, deleted)
	c.expect(from, deleted)
	c.expect(live, deleted)
	c.expect(bare, `{"type":"delete","key":"a","revision":4,"previous_revision":3}`)
	c.must("state.txn", `{"then":[{"op":"put","key":"a1","value":1},{"op":"put","key":"a2","value":2},{"op":"put","key":"c","value":3}]}`)
	c.expect(live, `{"type":"put","key":"a1","value":1,"revision":5,"previous_revision":0}`, `{"type":"put","key":"a2","value":2,"revision":5,"previous_revision":0}`)
	var items []string
	for len(items) < 4 {
		items = append(items, c.next(later))
	}
	joined := strings.Join(items, " ")
	if strings.Contains(joined, `"revision":4,`) || strings.Count(joined, `"revision":5,`) != 3 || !strings.Contains(joined, "synced") {
		t.Errorf("a watch from a revision ahead got %s", joined)
	}
	if n := s.Store().Stats().Watchers; n != 5 {
		t.Errorf("%d watchers", n)
	}
	c.link.Close(rpc.ErrPeerGone, time.Second)
	if n := s.Store().Stats().Watchers; n != 0 {
		t.Errorf("%d watchers are left after the connection", n)
	}
}

func TestWatchRefusals(t *testing.T) {
	s := newService(t, Options{Limits: Limits{HistoryEvents: 2}}, ServiceOptions{})
	c := newCaller(t, s)
	for i := range 10 {
		c.must("state.put", fmt.Sprintf(`["k",%d]`, i))
	}
	for args, want := range map[string]string{
		`{"key":"a","prefix":"b"}`:             `invalid_params ran=no`,
		`{"from_revision":3}`:                  `compacted ran=no {"lowest":8}`,
		`{"from_revision":9,"snapshot":true}`:  `invalid_params ran=no`,
		`{"key":""}`:                           `invalid_params ran=no`,
		`{"prefix":7}`:                         `invalid_params ran=no`,
		`{"from_revision":-1}`:                 `invalid_params ran=no`,
		`{"key":"` + strings.Repeat("k", 2000): `too_large`,
	} {
		if strings.HasPrefix(want, "too_large") {
			args += `"}`
		}
		if _, err := c.call("state.watch", args); !strings.HasPrefix(errorText(err), want) {
			t.Errorf("%.40s: %s, want %s", args, errorText(err), want)
		}
	}
	c.unary = true
	if _, err := c.call("state.watch", `{}`); errorText(err) != `invalid_params ran=no` {
		t.Errorf("without a stream: %v", err)
	}
	if n := s.Store().Stats().Watchers; n != 0 {
		t.Errorf("%d watchers are left", n)
	}
}

// A watcher without credit gets nothing and holds up nobody; with credit it gets everything, as long as history has it.
func TestSlowWatcher(t *testing.T) {
	s := newService(t, Options{Limits: Limits{HistoryEvents: 1000}}, ServiceOptions{})
	c := newCaller(t, s)
	_, slow := c.startArgs("state.watch", rpc.Args{}, 1)
	c.expect(slow, `{"type":"synced","revision":0}`)
	_, fast := c.start("state.watch", `{}`)
	c.expect(fast, `{"type":"synced","revision":0}`)
	const n = 700
	for i := range n {
		c.must("state.put", fmt.Sprintf(`["k%d",%d]`, i, i))
	}
	for i := range n {
		c.expect(fast, fmt.Sprintf(`{"type":"put","key":"k%d","value":%d,"revision":%d,"previous_revision":0}`, i, i, i+1))
	}
	if len(slow.items) != 0 {
		t.Fatalf("%d items without credit", len(slow.items))
	}
	for i := range n {
		slow.src.Grant(1)
		c.expect(slow, fmt.Sprintf(`{"type":"put","key":"k%d","value":%d,"revision":%d,"previous_revision":0}`, i, i, i+1))
	}
	for i := range 2000 {
		c.must("state.put", fmt.Sprintf(`["more",%d]`, i))
	}
	slow.src.Grant(1 << 20)
	if _, err := c.wait(slow); errorText(err) != `compacted ran=no {"lowest":1700}` {
		t.Errorf("a watcher that history has left behind: %v", errorText(err))
	}
	if n := s.Store().Stats().Watchers; n != 1 {
		t.Errorf("%d watchers", n)
	}
}

// The events of a transaction are more than the credit: the rest of them waits for its turn.
func TestWatchSplitsByCredit(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	_, r := c.startArgs("state.watch", rpc.Args{}, 3)
	c.expect(r, `{"type":"synced","revision":0}`)
	var ops []string
	for i := range 100 {
		ops = append(ops, fmt.Sprintf(`{"op":"put","key":"k%02d","value":%d}`, i, i))
	}
	c.must("state.txn", `{"then":[`+strings.Join(ops, ",")+`]}`)
	for i := range 100 {
		if i >= 2 {
			r.src.Grant(1)
		}
		c.expect(r, fmt.Sprintf(`{"type":"put","key":"k%02d","value":%d,"revision":1,"previous_revision":0}`, i, i))
	}
}

func TestWatchEnds(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	call, r := c.start("state.watch", `{}`)
	c.next(r)
	call.Cancel(rpc.ErrCancelled)
	if _, err := c.wait(r); errorText(err) != "cancelled ran=unknown" {
		t.Error(err)
	}
	_, r = c.start("state.watch", `{}`)
	c.next(r)
	r.src.Stop(rpc.ErrCancelled)
	if n := s.Store().Stats().Watchers; n != 0 {
		t.Errorf("%d watchers are left", n)
	}
	_, r = c.start("state.watch", `{}`)
	c.next(r)
	s.Close()
	if _, err := c.wait(r); errorText(err) != "unavailable ran=no" {
		t.Error(err)
	}
}

// An idle watch says how far it is, although nothing happens to what it watches.
func TestWatchProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, Options{}, ServiceOptions{})
		c := newCaller(t, s)
		c.patience = time.Hour // of the clock of the test
		_, r := c.start("state.watch", `{"key":"a"}`)
		c.expect(r, `{"type":"synced","revision":0}`)
		c.must("state.put", `["other",1]`)
		start := time.Now()
		if c.expect(r, `{"type":"progress","revision":1}`); time.Since(start) != 30*time.Second {
			t.Errorf("after %v", time.Since(start))
		}
		time.Sleep(20 * time.Second)
		c.must("state.put", `["a",1]`)
		start = time.Now()
		c.expect(r, `{"type":"put","key":"a","value":1,"revision":2,"previous_revision":0}`)
		if c.expect(r, `{"type":"progress","revision":2}`); time.Since(start) != 30*time.Second {
			t.Errorf("after %v", time.Since(start))
		}
		c.link.Close(rpc.ErrPeerGone, time.Second)
	})
}

// function is a function of a caller.
type function struct {
	mu    sync.Mutex
	held  []*rpc.Call // not answered yet
	hold  bool
	err   *rpc.Error
	calls chan string
	gone  chan struct{}
	ref   *rpc.Ref
}

func newFunction() *function {
	f := &function{calls: make(chan string, 1000), gone: make(chan struct{})}
	f.ref = rpc.NewRef(f, func() { close(f.gone) })
	return f
}

func (f *function) Start(b *rpc.Batch, c *rpc.Call) {
	text, _ := c.Args.First().JSON()
	f.calls <- string(text)
	f.mu.Lock()
	if f.hold {
		f.held = append(f.held, c)
		f.mu.Unlock()
		return
	}
	err := f.err
	f.mu.Unlock()
	if err != nil {
		c.Finish(b, rpc.Value{}, err)
		return
	}
	c.Finish(b, rpc.Value{}, nil)
}

func (c *caller) watchFunction(key string, f *function) (*rpc.Ref, *rpc.Error) {
	c.t.Helper()
	m := c.methods["state.watch"]
	r := &reply{done: make(chan struct{})}
	call := &rpc.Call{Method: m, Args: rpc.ListArgs(rpc.String(key), rpc.TreeValue(f.ref)), Refs: []*rpc.Ref{f.ref}, Peer: rpc.Local, Reply: r, Unary: true}
	c.link.Start(nil, m, call)
	v, err := c.wait(r)
	ref, _ := v.AsRef()
	return ref, err
}

func (c *caller) called(f *function, want string) {
	c.t.Helper()
	select {
	case got := <-f.calls:
		if got != want {
			c.t.Fatalf("called with %s, want %s", got, want)
		}
	case <-time.After(20 * time.Second):
		c.t.Fatal("the function was not called")
	}
}

func (c *caller) released(f *function) {
	c.t.Helper()
	select {
	case <-f.gone:
	case <-time.After(20 * time.Second):
		c.t.Fatal("the function was not released")
	}
}

func TestWatchWithFunction(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	c.must("state.put", `["k",0]`)
	f, g, h := newFunction(), newFunction(), newFunction()
	ref, err := c.watchFunction("k", f)
	if err != nil || ref == nil {
		t.Fatal(ref, err)
	}
	g.err = rpc.HandlerError("", "no")
	if _, err := c.watchFunction("k", g); err != nil {
		t.Fatal(err)
	}
	h.err = &rpc.Error{Code: rpc.CodeUnavailable}
	if _, err := c.watchFunction("k", h); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 200; i++ {
		c.must("state.put", fmt.Sprintf(`["k",%d]`, i))
		c.must("state.put", `["other",1]`)
	}
	for i := 1; i < 200; i++ {
		want := fmt.Sprintf(`{"type":"put","key":"k","value":%d,"revision":%d,"previous_revision":%d}`, i, 2*i, max(1, 2*i-2))
		c.called(f, want)
		c.called(g, want) // its failures are its own affair
	}
	c.released(h) // its owner is gone
	ref.Release()
	c.released(f)
	c.link.Close(rpc.ErrPeerGone, time.Second)
	c.released(g)
	if n := s.Store().Stats().Watchers; n != 0 {
		t.Errorf("%d watchers are left", n)
	}
}

// A function is held while it is called, also when the watch ends meanwhile, and not called afterwards: its owner forgets
// it at the release.
func TestWatchHoldsFunctionDuringCall(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	called, released := make(chan bool, 10), make(chan struct{})
	f := newFunction()
	var watch *rpc.Ref
	target := rpc.TargetFunc(func(b *rpc.Batch, c *rpc.Call) {
		watch.Release()
		select {
		case <-released:
			called <- false
		default:
			called <- true
		}
		c.Finish(b, rpc.Value{}, nil)
	})
	f.ref = rpc.NewRef(target, func() { close(released) })
	watch, err := c.watchFunction("k", f)
	if err != nil {
		t.Fatal(err)
	}
	c.must("state.txn", `{"then":[{"op":"put","key":"k","value":1},{"op":"put","key":"other","value":2}]}`)
	if !<-called {
		t.Error("the function was released before its call was on its way")
	}
	<-released

	g := newFunction()
	w, fault := s.newWatch(WatchOptions{Key: "k"}, true)
	if fault != nil {
		t.Fatal(fault)
	}
	w.hold(g.ref, nil)
	g.ref.Release()
	w.stop()
	c.released(g)
	(&functionReceiver{w: w, fn: g.ref}).send(nil, rpc.Int(1)) // a turn that was under way
	if len(g.calls) > 0 {
		t.Error("the function was called after its release")
	}
}

// A function that does not answer is called no more than the window allows.
func TestWatchWithSlowFunction(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	f := newFunction()
	f.hold = true
	if _, err := c.watchFunction("k", f); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		c.must("state.put", fmt.Sprintf(`["k",%d]`, i))
	}
	var seen []string
	for range functionWindow {
		seen = append(seen, <-f.calls)
	}
	if len(f.calls) > 0 {
		t.Fatal("called beyond the window")
	}
	f.mu.Lock()
	f.hold = false
	held := f.held
	f.mu.Unlock()
	for _, call := range held {
		call.Finish(nil, rpc.Value{}, nil)
	}
	for len(seen) < 200 {
		seen = append(seen, <-f.calls)
	}
	for i, text := range seen {
		if !strings.Contains(text, fmt.Sprintf(`"value":%d,`, i)) {
			t.Fatalf("call %d is %s", i, text)
		}
	}
	c.link.Close(rpc.ErrPeerGone, time.Second)
	c.released(f)
}

func TestEphemeralKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := map[*rpc.Link]string{}
		s := newService(t, Options{}, ServiceOptions{OwnerOf: func(c *rpc.Call) string { return names[c.Link()] }})
		observer := newCaller(t, s)
		observer.patience = time.Hour
		anonymous, named := newCaller(t, s), newCaller(t, s)
		names[named.link] = "1000:laptop"
		anonymous.must("state.put", `{"key":"p/1","value":1,"ephemeral":true}`)
		named.must("state.put", `{"key":"p/2","value":2,"ephemeral":true}`)
		named.must("state.txn", `{"then":[{"op":"put","key":"p/3","value":3,"ephemeral":true}]}`)
		_, w := observer.start("state.watch", `{"prefix":"p/","snapshot":false}`)
		observer.expect(w, `{"type":"synced","revision":3}`)

		anonymous.link.Close(rpc.ErrPeerGone, time.Second)
		named.link.Close(rpc.ErrPeerGone, time.Second)
		time.Sleep(5 * time.Second)
		again := newCaller(t, s)
		names[again.link] = "1000:laptop"
		if !s.Attach(again.link, "1000:laptop") {
			t.Error("the keys of the earlier connection are not known")
		}
		start := time.Now()
		observer.expect(w, `{"type":"expire","key":"p/1","value":null,"revision":4,"previous_revision":1}`)
		if got := time.Since(start); got != 5*time.Second {
			t.Errorf("the key of the connection that stayed away went after %v", got+5*time.Second)
		}
		time.Sleep(time.Minute)
		if got := stable(observer.must("state.list", `["p/",null,10,true]`)); got != `{"items":[{"key":"p/2","revision":2},{"key":"p/3","revision":3}],"revision":4}` {
			t.Error(got)
		}
		again.link.Close(rpc.ErrPeerGone, time.Second)
		start = time.Now()
		item := ""
		for item = observer.next(w); strings.Contains(item, "progress"); item = observer.next(w) {
		}
		if item != `{"type":"expire","key":"p/2","value":null,"revision":5,"previous_revision":2}` || time.Since(start) != 10*time.Second {
			t.Errorf("%s after %v", item, time.Since(start))
		}
		observer.expect(w, `{"type":"expire","key":"p/3","value":null,"revision":5,"previous_revision":3}`)
		observer.link.Close(rpc.ErrPeerGone, time.Second)
	})
}
