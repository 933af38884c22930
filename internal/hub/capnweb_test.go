package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
	"github.com/hubd-dev/hubd/internal/testkit"
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

// A client that ends its sending side behind a batch gets the answer.
func TestCapnwebBatchOfHalfClosedClient(t *testing.T) {
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}})
	body := "[\"push\",[\"pipeline\",0,[\"demo\",\"sleep\"],[0.3]]]\n[\"pull\",1]"
	for network, address := range map[string]string{"unix": h.socket, "tcp": h.tcp} {
		c := dial(t, network, address)
		c.send(fmt.Sprintf("POST /capnweb HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", h.tcp, len(body), body))
		if err := c.Conn.(testkit.Conn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || string(text) != `["resolve",1,0.3]` {
			t.Errorf("%s: %d %q, %v", network, resp.StatusCode, text, err)
		}
	}
	// One that is gone for good is not waited for.
	c := dial(t, "unix", h.socket)
	body = strings.Replace(body, "0.3", "3600", 1)
	c.send(fmt.Sprintf("POST /capnweb HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	sleeping := func() bool { return strings.Contains(string(h.result("hub.calls", `{}`)), "demo.sleep") }
	eventually(t, "the call runs", sleeping)
	c.Close()
	eventually(t, "the call is cancelled", func() bool { return !sleeping() })
}

// An invalid date has no value that the state could give back.
func TestStateRefusesInvalidDates(t *testing.T) {
	h := startHub(t, Options{})
	c := dialCapnwebRaw(t, h)
	for _, v := range []string{`["date",null]`, `{"a":[["x",["date",null]]]}`, `[[["date",null]]]`} {
		if got := c.ask(`["pipeline",0,["state","put"],["k",` + v + `]]`); !strings.Contains(got, "an invalid date cannot be stored") {
			t.Errorf("%s: %s", v, got)
		}
	}
	if got := h.dial().call("state.get", `["k"]`); got.kind() != "not_found" {
		t.Errorf("stored: %+v", got)
	}
	if got := c.ask(`["pipeline",0,["state","put"],["k",["date",0]]]`); !strings.HasPrefix(got, `["resolve"`) {
		t.Errorf("a date: %s", got)
	}
}

// The bounds of the items in another client's stream are kept, whatever their size.
func TestForwardedStreamKeepsItems(t *testing.T) {
	h := startHub(t, Options{})
	sizes := []int{200 << 10, 1, 64<<10 + 1, 3 << 20, 0}
	blocks := rpc.HandleStream("blocks", func(_ context.Context, _ struct{}, send func(rpc.Value) error) error {
		for _, n := range sizes {
			if err := send(rpc.TreeValue(rpc.Bytes{Data: make([]byte, n)})); err != nil {
				return err
			}
		}
		return nil
	})
	p, err := capnweb.Dial(t.Context(), "unix://"+h.socket, capnweb.DialOptions{
		Main: rpc.Object{"blocks": blocks}, Peer: &rpc.Peer{Scopes: rpc.AllScopes},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Call(t.Context(), "hub.provide", "disk", []any{"blocks"}, "", ""); err != nil {
		t.Fatal(err)
	}
	c, err := capnweb.Dial(t.Context(), "unix://"+h.socket, capnweb.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	v, err := c.Call(t.Context(), "disk.blocks")
	if err != nil {
		t.Fatal(err)
	}
	r, err := v.AsReader()
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for {
		item, ok, err := r.Recv(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		data, err := item.AsBytes()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, len(data))
	}
	if !slices.Equal(got, sizes) {
		t.Errorf("items of %d, want %d", got, sizes)
	}
}

// A hub that stops says so at the end of each stream and to each call, also
// behind more items than the client has taken.
func TestShutdownEndsCapnwebStreams(t *testing.T) {
	h := startHub(t, Options{Demo: true, Limits: Limits{Drain: 50 * time.Millisecond}})
	c := dialCapnwebRaw(t, h)
	watch := c.ask(`["pipeline",0,["state","watch"],["key"]]`)
	if !strings.Contains(watch, `"readable"`) {
		t.Fatal(watch)
	}
	count := c.ask(`["pipeline",0,["demo","count"],[100000000]]`) // nothing of it is acknowledged
	if !strings.Contains(count, `"readable"`) {
		t.Fatal(count)
	}
	waiting := c.push(`["pipeline",0,["demo","sleep"],[3600]]`)
	say(t, c.ws, fmt.Sprintf(`["pull",%d]`, waiting))
	eventually(t, "the call runs", func() bool { return strings.Contains(string(h.result("hub.calls", `{}`)), "demo.sleep") })
	go h.stop()
	var ends, answers int
	for {
		_, got, err := c.ws.Read(t.Context())
		if err != nil {
			if websocket.CloseStatus(err) != websocket.StatusGoingAway {
				t.Errorf("ended with %v", err)
			}
			break
		}
		said := strings.Contains(string(got), `"code":"unavailable"`) && strings.Contains(string(got), `"ran":"unknown"`)
		switch text := string(got); {
		case strings.Contains(text, `["abort"]`) && said:
			ends++
		case strings.HasPrefix(text, fmt.Sprintf(`["reject",%d,`, waiting)) && said:
			answers++
		}
	}
	if ends != 2 || answers != 1 {
		t.Errorf("%d streams and %d calls were told, want 2 and 1", ends, answers)
	}
}
