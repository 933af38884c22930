package rpc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// Limits of one JSON text. They bound what a peer can
// make any reader of the value do, here or behind another protocol.
const (
	MaxDepth   = 256     // nested arrays and objects
	MaxDigits  = 1000    // digits of one number
	MaxMembers = 1000000 // object members of one text

	maxNesting = 9 * 64 // the most that ScanNested can be asked for
)

// Flags are properties of a JSON text that decide whether its bytes may pass
// to another protocol untouched.
type Flags uint16

// The flags that Scan sets.
const (
	HasArray     Flags = 1 << iota // an array occurs
	HasNonASCII                    // a byte of 0x80 or above occurs
	HasNonFinite                   // NaN, Infinity or -Infinity (Python's JSON) occurs
	HasBigInt                      // an integer of 16 digits or more occurs
	HasNewline                     // a line feed or carriage return stands between tokens
	HasSurrogate                   // an escaped lone surrogate occurs
	HasOddKey                      // a member name that JavaScript objects inherit, or toJSON
)

// Traits are what Scan saw in a JSON text.
type Traits struct {
	Flags Flags
	Depth uint16 // of nested arrays and objects; 0 for a scalar
}

// Has reports whether any of the flags is set.
func (t Traits) Has(f Flags) bool { return t.Flags&f != 0 }

func (t *Traits) add(o Traits) {
	t.Flags |= o.Flags
	t.Depth = max(t.Depth, o.Depth)
}

// SyntaxError is what Scan says of a text that is not JSON or over a limit.
type SyntaxError struct {
	Offset int // of the byte that is wrong
	Reason string
	Limit  bool // the text may be JSON, but is over MaxDepth, MaxDigits or MaxMembers
	Deep   bool // it is nested too deeply
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s at byte %d", e.Reason, e.Offset)
}

// ErrShort is what Scan returns when the text ends inside a value.
var ErrShort = errors.New("unexpected end of JSON text")

// Scan checks the JSON value at the start of text (after white space) and
// returns the offset behind it and its traits. It accepts what RFC 8259 has,
// in valid UTF-8, and the tokens NaN, Infinity and -Infinity, which it notes
// in the traits. It neither recurses nor allocates (but for an error).
func Scan(text []byte) (n int, t Traits, err error) { return ScanNested(text, MaxDepth) }

// ScanNested is Scan with another limit on nesting than MaxDepth, for text that
// is deeper than the value that it stands for. It is at most 576.
func ScanNested(text []byte, depth int) (n int, t Traits, err error) {
	s := scanner{b: text, most: min(depth, maxNesting)}
	n, err = s.value(0)
	return n, s.t, err
}

// Valid reports whether text is exactly one JSON value by the rules of Scan,
// white space around it allowed.
func Valid(text []byte) bool {
	n, _, err := Scan(text)
	return err == nil && SkipSpace(text, n) == len(text)
}

// BOM is the byte order mark of UTF-8, which some editors and programs write at
// the start of a text. It is no part of the text.
const BOM = "\ufeff"

// SkipBOM returns text without a byte order mark at its start.
func SkipBOM(text []byte) []byte { return bytes.TrimPrefix(text, []byte(BOM)) }

// SkipSpace returns the offset of the first byte at or after i that is not JSON white space.
func SkipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

type scanner struct {
	b       []byte
	t       Traits
	members int
	kinds   [maxNesting / 64]uint64 // bit d: the container at depth d is an object
	depth   int
	most    int  // that depth may be
	escaped bool // an escape occurred in the string scanned last
}

func (s *scanner) fail(at int, reason string) (int, error) {
	if at >= len(s.b) {
		return at, ErrShort
	}
	return at, &SyntaxError{Offset: at, Reason: reason}
}

func (s *scanner) deep(at int) (int, error) {
	return at, &SyntaxError{Offset: at, Reason: fmt.Sprintf("nesting is deeper than %d levels", s.most), Limit: true, Deep: true}
}

func (s *scanner) limit(at int, reason string) (int, error) {
	return at, &SyntaxError{Offset: at, Reason: reason, Limit: true}
}

func (s *scanner) space(i int) int {
	b := s.b
	for i < len(b) && b[i] <= ' ' {
		switch b[i] {
		case ' ', '\t':
		case '\n', '\r':
			if s.depth > 0 { // white space around the whole value is not part of it
				s.t.Flags |= HasNewline
			}
		default:
			return i
		}
		i++
	}
	return i
}

// value scans one value from i with a loop over tokens; containers are bits in kinds.
func (s *scanner) value(i int) (int, error) {
	b := s.b
	var err error
start: // a value is due
	i = s.space(i)
	if i >= len(b) {
		return i, ErrShort
	}
	switch c := b[i]; c {
	case '{':
		if s.depth == s.most {
			return s.deep(i)
		}
		s.kinds[s.depth>>6] |= 1 << (s.depth & 63)
		s.depth++
		s.t.Depth = max(s.t.Depth, uint16(s.depth))
		i = s.space(i + 1)
		if i < len(b) && b[i] == '}' {
			i++
			s.depth--
			goto end
		}
		goto key
	case '[':
		if s.depth == s.most {
			return s.deep(i)
		}
		s.t.Flags |= HasArray
		s.kinds[s.depth>>6] &^= 1 << (s.depth & 63)
		s.depth++
		s.t.Depth = max(s.t.Depth, uint16(s.depth))
		i = s.space(i + 1)
		if i < len(b) && b[i] == ']' {
			i++
			s.depth--
			goto end
		}
		goto start
	case '"':
		i, err = s.str(i)
	case 't':
		i, err = s.word(i, "true")
	case 'f':
		i, err = s.word(i, "false")
	case 'n':
		i, err = s.word(i, "null")
	case 'N':
		s.t.Flags |= HasNonFinite
		i, err = s.word(i, "NaN")
	case 'I':
		s.t.Flags |= HasNonFinite
		i, err = s.word(i, "Infinity")
	default:
		i, err = s.number(i)
	}
	if err != nil {
		return i, err
	}
end: // a value has ended
	if s.depth == 0 {
		return i, nil
	}
	i = s.space(i)
	if i >= len(b) {
		return i, ErrShort
	}
	if s.kinds[(s.depth-1)>>6]&(1<<((s.depth-1)&63)) != 0 {
		switch b[i] {
		case ',':
			i = s.space(i + 1)
			goto key
		case '}':
			i++
			s.depth--
			goto end
		}
		return s.fail(i, "expected , or } after an object member")
	}
	switch b[i] {
	case ',':
		i++
		goto start
	case ']':
		i++
		s.depth--
		goto end
	}
	return s.fail(i, "expected , or ] after an array element")
key:
	if i >= len(b) || b[i] != '"' {
		return s.fail(i, "expected a member name")
	}
	if s.members++; s.members > MaxMembers {
		return s.limit(i, "more than 1000000 object members")
	}
	{
		at := i
		s.escaped = false
		if i, err = s.str(i); err != nil {
			return i, err
		}
		if s.escaped || oddKey(b[at+1:i-1]) {
			s.t.Flags |= HasOddKey
		}
	}
	i = s.space(i)
	if i >= len(b) || b[i] != ':' {
		return s.fail(i, "expected : after a member name")
	}
	i++
	goto start
}

func (s *scanner) word(i int, w string) (int, error) {
	b := s.b[i:]
	if len(b) >= len(w) {
		if string(b[:len(w)]) == w {
			return i + len(w), nil
		}
		return s.fail(i, "unknown word")
	}
	if string(b) == w[:len(b)] {
		return len(s.b), ErrShort
	}
	return s.fail(i, "unknown word")
}

func (s *scanner) number(i int) (int, error) {
	b, start := s.b, i
	if b[i] == '-' {
		i++
		if i < len(b) && b[i] == 'I' {
			s.t.Flags |= HasNonFinite
			return s.word(i, "Infinity")
		}
	}
	digits := i
	if i >= len(b) {
		return i, ErrShort
	}
	switch {
	case b[i] == '0':
		i++
	case b[i] >= '1' && b[i] <= '9':
		i = digitsEnd(b, i+1)
	default:
		if i > start {
			return s.fail(i, "expected a digit")
		}
		return s.fail(i, "expected a value")
	}
	integer := true
	n := i - digits
	if i < len(b) && b[i] == '.' {
		integer = false
		from := i + 1
		if i = digitsEnd(b, from); i == from {
			return s.fail(i, "expected a digit after the decimal point")
		}
		n += i - from
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		integer = false
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		from := i
		if i = digitsEnd(b, from); i == from {
			return s.fail(i, "expected a digit in the exponent")
		}
		n += i - from
	}
	if n > MaxDigits {
		return s.limit(start, "a number has more than 1000 digits")
	}
	if integer && n >= 16 {
		s.t.Flags |= HasBigInt
	}
	return i, nil
}

func digitsEnd(b []byte, i int) int {
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	return i
}

const (
	ones = 0x0101010101010101
	tops = 0x8080808080808080
)

// special returns a word in which the top bit of each byte is set where that
// byte of w ends plain text: a quote, a backslash, a control character, or one
// that is not ASCII. Bits above the first one set may be wrong (borrows). What
// a subtraction says of bytes of 0x80 and above does not matter: w marks them.
func special(w uint64) uint64 {
	quote, escape := w^ones*'"', w^ones*'\\'
	return ((quote - ones) | (escape - ones) | (w - ones*0x20) | w) & tops
}

// str scans the string whose opening quote is at i.
func (s *scanner) str(i int) (int, error) {
	b := s.b
	i++
	for {
		for i+16 <= len(b) {
			p := b[i : i+16]
			if special(binary.LittleEndian.Uint64(p))|special(binary.LittleEndian.Uint64(p[8:])) != 0 {
				break
			}
			i += 16
		}
		for i+8 <= len(b) {
			if m := special(binary.LittleEndian.Uint64(b[i:])); m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				break
			}
			i += 8
		}
		for i < len(b) && b[i] >= 0x20 && b[i] < 0x80 && b[i] != '"' && b[i] != '\\' {
			i++
		}
		if i >= len(b) {
			return i, ErrShort
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1, nil
		case c == '\\':
			n, err := s.escape(i)
			if err != nil {
				return n, err
			}
			i = n
		case c < 0x20:
			return s.fail(i, "control character in a string")
		default:
			s.t.Flags |= HasNonASCII
			for i < len(b) && b[i] >= 0x80 {
				_, size := utf8.DecodeRune(b[i:])
				if size == 1 {
					if !utf8.FullRune(b[i:]) {
						return len(b), ErrShort
					}
					return s.fail(i, "invalid UTF-8")
				}
				i += size
			}
		}
	}
}

// escape scans the escape sequence at i, with both halves of a surrogate pair.
func (s *scanner) escape(i int) (int, error) {
	b := s.b
	s.escaped = true
	if i+1 >= len(b) {
		return len(b), ErrShort
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2, nil
	case 'u':
	default:
		return s.fail(i+1, "unknown escape")
	}
	r, n := hex4(b, i+2)
	if n < 4 {
		if i+2+n >= len(b) {
			return len(b), ErrShort
		}
		return s.fail(i+2+n, "expected a hexadecimal digit")
	}
	i += 6
	if r < 0xd800 || r >= 0xe000 {
		return i, nil
	}
	if r < 0xdc00 && i+6 <= len(b) && b[i] == '\\' && b[i+1] == 'u' {
		if low, n := hex4(b, i+2); n == 4 && low >= 0xdc00 && low < 0xe000 {
			return i + 6, nil
		}
	}
	s.t.Flags |= HasSurrogate
	return i, nil
}

// hex4 reads up to four hexadecimal digits and says how many there were.
func hex4(b []byte, i int) (r rune, n int) {
	for ; n < 4 && i+n < len(b); n++ {
		c := b[i+n]
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return r, n
		}
	}
	return r, n
}

// oddKey reports whether a member name is one that Cap'n Web peers drop
// because JavaScript objects inherit it, or toJSON. A name with an escape
// counts as odd without a closer look.
func oddKey(name []byte) bool {
	if len(name) < len("toJSON") || len(name) > len("propertyIsEnumerable") {
		return false
	}
	switch string(name) {
	case "__proto__", "constructor", "toString", "toLocaleString", "valueOf", "hasOwnProperty", "isPrototypeOf",
		"propertyIsEnumerable", "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__", "toJSON":
		return true
	}
	return false
}
