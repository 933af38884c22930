package hub

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
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

// Whatever object a subscription is opened through, it counts, and so does a
// watch that calls a function, until it is released.
func TestCapnwebSubscriptionsAreLimited(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Limits: Limits{SubscriptionsPerConnection: 2}})
	token := h.token("watcher", "")
	var watcher rpc.Target = rpc.TargetFunc(func(b *rpc.Batch, c *rpc.Call) { c.Finish(b, rpc.Value{}, nil) })
	for name, open := range map[string]func(main *capnweb.Stub) *capnweb.Stub{
		"main object": func(main *capnweb.Stub) *capnweb.Stub { return main.Call("state.watch", "k") },
		"authenticated": func(main *capnweb.Stub) *capnweb.Stub {
			return main.Call("authenticate", token).Call("state.watch", "k")
		},
		"service": func(main *capnweb.Stub) *capnweb.Stub { return main.Call("echo", main.Get("state")).Call("watch", "k") },
		"method": func(main *capnweb.Stub) *capnweb.Stub {
			return main.Call("echo", main.Get("state", "watch")).Call("", "k")
		},
		"function": func(main *capnweb.Stub) *capnweb.Stub { return main.Call("state.watch", "k", rpc.NewRef(watcher, nil)) },
		"function, service": func(main *capnweb.Stub) *capnweb.Stub {
			return main.Call("echo", main.Get("state")).Call("watch", "k", rpc.NewRef(watcher, nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := capnweb.Dial(t.Context(), "unix://"+h.socket, capnweb.DialOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			var held []*capnweb.Stub
			for range 2 {
				watch := open(c.Main())
				if _, err := watch.Value(t.Context()); err != nil {
					t.Fatal(err)
				}
				held = append(held, watch)
			}
			_, err = open(c.Main()).Value(t.Context())
			if e, ok := errors.AsType[*rpc.Error](err); !ok || e.Code != rpc.CodeOverloaded || e.Ran != rpc.RanNo {
				t.Errorf("a third watch: %v", err)
			}
			held[0].Release()
			eventually(t, "its place is free", func() bool {
				_, err := open(c.Main()).Value(t.Context())
				return err == nil
			})
		})
	}
}
