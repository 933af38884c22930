package capnweb

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/ws"
)

// DefaultPing is how often an idle peer is asked whether it is there.
const DefaultPing = 30 * time.Second

// Close codes, and what bounds a connection.
const (
	closeAborted  = 3000
	closeTooBig   = 1009
	closeGoing    = 1001
	lingerTime    = 2 * time.Second // for the peer to take the last message
	keepBuffer    = 1 << 20         // a larger read buffer is not kept
	maxCloseBytes = 123
)

// socket is the net.Conn below coder/websocket. The library does the
// handshake, control frames, fragments and whatever is large; of a server's
// connection simple text frames are taken out before they reach it. What is sent
// goes into the outbox directly, so that the answers to what was read together
// leave in one write.
//
// Only the session's reader reads, and before it waits it flushes its batch.
type socket struct {
	net.Conn
	rest    []byte  // read before the upgrade
	frames  *frames // nil: the library takes all that is read
	session *Session
	low     *lowWater // may be nil
	batch   *rpc.Batch
	share   *rpc.Share // of the memory of unfinished messages; may be nil
	mask    bool       // we are the client
	ping    time.Duration

	mu     sync.Mutex
	out    *rpc.Outbox // nil during the client's handshake
	closed bool        // a close frame was queued: nothing may follow
}

var _ transport = (*socket)(nil)

// Read returns what the library has to see.
func (c *socket) Read(p []byte) (int, error) {
	if c.frames == nil {
		return c.fill(p)
	}
	n, err := c.frames.Read(p)
	if err == ErrTooBig {
		c.session.link.Rejected(LimitMessage)
		c.close(closeTooBig, "message is too long")
		c.drain()
	}
	return n, err
}

// drain takes what is on its way of a message that was refused, unless it is
// out of all proportion. A peer that is still sending it would not see the close
// frame otherwise: closing with unread input resets the connection.
func (c *socket) drain() {
	if rest := c.frames.left; rest > 0 && rest <= 2*c.frames.limit {
		_, _ = io.CopyN(io.Discard, c.Conn, rest) // close has set a deadline
	}
}

// fill flushes what the reader has caused, then reads.
func (c *socket) fill(p []byte) (n int, err error) {
	if len(c.rest) > 0 {
		n = copy(p, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	if c.batch == nil {
		return c.Conn.Read(p)
	}
	c.batch.Flush()
	if c.session != nil {
		c.low.wait(c.session.unreleased())
	}
	n, err = c.Conn.Read(p)
	c.batch.Begin()
	return n, err
}

// Write takes the control frames of the library, each whole.
func (c *socket) Write(p []byte) (int, error) {
	c.mu.Lock()
	out, closed := c.out, c.closed
	if len(p) > 0 && p[0]&0x0f == ws.OpClose {
		c.closed = true
	}
	c.mu.Unlock()
	switch {
	case out == nil:
		return c.Conn.Write(p)
	case closed:
		return len(p), nil
	}
	if err := out.Append(nil, func(dst []byte) []byte { return append(dst, p...) }); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close is for the library, which calls it as soon as it has answered a close
// frame: the answer may still wait behind other frames. run closes the outbox,
// and that the connection.
func (c *socket) Close() error {
	c.mu.Lock()
	open := c.out != nil
	c.mu.Unlock()
	if open {
		return nil
	}
	return c.Conn.Close()
}

func (c *socket) send(b *rpc.Batch, msg []byte) error {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return rpc.ErrOutboxClosed
	}
	return c.out.Append(b, func(dst []byte) []byte { return ws.AppendFrame(dst, ws.OpText, msg, c.mask) })
}

func (c *socket) abort(msg []byte, reason string) {
	if msg != nil {
		_ = c.send(new(rpc.Batch), msg)
	}
	c.close(closeAborted, reason)
}

// close sends a close frame. The reader goes on for a moment: closing with
// unread input would reset the connection before the peer has read the frame.
func (c *socket) close(code uint16, reason string) {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed || c.out == nil {
		return
	}
	body := binary.BigEndian.AppendUint16(nil, code)
	body = append(body, rpc.CutText(reason, maxCloseBytes)...)
	_ = c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
	_ = c.out.Append(nil, func(dst []byte) []byte { return ws.AppendFrame(dst, ws.OpClose, body, c.mask) })
}

// hijacker hands the connection of an upgraded request to the library through a socket.
type hijacker struct {
	http.ResponseWriter
	limit int
	sock  *socket
	wire  rpc.Wire
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if err := nc.SetDeadline(time.Time{}); err != nil {
		nc.Close()
		return nil, nil, err
	}
	rest, _ := brw.Reader.Peek(brw.Reader.Buffered())
	h.sock = &socket{Conn: nc, share: rpc.ShareOf(nc), rest: append([]byte(nil), rest...), low: newLowWater(nc)}
	h.sock.frames = &frames{limit: int64(h.limit), share: h.sock.share, fill: h.sock.fill, text: h.sock.text}
	h.wire = ws.WireOf(nc)
	return h.sock, bufio.NewReadWriter(bufio.NewReaderSize(h.sock, 256), bufio.NewWriterSize(h.sock, 256)), nil
}

// run reads messages until the connection ends and gives everything back that
// the session held. It returns nil after a regular end.
func (c *socket) run(conn *websocket.Conn, s *Session, drain time.Duration) error {
	stop := c.keepAlive(conn)
	err := c.readAll(conn, s)
	stop()
	c.low.stop()
	c.batch.Flush()
	cause := rpc.ErrPeerGone
	if s.Ended() == nil && ws.Goodbye(err) {
		s.link.Goodbye()
	}
	s.End(cause)
	s.link.Close(cause, drain)
	c.out.Close(lingerTime)
	_ = conn.CloseNow()
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || s.Ended() != cause {
		return nil
	}
	if ws.Goodbye(err) || websocket.CloseStatus(err) == closeAborted {
		return nil
	}
	return err
}

// text takes a simple text message. The library is just reading, so this is the
// session's reader.
func (c *socket) text(msg []byte) { _ = c.session.Receive(c.batch, msg) }

func (c *socket) readAll(conn *websocket.Conn, s *Session) error {
	var buf []byte
	for {
		kind, r, err := conn.Reader(context.Background())
		if err != nil {
			return err
		}
		if buf, err = c.share.ReadMessage(buf[:0], r, s.limits.MaxMessage); err != nil {
			if errors.Is(err, websocket.ErrMessageTooBig) {
				s.link.Rejected(LimitMessage)
			}
			return err
		}
		if kind != websocket.MessageText {
			s.Abort("TypeError", "binary messages are not part of the protocol")
			continue
		}
		_ = s.Receive(c.batch, buf) // after the end it takes nothing any more
		if cap(buf) > keepBuffer {
			buf = nil
		}
	}
}

// keepAlive pings the peer and closes the connection when it does not answer.
// There is a timer, not a goroutine, while nothing is due.
func (c *socket) keepAlive(conn *websocket.Conn) (stop func()) {
	var mu sync.Mutex
	stopped := false
	ctx, cancel := context.WithCancel(context.Background())
	var t *time.Timer
	t = time.AfterFunc(c.ping, func() {
		limit, done := context.WithTimeout(ctx, 2*c.ping)
		err := conn.Ping(limit)
		silent := limit.Err() == context.DeadlineExceeded
		done()
		mu.Lock()
		defer mu.Unlock()
		switch {
		case stopped:
		case err != nil:
			if silent {
				c.session.link.Rejected(LimitPing)
			}
			_ = c.Conn.Close()
		default:
			t.Reset(c.ping)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		t.Stop()
		cancel()
	}
}
