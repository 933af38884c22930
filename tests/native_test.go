package tests

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/testkit"
)

// What a user of the native protocol relies on, seen from outside: a real
// daemon, a socket, and lines.

func TestNativeConcurrentCallsOnOneConnection(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	const n = 100
	var all strings.Builder
	for i := range n {
		// Every third call sleeps, so that replies come out of order.
		if i%3 == 0 {
			all.WriteString(request(fmt.Sprint("c", i), "demo.sleep", `{"seconds":0.05}`))
		} else {
			all.WriteString(request(fmt.Sprint("c", i), "math.add", fmt.Sprintf(`{"a":%d,"b":1}`, i)))
		}
	}
	w.send(all.String())
	got := map[string]string{}
	for range n {
		f := w.frame()
		if _, twice := got[f.id()]; twice {
			t.Fatalf("%s was answered twice", f.id())
		}
		got[f.id()] = w.result(f)
	}
	for i := range n {
		want := fmt.Sprint(i + 1)
		if i%3 == 0 {
			want = "0.05"
		}
		if id := fmt.Sprint("c", i); got[id] != want {
			t.Errorf("call %s: got %s, want %s", id, got[id], want)
		}
	}
}

// A hundred sleeps of a second overlap: one after another they would take a
// hundred seconds.
func TestNativeHundredSleepsOverlap(t *testing.T) {
	d := startDaemon(t)
	w := d.dial()
	var all strings.Builder
	for i := range 100 {
		all.WriteString(request(fmt.Sprint("s", i), "demo.sleep", `{"seconds":1}`))
	}
	began := time.Now()
	w.send(all.String())
	seen := map[string]bool{}
	for range 100 {
		f := w.frame()
		if got := w.result(f); got != "1" || seen[f.id()] {
			t.Fatalf("got %s for %s (seen before: %v), want 1 once", got, f.id(), seen[f.id()])
		}
		seen[f.id()] = true
	}
	took := time.Since(began)
	if took < time.Second {
		t.Errorf("all were done after %v: nobody slept", took)
	}
	if took >= 50*time.Second {
		t.Errorf("all were done after %v: they waited for each other", took)
	}
}

func TestNativeSleepingCallDelaysNobody(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	w.send(request("slow", "demo.sleep", `{"seconds":600}`, `"timeout":600`))
	w.send(`{"action":"ping"}` + "\n")
	if f := w.frame(); f.Type != "pong" {
		t.Fatalf("got %s, want a pong", f.line)
	}
	if got := w.result(w.call("quick", "math.add", `{"a":1,"b":2}`)); got != "3" {
		t.Errorf("got %s, want 3", got)
	}
}

func TestNativeFifteenMebibyteEcho(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	random := make([]byte, 15<<20/4*3)
	rand.Read(random)
	params := `{"blob":"` + base64.StdEncoding.EncodeToString(random) + `"}`
	go io.WriteString(w, request("big", "echo", params)) // the reply may begin before the request has left
	f := w.frame()
	if got := w.result(f); got != params {
		t.Fatalf("got %d bytes back that differ from the %d sent", len(got), len(params))
	}
	// The connection is as good as before.
	if got := w.result(w.call("next", "math.add", `[1,2]`)); got != "3" {
		t.Errorf("got %s, want 3", got)
	}
}

// A request line of exactly the limit passes, and its reply, which is longer,
// does not fit in one.
func TestNativeReplyOverTheLimit(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	head, tail := `{"action":"rpc_request","request_id":"x","method":"echo","params":"`, `"}`
	w.send(head + strings.Repeat("y", 16<<20-len(head)-len(tail)) + tail + "\n")
	f := w.frame()
	if f.id() != "x" || f.kind() != "serialization" || f.text() == "" {
		t.Fatalf("got %.300s, want a serialization error", f.line)
	}
	if got := w.result(w.call("next", "math.add", `[1,2]`)); got != "3" {
		t.Errorf("got %s, want 3", got)
	}
}

func TestNativeTimeoutCancelsTheHandler(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	f := w.call("t", "demo.sleep", `{"seconds":600}`, `"timeout":0.2`)
	if f.kind() != "timeout" || f.text() == "" {
		t.Fatalf("got %s, want an error of kind timeout", f.line)
	}
	d.waitNoCalls("demo.sleep")
	if n, _ := d.metric("hubd_calls_total", `method="demo.sleep"`, `code="deadline_exceeded"`); n != 1 {
		t.Errorf("hubd_calls_total for the deadline is %v, want 1", n)
	}
	if got := w.result(w.call("next", "math.add", `[1,2]`)); got != "3" {
		t.Errorf("got %s, want 3", got)
	}
}

func TestNativeCancelFrame(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	w.send(request("c", "demo.sleep", `{"seconds":600}`, `"timeout":600`))
	d.waitCalls("demo.sleep", 1)
	w.send(`{"action":"rpc_cancel","request_id":"nobody"}` + "\n") // ignored
	w.send(`{"action":"rpc_cancel","request_id":"c"}` + "\n")
	f := w.frame()
	if f.id() != "c" || f.kind() != "cancelled" || f.text() == "" {
		t.Fatalf("got %s, want an error of kind cancelled for c", f.line)
	}
	d.waitNoCalls("demo.sleep")
}

func TestNativeClosingCancelsCalls(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	var all strings.Builder
	for i := range 50 {
		all.WriteString(request(fmt.Sprint("c", i), "demo.sleep", `{"seconds":600}`, `"timeout":600`))
	}
	w.send(all.String())
	d.waitCalls("demo.sleep", 50)
	w.Close()
	d.waitNoCalls("demo.sleep")
	if n, _ := d.metric("hubd_calls_total", `method="demo.sleep"`, `code="cancelled"`); n != 50 {
		t.Errorf("hubd_calls_total for cancelled is %v, want 50", n)
	}
}

// calls returns how many calls of a method run now.
func (d *daemon) calls(method string) int {
	d.t.Helper()
	w := dialWire(d.t, d.socket)
	defer w.Close()
	return strings.Count(w.result(w.call("calls", "hub.calls", "{}")), `"method":"`+method+`"`)
}

func (d *daemon) waitCalls(method string, n int) {
	d.t.Helper()
	eventually(d.t, fmt.Sprintf("%d calls of %s run", n, method), func() bool { return d.calls(method) == n })
}

func (d *daemon) waitNoCalls(method string) { d.t.Helper(); d.waitCalls(method, 0) }

func TestNativeValuesComeBackAsTheyWent(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	values := []struct{ name, json string }{
		{"float one", `1.0`},
		{"negative zero", `-0.0`},
		{"exponent", `1e-07`},
		{"exponent in capitals", `1E+400`},
		{"2^63+1", `9223372036854775809`},
		{"2^64", `18446744073709551616`},
		{"forty digits", `1234567890123456789012345678901234567890`},
		{"a thousand digits", strings.Repeat("7", 1000)},
		{"NaN", `NaN`},
		{"Infinity", `Infinity`},
		{"minus Infinity", `-Infinity`},
		{"all three in a list", `[NaN, -Infinity, {"x": Infinity}]`},
		{"lone high surrogate", `"\ud800"`},
		{"lone low surrogate", `"a\udfffb"`},
		{"surrogates the wrong way round", `"\udc00\ud800"`},
		{"surrogate pair as escapes", `"\ud83d\ude00"`},
		{"raw UTF-8", `"grüße 😀"`},
		{"NUL", `"\u0000"`},
		{"line separators", "\"\u2028\u2029\""},
		{"escaped slash", `"<\/script>"`},
		{"HTML characters", `"<&>"`},
		{"empty names and values", `{"": ""}`},
		{"member order", `{"b":1,"a":2,"c":{"z":0,"y":0}}`},
		{"a name twice", `{"a":1,"a":2}`},
		{"spacing", `{ "a" : [ 1 , 2 ] }`},
		{"names of prototypes", `{"__proto__":1,"constructor":2,"toJSON":3}`},
		{"nothing", `null`},
		{"nested as deep as allowed", strings.Repeat("[", 250) + strings.Repeat("]", 250)},
	}
	for i, v := range values {
		// As a member, so that no rule for empty params applies.
		params := `{"v":` + v.json + `}`
		if got := w.result(w.call(fmt.Sprint("v", i), "echo", params)); got != params {
			t.Errorf("%s: got %.200s, want %.200s", v.name, got, params)
		}
	}
}

func TestNativeParamsOfEcho(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	for params, want := range map[string]string{
		`{"a":1}`: `{"a":1}`,
		`[7]`:     `7`,
		`[1,2]`:   `[1,2]`,
		`"text"`:  `"text"`,
		`null`:    `{}`,
		`[]`:      `{}`,
		`0`:       `{}`,
		`""`:      `{}`,
		`false`:   `{}`,
	} {
		if got := w.result(w.call("e", "echo", params)); got != want {
			t.Errorf("echo of %s: got %s, want %s", params, got, want)
		}
	}
	w.send(`{"action":"rpc_request","request_id":"none","method":"echo"}` + "\n")
	if got := w.result(w.frame()); got != "{}" {
		t.Errorf("echo without params: got %s, want {}", got)
	}
}

func TestNativeFramesInPiecesAndAtOnce(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	frame := request("p", "math.add", `{"a":40,"b":2}`)
	for i := range frame {
		w.send(frame[i : i+1])
	}
	if got := w.result(w.frame()); got != "42" {
		t.Errorf("byte by byte: got %s, want 42", got)
	}
	// A CR before the LF is white space.
	w.send(strings.TrimSuffix(frame, "\n") + "\r\n")
	if got := w.result(w.frame()); got != "42" {
		t.Errorf("with CR: got %s, want 42", got)
	}
	// The last line needs no LF, and is answered after a half-close.
	w.send(strings.TrimSuffix(frame, "\n"))
	closeWrite(t, w)
	if got := w.result(w.frame()); got != "42" {
		t.Errorf("without LF before the end: got %s, want 42", got)
	}
	if rest := w.end(); rest != "" {
		t.Errorf("after the last reply came %q, want the end", rest)
	}
}

func closeWrite(t *testing.T, w *wire) {
	t.Helper()
	if err := w.Conn.(testkit.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

func TestNativeStreams(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()

	w.send(request("out", "demo.count", `{"n":3}`, `"stream":true`))
	for i := range 3 {
		f := w.frame()
		if f.Action != "rpc_chunk" || f.id() != "out" || f.Seq != uint64(i+1) || string(f.Data) != fmt.Sprint(i) {
			t.Fatalf("got %s, want chunk %d with data %d", f.line, i+1, i)
		}
	}
	if f := w.frame(); f.Action != "rpc_reply" || w.result(f) != "null" {
		t.Fatalf("got %s, want the reply that ends the stream", f.line)
	}

	// Without stream the items come as one array.
	if got := w.result(w.call("array", "demo.count", `{"n":3}`)); strings.ReplaceAll(got, " ", "") != "[0,1,2]" {
		t.Errorf("got %s, want [0,1,2]", got)
	}

	// The caller's own stream.
	w.send(request("in", "demo.sum", `{}`, `"stream":true`))
	for _, n := range []string{"1", "2", "123456789012345678901234567890"} {
		w.send(`{"action":"rpc_chunk","request_id":"in","data":` + n + "}\n")
	}
	w.send(`{"action":"rpc_end","request_id":"in"}` + "\n")
	for {
		f := w.frame()
		if f.Action == "rpc_credit" {
			continue
		}
		if got := w.result(f); got != "123456789012345678901234567893" {
			t.Errorf("got %s, want the exact sum", got)
		}
		break
	}

	// Credit holds a stream back: one item per credit.
	w.send(request("slow", "demo.count", `{"n":1000000}`, `"stream":true`) + `{"action":"rpc_credit","request_id":"slow","n":1}` + "\n")
	f := w.frame()
	if f.Action != "rpc_chunk" {
		t.Fatalf("got %s, want a chunk", f.line)
	}
	w.send(`{"action":"rpc_cancel","request_id":"slow"}` + "\n")
	for f.Action == "rpc_chunk" {
		f = w.frame()
	}
	if f.kind() != "cancelled" {
		t.Errorf("got %s, want the end of the stream by cancel", f.line)
	}
}

func TestNativeHello(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	w.send(`{"action":"hello","version":1,"features":[]}` + "\n")
	f := w.frame()
	if f.Type != "hello" || !strings.Contains(f.line, `"version":1`) || !strings.Contains(f.line, `"server":"hubd/`) || !strings.Contains(f.line, `"features":[`) {
		t.Fatalf("got %s, want the hello of the hub", f.line)
	}
	// Whoever said hello hears whether a retry is safe.
	f = w.call("r", "no.such", "{}")
	if f.kind() != "not_found" || f.Retry != "safe" {
		t.Errorf("got %s, want not_found with retry safe", f.line)
	}
	// Others get the five keys of old.
	old := d.dial()
	if f := old.call("r", "no.such", "{}"); f.Retry != "" || strings.Contains(f.line, "error_data") {
		t.Errorf("got %s, want five keys only", f.line)
	}
}

func TestNativeErrors(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	tests := []struct {
		name, method, params, kind, text string
		more                             []string
	}{
		{"unknown method", "no.such", "{}", "not_found", "method not found: no.such", nil},
		{"handler error", "demo.fail", `{"message":"it's broken"}`, "handler", "it's broken", nil},
		{"a parameter too few", "math.add", `{"a":1}`, "invalid_params", "", nil},
		{"a parameter too many", "math.add", `[1,2,3]`, "invalid_params", "", nil},
		{"an unknown parameter", "demo.sleep", `{"seconds":0,"x":1}`, "invalid_params", "", nil},
		{"a wrong type", "demo.sleep", `{"seconds":"soon"}`, "invalid_params", "", nil},
		{"a stream without end that is asked for as one value", "health.ping", `{"count":0}`, "invalid_params", "", nil},
		{"timeout zero", "echo", "{}", "invalid_params", "", []string{`"timeout":0`}},
		{"timeout negative", "echo", "{}", "invalid_params", "", []string{`"timeout":-1`}},
		{"timeout no number", "echo", "{}", "invalid_params", "", []string{`"timeout":NaN`}},
		{"timeout a list", "echo", "{}", "invalid_params", "", []string{`"timeout":[]`}},
	}
	for _, tt := range tests {
		f := w.call("x", tt.method, tt.params, tt.more...)
		if f.kind() != tt.kind || f.text() == "" || tt.text != "" && f.text() != tt.text {
			t.Errorf("%s: got kind %q, error %q, want %q, %q", tt.name, f.kind(), f.text(), tt.kind, tt.text)
		}
	}
	for _, timeout := range []string{`"5"`, `null`, `Infinity`, `1e9`, `0.5`, `30`} {
		if got := w.result(w.call("t", "math.add", "[1,2]", `"timeout":`+timeout)); got != "3" {
			t.Errorf("timeout %s: got %s, want 3", timeout, got)
		}
	}
	w.send(request("dup", "demo.sleep", `{"seconds":600}`, `"timeout":600`) + request("dup", "echo", `{}`))
	if f := w.frame(); f.kind() != "duplicate" {
		t.Errorf("got %s, want an error of kind duplicate", f.line)
	}
	if n := d.calls("demo.sleep"); n != 1 {
		t.Errorf("%d calls of demo.sleep run, want the first one", n)
	}
}
