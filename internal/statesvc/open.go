package statesvc

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidwall/btree"
	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/statesvc/filelog"
)

// Open returns the durable store in the folder path, which is made when it is absent and belongs to the store alone. It
// fails with a *LockedError, *DamagedError, *FormatError or *FolderError (see ExitCode) and then has changed nothing, save
// that a record at the very end of the log which was never written completely is cut off: it was never acknowledged.
func Open(path string, opts Options) (Store, error) {
	e, err := openEngine(path, opts)
	if err != nil {
		return nil, err
	}
	return e, nil
}

func openEngine(path string, opts Options) (*engine, error) {
	e := newEngine(opts)
	f, err := makeFolder(e.opts.FS, path)
	if err != nil {
		return nil, err
	}
	e.journal = newJournal(f, e.log)
	if err := e.load(f); err != nil {
		_ = e.journal.abandon() // the first error says more
		return nil, err
	}
	e.start()
	return e, nil
}

func (e *engine) load(f *folder) error {
	start := time.Now()
	fresh, err := f.identify()
	if err != nil {
		return err
	}
	f.sweep()
	if fresh {
		if err := e.create(f); err != nil {
			return &FolderError{Path: f.path, Cause: err}
		}
		return nil
	}
	wal := f.log(e.opts.SegmentBytes)
	e.journal.wal = wal
	l := loader{e: e, f: f, j: e.journal, now: time.Now()}
	if err := l.snapshots(); err != nil {
		return err
	}
	snapshotTook := time.Since(start)
	if err := l.replay(wal); err != nil {
		return err
	}
	e.view.Store(l.v)
	l.v.tree.Scan(func(_ string, it *Item) bool {
		if it.Lease != nil {
			e.leases.addLocked(it) // nobody else is there yet
		}
		return true
	})
	e.loadAbsent(f)
	e.watches.matched = l.v.rev
	e.journal.torn = wal.Torn()
	if wal.Torn() > 0 {
		e.log.Warn("end of the state log was never written completely and is cut off", zap.Int64("bytes", wal.Torn()))
	}
	if err := wal.Open(); isFull(err) {
		// Everything was read. Writes are refused until there is room, as they would be had it run on.
		e.log.Warn("no space for the state log: writes are refused until there is some", zap.Error(err))
		_ = e.journal.refuse(err) // whoever writes is told
	} else if err != nil {
		return &FolderError{Path: f.path, Cause: err}
	}
	e.journal.open = err == nil
	e.log.Info("state loaded", zap.Uint64("revision", l.v.rev), zap.Int("keys", l.v.tree.Len()),
		zap.Int("history", e.hist.events), zap.Duration("snapshot", snapshotTook), zap.Duration("took", time.Since(start)))
	return nil
}

// create makes a new store in an empty folder.
func (e *engine) create(f *folder) error {
	f.create()
	wal := f.log(e.opts.SegmentBytes)
	e.journal.wal = wal
	e.view.Store(&view{tree: btree.NewMap[string, *Item](treeDegree)})
	if err := f.fs.RemoveAll(f.logDir()); err != nil { // without records: see identify
		return err
	}
	if err := wal.Create(); err != nil {
		return err
	}
	e.journal.open = true
	if err := f.fs.Mkdir(f.snapDir()); err != nil {
		return err
	}
	return f.finish()
}

// log returns the log of the store, of which nothing was read yet.
func (f *folder) log(segment int64) *filelog.Log {
	id, _ := f.mark.logID() // identify has checked it
	return filelog.New(f.fs, f.logDir(), id, segment)
}

// loader rebuilds the state: the newest good snapshot, then the log, which also gives the history.
type loader struct {
	e   *engine
	f   *folder
	j   *journal
	now time.Time

	v        *view
	loaded   uint64 // revision of the snapshot v began with
	newest   uint64 // revision of the newest snapshot, good or not
	damaged  error  // of a newer snapshot that could not be read
	seen     uint64 // newest revision met in the log
	look     bool   // nothing is written, and nothing but the log is needed of the state
	complete bool   // the log reaches back to the beginning of the store
}

// newSuffix marks the snapshot of a Restore that is not yet entered in the log.
const newSuffix = ".new"

// snapshots loads the newest snapshot that is good.
func (l *loader) snapshots() error {
	snaps, err := l.f.listSnapshots()
	if err != nil {
		return &FolderError{Path: l.f.path, Cause: err}
	}
	l.j.snaps = snaps
	if len(snaps) > 0 {
		l.newest = snaps[len(snaps)-1].rev
	}
	for i := len(snaps) - 1; i >= 0; i-- {
		v, err := l.f.readSnapshot(snaps[i].path, l.now)
		if err == nil && v.rev != snaps[i].rev {
			err = &DamagedError{File: snaps[i].path, Offset: 0, Reason: fmt.Sprintf("holds revision %d, not that of its name", v.rev)}
		}
		if err == nil {
			l.v, l.loaded = v, v.rev
			return nil
		}
		// Anything but damage is not a reason to go back in time.
		if _, ok := errors.AsType[*DamagedError](err); !ok {
			return err
		}
		if l.damaged == nil {
			l.damaged = err
		}
		l.j.snaps = snaps[:i]
	}
	l.v = &view{tree: btree.NewMap[string, *Item](treeDegree)}
	return nil
}

// replay reads the log and applies what the snapshot does not have.
func (l *loader) replay(wal *filelog.Log) error {
	err := wal.Replay(l.visitor())
	if d, ok := errors.AsType[*DamagedError](err); ok {
		return d
	}
	if f, ok := errors.AsType[*FormatError](err); ok {
		return f
	}
	if err != nil {
		return &FolderError{Path: l.f.path, Cause: err}
	}
	if l.seen < l.newest {
		if l.damaged != nil {
			return l.damaged
		}
		return &DamagedError{File: l.f.logDir(), Offset: -1, Reason: fmt.Sprintf("log ends at revision %d, before the snapshot of revision %d", l.seen, l.newest)}
	}
	l.leftovers()
	return nil
}

// visitor takes what the log hands over.
func (l *loader) visitor() filelog.Visitor {
	return filelog.Visitor{
		// What stands before a segment is needed for what the snapshot does not have, and for the history.
		Needed: func(newest, note filelog.Note) bool {
			return note[0] > l.loaded || newest[1]-note[1] <= uint64(l.e.limits.HistoryEvents) && newest[2]-note[2] <= uint64(l.e.limits.HistoryBytes)
		},
		Start: func(first uint64, note filelog.Note) error { return l.begin(first, note) },
		Decode: func(r filelog.Record) (any, error) {
			entries, err := readRecord(r.Body, l.now)
			if err != nil {
				return nil, &DamagedError{Reason: err.Error()}
			}
			return entries, nil
		},
		Apply: func(r filelog.Record, decoded any) error {
			for _, en := range decoded.([]logEntry) {
				if err := l.entry(en); err != nil {
					return err
				}
			}
			l.j.rev, l.j.newest = l.seen, r.Seq
			if n := len(l.j.marks); n == 0 || r.Seq-l.j.marks[n-1].seq >= 64 {
				l.j.marks = append(l.j.marks, logMark{r.Seq, l.seen})
			}
			if l.v.rev > l.loaded {
				l.j.since += int64(r.Size)
			}
			return nil
		},
	}
}

// begin starts at a record before which the log is not needed, or no longer there.
func (l *loader) begin(first uint64, note filelog.Note) error {
	l.complete = first == 1
	if note[0] > l.loaded && !(l.complete && note[0] == 0) {
		// What is missing in front of it must be in the snapshot.
		if l.damaged != nil {
			return l.damaged
		}
		return &DamagedError{Reason: fmt.Sprintf("log begins behind revision %d and there is no snapshot that reaches it", note[0])}
	}
	l.seen = note[0]
	l.j.rev, l.j.events, l.j.cost = note[0], note[1], note[2]
	l.j.newest = first - 1
	l.j.marks = append(l.j.marks, logMark{first - 1, note[0]})
	l.e.hist.restart(note[0])
	return nil
}

// entry applies one entry of the log.
func (l *loader) entry(en logEntry) error {
	h := l.e.hist
	switch en.kind {
	case entryCompact:
		h.compact(min(en.rev, h.newest()))
		return nil
	case entryReset:
		if en.rev > l.loaded {
			if err := l.reset(en.rev); err != nil {
				return err
			}
		}
		h.restart(en.rev)
		l.seen = en.rev
		return nil
	}
	if en.rev != l.seen+1 {
		return &DamagedError{Reason: fmt.Sprintf("revision %d follows %d", en.rev, l.seen)}
	}
	l.seen = en.rev
	l.j.events += uint64(len(en.commit.events))
	l.j.cost += uint64(en.commit.cost)
	h.append(en.commit)
	if en.rev > l.v.rev {
		l.apply(en.commit)
	}
	return nil
}

// reset switches to the snapshot that a Restore made.
func (l *loader) reset(rev uint64) error {
	path := l.f.snapPath(rev)
	v, err := l.f.readSnapshot(path, l.now)
	if l.look {
		if err != nil {
			_, err = l.f.readSnapshot(path+newSuffix, l.now)
		}
		if err != nil {
			return &DamagedError{Reason: "snapshot of a restore, " + filepath.Base(path) + ", is missing or damaged"}
		}
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		// The daemon ended between entering it in the log and giving it its name.
		if err := l.f.fs.Rename(path+newSuffix, path); err != nil {
			return &DamagedError{File: path, Offset: -1, Reason: "restored snapshot is missing"}
		}
		if err := l.f.fs.SyncDir(l.f.snapDir()); err != nil {
			return &FolderError{Path: l.f.path, Cause: err}
		}
		v, err = l.f.readSnapshot(path, l.now)
	}
	if err != nil {
		return err
	}
	l.v, l.loaded = v, rev
	snaps, err := l.f.listSnapshots()
	if err != nil {
		return &FolderError{Path: l.f.path, Cause: err}
	}
	for _, s := range snaps {
		if s.rev == rev {
			l.j.snaps = append(l.j.snaps, s)
		}
	}
	return nil
}

func (l *loader) apply(c *commit) {
	v := l.v
	for _, ev := range c.events {
		var old *Item
		if ev.Item != nil {
			old, _ = v.tree.Set(ev.Key, ev.Item)
			v.total += ev.Item.cost()
			v.bytes += ev.Item.size()
		} else {
			old, _ = v.tree.Delete(ev.Key)
		}
		if old != nil {
			v.total -= old.cost()
			v.bytes -= old.size()
		}
	}
	v.rev = c.rev
}

// leftovers removes snapshots of restores that never happened, and one that was found damaged but is not needed: it would
// be mistaken for good when the next one is chosen to fall back to.
func (l *loader) leftovers() {
	entries, err := l.f.fs.ReadDir(l.f.snapDir())
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name, newSuffix) {
			_ = l.f.fs.Remove(filepath.Join(l.f.snapDir(), e.Name)) // else the next start does
		}
	}
	if d, ok := errors.AsType[*DamagedError](l.damaged); ok {
		l.e.log.Error("newest snapshot of the state is damaged; the one before and the log have everything", zap.Error(l.damaged))
		if err := l.f.fs.Rename(d.File, d.File+damagedSuffix); err != nil {
			l.e.log.Warn("cannot rename the damaged snapshot: each start will try it first", zap.Error(err))
		}
	}
}
