package kollabor

import (
	"iter"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// split cuts an event into frames of at most limit bytes, for clients that
// cannot read longer lines: the text of a stream_chunk anywhere between two
// characters, that of an output at its line breaks. All pieces have the
// members of the whole. What cannot be cut so is sent once, with its long
// strings shortened and "truncated": true.
func split(e Event, limit int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		whole, err := rpc.Parse(e.JSON)
		if err != nil {
			return
		}
		name := ""
		switch e.Type {
		case "stream_chunk":
			name = "chunk"
		case "output":
			name = "rendered"
		}
		text, _ := whole.Member(name)
		if text.Kind() != '"' {
			yield(truncate(whole, limit))
			return
		}
		frameLen := len(e.JSON) - len(raw(text))
		if frameLen > limit/2 { // the other members are the larger part
			yield(truncate(whole, limit))
			return
		}
		for piece := range cut(raw(text), limit-frameLen, e.Type == "output") {
			if !yield(with(whole, name, piece, frameLen+len(piece))) {
				return
			}
		}
	}
}

func raw(v rpc.Value) []byte {
	text, _ := v.Raw()
	return text
}

// with copies an object with another text for one member.
func with(object rpc.Value, name string, text []byte, size int) []byte {
	dst := append(make([]byte, 0, size), '{')
	for key, v := range object.Members() {
		if len(dst) > 1 {
			dst = append(dst, ',')
		}
		dst = append(append(dst, key...), ':')
		if rpc.NameIs(key, name) {
			dst = append(dst, text...)
		} else {
			dst = append(dst, raw(v)...)
		}
	}
	return append(dst, '}')
}

// cut yields a string literal as literals of at most limit bytes. At line
// breaks, the break itself is left out: each piece is shown on a line of its own.
func cut(literal []byte, limit int, atLines bool) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		rest := literal[1 : len(literal)-1]
		for {
			if len(rest)+2 <= limit {
				yield(quote(rest))
				return
			}
			at, line := 0, -1
			for at < len(rest) {
				n := unit(rest[at:])
				if at+n+2 > limit {
					break
				}
				if atLines && n == 2 && rest[at+1] == 'n' {
					line = at
				}
				at += n
			}
			switch {
			case line > 0:
				if !yield(quote(rest[:line])) {
					return
				}
				rest = rest[line+2:]
			case at == 0: // not even one character: the limit is absurd
				return
			default:
				if !yield(quote(rest[:at])) {
					return
				}
				rest = rest[at:]
			}
		}
	}
}

// unit is the length of the first character of a string literal's content: an
// escape, a pair of surrogate escapes, or a character of UTF-8.
func unit(b []byte) int {
	n := 1
	switch {
	case b[0] == '\\' && len(b) > 1 && b[1] == 'u':
		n = 6
		if len(b) >= 12 && (b[2] == 'd' || b[2] == 'D') && highSurrogate(b[3]) && b[6] == '\\' && b[7] == 'u' &&
			(b[8] == 'd' || b[8] == 'D') && !highSurrogate(b[9]) {
			n = 12
		}
	case b[0] == '\\':
		n = 2
	case b[0] >= 0xf0:
		n = 4
	case b[0] >= 0xe0:
		n = 3
	case b[0] >= 0xc0:
		n = 2
	}
	return min(n, len(b))
}

// highSurrogate reports whether d is the second digit of \ud8.. to \udb..
func highSurrogate(d byte) bool { return d == '8' || d == '9' || d|0x20 == 'a' || d|0x20 == 'b' }

func quote(content []byte) []byte {
	dst := append(make([]byte, 0, len(content)+2), '"')
	return append(append(dst, content...), '"')
}

// truncate copies an object such that it fits: long strings are cut, other
// long members are left out, and "truncated" says so.
func truncate(object rpc.Value, limit int) []byte {
	const mark = `,"truncated":true}`
	members := 0
	for range object.Members() {
		members++
	}
	share := max(64, (limit-len(mark))/max(1, members)) // of each member, name included
	dst := append(make([]byte, 0, limit), '{')
	add := func(key, text []byte) {
		if len(dst)+len(key)+len(text)+2+len(mark) > limit {
			return
		}
		if len(dst) > 1 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, key...), ':'), text...)
	}
	for key, v := range object.Members() { // what clients tell events apart by comes first
		if rpc.NameIs(key, "type") || rpc.NameIs(key, "seq") || rpc.NameIs(key, "ts") {
			add(key, raw(v))
		}
	}
	for key, v := range object.Members() {
		if rpc.NameIs(key, "type") || rpc.NameIs(key, "seq") || rpc.NameIs(key, "ts") || rpc.NameIs(key, "truncated") {
			continue
		}
		text := raw(v)
		if len(key)+len(text)+2 > share {
			if v.Kind() != '"' || len(key)+8 > share {
				continue
			}
			for piece := range cut(text, share-len(key)-2, false) {
				text = piece
				break
			}
		}
		add(key, text)
	}
	if len(dst) == 1 {
		return append(dst, mark[1:]...)
	}
	return append(dst, mark...)
}
