package trust

import (
	"sync"
	"time"
)

// Limiter counts what addresses may do rarely, such as presenting a token that
// is none. Each has a bucket of Burst that one drop refills every Every. Its
// memory is bounded: past the limit the address that was quiet for longest is
// forgotten.
type Limiter struct {
	Burst int
	Every time.Duration
	Max   int // addresses

	now func() time.Time // nil: time.Now

	mu      sync.Mutex
	buckets map[string]*bucket
}

// bucket is full again at the time full.
type bucket struct{ full time.Time }

// Allow takes a drop from the bucket of an address, and reports false when it is empty.
func (l *Limiter) Allow(address string) bool {
	now := time.Now()
	if l.now != nil {
		now = l.now()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[address]
	if b == nil {
		b = l.add(address, now)
	}
	if b.full.Before(now) {
		b.full = now
	}
	if b.full.Add(l.Every).Sub(now) > time.Duration(l.Burst)*l.Every {
		return false
	}
	b.full = b.full.Add(l.Every)
	return true
}

// add makes a bucket, in the place of others when there are too many.
func (l *Limiter) add(address string, now time.Time) *bucket {
	if l.buckets == nil {
		l.buckets = map[string]*bucket{}
	}
	if len(l.buckets) >= l.Max {
		oldest := ""
		for a, b := range l.buckets {
			if !b.full.After(now) { // as good as new
				delete(l.buckets, a)
			} else if oldest == "" || b.full.Before(l.buckets[oldest].full) {
				oldest = a
			}
		}
		if len(l.buckets) >= l.Max {
			delete(l.buckets, oldest)
		}
	}
	b := &bucket{full: now}
	l.buckets[address] = b
	return b
}
