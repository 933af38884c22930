package statesvc

import (
	"cmp"
	"container/heap"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxOwner is how long the name of an owner may be.
const maxOwner = 256

// maxGroup is how many keys of an owner go under one revision.
const maxGroup = 16_384

// expiring names an item that is to go.
type expiring struct {
	key string
	rev uint64
}

// leased is a key that goes away by itself.
type leased struct {
	key      string
	rev      uint64
	owner    string
	deadline time.Time
	pos      int // in the heap, -1 without time limit
}

// owner is somebody to whom ephemeral keys belong.
type owner struct {
	keys     map[string]struct{}
	claimed  bool
	deadline time.Time // when not claimed
	sweeping bool      // its keys are on their way out
}

// leases knows all items with a lease and all owners. The committer feeds it with what was published and asks what is due.
type leases struct {
	mu      sync.Mutex
	byKey   map[string]*leased
	queue   leaseHeap
	owners  map[string]*owner
	release time.Time // the earliest deadline of an owner not claimed, or zero; may be too early, never too late
	kick    func()    // tells the committer that something is due earlier than it thinks

	absent       map[string]int64 // owners whose grace ran in the run before, see graces; until orphan
	graceChanged bool             // whose grace runs has changed, see graces
}

func newLeases(kick func()) *leases {
	return &leases{byKey: map[string]*leased{}, owners: map[string]*owner{}, kick: kick}
}

// publish follows the events of a commit.
func (l *leases) publish(c *commit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range c.events {
		if len(l.byKey) > 0 {
			l.removeLocked(e.Key)
		}
		if e.Item != nil && e.Item.Lease != nil {
			l.addLocked(e.Item)
		}
	}
}

func (l *leases) addLocked(it *Item) {
	k := &leased{key: it.Key, rev: it.Revision, owner: it.Lease.Owner, pos: -1}
	l.byKey[it.Key] = k
	if it.Lease.TTL > 0 {
		k.deadline = it.Lease.Deadline
		heap.Push(&l.queue, k)
	}
	if k.owner != "" {
		o := l.owners[k.owner]
		if o == nil {
			o = &owner{}
			l.owners[k.owner] = o
		}
		if o.keys == nil {
			o.keys = map[string]struct{}{}
		}
		o.keys[it.Key] = struct{}{}
	}
}

func (l *leases) removeLocked(key string) {
	k := l.byKey[key]
	if k == nil {
		return
	}
	delete(l.byKey, key)
	if k.pos >= 0 {
		heap.Remove(&l.queue, k.pos)
	}
	if o := l.owners[k.owner]; o != nil {
		delete(o.keys, key)
	}
}

// alive reports whether ephemeral keys may be put for name.
func (l *leases) alive(name string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.owners[name]
	return o != nil && (o.claimed || !o.sweeping && now.Before(o.deadline))
}

func (l *leases) claim(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.owners[name]
	if o == nil {
		l.owners[strings.Clone(name)] = &owner{claimed: true}
		return false
	}
	// What is being swept goes, whoever comes now: its removal is on the way to the disk.
	known := !o.sweeping
	if !o.claimed && len(o.keys) > 0 {
		l.graceChanged = true
		defer l.kick()
	}
	o.claimed, o.sweeping = true, false
	return known
}

func (l *leases) releaseOwner(name string, now time.Time, grace time.Duration) {
	l.mu.Lock()
	o := l.owners[name]
	if o == nil {
		l.mu.Unlock()
		return
	}
	o.claimed = false
	l.graceChanged = l.graceChanged || len(o.keys) > 0
	l.releaseLocked(o, now.Add(max(0, grace)))
	l.mu.Unlock()
	l.kick()
}

func (l *leases) releaseLocked(o *owner, at time.Time) {
	o.deadline = at
	if l.release.IsZero() || at.Before(l.release) {
		l.release = at
	}
}

// orphan lets all owners go after grace: those of a run before, whose connections are gone. Those whose grace ran then
// have what is left of it.
func (l *leases) orphan(now time.Time, grace time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, o := range l.owners {
		if o.claimed {
			continue
		}
		left := grace
		if at, ok := l.absent[name]; ok {
			left = min(grace, max(0, time.UnixMilli(at).Sub(now)))
		}
		l.releaseLocked(o, now.Add(left))
	}
	l.graceChanged = l.graceChanged || len(l.owners) > 0 || len(l.absent) > 0
	l.absent = nil
}

// next returns when something will be due; false when nothing has a time limit.
func (l *leases) next() (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.release
	if len(l.queue) > 0 && (at.IsZero() || l.queue[0].deadline.Before(at)) {
		at = l.queue[0].deadline
	}
	return at, !at.IsZero()
}

// due returns what has to go now: single keys whose time is over, at most limit of them, and all keys of owners whose
// grace is over, together. Nothing is forgotten before the removal was published.
func (l *leases) due(now time.Time, limit int) (keys []expiring, groups [][]expiring) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// The heap is only partly ordered, but its first element is the earliest, and what stands near it is early too.
	var late []*leased
	for i := 0; i < min(len(l.queue), 4*limit) && len(late) < limit; i++ {
		if k := l.queue[i]; !k.deadline.After(now) {
			late = append(late, k)
		} else if i == 0 {
			break
		}
	}
	slices.SortFunc(late, func(a, b *leased) int {
		return cmp.Or(a.deadline.Compare(b.deadline), cmp.Compare(a.key, b.key))
	})
	for _, k := range late {
		keys = append(keys, expiring{k.key, k.rev})
	}
	if l.release.IsZero() || l.release.After(now) {
		return keys, nil
	}
	l.release = time.Time{}
	for name, o := range l.owners {
		switch {
		case o.claimed:
		case o.deadline.After(now):
			l.releaseLocked(o, o.deadline)
		case len(o.keys) == 0:
			l.graceChanged = l.graceChanged || o.sweeping
			delete(l.owners, name)
		default:
			o.sweeping = true
			var group []expiring
			for _, key := range slices.Sorted(maps.Keys(o.keys)) {
				group = append(group, expiring{key, l.byKey[key].rev})
			}
			groups = slices.AppendSeq(groups, slices.Chunk(group, maxGroup))
			l.releaseLocked(o, o.deadline) // looked at again: removed then, or tried again
		}
	}
	return keys, groups
}

func (l *leases) counts() (owners, timed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.owners), len(l.queue)
}

// restart forgets all keys, not the owners that are claimed.
func (l *leases) restart() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byKey, l.queue = map[string]*leased{}, nil
	for name, o := range l.owners {
		o.keys = nil
		if !o.claimed {
			delete(l.owners, name)
		}
	}
}

// leaseHeap is ordered by deadline.
type leaseHeap []*leased

func (h leaseHeap) Len() int           { return len(h) }
func (h leaseHeap) Less(i, j int) bool { return h[i].deadline.Before(h[j].deadline) }
func (h leaseHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}

func (h *leaseHeap) Push(x any) {
	k := x.(*leased)
	k.pos = len(*h)
	*h = append(*h, k)
}

func (h *leaseHeap) Pop() any {
	old := *h
	k := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	k.pos = -1
	return k
}
