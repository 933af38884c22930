package hub

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/internal/testkit"
)

// Many peers that never end their line hold no more than the limit for all of
// them, and those who do end theirs are served meanwhile.
func TestEndlessLinesShareABudget(t *testing.T) {
	const budget = 24 << 20
	h := startHub(t, Options{Demo: true, Limits: Limits{Unfinished: budget, PartialFrame: 3 * time.Second}})
	before := heapNow()
	piece := []byte(`{"action":"rpc_request","request_id":"1","method":"echo","params":["` + strings.Repeat("x", 64<<10))
	var attackers []net.Conn
	for range 12 {
		c, err := net.Dial("unix", h.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		attackers = append(attackers, c)
		go func() {
			for sent := 0; sent < 12<<20; { // below the limit of a line: it never ends
				n, err := c.Write(piece)
				if err != nil {
					return
				}
				sent += n
			}
		}()
	}
	eventually(t, "the budget is used", func() bool { return h.sample("hubd_unfinished_frame_bytes") != "0" })
	most := uint64(0)
	w := h.dial()
	for range 200 { // small calls pass all the time
		if r := w.call("math.add", `[1,2]`); string(r.Result) != "3" {
			t.Fatal(r)
		}
		most = max(most, heapNow())
	}
	big := strings.Repeat("y", 2<<20) // and large ones as soon as the largest has gone
	if r := w.call("echo", fmt.Sprintf("[%q]", big)); len(r.Result) != len(big)+2 {
		t.Errorf("a large call came back with %d bytes: %v", len(r.Result), r.kind())
	}
	if grown := most - min(before, most); grown > 2*budget+(16<<20) { // one copy while a buffer grows
		t.Errorf("the heap grew by %d MiB for a budget of %d MiB", grown>>20, budget>>20)
	}
	eventually(t, "somebody had to go", func() bool {
		return h.sample(`hubd_rejected_total{limit="unfinished"}`) != "0" || h.sample(`hubd_rejected_total{limit="partial_frame"}`) != "0"
	})
	for _, c := range attackers {
		c.Close()
	}
	eventually(t, "all is given back", func() bool { return h.sample("hubd_unfinished_frame_bytes") == "0" })
}

// heapNow is what the heap holds, garbage that was not collected included.
func heapNow() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// A frame that does not come to its end in time ends its connection, in every
// protocol; a slow one that makes progress, and silence between two, do not.
func TestPartialFrames(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}, Limits: Limits{PartialFrame: 400 * time.Millisecond}})
	upgrade := "GET /capnweb HTTP/1.1\r\nHost: " + h.tcp + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	idle := dial(t, "tcp", h.tcp)
	if r := idle.call("echo", `[1]`); r.Error != nil {
		t.Fatal(*r.Error)
	}
	for what, text := range map[string]string{
		"native line":          `{"action":"pi`,
		"one byte":             "{",
		"snekrpc length":       "\x00\x00",
		"snekrpc message":      "\x00\x00\x00\x09\x00abc",
		"Cap'n Web frame":      upgrade + "\x81\x8a\x01\x02\x03\x04[\"pu",
		"Cap'n Web batch":      "POST /capnweb HTTP/1.1\r\nHost: " + h.tcp + "\r\nContent-Length: 100\r\n\r\n[\"pu",
		"Cap'n Web no payload": upgrade + "\x81\x8a\x01\x02\x03\x04",
	} {
		w := dial(t, "tcp", h.tcp)
		w.send(text)
		if _, err := io.ReadAll(w.r); err != nil && !isReset(err) {
			t.Errorf("%s: still open: %v", what, err)
		}
	}
	if n := h.sample(`hubd_rejected_total{limit="partial_frame"}`); n != "7" {
		t.Errorf("counted %s times, want 7", n)
	}
	if r := idle.call("echo", `[1]`); r.Error != nil {
		t.Errorf("a connection without a frame: %s", *r.Error)
	}
}

// A peer whose socket is closed for good does not keep its calls, although it
// sends the same FIN as one that only has nothing more to say; that one gets
// its answer.
func TestClosedTCPPeerIsNoticed(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}})
	call := func(id string, seconds int) string {
		return fmt.Sprintf(`{"action":"rpc_request","request_id":%q,"method":"demo.sleep","params":{"seconds":%d},"timeout":600}`+"\n", id, seconds)
	}
	half := dial(t, "tcp", h.tcp)
	half.send(call("half", 5))
	if err := half.Conn.(testkit.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	full := dial(t, "tcp", h.tcp)
	full.send(call("full", 600))
	eventually(t, "both calls run", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == "2" })
	full.Close()
	eventually(t, "the call of the closed peer has ended", func() bool {
		return h.sample(`hubd_cancels_total{cause="peer_gone",protocol="kollabor"}`) == "1"
	})
	if r := half.reply(); r.RequestID != "half" || r.Error != nil {
		t.Errorf("half-closed peer: %v", r)
	}
}

func TestKeepAliveOfTCPConnections(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	keepAlive(nc, DefaultTCPSilence)
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for what, o := range map[string]struct{ level, name, want int }{
			"keepalive": {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			"idle":      {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30},
			"interval":  {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 10},
			"probes":    {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
			"unacked":   {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 60000},
		} {
			if got, err := unix.GetsockoptInt(int(fd), o.level, o.name); err != nil || got != o.want {
				t.Errorf("%s is %d (%v), want %d", what, got, err, o.want)
			}
		}
	})
}

// Requests whose head or body does not come end in bounded time, one whose
// body comes slowly but steadily is served.
func TestSlowRequests(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"},
		Limits: Limits{HTTPHead: 300 * time.Millisecond, HTTPBody: 2 * time.Second, FirstByte: 300 * time.Millisecond}})
	head := "POST %s HTTP/1.1\r\nHost: " + h.tcp + "\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
	var wg sync.WaitGroup
	defer wg.Wait()
	for what, text := range map[string]string{
		"silence":                   "",
		"half a method":             "PO",
		"head without an end":       "POST /capnweb HTTP/1.1\r\nHost: " + h.tcp + "\r\nX: ",
		"no body":                   fmt.Sprintf(head, "/capnweb"),
		"half a body":               fmt.Sprintf(head, "/capnweb") + `["push"`,
		"a body that nobody wants":  fmt.Sprintf(head, "/-/healthy"),
		"a body of an unknown path": fmt.Sprintf(head, "/unknown") + "x",
		"a body for krpc":           fmt.Sprintf(head, "/krpc") + `{"me`,
		"half a chunk":              "POST /capnweb HTTP/1.1\r\nHost: " + h.tcp + "\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nabc",
	} {
		w := dial(t, "tcp", h.tcp)
		w.send(text)
		wg.Go(func() {
			if _, err := io.ReadAll(w.r); err != nil && !isReset(err) {
				t.Errorf("%s: still open: %v", what, err)
			}
		})
	}
	eventually(t, "slow heads are counted", func() bool { return h.sample(`hubd_rejected_total{limit="http_head"}`) == "1" })
	eventually(t, "slow bodies are counted", func() bool { return h.sample(`hubd_rejected_total{limit="http_body"}`) != "0" })
	w := dial(t, "tcp", h.tcp)
	body := `["push",["pipeline",0,["math","add"],[3,4]]]` + "\n" + `["pull",1]`
	w.send(fmt.Sprintf("POST /capnweb HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", h.tcp, len(body)))
	for i := range body { // longer than the limit in all, never as long between two bytes
		w.send(body[i : i+1])
		<-time.After(40 * time.Millisecond)
	}
	if text, err := io.ReadAll(w.r); err != nil || !strings.Contains(string(text), `["resolve",1,7]`) {
		t.Errorf("a steady body: %v %q", err, text)
	}
}

// The kernel lists a socket that nobody has open as one of user 0. A stranger
// who connects, writes and closes at once must not pass as root.
func TestOwnerOfAClosedSocketIsNobody(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if uid, err := ownerOfSocket(nc.RemoteAddr(), nc.LocalAddr()); err != nil || uid != os.Geteuid() {
		t.Errorf("open socket: user %d, %v", uid, err)
	}
	c.Close()
	if _, err := io.ReadAll(nc); err != nil {
		t.Fatal(err)
	}
	if uid, err := ownerOfSocket(nc.RemoteAddr(), nc.LocalAddr()); err == nil {
		t.Errorf("closed socket: user %d", uid)
	}
}

// Running calls hold a bounded amount of arguments: large ones are refused when
// there is no room, small ones never.
func TestArgumentsOfRunningCallsShareABudget(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Limits: Limits{RequestMemory: 4 << 20}})
	w := h.dial()
	big := strings.Repeat("x", 3<<20)
	wait := func(id string, n int) {
		w.send(fmt.Sprintf(`{"action":"rpc_request","request_id":%q,"method":"demo.sleep","params":[60%s],"timeout":600}`+"\n", id, strings.Repeat(" ", n)))
	}
	wait("1", len(big))
	wait("2", len(big))
	eventually(t, "two calls run", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == "2" })
	wait("3", len(big))
	if r := w.reply(); r.RequestID != "3" || r.kind() != "overloaded" {
		t.Errorf("a third large call: %v", r)
	}
	if r := w.call("math.add", "[1,2]"); string(r.Result) != "3" {
		t.Errorf("a small one: %v", r)
	}
	if n := h.sample(`hubd_rejected_total{limit="request_memory"}`); n != "1" {
		t.Errorf("counted %s times", n)
	}
	w.send(`{"action":"rpc_cancel","request_id":"1"}` + "\n")
	w.reply()
	wait("4", len(big))
	eventually(t, "the next one runs", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == "2" })
	w.Close()
	eventually(t, "all is given back", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == "0" })
	again := h.dial()
	if r := again.call("echo", fmt.Sprintf("[%q]", big)); len(r.Result) != len(big)+2 {
		t.Errorf("after it: %v", r.kind())
	}
}

func TestSubscriptionsAreLimited(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Limits: Limits{SubscriptionsPerConnection: 3, SubscriptionsPerUID: 5}})
	watch := func(w *wire, id int) {
		w.send(fmt.Sprintf(`{"action":"rpc_request","request_id":"%d","method":"state.watch","params":{"prefix":""},"stream":true}`+"\n", id))
	}
	first, second := h.dial(), h.dial()
	for i := range 4 {
		watch(first, i)
	}
	if r := first.reply(); r.RequestID != "3" || r.kind() != "overloaded" {
		t.Errorf("a fourth watch of a connection: %v", r)
	}
	for i := range 3 {
		watch(second, i)
	}
	if r := second.reply(); r.RequestID != "2" || r.kind() != "overloaded" {
		t.Errorf("a sixth watch of a user: %v", r)
	}
	for series, want := range map[string]string{"subscriptions_per_connection": "1", "subscriptions_per_uid": "1"} {
		if n := h.sample(`hubd_rejected_total{limit="` + series + `"}`); n != want {
			t.Errorf("%s: %s", series, n)
		}
	}
	if r := second.call("state.put", `{"key":"a","value":1}`); r.Error != nil {
		t.Errorf("another call: %s", *r.Error)
	}
	first.Close()
	eventually(t, "their places are free", func() bool {
		w := h.dial()
		defer w.Close()
		watch(w, 9)
		w.send(`{"action":"rpc_cancel","request_id":"9"}` + "\n")
		return w.reply().kind() == "cancelled"
	})
}

// A message over the limit is refused when its length is announced, and counted.
func TestAnnouncedLengths(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}})
	upgrade := func(path string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: " + h.tcp + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	}
	huge := "\x81\xff\x00\x00\x00\x01\x00\x00\x00\x00\x01\x02\x03\x04" // 4 GiB
	for text, limit := range map[string]string{
		upgrade("/capnweb") + huge: "capnweb_message", upgrade("/kkrpc") + huge: "frame", "\xff\xff\xff\xff": "frame",
	} {
		before := h.rejected(limit)
		w := dial(t, "tcp", h.tcp)
		w.send(text)
		if _, err := io.ReadAll(w.r); err != nil && !isReset(err) {
			t.Errorf("%q: still open: %v", text, err)
		}
		eventually(t, "the length is counted", func() bool { return h.rejected(limit) == before+1 })
	}
}
