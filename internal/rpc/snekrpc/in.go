package snekrpc

import (
	"context"
	"errors"
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// inStream is the caller's stream. The protocol knows no credit: what its
// reader is not ready to take is not read from the socket.
type inStream struct {
	k      *call
	reader *rpc.Reader

	mu      sync.Mutex
	credit  int
	stopped bool
	wake    chan struct{} // cap 1
}

func newInStream(k *call) *inStream {
	s := &inStream{k: k, wake: make(chan struct{}, 1)}
	s.reader = rpc.NewReader(s)
	return s
}

// Grant lets n more items in.
func (s *inStream) Grant(n int) {
	s.mu.Lock()
	s.credit = min(s.credit+n, 1<<30)
	s.mu.Unlock()
	signal(s.wake)
}

// Stop drops what still comes.
func (s *inStream) Stop(*rpc.Error) {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	signal(s.wake)
}

// Bytes of the stream that may wait for their reader. A message larger than
// largeItem is let in only when none do: as a tree it may take many times its
// size.
const (
	maxWaiting = 1 << 20
	largeItem  = 64 << 10
)

// open waits until an item of that size is wanted. It reports false when none
// is any more, or the connection is over.
func (s *inStream) open(b *rpc.Batch, size int) bool {
	limit := maxWaiting
	if size > largeItem {
		limit = 0
	}
	roomy, asked := false, false
	for flushed := false; ; flushed = true {
		s.mu.Lock()
		stopped, credit := s.stopped, s.credit
		if !stopped && credit > 0 && roomy {
			s.credit--
		}
		ok := roomy
		s.mu.Unlock()
		switch {
		case stopped:
			return false
		case credit > 0 && ok:
			return true
		case credit > 0 && !asked:
			asked = true
			s.reader.OnRoom(limit, func() {
				s.mu.Lock()
				roomy = true
				s.mu.Unlock()
				signal(s.wake)
			})
			continue
		}
		if !flushed {
			b.Flush() // nothing may wait for us while we wait
		}
		if !s.k.conn.pause(s.wake) {
			return false
		}
	}
}

// item handles a message that comes while the caller's stream is not over.
func (k *call) item(b *rpc.Batch, cd codec, msg []byte) {
	c := k.conn
	c.mu.Lock()
	state, answered := k.input, k.answered
	c.mu.Unlock()
	if answered { // its items are read and dropped
		switch cd.kind(msg) {
		case endMsg, errorMsg:
			k.inputEnds()
		case commandMsg:
			k.abandoned(b)
		}
		return
	}
	var m message
	if err := cd.decode(msg, &m); err != nil {
		c.failed(Malformed, err)
		k.Cancel(asFailure(err))
		return
	}
	switch {
	case m.kind == commandMsg:
		k.interrupted(b, cd, msg, &m)
	case m.kind == startMsg && state == inputDue:
		c.mu.Lock()
		k.input = inputRuns
		c.mu.Unlock()
	case m.kind == dataMsg && state == inputRuns:
		if k.in != nil && k.in.open(b, len(msg)) {
			k.in.reader.Item(b, m.value)
		}
	case m.kind == endMsg && state == inputRuns:
		if k.in != nil {
			k.in.reader.End(b, nil)
		}
		k.inputEnds()
	case m.kind == errorMsg: // the caller's own words for why its stream ends
		if k.in != nil {
			k.in.reader.End(b, rpc.HandlerError(m.name, m.text))
		}
		k.inputEnds()
	default:
		c.failed(OutOfOrder, nil)
		want := kindNames[startMsg]
		if state == inputRuns {
			want = kindNames[dataMsg]
		}
		k.Cancel(asFailure(unexpected(m.kind, want)))
		if m.kind == endMsg { // nothing more comes
			k.inputEnds()
		}
	}
}

// asFailure makes a message's error the answer of a call.
func asFailure(err error) *rpc.Error {
	if e, ok := errors.AsType[*wireError](err); ok {
		return rpc.HandlerError(e.name, e.text)
	}
	return rpc.AsError(context.Background(), err)
}

// inputEnds notes that the caller's stream is over.
func (k *call) inputEnds() {
	c := k.conn
	c.expect(false)
	c.mu.Lock()
	defer c.mu.Unlock()
	k.input = inputOver
	c.settledLocked(k)
}

// interrupted handles a command in the middle of a stream: what makes the
// caller's stream has failed, and nobody waits for the answer. Unless some of
// it was sent already, the new command runs as if the old one had never been.
// Otherwise the old answer is ended with an error, and that is the answer of
// both: its client reads them as one.
func (k *call) interrupted(b *rpc.Batch, cd codec, msg []byte, m *message) {
	c := k.conn
	c.failed(OutOfOrder, nil)
	c.mu.Lock()
	clean := !k.began && !k.answered
	k.mute = clean
	c.mu.Unlock()
	if !clean {
		k.Cancel(asFailure(unexpected(commandMsg, kindNames[dataMsg])))
		if m.streams() > 0 { // its stream is dropped in place of the old one
			c.mu.Lock()
			k.input = inputDue
			c.mu.Unlock()
			return
		}
		k.inputEnds()
		return
	}
	k.Cancel(rpc.ErrCancelled)
	c.expect(false)
	c.mu.Lock()
	k.input = inputOver
	k.answered = true
	if c.cur == k {
		c.cur = nil
	}
	c.mu.Unlock()
	c.handle(b, msg)
}

// abandoned handles a command in the middle of a stream whose call was answered
// before. Nobody can tell which of both the client takes that answer for: it is
// told, and the connection ends before the two lose step for good.
func (k *call) abandoned(b *rpc.Batch) {
	c := k.conn
	c.failed(OutOfOrder, nil)
	e := unexpected(commandMsg, kindNames[endMsg])
	c.say(b, k.codec, e.name, e.text)
	b.Flush()
	c.expect(false)
	c.out.Close(c.s.cfg.Drain)
}
