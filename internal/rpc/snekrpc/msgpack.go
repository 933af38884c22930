package snekrpc

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/tinylib/msgp/msgp"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// maxElements bounds the elements of all arrays and maps of one MessagePack
// message: each becomes a node of a tree, which takes more room than its byte.
const maxElements = 1000000

// timestampExt is the extension of MessagePack's own timestamps.
const timestampExt = -1

// msgpackCodec writes messages as MessagePack.
type msgpackCodec struct{}

func (msgpackCodec) name() string { return codecMsgpack }

func (msgpackCodec) list(dst []byte, n int) []byte { return msgp.AppendArrayHeader(dst, uint32(n)) }
func (msgpackCodec) dict(dst []byte, n int) []byte { return msgp.AppendMapHeader(dst, uint32(n)) }

func (msgpackCodec) listNext(dst []byte, _ int) []byte { return dst }
func (msgpackCodec) listEnd(dst []byte) []byte         { return dst }
func (msgpackCodec) dictNext(dst []byte, _ int) []byte { return dst }
func (msgpackCodec) dictValue(dst []byte) []byte       { return dst }
func (msgpackCodec) dictEnd(dst []byte) []byte         { return dst }

func (msgpackCodec) kind(data []byte) kind {
	if msgp.NextType(data) != msgp.ArrayType {
		return noKind
	}
	n, rest, err := msgp.ReadArrayHeaderBytes(data)
	if err != nil || n == 0 || msgp.NextType(rest) != msgp.StrType {
		return noKind
	}
	tag, _, err := msgp.ReadStringZC(rest)
	if err != nil {
		return noKind
	}
	return kindOf(string(tag))
}

func (msgpackCodec) decode(data []byte, m *message) error {
	d := unpacker{whole: data, b: data, left: maxElements}
	if err := d.message(m); err != nil {
		return err
	}
	if len(d.b) > 0 {
		return d.malformed("trailing characters")
	}
	return nil
}

// unpacker reads MessagePack from the front of b.
type unpacker struct {
	whole []byte
	b     []byte
	left  int // elements that may still come
}

func (d *unpacker) malformed(reason string) error {
	return &wireError{name: nameDecode, text: fmt.Sprintf("MessagePack data is malformed: %s (byte %d)", reason, len(d.whole)-len(d.b))}
}

// short tells the two ways in which msgp's readers fail apart: the data ends,
// or is of a kind that it was not said to be.
func (d *unpacker) short(err error) error {
	if errors.Is(err, msgp.ErrShortBytes) {
		return &wireError{name: nameDecode, text: "Input data was truncated"}
	}
	return d.malformed("invalid value")
}

// elements takes the head of an array or map of n elements, of which each has
// at least that many bytes.
func (d *unpacker) elements(n uint32, bytes int) error {
	if int64(n)*int64(bytes) > int64(len(d.b)) {
		return &wireError{name: nameDecode, text: "Input data was truncated"}
	}
	if int(n) > d.left {
		return d.malformed(fmt.Sprintf("more than %d elements", maxElements))
	}
	d.left -= int(n)
	return nil
}

// array takes the head of an array; what is none is a validation error.
func (d *unpacker) array(at int) (int, error) {
	if err := d.is(msgp.ArrayType, "array", at); err != nil {
		return 0, err
	}
	n, rest, err := msgp.ReadArrayHeaderBytes(d.b)
	if err != nil {
		return 0, d.short(err)
	}
	d.b = rest
	return int(n), d.elements(n, 1)
}

// is checks what comes next.
func (d *unpacker) is(t msgp.Type, want string, at int) error {
	if len(d.b) == 0 {
		return &wireError{name: nameDecode, text: "Input data was truncated"}
	}
	if got := msgp.NextType(d.b); got == msgp.InvalidType {
		return d.malformed(fmt.Sprintf("invalid opcode '\\x%02x'", d.b[0]))
	} else if got != t {
		return wrongType(want, typeName(got), at)
	}
	return nil
}

func typeName(t msgp.Type) string {
	switch t {
	case msgp.NilType:
		return "null"
	case msgp.BoolType:
		return "bool"
	case msgp.StrType:
		return "str"
	case msgp.BinType:
		return "bytes"
	case msgp.MapType:
		return "object"
	case msgp.ArrayType:
		return "array"
	case msgp.IntType, msgp.UintType:
		return "int"
	case msgp.Float32Type, msgp.Float64Type:
		return "float"
	case msgp.TimeType:
		return "datetime"
	}
	return "ext"
}

// text takes a string.
func (d *unpacker) text(at int) (string, error) {
	if err := d.is(msgp.StrType, "str", at); err != nil {
		return "", err
	}
	s, rest, err := msgp.ReadStringZC(d.b)
	if err != nil {
		return "", d.short(err)
	}
	if !utf8.Valid(s) {
		return "", d.malformed("invalid UTF-8")
	}
	d.b = rest
	return string(s), nil
}

// tag takes the head of a message or an argument and its tag.
func (d *unpacker) tag() (n int, tag string, err error) {
	if n, err = d.array(-1); err != nil {
		return 0, "", err
	}
	if n == 0 {
		return 0, "", tooShort(1, 0)
	}
	tag, err = d.text(0)
	return n, tag, err
}

func (d *unpacker) message(m *message) error {
	n, tag, err := d.tag()
	if err != nil {
		return err
	}
	k := kindOf(tag)
	if k == noKind {
		return wrongTag(tag)
	}
	if n < minLength[k] {
		return tooShort(minLength[k], n)
	}
	*m = message{kind: k}
	switch k {
	case commandMsg:
		if m.service, err = d.text(1); err != nil {
			return err
		}
		if m.command, err = d.text(2); err != nil {
			return err
		}
		count, err := d.array(3)
		if err != nil {
			return err
		}
		if count > maxArgs {
			return tooManyArgs()
		}
		for range count {
			a, err := d.arg()
			if err != nil {
				return err
			}
			m.args = append(m.args, a)
		}
		if err := d.is(msgp.MapType, "object", 4); err != nil {
			return err
		}
		named, rest, err := msgp.ReadMapHeaderBytes(d.b)
		if err != nil {
			return d.short(err)
		}
		d.b = rest
		if err := d.elements(named, 2); err != nil {
			return err
		}
		if named > maxArgs {
			return tooManyArgs()
		}
		for range named {
			name, err := d.text(4)
			if err != nil {
				return err
			}
			a, err := d.arg()
			if err != nil {
				return err
			}
			a.name = name
			m.named = append(m.named, a)
		}
	case dataMsg:
		x, err := d.value(0)
		if err != nil {
			return err
		}
		m.value = rpc.TreeValue(x)
	case errorMsg:
		for i, at := range [...]*string{&m.name, &m.text, &m.trace} {
			if *at, err = d.text(i + 1); err != nil {
				return err
			}
		}
	}
	return d.skip(n - minLength[k])
}

func (d *unpacker) arg() (a arg, err error) {
	n, tag, err := d.tag()
	switch {
	case err != nil:
		return a, err
	case tag == tagStream:
		a.stream = true
		return a, d.skip(n - 1)
	case tag != tagArgument:
		return a, wrongTag(tag)
	case n < 2:
		return a, tooShort(2, n)
	}
	x, err := d.value(0)
	if err != nil {
		return a, err
	}
	a.value = rpc.TreeValue(x)
	return a, d.skip(n - 2)
}

// skip takes values that nobody wants.
func (d *unpacker) skip(n int) error {
	for range n {
		if _, err := d.value(0); err != nil {
			return err
		}
	}
	return nil
}

// value takes one value as a node of a tree that owns what it holds.
func (d *unpacker) value(depth int) (any, error) {
	if len(d.b) == 0 {
		return nil, &wireError{name: nameDecode, text: "Input data was truncated"}
	}
	var x any
	var rest []byte
	var err error
	switch msgp.NextType(d.b) {
	case msgp.NilType:
		rest, err = msgp.ReadNilBytes(d.b)
	case msgp.BoolType:
		x, rest, err = msgp.ReadBoolBytes(d.b)
	case msgp.IntType:
		x, rest, err = msgp.ReadInt64Bytes(d.b)
	case msgp.UintType:
		var u uint64
		u, rest, err = msgp.ReadUint64Bytes(d.b)
		x = u
		if i := int64(u); i >= 0 {
			x = i
		}
	case msgp.Float32Type:
		var f float32
		f, rest, err = msgp.ReadFloat32Bytes(d.b)
		x = float64(f)
	case msgp.Float64Type:
		x, rest, err = msgp.ReadFloat64Bytes(d.b)
	case msgp.StrType:
		return d.text(-1)
	case msgp.BinType:
		var data []byte
		data, rest, err = msgp.ReadBytesZC(d.b)
		x = rpc.Bytes{Data: append([]byte{}, data...)}
	case msgp.ArrayType:
		return d.arrayValue(depth)
	case msgp.MapType:
		return d.mapValue(depth)
	case msgp.InvalidType:
		return nil, d.malformed(fmt.Sprintf("invalid opcode '\\x%02x'", d.b[0]))
	default:
		return d.extension()
	}
	if err != nil {
		return nil, d.short(err)
	}
	d.b = rest
	return x, nil
}

func (d *unpacker) arrayValue(depth int) (any, error) {
	if depth >= rpc.MaxDepth {
		return nil, d.malformed("nested too deeply")
	}
	n, err := d.array(-1)
	if err != nil {
		return nil, err
	}
	list := make([]any, n)
	for i := range list {
		if list[i], err = d.value(depth + 1); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (d *unpacker) mapValue(depth int) (any, error) {
	if depth >= rpc.MaxDepth {
		return nil, d.malformed("nested too deeply")
	}
	n, rest, err := msgp.ReadMapHeaderBytes(d.b)
	if err != nil {
		return nil, d.short(err)
	}
	d.b = rest
	if err := d.elements(n, 2); err != nil {
		return nil, err
	}
	m := &rpc.Map{Items: make([]rpc.Item, n)}
	for i := range m.Items {
		if m.Items[i].Key, err = d.value(depth + 1); err != nil {
			return nil, err
		}
		if m.Items[i].Value, err = d.value(depth + 1); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// extension takes an extension. Timestamps become times.
func (d *unpacker) extension() (any, error) {
	at := 1 // of the code: fixext
	switch d.b[0] {
	case 0xc7:
		at = 2
	case 0xc8:
		at = 3
	case 0xc9:
		at = 5
	}
	if len(d.b) <= at {
		return nil, &wireError{name: nameDecode, text: "Input data was truncated"}
	}
	code := int8(d.b[at])
	if code == timestampExt {
		t, rest, err := msgp.ReadTimeUTCBytes(d.b)
		if errors.Is(err, msgp.ErrShortBytes) {
			return nil, d.short(err)
		}
		if err != nil || t.Year() < 1 || t.Year() > 9999 {
			return nil, d.malformed("invalid timestamp")
		}
		d.b = rest
		return t, nil
	}
	raw := msgp.RawExtension{Type: code}
	rest, err := msgp.ReadExtensionBytes(d.b, &raw)
	if err != nil {
		return nil, d.short(err)
	}
	d.b = rest
	return rpc.Ext{Code: code, Data: append([]byte{}, raw.Data...)}, nil
}
