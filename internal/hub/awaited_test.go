package hub

import (
	"net/url"
	"strings"
	"testing"
)

// A method whose provider may come back after a restart is unavailable, and the
// call can be repeated safely; one that nobody offered is not there.
func TestProvidedMethodIsUnavailableAfterARestart(t *testing.T) {
	state := shortDir(t)
	h := startHub(t, Options{State: state})
	provideWeather(t, h)
	socket := h.socket
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	h = startHubAt(t, socket, Options{State: state})
	w := h.dial()
	for _, method := range []string{"weather.raw", "weather.today"} {
		r := w.call(method, `{}`)
		if r.kind() != "unavailable" || !strings.Contains(*r.Error, "the provider of "+method+" is not back yet") {
			t.Errorf("%s: %+v", method, r)
		}
	}
	w.send(`{"action":"rpc_request","request_id":"r","method":"weather.raw","params":{}}` + "\n")
	if line := w.line(); !strings.Contains(line, `"retry":"safe"`) {
		t.Errorf("advice on retries: %s", line)
	}
	if r := w.call("hub.methods", `["weather"]`); r.kind() != "unavailable" {
		t.Errorf("hub.methods: %+v", r)
	}
	if _, body := h.get("/krpc?json=" + url.QueryEscape(`{"method":"weather_raw","params":[]}`)); !strings.Contains(body, "not back yet") {
		t.Errorf("krpc: %s", body)
	}
	if got := w.call("weather.typo", `{}`); got.kind() != "not_found" {
		t.Errorf("a method that never was: %+v", got)
	}
	if got := h.dial().message(`["CommandMessage","weather","raw",[],{}]`); !strings.Contains(got, "not back yet") {
		t.Errorf("snekrpc: %s", got)
	}

	p := provideWeather(t, h)
	c := h.dial()
	c.send(`{"action":"rpc_request","request_id":"1","method":"weather.raw"}` + "\n")
	p.answer(p.request("rpc_request"), `"back"`)
	if got := c.reply(); string(got.Result) != `"back"` {
		t.Errorf("after it came back: %+v", got)
	}
	if r := p.call("hub.unprovide", `{"service":"weather"}`); r.Error != nil {
		t.Fatalf("%+v", r)
	}
	if got := w.call("weather.raw", `{}`); got.kind() != "not_found" {
		t.Errorf("after it was withdrawn: %+v", got)
	}
}
