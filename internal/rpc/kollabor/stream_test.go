package kollabor

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func streamRequest(id, method, params string) string {
	return fmt.Sprintf(`{"action":"rpc_request","request_id":%q,"method":%q,"params":%s,"stream":true}`, id, method, params)
}

func chunk(id string, seq int, data string) string {
	return fmt.Sprintf(`{"action":"rpc_chunk","request_id":%q,"seq":%d,"data":%s}`, id, seq, data)
}

func credit(id string, n int) string {
	return fmt.Sprintf(`{"action":"rpc_credit","request_id":%q,"n":%d}`, id, n)
}

func TestStreamOut(t *testing.T) {
	p := dial(t, setup{})
	p.send(streamRequest("s", "demo.count", `{"n":1000}`))
	for i := range 1000 {
		p.want(chunk("s", i+1, fmt.Sprint(i)))
	}
	p.want(result("s", "null"))
	p.send(streamRequest("s", "demo.count", `{"n":0}`)) // the id is free again
	p.want(result("s", "null"))
}

func TestStreamOfASingleValue(t *testing.T) {
	p := dial(t, setup{})
	p.send(streamRequest("s", "echo", `{"a":1}`))
	p.want(result("s", `{"a":1}`))
}

func TestStreamWithoutStream(t *testing.T) {
	p := dial(t, setup{})
	p.send(request("s", "demo.count", `{"n":3}`))
	p.want(result("s", `[0,1,2]`))
	p.send(request("s", "demo.endless", `{}`))
	if m := p.read(); m["error_kind"] != "invalid_params" || m["retry"] != "safe" {
		t.Error(m)
	}
	p.send(request("s", "demo.count", `{"n":100001}`))
	if m := p.read(); m["error_kind"] != "too_large" {
		t.Error(m)
	}
	p.quiet()
}

func TestStreamError(t *testing.T) {
	p := dial(t, setup{})
	p.send(streamRequest("u", "demo.upper", `{"lines":["a","ü",3,"b"]}`))
	p.want(chunk("u", 1, `"A"`))
	p.want(chunk("u", 2, `"Ü"`))
	if m := p.read(); m["error_kind"] != "invalid_params" || m["action"] != "rpc_reply" {
		t.Error(m)
	}
	p.quiet()
}

func TestExplicitCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dial(t, setup{})
		p.send(streamRequest("s", "demo.count", `{"n":20}`), credit("s", 2))
		p.want(chunk("s", 1, "0"))
		p.want(chunk("s", 2, "1"))
		synctest.Wait()
		p.quiet() // nothing more without credit
		p.send(credit("s", 1))
		p.want(chunk("s", 3, "2"))
		synctest.Wait()
		p.quiet()
		p.send(credit("s", 17))
		for i := range 17 {
			p.want(chunk("s", i+4, fmt.Sprint(i+3)))
		}
		p.want(result("s", "null"))
		p.quiet()
		p.close()
	})
}

// Credit in the same write as the request counts from the first item, however
// early the method begins; without it, the stream begins all the same.
func TestCreditAlongWithTheRequest(t *testing.T) {
	p := dial(t, setup{})
	for i := range 200 {
		id := fmt.Sprint("s", i)
		p.send(streamRequest(id, "demo.count", `{"n":20}`), credit(id, 1))
		p.want(chunk(id, 1, "0"))
		p.send(credit(id, 1), `{"action":"rpc_cancel","request_id":"`+id+`"}`)
		next := p.read()
		if next["action"] == "rpc_chunk" { // the cancel may have come before the second item
			if fmt.Sprint(next["seq"]) != "2" {
				t.Fatal(next)
			}
			next = p.read()
		}
		if next["error_kind"] != "cancelled" {
			t.Fatal(next)
		}
		p.send(streamRequest(id, "demo.count", `{"n":2}`), `{"action":"ping"}`)
		got := 0
		for got < 4 {
			if m := p.read(); m["action"] == "rpc_chunk" || m["type"] == "pong" || m["action"] == "rpc_reply" {
				got++
			}
		}
	}
}

func TestCreditOutlivesTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dial(t, setup{})
		p.send(streamRequest("s", "demo.count", `{"n":5}`), credit("s", 0))
		synctest.Wait()
		p.quiet()
		p.send(streamRequest("s", "demo.count", `{"n":5}`)) // still in use
		if m := p.read(); m["error_kind"] != "duplicate" {
			t.Error(m)
		}
		p.send(credit("s", 3))
		for i := range 3 {
			p.want(chunk("s", i+1, fmt.Sprint(i)))
		}
		synctest.Wait()
		p.send(`{"action":"rpc_cancel","request_id":"s"}`)
		if m := p.read(); m["error_kind"] != "cancelled" {
			t.Error(m)
		}
		p.send(streamRequest("s", "demo.count", `{"n":1}`))
		p.want(chunk("s", 1, "0"))
		p.want(result("s", "null"))
		p.close()
	})
}

func TestCancelEndsAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge()
		p := dial(t, setup{cfg: Config{Gate: &rpc.Gate{Observer: g}}})
		p.send(streamRequest("s", "demo.count", `{"n":1000000,"delay":1}`))
		p.want(chunk("s", 1, "0"))
		p.patience = 0
		p.want(chunk("s", 2, "1"))
		p.send(`{"action":"rpc_cancel","request_id":"s"}`)
		if m := p.read(); m["error_kind"] != "cancelled" {
			t.Error(m)
		}
		p.quiet()
		p.close()
		if g.done[rpc.CodeCancelled] != 1 {
			t.Error(g.done)
		}
	})
}

func TestStreamOutlivesItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dial(t, setup{})
		p.send(`{"action":"rpc_request","request_id":"s","method":"demo.count","params":{"n":10,"delay":1},"timeout":2,"stream":true}`)
		for i := range 10 {
			p.want(chunk("s", i+1, fmt.Sprint(i)))
		}
		p.want(result("s", "null"))
		p.close()
	})
}

// A reader that takes nothing makes the stream wait: what the hub holds stays
// bounded, and the stream goes on when the reader does.
func TestStreamWaitsForRoom(t *testing.T) {
	p := dial(t, setup{unix: true})
	const n, size = 300, 100 << 10 // 30 MB, near the hard limit of the outbox
	p.send(streamRequest("s", "demo.blobs", fmt.Sprintf(`{"n":%d,"size":%d}`, n, size)))
	first, err := p.line()
	if err != nil || !strings.Contains(first, `"seq":1,`) {
		t.Fatal(cutText(first), err)
	}
	p.send(request("ping", "ping", `{}`)) // the reader of the hub goes on
	peak, replies := 0, 0
	for got := 1; got < n; {
		line, err := p.line()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, `"rpc_reply"`) {
			replies++
			continue
		}
		got++
		peak = max(peak, p.link.Out.Len())
	}
	if peak > 4<<20 {
		t.Errorf("the outbox held %d bytes", peak)
	}
	if replies != 1 {
		t.Errorf("%d replies before the stream's end", replies)
	}
	p.want(result("s", "null"))
}

func TestTooLargeItem(t *testing.T) {
	p := dial(t, setup{unix: true})
	p.send(streamRequest("s", "demo.blobs", fmt.Sprintf(`{"n":2,"size":%d}`, 16<<20)))
	if m := p.read(); m["error_kind"] != "serialization" {
		t.Error(m)
	}
	p.quiet()
}

func TestStreamIn(t *testing.T) {
	p := dial(t, setup{})
	p.send(request("s", "demo.sum", `{}`), chunk("s", 1, "1"), chunk("s", 2, "2.5"))
	if m := p.read(); m["action"] != "rpc_credit" || m["request_id"] != "s" {
		t.Fatalf("no credit: %v", m)
	}
	p.send(chunk("s", 3, "3"), `{"action":"rpc_end","request_id":"s"}`)
	p.want(result("s", "6.5"))
	p.send(chunk("s", 4, "3"), `{"action":"rpc_end","request_id":"s"}`, chunk("never", 1, "3")) // dropped
	p.quiet()

	p.send(request("l", "demo.sum", `{"values":[1,2]}`))
	p.want(result("l", "3"))
	p.send(request("l", "demo.sum", `[[1,2,3]]`))
	p.want(result("l", "6"))
	p.send(request("e", "demo.sum", `{}`), `{"action":"rpc_end","request_id":"e"}`)
	p.want(result("e", "0"))
}

func TestStreamInNeedsNoCreditFromOldClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dial(t, setup{})
		p.patience = 0
		p.send(`{"action":"rpc_request","request_id":"s","method":"demo.sum","params":{},"timeout":5}`)
		if m := p.read(); m["error_kind"] != "timeout" {
			t.Errorf("the first frame is %v", m)
		}
		p.close()
	})
}

func TestStreamInIsToldOfCredit(t *testing.T) {
	p := dial(t, setup{})
	p.send(`{"action":"hello","version":1}`)
	p.read()
	p.send(request("s", "demo.sum", `{}`))
	left, sent, sum := 0, 0, 0
	for sent < 1000 {
		if left == 0 {
			m := p.read()
			if m["action"] != "rpc_credit" {
				t.Fatalf("%v after %d items", m, sent)
			}
			fmt.Sscan(fmt.Sprint(m["n"]), &left)
			continue
		}
		sent++
		left--
		sum += sent
		p.send(chunk("s", sent, fmt.Sprint(sent)))
	}
	p.send(`{"action":"rpc_end","request_id":"s"}`)
	for {
		m := p.read()
		if m["action"] == "rpc_credit" {
			continue
		}
		if fmt.Sprint(m["result"]) != fmt.Sprint(sum) {
			t.Errorf("%v, want %d", m, sum)
		}
		break
	}
}

func TestStreamInBrokenOff(t *testing.T) {
	p := dial(t, setup{})
	p.send(request("s", "demo.sum", `{}`), chunk("s", 1, "1"), `{"action":"rpc_end","request_id":"s","error":"no more"}`)
	for {
		m := p.read()
		if m["action"] == "rpc_credit" {
			continue
		}
		if m["error"] != "no more" || m["error_kind"] != "handler" {
			t.Error(m)
		}
		break
	}
}

func TestStreamInAndOut(t *testing.T) {
	p := dial(t, setup{})
	p.send(streamRequest("u", "demo.upper", `{}`))
	next := func() map[string]any {
		for {
			if m := p.read(); m["action"] != "rpc_credit" {
				return m
			}
		}
	}
	for i, s := range []string{"a", "b", "c"} { // item by item, as they come
		p.send(chunk("u", i+1, fmt.Sprintf("%q", s)))
		if m := next(); m["data"] != strings.ToUpper(s) {
			t.Fatal(m)
		}
	}
	p.send(`{"action":"rpc_end","request_id":"u"}`)
	if m := next(); m["action"] != "rpc_reply" || m["error"] != nil {
		t.Error(m)
	}
}

func TestCallClient(t *testing.T) {
	p := dial(t, setup{})
	p.send(request("c", "demo.callClient", `["greet",1,{"a":[]}]`))
	m := p.read()
	if m["action"] != "rpc_request" || m["method"] != "greet" || fmt.Sprint(m["params"]) != "[1 map[a:[]]]" {
		t.Fatal(m)
	}
	p.send(fmt.Sprintf(`{"action":"rpc_reply","request_id":%q,"result":{"hi":NaN},"error":null,"error_kind":null}`, m["request_id"]))
	p.want(result("c", `{"hi":NaN}`))

	p.send(request("d", "demo.callClient", `["greet"]`))
	m = p.read()
	p.send(fmt.Sprintf(`{"action":"rpc_reply","request_id":%q,"result":null,"error":"I will not","error_kind":"handler"}`, m["request_id"]))
	p.want(`{"action":"rpc_reply","request_id":"d","result":null,"error":"I will not","error_kind":"handler"}`)

	// The trace goes on with the call; what is no trace context does not.
	const trace = `"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"`
	p.send(strings.Replace(request("t", "demo.callClient", `["greet"]`), `}`, `,`+trace+`}`, 1))
	m = p.read()
	if m["traceparent"] != "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" {
		t.Errorf("the trace ends here: %v", m)
	}
	p.send(fmt.Sprintf(`{"action":"rpc_reply","request_id":%q,"result":1,"error":null,"error_kind":null}`, m["request_id"]))
	p.want(result("t", `1`))

	// A streamed answer is collected, since the method wants one value.
	p.send(request("e", "demo.callClient", `{"method":"list"}`))
	id := p.read()["request_id"].(string)
	p.send(chunk(id, 1, "1"), chunk(id, 2, "2"), result(id, "null"))
	for {
		m := p.read()
		if m["action"] == "rpc_credit" {
			continue
		}
		if fmt.Sprint(m["result"]) != "[1 2]" {
			t.Error(m)
		}
		break
	}
	p.send(result("hub-999", "1"), result(id, "null")) // late and foreign ones
	p.quiet()
}

func TestCallClientIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dial(t, setup{})
		p.send(request("c", "demo.callClient", `["greet"]`))
		id := p.read()["request_id"].(string)
		p.send(`{"action":"rpc_cancel","request_id":"c"}`)
		got := map[any]any{}
		for range 2 {
			m := p.read()
			got[m["action"]] = m["request_id"]
		}
		if got["rpc_reply"] != "c" || got["rpc_cancel"] != id {
			t.Error(got)
		}
		p.send(request("g", "demo.callClient", `["greet"]`))
		p.read()
		p.close() // with a call to the client in flight
	})
}

// The caller's stream and the streamed answer pass through a forwarding method.
func TestStreamsThroughTheClient(t *testing.T) {
	table := testTable()
	front := newTestServer(setup{cfg: Config{Table: table}})
	var offer rpc.Target
	table.MustAdd(rpc.NewTarget(&rpc.Method{Name: "far.upper", StreamOut: true, Params: []rpc.Param{{Name: "lines", Stream: true}}},
		rpc.TargetFunc(func(b *rpc.Batch, c *rpc.Call) {
			c.Path = []rpc.PathPart{{Name: "upper"}}
			offer.Start(b, c)
		})))
	table.MustAdd(rpc.NewMethod(&rpc.Method{Name: "offer", Run: rpc.Inline}, func(c *rpc.Call) (rpc.Value, error) {
		offer = c.Client
		return rpc.Null, nil
	}))
	provider := dialServer(t, front, setup{})
	provider.send(request("o", "offer", `{}`))
	provider.want(result("o", "null"))

	caller := dialServer(t, front, setup{})
	caller.send(streamRequest("u", "far.upper", `{}`), chunk("u", 1, `"a"`), chunk("u", 2, `"b"`), `{"action":"rpc_end","request_id":"u"}`)
	next := func(p *peer, action string) map[string]any {
		for {
			if m := p.read(); m["action"] != "rpc_credit" || action == "rpc_credit" {
				if m["action"] != action {
					t.Fatalf("%v, want %s", m, action)
				}
				return m
			}
		}
	}
	m := next(provider, "rpc_request")
	if m["method"] != "upper" || m["stream"] != true {
		t.Fatal(m)
	}
	id := m["request_id"].(string)
	if m := next(provider, "rpc_chunk"); m["data"] != "a" {
		t.Fatal(m)
	}
	if m := next(provider, "rpc_chunk"); m["data"] != "b" {
		t.Fatal(m)
	}
	next(provider, "rpc_end")
	provider.send(chunk(id, 1, `"A"`), chunk(id, 2, `"B"`), result(id, "null"))
	if m := next(caller, "rpc_chunk"); m["data"] != "A" || fmt.Sprint(m["seq"]) != "1" {
		t.Fatal(m)
	}
	if m := next(caller, "rpc_chunk"); m["data"] != "B" {
		t.Fatal(m)
	}
	if m := next(caller, "rpc_reply"); m["error"] != nil {
		t.Fatal(m)
	}
	caller.send(streamRequest("v", "far.upper", `{}`))
	next(provider, "rpc_request")
	provider.close()
	if m := next(caller, "rpc_reply"); m["error_kind"] != "unavailable" || m["retry"] != "unknown" {
		t.Error(m)
	}
}
