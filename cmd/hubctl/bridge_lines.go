package main

import (
	"bytes"
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// lineLedger is that of protocols whose messages are lines: the native one, and
// kkrpc, whose messages say what they are in other members.
type lineLedger struct {
	mu      sync.Mutex
	in, out lineCutter
	calls   map[string]*lineCall // native, by request_id
	kkrpc   kkrpcLedger
	begun   bool // the first line of stdin has come, which may have a byte order mark
	leaves  bool // the client has said so
	ends    bool // stdin has ended
}

// lineCall is a call of the native protocol that was not answered.
type lineCall struct {
	due     int // answers: a second call with the same id is refused under it
	stream  bool
	exact   bool  // the client gives credit
	credit  int64 // for items, where it does
	sending bool  // a stream of the client, which has not ended
}

// most is how much credit counts: nobody takes more.
const most = 1 << 60

func newLineLedger() *lineLedger {
	return &lineLedger{calls: make(map[string]*lineCall), kkrpc: newKkrpcLedger()}
}

// lineCutter cuts bytes into lines. A line over the limit is left out.
type lineCutter struct {
	line []byte
	long bool
}

func (c *lineCutter) feed(p []byte, f func(line []byte)) {
	for {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		whole := len(c.line) == 0 && i >= 0 // nothing has to be copied
		switch {
		case c.long || len(c.line)+len(part) > frame.MaxLine:
			c.line, c.long = nil, true
		case !whole:
			c.line = append(c.line, part...)
		}
		if i < 0 {
			return
		}
		if !c.long {
			if whole {
				f(part)
			} else {
				f(c.line)
			}
		}
		if cap(c.line) > 1<<20 {
			c.line = nil
		}
		c.line, c.long = c.line[:0], false
		p = p[i+1:]
	}
}

func (l *lineLedger) asked(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.in.feed(p, l.askedLine)
}

func (l *lineLedger) askedLine(line []byte) {
	if !l.begun {
		l.begun, line = true, rpc.SkipBOM(line)
	}
	var f frame.Frame
	if frame.Parse(line, &f) != nil || f.Action == "" {
		if f.Type == "detach" {
			l.leaves = true
		}
		l.kkrpc.note(line, true)
		return
	}
	id := idOf(&f)
	c := l.calls[id]
	switch {
	case f.Action == frame.Request:
		if c == nil {
			c = new(lineCall)
			l.calls[id] = c
		}
		c.due++
		c.stream = c.stream || f.Stream
	case f.Action == "shutdown":
		l.leaves = true
	case c == nil:
	case f.Action == frame.Credit:
		c.exact = true
		c.credit += int64(min(f.N, most-uint64(c.credit)))
	case f.Action == frame.Chunk:
		c.sending = true
	case f.Action == frame.End:
		c.sending = false
	}
}

// idOf returns the id of a call as its reply has it.
func idOf(f *frame.Frame) string {
	if id := f.ID(); id != nil {
		return string(id)
	}
	return "null"
}

func (l *lineLedger) answered(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out.feed(p, l.answeredLine)
}

func (l *lineLedger) answeredLine(line []byte) {
	var f frame.Frame
	if frame.Parse(line, &f) != nil || f.Action == "" {
		l.kkrpc.note(line, false)
		return
	}
	id := idOf(&f)
	c := l.calls[id]
	switch {
	case c == nil:
	case f.Action == frame.Reply:
		if c.due--; c.due == 0 {
			delete(l.calls, id)
		}
	case f.Action == frame.Chunk && c.credit > 0:
		c.credit--
	}
}

// end ends what the client has begun: its last line, for the hub handles one
// without a line feed only when nothing can follow, and the streams that it sends.
func (l *lineLedger) end() (last []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends = true
	if l.in.long || len(l.in.line) > 0 {
		last = append(last, '\n')
		l.in.feed(last, l.askedLine)
	}
	for id, c := range l.calls {
		if c.sending {
			c.sending = false
			last = frame.AppendEnd(last, []byte(id), errCutInput.Error())
		}
	}
	return last
}

// stalled reports whether c waits for credit that nobody gives any more.
func (c *lineCall) stalled() bool { return c.stream && c.exact && c.credit == 0 }

func (l *lineLedger) owed() (due, stalled int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.calls {
		due += c.due
		if c.stalled() {
			stalled += c.due
		}
	}
	return due + l.kkrpc.owed(), stalled
}

func (l *lineLedger) abandon() (last []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, c := range l.calls {
		if c.stalled() {
			last = frame.AppendCancel(last, []byte(id))
		}
	}
	return last
}

func (l *lineLedger) closed() (meant bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leaves, nil
}

// kkrpcLedger has the requests of kkrpc, of both dialects, and the streams that
// their answers are. It has no lock of its own.
type kkrpcLedger struct {
	requests map[string]bool   // that were not answered, by id
	pulls    map[string]uint64 // items that were asked for and have not come, by stream
}

func newKkrpcLedger() kkrpcLedger {
	return kkrpcLedger{make(map[string]bool), make(map[string]uint64)}
}

func (l kkrpcLedger) owed() int { return len(l.requests) + len(l.pulls) }

func (l kkrpcLedger) note(msg []byte, in bool) {
	v, err := rpc.Parse(msg)
	if err != nil {
		return
	}
	if inner, ok := v.Member("json"); ok { // SuperJSON's envelope
		v = inner
	}
	text := func(name string) string {
		m, _ := v.Member(name)
		s, _ := m.AsString()
		return s
	}
	raw := func(name string) string {
		m, _ := v.Member(name)
		b, _ := m.Raw()
		return string(b)
	}
	id := raw("id")
	switch kind := text("t") + text("type"); {
	case in:
		switch kind {
		case "q", "request", "get", "set", "construct":
			l.requests[id] = true
		case "stream-cancel": // is not answered
			delete(l.requests, id)
		case "sq":
			if text("op") != "pull" {
				delete(l.pulls, raw("sid"))
				l.requests[id] = true
				return
			}
			n := uint64(1)
			if m, ok := v.Member("n"); ok {
				if k, err := m.AsInt(); err == nil && k > 0 {
					n = uint64(k)
				}
			}
			l.pulls[raw("sid")] += min(n, most-l.pulls[raw("sid")])
		}
	case kind == "r":
		delete(l.requests, id)
	case kind == "response": // a stream goes on under the id of its call
		args, _ := v.Member("args")
		result, _ := args.Member("result")
		if mark, ok := result.Member("__stream"); ok {
			if yes, err := mark.AsBool(); err == nil && yes {
				return
			}
		}
		delete(l.requests, id)
	case kind == "stream-end", kind == "stream-error":
		delete(l.requests, id)
	case kind == "sr": // callbacks, and streams of the client, are for one that is there
		delete(l.requests, id)
		sid := raw("sid")
		_, failed := v.Member("e")
		done, _ := v.Member("d")
		if yes, err := done.AsBool(); failed || err == nil && yes || l.pulls[sid] <= 1 {
			delete(l.pulls, sid)
		} else {
			l.pulls[sid]--
		}
	}
}
