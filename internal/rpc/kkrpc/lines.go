package kkrpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// Conn is one accepted byte stream, as the hub hands it over: messages are
// lines.
type Conn struct {
	Admission
	Reader io.Reader // of what the peer sends
	Wire   rpc.Wire  // to the peer; Serve closes it

	// Gone reports whether the peer has closed its whole side, once the end of
	// its stream was read. While it has not (it has only said that no more
	// requests come), running calls are still answered. nil: it has.
	Gone func() bool
}

// stream is a connection over a byte stream. What it sends is ASCII: old
// JavaScript peers decode each chunk for itself and break characters in two,
// Python may read in the encoding of its locale.
type stream struct {
	out   *rpc.Outbox
	lines *frame.LineReader
	batch rpc.Batch
}

func (c *stream) send(b *rpc.Batch, _ Dialect, msg []byte) error {
	return c.out.Append(b, func(dst []byte) []byte { return append(append(dst, msg...), '\n') })
}

// skipTime is how long the rest of a line over the limit may take to arrive.
const skipTime = 10 * time.Second

// Serve serves one connection until it is over: the peer has left, the wire
// failed, or ctx has ended. When it returns, everything that the connection
// held is free and the wire is closed.
func (sv *Server) Serve(ctx context.Context, conn Conn) error {
	if conn.OnEnd != nil {
		defer conn.OnEnd()
	}
	c := &stream{
		out:   rpc.NewOutbox(conn.Wire, sv.conf.SoftOutbox, sv.conf.HardOutbox),
		lines: frame.NewLineReader(conn.Reader, sv.conf.Limits.MaxMessage),
	}
	s := sv.open(c, c.out, conn.Admission, Wants{}, true)
	err := c.run(ctx, s, conn.Gone, sv.conf.Drain)
	sv.over(s, err)
	return err
}

// run reads lines until the connection ends and gives everything back that the
// session held. It returns nil after a regular end.
func (c *stream) run(ctx context.Context, s *Session, gone func() bool, drain time.Duration) error {
	stop := context.AfterFunc(ctx, func() { // the reader goes on until the wire is closed
		s.link.Close(rpc.CauseOf(ctx), 0) // which answers what the peer waits for
		c.out.Close(drain)
	})
	defer stop()
	err := c.read(s)
	c.batch.Flush()
	if err == io.EOF {
		c.linger(ctx, s, gone)
	}
	cause := rpc.ErrPeerGone
	if ctx.Err() != nil {
		cause, err = rpc.CauseOf(ctx), context.Cause(ctx)
	} else if e := c.out.Err(); e != nil {
		err = e
	}
	c.lines.Release()
	s.link.Close(cause, 0)
	s.End(cause)
	s.link.Close(cause, drain)
	c.out.Close(drain)
	if err == io.EOF || err == errDestroyed {
		return nil
	}
	return err
}

var errDestroyed = errors.New("the peer asked to close the connection")

// read handles lines until there are no more.
func (c *stream) read(s *Session) error {
	fresh := true // the next line is the first of a read
	for {
		if !c.lines.Ready() {
			c.batch.Flush()
			fresh = true
		}
		line, err := c.lines.Next()
		if fresh {
			c.batch.Begin()
			fresh = false
		}
		if err != nil {
			long, ok := errors.AsType[*frame.TooLongError](err)
			if !ok {
				return err
			}
			if err := c.tooLong(s, long); err != nil {
				return err
			}
			continue
		}
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0: // a blank line is nothing
		case bytes.HasPrefix(line, []byte(destroySignal)):
			return errDestroyed
		default:
			s.Receive(&c.batch, line)
		}
	}
}

// tooLong answers a line over the limit, if it began like a request, and looks
// for its end. An error means that it did not come.
func (c *stream) tooLong(s *Session, e *frame.TooLongError) error {
	s.ignored(badLength)
	if d, id, ok := findRequest(e.Head); ok {
		fail := &rpc.Error{Code: rpc.CodeTooLarge, Message: e.Error(), Ran: rpc.RanNo}
		_ = s.send(&c.batch, d, appendFailure(nil, d, id, fail, s.textErrors.Load(), s.form))
	}
	c.batch.Flush()
	patience := time.AfterFunc(skipTime, func() { c.out.Fail(e) })
	defer patience.Stop()
	found, err := c.lines.Skip()
	if err == nil && !found {
		err = e
	}
	return err
}

// findRequest looks for the id of a request in the first bytes of a line.
func findRequest(head []byte) (d Dialect, id rpc.Value, ok bool) {
	head = bytes.ReplaceAll(head, []byte(`": "`), []byte(`":"`)) // Python's way
	_, rest, found := bytes.Cut(head, []byte(`"id":`))
	if !found {
		return 0, id, false
	}
	n, t, err := rpc.Scan(rest)
	if err != nil || n > maxID || rest[0] != '"' {
		return 0, id, false
	}
	switch id = rpc.RawValue(rest[:n], t); {
	case bytes.Contains(head, []byte(`"t":"q"`)):
		return Compact, id, true
	case bytes.Contains(head, []byte(`"method":"`)) && !bytes.Contains(head, []byte(`"method":""`)):
		return Classic, id, true
	}
	return 0, id, false
}

// linger waits, after the peer has said that no more requests come, until the
// running calls are answered, or nobody is there to read the answers.
func (c *stream) linger(ctx context.Context, s *Session, gone func() bool) {
	if s.link.N() == 0 || gone == nil {
		return
	}
	// Nothing tells when a socket whose end was already read is closed for good.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := time.After(rpc.MaxDeadline) // a peer over TCP may be gone without a trace
	for s.link.N() > 0 && !gone() && c.out.Err() == nil {
		select {
		case <-tick.C:
		case <-last:
			return
		case <-ctx.Done():
			return
		}
	}
}
