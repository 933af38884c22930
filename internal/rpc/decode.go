package rpc

import (
	"iter"
	"math"
	"math/big"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// decodeTree decodes text that Scan has accepted, in one pass. It recurses as
// deep as the text is nested, which Scan has bounded.
func decodeTree(text []byte) any {
	d := decoder{b: text}
	return d.value()
}

type decoder struct {
	b []byte
	i int
}

func (d *decoder) value() any {
	d.i = SkipSpace(d.b, d.i)
	switch c := d.b[d.i]; c {
	case '{':
		m := &Map{}
		for d.next('}') {
			end := StringEnd(d.b, d.i)
			key := Unquote(d.b[d.i:end])
			d.i = SkipSpace(d.b, end) + 1 // the colon
			m.Items = append(m.Items, Item{key, d.value()})
		}
		return m
	case '[':
		list := []any{}
		for d.next(']') {
			list = append(list, d.value())
		}
		return list
	case '"':
		end := StringEnd(d.b, d.i)
		text := d.b[d.i:end]
		d.i = end
		s, lone := unquote(text)
		if lone {
			own := append([]byte(nil), text...)
			t := Traits{Flags: HasSurrogate}
			if slices.ContainsFunc(own, func(c byte) bool { return c >= utf8.RuneSelf }) {
				t.Flags |= HasNonASCII
			}
			return Value{raw: own, traits: t}
		}
		return s
	case 't':
		d.i += 4
		return true
	case 'f':
		d.i += 5
		return false
	case 'n':
		d.i += 4
		return nil
	case 'N':
		d.i += 3
		return math.NaN()
	case 'I':
		d.i += 8
		return math.Inf(1)
	default:
		if c == '-' && d.i+1 < len(d.b) && d.b[d.i+1] == 'I' {
			d.i += 9
			return math.Inf(-1)
		}
		from := d.i
		d.i = scalarEnd(d.b, d.i)
		return decodeNumber(d.b[from:d.i])
	}
}

// next moves to the next part of a container, from its opening bracket or from
// behind a part; at the closing bracket it moves behind that and returns false.
func (d *decoder) next(closing byte) bool {
	d.i = SkipSpace(d.b, d.i)
	if c := d.b[d.i]; c == '{' || c == '[' || c == ',' {
		d.i = SkipSpace(d.b, d.i+1)
		if c == ',' {
			return true
		}
	}
	if d.b[d.i] == closing {
		d.i++
		return false
	}
	return true
}

// decodeNumber keeps integers exact and every other literal as text.
func decodeNumber(text []byte) any {
	for _, c := range text {
		if c == '.' || c|0x20 == 'e' {
			return Number(text)
		}
	}
	if string(text) == "-0" {
		return Number(text)
	}
	if len(text) <= 20 { // more digits fit into no machine word
		if i, err := strconv.ParseInt(string(text), 10, 64); err == nil {
			return i
		}
		if u, err := strconv.ParseUint(string(text), 10, 64); err == nil {
			return u
		}
	}
	n, _ := new(big.Int).SetString(string(text), 10)
	return n
}

// Unquote returns the Go string of a JSON string literal that Scan has
// accepted. Lone surrogates become U+FFFD.
func Unquote(text []byte) string {
	s, _ := unquote(text)
	return s
}

func unquote(text []byte) (s string, lone bool) {
	body := text[1 : len(text)-1]
	esc := -1
	for i, c := range body {
		if c == '\\' {
			esc = i
			break
		}
	}
	if esc < 0 {
		return string(body), false
	}
	out := make([]byte, esc, len(body))
	copy(out, body)
	for i := esc; i < len(body); {
		c := body[i]
		if c != '\\' {
			out = append(out, c)
			i++
			continue
		}
		i += 2
		switch e := body[i-1]; e {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, _ := hex4(body, i)
			i += 4
			if utf16.IsSurrogate(r) {
				var low rune
				if i+6 <= len(body) && body[i] == '\\' && body[i+1] == 'u' {
					low, _ = hex4(body, i+2)
				}
				if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
					r = pair
					i += 6
				} else {
					r = utf8.RuneError
					lone = true
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, e)
		}
	}
	return string(out), lone
}

// scalarEnd returns the offset behind the number or word at i.
func scalarEnd(b []byte, i int) int {
	for i < len(b) {
		switch b[i] {
		case ',', '}', ']', ' ', '\t', '\r', '\n', ':':
			return i
		}
		i++
	}
	return i
}

// valueEnd returns the offset behind the value at i, in checked text.
func valueEnd(b []byte, i int) int {
	switch b[i] {
	case '"':
		return StringEnd(b, i)
	case '{', '[':
		depth := 0
		for i < len(b) {
			switch b[i] {
			case '"':
				i = StringEnd(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return i
	default:
		return scalarEnd(b, i)
	}
}

// partTraits are those of any part of a container with these traits. Flags are
// kept: too many cost a slower path, never a wrong one.
func (t Traits) partTraits() Traits {
	t.Depth = max(t.Depth, 1) - 1
	return t
}

// Kind tells the first byte of a raw value's text ('{', '[', '"', 't', 'f',
// 'n', a digit, '-', 'N' or 'I'), 0 for a tree or undefined.
func (v Value) Kind() byte {
	if len(v.raw) == 0 {
		return 0
	}
	return v.raw[0]
}

// Members iterates over the members of a raw object; nothing for anything
// else. Names are literals with quotes: compare them with NameIs or Unquote them.
func (v Value) Members() iter.Seq2[[]byte, Value] {
	return func(yield func([]byte, Value) bool) {
		if v.Kind() != '{' {
			return
		}
		i := 0
		for key, m := range objectItems(v.raw, &i) {
			m.traits = v.traits.partTraits()
			if !yield(key, m) {
				return
			}
		}
	}
}

// Elements iterates over the elements of a raw array; nothing for anything else.
func (v Value) Elements() iter.Seq[Value] {
	return func(yield func(Value) bool) {
		if v.Kind() != '[' {
			return
		}
		i := 0
		for e := range arrayItems(v.raw, &i) {
			e.traits = v.traits.partTraits()
			if !yield(e) {
				return
			}
		}
	}
}

// Member returns the last member of an object (raw or *Map) with that name.
func (v Value) Member(name string) (Value, bool) {
	var found Value
	ok := false
	if v.raw != nil {
		for key, m := range v.Members() {
			if NameIs(key, name) {
				found, ok = m, true
			}
		}
		return found, ok
	}
	if m, isMap := v.tree.(*Map); isMap {
		if x, has := m.Get(name); has {
			return TreeValue(x), true
		}
	}
	return found, false
}

// NameIs reports whether a member name literal spells name.
func NameIs(literal []byte, name string) bool {
	body := literal[1 : len(literal)-1]
	if string(body) == name {
		return true
	}
	return slices.Contains(body, '\\') && Unquote(literal) == name
}

// objectItems iterates over the object at *i in checked text and leaves *i behind it.
func objectItems(b []byte, i *int) iter.Seq2[[]byte, Value] {
	return func(yield func([]byte, Value) bool) {
		for p := SkipSpace(b, *i+1); ; {
			if b[p] == '}' {
				*i = p + 1
				return
			}
			if b[p] == ',' {
				p = SkipSpace(b, p+1)
			}
			end := StringEnd(b, p)
			key := b[p:end]
			p = SkipSpace(b, SkipSpace(b, end)+1) // the colon
			end = valueEnd(b, p)
			if !yield(key, Value{raw: b[p:end]}) {
				return
			}
			p = SkipSpace(b, end)
		}
	}
}

// arrayItems iterates over the array at *i in checked text and leaves *i behind it.
func arrayItems(b []byte, i *int) iter.Seq[Value] {
	return func(yield func(Value) bool) {
		for p := SkipSpace(b, *i+1); ; {
			if b[p] == ']' {
				*i = p + 1
				return
			}
			if b[p] == ',' {
				p = SkipSpace(b, p+1)
			}
			end := valueEnd(b, p)
			if !yield(Value{raw: b[p:end]}) {
				return
			}
			p = SkipSpace(b, end)
		}
	}
}
