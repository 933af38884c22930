package statesvc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// EncodingTyped marks a value that JSON cannot carry exactly: a tree of tagged nodes. Each node is one byte that says
// what follows; lengths and counts are unsigned varints.
//
//	null false true            nothing
//	int                        zigzag varint
//	uint                       varint
//	big                        1 byte sign (0 or 1), length, magnitude (big endian)
//	float                      8 bytes, big endian
//	number                     length, the literal
//	string                     length, bytes
//	bytes                      length, kind, length, data
//	time                       zigzag varint seconds since 1970, varint nanoseconds, zigzag varint offset in seconds
//	undefined                  nothing
//	ext                        1 byte code, length, data
//	list                       count, nodes
//	map                        count, pairs of nodes
//	json                       length, JSON text (what a Go string cannot hold: lone surrogates)
//	error                      length, code, length, name, length, message, node (its data)
//
// New kinds of nodes need a new Encoding, so that an older program refuses what it cannot read.
const EncodingTyped Encoding = 1

const (
	tagNull byte = iota
	tagFalse
	tagTrue
	tagInt
	tagUint
	tagBig
	tagFloat
	tagNumber
	tagString
	tagBytes
	tagTime
	tagUndefined
	tagExt
	tagList
	tagMap
	tagJSON
	tagError
)

// maxTypedDepth bounds nesting, in and out.
const maxTypedDepth = rpc.MaxDepth

var (
	errTyped   = errors.New("typed value is damaged")
	errTooDeep = &InvalidError{Reason: fmt.Sprintf("value is nested deeper than %d levels", maxTypedDepth)}
)

// appendTyped appends the tree x. It fails with an *InvalidError for what cannot be stored.
func appendTyped(dst []byte, x any, depth int) ([]byte, error) {
	if depth > maxTypedDepth {
		return dst, errTooDeep
	}
	switch x := x.(type) {
	case nil:
		return append(dst, tagNull), nil
	case bool:
		if x {
			return append(dst, tagTrue), nil
		}
		return append(dst, tagFalse), nil
	case int:
		return binary.AppendVarint(append(dst, tagInt), int64(x)), nil
	case int64:
		return binary.AppendVarint(append(dst, tagInt), x), nil
	case uint64:
		return binary.AppendUvarint(append(dst, tagUint), x), nil
	case *big.Int:
		if x == nil {
			return append(dst, tagNull), nil
		}
		sign := byte(0)
		if x.Sign() < 0 {
			sign = 1
		}
		return appendSized(append(dst, tagBig, sign), x.Bytes()), nil
	case float64:
		return binary.BigEndian.AppendUint64(append(dst, tagFloat), math.Float64bits(x)), nil
	case rpc.Number:
		return appendSized(append(dst, tagNumber), x), nil
	case string:
		return appendSized(append(dst, tagString), x), nil
	case rpc.Bytes:
		return appendSized(appendSized(append(dst, tagBytes), x.Kind), x.Data), nil
	case time.Time:
		_, offset := x.Zone()
		dst = binary.AppendVarint(append(dst, tagTime), x.Unix())
		dst = binary.AppendUvarint(dst, uint64(x.Nanosecond()))
		return binary.AppendVarint(dst, int64(offset)), nil
	case rpc.Undefined:
		return append(dst, tagUndefined), nil
	case rpc.Ext:
		return appendSized(append(dst, tagExt, byte(x.Code)), x.Data), nil
	case []any:
		dst = binary.AppendUvarint(append(dst, tagList), uint64(len(x)))
		var err error
		for _, e := range x {
			if dst, err = appendTyped(dst, e, depth+1); err != nil {
				return dst, err
			}
		}
		return dst, nil
	case *rpc.Map:
		return appendTypedMap(dst, x, depth)
	case rpc.Value:
		if text, ok := x.Raw(); ok {
			if _, t, err := rpc.Scan(text); err != nil || depth+int(t.Depth) > maxTypedDepth {
				return dst, errTooDeep
			}
			return appendSized(append(dst, tagJSON), text), nil
		}
		return appendTyped(dst, x.Tree(), depth+1)
	case *rpc.Error:
		if x == nil {
			return append(dst, tagNull), nil
		}
		dst = appendSized(append(dst, tagError), x.Code)
		dst = appendSized(appendSized(dst, x.Name), x.Message)
		return appendTyped(dst, x.Data, depth+1)
	case *rpc.Ref:
		return dst, &InvalidError{Reason: "a function or an object by reference cannot be stored"}
	case rpc.Readable:
		return dst, &InvalidError{Reason: "a stream cannot be stored"}
	case *rpc.File:
		return dst, &InvalidError{Reason: "a file cannot be stored"}
	case interface{ Unstorable() string }: // a protocol's own value that would come back as another
		return dst, &InvalidError{Reason: x.Unstorable() + " cannot be stored"}
	}
	v, err := rpc.Encode(x)
	if err != nil {
		return dst, &InvalidError{Reason: "value cannot be stored"}
	}
	return appendTyped(dst, v, depth+1)
}

func appendTypedMap(dst []byte, m *rpc.Map, depth int) ([]byte, error) {
	if m == nil {
		return append(dst, tagNull), nil
	}
	dst = binary.AppendUvarint(append(dst, tagMap), uint64(len(m.Items)))
	var err error
	for _, it := range m.Items {
		if dst, err = appendTyped(dst, it.Key, depth+1); err != nil {
			return dst, err
		}
		if dst, err = appendTyped(dst, it.Value, depth+1); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

func appendSized[T ~string | ~[]byte](dst []byte, data T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(data)))
	return append(dst, data...)
}

// decodeTyped returns the tree in data, which may come from a backup that somebody wrote: nothing in it is trusted. What
// it returns shares no memory with data.
func decodeTyped(data []byte) (any, error) {
	d := typedReader{b: data}
	x, err := d.node(0)
	if err == nil && len(d.b) > 0 {
		err = errTyped
	}
	if err != nil {
		return nil, err
	}
	return x, nil
}

type typedReader struct{ b []byte }

func (d *typedReader) byte() (byte, error) {
	if len(d.b) == 0 {
		return 0, errTyped
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c, nil
}

func (d *typedReader) uvarint() (uint64, error) {
	u, n := binary.Uvarint(d.b)
	if n <= 0 {
		return 0, errTyped
	}
	d.b = d.b[n:]
	return u, nil
}

func (d *typedReader) varint() (int64, error) {
	i, n := binary.Varint(d.b)
	if n <= 0 {
		return 0, errTyped
	}
	d.b = d.b[n:]
	return i, nil
}

// sized returns the next field; it refers to the input.
func (d *typedReader) sized() ([]byte, error) {
	n, err := d.uvarint()
	if err != nil || n > uint64(len(d.b)) {
		return nil, errTyped
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p, nil
}

// count returns a number of nodes of at least size bytes each, so that a short input cannot ask for much memory.
func (d *typedReader) count(size int) (int, error) {
	n, err := d.uvarint()
	if err != nil || n > uint64(len(d.b)/size) {
		return 0, errTyped
	}
	return int(n), nil
}

func (d *typedReader) node(depth int) (any, error) {
	if depth > maxTypedDepth {
		return nil, errTyped
	}
	tag, err := d.byte()
	if err != nil {
		return nil, err
	}
	switch tag {
	case tagNull:
		return nil, nil
	case tagFalse, tagTrue:
		return tag == tagTrue, nil
	case tagUndefined:
		return rpc.Undefined{}, nil
	case tagInt:
		return boxed(d.varint())
	case tagUint:
		return boxed(d.uvarint())
	case tagFloat:
		if len(d.b) < 8 {
			return nil, errTyped
		}
		f := math.Float64frombits(binary.BigEndian.Uint64(d.b))
		d.b = d.b[8:]
		return f, nil
	case tagBig:
		sign, err := d.byte()
		if err != nil || sign > 1 {
			return nil, errTyped
		}
		p, err := d.sized()
		if err != nil {
			return nil, err
		}
		n := new(big.Int).SetBytes(p)
		if sign == 1 {
			n.Neg(n)
		}
		return n, nil
	case tagString:
		p, err := d.sized()
		return boxed(string(p), err)
	case tagNumber, tagJSON:
		return d.literal(tag, depth)
	case tagBytes:
		kind, err := d.sized()
		if err != nil {
			return nil, err
		}
		p, err := d.sized()
		return boxed(rpc.Bytes{Kind: string(kind), Data: append([]byte{}, p...)}, err)
	case tagExt:
		code, err := d.byte()
		if err != nil {
			return nil, err
		}
		p, err := d.sized()
		return boxed(rpc.Ext{Code: int8(code), Data: append([]byte{}, p...)}, err)
	case tagTime:
		return d.time()
	case tagList:
		return d.list(depth)
	case tagMap:
		return d.pairs(depth)
	case tagError:
		return d.errorNode(depth)
	}
	return nil, errTyped
}

// boxed turns a typed result into a node.
func boxed[T any](x T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return x, nil
}

// literal reads text that protocols copy to their wires as it is, so it is checked.
func (d *typedReader) literal(tag byte, depth int) (any, error) {
	p, err := d.sized()
	if err != nil {
		return nil, err
	}
	n, t, err := rpc.Scan(p)
	if err != nil || n != len(p) || rpc.SkipSpace(p, 0) != 0 || depth+int(t.Depth) > maxTypedDepth {
		return nil, errTyped
	}
	v, err := rpc.Parse(append([]byte(nil), p...))
	if err != nil {
		return nil, errTyped
	}
	if tag == tagJSON {
		return v, nil
	}
	if c := v.Kind(); c != '-' && (c < '0' || c > '9') || v.Traits().Has(rpc.HasNonFinite) {
		return nil, errTyped
	}
	return rpc.Number(p), nil
}

func (d *typedReader) time() (any, error) {
	sec, err := d.varint()
	if err != nil {
		return nil, err
	}
	nsec, err := d.uvarint()
	if err != nil || nsec >= uint64(time.Second) {
		return nil, errTyped
	}
	offset, err := d.varint()
	if err != nil || offset < -24*3600 || offset > 24*3600 {
		return nil, errTyped
	}
	t := time.Unix(sec, int64(nsec)).UTC()
	if offset != 0 {
		t = t.In(time.FixedZone("", int(offset)))
	}
	return t, nil
}

func (d *typedReader) list(depth int) (any, error) {
	n, err := d.count(1)
	if err != nil {
		return nil, err
	}
	list := make([]any, n)
	for i := range list {
		if list[i], err = d.node(depth + 1); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (d *typedReader) pairs(depth int) (any, error) {
	n, err := d.count(2)
	if err != nil {
		return nil, err
	}
	m := &rpc.Map{Items: make([]rpc.Item, n)}
	for i := range m.Items {
		it := &m.Items[i]
		if it.Key, err = d.node(depth + 1); err != nil {
			return nil, err
		}
		if it.Value, err = d.node(depth + 1); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (d *typedReader) errorNode(depth int) (any, error) {
	var parts [3]string
	for i := range parts {
		p, err := d.sized()
		if err != nil {
			return nil, err
		}
		parts[i] = string(p)
	}
	data, err := d.node(depth + 1)
	if err != nil {
		return nil, err
	}
	return &rpc.Error{Code: rpc.Code(parts[0]), Name: parts[1], Message: parts[2], Data: rpc.TreeValue(data)}, nil
}
