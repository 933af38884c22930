package filelog

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/hubd-dev/hubd/internal/statesvc/disk"
)

// SegmentBytes is how large a segment grows by default: one must fit on small
// disks, and at high rates the price of changing segments is still far below that of the syncs.
const SegmentBytes = 4 << 20

// keptBuffer is how large the buffer for records may be when none is made.
const keptBuffer = 8 << 20

// Log is a log in a folder that belongs to it alone. It is replayed once, then
// opened, then appended to by one goroutine, which also calls Recover and Close.
// Trim and Bytes may be called from any goroutine.
type Log struct {
	fs      disk.FS
	dir     string
	id      ID
	salt    uint32
	segment int64 // bytes

	file  disk.File // the newest segment; nil: Open or Recover must come first
	path  string    // of it
	off   int64     // behind the last good record
	last  uint64    // sequence number of that record
	sum   uint32    // its checksum
	torn  int64     // bytes behind off that Open cuts off
	fixup int64     // offset of the byte that Open writes; 0: none

	buf   []byte
	bytes atomic.Int64
}

// New returns the log in dir, of which nothing was read yet. segment is the
// size of its files in bytes; 0: SegmentBytes.
func New(fsys disk.FS, dir string, id ID, segment int64) *Log {
	if segment <= 0 {
		segment = SegmentBytes
	}
	return &Log{fs: fsys, dir: dir, id: id, salt: id.salt(), segment: segment}
}

// Create makes an empty log, ready to append to. The folder must not hold one.
// Whoever calls it makes the name of the folder durable.
func (l *Log) Create() error {
	if err := l.fs.Mkdir(l.dir); err != nil {
		return err
	}
	return l.begin(Note{})
}

// Last returns the sequence number of the newest record, 0 when there is none.
func (l *Log) Last() uint64 { return l.last }

// Bytes returns how many bytes the records and headers of the log take.
func (l *Log) Bytes() int64 { return max(0, l.bytes.Load()) }

// Torn returns how many bytes at the end were never written completely. Open cuts them off.
func (l *Log) Torn() int64 { return l.torn }

// Begin returns the buffer for the next record. Its contents are appended to it.
func (l *Log) Begin() []byte { return Begin(l.buf) }

// AppendError says that a record was not taken. Unknown is set when it may still be found in the log after a restart.
type AppendError struct {
	Unknown bool
	Cause   error
}

func (e *AppendError) Error() string { return fmt.Sprintf("append to the log: %v", e.Cause) }

// Unwrap returns what failed.
func (e *AppendError) Unwrap() error { return e.Cause }

var errNotOpen = errors.New("log is not open")

// Append writes the record that Begin began and returns when it is on disk. note
// is kept if a segment begins with it. An error is an *AppendError. Without
// Unknown the record is not in the log and will not appear in it later; then, or
// where that could not be made certain, Append may only be called again after Recover.
func (l *Log) Append(rec []byte, note Note) error {
	if l.file == nil {
		return &AppendError{Cause: errNotOpen}
	}
	rec, sum, err := seal(rec, l.last+1, l.sum, l.salt)
	if err != nil {
		return &AppendError{Cause: err}
	}
	if cap(rec) <= keptBuffer {
		l.buf = rec
	}
	if l.off > headerSize && l.off+int64(len(rec)) > l.segment {
		err = l.roll(note)
	}
	if err == nil {
		_, err = l.file.WriteAt(rec, l.off)
	}
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		undone, failed := l.recover()
		return &AppendError{Unknown: !undone, Cause: errors.Join(err, failed)}
	}
	l.last++
	l.sum = sum
	l.off += int64(len(rec))
	l.bytes.Add(int64(len(rec)))
	return nil
}

// roll goes on in a new segment. What the old one has allocated and not used is given back.
func (l *Log) roll(note Note) error {
	old, end := l.file, l.off
	if err := l.begin(note); err != nil {
		return err
	}
	// Left out or lost, it costs space and nothing else.
	_ = old.Truncate(end)
	_ = old.Close()
	return nil
}

// begin makes the segment for the record after the last one.
func (l *Log) begin(note Note) error {
	path := filepath.Join(l.dir, segmentName(l.last+1))
	tmp := filepath.Join(l.dir, "next.tmp")
	h := segmentHeader{id: l.id, first: l.last + 1, prev: l.sum, note: note}
	f, err := l.fs.Create(tmp)
	if err != nil {
		return err
	}
	if err = f.Allocate(l.segment); errors.Is(err, syscall.EOPNOTSUPP) {
		err = nil // it grows with what is written
	}
	if err == nil {
		_, err = f.WriteAt(h.encode(), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = l.fs.Rename(tmp, path)
	}
	if err == nil {
		err = l.fs.SyncDir(l.dir)
	}
	if err != nil {
		_ = f.Close()
		_ = l.fs.Remove(tmp) // else Recover or the next start does
		return err
	}
	l.file, l.path, l.off = f, path, headerSize
	l.bytes.Add(headerSize)
	return nil
}

// Open makes a log that was replayed ready to append to: what was never written
// completely at its end is cut off or completed.
func (l *Log) Open() error {
	f, err := l.fs.OpenWrite(l.path)
	if err != nil {
		return err
	}
	if l.fixup > 0 {
		_, err = f.WriteAt([]byte{recordEnd}, l.fixup)
	}
	if err == nil && l.torn > 0 {
		err = f.Truncate(l.off)
	}
	if err == nil && l.fixup+l.torn > 0 {
		err = f.Sync()
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	l.torn, l.fixup = 0, 0
	l.allocate(f)
	l.file = f
	return nil
}

// allocate takes the space that a segment has left. A disk that is full, or a
// file system that cannot, is no error: appending then allocates as it goes.
func (l *Log) allocate(f disk.File) {
	if f.Allocate(l.segment) == nil {
		_ = f.Sync() // its size, so that a sync for a record needs not write it
	}
}

// Recover makes the log ready to append to again after a failure. It must be
// called from the goroutine that appends. On error it may be tried again.
func (l *Log) Recover() error {
	_, err := l.recover()
	return err
}

// recover cuts off everything behind the last good record: after a failed sync
// the pages of a file may look clean without being on disk, so nothing of it is
// used. undone says that this is certain; the log is open when err is nil.
func (l *Log) recover() (undone bool, err error) {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
	tail, err := l.tail()
	if err != nil {
		return false, err
	}
	f, err := l.fs.OpenWrite(tail.path)
	if err != nil {
		return false, err
	}
	if err = f.Truncate(tail.end); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = l.fs.SyncDir(l.dir) // names that a change of segments gave or took
	}
	if err != nil {
		_ = f.Close()
		return false, err
	}
	l.allocate(f)
	l.file, l.path, l.off = f, tail.path, tail.end
	return true, nil
}

// place is a place in a segment.
type place struct {
	path string
	end  int64
}

// tail finds the end of the last good record on disk. It removes a segment that a
// change of segments left without one.
func (l *Log) tail() (place, error) {
	segs, err := listSegments(l.fs, l.dir)
	if err != nil {
		return place{}, err
	}
	for i := len(segs) - 1; i >= 0; i-- {
		file := segs[i]
		data, err := l.fs.ReadFile(file.path)
		if err != nil {
			return place{}, err
		}
		s, err := parseSegment(file.path, data, l.id, true)
		if err == nil && s.prevRecords(l.last, l.sum) {
			return place{file.path, s.endOf(l.last)}, nil
		}
		if i == 0 || file.first != l.last+1 {
			return place{}, errors.Join(err, &disk.DamagedError{File: file.path, Offset: -1, Reason: fmt.Sprintf("record %d is no longer there", l.last)})
		}
		if err := l.fs.Remove(file.path); err != nil {
			return place{}, err
		}
	}
	return place{}, &disk.DamagedError{File: l.dir, Offset: -1, Reason: "log is missing"}
}

// prevRecords reports whether the segment has the record last with that checksum, or begins right behind it.
func (s *segment) prevRecords(last uint64, sum uint32) bool {
	if s.first == last+1 {
		return s.prev == sum
	}
	i := last - s.first
	return last >= s.first && i < uint64(len(s.records)) && s.records[i].sum == sum
}

// endOf returns where the record with that sequence number ends; the one before the first ends with the header.
func (s *segment) endOf(seq uint64) int64 {
	i := seq + 1 - s.first
	if i < uint64(len(s.records)) {
		return s.records[i].Offset
	}
	return s.end
}

// Trim removes the segments in which every record has a sequence number of at
// most seq. The newest segment stays.
func (l *Log) Trim(seq uint64) error {
	segs, err := listSegments(l.fs, l.dir)
	if err != nil {
		return err
	}
	entries, err := l.fs.ReadDir(l.dir)
	if err != nil {
		return err
	}
	size := map[string]int64{}
	for _, e := range entries {
		size[filepath.Join(l.dir, e.Name)] = e.Size
	}
	for i := 0; i+1 < len(segs) && segs[i+1].first <= seq+1; i++ {
		if err := l.fs.Remove(segs[i].path); err != nil {
			return err
		}
		l.bytes.Add(-size[segs[i].path])
	}
	return nil
}

// Roomy reports whether there is space for the next segment.
func (l *Log) Roomy() bool {
	free, err := l.fs.Free(l.dir)
	return err == nil && free >= l.segment
}

// Close lets go of the log. Every record that Append took is on disk already.
func (l *Log) Close() error {
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
