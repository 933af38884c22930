package statesvc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/tidwall/btree"
	"go.uber.org/zap"
)

// RepairReport says what Repair found, and did if it was told to.
type RepairReport struct {
	Damage   error    // what keeps the store from opening, nil: nothing
	File     string   // where the log is cut, empty: it is good or has to go as a whole
	Offset   int64    // at which byte
	Records  int      // records behind the cut that can still be recognised; each holds one or more transactions
	Revision uint64   // newest revision that remains
	Snapshot bool     // the log is of no use: what remains is the newest good snapshot
	Kept     []string // where the files that were dropped can be found
	Applied  bool     // the damage was repaired
}

// damagedSuffix marks files that Repair took out of use.
const damagedSuffix = ".damaged"

// Repair makes a store that is damaged usable again and says what it drops. Without apply it only looks. It never
// deletes: what is dropped stays beside the store under another name. A *LockedError, *FormatError or *FolderError means
// that there is nothing it could do.
func Repair(path string, apply bool) (*RepairReport, error) {
	f, err := openFolder(path, nil)
	if err != nil {
		return nil, err
	}
	defer f.close()
	fresh, err := f.identify()
	if err != nil {
		return nil, err
	}
	rep := &RepairReport{}
	if fresh {
		return rep, nil
	}
	best, bad, err := f.goodSnapshot()
	if err != nil {
		return nil, err
	}
	segs, err := listSegments(f.logDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &FolderError{Path: path, Cause: err}
	}
	s := scanLog(f, segs, best.rev)
	rep.Revision, rep.Records = s.rev, s.dropped
	rep.Damage = s.damage
	if bad != nil {
		rep.Damage = errors.Join(bad, s.damage)
	}
	rep.Snapshot = s.rev < best.rev || !s.reaches
	if rep.Snapshot && best.tree == nil {
		return rep, fmt.Errorf("nothing can be saved: there is no good snapshot and the log does not reach back to the beginning: %w", rep.Damage)
	}
	if rep.Snapshot {
		rep.Revision = best.rev
		rep.Damage = errors.Join(rep.Damage, errors.New("log does not continue the newest good snapshot"))
	} else if s.damage != nil {
		rep.File, rep.Offset = segs[s.at].path, s.offset
	}
	if !apply || rep.Damage == nil {
		return rep, nil
	}
	if err := rep.apply(f, segs, s); err != nil {
		return rep, err
	}
	rep.Applied = true
	return rep, nil
}

// goodSnapshot returns the newest snapshot that is good, and the damage of newer ones.
func (f *folder) goodSnapshot() (best view, bad, err error) {
	snaps, err := f.listSnapshots()
	if err != nil {
		return best, nil, &FolderError{Path: f.path, Cause: err}
	}
	for i := len(snaps) - 1; i >= 0; i-- {
		v, err := f.readSnapshot(snaps[i].path, time.Now())
		if err == nil {
			return *v, bad, nil
		}
		if _, ok := errors.AsType[*DamagedError](err); !ok {
			return best, nil, err
		}
		bad = errors.Join(bad, err)
	}
	return best, bad, nil
}

// logScan is how far a log is good.
type logScan struct {
	damage  error
	at      int // segment of the damage
	offset  int64
	rev     uint64
	dropped int
	reaches bool // the good part begins at the beginning, or where the snapshot can be continued
}

func scanLog(f *folder, segs []segmentFile, snapshot uint64) (s logScan) {
	e := newEngine(Options{})
	l := loader{e: e, f: f, j: newJournal(f, zap.NewNop()), now: time.Now()}
	l.v = &view{rev: snapshot, tree: btree.NewMap[string, *Item](treeDegree)}
	l.loaded = 1<<64 - 1 // resets are followed in the log only
	if len(segs) == 0 {
		s.damage = &DamagedError{File: f.logDir(), Offset: -1, Reason: "log is missing"}
		return s
	}
	var prev *decodedSegment
	for i, file := range segs {
		d := l.decode(file, i == len(segs)-1, false)
		tail, problem := d.raw, error(nil)
		if d.raw = nil; d.err == nil && d.seg.problem != nil {
			problem = &DamagedError{File: file.path, Offset: d.seg.end, Reason: d.seg.problem.Error(), Hint: repairHint}
			if tail != nil && d.seg.metadata != nil {
				// A torn end is none of our business: opening mends it.
				if v, _ := d.seg.judge(tail, d.lastIndex()+1, l.j.salt); v != verdictDamage {
					problem = nil
				}
			}
			if d.seg.metadata != nil {
				d.seg.problem = nil // what stands before it is good
			}
		}
		err := l.segment(prev, d)
		if err == nil {
			err = problem
		}
		s.rev = l.seen
		if err == nil {
			prev = d
			continue
		}
		s.damage, s.at = err, i
		if derr, ok := errors.AsType[*DamagedError](err); ok && derr.File == file.path && derr.Offset > 0 {
			s.offset = derr.Offset
		}
		for _, rest := range segs[i:] {
			data, err := os.ReadFile(rest.path)
			if err != nil {
				continue
			}
			if rest.path == file.path {
				data = data[min(int64(len(data)), s.offset):]
			}
			s.dropped += countRecords(data, l.j.salt)
		}
		break
	}
	s.reaches = l.started && !(l.e.hist.floor > snapshot && segs[0].index > 0)
	if !l.started { // an empty good part continues nothing but an empty store
		s.reaches = segs[0].index == 0 && s.offset > 0 && snapshot == 0
	}
	return s
}

// lastIndex returns the index of the last record that was read.
func (d *decodedSegment) lastIndex() uint64 {
	if n := len(d.seg.records); n > 0 {
		return d.seg.records[n-1].index
	}
	return max(d.file.index, 1) - 1
}

// countRecords counts what can be recognised as a record of this store.
func countRecords(b []byte, salt uint32) (n int) {
	for {
		i := bytes.Index(b, []byte(frameMagic))
		if i < 0 {
			return n
		}
		b = b[i:]
		if _, _, size, err := openRecord(b, salt); err == nil {
			n++
			b = b[size:]
		} else {
			b = b[1:]
		}
	}
}

// apply does what the report says.
func (rep *RepairReport) apply(f *folder, segs []segmentFile, s logScan) error {
	stamp := time.Now().UTC().Format(".20060102T150405") + damagedSuffix
	aside := func(name string) error {
		if err := os.Rename(name, name+stamp); err != nil {
			return &FolderError{Path: f.path, Cause: err}
		}
		rep.Kept = append(rep.Kept, name+stamp)
		return nil
	}
	snaps, err := f.listSnapshots()
	if err != nil {
		return &FolderError{Path: f.path, Cause: err}
	}
	for _, snap := range snaps {
		if _, err := f.readSnapshot(snap.path, time.Now()); err != nil || !rep.Snapshot && snap.rev > rep.Revision {
			if err := aside(snap.path); err != nil {
				return err
			}
		}
	}
	if rep.Snapshot {
		if _, err := os.Stat(f.logDir()); err == nil {
			if err := aside(f.logDir()); err != nil {
				return err
			}
		}
		j := newJournal(f, zap.NewNop())
		if err := j.create(); err != nil {
			return &FolderError{Path: f.path, Cause: err}
		}
		defer shut(j.w)
		return j.append(appendReset(j.begin(), rep.Revision), rep.Revision)
	}
	if s.damage == nil {
		return nil
	}
	for _, later := range segs[s.at+1:] {
		if err := aside(later.path); err != nil {
			return err
		}
	}
	broken := segs[s.at].path
	if s.offset == 0 && s.at > 0 {
		return aside(broken) // the segment before it ends well
	}
	data, err := os.ReadFile(broken)
	if err == nil {
		err = f.writeFile(broken+stamp, data)
	}
	if err == nil {
		rep.Kept = append(rep.Kept, broken+stamp)
		err = f.cut(broken, s.offset)
	}
	if err == nil {
		err = f.syncDir(f.logDir())
	}
	if err != nil {
		return &FolderError{Path: f.path, Cause: err}
	}
	return nil
}
