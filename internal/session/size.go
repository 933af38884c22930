package session

import (
	"slices"
	"strconv"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// MaxWindow is the most columns or rows of a window.
const MaxWindow = 10000

// maxPassers is how many sizes are kept of connections that are not there.
const maxPassers = 4

// seen is the size of the window in which a connection sees the session.
type seen struct {
	link       *rpc.Link
	cols, rows int
	there      bool // it follows the session or owns it
}

// sizes are those that were told, the latest last: that one counts. When a
// connection that follows or owns the session goes, its size goes with it. What
// others have told, such as a script, or a follower that is about to come,
// counts until somebody tells another. The window of an owner that comes back to
// a session that others see already counts behind theirs.
type sizes struct {
	seen       []seen
	cols, rows int // what the owner was told, or said itself
}

// Resize tells the owner how large a window is, in which the connection link
// sees the session (nil: nobody's). The size that was told last counts. An owner
// that comes later is told first.
func (s *Session) Resize(link *rpc.Link, cols, rows int) error {
	if cols < 1 || rows < 1 || cols > MaxWindow || rows > MaxWindow {
		return rpc.Errorf(rpc.CodeInvalidParams, "cols and rows are 1 to %d", MaxWindow)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	v := seen{link: link, cols: cols, rows: rows}
	if i := s.input.sizes.of(link); i >= 0 {
		v.there = s.input.sizes.seen[i].there
		s.input.sizes.remove(i)
	} else if s.owner != nil && s.owner.link == link && slices.ContainsFunc(s.input.sizes.seen, func(v seen) bool { return v.there }) {
		v.there = true
		s.input.sizes.seen = slices.Insert(s.input.sizes.seen, 0, v)
		return nil
	}
	v.there = v.there || s.presentLocked(link)
	s.input.sizes.seen = append(s.input.sizes.seen, v)
	s.input.sizes.bound()
	s.sizeLocked(cols, rows, link)
	return nil
}

// sizeLocked lets a size count. The owner that has told it knows it.
func (s *Session) sizeLocked(cols, rows int, from *rpc.Link) {
	s.input.sizes.cols, s.input.sizes.rows = cols, rows
	for _, in := range s.input.readers {
		if from == nil || in.link != from {
			in.queue.add(sizeOf(cols, rows))
			in.signal()
		}
	}
}

// repeatSizeLocked tells the owner the size anew: a program on a terminal then
// draws for somebody who has not seen it.
func (s *Session) repeatSizeLocked() {
	if z := &s.input.sizes; z.cols > 0 {
		s.sizeLocked(z.cols, z.rows, nil)
	}
}

// presentLocked reports whether a connection follows or owns the session.
func (s *Session) presentLocked(link *rpc.Link) bool {
	if link == nil {
		return false
	}
	if s.owner != nil && s.owner.link == link {
		return true
	}
	for _, f := range s.followers {
		if f.opts.Link == link {
			return true
		}
	}
	return false
}

// cameLocked notes that a connection follows or owns the session from now on.
func (s *Session) cameLocked(link *rpc.Link) {
	if i := s.input.sizes.of(link); i >= 0 {
		s.input.sizes.seen[i].there = true
	}
}

// wentLocked notes that a connection has ended to follow or to own the session.
// When its size counted, that of those who are still there counts again.
func (s *Session) wentLocked(link *rpc.Link) {
	z := &s.input.sizes
	i := z.of(link)
	if i < 0 || !z.seen[i].there || s.presentLocked(link) {
		return
	}
	z.remove(i)
	if n := len(z.seen); n > 0 && i == n {
		if v := z.seen[n-1]; v.cols != z.cols || v.rows != z.rows {
			s.sizeLocked(v.cols, v.rows, nil)
		}
	}
}

// of returns the index of what a connection has told; -1 when it has not.
func (z *sizes) of(link *rpc.Link) int {
	return slices.IndexFunc(z.seen, func(v seen) bool { return v.link == link })
}

func (z *sizes) remove(i int) { z.seen = slices.Delete(z.seen, i, i+1) }

// bound forgets the oldest sizes of those who are not there.
func (z *sizes) bound() {
	passers := 0
	for i := len(z.seen) - 1; i >= 0; i-- {
		if z.seen[i].there {
			continue
		}
		if passers++; passers > maxPassers {
			z.remove(i)
		}
	}
}

func sizeOf(cols, rows int) inputItem {
	text := `{"type":"resize","cols":` + strconv.Itoa(cols) + `,"rows":` + strconv.Itoa(rows) + `}`
	return inputItem{value: rpc.RawString(text), kind: sizeItem}
}

// sizeIn reads the size that an owner says its terminal has; 0 for none.
func sizeIn(event rpc.Value) (cols, rows int) {
	number := func(name string) int {
		m, _ := event.Member(name)
		n, err := m.AsInt()
		if err != nil || n < 1 || n > MaxWindow {
			return 0
		}
		return int(n)
	}
	cols, rows = number("cols"), number("rows")
	if cols == 0 || rows == 0 {
		return 0, 0
	}
	return cols, rows
}
