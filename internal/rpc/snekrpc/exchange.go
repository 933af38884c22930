package snekrpc

import (
	"context"
	"errors"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// nameRemote is how the errors of a remote are called, whatever they are there.
const nameRemote = "RemoteError"

// Request is one call of a Client.
type Request struct {
	Service string
	Command string
	Args    []rpc.Value
	Named   []rpc.Named
	// Input is the stream that an argument stands for: one that is a Readable
	// itself. nil when there is none.
	Input rpc.Readable
	// Open is called when the answer is a stream, and returns what takes its
	// items, which are borrowed. nil: a streamed answer is an array.
	Open func() func(rpc.Value) error

	reads func(*rpc.Reader) // told of the reader of Input
}

// Call makes one call and waits for the end of its answer under ctx, whose end
// closes the connection: the protocol has no other way to cancel. Errors of the
// remote are handler errors named RemoteError. The value is the caller's.
func (c *Client) Call(ctx context.Context, r Request) (rpc.Value, error) {
	m := message{service: r.Service, command: r.Command}
	input := r.Input
	add := func(name string, v rpc.Value) arg {
		if s, ok := v.Tree().(rpc.Readable); ok {
			input = s
			return arg{name: name, stream: true}
		}
		return arg{name: name, value: v}
	}
	for _, v := range r.Args {
		m.args = append(m.args, add("", v))
	}
	for _, n := range r.Named {
		m.named = append(m.named, add(n.Name, n.Value))
	}
	var in *rpc.Reader
	if input != nil {
		in = rpc.ReaderOf(input)
		defer in.Close(rpc.ErrCancelled)
		if r.reads != nil {
			r.reads(in)
		}
	}
	if n := m.streams(); n > 1 || (n == 1) != (in != nil) {
		return rpc.Value{}, &rpc.Error{Code: rpc.CodeInvalidParams, Message: "a call takes one stream", Ran: rpc.RanNo}
	}
	k, err := c.get(ctx)
	if err != nil {
		return rpc.Value{}, err
	}
	x := exchange{k: k, in: in, open: r.Open}
	v, err := x.run(ctx, &m)
	if x.unsure && ctx.Err() == nil {
		go func() { c.put(k, x.realign()) }() // ends within realignTime
	} else {
		c.put(k, x.inStep && ctx.Err() == nil)
	}
	if err != nil && ctx.Err() != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
	}
	return v, err
}

// exchange is one call on a connection.
type exchange struct {
	k      *clientConn
	in     *rpc.Reader
	open   func() func(rpc.Value) error
	inStep bool // both sides are surely through: the connection can carry the next call
	unsure bool // they may be, after realign
	ended  bool // the end of the stream was sent; for the goroutine that sends it, then for run
}

func (x *exchange) run(ctx context.Context, m *message) (rpc.Value, error) {
	past := time.Unix(1, 0)
	stop := context.AfterFunc(ctx, func() { x.k.nc.SetDeadline(past) })
	defer stop()
	if err := x.k.send(func(dst []byte) ([]byte, error) { return appendCommand(dst, x.k.codec, m) }); err != nil {
		return rpc.Value{}, err
	}
	if x.in == nil {
		v, complete, err := x.answer()
		x.inStep = complete
		return v, err
	}
	inner, cancel := context.WithCancelCause(ctx)
	sent := make(chan error, 1)
	go func() { // ends with the stream, or when the answer is complete
		err := x.upload(inner)
		if err != nil && inner.Err() == nil {
			x.k.nc.SetDeadline(past) // no answer is waited for
		}
		sent <- err
	}()
	v, complete, err := x.answer()
	// A server that has answered may be through with the stream, or leave it
	// unread: then it is not sent to its end.
	var failed error
	forced, late := false, time.NewTimer(uploadGrace)
	defer late.Stop()
	if !complete || err != nil {
		cancel(rpc.ErrCancelled)
	}
	if !complete {
		x.k.nc.SetDeadline(past)
	}
	select {
	case failed = <-sent:
	case <-late.C:
		cancel(rpc.ErrCancelled)
		late.Reset(uploadGrace)
		select {
		case failed = <-sent:
		case <-late.C: // the server takes nothing
			forced = true
			x.k.nc.SetDeadline(past)
			failed = <-sent
		}
	}
	cancel(nil)
	x.unsure = complete && !forced && (failed == nil || errors.Is(failed, rpc.ErrCancelled) || errors.Is(failed, context.Canceled))
	if !complete && failed != nil && ctx.Err() == nil {
		if e, ok := errors.AsType[*rpc.Error](failed); !ok || e.Code != rpc.CodeUnavailable {
			err = failed // the caller's stream failed: that is why
		}
	}
	return v, err
}

// uploadGrace is how long the end of a stream may take whose answer is there already.
const uploadGrace = 200 * time.Millisecond

// upload sends the stream.
func (x *exchange) upload(ctx context.Context) error {
	k := x.k
	mark := func(what kind) error {
		return k.send(func(dst []byte) ([]byte, error) { return appendMark(dst, k.codec, what), nil })
	}
	if err := mark(startMsg); err != nil {
		return err
	}
	for v, err := range x.in.All(ctx) {
		if err == nil {
			err = k.send(func(dst []byte) ([]byte, error) { return appendData(dst, k.codec, v) })
		}
		if err != nil {
			return err
		}
	}
	err := mark(endMsg)
	x.ended = err == nil
	return err
}

// How long realign may take, and how many messages it drops.
const (
	realignTime = time.Second
	realignMost = 1 << 16
)

// realign brings a connection back into step that carried a stream. A server
// that did not read the stream to its end answers each message that is left,
// and nobody can see whether it did. But it answers the handshake at any time
// and in order: what comes before that answer belongs to the stream.
func (x *exchange) realign() bool {
	k := x.k
	if k.nc.SetDeadline(time.Now().Add(realignTime)) != nil {
		return false
	}
	if !x.ended && k.send(func(dst []byte) ([]byte, error) { return appendMark(dst, k.codec, endMsg), nil }) != nil {
		return false
	}
	if k.send(func(dst []byte) ([]byte, error) { return append(dst, handshake), nil }) != nil {
		return false
	}
	for range realignMost {
		msg, err := k.next()
		if err != nil {
			return false
		}
		if msg[0] == handshake {
			return true
		}
	}
	return false
}

// answer reads the answer. complete reports that it was read to its end, error
// messages included.
func (x *exchange) answer() (v rpc.Value, complete bool, err error) {
	var m message
	if err := x.k.receive(&m); err != nil {
		return v, false, err
	}
	switch m.kind {
	case dataMsg:
		return m.value.Own(), true, nil
	case errorMsg:
		return v, true, remoteError(&m)
	case startMsg:
	default:
		return v, false, errLost(unexpected(m.kind, "an answer"))
	}
	var items []rpc.Value
	size := 0
	take := func(v rpc.Value) error {
		if len(items) >= rpc.MaxCollected || size > rpc.MaxCollectedBytes {
			return &rpc.Error{Code: rpc.CodeTooLarge, Message: "the stream is too long for one answer", Ran: rpc.RanYes}
		}
		items = append(items, v.Own())
		return nil
	}
	if x.open != nil {
		take = x.open()
	}
	for {
		msg, err := x.k.next()
		if err != nil {
			return v, false, errLost(cut(err))
		}
		if err := x.k.codec.decode(msg, &m); err != nil {
			return v, false, errLost(err)
		}
		switch m.kind {
		case dataMsg:
			size += len(msg)
			if err := take(m.value); err != nil {
				return v, false, err
			}
		case endMsg:
			if x.open == nil {
				v = rpc.Array(items)
			}
			return v, true, nil
		case errorMsg:
			return v, true, remoteError(&m)
		default:
			return v, false, errLost(unexpected(m.kind, kindNames[dataMsg]))
		}
	}
}

// remoteError is an error message of the remote as it is told here: its
// traceback where it sent one, else its name and message.
func remoteError(m *message) *rpc.Error {
	text := m.trace
	if text == "" {
		text = m.name + ": " + m.text
	}
	return rpc.HandlerError(nameRemote, text)
}
