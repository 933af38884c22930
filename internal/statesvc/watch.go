package statesvc

import (
	"strings"
	"sync"

	"github.com/tidwall/btree"
)

// watchScan is how many commits one Next looks at before it returns even without an event, so that a watcher of a rare
// key far behind does not hold up the goroutine that serves it.
const watchScan = 16384

// watchHub wakes watchers. A watcher that has read everything is armed: the committer looks it up by the keys of each new
// commit, so that a thousand watchers of other keys cost nothing, and an idle watcher never falls behind.
type watchHub struct {
	mu       sync.Mutex // after engine.mu where both are held
	keys     map[string]map[*watcher]struct{}
	prefixes map[string]map[*watcher]struct{}
	lengths  map[int]int // lengths of prefixes -> how many different prefixes have it
	copying  map[*watcher]struct{}
	count    int
	matched  uint64     // newest revision that armed watchers were compared with
	woken    []*watcher // to be called by the notifier
	closed   bool
	signal   chan struct{} // capacity 1
}

func newWatchHub() *watchHub {
	return &watchHub{
		keys:     map[string]map[*watcher]struct{}{},
		prefixes: map[string]map[*watcher]struct{}{},
		lengths:  map[int]int{},
		copying:  map[*watcher]struct{}{},
		signal:   make(chan struct{}, 1),
	}
}

// watcher is a position in history. While it is armed its position belongs to the hub, else to the caller of Next.
type watcher struct {
	e     *engine
	opts  WatchOptions
	exact bool

	// guarded by hub.mu
	pos    uint64
	armed  bool
	woken  bool
	closed bool
	err    error
	tree   *btree.Map[string, *Item] // being copied out, nil when that is over

	after  string // last key of the snapshot that was delivered
	synced bool
}

func (e *engine) Watch(opts WatchOptions) (Watcher, error) {
	if opts.Key != "" && opts.Prefix != "" {
		return nil, &InvalidError{Reason: "a watch has a key or a prefix, not both"}
	}
	if opts.Snapshot && opts.Resume {
		return nil, &InvalidError{Reason: "a watch begins with a snapshot or at a revision, not both"}
	}
	if err := checkPrefix(opts.Key+opts.Prefix, e.limits.Key); err != nil {
		return nil, err
	}
	opts.Key, opts.Prefix = strings.Clone(opts.Key), strings.Clone(opts.Prefix)
	w := &watcher{e: e, opts: opts, exact: opts.Key != ""}
	h := e.watches
	e.mu.RLock() // the position must be within history when the watcher becomes known
	defer e.mu.RUnlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	v := e.view.Load()
	switch {
	case opts.Resume:
		if opts.From < e.hist.floor {
			return nil, &CompactedError{Lowest: e.hist.floor}
		}
		w.pos = opts.From
	case opts.Snapshot:
		w.pos = v.rev
		w.tree = v.tree
		h.copying[w] = struct{}{}
	default:
		w.pos = v.rev
	}
	h.addLocked(w)
	return w, nil
}

func (h *watchHub) addLocked(w *watcher) {
	h.count++
	index, key := h.prefixes, w.opts.Prefix
	if w.exact {
		index, key = h.keys, w.opts.Key
	}
	set := index[key]
	if set == nil {
		set = map[*watcher]struct{}{}
		index[key] = set
		if !w.exact {
			h.lengths[len(key)]++
		}
	}
	set[w] = struct{}{}
}

func (h *watchHub) removeLocked(w *watcher) {
	h.count--
	delete(h.copying, w)
	index, key := h.prefixes, w.opts.Prefix
	if w.exact {
		index, key = h.keys, w.opts.Key
	}
	delete(index[key], w)
	if len(index[key]) == 0 {
		delete(index, key)
		if !w.exact {
			if h.lengths[len(key)]--; h.lengths[len(key)] == 0 {
				delete(h.lengths, len(key))
			}
		}
	}
}

// publish compares new commits with the armed watchers. It never calls foreign code.
func (h *watchHub) publish(commits []*commit, floor uint64) {
	if len(commits) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.matched = commits[len(commits)-1].rev
	if h.count == 0 {
		return
	}
	for _, c := range commits {
		for _, e := range c.events {
			if len(h.keys) > 0 {
				h.matchLocked(h.keys[e.Key], c.rev)
			}
			for n := range h.lengths {
				if n <= len(e.Key) {
					h.matchLocked(h.prefixes[e.Key[:n]], c.rev)
				}
			}
		}
	}
	// A snapshot that is still being read when history has passed it could not be followed: let go of its memory.
	for w := range h.copying {
		if w.pos < floor {
			w.err = &CompactedError{Lowest: floor}
			h.endCopyLocked(w) // its reader is between two calls of Next and will see err
		}
	}
	h.signalLocked()
}

func (h *watchHub) matchLocked(set map[*watcher]struct{}, rev uint64) {
	for w := range set {
		if w.armed && w.pos < rev {
			w.armed = false
			w.pos = rev - 1
			h.wakeLocked(w)
		}
	}
}

func (h *watchHub) endCopyLocked(w *watcher) {
	w.tree = nil
	delete(h.copying, w)
}

func (h *watchHub) wakeLocked(w *watcher) {
	if w.opts.Wake != nil && !w.woken {
		w.woken = true
		h.woken = append(h.woken, w)
	}
}

func (h *watchHub) signalLocked() {
	if len(h.woken) > 0 {
		select {
		case h.signal <- struct{}{}:
		default:
		}
	}
}

// endAll ends all watchers with err, for a store whose contents were replaced or which is closed.
func (h *watchHub) endAll(err error, closed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = h.closed || closed
	for _, index := range []map[string]map[*watcher]struct{}{h.keys, h.prefixes} {
		for _, set := range index {
			for w := range set {
				if w.err == nil {
					w.err = err
				}
				h.endCopyLocked(w)
				if w.armed {
					w.armed = false
					h.wakeLocked(w)
				}
			}
		}
	}
	h.signalLocked()
}

// notify calls Wake for those that were woken, until stop is closed.
func (h *watchHub) notify(stop <-chan struct{}, after func()) {
	for {
		select {
		case <-h.signal:
		case <-stop:
			h.wakeAll(after)
			return
		}
		h.wakeAll(after)
	}
}

func (h *watchHub) wakeAll(after func()) {
	h.mu.Lock()
	woken := h.woken
	h.woken = nil
	for _, w := range woken {
		w.woken = false
	}
	h.mu.Unlock()
	for _, w := range woken {
		w.opts.Wake()
	}
	if len(woken) > 0 && after != nil {
		after()
	}
}

func (h *watchHub) watchers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}

func (w *watcher) Close() {
	h := w.e.watches
	h.mu.Lock()
	defer h.mu.Unlock()
	if !w.closed {
		w.closed = true
		w.armed = false
		h.endCopyLocked(w)
		h.removeLocked(w)
	}
}

func (w *watcher) Revision() uint64 {
	h := w.e.watches
	h.mu.Lock()
	defer h.mu.Unlock()
	return w.revisionLocked()
}

// revisionLocked: an armed watcher was compared with everything up to matched.
func (w *watcher) revisionLocked() uint64 {
	if w.tree != nil {
		return 0 // nothing can be resumed from the middle of a snapshot
	}
	if w.armed {
		return max(w.pos, w.e.watches.matched)
	}
	return w.pos
}

func (w *watcher) Next(limit int) (Batch, error) {
	limit = max(1, limit)
	h := w.e.watches
	h.mu.Lock()
	if w.closed || w.err != nil {
		err := w.err
		h.mu.Unlock()
		if err == nil {
			err = ErrClosed
		}
		return Batch{}, err
	}
	if w.armed {
		w.pos = w.revisionLocked()
		w.armed = false
	}
	pos, tree := w.pos, w.tree
	h.mu.Unlock()
	if tree != nil {
		return w.copyOut(tree, pos, limit)
	}
	return w.follow(pos, limit)
}

// copyOut delivers the next items of the snapshot.
func (w *watcher) copyOut(tree *btree.Map[string, *Item], pos uint64, limit int) (Batch, error) {
	var b Batch
	done := true
	take := func(key string, it *Item) bool {
		if w.exact && key != w.opts.Key || !strings.HasPrefix(key, w.opts.Prefix) {
			return false
		}
		if key == w.after && key != "" {
			return true
		}
		if len(b.Items) == limit {
			done = false
			return false
		}
		b.Items = append(b.Items, it)
		return true
	}
	tree.Ascend(max(w.after, w.opts.Key, w.opts.Prefix), take)
	if len(b.Items) > 0 {
		w.after = b.Items[len(b.Items)-1].Key
	}
	if !done {
		return b, nil
	}
	h := w.e.watches
	h.mu.Lock()
	h.endCopyLocked(w)
	err := w.err
	h.mu.Unlock()
	if err != nil {
		return Batch{}, err
	}
	w.synced = true
	b.Synced, b.Revision = true, pos
	return b, nil
}

// follow delivers events after pos.
func (w *watcher) follow(pos uint64, limit int) (Batch, error) {
	var b Batch
	var window [128]*commit
	for scanned := 0; ; {
		e := w.e
		e.mu.RLock()
		if pos < e.hist.floor {
			err := &CompactedError{Lowest: e.hist.floor}
			e.mu.RUnlock()
			w.store(pos)
			if len(b.Events) > 0 { // deliver what was read; the next call says it
				b.Revision = pos
				return b, nil
			}
			return Batch{}, err
		}
		n := 0
		for rev := pos + 1; rev <= e.hist.newest() && n < len(window); rev++ {
			window[n] = e.hist.at(rev)
			n++
		}
		e.mu.RUnlock()
		for _, c := range window[:n] {
			for _, ev := range c.events {
				if w.matches(ev.Key) {
					b.Events = append(b.Events, ev)
				}
			}
			pos = c.rev
			if len(b.Events) >= limit {
				break
			}
		}
		scanned += n
		if len(b.Events) >= limit || scanned >= watchScan {
			w.store(pos)
			b.Revision = pos
			return b, nil
		}
		if n == 0 && w.arm(pos, &b) {
			return b, nil
		}
	}
}

func (w *watcher) matches(key string) bool {
	if w.exact {
		return key == w.opts.Key
	}
	return strings.HasPrefix(key, w.opts.Prefix)
}

func (w *watcher) store(pos uint64) {
	h := w.e.watches
	h.mu.Lock()
	w.pos = pos
	h.mu.Unlock()
}

// arm puts the watcher to rest unless something was published meanwhile. The committer publishes first and compares with
// armed watchers under the hub's lock then, so one of the two sees the other.
func (w *watcher) arm(pos uint64, b *Batch) bool {
	h := w.e.watches
	h.mu.Lock()
	defer h.mu.Unlock()
	w.pos = pos
	if w.err == nil && w.e.view.Load().rev > pos {
		return false
	}
	w.armed = w.err == nil && !w.closed
	b.Idle = w.armed
	if !w.synced && b.Idle {
		w.synced = true
		b.Synced = true
	}
	b.Revision = w.revisionLocked()
	return true
}
