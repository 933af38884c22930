package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// connection is a connection without a wire: calls go through a link, answers
// are kept as they come.
type connection struct {
	t     *testing.T
	table *rpc.Table
	link  *rpc.Link
	peer  *rpc.Peer
}

func dial(t *testing.T, table *rpc.Table) *connection {
	l := rpc.NewLink(nil)
	t.Cleanup(func() { closeLink(l) })
	return &connection{t: t, table: table, link: l, peer: &rpc.Peer{UID: 1000, PID: 4321, Scopes: rpc.AllScopes}}
}

// reply is what came of a call.
type reply struct {
	mu    sync.Mutex
	items []string
	text  string
	err   *rpc.Error
	done  bool
}

func (r *reply) Result(_ *rpc.Batch, _ *rpc.Call, v rpc.Value) {
	text, err := v.AppendJSON(nil, rpc.Form{NonFinite: true})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text, r.done = string(text), true
	if err != nil {
		r.text = err.Error()
	}
}

func (r *reply) Error(_ *rpc.Batch, _ *rpc.Call, e *rpc.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err, r.done = e, true
}

func (r *reply) Open(_ *rpc.Batch, _ *rpc.Call, src rpc.Source) rpc.Sink {
	src.Grant(1 << 20)
	return r
}

func (r *reply) Item(_ *rpc.Batch, v rpc.Value) {
	text, _ := v.AppendJSON(nil, rpc.Form{NonFinite: true})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items = append(r.items, string(text))
}

func (r *reply) End(_ *rpc.Batch, e *rpc.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err, r.done = e, true
}

func (r *reply) Own() {}

func (r *reply) state() (items []string, text string, err *rpc.Error, done bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.items...), r.text, r.err, r.done
}

// start calls a method with named or positional arguments.
func (c *connection) start(method, args string, set ...func(*rpc.Call)) *reply {
	c.t.Helper()
	m := c.table.Lookup(method)
	if m == nil {
		c.t.Fatalf("no method %s", method)
	}
	r := new(reply)
	call := &rpc.Call{Args: rpc.WholeArgs(parse(c.t, args)), Peer: c.peer, Protocol: rpc.Kollabor, Reply: r}
	for _, f := range set {
		f(call)
	}
	c.link.Start(nil, m, call)
	return r
}

// call is start for a method that answers; it must run in a bubble.
func (c *connection) call(method, args string) (string, *rpc.Error) {
	c.t.Helper()
	r := c.start(method, args)
	synctest.Wait()
	_, text, err, done := r.state()
	if !done {
		c.t.Fatalf("%s does not answer", method)
	}
	return text, err
}

func (c *connection) want(method, args, want string) {
	c.t.Helper()
	if got, err := c.call(method, args); err != nil || got != want {
		c.t.Errorf("%s %s\ngot  %s, %v\nwant %s", method, args, got, err, want)
	}
}

func (c *connection) refused(method, args string, code rpc.Code) {
	c.t.Helper()
	if got, err := c.call(method, args); err == nil || err.Code != code {
		c.t.Errorf("%s %s: got %s, %v, want %s", method, args, got, err, code)
	}
}

// hubLike is a table with the methods over a registry with its default session.
func hubLike(t *testing.T, opts Options) (*Registry, *rpc.Table) {
	t.Helper()
	r := New(opts)
	if _, err := r.Open(r.Default(), OpenOptions{Permanent: true}); err != nil {
		t.Fatal(err)
	}
	table := rpc.NewTable()
	table.MustAdd(r.Methods()...)
	return r, table
}

func TestMethodTable(t *testing.T) {
	_, table := hubLike(t, Options{})
	for name, want := range map[string]string{
		"session.open":       "provide (name string!, title string, meta any, ring integer?, seq integer? unlisted, epoch string? unlisted, producer string? unlisted, taken integer? unlisted)",
		"session.publish":    "call (session string!, event any, events any... unlisted, n integer? unlisted, seq integer? unlisted)",
		"session.close":      "provide (session string!)",
		"session.list":       "read (after string, limit integer)",
		"session.info":       "read (session string!)",
		"session.history":    "read (session string!, after_seq integer, limit integer)",
		"session.follow":     "read (session string!, since_seq integer?, mode string, client_id string unlisted, epoch string unlisted) endless",
		"session.wait":       "read (session string!)",
		"session.kill":       "call (session string!, signal string)",
		"session.remove":     "call (session string!)",
		"session.send":       "call (session string!, text any!, client_id string unlisted)",
		"session.resize":     "call (session string!, cols integer!, rows integer!)",
		"session.input":      "provide (session string!) endless",
		"permission.respond": "call (tool_id string!, response string!, session string? unlisted)",
	} {
		m := table.Lookup(name)
		if m == nil {
			t.Errorf("%s is missing", name)
			continue
		}
		var params []string
		for _, p := range m.Params {
			text := p.Name + " " + p.Type.String()
			if p.Required {
				text += "!"
			}
			if p.Stream {
				text += "..."
			}
			if p.Unlisted {
				text += " unlisted"
			}
			params = append(params, text)
		}
		got := m.Scope.String() + " (" + strings.Join(params, ", ") + ")"
		if m.Endless {
			got += " endless"
		}
		if got != want || m.Doc == "" {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, want)
		}
	}
	if n := len(table.Methods()); n != 14 {
		t.Errorf("%d methods", n)
	}
}

func TestMethods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, table := hubLike(t, Options{Default: "demo"})
		a, b := dial(t, table), dial(t, table)
		a.want("session.publish", `{"session":"demo","event":{"type":"output","rendered":"x","ts":1}}`, `{"ok":true}`)
		a.want("session.publish", `["demo",{"type":"output","rendered":"y","ts":2}]`, `{"ok":true}`)
		a.refused("session.publish", `{"session":"nope","event":{"type":"a"}}`, rpc.CodeNotFound)
		a.refused("session.publish", `{"session":"demo","event":{"typ":"a"}}`, rpc.CodeInvalidParams)
		a.refused("session.publish", `{"session":"demo"}`, rpc.CodeInvalidParams)
		a.refused("session.publish", `{"session":"demo","event":{"type":"a"},"more":1}`, rpc.CodeInvalidParams)
		a.want("session.history", `{"session":"demo"}`, `{"events":[{"type":"output","rendered":"x","ts":1,"seq":1},{"type":"output","rendered":"y","ts":2,"seq":2}]}`)
		a.want("session.history", `{"session":"demo","limit":1}`, `{"events":[{"type":"output","rendered":"x","ts":1,"seq":1}],"next":1}`)
		a.want("session.history", `{"session":"demo","after_seq":1}`, `{"events":[{"type":"output","rendered":"y","ts":2,"seq":2}]}`)
		a.want("session.history", `{"session":"demo","after_seq":2}`, `{"events":[]}`)
		a.refused("session.history", `{"session":"demo","limit":0}`, rpc.CodeInvalidParams)

		a.want("session.open", `{"name":"build","title":"Build","meta":{"n":1.0},"ring":10}`, `{"session":"build","seq":0}`)
		b.refused("session.open", `{"name":"build"}`, rpc.CodeConflict)
		b.refused("session.open", `{"name":"../build"}`, rpc.CodeInvalidParams)
		b.refused("session.open", `{"name":"x","ring":-1}`, rpc.CodeInvalidParams)
		b.refused("session.input", `{"session":"build"}`, rpc.CodePermissionDenied)
		b.peer = &rpc.Peer{UID: 1001, PID: 99, Scopes: rpc.ScopeRead | rpc.ScopeCall | rpc.ScopeProvide}
		b.refused("session.close", `{"session":"build"}`, rpc.CodePermissionDenied)
		a.refused("session.close", `{"session":"demo"}`, rpc.CodePermissionDenied)

		in := a.start("session.input", `{"session":"build"}`)
		events := b.start("session.follow", `{"session":"build","mode":"interactive"}`)
		b.want("session.send", `{"session":"build","text":"make\r"}`, `{"ok":true}`)
		b.want("session.resize", `{"session":"build","cols":80,"rows":24}`, `{"ok":true}`)
		b.refused("session.resize", `{"session":"build","cols":0,"rows":24}`, rpc.CodeInvalidParams)
		a.want("session.publish", `{"session":"build","event":{"type":"permission_request","details":{"tool_id":"t"},"ts":1}}`, `{"ok":true}`)
		b.want("permission.respond", `{"tool_id":"t","response":"APPROVE_ONCE"}`, `{"ok":true}`)
		b.want("permission.respond", `{"tool_id":"t","response":"APPROVE_ONCE"}`, `{"ok":false,"error":"no pending prompt for t"}`)
		items, _, _, _ := in.state()
		if want := `[{"type":"input","text":"make\r","client_id":"kollabor-99"} {"type":"resize","cols":80,"rows":24}` +
			` {"type":"permission_response","tool_id":"t","response":"APPROVE_ONCE","client_id":"kollabor-99"}]`; fmt.Sprint(items) != want {
			t.Errorf("input: %s", items)
		}

		var info struct {
			Session, Title string
			Meta           json.RawMessage
			Owner          struct{ Peer struct{ UID, PID int } }
			Followers      []struct {
				Mode     string
				ClientID string `json:"client_id"`
				Lag      int
			}
			Seq       int
			LastEvent struct {
				Seq  int
				Type string
				TS   float64
			} `json:"last_event"`
			Uptime float64
		}
		time.Sleep(1500 * time.Millisecond)
		text, _ := a.call("session.info", `{"session":"build"}`)
		if err := json.Unmarshal([]byte(text), &info); err != nil || info.Session != "build" || info.Title != "Build" ||
			string(info.Meta) != `{"n":1.0}` || info.Owner.Peer.PID != 4321 || len(info.Followers) != 1 || info.Followers[0].Mode != "interactive" ||
			info.Seq != 3 || info.LastEvent.Type != "permission_resolved" || info.LastEvent.Seq != 3 || info.Uptime != 1.5 {
			t.Errorf("%s: %v", text, err)
		}
		text, _ = a.call("session.list", `{}`)
		var list []struct{ Session string }
		if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) != 2 || list[0].Session != "build" || list[1].Session != "demo" {
			t.Errorf("%s: %v", text, err)
		}

		a.want("session.close", `{"session":"build"}`, `{"ok":true}`)
		synctest.Wait()
		items, _, err, done := events.state()
		if !done || err != nil || len(items) != 3 {
			t.Errorf("%v %v %v", items, err, done)
		}
		if _, _, err, done := in.state(); !done || err != nil {
			t.Errorf("the input stream: %v %v", err, done)
		}
		a.refused("session.info", `{"session":"other"}`, rpc.CodeNotFound)
		a.refused("session.follow", `{"session":"other"}`, rpc.CodeNotFound)
		a.refused("session.publish", `{"session":"build","event":{"type":"output"}}`, rpc.CodeNotFound)
		a.refused("session.follow", `{"session":"demo","mode":"both"}`, rpc.CodeInvalidParams)
	})
}

func TestFollowStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, table := hubLike(t, Options{})
		c := dial(t, table)
		s, _ := r.Get("hub")
		output(t, s, 3)
		f := c.start("session.follow", `{"session":"hub","since_seq":1}`)
		time.Sleep(10 * time.Minute) // no deadline, no end
		output(t, s, 1)
		synctest.Wait()
		items, _, err, done := f.state()
		if len(items) != 3 || done || err != nil || !strings.Contains(items[2], `"seq":4`) {
			t.Errorf("%v %v %v", items, err, done)
		}
		unary := c.start("session.follow", `{"session":"hub"}`, func(c *rpc.Call) { c.Unary = true })
		if _, _, err, _ := unary.state(); err == nil || err.Code != rpc.CodeInvalidParams {
			t.Errorf("as one answer: %v", err)
		}
		closeLink(c.link)
		synctest.Wait()
		if n := len(s.Info().Followers); n != 0 {
			t.Errorf("%d followers are left", n)
		}
	})
}

func TestReadersMayNotType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, table := hubLike(t, Options{})
		c := dial(t, table)
		c.peer = &rpc.Peer{Scopes: rpc.ScopeRead}
		for method, args := range map[string]string{
			"session.open": `{"name":"x"}`, "session.close": `{"session":"hub"}`, "session.publish": `{"session":"hub","event":{"type":"a"}}`,
			"session.send": `{"session":"hub","text":"x"}`, "session.resize": `{"session":"hub","cols":1,"rows":1}`,
			"session.input": `{"session":"hub"}`, "permission.respond": `{"tool_id":"a","response":"b"}`,
			"session.follow": `{"session":"hub","mode":"interactive"}`,
		} {
			c.refused(method, args, rpc.CodePermissionDenied)
		}
	})
}

func TestPublishAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, table := hubLike(t, Options{})
		c := dial(t, table)
		s, _ := r.Get("hub")
		events := rpc.NewReader(nil)
		p := c.start("session.publish", `{"session":"hub"}`, func(c *rpc.Call) { c.Input = events })
		for i := range 3 {
			time.Sleep(time.Hour) // no deadline
			events.Item(nil, rpc.RawString(fmt.Sprintf(`{"type":"output","n":%d}`, i)))
		}
		synctest.Wait()
		if _, _, _, done := p.state(); done || s.Seq() != 3 {
			t.Errorf("%v, %d events", done, s.Seq())
		}
		events.End(nil, nil)
		synctest.Wait()
		if _, text, err, _ := p.state(); text != `{"ok":true}` || err != nil {
			t.Errorf("%s, %v", text, err)
		}
		bad := rpc.NewReader(nil)
		p = c.start("session.publish", `{"session":"hub"}`, func(c *rpc.Call) { c.Input = bad })
		bad.Item(nil, rpc.RawString(`{"no":"type"}`))
		synctest.Wait()
		if _, _, err, _ := p.state(); err == nil || err.Code != rpc.CodeInvalidParams {
			t.Errorf("a bad item: %v", err)
		}
		c.want("session.publish", `{"session":"hub","events":[{"type":"a"},{"type":"b"}]}`, `{"ok":true}`)
		if s.Seq() != 5 {
			t.Errorf("%d events", s.Seq())
		}
	})
}

// The events of one connection keep their order.
func TestPublishKeepsOrder(t *testing.T) {
	_, table := hubLike(t, Options{Ring: 1000})
	c := dial(t, table)
	for i := range 500 {
		r := c.start("session.publish", fmt.Sprintf(`{"session":"hub","event":{"type":"n","i":%d}}`, i))
		if _, _, err, done := r.state(); !done || err != nil {
			t.Fatalf("%v %v", done, err)
		}
	}
	text := c.start("session.history", `{"session":"hub","limit":500}`)
	deadline := time.After(20 * time.Second)
	for {
		if _, answer, err, done := text.state(); done {
			var got struct{ Events []struct{ I, Seq int } }
			if e := json.Unmarshal([]byte(answer), &got); e != nil || err != nil || len(got.Events) != 500 {
				t.Fatalf("%v %v %d", e, err, len(got.Events))
			}
			for i, e := range got.Events {
				if e.I != i || e.Seq != i+1 {
					t.Fatalf("event %d is %+v", i, e)
				}
			}
			return
		}
		select {
		case <-deadline:
			t.Fatal("no answer")
		case <-time.After(time.Millisecond):
		}
	}
}

func TestErrorsNameNoInnards(t *testing.T) {
	_, err := New(Options{}).Find("a\nb")
	if e, ok := errors.AsType[*rpc.Error](err); !ok || e.Code != rpc.CodeNotFound || strings.Contains(e.Text(), "\n") {
		t.Errorf("%v", err)
	}
}
