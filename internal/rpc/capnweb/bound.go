package capnweb

import "github.com/hubd-dev/hubd/internal/rpc"

// A reference acts for the session that it was made in, whoever holds it: with
// the rights of that session's peer, for as long as they last. References to the
// methods of the hub are bound by themselves (mainObject); objects that methods
// return are bound when they reach a session.

// boundTarget is an object that a method has returned to a call on behalf of
// peer. Its calls go on being that peer's, and end with its permission.
type boundTarget struct {
	target rpc.Target
	peer   *rpc.Peer
}

var _ rpc.Bound = boundTarget{}

func (t boundTarget) Behalf() *rpc.Peer { return t.peer }

func (t boundTarget) Start(b *rpc.Batch, c *rpc.Call) {
	if !t.peer.Grant.Holds() {
		c.Finish(b, rpc.Value{}, rpc.ErrRevoked)
		return
	}
	c.Peer = t.peer
	t.target.Start(b, c)
}

// act answers c for the session that t was made in, while that lasts: the call
// counts there, and what depends on a connection depends on that one.
func (s *Session) act(b *rpc.Batch, c *rpc.Call, t rpc.Target) {
	rpc.Forward(b, c, rpc.TargetFunc(func(b *rpc.Batch, c *rpc.Call) {
		if s.Ended() != nil {
			c.Finish(b, rpc.Value{}, &rpc.Error{Code: rpc.CodeUnavailable, Message: errGone.Message, Ran: rpc.RanNo})
			return
		}
		c.Peer, c.Client, c.Reply = s.peer.Load(), nil, homeReply{c.Reply, s}
		if !s.unary {
			c.Client = s.client
		}
		s.link.Start(b, t, c)
	}), c.Path, c.Args)
}

// away reports whether c comes from elsewhere than the session that o is of.
func (o *mainObject) away(c *rpc.Call) bool { return o.of != nil && c.Link() != o.of.link }

// homeReply binds what a method of the hub answers to the session in which it
// was called, before it crosses to another.
type homeReply struct {
	rpc.Reply
	s *Session
}

func (h homeReply) Result(b *rpc.Batch, c *rpc.Call, v rpc.Value) {
	h.Reply.Result(b, c, h.s.bind(v, c.Peer, func(r *rpc.Ref) bool { return c.Args.Holds(r) }))
}

func (h homeReply) Open(b *rpc.Batch, c *rpc.Call, src rpc.Source) rpc.Sink {
	return bindSink{h.Reply.Open(b, c, src), h.s, c.Peer}
}

// bind returns v, the result of a call on behalf of peer, with the hub's own
// objects in it bound to peer. What is lent, belongs to a connection or is bound
// already stays what it is. The holds of v go to what is returned.
func (s *Session) bind(v rpc.Value, peer *rpc.Peer, lent func(*rpc.Ref) bool) rpc.Value {
	v, _ = s.boundParts(v, peer, lent)
	return v
}

func (s *Session) boundParts(v rpc.Value, peer *rpc.Peer, lent func(*rpc.Ref) bool) (_ rpc.Value, made map[*rpc.Ref]*rpc.Ref) {
	if _, raw := v.Raw(); raw || v.IsUndefined() || peer == nil {
		return v, nil
	}
	w := walker{visit: func(node any) {
		r, ok := node.(*rpc.Ref)
		if !ok || made[r] != nil || r.Owner != nil || lent != nil && lent(r) {
			return
		}
		if t := s.boundTo(r.Target, peer); t != nil {
			if made == nil {
				made = make(map[*rpc.Ref]*rpc.Ref)
			}
			made[r] = rpc.NewRef(t, r.Release)
		}
	}}
	if w.value(v, 0) != nil || len(made) == 0 {
		return v, nil
	}
	return rpc.TreeValue(replace(v.Tree(), func(part any) any {
		if r, ok := part.(*rpc.Ref); ok && made[r] != nil {
			return made[r]
		}
		return part
	})), made
}

// boundTo returns t bound to peer, nil when it is bound already.
func (s *Session) boundTo(t rpc.Target, peer *rpc.Peer) rpc.Target {
	switch t := t.(type) {
	case promiseTarget, *pipe: // of a session, what they hold is bound
		return nil
	case *mainObject:
		if t.of != nil {
			return nil
		}
		if t.peer != nil {
			peer = t.peer
		}
		return &mainObject{t.table, peer, s}
	case rpc.Bound:
		if t.Behalf() != nil {
			return nil
		}
	}
	return boundTarget{t, peer}
}

// bindSink binds what is in the items of a stream.
type bindSink struct {
	rpc.Sink
	s    *Session
	peer *rpc.Peer
}

// Item passes v on, which is borrowed: whoever keeps it has holds of its own.
func (k bindSink) Item(b *rpc.Batch, v rpc.Value) {
	v, made := k.s.boundParts(v, k.peer, nil)
	for r := range made {
		r.Retain()
	}
	k.Sink.Item(b, v)
	for _, r := range made {
		r.Release()
	}
}
