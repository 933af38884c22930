package rpc

import (
	"context"
	"sync/atomic"
)

// Target is anything that can be called: methods, providers, capabilities,
// callbacks. Start never blocks, and keeps neither b nor borrowed parts of c
// beyond its return unless it calls c.Own. It may finish the call before it
// returns. Targets of one connection are started in arrival order.
type Target interface {
	Start(b *Batch, c *Call)
}

// TargetFunc is a function as a Target.
type TargetFunc func(b *Batch, c *Call)

// Start calls f.
func (f TargetFunc) Start(b *Batch, c *Call) { f(b, c) }

// Ref is a counted hold on a Target that lives in a connection (callback,
// capability) or in the hub (an object that a method returned). It begins with
// one hold, which belongs to whoever made it. After the owner is gone its
// Target answers with CodeUnavailable.
type Ref struct {
	Target Target
	OneWay bool // calls are never answered (kkrpc callbacks): they finish at once with undefined
	Owner  any  // the connection's side that made it, so that a protocol knows its own references; nil: the hub itself
	ID     any  // the owner's name for it

	holds    atomic.Int64
	released atomic.Bool
	release  func()
}

// NewRef returns a reference with one hold. release, which may be nil, runs
// once when the last hold is given back, outside all locks.
func NewRef(t Target, release func()) *Ref {
	r := &Ref{Target: t, release: release}
	r.holds.Store(1)
	return r
}

// Retain adds a hold and returns r.
func (r *Ref) Retain() *Ref {
	r.holds.Add(1)
	return r
}

// Release gives a hold back.
func (r *Ref) Release() {
	if r.holds.Add(-1) == 0 && r.release != nil && r.released.CompareAndSwap(false, true) {
		r.release()
	}
}

// Call calls r with positional arguments and waits for the answer under ctx.
// The references in the answer are the caller's: Drop gives them back.
func (r *Ref) Call(ctx context.Context, args ...Value) (Value, error) {
	c := &Call{Args: ListArgs(args...)}
	if from := From(ctx); from != nil {
		c.Peer, c.Protocol, c.Trace = from.Peer, from.Protocol, from.Trace
	}
	return Do(ctx, r.Target, c)
}

// Object is a Target made of named functions: what a method returns when it
// returns an object by reference. Its methods run as their Mode says.
type Object map[string]*Method

// Start follows the call's path by one step.
func (o Object) Start(b *Batch, c *Call) {
	if len(c.Path) == 0 {
		c.Finish(b, Value{}, &Error{Code: CodeInvalidParams, Message: "an object cannot be called", Ran: RanNo})
		return
	}
	name := c.Path[0].Name
	m := o[name]
	switch {
	case m == nil && c.Get:
		c.Finish(b, Value{}, nil)
	case m == nil:
		c.Finish(b, Value{}, NoMethod(name))
	default:
		c.Path = c.Path[1:]
		function{m}.Start(b, c)
	}
}

// function is a method of an object, which can be called, or read as a
// property and passed on by itself.
type function struct{ m *Method }

func (f function) Start(b *Batch, c *Call) {
	switch {
	case c.Get && len(c.Path) == 0:
		c.Finish(b, TreeValue(NewRef(f, nil)), nil)
	case c.Get: // a function has no properties
		c.Finish(b, Value{}, nil)
	case len(c.Path) > 0:
		c.Finish(b, Value{}, NoMethod(f.m.Name+"."+c.Path[0].Name))
	default:
		c.Method = f.m
		f.m.Start(b, c)
	}
}

// PathPart is one step of a path: a name, or an index.
type PathPart struct {
	Name    string
	Index   int
	IsIndex bool
}

// Do starts a call on t from Go code and waits for its answer under ctx; the
// call is cancelled with ctx. A streamed answer arrives as an array. Within a
// call it is a hop of it.
func Do(ctx context.Context, t Target, c *Call) (Value, error) {
	if from := From(ctx); from != nil {
		if c.Hops = max(c.Hops, from.Hops+1); c.Hops > MaxHops {
			return Value{}, ErrLoop
		}
	}
	a := &answer{done: make(chan struct{})}
	c.Reply = a
	c.Unary = true
	if d, ok := ctx.Deadline(); ok && c.deadline.IsZero() {
		c.deadline = d
	}
	c.begin(nil, t)
	stop := context.AfterFunc(ctx, func() {
		cause, ok := context.Cause(ctx).(*Error)
		if !ok {
			cause = ErrCancelled
			if ctx.Err() == context.DeadlineExceeded {
				cause = errDeadline
			}
		}
		c.Cancel(cause)
	})
	defer stop()
	<-a.done
	if a.err != nil {
		return Value{}, a.err
	}
	return a.v, nil
}

// answer is the Reply of a call that Go code waits for.
type answer struct {
	done chan struct{}
	v    Value
	err  *Error
}

func (a *answer) Result(_ *Batch, _ *Call, v Value) {
	a.v = v.Own()
	close(a.done)
}

func (a *answer) Error(_ *Batch, _ *Call, e *Error) {
	a.err = e
	close(a.done)
}

func (a *answer) Open(b *Batch, c *Call, src Source) Sink { return Collect(c, src) }
func (a *answer) Own()                                    {}
