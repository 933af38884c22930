package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/client"
)

// fakeHouse is the session of a fake hub, as a producer sees it.
type fakeHouse struct {
	mu     sync.Mutex
	epoch  string
	seq    uint64
	taken  uint64
	opens  []string // parameters
	events []string // "n:seq" as published
	// cut says that the connection breaks: before the nth publication is taken
	// (from 1), or after it was and before the answer.
	before, after int
	count         int
	input         func(c *fakeConn, f line)
}

func (s *fakeHouse) on(c *fakeConn, f line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Action != "rpc_request" {
		return
	}
	var p struct {
		Name  string
		Epoch string
		Seq   uint64
		Taken uint64
		N     uint64
	}
	json.Unmarshal(f.Params, &p)
	switch f.Method {
	case "session.open":
		if p.Name == "taken" {
			c.fail(f, "conflict", "session taken belongs to another connection", "")
			return
		}
		s.opens = append(s.opens, fmt.Sprintf("%s %d %d", p.Epoch, p.Seq, p.Taken))
		if s.epoch == "" { // it knows of nothing
			s.epoch, s.seq, s.taken = "e1", p.Seq, p.Taken
		}
		c.reply(f, fmt.Sprintf(`{"session":"build","seq":%d,"epoch":%q,"taken":%d}`, s.seq, s.epoch, s.taken))
	case "session.input":
		if s.input != nil {
			s.input(c, f)
		}
	case "session.publish":
		s.count++
		if s.count == s.before {
			c.Conn.Close()
			return
		}
		switch {
		case p.N == s.taken+1:
			s.taken++
			if p.Seq > s.seq {
				s.seq = p.Seq - 1
			}
			s.seq++
			s.events = append(s.events, fmt.Sprintf("%d:%d", p.N, s.seq))
		case p.N > s.taken:
			c.fail(f, "conflict", "an event is missing", "")
			return
		}
		if s.count == s.after {
			c.Conn.Close()
			return
		}
		c.reply(f, fmt.Sprintf(`{"ok":true,"seq":%d}`, s.seq))
	case "session.close":
		c.reply(f, `{"ok":true}`)
	}
}

func (s *fakeHouse) published() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

func produce(t *testing.T, h *fakeHub, opts *client.ProduceOptions) (*client.Client, *client.Producer) {
	t.Helper()
	c := h.connect(client.Options{})
	p, err := c.Produce(t.Context(), "build", opts)
	if err != nil {
		t.Fatal(err)
	}
	return c, p
}

func publishN(t *testing.T, p *client.Producer, n int) {
	t.Helper()
	for i := range n {
		if err := p.Publish(t.Context(), map[string]any{"type": "output", "rendered": fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProducerLosesAndDoublesNothing(t *testing.T) {
	for name, s := range map[string]*fakeHouse{
		"undisturbed":           {},
		"the request is lost":   {before: 2},
		"the answer is lost":    {after: 2},
		"first, then the reply": {before: 1, after: 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newFake(t, s.on)
				breaks, resumes := 0, 0
				c, p := produce(t, h, &client.ProduceOptions{
					OnBreak: func(error) { breaks++ }, OnResume: func(time.Duration) { resumes++ },
				})
				publishN(t, p, 4)
				if err := p.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := strings.Join(s.published(), " "); got != "1:1 2:2 3:3 4:4" {
					t.Errorf("published %s", got)
				}
				want := min(s.before, 1) + min(s.after, 1)
				if breaks != want || resumes != want {
					t.Errorf("%d breaks, %d resumes, want %d", breaks, resumes, want)
				}
				c.Close()
				h.close()
			})
		})
	}
}

// A hub that crashed comes back without memory: the producer fills it again,
// with the numbers that the events had.
func TestProducerBringsEventsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeHouse{}
		h := newFake(t, s.on)
		c, p := produce(t, h, &client.ProduceOptions{Retain: 150}) // three of them
		publishN(t, p, 3)
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		s.seq += 10 // others publish
		s.mu.Unlock()
		publishN(t, p, 2)
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		s.epoch, s.seq, s.taken, s.events = "", 0, 0, nil
		s.before = s.count + 1
		s.mu.Unlock()
		publishN(t, p, 1)
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		events := strings.Join(s.published(), " ")
		if !strings.HasSuffix(events, "4:14 5:15 6:16") || strings.HasPrefix(events, "1:") {
			t.Errorf("brought back %s", events)
		}
		if want := s.opens[1]; !strings.HasPrefix(want, "e1 ") || want == "e1 0 0" {
			t.Errorf("opened as %q", s.opens)
		}
		p.Close(t.Context())
		c.Close()
		h.close()
	})
}

func TestProducerWaitsWhileTooMuchWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeHouse{}
		h := newFake(t, s.on)
		c, p := produce(t, h, &client.ProduceOptions{Buffer: 100})
		h.mu.Lock()
		h.refuse = func(int) error { return fmt.Errorf("away") }
		h.conns[0].Close()
		h.mu.Unlock()
		publishN(t, p, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		wantKind(t, p.Publish(ctx, map[string]string{"type": "output", "rendered": strings.Repeat("x", 90)}), client.KindTimeout)
		wantKind(t, p.Publish(ctx, map[string]string{"rendered": "no type"}), client.KindInvalidParams)
		wantKind(t, p.Close(ctx), client.KindTimeout)
		if got := s.published(); len(got) != 0 {
			t.Errorf("published %v", got)
		}
		c.Close()
		h.close()
	})
}

func TestProducerTakesInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeHouse{input: func(c *fakeConn, f line) {
			for i, item := range []string{
				`{"type":"resize","cols":80,"rows":24}`,
				`{"type":"input","text":"ls\r","client_id":"ada"}`,
				`{"type":"permission_response","tool_id":"t1","response":"DENY"}`,
				`7`,
				`{"type":"message","content":"hello"}`,
			} {
				c.chunk(f, i+1, item)
			}
			c.reply(f, "null") // somebody closed the session
		}}
		h := newFake(t, s.on)
		var got []string
		c, p := produce(t, h, &client.ProduceOptions{OnInput: func(in client.Input) {
			got = append(got, fmt.Sprint(in.Type, " ", in.Cols, in.Rows, in.Text, in.ClientID, in.ToolID, in.Response, len(in.JSON) > 0))
		}})
		<-p.Done()
		want := []string{"resize 80 24true", "input 0 0ls\radatrue", "permission_response 0 0t1DENYtrue", "message 0 0true"}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		wantKind(t, p.Err(), client.KindNotFound)
		wantKind(t, p.Publish(t.Context(), map[string]string{"type": "output"}), client.KindNotFound)
		c.Close()
		h.close()
	})
}

func TestProducerOfASessionOfOthers(t *testing.T) {
	h := newFake(t, (&fakeHouse{}).on)
	c := h.connect(client.Options{})
	_, err := c.Produce(t.Context(), "taken", nil)
	wantKind(t, err, client.KindConflict)
}

// A refusal on the connection that owns the session is final: it is not asked
// for again and again.
func TestRefusedCloseIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		s := &fakeHouse{}
		h := newFake(t, func(c *fakeConn, f line) {
			if f.Method == "session.close" {
				asked++
				c.fail(f, "permission", "not allowed to call session.close", "")
				return
			}
			s.on(c, f)
		})
		c, p := produce(t, h, nil)
		publishN(t, p, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := p.Close(ctx); client.KindOf(err) != client.KindPermission || asked != 1 || ctx.Err() != nil {
			t.Errorf("%v after %d calls", err, asked)
		}
		c.Close()
	})
}
