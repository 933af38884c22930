package session

import (
	"cmp"
	"slices"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Info is what the hub knows of a session.
type Info struct {
	Session   string
	Title     string
	Meta      rpc.Value // null when there is none
	Owner     *OwnerInfo
	Followers []FollowerInfo // oldest first
	Seq       uint64
	Epoch     string // see Life
	Last      LastEvent
	Uptime    time.Duration
	Opened    time.Time
	Prompts   int // open ones
	Retained  int // events in the ring

	Ended time.Time // zero while the session is open
	Exit  *Exit     // how its program ended; nil when nobody has said it
}

// OwnerInfo is the connection that a session belongs to.
type OwnerInfo struct {
	Peer     *rpc.Peer // may be nil
	Protocol rpc.Protocol
	Since    time.Time
}

// LastEvent is the latest event of a session; its Seq is 0 before the first.
type LastEvent struct {
	Seq  uint64
	Type string
	At   time.Time
}

// FollowerInfo is one follower of a session.
type FollowerInfo struct {
	ID       uint64
	ClientID string
	Mode     string
	Protocol rpc.Protocol
	Peer     *rpc.Peer // may be nil
	Since    time.Time
	Lag      uint64 // events that it has not taken yet
	Dropped  uint64 // events that it was too slow for
}

// Info returns what is known of the session now.
func (s *Session) Info() Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := Info{
		Session: s.name, Title: s.title, Meta: s.meta, Seq: s.seq, Epoch: s.epoch,
		Last:   LastEvent{s.seq, s.lastType, s.lastAt},
		Uptime: time.Since(s.opened), Opened: s.opened,
		Prompts: len(s.prompts), Retained: s.ring.n, Exit: s.exit,
	}
	if s.closed {
		i.Ended, i.Owner, i.Uptime = s.ended, s.last, s.ended.Sub(s.opened)
	}
	if i.Meta.IsUndefined() {
		i.Meta = rpc.Null
	}
	if o := s.owner; o != nil {
		i.Owner = &OwnerInfo{o.peer, o.protocol, o.since}
	}
	for _, f := range s.followers {
		i.Followers = append(i.Followers, f.infoLocked())
	}
	slices.SortFunc(i.Followers, func(a, b FollowerInfo) int { return cmp.Compare(a.ID, b.ID) })
	return i
}

func (f *Follower) infoLocked() FollowerInfo {
	i := FollowerInfo{
		ID: f.id, ClientID: f.opts.ClientID, Mode: f.opts.Mode, Protocol: f.opts.Protocol, Peer: f.opts.Peer,
		Since: f.since, Dropped: f.dropped,
	}
	if seen := max(f.cursor, f.quiet); seen < f.s.seq {
		i.Lag = f.s.seq - seen
	}
	return i
}

// Info returns what is known of the follower now.
func (f *Follower) Info() FollowerInfo {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	return f.infoLocked()
}

// Value returns the info as session.info answers it.
func (i Info) Value() rpc.Value {
	m := &rpc.Map{}
	m.Set("session", i.Session)
	m.Set("title", i.Title)
	m.Set("meta", i.Meta)
	m.Set("owner", i.Owner.tree())
	followers := make([]any, len(i.Followers))
	for n, f := range i.Followers {
		followers[n] = f.tree()
	}
	m.Set("followers", followers)
	m.Set("seq", i.Seq)
	m.Set("epoch", i.Epoch)
	if i.Last.Type == "" {
		m.Set("last_event", nil)
	} else {
		last := &rpc.Map{}
		last.Set("seq", i.Last.Seq)
		last.Set("type", i.Last.Type)
		last.Set("ts", epoch(i.Last.At))
		m.Set("last_event", last)
	}
	m.Set("uptime", i.Uptime.Seconds())
	if !i.Ended.IsZero() {
		m.Set("ended", epoch(i.Ended))
		m.Set("exit", i.Exit.tree())
	}
	return rpc.TreeValue(m)
}

func (o *OwnerInfo) tree() any {
	if o == nil {
		return nil
	}
	m := &rpc.Map{}
	m.Set("peer", peerTree(o.Peer))
	m.Set("protocol", string(o.Protocol))
	m.Set("since", epoch(o.Since))
	return m
}

func (f FollowerInfo) tree() any {
	m := &rpc.Map{}
	m.Set("id", f.ID)
	m.Set("client_id", f.ClientID)
	m.Set("mode", f.Mode)
	m.Set("protocol", string(f.Protocol))
	m.Set("peer", peerTree(f.Peer))
	m.Set("since", epoch(f.Since))
	m.Set("lag", f.Lag)
	m.Set("dropped", f.Dropped)
	return m
}

func peerTree(p *rpc.Peer) any {
	if p == nil {
		return nil
	}
	m := &rpc.Map{}
	m.Set("name", p.Name)
	m.Set("uid", int64(p.UID))
	m.Set("pid", int64(p.PID))
	return m
}
