package snekrpc

import (
	"bytes"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Errors of egress.
var (
	errBudget = &rpc.Error{Code: rpc.CodeOverloaded, Ran: rpc.RanUnknown,
		Message: "too many bytes wait to be read by this client"}
	errTooLarge = &rpc.Error{Code: rpc.CodeTooLarge, Ran: rpc.RanYes, Message: "result is larger than a message may be"}
)

// egress sends the messages of a connection. While the peer sends a stream it
// takes no answers: what its socket does not take is then kept here, up to a
// budget, so that the outbox has room and no handler waits for it. Waiting
// would stop the reading of the stream, and both sides would wait for ever.
type egress struct {
	out     *rpc.Outbox
	soft    int
	budget  int
	max     int // bytes of a message
	chunked bool
	server  string // for the response head
	header  http.Header

	added atomic.Int64 // bytes since the reader asked last

	mu     sync.Mutex // before the outbox's
	headed bool       // the response head was sent
	kept   [][]byte   // waits for room in the outbox
	size   int        // of kept
	armed  bool       // drain will be called
	onRoom []func()   // run when nothing is kept and the outbox has room
}

// scratch are buffers that messages are built in; what is queued is a copy.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// keepScratch is the largest buffer that is used again.
const keepScratch = 1 << 20

// send sends the message that f appends and returns its size. hold says that
// the peer takes nothing at the moment; must, that the message counts against
// no budget. Nothing was sent after an error.
func (e *egress) send(b *rpc.Batch, hold, must bool, f func([]byte) ([]byte, error)) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	buf := scratch.Get().(*[]byte)
	dst := (*buf)[:0]
	defer func() {
		if cap(dst) <= keepScratch {
			*buf = dst
			scratch.Put(buf)
		}
	}()
	head := e.chunked && !e.headed
	if head {
		dst = e.appendHead(dst)
	}
	from := len(dst)
	dst = beginFrame(dst, e.chunked)
	payload := len(dst)
	dst, err := f(dst)
	if err != nil {
		return 0, err
	}
	n := len(dst) - payload
	if n > e.max {
		return 0, errTooLarge
	}
	dst = endFrame(dst, from, e.chunked)
	if len(e.kept) == 0 && !(hold && e.out.Len()+len(dst) > e.soft) {
		err = e.out.Append(b, func(q []byte) []byte { return append(q, dst...) })
	} else if !must && e.size+len(dst) > e.budget {
		return 0, errBudget
	} else {
		e.keepLocked(dst)
	}
	if err == nil && head {
		e.headed = true
	}
	e.added.Add(int64(len(dst)))
	return n, err
}

// raw sends a message that f cannot fail to write.
func (e *egress) raw(b *rpc.Batch, f func([]byte) []byte) error {
	_, err := e.send(b, false, true, func(dst []byte) ([]byte, error) { return f(dst), nil })
	return err
}

func (e *egress) keepLocked(p []byte) {
	const piece = 64 << 10
	e.size += len(p)
	if n := len(e.kept); n > 0 && len(e.kept[n-1])+len(p) <= cap(e.kept[n-1]) {
		e.kept[n-1] = append(e.kept[n-1], p...)
	} else {
		e.kept = append(e.kept, append(make([]byte, 0, max(piece, len(p))), p...))
	}
	e.armLocked()
}

func (e *egress) armLocked() {
	if !e.armed {
		e.armed = true
		e.out.OnRoom(func() { go e.drain() }) // whoever makes room may hold e.mu
	}
}

// drain hands on what is kept, as far as the outbox has room.
func (e *egress) drain() {
	e.mu.Lock()
	e.armed = false
	for len(e.kept) > 0 {
		room := e.soft - e.out.Len()
		if room < e.soft/4 {
			e.armLocked()
			break
		}
		p := e.kept[0]
		n := min(room, len(p))
		if e.out.Append(rpc.Soon, func(q []byte) []byte { return append(q, p[:n]...) }) != nil {
			e.kept, e.size = nil, 0
			break
		}
		e.size -= n
		if n < len(p) {
			e.kept[0] = p[n:]
		} else {
			e.kept[0] = nil
			e.kept = e.kept[1:]
		}
	}
	var run []func()
	if len(e.kept) == 0 {
		e.kept = nil
		run, e.onRoom = e.onRoom, nil
	}
	e.mu.Unlock()
	for _, f := range run {
		e.out.OnRoom(func() { go f() })
	}
}

// crowded reports whether the peer is behind.
func (e *egress) crowded() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.kept) > 0 || e.out.Crowded()
}

// whenRoom runs f once, in a goroutine, as soon as the peer is not behind.
func (e *egress) whenRoom(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.kept) > 0 {
		e.onRoom = append(e.onRoom, f)
		return
	}
	e.out.OnRoom(func() { go f() })
}

// appendHead appends the head of the response that the messages are part of.
func (e *egress) appendHead(dst []byte) []byte {
	dst = append(dst, "HTTP/1.1 200 OK\r\nServer: hubd"...)
	if e.server != "" {
		dst = append(append(dst, '/'), e.server...)
	}
	dst = append(dst, "\r\nDate: "...)
	dst = time.Now().UTC().AppendFormat(dst, "Mon, 02 Jan 2006 15:04:05 GMT")
	dst = append(dst, "\r\nConnection: keep-alive\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n"...)
	var more bytes.Buffer
	_ = e.header.WriteSubset(&more, ownHeaders)
	return append(append(dst, more.Bytes()...), "\r\n"...)
}

// ownHeaders are those that appendHead writes.
var ownHeaders = map[string]bool{"Server": true, "Date": true, "Connection": true, "Content-Type": true, "Transfer-Encoding": true}

// finish ends the response of a peer that has ended its request.
func (e *egress) finish() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.kept) > 0 {
		return
	}
	_ = e.out.Append(nil, func(q []byte) []byte {
		if !e.headed {
			q = e.appendHead(q)
		}
		return append(q, "0\r\n\r\n"...)
	})
}

// Credit that a stream is given: it begins small and then follows the size of
// the items, so that about windowBytes are on their way.
const (
	firstCredit = 4
	windowBytes = 1 << 20
	maxWindow   = 4096
)

// outStream sends the items of one answer.
type outStream struct {
	k   *call
	src rpc.Source

	mu      sync.Mutex // before egress.mu; the source and Cancel are called without it
	granted int        // to src, not yet used
	mean    int        // bytes of an item, about
	waiting bool       // for room
	closed  bool
}

func openOutStream(k *call, src rpc.Source) *outStream {
	s := &outStream{k: k, src: src, mean: 256, granted: firstCredit}
	src.Grant(firstCredit)
	return s
}

// Item sends v.
func (s *outStream) Item(b *rpc.Batch, v rpc.Value) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.granted = max(s.granted-1, 0)
	n, err := s.k.data(b, v)
	if err != nil {
		s.closed = true
		s.mu.Unlock()
		if e, ok := errors.AsType[*rpc.Error](err); ok {
			go s.k.Cancel(e) // the call's own lock may be held by whoever sends the item
		}
		return
	}
	s.mean = max(n, (7*s.mean+n)/8, 1)
	grant := s.refillLocked()
	s.mu.Unlock()
	s.after(grant)
}

// refillLocked returns the credit that the source is to be given now, -1 when
// that has to wait.
func (s *outStream) refillLocked() int {
	if s.closed || s.waiting {
		return 0
	}
	want := max(1, min(maxWindow, windowBytes/s.mean))
	n := want - s.granted
	if n <= 0 || n < want/2 {
		return 0
	}
	if !s.k.conn.sending.Load() && s.k.conn.egress.crowded() {
		s.waiting = true
		return -1
	}
	s.granted += n
	return n
}

func (s *outStream) after(grant int) {
	switch {
	case grant > 0:
		s.src.Grant(grant)
	case grant < 0:
		s.k.conn.egress.whenRoom(func() {
			s.mu.Lock()
			s.waiting = false
			n := s.refillLocked()
			s.mu.Unlock()
			s.after(n)
		})
	}
}

// End sends the end.
func (s *outStream) End(b *rpc.Batch, err *rpc.Error) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.k.end(b, err)
}
