package hub

import (
	"strings"
	"testing"
	"time"
)

// While a hub drains it asks for more time again and again, and says what it
// waits for; the first word is STOPPING=1, the last extension comes after the drain.
func TestPleas(t *testing.T) {
	h := startHub(t, Options{Limits: Limits{Drain: time.Minute}})
	w, finish := h.heldCall()
	h.cancel()
	extensions := func() int { return strings.Count(h.notices.String(), "EXTEND_TIMEOUT_USEC=") }
	eventually(t, "a extension at once, after 2 and after 4 seconds", func() bool { return extensions() >= 3 })
	before := extensions()
	finish()
	if r := w.reply(); r.RequestID != "held" || string(r.Result) != `"done"` {
		t.Errorf("the running call: %+v", r)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	_, told, found := strings.Cut(h.notices.String(), "STOPPING=1\n")
	if !found || extensions() <= before {
		t.Errorf("no extension when the call has ended: %q", told)
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
