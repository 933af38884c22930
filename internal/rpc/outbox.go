package rpc

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Wire is what the hub gives an Outbox to write to. The core knows no sockets.
type Wire interface {
	// TryWrite makes one attempt that cannot block and returns how much was
	// taken; 0 where the transport has no such attempt.
	TryWrite(p []byte) (int, error)
	// Write blocks until all of p is taken. It fails when the peer takes
	// nothing for the stall limit. Write and TryWrite never run at once.
	Write(p []byte) (int, error)
	// Close ends the transport. It may be called more than once and at any time.
	Close() error
}

// Outbox defaults.
const (
	DefaultSoft = 1 << 20  // bytes above which streams and goroutine handlers wait
	DefaultHard = 32 << 20 // bytes above which the connection is closed

	writePiece = 256 << 10 // what the background writer hands over at once, so that room is noticed
)

// Errors of an Outbox.
var (
	ErrOutboxFull   = errors.New("outgoing queue is over its limit")
	ErrOutboxClosed = errors.New("connection is closed")
)

// Outbox is the only way to a connection's peer: a queue of bytes, bounded,
// written by one writer at a time. There is no standing goroutine: whoever
// flushes an idle outbox makes one attempt that cannot block, and what the
// peer does not take starts a goroutine that writes until the queue is empty.
//
// All methods may be called by many goroutines.
type Outbox struct {
	soft, hard int
	wire       Wire

	mu      sync.Mutex // innermost lock; never held during a write
	buf     *buffer    // waits for the writer; nil when nothing does
	spare   *buffer    // becomes buf while the background writer goes on; nil for none
	flying  int        // bytes that the writer holds
	writing bool       // somebody owns the write side
	batch   *Batch     // will flush; nil when nobody has promised to
	err     error      // set once: nothing can be sent any more
	room    chan struct{}
	onRoom  []func()
	idle    chan struct{} // closed when the queue becomes empty; nil when nobody waits
	wg      sync.WaitGroup
}

// NewOutbox returns an empty outbox. soft and hard are limits in bytes; 0 means the defaults.
func NewOutbox(w Wire, soft, hard int) *Outbox {
	if soft == 0 {
		soft = DefaultSoft
	}
	if hard == 0 {
		hard = DefaultHard
	}
	return &Outbox{wire: w, soft: soft, hard: hard}
}

// Append lets f add one frame to the queue. f runs under the outbox's lock and
// takes no other. With a Batch, the batch flushes; with nil the frame is on its
// way when Append returns; with Soon a goroutine sends it together with what
// follows. A queue over the hard limit ends the connection; one frame of any
// size always fits as long as the queue is below the soft limit.
func (o *Outbox) Append(b *Batch, f func([]byte) []byte) error {
	o.mu.Lock()
	if o.err != nil {
		defer o.mu.Unlock()
		return o.err
	}
	if o.buf == nil {
		if o.buf, o.spare = o.spare, nil; o.buf == nil {
			o.buf = getBuffer(o.writing)
		}
	}
	before := len(o.buf.p) + o.flying
	o.fillLocked(f)
	if before > o.soft && len(o.buf.p)+o.flying > o.hard {
		o.failLocked(ErrOutboxFull)
		o.unlockAndWake()
		o.wire.Close()
		return ErrOutboxFull
	}
	switch {
	case o.writing: // the writer will see it
	case b == Soon:
		o.writing = true
		o.wg.Go(func() { o.drain(nil, 0) })
	case b == nil:
		o.mu.Unlock()
		o.flush()
		return nil
	case o.batch != b:
		o.batch = b
		b.dirty = append(b.dirty, o)
	}
	o.mu.Unlock()
	return nil
}

// fillLocked runs f. When f panics nothing was added and the lock is free again.
func (o *Outbox) fillLocked(f func([]byte) []byte) {
	done := false
	defer func() {
		if !done {
			o.mu.Unlock()
		}
	}()
	o.buf.p = f(o.buf.p)
	done = true
}

// flush writes what waits, if nobody else does, without blocking.
func (o *Outbox) flush() {
	o.mu.Lock()
	o.batch = nil
	var failed error
	for !o.writing && o.buf != nil && len(o.buf.p) > 0 && o.err == nil {
		o.writing = true
		buf := o.buf
		o.buf, o.flying = nil, len(buf.p)
		o.mu.Unlock()
		n, err := o.wire.TryWrite(buf.p)
		o.mu.Lock()
		if err == nil && n < len(buf.p) && o.err == nil {
			o.flying = len(buf.p) - n
			o.wg.Go(func() { o.drain(slim(buf, n)) })
			o.mu.Unlock()
			return
		}
		putBuffer(buf)
		o.writing, o.flying = false, 0
		if err != nil {
			o.failLocked(err)
			failed = err
		}
	}
	o.unlockAndWake()
	if failed != nil {
		o.wire.Close()
	}
}

// drain owns the write side: it writes buf from the given offset on, then
// whatever is queued, until nothing is.
func (o *Outbox) drain(buf *buffer, from int) {
	for {
		for buf != nil && from < len(buf.p) {
			piece := buf.p[from:min(len(buf.p), from+writePiece)]
			_, err := o.wire.Write(piece)
			from += len(piece)
			o.mu.Lock()
			o.flying = len(buf.p) - from
			if err != nil {
				o.failLocked(err)
			}
			failed := o.err != nil
			o.unlockAndWake()
			if failed {
				o.wire.Close()
				break
			}
		}
		o.mu.Lock()
		if o.buf == nil || len(o.buf.p) == 0 || o.err != nil {
			// A spare buffer did not come out of the pool. If it went in, the
			// pool would fill up with one more each time that a stream pauses.
			o.spare = nil
			o.writing, o.flying = false, 0
			o.unlockAndWake()
			putBuffer(buf)
			return
		}
		next := o.buf
		o.buf, o.flying = nil, len(next.p)
		if o.spare == nil && buf != nil && cap(buf.p) <= max(spareBuffer, min(maxBuffer, 4*len(next.p))) {
			// As much comes as goes: two buffers take turns. From the pool each
			// would be a small one that grows.
			buf.p = buf.p[:0]
			o.spare = buf
		}
		buf, from = next, 0
		o.mu.Unlock()
	}
}

// queuedLocked returns the bytes that the peer has not taken yet.
func (o *Outbox) queuedLocked() int {
	if o.buf == nil {
		return o.flying
	}
	return len(o.buf.p) + o.flying
}

// unlockAndWake unlocks and wakes those that wait for room or for the end of the queue.
func (o *Outbox) unlockAndWake() {
	var run []func()
	queued := o.queuedLocked()
	if queued <= o.soft/2 || o.err != nil {
		if o.room != nil {
			close(o.room)
			o.room = nil
		}
		run, o.onRoom = o.onRoom, nil
	}
	if o.idle != nil && (queued == 0 && !o.writing || o.err != nil) {
		close(o.idle)
		o.idle = nil
	}
	o.mu.Unlock()
	for _, f := range run {
		f()
	}
}

// Wait blocks while the queue is above the soft limit. Only goroutine handlers
// and Writer.Send call it, never a reader.
func (o *Outbox) Wait(ctx context.Context) error {
	for {
		o.mu.Lock()
		if o.err != nil {
			defer o.mu.Unlock()
			return o.err
		}
		if o.queuedLocked() <= o.soft {
			o.mu.Unlock()
			return nil
		}
		if o.room == nil {
			o.room = make(chan struct{})
		}
		room := o.room
		o.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// OnRoom runs f once, without locks, as soon as the queue is below the soft
// limit (at once if it is) or the connection has ended.
func (o *Outbox) OnRoom(f func()) {
	o.mu.Lock()
	if o.err == nil && o.queuedLocked() > o.soft {
		o.onRoom = append(o.onRoom, f)
		o.mu.Unlock()
		return
	}
	o.mu.Unlock()
	f()
}

// Len returns the bytes that wait to be taken by the peer.
func (o *Outbox) Len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.queuedLocked()
}

// Busy reports whether the queue is so long that new calls are to be refused:
// above half of the hard limit, so that a reply of any size still fits.
func (o *Outbox) Busy() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.queuedLocked() > o.hard/2
}

// Crowded reports whether the queue is above the soft limit.
func (o *Outbox) Crowded() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.queuedLocked() > o.soft
}

// Fail ends the outbox: what is queued is dropped, later Appends return err.
// The wire is closed.
func (o *Outbox) Fail(err error) {
	o.mu.Lock()
	o.failLocked(err)
	o.unlockAndWake()
	o.wire.Close()
}

func (o *Outbox) failLocked(err error) {
	if o.err == nil {
		o.err = err
		o.buf = nil
	}
}

// Err returns why nothing can be sent any more, nil while it can.
func (o *Outbox) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// Close sends what is queued, for at most the given time, then closes the wire
// and waits for the writer.
func (o *Outbox) Close(within time.Duration) {
	o.flush()
	o.mu.Lock()
	if o.err == nil && (o.writing || o.queuedLocked() > 0) {
		if o.idle == nil {
			o.idle = make(chan struct{})
		}
		idle := o.idle
		o.mu.Unlock()
		t := time.NewTimer(within)
		select {
		case <-idle:
		case <-t.C:
		}
		t.Stop()
		o.mu.Lock()
	}
	o.failLocked(ErrOutboxClosed)
	o.unlockAndWake()
	o.wire.Close()
	o.wg.Wait()
}

// Batch collects the outboxes that were written to while one read was
// handled; its owner flushes them once at the end. A Batch belongs to one
// goroutine. A nil *Batch means: at once.
type Batch struct {
	dirty []*Outbox
	now   time.Time
}

// Soon stands for a flush by a goroutine: what is appended in quick succession
// leaves together.
var Soon = new(Batch)

// Begin starts a batch at the present time.
func (b *Batch) Begin() { b.now = time.Now() }

// Now returns the time at which the batch was at its last stop: the start of
// the read, or the end of the call before. A nil Batch asks the clock.
func (b *Batch) Now() time.Time {
	if b == nil || b == Soon || b.now.IsZero() {
		return time.Now()
	}
	return b.now
}

// tick moves the batch's time on and returns it.
func (b *Batch) tick() time.Time {
	now := time.Now()
	if b != nil && b != Soon {
		b.now = now
	}
	return now
}

// Flush sends what was appended. A nil Batch has sent it.
func (b *Batch) Flush() {
	if b == nil {
		return
	}
	for i, o := range b.dirty {
		o.flush()
		b.dirty[i] = nil
	}
	b.dirty = b.dirty[:0]
}

// A buffer is pooled so that no idle connection holds one.
type buffer struct{ p []byte }

var buffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, minBuffer)} }}

const (
	minBuffer    = 4 << 10
	maxBuffer    = 2 << 20   // what a larger frame needed is left to the collector
	spareBuffer  = 256 << 10 // the most that waits to take its turn, unless the queue is as long
	queuedBuffer = 16 << 10  // the most that a buffer may be at first behind a slow peer
)

func getBuffer(slow bool) *buffer {
	b := buffers.Get().(*buffer)
	if slow && cap(b.p) > queuedBuffer {
		buffers.Put(b)
		return &buffer{make([]byte, 0, minBuffer)}
	}
	return b
}

func putBuffer(b *buffer) {
	if b != nil && cap(b.p) <= maxBuffer {
		b.p = b.p[:0]
		buffers.Put(b)
	}
}

// slim moves what is left of b from that offset on to a buffer of its size, so
// that a peer that reads slowly does not pin a large one for a few bytes.
func slim(b *buffer, from int) (*buffer, int) {
	left := b.p[from:]
	if cap(b.p) <= queuedBuffer || cap(b.p) <= 4*len(left) {
		return b, from
	}
	small := &buffer{append([]byte(nil), left...)}
	putBuffer(b)
	return small, 0
}
