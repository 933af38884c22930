package kollabor

import (
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// inStream is the caller's own stream: the items of its rpc_chunk frames, and
// the Source that tells the caller of credit.
type inStream struct {
	call   *call
	reader *rpc.Reader

	mu      sync.Mutex
	knows   bool // the caller has shown that it knows rpc_credit
	owed    int  // credit that it was not told of yet
	stopped bool
}

func newInStream(k *call, knows bool) *inStream {
	s := &inStream{call: k, knows: knows}
	s.reader = rpc.NewReader(s)
	return s
}

// Grant tells the caller that n more items may come, once it has shown that it
// knows of streams: a client of old that called such a method by mistake must
// not get frames that it cannot make sense of.
func (s *inStream) Grant(n int) {
	s.mu.Lock()
	if s.stopped || s.call.Settled() {
		s.mu.Unlock()
		return
	}
	s.owed += n
	if s.knows {
		n, s.owed = s.owed, 0
	} else {
		n = 0
	}
	s.mu.Unlock()
	s.tell(nil, n)
}

// Stop drops what still comes.
func (s *inStream) Stop(*rpc.Error) {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
}

// begun notes that the caller sends its stream.
func (s *inStream) begun(b *rpc.Batch) {
	s.mu.Lock()
	n := 0
	if !s.knows && !s.stopped {
		n, s.owed = s.owed, 0
	}
	s.knows = true
	s.mu.Unlock()
	s.tell(b, n)
}

func (s *inStream) tell(b *rpc.Batch, n int) {
	if n > 0 {
		s.call.conn.send(b, frame.Credit, func(dst []byte) []byte { return frame.AppendCredit(dst, s.call.id, n) })
	}
}

// item handles an rpc_chunk or rpc_end of the caller. Those of a call that is
// over, or takes no stream, are dropped.
func (c *conn) item(id []byte, f *frame.Frame) {
	k := c.find(id)
	if k == nil || k.in == nil {
		return
	}
	k.in.begun(&c.batch)
	switch {
	case f.Action == frame.Chunk:
		k.in.reader.Item(&c.batch, itemOf(f))
	case f.Error.Kind() == '"':
		k.in.reader.End(&c.batch, rpc.HandlerError("", frame.Text(f.Error)))
	default:
		k.in.reader.End(&c.batch, nil)
	}
}

// itemOf returns the item of an rpc_chunk; null where it is missing.
func itemOf(f *frame.Frame) rpc.Value {
	if f.Data.IsUndefined() {
		return rpc.Null
	}
	return f.Data
}
