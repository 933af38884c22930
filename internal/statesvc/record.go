package statesvc

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"time"
)

// A record is what one batch writes to the log. It is one entry of the write-ahead log and carries its own checksum, so that
// it is recognised also where the framing around it is broken: that tells a record that was never written
// completely from one that was damaged later.
//
//	0   6  magic
//	6   1  version
//	7   1  flags
//	8   8  index, little endian: 1, 2, 3 ... for the life of the store
//	16  4  length of the body
//	20  4  CRC-32C of bytes 6..20 and the body, started with the secret salt of the store
//	24     body: entries, then recordEnd
//
// The salt keeps a client from making values that look like records. The last byte is never zero, and neither is any whole
// sector: space that was allocated and not written is all zeros and cannot be mistaken for data.
const (
	frameMagic   = "hubd\xf5\x5a"
	frameVersion = 1
	frameHeader  = 24

	flagStuffed = 1 // a byte stuffing follows each stuffRun bytes of the body

	recordEnd = 0xff
	stuffing  = 0xa5
	stuffRun  = 255
)

// Entries of a record.
const (
	entryCommit  = 1
	entryCompact = 2
	entryReset   = 3 // the state is that of the snapshot with this revision, whatever was before
)

// Event flags.
const (
	eventLease = 1 << 4 // above the type in one byte
	eventMask  = eventLease - 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var zeroRun = make([]byte, stuffRun+1)

// beginRecord returns buf with room for the header; entries are appended to it.
func beginRecord(buf []byte) []byte { return append(buf[:0], zeroRun[:frameHeader]...) }

// sealRecord completes a record.
func sealRecord(rec []byte, index uint64, salt uint32) []byte {
	rec = append(rec, recordEnd)
	flags := byte(0)
	if hasZeroRun(rec[frameHeader:]) {
		flags = flagStuffed
		body := rec[frameHeader:]
		out := make([]byte, frameHeader, len(rec)+len(body)/stuffRun+1)
		for len(body) > stuffRun {
			out = append(append(out, body[:stuffRun]...), stuffing)
			body = body[stuffRun:]
		}
		rec = append(out, body...)
	}
	copy(rec, frameMagic)
	rec[6], rec[7] = frameVersion, flags
	binary.LittleEndian.PutUint64(rec[8:], index)
	binary.LittleEndian.PutUint32(rec[16:], uint32(len(rec)-frameHeader))
	binary.LittleEndian.PutUint32(rec[20:], frameSum(rec, salt))
	return rec
}

func frameSum(rec []byte, salt uint32) uint32 {
	return crc32.Update(crc32.Update(salt, castagnoli, rec[6:20]), castagnoli, rec[frameHeader:])
}

// hasZeroRun reports whether b has more than stuffRun zeros in a row. It looks at every stuffRun'th byte first: where that
// is not zero no run can pass.
func hasZeroRun(b []byte) bool {
	for i := stuffRun; i < len(b); {
		if b[i] != 0 {
			i += stuffRun + 1
			continue
		}
		lo := i
		for lo > 0 && b[lo-1] == 0 {
			lo--
		}
		hi := i
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

// openRecord checks a record and returns its index and body. Bytes beyond the record are not looked at; n is its length.
func openRecord(rec []byte, salt uint32) (index uint64, body []byte, n int, err error) {
	if len(rec) < frameHeader || string(rec[:6]) != frameMagic {
		return 0, nil, 0, errors.New("not a record of this program")
	}
	size := int64(binary.LittleEndian.Uint32(rec[16:]))
	if size > int64(len(rec)-frameHeader) {
		return 0, nil, 0, errors.New("record is cut off")
	}
	n = frameHeader + int(size)
	rec = rec[:n]
	if binary.LittleEndian.Uint32(rec[20:]) != frameSum(rec, salt) {
		return 0, nil, 0, errors.New("checksum of the record does not match")
	}
	index = binary.LittleEndian.Uint64(rec[8:])
	if rec[6] != frameVersion {
		return index, nil, n, &FormatError{Found: int(rec[6]), Supported: frameVersion}
	}
	body = rec[frameHeader:]
	if len(body) == 0 || body[len(body)-1] != recordEnd || rec[7]&^flagStuffed != 0 {
		return index, nil, n, errBadRecord
	}
	if rec[7]&flagStuffed != 0 {
		out := make([]byte, 0, len(body))
		for len(body) > stuffRun {
			if body[stuffRun] != stuffing {
				return index, nil, n, errBadRecord
			}
			out = append(out, body[:stuffRun]...)
			body = body[stuffRun+1:]
		}
		body = append(out, body...)
	}
	return index, body[:len(body)-1], n, nil
}

var errBadRecord = errors.New("record cannot be read")

// appendCommit adds a commit to a record.
func appendCommit(rec []byte, c *commit) []byte {
	rec = append(rec, entryCommit)
	rec = binary.AppendUvarint(rec, c.rev)
	rec = binary.AppendVarint(rec, c.time)
	rec = binary.AppendUvarint(rec, uint64(len(c.events)))
	for _, e := range c.events {
		kind := byte(e.Type)
		if e.Item != nil && e.Item.Lease != nil {
			kind |= eventLease
		}
		rec = append(rec, kind)
		rec = appendString(rec, e.Key)
		rec = binary.AppendUvarint(rec, e.Previous)
		if e.Item != nil {
			rec = appendItem(rec, e.Item, c.time)
		}
	}
	return rec
}

// appendItem adds what an event or a snapshot knows of an item beside key, revision and update time.
func appendItem(b []byte, it *Item, updated int64) []byte {
	b = binary.AppendVarint(b, updated-it.Created)
	b = append(b, byte(it.Value.Encoding))
	b = binary.AppendUvarint(b, uint64(len(it.Value.Data)))
	b = append(b, it.Value.Data...)
	if l := it.Lease; l != nil {
		b = binary.AppendUvarint(b, uint64(l.TTL))
		if l.TTL > 0 {
			b = binary.AppendVarint(b, l.Deadline.UnixNano())
		}
		b = appendString(b, l.Owner)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendCompact(rec []byte, rev uint64) []byte {
	return binary.AppendUvarint(append(rec, entryCompact), rev)
}

func appendReset(rec []byte, rev uint64) []byte {
	return binary.AppendUvarint(append(rec, entryReset), rev)
}

// logEntry is one entry read from a record.
type logEntry struct {
	commit *commit // entryCommit, unless it was only skimmed
	kind   byte
	rev    uint64
	events int
	cost   int64
}

// skimRecord reads a record as readRecord does, but makes no commits: it only counts.
func skimRecord(body []byte) ([]logEntry, error) { return readEntries(body, time.Time{}, true) }

// readRecord decodes the body of a record. now is the clock for leases.
func readRecord(body []byte, now time.Time) ([]logEntry, error) { return readEntries(body, now, false) }

func readEntries(body []byte, now time.Time, skim bool) ([]logEntry, error) {
	var entries []logEntry
	r := byteReader{b: body}
	for len(r.b) > 0 && !r.bad {
		switch kind := r.byte(); kind {
		case entryCommit:
			if skim {
				en := r.skimCommit()
				if r.bad {
					return nil, errBadRecord
				}
				entries = append(entries, en)
				continue
			}
			c := r.commit(now)
			if c == nil {
				return nil, errBadRecord
			}
			entries = append(entries, logEntry{commit: c, kind: kind, rev: c.rev})
		case entryCompact, entryReset:
			entries = append(entries, logEntry{kind: kind, rev: r.uvarint()})
		default:
			return nil, errBadRecord
		}
	}
	if r.bad {
		return nil, errBadRecord
	}
	return entries, nil
}

// byteReader takes values from the front of b; after the first that is not there bad is set and all others are zero.
type byteReader struct {
	b   []byte
	bad bool
}

func (r *byteReader) fail() {
	r.b, r.bad = nil, true
}

func (r *byteReader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *byteReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *byteReader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bytes returns the next bytes with their length in front; they alias b.
func (r *byteReader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *byteReader) commit(now time.Time) *commit {
	rev, at, n := r.uvarint(), r.varint(), r.uvarint()
	if r.bad || n == 0 || n > uint64(len(r.b)) {
		return nil
	}
	c := &commit{rev: rev, time: at}
	c.events = slices.Grow(c.one[:0], int(n))
	for range n {
		kind := r.byte()
		key := r.bytes()
		ev := &c.event
		if n > 1 {
			ev = new(Event)
		}
		ev.Type, ev.Revision, ev.Time, ev.Previous = EventType(kind&eventMask), rev, at, r.uvarint()
		switch ev.Type {
		case EventPut:
			ev.Item = r.item(key, at, kind&eventLease != 0, now)
			if ev.Item == nil {
				return nil
			}
			ev.Item.Revision = rev
			ev.Key = ev.Item.Key
		case EventDelete, EventExpire:
			ev.Key = string(key)
		default:
			return nil
		}
		if r.bad || ev.Key == "" {
			return nil
		}
		c.events = append(c.events, ev)
	}
	c.complete()
	return c
}

// skimCommit reads over a commit.
func (r *byteReader) skimCommit() logEntry {
	en := logEntry{kind: entryCommit, rev: r.uvarint()}
	r.varint()
	n := r.uvarint()
	if n == 0 || n > uint64(len(r.b)) {
		r.fail()
	}
	for ; n > 0 && !r.bad; n-- {
		kind := r.byte()
		size := len(r.bytes())
		r.uvarint()
		if size == 0 {
			r.fail()
		}
		switch EventType(kind & eventMask) {
		case EventPut:
			r.varint()
			r.byte()
			size += len(r.bytes())
			if kind&eventLease != 0 {
				if r.uvarint() > 0 {
					r.varint()
				}
				r.bytes()
			}
		case EventDelete, EventExpire:
		default:
			r.fail()
		}
		en.events++
		en.cost += int64(size) + itemOverhead
	}
	return en
}

// item reads what appendItem wrote.
func (r *byteReader) item(key []byte, updated int64, lease bool, now time.Time) *Item {
	age := r.varint()
	enc := Encoding(r.byte())
	data := r.bytes()
	if r.bad {
		return nil
	}
	buf := make([]byte, len(key)+len(data))
	copy(buf, key)
	copy(buf[len(key):], data)
	it := packedItem(buf, len(key), enc)
	it.Updated, it.Created = updated, updated-age
	if lease {
		ttl := time.Duration(r.uvarint())
		var expires int64
		if ttl > 0 {
			expires = r.varint()
		}
		owner := r.bytes()
		if r.bad || ttl < 0 {
			return nil
		}
		it.Lease = revivedLease(now, ttl, expires, string(owner))
	}
	return it
}
