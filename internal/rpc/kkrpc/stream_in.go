package kkrpc

import (
	"strconv"
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// inStream is a stream that the peer sends: an argument of its request
// (compact), or its streamed answer to a call of ours. It is the Source of the
// Reader that holds its items.
type inStream struct {
	s   *Session
	d   Dialect
	key string // in Session.sinks
	id  string // compact: of the stream; classic: of our request
	r   *rpc.Reader

	mu   sync.Mutex
	over bool
}

// openSink takes the stream with that id, once.
func (s *Session) openSink(sid string) (*rpc.Reader, *rpc.Error) {
	in := &inStream{s: s, d: Compact, key: sid, id: sid}
	if err := s.enterSink(in); err != nil {
		return nil, err
	}
	return in.r, nil
}

func (s *Session) enterSink(in *inStream) *rpc.Error {
	in.r = rpc.NewReader(in)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended != nil:
		return errGone
	case s.entriesLocked() >= s.limits.MaxEntries:
		return errTables
	case s.sinks[in.key] != nil:
		return invalid("the stream is being read already")
	}
	if s.sinks == nil {
		s.sinks = make(map[string]*inStream)
	}
	s.sinks[in.key] = in
	return nil
}

func (s *Session) sink(key string) *inStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sinks[key]
}

// leave takes the stream out of the table and reports whether it was there.
func (in *inStream) leave() bool {
	in.mu.Lock()
	over := in.over
	in.over = true
	in.mu.Unlock()
	s := in.s
	s.mu.Lock()
	if s.sinks[in.key] == in {
		delete(s.sinks, in.key)
	}
	s.mu.Unlock()
	return !over
}

// Grant asks for n more items. A classic peer sends as it likes.
func (in *inStream) Grant(n int) {
	if in.d == Compact && !in.isOver() {
		in.control(`,"op":"pull","n":` + strconv.Itoa(n) + `}`)
	}
}

// Stop tells the peer that nobody reads any more.
func (in *inStream) Stop(*rpc.Error) {
	if !in.leave() {
		return
	}
	if in.d == Compact {
		in.control(`,"op":"return"}`)
		return
	}
	out, _ := appendStreamMessage(nil, rpc.String(in.id), "stream-cancel", "", rpc.Value{}, in.s.form)
	_ = in.s.send(nil, Classic, out)
}

func (in *inStream) isOver() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.over
}

func (in *inStream) control(rest string) {
	out := append([]byte(nil), `{"t":"sq","id":"`...)
	out = append(append(out, in.s.newID()...), `","sid":`...)
	out = rpc.AppendString(out, in.id, in.s.form.ASCII)
	_ = in.s.send(nil, Compact, append(out, rest...))
}

// end ends the stream from the peer's side.
func (in *inStream) end(b *rpc.Batch, err *rpc.Error) {
	if in.leave() {
		in.r.End(b, err)
	}
}

// streamData handles items and ends of a stream that the peer sends; those of
// unknown streams are dropped.
func (s *Session) streamData(b *rpc.Batch, m *message) {
	if m.dialect == Compact {
		in := s.sink(text(m.sid))
		switch {
		case in == nil:
		case !m.fail.IsUndefined() && !m.fail.IsNull():
			in.end(b, fromWire(Compact, m.fail))
		case m.done:
			in.end(b, nil)
		default:
			in.r.Item(b, m.typed("v", m.value))
		}
		return
	}
	raw, _ := m.id.Raw()
	in := s.sink(classicKey(raw))
	if in == nil {
		return
	}
	args := m.typed("args", m.args)
	switch m.kind {
	case isChunk:
		v, _ := args.Member("value")
		in.r.Item(b, bytesIn(v))
	case isStreamEnd:
		in.end(b, nil)
	default:
		e, _ := args.Member("error")
		in.end(b, fromWire(Classic, e))
	}
}
