package hub

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// hello greets under an identity and waits for the answer.
func (w *wire) hello(identity string) {
	w.t.Helper()
	w.send(fmt.Sprintf(`{"action":"hello","version":1,"identity":%q}`+"\n", identity))
	if line := w.line(); !strings.Contains(line, `"type":"hello"`) {
		w.t.Fatalf("answer to hello: %s", line)
	}
}

// appear puts an ephemeral key.
func (w *wire) appear(key string) {
	w.t.Helper()
	if r := w.call("state.put", fmt.Sprintf(`{"key":%q,"value":1,"ephemeral":true}`, key)); r.Error != nil {
		w.t.Fatalf("put %s: %s", key, *r.Error)
	}
}

// present reports whether a key is there.
func (w *wire) present(key string) bool {
	w.t.Helper()
	r := w.call("state.get", fmt.Sprintf(`{"key":%q}`, key))
	if r.Error != nil && r.kind() != "not_found" {
		w.t.Fatalf("get %s: %s", key, *r.Error)
	}
	return r.Error == nil
}

// watch follows a prefix from now on.
func (w *wire) watch(prefix string) {
	w.t.Helper()
	w.send(fmt.Sprintf(`{"action":"rpc_request","request_id":"w","method":"state.watch","params":{"prefix":%q,"snapshot":false},"stream":true,"credit":1000}`+"\n", prefix))
	for !strings.Contains(w.line(), `"synced"`) {
	}
}

// expired waits for the expiry of a key, whatever else happens before.
func (w *wire) expired(key string) {
	w.t.Helper()
	for {
		line := w.line()
		if strings.Contains(line, `"type":"expire"`) && strings.Contains(line, fmt.Sprintf(`"key":%q`, key)) {
			return
		}
	}
}

// leave closes a connection and waits until the hub has noticed.
func (h *testHub) leave(w *wire) {
	h.t.Helper()
	const open = `hubd_connections{protocol="kollabor",transport="unix"}`
	before := h.sample(open)
	w.Close()
	eventually(h.t, "the hub notices the end of a connection", func() bool { return h.sample(open) != before })
}

func TestEphemeralKeysOfAReturningClient(t *testing.T) {
	t.Parallel()
	const grace = 3 * time.Second // also for a busy machine to come back in
	h := startHub(t, Options{Limits: Limits{EphemeralGrace: grace}})
	asks, watches := h.dial(), h.dial()
	watches.watch("p/")

	named, nameless, twice, twin := h.dial(), h.dial(), h.dial(), h.dial()
	named.hello("laptop")
	twice.hello("phone")
	twin.hello("phone")
	named.appear("p/laptop")
	nameless.appear("p/nameless")
	twice.appear("p/phone")

	// One client comes back within the grace time, and says no more than hello.
	// Another one has two connections and loses that which put its key.
	h.leave(named)
	again := h.dial()
	again.hello("laptop")
	h.leave(twice)

	// This one leaves later and does not come back: when its key has expired, the
	// others would have been gone for longer.
	h.leave(nameless)
	watches.expired("p/nameless")
	if !asks.present("p/laptop") {
		t.Error("the key of the client that came back is gone")
	}
	if !asks.present("p/phone") {
		t.Error("the key of a client that still has a connection is gone")
	}

	h.leave(again)
	h.leave(twin)
	watches.expired("p/laptop")
	watches.expired("p/phone")
}

// Without a user id anybody could say the name of another: the connection
// itself is the owner then. The same holds for protocols without identities.
func TestEphemeralKeysWithoutIdentity(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Listen: []string{"tcp://127.0.0.1:0?auth=none"}, Limits: Limits{EphemeralGrace: time.Millisecond}})
	watches := h.dial()
	watches.watch("p/")

	victim, stranger := dial(t, "tcp", h.tcp), dial(t, "tcp", h.tcp)
	victim.hello("laptop")
	stranger.hello("laptop")
	victim.appear("p/victim")
	stranger.appear("p/stranger")
	victim.Close()
	watches.expired("p/victim")
	if !stranger.present("p/stranger") {
		t.Error("the key of another connection went with it")
	}

	ws, resp, err := websocket.Dial(t.Context(), "ws://hub/capnweb", &websocket.DialOptions{HTTPClient: overUnix(h)})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	defer ws.CloseNow()
	for _, m := range []string{`["push",["pipeline",0,["state","put"],["p/page",1,["undefined"],["undefined"],true]]]`, `["pull",1]`} {
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	if _, got, err := ws.Read(t.Context()); err != nil || !strings.HasPrefix(string(got), `["resolve",1,`) {
		t.Fatalf("%s, %v", got, err)
	}
	if !stranger.present("p/page") {
		t.Error("the key of the page is not there while the page is")
	}
	ws.CloseNow()
	watches.expired("p/page")
	stranger.Close()
	watches.expired("p/stranger")
}

func TestOwnerNames(t *testing.T) {
	for _, c := range []struct {
		peer     *rpc.Peer
		identity string
		want     string
	}{
		{&rpc.Peer{UID: 1000}, "laptop", "uid:1000:laptop"},
		{&rpc.Peer{UID: 0}, "1000:laptop", "uid:0:1000:laptop"},
		{&rpc.Peer{UID: -1, Name: "ci"}, "laptop", `name:"ci":laptop`},
		{&rpc.Peer{UID: -1, Name: `ci":x`}, "laptop", `name:"ci\":x":laptop`},
		{&rpc.Peer{UID: -1}, "laptop", ""},
		{&rpc.Peer{UID: 1000, Unauthenticated: true}, "laptop", ""},
		{nil, "laptop", ""},
		{&rpc.Peer{UID: 1000}, "", ""},
		{&rpc.Peer{UID: 1000}, strings.Repeat("x", maxIdentity+1), ""},
		{&rpc.Peer{UID: 1000}, "\xff", ""},
	} {
		if got := ownerName(c.peer, c.identity); got != c.want {
			t.Errorf("ownerName(%+v, %q) = %q, want %q", c.peer, c.identity, got, c.want)
		}
	}
}
