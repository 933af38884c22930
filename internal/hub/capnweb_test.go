package hub

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// overUnix is an HTTP client whose connections all go to the hub's socket.
func overUnix(h *testHub) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", h.socket)
		},
	}}
}

// The method table is the main object of a WebSocket session, on the same
// socket as everything else, and the session ends with the hub.
func TestCapnwebOverUnixSocket(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	ws, resp, err := websocket.Dial(t.Context(), "ws://hub/capnweb", &websocket.DialOptions{HTTPClient: overUnix(h)})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	defer ws.CloseNow()
	for _, m := range []string{`["push",["pipeline",0,["math","add"],[40,2]]]`, `["pull",1]`} {
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	_, got, err := ws.Read(t.Context())
	if err != nil || string(got) != `["resolve",1,42]` {
		t.Fatalf("%s, %v", got, err)
	}
	if n := h.sample(`hubd_connections{protocol="capnweb",transport="unix"}`); n != "1" {
		t.Errorf("connections: %s, want 1", n)
	}
	if err := ws.Write(t.Context(), websocket.MessageText, []byte(`["nonsense"]`)); err != nil {
		t.Fatal(err)
	}
	if _, got, err = ws.Read(t.Context()); err != nil || !strings.HasPrefix(string(got), `["abort",`) {
		t.Errorf("%s, %v", got, err)
	}
	eventually(t, "the failure is counted", func() bool {
		return h.sample(`hubd_failed_frames_total{protocol="capnweb",reason="protocol_error"}`) == "1"
	})

	idle, resp, err := websocket.Dial(t.Context(), "ws://hub/capnweb", &websocket.DialOptions{HTTPClient: overUnix(h)})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	defer idle.CloseNow()
	closed := make(chan error, 1)
	go func() {
		_, _, err := idle.Read(context.Background())
		closed <- err
	}()
	if err := h.stop(); err != nil {
		t.Error(err)
	}
	if err := <-closed; websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("the session ended with %v", err)
	}
}

// A batch is one request, and a malformed one is refused as a whole.
func TestCapnwebBatch(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	post := func(body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://hub/capnweb", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := overUnix(h).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	code, body := post("[\"push\",[\"pipeline\",0,[\"echo\"],[\"x\"]]]\n[\"pull\",1]")
	if code != http.StatusOK || body != `["resolve",1,"x"]` {
		t.Errorf("%d %s", code, body)
	}
	if code, body = post("nonsense"); code != http.StatusBadRequest {
		t.Errorf("%d %s", code, body)
	}
}
