package hub

import (
	"strconv"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// maxIdentity is how long an identity may be that owns ephemeral keys.
const maxIdentity = 128

// identify notes that the peer of c calls itself identity: the ephemeral keys
// that an earlier connection of it left behind stay, and those that it puts
// from now on outlive this connection in the same way. It does nothing for a
// peer that anybody could pretend to be.
func (h *hub) identify(c *conn, identity string) {
	shown := rpc.CleanText(identity, maxIdentity)
	c.identity.Store(&shown)
	owner := ownerName(c.peer.Load(), identity)
	if owner == "" || !c.owner.CompareAndSwap(nil, &owner) {
		return
	}
	if h.service != nil {
		h.service.Attach(c.link.Load(), owner)
	}
}

// ownerName puts who the peer was found to be in front of what it calls
// itself, so that nobody can claim what belongs to another user. It is "" when
// nothing is known of the peer, or when the identity is of no use as a name.
func ownerName(p *rpc.Peer, identity string) string {
	if identity == "" || len(identity) > maxIdentity || !utf8.ValidString(identity) {
		return ""
	}
	switch {
	case p == nil || p.Unauthenticated:
		return ""
	case p.UID >= 0:
		return "uid:" + strconv.Itoa(p.UID) + ":" + identity
	case p.Name != "":
		// Quoted, so that the name of one peer and the identity of another
		// cannot be put together to the same.
		return "name:" + strconv.Quote(p.Name) + ":" + identity
	default:
		return ""
	}
}

// keyOwner names the owner of the ephemeral keys that a call puts, "" for the
// connection itself. It is the service's OwnerOf.
func keyOwner(call *rpc.Call) string {
	l := call.Link()
	if l == nil {
		return ""
	}
	if c, ok := l.Conn.(*conn); ok {
		if owner := c.owner.Load(); owner != nil {
			return *owner
		}
	}
	return ""
}
