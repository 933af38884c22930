package statesvc

import (
	"fmt"
	"maps"
	"slices"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// linkState is what the service knows of one connection.
type linkState struct {
	own     string              // the name of a connection that has no other
	owners  map[string]struct{} // claimed for it
	watches map[*watch]struct{} // of the form with a function: they are no calls in flight
	closed  bool
}

// linkLocked returns the state of a connection and whether it is new: then the caller arranges for linkClosed to be
// called, without locks.
func (s *Service) linkLocked(l *rpc.Link) (st *linkState, fresh bool) {
	st = s.links[l]
	if st == nil {
		st, fresh = &linkState{owners: map[string]struct{}{}, watches: map[*watch]struct{}{}}, true
		s.links[l] = st
	}
	return st, fresh
}

// Attach tells the service that a client calls itself owner, as soon as that is known: keys that its earlier connection
// left behind stay. It reports whether there were any. A name that is "" is ignored.
func (s *Service) Attach(l *rpc.Link, owner string) (known bool) {
	if owner == "" || l == nil {
		return false
	}
	s.mu.Lock()
	st, fresh := s.linkLocked(l)
	known = s.claimLocked(st, owner)
	s.mu.Unlock()
	if fresh {
		l.OnClose(func() { s.linkClosed(l, st) })
	}
	return known
}

// claimLocked makes owner known to the store, once per connection.
func (s *Service) claimLocked(st *linkState, owner string) (known bool) {
	if _, ok := st.owners[owner]; ok || st.closed {
		return true
	}
	st.owners[owner] = struct{}{}
	s.owners[owner]++
	return s.store.Claim(owner)
}

// ownerFor returns the owner of the ephemeral keys that c puts.
func (s *Service) ownerFor(c *rpc.Call) (string, error) {
	l := c.Link()
	if l == nil {
		return "", invalid("an ephemeral key needs a connection")
	}
	name := ""
	if s.opts.OwnerOf != nil {
		name = s.opts.OwnerOf(c)
	}
	if len(name) > maxOwner {
		return "", invalid("the name of this client is longer than %d bytes", maxOwner)
	}
	s.mu.Lock()
	st, fresh := s.linkLocked(l)
	if name == "" {
		if st.own == "" {
			s.nextOwner++
			st.own = fmt.Sprintf("connection:%s:%d", s.boot, s.nextOwner)
		}
		name = st.own
	}
	s.claimLocked(st, name)
	s.mu.Unlock()
	if fresh {
		l.OnClose(func() { s.linkClosed(l, st) })
	}
	return name, nil
}

// linkClosed gives up what was claimed for a connection. A name that another connection holds as well stays.
func (s *Service) linkClosed(l *rpc.Link, st *linkState) {
	s.mu.Lock()
	watches := slices.Collect(maps.Keys(st.watches))
	defer func() {
		s.mu.Unlock()
		for _, w := range watches {
			w.stop()
		}
	}()
	st.closed = true
	delete(s.links, l)
	for name := range st.owners {
		if s.owners[name]--; s.owners[name] == 0 {
			delete(s.owners, name)
			if l.Stopping() && !l.SaidGoodbye() {
				continue // it is the hub that leaves: the grace begins when it is back
			}
			grace := s.opts.Grace
			if l.SaidGoodbye() {
				grace = 0
			}
			// Under the lock: a connection that claims the name now comes after this.
			s.store.Release(name, grace)
		}
	}
}
