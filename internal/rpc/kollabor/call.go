package kollabor

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// grace is how long a timeout reply is held back from a peer that has not said
// hello: one whose own timer has the same length must see that one fire first.
const grace = 250 * time.Millisecond

// call is a call of the peer, and how its answer is written. For a method that
// runs on the reader it is the only memory that is needed.
type call struct {
	rpc.Call
	conn   *conn
	id     []byte // JSON text of the request id; borrowed until Own
	stream bool   // the caller takes the result as a stream
	in     *inStream

	// Guarded by conn.mu.
	early   uint64 // credit that came before the stream began
	counted bool   // ... and that some came
	held    bool   // no item is sent yet: see conn.fresh
}

var noParams = rpc.RawString("{}")

// request starts the call in c.frame.
func (c *conn) request() {
	f := &c.frame
	id := f.ID()
	switch {
	case id == nil:
		c.failed(&frame.Error{Reason: frame.NoRequestID, Text: "rpc_request without request_id"})
		c.refuseCall(nil, &rpc.Error{Code: rpc.CodeHandler, Message: "request_id is missing", Ran: rpc.RanNo})
		return
	case len(id) > maxID:
		c.failed(&frame.Error{Reason: frame.BadType, Text: "request_id is too long"})
		c.refuseCall(echoable(f.RequestID), rpc.Errorf(rpc.CodeInvalidParams, "request_id is longer than %d bytes", maxID))
		return
	case f.Method.IsUndefined():
		c.failed(&frame.Error{Reason: frame.NoMethod, Text: "rpc_request without method"})
		c.refuseCall(id, &rpc.Error{Code: rpc.CodeHandler, Message: "method is missing", Ran: rpc.RanNo})
		return
	case f.Method.Kind() == '{' || f.Method.Kind() == '[':
		c.failed(&frame.Error{Reason: frame.BadType, Text: "method is not a string"})
		c.refuseCall(id, &rpc.Error{Code: rpc.CodeHandler, Message: "method is not a string", Ran: rpc.RanNo})
		return
	}
	timeout, err := timeoutOf(f.Timeout)
	if err != nil {
		c.refuseCall(id, err)
		return
	}
	hops, err := rpc.ParseHops(f.Hops)
	if err != nil {
		c.refuseCall(id, err)
		return
	}
	name := f.MethodName()
	var target rpc.Target
	m := c.s.cfg.Table.LookupBytes(name)
	if m != nil && f.Method.Kind() == '"' {
		target = m
	} else {
		m = nil
		target = missing(name)
	}
	k := &call{conn: c, id: id, stream: f.Stream}
	k.Args = rpc.WholeArgs(params(f.Params))
	k.Peer = c.peer
	k.Protocol = rpc.Kollabor
	k.Trace = f.Trace()
	k.Hops = hops
	k.Reply = k
	k.Client = c.client
	k.Unary = !f.Stream
	k.Timeout = timeout
	if !c.modern.Load() {
		k.Grace = grace
	}
	if c.link.N() > 0 {
		k.Key = string(id) // so that a second use of it is noticed
	}
	if c.streaming.Load() > 0 && c.stream(id) != nil {
		c.refuseCall(id, &rpc.Error{Code: rpc.CodeDuplicate, Message: "a stream with this id has not ended", Ran: rpc.RanNo})
		return
	}
	if m != nil && takesStream(m, f.Stream) && !streamGiven(m, f.Params) {
		k.in = newInStream(k, f.Stream || c.modern.Load())
		k.Input = k.in.reader
	}
	if f.Stream && c.lines.Ready() {
		// The caller may have sent its credit along with the request: the first
		// items wait until that is known.
		k.held = true
		c.fresh = append(c.fresh, k)
	}
	c.link.Start(&c.batch, target, &k.Call)
}

// missing answers calls of a method that does not exist.
func missing(name []byte) rpc.Target {
	e := rpc.NoMethod(string(name[:min(len(name), 256)]))
	return rpc.TargetFunc(func(b *rpc.Batch, c *rpc.Call) { c.Finish(b, rpc.Value{}, e) })
}

// params are the arguments: what Python takes for false is none.
func params(v rpc.Value) rpc.Value {
	raw, _ := v.Raw()
	switch v.Kind() {
	case 0, 'n', 'f':
		return noParams
	case '"':
		if len(raw) == 2 {
			return noParams
		}
	case '[', '{':
		if raw[rpc.SkipSpace(raw, 1)] == raw[0]+2 { // ] and } are two behind [ and {
			return noParams
		}
	case '-', '0':
		if f, err := v.AsFloat(); err == nil && f == 0 {
			return noParams
		}
	}
	return v
}

// takesStream reports whether chunks of the caller are to be expected. A stream
// that may be left out comes only with calls that ask for streams: otherwise a
// call without it would wait for an end that nobody sends.
func takesStream(m *rpc.Method, stream bool) bool {
	for i := range m.Params {
		if m.Params[i].Stream {
			return stream || m.Params[i].Required
		}
	}
	return false
}

// streamGiven reports whether the positional arguments have an array in the
// place of the method's stream. One that is given by name is seen when the
// arguments are bound.
func streamGiven(m *rpc.Method, v rpc.Value) bool {
	if v.Kind() != '[' {
		return false
	}
	at := 0
	for i := range m.Params {
		if m.Params[i].Stream {
			at = i
			break
		}
	}
	i := 0
	for e := range v.Elements() {
		if i == at {
			return e.Kind() == '['
		}
		i++
	}
	return false
}

var errTimeout = &rpc.Error{
	Code: rpc.CodeInvalidParams, Ran: rpc.RanNo,
	Message: "timeout must be a number of seconds above zero",
}

// timeoutOf reads the timeout of a request. 0 means that it has none.
func timeoutOf(v rpc.Value) (time.Duration, *rpc.Error) {
	raw, _ := v.Raw()
	var seconds float64
	switch v.Kind() {
	case 0, 'n':
		return 0, nil
	case '"':
		text := strings.TrimSpace(frame.Text(v))
		if strings.ContainsAny(text, "xXpP_") { // Go's notations, not those of JSON or Python
			return 0, errTimeout
		}
		f, ok := number(text)
		if !ok {
			return 0, errTimeout
		}
		seconds = f
	case 'N', '{', '[', 't', 'f':
		return 0, errTimeout
	case 'I':
		seconds = math.Inf(1)
	default:
		if string(raw) == "30.0" { // what the Python client always sends
			return 30 * time.Second, nil
		}
		if len(raw) > 1 && raw[1] == 'I' { // -Infinity
			return 0, errTimeout
		}
		f, ok := number(string(raw))
		if !ok {
			return 0, errTimeout
		}
		seconds = f
	}
	switch {
	case !(seconds > 0):
		return 0, errTimeout
	case seconds >= rpc.MaxDeadline.Seconds():
		return rpc.MaxDeadline, nil
	default:
		return max(rpc.MinDeadline, time.Duration(seconds*float64(time.Second))), nil
	}
}

// number reads a float; what is too large is infinite, what is too small but
// not zero is the smallest there is.
func number(text string) (float64, bool) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	if f == 0 {
		mantissa, _, _ := strings.Cut(strings.ToLower(text), "e")
		if strings.ContainsAny(mantissa, "123456789") && !strings.HasPrefix(mantissa, "-") {
			f = math.SmallestNonzeroFloat64
		}
	}
	return f, true
}

// Own copies the id and makes it the key of the call.
func (k *call) Own() {
	if k.Key == "" {
		k.Key = string(k.id)
	}
	k.id = append(make([]byte, 0, len(k.id)), k.id...)
}

var errTooLarge = &rpc.Error{Code: rpc.CodeSerialization, Message: "result too large", Ran: rpc.RanYes}

// Result sends the reply of a call that went well.
func (k *call) Result(b *rpc.Batch, _ *rpc.Call, v rpc.Value) {
	n := 0
	var fault *rpc.Error
	err := k.conn.out.Append(b, func(dst []byte) []byte {
		from := len(dst)
		var err error
		dst, err = frame.AppendReply(dst, k.id, v)
		switch {
		case err != nil:
			fault = unserializable(err)
			dst = k.appendFailure(dst[:from], fault)
		case len(dst)-from-1 > frame.MaxLine:
			fault = errTooLarge
			dst = k.appendFailure(dst[:from], fault)
		}
		n = len(dst) - from
		return dst
	})
	if fault != nil {
		k.Undeliverable(fault)
	}
	if err == nil {
		k.conn.sent(b, frame.Reply, n)
	}
}

// unserializable is err as clients have always known it.
func unserializable(err error) *rpc.Error {
	const head = "result not json-serializable: "
	e := rpc.AsError(context.Background(), err)
	if e.Code != rpc.CodeSerialization || strings.HasPrefix(e.Message, head) {
		return e
	}
	c := *e
	c.Message = head + e.Message
	return &c
}

// Error sends the reply of a call that failed.
func (k *call) Error(b *rpc.Batch, _ *rpc.Call, e *rpc.Error) {
	k.conn.send(b, frame.Reply, func(dst []byte) []byte { return k.appendFailure(dst, e) })
}

func (k *call) appendFailure(dst []byte, e *rpc.Error) []byte {
	return frame.AppendFailure(dst, k.id, failure(e, k.Method, k.stream || k.conn.modern.Load()))
}

// Open begins a streamed answer.
func (k *call) Open(b *rpc.Batch, c *rpc.Call, src rpc.Source) rpc.Sink {
	if !k.stream {
		return rpc.Collect(c, src)
	}
	return openOutStream(k, src)
}
