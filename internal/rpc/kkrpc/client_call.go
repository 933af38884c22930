package kkrpc

import (
	"context"
	"strconv"
	"strings"
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// clientTarget is the API of the peer: what is called on it is called there,
// by the path of the call. Whoever calls bounds the time; kkrpc has no message
// that cancels a call.
type clientTarget struct{ s *Session }

// outCall is a call of the peer's API.
type outCall struct {
	call *rpc.Call
	args rpc.Args
	d    Dialect
	op   kind
	id   string
}

// Start sends the call.
func (t clientTarget) Start(b *rpc.Batch, c *rpc.Call) {
	op := isCall
	if c.Get {
		op = isGet
	}
	t.s.call(b, c, op)
}

// call sends a request: a call, get, set (whose value is the only argument) or
// construct.
func (s *Session) call(b *rpc.Batch, c *rpc.Call, op kind) {
	if len(c.Path) == 0 {
		c.Finish(b, rpc.Value{}, invalid("a method of the peer must be named"))
		return
	}
	c.Own()
	switch {
	case c.Settled():
	case takesStreams(c):
		go s.collect(c, op)
	default:
		s.ask(b, c, op, c.Args)
	}
}

// ask sends a request with these arguments.
func (s *Session) ask(b *rpc.Batch, c *rpc.Call, op kind, args rpc.Args) {
	o := &outCall{call: c, args: args, d: s.Dialect(), op: op, id: s.newID()}
	s.mu.Lock()
	var refused *rpc.Error
	switch {
	case s.ended != nil:
		refused = &rpc.Error{Code: rpc.CodeUnavailable, Message: errGone.Message, Ran: rpc.RanNo}
	case s.entriesLocked() >= s.limits.MaxEntries:
		refused = errTables
	default:
		if s.pending == nil {
			s.pending = make(map[string]*outCall)
		}
		s.pending[o.id] = o
	}
	s.mu.Unlock()
	if refused != nil {
		c.Finish(b, rpc.Value{}, refused)
		return
	}
	c.OnCancel(func(*rpc.Error) { s.forgetCall(o.id) })
	p := getScratch()
	out, fresh, err := s.appendRequest((*p)[:0], o)
	if err == nil && len(out) > s.limits.MaxMessage {
		err = &rpc.Error{Code: rpc.CodeTooLarge, Message: "the arguments are larger than a message may be", Ran: rpc.RanNo}
	}
	if err == nil {
		if err = s.send(b, o.d, out); err != nil {
			err = &rpc.Error{Code: rpc.CodeUnavailable, Message: errGone.Message, Ran: rpc.RanNo}
		}
	}
	putScratch(p, out)
	if err != nil {
		s.unexport(fresh)
		s.forgetCall(o.id)
		c.Finish(b, rpc.Value{}, notRun(err))
	}
}

// notRun is an error of a request that was never sent.
func notRun(err error) *rpc.Error {
	e := *rpc.AsError(context.Background(), err)
	e.Ran = rpc.RanNo
	if e.Code == rpc.CodeSerialization {
		e.Code = rpc.CodeInvalidParams
	}
	return &e
}

func (s *Session) forgetCall(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, id)
}

func (s *Session) appendRequest(dst []byte, o *outCall) (_ []byte, fresh []string, err error) {
	a := argsOut(&o.args)
	if o.d == Classic && a.named == nil {
		a.list = rpc.FillHoles(o.call.Method, a.list) // null is no undefined
	}
	var path []string
	for _, p := range o.call.Path {
		path = append(path, p.Name)
	}
	if o.d == Compact {
		return s.appendCompact(dst, o, path, a)
	}
	return s.appendClassic(dst, o, path, a)
}

func (s *Session) appendClassic(dst []byte, o *outCall, path []string, a outArgs) (_ []byte, fresh []string, err error) {
	f := s.form
	dst = append(append(append(dst, `{"id":"`...), o.id...), `","method":`...)
	if o.op == isGet || o.op == isSet {
		dst = append(dst, `"","args":{},"type":"`...)
		if o.op == isGet {
			dst = append(dst, `get","path":`...)
		} else {
			dst = append(dst, `set","path":`...)
		}
		dst = appendStrings(dst, path, f)
		if o.op == isSet {
			dst = append(dst, `,"value":`...)
			dst, err = appendValue(dst, Classic, lastOf(a), f)
		}
		return append(dst, classicEnd...), nil, err
	}
	dst = rpc.AppendString(dst, strings.Join(path, "."), f.ASCII)
	dst = append(dst, `,"args":`...)
	dst, sent, err := appendArgs(dst, Classic, a, s.exportFunction, f)
	if err != nil {
		return dst, sent.fresh, err
	}
	if o.op == isNew {
		dst = append(dst, `,"type":"construct"`...)
	} else {
		dst = append(dst, `,"type":"request"`...)
	}
	if len(sent.ids) > 0 {
		dst = append(dst, `,"callbackIds":`...)
		dst = appendStrings(dst, sent.ids, f)
	}
	return append(dst, classicEnd...), sent.fresh, nil
}

func (s *Session) appendCompact(dst []byte, o *outCall, path []string, a outArgs) (_ []byte, fresh []string, err error) {
	f := s.form
	dst = append(append(append(dst, `{"t":"q","id":"`...), o.id...), `","op":"`...)
	switch o.op {
	case isGet:
		dst = append(dst, "get"...)
	case isSet:
		dst = append(dst, "set"...)
	case isNew:
		dst = append(dst, "new"...)
	default:
		dst = append(dst, "call"...)
	}
	dst = append(dst, `","p":`...)
	dst = appendStrings(dst, path, f)
	var sent sentFunctions
	switch o.op {
	case isGet:
	case isSet:
		dst = append(dst, `,"v":`...)
		dst, err = appendValue(dst, Compact, lastOf(a), f)
	default:
		dst = append(dst, `,"a":`...)
		dst, sent, err = appendArgs(dst, Compact, a, s.exportFunction, f)
	}
	if err == nil {
		dst = appendMeta(dst, o.call, f)
	}
	return append(dst, '}'), sent.fresh, err
}

// appendMeta adds the trace context of a compact request and how often it was
// forwarded, as far as there is something to tell.
func appendMeta(dst []byte, c *rpc.Call, f rpc.Form) []byte {
	if c.Trace.Parent == "" && c.Hops == 0 {
		return dst
	}
	dst = append(dst, `,"meta":{`...)
	if t := c.Trace; t.Parent != "" {
		dst = append(dst, `"traceparent":`...)
		dst = append(rpc.AppendString(dst, t.Parent, f.ASCII), ',')
		if t.State != "" {
			dst = append(dst, `"tracestate":`...)
			dst = append(rpc.AppendString(dst, t.State, f.ASCII), ',')
		}
	}
	if c.Hops > 0 {
		dst = append(dst, `"hops":`...)
		dst = append(strconv.AppendInt(dst, int64(c.Hops), 10), ',')
	}
	dst[len(dst)-1] = '}'
	return dst
}

// lastOf is the value of a set.
func lastOf(a outArgs) rpc.Value {
	if len(a.list) == 0 || a.list[len(a.list)-1].IsUndefined() {
		return rpc.Null
	}
	return a.list[len(a.list)-1]
}

func appendStrings(dst []byte, list []string, f rpc.Form) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = rpc.AppendString(dst, s, f.ASCII)
	}
	return append(dst, ']')
}

// answered handles a response of the peer; one that nobody waits for is dropped.
func (s *Session) answered(b *rpc.Batch, m *message) {
	id := text(m.id)
	s.mu.Lock()
	o := s.pending[id]
	if o != nil && o.d == m.dialect {
		delete(s.pending, id)
	}
	s.mu.Unlock()
	if o == nil || o.d != m.dialect {
		return
	}
	v, fail := m.value, m.fail
	if m.dialect == Classic {
		args := m.typed("args", m.args)
		v, _ = args.Member("result")
		fail, _ = args.Member("error")
		v = bytesIn(v)
	} else {
		v = m.typed("v", v)
	}
	if !fail.IsUndefined() && !fail.IsNull() {
		o.call.Finish(b, rpc.Value{}, fromWire(m.dialect, fail))
		return
	}
	if in := s.streamOf(o, v); in != nil {
		if err := s.enterSink(in); err != nil {
			o.call.Finish(b, rpc.Value{}, err)
			return
		}
		late := new(lateSource)
		late.be(in.r.Attach(o.call.Open(b, late)))
		return
	}
	o.call.Finish(b, v, nil)
}

// streamOf returns the stream that an answer announces, nil if it is a value.
func (s *Session) streamOf(o *outCall, v rpc.Value) *inStream {
	if o.op != isCall {
		return nil
	}
	if o.d == Compact {
		if sid, ok := streamMarker(v); ok {
			return &inStream{s: s, d: Compact, key: sid, id: sid}
		}
		return nil
	}
	if hasMember(v, classicStream) {
		if x, _ := v.Member(classicStream); x.Kind() == 't' {
			return &inStream{s: s, d: Classic, key: classicKey([]byte(`"` + o.id + `"`)), id: o.id}
		}
	}
	return nil
}

// lateSource is a Source that is known a moment after it is needed.
type lateSource struct {
	mu     sync.Mutex
	src    rpc.Source
	credit int
	cause  *rpc.Error
}

func (l *lateSource) be(src rpc.Source) {
	l.mu.Lock()
	l.src = src
	n, cause := l.credit, l.cause
	l.mu.Unlock()
	if cause != nil {
		src.Stop(cause)
	} else if n > 0 {
		src.Grant(n)
	}
}

func (l *lateSource) Grant(n int) {
	l.mu.Lock()
	src := l.src
	if src == nil {
		l.credit += n
	}
	l.mu.Unlock()
	if src != nil {
		src.Grant(n)
	}
}

func (l *lateSource) Stop(cause *rpc.Error) {
	l.mu.Lock()
	src := l.src
	if src == nil {
		l.cause = cause
		if cause == nil {
			l.cause = rpc.ErrCancelled
		}
	}
	l.mu.Unlock()
	if src != nil {
		src.Stop(cause)
	}
}
