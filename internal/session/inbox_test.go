package session

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func deliver(t *testing.T, s *Session, text string) Delivery {
	t.Helper()
	d, err := s.Deliver(nil, parse(t, text))
	must(t, err)
	return d
}

func TestMessageReachesTheOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{}, 5)
		in, err := s.Inputs(nil)
		must(t, err)
		d := deliver(t, s, `{"action":"message","id":"m1","from_identity":"bob","to":"work","content":"hi é","timestamp":1.5,"junk":1}`)
		if raw, _ := d.ID.Raw(); string(raw) != `"m1"` || d.Duplicate || !d.Addressed {
			t.Errorf("%+v", d)
		}
		expectInput(t, in, `{"type":"message","id":"m1","action":"message","from_agent":"","from_identity":"bob","to":"work","content":"hi é",`+
			`"scope":"direct","timestamp":1.5,"metadata":{},"force":false,"thread_id":"m1","reply_to":"","addressed":true}`)
		d = deliver(t, s, `{"id":42,"to":"other","timestamp":NaN,"metadata":{"a":[1.0]},"thread_id":"t"}`)
		if raw, _ := d.ID.Raw(); string(raw) != `42` || d.Addressed {
			t.Errorf("%+v", d)
		}
		expectInput(t, in, `{"type":"message","id":42,"action":"message","from_agent":"","from_identity":"","to":"other","content":"",`+
			`"scope":"direct","timestamp":NaN,"metadata":{"a":[1.0]},"force":false,"thread_id":"t","reply_to":"","addressed":false}`)
		d = deliver(t, s, `{"to":"*"}`)
		if id, err := d.ID.AsString(); err != nil || len(id) != 32 || !d.Addressed {
			t.Errorf("%+v", d)
		}
	})
}

func TestMessageDedup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{}, 5)
		duplicate := func(text string, want bool) {
			t.Helper()
			if d := deliver(t, s, text); d.Duplicate != want {
				t.Errorf("%s: duplicate %v, want %v", text, d.Duplicate, want)
			}
		}
		duplicate(`{"id":"a"}`, false)
		duplicate(`{"id":"a"}`, true)
		duplicate(`{"id":"1"}`, false)
		duplicate(`{"id":1}`, false) // another id
		for i := range seenIDs - 3 {
			duplicate(fmt.Sprintf(`{"id":"x%d"}`, i), false)
		}
		duplicate(`{"id":"a"}`, true) // the oldest of 1000
		duplicate(`{"id":"new"}`, false)
		duplicate(`{"id":"a"}`, false) // pushed out

		duplicate(`{"id":"b1","scope":"team","from_identity":"bob","content":"hi"}`, false)
		duplicate(`{"id":"b2","scope":"team","from_identity":"bob","content":"hi"}`, true)
		duplicate(`{"id":"b3","scope":"team","from_identity":"eve","content":"hi"}`, false)
		duplicate(`{"id":"b4","scope":"direct","from_identity":"bob","content":"hi"}`, false)
		duplicate(`{"id":"b5","from_identity":"bob","content":"hi"}`, false)
		time.Sleep(sameContent)
		duplicate(`{"id":"b6","scope":"team","from_identity":"bob","content":"hi"}`, false)
		for i := range 5 * maxContents {
			duplicate(fmt.Sprintf(`{"id":"c%d","scope":"team","content":"c%d"}`, i, i), false)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.inbox.ids) != seenIDs || len(s.inbox.order) != seenIDs || len(s.inbox.said) > maxContents {
			t.Errorf("%d ids, %d contents", len(s.inbox.ids), len(s.inbox.said))
		}
	})
}

func TestInboxKeepsMessagesForAnAbsentOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{}, 5)
		ids := func(in *Inputs) []string {
			var list []string
			for len(in.queue.items) > 0 {
				v, err := in.Next(t.Context())
				must(t, err)
				list = append(list, textMember(v, "id"))
			}
			return list
		}
		for i := range maxInbox + 5 {
			deliver(t, s, fmt.Sprintf(`{"id":"m%d"}`, i))
		}
		in, err := s.Inputs(nil)
		must(t, err)
		if got := ids(in); len(got) != maxInbox || got[0] != "m5" || got[maxInbox-1] != "m54" {
			t.Errorf("got %v", got)
		}
		deliver(t, s, `{"id":"unread"}`)
		in.Close()
		deliver(t, s, `{"id":"later"}`)
		in, err = s.Inputs(nil)
		must(t, err)
		if got := ids(in); !slices.Equal(got, []string{"unread", "later"}) {
			t.Errorf("got %v", got)
		}
		in.Close()
		deliver(t, s, `{"id":"old"}`)
		time.Sleep(inboxDays + time.Second)
		deliver(t, s, `{"id":"young"}`)
		in, err = s.Inputs(nil)
		must(t, err)
		if got := ids(in); !slices.Equal(got, []string{"young"}) {
			t.Errorf("got %v", got)
		}
		in.Close()
		if _, err := s.Deliver(nil, rpc.String(strings.Repeat("x", maxInboxSize))); err == nil {
			t.Error("a huge message was taken")
		}
	})
}

func TestRoster(t *testing.T) {
	s := open(t, Options{}, 5)
	text := func() string {
		raw, _ := s.Roster().Raw()
		return string(raw)
	}
	if text() != "[]" {
		t.Errorf("at first: %s", text())
	}
	must(t, s.SetRoster(nil, parse(t, `[{"identity":"bob","state":"idle"}]`)))
	for _, bad := range []string{`[1]`, `{}`, `null`, `"x"`, `[{},[]]`} {
		must(t, s.SetRoster(nil, parse(t, bad)))
	}
	if text() != `[{"identity":"bob","state":"idle"}]` {
		t.Errorf("got %s", text())
	}
	must(t, s.SetRoster(nil, parse(t, `[]`)))
	if text() != "[]" {
		t.Errorf("got %s", text())
	}
}

func TestViews(t *testing.T) {
	s := open(t, Options{}, 50)
	if len(s.Output(10)) != 0 || s.Context(10) != "" {
		t.Error("an empty session has output")
	}
	publish(t, s, `{"type":"output","rendered":"a\nb"}`)
	publish(t, s, `{"type":"message","content":"no output"}`)
	publish(t, s, `{"type":"output","rendered":7}`)
	publish(t, s, `{"type":"output","rendered":"c\n"}`)
	publish(t, s, `{"type":"output","rendered":"d"}`)
	var got []string
	for _, v := range s.Output(2) {
		raw, _ := v.Raw()
		got = append(got, string(raw))
	}
	if !slices.Equal(got, []string{`"c\n"`, `"d"`}) {
		t.Errorf("output: %v", got)
	}
	for n, want := range map[int]string{0: "", 1: "d", 2: "c\nd", 3: "b\nc\nd", 4: "a\nb\nc\nd", 99: "a\nb\nc\nd"} {
		if got := s.Context(n); got != want {
			t.Errorf("context(%d): %q, want %q", n, got, want)
		}
	}
	if st := s.Status(); st.State != "idle" || st.Identity != "work" {
		t.Errorf("%+v", st)
	}
	publish(t, s, `{"type":"state_snapshot","is_processing":true}`)
	if st := s.Status(); st.State != "working" {
		t.Errorf("%+v", st)
	}
	if e, has := s.Snapshot(); !has || e.Seq != 6 {
		t.Errorf("%v %v", e, has)
	}
	s.permanent = false // so that it may have an owner
	_, err := s.registry.Open("work", OpenOptions{
		Owner: rpc.NewLink(nil), Peer: &rpc.Peer{PID: 77}, Meta: rpc.RawString(`{"state":"thinking","current_task":"tests"}`),
	})
	must(t, err)
	if st := s.Status(); st.State != "thinking" || st.CurrentTask != "tests" || st.OwnerPID != 77 {
		t.Errorf("%+v", st)
	}
}
