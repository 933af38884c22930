package rpc

import (
	"context"
	"iter"
	"sync"
)

// Sink takes the items of one stream in order, each against credit, and one
// End (nil: regular end). Neither blocks. What comes after End is dropped.
// Items are borrowed: Keep says what that means.
type Sink interface {
	Item(b *Batch, v Value)
	End(b *Batch, err *Error)
}

// Source is the way back: Grant allows n more items, Stop says that no more
// are wanted; an End follows or not. Neither blocks, and neither calls the Sink
// before it returns: its lock may be held.
type Source interface {
	Grant(n int)
	Stop(cause *Error)
}

// Readable is a stream that nobody reads yet. Attach hands it to s, once; s is
// fed from then on against the credit granted to the returned Source. Close
// gives an unread stream up; it does nothing after Attach or a second time.
type Readable interface {
	Attach(s Sink) Source
	Close(cause *Error)
}

// Stream limits.
const (
	// Window is the credit that a reader in Go grants ahead.
	Window = 64
	// MaxQueued bounds the bytes of a stream that nobody reads: a sender that
	// heeds credit never comes near.
	MaxQueued = 8 << 20
	// MaxQueuedItems bounds their number.
	MaxQueuedItems = 65536
	// MaxCollected is how many items an answer that is collected into an array may have.
	MaxCollected = 100000
	// MaxCollectedBytes bounds its size: one frame.
	MaxCollectedBytes = 16 << 20
)

// callSink guards the caller's end of a streamed answer: items and the end may
// come from different goroutines, and a cancel may end it at any time.
type callSink struct {
	c      *Call
	src    Source
	mu     sync.Mutex // held while the wire's sink runs: keeps items before the end
	wire   Sink
	began  bool
	closed bool
}

func (s *callSink) Item(b *Batch, v Value) {
	s.mu.Lock()
	if s.closed || s.c.Settled() { // its deadline may be over and the answer held back
		s.mu.Unlock()
		return
	}
	if !s.began {
		s.began = true
		s.c.started()
	}
	s.wire.Item(b, v)
	full, isFull := s.wire.(*collector)
	isFull = isFull && full.full
	s.mu.Unlock()
	if isFull {
		s.c.Finish(b, Value{}, errCollected)
	}
}

// End finishes the call.
func (s *callSink) End(b *Batch, err *Error) {
	if err != nil {
		s.c.Finish(b, Value{}, err)
		return
	}
	s.c.Finish(b, Value{}, nil)
}

// end closes the caller's side; the call is settled.
func (s *callSink) end(b *Batch, err *Error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	s.wire.End(b, err)
	s.mu.Unlock()
	if err != nil {
		s.src.Stop(err)
	}
}

// started says that a first item was sent or taken: the deadline bounds the
// wait for an answer, not the life of a stream.
func (c *Call) started() {
	if c.link != nil && c.owned {
		c.endless.Store(true)
		c.link.disarm(c)
	}
}

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
	size := v.size() + 64
	if r.bytes+size > MaxQueued && r.bytes > 0 || len(r.queue)-r.head >= MaxQueuedItems {
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
	r.bytes -= v.size() + 64
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
	room := Window - r.credit - (len(r.queue) - r.head)
	if room < Window/2 {
		return 0
	}
	r.credit += room
	return room
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

type noSource struct{}

func (noSource) Grant(int)   {}
func (noSource) Stop(*Error) {}

// Writer is the sending end of a streamed answer in Go. Send is for one
// goroutine at a time.
type Writer struct {
	c    *Call
	sink Sink

	mu      sync.Mutex
	credit  int
	stopped *Error
	wake    chan struct{} // cap 1
}

// OpenWriter makes the answer of c a stream that Go code writes.
func OpenWriter(b *Batch, c *Call) *Writer {
	w := &Writer{c: c, wake: make(chan struct{}, 1)}
	w.sink = c.Open(b, w)
	return w
}

// Grant adds credit.
func (w *Writer) Grant(n int) {
	w.mu.Lock()
	w.credit = min(w.credit+n, 1<<30)
	w.mu.Unlock()
	w.signal()
}

// Stop makes Send fail.
func (w *Writer) Stop(cause *Error) {
	if cause == nil {
		cause = ErrCancelled
	}
	w.mu.Lock()
	if w.stopped == nil {
		w.stopped = cause
	}
	w.mu.Unlock()
	w.signal()
}

func (w *Writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Send waits for credit and for room in the connection's outbox, then sends v.
// It fails when the call has ended or nobody wants more, with the *Error that
// says why.
func (w *Writer) Send(v Value) error {
	for {
		w.mu.Lock()
		switch {
		case w.stopped != nil:
			w.mu.Unlock()
			return w.stopped
		case w.credit > 0:
			w.credit--
			w.mu.Unlock()
			if l := w.c.link; l != nil && l.Out != nil {
				if err := l.Out.Wait(w.c); err != nil {
					if _, ok := err.(*Error); !ok { // the outbox is closed
						err = ErrPeerGone.Because(err)
					}
					return err
				}
			}
			if w.c.Settled() {
				return w.c.endCause()
			}
			w.sink.Item(Soon, v)
			return nil
		}
		w.mu.Unlock()
		select {
		case <-w.wake:
		case <-w.c.Done():
			return w.c.endCause()
		}
	}
}

// Collect is the Sink for callers that take one value: it answers the call
// with an array of the items, or with an error when there are too many.
func Collect(c *Call, src Source) Sink {
	s := &collector{c: c, src: src}
	src.Grant(Window)
	return s
}

type collector struct {
	c     *Call
	src   Source
	items []Value
	bytes int
	used  int
	full  bool
}

func (s *collector) Item(_ *Batch, v Value) {
	if s.full {
		return
	}
	s.items = append(s.items, Keep(v)) // the holds go to whoever takes the answer
	s.bytes += v.size() + 1
	if len(s.items) > MaxCollected || s.bytes > MaxCollectedBytes {
		s.drop()
		s.full = true // callSink finishes the call, which stops the source
		return
	}
	if s.used++; s.used == Window/2 {
		s.used = 0
		s.src.Grant(Window / 2)
	}
}

var errCollected = &Error{
	Code: CodeTooLarge, Ran: RanYes,
	Message: "the stream is too long for one answer: ask for it as a stream",
}

func (s *collector) End(b *Batch, err *Error) {
	switch {
	case s.full:
		s.c.Reply.Error(b, s.c, errCollected)
	case err != nil:
		s.drop()
		s.c.Reply.Error(b, s.c, err)
	default:
		s.c.Reply.Result(b, s.c, Array(s.items))
	}
}

func (s *collector) drop() {
	dropAll(s.items)
	s.items = nil
}

// Array makes one Value of many.
func Array(items []Value) Value {
	size := 2
	var t Traits
	for _, v := range items {
		if v.raw == nil {
			list := make([]any, len(items))
			for i, v := range items {
				list[i] = v
				if v.IsUndefined() {
					list[i] = Undefined{}
				}
			}
			return Value{tree: list}
		}
		size += len(v.raw) + 1
		t.add(v.traits)
	}
	t.Flags |= HasArray
	t.Depth++
	text := append(make([]byte, 0, size), '[')
	for i, v := range items {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(text, v.raw...)
	}
	return Value{raw: append(text, ']'), traits: t}
}
