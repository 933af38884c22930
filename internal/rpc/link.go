package rpc

import (
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Link is the in-flight side of one connection: its registered calls by their
// ids, one heap of their next events, one timer. A protocol makes one per
// connection and starts every call through it.
type Link struct {
	Out   *Outbox // where replies go; may be nil. Set before the first Start
	Quota *Quota  // shared with the other links of the same user; may be nil
	Conn  any     // the hub's own record of the connection; set before the first Start

	gate  *Gate
	peer  atomic.Pointer[Peer]  // of later calls; nil: as the protocol says
	quota atomic.Pointer[Quota] // of later calls; nil: Quota
	n     atomic.Int64          // registered calls
	left  atomic.Bool           // the other end said goodbye
	subs  atomic.Int64          // subscriptions: calls of Endless methods, and see Call.Subscribe

	mu      sync.Mutex // before call, stream and outbox locks; never held while one of them is waited for
	byKey   map[string]*Call
	heap    []*Call // 4-ary, by next event
	timer   *time.Timer
	armed   time.Time // when the timer fires; zero when it is not set
	closed  *Error
	onClose []func()

	handlers atomic.Int64  // goroutine handlers that run
	quiet    chan struct{} // cap 1: told when there are none any more
}

// NewLink returns the in-flight side of a new connection. gate may be nil.
func NewLink(gate *Gate) *Link {
	if gate == nil {
		gate = new(Gate)
	}
	return &Link{gate: gate, quiet: make(chan struct{}, 1)}
}

// SetPeer changes on whose behalf later calls run, whatever their protocol
// says: the other end has authenticated as somebody else.
func (l *Link) SetPeer(p *Peer) { l.peer.Store(p) }

// Peer returns what SetPeer has set, else p.
func (l *Link) Peer(p *Peer) *Peer {
	if set := l.peer.Load(); set != nil {
		return set
	}
	return p
}

// Goodbye notes that the other end has said that it leaves for good, in the way
// of its protocol. What is kept for a while for those who come back goes with
// the link.
func (l *Link) Goodbye() { l.left.Store(true) }

// SaidGoodbye reports whether Goodbye was called.
func (l *Link) SaidGoodbye() bool { return l.left.Load() }

// Stopping reports whether the hub is shutting down.
func (l *Link) Stopping() bool { return l.gate.draining.Load() }

// SetQuota makes later calls count among those of somebody else: the other end
// has authenticated. Calls that run stay where they were counted.
func (l *Link) SetQuota(q *Quota) { l.quota.Store(q) }

// Start admits c and starts it at t: the one way for protocols to call. Every
// outcome, refusal and panic included, reaches c.Reply exactly once. Start
// never blocks.
func (l *Link) Start(b *Batch, t Target, c *Call) {
	c.link = l
	c.index = -1
	c.began = b.Now()
	c.Peer = l.Peer(c.Peer)
	if c.quota = l.quota.Load(); c.quota == nil {
		c.quota = l.Quota
	}
	if e := l.refuse(c, t); e != nil {
		c.Finish(b, Value{}, e)
		return
	}
	defer l.recover(b, c)
	t.Start(b, c)
}

// refuse says why c may not start, nil if it may.
func (l *Link) refuse(c *Call, t Target) *Error {
	g := l.gate
	m, isMethod := t.(*Method)
	if t == nil || isMethod && m == nil {
		return &Error{Code: CodeNotFound, Message: "method not found", Ran: RanNo}
	}
	if isMethod {
		c.Method = m
	}
	n := l.n.Load()
	switch {
	case g.draining.Load():
		return errDraining
	case max(n, l.handlers.Load()) >= int64(or(g.CallsPerLink, DefaultCallsPerLink)):
		// A handler that goes on after its call was cancelled counts, too.
		return l.Over(LimitCallsPerConnection, "too many calls in flight on this connection")
	case c.quota != nil && c.quota.n.Load() >= int64(or(g.CallsPerUID, DefaultCallsPerUID)):
		return l.Over(LimitCallsPerUID, "too many calls in flight for this user")
	case g.inFlight.Load() >= int64(or(g.Calls, DefaultCalls)):
		return l.Over(LimitCalls, "too many calls in flight")
	case l.Out != nil && l.Out.Busy():
		return l.Over(LimitOutbox, "too many bytes wait to be read by this client")
	case g.scarce.Load() && !(isMethod && m.light() && c.Args.weight() <= smallRequest):
		return l.Over(LimitMemory, "the hub is short of memory")
	}
	switch {
	case isMethod && !c.Peer.May(m):
		return c.Peer.Refusal(m)
	case !isMethod && c.Peer != nil && !c.Peer.Grant.Holds() && !onBehalf(t):
		return ErrRevoked // a reference is not worth more than what it was got by
	}
	if n > 0 && c.Key != "" && l.InFlight(c.Key) {
		return errDuplicate
	}
	if g.memory.Load() >= or(g.RequestMemory, DefaultRequestMemory) && c.Args.weight() > smallRequest {
		return l.Over(LimitRequestMemory, "the arguments of running calls hold too much memory")
	}
	return nil
}

// A Bound target is called on behalf of the peer that it was made for, whoever
// calls: it looks after permissions itself.
type Bound interface {
	Target
	Behalf() *Peer // nil: it is bound to nobody
}

func onBehalf(t Target) bool {
	b, ok := t.(Bound)
	return ok && b.Behalf() != nil
}

var errDuplicate = &Error{Code: CodeDuplicate, Message: "a call with this id is still in flight", Ran: RanNo}

// crowded says why the connection of c may have no further subscription, nil if it may.
func (c *Call) crowded() *Error {
	l, g := c.link, c.link.gate
	switch {
	case l.subs.Load() >= int64(or(g.SubscriptionsPerLink, DefaultSubscriptionsPerLink)):
		return l.Over(LimitSubscriptions, "too many subscriptions on this connection")
	case c.quota != nil && c.quota.subscriptions.Load() >= int64(or(g.SubscriptionsPerUID, DefaultSubscriptionsPerUID)):
		return l.Over(LimitSubscriptionsUID, "too many subscriptions of this user")
	}
	return nil
}

// Subscribe counts a subscription that outlives its call, such as a watch whose
// call has been answered with a reference; end takes it back. Calls of Endless
// methods are counted without it, and the limits looked at when they start.
func (c *Call) Subscribe() (end func()) {
	c.subscribe(1)
	return func() { c.subscribe(-1) }
}

func (c *Call) subscribe(by int64) {
	if c.link != nil {
		c.link.subs.Add(by)
	}
	if c.quota != nil { // where it was counted, should the connection have moved
		c.quota.subscriptions.Add(by)
	}
}

// Rejected tells the observer that something of the connection was refused
// because of a limit of its protocol.
func (l *Link) Rejected(limit string) { l.gate.Rejected(limit) }

// Over makes the error of a call that is refused because of a limit, and tells
// the observer. It must not be called under a lock.
func (l *Link) Over(limit, message string) *Error {
	l.gate.Rejected(limit)
	return &Error{Code: CodeOverloaded, Message: message, Ran: RanNo}
}

// recover turns a panic of a method into CodeInternal for its caller.
func (l *Link) recover(b *Batch, c *Call) {
	p := recover()
	if p == nil {
		return
	}
	if o := l.gate.Observer; o != nil {
		o.Panic(c, p, debug.Stack())
	}
	c.Finish(b, Value{}, errInternal)
}

var errInternal = &Error{Code: CodeInternal, Message: "internal error"}

// InFlight reports whether a registered call has that key.
func (l *Link) InFlight(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byKey[key] != nil
}

// Find returns the registered call with that key, nil if there is none.
func (l *Link) Find(key []byte) *Call {
	if l.n.Load() == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byKey[string(key)]
}

// N returns how many registered calls run.
func (l *Link) N() int { return int(l.n.Load()) }

// Calls returns the registered calls, in no order.
func (l *Link) Calls() []*Call {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Call(nil), l.heap...)
}

// Cancel ends the registered call with that key; unknown keys are ignored.
func (l *Link) Cancel(key []byte, cause *Error) {
	if c := l.Find(key); c != nil {
		c.Cancel(cause)
	}
}

// OnClose runs f when the link is closed, at once if it is already. Functions
// run in the order in which they were given, without locks.
func (l *Link) OnClose(f func()) {
	l.mu.Lock()
	if l.closed == nil {
		l.onClose = append(l.onClose, f)
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	f()
}

// Close cancels every running call with cause, refuses new registrations, runs
// the OnClose functions, and waits up to limit for handlers to end. It reports
// whether they did.
func (l *Link) Close(cause *Error, limit time.Duration) bool {
	l.mu.Lock()
	first := l.closed == nil
	if first {
		l.closed = cause
	}
	calls := append([]*Call(nil), l.heap...)
	run := l.onClose
	l.onClose = nil
	if l.timer != nil {
		l.timer.Stop() // it would hold on to all of this for up to an hour
	}
	l.mu.Unlock()
	for _, c := range calls {
		c.Cancel(cause)
		l.unhold(c)
	}
	for _, f := range run {
		f()
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	for l.handlers.Load() > 0 {
		select {
		case <-l.quiet:
		case <-t.C:
			return l.handlers.Load() == 0
		}
	}
	l.tellQuiet() // whoever else waits
	return true
}

// enter and leave count a goroutine handler. A nil Link counts nothing.
func (l *Link) enter() {
	if l != nil {
		l.handlers.Add(1)
	}
}

func (l *Link) leave() {
	if l != nil && l.handlers.Add(-1) == 0 {
		l.tellQuiet()
	}
}

func (l *Link) tellQuiet() {
	select {
	case l.quiet <- struct{}{}:
	default:
	}
}

// run starts a goroutine handler.
func (l *Link) run(c *Call, f func()) {
	l.enter()
	go func() { // Close waits for it
		defer l.leave()
		defer recoverCall(c)
		f()
	}()
}

// register enters c: see Call.Own.
func (l *Link) register(c *Call) {
	g := l.gate
	slow, deadline := or(g.Slow, DefaultSlow), c.Timeout
	if m := c.Method; m != nil {
		slow = or(m.Slow, slow)
		if deadline == 0 {
			deadline = m.Deadline
		}
	}
	if deadline == 0 {
		deadline = or(g.Deadline, DefaultDeadline)
	}
	if deadline > 0 {
		deadline = max(MinDeadline, min(deadline, or(g.MaxDeadline, MaxDeadline)))
		c.deadline = c.began.Add(deadline)
	}
	if slow > 0 {
		c.slowAt = c.began.Add(slow)
	}
	c.next = earlier(c.slowAt, c.deadline)
	l.mu.Lock()
	if c.Key != "" {
		if l.byKey[c.Key] != nil { // the key was not known before Own
			l.mu.Unlock()
			c.Finish(nil, Value{}, errDuplicate)
			return
		}
		if l.byKey == nil {
			l.byKey = make(map[string]*Call)
		}
		l.byKey[c.Key] = c
	}
	l.count(c, 1)
	l.gate.memory.Add(c.weight)
	l.push(c)
	l.armLocked()
	closed := l.closed
	l.mu.Unlock()
	if closed != nil {
		c.Cancel(closed)
	}
}

// remove takes c out; its answer is decided.
func (l *Link) remove(c *Call) {
	l.mu.Lock()
	if c.index < 0 {
		l.mu.Unlock()
		return
	}
	l.take(c)
	if c.Key != "" && l.byKey[c.Key] == c {
		delete(l.byKey, c.Key)
	}
	l.mu.Unlock()
	l.count(c, -1)
	l.gate.memory.Add(-c.weight)
}

// count notes that a call is registered, or no longer.
func (l *Link) count(c *Call, by int64) {
	l.n.Add(by)
	l.gate.inFlight.Add(by)
	if c.quota != nil {
		c.quota.n.Add(by)
	}
	if c.Method != nil && c.Method.Endless {
		c.subscribe(by)
	}
}

// done tells the observer.
func (l *Link) done(c *Call, e *Error, took time.Duration) {
	if o := l.gate.Observer; o != nil {
		o.Done(c, e, took)
	}
}

// disarm takes the slow mark and the deadline away: a stream has begun.
func (l *Link) disarm(c *Call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.index >= 0 && !c.holding {
		c.next = time.Time{}
		l.fix(c)
	}
}

// hold keeps an expired call in place until its answer may leave.
func (l *Link) hold(c *Call, until time.Time) {
	l.mu.Lock()
	if c.index < 0 || l.closed != nil {
		l.mu.Unlock()
		l.unhold(c)
		return
	}
	c.holding = true
	c.next = until
	l.fix(c)
	l.armLocked()
	l.mu.Unlock()
}

// unhold answers an expired call now.
func (l *Link) unhold(c *Call) {
	c.mu.Lock()
	e := c.held
	c.held = nil
	c.mu.Unlock()
	if e != nil {
		c.conclude(nil, Value{}, e, e)
	}
}

// armLocked sets the timer for the earliest event. It is never set back: a
// timer that fires early finds nothing due and is set anew.
func (l *Link) armLocked() {
	if len(l.heap) == 0 || l.heap[0].next.IsZero() || l.closed != nil {
		return
	}
	at := l.heap[0].next
	if !l.armed.IsZero() && !at.Before(l.armed) {
		return
	}
	l.armed = at
	if l.timer == nil {
		l.timer = time.AfterFunc(time.Until(at), l.tick)
	} else {
		l.timer.Reset(time.Until(at))
	}
}

// tick handles what is due.
func (l *Link) tick() {
	now := time.Now()
	var slow, expired []*Call
	l.mu.Lock()
	l.armed = time.Time{}
	for len(l.heap) > 0 {
		c := l.heap[0]
		if c.next.IsZero() || c.next.After(now) {
			break
		}
		if !c.slowAt.IsZero() && c.next.Equal(c.slowAt) && !c.Settled() {
			slow = append(slow, c)
			c.slowAt = time.Time{}
		}
		if !c.deadline.IsZero() && !c.deadline.After(now) {
			expired = append(expired, c)
			c.next = time.Time{}
		} else {
			c.next = c.deadline
		}
		l.fix(c)
	}
	l.armLocked()
	l.mu.Unlock()
	for _, c := range slow {
		if c.Settled() {
			continue
		}
		c.slow.Store(true)
		if o := l.gate.Observer; o != nil {
			o.Slow(c, now.Sub(c.began))
		}
	}
	for _, c := range expired {
		if c.Settled() {
			l.unhold(c)
		} else {
			c.expire()
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// The heap has four children per node: fewer levels to walk. A call without a
// next event sorts last.

func less(a, b *Call) bool {
	if a.next.IsZero() || b.next.IsZero() {
		return !a.next.IsZero()
	}
	return a.next.Before(b.next)
}

func (l *Link) push(c *Call) {
	c.index = len(l.heap)
	l.heap = append(l.heap, c)
	l.up(c.index)
}

func (l *Link) take(c *Call) {
	i, last := c.index, len(l.heap)-1
	l.swap(i, last)
	l.heap[last] = nil
	l.heap = l.heap[:last]
	c.index = -1
	if i < last {
		l.down(i)
		l.up(i)
	}
	if last == 0 && cap(l.heap) > 64 {
		l.heap, l.byKey = nil, nil // an idle connection keeps nothing
	}
}

func (l *Link) fix(c *Call) {
	l.down(c.index)
	l.up(c.index)
}

func (l *Link) swap(i, j int) {
	l.heap[i], l.heap[j] = l.heap[j], l.heap[i]
	l.heap[i].index, l.heap[j].index = i, j
}

func (l *Link) up(i int) {
	for i > 0 {
		parent := (i - 1) / 4
		if !less(l.heap[i], l.heap[parent]) {
			return
		}
		l.swap(i, parent)
		i = parent
	}
}

func (l *Link) down(i int) {
	for {
		first := 4*i + 1
		if first >= len(l.heap) {
			return
		}
		best := first
		for j := first + 1; j < min(first+4, len(l.heap)); j++ {
			if less(l.heap[j], l.heap[best]) {
				best = j
			}
		}
		if !less(l.heap[best], l.heap[i]) {
			return
		}
		l.swap(i, best)
		i = best
	}
}
