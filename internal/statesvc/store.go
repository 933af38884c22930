// Package statesvc is the state service of hubd: a durable, revisioned, watchable map of keys to values.
//
// The way of one write:
//
//	Commit            validates, copies what it keeps, takes a place in the queue     (commit.go)
//	  committer       takes all that waits, evaluates it on a copy-on-write tree      (transact.go)
//	  journal         one record, one sync for the whole batch                        (journal.go)
//	  publish         tree and history become visible, watchers are matched           (engine.go)
//	  completer       calls done for each transaction, in commit order                (commit.go)
//
// Reads and watchers see published data only, so nothing is ever shown that a crash could take back.
package statesvc

import (
	"context"
	"iter"
	"sync/atomic"
	"time"
)

// Store is a revisioned map that can be watched. Every method may be called from any goroutine. Reads never wait for
// a write or for storage: a store whose data is elsewhere keeps a replica and answers from it.
//
// Items, events and the bytes they hold are shared between all readers and must not be modified.
type Store interface {
	// Commit gives tx its place in the commit order, which is the order of the calls, and returns without waiting for
	// storage. A non-nil error means that tx was refused (invalid, too large, overloaded, closed) and done is never
	// called. Otherwise done is called exactly once, from a goroutine of the store, after the outcome is durable; it
	// must not block. Commit copies what it keeps: tx and its values may be reused when it returns, but functions
	// in it run later.
	Commit(tx *Tx, done func(Result, error)) error

	// Get returns the item under key, or a *NotFoundError.
	Get(key string) (*Item, error)

	// GetAt returns the item that was under key when revision was the newest one. It fails with a *CompactedError
	// where history no longer says, a *FutureError for a revision not yet reached, a *NotFoundError if the key was absent.
	GetAt(key string, revision uint64) (*Item, error)

	// List returns the items whose keys begin with opts.Prefix in bytewise order, all from one revision.
	List(opts ListOptions) (List, error)

	// History returns up to limit events of key that history still holds, oldest first. A limit of 0 means all of them.
	History(key string, limit int) ([]*Event, error)

	// Watch starts following a key, a prefix or everything. It fails with a *CompactedError when opts.From is too old.
	Watch(opts WatchOptions) (Watcher, error)

	// Compact forgets history up to and including revision. It takes its place in the commit order; done is called as
	// for Commit with the lowest revision from which a watch can now resume.
	Compact(revision uint64, done func(uint64, error)) error

	// Claim makes owner known, so that ephemeral keys can be put for it, and takes back a Release that is still in its
	// grace time. It reports whether the owner was known already, that is whether its keys are still there.
	Claim(owner string) bool

	// Release lets the keys of owner expire after grace unless it is claimed again before. An unknown owner is ignored.
	Release(owner string, grace time.Duration)

	// Snapshot returns a consistent view of all items. It costs no copy and blocks nobody, but holds memory of values
	// that are overwritten later for as long as it is referenced.
	Snapshot() Snapshot

	// Restore replaces the contents by those items and blocks until they are durable. It refuses with ErrNotEmpty over
	// a store that was ever written to, unless opts.Overwrite is set; then revisions go on above both the old ones and those
	// of the backup, and all watchers end with a *CompactedError. An error of items ends it with nothing changed.
	Restore(ctx context.Context, items iter.Seq2[*Item, error], opts RestoreOptions) (RestoreResult, error)

	// Stats returns counters and sizes; Info says what kind of store this is and what an acknowledgement means.
	Stats() Stats
	Info() Info

	// Ready returns nil when the store accepts writes, else the reason why it does not.
	Ready() error

	// Close refuses new work, commits what was accepted, ends all watchers and releases files. It may be called twice.
	Close() error
}

// Encoding says how the bytes of a value are to be read. The store itself never looks into them.
type Encoding byte

// EncodingJSON marks a value whose bytes are JSON text, kept as it came. Other encodings belong to the service.
const EncodingJSON Encoding = 0

// Value is an opaque value: bytes and what they are.
type Value struct {
	Data     []byte
	Encoding Encoding
}

// Item is a key with its value at one revision. Items are immutable.
type Item struct {
	Key      string
	Value    Value
	Revision uint64 // of the commit that wrote this item
	Created  int64  // Unix nanoseconds of the commit that made the key appear
	Updated  int64  // Unix nanoseconds of the commit that wrote this item
	Lease    *Lease // nil: the item stays until it is deleted
}

// Lease says when an item goes away by itself: after a time, with its owner, or with whichever comes first.
type Lease struct {
	TTL      time.Duration // 0: no time limit
	Deadline time.Time     // when TTL is over, on the monotonic clock of this process; zero without TTL
	Owner    string        // "" : not ephemeral
}

// TTL returns the time an item has left, and false for an item without time limit.
func (it *Item) TTL() (time.Duration, bool) {
	if it.Lease == nil || it.Lease.TTL == 0 {
		return 0, false
	}
	return max(0, time.Until(it.Lease.Deadline)), true
}

// Op kinds. A transaction with only OpGet takes no revision.
const (
	OpPut OpKind = iota + 1
	OpPatch
	OpTouch
	OpDelete
	OpDeletePrefix
	OpGet
)

// OpKind is what an Op does.
type OpKind byte

// Op is one step of a transaction. Key is the prefix for OpDeletePrefix, where it may be empty.
type Op struct {
	Kind  OpKind
	Key   string
	Value Value // OpPut

	// Patch makes the new value from the old item when the transaction is evaluated (OpPatch). It runs on the
	// committer, must be quick and must not call the store. An error of it fails the transaction as it is.
	// A key that is absent fails with *NotFoundError before Patch is called.
	Patch func(old *Item) (Value, error)

	// HasIf makes the transaction fail with a *ConflictError unless the key is at revision If; 0 means absent. For
	// OpDeletePrefix it is invalid.
	HasIf bool
	If    uint64

	TTL   time.Duration // OpPut, OpTouch: 0 means no time limit. OpPatch keeps what is there.
	Owner string        // OpPut: not empty makes the key ephemeral; the owner must be claimed
}

// Condition is one comparison of a transaction. Equal, when set, is asked with the current item, or nil when the key is
// absent; it runs on the committer and must be quick. Otherwise the key must be at Revision, 0 meaning absent.
type Condition struct {
	Key      string
	Revision uint64
	Equal    func(current *Item) (bool, error) // an error fails the transaction
}

// Tx is a transaction: when all of If hold, Then is done, else Else; all of it or nothing, under one revision. An operation
// sees the effects of those before it. A key that is changed more than once has one event with the last of its effects.
type Tx struct {
	If   []Condition
	Then []Op
	Else []Op
}

// OneOp wraps a single Op, such as a put or a delete, as a transaction.
func OneOp(op Op) *Tx {
	one := &struct {
		tx  Tx
		ops [1]Op
	}{ops: [1]Op{op}}
	one.tx.Then = one.ops[:]
	return &one.tx
}

// OpResult is the outcome of one Op.
type OpResult struct {
	Deleted int   // OpDelete, OpDeletePrefix: keys that were there
	Item    *Item // OpGet: nil when absent; OpPut, OpPatch, OpTouch: the new item
}

// Result is the outcome of a transaction.
type Result struct {
	Succeeded bool   // which branch ran
	Revision  uint64 // the revision of the transaction, or the newest one when it changed nothing
	Results   []OpResult
}

// ListOptions selects what List returns.
type ListOptions struct {
	Prefix   string
	After    string // only keys greater than this
	Limit    int    // 0: no limit
	MaxBytes int    // stop after the item that makes keys and values exceed it; 0: no limit
	KeysOnly bool   // keys and values count with their keys alone against MaxBytes
}

// List is a page of items. More is set when there are further ones after the last.
type List struct {
	Items    []*Item
	Revision uint64
	More     bool
}

// Event types.
const (
	EventPut EventType = iota + 1
	EventDelete
	EventExpire // the time of the key was over, or its owner left
)

// EventType is what happened to a key.
type EventType byte

// String returns the name that clients see.
func (t EventType) String() string {
	switch t {
	case EventPut:
		return "put"
	case EventDelete:
		return "delete"
	case EventExpire:
		return "expire"
	}
	return "unknown"
}

// Event is one change of one key. Events are shared by all who read them; only the slot of SetEncoded may change.
type Event struct {
	Type     EventType
	Key      string
	Revision uint64
	Previous uint64 // revision of the item that was replaced or removed, 0 when there was none
	Time     int64  // Unix nanoseconds of the commit
	Item     *Item  // the new item; nil for EventDelete and EventExpire

	chain   uint64 // revision of the event of this key before this one, 0 when there was none in history
	encoded atomic.Pointer[any]
}

// Encoded returns what SetEncoded stored, or nil. It lets the first of many watchers encode an event for all.
func (e *Event) Encoded() any {
	if p := e.encoded.Load(); p != nil {
		return *p
	}
	return nil
}

// SetEncoded keeps v with the event. Concurrent calls race and the last one wins. The store drops it when some thousand
// newer revisions were committed.
func (e *Event) SetEncoded(v any) { e.encoded.Store(&v) }

// WatchOptions says what a watcher follows. At most one of Key and Prefix is set; neither means everything.
type WatchOptions struct {
	Key    string
	Prefix string

	// Resume makes the watcher begin with the first event whose revision is greater than From. A From beyond the newest
	// revision waits for it: no older event is delivered. Without Resume it begins with the next event.
	Resume bool
	From   uint64

	// Snapshot delivers the items as they are first. It excludes Resume.
	Snapshot bool

	// Wake is called from a goroutine of the store when there may be something to read after Next had returned a batch
	// with Idle set. It is called at most once per such batch and must not block. nil: nobody is told.
	Wake func()
}

// Watcher follows changes at its reader's own pace: it holds no queue, it reads from the history of the store. It costs no
// goroutine. Next must not be called concurrently with itself.
//
// Events come in the order of their revisions, each once, none left out; the events of one revision are always in
// the same batch.
type Watcher interface {
	// Next returns what there is, without blocking, about max events or items (all of a revision, never a part). It fails
	// with a *CompactedError when history no longer holds what comes next, and with ErrClosed after Close.
	Next(max int) (Batch, error)

	// Revision returns the revision up to which everything was delivered: what a reader that has taken all batches may
	// resume from. It moves on without events as well, so it serves for bookmarks.
	Revision() uint64

	// Close ends the watcher. It may be called from any goroutine and more than once.
	Close()
}

// Batch is what a Watcher returns at once.
type Batch struct {
	Items    []*Item  // of the snapshot, in the order of keys
	Events   []*Event // in the order of revisions
	Synced   bool     // set once: snapshot or backlog is through, Revision is where it ended
	Revision uint64   // the watcher's position after this batch
	Idle     bool     // nothing more for now; Wake will be called
}

// Snapshot is a consistent view of everything.
type Snapshot struct {
	Revision uint64
	Keys     int
	Bytes    int64 // keys and values
	Items    iter.Seq[*Item]
}

// RestoreOptions says how Restore treats what is there. Revision is that of the backup; 0 means the highest of its items.
type RestoreOptions struct {
	Revision  uint64
	Overwrite bool
}

// RestoreResult says what a Restore did.
type RestoreResult struct {
	Revision uint64
	Keys     int
}

// Stats are counters since the start and sizes at this moment.
type Stats struct {
	Revision      uint64
	Compacted     uint64 // lowest revision from which a watch can resume
	Keys          int
	Bytes         int64 // keys and values
	HistoryEvents int
	HistoryBytes  int64
	Queue         int   // transactions accepted and not yet answered
	QueueBytes    int64 // their values
	Watchers      int
	Owners        int
	Leases        int // keys with a time limit
	Commits       uint64
	Batches       uint64 // commits that were made durable together count once
	Refused       uint64 // transactions refused for want of room, a broken log or a full queue
	Expired       uint64
	LogBytes      int64 // size of the log on disk
	Snapshots     uint64
	SnapshotBytes int64 // size of the newest snapshot on disk
	LastSnapshot  uint64
	TornBytes     int64 // bytes cut from the end of the log at the start
	LogFailures   uint64
}

// Info says what kind of store this is.
type Info struct {
	Engine    string // "memory", "log" ...
	Durable   bool
	Ack       string // what an acknowledgement means, one sentence for people
	Revision  uint64
	Compacted uint64
}

// Observer hears of what the store does, for metrics. Its methods are called from goroutines of the store and must be quick.
type Observer interface {
	// Synced is called after each batch was made durable: how long it took, how many transactions and bytes it had.
	Synced(took time.Duration, transactions, bytes int)
	// Snapshotted is called after each snapshot.
	Snapshotted(took time.Duration, bytes int64, err error)
	// Refused is called for each transaction that a limit or a failing disk kept out; limit is a short constant name.
	Refused(limit string)
}
