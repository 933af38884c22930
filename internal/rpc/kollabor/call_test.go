package kollabor

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

func request(id, method, params string) string {
	return fmt.Sprintf(`{"action":"rpc_request","request_id":%q,"method":%q,"params":%s}`, id, method, params)
}

func result(id, value string) string {
	return fmt.Sprintf(`{"action":"rpc_reply","request_id":%q,"result":%s,"error":null,"error_kind":null}`, id, value)
}

func TestReplyHasFiveKeysInOrder(t *testing.T) {
	p := dial(t, setup{})
	p.send(request("a", "echo", `{"x":1}`))
	got, err := p.line()
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"action":"rpc_reply","request_id":"a","result":{"x":1},"error":null,"error_kind":null}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	p.send(request("b", "demo.fail", `{"message":"it's broken"}`))
	got, err = p.line()
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"action":"rpc_reply","request_id":"b","result":null,"error":"it's broken","error_kind":"handler"}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestValuesComeBackAsTheyWent(t *testing.T) {
	p := dial(t, setup{})
	for _, params := range []string{
		`{"a":1.0,"b":1e-07,"c":9223372036854775809,"d":-0.0,"e":1E400}`,
		`{"n":1234567890123456789012345678901234567890}`,
		`{"n":-` + strings.Repeat("9", 1000) + `}`,
		`{"nan":NaN,"inf":Infinity,"ninf":-Infinity}`,
		`{"s":"\ud800","t":"\udfff\ud800","u":"\u0000"}`,
		`{"s":"größer 😀","t":"\ud83d\ude00"}`,
		`{"a":1,"a":2,"":{}}`,
		strings.Repeat("[", 256) + strings.Repeat("]", 256),
		`[1,2]`, `"text"`, `17`, `true`,
	} {
		p.send(request("v", "echo", params))
		got, err := p.line()
		if err != nil {
			t.Fatal(err)
		}
		want := params
		if strings.HasPrefix(params, "[[") { // an array of one is its element
			want = params[1 : len(params)-1]
		}
		if got != result("v", want) {
			t.Errorf("echo of %s gave %s", cutText(params), cutText(got))
		}
	}
}

func TestFalseParamsAreNone(t *testing.T) {
	p := dial(t, setup{})
	for _, params := range []string{"null", "[]", "[ ]", "{}", "{ }", `""`, "0", "0.0", "-0", "0e9", "false"} {
		p.send(request("e", "echo", params))
		if got, _ := p.line(); got != result("e", "{}") && !sameJSON(t, got, result("e", "{}")) {
			t.Errorf("params %s: %s", params, got)
		}
	}
	p.send(`{"action":"rpc_request","request_id":"none","method":"echo"}`)
	p.want(result("none", "{}"))
}

func TestRequestIDsAreEchoed(t *testing.T) {
	p := dial(t, setup{})
	for _, id := range []string{`"x"`, `""`, `17`, `-1.50`, `null`, `true`, `[1,"a"]`, `{"k":[]}`, `"\u0041"`, `"ü"`, `123456789012345678901234567890`} {
		p.send(`{"action":"rpc_request","request_id":` + id + `,"method":"echo","params":{}}`)
		if got, err := p.line(); err != nil || !strings.Contains(got, `"request_id":`+id+`,`) {
			t.Errorf("id %s: %s, %v", id, got, err)
		}
	}
}

func TestHundredCallsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dial(t, setup{})
		began := time.Now()
		go func() {
			for i := range 100 {
				p.send(request(fmt.Sprint(i), "demo.sleep", `{"seconds":1}`))
			}
		}()
		seen := map[string]bool{}
		for range 100 {
			m := p.read()
			if m["error"] != nil {
				t.Fatal(m)
			}
			seen[m["request_id"].(string)] = true
		}
		if len(seen) != 100 {
			t.Errorf("%d different replies", len(seen))
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("took %v on the bubble's clock", took)
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
}

func TestSlowCallDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dial(t, setup{})
		p.send(request("slow", "demo.sleep", `{"seconds":5}`), `{"action":"ping"}`, request("fast", "echo", `{"i":1}`), `{"action":"ping"}`)
		p.want(`{"type":"pong","agent_id":"a1b2c3d4e5f6"}`)
		p.want(result("fast", `{"i":1}`))
		p.want(`{"type":"pong","agent_id":"a1b2c3d4e5f6"}`)
		p.want(result("slow", "5"))
		p.close()
	})
}

func TestTimeouts(t *testing.T) {
	for _, c := range []struct {
		timeout string
		after   time.Duration // 0: refused at once
		text    string
	}{
		{timeout: "0.2", after: 200 * time.Millisecond},
		{timeout: "2", after: 2 * time.Second},
		{timeout: `"7"`, after: 7 * time.Second},
		{timeout: `" 1e1 "`, after: 10 * time.Second},
		{timeout: "null", after: 30 * time.Second},
		{timeout: "30.0", after: 30 * time.Second},
		{timeout: "1e-9", after: time.Millisecond},
		{timeout: "1e-999", after: time.Millisecond},
		{timeout: "7200", after: time.Hour},
		{timeout: "Infinity", after: time.Hour},
		{timeout: `"inf"`, after: time.Hour},
		{timeout: "1e999", after: time.Hour},
		{timeout: "0"}, {timeout: "-0.0"}, {timeout: "-1"}, {timeout: "NaN"}, {timeout: "-Infinity"}, {timeout: `"nan"`}, {timeout: `"abc"`},
		{timeout: `""`}, {timeout: `"0x10"`}, {timeout: "true"}, {timeout: "[]"}, {timeout: "{}"}, {timeout: "-1e999"}, {timeout: `"-1e-999"`},
	} {
		for _, hello := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				p := dial(t, setup{})
				p.patience = 2 * time.Hour
				if hello {
					p.send(`{"action":"hello","version":1}`)
					p.read()
				}
				began := time.Now()
				p.send(`{"action":"rpc_request","request_id":"t","method":"demo.sleep","params":{"seconds":86400},"timeout":` + c.timeout + `}`)
				m := p.read()
				kind, after := "timeout", c.after
				if after == 0 {
					kind = "invalid_params"
				} else if !hello {
					after += grace
				}
				if m["error_kind"] != kind || m["error"] == "" || time.Since(began) != after {
					t.Errorf("timeout %s (hello %v): %v after %v, want %s after %v", c.timeout, hello, m, time.Since(began), kind, after)
				}
				if kind == "timeout" && m["retry"] != "unknown" || kind == "invalid_params" && m["retry"] != "safe" {
					t.Errorf("retry is %v for %s", m["retry"], kind)
				}
				p.close()
			})
		}
	}
}

func TestDefaultTimeoutIsThirtySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dial(t, setup{})
		p.patience = time.Minute
		began := time.Now()
		p.send(request("t", "demo.sleep", `{"seconds":31}`))
		if m := p.read(); m["error_kind"] != "timeout" || time.Since(began) != 30*time.Second+grace {
			t.Errorf("%v after %v", m, time.Since(began))
		}
		p.close()
	})
}

func TestDuplicateID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dial(t, setup{})
		p.send(request("x", "demo.sleep", `{"seconds":1}`), request("x", "echo", `{"n":1}`), request("x", "demo.sleep", `{"seconds":1}`))
		for range 2 {
			if m := p.read(); m["error_kind"] != "duplicate" || m["retry"] != "safe" || m["error"] == "" {
				t.Errorf("second use: %v", m)
			}
		}
		p.want(result("x", "1"))
		p.send(request("x", "echo", `{"n":2}`))
		p.want(result("x", `{"n":2}`))
		p.close()
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dial(t, setup{})
		p.send(request("c", "demo.sleep", `{"seconds":20}`), `{"action":"rpc_cancel","request_id":"other"}`, `{"action":"rpc_cancel","request_id":"c"}`)
		m := p.read()
		if m["error_kind"] != "cancelled" || m["request_id"] != "c" || m["error"] == "" || m["retry"] != "unknown" {
			t.Errorf("cancel: %v", m)
		}
		p.send(`{"action":"rpc_cancel","request_id":"c"}`, `{"action":"rpc_cancel"}`)
		if m := p.read(); m["type"] != "error" {
			t.Errorf("cancel without id: %v", m)
		}
		p.quiet()
		p.close()
	})
}

func TestErrorKinds(t *testing.T) {
	p := dial(t, setup{})
	for code, kind := range kinds {
		p.send(request("k", "demo.failAs", fmt.Sprintf(`{"code":%q,"data":{"n":1}}`, code)))
		m := p.read()
		old := kind == kindNotFound || kind == kindHandler || kind == kindSerialization
		if m["error_kind"] != kind || m["error"] == "" {
			t.Errorf("%s: %v", code, m)
		}
		if _, has := m["retry"]; has == old || len(m) != map[bool]int{true: 5, false: 7}[old] {
			t.Errorf("%s has %d members: %v", kind, len(m), m)
		}
	}
	p.send(request("n", "demo.failAs", `{"code":"handler","name":"ValueError"}`))
	p.want(`{"action":"rpc_reply","request_id":"n","result":null,"error":"ValueError: failed as handler","error_kind":"handler"}`)
	p.send(request("p", "demo.panic", `{}`))
	p.want(`{"action":"rpc_reply","request_id":"p","result":null,"error":"internal error","error_kind":"internal","retry":"unknown"}`)
	p.send(request("m", "no.such", `{}`))
	p.want(`{"action":"rpc_reply","request_id":"m","result":null,"error":"method not found: no.such","error_kind":"not_found"}`)
	p.send(`{"action":"hello","version":1}`)
	p.read()
	p.send(request("m", "no.such", `{}`))
	p.want(`{"action":"rpc_reply","request_id":"m","result":null,"error":"method not found: no.such","error_kind":"not_found","retry":"safe","no_method":true}`)
	p.send(request("f", "demo.failAs", `{"code":"handler","data":[1]}`))
	p.want(`{"action":"rpc_reply","request_id":"f","result":null,"error":"failed as handler","error_kind":"handler","error_data":[1],"retry":"unsafe"}`)
}

func TestScopes(t *testing.T) {
	reader := &rpc.Peer{UID: 5, Name: "reader", Scopes: rpc.ScopeRead}
	p := dial(t, setup{conn: func(c *Conn) { c.Peer = reader }, cfg: Config{Sessions: house{"demo": newRoom("demo")}, OnShutdown: func(string, *rpc.Peer) { t.Error("shut down by a reader") }}})
	p.send(request("a", "admin.only", `{}`))
	if m := p.read(); m["error_kind"] != "permission" {
		t.Error(m)
	}
	for _, line := range []string{`{"action":"shutdown"}`, `{"action":"message","content":"x"}`, `{"action":"roster_update"}`, `{"action":"attach","mode":"interactive"}`} {
		p.send(line)
		if m := p.read(); m["type"] != "error" || !strings.Contains(m["msg"].(string), "not allowed") {
			t.Errorf("%s: %v", line, m)
		}
	}
}

func TestTooLargeResult(t *testing.T) {
	g := newGauge()
	p := dial(t, setup{unix: true, cfg: Config{Gate: &rpc.Gate{Observer: g}}})
	over := frame.MaxLine - len(result("a", `{"size": 16777216, "data": ""}`)) // to the byte
	p.send(request("a", "blob", fmt.Sprintf(`{"size":%d}`, over)))
	got, err := p.line()
	if err != nil || len(got) != frame.MaxLine {
		t.Fatalf("the largest reply has %d bytes, %v", len(got), err)
	}
	p.send(request("a", "blob", fmt.Sprintf(`{"size":%d}`, over+1)))
	p.want(`{"action":"rpc_reply","request_id":"a","result":null,"error":"result too large","error_kind":"serialization"}`)
	p.send(request("b", "badkey", `{}`))
	if m := p.read(); m["error_kind"] != "serialization" {
		t.Error(m)
	}
	p.quiet()
	p.close()
	if g.done[rpc.CodeSerialization] != 2 || g.done[rpc.CodeOK] != 2 {
		t.Errorf("counted %v", g.done)
	}
}

func TestLargeEcho(t *testing.T) {
	p := dial(t, setup{unix: true})
	head, tail := `{"action":"rpc_request","request_id":"big","method":"echo","params":{"pad":"`, `"}}`
	p.send(head + strings.Repeat("x", 15<<20) + tail)
	got, err := p.line()
	if err != nil || got != result("big", `{"pad":"`+strings.Repeat("x", 15<<20)+`"}`) {
		t.Fatalf("15 MiB echo: %d bytes, %v", len(got), err)
	}
	pad := frame.MaxLine - len(head) - len(tail)
	p.send(head + strings.Repeat("x", pad) + tail) // exactly the limit: read, and answered that the reply is too large
	if m := p.read(); m["request_id"] != "big" {
		t.Errorf("%v", m)
	}
	p.quiet()
}

func TestClosingCancelsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge()
		p := dial(t, setup{cfg: Config{Gate: &rpc.Gate{Observer: g}, Observer: g}})
		for i := range 10 {
			p.send(request(fmt.Sprint(i), "demo.sleep", `{"seconds":25}`))
		}
		synctest.Wait()
		if p.link.N() != 10 {
			t.Fatalf("%d calls run", p.link.N())
		}
		began := time.Now()
		if err := p.close(); err != nil {
			t.Error(err)
		}
		if g.done[rpc.CodeCancelled] != 10 || time.Since(began) != 0 {
			t.Errorf("%v after %v", g.done, time.Since(began))
		}
	})
}
