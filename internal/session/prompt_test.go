package session

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// outcomes is an Observer that counts how prompts end.
type outcomes struct {
	nobody
	mu sync.Mutex
	n  map[string]int
}

func (o *outcomes) Prompt(_ *Session, outcome string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n == nil {
		o.n = map[string]int{}
	}
	o.n[outcome]++
}

func (o *outcomes) expect(t *testing.T, answered, expired, withdrawn int) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n[PromptAnswered] != answered || o.n[PromptExpired] != expired || o.n[PromptWithdrawn] != withdrawn {
		t.Errorf("prompts ended as %v", o.n)
	}
}

func ask(t *testing.T, s *Session, id string) {
	t.Helper()
	publish(t, s, `{"type":"permission_request","details":{"tool_id":"`+id+`","tool_type":"terminal"}}`)
}

func TestPromptIsAnsweredOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := new(outcomes)
		s := open(t, Options{Observer: o}, 50)
		in, err := s.Inputs(nil)
		must(t, err)
		f := follow(t, s, FollowOptions{})
		if s.CanAnswer() {
			t.Error("a read-only follower counts as able to answer")
		}
		follow(t, s, FollowOptions{Mode: Interactive})
		if !s.CanAnswer() {
			t.Error("an interactive follower does not count")
		}
		for _, c := range []struct{ response, want string }{
			{"approve_once", "APPROVE_ONCE"}, {"CANCEL", "CANCEL"}, {"sure", "DENY"}, {"", "DENY"}, {" Approve_Tool_Always ", "APPROVE_TOOL_ALWAYS"},
		} {
			ask(t, s, "tool-1")
			if !s.Respond("tool-1", c.response, "attach-9") {
				t.Fatal("not open")
			}
			if s.Respond("tool-1", "DENY", "attach-10") {
				t.Error("answered twice")
			}
			expectInput(t, in, `{"type":"permission_response","tool_id":"tool-1","response":"`+c.want+`","client_id":"attach-9"}`)
			var last Event
			for e, ok, _ := f.Poll(); ok; e, ok, _ = f.Poll() {
				last = e
			}
			if !strings.HasPrefix(string(last.JSON), `{"type":"permission_resolved","tool_id":"tool-1","response":"`+c.want+`","client_id":"attach-9",`) {
				t.Errorf("told: %s", last.JSON)
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		o.expect(t, 5, 0, 0)
	})
}

func TestPromptExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := new(outcomes)
		s := open(t, Options{Observer: o}, 50)
		ask(t, s, "a")
		time.Sleep(299 * time.Second)
		synctest.Wait()
		if got := s.Prompts(); len(got) != 1 {
			t.Fatalf("open: %v", got)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := s.Prompts(); len(got) != 0 {
			t.Fatalf("open: %v", got)
		}
		if s.Respond("a", "APPROVE_ONCE", "") {
			t.Error("answered after it expired")
		}
		in, err := s.Inputs(nil) // the answer waited for the asker
		must(t, err)
		expectInput(t, in, `{"type":"permission_response","tool_id":"a","response":"DENY","expired":true}`)
		o.expect(t, 0, 1, 0)
	})
}

func TestPromptWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := new(outcomes)
		r := New(Options{Observer: o})
		s, err := r.Open("work", OpenOptions{})
		must(t, err)
		ask(t, s, "a")
		publish(t, s, `{"type":"permission_resolved","tool_id":"a","response":"DENY"}`)
		ask(t, s, "b")
		ask(t, s, "b") // takes the place of the first
		if got := s.Prompts(); len(got) != 1 || got[0] != "b" {
			t.Errorf("open: %v", got)
		}
		publish(t, s, `{"type":"permission_request"}`) // cannot be answered
		publish(t, s, `{"type":"permission_request","details":{"tool_id":7}}`)
		r.Close(s)
		time.Sleep(time.Hour)
		synctest.Wait()
		o.expect(t, 0, 0, 3)
	})
}

func TestOpenPromptsAreLimited(t *testing.T) {
	s := open(t, Options{}, 5)
	for i := range maxPrompts + 10 {
		ask(t, s, strings.Repeat("x", i%200)+string(rune('a'+i/200)))
	}
	if n := len(s.Prompts()); n != maxPrompts {
		t.Errorf("%d open", n)
	}
	ask(t, s, strings.Repeat("x", maxToolID+1))
	if n := len(s.Prompts()); n != maxPrompts {
		t.Errorf("%d open", n)
	}
}

func TestRespondFindsTheSession(t *testing.T) {
	r := New(Options{})
	link := rpc.NewLink(nil)
	var sessions []*Session
	for _, name := range []string{"a", "b", "c"} {
		s, err := r.Open(name, OpenOptions{})
		must(t, err)
		sessions = append(sessions, s)
	}
	respond := func(session, id string, link *rpc.Link) string {
		t.Helper()
		problem, err := r.Respond(session, id, "DENY", "", link)
		must(t, err)
		return problem
	}
	if got := respond("", "x", nil); got != "no pending prompt for x" {
		t.Errorf("none: %q", got)
	}
	ask(t, sessions[0], "x")
	if got := respond("b", "x", nil); got != "no pending prompt for x" {
		t.Errorf("in another session: %q", got)
	}
	if got := respond("", "x", nil); got != "" || len(sessions[0].Prompts()) != 0 {
		t.Errorf("the only one: %q", got)
	}
	ask(t, sessions[0], "x")
	ask(t, sessions[1], "x")
	if got := respond("", "x", nil); !strings.Contains(got, "name the session") {
		t.Errorf("one of two: %q", got)
	}
	reader := follow(t, sessions[1], FollowOptions{Link: link, ClientID: "attach-4"})
	if _, err := r.Respond("", "x", "APPROVE_ALWAYS", "", link); !errors.Is(err, errReadOnly) || len(sessions[1].Prompts()) != 1 {
		t.Errorf("a read-only follower: %v", err)
	}
	f := follow(t, sessions[1], FollowOptions{Link: link, ClientID: "attach-5", Mode: Interactive})
	if got := respond("", "x", link); got != "" || len(sessions[1].Prompts()) != 0 || len(sessions[0].Prompts()) != 1 {
		t.Errorf("the followed one: %q", got)
	}
	if e, ok, err := f.Poll(); !ok || err != nil || !strings.Contains(string(e.JSON), `"client_id":"attach-5"`) {
		t.Errorf("told: %s, %v", e.JSON, err)
	}
	reader.Close()
	if got := respond("a", "x", link); got != "" {
		t.Errorf("by name: %q", got)
	}
	if _, err := r.Respond("zz", "x", "", "", nil); err == nil {
		t.Error("an unknown session")
	}
}
