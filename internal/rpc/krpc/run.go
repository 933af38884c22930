package krpc

import (
	"cmp"
	"fmt"
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// run runs the call of the request, after the hook, and answers.
func (x *exchange) run(q *request) {
	conf := &x.server.conf
	if f := x.authenticate(q); f != nil {
		x.answerFailure(f)
		return
	}
	if x.Unproven != nil && !x.proved {
		x.refused(ReasonUnproven)
		x.answerError(x.Unproven)
		return
	}
	refer := x.r.Method != "GET" // a query has no files to refer to
	args, missing := arguments(q.params, x.files, refer)
	if missing != nil {
		x.answerFailure(missing)
		return
	}
	link := rpc.NewLink(conf.Gate)
	link.Quota = x.Quota
	x.mu.Lock()
	x.link = link
	stopping := x.stopping
	x.mu.Unlock()
	if x.OnLink != nil {
		x.OnLink(link)
	}
	if stopping {
		link.Close(rpc.ErrShutdown, 0)
	}
	x.watching = true
	go x.watch() // ends with the connection: see close

	if conf.Hook != "" {
		hookArgs, missing := arguments(q.hook, x.files, refer)
		if missing != nil {
			x.answerFailure(missing)
			return
		}
		if o := x.call(conf.Hook, hookArgs); o.err != nil {
			x.answerError(o.err)
			return
		} else if o.stream != nil {
			o.stream.Close(rpc.ErrCancelled)
		}
	}
	switch o := x.call(q.method, args); {
	case o.stream != nil:
		x.answerStream(o.stream)
	case o.err != nil:
		x.answerError(o.err)
	case o.file != nil:
		x.answerFile(o.file)
	case o.binary:
		x.answer(200, "", typeBinary, o.body)
	default:
		x.answer(200, "", typeJSON, o.body)
	}
}

// call makes one call and waits for its answer, or for the stream that it is.
func (x *exchange) call(method string, args rpc.Args) *outcome {
	m := lookup(x.server.conf.Table, method)
	o := &outcome{limit: x.server.conf.Limits.Result, done: make(chan struct{})}
	c := &rpc.Call{
		Args: args, Peer: x.Peer, Protocol: rpc.Krpc, Reply: o,
		Trace: rpc.ParseTrace(x.r.Header.Get("Traceparent"), x.r.Header.Get("Tracestate")),
		Unary: m == nil || !streamsBytes(m),
	}
	var t rpc.Target = m
	if m == nil {
		t = rpc.TargetFunc(func(b *rpc.Batch, c *rpc.Call) { c.Finish(b, rpc.Value{}, rpc.NoMethod(cmp.Or(method, "None"))) })
	}
	var b rpc.Batch
	b.Begin()
	x.link.Start(&b, t, c)
	b.Flush()
	<-o.done
	return o
}

// streamsBytes reports whether the answer of m is the body itself: a stream of bytes.
func streamsBytes(m *rpc.Method) bool { return m.StreamOut && m.Result.Kind == rpc.KindBytes }

// outcome is how a call was answered. It is an rpc.Reply; its fields are read
// when done is closed.
type outcome struct {
	limit int
	done  chan struct{}
	once  sync.Once

	err    *rpc.Error
	body   []byte // of the answer
	binary bool   // body is not JSON
	file   *rpc.File
	stream *rpc.Reader
}

func (o *outcome) finish() { o.once.Do(func() { close(o.done) }) }

// Result takes the result.
func (o *outcome) Result(_ *rpc.Batch, c *rpc.Call, v rpc.Value) {
	defer o.finish()
	if raw, isText := v.Raw(); !isText {
		switch t := v.Tree().(type) {
		case rpc.Bytes:
			o.binary, o.body = true, t.Data
			return
		case *rpc.File:
			o.file = t
			return
		}
	} else if len(raw) > o.limit {
		o.fail(c, tooLong(o.limit))
		return
	}
	if v.IsUndefined() || v.IsNull() {
		o.body = []byte(`{"result": {}}`) // what a method without a result answers
		return
	}
	body, err := v.AppendJSON([]byte(`{"result": `), rpc.Form{})
	switch {
	case err != nil:
		o.fail(c, rpc.AsError(c, err))
	case len(body) > o.limit+16:
		o.fail(c, tooLong(o.limit))
	default:
		o.body = append(body, '}')
	}
}

func tooLong(limit int) *rpc.Error {
	return &rpc.Error{Code: rpc.CodeSerialization, Ran: rpc.RanYes, Message: fmt.Sprintf("the result has more than %d bytes", limit)}
}

// fail answers a call whose result cannot be carried.
func (o *outcome) fail(c *rpc.Call, e *rpc.Error) {
	o.err = e
	c.Undeliverable(e)
}

// Error takes the error.
func (o *outcome) Error(_ *rpc.Batch, _ *rpc.Call, e *rpc.Error) {
	o.err = e
	o.finish()
}

// Open begins a streamed answer: bytes become the body, other items an array.
func (o *outcome) Open(_ *rpc.Batch, c *rpc.Call, src rpc.Source) rpc.Sink {
	if c.Unary {
		return rpc.Collect(c, src)
	}
	o.stream = rpc.NewReader(src)
	o.finish()
	return o.stream
}

// Own copies nothing: what the call refers to stays as long as the exchange.
func (o *outcome) Own() {}
