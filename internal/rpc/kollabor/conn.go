package kollabor

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// flushAbove is how many bytes of replies may gather while one read is handled.
const flushAbove = 256 << 10

// skipTime is how long the rest of a line over the limit may take to arrive.
const skipTime = 10 * time.Second

// maxID is how many bytes a request id may have as JSON text.
const maxID = 256

// conn is one connection. Fields without a comment belong to the reader.
type conn struct {
	s     *Server
	conn  Conn
	link  *rpc.Link   // never nil
	out   *rpc.Outbox // never nil
	lines *frame.LineReader
	batch rpc.Batch
	frame frame.Frame
	peer  *rpc.Peer // replaced when the peer authenticates

	modern atomic.Bool // the peer said hello: it knows all that this package adds
	client *client     // the peer's own methods; made by the first call that may need them

	queued   int         // bytes of replies since the last flush, about
	attached *attachment // nil in the command phase
	done     bool        // the peer wants to leave
	named    bool        // a hello gave an identity
	fresh    []*call     // streamed calls of this read, whose credit may follow in the same read

	// streams are the peer's streamed answers by request id. One may outlive
	// its call: its last items wait for credit.
	streaming atomic.Int32 // how many there are
	mu        sync.Mutex
	streams   map[string]*outStream
}

func newConn(s *Server, c Conn) *conn {
	cn := &conn{s: s, conn: c, peer: c.Peer}
	cn.out = rpc.NewOutbox(c.Wire, s.cfg.Outbox.Soft, s.cfg.Outbox.Hard)
	cn.link = rpc.NewLink(s.cfg.Gate)
	cn.link.Out, cn.link.Quota = cn.out, c.Quota
	cn.lines = frame.NewLineReader(c.Reader, s.cfg.MaxLine)
	cn.client = &client{conn: cn}
	return cn
}

// serve is the life of the connection, in order.
func (c *conn) serve(ctx context.Context) error {
	if c.conn.OnLink != nil {
		c.conn.OnLink(c.link)
	}
	stop := context.AfterFunc(ctx, func() { // the reader goes on until the wire is closed
		c.link.Close(rpc.CauseOf(ctx), c.s.cfg.Drain)
		c.out.Close(c.s.cfg.Drain)
	})
	defer stop()

	err := c.read()
	c.release()
	c.batch.Flush()
	if err == io.EOF && c.attached == nil && !c.done {
		c.linger(ctx)
	}
	cause := rpc.ErrPeerGone
	if ctx.Err() != nil {
		cause, err = rpc.CauseOf(ctx), context.Cause(ctx)
	} else if e := c.out.Err(); e != nil {
		err = e
	}
	c.lines.Release()
	if c.attached != nil {
		c.attached.end()
	}
	c.client.close()
	c.link.Close(cause, c.s.cfg.Drain)
	c.dropStreams()
	c.out.Close(c.s.cfg.Drain)
	if err == io.EOF || c.done {
		return nil
	}
	return err
}

// read handles lines until there are no more.
func (c *conn) read() error {
	fresh := true // the next line is the first of a read
	for {
		if !c.lines.Ready() {
			c.release()
			c.flush()
			fresh = true
		}
		line, err := c.lines.Next()
		if fresh {
			c.batch.Begin()
			fresh = false
		}
		if err != nil {
			if long, ok := errors.AsType[*frame.TooLongError](err); ok {
				return c.tooLong(long)
			}
			return err
		}
		c.line(line)
		if c.done {
			return nil
		}
		if c.queued > flushAbove {
			c.flush()
		}
	}
}

func (c *conn) flush() {
	c.batch.Flush()
	c.queued = 0
}

// line handles one line.
func (c *conn) line(line []byte) {
	f := &c.frame
	if err := frame.Parse(line, f); err != nil {
		if rpc.SkipSpace(line, 0) < len(line) { // blank lines are nothing
			e, _ := errors.AsType[*frame.Error](err)
			c.refuse(line, e)
		}
		return
	}
	switch f.Action {
	case frame.Request:
		c.in(frame.Request, line)
		c.request()
	case frame.Cancel, frame.Credit, frame.Chunk, frame.End, frame.Reply:
		c.in(f.Action, line)
		c.route()
	default:
		if c.attached != nil {
			c.attached.control(line)
		} else {
			c.control(line)
		}
	}
}

// route handles the frames of a call that has begun.
func (c *conn) route() {
	f := &c.frame
	id := f.ID()
	if id == nil {
		c.complain(&frame.Error{Reason: frame.NoRequestID, Text: f.Action + " without request_id"})
		return
	}
	switch f.Action {
	case frame.Cancel:
		if r := c.link.Find(id); r != nil {
			r.Cancel(rpc.ErrCancelled)
		} else if s := c.stream(id); s != nil {
			s.cancel(&c.batch)
		}
	case frame.Credit:
		c.credit(id, f.N)
	case frame.Chunk, frame.End:
		if !c.client.item(&c.batch, id, f) {
			c.item(id, f)
		}
	case frame.Reply:
		c.client.reply(&c.batch, id, f)
	}
}

// refuse answers a line that is no frame, with at most one frame.
func (c *conn) refuse(line []byte, e *frame.Error) {
	c.failed(e)
	f := &c.frame
	id := echoable(f.RequestID)
	call := f.Action == frame.Request
	if id == nil && !call {
		if id = frame.FindID(line[:min(len(line), frame.IDWindow)]); id != nil {
			call = broken(e.Reason)
		}
	} else if id != nil && broken(e.Reason) {
		call = true
	}
	switch {
	case call:
		c.refuseCall(id, &rpc.Error{Code: rpc.CodeInvalidParams, Message: e.Error(), Ran: rpc.RanNo})
	case c.attached == nil:
		c.sendError(id, e.Error())
	}
}

// broken reports whether the rest of a line could not be read, so that nobody
// knows whether it was a call.
func broken(r frame.Reason) bool {
	return r == frame.BadJSON || r == frame.BadUTF8 || r == frame.OverLimit
}

// complain answers a frame that makes no sense and is no call.
func (c *conn) complain(e *frame.Error) {
	c.failed(e)
	if c.attached == nil {
		c.sendError(echoable(c.frame.RequestID), e.Text)
	}
}

// tooLong ends the connection after a line over the limit. What is left of the
// line is read, up to a limit, or the peer would not get to read why.
func (c *conn) tooLong(e *frame.TooLongError) error {
	c.failed(&frame.Error{Reason: frame.TooLong, Text: e.Error()})
	if id := frame.FindID(e.Head); id != nil && len(id) <= maxID {
		c.refuseCall(id, &rpc.Error{Code: rpc.CodeTooLarge, Message: e.Error(), Ran: rpc.RanNo})
	} else if c.attached == nil {
		c.sendError(nil, e.Error())
	}
	c.flush()
	patience := time.AfterFunc(skipTime, func() { c.out.Fail(e) })
	defer patience.Stop()
	if _, err := c.lines.Skip(); err != nil && err != io.EOF {
		return err
	}
	return e
}

// echoable returns the JSON text of a request id if it can be sent back.
func echoable(id rpc.Value) []byte {
	raw, _ := id.Raw()
	if raw == nil || len(raw) > frame.IDWindow || id.Traits().Has(rpc.HasNonFinite|rpc.HasSurrogate) {
		return nil
	}
	return raw
}

// refuseCall sends an error reply for a call that was never started.
func (c *conn) refuseCall(id []byte, e *rpc.Error) {
	c.sendFailure(&c.batch, id, failure(e, nil, c.modern.Load()))
}

func (c *conn) sendFailure(b *rpc.Batch, id []byte, f frame.Failure) {
	c.send(b, frame.Reply, func(dst []byte) []byte { return frame.AppendFailure(dst, id, f) })
}

// sendError sends the answer to a line that is no call.
func (c *conn) sendError(id []byte, msg string) { c.sendErrorOf(id, "", msg) }

// sendErrorOf is sendError with an error_kind, for peers that know it.
func (c *conn) sendErrorOf(id []byte, kind, msg string) {
	c.send(&c.batch, "error", func(dst []byte) []byte {
		return frame.AppendError(dst, id, kind, rpc.CleanText(msg, rpc.MaxErrorMessage))
	})
}

// send queues one frame. With the reader's batch it leaves when the read is
// handled, with nil at once.
func (c *conn) send(b *rpc.Batch, action string, f func([]byte) []byte) {
	n := 0
	err := c.out.Append(b, func(dst []byte) []byte {
		from := len(dst)
		dst = f(dst)
		n = len(dst) - from
		return dst
	})
	if err == nil {
		c.sent(b, action, n)
	}
}

// sent counts a frame that was queued.
func (c *conn) sent(b *rpc.Batch, action string, n int) {
	if b == &c.batch { // only the reader has it
		c.queued += n
	}
	if o := c.s.cfg.Observer; o != nil {
		o.FrameOut(action, n)
	}
}

func (c *conn) in(action string, line []byte) {
	if o := c.s.cfg.Observer; o != nil {
		o.FrameIn(action, len(line)+1)
	}
}

func (c *conn) failed(e *frame.Error) {
	if o := c.s.cfg.Observer; o != nil {
		o.FailedFrame(e.Reason, &c.conn, e)
	}
}

// linger waits, after the peer has said that no more requests come, until the
// running calls are answered, or nobody is there to read the answers.
func (c *conn) linger(ctx context.Context) {
	if c.link.N() == 0 || c.conn.Gone == nil {
		return
	}
	// Nothing tells when a socket whose end was already read is closed for good.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := time.After(rpc.MaxDeadline) // a peer over TCP may be gone without a trace
	for c.link.N() > 0 && !c.conn.Gone() && c.out.Err() == nil {
		select {
		case <-tick.C:
		case <-last:
			return
		case <-ctx.Done():
			return
		}
	}
}
