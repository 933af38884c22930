package hub

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/demo"
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/statesvc"
)

var update = flag.Bool("update", false, "write docs/metrics.md")

// demoHub is a hub that was made but listens nowhere.
func demoHub(t *testing.T) *hub {
	t.Helper()
	o, err := Options{Demo: true, Listen: []string{"unix:///nowhere"}, State: "/nowhere", Log: zap.NewNop()}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(o)
	h.store = statesvc.OpenMemory(statesvc.Options{})
	t.Cleanup(func() { h.store.Close() })
	h.service = statesvc.NewService(h.store, statesvc.ServiceOptions{})
	h.table.MustAdd(h.builtins()...)
	if err := demo.Register(h.table); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestLint(t *testing.T) {
	problems, err := testutil.GatherAndLint(demoHub(t).metrics.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "hubd_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// docs/metrics.md is what the registry has: go test ./internal/hub -run TestMetricsPage -update writes it.
func TestMetricsPage(t *testing.T) {
	const path = "../../docs/metrics.md"
	page := metricsPage(demoHub(t).metrics)
	if *update {
		if err := os.WriteFile(path, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(old), string(page)); diff != "" {
		t.Errorf("docs/metrics.md is not what the hub has (-page +hub):\n%s", diff)
	}
}

// What is gathered and what the catalog says are the same, so the page cannot
// leave a metric out.
func TestCatalog(t *testing.T) {
	m := demoHub(t).metrics
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	gathered := map[string]string{}
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "hubd_") {
			var labels []string
			for _, l := range f.GetMetric()[0].GetLabel() {
				labels = append(labels, l.GetName())
			}
			gathered[f.GetName()] = strings.ToLower(f.GetType().String()) + fmt.Sprint(labels)
		}
	}
	described := map[string]string{}
	for _, i := range m.catalog {
		labels := slices.Clone(i.Labels)
		slices.Sort(labels)
		described[i.Name] = i.Type + fmt.Sprint(labels)
	}
	if diff := cmp.Diff(described, gathered); diff != "" {
		t.Errorf("catalog and first scrape differ (-catalog +scrape):\n%s", diff)
	}
}

func TestSeriesFromTheFirstScrape(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	for _, series := range []string{
		`hubd_slow_handlers_total{method="other"}`,
		`hubd_failed_frames_total{protocol="kollabor",reason="json"}`,
		`hubd_calls_total{code="ok",method="other",protocol="kollabor"}`,
		`hubd_call_duration_seconds_count{method="other",protocol="krpc"}`,
		`hubd_calls_in_flight{protocol="kollabor"}`, `hubd_calls_in_flight{protocol="capnweb"}`,
		`hubd_connections{protocol="kollabor",transport="unix"}`, `hubd_connections{protocol="kkrpc",transport="tcp"}`,
		`hubd_rejected_total{limit="calls_per_connection"}`, `hubd_rejected_total{limit="connections"}`,
		`hubd_cancels_total{cause="deadline",protocol="kollabor"}`, `hubd_outbox_bytes`, `hubd_outbox_blocked_seconds_total`,
		`hubd_store_op_duration_seconds_count{op="sync"}`,
	} {
		if got := h.sample(series); got != "0" {
			t.Errorf("%s = %q, want 0", series, got)
		}
	}
	_, body := h.get("/metrics")
	for _, want := range []string{"go_goroutines ", "go_sched_", "process_open_fds ", "hubd_build_info{"} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
}

// Names that peers make up share one label value.
func TestUnknownNamesMakeNoSeries(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	w := h.dial()
	count := func() int {
		_, body := h.get("/metrics")
		return strings.Count(body, "\n")
	}
	w.call("no.such0", "{}")
	before := count()
	for i := range 200 {
		w.call(fmt.Sprintf("no.such%d", i), "{}")
		w.call("math.add\\n"+fmt.Sprint(i), "{}")
	}
	if after := count(); after != before {
		t.Errorf("%d lines before, %d after", before, after)
	}
	if got := h.sample(`hubd_calls_total{code="not_found",method="other",protocol="kollabor"}`); got != "401" {
		t.Errorf("unknown methods: %q, want 401", got)
	}
}

func TestCallsAreCounted(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	w := h.dial()
	w.call("math.add", "[1,2]")
	w.call("demo.fail", `["secret-message"]`)
	w.call("math.add", `["x"]`)
	w.send("not json\n")
	w.line()
	for series, want := range map[string]string{
		`hubd_calls_total{code="ok",method="math.add",protocol="kollabor"}`:             "1",
		`hubd_calls_total{code="handler",method="demo.fail",protocol="kollabor"}`:       "1",
		`hubd_calls_total{code="invalid_params",method="math.add",protocol="kollabor"}`: "1",
		`hubd_call_duration_seconds_count{method="math.add",protocol="kollabor"}`:       "2",
		`hubd_failed_frames_total{protocol="kollabor",reason="json"}`:                   "1",
		`hubd_connections{protocol="kollabor",transport="unix"}`:                        "1",
		`hubd_connections_total{protocol="kollabor",transport="unix"}`:                  "1",
	} {
		if got := h.sample(series); got != want {
			t.Errorf("%s = %q, want %s", series, got, want)
		}
	}
	for _, direction := range []string{"in", "out"} {
		for _, name := range []string{"hubd_frames_total", "hubd_frame_size_bytes_count", "hubd_frame_bytes_total"} {
			if got := h.sample(name + `{direction="` + direction + `",protocol="kollabor"}`); got == "0" || got == "" {
				t.Errorf("%s %s = %q", name, direction, got)
			}
		}
	}
}

// A slow handler is counted and told while it runs, and told again when it ends.
func TestSlowHandler(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	w := h.dial()
	w.send(`{"action":"rpc_request","request_id":"s","method":"demo.sleep","params":[3]}` + "\n")
	eventually(t, "the slow handler is told while it runs", func() bool { return h.logs.FilterMessage("slow handler").Len() == 1 })
	if got := h.sample(`hubd_slow_handlers_total{method="demo.sleep"}`); got != "1" {
		t.Errorf("slow handlers: %q, want 1", got)
	}
	w.reply()
	eventually(t, "the end is told", func() bool { return h.logs.FilterMessage("slow handler ended").Len() == 1 })
	fields := h.logs.FilterMessage("slow handler").All()[0].ContextMap()
	for _, f := range []string{"method", "call", "peer", "conn", "protocol", "age"} {
		if fields[f] == nil {
			t.Errorf("no field %s in %v", f, fields)
		}
	}
}

// What callers send and handlers answer is nowhere in the log.
func TestParametersAreNotLogged(t *testing.T) {
	h := startHub(t, Options{Demo: true, LogLevel: "debug"})
	w := h.dial()
	const secret = "hunter2-forged\\nline"
	w.call("demo.fail", `["`+secret+`"]`)
	w.call("echo", `{"password":"`+secret+`"}`)
	w.call("math.add", `["`+secret+`",1]`)
	w.send(`{"action":"rpc_request","request_id":"hunter2","method":` + "\n")
	w.line()
	for _, e := range h.logs.All() {
		if text := fmt.Sprint(e.Message, e.ContextMap()); strings.Contains(text, "hunter2") {
			t.Errorf("in the log: %s", text)
		}
	}
	if h.logs.FilterMessage("call").Len() < 3 {
		t.Error("calls are not logged at level debug")
	}
}

func TestExemplar(t *testing.T) {
	m := newMetrics("v", []rpc.Protocol{rpc.Kollabor})
	trace := "4bf92f3577b34da6a3ce929d0e0e4736"
	m.done(&rpc.Call{Protocol: rpc.Kollabor, Trace: rpc.TraceContext{Parent: "00-" + trace + "-00f067aa0ba902b7-01"}}, nil, time.Millisecond)
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "hubd_call_duration_seconds" && strings.Contains(f.String(), trace) {
			return
		}
	}
	t.Error("no exemplar with the trace id")
}

func TestFrameSizes(t *testing.T) {
	for size, want := range map[int]int{0: 0, 1: 0, 64: 0, 65: 1, 256: 1, 257: 2, 1024: 2, 1025: 3, 16 << 20: 9, 16<<20 + 1: 10, math.MaxInt: 10} {
		var f flow
		f.count(size)
		for i := range f.sizes {
			if n := f.sizes[i].Load(); n != 0 && i != want || n == 0 && i == want {
				t.Errorf("%d bytes are in bucket %d, want %d", size, i, want)
			}
		}
	}
}

func TestEveryCodeHasASlot(t *testing.T) {
	var s methodSeries
	if len(rpc.Codes()) > len(s.calls[0]) || len(rpc.Protocols()) > len(s.calls) {
		t.Errorf("%d codes and %d protocols do not fit", len(rpc.Codes()), len(rpc.Protocols()))
	}
	seen := map[int]rpc.Code{}
	for _, c := range rpc.Codes() {
		i := codeIndex(c)
		if other, taken := seen[i]; taken {
			t.Errorf("%s and %s share a slot", c, other)
		}
		seen[i] = c
	}
}

func BenchmarkDone(b *testing.B) {
	m := newMetrics("v", []rpc.Protocol{rpc.Kollabor})
	c := &rpc.Call{Protocol: rpc.Kollabor}
	b.ReportAllocs()
	for b.Loop() {
		m.done(c, nil, 12*time.Microsecond)
	}
}

func BenchmarkScrape(b *testing.B) {
	o, _ := Options{Listen: []string{"unix:///nowhere"}, State: "/nowhere", Log: zap.NewNop()}.withDefaults()
	h := newHub(o)
	h.table.MustAdd(h.builtins()...)
	if err := demo.Register(h.table); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := h.metrics.registry.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestSeriesBeginWithTheFirstCall: an idle hub has at most 600 series, and a method that is used through one protocol
// brings at most 40.
func TestSeriesBeginWithTheFirstCall(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	count := func() (n int) {
		_, body := h.get("/metrics")
		for line := range strings.Lines(body) {
			if !strings.HasPrefix(line, "#") {
				n++
			}
		}
		return n
	}
	h.get("/metrics") // the first scrape has counts of HTTP behind it that the next one shows
	idle := count()
	if idle < 200 || idle > 600 {
		t.Errorf("%d series of an idle hub, want at most 600", idle)
	}
	c := h.dial()
	defer c.Close()
	if r := c.call("math.add", `[1,2]`); r.Error != nil {
		t.Fatalf("%+v", r)
	}
	if n := count(); n <= idle || n > idle+40 {
		t.Errorf("%d series more after a call of one method, want 1 to 40", n-idle)
	}
	if got := h.sample(`hubd_calls_total{code="ok",method="math.add",protocol="kollabor"}`); got != "1" {
		t.Errorf("calls %q, want 1", got)
	}
}

// metricsPage writes docs/metrics.md.
func metricsPage(m *metrics) []byte {
	var w bytes.Buffer
	w.WriteString(`# Metrics

The hub serves these at ` + "`/metrics`" + ` on every listener, and at ` + "`--metrics ADDRESS`" + ` alone, as Prometheus text or OpenMetrics.
Label values come from the method table and from constants; names that callers make up are counted as ` + "`method=\"other\"`" + `.
Series of a method and a protocol begin with their first call. Others whose label values are known beforehand are there, at zero, from the first scrape. Durations also have native histogram buckets, and
exemplars with the trace id of callers that send one. The usual ` + "`go_*`" + ` and ` + "`process_*`" + ` metrics are there as well.

This page is generated: ` + "`go test ./internal/hub -run TestMetricsPage -update`" + `.

| metric | type | labels | what it tells |
|---|---|---|---|
`)
	list := slices.Clone(m.catalog)
	slices.SortFunc(list, func(a, b metricInfo) int { return strings.Compare(a.Name, b.Name) })
	for _, i := range list {
		labels := strings.Join(i.Labels, "`, `")
		if labels != "" {
			labels = "`" + labels + "`"
		}
		fmt.Fprintf(&w, "| `%s` | %s | %s | %s |\n", i.Name, i.Type, labels, i.Help)
	}
	return w.Bytes()
}

// A method that promised to be quick and was not is told of at its end.
func TestSlowInlineHandler(t *testing.T) {
	h := newHub(Options{Log: zap.NewNop(), LogLevel: "info"})
	h.table.MustAdd(rpc.Handle("demo.stuck", func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil }, rpc.In(rpc.Inline)))
	observer := callObserver{h}
	call := &rpc.Call{Method: h.table.Lookup("demo.stuck"), Protocol: rpc.Kollabor}
	observer.Done(call, nil, rpc.DefaultSlow-time.Millisecond)
	slow := h.metrics.slow.WithLabelValues("demo.stuck")
	if got := testutil.ToFloat64(slow); got != 0 {
		t.Errorf("a call in time counts as slow: %v", got)
	}
	observer.Done(call, nil, rpc.DefaultSlow)
	if got := testutil.ToFloat64(slow); got != 1 {
		t.Errorf("slow handlers: %v, want 1", got)
	}
}
