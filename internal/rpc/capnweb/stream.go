package capnweb

import (
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// stream is a stream that may be read once: a bounded queue until somebody
// attaches to it. One goroutine at a time feeds it; attaching may happen on
// another, and what is queued is passed on before what comes.
type stream struct {
	src rpc.Source // hears of credit and of the end of interest

	mu       sync.Mutex
	queue    []rpc.Value
	bytes    int
	sink     rpc.Sink
	draining bool // Attach passes the queue on
	taken    bool
	closed   bool
	ended    bool
	passed   bool // the end was passed on
	err      *rpc.Error
}

var _ rpc.Readable = (*stream)(nil)

func newStream(src rpc.Source) *stream { return &stream{src: src} }

var errFlood = &rpc.Error{Code: rpc.CodeOverloaded, Message: "more stream items than anybody reads"}

// Item takes one item, which is borrowed. It reports false when nobody wants it.
func (st *stream) Item(b *rpc.Batch, v rpc.Value) { st.item(b, v) }

func (st *stream) item(b *rpc.Batch, v rpc.Value) bool {
	st.mu.Lock()
	if st.closed || st.ended {
		st.mu.Unlock()
		return false
	}
	if st.sink != nil && !st.draining {
		st.mu.Unlock()
		st.sink.Item(b, v)
		return true
	}
	w := walker{}
	_ = w.value(v, 0)
	if st.bytes += w.bytes + 64; st.bytes > rpc.MaxQueued && len(st.queue) > 0 || len(st.queue) >= rpc.MaxQueuedItems {
		st.ended, st.err = true, errFlood
		st.mu.Unlock()
		st.src.Stop(errFlood)
		return false
	}
	st.queue = append(st.queue, rpc.Keep(v))
	st.mu.Unlock()
	return true
}

// End ends the stream; the first end counts.
func (st *stream) End(b *rpc.Batch, err *rpc.Error) {
	st.mu.Lock()
	if st.ended {
		st.mu.Unlock()
		return
	}
	st.ended, st.err = true, err
	pass := st.sink != nil && !st.draining && !st.passed
	st.passed = st.passed || pass
	st.mu.Unlock()
	if pass {
		st.sink.End(b, err)
	}
}

// Attach hands the stream to s.
func (st *stream) Attach(s rpc.Sink) rpc.Source {
	st.mu.Lock()
	if st.taken || st.closed {
		st.mu.Unlock()
		s.End(nil, errLocked)
		return deaf{}
	}
	st.taken, st.draining, st.sink = true, true, s
	for len(st.queue) > 0 {
		queue := st.queue
		st.queue, st.bytes = nil, 0
		st.mu.Unlock()
		for _, v := range queue {
			s.Item(nil, v)
			rpc.Drop(v)
		}
		st.mu.Lock()
	}
	st.draining = false
	end := st.ended && !st.passed
	st.passed = st.passed || end
	err := st.err
	st.mu.Unlock()
	if end {
		s.End(nil, err)
	}
	return st.src
}

// Close gives a stream up that nobody has attached to.
func (st *stream) Close(cause *rpc.Error) {
	st.mu.Lock()
	if st.taken || st.closed {
		st.mu.Unlock()
		return
	}
	left := st.queue
	st.closed, st.queue = true, nil
	tell := !st.ended
	st.mu.Unlock()
	dropAll(left)
	if tell {
		if cause == nil {
			cause = errUnread
		}
		st.src.Stop(cause)
	}
}

func dropAll(items []rpc.Value) {
	for _, v := range items {
		rpc.Drop(v)
	}
}

type deaf struct{}

func (deaf) Grant(int)       {}
func (deaf) Stop(*rpc.Error) {}

// pipe is the writing end that the peer holds of a stream it sends. It is the
// target of the peer's write, close and abort. A write is acknowledged against
// the credit of the reader, which is what slows the writer down.
type pipe struct {
	st *stream

	mu      sync.Mutex
	credit  int
	waiting []*promise // writes that are not acknowledged
	stopped *rpc.Error // why nothing may be written any more; nil while it may
}

// Start makes a pipe a target; its calls take another way (promise.start).
func (w *pipe) Start(b *rpc.Batch, c *rpc.Call) {
	c.Finish(b, rpc.Value{}, &rpc.Error{Code: rpc.CodeInvalidParams, Message: "a pipe is written to by its own peer only", Ran: rpc.RanNo})
}

// operate carries out one write, close or abort.
func (w *pipe) operate(b *rpc.Batch, p *promise, path []rpc.PathPart) {
	name := joinPath(path)
	var arg rpc.Value
	if len(p.list) > 0 {
		arg = p.list[0]
	}
	if p.get || name != "write" && name != "close" && name != "abort" {
		p.reject(b, &rpc.Error{Code: rpc.CodeHandler, Message: "Unknown WritableStream method: " + rpc.CleanText(name, 64), Ran: rpc.RanNo})
		return
	}
	w.mu.Lock()
	stopped := w.stopped
	w.mu.Unlock()
	switch {
	case name == "abort":
		reason := &rpc.Error{Code: rpc.CodeCancelled, Message: "the stream was aborted"}
		if !arg.IsUndefined() {
			reason = thrownValue(arg.Own())
		}
		w.st.End(b, reason)
		w.finish(reason)
	case stopped != nil:
		p.reject(b, stopped)
		return
	case name == "close":
		w.st.End(b, nil)
		w.finish(errClosed)
	case !w.st.item(b, arg):
		w.mu.Lock()
		stopped = w.stopped
		w.mu.Unlock()
		if stopped == nil {
			stopped = errUnread
		}
		p.reject(b, stopped)
		return
	default:
		w.mu.Lock()
		if w.credit == 0 && w.stopped == nil {
			w.waiting = append(w.waiting, p)
			w.mu.Unlock()
			return
		}
		w.credit = max(w.credit-1, 0)
		w.mu.Unlock()
	}
	w.accept(b, p)
}

// accept acknowledges an operation. Whoever still needs the references in a
// chunk has a hold of their own on them.
func (w *pipe) accept(b *rpc.Batch, p *promise) {
	p.endArgs(nil)
	p.settle(b, new(payload), nil)
}

// Grant acknowledges what was written: the reader has it and wants n items
// beyond it. The next n writes are acknowledged as they come.
func (w *pipe) Grant(n int) {
	w.mu.Lock()
	now := w.waiting
	w.waiting = nil
	w.credit = min(w.credit+n, 1<<20)
	w.mu.Unlock()
	b, flush := batched(nil)
	for _, p := range now {
		w.accept(b, p)
	}
	flush()
}

// finish rejects what comes behind the end. What came before it is
// acknowledged: nothing is left to slow down.
func (w *pipe) finish(why *rpc.Error) {
	w.Grant(0)
	w.mu.Lock()
	if w.stopped == nil {
		w.stopped = why
	}
	w.mu.Unlock()
}

// Stop rejects all writes from now on.
func (w *pipe) Stop(cause *rpc.Error) {
	w.mu.Lock()
	if w.stopped != nil {
		w.mu.Unlock()
		return
	}
	w.stopped = cause
	waiting := w.waiting
	w.waiting = nil
	w.mu.Unlock()
	b, flush := batched(nil)
	for _, p := range waiting {
		p.endArgs(nil)
		p.settle(b, new(payload), cause)
	}
	flush()
}

// openPipe handles the peer's pipe message.
func (s *Session) openPipe() {
	w := new(pipe)
	w.st = newStream(w)
	p := newPromise(s)
	r := rpc.NewRef(w, nil)
	p.value, p.refs, p.settled = rpc.TreeValue(r), []*rpc.Ref{r}, true
	p.done.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return
	}
	s.lastIn++
	s.exports[s.lastIn] = &export{p: p, count: 1, readable: w.st, pipe: w}
}

// takeReadable returns the reading end of a pipe, once.
func (s *Session) takeReadable(id int64) (*stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.exports[id]
	if x == nil || x.readable == nil {
		return nil, broken("Export %d is not a pipe or its readable end was already consumed.", id)
	}
	st := x.readable
	x.readable = nil
	return st, nil
}

// maxBlob bounds what one blob may hold.
const maxBlob = 64 << 20

// collectBlob returns a promise of the blob whose data come through from.
func (s *Session) collectBlob(kind string, from *stream) *promise {
	p := newPromise(s)
	c := &blobSink{p: p, kind: kind}
	c.p.hold() // until the data are there
	src := from.Attach(c)
	c.mu.Lock()
	c.src = src
	grant := !c.over
	c.mu.Unlock()
	if grant {
		src.Grant(rpc.Window)
	}
	return p
}

type blobSink struct {
	p    *promise
	kind string

	data []byte // of whoever feeds it, which is one goroutine at a time

	mu   sync.Mutex
	src  rpc.Source
	over bool
}

func (c *blobSink) Item(b *rpc.Batch, v rpc.Value) {
	data, err := v.AsBytes()
	if _, isBytes := v.Tree().(rpc.Bytes); !isBytes {
		var s string
		s, err = v.AsString()
		data = []byte(s)
	}
	c.mu.Lock()
	over := c.over
	c.mu.Unlock()
	if over {
		return
	}
	var fail *rpc.Error
	switch {
	case err != nil:
		fail = &rpc.Error{Code: rpc.CodeInvalidParams, Message: "a blob is made of bytes", Ran: rpc.RanNo}
	case len(c.data)+len(data) > maxBlob:
		fail = &rpc.Error{Code: rpc.CodeTooLarge, Message: "a blob may have 64 MiB", Ran: rpc.RanNo}
	case !c.p.s.hold(len(data)):
		fail = c.p.s.overHeld(rpc.RanNo)
	default:
		c.data = append(c.data, data...)
	}
	c.mu.Lock()
	c.over = fail != nil
	src := c.src
	c.mu.Unlock()
	switch {
	case fail != nil:
		if src != nil {
			src.Stop(fail)
		}
		c.finish(b, new(payload), fail)
	case src != nil:
		src.Grant(1)
	}
}

func (c *blobSink) End(b *rpc.Batch, err *rpc.Error) {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return
	}
	c.over = true
	c.mu.Unlock()
	c.finish(b, &payload{v: rpc.TreeValue(Blob{c.kind, c.data})}, err)
}

func (c *blobSink) finish(b *rpc.Batch, pl *payload, err *rpc.Error) {
	c.p.s.unhold(len(c.data))
	c.p.settle(b, pl, err)
	c.p.unref()
}
