package rpc

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// streamCall starts a stream method whose caller reads with the given wire.
func streamCall(l *Link, m Target, c *Call, grant int) (*reply, *wireSink, func() Source) {
	r, s := newReply(), &wireSink{}
	var src Source
	r.open = func(_ *Batch, c *Call, from Source) Sink {
		s.mu.Lock()
		s.c, src = c, from
		s.mu.Unlock()
		if grant > 0 {
			from.Grant(grant)
		}
		return s
	}
	c.Reply = r
	start(l, m, c, "")
	return r, s, func() Source {
		s.mu.Lock()
		defer s.mu.Unlock()
		return src
	}
}

func counter(n int) *Method {
	return HandleStream("count", func(_ context.Context, _ none, send func(int) error) error {
		for i := range n {
			if err := send(i); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestWriterHeedsCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLink(nil)
		r, s, src := streamCall(l, counter(10), &Call{Timeout: time.Second}, 3)
		time.Sleep(time.Hour) // the deadline holds no more
		if len(s.list()) != 3 || r.answered() {
			t.Errorf("%v", s.list())
		}
		src().Grant(7)
		r.wait2()
		if len(s.items) != 10 || s.ends != 1 || r.err != nil || l.N() != 0 {
			t.Errorf("%v, %d ends, %v", s.items, s.ends, r.err)
		}
		l.Close(ErrPeerGone, time.Second)
	})
}

func TestDeadlineBeforeTheFirstItem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLink(nil)
		begin := time.Now()
		r, s, _ := streamCall(l, counter(10), &Call{Timeout: time.Second}, 0)
		r.wait2()
		if r.err != errDeadline || time.Since(begin) != time.Second || s.ends != 1 {
			t.Errorf("%v after %v, %d ends", r.err, time.Since(begin), s.ends)
		}
		l.Close(ErrPeerGone, time.Second)
	})
}

func TestStreamsAreNotSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watcher{}
		l := NewLink(&Gate{Observer: w})
		r, _, src := streamCall(l, HandleStream("s", func(ctx context.Context, _ none, send func(int) error) error {
			if err := send(1); err != nil {
				return err
			}
			if _, ok := ctx.Deadline(); ok {
				t.Error("a stream that has begun has a deadline")
			}
			return send(2)
		}), &Call{}, 1)
		time.Sleep(time.Hour)
		src().Grant(1)
		r.wait2()
		if w.slow.Load() != 0 || r.err != nil {
			t.Errorf("%d slow, %v", w.slow.Load(), r.err)
		}
		l.Close(ErrPeerGone, time.Second)
	})
}

func TestStreamEndsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watcher{}
		l := NewLink(&Gate{Observer: w})
		var sendErr error
		endless := HandleStream("s", func(_ context.Context, _ none, send func(int) error) error {
			for {
				if sendErr = send(1); sendErr != nil {
					return sendErr
				}
			}
		})
		for _, test := range []struct {
			name string
			end  func(src Source)
			want *Error
		}{
			{"cancel", func(Source) { l.Cancel([]byte("k"), ErrCancelled) }, ErrCancelled},
			{"stop", func(src Source) { src.Stop(ErrByAdmin) }, ErrByAdmin},
			{"stop without cause", func(src Source) { src.Stop(nil) }, ErrCancelled},
			{"close", func(Source) { l.Close(ErrPeerGone, time.Second) }, ErrPeerGone},
		} {
			sendErr = nil
			r, s, src := streamCall(l, endless, &Call{Key: "k"}, 5)
			synctest.Wait()
			test.end(src())
			r.wait2()
			synctest.Wait()
			if r.err != test.want || s.ends != 1 || s.err != test.want || sendErr == nil || sendErr != error(test.want) {
				t.Errorf("%s: %v, %d ends, send said %v", test.name, r.err, s.ends, sendErr)
			}
		}
		fail := HandleStream("s", func(_ context.Context, _ none, send func(int) error) error {
			send(1)
			return errors.New("in the middle")
		})
		l = NewLink(&Gate{Observer: w})
		r, s, _ := streamCall(l, fail, &Call{}, 5)
		r.wait2()
		if r.err == nil || r.err.Text() != "in the middle" || len(s.items) != 1 {
			t.Errorf("%v, %v", r.err, s.items)
		}
		boom := HandleStream("s", func(_ context.Context, _ none, send func(int) error) error {
			send(1)
			panic("boom")
		})
		r, s, _ = streamCall(l, boom, &Call{}, 5)
		r.wait2()
		if r.err != errInternal || s.ends != 1 {
			t.Errorf("%v", r.err)
		}
		l.Close(ErrPeerGone, time.Second)
		if w.late.Load() != 0 {
			t.Errorf("%d late answers", w.late.Load())
		}
	})
}

// TestSettledWhileOpenRuns: the wire's sink is being made while the call ends.
func TestSettledWhileOpenRuns(t *testing.T) {
	l := NewLink(nil)
	wire, r := &wireSink{}, newReply()
	r.open = func(_ *Batch, c *Call, _ Source) Sink {
		wire.c = c
		go l.Cancel([]byte("k"), ErrCancelled)
		for !c.Settled() {
			time.Sleep(time.Microsecond)
		}
		return wire
	}
	f := &faucet{}
	var sink Sink
	opened := make(chan struct{})
	start(l, TargetFunc(func(_ *Batch, c *Call) {
		c.Own()
		sink = c.Open(nil, f)
		close(opened)
	}), &Call{Key: "k", Reply: r}, "")
	<-opened
	if _, err := r.wait(t); err != ErrCancelled || wire.ends != 1 {
		t.Errorf("%v, %d ends", err, wire.ends)
	}
	sink.Item(nil, Null)
	sink.End(nil, nil)
	if len(wire.items) != 0 {
		t.Error("an item behind the end")
	}
	// And once it has ended before.
	var c *Call
	r = start(l, TargetFunc(func(_ *Batch, call *Call) { call.Own(); c = call }), &Call{}, "")
	c.Cancel(ErrCancelled)
	r.wait(t)
	f = &faucet{}
	sink = c.Open(nil, f)
	sink.Item(nil, Null)
	if len(f.stops) != 1 {
		t.Errorf("%v", f.stops)
	}
	l.Close(ErrPeerGone, time.Second)
}

func TestCollect(t *testing.T) {
	l := NewLink(nil)
	r := start(l, counter(500), &Call{}, "")
	if _, err := r.wait(t); err != nil {
		t.Fatal(err)
	}
	if list, err := r.v.AsList(); err != nil || len(list) != 500 || string(list[499].raw) != "499" || r.v.Traits() != (Traits{HasArray, 1}) {
		t.Errorf("%d items, %+v, %v", len(list), r.v.Traits(), err)
	}
	for name, m := range map[string]*Method{
		"too many": counter(1 << 30),
		"too large": HandleStream("s", func(_ context.Context, _ none, send func([]byte) error) error {
			for {
				if err := send(make([]byte, 1<<20)); err != nil {
					return err
				}
			}
		}),
	} {
		if _, err := start(l, m, &Call{}, "").wait(t); err != errCollected {
			t.Errorf("%s: %v", name, err)
		}
	}
	endless := HandleStream("s", func(context.Context, none, func(int) error) error { return nil }, Endless())
	if _, err := start(l, endless, &Call{Unary: true}, "").wait(t); err == nil || err.Code != CodeInvalidParams {
		t.Errorf("endless: %v", err)
	}
	if !l.Close(ErrPeerGone, 20*time.Second) {
		t.Error("handlers go on")
	}
}

// TestWriterWaitsForTheOutbox: a peer that reads nothing stops the handler, not
// the memory.
func TestWriterWaitsForTheOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(0)
		w.shut = true
		l := NewLink(nil)
		l.Out = NewOutbox(w, 1000, 0)
		sent := 0
		m := HandleStream("s", func(_ context.Context, _ none, send func(string) error) error {
			for {
				if err := send("x"); err != nil {
					return err
				}
				sent++
			}
		})
		r := newReply()
		r.open = func(_ *Batch, _ *Call, src Source) Sink {
			src.Grant(1 << 20)
			return &boxSink{l.Out, r}
		}
		start(l, m, &Call{Key: "k", Reply: r}, "")
		synctest.Wait()
		if l.Out.Len() > 1300 || sent < 3 {
			t.Errorf("%d bytes after %d items", l.Out.Len(), sent)
		}
		l.Cancel([]byte("k"), ErrCancelled)
		r.wait2()
		if !l.Close(ErrPeerGone, time.Second) {
			t.Error("the handler goes on")
		}
		l.Out.Close(0)
	})
}

type boxSink struct {
	o *Outbox
	r *reply
}

func (s *boxSink) Item(b *Batch, v Value) {
	s.o.Append(b, func(dst []byte) []byte { return append(dst, make([]byte, 300)...) })
}
func (s *boxSink) End(_ *Batch, e *Error) { s.r.answer(Null, e) }

func TestArray(t *testing.T) {
	v := Array([]Value{Int(1), parse(t, `[[NaN]]`), String("é")})
	want := parse(t, `[1,[[NaN]],"é"]`)
	if string(v.raw) != string(want.raw) || v.traits != want.traits {
		t.Errorf("%s %+v", v.raw, v.traits)
	}
	if got, err := Array([]Value{Int(1), {}, TreeValue(2.5)}).JSON(); err != nil || string(got) != "[1,null,2.5]" {
		t.Errorf("%s, %v", got, err)
	}
	if got, _ := Array(nil).JSON(); string(got) != "[]" {
		t.Errorf("%s", got)
	}
}
