package hub

import (
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Names of the limits that the hub itself counts in hubd_rejected_total.
const (
	limitConnections     = "connections"
	limitConnectionsUID  = "connections_per_uid"
	limitUnauthenticated = "connections_unauthenticated"
	limitHandshake       = "handshake"
	limitAttempts        = "failed_attempts"
	limitFirstByte       = "first_byte"
	limitUnfinished      = "unfinished"
	limitPartialFrame    = "partial_frame"
	limitHTTPBody        = "http_body"
	limitHTTPHead        = "http_head"
	limitHTTPHeadBytes   = "http_head_bytes"
	limitHTTPIdle        = "http_idle"
	limitWriteStall      = "write_stall"
	limitFrame           = "frame"
	limitLogLines        = "log_lines"
	descriptorReserve    = 64 // for logs, state, listeners and what handlers open
)

// registry has every open connection.
type registry struct {
	limits Limits

	mu     sync.Mutex
	last   uint64
	all    map[*conn]struct{}
	users  map[string]*account
	must   map[*conn]*time.Timer // those that still must say who they are, with what ends them if they do not
	closed bool
	empty  chan struct{} // closed when closed and no connection is left
}

// account is what all connections of one user share: see conn.ownedBy.
type account struct {
	quota rpc.Quota
	owner string
	conns int
}

func newRegistry(limits Limits) *registry {
	var nofile unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &nofile) == nil && nofile.Cur < 1<<30 {
		limits.Connections = min(limits.Connections, max(int(nofile.Cur)-descriptorReserve, 1))
	}
	return &registry{
		limits: limits, all: map[*conn]struct{}{}, users: map[string]*account{}, must: map[*conn]*time.Timer{}, empty: make(chan struct{}),
	}
}

// full reports whether no connection at all can be added: asked by the accept
// loop, before anything is spent on a new one.
func (r *registry) full() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all) >= r.limits.Connections
}

// enter adds c, whose peer is set, or names the limit that forbids it. For
// somebody who has yet to say who it is there is always a place: that of the one
// who has had it longest, of the address that has most of them.
func (r *registry) enter(c *conn) (limit string, ok bool) {
	limit, ok, silent := r.enterOrReplace(c)
	if silent != nil {
		silent.hub.metrics.rejected(limitUnauthenticated)
		silent.Close()
	}
	return limit, ok
}

func (r *registry) enterOrReplace(c *conn) (limit string, ok bool, silent *conn) {
	peer := c.peer.Load()
	owner := c.ownedBy(peer)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return "", false, nil
	case len(r.all) >= r.limits.Connections:
		return limitConnections, false, nil
	case !r.assignLocked(c, owner):
		return limitConnectionsUID, false, nil
	}
	r.last++
	c.id = r.last
	r.all[c] = struct{}{}
	if peer != nil && peer.Unauthenticated {
		if len(r.must) >= r.limits.ConnectionsUnauthenticated {
			silent = r.longestSilentLocked(owner)
			r.settledLocked(silent)
		}
		r.must[c] = time.AfterFunc(r.limits.Handshake, func() { r.expire(c) })
	}
	return "", true, silent
}

// longestSilentLocked returns who has to make room for somebody from an address
// that says nothing of itself either: so an address that opens connections and
// stays silent takes away its own places.
func (r *registry) longestSilentLocked(address string) (oldest *conn) {
	held := map[string]int{address: 1}
	for c := range r.must {
		held[c.account.Load().owner]++
	}
	for c := range r.must {
		if oldest == nil {
			oldest = c
			continue
		}
		more := held[c.account.Load().owner] - held[oldest.account.Load().owner]
		if more > 0 || more == 0 && c.id < oldest.id {
			oldest = c
		}
	}
	return oldest
}

// settledLocked notes that c need not say who it is any more.
func (r *registry) settledLocked(c *conn) {
	if t := r.must[c]; t != nil {
		t.Stop()
		delete(r.must, c)
	}
}

// assignLocked makes c one of the connections of owner. It returns false when
// there are too many of those.
func (r *registry) assignLocked(c *conn, owner string) bool {
	old := c.account.Load()
	if old != nil && old.owner == owner {
		return true
	}
	u := r.users[owner]
	if u == nil {
		u = &account{owner: owner}
	} else if u.conns >= r.limits.ConnectionsPerUID {
		return false
	}
	r.users[owner] = u
	u.conns++
	c.account.Store(u)
	if old != nil {
		r.releaseLocked(old)
	}
	if l := c.linkOf(); l != nil {
		l.SetQuota(&u.quota)
	}
	return true
}

// releaseLocked takes a connection from u. An account in which calls still
// count stays for whoever comes under the same name.
func (r *registry) releaseLocked(u *account) {
	u.conns--
	r.forgetLocked(u)
	if len(r.users) > 2*len(r.all)+16 { // the calls of those that stayed have ended since
		for _, u := range r.users {
			r.forgetLocked(u)
		}
	}
}

func (r *registry) forgetLocked(u *account) {
	if u.conns == 0 && u.quota.Idle() {
		delete(r.users, u.owner)
	}
}

// belongs notes on whose behalf the later calls of c run, which may be for the
// time of one request. It returns false when that user has too many connections.
func (r *registry) belongs(c *conn, p *rpc.Peer) bool {
	owner := c.ownedBy(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	_, open := r.all[c]
	return !open || r.assignLocked(c, owner)
}

// authenticated notes that the peer of c has said who it is, p. It returns
// false when that user has too many connections.
func (r *registry) authenticated(c *conn, p *rpc.Peer) bool {
	if !r.belongs(c, p) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settledLocked(c)
	return true
}

// expire ends a connection whose peer has not said who it is in time: there
// are few places for those.
func (r *registry) expire(c *conn) {
	r.mu.Lock()
	_, late := r.must[c]
	r.mu.Unlock()
	if late {
		c.hub.metrics.rejected(limitHandshake)
		c.Close()
	}
}

// leave takes c out; connections that never entered are ignored.
func (r *registry) leave(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.all[c]; !ok {
		return
	}
	delete(r.all, c)
	r.settledLocked(c)
	r.releaseLocked(c.account.Load())
	if r.closed && len(r.all) == 0 {
		close(r.empty)
	}
}

// list returns the open connections, in no order.
func (r *registry) list() []*conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*conn, 0, len(r.all))
	for c := range r.all {
		list = append(list, c)
	}
	return list
}

// close lets nobody in any more. The returned channel is closed when the last
// connection has left.
func (r *registry) close() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		if len(r.all) == 0 {
			close(r.empty)
		}
	}
	return r.empty
}

// sweep ends connections whose unfinished frame takes too long, and what runs
// under permissions that have expired.
func (h *hub) sweep() {
	t := time.NewTicker(max(h.opts.Limits.PartialFrame/10, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case now := <-t.C:
			if h.tokens.Len() > 0 || h.opts.TLSClientCA != "" {
				h.endGrants()
			}
			for _, c := range h.connections() {
				if c.share.Late(now) {
					h.metrics.rejected(limitPartialFrame)
					h.log.Info("unfinished frame takes too long", zap.Uint64("conn", c.id), zap.String("protocol", string(c.protocolName())),
						zap.String("peer", c.peerName()))
					c.Close()
				}
			}
		}
	}
}

// connections lists the open connections.
func (h *hub) connections() []*conn { return h.open.list() }
