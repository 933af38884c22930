package capnweb

import (
	"strconv"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// importID and writableID are how references to the peer's exports carry
// their number (rpc.Ref.ID).
type (
	importID   int64
	writableID int64
)

// imported is something of the peer: a stub (negative ids), or a result that
// is due (answer is set).
type imported struct {
	mentions int // what a release has to count
	local    int // references to it
	answer   func(b *rpc.Batch, p *promise, rejected bool)
	broken   func(cause *rpc.Error) // the session ended before an answer
	hops     int                    // of the call that is to be answered
	pump     *pump                  // the stream that goes there
	quiet    bool                   // the answer of a stream message: it is not released
}

// fail tells that there will be no answer.
func (x *imported) fail(cause *rpc.Error) {
	if x.broken != nil {
		x.broken(cause)
	}
}

// importRef returns a new reference to the peer's export, whose mention it counts.
func (s *Session) importRef(id int64, writable bool) (*rpc.Ref, error) {
	if id >= 0 {
		return nil, broken("bad export ID: %d", id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return nil, errEnded
	}
	x := s.imports[id]
	if x == nil {
		x = new(imported)
		s.imports[id] = x
	}
	x.mentions++
	x.local++
	r := rpc.NewRef(&importTarget{s, id, x}, func() { s.releaseImport(id, x) })
	r.Owner = s
	r.ID = importID(id)
	if writable {
		r.ID = writableID(id)
	}
	return r, nil
}

// releaseImport gives one reference back; with the last one the peer is told.
func (s *Session) releaseImport(id int64, x *imported) {
	b, flush := batched(nil)
	defer flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	x.local--
	if x.local > 0 || x.answer != nil || s.imports[id] != x {
		return
	}
	delete(s.imports, id)
	s.sayRelease(b, id, x.mentions)
}

func (s *Session) sayRelease(b *rpc.Batch, id int64, n int) {
	var buf [64]byte
	msg := append(buf[:0], `["release",`...)
	msg = strconv.AppendInt(msg, id, 10)
	msg = append(msg, ',')
	msg = strconv.AppendInt(msg, int64(n), 10)
	_ = s.wire.send(b, append(msg, ']'))
}

// importPromise returns a promise that the peer will settle by itself.
func (s *Session) importPromise(id int64) (*promise, error) {
	if id >= 0 {
		return nil, broken("bad export ID: %d", id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return nil, errEnded
	}
	if s.imports[id] != nil {
		return failed(s, &rpc.Error{Code: rpc.CodeHandler, Ran: rpc.RanNo,
			Message: "Bug in RPC system: The peer sent a promise reusing an existing export ID."}), nil
	}
	p := newPromise(s)
	s.imports[id] = &imported{
		mentions: 1,
		answer: func(b *rpc.Batch, from *promise, rejected bool) {
			pl, fail := from.take(rejected)
			p.settle(b, &pl, fail)
		},
		broken: func(cause *rpc.Error) { p.settle(nil, new(payload), cause) },
	}
	return p, nil
}

// hopsOf returns how often the call was forwarded whose answer comes under id: what
// the answer asks for goes on from there.
func (s *Session) hopsOf(id int64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.imports[id]; x != nil {
		return x.hops
	}
	return 0
}

// settled handles the peer's answer p, of which it has the hold.
func (s *Session) settled(b *rpc.Batch, id int64, p *promise, rejected bool) {
	s.mu.Lock()
	x := s.imports[id]
	if x == nil || x.answer == nil {
		s.mu.Unlock()
		p.unref() // an answer that nobody waits for: give back what is in it
		return
	}
	delete(s.imports, id)
	if !x.quiet {
		s.sayRelease(b, id, x.mentions)
	}
	s.mu.Unlock()
	if !p.after(nil, func(b *rpc.Batch) { x.answer(b, p, rejected) }) {
		x.answer(b, p, rejected)
	}
}

// take ends the caller's hold on a settled promise and returns what it holds,
// with holds for the caller.
func (p *promise) take(rejected bool) (payload, *rpc.Error) {
	defer p.unref()
	if p.fail != nil {
		return payload{}, p.fail
	}
	if rejected {
		return payload{}, thrownValue(p.value)
	}
	pl := payload{v: p.value, streams: p.streams}
	for _, r := range p.refs {
		pl.refs = append(pl.refs, r.Retain())
	}
	p.s.mu.Lock()
	if p.holds == 1 {
		p.streams = nil // they go to the caller
	}
	p.s.mu.Unlock()
	return pl, nil
}

// importTarget calls an export of the peer.
type importTarget struct {
	s  *Session
	id int64
	of *imported // what id meant; nil for the main object
}

// errReleased is the error of a call on what was given back, which the peer no
// longer knows: to name it would end the session.
var errReleased = &rpc.Error{Code: rpc.CodeUnavailable, Message: "the reference was released", Ran: rpc.RanNo}

// givenBackLocked reports whether r, a reference to an export of the peer, was
// released. A method may still have it in hand when its call was cancelled.
func (s *Session) givenBackLocked(r *rpc.Ref) bool {
	t, ok := r.Target.(*importTarget)
	return ok && t.of != nil && s.imports[t.id] != t.of
}

// Start sends the call. It is answered by the peer, by its deadline, or by the
// end of the session.
func (t *importTarget) Start(b *rpc.Batch, c *rpc.Call) {
	c.Own()
	if c.Settled() {
		return
	}
	s := t.s
	x := &imported{mentions: 1, hops: c.Hops}
	x.answer = func(b *rpc.Batch, p *promise, rejected bool) {
		pl, fail := p.take(rejected)
		if fail != nil {
			c.Finish(b, rpc.Value{}, fail)
			return
		}
		if !c.Finish(b, pl.v, nil) { // else the references in it now belong to the caller
			pl.drop(rpc.ErrCancelled)
		}
	}
	x.broken = func(cause *rpc.Error) { c.Finish(nil, rpc.Value{}, gone(cause)) }
	id, err := s.call(b, t.id, t.of, c.Path, c.Get, &c.Args, x, true)
	if err != nil {
		c.Finish(b, rpc.Value{}, err)
		return
	}
	c.OnCancel(func(*rpc.Error) { s.forget(id, x) })
}

// gone is the error of a call whose session has ended: whether it ran is not known.
func gone(cause *rpc.Error) *rpc.Error {
	return &rpc.Error{Code: rpc.CodeUnavailable, Message: errGone.Message, Ran: rpc.RanUnknown}
}

// call queues a push, and a pull where the answer is wanted at once. of is what
// the target stands for, nil for the main object. That it is still there is
// seen under the lock under which a release is queued, so that none comes before.
func (s *Session) call(b *rpc.Batch, target int64, of *imported, path []rpc.PathPart, get bool, args *rpc.Args, x *imported, pull bool) (int64, *rpc.Error) {
	b, flush := batched(b)
	defer flush()
	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		return 0, errDisposed
	}
	if of != nil && s.imports[target] != of {
		s.mu.Unlock()
		return 0, errReleased
	}
	if len(s.exports)+len(s.imports) > s.limits.MaxEntries {
		s.mu.Unlock()
		s.link.Rejected(LimitEntries)
		return 0, &rpc.Error{Code: rpc.CodeOverloaded, Message: "too many exports and imports on this connection", Ran: rpc.RanNo}
	}
	e := encoder{s: s, out: s.scratch[:0]}
	e.text(`["push",["pipeline",`)
	e.out = strconv.AppendInt(e.out, target, 10)
	e.path(path)
	if !get {
		e.text(",[")
		e.depth = 1
		n := 0
		for v := range args.List() {
			if n > 0 {
				e.text(",")
			}
			e.value(v)
			n++
		}
		named := new(rpc.Map)
		for name, v := range args.ByName() {
			named.Set(name, v)
		}
		if len(named.Items) > 0 { // a last object, as JavaScript does it
			if n > 0 {
				e.text(",")
			}
			e.tree(named)
		}
		e.text("]")
	}
	e.end("]]")
	if e.err != nil {
		undone := e.undo()
		s.mu.Unlock()
		for _, u := range undone {
			u.unref()
		}
		if e.err.Ran == rpc.RanNo {
			return 0, e.err
		}
		fail := *e.err
		fail.Ran = rpc.RanNo // whatever is to blame, this call was not made
		return 0, &fail
	}
	pumps := e.finish(b)
	s.lastOut++
	id := s.lastOut
	s.imports[id] = x
	if pull {
		s.sayPull(b, id)
	}
	s.mu.Unlock()
	for _, ps := range pumps {
		ps.begin(b)
	}
	return id, nil
}

func (s *Session) sayPull(b *rpc.Batch, id int64) {
	var buf [32]byte
	msg := append(buf[:0], `["pull",`...)
	_ = s.wire.send(b, append(strconv.AppendInt(msg, id, 10), ']'))
}

func (e *encoder) path(path []rpc.PathPart) {
	e.text(",[")
	for i, part := range path {
		if i > 0 {
			e.text(",")
		}
		if part.IsIndex {
			e.out = strconv.AppendInt(e.out, int64(part.Index), 10)
		} else {
			e.str(part.Name)
		}
	}
	e.text("]")
}

// forget gives up a result that is due.
func (s *Session) forget(id int64, x *imported) {
	b, flush := batched(nil)
	defer flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.imports[id] == x {
		delete(s.imports, id)
		s.sayRelease(b, id, x.mentions)
	}
}
