package capnweb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb/capnwebtest"
)

// startServer serves the demo table on a Unix socket.
func startServer(t testing.TB, change func(*Config)) (sv *Server, socket string, demo *capnwebtest.Demo) {
	t.Helper()
	demo = capnwebtest.New()
	conf := Config{Table: demo.Table}
	if change != nil {
		change(&conf)
	}
	sv = New(conf)
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/capnweb", sv)
	hs := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go hs.Serve(l) // ends with Close
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
		defer stop()
		if err := sv.Close(ctx); err != nil {
			t.Error(err)
		}
		hs.Close()
	})
	return sv, socket, demo
}

func dial(t testing.TB, socket string, opt DialOptions) *Client {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	c, err := Dial(ctx, "unix://"+socket, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func wantJSON(t *testing.T, v rpc.Value, err error, want string) {
	t.Helper()
	if err != nil {
		t.Errorf("error %v, want %s", err, want)
		return
	}
	if text, err := v.JSON(); err != nil || string(text) != want {
		t.Errorf("got %s (%v), want %s", text, err, want)
	}
}

func TestClient(t *testing.T) {
	_, socket, demo := startServer(t, nil)
	own := capnwebtest.New()
	peer := &rpc.Peer{Scopes: rpc.AllScopes}
	c := dial(t, socket, DialOptions{Main: NewMain(own.Table, peer).Target, Peer: peer})
	ctx := t.Context()

	v, err := c.Call(ctx, "math.add", 1, 2)
	wantJSON(t, v, err, `3`)
	v, err = c.Call(ctx, "echo", map[string]any{"a": []int{1, 2}})
	wantJSON(t, v, err, `{"a":[1,2]}`)
	v, err = c.Call(ctx, "demo.callClient", "math.add", 20, 22)
	wantJSON(t, v, err, `42`)
	_, err = c.Call(ctx, "demo.conflict")
	if e, ok := errors.AsType[*rpc.Error](err); !ok || e.Code != rpc.CodeConflict || e.Ran != rpc.RanNo {
		t.Errorf("error %#v", err)
	}

	// One round trip: nothing is awaited before the end.
	user := c.Main().Call("demo.authenticate", "cookie-123")
	v, err = c.Main().Call("demo.getUserProfile", user.Get("id")).Value(ctx)
	wantJSON(t, v, err, `{"id":"u_1","bio":"Mathematician & first programmer"}`)
	user.Release()
	counter := c.Main().Call("demo.counter", 5)
	v, err = counter.Call("increment", 2).Value(ctx)
	wantJSON(t, v, err, `7`)
	if _, err = counter.Value(ctx); err != nil {
		t.Fatal(err)
	}
	v, err = counter.Call("increment").Value(ctx) // after it has arrived
	wantJSON(t, v, err, `8`)
	v, err = c.Main().Call("demo.useCounter", counter, 2).Value(ctx)
	wantJSON(t, v, err, `10`)
	counter.Release()
	eventually(t, "counter is released", func() bool { return demo.Counters.Load() == 0 })

	// A function of ours is called, and released.
	var seen []string
	released := make(chan struct{})
	fn := rpc.NewRef(rpc.TargetFunc(func(b *rpc.Batch, call *rpc.Call) {
		text, _ := call.Args.First().JSON()
		seen = append(seen, string(text))
		call.Finish(b, rpc.Value{}, nil)
	}), func() { close(released) })
	v, err = c.Call(ctx, "demo.callback", fn, 3)
	wantJSON(t, v, err, `3`)
	fn.Release()
	select {
	case <-released:
	case <-time.After(10 * time.Second):
		t.Fatal("the function was not released")
	}
	if strings.Join(seen, "") != "012" {
		t.Errorf("called with %q", seen)
	}

	// Streams both ways.
	v, err = c.Call(ctx, "demo.sum", rpc.Items(rpc.Int(1), rpc.Int(2), rpc.Int(39)))
	wantJSON(t, v, err, `42`)
	st := c.Main().Call("demo.count", 5000)
	v, err = st.Value(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r, err := v.AsReader()
	if err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for item, err := range r.All(ctx) {
		if i, ierr := item.AsInt(); err != nil || ierr != nil || i != n {
			t.Fatalf("item %d: %v, %v", n, err, ierr)
		}
		n++
	}
	if n != 5000 {
		t.Errorf("%d items", n)
	}
	st.Release()
	eventually(t, "tables are empty", func() bool {
		ex, im := c.Session().Entries()
		return ex == 0 && im == 0
	})
}

// A result that was given up says so to everybody who waits for it or uses it.
func TestReleasedResultsAreNotWaitedFor(t *testing.T) {
	_, socket, demo := startServer(t, nil)
	c := dial(t, socket, DialOptions{})
	wantReleased := func(what string, st *Stub) {
		t.Helper()
		if _, err := st.Value(t.Context()); !errors.Is(err, errReleased) || err.Error() != errReleased.Error() {
			t.Errorf("%s: %v", what, err)
		}
	}
	pending := c.Main().Call("demo.sleep", 1000)
	waits := make(chan error, 1)
	go func() {
		_, err := pending.Value(t.Context())
		waits <- err
	}()
	eventually(t, "call runs", func() bool { return demo.Running.Load() == 1 })
	pending.Release()
	if err := <-waits; !errors.Is(err, errReleased) {
		t.Errorf("who was waiting: %v", err)
	}
	wantReleased("its value", pending)
	wantReleased("a call of it", pending.Call("increment", 1))
	wantReleased("a part of it", pending.Get("id"))
	wantReleased("a call of a part of it", pending.Get("id").Call("f"))
	wantReleased("as an argument", c.Main().Call("echo", pending))
	wantReleased("a part as an argument", c.Main().Call("echo", pending.Get("id")))
	pending.Release() // once more does nothing
	eventually(t, "call ends", func() bool { return demo.Running.Load() == 0 })

	counter := c.Main().Call("demo.counter", 5)
	if _, err := counter.Value(t.Context()); err != nil {
		t.Fatal(err)
	}
	counter.Release()
	wantReleased("after it has arrived", counter.Call("increment", 1))
	eventually(t, "counter is released", func() bool { return demo.Counters.Load() == 0 })

	// What has failed fails the calls that need it, which are not made.
	bad := c.Main().Call("demo.fail", "on purpose")
	if _, err := bad.Value(t.Context()); err == nil {
		t.Fatal("no error")
	}
	if _, err := c.Main().Call("echo", bad).Value(t.Context()); err == nil || !strings.HasSuffix(err.Error(), "on purpose") {
		t.Errorf("a failed result as an argument: %v", err)
	}
	v, err := c.Call(t.Context(), "echo", 1)
	wantJSON(t, v, err, `1`)
}

func TestClientCancelReachesTheServer(t *testing.T) {
	_, socket, demo := startServer(t, nil)
	c := dial(t, socket, DialOptions{})
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		eventually(t, "call runs", func() bool { return demo.Running.Load() == 1 })
		stop()
	}()
	if _, err := c.Call(ctx, "demo.sleep", 1000); err == nil {
		t.Error("no error")
	}
	eventually(t, "call ends", func() bool { return demo.Running.Load() == 0 })
}

func TestServerCloseBreaksClients(t *testing.T) {
	sv, socket, demo := startServer(t, nil)
	c := dial(t, socket, DialOptions{})
	st := c.Main().Call("demo.sleep", 1000)
	eventually(t, "call runs", func() bool { return demo.Running.Load() == 1 })
	go sv.Close(context.Background()) // returns when the session is gone
	if _, err := st.Value(t.Context()); !errors.Is(err, &rpc.Error{Code: rpc.CodeUnavailable}) {
		t.Errorf("error %v", err)
	}
	<-c.Done()
	eventually(t, "call ends", func() bool { return demo.Running.Load() == 0 })
}

// TestCapabilityPassesBetweenSessions gives a function of one client to another.
func TestCapabilityPassesBetweenSessions(t *testing.T) {
	_, socket, demo := startServer(t, nil)
	var shelf *rpc.Ref
	demo.Table.MustAdd(
		rpc.Handle("shelf.put", func(_ context.Context, in struct {
			Fn *rpc.Ref `rpc:"fn"`
		}) (struct{}, error) {
			shelf = in.Fn.Retain()
			return struct{}{}, nil
		}, rpc.In(rpc.Inline)),
		rpc.Handle("shelf.take", func(context.Context, struct{}) (*rpc.Ref, error) { return shelf.Retain(), nil }, rpc.In(rpc.Inline)),
	)
	a, b := dial(t, socket, DialOptions{}), dial(t, socket, DialOptions{})
	fn := rpc.NewRef(rpc.TargetFunc(func(b *rpc.Batch, c *rpc.Call) {
		v, err := rpc.Add(c.Args.First(), rpc.Int(1))
		c.Finish(b, v, err)
	}), nil)
	if _, err := a.Call(t.Context(), "shelf.put", fn); err != nil {
		t.Fatal(err)
	}
	st := b.Main().Call("shelf.take")
	v, err := st.Call("", 41).Value(t.Context())
	wantJSON(t, v, err, `42`)
	a.Close()
	eventually(t, "the owner is gone", func() bool {
		_, err := st.Call("", 41).Value(t.Context())
		return errors.Is(err, &rpc.Error{Code: rpc.CodeUnavailable})
	})
	st.Release()
	shelf.Release()

	// An object of the hub outlives the connection that it was first given to.
	first := dial(t, socket, DialOptions{})
	counter := first.Main().Call("demo.counter", 40)
	if _, err := first.Main().Call("shelf.put", counter).Value(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept := b.Main().Call("shelf.take")
	first.Close()
	v, err = kept.Call("increment", 2).Value(t.Context())
	wantJSON(t, v, err, `42`)
	kept.Release()
	shelf.Release()
	eventually(t, "the counter is released", func() bool { return demo.Counters.Load() == 0 })
}

func post(t *testing.T, sv *Server, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	sv.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/capnweb", strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func TestBatch(t *testing.T) {
	demo := capnwebtest.New()
	sv := New(Config{Table: demo.Table, BatchWait: 50 * time.Millisecond, Limits: Limits{MaxMessage: 1 << 16}})
	for _, c := range []struct {
		name, body string
		code       int
		want       string
	}{
		{"empty", "", 200, ""},
		{"one", "[\"push\",[\"pipeline\",0,[\"echo\"],[[[1]]]]]\n[\"pull\",1]", 200, `["resolve",1,[[1]]]`},
		{"blank lines", "\n[\"push\",5]\r\n\n[\"pull\",1]\n", 200, `["resolve",1,5]`},
		{"byte order mark", "\ufeff[\"push\",5]\n[\"pull\",1]\n", 200, `["resolve",1,5]`},
		{"no pull", `["push",["pipeline",0,["echo"],[1]]]`, 200, ""},
		{"stream is an array", "[\"push\",[\"pipeline\",0,[\"demo\",\"count\"],[3]]]\n[\"pull\",1]", 200, `["resolve",1,[[0,1,2]]]`},
		{"endless stream", "[\"push\",[\"pipeline\",0,[\"demo\",\"forever\"],[]]]\n[\"pull\",1]", 200, `["reject",1,["error","TypeError","demo.forever streams without end: ask for its result as a stream",null,{"code":"invalid_params","ran":"no"}]]`},
		{"bad", "[\"push\",5]\nnonsense", 400, ""},
		{"waits for its client", "[\"push\",[\"pipeline\",0,[\"demo\",\"callback\"],[[\"export\",-1],1]]]\n[\"pull\",1]", 504, ""},
		{"never settled", "[\"push\",[\"pipeline\",0,[\"echo\"],[[\"promise\",-1]]]]\n[\"pull\",1]", 504, ""},
		{"too large", strings.Repeat(" ", 1<<16+1), 413, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, body := post(t, sv, c.body)
			if code != c.code || code == 200 && body != c.want {
				t.Errorf("%d %q, want %d %q", code, body, c.code, c.want)
			}
		})
	}
	w := httptest.NewRecorder()
	sv.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/capnweb", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.Code)
	}
	if demo.Running.Load() != 0 {
		t.Error("calls are left")
	}
}

// A batch that waits for what cannot come ends with its client, or with the
// server, long before its limit, and gives everything back.
func TestBatchesEndEarly(t *testing.T) {
	waits := "[\"push\",[\"pipeline\",0,[\"demo\",\"callback\"],[[\"export\",-1],1]]]\n[\"pull\",1]"
	sv, socket, demo := startServer(t, func(c *Config) { c.BatchWait = time.Hour })
	begin := func(headers, body string) net.Conn {
		nc, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		fmt.Fprintf(nc, "POST /capnweb HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n%s", headers, body)
		return nc
	}
	whole := fmt.Sprintf("Content-Length: %d\r\n", len(waits))
	answer := func(nc net.Conn) string {
		_ = nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		text, _ := io.ReadAll(nc)
		return string(text)
	}

	if text := answer(begin("Transfer-Encoding: chunked\r\n", "zz\r\n")); !strings.HasPrefix(text, "HTTP/1.1 400 ") {
		t.Errorf("a body that breaks off: %q", text)
	}
	gone := begin(whole, waits)
	eventually(t, "the batch waits", func() bool { return demo.Running.Load() == 1 })
	gone.Close()
	eventually(t, "its call ends", func() bool { return demo.Running.Load() == 0 })

	left := begin(whole, waits)
	eventually(t, "another waits", func() bool { return demo.Running.Load() == 1 })
	if err := sv.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if text := answer(left); !strings.HasPrefix(text, "HTTP/1.1 503 ") {
		t.Errorf("the server has ended: %q", text)
	}
	eventually(t, "its call ends", func() bool { return demo.Running.Load() == 0 })
}

// TestAnnouncedLengthIsRefused sends the header of an enormous frame and no payload.
func TestAnnouncedLengthIsRefused(t *testing.T) {
	_, socket, _ := startServer(t, func(c *Config) { c.Limits.MaxMessage = 1 << 20 })
	for _, length := range []uint64{1<<20 + 1, 1 << 62, 1<<64 - 1} {
		nc, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(nc, "GET /capnweb HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		head := binary.BigEndian.AppendUint64([]byte{0x81, 0xff}, length)
		if _, err := nc.Write(append(head, 0, 0, 0, 0)); err != nil {
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		all, err := io.ReadAll(nc)
		if err != nil {
			t.Fatalf("length %d: %v", length, err)
		}
		if !bytes.Contains(all, []byte{0x88, 21, 0x03, 0xf1}) { // a close frame with 1009
			t.Errorf("length %d: answered %q", length, all)
		}
		nc.Close()
	}
}

// A peer that sends all of a message that is too long still learns why it failed.
func TestTooLongMessageIsToldSo(t *testing.T) {
	_, socket, _ := startServer(t, func(c *Config) { c.Limits.MaxMessage = 4 << 20 })
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	for range 5 {
		ws, _, err := websocket.Dial(t.Context(), "ws://x/capnweb", &websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}})
		if err != nil {
			t.Fatal(err)
		}
		if err := ws.Write(t.Context(), websocket.MessageText, bytes.Repeat([]byte{' '}, 4<<20+1)); err != nil {
			t.Errorf("sending: %v", err)
		}
		if _, _, err := ws.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
			t.Errorf("ended with %v", err)
		}
		ws.CloseNow()
	}
}

// TestBinaryFrameAborts and the close code, seen by the library's own client.
func TestBinaryFrameAborts(t *testing.T) {
	_, socket, _ := startServer(t, nil)
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	ws, _, err := websocket.Dial(t.Context(), "ws://x/capnweb", &websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if err := ws.Write(t.Context(), websocket.MessageBinary, []byte(`["pull",1]`)); err != nil {
		t.Fatal(err)
	}
	if _, msg, err := ws.Read(t.Context()); err != nil || !bytes.HasPrefix(msg, []byte(`["abort"`)) {
		t.Errorf("%s, %v", msg, err)
	}
	if _, _, err = ws.Read(t.Context()); websocket.CloseStatus(err) != closeAborted {
		t.Errorf("closed with %v", err)
	}
}

// TestSessionsLeaveNoGoroutines opens and closes many sessions in every state.
func TestSessionsLeaveNoGoroutines(t *testing.T) {
	sv, socket, demo := startServer(t, nil)
	before := runtime.NumGoroutine()
	for range 30 {
		c := dial(t, socket, DialOptions{})
		c.Main().Call("demo.sleep", 1000)
		c.Main().Call("demo.forever")
		c.Main().Call("demo.counter", 1)
		if _, err := c.Call(t.Context(), "echo", "x"); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	eventually(t, "sessions end", func() bool { return sv.Sessions() == 0 && demo.Running.Load() == 0 && demo.Counters.Load() == 0 })
	eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before+1 })
}

func BenchmarkCall(b *testing.B) {
	for _, inFlight := range []int{1, 64} {
		b.Run(fmt.Sprintf("inflight=%d", inFlight), func(b *testing.B) {
			_, socket, _ := startServer(b, nil)
			c := dial(b, socket, DialOptions{})
			ctx := b.Context()
			arg := strings.Repeat("x", 100)
			b.ReportAllocs()
			for b.Loop() {
				var stubs [64]*Stub
				for i := range inFlight {
					stubs[i] = c.Main().Call("echo", arg)
				}
				for _, st := range stubs[:inFlight] {
					if _, err := st.Value(ctx); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.N*inFlight)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

// A redirect would be a second connection beside the first.
func TestDialFollowsNoRedirect(t *testing.T) {
	asked := 0
	sv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		w.Header().Set("Connection", "close")
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer sv.Close()
	if c, err := Dial(t.Context(), "ws"+strings.TrimPrefix(sv.URL, "http"), DialOptions{}); err == nil {
		c.Close()
		t.Error("there is a session")
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}
