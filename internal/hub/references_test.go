package hub

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
)

// capnwebRaw speaks Cap'n Web by hand.
type capnwebRaw struct {
	t    *testing.T
	ws   *websocket.Conn
	last int
}

func dialCapnwebRaw(t *testing.T, h *testHub) *capnwebRaw {
	t.Helper()
	ws, resp, err := websocket.Dial(t.Context(), "ws://hub/capnweb", &websocket.DialOptions{HTTPClient: overUnix(h)})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	t.Cleanup(func() { ws.CloseNow() })
	return &capnwebRaw{t: t, ws: ws}
}

// push asks for an expression and returns its id.
func (c *capnwebRaw) push(expression string) int {
	c.t.Helper()
	say(c.t, c.ws, `["push",`+expression+`]`)
	c.last++
	return c.last
}

// ask returns the answer: resolve or reject.
func (c *capnwebRaw) ask(expression string) string {
	c.t.Helper()
	id := c.push(expression)
	say(c.t, c.ws, fmt.Sprintf(`["pull",%d]`, id))
	for {
		got := hear(c.t, c.ws)
		if strings.HasPrefix(got, `["push",`) {
			c.t.Errorf("a call comes: %s", got)
		}
		if strings.HasPrefix(got, fmt.Sprintf(`["resolve",%d,`, id)) || strings.HasPrefix(got, fmt.Sprintf(`["reject",%d,`, id)) {
			return got
		}
	}
}

// hubReferences are the ways in which a client can mention what belongs to the hub.
func hubReferences(c *capnwebRaw) map[string]string {
	echoed := c.push(`["pipeline",0,["echo"],[["pipeline",0]]]`)
	one := c.push(`["pipeline",0,["echo"],[1]]`)
	c.ask(fmt.Sprintf(`["pipeline",%d]`, one)) // it is known
	mapped := c.push(fmt.Sprintf(`["remap",%d,[],[["import",0]],[["pipeline",-1]]]`, one))
	return map[string]string{
		"main":                  `["pipeline",0]`,
		"main, empty path":      `["pipeline",0,[]]`,
		"main, as a stub":       `["import",0]`,
		"main, by a method":     fmt.Sprintf(`["pipeline",%d]`, echoed),
		"main, by a map":        fmt.Sprintf(`["pipeline",%d]`, mapped),
		"main, by a map's stub": fmt.Sprintf(`["import",%d]`, mapped),
	}
}

// What belongs to the hub cannot be offered as a provider's API: calls would be
// forwarded to where they came from.
func TestObjectsOfTheHubCannotBeOffered(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	c := dialCapnwebRaw(t, h)
	forms := hubReferences(c)
	counter := c.push(`["pipeline",0,["demo","counter"],[1]]`)
	later := c.push(`["pipeline",0,["demo","sleep"],[3600]]`)
	for name, form := range map[string]string{
		"service":           `["pipeline",0,["hub"]]`,
		"method":            `["pipeline",0,["state","put"]]`,
		"object":            fmt.Sprintf(`["pipeline",%d]`, counter),
		"method of it":      fmt.Sprintf(`["pipeline",%d,["increment"]]`, counter),
		"not yet known":     fmt.Sprintf(`["import",%d]`, later),
		"main of a session": `["import",0,[]]`,
	} {
		forms[name] = form
	}
	for name, api := range forms {
		if got := c.ask(`["pipeline",0,["hub","provide"],["x",[["f"]],"","x",` + api + `]]`); !strings.Contains(got, "an object of the hub cannot be offered") {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := h.dial().call("x.f", `{}`); got.kind() != "not_found" {
		t.Errorf("x.f: %+v", got)
	}
}

// A provider that answers a call with another call of itself, in the same
// message, is refused after a few rounds.
func TestForwardingLoopIsRefused(t *testing.T) {
	h := startHub(t, Options{})
	for range 2 { // what was refused is over: it goes again
		c := dialCapnwebRaw(t, h)
		if got := c.ask(`["pipeline",0,["hub","provide"],["x",[["f"]]]]`); !strings.HasPrefix(got, `["resolve"`) {
			t.Fatal(got)
		}
		caller := h.dial()
		caller.send(`{"action":"rpc_request","request_id":"1","method":"x.f"}` + "\n")
		for rounds := 0; rounds < rpc.MaxHops; {
			if got := hear(t, c.ws); strings.HasPrefix(got, `["push",`) {
				rounds++
				say(t, c.ws, fmt.Sprintf(`["resolve",%d,["pipeline",0,["x","f"],[]]]`, rounds))
			}
		}
		if got := caller.reply(); got.kind() != "invalid_params" || !strings.Contains(*got.Error, "forwarding loop") {
			t.Errorf("the caller got %+v", got)
		}
		if got := c.ask(`["pipeline",0,["hub","unprovide"],["x"]]`); !strings.HasPrefix(got, `["resolve"`) {
			t.Fatal(got)
		}
	}
}

// holder is a client with all rights that others give references to: it calls
// what it is told to call of the first, with its own words.
type holder struct {
	refs chan *rpc.Ref
}

func startHolder(t *testing.T, h *testHub) *holder {
	t.Helper()
	v := &holder{refs: make(chan *rpc.Ref, 1)}
	take := rpc.Handle("take", func(_ context.Context, in struct {
		Ref *rpc.Ref `rpc:"ref"`
	}) (string, error) {
		v.refs <- in.Ref.Retain()
		return "taken", nil
	})
	c, err := capnweb.Dial(t.Context(), "unix://"+h.socket, capnweb.DialOptions{
		Main: rpc.Object{"take": take}, Peer: &rpc.Peer{Scopes: rpc.AllScopes},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.Call(t.Context(), "hub.provide", "safe", []any{"take"}, "", ""); err != nil {
		t.Fatal(err)
	}
	return v
}

// call calls a method of the reference.
func (v *holder) call(t *testing.T, r *rpc.Ref, method string, args ...any) error {
	t.Helper()
	var path []rpc.PathPart
	if method != "" {
		var err error
		if path, err = rpc.ParsePath(method); err != nil {
			t.Fatal(err)
		}
	}
	var list []rpc.Value
	for _, x := range args {
		a, err := rpc.Encode(x)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, a)
	}
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	_, err := rpc.Do(ctx, r.Target, &rpc.Call{Path: path, Args: rpc.ListArgs(list...)})
	return err
}

// A reference to the hub permits what the session may that has made it, whoever
// calls it: no more, no less, and no longer.
func TestReferencesActForTheirMaker(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken}})
	v := startHolder(t, h)
	token := h.token("weak", `,"scopes":["read","call"],"methods":["echo","safe.*","state.get","demo.*"]`)
	ws, resp, err := websocket.Dial(t.Context(), "ws://"+h.tcp+"/capnweb", &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	defer ws.CloseNow()
	c := &capnwebRaw{t: t, ws: ws}
	give := func(form string) *rpc.Ref {
		t.Helper()
		if got := c.ask(`["pipeline",0,["safe","take"],[` + form + `]]`); !strings.Contains(got, `"taken"`) {
			t.Fatalf("%s: %s", form, got)
		}
		return <-v.refs
	}
	var kept []*rpc.Ref
	for name, form := range hubReferences(c) {
		r := give(form)
		kept = append(kept, r)
		if err := v.call(t, r, "state.get", "k"); err != nil && !strings.Contains(err.Error(), "no such key") {
			t.Errorf("%s: state.get: %v", name, err)
		}
		for method, args := range map[string][]any{
			"state.put": {"k", 1}, "token.create": {"mine"}, "hub.provide": {"mine", []any{"f"}},
			"session.send": {"shell", map[string]any{"type": "input", "data": "x"}},
		} {
			if err := v.call(t, r, method, args...); err == nil || !strings.Contains(err.Error(), "not allowed") {
				t.Errorf("%s: %s: %v", name, method, err)
			}
		}
	}
	for form, method := range map[string]string{
		`["pipeline",0,["state"]]`: "put", `["pipeline",0,["state","put"]]`: "",
	} {
		if err := v.call(t, give(form), method, "k", 1); err == nil || !strings.Contains(err.Error(), "not allowed") {
			t.Errorf("%s: %v", form, err)
		}
	}
	// What one session has made of a method of another is that one's.
	counter := give(fmt.Sprintf(`["pipeline",%d]`, c.push(`["pipeline",0,["demo","counter"],[1]]`)))
	if err := v.call(t, counter, "increment", 1); err != nil {
		t.Errorf("the counter: %v", err)
	}
	h.revoke("weak")
	if err := v.call(t, counter, "increment", 1); err == nil {
		t.Error("the counter goes on after the token was revoked")
	}
	for _, r := range kept {
		if err := v.call(t, r, "demo.range", 1); err == nil || !strings.Contains(err.Error(), "revoked") && !strings.Contains(err.Error(), "gone") {
			t.Errorf("it goes on after the token was revoked: %v", err)
		}
	}
}

// A remote that is the hub itself is a loop over sockets, where no count of hops
// travels: its calls end with an error, others are served meanwhile.
func TestRemoteThatIsTheHubItself(t *testing.T) {
	t.Parallel()
	socket := t.TempDir() + "/h.sock"
	h := startHubAt(t, socket, Options{Demo: true, Remotes: []string{
		"a=unix://" + socket + "#a", "b=unix://" + socket + "#c", "c=unix://" + socket + "#b", "good=unix://" + socket + "#math",
	}})
	callers := map[string]*wire{}
	for _, method := range []string{"a.x", "b.x", "c.x"} {
		c := h.dial()
		c.send(fmt.Sprintf(`{"action":"rpc_request","request_id":"1","method":%q}`, method) + "\n")
		callers[method] = c
	}
	if got := h.dial().call("good.add", `[1,2]`); string(got.Result) != "3" {
		t.Errorf("good.add: %+v", got)
	}
	for method, c := range callers {
		if got := c.reply(); got.Error == nil || got.kind() == "internal" {
			t.Errorf("%s: %+v", method, got)
		}
	}
	if got := h.dial().call("ping", `{}`); got.Error != nil {
		t.Errorf("ping: %+v", got)
	}
}
