package ws

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Codes of close frames.
const (
	CloseNormal = 1000
	CloseGoing  = 1001
	CloseTooBig = 1009
)

const (
	lingerTime    = 2 * time.Second // for the peer to take the last message
	maxCloseBytes = 123
)

// ErrTooBig is what reading ends with after a message over the limit was announced.
var ErrTooBig = errors.New("announced message is too long")

// Conn is one WebSocket connection, and the net.Conn below the library that
// reads it. Read is for one goroutine; everything else may be called by many.
//
// Only the reader reads the socket, and before it waits it flushes its batch.
type Conn struct {
	net.Conn
	ws    *websocket.Conn
	rest  []byte     // read before the upgrade
	watch frameWatch // refuses announced lengths; nothing when its limit is 0
	batch rpc.Batch
	wire  rpc.Wire
	share *rpc.Share // of the memory of unfinished messages; may be nil
	mask  bool       // we are the client
	limit int        // of a message that comes

	mu     sync.Mutex
	out    *rpc.Outbox // nil during the handshake
	closed bool        // a close frame was queued: nothing may follow
}

// Batch is what the reader's own goroutine queues messages with: it is flushed
// before the reader waits.
func (c *Conn) Batch() *rpc.Batch { return &c.batch }

// Out returns the outbox that messages go through.
func (c *Conn) Out() *rpc.Outbox { return c.out }

// Next returns the next message, which may be text or binary, in buf or what
// it was grown to.
func (c *Conn) Next(buf []byte) ([]byte, error) {
	_, r, err := c.ws.Reader(context.Background())
	if err != nil {
		return buf, err
	}
	return c.share.ReadMessage(buf[:0], r, c.limit)
}

// Send queues one text message, which is copied.
func (c *Conn) Send(b *rpc.Batch, msg []byte) error {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return rpc.ErrOutboxClosed
	}
	return c.out.Append(b, func(dst []byte) []byte { return AppendFrame(dst, OpText, msg, c.mask) })
}

// Hangup sends a close frame. The reader goes on for a moment: closing with
// unread input would reset the connection before the peer has read the frame.
func (c *Conn) Hangup(code uint16, reason string) {
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
	_ = c.out.Append(nil, func(dst []byte) []byte { return AppendFrame(dst, OpClose, body, c.mask) })
}

// End sends what is queued and closes the connection. It comes after the last Next.
func (c *Conn) End() {
	c.out.Close(lingerTime)
	_ = c.ws.CloseNow()
}

// Regular reports whether err, from Next, is how a peer leaves that does
// nothing wrong: with a close frame or by closing the connection.
func Regular(err error) bool {
	return Goodbye(err) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)
}

// Goodbye reports whether err, from reading a WebSocket, is a close frame by
// which the peer says that it leaves: one closes it, or its page.
func Goodbye(err error) bool {
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
		return true
	}
	return false
}

// Read flushes what the reader has caused, then reads the socket. It is for
// the library.
func (c *Conn) Read(p []byte) (n int, err error) {
	if len(c.rest) > 0 {
		n = copy(p, c.rest)
		c.rest = c.rest[n:]
	} else {
		c.batch.Flush()
		n, err = c.Conn.Read(p)
		c.batch.Begin()
	}
	if c.watch.limit > 0 && !c.watch.feed(p[:n]) {
		c.Hangup(CloseTooBig, "message is too long")
		c.drain()
		return 0, ErrTooBig
	}
	return n, err
}

// drain takes what is on its way of a frame that was refused, unless it is out
// of all proportion. A peer that is still sending it would not see the close
// frame otherwise: closing with unread input resets the connection.
func (c *Conn) drain() {
	if rest := c.watch.skip; rest > 0 && rest <= 2*c.watch.limit {
		_, _ = io.CopyN(io.Discard, c.Conn, rest) // Hangup has set a deadline
	}
}

// Write takes the control frames of the library, each whole.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	out, closed := c.out, c.closed
	if len(p) > 0 && p[0]&0x0f == OpClose {
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
// frame: the answer may still wait behind other frames. End closes.
func (c *Conn) Close() error {
	c.mu.Lock()
	open := c.out != nil
	c.mu.Unlock()
	if open {
		return nil
	}
	return c.Conn.Close()
}

// Cut closes the connection at once.
func (c *Conn) Cut() { _ = c.Conn.Close() }
