package session

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// A session that has ended is there for a while, with its events and the
// status of its program, and nobody can add to it.
func TestEndedSessionsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, table := hubLike(t, Options{Default: "demo"})
		owner, c := dial(t, table), dial(t, table)
		c.peer = &rpc.Peer{UID: 1001, Scopes: rpc.ScopeRead | rpc.ScopeCall | rpc.ScopeProvide}
		owner.want("session.open", `{"name":"c","title":"sh"}`, `{"session":"c","seq":0}`)
		owner.want("session.publish", `{"session":"c","event":{"type":"stream_chunk","chunk":"oops\n","ts":1}}`, `{"ok":true}`)
		waits := c.start("session.wait", `{"session":"c"}`)
		time.Sleep(time.Hour) // no deadline
		if _, _, _, done := waits.state(); done {
			t.Fatal("wait does not wait")
		}
		owner.want("session.publish", `{"session":"c","event":{"type":"exit","code":7,"ts":2}}`, `{"ok":true}`)
		owner.want("session.close", `{"session":"c"}`, `{"ok":true}`)
		synctest.Wait()
		if _, text, err, _ := waits.state(); text != `{"code":7,"signal":null}` || err != nil {
			t.Errorf("who waited was told %s %v", text, err)
		}
		c.want("session.wait", `{"session":"c"}`, `{"code":7,"signal":null}`)
		c.want("session.history", `{"session":"c"}`, `{"events":[{"type":"stream_chunk","chunk":"oops\n","ts":1,"seq":1},{"type":"exit","code":7,"ts":2,"seq":2}]}`)
		events := c.start("session.follow", `{"session":"c","since_seq":1}`)
		synctest.Wait()
		if items, _, err, done := events.state(); !done || err != nil || len(items) != 1 {
			t.Errorf("follow: %q %v %v", items, err, done)
		}
		for _, f := range []string{"session.info", "session.list"} {
			text, err := c.call(f, `{"session":"c"}`)
			if f == "session.list" {
				text, err = c.call(f, `{}`)
			}
			if err != nil || !strings.Contains(text, fmt.Sprintf(`"ended":%d.0,"exit":{"code":7,"signal":null}`, time.Now().Unix())) {
				t.Errorf("%s: %s %v", f, text, err)
			}
		}
		c.refused("session.publish", `{"session":"c","event":{"type":"output"}}`, rpc.CodeNotFound)
		c.refused("session.send", `{"session":"c","text":"x"}`, rpc.CodeNotFound)
		c.refused("session.kill", `{"session":"c"}`, rpc.CodeNotFound)
		c.refused("session.close", `{"session":"c"}`, rpc.CodeNotFound)

		// Who is not its owner's user does not take it from others.
		c.refused("session.remove", `{"session":"c"}`, rpc.CodePermissionDenied)
		owner.refused("session.remove", `{"session":"demo"}`, rpc.CodePermissionDenied)
		owner.want("session.remove", `{"session":"c"}`, `{"ok":true}`)
		c.refused("session.wait", `{"session":"c"}`, rpc.CodeNotFound)

		// A new one of the name takes its place.
		for range 2 {
			owner.want("session.open", `{"name":"c"}`, `{"session":"c","seq":0}`)
			owner.want("session.close", `{"session":"c"}`, `{"ok":true}`)
			owner.want("session.wait", `{"session":"c"}`, `{"code":null,"signal":null}`)
		}
		owner.want("session.open", `{"name":"c"}`, `{"session":"c","seq":0}`)
		owner.refused("session.remove", `{"session":"c"}`, rpc.CodeConflict)
		if n := len(r.ListAll()); n != 2 {
			t.Errorf("%d sessions", n)
		}
	})
}

func TestEndedSessionsAreForgottenInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{Ended: time.Minute})
		s, err := r.Open("s", OpenOptions{})
		must(t, err)
		output(t, s, 3)
		r.Close(s)
		time.Sleep(59 * time.Second)
		if _, err := r.FindAny("s"); err != nil {
			t.Error(err)
		}
		late := follow(t, s, FollowOptions{})
		time.Sleep(2 * time.Second)
		if _, err := r.FindAny("s"); err == nil {
			t.Error("it is still there")
		}
		if r.Kept() == 0 {
			t.Error("what a follower reads is not counted")
		}
		expect(t, drain(t, late), outputs(1, 3))
		late.Close()
		if n := r.Kept(); n != 0 {
			t.Errorf("%d bytes are counted without sessions", n)
		}
	})
}

// All that have ended together have a limit: the oldest go first, and of one
// that is too large by itself the oldest events.
func TestEndedSessionsAreBounded(t *testing.T) {
	const limit = 64 << 10
	r := New(Options{EndedBytes: limit, Ring: 1000})
	end := func(name string, events int) {
		s, err := r.Open(name, OpenOptions{})
		must(t, err)
		for range events {
			publish(t, s, `{"type":"output","rendered":"`+strings.Repeat("x", 1000)+`"}`)
		}
		r.Close(s)
	}
	for i := range 200 {
		end(fmt.Sprint("s", i), 10)
		size := 0
		for _, s := range r.ListAll() {
			size += s.endedSize()
		}
		if size > limit || int(r.Kept()) > limit {
			t.Fatalf("%d bytes are kept, %d counted", size, r.Kept())
		}
	}
	if _, err := r.FindAny("s199"); err != nil {
		t.Error(err)
	}
	if n := len(r.ListAll()); n < 4 {
		t.Errorf("%d are kept", n)
	}
	end("large", 500)
	s, err := r.FindAny("large")
	must(t, err)
	if events, _ := s.History(0, 1000); len(events) < 40 || events[len(events)-1].Seq != 500 || s.endedSize() > limit {
		t.Errorf("%d events are left", len(events))
	}
	for i := range 1000 { // those without events have a size, too
		end(fmt.Sprint("e", i), 0)
	}
	if n := len(r.ListAll()); n > limit/endedCost {
		t.Errorf("%d are kept", n)
	}
}

// Who ends many sessions, or large ones, pushes out his own.
func TestEndedSessionsOfOthersStay(t *testing.T) {
	const limit = 64 << 10
	for _, by := range []struct{ sessions, events int }{{200, 2}, {1, 500}, {20, 100}} {
		r := New(Options{EndedBytes: limit, Ring: 1000})
		end := func(uid int, name string, events int) {
			s, err := r.Open(name, OpenOptions{Owner: rpc.NewLink(nil), Peer: &rpc.Peer{UID: uid}})
			must(t, err)
			for range events {
				publish(t, s, `{"type":"output","rendered":"`+strings.Repeat("x", 1000)+`"}`)
			}
			r.Close(s)
		}
		end(1001, "victim", 20)
		for i := range by.sessions {
			end(1002, fmt.Sprint("s", i), by.events)
		}
		s, err := r.FindAny("victim")
		if err != nil {
			t.Errorf("%+v: %v", by, err)
			continue
		}
		if events, _ := s.History(0, 1000); len(events) != 20 {
			t.Errorf("%+v: %d events are left", by, len(events))
		}
		if _, err := r.FindAny(fmt.Sprint("s", by.sessions-1)); err != nil {
			t.Errorf("%+v: the latest: %v", by, err)
		}
		size := 0
		for _, s := range r.ListAll() {
			size += s.endedSize()
		}
		if size > limit {
			t.Errorf("%+v: %d bytes are kept", by, size)
		}
	}
}

// A signal reaches the program through its producer, from those who may end it.
func TestKillReachesTheProducer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, table := hubLike(t, Options{Default: "demo"})
		owner, other, same := dial(t, table), dial(t, table), dial(t, table)
		owner.want("session.open", `{"name":"c"}`, `{"session":"c","seq":0}`)
		other.peer = &rpc.Peer{UID: 1001, PID: 5, Scopes: rpc.ScopeRead | rpc.ScopeCall | rpc.ScopeProvide}
		same.peer = &rpc.Peer{UID: owner.peer.UID, PID: 6, Scopes: other.peer.Scopes}
		same.refused("session.kill", `{"session":"c"}`, rpc.CodeUnavailable)
		in := owner.start("session.input", `{"session":"c"}`)
		synctest.Wait()
		other.refused("session.kill", `{"session":"c"}`, rpc.CodePermissionDenied)
		same.refused("session.kill", `{"session":"c","signal":"TERM; rm"}`, rpc.CodeInvalidParams)
		same.refused("session.kill", `{"session":"demo"}`, rpc.CodePermissionDenied)
		same.want("session.kill", `{"session":"c"}`, `{"ok":true}`)
		same.want("session.kill", `["c","int"]`, `{"ok":true}`)
		synctest.Wait()
		items, _, _, _ := in.state()
		if want := `[{"type":"signal","signal":"SIGTERM","client_id":"kollabor-6"} {"type":"signal","signal":"SIGINT","client_id":"kollabor-6"}]`; fmt.Sprint(items) != want {
			t.Errorf("got %s", items)
		}
	})
}

// Who types into a session without a producer is told that nobody reads it; the
// text is published all the same.
func TestTypingIntoASessionWithoutProducer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, table := hubLike(t, Options{Default: "demo"})
		c, owner := dial(t, table), dial(t, table)
		c.want("session.send", `{"session":"demo","text":"hello"}`, `{"ok":true,"delivered":false}`)
		text, _ := c.call("session.history", `{"session":"demo"}`)
		if !strings.Contains(text, `"text":"hello"`) {
			t.Errorf("history: %s", text)
		}
		owner.want("session.open", `{"name":"c"}`, `{"session":"c","seq":0}`)
		c.want("session.send", `{"session":"c","text":"x"}`, `{"ok":true}`)
		closeLink(owner.link)
		c.want("session.send", `{"session":"c","text":"x"}`, `{"ok":true,"delivered":false}`)
		admin := dial(t, table)
		admin.start("session.input", `{"session":"demo"}`)
		synctest.Wait()
		c.want("session.send", `{"session":"demo","text":"x"}`, `{"ok":true}`)
	})
}

// Who waits for the end of a session is not told that by a hub that stops.
func TestWaitOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, table := hubLike(t, Options{})
		c := dial(t, table)
		c.want("session.open", `{"name":"c"}`, `{"session":"c","seq":0}`)
		waits := c.start("session.wait", `{"session":"c"}`)
		synctest.Wait()
		r.Shutdown("restart")
		synctest.Wait()
		if _, text, err, done := waits.state(); !done || err == nil || err.Code != rpc.CodeUnavailable {
			t.Errorf("%s %v %v", text, err, done)
		}
	})
}
