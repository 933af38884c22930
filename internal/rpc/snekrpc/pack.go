package snekrpc

import (
	"encoding/binary"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tinylib/msgp/msgp"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// text appends a string. What is no UTF-8 becomes U+FFFD.
func (msgpackCodec) text(dst []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return msgp.AppendString(dst, s)
}

func (msgpackCodec) value(dst []byte, v rpc.Value) ([]byte, error) {
	return packValue(dst, v, 0)
}

func packValue(dst []byte, v rpc.Value, depth int) ([]byte, error) {
	if raw, ok := v.Raw(); ok {
		p := textPacker{b: raw}
		return p.pack(dst)
	}
	if v.IsUndefined() {
		return msgp.AppendNil(dst), nil
	}
	return packTree(dst, v.Tree(), depth)
}

func cannotPack(reason string) error {
	return &rpc.Error{Code: rpc.CodeSerialization, Message: reason, Ran: rpc.RanYes}
}

// packTree appends a node of a tree.
func packTree(dst []byte, x any, depth int) ([]byte, error) {
	if depth > rpc.MaxDepth {
		return dst, cannotPack("value is nested too deeply")
	}
	var err error
	switch x := x.(type) {
	case nil, rpc.Undefined:
		return msgp.AppendNil(dst), nil
	case rpc.Value:
		return packValue(dst, x, depth+1)
	case bool:
		return msgp.AppendBool(dst, x), nil
	case int64:
		return packInt(dst, x), nil
	case uint64:
		return msgp.AppendUint64(dst, x), nil
	case *big.Int:
		return packBig(dst, x)
	case rpc.Number:
		return packNumber(dst, string(x))
	case float64:
		return msgp.AppendFloat64(dst, x), nil
	case string:
		return msgpackCodec{}.text(dst, x), nil
	case rpc.Bytes:
		return msgp.AppendBytes(dst, x.Data), nil
	case time.Time:
		return msgp.AppendTimeExt(dst, x), nil
	case rpc.Ext:
		return msgp.AppendExtension(dst, &msgp.RawExtension{Type: x.Code, Data: x.Data})
	case *rpc.Error:
		if x == nil {
			return msgp.AppendNil(dst), nil
		}
		name := x.Name
		if name == "" {
			name = "Error"
		}
		dst = msgp.AppendMapHeader(dst, 2)
		dst = msgpackCodec{}.text(msgp.AppendString(dst, "name"), name)
		return msgpackCodec{}.text(msgp.AppendString(dst, "message"), x.Text()), nil
	case []any:
		dst = msgp.AppendArrayHeader(dst, uint32(len(x)))
		for _, e := range x {
			if dst, err = packTree(dst, e, depth+1); err != nil {
				return dst, err
			}
		}
		return dst, nil
	case *rpc.Map:
		if x == nil {
			return msgp.AppendNil(dst), nil
		}
		return packMap(dst, x, depth)
	case *rpc.Ref:
		return dst, cannotPack("a reference cannot be carried by this protocol")
	case rpc.Readable:
		return dst, cannotPack("a stream inside a value cannot be carried by this protocol")
	case *rpc.File:
		return dst, cannotPack("a file cannot be carried by this protocol")
	}
	v, err := rpc.Encode(x) // a Go value that whoever built the tree put there
	if err != nil {
		return dst, err
	}
	return packValue(dst, v, depth+1)
}

// packMap appends a map. Undefined members are left out, as they are in JSON.
func packMap(dst []byte, m *rpc.Map, depth int) ([]byte, error) {
	n := 0
	for _, it := range m.Items {
		if !isUndefined(it.Value) {
			n++
		}
	}
	dst = msgp.AppendMapHeader(dst, uint32(n))
	var err error
	for _, it := range m.Items {
		if isUndefined(it.Value) {
			continue
		}
		if dst, err = packTree(dst, it.Key, depth+1); err != nil {
			return dst, err
		}
		if dst, err = packTree(dst, it.Value, depth+1); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

func isUndefined(x any) bool {
	switch x := x.(type) {
	case rpc.Undefined:
		return true
	case rpc.Value:
		return x.IsUndefined()
	}
	return false
}

// packInt appends an integer in its shortest form.
func packInt(dst []byte, i int64) []byte {
	if i >= 0 {
		return msgp.AppendUint64(dst, uint64(i))
	}
	return msgp.AppendInt64(dst, i)
}

func packBig(dst []byte, x *big.Int) ([]byte, error) {
	switch {
	case x == nil:
		return msgp.AppendNil(dst), nil
	case x.IsInt64():
		return packInt(dst, x.Int64()), nil
	case x.IsUint64():
		return msgp.AppendUint64(dst, x.Uint64()), nil
	}
	return dst, cannotPack("an integer of more than 64 bits cannot be written as MessagePack")
}

// packNumber appends a JSON number literal: a float when it has a point or an
// exponent.
func packNumber(dst []byte, text string) ([]byte, error) {
	switch text {
	case "NaN":
		return msgp.AppendFloat64(dst, math.NaN()), nil
	case "Infinity":
		return msgp.AppendFloat64(dst, math.Inf(1)), nil
	case "-Infinity":
		return msgp.AppendFloat64(dst, math.Inf(-1)), nil
	}
	if strings.ContainsAny(text, ".eE") {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return dst, cannotPack("a number that is out of the range of floats cannot be written as MessagePack")
		}
		return msgp.AppendFloat64(dst, f), nil
	}
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return packInt(dst, i), nil
	}
	if u, err := strconv.ParseUint(text, 10, 64); err == nil {
		return msgp.AppendUint64(dst, u), nil
	}
	return dst, cannotPack("an integer of more than 64 bits cannot be written as MessagePack")
}

// textPacker turns checked JSON text into MessagePack in one pass. The heads of
// arrays and maps have room for any count; short ones are made shorter when
// their end is known.
type textPacker struct {
	b []byte
	i int
}

// shortOf is up to how many bytes a container may have to be moved by its shorter head.
const shortOf = 4 << 10

// open is a container whose end has not come.
type open struct {
	at    int // of its head in the output
	count int
	isMap bool
}

func (p *textPacker) pack(dst []byte) ([]byte, error) {
	var stack []open
	var err error
	for {
		p.i = rpc.SkipSpace(p.b, p.i)
		switch c := p.b[p.i]; c {
		case '[', '{':
			stack = append(stack, open{at: len(dst), isMap: c == '{'})
			dst = append(dst, 0, 0, 0, 0, 0)
			p.i++
			continue
		case ']', '}':
			p.i++
			top := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			dst = closeContainer(dst, top)
		case ',', ':':
			p.i++
			continue
		case '"':
			from := p.i
			p.i = rpc.StringEnd(p.b, from)
			if dst, err = packText(dst, p.b[from:p.i]); err != nil {
				return dst, err
			}
			// A name is one with its value: the value counts.
			if n := len(stack); n > 0 && stack[n-1].isMap {
				if p.i = rpc.SkipSpace(p.b, p.i); p.b[p.i] == ':' {
					p.i++
					continue
				}
			}
		case 't':
			dst = msgp.AppendBool(dst, true)
			p.i += len("true")
		case 'f':
			dst = msgp.AppendBool(dst, false)
			p.i += len("false")
		case 'n':
			dst = msgp.AppendNil(dst)
			p.i += len("null")
		default:
			from := p.i
			for p.i < len(p.b) && !isDelimiter(p.b[p.i]) {
				p.i++
			}
			if dst, err = packNumber(dst, string(p.b[from:p.i])); err != nil {
				return dst, err
			}
		}
		if len(stack) == 0 {
			return dst, nil
		}
		stack[len(stack)-1].count++
	}
}

func isDelimiter(c byte) bool {
	switch c {
	case ',', ']', '}', ' ', '\t', '\r', '\n':
		return true
	}
	return false
}

// packText appends a JSON string literal.
func packText(dst, literal []byte) ([]byte, error) {
	s := rpc.Unquote(literal)
	if strings.Contains(s, "\uFFFD") { // perhaps in place of what no Go string can hold
		if _, whole := rpc.RawValue(literal, rpc.Traits{Flags: rpc.HasSurrogate}).Tree().(string); !whole {
			return dst, cannotPack("a lone surrogate cannot be written as MessagePack")
		}
	}
	return msgpackCodec{}.text(dst, s), nil
}

// closeContainer writes the head of a container whose elements stand behind it.
func closeContainer(dst []byte, c open) []byte {
	const room = 5
	var head [room]byte
	var h []byte
	if c.isMap {
		h = msgp.AppendMapHeader(head[:0], uint32(c.count))
	} else {
		h = msgp.AppendArrayHeader(head[:0], uint32(c.count))
	}
	body := dst[c.at+room:]
	if len(h) < room && len(body) > shortOf { // moving it costs more than the bytes
		dst[c.at] = 0xdd
		if c.isMap {
			dst[c.at] = 0xdf
		}
		binary.BigEndian.PutUint32(dst[c.at+1:], uint32(c.count))
		return dst
	}
	at := c.at + copy(dst[c.at:], h)
	return dst[:at+copy(dst[at:], body)]
}
