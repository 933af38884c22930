package filelog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"sync"

	"github.com/hubd-dev/hubd/internal/statesvc/disk"
)

// Visitor is what Replay hands the log to.
type Visitor struct {
	// Needed reports whether the records before a segment with that note are
	// needed, given the note of the newest segment. It is asked from the newest
	// segment on. What is not needed is checked and not handed over.
	Needed func(newest, note Note) bool

	// Start is called before the first record, with the sequence number that it
	// has and the note of the segment that it is in.
	Start func(first uint64, note Note) error

	// Decode reads a record. It is called from several goroutines. What it
	// returns must not use the memory of the record. Apply takes what Decode made, in the order
	// of the log. A *disk.DamagedError of either may leave out the file and the offset.
	Decode func(Record) (any, error)
	Apply  func(r Record, decoded any) error
}

// Replay reads and checks the whole log, which takes memory for a few segments
// at a time. It changes nothing: a record at the very end that was never written
// completely is left out, and cut off by Open. A *disk.DamagedError says where
// the log is not as it was written; then all records before that place were applied.
func (l *Log) Replay(v Visitor) error {
	segs, err := listSegments(l.fs, l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(segs) == 0 {
		return &disk.DamagedError{File: l.dir, Offset: -1, Reason: "log is missing"}
	}
	first := l.firstNeeded(segs, v.Needed)
	var prev *segment
	for s := range l.read(segs, first, v.Decode) {
		if err := l.segmentOf(s, prev, v); err != nil {
			return err
		}
		prev = s.segment
	}
	l.path, l.off, l.last, l.sum = prev.path, prev.end, prev.last, prev.sum
	l.torn, l.fixup = prev.torn, prev.missing
	return nil
}

// firstNeeded returns which segment is the first whose records are needed.
func (l *Log) firstNeeded(segs []segmentFile, needed func(newest, note Note) bool) int {
	i := len(segs) - 1
	newest, err := l.header(segs[i].path)
	if err != nil || needed == nil {
		return 0
	}
	for ; i > 0; i-- {
		// A header that cannot be read is found again, in order.
		if h, err := l.header(segs[i].path); err != nil || !needed(newest.note, h.note) {
			break
		}
	}
	return i
}

func (l *Log) header(path string) (h segmentHeader, err error) {
	f, err := l.fs.Open(path)
	if err != nil {
		return h, err
	}
	defer f.Close()
	b := make([]byte, headerSize)
	if _, err := io.ReadFull(f, b); err != nil {
		return h, err
	}
	return decodeHeader(b)
}

// readSegment is a segment with its records decoded.
type readSegment struct {
	*segment
	file    segmentFile
	err     error // of reading, or in the header
	needed  bool
	decoded []any
	failed  error // of Decode, for the record behind those decoded
}

// read yields the segments in order. They are read and decoded ahead, a few at a time.
func (l *Log) read(segs []segmentFile, first int, decode func(Record) (any, error)) func(yield func(*readSegment) bool) {
	return func(yield func(*readSegment) bool) {
		next := make(chan chan *readSegment, runtime.GOMAXPROCS(0))
		stop := make(chan struct{})
		var wg sync.WaitGroup
		defer wg.Wait()
		defer close(stop)
		wg.Go(func() {
			defer close(next)
			for i, file := range segs {
				c := make(chan *readSegment, 1)
				select {
				case next <- c:
				case <-stop:
					return
				}
				wg.Go(func() { c <- l.readOne(file, i >= first, i == len(segs)-1, decode) })
			}
		})
		for c := range next {
			if !yield(<-c) {
				return
			}
		}
	}
}

func (l *Log) readOne(file segmentFile, needed, newest bool, decode func(Record) (any, error)) *readSegment {
	r := &readSegment{file: file, needed: needed}
	data, err := l.fs.ReadFile(file.path)
	if err != nil {
		r.err = err
		return r
	}
	if r.segment, r.err = parseSegment(file.path, data, l.id, newest); r.err != nil || !needed {
		return r
	}
	r.decoded = make([]any, 0, len(r.records))
	for i := range r.records {
		v, err := decode(r.records[i])
		if err != nil {
			r.failed = err
			break
		}
		r.decoded = append(r.decoded, v)
		r.records[i].Body = nil // the memory of the segment can go
	}
	return r
}

// segmentOf checks a segment against the one before it and applies its records.
func (l *Log) segmentOf(s *readSegment, prev *segment, v Visitor) error {
	if s.err != nil {
		return s.err
	}
	damaged := func(offset int64, format string, args ...any) error {
		return &disk.DamagedError{File: s.path, Offset: offset, Reason: fmt.Sprintf(format, args...), Hint: RepairHint}
	}
	switch {
	case s.first != s.file.first:
		return damaged(0, "segment begins with record %d, not that of its name", s.first)
	case prev == nil && s.first == 1 && s.prev != 0:
		return damaged(0, "first segment of the log follows another")
	case prev != nil && s.first != prev.last+1:
		return damaged(0, "segment begins with record %d, and %d was expected: one is missing", s.first, prev.last+1)
	case prev != nil && s.prev != prev.sum:
		return damaged(0, "segment does not continue the one before it")
	}
	if s.needed && v.Start != nil && (prev == nil || !prev.started) {
		if err := l.located(s, 0, v.Start(s.first, s.note)); err != nil {
			return err
		}
	}
	s.started = s.needed
	for i, d := range s.decoded {
		if err := l.located(s, s.records[i].Offset, v.Apply(s.records[i], d)); err != nil {
			return err
		}
	}
	if s.failed != nil {
		return l.located(s, s.records[len(s.decoded)].Offset, s.failed)
	}
	if s.problem != nil {
		return damaged(s.end, "%v", s.problem)
	}
	l.bytes.Add(s.end)
	return nil
}

// located tells where in the log a damage was found that says nothing of it.
func (l *Log) located(s *readSegment, offset int64, err error) error {
	if d, ok := errors.AsType[*disk.DamagedError](err); ok && d.File == "" {
		d.File, d.Offset, d.Hint = s.path, offset, RepairHint
	}
	if f, ok := errors.AsType[*disk.FormatError](err); ok && f.File == "" {
		f.File = s.path
	}
	return err
}
