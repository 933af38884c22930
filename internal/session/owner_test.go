package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func closeLink(l *rpc.Link) { l.Close(rpc.ErrPeerGone, time.Second) }

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "build-42": true, "A.b_c-9": true, strings.Repeat("x", 32): true, "...": true,
		"": false, ".": false, "..": false, "a/b": false, "a b": false, "é": false, "a\x00": false, strings.Repeat("x", 33): false,
	} {
		if ValidName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
		if _, err := New(Options{}).Open(name, OpenOptions{}); (err == nil) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestSessionOutlivesItsProducer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closed []string
		r := New(Options{Linger: time.Minute, OnClose: func(s *Session) { closed = append(closed, s.Name()) }})
		first := rpc.NewLink(nil)
		s, err := r.Open("work", OpenOptions{Owner: first, Title: "one"})
		if err != nil {
			t.Fatal(err)
		}
		f := follow(t, s, FollowOptions{})
		output(t, s, 2)
		if _, err := r.Open("work", OpenOptions{Owner: rpc.NewLink(nil)}); !errors.Is(err, &rpc.Error{Code: rpc.CodeConflict}) {
			t.Errorf("a second owner: %v", err)
		}
		closeLink(first)
		if s.Info().Owner != nil {
			t.Error("the owner is still there")
		}
		time.Sleep(50 * time.Second)
		second := rpc.NewLink(nil)
		again, err := r.Open("work", OpenOptions{Owner: second})
		if err != nil || again != s {
			t.Fatalf("re-opening: %v", err)
		}
		if i := s.Info(); i.Title != "one" || i.Seq != 2 || i.Owner == nil {
			t.Errorf("after re-opening: %+v", i)
		}
		time.Sleep(10 * time.Minute) // the timer of the first producer is off
		output(t, s, 1)
		expect(t, drain(t, f), outputs(1, 3))
		closeLink(second)
		time.Sleep(45 * time.Second)
		output(t, s, 1) // somebody still publishes
		time.Sleep(45 * time.Second)
		if s.Closed() {
			t.Fatal("closed although there was an event lately")
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if _, known := r.Get("work"); known || !s.Closed() || !slices.Equal(closed, []string{"work"}) {
			t.Errorf("still open: %v %v %v", known, s.Closed(), closed)
		}
		if len(r.links) != 0 {
			t.Errorf("%d links are held", len(r.links))
		}
		expect(t, drain(t, f), outputs(4, 4))
	})
}

func TestProducerThatClosedBeforeItOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{Linger: time.Minute})
		link := rpc.NewLink(nil)
		closeLink(link)
		if _, err := r.Open("work", OpenOptions{Owner: link}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if len(r.List()) != 0 || len(r.links) != 0 {
			t.Error("the session of a dead connection stays")
		}
	})
}

func TestPermanentSessionHasNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{Linger: time.Minute}, 5)
		time.Sleep(time.Hour)
		if s.Closed() {
			t.Error("closed")
		}
	})
}

func TestOpenHooks(t *testing.T) {
	var log []string
	fail := errors.New("no socket")
	r := New(Options{
		OnOpen: func(s *Session) error {
			log = append(log, "open "+s.Name())
			if s.Name() == "bad" {
				return fail
			}
			return nil
		},
		OnClose: func(s *Session) { log = append(log, "close "+s.Name()) },
	})
	if _, err := r.Open("bad", OpenOptions{}); !errors.Is(err, fail) {
		t.Errorf("got %v", err)
	}
	if _, known := r.Get("bad"); known {
		t.Error("a session that could not be opened is there")
	}
	s, err := r.Open("good", OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open("good", OpenOptions{}); err != nil {
		t.Fatal(err)
	}
	r.Close(s)
	r.Close(s)
	if want := []string{"open bad", "close bad", "open good", "close good"}; !slices.Equal(log, want) {
		t.Errorf("got %v, want %v", log, want)
	}
}

func TestSessionsAreLimited(t *testing.T) {
	r := New(Options{MaxSessions: 3})
	for i := range 3 {
		if _, err := r.Open(fmt.Sprint("s", i), OpenOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Open("s3", OpenOptions{}); !errors.Is(err, &rpc.Error{Code: rpc.CodeOverloaded}) {
		t.Errorf("got %v, want overloaded", err)
	}
	if _, err := r.Open("s1", OpenOptions{Owner: rpc.NewLink(nil)}); err != nil {
		t.Errorf("a session that exists: %v", err)
	}
	big := rpc.String(strings.Repeat("x", MaxMeta))
	if _, err := r.Open("s1", OpenOptions{Meta: big}); !errors.Is(err, &rpc.Error{Code: rpc.CodeInvalidParams}) {
		t.Errorf("big meta: %v", err)
	}
}

func TestManyAbruptCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{Linger: time.Minute})
		s, err := r.Open("hub", OpenOptions{Permanent: true})
		if err != nil {
			t.Fatal(err)
		}
		table := rpc.NewTable()
		table.MustAdd(r.Methods()...)
		for i := range 1000 {
			c := dial(t, table)
			c.start("session.follow", `{"session":"hub","mode":"interactive"}`)
			c.start("session.open", fmt.Sprintf(`{"name":"s%d"}`, i%50))
			c.start("session.input", `{"session":"hub"}`)
			if i%3 == 0 {
				synctest.Wait() // some get to wait for events, some do not
			}
			output(t, s, 1)
			closeLink(c.link)
		}
		synctest.Wait()
		s.mu.Lock()
		if len(s.followers) != 0 || len(s.waiting) != 0 || len(s.input.readers) != 0 || s.log.n != 0 || len(r.links) != 0 {
			t.Errorf("%d followers, %d waiting, %d inputs, %d events in the log, %d links",
				len(s.followers), len(s.waiting), len(s.input.readers), s.log.n, len(r.links))
		}
		s.mu.Unlock()
		time.Sleep(2 * time.Minute)
		synctest.Wait() // and when the bubble ends, no goroutine is left or it fails
		if n := len(r.List()); n != 1 {
			t.Errorf("%d sessions", n)
		}
	})
}

func TestInputReachesTheOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{})
		link := rpc.NewLink(nil)
		s, err := r.Open("work", OpenOptions{Owner: link})
		if err != nil {
			t.Fatal(err)
		}
		f := follow(t, s, FollowOptions{ClientID: "attach-7", Mode: Interactive})
		must(t, f.Input(rpc.RawString(`"ls \ud800\r"`))) // nobody reads yet, but the owner is there
		must(t, f.Resize(80, 24))
		if _, err := s.Inputs(rpc.NewLink(nil)); !errors.Is(err, &rpc.Error{Code: rpc.CodePermissionDenied}) {
			t.Errorf("another connection reads the input: %v", err)
		}
		in, err := s.Inputs(link)
		if err != nil {
			t.Fatal(err)
		}
		must(t, f.Resize(100, 30))
		must(t, f.Resize(120, 40)) // of several in a row the last counts
		must(t, f.Input(rpc.String("x")))
		must(t, f.Input(rpc.String(""))) // nothing typed
		expectInput(t, in,
			`{"type":"resize","cols":80,"rows":24}`,
			`{"type":"input","text":"ls \ud800\r","client_id":"attach-7"}`,
			`{"type":"resize","cols":120,"rows":40}`,
			`{"type":"input","text":"x","client_id":"attach-7"}`)
		expect(t, drain(t, f), []string{"input 1", "input 2"})

		reader := follow(t, s, FollowOptions{ClientID: "attach-8", Mode: "whatever"})
		if err := reader.Input(rpc.String("rm")); !errors.Is(err, &rpc.Error{Code: rpc.CodePermissionDenied}) {
			t.Errorf("input of a read-only follower: %v", err)
		}
		if s.Seq() != 2 {
			t.Error("it was published")
		}

		// The owner comes back on another connection: its old stream ends, what was typed meanwhile is not replayed.
		closeLink(link)
		must(t, f.Input(rpc.String("lost")))
		second := rpc.NewLink(nil)
		if _, err := r.Open("work", OpenOptions{Owner: second}); err != nil {
			t.Fatal(err)
		}
		expectInput(t, in, `{"type":"resize","cols":120,"rows":40}`, // told anew for attach-8
			`{"type":"input","text":"lost","client_id":"attach-7"}`) // it was still reading
		if _, err := in.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("the old stream: %v", err)
		}
		in.Close()
		again, err := s.Inputs(second)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		expectInput(t, again, `{"type":"resize","cols":120,"rows":40}`)
		must(t, f.Input(rpc.String("late")))
		expectInput(t, again, `{"type":"input","text":"late","client_id":"attach-7"}`)
	})
}

// What is typed while the owner is away reaches it when it is back soon.
func TestInputWaitsForAnOwnerThatComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{})
		for _, c := range []struct {
			away time.Duration
			want []string
		}{
			{typedKeeps / 2, []string{`{"type":"input","text":"ls","client_id":"ada"}`}},
			{2 * typedKeeps, nil},
		} {
			link := rpc.NewLink(nil)
			s, err := r.Open("work", OpenOptions{Owner: link})
			must(t, err)
			closeLink(link)
			must(t, s.Input(nil, "ada", rpc.String("ls")))
			time.Sleep(c.away)
			next := rpc.NewLink(nil)
			_, err = r.Open("work", OpenOptions{Owner: next})
			must(t, err)
			in, err := s.Inputs(next)
			must(t, err)
			must(t, s.Input(nil, "ada", rpc.String("x")))
			expectInput(t, in, append(c.want, `{"type":"input","text":"x","client_id":"ada"}`)...)
			in.Close()
			r.Close(s)
		}

		// One that never had an owner keeps nothing, and is never full.
		s, err := r.Open("free", OpenOptions{Permanent: true})
		must(t, err)
		for range maxInputItems + 1 {
			must(t, s.Input(nil, "ada", rpc.String("x")))
		}
		in, err := s.Inputs(nil)
		must(t, err)
		must(t, s.Input(nil, "ada", rpc.String("y")))
		expectInput(t, in, `{"type":"input","text":"y","client_id":"ada"}`)
		in.Close()
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// expectInput takes exactly these items.
func expectInput(t testing.TB, in *Inputs, want ...string) {
	t.Helper()
	for _, w := range want {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		v, err := in.Next(ctx)
		cancel()
		if err != nil {
			t.Fatalf("%v instead of %s", err, w)
		}
		if raw, _ := v.Raw(); string(raw) != w {
			t.Errorf("got  %s\nwant %s", raw, w)
		}
	}
}

func TestInputOfAnOwnerThatDoesNotRead(t *testing.T) {
	r := New(Options{})
	link := rpc.NewLink(nil)
	s, err := r.Open("work", OpenOptions{Owner: link})
	must(t, err)
	taken := 0
	for ; taken <= maxInputItems; taken++ {
		if err = s.Input(nil, "c", rpc.String("x")); err != nil {
			break
		}
	}
	if taken != maxInputItems || !errors.Is(err, &rpc.Error{Code: rpc.CodeOverloaded}) {
		t.Fatalf("%d inputs, then %v", taken, err)
	}
	if s.Seq() != uint64(taken) {
		t.Error("what was refused has been published")
	}
	if err := s.Input(nil, "c", rpc.String(strings.Repeat("x", MaxInput))); !errors.Is(err, &rpc.Error{Code: rpc.CodeTooLarge}) {
		t.Errorf("a long one: %v", err)
	}
	if err := s.Input(nil, "c", rpc.Int(3)); !errors.Is(err, &rpc.Error{Code: rpc.CodeInvalidParams}) {
		t.Errorf("a number: %v", err)
	}
	in, err := s.Inputs(link)
	must(t, err)
	expectInput(t, in, `{"type":"input","text":"x","client_id":"c"}`)
	in.Close() // the rest waits for the next stream
	in, err = s.Inputs(link)
	must(t, err)
	for range maxInputItems - 1 {
		expectInput(t, in, `{"type":"input","text":"x","client_id":"c"}`)
	}
	in.Close()
}

func TestOneUserLeavesSessionsToOthers(t *testing.T) {
	r := New(Options{MaxSessions: 4, Ended: -1})
	var greedy, other rpc.Quota
	var opened []*Session
	for i := range 2 {
		s, err := r.Open(fmt.Sprint("s", i), OpenOptions{User: &greedy})
		if err != nil {
			t.Fatal(err)
		}
		opened = append(opened, s)
	}
	full := rpc.Errorf(rpc.CodeOverloaded, "this user has 2 sessions already")
	if _, err := r.Open("s2", OpenOptions{User: &greedy}); err == nil || err.Error() != full.Error() {
		t.Errorf("got %v, want %v", err, full)
	}
	if _, err := r.Open("s0", OpenOptions{User: &greedy}); err != nil {
		t.Errorf("a session that exists: %v", err)
	}
	if greedy.Idle() {
		t.Error("the account can be forgotten while its sessions are there")
	}
	for i := range 2 {
		if _, err := r.Open(fmt.Sprint("o", i), OpenOptions{User: &other}); err != nil {
			t.Errorf("another user: %v", err)
		}
	}
	for _, s := range opened {
		r.Close(s)
		r.Close(s)
	}
	if !greedy.Idle() {
		t.Error("sessions count after their end")
	}
	if _, err := r.Open("s3", OpenOptions{User: &greedy}); err != nil {
		t.Errorf("after the end of the others: %v", err)
	}
}
