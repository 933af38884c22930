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

// A window has so many items as have a bounded size, so whoever heeds credit
// is never told that it was too much, whatever its items are.
func TestReaderCreditHeedsSizes(t *testing.T) {
	for _, size := range []int{0, 1 << 10, 64 << 10, 256 << 10, 1 << 20, 5 << 20, 16 << 20} {
		f := &faucet{}
		r := NewReader(f)
		item := TreeValue(Bytes{Data: make([]byte, size)})
		const n = 200
		sent, most := 0, 0
		total := min(n, 1+(256<<20)/(size+1))
		for got := range total {
			r.mu.Lock()
			grant := r.refillLocked() // as when Recv is about to wait
			r.mu.Unlock()
			f.Grant(grant)
			for range f.take(total - sent) { // all that there is credit for, at once
				r.Item(nil, item)
				sent++
			}
			r.mu.Lock()
			most = max(most, r.bytes)
			r.mu.Unlock()
			if _, ok, err := r.Recv(t.Context()); !ok || err != nil {
				t.Fatalf("%d bytes: item %d of %d: %v, %v", size, got, total, ok, err)
			}
		}
		if limit := max(windowBytes, firstWindow*(size+1<<10)); most > limit {
			t.Errorf("%d bytes: %d were queued, want at most %d", size, most, limit)
		}
		if window := r.windowLocked(); size <= 1<<10 && window != Window {
			t.Errorf("%d bytes: a window of %d items", size, window)
		}
	}
}

// Credit that was given for small items does not cover large ones without end.
func TestReaderBoundsWhatCreditCovers(t *testing.T) {
	f := &faucet{}
	r := NewReader(f)
	for range Window { // so that the window is as large as it gets
		r.Item(nil, Int(1))
	}
	for range Window {
		if _, ok, err := r.Recv(t.Context()); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	big := TreeValue(Bytes{Data: make([]byte, 1<<20)})
	for range f.take(10*Window) - Window {
		r.Item(nil, big)
	}
	if len(f.stops) != 1 || f.stops[0].Code != CodeOverloaded {
		t.Errorf("stops %v", f.stops)
	}
	if r.bytes < MaxCredited || r.bytes > MaxCredited+2<<20 {
		t.Errorf("%d bytes are kept", r.bytes)
	}
}
