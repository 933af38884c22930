package rpc

import (
	"context"
	"iter"
	"sync"
)

const (
	firstWindow  = 2       // two items of any size fit
	windowBytes  = 4 << 20 // about what the items of a window have
	itemOverhead = 64      // bytes that a queued item takes beside its content
)

// Reader is the receiving end of a stream in Go, and a Readable: a bounded
// queue between the Sink side, which a protocol feeds, and Recv. A stream that
// is handed on with Attach passes its queue on first.
type Reader struct {
	mu     sync.Mutex
	src    Source
	queue  []Value
	head   int
	last   Value // what Recv has returned: the references in it are given back with the next
	bytes  int
	peak   int  // size of the largest of the latest items, about
	credit int  // granted to src and not used yet, less what came without
	sink   Sink // after Attach
	wanted int  // credit that sink's side has granted and that no item has used
	moving bool // relay hands the queue on
	ended  bool
	err    *Error
	closed bool
	wake   chan struct{} // cap 1
	call   *Call         // its deadline ends with the first item taken
	roomAt int           // for onRoom
	onRoom func()        // see OnRoom
}

// NewReader returns an empty stream whose sender is told of credit and of the
// end of interest through src, which may be nil.
func NewReader(src Source) *Reader {
	return &Reader{src: src, wake: make(chan struct{}, 1)}
}

// Items returns a Reader that holds the given items and has ended.
func Items(items ...Value) *Reader {
	r := NewReader(nil)
	r.queue, r.ended = items, true
	return r
}

// Item queues an item (a copy), or hands it on.
func (r *Reader) Item(b *Batch, v Value) {
	r.mu.Lock()
	if r.ended || r.closed {
		r.mu.Unlock()
		return
	}
	r.credit-- // below zero for who began before the first grant: those items count for the sender, too
	if s := r.sink; s != nil && r.head == len(r.queue) && !r.moving {
		r.wanted = max(r.wanted-1, 0)
		r.mu.Unlock()
		s.Item(b, v)
		return
	}
	size := v.Weight() + itemOverhead
	r.peak = max(size, r.peak-(r.peak-size)/16)
	limit := MaxCredited
	if r.credit < 0 {
		limit = MaxQueued
	}
	if r.bytes >= limit || len(r.queue)-r.head >= MaxQueuedItems {
		r.ended = true
		r.err = &Error{Code: CodeOverloaded, Message: "more stream items than credit was given for", Ran: RanUnknown}
		src := r.src
		r.mu.Unlock()
		if src != nil {
			src.Stop(r.err)
		}
		r.signal()
		return
	}
	r.bytes += size
	if r.head > len(r.queue)/2 && r.head >= Window { // a queue that is never empty must not creep
		n := copy(r.queue, r.queue[r.head:])
		clear(r.queue[n:])
		r.queue, r.head = r.queue[:n], 0
	}
	r.queue = append(r.queue, Keep(v))
	r.mu.Unlock()
	r.signal()
}

// End marks the end of the stream.
func (r *Reader) End(b *Batch, err *Error) {
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return
	}
	r.ended, r.err = true, err
	s := r.sink
	if s != nil && (r.moving || r.head < len(r.queue)) {
		s = nil // relay ends it behind the last item
	}
	r.mu.Unlock()
	if s != nil {
		s.End(b, err)
		return
	}
	r.signal()
}

func (r *Reader) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Recv returns the next item. ok is false at the regular end. It waits under
// ctx and is for one goroutine at a time. References in an item are lent until
// the next Recv, or until the call that reads has ended: Keep those that last.
func (r *Reader) Recv(ctx context.Context) (v Value, ok bool, err error) {
	for {
		r.mu.Lock()
		if last := r.last; last.tree != nil {
			r.last = Value{}
			r.mu.Unlock()
			Drop(last)
			continue
		}
		if r.head < len(r.queue) {
			v = r.popLocked()
			if !r.closed {
				r.last = v
			}
			grant, src := r.refillLocked(), r.src
			call := r.call
			r.call = nil
			room := r.roomLocked()
			r.mu.Unlock()
			if room != nil {
				room()
			}
			if call != nil && src != nil { // an array is no stream: its call keeps its deadline
				call.started()
			}
			if grant > 0 {
				src.Grant(grant)
			}
			return v, true, nil
		}
		if r.ended || r.closed {
			err := r.err
			r.mu.Unlock()
			if err != nil {
				return Value{}, false, err
			}
			return Value{}, false, nil
		}
		grant, src := r.refillLocked(), r.src
		r.mu.Unlock()
		if grant > 0 {
			src.Grant(grant)
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return Value{}, false, ctx.Err()
		}
	}
}

func (r *Reader) popLocked() Value {
	v := r.queue[r.head]
	r.queue[r.head] = Value{}
	r.head++
	r.bytes -= v.Weight() + itemOverhead
	if r.head == len(r.queue) {
		r.queue, r.head = r.queue[:0], 0
	}
	return v
}

// OnRoom runs f once, without locks, as soon as at most limit bytes wait to be
// read, at once if that is so now, or when nobody reads any more. It is for
// senders that count bytes beside credit; there is one slot.
func (r *Reader) OnRoom(limit int, f func()) {
	r.mu.Lock()
	r.roomAt, r.onRoom = limit, f
	f = r.roomLocked()
	r.mu.Unlock()
	if f != nil {
		f()
	}
}

// roomLocked returns what OnRoom has set if it is due.
func (r *Reader) roomLocked() func() {
	f := r.onRoom
	if f == nil || r.bytes > r.roomAt && !r.closed && !r.ended {
		return nil
	}
	r.onRoom = nil
	return f
}

// refillLocked says how much credit to grant so that a window is open.
func (r *Reader) refillLocked() int {
	if r.src == nil || r.ended || r.closed || r.sink != nil {
		return 0
	}
	window := r.windowLocked()
	room := window - r.credit - (len(r.queue) - r.head)
	if room < max(window/2, 1) {
		return 0
	}
	r.credit += room
	return room
}

// windowLocked returns how many items may be on their way or wait: few before
// their size is known, then so many as have about windowBytes.
func (r *Reader) windowLocked() int {
	if r.peak == 0 {
		return firstWindow
	}
	return min(max(windowBytes/r.peak, 1), Window)
}

// All iterates over the items under ctx; the last pair has the error, if any.
func (r *Reader) All(ctx context.Context) iter.Seq2[Value, error] {
	return func(yield func(Value, error) bool) {
		for {
			v, ok, err := r.Recv(ctx)
			if err != nil {
				yield(Value{}, err)
				return
			}
			if !ok || !yield(v, nil) {
				return
			}
		}
	}
}

// Attach hands the stream on to s: first what is queued, then what comes, both
// against the credit granted to the returned Source. Recv is over.
func (r *Reader) Attach(s Sink) Source {
	r.mu.Lock()
	if r.sink != nil || r.closed {
		r.mu.Unlock()
		s.End(nil, ErrCancelled)
		return noSource{}
	}
	r.sink = s
	end := r.ended && r.head == len(r.queue)
	err := r.err
	r.mu.Unlock()
	if end {
		s.End(nil, err)
	}
	return relay{r}
}

// relay is the Source of a Reader that was handed on.
type relay struct{ r *Reader }

// Grant hands on what is queued, in a goroutine that ends with the credit or
// the queue, and asks the sender for what is not there yet.
func (a relay) Grant(n int) {
	r := a.r
	r.mu.Lock()
	r.wanted = min(r.wanted+n, 1<<30)
	if (r.head < len(r.queue)) && !r.moving {
		r.moving = true
		go r.move()
	}
	more, src := r.wanted-(len(r.queue)-r.head)-r.credit, r.src
	if more <= 0 || src == nil || r.ended {
		more = 0
	}
	r.credit += more
	r.mu.Unlock()
	if more > 0 {
		src.Grant(more)
	}
}

// Stop drops what is queued and tells the sender.
func (a relay) Stop(cause *Error) {
	r := a.r
	r.mu.Lock()
	left := r.emptyLocked()
	src, ended, room := r.src, r.ended, r.roomLocked()
	r.mu.Unlock()
	dropAll(left)
	if room != nil {
		room()
	}
	if src != nil && !ended {
		src.Stop(cause)
	}
}

// emptyLocked takes out what nobody will read.
func (r *Reader) emptyLocked() []Value {
	left := r.queue[r.head:]
	r.queue, r.head, r.bytes = nil, 0, 0
	if r.last.tree != nil {
		left = append(left, r.last)
		r.last = Value{}
	}
	return left
}

func (r *Reader) move() {
	for {
		r.mu.Lock()
		s := r.sink
		if r.head == len(r.queue) || r.wanted == 0 {
			r.moving = false
			end, err := r.ended && r.head == len(r.queue), r.err
			r.mu.Unlock()
			if end {
				s.End(Soon, err)
			}
			return
		}
		v := r.popLocked()
		r.wanted--
		room := r.roomLocked()
		r.mu.Unlock()
		if room != nil {
			room()
		}
		if out, ok := s.(*callSink); ok && out.c.link != nil && out.c.link.Out != nil {
			_ = out.c.link.Out.Wait(out.c) // after an error nothing is taken any more
		}
		s.Item(Soon, v)
		Drop(v)
	}
}

// Close gives the stream up: its sender is told, what comes is dropped.
func (r *Reader) Close(cause *Error) {
	r.mu.Lock()
	if r.closed || r.sink != nil {
		r.mu.Unlock()
		return
	}
	r.closed = true
	left := r.emptyLocked()
	ended, src := r.ended, r.src
	if cause == nil {
		cause = errFinished
	}
	if !ended {
		r.err = cause // whoever still reads must not take this for the regular end
	}
	room := r.roomLocked()
	r.mu.Unlock()
	r.signal()
	dropAll(left)
	if room != nil {
		room()
	}
	if src != nil && !ended {
		src.Stop(cause)
	}
}

// ReaderOf returns a Reader for a stream that came as a value or as a call's Input.
func ReaderOf(s Readable) *Reader {
	if r, ok := s.(*Reader); ok {
		return r
	}
	r := NewReader(nil)
	src := s.Attach(r)
	r.mu.Lock()
	r.src = src
	r.mu.Unlock()
	return r
}
