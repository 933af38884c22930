package snekrpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

const (
	flushAbove = 256 << 10 // bytes of answers that may gather while one read is handled
	maxAhead   = 256 << 10 // bytes of commands that may wait for the one that runs
	goneCheck  = 500 * time.Millisecond
	lingerTick = 20 * time.Millisecond
)

// conn is one connection. Fields without a comment belong to the reader.
type conn struct {
	s      *Server
	conn   Conn
	link   *rpc.Link // never nil
	out    *rpc.Outbox
	egress *egress
	in     *reader
	batch  rpc.Batch

	dead    chan struct{} // closed when the connection is over
	working sync.WaitGroup
	sending atomic.Bool // the peer sends a stream, and may not read before its end

	mu       sync.Mutex
	codec    codec    // nil until a message told
	cur      *call    // whose answer or input is not complete; nil when the next command may run
	queue    [][]byte // messages that wait for cur
	ahead    int      // their bytes
	handling bool     // a goroutine handles messages
	over     bool     // no goroutine is started any more
	room     chan struct{}
}

func newConn(s *Server, c Conn) *conn {
	cn := &conn{s: s, conn: c, dead: make(chan struct{}), room: make(chan struct{}, 1)}
	cn.out = rpc.NewOutbox(c.Wire, s.cfg.SoftOutbox, s.cfg.HardOutbox)
	cn.egress = &egress{out: cn.out, soft: s.cfg.SoftOutbox, budget: s.cfg.HardOutbox, max: s.cfg.MaxFrame, chunked: c.Chunked, server: s.cfg.Version, header: c.Header}
	cn.link = rpc.NewLink(s.cfg.Gate)
	cn.link.Out, cn.link.Quota = cn.out, c.Quota
	cn.in = newReader(c.Reader, c.Chunked, s.cfg.MaxFrame)
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
	c.batch.Flush()
	if err == io.EOF {
		c.linger(ctx)
	}
	cause := rpc.ErrPeerGone
	if ctx.Err() != nil {
		cause, err = rpc.CauseOf(ctx), context.Cause(ctx)
	} else if e := c.out.Err(); e != nil {
		err = e
	}
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	close(c.dead)
	c.link.Close(cause, c.s.cfg.Drain)
	c.working.Wait()
	if c.in.done {
		c.egress.finish()
	}
	c.out.Close(c.s.cfg.Drain)
	if err == io.EOF {
		return nil
	}
	return err
}

// read handles messages until there are no more.
func (c *conn) read() error {
	queued := 0
	c.batch.Begin()
	for {
		fresh := !c.in.ready()
		if fresh || queued > flushAbove {
			c.batch.Flush()
			queued = 0
		}
		msg, err := c.in.next()
		if err != nil {
			if errors.Is(err, ErrTooLong) {
				c.failed(TooLong, err)
			}
			return err
		}
		if fresh {
			c.batch.Begin()
		}
		if o := c.s.cfg.Observer; o != nil {
			o.MessageIn(len(msg))
		}
		queued += int(c.egress.added.Swap(0))
		c.deliver(msg)
		if e := c.out.Err(); e != nil {
			return e
		}
	}
}

func (c *conn) failed(reason Reason, err error) {
	if o := c.s.cfg.Observer; o != nil {
		o.FailedFrame(reason, &c.conn, err)
	}
}

// deliver handles a message now, or keeps it for when the running call is over.
// Only the reader calls it. It waits while too much is kept.
func (c *conn) deliver(msg []byte) {
	c.mu.Lock()
	if !c.handling && len(c.queue) == 0 && !c.busyLocked() {
		c.handling = true
		c.mu.Unlock()
		c.handle(&c.batch, msg)
		c.next(&c.batch)
		return
	}
	c.queue = append(c.queue, append([]byte(nil), msg...))
	c.ahead += len(msg)
	over := c.ahead > maxAhead
	c.mu.Unlock()
	if !over {
		return
	}
	c.batch.Flush()
	for {
		c.mu.Lock()
		over = c.ahead > maxAhead
		c.mu.Unlock()
		if !over || !c.pause(c.room) {
			return
		}
	}
}

// pause waits for a wake-up. It reports false when the connection is over.
func (c *conn) pause(wake <-chan struct{}) bool {
	t := time.NewTimer(goneCheck)
	defer t.Stop()
	select {
	case <-wake:
	case <-c.dead:
		return false
	case <-t.C:
		if c.out.Err() != nil {
			return false
		}
		if c.conn.Gone != nil && c.conn.Gone() {
			c.out.Fail(rpc.ErrPeerGone) // the reader finds the wire closed
			c.link.Close(rpc.ErrPeerGone, 0)
			return false
		}
	}
	return c.out.Err() == nil
}

// busyLocked reports whether a message has to wait: one that is not part of the
// stream that belongs to the running call.
func (c *conn) busyLocked() bool {
	return c.cur != nil && !c.cur.input.open()
}

// next handles what was kept, as far as that is due, and gives the turn back.
func (c *conn) next(b *rpc.Batch) {
	for {
		c.mu.Lock()
		if len(c.queue) == 0 || c.busyLocked() {
			c.handling = false
			c.mu.Unlock()
			return
		}
		msg := c.queue[0]
		c.queue[0] = nil
		c.queue = c.queue[1:]
		c.ahead -= len(msg)
		c.mu.Unlock()
		signal(c.room)
		c.handle(b, msg)
	}
}

// settled takes a call whose answer and input are complete out of the way.
func (c *conn) settledLocked(k *call) {
	if c.cur != k || !k.answered || k.input.open() {
		return
	}
	c.cur = nil
	if c.handling || c.over || len(c.queue) == 0 {
		return
	}
	c.handling = true
	c.working.Go(func() { // ends when nothing is due
		b := new(rpc.Batch)
		b.Begin()
		c.next(b)
		b.Flush()
	})
}

// signal wakes the one who waits, now or later.
func signal(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// handle handles one message that is due.
func (c *conn) handle(b *rpc.Batch, msg []byte) {
	if len(msg) == 1 && msg[0] == handshake {
		name := c.s.codec.name()
		_ = c.egress.raw(b, func(dst []byte) []byte { return append(append(dst, handshake), name...) })
		return
	}
	c.mu.Lock()
	k, cd := c.cur, c.codec
	if cd == nil {
		if cd = detectCodec(msg[0]); cd != nil {
			c.codec = cd
		} else {
			cd = c.s.codec // for this answer only: the next message may tell
		}
	}
	c.mu.Unlock()
	if k != nil {
		k.item(b, cd, msg)
		return
	}
	var m message
	if err := cd.decode(msg, &m); err != nil {
		c.complain(b, cd, err)
		return
	}
	if m.kind != commandMsg {
		c.failed(OutOfOrder, nil)
		e := unexpected(m.kind, "a command")
		c.say(b, cd, e.name, e.text)
		return
	}
	c.command(b, cd, &m)
}

// complain answers a message that cannot be read.
func (c *conn) complain(b *rpc.Batch, cd codec, err error) {
	c.failed(Malformed, err)
	e, ok := errors.AsType[*wireError](err)
	if !ok {
		e = &wireError{name: nameDecode, text: "malformed message"}
	}
	c.say(b, cd, e.name, e.text)
}

// say sends an error message.
func (c *conn) say(b *rpc.Batch, cd codec, name, text string) {
	n, err := c.egress.send(b, c.sending.Load(), true, func(dst []byte) ([]byte, error) {
		return appendError(dst, cd, name, text), nil
	})
	if err == nil {
		c.sent(n)
	}
}

func (c *conn) sent(n int) {
	if o := c.s.cfg.Observer; o != nil {
		o.MessageOut(n)
	}
}

// expect notes whether the peer sends a stream.
func (c *conn) expect(on bool) {
	if c.sending.Swap(on) != on && c.conn.Patience != nil {
		c.conn.Patience(on)
	}
}

// linger waits, after the peer has said that no more commands come, until those
// that came are answered, or nobody is there to read the answers.
func (c *conn) linger(ctx context.Context) {
	if c.idle() || c.conn.Gone == nil {
		return
	}
	// Nothing tells when a socket whose end was already read is closed for good.
	tick := time.NewTicker(lingerTick)
	defer tick.Stop()
	limit := c.conn.HalfClose
	if limit <= 0 || c.in.done { // the final chunk says that only the commands have ended
		limit = rpc.MaxDeadline
	}
	last := time.NewTimer(limit)
	defer last.Stop()
	for !c.idle() && !c.conn.Gone() && c.out.Err() == nil {
		select {
		case <-tick.C:
		case <-last.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// idle reports whether every command is answered and every answer on its way.
// A stream whose end cannot come any more is not waited for.
func (c *conn) idle() bool {
	c.mu.Lock()
	busy := c.handling || c.cur != nil && !c.cur.input.open() || c.cur == nil && len(c.queue) > 0
	c.mu.Unlock()
	return !busy && !c.egress.crowded()
}
