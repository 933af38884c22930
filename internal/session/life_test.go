package session

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// producing opens the session as a producer that numbers its events.
func producing(t *testing.T, r *Registry, link *rpc.Link, opts OpenOptions) *Session {
	t.Helper()
	opts.Owner, opts.Producer = link, "secret"
	s, err := r.Open("work", opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func numbered(t *testing.T, s *Session, by Numbered) uint64 {
	t.Helper()
	seq, err := s.PublishNumbered(rpc.RawString(fmt.Sprintf(`{"type":"output","rendered":"%d"}`, by.N)), by)
	if err != nil {
		t.Fatalf("event %d: %v", by.N, err)
	}
	return seq
}

func TestNumberedEventsArePublishedOnce(t *testing.T) {
	r := New(Options{})
	link := rpc.NewLink(nil)
	s := producing(t, r, link, OpenOptions{})
	f := follow(t, s, FollowOptions{})
	if seq := numbered(t, s, Numbered{N: 1, Link: link}); seq != 1 {
		t.Errorf("the first event is %d", seq)
	}
	output(t, s, 1) // somebody else publishes, too
	if seq := numbered(t, s, Numbered{N: 2, Link: link}); seq != 3 {
		t.Errorf("the third event is %d", seq)
	}
	for n := range uint64(2) {
		if seq := numbered(t, s, Numbered{N: n + 1, Link: link}); seq != 0 {
			t.Errorf("event %d was published twice, as %d", n+1, seq)
		}
	}
	expect(t, drain(t, f), outputs(1, 3))

	event := rpc.RawString(`{"type":"output"}`)
	for name, by := range map[string]Numbered{
		"a hole":             {N: 4, Link: link},
		"another connection": {N: 3, Link: rpc.NewLink(nil)},
		"no connection":      {N: 3},
	} {
		if _, err := s.PublishNumbered(event, by); !errors.Is(err, &rpc.Error{Code: rpc.CodeConflict}) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// Its next connection takes over before the hub knows that the last one is
	// gone, and the end of that one changes nothing then.
	next := rpc.NewLink(nil)
	if again := producing(t, r, next, OpenOptions{}); again != s || s.Life().Taken != 2 {
		t.Fatalf("another session: %+v", again.Life())
	}
	closeLink(link)
	if !s.OwnedBy(next) {
		t.Error("the session lost its owner")
	}
	if _, err := r.Open("work", OpenOptions{Owner: rpc.NewLink(nil), Producer: "other"}); !errors.Is(err, &rpc.Error{Code: rpc.CodeConflict}) {
		t.Errorf("another producer: %v", err)
	}
	numbered(t, s, Numbered{N: 3, Link: next})
	expect(t, drain(t, f), outputs(4, 4))
}

// Two producers of one connection count their own events from 1: the numbers of
// one mean nothing to the other, so there is only one.
func TestOneProducerOfASessionPerConnection(t *testing.T) {
	r := New(Options{})
	link := rpc.NewLink(nil)
	s := producing(t, r, link, OpenOptions{})
	numbered(t, s, Numbered{N: 1, Link: link})
	if _, err := r.Open("work", OpenOptions{Owner: link, Producer: "other"}); !errors.Is(err, &rpc.Error{Code: rpc.CodeConflict}) {
		t.Errorf("another producer of the same connection: %v", err)
	}
	if got := s.Life().Taken; got != 1 {
		t.Errorf("%d events were taken", got)
	}
	producing(t, r, link, OpenOptions{}) // the same one may say it again
	if _, err := r.Open("work", OpenOptions{Owner: link, Title: "T"}); err != nil {
		t.Errorf("a new title: %v", err)
	}
	numbered(t, s, Numbered{N: 2, Link: link})
}

func TestLifeIsSaved(t *testing.T) {
	r := New(Options{})
	link := rpc.NewLink(nil)
	s := producing(t, r, link, OpenOptions{})
	for n := range uint64(3) {
		numbered(t, s, Numbered{N: n + 1, Link: link})
	}
	var file bytes.Buffer
	must(t, r.Save(&file))
	later := New(Options{})
	must(t, later.Restore(&file))
	restored, err := later.Find("work")
	must(t, err)
	if got, want := restored.Life(), s.Life(); got != want {
		t.Errorf("restored as %+v, was %+v", got, want)
	}
	producing(t, later, link, OpenOptions{Taken: 1})
	if seq := numbered(t, restored, Numbered{N: 3, Link: link}); seq != 0 {
		t.Errorf("event 3 was published twice, as %d", seq)
	}
}

// A hub that crashed has forgotten the session; its producer has not.
func TestProducerBringsItsSessionBack(t *testing.T) {
	r := New(Options{})
	link := rpc.NewLink(nil)
	s := producing(t, r, link, OpenOptions{Seq: 20, Epoch: "life", Taken: 7})
	// This follower had seen all up to 26 and comes before the events do.
	f := follow(t, s, FollowOptions{SinceSeq: new(uint64(26)), Epoch: "life"})
	if got := drain(t, f); len(got) > 0 {
		t.Errorf("a follower that knows it all got %v", got)
	}
	stranger := follow(t, s, FollowOptions{SinceSeq: new(uint64(26)), Epoch: "other"})
	for n, seq := range []uint64{21, 22, 25, 26, 29} { // the holes were events of others
		if got := numbered(t, s, Numbered{N: uint64(n) + 8, Seq: seq, Link: link}); got != seq {
			t.Errorf("event %d came back as %d", seq, got)
		}
	}
	output(t, s, 1)
	// The holes are told, to everybody who has not seen those events.
	expect(t, drain(t, f), []string{"gap 2 28"}, outputs(29, 30))
	all := [][]string{outputs(21, 22), {"gap 2 24"}, outputs(25, 26), {"gap 2 28"}, outputs(29, 30)}
	if got := drain(t, stranger); len(got) == 0 || !strings.HasPrefix(got[0], "gap 0") {
		t.Errorf("a follower of another life got %v", got)
	} else {
		expect(t, got[1:], all...)
	}
	expect(t, drain(t, follow(t, s, FollowOptions{})), all...)
	expect(t, drain(t, follow(t, s, since(23))), []string{"gap 1 24"}, all[2], all[3], all[4])
	events, _ := s.History(0, 100)
	if len(events) != 8 || events[0].Seq != 21 || events[2].Type != "gap" || events[7].Seq != 30 {
		t.Errorf("the ring holds %d events", len(events))
	}
	if s.Life() != (Life{"life", 30, 12}) {
		t.Errorf("life %+v", s.Life())
	}
}

// A gap that a session keeps outlives a restart in good order.
func TestHolesAreSaved(t *testing.T) {
	r := New(Options{})
	link := rpc.NewLink(nil)
	s := producing(t, r, link, OpenOptions{})
	numbered(t, s, Numbered{N: 1, Seq: 1, Link: link})
	numbered(t, s, Numbered{N: 2, Seq: 4, Link: link})
	var file bytes.Buffer
	must(t, r.Save(&file))
	later := New(Options{})
	must(t, later.Restore(&file))
	restored, err := later.Find("work")
	must(t, err)
	expect(t, drain(t, follow(t, restored, since(2))), []string{"gap 1 3"}, outputs(4, 4))
}

// The last thing before a crash was an event of somebody else: the producer
// does not know its number, but who followed does, and misses nothing.
func TestNumbersAreNotGivenTwiceAfterACrash(t *testing.T) {
	r := New(Options{})
	link := rpc.NewLink(nil)
	s := producing(t, r, link, OpenOptions{Epoch: "life"})
	numbered(t, s, Numbered{N: 1, Seq: 1, Link: link})
	f := follow(t, s, FollowOptions{SinceSeq: new(uint64(3)), Epoch: "life"}) // 2 and 3 were input
	numbered(t, s, Numbered{N: 2, Link: link})
	expect(t, drain(t, f), outputs(4, 4))
	expect(t, drain(t, follow(t, s, FollowOptions{})), outputs(1, 1), []string{"gap 2 3"}, outputs(4, 4))

	// Nobody moves the numbers by as much as he likes, nor by those of another life.
	follow(t, s, FollowOptions{SinceSeq: new(uint64(1 << 50)), Epoch: "life"})
	follow(t, s, FollowOptions{SinceSeq: new(uint64(100)), Epoch: "other"})
	if seq := numbered(t, s, Numbered{N: 3, Link: link}); seq != 5 {
		t.Errorf("the next event is %d", seq)
	}
}

func TestFollowerIsToldOfAnotherLife(t *testing.T) {
	r := New(Options{})
	s, err := r.Open("work", OpenOptions{})
	must(t, err)
	before := s.Life().Epoch
	r.Close(s)
	s, err = r.Open("work", OpenOptions{})
	must(t, err)
	output(t, s, 5)
	// By the number alone it could not be told: 3 is a number of this life, too.
	f := follow(t, s, FollowOptions{SinceSeq: new(uint64(3)), Epoch: before})
	e, ok, err := f.Poll()
	if err != nil || !ok || !strings.Contains(string(e.JSON), `"restarted":true,"epoch":"`+s.Life().Epoch+`"`) {
		t.Errorf("got %s %v %v", e.JSON, ok, err)
	}
	expect(t, drain(t, f), outputs(1, 5))
	known := follow(t, s, FollowOptions{SinceSeq: new(uint64(3)), Epoch: s.Life().Epoch})
	expect(t, drain(t, known), outputs(4, 5))
}

// evictions counts what the budget takes.
type evictions struct {
	nobody
	n map[string]int
}

func (e evictions) Evicted(s *Session, n int) { e.n[s.Name()] += n }

func TestMemoryOfAllSessionsIsBounded(t *testing.T) {
	const limit = 64 << 10
	lost := evictions{n: map[string]int{}}
	r := New(Options{Memory: limit, Ring: 10000, Observer: lost, Ended: -1})
	small, err := r.Open("small", OpenOptions{})
	must(t, err)
	output(t, small, 10)
	f := follow(t, small, FollowOptions{}) // it reads nothing for now
	var others []*Session
	for i := range 4 {
		s, err := r.Open(fmt.Sprintf("large-%d", i), OpenOptions{})
		must(t, err)
		others = append(others, s)
		output(t, s, 2000)
		if kept := r.Kept(); kept > limit {
			t.Fatalf("%d bytes are kept, more than %d", kept, limit)
		}
	}
	if lost.n["small"] > 0 || lost.n["large-0"] == 0 || lost.n["large-3"] == 0 {
		t.Errorf("lost: %v", lost.n)
	}
	expect(t, drain(t, f), outputs(1, 10))
	late := follow(t, others[3], FollowOptions{})
	e, ok, _ := late.Poll()
	if !ok || e.Type == "" {
		t.Error("the busiest session keeps nothing")
	}
	for _, s := range append(others, small) {
		r.Close(s)
	}
	f.Close()
	late.Close()
	if kept := r.Kept(); kept != 0 {
		t.Errorf("%d bytes are counted without sessions", kept)
	}
}
