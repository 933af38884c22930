// Package filelog is an append-only log of records in a folder: what a store
// makes durable before it acknowledges.
//
//	format.go   how segments and records look, byte by byte
//	segment.go  reading a segment: what is good, what was never written, what is damaged
//	log.go      appending, changing segments, taking back what failed
//	replay.go   reading the whole log in order
//	repair.go   cutting a damaged log
//
// Only one record is ever under way, and it is on disk before the next one
// begins. So what is not complete is the last record, and was acknowledged to
// nobody; everything else that is not as it was written is damage.
package filelog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hubd-dev/hubd/internal/statesvc/disk"
)

// A segment is a file whose name is the sequence number of its first record in 16
// hexadecimal digits, and ".log". It begins with a header; all numbers are little endian:
//
//	0    8   "hubd-log"
//	8    4   version of the format
//	12   4   zero
//	16   16  id of the store
//	32   8   sequence number of the first record
//	40   4   checksum of the record before it, 0 for the first record of all
//	44   4   zero
//	48   24  note: what the store says of itself where the segment begins
//	72   52  zero
//	124  4   CRC-32C of bytes 0 to 124
//
// Records follow, each at a multiple of 8 bytes, filled up with zeros:
//
//	0    4   f5 'H' 'R' 5a
//	4    1   version of the record
//	5    1   flags
//	6    2   zero
//	8    8   sequence number: 1, 2, 3 ... for the life of the store
//	16   4   length of the body
//	20   4   checksum of the record before
//	24   4   checksum: CRC-32C of bytes 0 to 24 and the body
//	28   4   CRC-32C of bytes 0 to 28
//	32       body, whose last byte is ff
//
// Both checksums of a record are started with a salt that is made of the id of
// the store, which is a secret: so nobody makes values that look like records.
// The file is allocated ahead: zeros follow the last record.
//
// A disk writes whole sectors. No sector of a body is all zeros, nor is its last
// byte: a place that was allocated and not written is told from data.
const (
	segmentMagic  = "hubd-log"
	recordMagic   = "\xf5HR\x5a"
	formatVersion = 1
	recordVersion = 1
	headerSize    = 128
	recordHead    = 32
	align         = 8
	sectorSize    = 512

	flagStuffed = 1 // a stuffing byte follows each stuffRun bytes of the body
	recordEnd   = 0xff
	stuffing    = 0xa5
	stuffRun    = 255

	// maxBody bounds the body of a record: a length beyond it is no length.
	maxBody = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ID names a store. Files of different stores are never mixed up.
type ID [16]byte

// salt is what the checksums of records begin with.
func (id ID) salt() uint32 { return crc32.Checksum(id[:], castagnoli) }

// Note is what a store says of itself where a segment begins. The log keeps it
// and gives it back; it means nothing to the log.
type Note [3]uint64

// segmentHeader is the header of a segment.
type segmentHeader struct {
	id    ID
	first uint64 // sequence number of the first record
	prev  uint32 // checksum of the record before it
	note  Note
}

func (h *segmentHeader) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, segmentMagic)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	copy(b[16:], h.id[:])
	binary.LittleEndian.PutUint64(b[32:], h.first)
	binary.LittleEndian.PutUint32(b[40:], h.prev)
	for i, n := range h.note {
		binary.LittleEndian.PutUint64(b[48+8*i:], n)
	}
	binary.LittleEndian.PutUint32(b[124:], crc32.Checksum(b[:124], castagnoli))
	return b
}

var (
	errNoHeader  = errors.New("segment has no header")
	errHeaderSum = errors.New("checksum of the header does not match")
)

// decodeHeader reads the header of a segment. A *disk.FormatError says that another
// version of this program wrote it.
func decodeHeader(b []byte) (h segmentHeader, err error) {
	if len(b) < headerSize || string(b[:8]) != segmentMagic {
		return h, errNoHeader
	}
	if crc32.Checksum(b[:124], castagnoli) != binary.LittleEndian.Uint32(b[124:]) {
		return h, errHeaderSum
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != formatVersion {
		return h, &disk.FormatError{Found: int(v), Supported: formatVersion}
	}
	copy(h.id[:], b[16:])
	h.first = binary.LittleEndian.Uint64(b[32:])
	h.prev = binary.LittleEndian.Uint32(b[40:])
	for i := range h.note {
		h.note[i] = binary.LittleEndian.Uint64(b[48+8*i:])
	}
	return h, nil
}

// Begin returns buf with room for the head of a record; its body is appended to it.
func Begin(buf []byte) []byte { return append(buf[:0], zeros[:recordHead]...) }

// Empty reports whether nothing was appended since Begin.
func Empty(rec []byte) bool { return len(rec) == recordHead }

var zeros [stuffRun + 1]byte

// seal completes a record that Begin began and returns it with its checksum. rec may be reused as its memory.
func seal(rec []byte, seq uint64, prev, salt uint32) (sealed []byte, sum uint32, err error) {
	rec = append(rec, recordEnd)
	flags := byte(0)
	if hasZeroRun(rec[recordHead:]) {
		flags = flagStuffed
		rec = stuff(rec)
	}
	n := len(rec) - recordHead
	if n > maxBody {
		return nil, 0, fmt.Errorf("record of %d bytes is larger than a log can hold", n)
	}
	copy(rec, recordMagic)
	rec[4], rec[5] = recordVersion, flags
	binary.LittleEndian.PutUint64(rec[8:], seq)
	binary.LittleEndian.PutUint32(rec[16:], uint32(n))
	binary.LittleEndian.PutUint32(rec[20:], prev)
	sum = crc32.Update(crc32.Update(salt, castagnoli, rec[:24]), castagnoli, rec[recordHead:])
	binary.LittleEndian.PutUint32(rec[24:], sum)
	binary.LittleEndian.PutUint32(rec[28:], crc32.Update(salt, castagnoli, rec[:28]))
	return append(rec, zeros[:padding(len(rec))]...), sum, nil
}

// padding is how many zeros follow a record of n bytes.
func padding(n int) int { return -n & (align - 1) }

// hasZeroRun reports whether b has more than stuffRun zeros in a row. It looks at
// every stuffRun'th byte first: where that is not zero no run can pass.
func hasZeroRun(b []byte) bool {
	for i := stuffRun; i < len(b); {
		if b[i] != 0 {
			i += stuffRun + 1
			continue
		}
		lo, hi := i, i
		for lo > 0 && b[lo-1] == 0 {
			lo--
		}
		for hi+1 < len(b) && b[hi+1] == 0 {
			hi++
		}
		if hi-lo+1 > stuffRun {
			return true
		}
		i = hi + stuffRun + 1
	}
	return false
}

// stuff puts a stuffing byte behind each stuffRun bytes of a record's body.
func stuff(rec []byte) []byte {
	body := rec[recordHead:]
	out := make([]byte, recordHead, len(rec)+len(body)/stuffRun+align)
	for len(body) > stuffRun {
		out = append(append(out, body[:stuffRun]...), stuffing)
		body = body[stuffRun:]
	}
	return append(out, body...)
}

// unstuff is the opposite, for a body alone; ok is false for one that stuff did not make.
func unstuff(body []byte) (plain []byte, ok bool) {
	plain = make([]byte, 0, len(body))
	for len(body) > stuffRun {
		if body[stuffRun] != stuffing {
			return nil, false
		}
		plain = append(plain, body[:stuffRun]...)
		body = body[stuffRun+1:]
	}
	return append(plain, body...), true
}

// recordHeader is the head of a record, whose own checksum was good.
type recordHeader struct {
	flags   byte
	version byte
	seq     uint64
	size    int // of the body
	prev    uint32
	sum     uint32
}

// decodeHead reads the head of a record; ok is false for what is none.
func decodeHead(b []byte, salt uint32) (h recordHeader, ok bool) {
	if len(b) < recordHead || string(b[:4]) != recordMagic ||
		crc32.Update(salt, castagnoli, b[:28]) != binary.LittleEndian.Uint32(b[28:]) {
		return h, false
	}
	h = recordHeader{
		version: b[4], flags: b[5], seq: binary.LittleEndian.Uint64(b[8:]), size: int(binary.LittleEndian.Uint32(b[16:])),
		prev: binary.LittleEndian.Uint32(b[20:]), sum: binary.LittleEndian.Uint32(b[24:]),
	}
	return h, h.size > 0 && h.size <= maxBody
}

// good reports whether the checksum of the record at the start of b, which has all of it, matches.
func (h *recordHeader) good(b []byte, salt uint32) bool {
	return crc32.Update(crc32.Update(salt, castagnoli, b[:24]), castagnoli, b[recordHead:recordHead+h.size]) == h.sum
}

// body returns what the record at the start of b holds.
func (h *recordHeader) body(b []byte) (body []byte, err error) {
	if h.version != recordVersion {
		return nil, &disk.FormatError{Found: int(h.version), Supported: recordVersion}
	}
	body = b[recordHead : recordHead+h.size]
	ok := body[len(body)-1] == recordEnd && h.flags&^flagStuffed == 0 && b[6] == 0 && b[7] == 0
	if ok && h.flags&flagStuffed != 0 {
		body, ok = unstuff(body)
	}
	if !ok {
		return nil, errRecord
	}
	return body[:len(body)-1], nil
}

// allZero reports whether b has nothing but zeros.
func allZero(b []byte) bool {
	for len(b) >= align {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[align:]
	}
	return len(bytes.Trim(b, "\x00")) == 0
}
