package statesvc

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/tidwall/btree"
	"go.uber.org/zap"
)

// Restore implements Store. The items are read and checked before anything is touched. The switch itself runs on the
// committer and holds up writes while the snapshot is written; reads go on.
func (e *engine) Restore(ctx context.Context, items iter.Seq2[*Item, error], opts RestoreOptions) (RestoreResult, error) {
	if e.queue.isClosed() {
		return RestoreResult{}, ErrClosed
	}
	if !opts.Overwrite && !e.empty() {
		return RestoreResult{}, ErrNotEmpty
	}
	v := &view{tree: btree.NewMap[string, *Item](treeDegree), rev: opts.Revision}
	now := time.Now()
	for it, err := range items {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err == nil {
			err = e.restoreItem(v, it, now)
		}
		if err != nil {
			return RestoreResult{}, err
		}
	}
	if e.journal != nil {
		if err := e.journal.refusing(); err != nil {
			return RestoreResult{}, err
		}
	}
	done := make(chan error, 1)
	if err := e.enqueueWork(func() { done <- e.replace(v, opts) }); err != nil {
		return RestoreResult{}, err
	}
	if err := <-done; err != nil {
		return RestoreResult{}, err
	}
	return RestoreResult{Revision: v.rev, Keys: v.tree.Len()}, nil
}

func (e *engine) enqueueWork(work func()) error {
	e.queue.waiting.Add(1)
	return e.enqueue(&request{work: work})
}

func (e *engine) empty() bool {
	v := e.view.Load()
	return v.rev == 0 && v.tree.Len() == 0
}

func (e *engine) restoreItem(v *view, it *Item, now time.Time) error {
	if err := CheckKey(it.Key, e.limits.Key); err != nil {
		return fmt.Errorf("item %d: %w", v.tree.Len()+1, err)
	}
	if len(it.Value.Data) > e.limits.Value {
		return fmt.Errorf("item %d: %w", v.tree.Len()+1, &LimitError{Limit: LimitValue, Max: int64(e.limits.Value)})
	}
	own := newItem(it.Key, it.Value)
	own.Revision, own.Created, own.Updated = max(it.Revision, 1), it.Created, it.Updated
	if l := it.Lease; l != nil {
		if err := checkTTL(l.TTL); err != nil || len(l.Owner) > maxOwner {
			return fmt.Errorf("item %d: %w", v.tree.Len()+1, &InvalidError{Reason: "lease is out of range"})
		}
		own.Lease = revivedLease(now, l.TTL, l.Deadline.UnixNano(), l.Owner)
	}
	v.rev = max(v.rev, own.Revision)
	if old, ok := v.tree.Set(own.Key, own); ok {
		v.total -= old.cost()
		v.bytes -= old.size()
	}
	v.total += own.cost()
	v.bytes += own.size()
	if v.total > e.limits.Total {
		return &LimitError{Limit: LimitTotal, Max: e.limits.Total}
	}
	return nil
}

// replace makes v the state. It runs on the committer.
func (e *engine) replace(v *view, opts RestoreOptions) error {
	old := e.view.Load()
	if !e.empty() {
		if !opts.Overwrite {
			return ErrNotEmpty
		}
		// Revisions of the backup may have meant something else here: all items get a new one.
		v.rev = max(v.rev, old.rev) + 1
		v.tree.Scan(func(_ string, it *Item) bool {
			it.Revision = v.rev
			return true
		})
	} else if v.rev == 0 {
		return nil // nothing into nothing
	}
	if e.journal != nil {
		if err := e.journal.replace(v); err != nil {
			return err
		}
	}
	e.mu.Lock()
	e.hist.restart(v.rev)
	e.view.Store(v)
	e.mu.Unlock()
	e.leases.restart()
	e.leases.mu.Lock()
	v.tree.Scan(func(_ string, it *Item) bool {
		if it.Lease != nil {
			e.leases.addLocked(it)
		}
		return true
	})
	e.leases.mu.Unlock()
	e.leases.orphan(time.Now(), e.opts.OwnerGrace)
	e.watches.mu.Lock()
	e.watches.matched = v.rev
	e.watches.mu.Unlock()
	e.watches.endAll(&CompactedError{Lowest: v.rev}, false)
	return nil
}

// replace writes the snapshot first, then enters it in the log, then gives it its name. A crash before the log has it
// changes nothing; after that the state is the new one.
func (j *journal) replace(v *view) error {
	if err := j.resume(); err != nil {
		return err
	}
	j.snapDone.Wait()
	path := j.f.snapPath(v.rev)
	info, err := j.f.writeSnapshot(v, path+newSuffix)
	if err != nil {
		return &UnavailableError{Cause: err}
	}
	if err := j.append(appendReset(j.wal.Begin(), v.rev), v.rev, 0, 0); err != nil {
		if u, ok := err.(*UnavailableError); !ok || !u.Unknown {
			_ = j.f.fs.Remove(path + newSuffix) // else the next start does
		}
		return err
	}
	info.path = path
	// From here on it happened; a name that cannot be given now is given at the next start.
	if err := j.f.fs.Rename(path+newSuffix, path); err != nil {
		info.path = path + newSuffix
	} else if err := j.f.fs.SyncDir(j.f.snapDir()); err != nil {
		j.log.Warn("name of the restored snapshot may not be on disk yet", zap.Error(err))
	}
	j.mu.Lock()
	old := j.snaps
	j.snaps = []snapInfo{info}
	j.mu.Unlock()
	for _, s := range old {
		_ = j.f.fs.Remove(s.path) // it costs space and nothing else
	}
	j.since = 0
	j.release(v.rev)
	return nil
}
