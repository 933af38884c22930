package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/client"
)

// dialClient connects the Go client.
func (h *testHub) dialClient() *client.Client {
	h.t.Helper()
	c, err := client.Dial(h.t.Context(), h.socket, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}

// publish has p publish n events and flushes them.
func publish(t *testing.T, p *client.Producer, n int) {
	t.Helper()
	for i := range n {
		if err := p.Publish(t.Context(), map[string]any{"type": "output", "rendered": fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// follow reads events until there are n of type output; others are told by their type.
func follow(t *testing.T, c *client.Client, session string, o *client.AttachOptions, n int) (list []string, last client.Event) {
	t.Helper()
	for e, err := range c.Attach(t.Context(), session, o) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == "output" {
			list = append(list, fmt.Sprint(e.Seq))
			last = e
			if n--; n == 0 {
				break
			}
		} else {
			list = append(list, e.Type)
		}
	}
	return list, last
}

// A client has one producer of a session: a retry that forgets Close loses and
// doubles nothing, and after Close there may be another.
func TestSecondProducerOfASessionIsRefused(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{})
	c := h.dialClient()
	p, err := c.Produce(t.Context(), "s", nil)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, p, 50)
	if _, err := c.Produce(t.Context(), "s", nil); client.KindOf(err) != client.KindConflict {
		t.Fatalf("a second producer: %v", err)
	}
	publish(t, p, 50)
	if _, last := follow(t, c, "s", nil, 100); last.Seq != 100 {
		t.Errorf("the last event has the number %d", last.Seq)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := c.Produce(t.Context(), "s", nil)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	if err := again.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// An event that will not reach the session is an error of its Publish, and does
// no harm to the next one.
func TestPublishTellsWhatIsNotPublished(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{})
	c := h.dialClient()
	p, err := c.Produce(t.Context(), "s", &client.ProduceOptions{Buffer: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{16<<20 - 60, 17 << 20} {
		err := p.Publish(t.Context(), map[string]any{"type": "output", "rendered": strings.Repeat("x", size)})
		if client.KindOf(err) != client.KindTooLarge {
			t.Errorf("an event of %d bytes: %v", size, err)
		}
	}
	publish(t, p, 1)
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(t.Context(), map[string]any{"type": "output"}); !errors.Is(err, client.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A follower that resumes in a later life of the session is told, and gets all
// of that life.
func TestFollowerResumesInALaterLife(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{})
	c := h.dialClient()
	p, err := c.Produce(t.Context(), "s", nil)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, p, 5)
	_, last := follow(t, c, "s", nil, 5)
	if last.Seq != 5 || last.Epoch == "" {
		t.Fatalf("the fifth event has the number %d and the epoch %q", last.Seq, last.Epoch)
	}
	publish(t, p, 1)
	resume := &client.AttachOptions{Since: &last.Seq, Epoch: last.Epoch}
	if got, _ := follow(t, c, "s", resume, 1); !slices.Equal(got, []string{"6"}) {
		t.Errorf("in the same life: %v", got)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p, err = c.Produce(t.Context(), "s", nil); err != nil {
		t.Fatal(err)
	}
	publish(t, p, 8)
	got, last := follow(t, c, "s", resume, 8)
	if want := []string{"gap", "1", "2", "3", "4", "5", "6", "7", "8"}; !slices.Equal(got, want) {
		t.Errorf("in a new life: %v, want %v", got, want)
	}
	if last.Epoch == resume.Epoch {
		t.Error("the new life has the epoch of the old one")
	}
	p.Close(context.Background())
}

// Two loops over one Attach each see the session.
func TestAttachMayBeRangedOverTwice(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{})
	c := h.dialClient()
	p, err := c.Produce(t.Context(), "s", nil)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, p, 3)
	attach := c.Attach(t.Context(), "s", nil)
	for round := range 2 {
		n := 0
		for _, err := range attach {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n == 3 {
				break
			}
		}
		if n != 3 {
			t.Errorf("loop %d saw %d events", round+1, n)
		}
	}
	p.Close(context.Background())
}

// Every error of the client has a kind that says what it is.
func TestErrorsOfTheClientHaveTheirKind(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true})
	c := h.dialClient()
	ctx := t.Context()
	if err := c.Resize(ctx, "s", 0, 5); client.KindOf(err) != client.KindInvalidParams {
		t.Errorf("a terminal without columns: %v is %s", err, client.KindOf(err))
	}
	s, err := c.Open(ctx, "demo.sum", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.CloseSend()
	if err := s.Send(1); client.KindOf(err) != client.KindInvalidParams && err.Error() != "EOF" {
		t.Errorf("an item after the end: %v is %s", err, client.KindOf(err))
	}
	s.Close()

	missing := func(method string, params any) bool {
		var e *client.Error
		return errors.As(c.Call(ctx, method, params, nil), &e) && e.NoMethod()
	}
	if !missing("no.such", nil) || missing("state.get", []string{"no such key"}) {
		t.Error("a method that does not exist is not told from a key that does not")
	}

	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	for _, err = range c.Stream(short, "demo.count", map[string]any{"n": 1000, "delay": 0.01}) {
	}
	if client.KindOf(err) != client.KindTimeout || !strings.Contains(err.Error(), "deadline of its caller") {
		t.Errorf("a stream that its caller's deadline has cut: %v", err)
	}

	// The hub takes seconds; a time.Duration would be sent as nanoseconds.
	for _, params := range []any{
		map[string]any{"key": "k", "value": 1, "ttl": 2 * time.Second},
		map[string]any{"key": "k", "value": 1, "ttl": 4e9},
	} {
		if err := c.Call(ctx, "state.put", params, nil); client.KindOf(err) != client.KindInvalidParams {
			t.Errorf("%v: %v", params, err)
		}
	}
	if err := c.Call(ctx, "state.txn", map[string]any{"then": []any{map[string]any{"op": "put", "key": "k", "value": 1, "ttl": time.Minute}}}, nil); client.KindOf(err) != client.KindInvalidParams || !strings.Contains(err.Error(), "Seconds()") {
		t.Errorf("a duration in a transaction: %v", err)
	}
}
