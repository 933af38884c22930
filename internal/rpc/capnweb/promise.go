package capnweb

import (
	"slices"
	"strings"
	"sync/atomic"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// promise is a value that is there or will be: the result of a call, a part of
// another value, an object. It is what the export table holds, and the rpc.Reply
// of the call that makes it.
//
// What comes while a promise settles is still queued; it counts as done when
// the queue is empty, seen under the lock. So calls on one promise start in
// the order in which they came, whatever goroutine settles it.
type promise struct {
	s     *Session
	level int // of the chain of promises that waits for this one

	// Guarded by Session.mu.
	bytes   int // that the value takes; see held.go
	holds   int // who needs the value; at 0 it is given back, or the call cancelled
	settled bool
	call    *rpc.Call // that runs and may be cancelled; it goes when p settles, since it holds its arguments
	missing int       // arguments that are not known yet
	queue   []func(*rpc.Batch)

	done atomic.Bool // everything below is final

	value   rpc.Value
	fail    *rpc.Error
	refs    []*rpc.Ref
	streams []rpc.Readable

	// The operation that makes the value. Owned by whoever runs it.
	base *promise
	path []rpc.PathPart
	get  bool
	list []rpc.Value
	args *payload
	kept int // bytes of list and path that are counted
	hops int // of the call whose answer asks for it
}

// trampoline is how many promises of a chain settle on one stack.
const trampoline = 256

func newPromise(s *Session) *promise { return &promise{s: s, holds: 1} }

// settledWith returns a promise with one hold for what was evaluated; it
// settles when the holes in it are filled.
func settledWith(s *Session, b *rpc.Batch, pl *payload) *promise {
	p := newPromise(s)
	pl.v = pl.v.Own()
	if len(pl.holes) == 0 {
		n := pl.size()
		if !s.hold(n) {
			pl.drop(rpc.ErrCancelled)
			return failed(s, s.overHeld(rpc.RanNo))
		}
		p.value, p.refs, p.streams, p.bytes = pl.v, pl.refs, pl.streams, n
		p.settled = true
		p.done.Store(true)
		return p
	}
	p.list, p.args = []rpc.Value{pl.v}, pl
	p.gather(b, func(b *rpc.Batch) {
		out := payload{v: p.list[0]}
		err := p.adopt(&out)
		p.endArgs(&out)
		if err != nil {
			out.drop(err)
		}
		p.settle(b, &out, err)
	})
	return p
}

// failed returns a promise with one hold that is rejected.
func failed(s *Session, e *rpc.Error) *promise {
	p := newPromise(s)
	p.fail, p.settled = e, true
	p.done.Store(true)
	return p
}

// after queues f to run when p is done; q is what waits. It reports false, and
// keeps nothing, when p is done already.
func (p *promise) after(q *promise, f func(*rpc.Batch)) bool {
	if p.done.Load() {
		return false
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.done.Load() {
		return false
	}
	if q != nil {
		q.level = max(q.level, p.level+1)
	}
	p.queue = append(p.queue, f)
	return true
}

// settle decides p and runs what waits for it, in order. A second call gives
// its value back.
func (p *promise) settle(b *rpc.Batch, pl *payload, fail *rpc.Error) {
	s := p.s
	n := 0
	if fail == nil {
		n = pl.size()
	}
	s.mu.Lock()
	if fail == nil && !p.settled && !s.holdLocked(n) {
		s.mu.Unlock()
		pl.drop(rpc.ErrCancelled)
		p.settle(b, new(payload), s.overHeld(rpc.RanYes))
		return
	}
	if p.settled {
		s.mu.Unlock()
		pl.drop(rpc.ErrCancelled)
		return
	}
	p.settled, p.call = true, nil
	p.value, p.refs, p.streams, p.fail, p.bytes = pl.v, pl.refs, pl.streams, fail, n
	far := p.level%trampoline == trampoline-1 && len(p.queue) > 0
	s.mu.Unlock()
	if far {
		go p.wake(nil) // a long chain must not grow the stack; ends when the queue is empty
		return
	}
	p.wake(b)
}

func (p *promise) wake(b *rpc.Batch) {
	s := p.s
	s.mu.Lock()
	for len(p.queue) > 0 {
		f := p.queue[0]
		p.queue[0] = nil
		p.queue = p.queue[1:]
		s.mu.Unlock()
		f(b)
		s.mu.Lock()
	}
	p.queue = nil
	p.done.Store(true)
	unused := p.holds == 0
	if unused {
		p.uncountLocked()
	}
	s.mu.Unlock()
	if unused {
		p.dispose()
	}
}

func (p *promise) uncountLocked() {
	p.s.held -= int64(p.bytes)
	p.bytes = 0
}

func (p *promise) hold() *promise {
	p.s.mu.Lock()
	p.holds++
	p.s.mu.Unlock()
	return p
}

// unref gives a hold back. With the last one the value is given back, or the
// call cancelled that would make it.
func (p *promise) unref() {
	s := p.s
	s.mu.Lock()
	p.holds--
	last := p.holds == 0
	drop := last && p.done.Load()
	running := p.call
	if drop {
		p.uncountLocked()
	}
	s.mu.Unlock()
	switch {
	case drop:
		p.dispose()
	case last && running != nil:
		running.Cancel(rpc.ErrCancelled)
	}
}

func (p *promise) dispose() {
	pl := payload{refs: p.refs, streams: p.streams}
	p.refs, p.streams = nil, nil
	pl.drop(errUnread)
}

// reference returns the reference that p turned out to be, with a hold for the
// caller; nil when it is something else or not known. The caller has a hold on p.
func (p *promise) reference() *rpc.Ref {
	if !p.done.Load() || p.fail != nil {
		return nil
	}
	if r, ok := p.value.AsRef(); ok {
		return r.Retain()
	}
	return nil
}

// operate makes p the outcome of reading a property of base, or of calling it
// with the arguments in list, whose holdings are in args. It takes the caller's
// hold on base.
func (p *promise) operate(b *rpc.Batch, base *promise, path []rpc.PathPart, get bool, list []rpc.Value, args *payload) {
	if args == nil {
		args = new(payload)
	}
	p.base, p.path, p.get, p.list, p.args = base, path, get, list, args
	if !base.done.Load() {
		if !p.keepArgs() { // before anybody else may run it
			p.reject(b, p.s.overHeld(rpc.RanNo))
			return
		}
		if base.after(p, p.follow) {
			return
		}
	}
	p.follow(b)
}

// follow runs when base is settled.
func (p *promise) follow(b *rpc.Batch) {
	base := p.base
	if base.fail != nil {
		p.reject(b, base.fail)
		return
	}
	v := base.value
	for i, part := range p.path {
		if r, ok := v.AsRef(); ok {
			p.reach(b, r, p.path[i:])
			return
		}
		if v.IsUndefined() {
			p.reject(b, readOfUndefined(part.Name))
			return
		}
		v, _ = step(v, part)
	}
	switch r, ok := v.AsRef(); {
	case p.get:
		out := payload{v: v}
		err := p.adopt(&out)
		p.finishBase()
		p.endArgs(&out)
		p.settle(b, &out, err)
	case ok:
		p.reach(b, r, nil)
	default:
		p.reject(b, notFunction(joinPath(p.path)))
	}
}

func joinPath(path []rpc.PathPart) string {
	var s strings.Builder
	for i, part := range path {
		if i > 0 {
			s.WriteByte('.')
		}
		s.WriteString(part.Name)
	}
	return s.String()
}

func (p *promise) finishBase() {
	if base := p.base; base != nil {
		p.base = nil
		base.unref()
	}
}

// reject ends an operation that is not carried out.
func (p *promise) reject(b *rpc.Batch, e *rpc.Error) {
	p.finishBase()
	p.endArgs(nil)
	p.settle(b, new(payload), e)
}

// reach calls a reference, or reads its property, when the arguments are known.
func (p *promise) reach(b *rpc.Batch, r *rpc.Ref, path []rpc.PathPart) {
	if p.base != p.s.main {
		p.args.refs = append(p.args.refs, r.Retain()) // a release must not disturb the call
	}
	p.finishBase()
	if len(p.args.holes) == 0 {
		p.start(b, r.Target, path)
		return
	}
	p.gather(b, func(b *rpc.Batch) { p.start(b, r.Target, path) })
}

// gather runs next when all holes in the arguments are filled; a rejected one
// is the outcome of p, unchanged.
func (p *promise) gather(b *rpc.Batch, next func(*rpc.Batch)) {
	if !p.keepArgs() {
		p.reject(b, p.s.overHeld(rpc.RanNo))
		return
	}
	ready := func(b *rpc.Batch) {
		p.s.mu.Lock()
		p.missing--
		last := p.missing == 0
		p.s.mu.Unlock()
		if last {
			p.fillArgs(b, next)
		}
	}
	p.missing = len(p.args.holes) + 1
	for _, h := range p.args.holes {
		if !h.after(p, ready) {
			ready(b)
		}
	}
	ready(b)
}

func (p *promise) fillArgs(b *rpc.Batch, next func(*rpc.Batch)) {
	for _, h := range p.args.holes {
		if h.fail != nil {
			p.reject(b, h.fail)
			return
		}
	}
	for i, v := range p.list {
		if _, raw := v.Raw(); raw || v.IsUndefined() {
			continue
		}
		// The parts are bounded by themselves: look before copying what they share.
		if e := surveyHoles(v); e != nil {
			p.reject(b, e)
			return
		}
		p.list[i] = rpc.TreeValue(fill(v.Tree()))
	}
	next(b)
}

// surveyHoles is survey for a value with filled holes in it.
func surveyHoles(v rpc.Value) *rpc.Error {
	w := walker{}
	w.holes = true
	return w.value(v, 0)
}

// start calls t. From here on the outcome comes through the rpc.Reply methods.
func (p *promise) start(b *rpc.Batch, t rpc.Target, path []rpc.PathPart) {
	if pipe, ok := t.(*pipe); ok {
		pipe.operate(b, p, path)
		return
	}
	s := p.s
	c := &rpc.Call{Path: path, Get: p.get}
	if main, ok := t.(*mainObject); ok && main == s.own {
		m, refused := main.method(path, p.get)
		switch {
		case refused != nil:
			p.Error(b, c, refused)
			return
		case m != nil:
			t, c.Path = m, nil
			if main.peer != nil {
				t = checked{m, main}
			}
		}
	}
	if !p.get {
		c.Args = rpc.ListArgs(p.list...)
	}
	c.Peer, c.Protocol, c.Reply, c.Unary = s.peer.Load(), rpc.Capnweb, p, s.unary
	c.Hops = p.hops
	c.Trace = s.trace
	if !s.unary {
		c.Client = s.client
	}
	s.link.Start(b, t, c)
	if p.done.Load() {
		return
	}
	s.mu.Lock()
	cancel := false
	if !p.settled {
		p.call = c
		cancel = p.holds == 0
	}
	s.mu.Unlock()
	if cancel {
		c.Cancel(rpc.ErrCancelled)
	}
}

// adopt makes a value of somebody else p's own: its references get a hold of
// their own, its streams are closed when nobody has taken them.
func (p *promise) adopt(out *payload) *rpc.Error {
	out.v = out.v.Own()
	if _, raw := out.v.Raw(); raw || out.v.IsUndefined() {
		return nil
	}
	w := walker{visit: func(node any) {
		switch n := node.(type) {
		case *rpc.Ref:
			if !slices.Contains(out.refs, n) {
				out.refs = append(out.refs, n.Retain())
			}
		case rpc.Readable:
			out.streams = append(out.streams, n)
		}
	}}
	err := w.value(out.v, 0)
	out.bytes = w.bytes
	return err
}

// endArgs gives back what the arguments held, but for streams that are part of
// the result.
func (p *promise) endArgs(result *payload) {
	args := p.args
	if args == nil {
		return
	}
	p.args, p.list, p.path = nil, nil, nil
	if p.kept > 0 {
		p.s.unhold(p.kept)
		p.kept = 0
	}
	if result != nil && len(result.streams) > 0 {
		args.streams = slices.DeleteFunc(args.streams, func(s rpc.Readable) bool { return slices.Contains(result.streams, s) })
	}
	args.drop(errUnread)
}

// Result takes the value that a method returned. References among the
// arguments are lent to the method; any other that it returns is given to p.
func (p *promise) Result(b *rpc.Batch, c *rpc.Call, v rpc.Value) {
	v = p.s.bind(v, c.Peer, p.lent)
	out := payload{v: v}
	err := p.adopt(&out)
	for _, r := range out.refs {
		if !p.lent(r) {
			r.Release() // the method's hold; adopt has taken another
		}
	}
	p.endArgs(&out)
	if err != nil {
		out.drop(err)
	}
	p.settle(b, &out, err)
}

// lent reports whether r came with the arguments.
func (p *promise) lent(r *rpc.Ref) bool {
	if p.args == nil {
		return false
	}
	if slices.Contains(p.args.refs, r) {
		return true
	}
	for _, h := range p.args.holes {
		if slices.Contains(h.refs, r) {
			return true
		}
	}
	return false
}

// Error takes the failure of a call.
func (p *promise) Error(b *rpc.Batch, _ *rpc.Call, e *rpc.Error) {
	p.endArgs(nil)
	p.settle(b, new(payload), e)
}

// Open makes the result a stream that the peer may read.
func (p *promise) Open(b *rpc.Batch, c *rpc.Call, src rpc.Source) rpc.Sink {
	if c.Unary {
		return rpc.Collect(c, src)
	}
	st := newStream(&resultSource{c, src})
	p.settle(b, &payload{v: rpc.TreeValue(st), streams: []rpc.Readable{st}}, nil)
	return &resultSink{p, bindSink{st, p.s, c.Peer}, st}
}

// Own does nothing: the promise borrows nothing but the arguments.
func (p *promise) Own() {}

// resultSource is the way back from the reader of a streamed result to the method.
type resultSource struct {
	c   *rpc.Call
	src rpc.Source
}

func (r *resultSource) Grant(n int) { r.src.Grant(n) }

// Stop ends the call; in a goroutine, since the call may just be opening the stream.
func (r *resultSource) Stop(cause *rpc.Error) { go r.c.Cancel(cause) }

// resultSink is the method's side of a streamed result.
type resultSink struct {
	p *promise
	bindSink
	st *stream
}

func (r *resultSink) End(b *rpc.Batch, err *rpc.Error) {
	r.p.endArgs(nil)
	r.st.End(b, err)
}

// promiseTarget is a promise passed as a reference: calls on it wait until it settles.
type promiseTarget struct{ p *promise }

// Start waits and follows in a loop: a promise may have become another one, and
// that again, for as long as a client likes.
func (t promiseTarget) Start(b *rpc.Batch, c *rpc.Call) {
	for {
		if !t.p.done.Load() {
			c.Own()
			if t.p.after(nil, func(b *rpc.Batch) { t.Start(b, c) }) {
				return
			}
		}
		next := t.next(b, c)
		if next == nil {
			return
		}
		further, ok := next.(promiseTarget)
		if !ok {
			next.Start(b, c)
			return
		}
		t = further
	}
}

// next returns what answers c, nil when it was answered here.
func (t promiseTarget) next(b *rpc.Batch, c *rpc.Call) rpc.Target {
	if t.p.fail != nil {
		c.Finish(b, rpc.Value{}, t.p.fail)
		return nil
	}
	v := t.p.value
	for {
		if r, ok := v.AsRef(); ok {
			return r.Target
		}
		if len(c.Path) == 0 {
			break
		}
		if v.IsUndefined() {
			c.Finish(b, rpc.Value{}, readOfUndefined(c.Path[0].Name))
			return nil
		}
		v, _ = step(v, c.Path[0])
		c.Path = c.Path[1:]
	}
	if !c.Get {
		c.Finish(b, rpc.Value{}, notFunction("stub"))
		return nil
	}
	c.Finish(b, v, nil)
	return nil
}
