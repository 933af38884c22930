package hub

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// A client cannot offer what some protocol spells like a method of the hub, of a
// remote or of another provider, in either direction: it would get their calls.
func TestProviderGetsNoCallsOfOthers(t *testing.T) {
	h := startHub(t, Options{FileRoot: t.TempDir(), Demo: true, Remotes: []string{"far_off=tcp://127.0.0.1:1#there"}})
	w := h.dial()
	offer := func(service, method string) string {
		r := w.call("hub.provide", fmt.Sprintf(`{"service":%q,"methods":[%q]}`, service, method))
		if r.Error != nil {
			return r.kind() + ": " + *r.Error
		}
		return "taken"
	}
	for _, c := range []struct{ service, method, want string }{
		{"file_path", "info", "krpc spells it file_path_info, as it does file.path_info"},
		{"state_hub_send", "msg", "state.hub_send_msg"},
		{"hub_log", "level", "hub.log_level"},
		{"demo_file", "info", "demo.file_info"},
		{"far", "off_hello", "as it might a method of far_off"},
		{"far_off_more", "hello", "as it might a method of far_off"},
		{"file", "more", "belongs to the hub"}, {"echo", "x", "belongs to the hub"}, {"ping", "x", "belongs to the hub"},
		{"authenticate", "x", "belongs to the hub"}, {"far_off", "x", "belongs to the hub"}, {"math", "sub", "belongs to the hub"},
		{"weather", "of_today", "taken"}, {"weather_of", "today", "weather.of_today"}, {"weather_of", "tomorrow", "taken"},
		{"file_paths", "like", "taken"}, {"far_away", "x", "taken"},
	} {
		if got := offer(c.service, c.method); !strings.Contains(got, c.want) {
			t.Errorf("%s.%s: %s, want %s", c.service, c.method, got, c.want)
		}
	}
	_, body := h.get("/krpc?json=" + url.QueryEscape(`{"method":"file_path_info","params":["*"]}`))
	if strings.Contains(body, "error\":{") || !strings.Contains(body, "[]") {
		t.Errorf("file_path_info: %s", body)
	}
}

// The names of services that the hub has with another configuration are kept
// for it: who calls file.upload must not send the file to a stranger.
func TestOptionalServicesAreReserved(t *testing.T) {
	h := startHub(t, Options{})
	w := h.dial()
	for service, method := range map[string]string{"file": "upload", "file_path": "info", "math": "add", "demo": "x", "demo_file": "info"} {
		r := w.call("hub.provide", fmt.Sprintf(`{"service":%q,"methods":[%q]}`, service, method))
		if r.kind() != "conflict" || !strings.Contains(*r.Error, "the hub") {
			t.Errorf("%s.%s: %v", service, method, r)
		}
	}
	if r := w.call("file.upload", `["x"]`); r.kind() != "not_found" {
		t.Errorf("file.upload: %v", r)
	}
}
