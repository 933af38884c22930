package rpc

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The arguments of running calls hold memory, and that is bounded by
// Gate.RequestMemory. A large call that comes while there is no room waits for
// some, and the later calls of its connection wait behind it, so that they
// start in the order in which they came. The connection is read on meanwhile:
// what ends a call (a cancel) or lets one end (the answer of a callback, an
// item of a stream) is never behind a call that waits, so nothing can be stuck.
//
// The wait is bounded twice: in time, by Gate.RoomWait, and in bytes, by a
// quarter of RequestMemory for all that wait, or one call. What exceeds either
// is refused as overloaded.

// DefaultRoomWait is how long a call waits for room for its arguments.
const DefaultRoomWait = 10 * time.Second

// lobby has the calls that wait for room. Its lock is taken while no other is
// held, and none is taken under it.
type lobby struct {
	mu      sync.Mutex
	bytes   int64   // of the arguments of all that wait
	links   []*Link // that have calls here; the first has the next turn
	usher   bool    // the goroutine that lets them go on runs
	some    atomic.Bool
	changed chan struct{} // told when there may be room or fewer who wait; made with the first usher
}

// waiter is a call in the lobby.
type waiter struct {
	c      *Call
	t      Target
	weight int64
	until  time.Time
	ready  bool // the call is registered
}

// mustWait reports whether a call with such arguments has to wait: there is no
// room, or somebody of this connection, or somebody large of another one, was
// here before.
func (l *Link) mustWait(c *Call) bool {
	g := l.gate
	switch {
	case l.waits.Load() > 0:
		return true
	case g.memory.Load() < or(g.RequestMemory, DefaultRequestMemory) && !g.lobby.some.Load():
		return false
	}
	return c.Args.weight() > smallRequest
}

// wait registers c and lets it wait for room, or refuses it.
func (l *Link) wait(b *Batch, t Target, c *Call) {
	g := l.gate
	w := &waiter{c: c, t: t, weight: int64(c.Args.weight()), until: c.began.Add(or(g.RoomWait, DefaultRoomWait))}
	c.mayWait = true
	g.lobby.mu.Lock()
	if g.lobby.bytes > 0 && g.lobby.bytes+w.weight > or(g.RequestMemory, DefaultRequestMemory)/4 {
		g.lobby.mu.Unlock()
		c.Finish(b, Value{}, l.noRoom())
		return
	}
	g.lobby.bytes += w.weight
	if len(l.lobby) == 0 {
		g.lobby.links = append(g.lobby.links, l)
	}
	l.lobby = append(l.lobby, w)
	l.waits.Add(1)
	g.lobby.some.Store(true)
	g.lobby.mu.Unlock()

	c.Own()

	g.lobby.mu.Lock()
	w.ready = true
	if !c.mayWait { // its id is in use: see register
		g.lobby.removeLocked(l, c)
	}
	start := !g.lobby.usher && len(g.lobby.links) > 0
	if start {
		g.lobby.usher = true
		if g.lobby.changed == nil {
			g.lobby.changed = make(chan struct{}, 1)
		}
	}
	g.lobby.mu.Unlock()
	if start {
		go g.usher() // ends when nobody waits
	} else {
		g.roomChanged()
	}
}

func (l *Link) noRoom() *Error {
	return l.Over(LimitRequestMemory, "the arguments of running calls hold too much memory")
}

// forget gives back what a call holds that may have been in the lobby.
func (g *Gate) forget(c *Call) {
	g.lobby.mu.Lock()
	waited := g.lobby.removeLocked(c.link, c)
	g.lobby.mu.Unlock()
	if waited {
		g.roomChanged()
	} else {
		g.giveBack(c.weight)
	}
}

// giveBack notes that the arguments of a running call are gone.
func (g *Gate) giveBack(weight int64) {
	g.memory.Add(-weight)
	if weight > 0 && g.lobby.some.Load() {
		g.roomChanged()
	}
}

func (g *Gate) roomChanged() {
	g.lobby.mu.Lock()
	changed := g.lobby.changed
	g.lobby.mu.Unlock()
	select {
	case changed <- struct{}{}: // not while it is nil: nobody waits then
	default:
	}
}

// removeLocked takes a call out of the lobby, if it is there.
func (b *lobby) removeLocked(l *Link, c *Call) bool {
	i := slices.IndexFunc(l.lobby, func(w *waiter) bool { return w.c == c })
	if i < 0 {
		return false
	}
	b.bytes -= l.lobby[i].weight
	l.lobby = slices.Delete(l.lobby, i, i+1)
	l.waits.Add(-1)
	if len(l.lobby) == 0 {
		l.lobby = nil
		b.links = slices.DeleteFunc(b.links, func(x *Link) bool { return x == l })
		b.some.Store(len(b.links) > 0)
	}
	return true
}

// usher lets those go on for whom there is room, and refuses those who have
// waited long enough, until nobody waits.
func (g *Gate) usher() {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	var b Batch
	for {
		b.Begin()
		next := g.admitWaiting(&b)
		b.Flush()
		if next.IsZero() {
			return
		}
		t.Reset(time.Until(next))
		select {
		case <-g.lobby.changed:
		case <-t.C:
		}
	}
}

// admitWaiting handles all that are due and returns when to look again at the
// latest; the zero time when nobody waits.
func (g *Gate) admitWaiting(b *Batch) time.Time {
	for {
		w, late, next := g.nextWaiting(b.Now())
		switch {
		case w == nil:
			return next
		case w.c.Settled(): // cancelled at this moment
		case late:
			w.c.Finish(b, Value{}, w.c.link.noRoom())
		default:
			w.c.link.launch(b, w.t, w.c)
		}
	}
}

// nextWaiting takes the next call out of the lobby that may go on, or has to go.
// Connections take turns.
func (g *Gate) nextWaiting(now time.Time) (w *waiter, late bool, next time.Time) {
	g.lobby.mu.Lock()
	defer g.lobby.mu.Unlock()
	for i, l := range g.lobby.links {
		first := l.lobby[0]
		if !first.ready {
			next = earlier(next, now.Add(time.Second)) // told when it is
			continue
		}
		room := first.weight <= smallRequest || g.memory.Load() < or(g.RequestMemory, DefaultRequestMemory)
		if late = !room && !now.Before(first.until); !room && !late {
			next = earlier(next, first.until)
			continue
		}
		g.lobby.links = append(slices.Delete(g.lobby.links, i, i+1), l)
		g.lobby.removeLocked(l, first.c)
		g.memory.Add(first.weight) // remove gives it back
		return first, late, next
	}
	g.lobby.usher = !next.IsZero()
	return nil, false, next
}
