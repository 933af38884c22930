package statesvc

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/tidwall/btree"
	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/statesvc/disk"
	"github.com/hubd-dev/hubd/internal/statesvc/filelog"
)

// RepairReport says what Repair found, and did if it was told to.
type RepairReport struct {
	Damage   error    // what keeps the store from opening, nil: nothing
	File     string   // where the log is cut; empty: it is good, or has to go as a whole
	Offset   int64    // at which byte
	Records  int      // records behind the cut that can still be recognised; each holds one or more transactions
	Revision uint64   // newest revision that remains
	Snapshot bool     // the log is of no use: what remains is the newest good snapshot
	Kept     []string // where the files that were dropped can be found
	Applied  bool     // the damage was repaired
}

// damagedSuffix marks files that were taken out of use.
const damagedSuffix = ".damaged"

// Repair makes a store that is damaged usable again and says what it drops. Without apply it only looks, and writes
// nothing. It never deletes: what is dropped stays beside the store under another name. A *LockedError, *FormatError or
// *FolderError means that there is nothing it could do. fsys is the file system that the store is on; nil: disk.OS.
func Repair(fsys disk.FS, path string, apply bool) (*RepairReport, error) {
	if fsys == nil {
		fsys = disk.OS
	}
	f, err := openFolder(fsys, path)
	if err != nil {
		return nil, err
	}
	defer f.close()
	rep := &RepairReport{}
	fresh, err := f.identify()
	if d, ok := errors.AsType[*DamagedError](err); ok {
		id, found := filelog.Owner(fsys, f.logDir())
		if !found {
			return nil, err
		}
		rep.Damage = d
		f.mark = storeMark{Format: formatNow, ID: hex.EncodeToString(id[:])}
	} else if err != nil || fresh {
		return rep, err
	}
	markLost := rep.Damage != nil
	best, bad, err := f.goodSnapshot()
	if err != nil {
		return nil, err
	}
	wal := f.log(0)
	s, err := scanLog(f, wal, best.rev)
	if err != nil {
		return nil, err
	}
	rep.Revision = s.rev
	damage := s.damage
	if bad != nil {
		damage = errors.Join(bad, s.damage)
	}
	if s.damage != nil {
		rep.Records = wal.Recognised(s.at.File, s.at.Offset)
	}
	rep.Snapshot = s.rev < best.rev || !s.reaches
	switch {
	case rep.Snapshot && best.tree == nil:
		return rep, fmt.Errorf("nothing can be saved: there is no good snapshot and the log does not reach back to the beginning: %w", errors.Join(rep.Damage, damage))
	case rep.Snapshot:
		rep.Revision = best.rev
		damage = errors.Join(damage, errors.New("log does not continue the newest good snapshot"))
	case s.damage != nil:
		rep.File, rep.Offset = s.at.File, s.at.Offset
	}
	rep.Damage = errors.Join(rep.Damage, damage)
	if !apply || rep.Damage == nil {
		return rep, nil
	}
	if err := rep.apply(f, wal, s); err != nil {
		return rep, &FolderError{Path: f.path, Cause: err}
	}
	if markLost {
		if err := f.writeMark(); err != nil {
			return rep, &FolderError{Path: f.path, Cause: err}
		}
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
	at      DamagedError // where the damage is
	rev     uint64
	reaches bool // the good part begins at the beginning, or where the snapshot can be continued
}

// scanLog reads the log as a start would that has the snapshot of that revision, and stops at the first damage.
func scanLog(f *folder, wal *filelog.Log, snapshot uint64) (s logScan, err error) {
	e := newEngine(Options{FS: f.fs})
	l := loader{e: e, f: f, j: newJournal(f, zap.NewNop()), now: time.Now(), look: true, loaded: snapshot}
	l.v = &view{rev: 1<<64 - 1, tree: btree.NewMap[string, *Item](treeDegree)} // no commit is applied
	began := uint64(0)
	v := l.visitor()
	v.Needed = nil
	v.Start = func(first uint64, note filelog.Note) error {
		began, s.reaches = note[0], true
		l.loaded = max(snapshot, note[0]) // a log that begins late is no damage by itself
		return l.begin(first, note)
	}
	err = wal.Replay(v)
	s.rev = l.seen
	// What begins behind the snapshot and is not complete has lost something, unless a reset came later.
	s.reaches = s.reaches && (l.complete || began <= snapshot)
	d, damaged := errors.AsType[*DamagedError](err)
	if damaged {
		s.damage, s.at = err, *d
		if d.Offset < 0 {
			s.at.Offset = 0
		}
		return s, nil
	}
	if _, format := errors.AsType[*FormatError](err); err != nil && !format {
		err = &FolderError{Path: f.path, Cause: err}
	}
	return s, err
}

// apply does what the report says.
func (rep *RepairReport) apply(f *folder, wal *filelog.Log, s logScan) error {
	stamp := time.Now().UTC().Format(".20060102T150405") + damagedSuffix
	aside := func(name string) error {
		if err := f.fs.Rename(name, name+stamp); err != nil {
			return err
		}
		rep.Kept = append(rep.Kept, name+stamp)
		return nil
	}
	snaps, err := f.listSnapshots()
	if err != nil {
		return err
	}
	for _, snap := range snaps {
		if _, err := f.readSnapshot(snap.path, time.Now()); err != nil || !rep.Snapshot && snap.rev > rep.Revision {
			if err := aside(snap.path); err != nil {
				return err
			}
		}
	}
	if rep.Snapshot {
		if err := aside(f.logDir()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		j := newJournal(f, zap.NewNop())
		fresh := f.log(0)
		if err := fresh.Create(); err != nil {
			return err
		}
		defer fresh.Close()
		if err := f.fs.SyncDir(f.path); err != nil {
			return err
		}
		return fresh.Append(appendReset(fresh.Begin(), rep.Revision), j.note())
	}
	if s.damage == nil {
		return nil
	}
	return wal.Cut(s.at.File, s.at.Offset, func(name string, whole bool) error {
		if whole {
			return aside(name)
		}
		data, err := f.fs.ReadFile(name)
		if err != nil {
			return err
		}
		rep.Kept = append(rep.Kept, name+stamp)
		return f.writeFile(filepath.Join(filepath.Dir(name), filepath.Base(name)+stamp), data)
	})
}
