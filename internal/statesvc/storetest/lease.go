package storetest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/statesvc"
)

func testTTL(t *testing.T, h *H) {
	f := h.follow(statesvc.WatchOptions{Prefix: "t/"})
	op := Put("t/1", "1")
	op.TTL = 30 * time.Millisecond
	long := Put("t/2", "2")
	long.TTL = time.Hour
	h.Must(op, long)
	it, err := h.Get("t/2")
	if err != nil {
		t.Fatal(err)
	}
	if left, ok := it.TTL(); !ok || left > time.Hour || left < time.Hour-time.Minute {
		t.Fatalf("time left: %v %v", left, ok)
	}
	events := f.events(3)
	if e := events[2]; e.Type != statesvc.EventExpire || e.Key != "t/1" || e.Revision != 2 || e.Previous != 1 || e.Item != nil {
		t.Fatalf("got %+v", e)
	}
	h.wantAbsent("t/1")
	h.want("t/2", "2", 1)
	// a put without a time limit takes it away
	op.Key, op.TTL = "t/3", 50*time.Millisecond
	h.Must(op)
	h.Must(Put("t/3", "stays"))
	op.Key = "t/4"
	h.Must(op)
	if events = f.events(7); events[6].Key != "t/4" || events[6].Type != statesvc.EventExpire {
		t.Fatalf("got %s", describe(events))
	}
	h.want("t/3", "stays", 4)
	op.TTL = -1
	if err := h.Commit(statesvc.OneOp(op), func(statesvc.Result, error) {}); err == nil {
		t.Error("a negative time was accepted")
	}
}

func testTouch(t *testing.T, h *H) {
	touch := statesvc.Op{Kind: statesvc.OpTouch, Key: "k", TTL: 40 * time.Millisecond}
	_, err := h.Do(statesvc.OneOp(touch))
	if _, ok := errors.AsType[*statesvc.NotFoundError](err); !ok {
		t.Fatalf("absent: got %v", err)
	}
	h.Must(Put("k", "1"))
	f := h.follow(statesvc.WatchOptions{Key: "k"})
	if r := h.Must(touch); r.Revision != 2 {
		t.Fatalf("got %+v", r)
	}
	events := f.events(2)
	if events[0].Type != statesvc.EventPut || string(events[0].Item.Value.Data) != "1" || events[1].Type != statesvc.EventExpire {
		t.Fatalf("got %s", describe(events))
	}
	h.wantAbsent("k")
}

func testOwnerVanishes(t *testing.T, h *H) {
	if h.Claim("conn-1") {
		t.Fatal("a new owner was known")
	}
	mine := func(key string) statesvc.Op {
		op := Put(key, "1")
		op.Owner = "conn-1"
		return op
	}
	h.Must(mine("p/1"))
	h.Must(mine("p/2"), mine("p/3"), Put("p/4", "stays"))
	h.Must(Put("p/3", "taken over"))
	f := h.follow(statesvc.WatchOptions{Prefix: "p/"})
	h.Release("conn-1", 0)
	events := f.events(2)
	if got := describe(events); got != "expire 4 1 -; expire 4 2 -; " {
		t.Fatalf("got %s", got)
	}
	h.want("p/4", "stays", 2)
	h.want("p/3", "taken over", 3)
	h.Release("nobody", 0)
}

func testOwnerClaims(t *testing.T, h *H) {
	h.Claim("c")
	op := Put("p", "1")
	op.Owner = "c"
	h.Must(op)
	h.Release("c", time.Hour)
	if !h.Claim("c") {
		t.Fatal("an owner in its grace time was not known")
	}
	h.want("p", "1", 1)
	h.Release("c", 20*time.Millisecond)
	f := h.follow(statesvc.WatchOptions{Key: "p"})
	f.events(1)
	h.wantAbsent("p")
}

func testOwnerUnknown(t *testing.T, h *H) {
	op := Put("p", "1")
	op.Owner = "never claimed"
	if _, err := h.Do(statesvc.OneOp(op)); !errors.Is(err, statesvc.ErrOwner) {
		t.Fatalf("got %v", err)
	}
	h.Claim("c")
	h.Release("c", 0)
	op.Owner = "c"
	if _, err := h.Do(statesvc.OneOp(op)); !errors.Is(err, statesvc.ErrOwner) {
		t.Fatalf("after release: got %v", err)
	}
	if s := h.Stats(); s.Keys != 0 || s.Revision != 0 {
		t.Fatalf("stats: %+v", s)
	}
}

// follower reads a watcher.
type follower struct {
	h      *H
	w      statesvc.Watcher
	wake   chan struct{}
	got    []*statesvc.Event
	items  []*statesvc.Item
	synced uint64
	count  int // of synced marks
	idle   bool
}

func (h *H) follow(opts statesvc.WatchOptions) *follower {
	h.T.Helper()
	f := &follower{h: h, wake: make(chan struct{}, 1)}
	opts.Wake = func() { f.wake <- struct{}{} } // blocks if called more than once per idle batch: the test would hang
	w, err := h.Watch(opts)
	if err != nil {
		h.T.Fatalf("watch: %v", err)
	}
	f.w = w
	h.T.Cleanup(w.Close)
	_ = f.drain() // the next drain returns the same
	return f
}

// drain reads until the watcher has nothing more, and returns its error.
func (f *follower) drain() error {
	f.h.T.Helper()
	for f.idle = false; !f.idle; {
		b, err := f.w.Next(7)
		if err != nil {
			return err
		}
		for _, e := range b.Events {
			if n := len(f.got); n > 0 && f.got[n-1].Revision > e.Revision {
				f.h.T.Fatalf("revision %d after %d", e.Revision, f.got[n-1].Revision)
			}
			f.got = append(f.got, e)
		}
		f.items = append(f.items, b.Items...)
		if b.Synced {
			f.synced = b.Revision
			f.count++
		}
		f.idle = b.Idle
	}
	return nil
}

// next waits for the next wake and reads.
func (f *follower) next() error {
	f.h.T.Helper()
	select {
	case <-f.wake:
	case <-time.After(Patience):
		f.h.T.Fatalf("no wake; have %s", describe(f.got))
	}
	return f.drain()
}

// events waits until there are n events in all.
func (f *follower) events(n int) []*statesvc.Event {
	f.h.T.Helper()
	for len(f.got) < n {
		if err := f.next(); err != nil {
			f.h.T.Fatalf("watch ended: %v", err)
		}
	}
	if len(f.got) > n {
		f.h.T.Fatalf("want %d events, have %s", n, describe(f.got))
	}
	return f.got
}

func (f *follower) keys() string {
	var s strings.Builder
	for _, it := range f.items {
		fmt.Fprintf(&s, "%s@%d ", it.Key, it.Revision)
	}
	return s.String()
}
