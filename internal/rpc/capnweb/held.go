package capnweb

import "github.com/hubd-dev/hubd/internal/rpc"

// What a session keeps for its peer: the values of what it has exported, the
// arguments of calls that wait for other results, blobs that come in, maps that
// wait for what they map. The peer decides how long, so there is a limit on all
// of it. What goes beyond is not kept; whoever wanted it gets an error.
//
// Values are counted at their size in memory, about, and again where a result is
// part of another one. Arguments of running calls count with the Gate, streams
// have limits of their own.

// holdLocked notes n more bytes, and reports false when that is too much.
func (s *Session) holdLocked(n int) bool {
	if s.held+int64(n) > int64(s.limits.MaxHeld) && n > smallValue {
		return false
	}
	s.held += int64(n)
	return true
}

// smallValue is held in any case: how many there can be is limited by the tables.
const smallValue = 1 << 10

func (s *Session) hold(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holdLocked(n)
}

func (s *Session) unhold(n int) {
	s.mu.Lock()
	s.held -= int64(n)
	s.mu.Unlock()
}

// overHeld is the error of what is not kept.
func (s *Session) overHeld(ran rpc.Ran) *rpc.Error {
	e := s.link.Over(rpc.LimitHeldValues, "this connection keeps too much in the hub: release results that are not needed")
	e.Ran = ran
	return e
}

// size is about how many bytes the value takes.
func (pl *payload) size() int {
	if raw, ok := pl.v.Raw(); ok {
		return len(raw)
	}
	if pl.v.IsUndefined() {
		return 0
	}
	if pl.bytes == 0 {
		w := walker{}
		_ = w.value(pl.v, 0) // over a limit it stops, with at least that size
		pl.bytes = w.bytes
	}
	return pl.bytes
}

// keepArgs makes the arguments outlive their message and counts them. It
// reports false when they are too much.
func (p *promise) keepArgs() bool {
	if p.kept > 0 {
		return true
	}
	n := 0
	for i := range p.list {
		p.list[i] = p.list[i].Own()
		arg := payload{v: p.list[i]}
		n += arg.size()
	}
	for _, part := range p.path {
		n += 48 + len(part.Name)
	}
	if !p.s.hold(n) {
		return false
	}
	p.kept = n
	return true
}
