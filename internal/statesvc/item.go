package statesvc

import (
	"time"
	"unsafe"
)

// newItem copies key and value into one allocation: with a million items every object counts, for memory and for the
// garbage collector.
func newItem(key string, v Value) *Item {
	buf := make([]byte, len(key)+len(v.Data))
	copy(buf, key)
	copy(buf[len(key):], v.Data)
	return packedItem(buf, len(key), v.Encoding)
}

// packedItem makes an item of buf, which begins with the key and is never written again.
func packedItem(buf []byte, keyLen int, enc Encoding) *Item {
	return &Item{
		Key:   unsafe.String(unsafe.SliceData(buf), keyLen),
		Value: Value{Data: buf[keyLen:len(buf):len(buf)], Encoding: enc},
	}
}

func (it *Item) size() int64 { return int64(len(it.Key) + len(it.Value.Data)) }

// cost is what an item counts against the total.
func (it *Item) cost() int64 { return it.size() + itemOverhead }

func (e *Event) cost() int64 {
	n := int64(len(e.Key)) + itemOverhead
	if e.Item != nil {
		n += int64(len(e.Item.Value.Data))
	}
	return n
}

// newLease returns nil when there is nothing to remember. A deadline lies on the monotonic clock, so that a jump of the
// wall clock expires nothing.
func newLease(now time.Time, ttl time.Duration, owner string) *Lease {
	if ttl == 0 && owner == "" {
		return nil
	}
	l := &Lease{TTL: ttl, Owner: owner}
	if ttl > 0 {
		l.Deadline = now.Add(ttl)
	}
	return l
}

// revivedLease is the lease of an item read from disk. The wall clock is all that connects two runs; whatever it
// says, an item never lives longer than its whole time from now on.
func revivedLease(now time.Time, ttl time.Duration, expires int64, owner string) *Lease {
	if ttl == 0 {
		return newLease(now, 0, owner)
	}
	left := min(max(0, time.Duration(expires-now.UnixNano())), ttl)
	return &Lease{TTL: ttl, Deadline: now.Add(left), Owner: owner}
}
