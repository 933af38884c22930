package statesvc

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Each step is a call in both spellings. They are done in order, on one store per spelling.
var methodSteps = []struct {
	method, named, positional string
	want                      string // result, or error
}{
	{"state.info", `{}`, `[]`, `{"engine":"memory","durable":false,"ack":"the write is visible to all readers; it is lost when the daemon ends","revision":0,"compacted":0}`},
	{"state.get", `{"key":"a"}`, `["a"]`, `not_found ran=yes {"key":"a"}`},
	{"state.put", `{"key":"a","value":{"x": 1,  "y":[1.0,1e-07,12345678901234567890]}}`, `["a",{"x": 1,  "y":[1.0,1e-07,12345678901234567890]}]`, `{"revision":1}`},
	{"state.get", `{"key":"a"}`, `["a"]`, `{"key":"a","value":{"x": 1,  "y":[1.0,1e-07,12345678901234567890]},"revision":1}`},
	{"state.put", `{"key":"a","value":2,"if_revision":0}`, `["a",2,0]`, `conflict ran=no {"key":"a","revision":1}`},
	{"state.put", `{"key":"a","value":2,"if_revision":1}`, `["a",2,1]`, `{"revision":2}`},
	{"state.put", `{"key":"b","value":null,"if_revision":0}`, `["b",null,0]`, `{"revision":3}`},
	{"state.put", `{"key":"c","value":1,"if_revision":7}`, `["c",1,7]`, `conflict ran=no {"key":"c","revision":0}`},
	{"state.get", `{"key":"a","revision":1}`, `["a",1]`, `{"key":"a","value":{"x": 1,  "y":[1.0,1e-07,12345678901234567890]},"revision":1}`},
	{"state.get", `{"key":"a","revision":99}`, `["a",99]`, `invalid_params ran=no {"revision":3}`},
	{"state.get", `{"key":"b","revision":2}`, `["b",2]`, `not_found ran=yes {"key":"b"}`},
	{"state.list", `{}`, `[]`, `{"items":[{"key":"a","value":2,"revision":2},{"key":"b","value":null,"revision":3}],"revision":3}`},
	{"state.list", `{"prefix":"","limit":1,"keys_only":true}`, `["",null,1,true]`, `{"items":[{"key":"a","revision":2}],"revision":3,"next":"a"}`},
	{"state.list", `{"prefix":"","after":"a","limit":1}`, `["","a",1]`, `{"items":[{"key":"b","value":null,"revision":3}],"revision":3}`},
	{"state.list", `{"prefix":"zz"}`, `["zz"]`, `{"items":[],"revision":3}`},
	{"state.list", `{"limit":0}`, `["",null,0]`, `invalid_params ran=no`},
	{"state.history", `{"key":"a"}`, `["a"]`, `[{"type":"put","key":"a","value":{"x": 1,  "y":[1.0,1e-07,12345678901234567890]},"revision":1,"previous_revision":0},` +
		`{"type":"put","key":"a","value":2,"revision":2,"previous_revision":1}]`},
	{"state.history", `{"key":"a","limit":1}`, `["a",1]`, `[{"type":"put","key":"a","value":2,"revision":2,"previous_revision":1}]`},
	{"state.patch", `{"key":"a","merge":{"n":{"m":1,"gone":null}}}`, `["a",{"n":{"m":1,"gone":null}}]`, `{"revision":4}`},
	{"state.patch", `{"key":"a","ops":[{"op":"add","path":"/n/k","value":[1]},{"op":"test","path":"/n/m","value":1.0}]}`,
		`["a",null,[{"op":"add","path":"/n/k","value":[1]},{"op":"test","path":"/n/m","value":1.0}]]`, `{"revision":5}`},
	{"state.get", `{"key":"a"}`, `["a"]`, `{"key":"a","value":{"n":{"m":1,"k":[1]}},"revision":5}`},
	{"state.patch", `{"key":"a","ops":[{"op":"test","path":"/n/m","value":2}]}`, `["a",null,[{"op":"test","path":"/n/m","value":2}]]`, `conflict ran=no {"key":"a","revision":5}`},
	{"state.patch", `{"key":"a","ops":[{"op":"remove","path":"/nix"}]}`, `["a",null,[{"op":"remove","path":"/nix"}]]`, `invalid_params ran=no`},
	{"state.patch", `{"key":"nix","merge":{}}`, `["nix",{}]`, `not_found ran=yes {"key":"nix"}`},
	{"state.patch", `{"key":"a","merge":{},"if_revision":1}`, `["a",{},null,1]`, `conflict ran=no {"key":"a","revision":5}`},
	{"state.patch", `{"key":"a"}`, `["a"]`, `invalid_params ran=no`},
	{"state.touch", `{"key":"a","ttl":1000}`, `["a",1000]`, `{"revision":6}`},
	{"state.touch", `{"key":"a","ttl":null}`, `["a",null]`, `{"revision":7}`},
	{"state.touch", `{"key":"a","ttl":0}`, `["a",0]`, `invalid_params ran=no`},
	{"state.touch", `{"key":"nix","ttl":5}`, `["nix",5]`, `not_found ran=yes {"key":"nix"}`},
	{"state.delete", `{"key":"nix"}`, `["nix"]`, `{"revision":7,"deleted":0}`},
	{"state.delete", `{"key":"b","if_revision":1}`, `["b",null,1]`, `conflict ran=no {"key":"b","revision":3}`},
	{"state.delete", `{"key":"b"}`, `["b"]`, `{"revision":8,"deleted":1}`},
	{"state.delete", `{}`, `[]`, `invalid_params ran=no`},
	{"state.delete", `{"key":"a","prefix":"a"}`, `["a","a"]`, `invalid_params ran=no`},
	{"state.txn", `{"if":[{"key":"a","revision":7},{"key":"a","value":{"n":{"k":[1.0],"m":1}}}],"then":[{"op":"put","key":"t/1","value":1},{"op":"put","key":"t/2","value":2},{"op":"get","key":"t/1"},{"op":"get","key":"nix"}]}`,
		`[[{"key":"a","revision":7},{"key":"a","value":{"n":{"k":[1.0],"m":1}}}],[{"op":"put","key":"t/1","value":1},{"op":"put","key":"t/2","value":2},{"op":"get","key":"t/1"},{"op":"get","key":"nix"}]]`,
		`{"succeeded":true,"revision":9,"results":[{"revision":9},{"revision":9},{"key":"t/1","value":1,"revision":9},null]}`},
	{"state.txn", `{"if":[{"key":"t/1","revision":0}],"then":[],"else":[{"op":"patch","key":"t/1","merge":5},{"op":"delete","prefix":"t/2"}]}`,
		`[[{"key":"t/1","revision":0}],[],[{"op":"patch","key":"t/1","merge":5},{"op":"delete","prefix":"t/2"}]]`,
		`{"succeeded":false,"revision":10,"results":[{"revision":10},{"deleted":1}]}`},
	{"state.txn", `{"then":[{"op":"put","key":"t/9","value":1},{"op":"put","key":"t/1","value":1,"if_revision":3}]}`,
		`[[],[{"op":"put","key":"t/9","value":1},{"op":"put","key":"t/1","value":1,"if_revision":3}]]`, `conflict ran=no {"key":"t/1","revision":10}`},
	{"state.get", `{"key":"t/9"}`, `["t/9"]`, `not_found ran=yes {"key":"t/9"}`},
	{"state.txn", `{"then":[{"op":"nix","key":"a"}]}`, `[null,[{"op":"nix","key":"a"}]]`, `invalid_params ran=no`},
	{"state.txn", `{"if":[{"key":"a"}]}`, `[[{"key":"a"}]]`, `invalid_params ran=no`},
	{"state.txn", `{"if":[{"key":"a","revision":1,"value":1}]}`, `[[{"key":"a","revision":1,"value":1}]]`, `invalid_params ran=no`},
	{"state.txn", `{"if":[{"key":"a","revision":1,"colour":1}]}`, `[[{"key":"a","revision":1,"colour":1}]]`, `invalid_params ran=no`},
	{"state.delete", `{"prefix":"t/"}`, `[null,"t/"]`, `{"revision":11,"deleted":1}`},
	{"state.compact", `{"revision":10}`, `[10]`, `{"revision":10}`},
	{"state.compact", `{"revision":99}`, `[99]`, `invalid_params ran=no {"revision":11}`},
	{"state.get", `{"key":"a","revision":3}`, `["a",3]`, `compacted ran=no {"lowest":10}`},
	{"state.put", `{"key":"","value":1}`, `["",1]`, `invalid_params ran=no`},
	{"state.put", `{"key":"a\u0001","value":1}`, `["a\u0001",1]`, `invalid_params ran=no`},
	{"state.put", `{"key":"a","value":1,"ttl":-1}`, `["a",1,null,-1]`, `invalid_params ran=no`},
	{"state.put", `{"key":"a","value":1,"ttl":NaN}`, `["a",1,null,NaN]`, `invalid_params ran=no`},
	{"state.put", `{"key":"a"}`, `["a"]`, `invalid_params ran=no`},
	{"state.put", `{"key":"a","value":1,"colour":1}`, `["a",1,null,null,false,1]`, `invalid_params ran=no`},
	{"state.put", `{"key":"` + strings.Repeat("k", 1025) + `","value":1}`, `["` + strings.Repeat("k", 1025) + `",1]`, `too_large ran=no {"limit":"state_key","max":1024}`},
	{"state.put", `{"key":"a","value":"` + strings.Repeat("v", 1<<20) + `"}`, `["a","` + strings.Repeat("v", 1<<20) + `"]`, `too_large ran=no {"limit":"state_value","max":1048576}`},
	{"state.restore", `{"items":[{"key":"a","value":1}]}`, `[[{"key":"a","value":1}]]`, `conflict ran=no`},
}

func TestMethods(t *testing.T) {
	for _, spelling := range []string{"named", "positional"} {
		t.Run(spelling, func(t *testing.T) {
			c := newCaller(t, newService(t, Options{}, ServiceOptions{}))
			for i, step := range methodSteps {
				args := step.named
				if spelling == "positional" {
					args = step.positional
				}
				got, err := c.call(step.method, args)
				if err != nil {
					got = errorText(err)
				}
				if stable(got) != step.want {
					t.Fatalf("step %d: %s %.200s\nis   %s\nwant %s (%v)", i, step.method, args, stable(got), step.want, err)
				}
			}
		})
	}
}

func TestEveryMethodIsDescribed(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	want := "state.get state.list state.history state.info state.stats state.put state.patch state.touch state.delete state.txn state.compact state.watch state.snapshot state.restore"
	var names []string
	for _, m := range s.Methods() {
		names = append(names, m.Name)
		if m.Doc == "" {
			t.Errorf("%s has no documentation", m.Name)
		}
		for _, p := range m.Params {
			if p.Doc == "" {
				t.Errorf("parameter %s of %s has no documentation", p.Name, m.Name)
			}
		}
	}
	if got := strings.Join(names, " "); got != want {
		t.Errorf("methods are %s", got)
	}
}

// Writes of one connection that are not awaited are applied in the order in which they were sent.
func TestUnawaitedWritesKeepTheirOrder(t *testing.T) {
	opts, so := Options{}, ServiceOptions{Batches: new(Batches)}
	so.Batches.Install(&opts)
	var flushed atomic.Int64
	replies := opts.AfterReplies
	opts.AfterReplies = func() { flushed.Add(1); replies() }
	store := mustOpen(t, t.TempDir(), opts)
	s := NewService(store, so)
	t.Cleanup(s.Close)
	c := newCaller(t, s)
	const n = 2000
	answers := make([]*reply, n)
	for i := range n {
		_, answers[i] = c.start("state.put", fmt.Sprintf(`["k",%d]`, i))
	}
	for i, r := range answers {
		v, err := c.wait(r)
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := v.Raw(); string(text) != fmt.Sprintf(`{"revision":%d}`, i+1) {
			t.Fatalf("put %d was given %s", i, text)
		}
	}
	if got := stable(c.must("state.get", `["k"]`)); got != fmt.Sprintf(`{"key":"k","value":%d,"revision":%d}`, n-1, n) {
		t.Error(got)
	}
	if b := s.Store().Stats().Batches; b >= n/2 {
		t.Errorf("%d writes took %d syncs: they do not share them", n, b)
	}
	if flushed.Load() == 0 {
		t.Error("the store never said that its answers can leave")
	}
	if c.link.N() != 0 {
		t.Errorf("%d calls are left", c.link.N())
	}
}

// A caller that gives up is answered at once; the write may happen all the same.
func TestCancelledWrite(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	release := make(chan struct{})
	entered := make(chan struct{})
	err := s.Store().Commit(&Tx{If: []Condition{{Key: "x", Equal: func(*Item) (bool, error) { close(entered); <-release; return true, nil }}}}, func(Result, error) {})
	if err != nil {
		t.Fatal(err)
	}
	<-entered
	call, r := c.start("state.put", `["k",1]`)
	call.Cancel(rpc.ErrCancelled)
	if _, err := c.wait(r); errorText(err) != "cancelled ran=unknown" {
		t.Errorf("answer is %v", err)
	}
	close(release)
	c.must("state.put", `["other",1]`)
	if got := stable(c.must("state.get", `["k"]`)); got != `{"key":"k","value":1,"revision":1}` {
		t.Error(got)
	}
}

// The arguments of a call belong to a read buffer that is used again as soon as Start has returned.
func TestArgumentsAreBorrowed(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	c.must("state.put", `["p",{"a":1}]`)
	c.must("state.put", `["q",{"a":1}]`)
	release, entered := make(chan struct{}), make(chan struct{})
	err := s.Store().Commit(&Tx{If: []Condition{{Key: "x", Equal: func(*Item) (bool, error) { close(entered); <-release; return true, nil }}}}, func(Result, error) {})
	if err != nil {
		t.Fatal(err)
	}
	<-entered
	var answers []*reply
	send := func(method, args string) {
		buf := []byte(args)
		v, err := rpc.Parse(buf)
		if err != nil {
			t.Fatal(err)
		}
		_, r := c.startArgs(method, rpc.WholeArgs(v), 0)
		for i := range buf {
			buf[i] = '#'
		}
		answers = append(answers, r)
	}
	send("state.put", `{"key":"k1","value":{"b":[1,"two"]}}`)
	send("state.patch", `{"key":"p","merge":{"m":{"x":"y"}}}`)
	send("state.patch", `{"key":"q","ops":[{"op":"add","path":"/m","value":{"x":"y"}}]}`)
	send("state.txn", `{"if":[{"key":"k1","value":{"b":[1,"two"]}}],"then":[{"op":"put","key":"k2","value":"three"},{"op":"patch","key":"k1","merge":{"c":4}}]}`)
	send("state.put", `{"key":"k3","value":1,"ephemeral":true}`)
	close(release)
	for i, r := range answers {
		if _, err := c.wait(r); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	for key, want := range map[string]string{
		"k1": `{"b":[1,"two"],"c":4}`, "k2": `"three"`, "k3": `1`, "p": `{"a":1,"m":{"x":"y"}}`, "q": `{"a":1,"m":{"x":"y"}}`,
	} {
		v, err := s.Get(key)
		if text, _ := v.Raw(); err != nil || string(text) != want {
			t.Errorf("%s is %s (%v), want %s", key, text, err, want)
		}
	}
}

func TestWritesAfterClose(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	s.Close()
	s.Store().Close()
	for method, args := range map[string]string{"state.put": `["k",1]`, "state.compact": `[0]`, "state.watch": `[]`} {
		if _, err := c.call(method, args); errorText(err) != "unavailable ran=no" {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestReadWritePath(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	key := PathKey([]rpc.PathPart{{Name: "a"}, {Index: 3, IsIndex: true}, {Name: "b"}})
	if key != "a/3/b" {
		t.Fatal(key)
	}
	if _, err := s.Get(key); errorText(fault(err)) != `not_found ran=yes {"key":"a/3/b"}` {
		t.Error(err)
	}
	m := rpc.NewTarget(&rpc.Method{Name: "set", Scope: rpc.ScopeCall}, s.Putter(key))
	c.methods["set"] = m
	if got := c.must("set", `[{"x":1}]`); got != "true" {
		t.Error(got)
	}
	v, err := s.Get(key)
	if text, _ := v.Raw(); err != nil || string(text) != `{"x":1}` {
		t.Errorf("%s, %v", text, err)
	}
}
