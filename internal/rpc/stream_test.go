package rpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// faucet is a sender that keeps to its credit.
type faucet struct {
	mu      sync.Mutex
	granted int
	stops   []*Error
}

func (f *faucet) Grant(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.granted += n
}

func (f *faucet) Stop(cause *Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stops = append(f.stops, cause)
}

// take uses up to n of the credit.
func (f *faucet) take(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n = min(n, f.granted)
	f.granted -= n
	return n
}

func TestReaderGrantsAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faucet{}
		r := NewReader(f)
		const n = 1000
		go func() {
			for sent := 0; sent < n; {
				for range f.take(n - sent) {
					buf := fmt.Appendf(nil, "%d", sent)
					v, _ := Parse(buf)
					r.Item(nil, v)
					copy(buf, "####") // borrowed
					sent++
				}
				time.Sleep(time.Millisecond)
			}
			r.End(nil, nil)
		}()
		for i := range n {
			v, ok, err := r.Recv(t.Context())
			if got, _ := v.AsInt(); err != nil || !ok || got != int64(i) {
				t.Fatalf("item %d: %v, %v, %v", i, v.Tree(), ok, err)
			}
			r.mu.Lock()
			if ahead := r.credit + len(r.queue) - r.head; ahead > Window {
				t.Fatalf("%d items are on their way", ahead)
			}
			r.mu.Unlock()
		}
		for range 2 {
			if _, ok, err := r.Recv(t.Context()); ok || err != nil {
				t.Errorf("behind the end: %v, %v", ok, err)
			}
		}
		if len(f.stops) != 0 {
			t.Errorf("stopped: %v", f.stops)
		}
	})
}

// TestReaderQueueDoesNotCreep: a queue that is never empty must not keep what
// was read from it.
func TestReaderQueueDoesNotCreep(t *testing.T) {
	r := NewReader(&faucet{})
	for range 10 {
		r.Item(nil, Int(1))
	}
	for range 100000 {
		r.Item(nil, Int(2))
		if _, ok, err := r.Recv(t.Context()); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if c := cap(r.queue); c > 1024 {
		t.Errorf("room for %d items behind 10", c)
	}
	if r.bytes != 10*(1+64) {
		t.Errorf("%d bytes counted", r.bytes)
	}
}

func TestReaderBounds(t *testing.T) {
	big := TreeValue(Bytes{Data: make([]byte, 1<<20)})
	for name, item := range map[string]Value{"many": Null, "text": String(string(make([]byte, 1<<20))), "tree": big, "deep tree": TreeValue([]any{&Map{Items: []Item{{"k", big}}}})} {
		f := &faucet{}
		r := NewReader(f)
		for range MaxQueuedItems + 1 {
			r.Item(nil, item)
		}
		if len(f.stops) != 1 || f.stops[0].Code != CodeOverloaded {
			t.Errorf("%s: stops %v", name, f.stops)
		}
		n := 0
		var last error
		for _, err := range r.All(t.Context()) {
			if last = err; err == nil {
				n++
			}
		}
		if !errors.Is(last, &Error{Code: CodeOverloaded}) || n == 0 || n > MaxQueuedItems || name != "many" && n > 8 {
			t.Errorf("%s: %d items, then %v", name, n, last)
		}
	}
	// One item of any size fits.
	r := NewReader(nil)
	r.Item(nil, TreeValue(Bytes{Data: make([]byte, MaxQueued+1)}))
	if _, ok, err := r.Recv(t.Context()); !ok || err != nil {
		t.Error(ok, err)
	}
}

func TestReaderEnds(t *testing.T) {
	r := NewReader(nil)
	r.Item(nil, Int(1))
	r.End(nil, ErrByAdmin)
	r.End(nil, nil)
	r.Item(nil, Int(2))
	if v, ok, err := r.Recv(t.Context()); !ok || err != nil || string(v.raw) != "1" {
		t.Error(v, ok, err)
	}
	for range 2 {
		if _, ok, err := r.Recv(t.Context()); ok || err != error(ErrByAdmin) {
			t.Error(ok, err)
		}
	}
	f := &faucet{}
	r = NewReader(f)
	r.Item(nil, Int(1))
	r.Close(ErrPeerGone)
	r.Close(ErrByAdmin)
	if _, ok, err := r.Recv(t.Context()); ok || err != error(ErrPeerGone) {
		t.Error(ok, err)
	}
	if len(f.stops) != 1 || f.stops[0] != ErrPeerGone {
		t.Errorf("%v", f.stops)
	}
	f = &faucet{}
	r = NewReader(f)
	r.Close(nil)
	if _, ok, err := r.Recv(t.Context()); ok || err == nil || len(f.stops) != 1 {
		t.Errorf("an unfinished stream ends like a regular one: %v, %v, %v", ok, err, f.stops)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := NewReader(nil).Recv(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestAttachKeepsOrder feeds a stream while it is handed on.
func TestAttachKeepsOrder(t *testing.T) {
	for round := range 200 {
		f := &faucet{}
		r := NewReader(f)
		const n = 300
		for i := range 20 {
			r.Item(nil, Int(int64(i)))
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 20; i < n; i++ {
				r.Item(nil, Int(int64(i)))
			}
			r.End(nil, nil)
		})
		s := &wireSink{}
		src := r.Attach(s)
		for range n/7 + 1 {
			src.Grant(7)
		}
		wg.Wait()
		deadline := time.Now().Add(20 * time.Second)
		for {
			s.mu.Lock()
			ends := s.ends
			s.mu.Unlock()
			if ends == 1 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("round %d: no end", round)
			}
			time.Sleep(time.Microsecond)
		}
		for i, text := range s.list() {
			if text != fmt.Sprint(i) {
				t.Fatalf("round %d: item %d is %s", round, i, text)
			}
		}
		if len(s.items) != n {
			t.Fatalf("round %d: %d items", round, len(s.items))
		}
	}
}

func TestAttachHeedsCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &wireSink{}
		src := Items(Int(0), Int(1), Int(2), Int(3)).Attach(s)
		synctest.Wait()
		if len(s.list()) != 0 {
			t.Errorf("without credit: %v", s.list())
		}
		src.Grant(3)
		synctest.Wait()
		if got := s.list(); !slices.Equal(got, []string{"0", "1", "2"}) || s.ends != 0 {
			t.Errorf("%v, %d ends", got, s.ends)
		}
		src.Grant(5)
		synctest.Wait()
		if len(s.list()) != 4 || s.ends != 1 {
			t.Errorf("%v, %d ends", s.list(), s.ends)
		}
		// What was granted before, or lies in the queue, is not asked for again.
		f := &faucet{}
		r := NewReader(f)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		r.Recv(ctx) // grants a window
		r.Item(nil, Int(0))
		s = &wireSink{}
		src = r.Attach(s)
		src.Grant(100)
		synctest.Wait()
		if f.granted != 100 {
			t.Errorf("%d granted", f.granted)
		}
		src.Stop(ErrCancelled)
		if len(f.stops) != 1 {
			t.Errorf("%v", f.stops)
		}
		r.Close(ErrPeerGone) // does nothing any more
		if len(f.stops) != 1 || s.ends != 0 {
			t.Errorf("%v, %d ends", f.stops, s.ends)
		}
		empty := &wireSink{}
		Items().Attach(empty)
		if empty.ends != 1 {
			t.Error("an empty stream does not end")
		}
		again := &wireSink{}
		r.Attach(again)
		if again.ends != 1 || again.err == nil {
			t.Error("attached twice")
		}
	})
}

func TestReaderOfForeignStream(t *testing.T) {
	src := Items(Int(1), Int(2))
	r := ReaderOf(foreign{src})
	var got []string
	for v, err := range r.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(v.raw))
	}
	if !slices.Equal(got, []string{"1", "2"}) {
		t.Error(got)
	}
	if ReaderOf(src) != src {
		t.Error("a Reader is wrapped")
	}
}

type foreign struct{ Readable }

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

// granted counts the credit that a Reader gives.
type granted struct{ n int }

func (g *granted) Grant(n int) { g.n += n }
func (g *granted) Stop(*Error) {}

// A sender may begin before the first grant, and counts what it has sent by
// then against all grants: they must make up for it.
func TestReaderCreditCoversWhatCameBeforeIt(t *testing.T) {
	for _, early := range []int{0, 1, Window, Window + 1, 10 * Window} {
		var g granted
		r := NewReader(&g)
		var b Batch
		for range early {
			r.Item(&b, Int(1))
		}
		received := early
		for range early {
			if _, ok, err := r.Recv(t.Context()); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
		for range 10 * Window { // as many again as credit allows
			if g.n <= received && received > 0 {
				t.Fatalf("%d early items: %d granted, %d received, nothing is queued", early, g.n, received)
			}
			r.Item(&b, Int(1))
			received++
			if _, ok, err := r.Recv(t.Context()); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
		if over := g.n - received; over > Window {
			t.Errorf("%d early items: %d more than received are granted", early, over)
		}
	}
}
