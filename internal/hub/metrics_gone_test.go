package hub

import (
	"strings"
	"testing"
)

// Series go with their methods: what calls come to that outlive the method they
// were made to counts as other, and makes no series again.
func TestSeriesDoNotOutliveTheirMethods(t *testing.T) {
	h := startHub(t, Options{})
	for range 3 {
		p := provideWeather(t, h)
		c := h.dial()
		c.send(`{"action":"rpc_request","request_id":"1","method":"weather.raw"}` + "\n")
		p.request("rpc_request")
		if r := p.call("hub.unprovide", `{"service":"weather"}`); r.Error != nil {
			t.Fatalf("%+v", r)
		}
		c.send(`{"action":"rpc_cancel","request_id":"1"}` + "\n")
		if got := c.reply(); got.kind() != "cancelled" {
			t.Errorf("the caller got %+v", got)
		}
		p.Close()
		c.Close()
	}
	eventually(t, "they count as other", func() bool {
		return h.sample(`hubd_calls_total{code="cancelled",method="other",protocol="kollabor"}`) == "3"
	})
	if _, page := h.get("/metrics"); strings.Contains(page, `"weather.`) {
		t.Error("there are series of methods that are gone")
	}
	p := provideWeather(t, h) // the next one of the name has its own again
	defer p.Close()
	c := h.dial()
	defer c.Close()
	c.send(`{"action":"rpc_request","request_id":"1","method":"weather.raw"}` + "\n")
	p.answer(p.request("rpc_request"), `1`)
	c.reply()
	if got := h.sample(`hubd_calls_total{code="ok",method="weather.raw",protocol="kollabor"}`); got != "1" {
		t.Errorf("a new method of the name: %q, want 1", got)
	}
}
