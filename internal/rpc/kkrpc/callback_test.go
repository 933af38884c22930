package kkrpc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// facts returns what a session has said since the last call of it.
func (r *recorder) facts() (list []string) {
	for _, m := range r.all() {
		list = append(list, fact(m))
	}
	r.mu.Lock()
	r.sent = nil
	r.mu.Unlock()
	return list
}

// A function is released with the answer of the call that carried it, before
// that answer: a client that then passes it again is not raced. While another
// call of the client runs, the release waits, and is dropped when the function
// comes again.
func TestReleaseWaitsForAQuietMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		d := newDemo()
		s := newSession(rec, rpc.NewLink(nil), &rpc.Peer{Scopes: rpc.AllScopes}, &d.api, Limits{}, false)
		defer s.End(rpc.ErrPeerGone)
		say := func(id, method, args string) {
			path := strings.ReplaceAll(method, ".", `","`)
			s.Receive(nil, fmt.Appendf(nil, `{"t":"q","id":"%s","op":"call","p":["%s"],"a":[%s]}`, id, path, args))
			synctest.Wait()
		}
		fn := func(id string) string { return `{"__kkrpc_next_arg__":"callback","id":"` + id + `"}` }
		want := func(want ...string) {
			t.Helper()
			if got := rec.facts(); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		say("1", "hub.callback", fn("f")+",1")
		want("callback f [0]", `release ["f"]`, "response 1: 1")

		say("2", "hub.sleep", "1") // runs on
		say("3", "hub.callback", fn("f")+",1")
		say("4", "hub.callback", fn("g")+",1")
		want("callback f [0]", "response 3: 1", "callback g [0]", "response 4: 1")
		say("5", "hub.keep", fn("f")) // it is wanted again
		want("response 5: 1")
		time.Sleep(time.Second)
		synctest.Wait()
		want(`release ["g"]`, "response 2: 1")

		for _, r := range d.takeKept() { // the last holder
			r.Release()
		}
		want(`release ["f"]`)

		// The same function twice in one call, and one that its method fails with.
		say("6", "hub.callback", fn("f")+",1,"+fn("f"))
		want("callback f [0]", `release ["f"]`, "response 6: 1")
		say("7", "nope", fn("f"))
		want(`release ["f"]`, "response 7 fails: nope is not a function")
		say("8", "echo", fn("f"))
		want(`release ["f"]`, "response 8 fails: a reference cannot be carried by this protocol")
		if n := s.Counts(); n != (Counts{}) {
			t.Errorf("left behind: %+v", n)
		}
	})
}

// The hub's own limit ends a call of the client; an answer that comes later is
// dropped, and so is one that nobody asked for.
func TestCallOfAClientThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, dialect := range []Dialect{Classic, Compact} {
			rec := &recorder{}
			s := newSession(rec, rpc.NewLink(nil), nil, nil, Limits{}, false)
			s.dialect.Store(uint32(dialect))
			ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
			began := time.Now()
			_, err := rpc.Do(ctx, s.client, &rpc.Call{Path: parts([]string{"a", "b"})})
			stop()
			if e := rpc.AsError(ctx, err); e.Code != rpc.CodeDeadlineExceeded || time.Since(began) != 10*time.Second {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
			sent := rec.all()
			if len(sent) != 1 || fact(sent[0]) != "call a.b []" || s.Counts() != (Counts{}) {
				t.Errorf("sent %v, left %+v", sent, s.Counts())
			}
			late := fmt.Sprintf(`{"id":"%v","method":"","args":{"result":1},"type":"response"}`, sent[0]["id"])
			if dialect == Compact {
				late = fmt.Sprintf(`{"t":"r","id":"%v","v":1}`, sent[0]["id"])
			}
			s.Receive(nil, []byte(late))
			s.Receive(nil, []byte(late))
			if len(rec.all()) != 1 {
				t.Errorf("a late answer was answered: %v", rec.all())
			}
		}
	})
}
