package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/client"
)

// fakeSession is a session of the fake hub with all its events kept.
type fakeSession struct {
	mu      sync.Mutex
	since   []string // of each follow; "" for none
	modes   []string
	epochs  []string
	follows int
	script  func(s *fakeSession, c *fakeConn, f line, n int) // of the nth follow, from 0
	info    func(n int) (uint64, bool)                       // head of the session and whether it exists
	infos   int
	epoch   string // of the session; "" for a hub that knows none
}

func (s *fakeSession) on(c *fakeConn, f line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Action != "rpc_request" {
		return
	}
	switch f.Method {
	case "session.follow":
		var p struct {
			Session  string
			SinceSeq json.RawMessage `json:"since_seq"`
			Epoch    string
			Mode     string
		}
		json.Unmarshal(f.Params, &p)
		if p.Session != "demo" {
			c.fail(f, "not_found", "no such session", "")
			return
		}
		if f.Timeout == nil || *f.Timeout < 3000 {
			c.t.Errorf("an idle session ends this follow: %s", f.text)
		}
		s.since = append(s.since, string(p.SinceSeq))
		s.epochs = append(s.epochs, p.Epoch)
		s.modes = append(s.modes, p.Mode)
		s.follows++
		s.script(s, c, f, s.follows-1)
	case "session.info":
		if s.follows == 0 { // which life it is
			c.reply(f, fmt.Sprintf(`{"session":"demo","seq":0,"epoch":%q}`, s.epoch))
			return
		}
		s.infos++
		head, ok := s.info(s.infos - 1)
		if !ok {
			c.fail(f, "not_found", "no such session", "")
			return
		}
		c.reply(f, fmt.Sprintf(`{"session":"demo","seq":%d,"epoch":%q}`, head, s.epoch))
	}
}

func event(c *fakeConn, f line, chunk int, seq uint64) {
	c.chunk(f, chunk, fmt.Sprintf(`{"type":"output","rendered":"e%d","ts":1700000000.5,"seq":%d}`, seq, seq))
}

func TestAttachYieldsEventsUntilTheSessionCloses(t *testing.T) {
	s := &fakeSession{script: func(_ *fakeSession, c *fakeConn, f line, _ int) {
		event(c, f, 1, 7)
		event(c, f, 2, 8)
		c.chunk(f, 3, `{"type":"gap","dropped":5,"seq":13}`)
		event(c, f, 4, 14)
		c.reply(f, "null")
	}}
	h := newFake(t, s.on)
	var got []string
	var gap uint64
	for e, err := range h.connect(client.Options{}).Attach(t.Context(), "demo", nil) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(e.Type, e.Seq))
		gap += e.Gap()
		if e.Type == "output" && (e.Time.UnixMilli() != 1700000000500 || !strings.Contains(string(e.JSON), `"rendered"`)) {
			t.Errorf("event: %+v", e)
		}
	}
	if want := "output7 output8 gap13 output14"; strings.Join(got, " ") != want || gap != 5 {
		t.Errorf("events %v, %d missing", got, gap)
	}
	if s.since[0] != "" || s.modes[0] != "" {
		t.Errorf("followed with since_seq %q, mode %q", s.since[0], s.modes[0])
	}
}

func TestAttachOptions(t *testing.T) {
	s := &fakeSession{script: func(_ *fakeSession, c *fakeConn, f line, _ int) { c.reply(f, "null") }}
	h := newFake(t, s.on)
	since := uint64(41)
	for _, err := range h.connect(client.Options{}).Attach(t.Context(), "demo", &client.AttachOptions{Interactive: true, Since: &since}) {
		t.Fatal(err)
	}
	if s.since[0] != "41" || s.modes[0] != "interactive" {
		t.Errorf("followed with since_seq %q, mode %q", s.since[0], s.modes[0])
	}
}

func TestAttachToNothing(t *testing.T) {
	h := newFake(t, (&fakeSession{}).on)
	n := 0
	for _, err := range h.connect(client.Options{}).Attach(t.Context(), "nobody", nil) {
		n++
		wantKind(t, err, client.KindNotFound)
	}
	if n != 1 {
		t.Errorf("%d rounds", n)
	}
}

func TestAttachResumesWithoutGapOrRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSession{
			script: func(_ *fakeSession, c *fakeConn, f line, n int) {
				switch n {
				case 0:
					event(c, f, 1, 1)
					event(c, f, 2, 2)
					c.Conn.Close()
				case 1:
					event(c, f, 1, 2) // a hub that says one twice
					event(c, f, 2, 3)
					c.chunk(f, 3, `{"type":"shutdown","reason":"restart"}`)
					c.reply(f, "null")
				default:
					event(c, f, 1, 4)
					c.reply(f, "null")
				}
			},
			info: func(n int) (uint64, bool) { return 3, n != 1 }, // the owner opens it again a little later
		}
		h := newFake(t, s.on)
		h.refuse = func(n int) error {
			if n == 1 || n == 2 {
				return syscall.ENOENT
			}
			return nil
		}
		c := h.connect(client.Options{})
		var got []string
		var breaks, resumes int
		opts := &client.AttachOptions{
			OnBreak: func(err error) { breaks++ },
			OnResume: func(r client.Resumed) {
				resumes++
				if r.Restarted || resumes == 1 && (r.Behind != 1 || r.Away <= 0) || resumes == 2 && r.Behind != 0 {
					t.Errorf("resumed: %+v", r)
				}
			},
		}
		for e, err := range c.Attach(t.Context(), "demo", opts) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Type == "output" {
				got = append(got, fmt.Sprint(e.Seq))
			}
		}
		if strings.Join(got, " ") != "1 2 3 4" || breaks != 2 || resumes != 2 {
			t.Errorf("events %v, %d breaks, %d resumes", got, breaks, resumes)
		}
		if strings.Join(s.since, ",") != ",2,3" {
			t.Errorf("followed since %q", s.since)
		}
		c.Close()
		h.close()
	})
}

func TestAttachNoticesANewSessionOfTheSameName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSession{
			script: func(_ *fakeSession, c *fakeConn, f line, n int) {
				if n == 0 {
					event(c, f, 1, 90)
					c.Conn.Close()
					return
				}
				event(c, f, 1, 1)
				event(c, f, 2, 2)
				c.reply(f, "null")
			},
			info: func(int) (uint64, bool) { return 2, true },
		}
		h := newFake(t, s.on)
		c := h.connect(client.Options{})
		var got []string
		restarted := false
		for e, err := range c.Attach(t.Context(), "demo", &client.AttachOptions{OnResume: func(r client.Resumed) { restarted = r.Restarted }}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(e.Seq))
		}
		if strings.Join(got, " ") != "90 1 2" || !restarted {
			t.Errorf("events %v, restarted %v", got, restarted)
		}
		c.Close()
		h.close()
	})
}

// By the numbers alone a new life cannot always be told.
func TestAttachNoticesANewLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSession{epoch: "one"}
		s.info = func(int) (uint64, bool) { return 95, true }
		s.script = func(_ *fakeSession, c *fakeConn, f line, n int) {
			switch n {
			case 0:
				event(c, f, 1, 90)
				s.epoch = "two"
				c.Conn.Close()
			case 1:
				event(c, f, 1, 1)
				c.chunk(f, 2, `{"type":"gap","dropped":0,"seq":0,"restarted":true,"epoch":"three"}`)
				event(c, f, 3, 1)
				s.epoch = "three"
				c.Conn.Close()
			default:
				event(c, f, 1, 2)
				c.reply(f, "null")
			}
		}
		h := newFake(t, s.on)
		c := h.connect(client.Options{})
		var got []string
		var restarts []bool
		for e, err := range c.Attach(t.Context(), "demo", &client.AttachOptions{OnResume: func(r client.Resumed) { restarts = append(restarts, r.Restarted) }}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(e.Type, e.Seq))
		}
		if want := "[output90 output1 gap0 output1 output2]"; fmt.Sprint(got) != want || fmt.Sprint(restarts) != "[true false]" {
			t.Errorf("events %v, restarted %v", got, restarts)
		}
		if fmt.Sprint(s.since) != "[ 0 1]" || fmt.Sprint(s.epochs) != "[ two three]" {
			t.Errorf("since %q of %q", s.since, s.epochs)
		}
		c.Close()
		h.close()
	})
}

func TestAttachLosesPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSession{script: func(_ *fakeSession, c *fakeConn, f line, n int) {
			event(c, f, 1, 1)
			c.Conn.Close()
		}}
		h := newFake(t, s.on)
		h.refuse = func(n int) error {
			if n > 0 {
				return syscall.ECONNREFUSED
			}
			return nil
		}
		c := h.connect(client.Options{Reconnect: 5 * time.Second})
		began := time.Now()
		var last error
		for _, err := range c.Attach(t.Context(), "demo", &client.AttachOptions{Patience: time.Minute}) {
			last = err
		}
		wantKind(t, last, client.KindDisconnected)
		if took := time.Since(began); took < 50*time.Second || took > 70*time.Second {
			t.Errorf("gave up after %v", took)
		}
		last = nil
		for _, err := range c.Attach(t.Context(), "demo", &client.AttachOptions{Patience: -1}) {
			last = err
		}
		wantKind(t, last, client.KindDisconnected)
		c.Close()
		h.close()
	})
}

func TestAttachEndsWhenTheSessionHasEndedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSession{
			script: func(_ *fakeSession, c *fakeConn, f line, n int) {
				event(c, f, 1, 1)
				c.Conn.Close()
			},
			info: func(int) (uint64, bool) { return 0, false },
		}
		h := newFake(t, s.on)
		c := h.connect(client.Options{})
		began := time.Now()
		var last error
		for _, err := range c.Attach(t.Context(), "demo", nil) {
			last = err
		}
		wantKind(t, last, client.KindNotFound)
		if took := time.Since(began); took < 10*time.Second || took > 30*time.Second {
			t.Errorf("gave up after %v", took)
		}
		c.Close()
		h.close()
	})
}

func TestAttachEndsWithTheContextWhileAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSession{script: func(_ *fakeSession, c *fakeConn, f line, n int) {
			event(c, f, 1, 1)
			c.Conn.Close()
		}}
		h := newFake(t, s.on)
		h.refuse = func(n int) error {
			if n > 0 {
				return syscall.ECONNREFUSED
			}
			return nil
		}
		c := h.connect(client.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(42*time.Second, cancel)
		began := time.Now()
		var last error
		for _, err := range c.Attach(ctx, "demo", nil) {
			last = err
		}
		wantKind(t, last, client.KindCancelled)
		if took := time.Since(began); took != 42*time.Second {
			t.Errorf("ended after %v", took)
		}
		c.Close()
		h.close()
	})
}
