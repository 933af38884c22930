package capnweb

import (
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// An array is written inside another array, so that it cannot be taken for a
// tagged value. Text that holds nothing but JSON can be turned from one form
// into the other without a tree.

// maxSafe is the greatest integer that every JavaScript number below it is exact for.
const maxSafe = 1<<53 - 1

// appendDoubled appends checked JSON text with each array wrapped in another
// one and without white space between tokens.
func appendDoubled(dst, text []byte) []byte {
	for i := 0; i < len(text); {
		switch c := text[i]; c {
		case '"':
			end := rpc.StringEnd(text, i)
			dst = append(dst, text[i:end]...)
			i = end
			continue
		case '[':
			dst = append(dst, '[', '[')
		case ']':
			dst = append(dst, ']', ']')
		case ' ', '\t', '\r', '\n':
		default:
			dst = append(dst, c)
		}
		i++
	}
	return dst
}

// appendUndoubled appends checked text with each wrapped array unwrapped, and
// says how deeply the result is nested. ok is false when an array occurs that is
// not wrapped: a tagged value.
func appendUndoubled(dst, text []byte) (out []byte, depth int, ok bool) {
	level := 0
	for i := 0; i < len(text); {
		switch c := text[i]; c {
		case '"':
			end := rpc.StringEnd(text, i)
			dst = append(dst, text[i:end]...)
			i = end
			continue
		case '[':
			if i = rpc.SkipSpace(text, i+1); text[i] != '[' {
				return dst, 0, false
			}
			level++
			depth = max(depth, level)
			dst = append(dst, '[')
		case ']':
			if i = rpc.SkipSpace(text, i+1); i >= len(text) || text[i] != ']' {
				return dst, 0, false
			}
			level--
			dst = append(dst, ']')
		case '{':
			level++
			depth = max(depth, level)
			dst = append(dst, c)
		case '}':
			level--
			dst = append(dst, c)
		case ' ', '\t', '\r', '\n':
		default:
			dst = append(dst, c)
		}
		i++
	}
	return dst, depth, true
}

// passable makes a value of one expression's text without a tree, if its
// traits allow that: plain JSON, of which JavaScript and Go have the same idea.
func passable(text []byte, t rpc.Traits) (rpc.Value, bool) {
	if t.Has(rpc.HasOddKey | rpc.HasBigInt | rpc.HasNonFinite) {
		return rpc.Value{}, false
	}
	if !t.Has(rpc.HasArray) {
		return rpc.RawValue(text, t), true
	}
	out, depth, ok := appendUndoubled(make([]byte, 0, len(text)), text)
	if !ok {
		return rpc.Value{}, false
	}
	t.Flags &^= rpc.HasNewline
	t.Depth = uint16(depth)
	return rpc.RawValue(out, t), true
}

// decodeBase64 is as lenient as JavaScript on Node: both alphabets, padding or
// none, and what is no base64 is skipped.
func decodeBase64(text string) []byte {
	text = strings.TrimRight(text, "=")
	if data, err := base64.RawStdEncoding.DecodeString(text); err == nil {
		return data
	}
	clean := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '-':
			clean = append(clean, '+')
		case c == '_':
			clean = append(clean, '/')
		case c == '+' || c == '/' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z':
			clean = append(clean, c)
		}
	}
	if len(clean)%4 == 1 {
		clean = clean[:len(clean)-1]
	}
	data := make([]byte, base64.RawStdEncoding.DecodedLen(len(clean)))
	n, _ := base64.RawStdEncoding.Decode(data, clean)
	return data[:n]
}

func itoa(i int64) string { return strconv.FormatInt(i, 10) }
