package krpc

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// body is the body of a request as it comes: at a bounded pace, of a bounded
// size, and beyond its declared end where that is asked for.
type body struct {
	x        *exchange
	declared io.Reader
	beyond   *bufio.Reader // after the declared end; nil before
	lenient  bool          // what follows the declared end belongs to it
	slack    int64         // ... and so much less than was declared may come
	max      int64
	n        int64
	began    time.Time
	until    time.Time // for what is beyond
	over     bool      // the declared end was told
}

// Read reads the body. At the declared end of a lenient body it returns
// errDeclared once; who reads on wants what follows.
func (b *body) Read(p []byte) (int, error) {
	if b.n > b.max {
		return 0, errTooLarge
	}
	if b.over {
		return b.readBeyond(p)
	}
	limits := &b.x.server.conf.Limits
	now := time.Now()
	if b.began.IsZero() {
		b.began = now
	}
	earned := time.Duration(b.n / int64(limits.BodyRate) * int64(time.Second))
	if err := b.x.control.SetReadDeadline(earlier(now.Add(limits.BodyWait), b.began.Add(limits.BodyWait+earned))); err != nil {
		return 0, err
	}
	if b.x.isStopping() { // after the deadline, which shutdown moves to the past
		return 0, errSlow
	}
	n, err := b.declared.Read(p)
	b.n += int64(n)
	switch {
	case b.n > b.max:
		return n, errTooLarge
	case err == io.EOF:
		b.over = true
		if b.lenient {
			return n, errDeclared
		}
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errSlow
	case b.lenient && errors.Is(err, io.ErrUnexpectedEOF) && b.x.r.ContentLength-b.n <= b.slack:
		// So little is missing that it can only be a part of the closing delimiter.
		b.over, b.beyond = true, bufio.NewReader(eof{})
		err = errDeclared
	}
	return n, err
}

// readBeyond reads what follows the declared end. When nothing more comes in
// time, that is the end for good.
func (b *body) readBeyond(p []byte) (int, error) {
	if !b.lenient {
		return 0, io.EOF
	}
	limits := &b.x.server.conf.Limits
	if b.beyond == nil {
		if err := b.x.takeOver(); err != nil {
			return 0, err
		}
		b.beyond, b.until = b.x.in, time.Now().Add(limits.Beyond)
	}
	if c := b.x.conn; c != nil && b.beyond == b.x.in {
		if err := c.SetReadDeadline(earlier(time.Now().Add(limits.BeyondIdle), b.until)); err != nil {
			return 0, err
		}
		defer c.SetReadDeadline(time.Time{})
	}
	n, err := b.beyond.Read(p)
	b.n += int64(n)
	if err != nil {
		return n, io.EOF // a client that is gone is noticed when the answer is written
	}
	return n, nil
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// closeWriter is a connection that can be closed in one direction.
type closeWriter interface {
	net.Conn
	CloseWrite() error
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
