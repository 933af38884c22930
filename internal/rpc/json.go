package rpc

import (
	"bytes"
	"encoding/base64"
	"math"
	"math/big"
	"strconv"
	"time"
	"unicode/utf8"
)

// Form says what a JSON wire can carry beyond RFC 8259, and what it cannot.
type Form struct {
	NonFinite bool // NaN, Infinity and -Infinity may be written as tokens; else they become null
	ASCII     bool // everything above U+007F is written as \u escapes
}

// AppendJSON appends v to dst as one JSON text without line feeds, by the data
// model: bytes as base64, dates as RFC 3339, big integers as digits, undefined
// members left out (null where a value is due). References, streams and files
// are an error of CodeSerialization.
func (v Value) AppendJSON(dst []byte, f Form) ([]byte, error) {
	switch {
	case v.raw != nil:
		return appendRaw(dst, v.raw, v.traits, f), nil
	case v.tree != nil:
		return appendTree(dst, v.tree, f, 0)
	default:
		return append(dst, "null"...), nil
	}
}

// JSON returns v as JSON text by the rules of AppendJSON with the zero Form.
func (v Value) JSON() ([]byte, error) {
	if v.raw != nil && !v.traits.Has(HasNewline|HasNonFinite) {
		return v.raw, nil
	}
	return v.AppendJSON(nil, Form{})
}

// appendRaw copies checked JSON text and changes only what the form forbids.
func appendRaw(dst, text []byte, t Traits, f Form) []byte {
	bad := t.Flags & HasNewline
	if !f.NonFinite {
		bad |= t.Flags & HasNonFinite
	}
	if f.ASCII {
		bad |= t.Flags & HasNonASCII
	}
	if bad == 0 {
		return append(dst, text...)
	}
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == '"':
			end := StringEnd(text, i)
			if f.ASCII {
				dst = appendASCII(dst, text[i:end])
			} else {
				dst = append(dst, text[i:end]...)
			}
			i = end
		case c == '\n' || c == '\r':
			dst = append(dst, ' ')
			i++
		case (c == 'N' || c == 'I' || c == '-' && i+1 < len(text) && text[i+1] == 'I') && !f.NonFinite:
			dst = append(dst, "null"...)
			for i < len(text) && (text[i]|0x20 >= 'a' && text[i]|0x20 <= 'z' || text[i] == '-') {
				i++
			}
		default:
			dst = append(dst, c)
			i++
		}
	}
	return dst
}

// StringEnd returns the offset behind the string that starts at i, in checked text.
func StringEnd(b []byte, i int) int {
	for i++; i < len(b); {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return len(b)
		}
		i += n
		back := i - 1
		for b[back] == '\\' {
			back--
		}
		i++
		if (i-1-back)%2 == 1 { // an even number of backslashes before the quote
			return i
		}
	}
	return i
}

func appendASCII(dst, text []byte) []byte {
	for len(text) > 0 {
		if text[0] < utf8.RuneSelf {
			dst = append(dst, text[0])
			text = text[1:]
			continue
		}
		r, n := utf8.DecodeRune(text)
		dst = appendEscape(dst, r)
		text = text[n:]
	}
	return dst
}

const hexDigits = "0123456789abcdef"

func appendEscape(dst []byte, r rune) []byte {
	if r > 0xffff {
		r -= 0x10000
		dst = appendEscape(dst, 0xd800+r>>10)
		return appendEscape(dst, 0xdc00+r&0x3ff)
	}
	return append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}

// AppendString appends s as a JSON string. Bytes that are no UTF-8 become
// U+FFFD; with ascii everything above U+007F is escaped.
func AppendString(dst []byte, s string, ascii bool) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < 0x80 && c != '"' && c != '\\' {
			i++
			continue
		}
		if c >= 0x80 {
			r, n := utf8.DecodeRuneInString(s[i:])
			if !ascii && (r != utf8.RuneError || n > 1) {
				i += n
				continue
			}
			dst = append(dst, s[from:i]...)
			if ascii {
				dst = appendEscape(dst, r)
			} else {
				dst = append(dst, "\uFFFD"...)
			}
			i += n
			from = i
			continue
		}
		dst = append(dst, s[from:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = appendEscape(dst, rune(c))
		}
		i++
		from = i
	}
	return append(append(dst, s[from:]...), '"')
}

func stringTraits(s string) (t Traits) {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			t.Flags = HasNonASCII
			break
		}
	}
	return t
}

func appendInt(dst []byte, i int64) []byte { return strconv.AppendInt(dst, i, 10) }

func intTraits(i int64) (t Traits) {
	if i >= 1e15 || i <= -1e15 {
		t.Flags = HasBigInt
	}
	return t
}

func appendTree(dst []byte, x any, f Form, depth int) ([]byte, error) {
	if depth > MaxDepth {
		return dst, &Error{Code: CodeSerialization, Message: "value is nested too deeply", Ran: RanYes}
	}
	if isNilNode(x) {
		return append(dst, "null"...), nil
	}
	var err error
	switch x := x.(type) {
	case nil, Undefined:
		return append(dst, "null"...), nil
	case Value:
		if x.raw == nil && x.tree != nil {
			return appendTree(dst, x.tree, f, depth+1)
		}
		return x.AppendJSON(dst, f)
	case bool:
		return strconv.AppendBool(dst, x), nil
	case int64:
		return appendInt(dst, x), nil
	case uint64:
		return strconv.AppendUint(dst, x, 10), nil
	case *big.Int:
		return x.Append(dst, 10), nil
	case Number:
		return append(dst, x...), nil
	case float64:
		return AppendFloat(dst, x, f), nil
	case string:
		return AppendString(dst, x, f.ASCII), nil
	case Bytes:
		return appendBase64(dst, x.Data), nil
	case Ext:
		return appendBase64(dst, x.Data), nil
	case time.Time:
		dst = append(dst, '"')
		dst = x.AppendFormat(dst, time.RFC3339Nano)
		return append(dst, '"'), nil
	case *Error:
		return appendErrorValue(dst, x, f), nil
	case []any:
		dst = append(dst, '[')
		for i, e := range x {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendTree(dst, e, f, depth+1); err != nil {
				return dst, err
			}
		}
		return append(dst, ']'), nil
	case *Map:
		dst = append(dst, '{')
		first := true
		for _, it := range x.Items {
			switch u := it.Value.(type) {
			case Undefined:
				continue
			case Value:
				if u.IsUndefined() {
					continue
				}
			}
			if !first {
				dst = append(dst, ',')
			}
			first = false
			if dst, err = appendKey(dst, it.Key, f); err != nil {
				return dst, err
			}
			dst = append(dst, ':')
			if dst, err = appendTree(dst, it.Value, f, depth+1); err != nil {
				return dst, err
			}
		}
		return append(dst, '}'), nil
	case *Ref:
		return dst, cannotCarry("a reference")
	case Readable:
		return dst, cannotCarry("a stream inside a value")
	case *File:
		return dst, cannotCarry("a file")
	}
	v, err := Encode(x) // a Go value that whoever built the tree put there
	if err != nil {
		return dst, err
	}
	return appendTree(dst, v, f, depth+1)
}

func cannotCarry(what string) error {
	return &Error{Code: CodeSerialization, Message: what + " cannot be carried by this protocol", Ran: RanYes}
}

// KeyText returns what the key of a Map becomes where keys are text.
func KeyText(key any) (string, error) {
	if s, ok := key.(string); ok {
		return s, nil
	}
	quoted, err := appendKey(nil, key, Form{NonFinite: true})
	if err != nil {
		return "", err
	}
	return Unquote(quoted), nil
}

func appendKey(dst []byte, key any, f Form) ([]byte, error) {
	switch k := key.(type) {
	case string:
		return AppendString(dst, k, f.ASCII), nil
	case nil:
		return append(dst, `"null"`...), nil
	case bool, int64, uint64, *big.Int, Number, float64:
		text, _ := appendTree(nil, k, f, 0)
		return AppendString(dst, string(text), f.ASCII), nil
	case Bytes:
		return appendBase64(dst, k.Data), nil
	}
	return dst, &Error{Code: CodeSerialization, Message: "a map key that no JSON object can have", Ran: RanYes}
}

func appendBase64(dst, data []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, data)
	return append(dst, '"')
}

func appendErrorValue(dst []byte, e *Error, f Form) []byte {
	dst = append(dst, `{"name":`...)
	name := e.Name
	if name == "" {
		name = "Error"
	}
	dst = AppendString(dst, name, f.ASCII)
	dst = append(dst, `,"message":`...)
	dst = AppendString(dst, e.Text(), f.ASCII)
	return append(dst, '}')
}

// AppendFloat appends a float as Python's and JavaScript's JSON writers do:
// shortest digits that round-trip, with a point or an exponent.
func AppendFloat(dst []byte, x float64, f Form) []byte {
	switch {
	case math.IsNaN(x):
		return appendNonFinite(dst, "NaN", f)
	case math.IsInf(x, 1):
		return appendNonFinite(dst, "Infinity", f)
	case math.IsInf(x, -1):
		return appendNonFinite(dst, "-Infinity", f)
	}
	format := byte('f')
	if a := math.Abs(x); a != 0 && (a < 1e-6 || a >= 1e16) {
		format = 'e'
	}
	from := len(dst)
	dst = strconv.AppendFloat(dst, x, format, -1, 64)
	if bytes.IndexByte(dst[from:], '.') < 0 && bytes.IndexByte(dst[from:], 'e') < 0 {
		dst = append(dst, '.', '0')
	}
	return dst
}

func appendNonFinite(dst []byte, token string, f Form) []byte {
	if !f.NonFinite {
		token = "null"
	}
	return append(dst, token...)
}
