package capnweb

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Default limits of a session.
const (
	DefaultMaxMessage = 32 << 20
	DefaultMaxEntries = 100000
	DefaultMaxOps     = 10000
	DefaultMaxHeld    = 128 << 20
	DefaultBatchWait  = 30 * time.Second
)

// Names of the limits that the observer of the Gate is told of.
const (
	LimitMessage    = "capnweb_message"
	LimitEntries    = "capnweb_entries"
	LimitOperations = "capnweb_operations"
	LimitBatch      = "capnweb_batch"
	LimitPing       = "websocket_ping"
)

// Limits bound what one session may cost. Zero fields have the defaults.
type Limits struct {
	MaxMessage int // bytes of one WebSocket message or of one batch
	MaxEntries int // exports and imports together
	MaxOps     int // calls and property reads that one message asks for, those of maps included
	MaxHeld    int // bytes of values that are kept for the peer
}

func (l Limits) withDefaults() Limits {
	if l.MaxMessage <= 0 {
		l.MaxMessage = DefaultMaxMessage
	}
	if l.MaxEntries <= 0 {
		l.MaxEntries = DefaultMaxEntries
	}
	if l.MaxOps <= 0 {
		l.MaxOps = DefaultMaxOps
	}
	if l.MaxHeld <= 0 {
		l.MaxHeld = DefaultMaxHeld
	}
	return l
}

// transport takes whole messages, which it copies.
type transport interface {
	send(b *rpc.Batch, msg []byte) error
	// abort sends a last message and closes with the given reason; msg may be nil.
	abort(msg []byte, reason string)
}

// Session is one end of a Cap'n Web session. Receive is for one goroutine at a
// time, everything else may be called by many.
type Session struct {
	wire   transport
	link   *rpc.Link
	peer   atomic.Pointer[rpc.Peer]
	own    *mainObject      // what export 0 is, when it is a method table
	main   *promise         // export 0
	client rpc.Target       // the peer's main object
	unary  bool             // a batch: no streams, and the peer cannot be called
	trace  rpc.TraceContext // of the request that began it
	limits Limits

	observer Observer // may be nil

	mu      sync.Mutex     // see the package comment
	broken  *protocolError // why this side aborted; nil when it did not
	exports map[int64]*export
	imports map[int64]*imported
	lastIn  int64 // id of the last result that the peer asked for
	lastOut int64 // id of the last result that we asked for
	lastNeg int64 // id of the last export that we chose
	modern  bool  // the peer knows URLs and kinds of bytes: it has sent one
	ended   *rpc.Error
	owed    int // pulled promises that have not been answered
	paid    chan struct{}
	scratch []byte

	held     int64 // bytes of values; see held.go
	answered int64 // answers that the peer has not released
	paidBack int64 // those that it has
}

// export is something that the peer may name.
type export struct {
	p         *promise
	count     int
	resolving bool
	auto      bool    // goes with its answer
	answered  bool    // the peer is to release it as soon as it has looked at the answer
	readable  *stream // the reading end of a pipe, until it is taken
	pipe      *pipe
}

// newSession returns a session whose main object is main; a nil main is the
// object of a peer that offers none.
func newSession(wire transport, link *rpc.Link, peer *rpc.Peer, main rpc.Target, limits Limits) *Session {
	s := &Session{
		wire: wire, link: link, limits: limits.withDefaults(),
		exports: make(map[int64]*export), imports: make(map[int64]*imported),
		paid: make(chan struct{}, 1),
	}
	s.peer.Store(peer)
	if main == nil {
		main = rpc.TargetFunc(func(b *rpc.Batch, c *rpc.Call) {
			c.Finish(b, rpc.Value{}, &rpc.Error{Code: rpc.CodeHandler, Message: "This connection has no main object.", Ran: rpc.RanNo})
		})
	}
	if table, ok := main.(*mainObject); ok {
		s.own = &mainObject{table.table, table.peer, s}
		main = s.own
	}
	s.main = newPromise(s)
	s.main.value = rpc.TreeValue(rpc.NewRef(main, nil))
	s.main.settled = true
	s.main.done.Store(true)
	s.exports[0] = &export{p: s.main, count: 1}
	s.client = &importTarget{s: s}
	return s
}

// SetPeer changes on whose behalf later calls run.
func (s *Session) SetPeer(p *rpc.Peer) { s.peer.Store(p) }

// Peer returns on whose behalf calls run now.
func (s *Session) Peer() *rpc.Peer { return s.link.Peer(s.peer.Load()) }

// Entries returns how many exports (without the main object) and imports there are.
func (s *Session) Entries() (exports, imports int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(len(s.exports)-1, 0), len(s.imports)
}

// unreleased returns how many answers the peer has not released, and how many it has.
func (s *Session) unreleased() (owed, paid int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answered, s.paidBack
}

func (s *Session) isModern() {
	s.mu.Lock()
	s.modern = true
	s.mu.Unlock()
}

// errEnded is what Receive returns after the session has ended.
var errEnded = errors.New("session has ended")

// Receive handles one message, which is borrowed. An error means that the
// session is over: it has been aborted, by the peer or because of this message.
func (s *Session) Receive(b *rpc.Batch, msg []byte) error {
	s.mu.Lock()
	ended := s.ended != nil
	over := len(s.exports)+len(s.imports) > s.limits.MaxEntries+1
	s.mu.Unlock()
	if ended {
		return errEnded
	}
	if s.observer != nil {
		s.observer.MessageIn(len(msg))
	}
	err := s.receive(b, msg)
	if err == nil && over {
		s.link.Rejected(LimitEntries)
		err = broken("too many exports and imports: more than %d", s.limits.MaxEntries)
	}
	if err == nil {
		return nil
	}
	if pe, ok := errors.AsType[*protocolError](err); ok {
		s.abort(pe)
		return err
	}
	if me, ok := errors.AsType[*mapError](err); ok {
		s.abort(&protocolError{"Error", me.message, me.message})
	}
	return err
}

// receive dispatches one message.
func (s *Session) receive(b *rpc.Batch, msg []byte) error {
	if len(msg) > s.limits.MaxMessage {
		s.link.Rejected(LimitMessage)
		return &protocolError{name: "RangeError", message: fmt.Sprintf("message is longer than %d bytes", s.limits.MaxMessage)}
	}
	from := rpc.SkipSpace(msg, 0)
	n, t, err := rpc.ScanNested(msg[from:], maxNesting)
	if err != nil {
		if se, ok := errors.AsType[*rpc.SyntaxError](err); ok && se.Deep {
			return errDeep
		}
		return &protocolError{name: "SyntaxError", message: "message is not valid JSON: " + err.Error()}
	}
	if end := rpc.SkipSpace(msg, from+n); end != len(msg) || t.Has(rpc.HasNonFinite) {
		return &protocolError{name: "SyntaxError", message: "message is not valid JSON: text after the value, or a number that is none"}
	}
	msg = msg[from : from+n]
	bad := func() error { return quoting("Error", "bad RPC message: %s", msg) }
	if msg[0] != '[' {
		return bad()
	}
	e := &evaluator{s: s, b: msg, i: 1, batch: b, budget: newBudget(s.limits.MaxOps)}
	if !e.more() {
		return bad()
	}
	kind, ok := e.literal()
	if !ok {
		return bad()
	}
	switch string(kind) {
	case `"push"`, `"stream"`:
		if !e.more() {
			return bad()
		}
		return s.push(b, e, kind[1] == 's')
	case `"pull"`:
		id, err := e.id(bad)
		if err != nil {
			return err
		}
		return s.pull(b, id)
	case `"release"`:
		id, err := e.id(bad)
		if err != nil {
			return err
		}
		if !e.more() {
			return bad()
		}
		n, ok := e.integer()
		if !ok {
			return bad()
		}
		return s.release(id, n)
	case `"resolve"`, `"reject"`:
		id, err := e.id(bad)
		if err != nil {
			return err
		}
		if !e.more() {
			return bad()
		}
		e.hops = s.hopsOf(id)
		p, err := e.expression()
		if err != nil {
			return err
		}
		s.settled(b, id, p, string(kind) == `"reject"`)
		return nil
	case `"pipe"`:
		s.openPipe()
		return nil
	case `"abort"`:
		return s.aborted(e)
	}
	return bad()
}

// id reads an id operand. A number that is no id names nothing.
func (e *evaluator) id(bad func() error) (int64, error) {
	if !e.more() {
		return 0, bad()
	}
	from := e.i
	id, ok := e.integer()
	if ok {
		return id, nil
	}
	if c := e.b[from]; c == '-' || c >= '0' && c <= '9' {
		return 0, quoting("Error", "no such export ID: %s", e.b[from:e.i])
	}
	return 0, bad()
}

// push evaluates an expression and keeps it under the next id.
func (s *Session) push(b *rpc.Batch, e *evaluator, auto bool) error {
	p, err := e.expression()
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		p.unref()
		return errEnded
	}
	s.lastIn++
	id := s.lastIn
	x := &export{p: p, count: 1, auto: auto}
	s.exports[id] = x
	s.mu.Unlock()
	if auto {
		s.resolve(b, id, x)
	}
	return nil
}

func (s *Session) pull(b *rpc.Batch, id int64) error {
	s.mu.Lock()
	x := s.exports[id]
	s.mu.Unlock()
	if x == nil {
		return broken("no such export ID: %d", id)
	}
	s.resolve(b, id, x)
	return nil
}

// resolve answers for x when its value is known; once.
func (s *Session) resolve(b *rpc.Batch, id int64, x *export) {
	s.mu.Lock()
	if x.resolving {
		s.mu.Unlock()
		return
	}
	x.resolving = true
	s.owed++
	s.mu.Unlock()
	if !x.p.after(nil, func(b *rpc.Batch) { s.answer(b, id, x) }) {
		s.answer(b, id, x)
	}
}

// answer sends the value of an export, or its error. Encoding and queueing are
// one step, so that no release can name an export before the peer knows it.
func (s *Session) answer(b *rpc.Batch, id int64, x *export) {
	b, flush := batched(b)
	defer flush()
	s.mu.Lock()
	s.owed--
	if s.owed == 0 {
		select {
		case s.paid <- struct{}{}:
		default:
		}
	}
	if s.ended != nil || s.exports[id] != x {
		s.mu.Unlock()
		return
	}
	p := x.p
	e := encoder{s: s, out: s.scratch[:0], reply: true}
	fail := p.fail
	var undone []*promise
	if fail == nil {
		e.out = append(e.out, `["resolve",`...)
		e.out = append(strconv.AppendInt(e.out, id, 10), ',')
		e.value(p.value)
		e.end("]")
		if e.err != nil {
			fail = e.err
			undone = e.undo()
			e = encoder{s: s, out: e.out[:0], reply: true}
		}
	}
	if fail != nil {
		e.reject(id, fail)
	}
	pumps := e.finish(b)
	if x.auto {
		delete(s.exports, id)
	} else if id > 0 {
		x.answered = true
		s.answered++
	}
	s.mu.Unlock()
	for _, ps := range pumps {
		ps.begin(b)
	}
	for _, u := range undone {
		u.unref()
	}
	if x.auto {
		p.unref()
	}
}

// reject writes the answer for a promise that failed; without what the error
// carries beside its message when that is too much.
func (e *encoder) reject(id int64, fail *rpc.Error) {
	begin := func() {
		e.out = append(e.out[:0], `["reject",`...)
		e.out = append(strconv.AppendInt(e.out, id, 10), ',')
	}
	begin()
	e.tree(fail)
	e.end("]")
	if e.err != nil {
		name, message := wireName(fail)
		begin()
		e.errorForm(name, message, nil)
		e.text("]")
	}
}

// finish queues the message and, before it, those that open its pipes.
func (e *encoder) finish(b *rpc.Batch) []pumpStart {
	s := e.s
	for range e.pumps {
		_ = s.wire.send(b, []byte(`["pipe"]`))
	}
	_ = s.wire.send(b, e.out) // a transport that fails ends the session by itself
	if cap(e.out) <= 64<<10 {
		s.scratch = e.out[:0]
	}
	return e.pumps
}

// batched returns a batch to queue messages with and what to do after the lock
// is released: nothing may be written under it.
func batched(b *rpc.Batch) (*rpc.Batch, func()) {
	if b != nil {
		return b, func() {}
	}
	own := new(rpc.Batch)
	return own, own.Flush
}

// release takes n mentions of an export back.
func (s *Session) release(id, n int64) error {
	s.mu.Lock()
	x := s.exports[id]
	switch {
	case x == nil:
		s.mu.Unlock()
		return broken("no such export ID: %d", id)
	case id == 0: // the main object lives as long as the session
		s.mu.Unlock()
		return nil
	case n < 1:
		s.mu.Unlock()
		return broken("bad release count: %d", n)
	case n > int64(x.count):
		s.mu.Unlock()
		return broken("refcount would go negative: %d < %d", x.count, n)
	}
	x.count -= int(n)
	gone := x.count == 0
	if gone {
		delete(s.exports, id)
		if x.answered {
			s.answered--
			s.paidBack++
		}
	}
	s.mu.Unlock()
	if gone {
		x.drop(errUnclosed)
	}
	return nil
}

// drop gives up what an export held, once it is out of the table.
func (x *export) drop(cause *rpc.Error) {
	if x.pipe != nil {
		x.pipe.st.End(nil, cause) // does nothing after a regular end
		x.pipe.Stop(cause)
	}
	if x.readable != nil {
		x.readable.Close(errUnread)
	}
	x.p.unref()
}

// exportLocked gives r a new id.
func (s *Session) exportLocked(r *rpc.Ref) int64 {
	s.lastNeg--
	p := newPromise(s)
	p.value, p.refs = rpc.TreeValue(r), []*rpc.Ref{r.Retain()}
	p.settled = true
	p.done.Store(true)
	s.exports[s.lastNeg] = &export{p: p, count: 1}
	return s.lastNeg
}

// Abort ends the session because of the peer's or our own fault: it is told
// name and message, and everything of the session is given back.
func (s *Session) Abort(name, message string) {
	s.abort(&protocolError{name: name, message: message})
}

func (s *Session) abort(why *protocolError) {
	name, message := why.name, rpc.CutText(why.message, 1024)
	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		return
	}
	s.broken = why
	e := encoder{s: s, out: []byte(`["abort",`)}
	e.errorForm(name, message, nil)
	e.out = append(e.out, ']')
	s.mu.Unlock()
	s.End(&rpc.Error{Code: rpc.CodeUnavailable, Message: "the session was aborted: " + message})
	s.wire.abort(e.out, rpc.CutText(message, 123))
}

// fault returns why this side aborted the session, nil when it did not.
func (s *Session) fault() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		return nil
	}
	return s.broken
}

// aborted handles the peer's abort.
func (s *Session) aborted(e *evaluator) error {
	reason := "undefined"
	if e.more() {
		p, err := e.expression()
		if err != nil {
			return err
		}
		if x, ok := p.value.Tree().(*rpc.Error); ok && p.done.Load() {
			reason = x.Message
		} else if text, err := p.value.AsString(); err == nil {
			reason = text
		} else if raw, ok := p.value.Raw(); ok {
			reason = string(raw)
		}
		p.unref()
	}
	s.link.Goodbye()
	s.End(&rpc.Error{Code: rpc.CodeUnavailable, Message: "the other side aborted the session: " + rpc.CutText(reason, 512)})
	s.wire.abort(nil, rpc.CutText(reason, 123))
	return errEnded
}

// End gives everything back that the session holds: imports are broken,
// exports released, running calls cancelled. It sends nothing.
func (s *Session) End(cause *rpc.Error) {
	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		return
	}
	s.ended = cause
	exports, imports := s.exports, s.imports
	s.exports, s.imports = map[int64]*export{}, map[int64]*imported{}
	s.mu.Unlock()
	for _, x := range imports {
		x.fail(cause)
	}
	for _, x := range exports {
		if x.p != s.main {
			x.drop(cause)
		}
	}
	select {
	case s.paid <- struct{}{}:
	default:
	}
}

// Ended returns why the session is over, nil while it is not.
func (s *Session) Ended() *rpc.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}
