package kkrpc

import (
	"github.com/hubd-dev/hubd/internal/rpc"
)

// A function that crosses the connection stays where it is: the other side gets
// an id and sends invocations, which nobody answers.

// callbackID is how references to functions of the peer carry their id (rpc.Ref.ID).
type callbackID string

// imported is a function of the peer for as long as somebody here holds it.
type imported struct {
	id    string
	d     Dialect
	holds int
}

// maxDue is how many releases may wait for a quiet moment.
const maxDue = 1024

// importCallback returns a reference, with a hold, to the peer's function.
func (s *Session) importCallback(d Dialect, id string) (*rpc.Ref, *rpc.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended != nil:
		return nil, errGone
	case s.entriesLocked() >= s.limits.MaxEntries:
		return nil, errTables
	}
	x := s.imports[id]
	if x == nil || x.d != d {
		x = &imported{id: id, d: d}
		s.imports[id] = x
	}
	x.holds++
	s.held++
	delete(s.due, id)
	r := rpc.NewRef(&callbackTarget{s, x.id, d}, func() { s.dropCallback(x) })
	r.OneWay, r.Owner, r.ID = true, s, callbackID(id)
	return r, nil
}

// dropCallback gives one hold back. A compact peer is told when nobody holds
// the function any more; a classic one keeps it as long as the connection.
func (s *Session) dropCallback(x *imported) {
	s.mu.Lock()
	s.held--
	if x.holds--; x.holds > 0 || s.imports[x.id] != x {
		s.mu.Unlock()
		return
	}
	delete(s.imports, x.id)
	if x.d == Compact && s.ended == nil {
		if s.due == nil {
			s.due = make(map[string]struct{})
		}
		s.due[x.id] = struct{}{}
	}
	s.mu.Unlock()
	s.sayReleases()
}

// anythingDue reports whether there is something to release.
func (s *Session) anythingDue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.due) > 0
}

// sayReleases tells the peer which functions it may forget, once none of its
// calls is running: one that is on its way may mention the same function again,
// and JavaScript peers drop the function for that call as well. A peer that
// waits for the answer of its last call before it makes the next is always safe,
// since the release is sent before that answer.
func (s *Session) sayReleases() {
	s.mu.Lock()
	if len(s.due) == 0 || s.ended != nil || s.running > 0 && len(s.due) < maxDue {
		s.mu.Unlock()
		return
	}
	p := getScratch()
	out := append((*p)[:0], `{"t":"cbr","ids":[`...)
	first := true
	for id := range s.due {
		if !first {
			out = append(out, ',')
		}
		first = false
		out = rpc.AppendString(out, id, s.form.ASCII)
	}
	s.due = nil
	s.mu.Unlock()
	out = append(out, "]}"...)
	_ = s.send(nil, Compact, out) // what a peer that has left keeps is its own affair
	putScratch(p, out)
}

// callbackTarget invokes a function of the peer.
type callbackTarget struct {
	s  *Session
	id string
	d  Dialect
}

// Start sends the invocation. It is finished, without a result, as soon as it
// is queued and the peer keeps up: that slows down whoever waits for it.
func (t *callbackTarget) Start(b *rpc.Batch, c *rpc.Call) {
	s := t.s
	switch {
	case c.Get:
		c.Finish(b, rpc.Value{}, nil)
		return
	case len(c.Path) > 0:
		c.Finish(b, rpc.Value{}, rpc.NoMethod(c.Path[0].Name))
		return
	}
	p := getScratch()
	out, err := s.appendInvocation((*p)[:0], t, argsOut(&c.Args))
	if err != nil {
		c.Finish(b, rpc.Value{}, err)
		return
	}
	err = s.send(b, t.d, out)
	putScratch(p, out)
	switch {
	case err != nil:
		c.Finish(b, rpc.Value{}, errGone)
	case s.link.Out != nil && s.link.Out.Crowded():
		s.link.Out.OnRoom(func() { c.Finish(nil, rpc.Value{}, s.goneOr(nil)) })
	default:
		c.Finish(b, rpc.Value{}, nil)
	}
}

// goneOr returns why the session is over, or err while it is not.
func (s *Session) goneOr(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return errGone
	}
	return err
}

func (s *Session) appendInvocation(dst []byte, t *callbackTarget, a outArgs) ([]byte, error) {
	export := s.exportFunction
	if t.d == Classic {
		export = func(*rpc.Ref) (string, bool, error) {
			return "", false, invalid("arguments of a callback cannot be functions in this dialect")
		}
		dst = append(dst, `{"id":"`...)
		dst = append(append(dst, s.newID()...), `","method":`...)
		dst = rpc.AppendString(dst, t.id, s.form.ASCII)
		dst = append(dst, `,"args":`...)
	} else {
		dst = append(dst, `{"t":"cb","id":`...)
		dst = rpc.AppendString(dst, t.id, s.form.ASCII)
		dst = append(dst, `,"a":`...)
	}
	dst, sent, err := appendArgs(dst, t.d, a, export, s.form)
	if err != nil {
		s.unexport(sent.fresh)
		return dst, err
	}
	if t.d == Classic {
		dst = append(dst, `,"type":"callback"`...)
		return append(dst, classicEnd...), nil
	}
	return append(dst, '}'), nil
}

// exportFunction gives a function of ours an id that the peer may invoke. The
// same function keeps its id; fresh tells that it had none.
func (s *Session) exportFunction(r *rpc.Ref) (id string, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id, ok := s.exportIDs[r]; ok {
		return id, false, nil
	}
	switch {
	case s.ended != nil:
		return "", false, errGone
	case s.entriesLocked() >= s.limits.MaxEntries:
		return "", false, errTables
	}
	id = s.newID()
	if s.exports == nil {
		s.exports, s.exportIDs = make(map[string]*rpc.Ref), make(map[*rpc.Ref]string)
	}
	s.exports[id], s.exportIDs[r] = r.Retain(), id
	return id, true, nil
}

// unexport takes functions back that were never sent, or that the peer released.
func (s *Session) unexport(ids []string) {
	for _, id := range ids {
		s.mu.Lock()
		r := s.exports[id]
		if r != nil {
			delete(s.exports, id)
			delete(s.exportIDs, r)
		}
		s.mu.Unlock()
		if r != nil {
			r.Release()
		}
	}
}

// invoked handles an invocation of a function of ours; unknown ids are dropped.
func (s *Session) invoked(b *rpc.Batch, m *message) {
	id := text(m.method)
	if m.dialect == Compact {
		id = text(m.id)
	}
	s.mu.Lock()
	r := s.exports[id]
	if r != nil {
		r.Retain()
	}
	s.mu.Unlock()
	if r == nil {
		return
	}
	defer r.Release()
	a, err := s.arguments(m, nil)
	if err != nil {
		return
	}
	c := &rpc.Call{Args: a.args, Refs: a.refs, Peer: s.peer.Load(), Protocol: rpc.Kkrpc, Unary: true, Reply: oneWay{}, Client: s.client}
	s.link.Start(b, r.Target, c)
}

// released handles the peer's word that it will not invoke functions any more.
func (s *Session) released(m *message) {
	var ids []string
	for v := range m.ids.Elements() {
		if len(ids) > s.limits.MaxEntries { // more than there can be
			break
		}
		ids = append(ids, text(v))
	}
	s.unexport(ids)
}

// oneWay is the Reply of an invocation: nobody is told.
type oneWay struct{}

func (oneWay) Result(*rpc.Batch, *rpc.Call, rpc.Value)                 {}
func (oneWay) Error(*rpc.Batch, *rpc.Call, *rpc.Error)                 {}
func (oneWay) Open(_ *rpc.Batch, c *rpc.Call, src rpc.Source) rpc.Sink { return rpc.Collect(c, src) }
func (oneWay) Own()                                                    {}
