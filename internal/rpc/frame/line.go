package frame

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Sizes of a LineReader's buffer. It starts and rests with the smallest and
// takes larger ones from a pool while lines need them.
var sizes = [...]int{1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, MaxLine + 64<<10}

var pools [len(sizes)]sync.Pool

// calm is how many reads in a row must fit into a smaller buffer before a
// reader goes back to it.
const calm = 4

// LineReader cuts a stream into lines. Its buffer is small while nothing
// arrives, so that an idle connection costs little, and never larger than one
// line needs. It is for one goroutine.
type LineReader struct {
	r     io.Reader
	limit int
	share *rpc.Share // of r; nil when it has none

	small  []byte // of size sizes[0]
	buf    []byte
	class  int // of buf, an index of sizes
	from   int // buf[from:to] waits to be cut
	to     int
	seen   int   // buf[from:seen] holds no line feed
	err    error // of the last Read
	quiet  int   // reads in a row that would have fitted into small
	large  int   // class that the latest long line needed: the next may need it, too
	read   int64
	begun  bool // the first line was returned
	closed bool
}

// TooLongError says that a line has more than the limit before its line feed.
type TooLongError struct {
	Head []byte // its first IDWindow bytes
}

func (e *TooLongError) Error() string { return "the line is longer than the limit" }

// NewLineReader returns a reader of lines of up to limit bytes; 0 means MaxLine.
// A reader that is rpc.Shared is asked before a long line gets more memory.
func NewLineReader(r io.Reader, limit int) *LineReader {
	if limit <= 0 || limit > MaxLine {
		limit = MaxLine
	}
	return &LineReader{r: r, limit: limit, share: rpc.ShareOf(r)}
}

// Next returns the next line without its line feed, the first one without a byte
// order mark; it is valid until the next call. A last line without line feed is returned like the others, then io.EOF.
// A line over the limit gives a *TooLongError, once: what may follow is Skip.
func (l *LineReader) Next() ([]byte, error) {
	for {
		if line, ok := l.cut(); ok {
			return l.text(line), nil
		}
		if l.to-l.from > l.limit {
			// seen is at the line's end if that has come, else behind all there is.
			head := l.buf[l.from:l.seen]
			return nil, &TooLongError{Head: bytes.Clone(head[:min(IDWindow, len(head))])}
		}
		if l.err != nil {
			if l.err == io.EOF && l.to > l.from {
				line := l.buf[l.from:l.to]
				l.from, l.seen = l.to, l.to
				return l.text(line), nil
			}
			err := l.err
			l.Release()
			return nil, err
		}
		if l.to > l.from {
			l.share.Begin(l.to - l.from)
		} else {
			l.share.End()
		}
		l.fill()
	}
}

// text drops a byte order mark at the start of the stream.
func (l *LineReader) text(line []byte) []byte {
	if l.begun {
		return line
	}
	l.begun = true
	return rpc.SkipBOM(line)
}

// Ready reports whether Next has a line (or an error) without another read of the stream.
func (l *LineReader) Ready() bool {
	if l.err != nil {
		return true
	}
	if l.to == l.from || l.seen == l.to {
		return l.to-l.from > l.limit
	}
	if i := bytes.IndexByte(l.buf[l.seen:l.to], '\n'); i >= 0 {
		l.seen += i
		return true
	}
	l.seen = l.to
	return l.to-l.from > l.limit
}

// Read returns how many bytes were read from the stream so far.
func (l *LineReader) Read() int64 { return l.read }

// cut takes a complete line from the buffer.
func (l *LineReader) cut() ([]byte, bool) {
	if l.seen == l.to {
		return nil, false
	}
	i := bytes.IndexByte(l.buf[l.seen:l.to], '\n')
	if i < 0 {
		l.seen = l.to
		return nil, false
	}
	end := l.seen + i
	if end-l.from > l.limit {
		l.seen = end // Skip finds it
		return nil, false
	}
	line := l.buf[l.from:end]
	l.from, l.seen = end+1, end+1
	return line, true
}

// fill makes room and reads once.
func (l *LineReader) fill() {
	if l.closed {
		l.err = io.ErrClosedPipe
		return
	}
	if !l.room() {
		l.err = rpc.ErrNoRoom
		return
	}
	n, err := l.r.Read(l.buf[l.to:])
	if n < 0 || n > len(l.buf)-l.to {
		err = errors.New("invalid count from a read")
		n = 0
	}
	l.to += n
	l.read += int64(n)
	l.err = err
	if l.to-l.from > sizes[0] {
		l.quiet = 0
	} else if l.quiet++; l.quiet >= calm {
		l.large = 0
	}
}

// room leaves a buffer that is not full, as small as what happened lately
// allows. It may wait for others to need less, and fails when that takes too long.
func (l *LineReader) room() bool {
	have := l.to - l.from
	want := l.class
	switch {
	case have == len(l.buf):
		want = max(l.class+1, l.large) // the line is longer, or this is the first read
		if l.buf == nil {
			want = 0
		} else if want > 1 {
			l.large = want
		}
	case l.to == len(l.buf) && l.from > 0 && l.class == 0:
		want = 1 // several lines filled it: there may be many more
	case have == 0 && l.class > 1:
		want = 1
	}
	if have == 0 && l.quiet >= calm {
		want = 0
	}
	if want == l.class && l.buf != nil {
		if l.from > 0 {
			l.move(l.buf)
		}
		return true
	}
	if want > l.class && !l.share.Hold(sizes[want]) {
		return false
	}
	old, class := l.buf, l.class
	l.class = want
	l.move(l.take(want))
	give(class, old)
	if want < class {
		l.share.Hold(sizes[want])
	}
	return true
}

// move puts what waits at the start of b and makes that the buffer.
func (l *LineReader) move(b []byte) {
	n := copy(b, l.buf[l.from:l.to])
	l.seen -= l.from
	l.from, l.to = 0, n
	l.buf = b
}

func (l *LineReader) take(class int) []byte {
	if class == 0 {
		if l.small == nil {
			l.small = make([]byte, sizes[0])
		}
		return l.small
	}
	if p, ok := pools[class].Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, sizes[class])
}

func give(class int, b []byte) {
	if class > 0 && b != nil {
		pools[class].Put(&b)
	}
}

// Skip reads on for at most limit bytes in search of the line feed that ends
// the line over the limit, and reports whether it found it. What was read of
// the line before is dropped.
func (l *LineReader) Skip() (bool, error) {
	left := l.limit
	for {
		if i := bytes.IndexByte(l.buf[l.seen:l.to], '\n'); i >= 0 {
			l.from = l.seen + i + 1
			l.seen = l.from
			return true, nil
		}
		l.from, l.seen, l.to = 0, 0, 0
		if l.class > 2 {
			give(l.class, l.buf)
			l.class = 2
			l.buf = l.take(2)
			l.share.Hold(sizes[2])
		}
		if l.err != nil {
			return false, l.err
		}
		if left <= 0 {
			return false, nil
		}
		n, err := l.r.Read(l.buf[:min(left, len(l.buf))])
		l.to, l.err = max(n, 0), err
		l.read += int64(l.to)
		left -= l.to
	}
}

// Release gives the buffer back. The lines that Next returned are no longer
// valid, and nothing more can be read.
func (l *LineReader) Release() {
	give(l.class, l.buf)
	l.share.Hold(0)
	l.share.End()
	l.buf, l.class, l.from, l.to, l.seen = nil, 0, 0, 0, 0
	l.closed = true
	if l.err == nil {
		l.err = io.ErrClosedPipe
	}
}
