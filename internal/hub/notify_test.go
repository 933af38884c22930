package hub

import (
	"strings"
	"testing"
	"time"
)

// While a hub drains it asks for more time again and again, and says what it
// waits for; the first word is STOPPING=1, the last plea comes after the drain.
func TestPleas(t *testing.T) {
	h := startHub(t, Options{Demo: true, Limits: Limits{Drain: time.Minute}})
	w := h.dial()
	w.send(`{"action":"rpc_request","request_id":"s","method":"demo.sleep","params":[5]}` + "\n")
	eventually(t, "the call runs", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == "1" })
	h.cancel()
	if r := w.reply(); r.RequestID != "s" || string(r.Result) != "5" {
		t.Errorf("the running call: %+v", r)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	_, told, found := strings.Cut(h.notices.String(), "STOPPING=1\n")
	// At once, after 2 and 4 seconds, and when the call has ended.
	if n := strings.Count(told, "EXTEND_TIMEOUT_USEC="); !found || n < 3 {
		t.Errorf("%d pleas for more time in %q", n, told)
	}
	if !strings.HasPrefix(told, "STATUS=draining: ") || !strings.Contains(told, " 1 calls in flight, ") || strings.Count(told, "STOPPING") > 0 {
		t.Errorf("while draining: %q", told)
	}
	if strings.Contains(told, "READY=1") {
		t.Errorf("ready while stopping: %q", told)
	}
}

func TestStatusLine(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	first, _, _ := strings.Cut(h.notices.String(), "\nWATCHDOG")
	if want := "READY=1\nSTATUS=ready: 0 connections, 0 calls in flight, 0 answered, 1 sessions, "; !strings.HasPrefix(first, want) {
		t.Errorf("at the start: %q, want %q...", first, want)
	}
}
