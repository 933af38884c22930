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
	buf     []byte     // waits for the writer
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
// follows. A queue over the hard limit ends the connection; one frame always fits.
func (o *Outbox) Append(b *Batch, f func([]byte) []byte) error {
	o.mu.Lock()
	if o.err != nil {
		defer o.mu.Unlock()
		return o.err
	}
	before := len(o.buf) + o.flying
	if o.buf == nil {
		o.buf = getBuffer()
	}
	o.buf = f(o.buf)
	if before > 0 && len(o.buf)+o.flying > o.hard {
		o.failLocked(ErrOutboxFull)
		o.mu.Unlock()
		o.wire.Close()
		return ErrOutboxFull
	}
	switch {
	case o.writing: // the writer will see it
	case b == Soon:
		o.writing = true
		o.wg.Go(func() { o.drain(nil) })
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

// flush writes what waits, if nobody else does, without blocking.
func (o *Outbox) flush() {
	o.mu.Lock()
	o.batch = nil
	for !o.writing && len(o.buf) > 0 && o.err == nil {
		o.writing = true
		p := o.buf
		o.buf, o.flying = nil, len(p)
		o.mu.Unlock()
		n, err := o.wire.TryWrite(p)
		if err == nil && n < len(p) {
			o.wg.Go(func() { o.drain(p[n:]) })
			return
		}
		putBuffer(p)
		o.mu.Lock()
		o.writing, o.flying = false, 0
		if err != nil {
			o.failLocked(err)
			o.mu.Unlock()
			o.wire.Close()
			o.notify()
			return
		}
	}
	o.mu.Unlock()
	o.notify()
}

// drain owns the write side: it writes p, then whatever is queued, until nothing is.
func (o *Outbox) drain(p []byte) {
	for {
		for len(p) > 0 {
			piece := p[:min(len(p), writePiece)]
			_, err := o.wire.Write(piece)
			p = p[len(piece):]
			o.mu.Lock()
			o.flying = len(p)
			if err != nil {
				o.failLocked(err)
			}
			failed := o.err != nil
			o.mu.Unlock()
			if failed {
				o.wire.Close()
				p = nil
			}
			o.notify()
		}
		o.mu.Lock()
		if len(o.buf) == 0 || o.err != nil {
			o.writing, o.flying = false, 0
			o.mu.Unlock()
			o.notify()
			return
		}
		p = o.buf
		o.buf, o.flying = nil, len(p)
		o.mu.Unlock()
	}
}

// notify wakes those that wait for room or for the end of the queue.
func (o *Outbox) notify() {
	o.mu.Lock()
	var run []func()
	queued := len(o.buf) + o.flying
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
		if len(o.buf)+o.flying <= o.soft {
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
	if o.err == nil && len(o.buf)+o.flying > o.soft {
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
	return len(o.buf) + o.flying
}

// Busy reports whether the queue is so long that new calls are to be refused:
// above half of the hard limit, so that a reply of any size still fits.
func (o *Outbox) Busy() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.buf)+o.flying > o.hard/2
}

// Crowded reports whether the queue is above the soft limit.
func (o *Outbox) Crowded() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.buf)+o.flying > o.soft
}

// Fail ends the outbox: what is queued is dropped, later Appends return err.
// The wire is closed.
func (o *Outbox) Fail(err error) {
	o.mu.Lock()
	o.failLocked(err)
	o.mu.Unlock()
	o.wire.Close()
	o.notify()
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
	if o.err == nil && (o.writing || len(o.buf) > 0) {
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
	o.mu.Unlock()
	o.wire.Close()
	o.notify()
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

// Flush sends what was appended.
func (b *Batch) Flush() {
	for i, o := range b.dirty {
		o.flush()
		b.dirty[i] = nil
	}
	b.dirty = b.dirty[:0]
}

// Buffers are pooled by size class, so that neither an idle connection holds
// one nor a large frame stays for ever.
var buffers [3]sync.Pool

var bufferSizes = [3]int{4 << 10, 64 << 10, 2 << 20}

func getBuffer() []byte {
	for i := len(buffers) - 1; i >= 0; i-- {
		if p, ok := buffers[i].Get().(*[]byte); ok {
			return (*p)[:0]
		}
	}
	return make([]byte, 0, bufferSizes[0])
}

func putBuffer(p []byte) {
	for i, size := range bufferSizes {
		if cap(p) <= size {
			if cap(p) >= bufferSizes[0] {
				buffers[i].Put(&p)
			}
			return
		}
	}
}
