package hub

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/client"
)

// A client that says goodbye, each in the way of its protocol, takes its
// ephemeral keys along at once; one that is cut off does not.
func TestGoodbyeTakesEphemeralKeysAtOnce(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Limits: Limits{EphemeralGrace: time.Hour}})
	asks, watches := h.dial(), h.dial()
	watches.watch("p/")

	cut := h.dial()
	cut.hello("cut")
	cut.appear("p/cut")
	h.leave(cut)

	says := h.dial()
	says.hello("says")
	says.appear("p/says")
	says.send(`{"action":"goodbye"}` + "\n")
	watches.expired("p/says")
	if err := says.ended(); err != nil {
		t.Errorf("after goodbye: %v", err)
	}

	detaches := h.dial()
	detaches.hello("detaches")
	detaches.appear("p/detaches")
	detaches.send(`{"action":"attach"}` + "\n" + `{"type":"detach"}` + "\n")
	watches.expired("p/detaches")

	c, err := client.Dial(t.Context(), h.socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Call(t.Context(), "state.put", map[string]any{"key": "p/go", "value": 1, "ephemeral": true}, nil); err != nil {
		t.Fatal(err)
	}
	c.Close()
	watches.expired("p/go")

	for path, put := range map[string]string{
		"/capnweb": `["push",["pipeline",0,["state","put"],["p/capnweb",1,["undefined"],["undefined"],true]]]`,
		"/kkrpc":   `{"id":"1","method":"state.put","args":["p/kkrpc",1,null,null,true],"type":"request","version":"json"}`,
	} {
		key := "p" + path
		ws, resp, err := websocket.Dial(t.Context(), "ws://hub"+path, &websocket.DialOptions{HTTPClient: overUnix(h)})
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body != nil {
			resp.Body.Close()
		}
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(put)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the key of "+path+" is there", func() bool { return asks.present(key) })
		ws.Close(websocket.StatusGoingAway, "") // as a browser does for a tab that is closed
		watches.expired(key)
	}
	if !asks.present("p/cut") {
		t.Error("the key of a client that was cut off has gone with the others")
	}
}

// hub.peers shows what clients call themselves, and nothing that a terminal
// would take for a command.
func TestPeersShowNameAndIdentity(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{})
	c, err := client.Dial(t.Context(), h.socket, &client.Options{Name: "ci\x1b[31m", Identity: "runner-7"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var list []struct {
		Protocol, Name, Identity string
	}
	if err := c.Call(t.Context(), "hub.peers", nil, &list); err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if p.Identity == "runner-7" {
			if !strings.HasPrefix(p.Name, "ci") || strings.ContainsRune(p.Name, 0x1b) {
				t.Errorf("the name is %q", p.Name)
			}
			return
		}
	}
	t.Errorf("nobody is runner-7: %+v", list)
}

// The client knows of each method of the hub whether it only reads.
func TestClientKnowsWhichMethodsRead(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{FileRoot: shortDir(t)})
	c, err := client.Dial(t.Context(), h.socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var methods []struct{ Name, Scope string }
	if err := c.Call(t.Context(), "hub.methods", nil, &methods); err != nil || len(methods) == 0 {
		t.Fatal(err)
	}
	for _, m := range methods {
		if m.Name == "authenticate" { // it changes who its caller is
			continue
		}
		if got := client.ReadsOnly(m.Name); got != (m.Scope == "read") {
			t.Errorf("%s has the scope %s; client/reads.go takes it for reading: %v", m.Name, m.Scope, got)
		}
	}
}

// An idle client, which calls nothing, keeps its ephemeral keys and its methods
// over a restart of the hub.
func TestIdleClientSurvivesARestart(t *testing.T) {
	t.Parallel()
	state := shortDir(t)
	o := Options{State: state, Limits: Limits{EphemeralGrace: 3 * time.Second}}
	h := startHub(t, o)
	c, err := client.Dial(t.Context(), h.socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Call(t.Context(), "state.put", map[string]any{"key": "p/idle", "value": 1, "ephemeral": true}, nil); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- c.Provide(ctx, client.Service{Name: "idle", Methods: []client.Method{{
			Name: "hello", Call: func(context.Context, json.RawMessage) (any, error) { return "hello", nil },
		}}})
	}()
	defer func() { stop(); <-done }()
	eventually(t, "the method is offered", func() bool {
		w := h.dial()
		defer w.Close()
		return w.call("idle.hello", `[]`).Error == nil
	})
	socket := h.socket
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	again := startHubAt(t, socket, o)
	asks, watches := again.dial(), again.dial()
	watches.watch("p/")
	eventually(t, "the method is offered again", func() bool { return asks.call("idle.hello", `[]`).Error == nil })
	other := again.dial()
	other.appear("p/other")
	again.leave(other)
	watches.expired("p/other") // by then the key of a client that is away would be gone, too
	if !asks.present("p/idle") {
		t.Error("the key of the idle client is gone")
	}
}
