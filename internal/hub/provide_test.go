package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
)

// request is a call of the hub to a provider, as the native wire has it.
type request struct {
	Action    string          `json:"action"`
	RequestID string          `json:"request_id"`
	Method    string          `json:"method"`
	Params    json.RawMessage `json:"params"`
}

func (w *wire) request(action string) request {
	w.t.Helper()
	for {
		line := w.line()
		var r request
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			w.t.Fatalf("%q: %v", line, err)
		}
		if r.Action == action {
			return r
		}
	}
}

func (w *wire) answer(r request, result string) {
	w.t.Helper()
	w.send(fmt.Sprintf(`{"action":"rpc_reply","request_id":%q,"result":%s,"error":null,"error_kind":null}`+"\n", r.RequestID, result))
}

const weather = `{"service":"weather","doc":"The weather.","methods":[
	{"name":"today","doc":"The weather of today.","params":[{"name":"city","type":"string","required":true},{"name":"days","type":"integer","default":1}],"result":"string","scope":"read"},
	"raw"]}`

func provideWeather(t *testing.T, h *testHub) *wire {
	t.Helper()
	p := h.dial()
	if r := p.call("hub.provide", oneLineOf(weather)); r.Error != nil || string(r.Result) != `{"service":"weather","methods":2}` {
		t.Fatalf("hub.provide: %+v", r)
	}
	return p
}

func oneLineOf(s string) string { return strings.NewReplacer("\n", "", "\t", "").Replace(s) }

// A method of one client is called by another as if the hub had it.
func TestProviderAnswersCallsOfOthers(t *testing.T) {
	h := startHub(t, Options{})
	p := provideWeather(t, h)
	c := h.dial()
	c.send(`{"action":"rpc_request","request_id":"1","method":"weather.today","params":{"days":3,"city":"Oslo"}}` + "\n")
	r := p.request("rpc_request")
	if r.Method != "weather.today" || string(r.Params) != `{"city":"Oslo","days":3}` {
		t.Fatalf("the provider got %+v", r)
	}
	p.answer(r, `"rain 1.0"`)
	if got := c.reply(); string(got.Result) != `"rain 1.0"` {
		t.Errorf("the caller got %+v", got)
	}

	// What was declared is checked before the provider hears of it.
	for params, want := range map[string]string{
		`{}`: `"city" is missing`, `{"city":"x","z":1}`: `no parameter "z"`, `["a",1,2]`: "at most 2",
	} {
		if got := c.call("weather.today", params); got.kind() != "invalid_params" || !strings.Contains(*got.Error, want) {
			t.Errorf("%s: %+v", params, got)
		}
	}
	// A method without described parameters takes what comes.
	c.send(`{"action":"rpc_request","request_id":"2","method":"weather.raw","params":[1,{"a":1.50}]}` + "\n")
	if r := p.request("rpc_request"); string(r.Params) != `[1,{"a":1.50}]` {
		t.Errorf("the provider got %s", r.Params)
	} else {
		p.send(fmt.Sprintf(`{"action":"rpc_reply","request_id":%q,"result":null,"error":"too wet","error_kind":"handler"}`+"\n", r.RequestID))
	}
	if got := c.reply(); got.kind() != "handler" || *got.Error != "too wet" {
		t.Errorf("the caller got %+v", got)
	}

	// It is described like any other.
	var list []methodInfo
	if err := json.Unmarshal(c.call("hub.methods", `{"service":"weather"}`).Result, &list); err != nil || len(list) != 2 {
		t.Fatalf("%v, %+v", err, list)
	}
	if m := list[1]; m.Name != "weather.today" || m.Doc != "The weather of today." || len(m.Params) != 2 || m.Scope != "read" ||
		!strings.HasPrefix(m.Provider, "conn ") {
		t.Errorf("described as %+v", m)
	}
}

// kkrpc, krpc and the native protocol reach a kkrpc provider; and it reaches theirs.
func TestProviderOfAnotherProtocol(t *testing.T) {
	h := startHub(t, Options{})
	ws := dialKkrpc(t, h, "")
	say(t, ws, `{"t":"q","id":"p","op":"call","p":["hub","provide"],"a":["weather",[{"name":"today","params":[{"name":"city","required":true},{"name":"days","default":1},{"name":"unit"}]}]]}`)
	if got := hear(t, ws); !strings.Contains(got, `"methods":1`) {
		t.Fatalf("hub.provide: %s", got)
	}
	serve := func(wantArgs, result string) {
		t.Helper()
		var q struct {
			ID string
			P  []string
			A  json.RawMessage
		}
		got := hear(t, ws)
		if err := json.Unmarshal([]byte(got), &q); err != nil || strings.Join(q.P, ".") != "weather.today" {
			t.Fatalf("the provider got %s", got)
		}
		if string(q.A) != wantArgs {
			t.Errorf("arguments %s, want %s", q.A, wantArgs)
		}
		say(t, ws, fmt.Sprintf(`{"t":"r","id":%q,"v":%s}`, q.ID, result))
	}
	c := h.dial()
	c.send(`{"action":"rpc_request","request_id":"1","method":"weather.today","params":{"unit":"C","city":"Oslo"}}` + "\n")
	serve(`["Oslo",{"__kkrpc_next_arg__":"value"},"C"]`, `{"rain":true}`) // undefined: its default is its own
	if got := c.reply(); string(got.Result) != `{"rain":true}` {
		t.Errorf("native: %+v", got)
	}
	answer := make(chan string, 1)
	go func() {
		_, body := h.get("/krpc?json=" + url.QueryEscape(`{"method":"weather_today","params":["Bergen"]}`))
		answer <- body
	}()
	serve(`["Bergen"]`, `"more rain"`)
	if got := <-answer; !strings.Contains(got, "more rain") {
		t.Errorf("krpc: %s", got)
	}
}

// A Cap'n Web client offers an object; it is released when the service is withdrawn.
func TestProviderPassesAnObject(t *testing.T) {
	h := startHub(t, Options{})
	c, err := capnweb.Dial(t.Context(), "unix://"+h.socket, capnweb.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	released := make(chan struct{})
	tides := rpc.NewRef(rpc.Object{
		"at": rpc.Handle("at", func(_ context.Context, in struct {
			Place string `rpc:"place"`
		}) (string, error) {
			return "high at " + in.Place, nil
		}),
	}, func() { close(released) })
	if _, err := c.Call(t.Context(), "hub.provide", "tides", []any{"at"}, "", nil, tides); err != nil {
		t.Fatal(err)
	}
	tides.Release() // only the hub holds it now
	if got := h.dial().call("tides.at", `["Bergen"]`); string(got.Result) != `"high at Bergen"` {
		t.Errorf("got %+v", got)
	}
	select {
	case <-released:
		t.Fatal("the object is gone while it is offered")
	default:
	}
	if _, err := c.Call(t.Context(), "hub.unprovide", "tides"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-released:
	case <-time.After(patience):
		t.Error("the object is held after the service was withdrawn")
	}
}

// A provider that leaves ends its calls and takes its methods along.
func TestProviderLeaves(t *testing.T) {
	h := startHub(t, Options{})
	p := provideWeather(t, h)
	c := h.dial()
	c.send(`{"action":"rpc_request","request_id":"1","method":"weather.raw"}` + "\n")
	p.request("rpc_request")
	p.Close()
	if got := c.reply(); got.kind() != "unavailable" {
		t.Errorf("the caller got %+v", got)
	}
	eventually(t, "the methods are gone", func() bool { return c.call("weather.raw", `{}`).kind() == "not_found" })
	if got := h.sample(`hubd_calls_total{code="ok",method="weather.raw",protocol="kollabor"}`); got != "" {
		t.Errorf("its series are still there: %s", got)
	}
	if came, left := h.sample(`hubd_provider_changes_total{change="came"}`), h.sample(`hubd_provider_changes_total{change="left"}`); came != "1" || left != "1" {
		t.Errorf("came %s, left %s", came, left)
	}
	provideWeather(t, h) // the name is free again
}

// A caller that gives up is told to the provider.
func TestCancelReachesProvider(t *testing.T) {
	h := startHub(t, Options{})
	p := provideWeather(t, h)
	c := h.dial()
	c.send(`{"action":"rpc_request","request_id":"1","method":"weather.raw"}` + "\n")
	r := p.request("rpc_request")
	c.send(`{"action":"rpc_cancel","request_id":"1"}` + "\n")
	if got := p.request("rpc_cancel"); got.RequestID != r.RequestID {
		t.Errorf("cancelled %q, want %q", got.RequestID, r.RequestID)
	}
	if got := c.reply(); got.kind() != "cancelled" {
		t.Errorf("the caller got %+v", got)
	}
	p.answer(r, `1`) // too late, and no harm
	if got := c.call("ping", `{}`); got.Error != nil {
		t.Errorf("ping: %+v", got)
	}
}

// Streams pass through in both directions.
func TestProviderStreams(t *testing.T) {
	h := startHub(t, Options{})
	p := h.dial()
	if r := p.call("hub.provide", `{"service":"lines","methods":[{"name":"upper","params":[{"name":"in","stream":true}],"stream_out":true}]}`); r.Error != nil {
		t.Fatalf("%+v", r)
	}
	c := h.dial()
	c.send(`{"action":"rpc_request","request_id":"1","method":"lines.upper","stream":true}` + "\n" +
		`{"action":"rpc_chunk","request_id":"1","seq":1,"data":"a"}` + "\n" + `{"action":"rpc_end","request_id":"1"}` + "\n")
	r := p.request("rpc_request")
	var item struct {
		Action string
		Data   string
	}
	for item.Action != "rpc_chunk" {
		if err := json.Unmarshal([]byte(p.line()), &item); err != nil {
			t.Fatal(err)
		}
	}
	if item.Data != "a" {
		t.Errorf("the provider got %q", item.Data)
	}
	p.request("rpc_end")
	p.send(fmt.Sprintf(`{"action":"rpc_chunk","request_id":%q,"seq":1,"data":"A"}`+"\n", r.RequestID))
	p.answer(r, "null")
	for {
		line := c.line()
		if strings.Contains(line, `"rpc_credit"`) {
			continue
		}
		if !strings.Contains(line, `"data":"A"`) {
			t.Errorf("the caller got %s", line)
		}
		break
	}
	if got := c.reply(); got.Error != nil {
		t.Errorf("the end: %+v", got)
	}
}

func TestWhoMayNotProvide(t *testing.T) {
	h := startHub(t, Options{Listen: []string{"tcp://127.0.0.1:0?auth=none&scopes=read,call"}})
	p := provideWeather(t, h)
	other := h.dial()
	for params, want := range map[string]string{
		oneLineOf(weather):                    "conflict",
		`{"service":"state","methods":["x"]}`: "conflict",
		`{"service":"a.b","methods":["x"]}`:   "invalid_params",
		`{"service":"a","methods":[]}`:        "invalid_params",
		`{"service":"a","methods":["x","x"]}`: "conflict",
		`{"service":"a","methods":["x.y"]}`:   "invalid_params",
		`{"service":"a","methods":[{"name":"x","params":[{"name":"p","type":"thing"}]}]}`: "invalid_params",
		`{"service":"a","methods":[{"name":"x","scope":"admin"}]}`:                        "invalid_params",
		`{"service":"a","methods":["x"],"prefix":"1"}`:                                    "invalid_params",
	} {
		if got := other.call("hub.provide", params); got.kind() != want {
			t.Errorf("%s: %+v, want %s", params, got, want)
		}
	}
	if got := other.call("a.x", `{}`); got.kind() != "not_found" {
		t.Errorf("a refused offer left something: %+v", got)
	}
	if got := other.call("hub.unprovide", `{"service":"weather"}`); got.kind() != "not_found" {
		t.Errorf("somebody else's service is withdrawn: %+v", got)
	}
	if got := dial(t, "tcp", h.tcp).call("hub.provide", `{"service":"a","methods":["x"]}`); got.kind() != "permission" {
		t.Errorf("without the scope: %+v", got)
	}
	if _, body := h.get("/krpc?json=" + url.QueryEscape(`{"method":"hub_provide","params":["a",["x"]]}`)); !strings.Contains(body, "cannot be called") {
		t.Errorf("krpc: %s", body)
	}
	if got := p.call("hub.unprovide", `{"service":"weather"}`); got.Error != nil {
		t.Errorf("its own: %+v", got)
	}
	if got := other.call("weather.raw", `{}`); got.kind() != "not_found" {
		t.Errorf("after it was withdrawn: %+v", got)
	}
}
