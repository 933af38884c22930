package hub

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// limitRow is one limit as a peer meets it: what it does to exceed the limit
// and what becomes of it then.
type limitRow struct {
	name    string
	keys    []string // keys limits.* that it is about
	limit   string   // value of the label limit; "" when series says where it counts
	series  string
	atLeast bool // it may count more than once
	forAll  bool // nobody is served meanwhile who makes calls
	options Options
	exceed  func(*limitTest)
}

// limitTest is a row that runs: a hub of its own and an uninvolved client.
type limitTest struct {
	*testing.T
	*testHub
}

// TestEveryLimit exceeds each limit, and sees that what is documented happens,
// that it counts where it is said to and nowhere else, and that another client
// is served all the time.
func TestEveryLimit(t *testing.T) {
	t.Parallel()
	for _, row := range limitRows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.options.Demo = true
			h := &limitTest{t, startHub(t, row.options)}
			before := h.rejections()
			series := row.series
			if series == "" {
				series = `hubd_rejected_total{limit="` + row.limit + `"}`
			}
			from := h.count(series)
			stop := func() { h.bystander()() }
			if !row.forAll {
				stop = h.bystander()
			}
			row.exceed(h)
			eventually(t, series+" goes up", func() bool { return h.count(series) > from })
			stop()
			after := h.rejections()
			if n := h.count(series) - from; n != 1 && !row.atLeast {
				t.Errorf("%s went up by %d", series, n)
			}
			for limit, n := range after {
				if n != before[limit] && limit != row.limit && limit != limitLogLines { // much of anything is much to log
					t.Errorf("limit %s counts %d as well", limit, n-before[limit])
				}
			}
		})
	}
}

// bystander is a client that has nothing to do with it: it calls all the time.
// The function it returns ends it, once it was served after that.
func (h *limitTest) bystander() (stop func()) {
	h.Helper()
	w := h.dial()
	if r := w.call("math.add", "[1,2]"); string(r.Result) != "3" {
		h.Fatalf("the other client: %v", r)
	}
	var over atomic.Bool
	done := make(chan string, 1)
	go func() {
		for n := 0; ; n++ {
			last := over.Load()
			if _, err := w.Write([]byte(`{"action":"rpc_request","request_id":"b","method":"math.add","params":[1,2]}` + "\n")); err != nil {
				done <- err.Error()
				return
			}
			if line, err := w.r.ReadString('\n'); err != nil || !strings.Contains(line, `"result":3`) {
				done <- line + " " + strconv.Itoa(n)
				return
			}
			if last {
				done <- ""
				return
			}
			<-time.After(5 * time.Millisecond)
		}
	}()
	return func() {
		h.Helper()
		over.Store(true)
		if why := <-done; why != "" {
			h.Errorf("the other client was not served: %s", why)
		}
	}
}

// count returns the value of a series. Those of limits must be there.
func (h *limitTest) count(series string) int {
	h.Helper()
	text := h.sample(series)
	if text == "" && !strings.HasPrefix(series, "hubd_rejected_total") {
		return 0
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		h.Fatalf("%s: %v", series, err)
	}
	return int(n)
}

// rejections returns all of hubd_rejected_total.
func (h *limitTest) rejections() map[string]int {
	h.Helper()
	counts := map[string]int{}
	_, body := h.get("/metrics")
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, `hubd_rejected_total{limit="`); ok {
			limit, value, _ := strings.Cut(strings.TrimSpace(rest), `"} `)
			n, err := strconv.Atoi(value)
			if err != nil {
				h.Fatal(err)
			}
			counts[limit] = n
		}
	}
	return counts
}

// noRowForKey has the keys limits.* that no row exceeds, and why.
var noRowForKey = map[string]string{
	"limits.drain":               "not met by a peer but by the hub as it stops: TestShutdownCancelsWhatDoesNotEnd; counts in hubd_cancels_total{cause=\"shutdown\"}",
	"limits.tcp_silence":         "needs a network that is cut: TestPeersBehindACutCable; the kernel ends those connections",
	"limits.session_memory":      "costs history, refuses nobody: hubd_session_evicted_events_total, TestMemoryOfAllSessionsIsBounded of the session package",
	"limits.session_ended":       "costs history, refuses nobody: TestEndedSessionsAreForgottenInTime of the session package",
	"limits.session_ended_bytes": "costs history, refuses nobody: TestEndedSessionsAreBounded of the session package",
	"limits.state_history_bytes": "as state_history_events, whichever comes first",
}

// noRowForSeries has the label values that no row makes, and why.
var noRowForSeries = map[string]string{
	limitAttempts:       "TestFailedAttemptsAreLimited",
	"state_transaction": "operations of one transaction; the store's own tests",
	"state_queue":       "needs a disk that hangs",
	"state_disk":        "needs a full disk; TestStateDiskFull of tests",
	"file_quota":        "TestFileQuota: needs a folder",
}

// Every key limits.* has a row that exceeds it, and every limit that can be
// counted is, or the reason is written down here.
func TestEveryLimitHasARow(t *testing.T) {
	t.Parallel()
	keys, series := map[string]bool{}, map[string]bool{}
	for _, row := range limitRows {
		series[row.limit] = true
		for _, k := range row.keys {
			keys["limits."+k] = true
			if findKey("limits."+k) == nil {
				t.Errorf("row %q: there is no key limits.%s", row.name, k)
			}
			if row.limit != "" && row.limit != k && !slices.Contains([]string{"frame", "http_body"}, k) {
				t.Errorf("row %q: limits.%s counts as %s: the names differ", row.name, k, row.limit)
			}
		}
		if row.limit != "" && !slices.Contains(limitNames, row.limit) {
			t.Errorf("row %q: no series %s at the first scrape", row.name, row.limit)
		}
	}
	for _, k := range configKeys {
		if !strings.HasPrefix(k.name, "limits.") {
			continue
		}
		if why := noRowForKey[k.name]; keys[k.name] == (why != "") {
			t.Errorf("%s: exceeded by a row: %t, exempt: %q", k.name, keys[k.name], why)
		}
	}
	for _, name := range limitNames {
		if why := noRowForSeries[name]; series[name] == (why != "") {
			t.Errorf("limit %s: a row: %t, exempt: %q", name, series[name], why)
		}
	}
	for name := range maps.Keys(noRowForKey) {
		if findKey(name) == nil {
			t.Errorf("exempt, but no key: %s", name)
		}
	}
	for name := range maps.Keys(noRowForSeries) {
		if !slices.Contains(limitNames, name) {
			t.Errorf("exempt, but no limit: %s", name)
		}
	}
}
