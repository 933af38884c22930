package statesvc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"
	"go.uber.org/zap"
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
	f, err := makeFolder(path, opts.faults)
	if err != nil {
		return nil, err
	}
	e := newEngine(opts)
	if err := e.load(f); err != nil {
		if e.journal != nil && e.journal.w != nil {
			shut(e.journal.w)
		}
		f.close()
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
		f.create()
		e.journal = newJournal(f, e.log)
		e.view.Store(&view{tree: btree.NewMap[string, *Item](treeDegree)})
		if err := os.RemoveAll(f.logDir()); err != nil { // without records: see identify
			return &FolderError{Path: f.path, Cause: err}
		}
		if err := e.journal.create(); err != nil {
			return &FolderError{Path: f.path, Cause: err}
		}
		if err := os.MkdirAll(f.snapDir(), 0o700); err != nil {
			return &FolderError{Path: f.path, Cause: err}
		}
		if err := f.finish(); err != nil {
			return &FolderError{Path: f.path, Cause: err}
		}
		return nil
	}
	e.journal = newJournal(f, e.log)
	l := loader{e: e, f: f, j: e.journal, now: time.Now()}
	if err := l.snapshots(); err != nil {
		return err
	}
	snapshotTook := time.Since(start)
	if err := l.replay(); err != nil {
		return err
	}
	e.view.Store(l.v)
	l.v.tree.Scan(func(_ string, it *Item) bool {
		if it.Lease != nil {
			e.leases.addLocked(it) // nobody else is there yet
		}
		return true
	})
	e.watches.matched = l.v.rev
	if err := e.journal.open(); isFull(err) {
		// Everything was read. Writes are refused until there is room, as they would be had it run on.
		e.log.Warn("no space for the state log: writes are refused until there is some", zap.Error(err))
		_ = e.journal.refuse(err) // whoever writes is told
	} else if err != nil {
		return &FolderError{Path: f.path, Cause: err}
	}
	e.log.Info("state loaded", zap.Uint64("revision", l.v.rev), zap.Int("keys", l.v.tree.Len()),
		zap.Int("history", e.hist.events), zap.Duration("snapshot", snapshotTook), zap.Duration("took", time.Since(start)))
	return nil
}

// loader rebuilds the state: the newest good snapshot, then the log, which also gives the history.
type loader struct {
	e   *engine
	f   *folder
	j   *journal
	now time.Time

	v       *view
	loaded  uint64 // revision of the snapshot v began with
	newest  uint64 // revision of the newest snapshot, good or not
	damaged error  // of a newer snapshot that could not be read
	seen    uint64 // newest revision met in the log
	started bool   // a commit was met
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

// decodedSegment is a segment with its records decoded.
type decodedSegment struct {
	file    segmentFile
	raw     []byte // of the newest segment only
	seg     *segment
	entries [][]logEntry // of each record
	err     error
}

// skim reads all segments without making anything of them, and returns how many of the oldest need not be read again: the
// snapshot has all their commits, and what follows them fills the history. Otherwise a start would decode a whole log for
// the few events of it that are kept, and take memory for all of it.
func (l *loader) skim(segs []segmentFile) []*decodedSegment {
	if l.loaded == 0 || len(segs) < 3 {
		return nil
	}
	skimmed := make([]*decodedSegment, len(segs)-1)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(skimmed)); i = next.Add(1) - 1 {
				skimmed[i] = l.decode(segs[i], false, true)
			}
		})
	}
	wg.Wait()
	events, cost := 0, int64(0)
	for i := len(skimmed) - 1; i >= 0; i-- {
		d := skimmed[i]
		if d.err != nil {
			return nil // found again, in order
		}
		full := events > l.e.limits.HistoryEvents || cost > l.e.limits.HistoryBytes
		last := uint64(0)
		for _, entries := range d.entries {
			for _, en := range entries {
				events += en.events
				cost += en.cost
				if en.kind != entryCompact {
					last = max(last, en.rev)
				}
			}
		}
		if full && last <= l.loaded {
			return skimmed[:i+1]
		}
	}
	return nil
}

func (l *loader) decode(file segmentFile, newest, skim bool) *decodedSegment {
	d := &decodedSegment{file: file}
	data, err := os.ReadFile(file.path)
	if err != nil {
		d.err = &FolderError{Path: l.f.path, Cause: err}
		return d
	}
	d.seg = parseSegment(data)
	if d.seg.metadata != nil {
		if d.err = l.f.mark.checkMetadata(file.path, d.seg.metadata); d.err != nil {
			return d
		}
	}
	if newest {
		d.raw = data
	}
	d.entries = make([][]logEntry, len(d.seg.records))
	for i := range d.seg.records {
		r := &d.seg.records[i]
		index, body, n, err := openRecord(r.data, l.j.salt)
		if err == nil && (index != r.index || n != len(r.data)) {
			err = errBadRecord
		}
		if err == nil && skim {
			d.entries[i], err = skimRecord(body)
		} else if err == nil {
			d.entries[i], err = readRecord(body, l.now)
		}
		if ferr, ok := err.(*FormatError); ok {
			ferr.File = file.path
			d.err = ferr
			return d
		}
		if err != nil {
			d.err = &DamagedError{File: file.path, Offset: r.offset, Reason: err.Error(), Hint: repairHint}
			return d
		}
		r.data = nil // the segment's memory can go
	}
	return d
}

// replay reads the log and applies what the snapshot does not have.
func (l *loader) replay() error {
	segs, err := listSegments(l.f.logDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &FolderError{Path: l.f.path, Cause: err}
	}
	if len(segs) == 0 {
		return &DamagedError{File: l.f.logDir(), Offset: -1, Reason: "log is missing"}
	}
	skimmed := l.skim(segs)
	// Segments are decoded ahead, a few at a time, and applied in order.
	next := make(chan chan *decodedSegment, runtime.GOMAXPROCS(0))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		defer close(next)
		for i, s := range segs {
			c := make(chan *decodedSegment, 1)
			select {
			case next <- c:
			case <-stop:
				return
			}
			if i < len(skimmed) {
				c <- skimmed[i]
				continue
			}
			wg.Go(func() { c <- l.decode(s, i == len(segs)-1, false) })
		}
	})
	var prev *decodedSegment
	for c := range next {
		d := <-c
		if err := l.segment(prev, d); err != nil {
			return err
		}
		if prev != nil {
			prev.entries = nil
		}
		prev = d
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

// segment checks one segment against the one before it and applies its records.
func (l *loader) segment(prev, d *decodedSegment) error {
	if d.err != nil {
		return d.err
	}
	damaged := func(offset int64, format string, args ...any) error {
		return &DamagedError{File: d.file.path, Offset: offset, Reason: fmt.Sprintf(format, args...), Hint: repairHint}
	}
	if d.seg.problem != nil && d.raw == nil {
		return damaged(d.seg.end, "%v", d.seg.problem)
	}
	want := max(d.file.index, 1)
	if prev != nil {
		if d.file.seq != prev.file.seq+1 {
			return damaged(-1, "segment before it is missing: its number follows %d", prev.file.seq)
		}
		want = l.j.index + 1
		if d.file.index != want {
			return damaged(-1, "segment does not begin with record %d", want)
		}
		if d.seg.firstCRC != prev.seg.lastCRC && d.seg.problem != errFrameHeader {
			return damaged(0, "segment does not continue the one before it")
		}
	} else {
		if d.file.index == 0 && d.seg.firstCRC != 0 {
			return damaged(0, "checksum of the log does not match")
		}
		l.j.index = want - 1
	}
	for i, entries := range d.entries {
		r := d.seg.records[i]
		if r.index != l.j.index+1 {
			return damaged(r.offset, "record %d where %d is expected", r.index, l.j.index+1)
		}
		l.j.index = r.index
		for _, en := range entries {
			if err := l.entry(en, prev == nil && d.file.index == 0); err != nil {
				if derr, ok := err.(*DamagedError); ok && derr.File == "" {
					derr.File, derr.Offset = d.file.path, r.offset
				}
				return err
			}
		}
	}
	if l.v.rev > l.loaded {
		l.j.since += d.seg.end
	}
	l.j.logBytes.Add(d.seg.end)
	l.j.rev = l.seen
	l.j.newest = l.j.index
	l.j.marks = append(l.j.marks, logMark{l.j.index, l.seen})
	if d.raw != nil && d.seg.problem != nil {
		return l.end(d)
	}
	return nil
}

// entry applies one entry of the log.
func (l *loader) entry(en logEntry, complete bool) error {
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
		l.seen, l.started = en.rev, true
		return nil
	}
	switch {
	case !l.started:
		// What is missing in front of the first commit must be in the snapshot.
		if en.rev > l.v.rev+1 || en.rev == 0 {
			if l.damaged != nil {
				return l.damaged
			}
			return &DamagedError{Offset: -1, Reason: fmt.Sprintf("log begins with revision %d and there is no snapshot that reaches it", en.rev)}
		}
		if complete && en.rev != 1 {
			return &DamagedError{Offset: -1, Reason: fmt.Sprintf("log begins with revision %d, not 1", en.rev)}
		}
		h.restart(en.rev - 1)
		l.started = true
	case en.rev != l.seen+1:
		return &DamagedError{Offset: -1, Reason: fmt.Sprintf("revision %d follows %d", en.rev, l.seen)}
	}
	l.seen = en.rev
	if en.commit == nil { // skimmed: history goes on behind it
		h.restart(en.rev)
		return nil
	}
	h.append(en.commit)
	if en.rev > l.v.rev {
		l.apply(en.commit)
	}
	return nil
}

// reset switches to the snapshot that a Restore made.
func (l *loader) reset(rev uint64) error {
	path := l.f.snapPath(rev)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		// The daemon ended between entering it in the log and giving it its name.
		if err := os.Rename(path+newSuffix, path); err != nil {
			return &DamagedError{File: path, Offset: -1, Reason: "restored snapshot is missing"}
		}
		if err := l.f.syncDir(l.f.snapDir()); err != nil {
			return &FolderError{Path: l.f.path, Cause: err}
		}
	}
	v, err := l.f.readSnapshot(path, l.now)
	if err != nil {
		return err
	}
	l.v, l.loaded = v, rev
	info, err := os.Stat(path)
	if err != nil {
		return &FolderError{Path: l.f.path, Cause: err}
	}
	l.j.snaps = append(l.j.snaps, snapInfo{path: path, rev: rev, size: info.Size()})
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

// end deals with a newest segment that does not end well.
func (l *loader) end(d *decodedSegment) error {
	s := d.seg
	verdict, missing := s.judge(d.raw, l.j.index+1, l.j.salt)
	fields := []zap.Field{zap.String("file", d.file.path), zap.Int64("offset", s.end), zap.String("problem", s.problem.Error())}
	switch {
	case s.metadata == nil || verdict == verdictDamage:
		return &DamagedError{File: d.file.path, Offset: s.end, Reason: s.problem.Error(), Hint: repairHint}
	case verdict == verdictMend:
		l.e.log.Warn("last record of the state log was not written completely, and what is missing is known", fields...)
		if err := l.f.mend(d.file.path, missing); err != nil {
			return &FolderError{Path: l.f.path, Cause: err}
		}
		d2 := l.decode(d.file, true, false)
		if d2.err != nil {
			return d2.err
		}
		if len(d2.entries) != len(d.entries)+1 {
			return &DamagedError{File: d.file.path, Offset: s.end, Reason: s.problem.Error(), Hint: repairHint}
		}
		for _, en := range d2.entries[len(d.entries)] {
			if err := l.entry(en, false); err != nil {
				return err
			}
		}
		l.j.index++
		l.j.rev, l.j.newest = l.seen, l.j.index
		if d2.seg.problem != nil {
			return l.end(&decodedSegment{file: d.file, raw: d2.raw, seg: d2.seg})
		}
		return nil
	}
	n := int64(len(d.raw)) - s.end
	for n > 0 && d.raw[s.end+n-1] == 0 {
		n--
	}
	l.j.torn += n
	l.e.log.Warn("end of the state log was never written completely and is cut off", append(fields, zap.Int64("bytes", n))...)
	if err := l.f.cut(d.file.path, s.end); err != nil {
		return &FolderError{Path: l.f.path, Cause: err}
	}
	if err := l.f.syncDir(l.f.logDir()); err != nil {
		return &FolderError{Path: l.f.path, Cause: err}
	}
	return nil
}

// mend completes a record.
func (f *folder) mend(path string, m mending) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteAt(m.data, m.off); err != nil {
		return err
	}
	if info, err := file.Stat(); err != nil || info.Size() < m.size {
		if err := errors.Join(err, file.Truncate(m.size)); err != nil {
			return err
		}
	}
	return file.Sync()
}

// leftovers removes snapshots of restores that never happened, and one that was found damaged but is not needed: it would
// be mistaken for good when the next one is chosen to fall back to.
func (l *loader) leftovers() {
	entries, err := os.ReadDir(l.f.snapDir())
	if err != nil {
		return
	}
	for _, e := range entries {
		if name := l.f.snapDir() + "/" + e.Name(); strings.HasSuffix(name, newSuffix) {
			os.Remove(name)
		}
	}
	if d, ok := errors.AsType[*DamagedError](l.damaged); ok {
		l.e.log.Error("newest snapshot of the state is damaged; the one before and the log have everything", zap.Error(l.damaged))
		if err := os.Rename(d.File, d.File+".damaged"); err != nil {
			l.e.log.Warn("cannot rename the damaged snapshot: each start will try it first", zap.Error(err))
		}
	}
}
