package statesvc

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"
)

// A record of the log holds what one batch does: entries, one after the other. Numbers are varints of
// encoding/binary, strings and values have their length in front.

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
	commit *commit // entryCommit
	kind   byte
	rev    uint64
}

// readRecord decodes the body of a record. now is the clock for leases.
func readRecord(body []byte, now time.Time) ([]logEntry, error) {
	var entries []logEntry
	r := byteReader{b: body}
	for len(r.b) > 0 && !r.bad {
		switch kind := r.byte(); kind {
		case entryCommit:
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
	if r.bad || len(entries) == 0 {
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
