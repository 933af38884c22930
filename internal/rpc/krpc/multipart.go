package krpc

import (
	"bytes"
	"errors"
	"io"
)

// errDeclared is what a source returns once where the body ends by what its
// length was declared as, if there may be more behind it.
var errDeclared = errors.New("the declared end of the body")

const (
	windowSize  = 128 << 10 // of the body, in memory
	maxPadding  = 4 << 10   // white space behind a delimiter on its line
	maxBoundary = 256
)

// multipart takes a multipart body apart as the protocol's own server does,
// which differs from the letter of RFC 2046: only a whole line that equals the
// delimiter, white space behind it allowed, ends a part. Data may hold lines
// that merely begin with it.
//
//	skip   to the first part
//	head   of a part, then data, until data says that it was the last
type multipart struct {
	src     io.Reader
	buf     []byte
	r, w    int
	end     ending
	newline []byte // LF and delimiter
	closing []byte // CR LF, delimiter and "--": what a complete body ends with
}

// ending is what is known about the end of the body.
type ending uint8

const (
	unseen   ending = iota
	declared        // the declared length is used up; more may follow
	forGood
)

func newMultipart(src io.Reader, boundary string) (*multipart, error) {
	if boundary == "" || len(boundary) > maxBoundary {
		return nil, errBoundary
	}
	return &multipart{
		src: src, buf: make([]byte, windowSize),
		newline: []byte("\n--" + boundary),
		closing: []byte("\r\n--" + boundary + "--"),
	}, nil
}

func (m *multipart) delimiter() []byte { return m.newline[1:] }

func (m *multipart) window() []byte { return m.buf[m.r:m.w] }

// fill reads more, or learns that there is no more.
func (m *multipart) fill() error {
	if m.end == forGood {
		return nil
	}
	if m.r > 0 {
		copy(m.buf, m.window())
		m.w -= m.r
		m.r = 0
	}
	n, err := m.src.Read(m.buf[m.w:])
	m.w += n
	m.end = unseen
	switch err {
	case nil:
	case errDeclared:
		m.end = declared
	case io.EOF:
		m.end = forGood
	default:
		return err
	}
	return nil
}

// skip passes over what stands before the first part. last is true when there
// is none.
func (m *multipart) skip() (last bool, err error) {
	return m.data(func([]byte) error { return nil })
}

// data hands the data of a part to sink, piece by piece, and takes the
// delimiter behind it. last says that it was the closing one.
func (m *multipart) data(sink func([]byte) error) (last bool, err error) {
	atLine := true // the first byte of data is at the start of a line, too
	for {
		w := m.window()
		pos, end := -1, 0 // where a delimiter may begin, and where the data before it ends
		if atLine {
			if bytes.HasPrefix(w, m.delimiter()) {
				pos = 0
			} else if len(w) >= len(m.delimiter()) || !bytes.HasPrefix(m.delimiter(), w) {
				atLine = false
			}
		}
		if pos < 0 && !atLine {
			if k := bytes.Index(w, m.newline); k >= 0 {
				pos, end = k+1, k
				if k > 0 && w[k-1] == '\r' {
					end--
				}
			}
		}
		if pos >= 0 {
			switch n, closing := m.verdict(w[pos+len(m.delimiter()):]); {
			case n >= 0:
				if err := give(sink, w[:end]); err != nil {
					return false, err
				}
				m.r += pos + len(m.delimiter()) + n
				return closing, nil
			case n == noDelimiter:
				pos += len(m.delimiter())
				if err := give(sink, w[:pos]); err != nil {
					return false, err
				}
				m.r += pos
				atLine = false
				continue
			}
			if m.end == forGood {
				return false, errIncomplete
			}
			if err := give(sink, w[:end]); err != nil { // the line end stays: it may be data after all
				return false, err
			}
			m.r += end
		} else {
			if m.end == forGood {
				return m.cut(sink, w, atLine)
			}
			if keep := len(w) - len(m.newline); keep > 0 && !atLine {
				if err := give(sink, w[:keep]); err != nil {
					return false, err
				}
				m.r += keep
			}
		}
		if err := m.fill(); err != nil {
			return false, err
		}
	}
}

func give(sink func([]byte) error, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	return sink(p)
}

// What verdict returns instead of a length.
const (
	noDelimiter = -1
	needMore    = -2
)

// verdict says what follows a delimiter at the start of a line: whether it is
// one, how long the rest of its line is, and whether it closes the body.
func (m *multipart) verdict(rest []byte) (n int, closing bool) {
	i := 0
	if len(rest) > 0 && rest[0] == '-' {
		switch {
		case len(rest) == 1:
			if m.end == forGood {
				return 1, true // it ends inside the closing delimiter
			}
			return needMore, false
		case rest[1] != '-':
			return noDelimiter, false
		}
		i, closing = 2, true
	}
	for ; i < len(rest); i++ {
		switch rest[i] {
		case '\n':
			return i + 1, closing
		case ' ', '\t', '\r', '\v', '\f':
		default:
			return noDelimiter, false
		}
	}
	switch {
	case closing && m.end != unseen, len(rest) == 0 && m.end == forGood:
		return len(rest), true
	case len(rest) > maxPadding:
		return noDelimiter, false
	}
	return needMore, false
}

// cut ends a body that has ended for good without its closing delimiter. It is
// complete if it ends within it.
func (m *multipart) cut(sink func([]byte) error, w []byte, atLine bool) (last bool, err error) {
	if atLine && len(w) > 0 && bytes.HasPrefix(m.closing[2:], w) {
		m.r = m.w
		return true, nil
	}
	for _, closing := range [][]byte{m.closing, m.closing[1:]} {
		for k := min(len(closing)-1, len(w)); k > 0; k-- {
			if bytes.HasSuffix(w, closing[:k]) {
				m.r = m.w
				return true, give(sink, w[:len(w)-k])
			}
		}
	}
	return false, errIncomplete
}

// line returns the next line of a part's head, without its end.
func (m *multipart) line(limit int) ([]byte, error) {
	for {
		w := m.window()
		if i := bytes.IndexByte(w, '\n'); i >= 0 && i <= limit {
			m.r += i + 1
			return bytes.TrimSuffix(w[:i], []byte{'\r'}), nil
		} else if i > limit || len(w) > limit {
			return nil, errPartHeader
		}
		if m.end == forGood {
			return nil, errIncomplete
		}
		if err := m.fill(); err != nil {
			return nil, err
		}
	}
}

// head reads the head of a part. limit bounds it in bytes.
func (m *multipart) head(limit int) (part, error) {
	var p part
	for {
		line, err := m.line(min(limit, len(m.buf)-1))
		if err != nil {
			return part{}, err
		}
		if len(line) == 0 {
			return p, nil
		}
		limit -= len(line) + 1
		p.header(line)
	}
}
