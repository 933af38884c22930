package kkrpc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// heap returns the bytes that are in use after a collection.
func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// settled waits until there are no more goroutines than before.
func settled(t *testing.T, before int) {
	t.Helper()
	eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before })
}

// A method that calls back without end is as fast as its client reads: what
// waits for a client that does not read is bounded.
func TestCallbackFloodWaitsForTheReader(t *testing.T) {
	d := newDemo()
	_, w, sv := serveDemo(t, d, Config{})
	nc := linesTo(t, sv)
	s := <-w.opened
	fmt.Fprintln(nc, `{"id":"1","method":"hub.callback","args":["__callback__f",1000000000],"type":"request"}`)
	eventually(t, "the outbox fills", func() bool { return s.link.Out.Crowded() })
	for range 50 {
		runtime.Gosched()
		if n := s.link.Out.Len(); n > 2*rpc.DefaultSoft {
			t.Fatalf("%d bytes wait", n)
		}
	}
	lines := frame.NewLineReader(nc, 0)
	for i := range 20000 {
		line, err := lines.Next()
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf(`"args":[%d]`, i); !strings.Contains(string(line), want) {
			t.Fatalf("got %s, want %s", line, want)
		}
	}
	nc.Close()
	eventually(t, "the handler ends", func() bool { return d.running.Load() == 0 })
	<-w.ended
	if n := s.Counts(); n != (Counts{}) {
		t.Errorf("left behind: %+v", n)
	}
}

// 10,000 functions of a client are held, used and released: a compact client is
// told of each, a classic one keeps them until it leaves, and the hub keeps
// nothing of either.
func TestTenThousandCallbacks(t *testing.T) {
	const many = 10000
	for _, dialect := range []Dialect{Classic, Compact} {
		d := newDemo()
		url, w, _ := serveDemo(t, d, Config{})
		c, err := Dial(t.Context(), url, Options{Dialect: dialect})
		if err != nil {
			t.Fatal(err)
		}
		s := <-w.opened
		if _, err := c.Call(t.Context(), "echo", 1); err != nil {
			t.Fatal(err)
		}
		before, goroutines := heap(), runtime.NumGoroutine()
		var invoked int
		for range many {
			fn := Func(func([]rpc.Value) { invoked++ })
			if _, err := c.Call(t.Context(), "hub.keep", fn); err != nil {
				t.Fatal(err)
			}
			fn.Release()
		}
		if n := s.Counts(); n.Imports != many || n.Holds != many {
			t.Errorf("the hub holds %+v", n)
		}
		if n := c.s.Counts(); n.Exports != many {
			t.Errorf("the client holds %+v", n)
		}
		kept := d.takeKept()
		for _, r := range kept {
			if _, err := r.Call(t.Context(), rpc.Int(1)); err != nil {
				t.Fatal(err)
			}
			r.Release()
		}
		if n := s.Counts(); n != (Counts{}) {
			t.Errorf("after the release the hub holds %+v", n)
		}
		if _, err := c.Call(t.Context(), "echo", 1); err != nil { // behind the invocations and the releases
			t.Fatal(err)
		}
		if invoked != many {
			t.Errorf("%d functions were called", invoked)
		}
		if want := map[Dialect]int{Classic: many, Compact: 0}[dialect]; c.s.Counts().Exports != want {
			t.Errorf("dialect %d: the client still has %d functions, want %d", dialect, c.s.Counts().Exports, want)
		}
		if _, err := kept[0].Call(t.Context()); err != nil {
			t.Errorf("a late invocation: %v", err) // one-way: the client drops it
		}
		clear(kept) // they are held by nobody
		if dialect == Compact {
			if grown := heap() - before; grown > 4<<20 {
				t.Errorf("%d bytes are held by nobody", grown)
			}
		}
		settled(t, goroutines)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if n := c.s.Counts(); n != (Counts{}) {
			t.Errorf("the closed client holds %+v", n)
		}
	}
}

// Clients that vanish inside a callback, a call of their own API and a stream
// leave nothing behind: no goroutine, no reference, no bytes. Functions that
// somebody kept answer that their owner is gone.
func TestClientsThatVanish(t *testing.T) {
	d := newDemo()
	_, w, sv := serveDemo(t, d, Config{})
	vanish := func(classic bool) {
		nc := linesTo(t, sv)
		s := <-w.opened
		if classic {
			io.WriteString(nc, `{"id":"1","method":"hub.keep","args":["__callback__k"],"type":"request"}`+"\n"+
				`{"id":"2","method":"hub.callClient","args":["never"],"type":"request"}`+"\n"+
				`{"id":"3","method":"hub.callback","args":["__callback__f",1000000000],"type":"request"}`+"\n")
		} else {
			io.WriteString(nc, `{"t":"q","id":"1","op":"call","p":["hub","keep"],"a":[{"__kkrpc_next_arg__":"callback","id":"k"}]}`+"\n"+
				`{"t":"q","id":"2","op":"call","p":["hub","callClient"],"a":["never"]}`+"\n"+
				`{"t":"q","id":"3","op":"call","p":["hub","sum"],"a":[{"__kkrpc_next_stream__":"async-iterable","id":"s"}]}`+"\n"+
				`{"t":"q","id":"4","op":"call","p":["hub","callback"],"a":[{"__kkrpc_next_arg__":"callback","id":"f"},1000000000]}`+"\n")
		}
		lines := frame.NewLineReader(nc, 0)
		for {
			line, err := lines.Next()
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(line), `[0]`) { // inside the first callback
				break
			}
		}
		nc.Close()
		<-w.ended
		if n := s.Counts(); n.Holds != 1 || n.Imports != 1 { // what hub.keep has
			t.Errorf("left behind: %+v", n)
		}
		for _, r := range d.takeKept() {
			if _, err := r.Call(t.Context(), rpc.Int(1)); rpc.AsError(t.Context(), err).Code != rpc.CodeUnavailable {
				t.Errorf("a function whose owner is gone: %v", err)
			}
			r.Release()
		}
		if n := s.Counts(); n != (Counts{}) {
			t.Errorf("left behind: %+v", n)
		}
	}
	vanish(true)
	vanish(false)
	before, goroutines := heap(), runtime.NumGoroutine()
	for i := range 40 {
		vanish(i%2 == 0)
	}
	eventually(t, "the handlers end", func() bool { return d.running.Load() == 0 })
	settled(t, goroutines+40) // linesTo keeps nothing but what its cleanup waits for
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("%d bytes are held by nobody", grown)
	}
}

// A peer that asks for more than the tables hold is refused, call by call.
func TestTablesAreBounded(t *testing.T) {
	rec := &recorder{}
	d := newDemo()
	s := newSession(rec, rpc.NewLink(nil), &rpc.Peer{Scopes: rpc.AllScopes}, &d.api, Limits{MaxEntries: 3}, false)
	for i := range 5 {
		s.Receive(nil, fmt.Appendf(nil, `{"id":"%d","method":"hub.keep","args":["__callback__%d"],"type":"request"}`, i, i))
	}
	var got []string
	for _, m := range rec.all() {
		got = append(got, fact(m))
	}
	want := "too many callbacks, calls and streams are open on this connection"
	if len(got) != 5 || got[2] != "response 2: 3" || !strings.HasSuffix(got[3], want) || !strings.HasSuffix(got[4], want) {
		t.Errorf("got %q", got)
	}
	for _, r := range d.takeKept() {
		r.Release()
	}
	s.Receive(nil, []byte(`{"id":"on","method":"hub.keep","args":["__callback__1"],"type":"request"}`))
	if m := rec.find(func(m map[string]any) bool { return m["id"] == "on" }); fact(m) != "response on: 1" {
		t.Errorf("after the release: %v", m)
	}
}

// A stream that finds no room is an error, not silence; one that nobody ever
// pulls is forgotten with its call, and an end waits for the first pull.
func TestStreamsThatDoNotBegin(t *testing.T) {
	rec := &recorder{}
	d := newDemo()
	s := newSession(rec, rpc.NewLink(nil), &rpc.Peer{Scopes: rpc.AllScopes}, &d.api, Limits{MaxEntries: 1}, false)
	s.wants.Streams = true
	answer := func(id string) (m map[string]any) {
		t.Helper()
		eventually(t, "answer "+id, func() bool {
			m = rec.find(func(m map[string]any) bool { return m["id"] == id })
			return m != nil
		})
		return m
	}
	s.Receive(nil, []byte(`{"t":"q","id":"1","op":"call","p":["hub","count"],"a":[0]}`))
	first := answer("1")
	s.Receive(nil, []byte(`{"t":"q","id":"2","op":"call","p":["hub","count"],"a":[5]}`))
	if got := fact(answer("2")); got != "response 2 fails: "+errTables.Message {
		t.Errorf("got %s", got)
	}
	s.Receive(nil, []byte(`{"id":"3","method":"hub.count","args":[5],"type":"request"}`))
	if got := fact(answer("3")); got != "response 3 fails: "+errTables.Message {
		t.Errorf("got %s", got)
	}
	eventually(t, "the calls end", func() bool { return s.Counts().Running == 0 })
	if rec.find(func(m map[string]any) bool { return m["t"] == "sr" }) != nil || s.Counts().Sources != 1 {
		t.Errorf("an end was sent before the first pull: %v", rec.all())
	}
	sid := first["v"].(map[string]any)["id"].(string)
	s.Receive(nil, fmt.Appendf(nil, `{"t":"sq","id":"p","sid":"%s","op":"pull","n":1}`, sid))
	if m := rec.find(func(m map[string]any) bool { return m["t"] == "sr" }); m == nil || m["d"] != true {
		t.Errorf("the end: %v", m)
	}
	// The method's deadline ends a stream that nobody pulls.
	late := rpc.HandleStream("hub.late", func(_ context.Context, _ struct{}, send func(int64) error) error { return send(1) }, rpc.Within(time.Millisecond))
	d.table.MustAdd(late)
	s.Receive(nil, []byte(`{"t":"q","id":"4","op":"call","p":["hub","late"]}`))
	answer("4")
	eventually(t, "the stream is forgotten", func() bool { return s.Counts() == Counts{} })
}

// pullsAtEnd is a consumer that pulls once more just as the end is on its way.
type pullsAtEnd struct {
	recorder
	pull func()
	once sync.Once
}

func (w *pullsAtEnd) send(b *rpc.Batch, d Dialect, msg []byte) error {
	if bytes.Contains(msg, []byte(`"t":"sr"`)) && !bytes.Contains(msg, []byte(`"d":false`)) {
		w.once.Do(w.pull)
	}
	return w.recorder.send(b, d, msg)
}

// The end of a stream is what its consumer is told of it, not that there is no
// such stream any more.
func TestPullThatMeetsTheEnd(t *testing.T) {
	for method, end := range map[string]string{"count": "d", "countFail": "e"} {
		rec := &pullsAtEnd{}
		d := newDemo()
		s := newSession(rec, rpc.NewLink(nil), &rpc.Peer{Scopes: rpc.AllScopes}, &d.api, Limits{}, false)
		s.wants.Streams = true
		var pull []byte
		rec.pull = func() { s.Receive(nil, pull) }
		s.Receive(nil, fmt.Appendf(nil, `{"t":"q","id":"1","op":"call","p":["hub",%q],"a":[2]}`, method))
		eventually(t, "the answer", func() bool { return len(rec.all()) == 1 })
		sid := rec.all()[0]["v"].(map[string]any)["id"]
		pull = fmt.Appendf(nil, `{"t":"sq","id":"p","sid":"%s","op":"pull","n":10}`, sid)
		s.Receive(nil, pull)
		eventually(t, "the stream is forgotten", func() bool { return s.Counts() == Counts{} })
		sent := rec.all()
		if len(sent) != 4 || sent[3][end] == nil || sent[3]["id"] == "p" {
			t.Errorf("%s: %v", method, sent)
		}
	}
}
