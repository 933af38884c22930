package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

const (
	// window is how many items the hub may send ahead of the reader.
	window = 64
	// early bounds the bytes of items that are sent before the hub has said how
	// many it takes: it bounds what nobody reads, and drops a call that sends more.
	early = 1 << 20
	// maxQueued bounds the bytes of items that wait for the reader. A hub that
	// heeds the window comes near it only with huge items, of which one always fits.
	maxQueued = 64 << 20
)

// Stream is a call whose result, or argument, is a stream, or both. Recv, Items
// and Result belong to one goroutine, Send and CloseSend to one, which may be
// another; Close may be called by any. A Stream must be read to its end or closed.
type Stream struct {
	conn   *conn
	id     uint64
	ctx    context.Context
	method string
	detach func() bool // undoes context.AfterFunc

	mu     sync.Mutex
	queue  []json.RawMessage
	head   int
	bytes  int    // of the queue
	next   uint64 // seq of the item that is due
	taken  int    // items read since the last credit was given
	ended  bool   // no item will be added
	err    *Error // why; nil for the regular end
	result []byte
	wake   chan struct{} // holds one; for Recv

	sent     uint64
	credit   int64         // granted, less sent
	credited bool          // the hub has granted some
	early    int           // bytes sent before it has
	open     chan struct{} // holds one; for Send
	closed   bool          // the sending side
}

// Open starts a call whose result is taken as a stream and whose stream
// argument, if it has one, is sent with Send. ctx bounds the whole stream.
func (c *Client) Open(ctx context.Context, method string, params any, opts ...CallOption) (*Stream, error) {
	v, err := encode(method, params)
	if err != nil {
		return nil, err
	}
	o := gather(opts)
	return c.open(ctx, method, v, o, c.repeats(o))
}

func (c *Client) open(ctx context.Context, method string, v rpc.Value, o callOptions, r *repeats) (*Stream, error) {
	for {
		cn, err := c.live(ctx)
		if err != nil {
			return nil, named(err, method)
		}
		request := o.request(ctx)
		request.Stream = true
		s, failed := cn.open(ctx, method, v, request)
		if failed == nil {
			return s, nil
		}
		if failed = r.again(ctx, failed); failed != nil {
			return nil, failed
		}
	}
}

// Stream calls a method and yields the items of its result as they come, then
// at most one error. Leaving the loop cancels the call. The hub is never more
// than a few dozen items ahead of the loop. A call that fails before the first
// item is repeated as those of Call are.
func (c *Client) Stream(ctx context.Context, method string, params any, opts ...CallOption) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		v, err := encode(method, params)
		if err != nil {
			yield(nil, err)
			return
		}
		o := gather(opts)
		first := true
		once := func(r *repeats) (repeat bool) {
			s, err := c.open(ctx, method, v, o, r)
			if err != nil {
				yield(nil, err)
				return false
			}
			for item, err := range s.Items() {
				if e, ok := errors.AsType[*Error](err); ok && first {
					if e = r.again(ctx, e); e == nil {
						return true
					}
					err = e
				}
				if first = false; !yield(item, err) {
					return false
				}
			}
			return false
		}
		for r := c.repeats(o); once(r); {
		}
	}
}

func (c *conn) open(ctx context.Context, method string, params rpc.Value, o frame.RequestOptions) (*Stream, *Error) {
	if err := c.out.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, ended(ctx, method, RetrySafe)
		}
		return nil, disconnected(readError(err), RetrySafe).of(method)
	}
	s := &Stream{
		conn: c, ctx: ctx, method: method, next: 1,
		wake: make(chan struct{}, 1), open: make(chan struct{}, 1),
	}
	id, err := c.register(&pending{stream: s})
	if err != nil {
		return nil, err.of(method)
	}
	s.id = id
	if err := c.send(id, method, params, o, window); err != nil {
		c.drop(id)
		return nil, err.of(method)
	}
	detach := context.AfterFunc(ctx, func() { s.abort(s.cut()) })
	s.mu.Lock()
	s.detach = detach
	over := s.ended
	s.mu.Unlock()
	if over {
		detach()
	}
	return s, nil
}

// cut makes the error of a stream whose context is over. A stream that has begun
// had its answer in time: it was the caller's time that was over.
func (s *Stream) cut() *Error {
	e := ended(s.ctx, s.method, RetryUnknown)
	s.mu.Lock()
	begun := s.next > 1 || s.sent > 0 || s.credited
	s.mu.Unlock()
	if begun && e.Kind == KindTimeout && e.Message == noAnswer {
		e.Message = "the stream was cut by the deadline of its caller"
	}
	return e
}

// item adds one item; the reader calls it.
func (s *Stream) item(b *rpc.Batch, seq uint64, v rpc.Value) {
	raw, ok := v.Raw()
	if !ok {
		raw = []byte("null")
	}
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	due := s.next
	s.next++
	full := s.bytes > 0 && s.bytes+len(raw) > maxQueued
	if seq == due && !full {
		s.queue = append(s.queue, append(json.RawMessage(nil), raw...))
		s.bytes += len(raw)
		s.mu.Unlock()
		signal(s.wake)
		return
	}
	s.mu.Unlock()
	if full {
		s.abort(&Error{Kind: KindTooLarge, Message: "more than 64 MiB of items wait to be read", Method: s.method, Retry: RetryUnknown})
	} else {
		s.abort(&Error{Kind: KindMalformed, Message: "an item of the stream is missing", Method: s.method, Retry: RetryUnknown})
	}
}

// end settles the stream; the reader calls it, or conn.close.
func (s *Stream) end(o outcome) {
	s.mu.Lock()
	s.finishLocked(o)
	s.mu.Unlock()
}

func (s *Stream) finishLocked(o outcome) {
	if s.ended {
		return
	}
	s.ended, s.result = true, o.result
	if o.err != nil {
		s.err = o.err.of(s.method)
	}
	if s.detach != nil {
		s.detach()
	}
	signal(s.wake)
	signal(s.open)
}

// abort ends the stream from this side.
func (s *Stream) abort(err *Error) {
	s.conn.abandon(s.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finishLocked(outcome{err: err})
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Recv returns the next item, or io.EOF after the last one, or why the stream
// broke off. Items that came before an error are returned first, but not those
// that came before the end of the context.
func (s *Stream) Recv() (json.RawMessage, error) {
	for {
		s.mu.Lock()
		if s.err != nil && s.ctx.Err() != nil {
			s.queue, s.head, s.bytes = nil, 0, 0
		}
		if s.head < len(s.queue) {
			item := s.queue[s.head]
			s.queue[s.head] = nil
			s.bytes -= len(item)
			if s.head++; s.head == len(s.queue) {
				s.queue, s.head = s.queue[:0], 0
			}
			grant := 0
			if s.taken++; s.taken >= window/2 && !s.ended {
				grant, s.taken = s.taken, 0
			}
			s.mu.Unlock()
			if grant > 0 {
				s.conn.out.Append(nil, func(dst []byte) []byte { return frame.AppendCredit(dst, appendID(nil, s.id), grant) })
			}
			return item, nil
		}
		ended, err := s.ended, s.err
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if ended {
			return nil, io.EOF
		}
		<-s.wake // the end of the context ends the stream, see open
	}
}

// Items yields the items, then at most one error. Leaving the loop closes the stream.
func (s *Stream) Items() iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		defer s.Close()
		for {
			item, err := s.Recv()
			if err == io.EOF {
				return
			}
			if !yield(item, err) || err != nil {
				return
			}
		}
	}
}

// Send sends one item of the caller's stream, encoded as encoding/json does; a
// json.RawMessage passes as it is. It waits while the hub wants no more. After
// the call has ended it returns io.EOF: Recv or Result has the reason.
func (s *Stream) Send(item any) error {
	v, err := encode(s.method, item)
	if err != nil {
		return err
	}
	if v.IsUndefined() {
		v = rpc.Null
	}
	for {
		s.mu.Lock()
		switch {
		case s.ended:
			s.mu.Unlock()
			return io.EOF
		case s.closed:
			s.mu.Unlock()
			return errSendClosed.of(s.method)
		}
		if s.credit > 0 || !s.credited && s.early < early {
			s.credit--
			if raw, _ := v.Raw(); !s.credited {
				s.early += len(raw)
			}
			s.sent++
			seq := s.sent
			s.mu.Unlock()
			return s.chunk(seq, v)
		}
		s.mu.Unlock()
		<-s.open
	}
}

var errSendClosed = &Error{Kind: KindInvalidParams, Message: "send after the end of the stream", Retry: RetrySafe}

func (s *Stream) chunk(seq uint64, v rpc.Value) error {
	if s.conn.out.Wait(s.ctx) != nil {
		return io.EOF
	}
	var failed *Error
	err := s.conn.out.Append(nil, func(dst []byte) []byte {
		out, err := frame.AppendChunk(dst, appendID(nil, s.id), seq, v)
		switch {
		case err != nil:
			failed = &Error{Kind: KindInvalidParams, Message: err.Error(), Method: s.method, Retry: RetryUnknown, cause: err}
		case len(out)-len(dst)-1 > frame.MaxLine:
			failed = &Error{Kind: KindTooLarge, Message: "the item is larger than 16 MiB", Method: s.method, Retry: RetryUnknown}
		default:
			return out
		}
		return dst
	})
	if failed != nil {
		s.abort(failed) // an item is missing now
		return failed
	}
	if err != nil {
		return io.EOF
	}
	return nil
}

// grant allows n more items to be sent. All grants together count from the
// first item on, also from those that were sent before the first grant.
func (s *Stream) grant(n uint64) {
	s.mu.Lock()
	s.credited = true
	s.credit += int64(min(n, 1<<31))
	s.mu.Unlock()
	signal(s.open)
}

// CloseSend says that no more items follow. A call without a stream argument needs none.
func (s *Stream) CloseSend() error {
	s.mu.Lock()
	if s.closed || s.ended {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.conn.out.Append(nil, func(dst []byte) []byte { return frame.AppendEnd(dst, appendID(nil, s.id), "") })
	return nil
}

// Result ends the caller's stream, drops the items that were not read, waits
// for the end of the call and stores its result in the value that result
// points to; nil drops it. Methods that yield a stream mostly have none: null.
func (s *Stream) Result(result any) error {
	defer s.Close()
	s.CloseSend()
	for {
		if _, err := s.Recv(); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
	}
	if result == nil {
		return nil
	}
	return decode(s.method, s.result, result)
}

// Close gives up the stream: the hub cancels the call if it still runs. Recv
// returns an error of KindCancelled then. Closing an ended stream does nothing.
func (s *Stream) Close() error {
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if !ended {
		s.abort(&Error{Kind: KindCancelled, Message: "the stream was closed", Method: s.method, Retry: RetryUnknown})
	}
	return nil
}
