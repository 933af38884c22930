package rpc

import "sync"

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
	// Window is the most credit that a reader in Go grants ahead.
	Window = 64
	// MaxQueued bounds the bytes of a stream that nobody reads and that were
	// sent without credit.
	MaxQueued = 8 << 20
	// MaxQueuedItems bounds their number.
	MaxQueuedItems = 65536
	// MaxCredited bounds the bytes of items that credit was given for; one more
	// item always fits. A reader gives credit by the size of the items, so that
	// only a sender whose items suddenly become much larger comes near.
	MaxCredited = 32 << 20
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
	s.bytes += v.Weight() + 1
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
