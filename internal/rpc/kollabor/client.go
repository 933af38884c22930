package kollabor

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// client is the peer as something that can be called: its own methods, over
// the same connection. It is safe for concurrent use.
type client struct {
	conn *conn

	mu     sync.Mutex // before the outbox's
	last   uint64
	calls  map[string]*outgoing // by the JSON text of the hub's id
	closed bool
}

// outgoing is one call to the peer, and the Source of its streamed answer.
type outgoing struct {
	client *client
	id     []byte
	call   *rpc.Call
	input  *outStream // the caller's stream on its way to the peer; nil when there is none
	sink   rpc.Sink   // of a streamed answer; belongs to the connection's reader
}

var errClientGone = &rpc.Error{Code: rpc.CodeUnavailable, Message: "the client is gone", Ran: rpc.RanUnknown}

// Start sends the call. The path is the name of the client's method.
func (cl *client) Start(b *rpc.Batch, c *rpc.Call) {
	if len(c.Path) == 0 || c.Get {
		c.Finish(b, rpc.Value{}, &rpc.Error{Code: rpc.CodeInvalidParams, Message: "a method of the client must be named", Ran: rpc.RanNo})
		return
	}
	c.Own()
	o := &outgoing{client: cl, call: c}
	cl.mu.Lock()
	if cl.closed {
		cl.mu.Unlock()
		c.Finish(b, rpc.Value{}, &rpc.Error{Code: rpc.CodeUnavailable, Message: errClientGone.Message, Ran: rpc.RanNo})
		return
	}
	cl.last++
	o.id = strconv.AppendQuote(nil, "hub-"+strconv.FormatUint(cl.last, 10))
	if cl.calls == nil {
		cl.calls = make(map[string]*outgoing)
	}
	cl.calls[string(o.id)] = o
	if c.Input != nil {
		o.input = &outStream{conn: cl.conn, id: o.id, mean: 256}
	}
	cl.mu.Unlock()
	if err := o.send(b); err != nil {
		cl.take(o.id)
		c.Finish(b, rpc.Value{}, err)
		return
	}
	c.OnCancel(o.cancelled)
	if s := o.input; s != nil {
		s.attach(c.Input)
	}
}

// send queues the rpc_request.
func (o *outgoing) send(b *rpc.Batch) (fault error) {
	c := o.call
	opts := frame.RequestOptions{Stream: !c.Unary, Trace: c.Trace, Hops: c.Hops}
	if at, ok := c.Deadline(); ok {
		opts.Timeout = max(time.Until(at), time.Millisecond).Seconds()
	}
	cn, n := o.client.conn, 0
	err := cn.out.Append(b, func(dst []byte) []byte {
		from := len(dst)
		if dst, fault = frame.AppendRequest(dst, o.id, pathName(c.Path), paramsOf(&c.Args), opts); fault != nil {
			return dst
		}
		if n = len(dst) - from; n-1 > frame.MaxLine {
			fault = &rpc.Error{Code: rpc.CodeTooLarge, Message: "the arguments are too large", Ran: rpc.RanNo}
			return dst[:from]
		}
		return dst
	})
	if fault == nil && err != nil {
		fault = errClientGone
	}
	if fault == nil {
		cn.sent(b, frame.Request, n)
	}
	return fault
}

func pathName(path []rpc.PathPart) string {
	if len(path) == 1 && !path[0].IsIndex {
		return path[0].Name
	}
	parts := make([]string, len(path))
	for i, p := range path {
		if parts[i] = p.Name; p.IsIndex {
			parts[i] = strconv.Itoa(p.Index)
		}
	}
	return strings.Join(parts, ".")
}

// paramsOf is the params member for arguments in any form: positional ones
// are an array, unless they are none.
func paramsOf(a *rpc.Args) rpc.Value {
	if whole, ok := a.Whole(); ok {
		return whole
	}
	var list []rpc.Value
	for v := range a.List() {
		list = append(list, v)
	}
	if len(list) > 0 {
		return rpc.Array(list)
	}
	m := &rpc.Map{}
	for name, v := range a.ByName() {
		m.Set(name, v)
	}
	return rpc.TreeValue(m)
}

// take removes a call; nil when it is not there any more.
func (cl *client) take(id []byte) *outgoing {
	cl.mu.Lock()
	o := cl.calls[string(id)]
	delete(cl.calls, string(id))
	cl.mu.Unlock()
	if o != nil && o.input != nil {
		o.input.drop()
	}
	return o
}

func (cl *client) get(id []byte) *outgoing {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.calls[string(id)]
}

// sending returns the stream that goes to the call's method, nil if there is none.
func (cl *client) sending(id []byte) *outStream {
	if o := cl.get(id); o != nil {
		return o.input
	}
	return nil
}

// reply handles an rpc_reply of the peer; late and foreign ones are dropped.
func (cl *client) reply(b *rpc.Batch, id []byte, f *frame.Frame) {
	o := cl.take(id)
	if o == nil {
		return
	}
	e := errorOf(f, pathName(o.call.Path))
	switch {
	case o.sink != nil:
		o.sink.End(b, e)
	case e != nil:
		o.call.Finish(b, rpc.Value{}, e)
	case f.Result.IsUndefined():
		o.call.Finish(b, rpc.Null, nil)
	default:
		o.call.Finish(b, f.Result, nil)
	}
}

// item handles an rpc_chunk or rpc_end of the peer and reports whether it
// belongs to a call of the hub.
func (cl *client) item(b *rpc.Batch, id []byte, f *frame.Frame) bool {
	o := cl.get(id)
	if o == nil {
		return false
	}
	if f.Action == frame.Chunk {
		if o.sink == nil {
			o.sink = o.call.Open(b, o)
		}
		o.sink.Item(b, itemOf(f))
	}
	return true
}

// Grant lets the peer send n more items of its answer.
func (o *outgoing) Grant(n int) {
	o.client.conn.send(nil, frame.Credit, func(dst []byte) []byte { return frame.AppendCredit(dst, o.id, n) })
}

// Stop ends the streamed answer: the peer is told, and nothing more is heard of it.
func (o *outgoing) Stop(*rpc.Error) { o.cancelled(nil) }

// cancelled tells the peer that its answer is no longer wanted.
func (o *outgoing) cancelled(*rpc.Error) {
	if o.client.take(o.id) != nil {
		o.client.conn.send(nil, frame.Cancel, func(dst []byte) []byte { return frame.AppendCancel(dst, o.id) })
	}
}

// close fails every running call: the connection is over.
func (cl *client) close() {
	cl.mu.Lock()
	list := cl.calls
	cl.calls, cl.closed = nil, true
	cl.mu.Unlock()
	for _, o := range list {
		if o.input != nil {
			o.input.drop()
		}
		if o.sink != nil {
			o.sink.End(nil, errClientGone)
		} else {
			o.call.Finish(nil, rpc.Value{}, errClientGone)
		}
	}
}

// attach begins to send a stream that came with a call.
func (s *outStream) attach(in rpc.Readable) {
	src := in.Attach(s)
	s.mu.Lock()
	s.src = src
	n := s.refillLocked()
	s.mu.Unlock()
	s.after(n, nil)
}
