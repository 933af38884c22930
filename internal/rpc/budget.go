package rpc

import (
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of a Budget.
const (
	DefaultUnfinished   = 64 << 20
	DefaultPartialFrame = 30 * time.Second

	leastRate  = 64 << 10 // bytes per second of a frame that takes longer than Patience
	freeOfHold = 16 << 10 // what a connection may hold without asking
)

// Budget bounds the memory of frames that have begun and not ended, those of
// all connections together. A connection asks before it makes room for more of
// a frame and waits, unread, while there is none. What it holds up to 16 KiB is
// not counted, so that large frames never stop small ones.
type Budget struct {
	Limit    int64         // bytes; 0: DefaultUnfinished
	Patience time.Duration // how long somebody waits before the largest has to go; 0: DefaultPartialFrame

	mu      sync.Mutex
	used    int64
	shares  map[*Share]struct{} // those that hold something
	waiting []*Share
	last    time.Time // when somebody last had to go
}

// Share is the part that one connection has of a Budget. A nil Share holds
// whatever it is asked to. Hold, Begin and End are for the connection's reader.
type Share struct {
	budget *Budget
	end    func() // ends the connection

	began atomic.Int64 // when the unfinished frame began, in ns since 1970; 0: there is none
	size  atomic.Int64 // bytes of it that are there
	waits atomic.Bool  // for room: that time is not the sender's

	// Guarded by budget.mu:
	held  int64
	want  int64         // more than held, while it waits
	ready chan struct{} // told when it holds what it wants or has to go
	gone  bool
}

// NewShare returns the share of a new connection. end is called, once at most,
// when its frame has to go for others; it must not block.
func (b *Budget) NewShare(end func()) *Share {
	return &Share{budget: b, end: end, ready: make(chan struct{}, 1)}
}

// Shared is implemented by readers of connections that have a Share.
type Shared interface{ FrameShare() *Share }

// ShareOf returns the share of what a protocol reads from, nil when it has none.
func ShareOf(r any) *Share {
	if s, ok := r.(Shared); ok {
		return s.FrameShare()
	}
	return nil
}

// Begin notes that a frame has begun of which that many bytes are there.
func (s *Share) Begin(bytes int) {
	if s == nil {
		return
	}
	if s.began.Load() == 0 {
		s.began.Store(time.Now().UnixNano())
	}
	s.size.Store(int64(bytes))
}

// End notes that no frame is unfinished.
func (s *Share) End() {
	if s != nil && s.began.Load() != 0 {
		s.began.Store(0)
	}
}

// Late reports whether the unfinished frame takes too long: it is older than
// the Patience and came at less than 64 KiB a second. Anybody may ask.
func (s *Share) Late(now time.Time) bool {
	if s == nil {
		return false
	}
	began := s.began.Load()
	if began == 0 || s.waits.Load() {
		return false
	}
	age := now.Sub(time.Unix(0, began))
	return age > or(s.budget.Patience, DefaultPartialFrame) && float64(s.size.Load()) < age.Seconds()*leastRate
}

// Hold makes the share hold that many bytes, less or more than before, and
// waits for room if it must. It returns false when the connection has to end.
// One connection alone may hold any number: the limit of a frame is another one.
func (s *Share) Hold(bytes int) bool {
	if s == nil {
		return true
	}
	n := int64(bytes)
	if n <= freeOfHold {
		n = 0
	}
	if n == s.held { // only this goroutine, or others while it waits, change it
		return true
	}
	b := s.budget
	b.mu.Lock()
	if n <= s.held || !s.gone && b.fits(s, n) {
		b.set(s, n)
		b.grant()
		ok := !s.gone
		b.mu.Unlock()
		return ok
	}
	if s.gone {
		b.mu.Unlock()
		return false
	}
	s.want = n
	b.waiting = append(b.waiting, s)
	patience := or(b.Patience, DefaultPartialFrame)
	b.mu.Unlock()

	waits := time.Now()
	s.waits.Store(true)
	defer func() {
		if began := s.began.Load(); began != 0 {
			s.began.Store(began + int64(time.Since(waits)))
		}
		s.waits.Store(false)
	}()
	t := time.NewTimer(patience)
	defer t.Stop()
	for {
		select {
		case <-s.ready:
			b.mu.Lock()
			ok := s.held == n && !s.gone
			b.mu.Unlock()
			return ok
		case <-t.C:
			b.dismissLargest()
			t.Reset(patience / 10)
		}
	}
}

// ErrNoRoom ends a connection whose unfinished frame had to go for others.
var ErrNoRoom = errors.New("too much is held by unfinished frames")

// ReadMessage reads r to its end into buf, or what that is grown to: one
// message that is unfinished meanwhile. r gives no more than limit bytes and
// then an error, so that one more byte of room is enough.
func (s *Share) ReadMessage(buf []byte, r io.Reader, limit int) ([]byte, error) {
	defer func() {
		s.Hold(0)
		s.End()
	}()
	s.Begin(0)
	for {
		if len(buf) == cap(buf) {
			size := max(512, 2*cap(buf))
			if cap(buf) <= limit {
				size = min(size, limit+1)
			}
			if !s.Hold(size) {
				return buf, ErrNoRoom
			}
			grown := make([]byte, len(buf), size)
			copy(grown, buf)
			buf = grown
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		s.Begin(len(buf))
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}

// fits reports whether s may hold n bytes.
func (b *Budget) fits(s *Share, n int64) bool {
	others := b.used - s.held
	return others == 0 || others+n <= or(b.Limit, DefaultUnfinished)
}

func (b *Budget) set(s *Share, n int64) {
	b.used += n - s.held
	s.held = n
	switch {
	case n == 0:
		delete(b.shares, s)
	case b.shares == nil:
		b.shares = map[*Share]struct{}{s: {}}
	default:
		b.shares[s] = struct{}{}
	}
}

// grant lets those go on that wait and fit, the smallest wish first.
func (b *Budget) grant() {
	if len(b.waiting) == 0 {
		return
	}
	slices.SortStableFunc(b.waiting, func(x, y *Share) int { return int(x.want - y.want) })
	b.waiting = slices.DeleteFunc(b.waiting, func(s *Share) bool {
		if !s.gone && !b.fits(s, s.want) {
			return false
		}
		if !s.gone {
			b.set(s, s.want)
		}
		s.ready <- struct{}{}
		return true
	})
}

// dismissLargest ends the connection that holds most. Those that wait lose their
// patience at about the same time: the next has to go only if what the last one
// gave back was not enough.
func (b *Budget) dismissLargest() {
	now := time.Now()
	b.mu.Lock()
	if now.Sub(b.last) < or(b.Patience, DefaultPartialFrame)/10 {
		b.mu.Unlock()
		return
	}
	var largest *Share
	for s := range b.shares {
		if !s.gone && (largest == nil || s.held > largest.held) {
			largest = s
		}
	}
	if largest != nil {
		largest.gone, b.last = true, now
		b.grant() // it may be waiting itself
	}
	b.mu.Unlock()
	if largest != nil {
		largest.end()
	}
}

// Used returns how many bytes are held.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
