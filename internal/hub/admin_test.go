package hub

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/time/rate"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// result calls a method on a new connection and returns what it returned.
func (h *testHub) result(method, params string) json.RawMessage {
	h.t.Helper()
	w := h.dial()
	defer w.Close()
	r := w.call(method, params)
	if r.Error != nil {
		h.t.Fatalf("%s: %s", method, *r.Error)
	}
	return r.Result
}

// failure calls a method that must fail and returns the error's message.
func (h *testHub) failure(method, params string) string {
	h.t.Helper()
	w := h.dial()
	defer w.Close()
	r := w.call(method, params)
	if r.Error == nil {
		h.t.Fatalf("%s succeeded: %s", method, r.Result)
	}
	return *r.Error
}

func quietMonitor(perSecond int) *monitor {
	return &monitor{limit: rate.NewLimiter(1e-9, perSecond), events: make(chan monitorEvent, monitorQueue)}
}

func TestLogLevelChangesAtRunTime(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	got := h.result("hub.log_level", `{"level":"debug"}`)
	var l logLevel
	if err := json.Unmarshal(got, &l); err != nil || l.Level != "debug" || l.Was != "info" {
		t.Errorf("got %s", got)
	}
	if got := h.result("hub.log_level", `{}`); !strings.Contains(string(got), `"debug"`) {
		t.Errorf("asked again: %s", got)
	}
	if msg := h.failure("hub.log_level", `{"level":"fatal"}`); !strings.Contains(msg, "expected debug") {
		t.Errorf("a level that there is not: %q", msg)
	}
}

// hub.top has what a live display shows: the buckets add up to the calls.
func TestTopCountsCallsAndTimes(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	for range 5 {
		h.result("math.add", `[1,2]`)
	}
	h.failure("demo.fail", `["x"]`)
	var top topResult
	if err := json.Unmarshal(h.result("hub.top", `{}`), &top); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, m := range top.Methods {
		var n uint64
		for i, b := range m.Took {
			n += b.Calls
			if i > 0 && b.Seconds <= m.Took[i-1].Seconds {
				t.Errorf("%s: bucket %g after %g", m.Method, b.Seconds, m.Took[i-1].Seconds)
			}
		}
		if n != m.Calls {
			t.Errorf("%s: %d calls, %d in buckets", m.Method, m.Calls, n)
		}
		switch m.Method {
		case "math.add":
			found++
			if m.Calls != 5 || m.Errors != 0 {
				t.Errorf("math.add: %+v", m)
			}
		case "demo.fail":
			found++
			if m.Calls != 1 || m.Errors != 1 {
				t.Errorf("demo.fail: %+v", m)
			}
		}
	}
	if found != 2 || top.Connections == 0 {
		t.Errorf("got %+v", top)
	}
}

func TestMergeBuckets(t *testing.T) {
	got := mergeBuckets([]topBucket{{1, 1}, {3, 1}}, []topBucket{{1, 2}, {2, 1}, {4, 1}})
	want := []topBucket{{1, 3}, {2, 1}, {3, 1}, {4, 1}}
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

// A monitor sees calls and frames, and no value of them.
func TestMonitorShowsEnvelopesOnly(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	m := h.dial()
	m.send(`{"action":"rpc_request","request_id":"m","method":"hub.monitor","params":{"frames":true,"rate":10000},"stream":true}` + "\n")
	if line := m.line(); !strings.Contains(line, `"begin"`) {
		t.Fatalf("the first item is %s", line)
	}
	h.result("echo", `{"password":"hunter2","n":12345}`)
	seen := map[string]bool{}
	for !seen[sawCall] || !seen[sawFrame] { // the connection has a deadline
		line := m.line()
		if strings.Contains(line, "hunter2") || strings.Contains(line, "12345") || strings.Contains(line, "password") {
			t.Fatalf("a value is shown: %s", line)
		}
		var f struct {
			Data monitorEvent `json:"data"`
		}
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatal(err)
		}
		switch e := f.Data; {
		case e.Event == sawCall && e.Method == "echo" && e.Code == "ok" && e.Protocol == "kollabor" && e.Conn != 0:
			seen[sawCall] = true
		case e.Event == sawFrame && e.Direction == "in" && strings.Contains(e.Text, `"method": "echo"`):
			if !strings.Contains(e.Text, `"params": <32 bytes>`) {
				t.Errorf("frame %s", e.Text)
			}
			seen[sawFrame] = true
		}
	}
	m.Close()
	eventually(t, "the monitor is gone", func() bool { return !strings.Contains(string(h.result("hub.calls", `{}`)), "hub.monitor") })
}

func TestMonitorCountsWhatIsOverItsRate(t *testing.T) {
	s := &monitors{}
	m := quietMonitor(2)
	if !s.enter(m) {
		t.Fatal("not taken in")
	}
	for range 10 {
		s.tell(monitorEvent{Event: sawCall, Protocol: "kollabor"})
	}
	if len(m.events) != 2 || m.missed.Load() != 8 {
		t.Errorf("%d taken, %d missed", len(m.events), m.missed.Load())
	}
	m.protocol = rpc.Kkrpc
	s.tell(monitorEvent{Event: sawCall, Protocol: "kollabor"})
	if m.missed.Load() != 8 {
		t.Error("another protocol counts")
	}
	for range maxMonitors - 1 {
		s.enter(quietMonitor(1))
	}
	if s.enter(quietMonitor(1)) {
		t.Error("more monitors than there may be")
	}
	s.leave(m)
	if !s.any.Load() || !s.enter(quietMonitor(1)) {
		t.Error("one that left keeps its place")
	}
}

func TestEnvelope(t *testing.T) {
	for in, want := range map[string]string{
		`{"action":"rpc_reply","request_id":"1","result":{"a":"secret"},"error":null}` + "\n": `{"action": "rpc_reply", "request_id": "1", "result": <14 bytes>, "error": null}`,
		`{"action":"rpc_req`: "",
		`[1]`:                "",
		`{"method":"` + strings.Repeat("x", 300) + `"}`: `{"method": <302 bytes>}`,
	} {
		if got := envelope([]byte(in)); got != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
	}
}

func TestDiagnoseFindsNothingWrongWithAFreshHub(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	var d diagnosis
	if err := json.Unmarshal(h.result("hub.diagnose", `{}`), &d); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, f := range d.Findings {
		names[f.Name] = true
		if f.Level == levelFail || f.Detail == "" {
			t.Errorf("%+v", f)
		}
		if f.Level != levelOK && f.Fix == "" {
			t.Errorf("%s says no fix", f.Name)
		}
	}
	for _, name := range []string{"phase", "store", "disk", "clock", "descriptors", "connections", "memory", "configuration", "listeners"} {
		if !names[name] {
			t.Errorf("no check of %s", name)
		}
	}
}

func TestDebugParts(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	for part, want := range map[string]string{
		"goroutines": "goroutine profile", "metrics": "hubd_calls_total", "config": "demo: true", "heap": "\x1f\x8b", "trace": "go 1.",
	} {
		var r debugResult
		if err := json.Unmarshal(h.result("hub.debug", `{"part":"`+part+`"}`), &r); err != nil {
			t.Fatal(err)
		}
		data := r.Data
		if r.Encoding == "base64" {
			b, err := base64.StdEncoding.DecodeString(r.Data)
			if err != nil {
				t.Fatal(err)
			}
			data = string(b)
		}
		if !strings.Contains(data[:min(len(data), 1<<20)], want) || r.Cut {
			t.Errorf("%s: no %q in %.100q", part, want, data)
		}
	}
	if msg := h.failure("hub.debug", `{"part":"secrets"}`); !strings.Contains(msg, "expected goroutines") {
		t.Errorf("got %q", msg)
	}
}

// The pages of net/http/pprof are for administrators on the Unix socket.
func TestDebugPagesOnUnixSocketsOnly(t *testing.T) {
	h := startHub(t, Options{Listen: []string{"tcp://127.0.0.1:0?auth=none"}})
	get := func(network, address string) int {
		c := http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address)
			}, DisableKeepAlives: true,
		}}
		host := "hub"
		if network == "tcp" {
			host = address
		}
		r, err := c.Get("http://" + host + "/debug/pprof/goroutine?debug=1")
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r.StatusCode
	}
	if code := get("unix", h.socket); code != http.StatusOK {
		t.Errorf("Unix socket: %d", code)
	}
	if code := get("tcp", h.tcp); code != http.StatusNotFound {
		t.Errorf("TCP: %d", code)
	}
}

// hub.cancel answers, whatever number it is given: its own is no other call.
func TestCancelDoesNotCancelItself(t *testing.T) {
	h := startHub(t, Options{})
	w := h.dial()
	for range 20 { // numbers are given process-wide: other hubs of this test may take one
		var calls []callInfo
		if err := json.Unmarshal(w.call("hub.calls", `{}`).Result, &calls); err != nil || len(calls) != 1 {
			t.Fatalf("%v: %+v", err, calls)
		}
		next := itoa(int(calls[0].Call) + 1)
		if r := w.call("hub.cancel", `{"call":`+next+`}`); r.Error != nil || string(r.Result) != `{"cancelled":false}` {
			t.Fatalf("call %s: %+v", next, r)
		}
	}
}
