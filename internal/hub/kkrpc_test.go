package hub

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// dialKkrpc opens a WebSocket at /kkrpc over the hub's Unix socket.
func dialKkrpc(t *testing.T, h *testHub, query string) *websocket.Conn {
	t.Helper()
	ws, resp, err := websocket.Dial(t.Context(), "ws://hub/kkrpc"+query, &websocket.DialOptions{HTTPClient: overUnix(h)})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	t.Cleanup(func() { ws.CloseNow() })
	return ws
}

func say(t *testing.T, ws *websocket.Conn, messages ...string) {
	t.Helper()
	for _, m := range messages {
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(m)); err != nil {
			t.Fatal(err)
		}
	}
}

func hear(t *testing.T, ws *websocket.Conn) string {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	_, got, err := ws.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

// Both dialects share the method table and the state with everybody else, on
// one WebSocket of the same socket, each with its own rules about line feeds.
func TestKkrpcOverWebSocket(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	ws := dialKkrpc(t, h, "")
	for _, c := range []struct{ say, hear string }{
		{`{"id":"1","method":"math.add","args":[1,2,3],"type":"request","version":"json"}` + "\n",
			`{"id":"1","method":"","args":{"result":6},"type":"response","version":"json"}` + "\n"},
		{`{"t":"q","id":"2","op":"call","p":["math","add"],"a":[{"__kkrpc_next_arg__":"value","v":40},2]}`,
			`{"t":"r","id":"2","v":42}`},
		{`{"id":"3","method":"","args":{},"type":"set","path":["state","theme"],"value":"därk","version":"json"}`,
			`{"id":"3","method":"","args":{"result":true},"type":"response","version":"json"}` + "\n"},
		{`{"t":"q","id":"4","op":"get","p":["state","theme"]}`, `{"t":"r","id":"4","v":"därk"}`},
		{`{"t":"q","id":"5","op":"get","p":["state","nothing"]}`, `{"t":"r","id":"5"}`},
	} {
		say(t, ws, c.say)
		if got := hear(t, ws); got != c.hear {
			t.Errorf("%s\n got %s\nwant %s", c.say, got, c.hear)
		}
	}
	if r := h.dial().call("state.get", `{"key":"theme"}`); !strings.Contains(string(r.Result), `"value":"därk"`) {
		t.Errorf("a native client reads %s", r.Result)
	}
	if n := h.sample(`hubd_connections{protocol="kkrpc",transport="unix"}`); n != "1" {
		t.Errorf("connections: %s, want 1", n)
	}
	if n := h.sample(`hubd_calls_total{code="ok",method="state.put",protocol="kkrpc"}`); n != "1" {
		t.Errorf("a set counts as a call of state.put: %q", n)
	}
	say(t, ws, "nonsense\n", "[1]\n", `{"id":"6","method":"echo","args":["on"],"type":"request"}`)
	if got := hear(t, ws); !strings.Contains(got, `"result":"on"`) {
		t.Errorf("after bad messages: %s", got)
	}
	for _, reason := range []string{"bad_json", "unknown_message"} {
		if n := h.sample(`hubd_failed_frames_total{protocol="kkrpc",reason="` + reason + `"}`); n != "1" {
			t.Errorf("%s: %q, want 1", reason, n)
		}
	}
}

// When the hub stops, whoever waits is told: old clients would wait for ever.
func TestKkrpcShutdownAnswersWhoWaits(t *testing.T) {
	h := startHub(t, Options{Demo: true, Limits: Limits{Drain: time.Millisecond}})
	ws := dialKkrpc(t, h, "")
	say(t, ws, `{"id":"1","method":"demo.sleep","args":[3600],"type":"request"}`)
	eventually(t, "the call runs", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kkrpc"}`) == "1" })
	stopped := make(chan error, 1)
	go func() { stopped <- h.stop() }()
	if got := hear(t, ws); !strings.Contains(got, `"name":"Unavailable"`) {
		t.Errorf("got %s", got)
	}
	if _, _, err := ws.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("the session ended with %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A listener for kkrpc alone takes lines, and answers in ASCII.
func TestKkrpcOverLines(t *testing.T) {
	path := filepath.Join(shortDir(t), "k.sock")
	h := startHub(t, Options{Demo: true, Listen: []string{"unix://" + path + "?protocols=kkrpc"}})
	w := dial(t, "unix", path)
	w.send(`{"id":"1","method":"echo","args":["grüße 😀"],"type":"request","version":"json"}` + "\r\n\n")
	if got, want := w.line(), `{"id":"1","method":"","args":{"result":"gr\u00fc\u00dfe \ud83d\ude00"},"type":"response","version":"json"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	w.send(`{"t":"q","id":"2","op":"call","p":["demo","callback"],"a":[{"__kkrpc_next_arg__":"callback","id":"f"},2]}` + "\n")
	for _, want := range []string{
		`{"t":"cb","id":"f","a":[0]}`, `{"t":"cb","id":"f","a":[1]}`, `{"t":"cbr","ids":["f"]}`, `{"t":"r","id":"2","v":2}`,
	} {
		if got := w.line(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if n := h.sample(`hubd_connections{protocol="kkrpc",transport="unix"}`); n != "1" {
		t.Errorf("connections: %s, want 1", n)
	}
	w.send("__DESTROY__\n")
	if err := w.ended(); err != nil {
		t.Error(err)
	}
}
