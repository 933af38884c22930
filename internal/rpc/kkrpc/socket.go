package kkrpc

import (
	"bytes"
	"errors"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/ws"
)

// destroySignal is what JavaScript's signalDestroy sends: a wish to close.
const destroySignal = "__DESTROY__"

const (
	keepBuffer = 1 << 20  // the largest read buffer that is kept
	maxPartial = 64 << 10 // the most of a line that waits for the next message
)

// socket is a connection over WebSocket. No pings are sent: the Python clients
// never answer one, and take its payload for a message.
type socket struct {
	*ws.Conn
	partial []byte // a line that was cut off at the end of a message
}

// send sends one WebSocket message. Classic JavaScript peers read lines and
// need the line feed, Python reads one JSON value per message either way.
func (c *socket) send(b *rpc.Batch, d Dialect, msg []byte) error {
	if d == Classic {
		msg = append(msg, '\n') // of a scratch buffer: its owner does not look there
	}
	return c.Send(b, msg)
}

// run reads messages until the connection ends and gives everything back that
// the session held. It returns nil after a regular end.
func (c *socket) run(s *Session, drain time.Duration) error {
	var err error
	var buf []byte
	for err == nil {
		if buf, err = c.Next(buf); err != nil {
			break
		}
		c.message(s, buf)
		if cap(buf) > keepBuffer {
			buf = nil
		}
	}
	c.Batch().Flush()
	cause := rpc.ErrPeerGone
	if s.Ended() == nil && ws.Goodbye(err) {
		s.link.Goodbye()
	}
	s.link.Close(cause, 0)
	s.End(cause)
	s.link.Close(cause, drain)
	c.Conn.End()
	if errors.Is(err, ws.ErrTooBig) {
		s.ignored(badLength)
	}
	if ws.Regular(err) || s.Ended() != cause {
		return nil
	}
	return err
}

// message handles one WebSocket message: usually one JSON value with or without
// a line feed behind it, but several lines are accepted, too, and a line that
// goes on in the next message.
func (c *socket) message(s *Session, msg []byte) {
	joined := false
	if c.partial != nil {
		partial := c.partial
		c.partial = nil
		if !rpc.Valid(msg) { // what stands for itself ends the line before
			msg = append(partial, msg...)
			joined = true
		}
	}
	var m message
	why := parse(msg, &m)
	if why != badJSON {
		if s.obs != nil {
			s.obs.MessageIn(len(msg))
		}
		if why != "" {
			s.ignored(why)
			return
		}
		s.receive(c.Batch(), &m)
		return
	}
	if string(bytes.TrimSpace(msg)) == destroySignal {
		c.Hangup(ws.CloseNormal, "")
		return
	}
	for len(msg) > 0 {
		line, rest, whole := bytes.Cut(msg, []byte{'\n'})
		msg = rest
		at := rpc.SkipSpace(line, 0)
		switch {
		case at == len(line): // a blank line is nothing
		case !whole && !joined && line[at] == '{' && len(line) <= maxPartial && isCut(line):
			c.partial = bytes.Clone(line)
		default:
			s.Receive(c.Batch(), line)
		}
	}
}

// isCut reports whether text is the beginning of a JSON value.
func isCut(text []byte) bool {
	_, _, err := rpc.Scan(text)
	return errors.Is(err, rpc.ErrShort)
}
