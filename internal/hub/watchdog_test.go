package hub

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/statesvc"
)

// Two pings in each interval as long as the check passes; none while it fails
// or hangs; again afterwards.
func TestWatchdogPingsOnlyWhatWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval = 30 * time.Second
		var pings, failures atomic.Int64
		var check atomic.Pointer[func(context.Context) error]
		use := func(f func(context.Context) error) { check.Store(&f) }
		use(func(context.Context) error { return nil })
		w := &watchdog{
			interval: interval,
			check:    func(ctx context.Context) error { return (*check.Load())(ctx) },
			ping:     func() { pings.Add(1) },
			failed:   func(error) { failures.Add(1) },
		}
		ctx, cancel := context.WithCancel(t.Context())
		go w.run(ctx)
		steps := []struct {
			name            string
			check           func(context.Context) error
			pings, failures int64
		}{
			{"works", func(context.Context) error { return nil }, 10, 0},
			{"fails", func(context.Context) error { return errors.New("no") }, 0, 10},
			{"hangs", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 0, 10},
			{"works again", func(context.Context) error { return nil }, 10, 0},
		}
		time.Sleep(time.Second) // past the first look
		for _, s := range steps {
			use(s.check)
			pings.Store(0)
			failures.Store(0)
			time.Sleep(5 * interval)
			// A check that hangs is given up with the tick after it: one look more or less may fall into the window.
			if p, f := pings.Load(), failures.Load(); p < s.pings-1 || p > s.pings || f < s.failures-1 || f > s.failures+1 {
				t.Errorf("%s: %d pings and %d failures, expected %d and %d", s.name, p, f, s.pings, s.failures)
			}
		}
		cancel()
	})
}

// A store is dead when it does not answer or when waiting writes do not end;
// not when it is idle, slow, or refuses writes.
func TestProgressOfStore(t *testing.T) {
	const patience = 30 * time.Second
	look := func(t *testing.T, p *progress) error {
		time.Sleep(patience / 2)
		ctx, cancel := context.WithTimeout(t.Context(), patience/2)
		defer cancel()
		return p.check(ctx)
	}
	synctest.Test(t, func(t *testing.T) {
		var s statesvc.Stats
		p := &progress{stats: func() statesvc.Stats { return s }, patience: patience}
		for range 10 { // idle
			if err := look(t, p); err != nil {
				t.Fatal(err)
			}
		}
		s.Queue = 7
		for range 10 { // slow: one sync in each half interval
			s.Commits++
			if err := look(t, p); err != nil {
				t.Fatal(err)
			}
		}
		for range 10 { // a full disk: refused at once
			s.Refused++
			if err := look(t, p); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		n := 0
		for ; err == nil && n < 10; n++ { // nothing moves
			err = look(t, p)
		}
		if err == nil || !strings.Contains(err.Error(), "7 writes wait") || n > 3 {
			t.Errorf("after %d looks at a store that does not move: %v", n, err)
		}
		s.Commits++ // it moves again
		if err := look(t, p); err != nil {
			t.Error(err)
		}
		s.Queue = 0
		for range 10 {
			if err := look(t, p); err != nil {
				t.Fatal(err)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		p := &progress{stats: func() statesvc.Stats { <-free; return statesvc.Stats{} }, patience: patience}
		for range 3 {
			if err := look(t, p); err == nil || !strings.Contains(err.Error(), "does not answer") {
				t.Errorf("a store that hangs: %v", err)
			}
		}
		close(free)
		synctest.Wait()
		if err := look(t, p); err != nil {
			t.Errorf("a store that answers again: %v", err)
		}
	})
}

// hung is a store that has stopped answering.
type hung struct {
	statesvc.Store
	stuck *atomic.Bool
	free  chan struct{}
}

func (s hung) Get(key string) (*statesvc.Item, error) {
	if s.stuck.Load() {
		<-s.free
	}
	return s.Store.Get(key)
}

// The whole way: pings come from a hub that works, and none from one whose
// state is stuck although its process runs and its sockets accept.
func TestWatchdogOfHub(t *testing.T) {
	var stuck atomic.Bool
	free := make(chan struct{})
	h := startHub(t, Options{
		Watchdog:  400 * time.Millisecond,
		wrapStore: func(s statesvc.Store) statesvc.Store { return hung{s, &stuck, free} },
	})
	pings := func() int { return strings.Count(h.notices.String(), "WATCHDOG=1") }
	failures := func() int { return h.logs.FilterMessageSnippet("watchdog check failed").Len() }
	eventually(t, "three pings", func() bool { return pings() >= 3 })

	stuck.Store(true)
	eventually(t, "a check fails", func() bool { return failures() > 0 })
	before, failed := pings(), failures()
	eventually(t, "more checks fail", func() bool { return failures() >= failed+3 })
	if n := pings(); n != before {
		t.Errorf("%d pings although the state is stuck", n-before)
	}
	if r := h.dial().call("ping", "{}"); r.Error != nil {
		t.Errorf("the hub that pings no more should still answer what needs no state: %+v", r)
	}

	stuck.Store(false)
	close(free)
	eventually(t, "pings again", func() bool { return pings() > before })
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
}

func TestWatchdogCallsThroughListeners(t *testing.T) {
	tests := []struct{ name, listen string }{
		{"unix", ""},
		{"unix without the native protocol", "?protocols=capnweb"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := shortDir(t)
			h, err := start(Options{Listen: []string{"unix://" + dir + "/w.sock" + test.listen}, State: dir + "/state", Log: zap.NewNop()})
			if err != nil {
				t.Fatal(err)
			}
			defer h.shutdown("the test is over")
			if err := h.callMyself(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	for _, auth := range []string{"token", "uid", "none"} {
		for _, host := range []string{"127.0.0.1", "0.0.0.0", "[::]"} {
			t.Run("tcp "+auth+" "+host, func(t *testing.T) {
				dir := shortDir(t)
				if ln, err := net.Listen("tcp", host+":0"); err != nil {
					t.Skip(err)
				} else {
					ln.Close()
				}
				h, err := start(Options{Listen: []string{"tcp://" + host + ":0?auth=" + auth}, State: dir + "/state", Log: zap.NewNop(), AllowInsecure: true})
				if err != nil {
					if strings.Contains(err.Error(), "loopback") {
						t.Skip(err) // this kind of authentication is for loopback only
					}
					t.Fatal(err)
				}
				defer h.shutdown("the test is over")
				if err := h.callMyself(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// What hangs inside the hub makes the call fail in time.
func TestWatchdogCallFails(t *testing.T) {
	t.Run("state hangs", func(t *testing.T) {
		dir := shortDir(t)
		var stuck atomic.Bool
		free := make(chan struct{})
		h, err := start(Options{
			Listen: []string{"unix://" + dir + "/w.sock"}, State: dir + "/state", Log: zap.NewNop(),
			wrapStore: func(s statesvc.Store) statesvc.Store { return hung{s, &stuck, free} },
		})
		if err != nil {
			t.Fatal(err)
		}
		stuck.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := h.callMyself(ctx); err == nil || !strings.Contains(err.Error(), "state.get") {
			t.Errorf("with a state that hangs: %v", err)
		}
		stuck.Store(false)
		close(free)
		if err := h.callMyself(t.Context()); err != nil {
			t.Errorf("with a state that answers again: %v", err)
		}
		h.shutdown("the test is over")
	})
	t.Run("nobody accepts", func(t *testing.T) {
		dir := shortDir(t)
		h, err := start(Options{Listen: []string{"unix://" + dir + "/w.sock"}, State: dir + "/state", Log: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		defer h.shutdown("the test is over")
		h.closeListeners()
		if err := h.callMyself(t.Context()); err == nil {
			t.Error("a call without a listener")
		}
	})
}
