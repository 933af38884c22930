package rpc

import (
	"context"
	"iter"
	"sync"
)

// Sink takes the items of one stream in order, each against credit, and one
// End (nil: regular end). Neither blocks. What comes after End is dropped.
type Sink interface {
	Item(b *Batch, v Value)
	End(b *Batch, err *Error)
}

// Source is the way back: Grant allows n more items, Stop says that no more
// are wanted; an End follows or not. Neither blocks.
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
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if !s.began {
		s.began = true
		s.c.started()
	}
	s.wire.Item(b, v)
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
		c.link.disarm(c)
	}
}

// Reader is the receiving end of a stream in Go, and a Readable: a bounded
// queue between the Sink side, which a protocol feeds, and Recv. A stream that
// is handed on with Attach passes its queue on first.
type Reader struct {
	src Source

	mu     sync.Mutex
	queue  []Value
	head   int
	bytes  int
	credit int // granted to src and not used yet
	sink   Sink
	ended  bool
	err    *Error
	closed bool
	wake   chan struct{} // cap 1
	call   *Call         // its deadline ends with the first item taken
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
	r.credit = max(r.credit-1, 0)
	if r.sink != nil {
		s := r.sink
		r.mu.Unlock()
		s.Item(b, v)
		return
	}
	size := len(v.raw) + 64
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
	r.queue = append(r.queue, v.Own())
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
// ctx and is for one goroutine at a time.
func (r *Reader) Recv(ctx context.Context) (v Value, ok bool, err error) {
	for {
		r.mu.Lock()
		if r.head < len(r.queue) {
			v = r.queue[r.head]
			r.queue[r.head] = Value{}
			r.head++
			r.bytes -= len(v.raw) + 64
			if r.head == len(r.queue) {
				r.queue, r.head = r.queue[:0], 0
			}
			grant := r.refillLocked()
			call := r.call
			r.call = nil
			r.mu.Unlock()
			if call != nil {
				call.started()
			}
			if grant > 0 {
				r.src.Grant(grant)
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
		grant := r.refillLocked()
		r.mu.Unlock()
		if grant > 0 {
			r.src.Grant(grant)
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return Value{}, false, ctx.Err()
		}
	}
}

// refillLocked says how much credit to grant so that a window is open.
func (r *Reader) refillLocked() int {
	if r.src == nil || r.ended || r.closed {
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

// Attach hands the stream on to s: first what is queued, then what comes.
func (r *Reader) Attach(s Sink) Source {
	r.mu.Lock()
	queue := r.queue[r.head:]
	r.queue, r.head, r.bytes = nil, 0, 0
	ended, err := r.ended, r.err
	// Items that arrive while the queue is passed on would overtake it: the
	// protocols feed and attach from the reader's goroutine, which excludes it.
	r.sink = s
	r.mu.Unlock()
	for _, v := range queue {
		s.Item(nil, v)
	}
	if ended {
		s.End(nil, err)
	}
	if r.src == nil {
		return noSource{}
	}
	return r.src
}

// Close gives the stream up: its sender is told, what comes is dropped.
func (r *Reader) Close(cause *Error) {
	r.mu.Lock()
	if r.closed || r.sink != nil {
		r.mu.Unlock()
		return
	}
	r.closed = true
	r.queue, r.head, r.bytes = nil, 0, 0
	ended := r.ended
	if !ended && cause != nil {
		r.err = cause
	}
	r.mu.Unlock()
	r.signal()
	if r.src != nil && !ended {
		if cause == nil {
			cause = errFinished
		}
		r.src.Stop(cause)
	}
}

// ReaderOf returns a Reader for a stream that came as a value or as a call's Input.
func ReaderOf(s Readable) *Reader {
	if r, ok := s.(*Reader); ok {
		return r
	}
	r := NewReader(nil)
	r.src = s.Attach(r)
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
// It fails when the call has ended or nobody wants more.
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
					return err
				}
			}
			if w.c.Settled() {
				return w.c.Err()
			}
			w.sink.Item(Soon, v)
			return nil
		}
		w.mu.Unlock()
		select {
		case <-w.wake:
		case <-w.c.Done():
			return AsError(w.c, w.c.Err())
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
	s.items = append(s.items, v.Own())
	s.bytes += len(v.raw) + 1
	if len(s.items) > MaxCollected || s.bytes > MaxCollectedBytes {
		s.full, s.items = true, nil
		go s.src.Stop(errCollected) // the sink's lock is held
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
		s.c.Reply.Error(b, s.c, err)
	default:
		s.c.Reply.Result(b, s.c, Array(s.items))
	}
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
