package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// wire takes bytes as its script says: TryWrite at most try bytes of each
// attempt (all when negative), Write waits while gate is shut.
type wire struct {
	mu     sync.Mutex
	cond   *sync.Cond
	got    bytes.Buffer
	writes int
	try    int
	shut   bool
	fail   error
	closed bool
	busy   bool // a write is running: there must not be two
}

func newWire(try int) *wire {
	w := &wire{try: try}
	w.cond = sync.NewCond(&w.mu)
	return w
}

func (w *wire) enter() {
	if w.busy {
		panic("two writes at once")
	}
	w.busy = true
}

func (w *wire) TryWrite(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.enter()
	defer func() { w.busy = false }()
	if w.fail != nil {
		return 0, w.fail
	}
	n := len(p)
	if w.try >= 0 {
		n = min(n, w.try)
	}
	w.writes++
	w.got.Write(p[:n])
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.enter()
	defer func() { w.busy = false }()
	for w.shut && !w.closed && w.fail == nil {
		w.cond.Wait()
	}
	if w.closed {
		return 0, io.ErrClosedPipe
	}
	if w.fail != nil {
		return 0, w.fail
	}
	w.writes++
	w.got.Write(p)
	return len(p), nil
}

func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.cond.Broadcast()
	return nil
}

func (w *wire) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.cond.Broadcast()
}

func (w *wire) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.got.String()
}

func put(o *Outbox, b *Batch, s string) error {
	return o.Append(b, func(dst []byte) []byte { return append(dst, s...) })
}

func TestOutboxBatches(t *testing.T) {
	w := newWire(-1)
	o := NewOutbox(w, 0, 0)
	var b Batch
	for _, s := range []string{"a", "b", "c"} {
		if err := put(o, &b, s); err != nil {
			t.Fatal(err)
		}
	}
	if w.writes != 0 || o.Len() != 3 {
		t.Errorf("%d writes before the flush, %d bytes", w.writes, o.Len())
	}
	b.Flush()
	b.Flush()
	if w.writes != 1 || w.text() != "abc" || o.Len() != 0 || o.buf != nil {
		t.Errorf("%d writes: %q, %d left", w.writes, w.text(), o.Len())
	}
	put(o, nil, "d")
	if w.writes != 2 || w.text() != "abcd" {
		t.Errorf("%d writes: %q", w.writes, w.text())
	}
	// What another goroutine sends takes along what a batch holds.
	put(o, &b, "e")
	put(o, nil, "f")
	b.Flush()
	if w.writes != 3 || w.text() != "abcdef" {
		t.Errorf("%d writes: %q", w.writes, w.text())
	}
	(*Batch)(nil).Flush()
	o.Close(time.Second)
	if !w.closed || !errors.Is(put(o, nil, "g"), ErrOutboxClosed) || o.Err() != ErrOutboxClosed {
		t.Error("not closed")
	}
}

func TestOutboxKeepsOrderThroughTheBackgroundWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(2)
		w.shut = true
		o := NewOutbox(w, 0, 0)
		put(o, nil, "abcde")
		put(o, nil, "fg")
		put(o, Soon, "hi")
		if o.Len() != 7 {
			t.Errorf("%d bytes wait", o.Len())
		}
		w.set(func() { w.shut = false })
		synctest.Wait()
		if w.text() != "abcdefghi" || w.writes != 3 || o.Len() != 0 || o.writing {
			t.Errorf("%d writes: %q", w.writes, w.text())
		}
		w.set(func() { w.shut, w.try = true, -1 })
		for range 10 {
			put(o, Soon, "z")
		}
		w.set(func() { w.shut = false })
		synctest.Wait()
		if w.text() != "abcdefghizzzzzzzzzz" || w.writes > 5 {
			t.Errorf("%d writes: %q", w.writes, w.text())
		}
		o.Close(time.Second)
	})
}

func TestOutboxLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(0)
		w.shut = true
		o := NewOutbox(w, 100, 1000)
		if put(o, nil, strings.Repeat("x", 50)) != nil || o.Crowded() {
			t.Error("50 bytes are too many")
		}
		synctest.Wait()
		// One frame fits whatever its size, even beside a few bytes.
		if err := put(o, nil, strings.Repeat("y", 5000)); err != nil {
			t.Fatal(err)
		}
		if !o.Busy() || !o.Crowded() || o.Len() != 5050 {
			t.Errorf("busy %v, crowded %v, %d", o.Busy(), o.Crowded(), o.Len())
		}
		var woken error
		room := false
		done := make(chan struct{})
		go func() { woken = o.Wait(t.Context()); close(done) }()
		synctest.Wait()
		o.OnRoom(func() { room = true })
		if err := put(o, nil, "z"); err != ErrOutboxFull {
			t.Errorf("over the limit: %v", err)
		}
		<-done
		if woken != ErrOutboxFull || !room || o.Err() != ErrOutboxFull {
			t.Errorf("waiters: %v, %v", woken, room)
		}
		synctest.Wait() // the writer closes it, too
		if !w.closed {
			t.Error("the connection goes on")
		}
		o.Close(time.Second)
	})
}

func TestOutboxOverflowWithoutWriterWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := NewOutbox(newWire(-1), 10, 20)
		var b Batch
		put(o, &b, strings.Repeat("x", 15))
		done := make(chan error, 1)
		go func() { done <- o.Wait(context.Background()) }()
		synctest.Wait()
		if err := put(o, &b, strings.Repeat("x", 15)); err != ErrOutboxFull {
			t.Errorf("%v", err)
		}
		if err := <-done; err != ErrOutboxFull {
			t.Errorf("the waiter got %v", err)
		}
		b.Flush()
		o.Close(time.Second)
	})
}

func TestOutboxWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(0)
		w.shut = true
		o := NewOutbox(w, 10, 0)
		put(o, nil, strings.Repeat("x", 100))
		ctx, cancel := context.WithCancelCause(context.Background())
		results := make(chan error, 2)
		go func() { results <- o.Wait(ctx) }()
		synctest.Wait()
		cancel(ErrByAdmin)
		if err := <-results; err != error(ErrByAdmin) {
			t.Errorf("%v", err)
		}
		calls := 0
		o.OnRoom(func() { calls++ })
		go func() { results <- o.Wait(context.Background()) }()
		synctest.Wait()
		if calls != 0 || len(results) != 0 {
			t.Error("there is no room yet")
		}
		w.set(func() { w.shut = false })
		if err := <-results; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		o.OnRoom(func() { calls++ })
		if calls != 2 {
			t.Errorf("OnRoom ran %d times", calls)
		}
		if err := o.Wait(context.Background()); err != nil {
			t.Error(err)
		}
		o.Close(time.Second)
	})
}

func TestOutboxRoomComesPieceByPiece(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(0)
		w.shut = true
		o := NewOutbox(w, 4*writePiece, 0)
		put(o, nil, strings.Repeat("x", 8*writePiece))
		room := false
		o.OnRoom(func() {
			room = true
			if n := o.Len(); n != 2*writePiece {
				t.Errorf("told at %d bytes", n)
			}
		})
		w.set(func() { w.shut = false })
		synctest.Wait()
		if !room || w.got.Len() != 8*writePiece {
			t.Errorf("%v, %d", room, w.got.Len())
		}
		o.Close(0)
	})
}

func TestOutboxErrors(t *testing.T) {
	broken := errors.New("broken pipe")
	for _, try := range []int{-1, 0} {
		synctest.Test(t, func(t *testing.T) {
			w := newWire(try)
			o := NewOutbox(w, 1, 0)
			if try == 0 {
				w.shut = true
				put(o, nil, "abc")
			}
			w.set(func() { w.fail = broken })
			put(o, nil, "def")
			synctest.Wait()
			if err := put(o, nil, "x"); err != broken || o.Err() != broken || o.Wait(context.Background()) != broken {
				t.Errorf("%v, %v", err, o.Err())
			}
			if !w.closed || o.Len() != 0 {
				t.Errorf("closed %v, %d bytes", w.closed, o.Len())
			}
			o.Fail(io.EOF)
			o.Close(time.Second)
			if o.Err() != broken {
				t.Error("the first error is lost")
			}
		})
	}
}

func TestOutboxCloseWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(0)
		w.shut = true
		o := NewOutbox(w, 0, 0)
		put(o, nil, "never taken")
		begin := time.Now()
		o.Close(3 * time.Second)
		if took := time.Since(begin); took != 3*time.Second || w.text() != "" {
			t.Errorf("%v, %q", took, w.text())
		}
		o.Close(time.Second)

		w = newWire(0)
		w.shut = true
		o = NewOutbox(w, 0, 0)
		put(o, nil, "taken late")
		begin = time.Now()
		time.AfterFunc(time.Second, func() { w.set(func() { w.shut = false }) })
		o.Close(3 * time.Second)
		if took := time.Since(begin); took != time.Second || w.text() != "taken late" {
			t.Errorf("%v, %q", took, w.text())
		}

		w = newWire(-1)
		o = NewOutbox(w, 0, 0)
		var b Batch
		put(o, &b, "not flushed yet")
		o.Close(time.Second)
		if w.text() != "not flushed yet" {
			t.Errorf("%q", w.text())
		}
		b.Flush()
	})
}

// TestOutboxSurvivesAPanic: a frame that cannot be built leaves neither bytes
// nor a lock behind.
func TestOutboxSurvivesAPanic(t *testing.T) {
	w := newWire(-1)
	o := NewOutbox(w, 0, 0)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		o.Append(nil, func(dst []byte) []byte { _ = append(dst, "junk"...); panic("no") })
	}()
	put(o, nil, "ok")
	if w.text() != "ok" {
		t.Errorf("%q", w.text())
	}
	o.Close(0)
}

func TestOutboxDoesNotPinLargeBuffers(t *testing.T) {
	w := newWire(1<<20 - 10)
	w.shut = true
	o := NewOutbox(w, 0, 0)
	put(o, nil, strings.Repeat("x", 1<<20))
	put(o, nil, "y")
	o.mu.Lock()
	c := cap(o.buf.p)
	o.mu.Unlock()
	if c > queuedBuffer {
		t.Errorf("%d bytes for one", c)
	}
	if b, from := slim(&buffer{make([]byte, 1<<20)}, 1<<20-10); cap(b.p)-from > 64 {
		t.Errorf("%d bytes for ten", cap(b.p))
	}
	w.set(func() { w.shut = false })
	o.Close(20 * time.Second)
	if w.got.Len() != 1<<20+1 {
		t.Errorf("%d bytes", w.got.Len())
	}
}

// TestOutboxConcurrentAppenders: frames stay whole, and those of one goroutine
// stay in order, whatever way they are sent.
func TestOutboxConcurrentAppenders(t *testing.T) {
	for _, try := range []int{-1, 0, 7} {
		w := newWire(try)
		o := NewOutbox(w, 256, 0)
		var wg sync.WaitGroup
		for g := range 6 {
			wg.Go(func() {
				var own Batch
				b := []*Batch{nil, &own, Soon}[g%3]
				for i := range 500 {
					if err := put(o, b, fmt.Sprintf("%d:%d;", g, i)); err != nil {
						t.Error(err)
					}
					if i%10 == 0 {
						own.Flush()
						if err := o.Wait(context.Background()); err != nil {
							t.Error(err)
						}
					}
				}
				own.Flush()
			})
		}
		wg.Wait()
		o.Close(20 * time.Second)
		next := make([]int, 6)
		for frame := range strings.SplitSeq(strings.TrimSuffix(w.text(), ";"), ";") {
			var g, i int
			if _, err := fmt.Sscanf(frame, "%d:%d", &g, &i); err != nil || i != next[g] {
				t.Fatalf("frame %q, want number %d", frame, next[g])
			}
			next[g]++
		}
		for g, n := range next {
			if n != 500 {
				t.Errorf("goroutine %d: %d frames", g, n)
			}
		}
	}
}

// TestOutboxCloseRaces closes while others append: no writer is left behind.
func TestOutboxCloseRaces(t *testing.T) {
	for range 50 {
		w := newWire(1)
		o := NewOutbox(w, 0, 0)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 20 {
					put(o, nil, "abc")
				}
			})
		}
		o.Close(0)
		wg.Wait()
		o.mu.Lock()
		if o.writing || o.err == nil {
			t.Error("it goes on")
		}
		o.mu.Unlock()
	}
}
