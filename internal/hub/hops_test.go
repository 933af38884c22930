package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
)

// relay is a Go client that provides a method at h which calls another one of
// the hub to, with the context of its handler.
func relay(t *testing.T, h *testHub, service string, to *testHub, calls string, rounds *atomic.Int64) {
	t.Helper()
	dial := func(h *testHub) *client.Client {
		c, err := client.Dial(t.Context(), h.socket, &client.Options{Repeat: -1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	c, other := dial(h), dial(to)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() { stop(); <-done })
	go func() {
		defer close(done)
		c.Provide(ctx, client.Service{Name: service, Methods: []client.Method{{
			Name: "f",
			Call: func(ctx context.Context, params json.RawMessage) (any, error) {
				rounds.Add(1)
				var out json.RawMessage
				err := other.Call(ctx, calls, params, &out)
				return out, err
			},
		}, {
			Name: "stream",
			Call: func(ctx context.Context, params json.RawMessage) (any, error) {
				rounds.Add(1)
				for _, err := range c.Stream(ctx, service+".stream", params) {
					return nil, err
				}
				return nil, nil
			},
		}}})
	}()
	eventually(t, service+" is offered", func() bool {
		w := h.dial()
		defer w.Close()
		return strings.Contains(string(w.call("hub.methods", fmt.Sprintf(`[%q]`, service)).Result), service+".f")
	})
}

// wantLoop calls method, which goes in a circle, and expects to be told so.
func wantLoop(t *testing.T, h *testHub, method string, rounds *atomic.Int64, want int64) {
	t.Helper()
	rounds.Store(0)
	w := h.dial()
	defer w.Close()
	if got := w.call(method, `{}`); got.kind() != "invalid_params" || !strings.Contains(*got.Error, "forwarding loop") {
		t.Errorf("%s: %+v", method, got)
	}
	if n := rounds.Load(); n != want {
		t.Errorf("%s: forwarded %d times, want %d", method, n, want)
	}
	if got := w.call("ping", `{}`); got.Error != nil {
		t.Errorf("ping: %+v", got)
	}
}

// A provider that calls itself through the hub, and two that call each other,
// are told so after MaxHops rounds: the context of the handler carries the count.
func TestLoopOfGoProvidersIsRefused(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{})
	var rounds atomic.Int64
	relay(t, h, "self", h, "self.f", &rounds)
	relay(t, h, "one", h, "two.f", &rounds)
	relay(t, h, "two", h, "one.f", &rounds)
	relay(t, h, "last", h, "hub.info", &rounds)
	for _, method := range []string{"self.f", "self.stream", "one.f", "two.f"} {
		wantLoop(t, h, method, &rounds, rpc.MaxHops)
	}
	if got := h.dial().call("last.f", `{}`); got.Error != nil { // a call that ends somewhere is none
		t.Errorf("last.f: %+v", got)
	}
}

// Any native peer may say how often a call was forwarded, but nothing else.
func TestNativeHops(t *testing.T) {
	socket := shortDir(t) + "/h.sock"
	h := startHubAt(t, socket, Options{Demo: true, Remotes: []string{"sums=unix://" + socket + "#math"}})
	var rounds atomic.Int64
	relay(t, h, "last", h, "hub.info", &rounds)
	w := h.dial()
	ask := func(method, hops string) reply {
		w.send(fmt.Sprintf(`{"action":"rpc_request","request_id":"1","method":%q,"hops":%s}`, method, hops) + "\n")
		return w.reply()
	}
	for _, hops := range []string{"0", "7", "null"} {
		if got := ask("last.f", hops); got.Error != nil {
			t.Errorf("hops %s: %+v", hops, got)
		}
	}
	refused := func(method string) {
		t.Helper()
		if got := ask(method, "8"); got.kind() != "invalid_params" || !strings.Contains(*got.Error, "forwarding loop") {
			t.Errorf("%s, forwarded 8 times: %+v", method, got)
		}
	}
	refused("last.f")
	refused("sums.add") // of another server, before and after its methods are known
	if got := w.call("sums.add", `[1,2]`); string(got.Result) != "3" {
		t.Errorf("sums.add: %+v", got)
	}
	refused("sums.add")
	if got := ask("ping", "8"); got.Error != nil { // that is not forwarded
		t.Errorf("ping: %+v", got)
	}
	for _, bad := range []string{"-1", "9", "1.0", "1e0", `"1"`, "true", "[]", "{}", "100000000000000000000", "NaN", "-0"} {
		if got := ask("ping", bad); got.kind() != "invalid_params" {
			t.Errorf("hops %s: %+v", bad, got)
		}
	}
}

// A kkrpc provider that sends the count of the call which it answers with its
// own calls.
func TestLoopOfKkrpcProviderIsRefused(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{})
	ws := dialKkrpc(t, h, "")
	say(t, ws, `{"t":"q","id":"p","op":"call","p":["hub","provide"],"a":["x",["f"]]}`)
	if got := hear(t, ws); got != `{"t":"r","id":"p","v":{"service":"x","methods":1}}` {
		t.Fatal(got)
	}
	w := h.dial()
	w.send(`{"action":"rpc_request","request_id":"1","method":"x.f"}` + "\n")
	for round := 1; round <= rpc.MaxHops; round++ {
		var q struct {
			T, ID string
			Meta  struct{ Hops int }
		}
		if got := hear(t, ws); json.Unmarshal([]byte(got), &q) != nil || q.T != "q" || q.Meta.Hops != round {
			t.Fatalf("round %d: %s", round, got)
		}
		say(t, ws, fmt.Sprintf(`{"t":"q","id":"%d","op":"call","p":["x","f"],"meta":{"hops":%d}}`, round, round))
		if round < rpc.MaxHops {
			continue
		}
		if got := hear(t, ws); !strings.Contains(got, "forwarding loop") {
			t.Fatal(got)
		}
		say(t, ws, fmt.Sprintf(`{"t":"r","id":%q,"e":{"n":"Error","m":"enough"}}`, q.ID))
		if got := hear(t, ws); !strings.Contains(got, "enough") { // the answer of the call before
			t.Fatal(got)
		}
	}
	for _, bad := range []string{"9", "-1", `"1"`} {
		say(t, ws, `{"t":"q","id":"b","op":"call","p":["ping"],"meta":{"hops":`+bad+`}}`)
		if got := hear(t, ws); !strings.Contains(got, "hops must be") {
			t.Errorf("hops %s: %s", bad, got)
		}
	}
	ws.CloseNow() // the calls in between are not answered any more
	if got := w.reply(); got.kind() != "unavailable" {
		t.Errorf("%+v", got)
	}
	if got := h.dial().call("ping", `{}`); got.Error != nil {
		t.Errorf("ping: %+v", got)
	}
}

// Two hubs with remotes to each other, and programs that close the circle. A
// remote has no place for the count, so its connections bound the loop: callers
// get an error, both hubs serve on.
func TestRemotesThatPointAtEachOther(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	one, two := dir+"/1/h.sock", dir+"/2/h.sock"
	for _, socket := range []string{one, two} {
		if err := os.Mkdir(filepath.Dir(socket), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	remotes := func(socket string) []string {
		return []string{"far=unix://" + socket + "#near", "mount=unix://" + socket + "#mount", "sums=unix://" + socket + "#math"}
	}
	first := startHubAt(t, one, Options{Demo: true, Remotes: remotes(two)})
	second := startHubAt(t, two, Options{Demo: true, Remotes: remotes(one)})
	var rounds atomic.Int64
	relay(t, first, "near", first, "far.f", &rounds)
	relay(t, second, "near", second, "far.f", &rounds)
	for _, h := range []*testHub{first, second} {
		callers := map[string]*wire{}
		for _, method := range []string{"far.f", "mount.f"} {
			callers[method] = h.dial()
			callers[method].send(fmt.Sprintf(`{"action":"rpc_request","request_id":"1","method":%q}`, method) + "\n")
		}
		if got := h.dial().call("math.add", `[1,2]`); string(got.Result) != "3" {
			t.Errorf("math.add: %+v", got)
		}
		for method, w := range callers {
			if got := w.reply(); got.Error == nil || got.kind() == "internal" {
				t.Errorf("%s: %+v", method, got)
			}
		}
	}
	if n := rounds.Load(); n < 2 {
		t.Errorf("%d rounds: there was no loop", n)
	}
	for _, h := range []*testHub{first, second} {
		if got := h.dial().call("sums.add", `[1,2]`); string(got.Result) != "3" {
			t.Errorf("sums.add: %+v", got)
		}
	}
}
