package rpc

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Protocol names a protocol in calls, logs and metrics.
type Protocol string

// The protocols.
const (
	Kollabor Protocol = "kollabor"
	Kkrpc    Protocol = "kkrpc"
	Capnweb  Protocol = "capnweb"
	Krpc     Protocol = "krpc"
	Snekrpc  Protocol = "snekrpc"
)

// Protocols lists them all.
func Protocols() []Protocol { return []Protocol{Kollabor, Kkrpc, Capnweb, Krpc, Snekrpc} }

// Reply is how a call speaks its protocol; usually the protocol's own struct
// around the Call. Exactly one of Result and Error is called, or Open whose
// Sink gets one End. Nothing here blocks; v is borrowed.
type Reply interface {
	Result(b *Batch, c *Call, v Value)
	Error(b *Batch, c *Call, e *Error)
	// Open begins a streamed answer. A protocol or caller that takes no
	// streams returns Collect(c, src).
	Open(b *Batch, c *Call, src Source) Sink
	// Own copies what the protocol borrowed for this call, such as its id.
	Own()
}

// Call is one invocation, and the context.Context of its handler. A protocol
// makes it and starts it with Link.Start; it is never pooled and never reused.
//
// The exported fields are set before Start. As a context it is cheap: Done,
// Value and derived contexts make a real context on first use.
type Call struct {
	Method   *Method
	Path     []PathPart // what is left to follow from the target
	Get      bool       // a property is read, nothing is called
	Args     Args
	Peer     *Peer
	Protocol Protocol
	Trace    TraceContext
	Reply    Reply
	Client   Target        // the caller's own API; nil when it has none
	Input    Readable      // the caller's stream that is no argument of its own; nil when there is none
	Refs     []*Ref        // references among the arguments: released when the call ends
	Unary    bool          // the caller takes one value: streams are collected
	Timeout  time.Duration // what the caller asked for; 0 leaves it to the method
	Grace    time.Duration // how long after the deadline the answer is held back
	Hops     int           // how often it was forwarded on its way here; see MaxHops
	Key      string        // the caller's id, unique among its calls in flight; "" for none. May be set by Reply.Own

	link     *Link
	quota    *Quota // in which it is counted; set by Start
	id       uint64 // set by Own
	weight   int64  // of Args in memory; set by Own
	began    time.Time
	deadline time.Time
	slowAt   time.Time
	next     time.Time // next stop of the link's timer; guarded by link.mu
	index    int       // in the link's heap, -1 when not; guarded by link.mu
	holding  bool      // the deadline is over, its answer is held back; guarded by link.mu
	owned    bool      // guarded by the goroutine that runs Start
	slow     atomic.Bool
	state    atomic.Uint32
	endless  atomic.Bool // a stream has begun: the deadline holds no more

	mu     sync.Mutex
	inner  context.Context // made on first use
	cancel context.CancelCauseFunc
	cause  *Error // why the context ended
	hook   func(cause *Error)
	sink   *callSink // the streamed answer, once open
	inputs []*Reader // the streams that the handler reads
	held   *Error    // the answer that Grace holds back
	fault  *Error    // why the result could not be carried; for the goroutine that concludes
}

// States of a call.
const (
	running uint32 = iota
	settled
)

type callKey struct{}

// From returns the call whose context ctx is or derives from, nil if there is none.
func From(ctx context.Context) *Call {
	if c, ok := ctx.(*Call); ok {
		return c
	}
	c, _ := ctx.Value(callKey{}).(*Call)
	return c
}

// begin starts the call at t without a link.
func (c *Call) begin(b *Batch, t Target) {
	c.index = -1
	c.began = b.Now()
	defer recoverCall(c)
	t.Start(b, c)
}

// ID returns the hub's number of the call; 0 before Own.
func (c *Call) ID() uint64 { return c.id }

// Began returns when the call was complete.
func (c *Call) Began() time.Time { return c.began }

// Link returns the connection side of the call; nil for calls of Go code.
func (c *Call) Link() *Link { return c.link }

// Slow reports whether the call was reported as slow while it ran.
func (c *Call) Slow() bool { return c.slow.Load() }

// Settled reports whether the answer is decided.
func (c *Call) Settled() bool { return c.state.Load() == settled }

// Own copies the borrowed parts and registers the call with its link: from now
// on it can be cancelled, is timed and listed. Only the goroutine that runs
// Start may call it, before Start returns.
func (c *Call) Own() {
	if c.owned {
		return
	}
	c.owned = true
	c.Args.Own()
	c.weight = int64(c.Args.weight())
	c.Reply.Own()
	c.id = callIDs.Add(1)
	if c.link != nil {
		c.link.register(c)
	}
}

var callIDs atomic.Uint64

// Finish answers the call. The first of Finish, deadline, cancel and the end
// of the connection wins; a later answer is counted and dropped. It may be
// called from any goroutine, never blocks, and borrows v. It reports whether
// this was the answer.
func (c *Call) Finish(b *Batch, v Value, err error) bool {
	if !c.state.CompareAndSwap(running, settled) {
		c.late()
		return false
	}
	var e *Error
	if err != nil {
		e = AsError(c, err)
	}
	c.conclude(b, v, e, nil)
	return true
}

// Cancel ends the call with cause: the caller is answered, the context ends,
// the hook runs. Nothing happens when the answer is already decided.
func (c *Call) Cancel(cause *Error) {
	if !c.state.CompareAndSwap(running, settled) {
		return
	}
	c.conclude(nil, Value{}, cause, cause)
}

// expire is Cancel for the deadline, with the answer held back if the call has Grace.
func (c *Call) expire() {
	if !c.state.CompareAndSwap(running, settled) {
		return
	}
	if c.Grace <= 0 || c.link == nil {
		c.conclude(nil, Value{}, errDeadline, errDeadline)
		return
	}
	c.mu.Lock()
	c.held = errDeadline
	c.mu.Unlock()
	c.endContext(errDeadline)
	c.link.hold(c, time.Now().Add(c.Grace))
}

// conclude does what follows once the answer is decided, by whoever decided it.
// cause is set when the call was cancelled.
func (c *Call) conclude(b *Batch, v Value, e *Error, cause *Error) {
	if c.owned && c.link != nil {
		c.link.remove(c) // before the answer is written: its id may come again at once
	}
	c.mu.Lock()
	sink, inputs := c.sink, c.inputs
	c.inputs = nil
	c.mu.Unlock()
	switch {
	case sink != nil:
		sink.end(b, e)
	case e != nil:
		c.Reply.Error(b, c, e)
	default:
		c.Reply.Result(b, c, v)
	}
	c.endContext(cause)
	for _, r := range inputs {
		r.Close(cause)
	}
	if c.Input != nil {
		c.Input.Close(cause)
	}
	for _, r := range c.Refs {
		r.Release()
	}
	if c.link != nil {
		if c.fault != nil {
			e = c.fault
		}
		c.link.done(c, e, b.tick().Sub(c.began))
	}
}

// Undeliverable is for a Reply that finds in Result that it cannot carry the
// value: it tells the caller by itself, and the observer hears of e instead of
// a success.
func (c *Call) Undeliverable(e *Error) { c.fault = e }

// reads notes that the handler reads r: the first item taken ends the deadline,
// and the end of the call ends r, whoever made it.
func (c *Call) reads(r *Reader) {
	r.mu.Lock()
	r.call = c
	r.mu.Unlock()
	c.mu.Lock()
	over := c.state.Load() == settled
	if !over {
		c.inputs = append(c.inputs, r)
	}
	c.mu.Unlock()
	if over {
		r.Close(ErrCancelled)
	}
}

// Reads is for functions that read a stream of their call as they get it, not
// as a parameter of Handle: the first item taken ends the deadline, and the end
// of the call ends r.
func (c *Call) Reads(r *Reader) { c.reads(r) }

// late counts an answer that came after the call was settled.
func (c *Call) late() {
	if c.link != nil && c.link.gate.Observer != nil {
		c.link.gate.Observer.Late(c)
	}
}

// endContext ends the handler's context, if one was made, and runs the hook of
// a cancelled call. cause is nil after a regular answer.
func (c *Call) endContext(cause *Error) {
	c.mu.Lock()
	if c.cause != nil {
		c.mu.Unlock()
		return
	}
	c.cause = cause
	if cause == nil {
		c.cause = errFinished
	}
	cancel := c.cancel
	hook := c.hook
	c.hook = nil
	c.mu.Unlock()
	if cancel != nil {
		cancel(c.cause)
	}
	if hook != nil && cause != nil {
		hook(cause)
	}
}

var errFinished = &Error{Code: CodeCancelled, Message: "the call has been answered"}

// OnCancel sets what a forwarding target does when the call is cancelled; it
// runs without locks, at once if that has already happened. There is one slot.
func (c *Call) OnCancel(f func(cause *Error)) {
	c.mu.Lock()
	cause := c.cause
	if cause == nil {
		c.hook = f
	}
	c.mu.Unlock()
	if cause != nil && cause != errFinished {
		f(cause)
	}
}

// Open makes the answer a stream: items go into the returned Sink against the
// credit that src hears of, and its End finishes the call.
func (c *Call) Open(b *Batch, src Source) Sink {
	s := &callSink{c: c}
	c.mu.Lock()
	if c.state.Load() == settled || c.sink != nil {
		c.mu.Unlock()
		s.closed = true
		src.Stop(ErrCancelled)
		return s
	}
	s.src = src
	s.mu.Lock() // until the wire's sink is there, nothing may pass
	c.sink = s
	c.mu.Unlock()
	s.wire = c.Reply.Open(b, c, src)
	s.mu.Unlock()
	return s
}

// endCause says why a settled call has ended. Its context may be a moment behind.
func (c *Call) endCause() *Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.cause != nil:
		return c.cause
	case c.held != nil:
		return c.held
	}
	return ErrCancelled
}

// Deadline returns when the call ends at the latest. There is none any more
// once a stream has begun.
func (c *Call) Deadline() (time.Time, bool) {
	if c.endless.Load() || c.deadline.IsZero() {
		return time.Time{}, false
	}
	return c.deadline, true
}

// Done returns a channel that is closed when the call ends.
func (c *Call) Done() <-chan struct{} { return c.context().Done() }

// Err returns why the call has ended, nil while it runs.
func (c *Call) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.cause == nil:
		return nil
	case c.cause.Code == CodeDeadlineExceeded:
		return context.DeadlineExceeded
	default:
		return context.Canceled
	}
}

// Value returns the call for its own key; there are no others.
func (c *Call) Value(key any) any {
	if _, ok := key.(callKey); ok {
		return c
	}
	return c.context().Value(key)
}

// context makes the real context. Its Value and Done let derived contexts
// attach to it without a goroutine.
func (c *Call) context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.cancel = context.WithCancelCause(context.Background())
		if c.cause != nil {
			c.cancel(c.cause)
		}
	}
	return c.inner
}

// CallClient calls a method of the caller's own API and waits for the answer
// under ctx, which is usually bounded by a limit of the method's own.
func (c *Call) CallClient(ctx context.Context, path []PathPart, args ...Value) (Value, error) {
	if c.Client == nil {
		return Value{}, &Error{Code: CodeUnavailable, Message: "the caller cannot be called", Ran: RanNo}
	}
	return Do(ctx, c.Client, &Call{Path: path, Args: ListArgs(args...), Peer: c.Peer, Protocol: c.Protocol, Trace: c.Trace})
}
