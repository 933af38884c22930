package session

import (
	"sort"
	"sync/atomic"
)

// window keeps the latest events of a session, bounded in number and bytes.
// The newest is always kept, whatever its size. The zero window keeps nothing.
type window struct {
	maxEvents int
	maxBytes  int

	events []Event // a ring
	head   int
	n      int
	bytes  int
	floor  uint64        // number of the last event that was pushed out
	total  *atomic.Int64 // bytes of all windows of a registry; nil: not counted
	spill  *window       // gets what is pushed out; nil: it is gone
}

func newWindow(maxEvents, maxBytes int) window {
	return window{maxEvents: maxEvents, maxBytes: maxBytes}
}

// cost is what an event counts against maxBytes.
func cost(e *Event) int { return len(e.JSON) + 64 }

// at returns the i-th oldest event.
func (w *window) at(i int) *Event {
	i += w.head
	if i >= len(w.events) {
		i -= len(w.events)
	}
	return &w.events[i]
}

// add appends an event, whose number is above all others, and pushes out what is too much.
func (w *window) add(e Event) {
	if w.maxEvents <= 0 {
		w.floor = e.Seq
		return
	}
	if w.n == len(w.events) && w.n < w.maxEvents {
		w.resize(min(max(16, 2*w.n), w.maxEvents))
	}
	if w.n == w.maxEvents {
		w.drop()
	}
	w.n++
	*w.at(w.n - 1) = e
	w.count(cost(&e))
	for w.bytes > w.maxBytes && w.n > 1 {
		w.drop()
	}
}

// count notes that n more bytes are kept.
func (w *window) count(n int) {
	w.bytes += n
	if w.total != nil {
		w.total.Add(int64(n))
	}
}

// drop pushes the oldest event out.
func (w *window) drop() {
	e := w.at(0)
	w.floor = e.Seq
	w.count(-cost(e))
	if w.spill != nil {
		w.spill.add(*e)
	}
	*e = Event{}
	w.n--
	if w.head++; w.head == len(w.events) {
		w.head = 0
	}
}

// dropUpTo drops events with numbers up to seq, and memory that is no longer needed.
func (w *window) dropUpTo(seq uint64) {
	for w.n > 0 && w.at(0).Seq <= seq {
		w.drop()
	}
	if len(w.events) > 64 && w.n < len(w.events)/4 {
		w.resize(max(16, 2*w.n))
	}
}

// bound changes how many events are kept.
func (w *window) bound(maxEvents int) {
	w.maxEvents = maxEvents
	for w.n > max(0, maxEvents) {
		w.drop()
	}
	w.resize(w.n)
}

func (w *window) resize(size int) {
	events := make([]Event, size)
	for i := range w.n {
		events[i] = *w.at(i)
	}
	w.events, w.head = events, 0
}

// after returns the index of the oldest event with a number above seq; w.n when there is none.
func (w *window) after(seq uint64) int {
	return sort.Search(w.n, func(i int) bool { return w.at(i).Seq > seq })
}

// firstAfter returns the oldest event with a number above seq, nil when there is none.
func (w *window) firstAfter(seq uint64) *Event {
	if i := w.after(seq); i < w.n {
		return w.at(i)
	}
	return nil
}
