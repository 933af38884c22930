package kollabor

import (
	"context"
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// Credit that a stream is given while its receiver says nothing of credit: it
// begins small and then follows the size of the items, so that about windowBytes
// are on their way, as long as the outbox has room.
const (
	firstCredit = 16
	windowBytes = 1 << 20
	maxWindow   = 4096
	maxCredit   = 1 << 40 // what counts as endless
)

// outStream sends the items of one stream as rpc_chunk frames. It stands
// between the source, which it grants credit, and the outbox.
//
// Until the receiver's first rpc_credit the outbox alone is the limit. From
// then on the receiver's count is kept exactly: items that the source was
// already allowed to send wait in queue.
type outStream struct {
	conn *conn
	id   []byte
	call *call // whose answer it is; nil for a stream that the hub sends to a method of its client
	src  rpc.Source

	mu        sync.Mutex // before the outbox's; the source and Cancel are called without it
	seq       uint64
	granted   int  // to src, not yet used
	mean      int  // bytes of an item, roughly
	held      bool // nothing is sent until the read that began the stream is handled
	explicit  bool
	credit    uint64 // items that the receiver still takes; counts once explicit
	queue     []rpc.Value
	waiting   bool // for room in the outbox
	closed    bool // nothing more is sent
	ended     bool // the source has ended; the end waits behind queue
	cancelled bool
}

func openOutStream(k *call, src rpc.Source) *outStream {
	s := &outStream{conn: k.conn, id: k.id, call: k, src: src, mean: 256}
	c := k.conn
	c.mu.Lock()
	s.explicit, s.credit, s.held = k.counted, k.early, k.held
	if c.streams == nil {
		c.streams = make(map[string]*outStream)
	}
	c.streams[string(s.id)] = s
	c.streaming.Add(1)
	c.mu.Unlock()
	s.mu.Lock()
	s.granted = firstCredit
	if s.explicit {
		s.granted = int(min(firstCredit, s.credit))
	}
	n := s.granted
	s.mu.Unlock()
	if n > 0 {
		src.Grant(n)
	}
	return s
}

// Item sends v, or queues it when the receiver takes none at the moment.
func (s *outStream) Item(b *rpc.Batch, v rpc.Value) {
	s.mu.Lock()
	if s.closed || s.ended {
		s.mu.Unlock()
		return
	}
	s.granted = max(s.granted-1, 0)
	if s.held || len(s.queue) > 0 || s.explicit && s.credit == 0 {
		if len(s.queue) >= 2*maxWindow { // far more than the source was allowed to send
			s.closed = true
			s.mu.Unlock()
			s.after(0, &rpc.Error{Code: rpc.CodeOverloaded, Message: "more stream items than credit was given for", Ran: rpc.RanUnknown})
			return
		}
		s.queue = append(s.queue, v.Own())
		s.mu.Unlock()
		return
	}
	err := s.sendLocked(b, v)
	n := s.refillLocked()
	s.mu.Unlock()
	s.after(n, err)
}

// sendLocked sends one item.
func (s *outStream) sendLocked(b *rpc.Batch, v rpc.Value) (fault *rpc.Error) {
	n := 0
	err := s.conn.out.Append(b, func(dst []byte) []byte {
		from := len(dst)
		out, err := frame.AppendChunk(dst, s.id, s.seq+1, v)
		switch {
		case err != nil:
			fault = rpc.AsError(context.Background(), err)
			return dst[:from]
		case len(out)-from-1 > frame.MaxLine:
			fault = &rpc.Error{Code: rpc.CodeSerialization, Message: "stream item too large", Ran: rpc.RanYes}
			return out[:from]
		}
		n = len(out) - from
		return out
	})
	if fault != nil {
		s.closed = true
		return fault
	}
	if err != nil { // the connection is over: its link cancels the call
		s.closed = true
		return nil
	}
	s.seq++
	s.mean = max(1, (7*s.mean+n)/8)
	if s.explicit {
		s.credit--
	}
	s.conn.sent(b, frame.Chunk, n)
	return nil
}

// refillLocked returns the credit that the source is to be given now.
func (s *outStream) refillLocked() int {
	if s.closed || s.ended || s.waiting || s.src == nil {
		return 0
	}
	want := max(1, min(maxWindow, windowBytes/s.mean))
	if s.explicit {
		room := uint64(0)
		if s.credit > uint64(len(s.queue)) {
			room = s.credit - uint64(len(s.queue))
		}
		want = int(min(uint64(want), room))
	}
	n := want - s.granted
	if n <= 0 || n < want/2 {
		return 0
	}
	if s.conn.out.Crowded() {
		s.waiting = true
		return -1
	}
	s.granted += n
	return n
}

// after does what refillLocked and sendLocked asked for, without the lock.
func (s *outStream) after(grant int, fault *rpc.Error) {
	switch {
	case fault != nil && s.call != nil:
		go s.call.Cancel(fault) // the call's own lock may be held by whoever sends the item
	case fault != nil:
		s.src.Stop(fault)
	case grant > 0:
		s.src.Grant(grant)
	case grant < 0:
		s.conn.out.OnRoom(func() {
			s.mu.Lock()
			s.waiting = false
			n := s.refillLocked()
			s.mu.Unlock()
			s.after(n, nil)
		})
	}
}

// more adds the receiver's credit.
func (s *outStream) more(b *rpc.Batch, n uint64) {
	s.mu.Lock()
	s.explicit = true
	s.credit = min(s.credit+min(n, maxCredit), maxCredit)
	s.drain(b)
}

// drain sends what waits and may be sent now. It is called with the lock held
// and returns without it.
func (s *outStream) drain(b *rpc.Batch) {
	var fault *rpc.Error
	for len(s.queue) > 0 && !s.held && (!s.explicit || s.credit > 0) && fault == nil && !s.closed {
		v := s.queue[0]
		s.queue[0] = rpc.Value{}
		s.queue = s.queue[1:]
		fault = s.sendLocked(b, v)
	}
	last := s.ended && len(s.queue) == 0 && !s.closed
	if last {
		s.closed = true
	}
	grant := s.refillLocked()
	s.mu.Unlock()
	if last {
		s.finish(b, nil)
		return
	}
	s.after(grant, fault)
}

// release lets the streams that began in this read send.
func (c *conn) release() {
	for i, k := range c.fresh {
		c.fresh[i] = nil
		c.mu.Lock()
		k.held = false
		s := c.streams[string(k.id)]
		c.mu.Unlock()
		if s != nil && s.call == k {
			s.mu.Lock()
			s.held = false
			s.drain(&c.batch)
		}
	}
	c.fresh = c.fresh[:0]
}

// End sends the end, behind what is queued. An error does not wait.
func (s *outStream) End(b *rpc.Batch, err *rpc.Error) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended = true
	if err != nil || s.cancelled {
		s.queue = nil
	}
	if len(s.queue) > 0 {
		s.mu.Unlock()
		return // more has the end sent
	}
	s.closed = true
	s.mu.Unlock()
	s.finish(b, err)
}

// cancel ends a stream whose call is over already: its items wait for credit.
func (s *outStream) cancel(b *rpc.Batch) {
	s.mu.Lock()
	s.queue = nil
	s.cancelled = true
	last := s.ended && !s.closed
	if last {
		s.closed = true
	}
	s.mu.Unlock()
	if last {
		s.finish(b, rpc.ErrCancelled)
	}
}

// finish sends the last frame of the stream. Its id may come again as soon as
// the peer has read that.
func (s *outStream) finish(b *rpc.Batch, err *rpc.Error) {
	if s.call == nil {
		text := ""
		if err != nil {
			text = err.Text()
		}
		s.conn.send(b, frame.End, func(dst []byte) []byte { return frame.AppendEnd(dst, s.id, text) })
		return
	}
	s.conn.forget(s)
	if err != nil {
		s.call.Error(b, &s.call.Call, err)
	} else {
		s.call.Result(b, &s.call.Call, rpc.Null)
	}
}

// drop ends a stream that nobody reads any more, without a frame.
func (s *outStream) drop() {
	s.mu.Lock()
	s.closed, s.queue = true, nil
	s.mu.Unlock()
}

// credit handles an rpc_credit frame.
func (c *conn) credit(id []byte, n uint64) {
	if s := c.client.sending(id); s != nil {
		s.more(&c.batch, n)
		return
	}
	if s := c.stream(id); s != nil {
		s.more(&c.batch, n)
		return
	}
	if k := c.find(id); k != nil && k.stream {
		c.mu.Lock()
		s := c.streams[string(id)] // it may have begun just now
		if s == nil {
			k.counted = true
			k.early = min(k.early+min(n, maxCredit), maxCredit)
		}
		c.mu.Unlock()
		if s != nil {
			s.more(&c.batch, n)
		}
	}
}

// find returns the peer's running call with that id, nil if there is none.
func (c *conn) find(id []byte) *call {
	if r := c.link.Find(id); r != nil {
		if k, ok := r.Reply.(*call); ok {
			return k
		}
	}
	return nil
}

// stream returns the streamed answer with that request id, nil if there is none.
func (c *conn) stream(id []byte) *outStream {
	if c.streaming.Load() == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[string(id)]
}

func (c *conn) forget(s *outStream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[string(s.id)] == s {
		delete(c.streams, string(s.id))
		c.streaming.Add(-1)
	}
}

func (c *conn) dropStreams() {
	c.mu.Lock()
	list := c.streams
	c.streams = nil
	c.mu.Unlock()
	for _, s := range list {
		s.drop()
	}
}
