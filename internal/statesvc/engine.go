package statesvc

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"
	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/statesvc/disk"
)

// Options configures a store. The zero value works.
type Options struct {
	Limits Limits

	// OwnerGrace is how long ephemeral keys found at the start wait for their owners to claim them. 0: 10 s.
	OwnerGrace time.Duration

	// SnapshotBytes is how much the log grows before a snapshot is written. 0: 64 MiB.
	SnapshotBytes int64

	Observer Observer    // nil: nobody
	Logger   *zap.Logger // nil: silent

	// AfterReplies and AfterWakes are called by the goroutine that has just called a group of done functions, or of Wake
	// functions, so that what these collected can be written at once. nil: nothing.
	AfterReplies func()
	AfterWakes   func()

	// FS is the file system that the store lives on. nil: disk.OS.
	FS disk.FS

	// SegmentBytes is how large a file of the log grows. 0: filelog.SegmentBytes.
	SegmentBytes int64
}

// view is what readers see: one consistent state, never changed again.
type view struct {
	tree  *btree.Map[string, *Item]
	rev   uint64
	total int64 // cost of all items
	bytes int64 // keys and values
}

// engine is the part that both embedded stores share: the map, its history and watchers, and the committer. With a
// journal it is durable.
//
// Lock order: mu, then watches.mu or leases.mu. None is held during I/O or while foreign code runs.
type engine struct {
	limits   Limits
	opts     Options
	log      *zap.Logger
	observer Observer
	journal  *journal // nil: memory only

	mu   sync.RWMutex // guards hist, and that view and hist change together
	hist *history
	view atomic.Pointer[view]

	watches *watchHub
	leases  *leases

	queue     queue
	replies   replies
	stopped   chan struct{} // the committer has returned
	goroutine sync.WaitGroup
	closing   sync.Once
	closeErr  error

	commits, batches, refused, expired atomic.Uint64
	retryExpiry                        time.Time // committer only: no expiry before this, after a refusal

	// Committer only, see keepAbsent.
	absentAfter  time.Time
	absentFailed bool
}

var _ Store = (*engine)(nil)

// OpenMemory returns a store that keeps everything in memory and loses it with the process.
func OpenMemory(opts Options) Store {
	e := newEngine(opts)
	e.view.Store(&view{tree: btree.NewMap[string, *Item](treeDegree)})
	e.start()
	return e
}

// treeDegree gives nodes of up to 63 items.
const treeDegree = 32

func newEngine(opts Options) *engine {
	e := &engine{
		limits: opts.Limits.withDefaults(), opts: opts, log: opts.Logger, observer: opts.Observer,
		watches: newWatchHub(), stopped: make(chan struct{}),
	}
	if e.log == nil {
		e.log = zap.NewNop()
	}
	if e.observer == nil {
		e.observer = silent{}
	}
	if e.opts.OwnerGrace <= 0 {
		e.opts.OwnerGrace = 10 * time.Second
	}
	if e.opts.FS == nil {
		e.opts.FS = disk.OS
	}
	if e.opts.SnapshotBytes <= 0 {
		e.opts.SnapshotBytes = 64 << 20
	}
	e.hist = newHistory(e.limits, 0)
	e.queue.init()
	e.replies.init()
	e.leases = newLeases(e.queue.poke)
	return e
}

// start begins to work: one goroutine commits, one answers, one wakes watchers.
func (e *engine) start() {
	e.leases.orphan(time.Now(), e.opts.OwnerGrace)
	e.goroutine.Go(func() {
		defer close(e.stopped)
		e.commitLoop()
	})
	e.goroutine.Go(func() { e.replies.run(e) })
	e.goroutine.Go(func() { e.watches.notify(e.stopped, e.opts.AfterWakes) })
}

// publish makes a batch visible: tree and history at once, then leases and watchers follow.
func (e *engine) publish(b *batch) {
	e.mu.Lock()
	for _, c := range b.commits {
		e.hist.append(c)
	}
	e.view.Store(&view{tree: b.tree, rev: b.rev, total: b.total, bytes: b.bytes})
	floor := e.hist.floor
	e.mu.Unlock()
	for _, c := range b.commits {
		e.leases.publish(c)
	}
	e.watches.publish(b.commits, floor)
}

func (e *engine) Get(key string) (*Item, error) {
	it, ok := e.view.Load().tree.Get(key)
	if !ok {
		return nil, &NotFoundError{Key: key}
	}
	return it, nil
}

func (e *engine) GetAt(key string, revision uint64) (*Item, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	v := e.view.Load()
	if revision > v.rev {
		return nil, &FutureError{Revision: revision, Newest: v.rev}
	}
	current, _ := v.tree.Get(key)
	it, err := e.hist.itemAt(key, current, revision)
	if err == nil && it == nil {
		err = &NotFoundError{Key: key}
	}
	return it, err
}

func (e *engine) List(opts ListOptions) (List, error) {
	if err := checkPrefix(opts.Prefix, e.limits.Key); err != nil {
		return List{}, err
	}
	v := e.view.Load()
	l := List{Revision: v.rev}
	size := 0
	v.tree.Ascend(max(opts.Prefix, opts.After), func(key string, it *Item) bool {
		if len(key) < len(opts.Prefix) || key[:len(opts.Prefix)] != opts.Prefix {
			return false
		}
		if key <= opts.After && opts.After != "" {
			return true
		}
		if opts.Limit > 0 && len(l.Items) == opts.Limit || opts.MaxBytes > 0 && size > opts.MaxBytes {
			l.More = true
			return false
		}
		size += len(key)
		if !opts.KeysOnly {
			size += len(it.Value.Data)
		}
		l.Items = append(l.Items, it)
		return true
	})
	return l, nil
}

func (e *engine) History(key string, limit int) ([]*Event, error) {
	if err := CheckKey(key, e.limits.Key); err != nil {
		return nil, err
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	current, _ := e.view.Load().tree.Get(key)
	var events []*Event
	for ev := e.hist.last(key, current); ev != nil && (limit <= 0 || len(events) < limit); ev = e.hist.before(ev) {
		events = append(events, ev)
	}
	for i, j := 0, len(events)-1; i < j; i, j = i+1, j-1 {
		events[i], events[j] = events[j], events[i]
	}
	return events, nil
}

func (e *engine) Claim(owner string) bool { return e.leases.claim(owner) }

func (e *engine) Release(owner string, grace time.Duration) {
	e.leases.releaseOwner(owner, time.Now(), grace)
}

func (e *engine) Snapshot() Snapshot {
	v := e.view.Load()
	return Snapshot{
		Revision: v.rev, Keys: v.tree.Len(), Bytes: v.bytes,
		Items: func(yield func(*Item) bool) {
			v.tree.Scan(func(_ string, it *Item) bool { return yield(it) })
		},
	}
}

func (e *engine) Stats() Stats {
	e.mu.RLock()
	v := e.view.Load()
	s := Stats{
		Revision: v.rev, Compacted: e.hist.floor, Keys: v.tree.Len(), Bytes: v.bytes,
		HistoryEvents: e.hist.events, HistoryBytes: e.hist.bytes,
	}
	e.mu.RUnlock()
	s.Queue, s.QueueBytes = e.queue.load()
	s.Watchers = e.watches.watchers()
	s.Owners, s.Leases = e.leases.counts()
	s.Commits, s.Batches = e.commits.Load(), e.batches.Load()
	s.Refused, s.Expired = e.refused.Load(), e.expired.Load()
	if e.journal != nil {
		e.journal.stats(&s)
	}
	return s
}

func (e *engine) Info() Info {
	e.mu.RLock()
	defer e.mu.RUnlock()
	i := Info{
		Engine: "memory", Revision: e.view.Load().rev, Compacted: e.hist.floor,
		Ack: "the write is visible to all readers; it is lost when the daemon ends",
	}
	if e.journal != nil {
		i.Engine, i.Durable = "log", true
		i.Ack = "the write was synced to disk before the answer: it survives a crash and a loss of power"
	}
	return i
}

func (e *engine) Ready() error {
	if e.queue.isClosed() {
		return ErrClosed
	}
	if e.journal != nil {
		return e.journal.ready()
	}
	return nil
}

func (e *engine) Close() error {
	e.closing.Do(func() {
		e.queue.close()
		<-e.stopped
		e.watches.endAll(ErrClosed, true)
		e.replies.close()
		e.goroutine.Wait()
		e.watches.wakeAll(e.opts.AfterWakes)
		e.absentAfter = time.Time{}
		e.keepAbsent(time.Now())
		if e.journal != nil {
			e.closeErr = e.journal.close(e)
		}
	})
	return e.closeErr
}

// refuse counts a transaction that was kept out.
func (e *engine) refuse(limit string) {
	e.refused.Add(1)
	e.observer.Refused(limit)
}

// silent is the Observer of those who have none.
type silent struct{}

func (silent) Synced(time.Duration, int, int)          {}
func (silent) Snapshotted(time.Duration, int64, error) {}
func (silent) Refused(string)                          {}
