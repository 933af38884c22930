package hub

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Promises of the design that are about many calls at once. The figures go to
// the log.

// Ten thousand calls from one connection, three times what may be in flight:
// each is answered exactly once, whether it ends by itself, is cancelled, runs
// out of time or is refused.
func TestTenThousandCallsAreAnsweredOnce(t *testing.T) {
	t.Parallel()
	const calls = 10000
	h := startHub(t, Options{Demo: true})
	w := h.dial()
	w.SetDeadline(time.Now().Add(3 * patience))
	go func() {
		var text strings.Builder
		for i := range calls {
			seconds, timeout := "0.05", "60"
			switch i % 4 {
			case 1:
				seconds = "60" // cancelled below
			case 2:
				seconds, timeout = "60", "0.01"
			}
			fmt.Fprintf(&text, `{"action":"rpc_request","request_id":"%d","method":"demo.sleep","params":{"seconds":%s},"timeout":%s}`+"\n", i, seconds, timeout)
			if i%4 == 1 && i > 400 {
				fmt.Fprintf(&text, `{"action":"rpc_cancel","request_id":"%d"}`+"\n", i-400)
			}
			if text.Len() > 32<<10 {
				w.Write([]byte(text.String()))
				text.Reset()
			}
		}
		for i := range calls {
			fmt.Fprintf(&text, `{"action":"rpc_cancel","request_id":"%d"}`+"\n", i)
		}
		w.Write([]byte(text.String()))
	}()
	answered := make([]int, calls)
	kinds := map[string]int{}
	for range calls {
		r := w.reply()
		var id int
		if err := json.Unmarshal([]byte(r.RequestID), &id); err != nil || id < 0 || id >= calls {
			t.Fatalf("answer to %q", r.RequestID)
		}
		answered[id]++
		kinds[r.kind()]++
	}
	// Whatever comes now is one too many. The hub answers in the order in which
	// calls end, so an answer to this one comes after all that are on their way.
	if r := w.call("math.add", "[1,2]"); r.RequestID != "t" {
		t.Errorf("one more answer: %v", r)
	}
	for id, n := range answered {
		if n != 1 {
			t.Errorf("call %d was answered %d times", id, n)
		}
	}
	eventually(t, "nothing is in flight", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == "0" })
	t.Logf("%d calls: %v (\"\" is success), 0 unanswered, 0 answered twice", calls, kinds)
	for _, kind := range []string{"", "cancelled", "timeout"} {
		if kinds[kind] == 0 {
			t.Errorf("no call ended as %q: the test tests less than it says", kind)
		}
	}
}

// Peers with thousands of slow calls vanish: the handlers end, and nothing of
// them is left.
func TestHandlersEndWithTheirCaller(t *testing.T) {
	const peers, each = 2, 2500
	h := startHub(t, Options{Demo: true})
	h.dial().call("ping", "{}")
	before := runtime.NumGoroutine()
	var open []*wire
	for range peers {
		w := h.dial()
		w.sleeps(each)
		open = append(open, w)
	}
	eventually(t, "all calls run", func() bool {
		return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == itoa(peers*each)
	})
	most := runtime.NumGoroutine()
	if most < before+peers*each {
		t.Errorf("%d goroutines before, %d now: these handlers need none, and the test is none", before, most)
	}
	for _, w := range open {
		w.Close()
	}
	vanished := time.Now()
	eventually(t, "their goroutines have ended", func() bool { return runtime.NumGoroutine() <= before+10 })
	t.Logf("%d calls, %d goroutines; %v after the peers had gone there were %d, before %d",
		peers*each, most, time.Since(vanished).Round(time.Millisecond), runtime.NumGoroutine(), before)
	if n := h.sample(`hubd_cancels_total{cause="peer_gone",protocol="kollabor"}`); n != itoa(peers*each) {
		t.Errorf("%s calls were cancelled", n)
	}
}

// Names that peers make up, two thousand of them in four protocols, some made
// to look like lines of a log or of an exposition, make no series and no line.
func TestNamesOfPeersAreData(t *testing.T) {
	t.Parallel()
	var out syncBuffer
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), &out, zap.DebugLevel))
	h := startHub(t, Options{Demo: true, Log: log})
	names := []string{
		"a\nforged", "a\r\n{\"level\":\"error\",\"msg\":\"forged\"}", "a\x00forged", "\x1b[31mforged\x1b[0m", "a\"} 1\nhubd_forged{x=\"", "a\u2028forged",
	}
	for len(names) < 2000 {
		names = append(names, fmt.Sprintf("forged.%x%x", rand.Uint64(), rand.Uint64()))
	}
	use := func(name string) {
		quoted, _ := json.Marshal(name)
		w := h.dial()
		defer w.Close()
		w.send(fmt.Sprintf(`{"action":"rpc_request","request_id":%s,"method":%[1]s,"params":{}}`+"\n", quoted))
		if r := w.reply(); r.kind() != "not_found" {
			t.Errorf("%q: %v", name, r)
		}
		switch rand.IntN(8) { // over HTTP a connection each: some of them
		case 0:
			h.krpc(fmt.Sprintf(`{"method":%s}`, quoted))
		case 1:
			h.ask("unix", h.socket, batch(fmt.Sprintf(`["push",["pipeline",0,[%s],[]]]`, quoted)+"\n"+`["pull",1]`))
		case 2:
			w := h.dial()
			w.send(fmt.Sprintf(`{"action":"hello","version":1,"identity":%s}`+"\n", quoted))
			w.line()
			w.Close()
		}
	}
	series := func() int {
		_, body := h.get("/metrics")
		return strings.Count(body, "\n")
	}
	for range 20 { // one of each kind, so that what is there once is there
		use("first.name")
	}
	before := series()
	for _, name := range names {
		use(name)
	}
	if after := series(); after > before+20 { // exposed buckets of histograms may come, names may not
		t.Errorf("%d lines of metrics before, %d after %d names", before, after, len(names))
	}
	_, body := h.get("/metrics")
	if strings.Contains(body, "forged") {
		t.Error("a name is among the metrics")
	}
	lines, forged := 0, 0
	for line := range strings.Lines(out.String()) {
		lines++
		var entry struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || strings.Contains(entry.Msg, "forged") || strings.ContainsAny(line, "\r\x00\x1b") {
			forged++
			t.Logf("%q", line)
		}
	}
	if forged > 0 || lines < len(names) {
		t.Errorf("%d of %d lines of the log are made by peers", forged, lines)
	}
	t.Logf("%d names: %d lines of metrics before, %d after; %d lines of the log, 0 forged", len(names), before, series(), lines)
}

// syncBuffer collects what a log writes.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) Sync() error { return nil }

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
