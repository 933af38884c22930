package rpc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hubd-dev/hubd/internal/testkit"
)

var waitFor = testkit.Eventually

func row(name string) *Method {
	return NewMethod(&Method{Name: name}, func(*Call) (Value, error) { return Null, nil })
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"echo": true, "a.b": true, "state.get": true, "demo.file_info": true, "A1.b2_": true, "a.b.c": true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "1a": false, "_a": false, "a.-": false, "a b": false, "é": false, "a\n": false,
		strings.Repeat("a", 256): true, strings.Repeat("a", 257): false,
	} {
		if ValidName(name) != want {
			t.Errorf("ValidName(%.20q) is %v", name, !want)
		}
	}
}

func TestTable(t *testing.T) {
	table := NewTable()
	var added []string
	table.Added = func(m *Method) { added = append(added, m.Name) }
	table.MustAdd(row("b.two"), row("echo"), row("b.one"))
	if err := table.Add(row("c.x"), row("echo")); !errors.Is(err, &Error{Code: CodeConflict}) {
		t.Errorf("a name twice: %v", err)
	}
	for _, bad := range []*Method{{Name: "x.y"}, row("_x"), row("")} {
		if err := table.Add(row("c.y"), bad); err == nil {
			t.Errorf("%q is fine", bad.Name)
		}
	}
	if err := table.Add(row("d.a"), row("d.a")); err == nil {
		t.Error("one name twice at once")
	}
	if !slices.Equal(added, []string{"b.two", "echo", "b.one"}) {
		t.Errorf("told of %v", added)
	}
	if table.Lookup("c.x") != nil || table.Lookup("c.y") != nil || table.LookupBytes([]byte("b.one")) == nil || table.Lookup("b.one").Scope != ScopeCall {
		t.Error("not all or none")
	}
	var names, services []string
	for _, m := range table.Methods() {
		names = append(names, m.Name)
	}
	for _, s := range table.Services() {
		services = append(services, s.Name)
	}
	if !slices.Equal(names, []string{"b.one", "b.two", "echo"}) || !slices.Equal(services, []string{"b", "echo"}) {
		t.Errorf("%v, %v", names, services)
	}
	if s := table.Service("b"); s == nil || len(s.Methods) != 2 || table.Service("zz") != nil {
		t.Errorf("%+v", s)
	}
	table.Describe("b", "both")
	version := table.Version()
	one := table.Lookup("b.one")
	table.Remove(row("b.one")) // another row of that name
	if table.Lookup("b.one") != one || table.Version() == version {
		t.Error("removed by name")
	}
	table.Remove(one, table.Lookup("b.two"))
	if table.Service("b") != nil || len(table.Services()) != 1 {
		t.Error("a service without methods")
	}
	table.MustAdd(row("b.three"))
	if s := table.Service("b"); s == nil || s.Doc != "both" {
		t.Error("the documentation is lost")
	}
	for i := range 1000 { // providers come and go
		m := row(fmt.Sprintf("p%d.x", i))
		table.MustAdd(m)
		table.Remove(m)
	}
	if s := table.state.Load(); len(s.names) != 2 || len(s.services) != 2 {
		t.Errorf("%d names, %d services", len(s.names), len(s.services))
	}
}

func TestTableReadsDuringChanges(t *testing.T) {
	table := NewTable()
	table.MustAdd(row("fix.ed"))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if table.Lookup("fix.ed") == nil {
					t.Error("the fixed row is gone")
					return
				}
				n := 0
				for _, s := range table.Services() {
					n += len(s.Methods)
				}
				if n%2 != 1 { // pairs come and go together
					t.Errorf("%d rows", n)
					return
				}
			}
		})
	}
	for range 500 {
		a, b := row("p.a"), row("q.b")
		table.MustAdd(a, b)
		table.Remove(a, b)
	}
	close(stop)
	wg.Wait()
}

// TestHeap holds the link's heap against a plain list of its calls.
func TestHeap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := NewLink(nil)
		var model []*Call
		begin := time.Unix(0, 0)
		next := func() time.Time {
			if n := rapid.IntRange(0, 20).Draw(t, "at"); n > 0 {
				return begin.Add(time.Duration(n))
			}
			return time.Time{}
		}
		pick := func() *Call { return model[rapid.IntRange(0, len(model)-1).Draw(t, "call")] }
		t.Repeat(map[string]func(*rapid.T){
			"push": func(*rapid.T) {
				c := &Call{next: next()}
				model = append(model, c)
				l.push(c)
			},
			"take": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip()
				}
				c := pick()
				l.take(c)
				model = slices.DeleteFunc(model, func(x *Call) bool { return x == c })
				if c.index != -1 {
					t.Fatal("still in")
				}
			},
			"fix": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip()
				}
				c := pick()
				c.next = next()
				l.fix(c)
			},
			"": func(t *rapid.T) {
				if len(l.heap) != len(model) {
					t.Fatalf("%d calls, want %d", len(l.heap), len(model))
				}
				for i, c := range l.heap {
					if c.index != i {
						t.Fatalf("index %d at %d", c.index, i)
					}
					if less(c, l.heap[max(i-1, 0)/4]) {
						t.Fatalf("%d is before its parent", i)
					}
				}
				for _, c := range model {
					if less(c, l.heap[0]) {
						t.Fatal("the first is not the earliest")
					}
				}
			},
		})
	})
}

func TestScope(t *testing.T) {
	for text, want := range map[string]Scope{"read": ScopeRead, "read,call": ScopeRead | ScopeCall, "read,call,provide,admin": AllScopes} {
		if s, ok := ParseScope(text); !ok || s != want || s.String() != text {
			t.Errorf("%s: %v, %v", text, s, ok)
		}
	}
	for _, bad := range []string{"", "root", "read,", "read call"} {
		if _, ok := ParseScope(bad); ok {
			t.Errorf("%q is fine", bad)
		}
	}
}

// Benchmarks of the paths that every call takes.

func benchScan(b *testing.B, text string) {
	data := []byte(text)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Scan(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkScan100(b *testing.B) { benchScan(b, `{"text":"`+strings.Repeat("x", 80)+`","n":1}`) }
func BenchmarkScan4KText(b *testing.B) {
	benchScan(b, `{"text":"`+strings.Repeat("x", 4080)+`"}`)
}
func BenchmarkScan4KObjects(b *testing.B) {
	one := `{"id":12345,"name":"somebody","tags":["a","b"],"ok":true},`
	benchScan(b, "["+strings.TrimSuffix(strings.Repeat(one, 4096/len(one)), ",")+"]")
}

type benchWire struct{}

func (benchWire) TryWrite(p []byte) (int, error) { return len(p), nil }
func (benchWire) Write(p []byte) (int, error)    { return len(p), nil }
func (benchWire) Close() error                   { return nil }

// benchCall is how a protocol answers: the reply is the call.
type benchCall struct {
	Call
	done chan struct{}
}

func (r *benchCall) Result(b *Batch, c *Call, v Value) {
	c.Link().Out.Append(b, func(dst []byte) []byte { return append(dst, v.raw...) })
	if r.done != nil {
		r.done <- struct{}{}
	}
}
func (r *benchCall) Error(_ *Batch, _ *Call, e *Error) { panic(e) }
func (r *benchCall) Open(_ *Batch, _ *Call, src Source) Sink {
	src.Grant(1 << 30)
	return r
}
func (r *benchCall) Item(b *Batch, v Value) {
	r.Link().Out.Append(b, func(dst []byte) []byte { return append(dst, v.raw...) })
}
func (r *benchCall) End(*Batch, *Error) { r.done <- struct{}{} }
func (r *benchCall) Own()               {}

func benchLink() *Link {
	l := NewLink(nil)
	l.Out = NewOutbox(benchWire{}, 0, 0)
	return l
}

func BenchmarkInlineCall(b *testing.B) {
	l := benchLink()
	m := NewMethod(&Method{Name: "echo", Scope: ScopeCall, Run: Inline}, func(c *Call) (Value, error) { return c.Args.First(), nil })
	args := WholeArgs(RawString(`["` + strings.Repeat("x", 90) + `"]`))
	var batch Batch
	b.ReportAllocs()
	for b.Loop() {
		batch.Begin()
		c := &benchCall{Call: Call{Peer: Local, Args: args}}
		c.Reply = c
		l.Start(&batch, m, &c.Call)
		batch.Flush()
	}
}

func BenchmarkInlineBound(b *testing.B) {
	type in struct {
		A Value `rpc:"a"`
		B Value `rpc:"b"`
	}
	l := benchLink()
	m := Handle("math.add", func(_ context.Context, p in) (Value, error) { return Add(p.A, p.B) }, In(Inline))
	m.Scope = ScopeCall
	args := WholeArgs(RawString(`{"a":1,"b":2}`))
	var batch Batch
	b.ReportAllocs()
	for b.Loop() {
		batch.Begin()
		c := &benchCall{Call: Call{Peer: Local, Args: args}}
		c.Reply = c
		l.Start(&batch, m, &c.Call)
		batch.Flush()
	}
}

func BenchmarkGoroutineCall(b *testing.B) {
	l := benchLink()
	m := NewMethod(&Method{Name: "echo", Scope: ScopeCall}, func(c *Call) (Value, error) { return c.Args.First(), nil })
	args := WholeArgs(RawString(`["` + strings.Repeat("x", 90) + `"]`))
	done := make(chan struct{}, 1)
	b.ReportAllocs()
	for b.Loop() {
		c := &benchCall{Call: Call{Peer: Local, Args: args, Key: "1"}, done: done}
		c.Reply = c
		l.Start(nil, m, &c.Call)
		<-done
	}
}

func BenchmarkStreamItem(b *testing.B) {
	l := benchLink()
	done := make(chan struct{}, 1)
	item := RawString(`"` + strings.Repeat("x", 98) + `"`)
	m := NewMethod(&Method{Name: "s", Scope: ScopeCall}, func(c *Call) (Value, error) {
		w := OpenWriter(nil, c)
		for b.Loop() {
			if err := w.Send(item); err != nil {
				return Value{}, err
			}
		}
		w.sink.End(nil, nil)
		return Value{}, ErrAnswered
	})
	b.ReportAllocs()
	c := &benchCall{Call: Call{Peer: Local}, done: done}
	c.Reply = c
	l.Start(nil, m, &c.Call)
	<-done
}

func BenchmarkHeap(b *testing.B) {
	for _, n := range []int{64, 4096} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := NewLink(nil)
			r := rand.New(rand.NewPCG(1, 2))
			begin := time.Now()
			calls := make([]*Call, n)
			for i := range calls {
				calls[i] = &Call{next: begin.Add(time.Duration(r.IntN(1e9)))}
				l.push(calls[i])
			}
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				c := calls[i%n]
				i++
				l.take(c)
				c.next = c.next.Add(1e9)
				l.push(c)
			}
		})
	}
}
