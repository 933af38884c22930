package session

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// What a peer makes a session keep is counted, charged to that peer until it is
// gone, and refused beyond the limit.
func TestWhatSessionsKeepIsChargedToItsSender(t *testing.T) {
	gate := &rpc.Gate{Kept: 64 << 10}
	r := New(Options{Ended: -1})
	link := rpc.NewLink(gate)
	t.Cleanup(func() { closeLink(link) })
	x := strings.Repeat("x", 20<<10)
	charged := func(want int) {
		t.Helper()
		if got := gate.KeptBytes() >> 10; got != int64(want) {
			t.Errorf("%d KiB are charged, want %d", got, want)
		}
		if kept := r.Kept(); kept < gate.KeptBytes() {
			t.Errorf("%d bytes are counted, %d charged", kept, gate.KeptBytes())
		}
	}
	refused := func(err error) {
		t.Helper()
		if rpc.AsError(t.Context(), err) == nil || rpc.AsError(t.Context(), err).Code != rpc.CodeOverloaded {
			t.Errorf("got %v", err)
		}
	}
	open := func(name, title string) (*Session, error) {
		return r.Open(name, OpenOptions{Owner: link, Title: title, Meta: rpc.String(x)})
	}

	// Titles and metadata.
	a, err := open("a", x)
	must(t, err)
	charged(40)
	_, err = open("b", x)
	refused(err)
	if _, there := r.Get("b"); there {
		t.Error("it is open all the same")
	}
	_, err = open("a", "short") // in their place
	must(t, err)
	charged(20)

	// Rosters and messages.
	roster := func(n int) error {
		return a.SetRoster(link, rpc.RawString(`[{"x":"`+strings.Repeat("x", n<<10)+`"}]`))
	}
	must(t, roster(20))
	must(t, roster(30))
	charged(50)
	refused(roster(50))
	charged(50)
	_, err = open("a", x)
	refused(err)
	if a.Info().Title != "short" {
		t.Error("the title is another")
	}
	charged(50)
	must(t, roster(1))
	message := func(id int) error {
		_, err := a.Deliver(link, rpc.RawString(fmt.Sprintf(`{"id":%d,"content":"%s"}`, id, x)))
		return err
	}
	must(t, message(1))
	must(t, message(1)) // a duplicate is not kept
	must(t, message(2))
	charged(61)
	refused(message(3))
	in, err := a.Inputs(link)
	must(t, err)
	charged(61)
	for range 2 {
		_, err = in.Next(t.Context())
		must(t, err)
	}
	charged(21)

	// What was typed, for a reader that does not read.
	must(t, a.Input(link, "c", rpc.String(x)))
	must(t, a.Input(link, "c", rpc.String(x)))
	charged(61)
	refused(a.Input(link, "c", rpc.String(x)))
	in.Close() // it waits for the next
	charged(61)
	r.Close(a)
	if n := gate.KeptBytes(); n != 0 {
		t.Errorf("%d bytes are charged without sessions", n)
	}
	if n := r.Kept(); n != 0 {
		t.Errorf("%d bytes are counted without sessions", n)
	}
}

// Titles and metadata do not give way, so they have at most half of the memory.
func TestTitlesDoNotPushOutEvents(t *testing.T) {
	r := New(Options{Memory: 64 << 10})
	s, err := r.Open("s", OpenOptions{})
	must(t, err)
	output(t, s, 10)
	for i := range 10 {
		_, err = r.Open(fmt.Sprint("n", i), OpenOptions{Title: strings.Repeat("x", 10<<10)})
		if (err == nil) != (i < 3) {
			t.Errorf("session %d: %v", i, err)
		}
	}
	if events, _ := s.History(0, 100); len(events) != 10 || r.Kept() > 64<<10 {
		t.Errorf("%d events are left, %d bytes are counted", len(events), r.Kept())
	}
}
