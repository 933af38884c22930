package hub

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Lists of what others have made come in pages of a bounded size, from which
// all of it can be read.
func TestListsComeInPages(t *testing.T) {
	h := startHub(t, Options{})
	w := h.dial()
	param := fmt.Sprintf(`{"name":"p","default":%q}`, strings.Repeat("x", 4000))
	var described []string
	for i := range 200 {
		described = append(described, fmt.Sprintf(`{"name":"m%03d","params":[%s]}`, i, param))
	}
	for i := range 4 {
		if r := w.call("hub.provide", fmt.Sprintf(`{"service":"s%d","methods":[%s]}`, i, strings.Join(described, ","))); r.Error != nil {
			t.Fatalf("%+v", r)
		}
	}
	var names []string
	pages := 0
	for after := ""; ; pages++ {
		r := w.call("hub.methods", fmt.Sprintf(`{"after":%q}`, after))
		if len(r.Result) > 2<<20 {
			t.Errorf("page %d has %d bytes", pages, len(r.Result))
		}
		var list []methodInfo
		if err := json.Unmarshal(r.Result, &list); err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		for _, m := range list {
			names = append(names, m.Name)
		}
		after = list[len(list)-1].Name
	}
	if pages < 3 || !slices.IsSorted(names) || !slices.Contains(names, "s3.m199") || !slices.Contains(names, "state.get") ||
		len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("%d methods on %d pages", len(names), pages)
	}
	if got := h.dial().message(`["CommandMessage","_meta","services",[],{}]`); len(got) > 6<<20 || !strings.Contains(got, `"name":"state"`) {
		t.Errorf("_meta.services has %d bytes", len(got))
	}

	for range 4 {
		h.dial().call("ping", `{}`)
	}
	var all []peerInfo
	for after := uint64(0); ; {
		var page []peerInfo
		if err := json.Unmarshal(w.call("hub.peers", fmt.Sprintf(`{"limit":2,"after":%d}`, after)).Result, &page); err != nil || len(page) > 2 {
			t.Fatalf("%v, %d rows", err, len(page))
		}
		if len(page) == 0 {
			break
		}
		all, after = append(all, page...), page[len(page)-1].Conn
	}
	if len(all) < 5 {
		t.Errorf("%d peers", len(all))
	}
	for method, params := range map[string]string{"hub.methods": `{"limit":0}`, "hub.peers": `{"limit":-1}`, "hub.calls": `{"limit":10001}`, "session.list": `{"limit":0}`} {
		if r := w.call(method, params); r.kind() != "invalid_params" {
			t.Errorf("%s%s: %+v", method, params, r)
		}
	}
	w.send(`{"action":"rpc_request","request_id":"c","method":"hub.calls","params":{"limit":1}}` + "\n")
	if r := w.reply(); !strings.Contains(string(r.Result), `"hub.calls"`) {
		t.Errorf("hub.calls: %s", r.Result)
	}
	if r := w.call("hub.calls", `{"after":1}`); string(r.Result) != "[]" {
		t.Errorf("the second page of hub.calls has the question for it: %s", r.Result)
	}
	if r := w.call("session.list", `{"after":"zzz"}`); string(r.Result) != "[]" {
		t.Errorf("session.list: %s", r.Result)
	}
}

// A method whose parameters are not described takes names in snekrpc as well.
func TestUndescribedMethodTakesNamesInSnekrpc(t *testing.T) {
	h := startHub(t, Options{})
	p := provideWeather(t, h)
	s := h.dial()
	got := s.message(`["CommandMessage","_meta","service",[["Argument","weather"]],{}]`)
	raw := got[strings.Index(got, `"name":"raw"`):]
	if !strings.Contains(raw, `"name":"args","doc":null,"kind":2`) || !strings.Contains(raw, `"name":"kwargs","doc":null,"kind":4`) {
		t.Errorf("described as %s", raw)
	}
	answer := make(chan string, 1)
	go func() {
		answer <- s.message(`["CommandMessage","weather","raw",[],{"city":["Argument","Oslo"],"days":["Argument",3]}]`)
	}()
	r := p.request("rpc_request")
	if string(r.Params) != `{"city":"Oslo","days":3}` {
		t.Errorf("the provider got %s", r.Params)
	}
	p.answer(r, `"rain"`)
	if got := <-answer; got != `["DataMessage","rain"]` && !strings.Contains(got, "rain") {
		t.Errorf("the caller got %s", got)
	}
}
