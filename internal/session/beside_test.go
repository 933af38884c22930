package session

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// What sessions keep beside their events counts like those: snapshots, open
// prompts, and what waits for owners. When all of it is too much, what is there
// goes, and a prompt that goes is denied.
func TestSnapshotsPromptsAndInboxesAreBounded(t *testing.T) {
	const limit = 128 << 10
	for name, keep := range map[string]func(s *Session, n int){
		"snapshots": func(s *Session, _ int) {
			publish(t, s, `{"type":"state_snapshot","x":"`+strings.Repeat("x", 20<<10)+`"}`)
		},
		"prompts": func(s *Session, n int) {
			publish(t, s, fmt.Sprintf(`{"type":"permission_request","details":{"tool_id":"t%d","x":"%s"}}`, n, strings.Repeat("x", 5<<10)))
		},
		"messages": func(s *Session, n int) {
			_, err := s.Deliver(nil, rpc.RawString(fmt.Sprintf(`{"id":"%s%d","content":"%s"}`, strings.Repeat("i", 2<<10), n, strings.Repeat("x", 5<<10))))
			must(t, err)
		},
		"rosters": func(s *Session, _ int) {
			must(t, s.SetRoster(nil, rpc.RawString(`[{"x":"`+strings.Repeat("x", 20<<10)+`"}]`)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := New(Options{Memory: limit, Ended: -1})
			var all []*Session
			for i := range 20 {
				s, err := r.Open(fmt.Sprint("s", i), OpenOptions{})
				must(t, err)
				all = append(all, s)
				for n := range 10 {
					keep(s, n)
				}
				kept := 0
				for _, s := range all {
					s.mu.Lock()
					kept += len(s.snapshot.JSON) + sizeOfValue(s.inbox.roster)
					for _, p := range s.prompts {
						kept += len(p.event.JSON)
					}
					for _, m := range s.inbox.waits {
						kept += sizeOfValue(m.value)
					}
					s.mu.Unlock()
				}
				if kept > limit || r.Kept() > limit || i == 0 && kept == 0 {
					t.Fatalf("%d bytes are kept, %d are counted, at most %d may be", kept, r.Kept(), limit)
				}
			}
			for _, s := range all {
				r.Close(s)
			}
			if n := r.Kept(); n != 0 {
				t.Errorf("%d bytes are counted without sessions", n)
			}
		})
	}
}

// A prompt that goes for lack of memory is denied, so that its producer does
// not wait for an answer.
func TestPromptsThatGoForLackOfMemoryAreDenied(t *testing.T) {
	r := New(Options{Memory: 64 << 10})
	link := rpc.NewLink(nil)
	s, err := r.Open("s", OpenOptions{Owner: link})
	must(t, err)
	in, err := s.Inputs(link)
	must(t, err)
	for i := range 4 {
		publish(t, s, fmt.Sprintf(`{"type":"permission_request","details":{"tool_id":"t%d","x":"%s"}}`, i, strings.Repeat("x", 20<<10)))
	}
	expectInput(t, in, `{"type":"permission_response","tool_id":"t0","response":"DENY","expired":true}`)
	if ids := s.Prompts(); len(ids) == 0 || ids[len(ids)-1] != "t3" {
		t.Errorf("open are %v", ids)
	}
}

// A snapshot is charged to its publisher until it is replaced, a prompt until
// it is answered, both no longer than the session lives.
func TestWhatStaysIsChargedToItsPublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := &rpc.Gate{Kept: 64 << 10}
		_, table := hubLike(t, Options{})
		c := &connection{t: t, table: table, link: rpc.NewLink(gate), peer: &rpc.Peer{Scopes: rpc.AllScopes}}
		t.Cleanup(func() { closeLink(c.link) })
		event := func(kind, more string, size int) string {
			return fmt.Sprintf(`{"session":"s","event":{"type":%q,%s"ts":1,"x":%q}}`, kind, more, strings.Repeat("x", size<<10))
		}
		prompt := func(id string, size int) string {
			return event("permission_request", `"details":{"tool_id":"`+id+`"},`, size)
		}
		charged := func(want int) {
			t.Helper()
			if got := gate.KeptBytes() >> 10; got != int64(want) {
				t.Errorf("%d KiB are charged, want %d", got, want)
			}
		}
		c.want("session.open", `{"name":"s"}`, `{"session":"s","seq":0}`)
		c.want("session.publish", event("output", "", 50), `{"ok":true}`)
		charged(0)
		c.want("session.publish", event("state_snapshot", "", 40), `{"ok":true}`)
		c.want("session.publish", event("state_snapshot", "", 50), `{"ok":true}`) // in its place
		charged(50)
		c.refused("session.publish", prompt("a", 20), rpc.CodeOverloaded)
		c.want("session.publish", event("state_snapshot", "", 10), `{"ok":true}`)
		c.want("session.publish", prompt("a", 20), `{"ok":true}`)
		c.want("session.publish", prompt("b", 20), `{"ok":true}`)
		charged(50)
		c.want("permission.respond", `{"tool_id":"a","response":"DENY"}`, `{"ok":true}`)
		charged(30)
		c.want("session.close", `{"session":"s"}`, `{"ok":true}`)
		charged(0)
	})
}
