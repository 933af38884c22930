package filelog

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hubd-dev/hubd/internal/statesvc/disk"
)

// segmentFile is the name of a segment, which says where it begins.
type segmentFile struct {
	path  string
	first uint64 // sequence number of its first record
}

const suffix = ".log"

func segmentName(first uint64) string { return fmt.Sprintf("%016x%s", first, suffix) }

// listSegments returns the segments in dir, oldest first.
func listSegments(fsys disk.FS, dir string) ([]segmentFile, error) {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var segs []segmentFile
	for _, e := range entries { // in the order of their names
		s := segmentFile{path: filepath.Join(dir, e.Name)}
		if n, err := fmt.Sscanf(e.Name, "%016x", &s.first); n != 1 || err != nil || e.Name != segmentName(s.first) {
			continue
		}
		segs = append(segs, s)
	}
	return segs, nil
}

// Record is one record of the log. Body may be the memory of the whole segment.
type Record struct {
	Seq    uint64
	Body   []byte
	Offset int64 // in its segment
	Size   int   // bytes that it takes there
	sum    uint32
}

// segment is what was read of a segment.
type segment struct {
	segmentHeader
	path    string
	records []Record
	end     int64  // offset behind the last good record
	last    uint64 // sequence number of that record
	sum     uint32 // its checksum
	started bool   // Visitor.Start was called for it or one before it
	problem error  // why there is no good record at end; nil: there are only zeros, or nothing

	// Of the newest segment, what the problem is.
	torn    int64 // bytes that were never written completely: they can be cut off
	missing int64 // offset of the only byte that was not written, the end of the last record; 0: there is none
}

var (
	errRecord = errors.New("record of the log cannot be read")
	errCut    = errors.New("record is cut off")
	errSum    = errors.New("checksum of the record does not match")
	errAfter  = errors.New("there is data after the end of the log")
	errChain  = errors.New("record does not follow the one before it")
	errEmpty  = errors.New("segment is empty")
)

// parseSegment reads the records in b and stops at the first that is not good. In the
// newest segment it finds out what that is: a record that was never written completely is no problem.
func parseSegment(path string, b []byte, id ID, newest bool) (*segment, error) {
	s := &segment{path: path, end: headerSize}
	h, err := decodeHeader(b)
	if err != nil {
		if f, ok := errors.AsType[*disk.FormatError](err); ok {
			f.File = path
			return nil, f
		}
		if len(b) == 0 {
			err = errEmpty
		}
		return nil, &disk.DamagedError{File: path, Offset: 0, Reason: err.Error(), Hint: RepairHint}
	}
	if h.id != id {
		return nil, &disk.DamagedError{File: path, Offset: -1, Reason: "file belongs to another store"}
	}
	s.segmentHeader, s.last, s.sum = h, h.first-1, h.prev
	salt := id.salt()
	for {
		rest := b[s.end:]
		if len(rest) < recordHead || string(rest[:len(recordMagic)]) != recordMagic {
			break
		}
		if s.problem = s.take(rest, salt); s.problem != nil {
			break
		}
	}
	if f, ok := errors.AsType[*disk.FormatError](s.problem); ok {
		f.File = path
		return nil, f
	}
	if s.problem == nil && !allZero(b[s.end:]) {
		s.problem = errAfter
	}
	if s.problem != nil && newest {
		s.judge(b, salt)
	}
	return s, nil
}

// take reads the record at the start of rest.
func (s *segment) take(rest []byte, salt uint32) error {
	h, ok := decodeHead(rest, salt)
	if !ok {
		return errSum
	}
	if recordHead+h.size > len(rest) {
		return errCut
	}
	if !h.good(rest, salt) {
		return errSum
	}
	return s.add(h, rest)
}

// add takes over a record whose checksums are good.
func (s *segment) add(h recordHeader, rest []byte) error {
	if h.seq != s.last+1 || h.prev != s.sum {
		return errChain
	}
	body, err := h.body(rest)
	if err != nil {
		return err
	}
	n := recordHead + h.size
	pad := min(padding(n), len(rest)-n) // a file may end there
	if !allZero(rest[n : n+pad]) {
		return errAfter
	}
	s.records = append(s.records, Record{Seq: h.seq, Body: body, Offset: s.end, Size: n + pad, sum: h.sum})
	s.last, s.sum = h.seq, h.sum
	s.end += int64(n + pad)
	return nil
}

// judge finds out whether what stands at the end of the newest segment is a
// record that was never written completely. Then there is no problem any more.
func (s *segment) judge(b []byte, salt uint32) {
	rest := b[s.end:]
	if later(rest, salt, s.last+1) {
		return // more was written behind it: it was complete once
	}
	h, ok := decodeHead(rest, salt)
	switch {
	case !ok:
		if !s.tornHead(rest) {
			return
		}
	case recordHead+h.size > len(rest):
		// The file ends before the record does.
	case rest[recordHead+h.size-1] == 0:
		// Its last byte is missing. Where that is all, the record is known.
		last := s.end + int64(recordHead+h.size-1)
		fixed := bytes.Clone(rest[:recordHead+h.size])
		fixed[len(fixed)-1] = recordEnd
		if h.good(fixed, salt) {
			if s.problem = s.add(h, append(fixed, rest[len(fixed):]...)); s.problem == nil {
				s.missing = last
				if s.end < int64(len(b)) && !allZero(b[s.end:]) {
					s.problem = errAfter
				}
			}
			return
		}
	case h.good(rest, salt) || !s.missesSector(rest[:recordHead+h.size]):
		return
	}
	s.torn = int64(len(bytes.TrimRight(rest, "\x00")))
	s.problem = nil
}

// tornHead reports whether the head of the record at the end was never written
// completely: the sector in which it begins or the next one was not, or the
// write ended within it.
func (s *segment) tornHead(rest []byte) bool {
	if len(rest) < recordHead {
		return true // the file ends there
	}
	sector := int(sectorSize - s.end%sectorSize)
	if allZero(rest[:min(sector, len(rest))]) {
		return true
	}
	if sector < recordHead && allZero(rest[sector:min(sector+sectorSize, len(rest))]) {
		return true
	}
	return rest[recordHead-1] == 0 && allZero(rest[recordHead:])
}

// missesSector reports whether a sector of the record was never written. Its
// head is good, and so is the sector where that ends.
func (s *segment) missesSector(rec []byte) bool {
	at := s.end + recordHead
	for off := (at + sectorSize - 1) / sectorSize * sectorSize; off < s.end+int64(len(rec)); off += sectorSize {
		from := off - s.end
		if allZero(rec[from:min(from+sectorSize, int64(len(rec)))]) {
			return true
		}
	}
	return false
}

// later reports whether the record next of this store, or one that came after it, stands behind the start of b.
func later(b []byte, salt uint32, next uint64) bool {
	for off := align; off+recordHead <= len(b); off += align {
		if h, ok := decodeHead(b[off:], salt); ok && h.seq >= next {
			return true
		}
	}
	return false
}

// countRecords counts what can be recognised as a record of this store.
func countRecords(b []byte, id ID) (n int) {
	salt := id.salt()
	for off := 0; off+recordHead <= len(b); {
		h, ok := decodeHead(b[off:], salt)
		if ok && recordHead+h.size <= len(b)-off && h.good(b[off:], salt) {
			n++
			off += recordHead + h.size + padding(h.size)
			continue
		}
		off += align
	}
	return n
}

// RepairHint is what the messages of a damaged log say that can be done.
const RepairHint = "hubd state repair cuts the log there and says what it drops"
