package krpc

import "io"

// The names of the field that holds the call. The first counts where both are there.
const (
	fieldJSON  = "json"
	fieldUpper = "JSON"
)

// form takes an urlencoded form, or the query of a URL, as it comes, and keeps
// of it what the field of the call decodes to. Escapes that are none stay as
// they are. A field without a value is none.
type form struct {
	lower, upper *text

	into    *text // where the present value goes; nil for a field of no interest
	inValue bool
	key     [len(fieldJSON)]byte
	keyLen  int // beyond len(key) for a longer one
	escape  [2]byte
	escaped int // bytes of an escape that are in escape
}

// readForm reads a form to its end and returns its call.
func readForm(r io.Reader, t *text, buf []byte) error {
	f := form{lower: t, upper: &text{limit: t.limit, budget: t.budget}}
	defer f.upper.release()
	for {
		n, err := r.Read(buf)
		if e := f.take(buf[:n]); e != nil {
			return e
		}
		if err == io.EOF {
			return f.end(t)
		}
		if err != nil {
			return err
		}
	}
}

// end says whether there was a call; it is in t then.
func (f *form) end(t *text) error {
	if err := f.field(); err != nil {
		return err
	}
	if len(t.b) == 0 && len(f.upper.b) > 0 {
		*t, *f.upper = *f.upper, *t
	}
	if len(t.b) == 0 {
		return errNoCall
	}
	return nil
}

func (f *form) take(p []byte) error {
	for len(p) > 0 {
		if f.escaped == 0 && f.inValue && f.into == nil { // nobody wants this value
			n := indexOf(p, '&')
			if n == len(p) {
				return nil
			}
			p = p[n:]
		}
		if f.escaped == 0 && f.into != nil { // a plain stretch, at once
			n := plain(p)
			if n > 0 {
				if err := f.into.add(p[:n]); err != nil {
					return err
				}
				p = p[n:]
				continue
			}
		}
		if err := f.byte(p[0]); err != nil {
			return err
		}
		p = p[1:]
	}
	return nil
}

// plain returns how many bytes at the start of p stand for themselves in a value.
func plain(p []byte) int {
	for i, c := range p {
		if c == '&' || c == '%' || c == '+' {
			return i
		}
	}
	return len(p)
}

func indexOf(p []byte, c byte) int {
	for i := range p {
		if p[i] == c {
			return i
		}
	}
	return len(p)
}

func (f *form) byte(c byte) error {
	if f.escaped > 0 {
		if _, ok := unhex(c); ok && f.escaped == 1 {
			f.escape[0], f.escaped = c, 2
			return nil
		} else if ok {
			high, _ := unhex(f.escape[0])
			low, _ := unhex(c)
			f.escaped = 0
			return f.emit(high<<4 | low)
		}
		if err := f.literal(); err != nil { // it was no escape
			return err
		}
	}
	switch {
	case c == '&':
		return f.field()
	case c == '=' && !f.inValue:
		f.inValue, f.into = true, nil
		switch {
		case f.keyLen != len(fieldJSON):
		case string(f.key[:]) == fieldJSON && len(f.lower.b) == 0:
			f.into = f.lower
		case string(f.key[:]) == fieldUpper && len(f.upper.b) == 0:
			f.into = f.upper
		}
		return nil
	case c == '%':
		f.escaped = 1
		return nil
	case c == '+':
		c = ' '
	}
	return f.emit(c)
}

// literal emits the beginning of an escape that turned out to be none.
func (f *form) literal() error {
	n := f.escaped
	f.escaped = 0
	err := f.emit('%')
	if n == 2 && err == nil {
		err = f.emit(f.escape[0])
	}
	return err
}

func (f *form) emit(c byte) error {
	switch {
	case f.into != nil:
		return f.into.add([]byte{c})
	case f.inValue:
	case f.keyLen < len(f.key):
		f.key[f.keyLen] = c
		f.keyLen++
	default:
		f.keyLen = len(f.key) + 1
	}
	return nil
}

// field ends the present field.
func (f *form) field() error {
	var err error
	if f.escaped > 0 {
		err = f.literal()
	}
	f.inValue, f.into, f.keyLen = false, nil, 0
	return err
}

func unhex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}
