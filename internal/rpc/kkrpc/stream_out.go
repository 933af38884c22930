package kkrpc

import (
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// pushWindow is how many items the source of a classic stream may be ahead:
// its consumer says nothing of credit, the room in the outbox decides.
const pushWindow = 64

// outStream sends a streamed answer. In the classic dialect items are pushed
// under the id of the request; in the compact one they are pulled, under an id
// of their own, and nothing is sent before the first pull.
type outStream struct {
	k   *call
	src rpc.Source
	key string // in Session.sources
	sid string // compact

	mu        sync.Mutex // before the outbox's
	used      int        // classic: items since the last grant
	waiting   bool       // for room in the outbox
	pulled    bool       // compact
	closed    bool       // nothing more is sent
	cancelled bool       // by the consumer: the end is silent
	over      bool       // the source has ended
	held      bool       // the end waits for the first pull
	err       *rpc.Error // with which it ended
}

// Open makes the answer a stream.
func (k *call) Open(b *rpc.Batch, c *rpc.Call, src rpc.Source) rpc.Sink {
	if c.Unary {
		return rpc.Collect(c, src)
	}
	s := k.s
	o := &outStream{k: k, src: src}
	var marker rpc.Value
	if k.d == Compact {
		o.sid = s.newID()
		o.key = o.sid
		marker = rpc.RawString(`{"` + streamTag + `":"async-iterable","id":"` + o.sid + `"}`)
	} else {
		raw, _ := k.id.Raw()
		o.key = classicKey(raw)
		marker = rpc.RawString(`{"` + classicStream + `":true}`)
	}
	s.mu.Lock()
	full := s.ended != nil || s.entriesLocked() >= s.limits.MaxEntries || s.sources[o.key] != nil
	if !full {
		if s.sources == nil {
			s.sources = make(map[string]*outStream)
		}
		s.sources[o.key] = o
	}
	s.mu.Unlock()
	if full {
		go c.Cancel(errTables) // not from here: the call's own lock is held
		return refusedStream{k}
	}
	p := getScratch()
	out, _ := appendResult((*p)[:0], k.d, k.id, marker, s.form)
	_ = s.send(b, k.d, out)
	putScratch(p, out)
	if k.d == Classic {
		src.Grant(pushWindow)
	}
	return o
}

// refusedStream stands for a stream that never began: its end is an ordinary error.
type refusedStream struct{ k *call }

func (r refusedStream) Item(*rpc.Batch, rpc.Value) {}

func (r refusedStream) End(b *rpc.Batch, err *rpc.Error) {
	if err == nil {
		err = errTables
	}
	r.k.Error(b, &r.k.Call, err)
}

// classicKey keeps the ids of requests apart from those of streams.
func classicKey(rawID []byte) string { return "\x00" + string(rawID) }

// Item sends one item.
func (o *outStream) Item(b *rpc.Batch, v rpc.Value) {
	o.mu.Lock()
	if o.closed || o.over {
		o.mu.Unlock()
		return
	}
	s := o.k.s
	p := getScratch()
	out, err := o.appendItem((*p)[:0], v)
	var fault *rpc.Error
	switch {
	case err != nil:
		fault = rpc.AsError(&o.k.Call, err)
	case len(out) > s.limits.MaxMessage:
		fault = errTooLarge
	case s.send(b, o.k.d, out) != nil:
		o.closed = true // the connection is over: its link cancels the call
	}
	putScratch(p, out)
	if fault != nil {
		o.mu.Unlock()
		go o.k.Cancel(fault) // not from here: whoever sends the item holds the call's lock
		return
	}
	grant := o.refillLocked()
	o.mu.Unlock()
	o.grant(grant)
}

// refillLocked counts an item and returns what the source may send now; -1
// means that room in the outbox has to be waited for.
func (o *outStream) refillLocked() int {
	if o.k.d == Compact || o.closed || o.waiting {
		return 0
	}
	if o.used++; o.used < pushWindow/2 {
		return 0
	}
	if out := o.k.s.link.Out; out != nil && out.Crowded() {
		o.waiting = true
		return -1
	}
	o.used = 0
	return pushWindow / 2
}

func (o *outStream) grant(n int) {
	switch {
	case n > 0:
		o.src.Grant(n)
	case n < 0:
		o.k.s.link.Out.OnRoom(func() {
			o.mu.Lock()
			n := o.used
			o.used, o.waiting = 0, false
			closed := o.closed
			o.mu.Unlock()
			if !closed {
				o.src.Grant(n)
			}
		})
	}
}

func (o *outStream) appendItem(dst []byte, v rpc.Value) ([]byte, error) {
	if o.k.d == Classic {
		return appendStreamMessage(dst, o.k.id, "stream-chunk", "value", v, o.k.s.form)
	}
	dst = o.appendData(dst, o.k.s.newID())
	dst = append(dst, `,"d":false`...)
	var err error
	if !v.IsUndefined() {
		dst = append(dst, `,"v":`...)
		dst, err = appendValue(dst, Compact, v, o.k.s.form)
	}
	return append(dst, '}'), err
}

func (o *outStream) appendData(dst []byte, id string) []byte {
	return appendData(dst, rpc.String(id), o.sid, o.k.s.form)
}

func appendData(dst []byte, id rpc.Value, sid string, f rpc.Form) []byte {
	dst = append(dst, `{"t":"sr","id":`...)
	dst, _ = id.AppendJSON(dst, f)
	dst = append(dst, `,"sid":`...)
	return rpc.AppendString(dst, sid, f.ASCII)
}

// End sends the end of the stream, which is the end of the call.
func (o *outStream) End(b *rpc.Batch, err *rpc.Error) {
	o.k.leave()
	o.mu.Lock()
	if o.over {
		o.mu.Unlock()
		return
	}
	o.over, o.err = true, err
	if o.k.d == Compact && !o.pulled && !o.closed {
		// A consumer that never pulled takes the marker for a plain value.
		o.closed = err != nil && err.Code == rpc.CodeDeadlineExceeded
		o.held = !o.closed
	}
	if o.held {
		o.mu.Unlock()
		return
	}
	o.finishLocked(b)
}

// finishLocked sends the end, unless the consumer has left. It is called with
// the lock held and returns without it.
func (o *outStream) finishLocked(b *rpc.Batch) {
	tell := !o.closed && !o.cancelled
	o.closed = true
	err := o.err
	o.mu.Unlock()
	// A pull that comes meanwhile must find the stream: it would be told that
	// there is none, before the end is told.
	defer o.k.s.forgetSource(o)
	if !tell {
		return
	}
	s := o.k.s
	p := getScratch()
	out := (*p)[:0]
	switch {
	case o.k.d == Compact:
		out = o.appendData(out, s.newID())
		if err == nil {
			out = append(out, `,"d":true`...)
		} else {
			out = append(out, `,"e":`...)
			out = appendErrorObject(out, Compact, err, s.form)
		}
		out = append(out, '}')
	case err == nil:
		out, _ = appendStreamMessage(out, o.k.id, "stream-end", "", rpc.Value{}, s.form)
	default:
		text := appendErrorObject(nil, Classic, err, s.form)
		if o.k.text {
			_, message := wireName(err)
			text = rpc.AppendString(nil, message, s.form.ASCII)
		}
		out, _ = appendStreamMessage(out, o.k.id, "stream-error", "error", rpc.RawValue(text, rpc.Traits{}), s.form)
	}
	_ = s.send(b, o.k.d, out)
	putScratch(p, out)
}

func (s *Session) forgetSource(o *outStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sources[o.key] == o {
		delete(s.sources, o.key)
	}
}

// drop ends a stream whose session is over.
func (o *outStream) drop() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
}

// pull lets n more items come.
func (o *outStream) pull(b *rpc.Batch, n int) {
	o.mu.Lock()
	o.pulled = true
	if o.held {
		o.held = false
		o.finishLocked(b)
		return
	}
	closed := o.closed || o.over
	o.mu.Unlock()
	if !closed {
		o.src.Grant(n)
	}
}

// cancel ends the stream for a consumer that has enough.
func (o *outStream) cancel() {
	o.mu.Lock()
	o.cancelled, o.closed, o.held = true, true, false
	o.mu.Unlock()
	o.k.s.forgetSource(o)
	o.k.Cancel(rpc.ErrCancelled) // nothing, when the call has ended
}

// maxPull bounds the credit of one message.
const maxPull = 1 << 20

// streamControl handles what the consumer of a stream of ours wants.
func (s *Session) streamControl(b *rpc.Batch, m *message) {
	if m.dialect == Classic {
		raw, _ := m.id.Raw()
		if o := s.source(classicKey(raw)); o != nil {
			o.cancel()
		}
		return
	}
	sid := text(m.sid)
	o := s.source(sid)
	switch op := text(m.op); {
	case op == "return", op == "throw" && o != nil:
		if o != nil {
			o.cancel()
		}
		s.sendControl(b, m.id, sid, `,"d":true}`)
	case o == nil, op != "pull":
		out := append([]byte(nil), `,"e":`...)
		out = appendErrorObject(out, Compact, invalid("Unknown RPC stream "+rpc.CleanText(sid, 128)), s.form)
		s.sendControl(b, m.id, sid, string(append(out, '}')))
	default:
		n, err := m.n.AsInt()
		if err != nil || n < 1 {
			n = 1
		}
		o.pull(b, int(min(n, maxPull)))
	}
}

func (s *Session) sendControl(b *rpc.Batch, id rpc.Value, sid, rest string) {
	out := appendData(nil, id, sid, s.form)
	_ = s.send(b, Compact, append(out, rest...))
}

func (s *Session) source(key string) *outStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sources[key]
}
