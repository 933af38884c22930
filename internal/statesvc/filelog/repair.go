package filelog

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/hubd-dev/hubd/internal/statesvc/disk"
)

// Unused reports whether the log in dir has no record: it is absent, or was
// just being made. It needs not know to which store the log belongs.
func Unused(fsys disk.FS, dir string) (bool, error) {
	segs, err := listSegments(fsys, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil || len(segs) > 1 || len(segs) == 1 && segs[0].first != 1 {
		return false, err
	}
	for _, s := range segs {
		data, err := fsys.ReadFile(s.path)
		if err != nil {
			return false, err
		}
		if len(data) > headerSize && !allZero(data[headerSize:]) {
			return false, nil
		}
	}
	return true, nil
}

// Owner returns the id of the store whose log is in dir, from the first header
// that can be read; ok is false where there is none.
func Owner(fsys disk.FS, dir string) (id ID, ok bool) {
	segs, err := listSegments(fsys, dir)
	if err != nil {
		return id, false
	}
	for _, s := range segs {
		if h, err := (&Log{fs: fsys}).header(s.path); err == nil {
			return h.id, true
		}
	}
	return id, false
}

// Recognised counts the records of this store that stand at or behind a place
// in the log, good or not in their order.
func (l *Log) Recognised(file string, offset int64) (n int) {
	for _, data := range l.behind(file, offset) {
		n += countRecords(data, l.id)
	}
	return n
}

// behind returns what the log has at and behind a place.
func (l *Log) behind(file string, offset int64) (parts [][]byte) {
	segs, err := listSegments(l.fs, l.dir)
	if err != nil {
		return nil
	}
	found := false
	for _, s := range segs {
		here := s.path == file
		if found = found || here; !found {
			continue
		}
		data, err := l.fs.ReadFile(s.path)
		if err != nil {
			continue
		}
		if here {
			// Records begin at multiples of align.
			data = data[min(int64(len(data)), max(0, offset)/align*align):]
		}
		parts = append(parts, data)
	}
	return parts
}

// Cut ends the log at a place: the segments behind it go, and the one in which it
// is ends there, or goes, too, when the place is in its header. Each file that goes or is cut is
// first handed to keep, which gives it another name or copies it. The log must not be open.
func (l *Log) Cut(file string, offset int64, keep func(path string, whole bool) error) error {
	segs, err := listSegments(l.fs, l.dir)
	if err != nil {
		return err
	}
	for i := len(segs) - 1; i >= 0 && segs[i].path != file; i-- {
		if err := keep(segs[i].path, true); err != nil {
			return err
		}
	}
	if offset < headerSize {
		if err := keep(file, true); err != nil {
			return err
		}
		return l.fs.SyncDir(l.dir)
	}
	if err := keep(file, false); err != nil {
		return err
	}
	f, err := l.fs.OpenWrite(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(offset); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return l.fs.SyncDir(filepath.Dir(file))
}
