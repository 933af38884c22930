package rpc

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestDeadlineIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLink(&Gate{Deadline: 3 * time.Second})
		begin := time.Now()
		ended := make(chan time.Duration, 10)
		m := func(deadline time.Duration) *Method {
			return NewMethod(&Method{Name: "m", Scope: ScopeCall, Deadline: deadline}, func(c *Call) (Value, error) {
				<-c.Done()
				ended <- time.Since(begin)
				if c.Err() != context.DeadlineExceeded || AsError(c, c.Err()) != errDeadline || context.Cause(c) != error(errDeadline) {
					t.Errorf("%v, cause %v", c.Err(), context.Cause(c))
				}
				return Value{}, c.Err()
			})
		}
		for _, test := range []struct {
			method, asked, want time.Duration
		}{
			{0, 0, 3 * time.Second},
			{7*time.Second + 1, 0, 7*time.Second + 1},
			{7 * time.Second, 1234567891, 1234567891},
			{-1, 5 * time.Second, 5 * time.Second},
			{0, 1, MinDeadline},
			{0, 100 * time.Hour, MaxDeadline},
		} {
			begin = time.Now()
			r := start(l, m(test.method), &Call{Timeout: test.asked}, "")
			_, err := r.wait2()
			if err == nil || err.Code != CodeDeadlineExceeded || r.at.Sub(begin) != test.want {
				t.Errorf("%v: %v after %v", test, err, r.at.Sub(begin))
			}
			if took := <-ended; took != test.want {
				t.Errorf("the context of %v ended after %v", test, took)
			}
		}
		r := start(l, NewMethod(&Method{Name: "m", Scope: ScopeCall, Deadline: -1, Slow: -1}, func(c *Call) (Value, error) {
			if _, ok := c.Deadline(); ok {
				t.Error("there is a deadline")
			}
			select {
			case <-c.Done():
			case <-time.After(10 * time.Hour):
			}
			return Null, c.Err()
		}), &Call{}, "")
		if _, err := r.wait2(); err != nil {
			t.Error(err)
		}
		l.Close(ErrPeerGone, time.Second)
	})
}

// wait2 is wait without a limit, for synctest.
func (r *reply) wait2() (string, *Error) {
	<-r.done
	return "", r.err
}

func TestManyDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLink(nil)
		begin := time.Now()
		var replies []*reply
		for i := range 500 {
			d := time.Duration((i*7919)%500+1) * 10 * time.Millisecond
			replies = append(replies, start(l, blocking(nil), &Call{Timeout: d}, ""))
		}
		for i, r := range replies {
			r.wait2()
			if want := time.Duration((i*7919)%500+1) * 10 * time.Millisecond; r.at.Sub(begin) != want {
				t.Fatalf("call %d ended after %v, want %v", i, r.at.Sub(begin), want)
			}
		}
		l.Close(ErrPeerGone, time.Second)
	})
}

func TestGrace(t *testing.T) {
	const grace = 250 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		w := &watcher{}
		l := NewLink(&Gate{Observer: w})
		begin := time.Now()
		var ended, hooked time.Duration
		m := method(Concurrent, func(c *Call) (Value, error) {
			c.OnCancel(func(cause *Error) {
				hooked = time.Since(begin)
				if cause != errDeadline {
					t.Errorf("hook: %v", cause)
				}
			})
			<-c.Done()
			ended = time.Since(begin)
			return Value{}, c.Err()
		})
		r := start(l, m, &Call{Key: "k", Timeout: time.Second, Grace: grace}, "")
		time.Sleep(time.Second + grace/2)
		synctest.Wait()
		if r.answered() || !l.InFlight("k") {
			t.Error("answered too early")
		}
		l.Cancel([]byte("k"), ErrCancelled) // changes nothing any more
		r.wait2()
		if took := r.at.Sub(begin); took != time.Second+grace || r.err != errDeadline {
			t.Errorf("%v after %v", r.err, took)
		}
		if ended != time.Second || hooked != time.Second {
			t.Errorf("the context ended after %v, the hook ran after %v", ended, hooked)
		}
		synctest.Wait()
		if w.done.Load() != 1 || w.late.Load() != 0 || l.N() != 0 {
			t.Errorf("%d done, %d late, %d left", w.done.Load(), w.late.Load(), l.N())
		}

		begin = time.Now()
		r = start(l, m, &Call{Timeout: time.Second, Grace: grace}, "")
		time.Sleep(time.Second + grace/2)
		l.Close(ErrPeerGone, time.Second)
		if !r.answered() || r.at.Sub(begin) != time.Second+grace/2 || r.err != errDeadline {
			t.Errorf("Close: %v after %v", r.err, r.at.Sub(begin))
		}
	})
}

// TestGraceSurvivesAnItem: what a forwarding target sends after the deadline
// neither reaches the caller nor keeps the held-back answer from it.
func TestGraceSurvivesAnItem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLink(nil)
		wire := &wireSink{}
		r := newReply()
		r.open = func(_ *Batch, c *Call, _ Source) Sink { wire.c = c; return wire }
		var sink Sink
		target := TargetFunc(func(b *Batch, c *Call) { c.Own(); sink = c.Open(b, noSource{}) })
		begin := time.Now()
		start(l, target, &Call{Reply: r, Timeout: time.Second, Grace: time.Second}, "")
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		sink.Item(nil, Int(1))
		r.wait2()
		if r.err != errDeadline || r.at.Sub(begin) != 2*time.Second || len(wire.items) != 0 {
			t.Errorf("%v after %v, %d items", r.err, r.at.Sub(begin), len(wire.items))
		}
		l.Close(ErrPeerGone, 0)
	})
}

// wireSink is a protocol's sink: its end is the answer.
type wireSink struct {
	c     *Call
	mu    sync.Mutex
	items []string
	ends  int
	err   *Error
}

func (s *wireSink) Item(_ *Batch, v Value) {
	text, err := v.JSON()
	if err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends > 0 {
		panic("an item behind the end")
	}
	s.items = append(s.items, string(text))
}

func (s *wireSink) End(b *Batch, e *Error) {
	s.mu.Lock()
	s.ends++
	s.err = e
	n := s.ends
	s.mu.Unlock()
	if n > 1 {
		panic("two ends")
	}
	if s.c != nil {
		if e != nil {
			s.c.Reply.Error(b, s.c, e)
		} else {
			s.c.Reply.Result(b, s.c, Null)
		}
	}
}

func (s *wireSink) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.items)
}

func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watcher{}
		l := NewLink(&Gate{Observer: w, Slow: 2 * time.Second})
		var mu sync.Mutex
		running := make(map[*Call]time.Duration)
		w.onSlow = func(c *Call, age time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			running[c] = age
			if c.Settled() || !c.Slow() {
				t.Error("not while it runs")
			}
		}
		sleep := func(name string, slow, d time.Duration) *reply {
			return start(l, NewMethod(&Method{Name: name, Scope: ScopeCall, Slow: slow}, func(c *Call) (Value, error) {
				time.Sleep(d)
				return Null, nil
			}), &Call{}, "")
		}
		replies := []*reply{
			sleep("quick", 0, time.Second),
			sleep("slow", 0, 20*time.Second),
			sleep("own", 5*time.Second, 6*time.Second),
			sleep("never", -1, 20*time.Second),
		}
		time.Sleep(25 * time.Second)
		for _, r := range replies {
			if _, err := r.wait2(); err != nil {
				t.Error(err)
			}
		}
		mu.Lock()
		ages := map[string]time.Duration{}
		for c, age := range running {
			ages[c.Method.Name] = age
		}
		mu.Unlock()
		if w.slow.Load() != 2 || ages["slow"] != 2*time.Second || ages["own"] != 5*time.Second {
			t.Errorf("%d slow: %v", w.slow.Load(), ages)
		}
		// Slow and expired at once.
		r := start(l, blocking(nil), &Call{Timeout: 2 * time.Second}, "")
		r.wait2()
		synctest.Wait()
		if w.slow.Load() != 3 || r.err != errDeadline {
			t.Errorf("%d slow, %v", w.slow.Load(), r.err)
		}
		l.Close(ErrPeerGone, time.Second)
	})
}

func TestCloseLeavesNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLink(nil)
		r := start(l, blocking(nil), &Call{Timeout: time.Hour}, "")
		synctest.Wait()
		if !l.Close(ErrPeerGone, time.Second) || !r.answered() {
			t.Error("not closed")
		}
		if l.timer.Stop() {
			t.Error("the timer of a closed link still runs")
		}
		// A call that arrives after Close is answered at once.
		late := start(l, blocking(nil), &Call{}, "")
		synctest.Wait()
		if !late.answered() || late.err != ErrPeerGone || l.N() != 0 || l.timer.Stop() {
			t.Errorf("%v, %d left", late.err, l.N())
		}
		ran := false
		l.OnClose(func() { ran = true })
		if !ran {
			t.Error("OnClose of a closed link")
		}
	})
}

func TestOnCloseOrder(t *testing.T) {
	l := NewLink(nil)
	var got []int
	for i := range 3 {
		l.OnClose(func() { got = append(got, i) })
	}
	l.Close(ErrPeerGone, 0)
	l.Close(ErrPeerGone, 0)
	if !slices.Equal(got, []int{0, 1, 2}) {
		t.Error(got)
	}
}
