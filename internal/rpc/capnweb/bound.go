package capnweb

import "github.com/hubd-dev/hubd/internal/rpc"

// boundTarget is an object that a method has returned to a call on behalf of
// somebody else than the session's peer: of the owner of a token, through the
// object that authenticate has returned. Its calls go on being that peer's, and
// end with its permission.
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

// bind returns v, the result of a call on behalf of peer, with the hub's own
// objects in it bound to peer. What came with the arguments, belongs to another
// connection or is bound already stays what it is.
func (p *promise) bind(v rpc.Value, peer *rpc.Peer) rpc.Value {
	if _, raw := v.Raw(); raw || v.IsUndefined() {
		return v
	}
	bound := map[*rpc.Ref]*rpc.Ref{}
	w := walker{visit: func(node any) {
		r, ok := node.(*rpc.Ref)
		if !ok || bound[r] != nil || r.Owner != nil || p.lent(r) {
			return
		}
		if t, ok := r.Target.(rpc.Bound); ok && t.Behalf() != nil {
			return
		}
		bound[r] = rpc.NewRef(boundTarget{r.Target, peer}, r.Release)
	}}
	if w.value(v, 0) != nil || len(bound) == 0 {
		return v
	}
	return rpc.TreeValue(replace(v.Tree(), func(part any) any {
		if r, ok := part.(*rpc.Ref); ok && bound[r] != nil {
			return bound[r]
		}
		return part
	}))
}
