package statesvc

import (
	"encoding/json"
	"regexp"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// caller is a client of a service on one connection.
type caller struct {
	t       testing.TB
	link    *rpc.Link
	methods map[string]*rpc.Method
	unary   bool

	patience time.Duration // longest wait for an answer or an item
}

func newCaller(t testing.TB, s *Service) *caller {
	c := &caller{t: t, link: rpc.NewLink(nil), methods: map[string]*rpc.Method{}, patience: 20 * time.Second}
	for _, m := range s.Methods() {
		if m.Scope == 0 {
			m.Scope = rpc.ScopeCall // as the method table does
		}
		c.methods[m.Name] = m
	}
	return c
}

// newService returns a service on a store in memory.
func newService(t testing.TB, opts Options, so ServiceOptions) *Service {
	so.Batches = new(Batches)
	so.Batches.Install(&opts)
	s := NewService(OpenMemory(opts), so)
	t.Cleanup(func() {
		s.Close()
		s.Store().Close()
	})
	return s
}

// reply records the answer of one call.
type reply struct {
	credit int // granted when a stream opens
	done   chan struct{}
	v      rpc.Value
	err    *rpc.Error
	src    rpc.Source
	opened chan struct{}
	items  chan string
}

func (r *reply) Result(_ *rpc.Batch, _ *rpc.Call, v rpc.Value) {
	r.v = v.Own()
	close(r.done)
}

func (r *reply) Error(_ *rpc.Batch, _ *rpc.Call, e *rpc.Error) {
	r.err = e
	close(r.done)
}

func (r *reply) Open(_ *rpc.Batch, _ *rpc.Call, src rpc.Source) rpc.Sink {
	r.src = src
	src.Grant(r.credit)
	close(r.opened)
	return r
}

func (r *reply) Own() {}

func (r *reply) Item(_ *rpc.Batch, v rpc.Value) {
	text, err := v.AppendJSON(nil, rpc.Form{})
	if err != nil {
		text = []byte(err.Error())
	}
	r.items <- string(text)
}

func (r *reply) End(_ *rpc.Batch, e *rpc.Error) {
	r.err = e
	close(r.items)
	close(r.done)
}

// start starts a call; args is JSON, an object for named arguments and an array for positional ones.
func (c *caller) start(method, args string) (*rpc.Call, *reply) {
	v, err := rpc.Parse([]byte(args))
	if err != nil {
		c.t.Fatalf("%s: %v", args, err)
	}
	return c.startArgs(method, rpc.WholeArgs(v), 1<<20)
}

func (c *caller) startArgs(method string, args rpc.Args, credit int) (*rpc.Call, *reply) {
	m := c.methods[method]
	if m == nil {
		c.t.Fatalf("no method %s", method)
	}
	r := &reply{credit: credit, done: make(chan struct{}), opened: make(chan struct{}), items: make(chan string, 1<<16)}
	call := &rpc.Call{Method: m, Args: args, Peer: rpc.Local, Protocol: rpc.Kollabor, Reply: r, Unary: c.unary}
	if m.Refs {
		call.Unary = true
	}
	var b rpc.Batch
	b.Begin()
	c.link.Start(&b, m, call)
	b.Flush()
	return call, r
}

func (c *caller) wait(r *reply) (rpc.Value, *rpc.Error) {
	c.t.Helper()
	select {
	case <-r.done:
		return r.v, r.err
	case <-time.After(c.patience):
		c.t.Fatal("no answer")
		panic("unreachable")
	}
}

func (c *caller) call(method, args string) (string, *rpc.Error) {
	c.t.Helper()
	_, r := c.start(method, args)
	v, err := c.wait(r)
	if err != nil {
		return "", err
	}
	text, jerr := v.AppendJSON(nil, rpc.Form{NonFinite: true})
	if jerr != nil {
		c.t.Fatal(jerr)
	}
	return string(text), nil
}

func (c *caller) must(method, args string) string {
	c.t.Helper()
	text, err := c.call(method, args)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, args, err)
	}
	return text
}

// next returns the next item of a stream, "" at its end.
func (c *caller) next(r *reply) string {
	c.t.Helper()
	select {
	case item := <-r.items:
		return item
	case <-time.After(c.patience):
		c.t.Fatal("no item")
		panic("unreachable")
	}
}

// expect compares the next items of a stream.
func (c *caller) expect(r *reply, want ...string) {
	c.t.Helper()
	for _, w := range want {
		if got := c.next(r); got != w {
			c.t.Fatalf("item is\n%s\nwant\n%s", got, w)
		}
	}
}

var changing = regexp.MustCompile(`,"(created|updated|time)":"[^"]*"`)

// stable takes the times out of an answer.
func stable(text string) string { return changing.ReplaceAllString(text, "") }

// errorText is an error as a client sees it.
func errorText(e *rpc.Error) string {
	if e == nil {
		return ""
	}
	s := string(e.Code) + " ran=" + e.Ran.String()
	if !e.Data.IsUndefined() {
		data, _ := json.Marshal(e.Data)
		s += " " + string(data)
	}
	return s
}
