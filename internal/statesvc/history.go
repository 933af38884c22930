package statesvc

import (
	"cmp"
	"slices"
)

// encodedCommits is for how many of the newest commits an encoded form (Event.SetEncoded) is kept.
const encodedCommits = 1024

// commit is one revision: the events that happened together. It is immutable once published.
type commit struct {
	rev    uint64
	time   int64
	events []*Event
	cost   int64
	// Room for the common commit of one event.
	one   [1]*Event
	event Event
}

// complete is called when all events are in place.
func (c *commit) complete() {
	if len(c.events) > 16 {
		slices.SortFunc(c.events, func(a, b *Event) int { return cmp.Compare(a.Key, b.Key) })
	}
	for _, e := range c.events {
		c.cost += e.cost()
	}
}

// find returns the event of key. Small commits keep the order of their operations, large ones are sorted by key.
func (c *commit) find(key string) *Event {
	if len(c.events) > 16 {
		i, ok := slices.BinarySearchFunc(c.events, key, func(e *Event, k string) int { return cmp.Compare(e.Key, k) })
		if !ok {
			return nil
		}
		return c.events[i]
	}
	for _, e := range c.events {
		if e.Key == key {
			return e
		}
	}
	return nil
}

// history is a ring of the newest commits. Revisions in it are consecutive: floor+1 .. floor+n. It has no lock of its own.
type history struct {
	ring   []*commit // length is a power of two
	head   int
	n      int
	floor  uint64 // the newest revision that is not in the ring
	events int
	bytes  int64
	tombs  map[string]uint64 // key -> revision of its deletion, for keys now absent whose deletion is in the ring

	maxEvents int
	maxBytes  int64
}

func newHistory(l Limits, floor uint64) *history {
	return &history{
		ring: make([]*commit, 64), floor: floor, tombs: map[string]uint64{},
		maxEvents: l.HistoryEvents, maxBytes: l.HistoryBytes,
	}
}

func (h *history) newest() uint64 { return h.floor + uint64(h.n) }

// at returns the commit of a revision in (floor, newest].
func (h *history) at(rev uint64) *commit {
	return h.ring[(h.head+int(rev-h.floor-1))&(len(h.ring)-1)]
}

// append adds the next commit and forgets what the limits no longer allow. The newest commit always stays, however large.
func (h *history) append(c *commit) {
	if h.n == len(h.ring) {
		h.grow()
	}
	h.ring[(h.head+h.n)&(len(h.ring)-1)] = c
	h.n++
	h.events += len(c.events)
	h.bytes += c.cost
	for _, e := range c.events {
		e.chain = e.Previous
		if len(h.tombs) > 0 && e.Previous == 0 {
			e.chain = h.tombs[e.Key]
		}
		if e.Type != EventPut {
			h.tombs[e.Key] = c.rev
		} else if len(h.tombs) > 0 {
			delete(h.tombs, e.Key)
		}
	}
	for h.n > 1 && (h.events > h.maxEvents || h.bytes > h.maxBytes) {
		h.drop()
	}
	if h.n > encodedCommits {
		for _, e := range h.at(c.rev - encodedCommits).events {
			if e.encoded.Load() != nil {
				e.encoded.Store(nil)
			}
		}
	}
}

func (h *history) grow() {
	ring := make([]*commit, 2*len(h.ring))
	for i := range h.n {
		ring[i] = h.ring[(h.head+i)&(len(h.ring)-1)]
	}
	h.ring, h.head = ring, 0
}

// drop forgets the oldest commit.
func (h *history) drop() {
	c := h.ring[h.head]
	h.ring[h.head] = nil
	h.head = (h.head + 1) & (len(h.ring) - 1)
	h.n--
	h.floor = c.rev
	h.events -= len(c.events)
	h.bytes -= c.cost
	for _, e := range c.events {
		if e.Type != EventPut && h.tombs[e.Key] == c.rev {
			delete(h.tombs, e.Key)
		}
	}
}

// compact forgets all commits up to and including rev.
func (h *history) compact(rev uint64) {
	for h.n > 0 && h.floor < rev {
		h.drop()
	}
}

// restart empties the ring; the next commit has revision floor+1.
func (h *history) restart(floor uint64) {
	*h = history{ring: make([]*commit, 64), floor: floor, tombs: map[string]uint64{}, maxEvents: h.maxEvents, maxBytes: h.maxBytes}
}

// last returns the newest event of key in the ring, given the item that is there now (nil when absent).
func (h *history) last(key string, current *Item) *Event {
	rev := h.tombs[key]
	if current != nil {
		rev = current.Revision
	}
	return h.event(key, rev)
}

// before returns the event of the same key before e, or nil when the ring does not have it.
func (h *history) before(e *Event) *Event { return h.event(e.Key, e.chain) }

func (h *history) event(key string, rev uint64) *Event {
	if rev <= h.floor || rev > h.newest() {
		return nil
	}
	return h.at(rev).find(key)
}

// itemAt returns what was under key at rev, nil when absent. current is what is there now.
func (h *history) itemAt(key string, current *Item, rev uint64) (*Item, error) {
	if rev < h.floor {
		return nil, &CompactedError{Lowest: h.floor}
	}
	if current != nil && current.Revision <= rev {
		return current, nil
	}
	var after *Event // the oldest known event beyond rev
	for e := h.last(key, current); e != nil; e = h.before(e) {
		if e.Revision <= rev {
			return e.Item, nil
		}
		after = e
	}
	switch {
	case after == nil && current == nil: // absent now, and nothing happened since
		return nil, nil
	case after != nil && after.Previous == 0:
		return nil, nil
	case after != nil: // there was an item, written at or before the floor: its bytes are gone
		return nil, &CompactedError{Lowest: after.Revision}
	default:
		return nil, &CompactedError{Lowest: current.Revision}
	}
}
