package rpc

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// The As methods turn a Value into a Go value, or say what it is instead.

// describe names the kind of v for error messages.
func (v Value) describe() string {
	switch v.Kind() {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	case 0:
	default:
		return "a number"
	}
	switch v.tree.(type) {
	case nil:
		return "nothing"
	case bool:
		return "a boolean"
	case int64, uint64, *big.Int, float64, Number:
		return "a number"
	case string:
		return "a string"
	case Bytes:
		return "bytes"
	case []any:
		return "an array"
	case *Map:
		return "an object"
	case *Ref:
		return "a reference"
	case *File:
		return "a file"
	case Readable:
		return "a stream"
	}
	return "another value"
}

// AsString returns a string.
func (v Value) AsString() (string, error) {
	if v.Kind() == '"' {
		return Unquote(v.raw), nil
	}
	if s, ok := v.tree.(string); ok {
		return s, nil
	}
	return "", fmt.Errorf("expected a string, got %s", v.describe())
}

// AsBool returns a boolean.
func (v Value) AsBool() (bool, error) {
	switch v.Kind() {
	case 't':
		return true, nil
	case 'f':
		return false, nil
	}
	if b, ok := v.tree.(bool); ok {
		return b, nil
	}
	return false, fmt.Errorf("expected a boolean, got %s", v.describe())
}

// number returns v as one of int64, uint64, *big.Int, float64 or Number.
func (v Value) number() (any, bool) {
	switch v.Kind() {
	case 0:
		switch v.tree.(type) {
		case int64, uint64, *big.Int, float64, Number:
			return v.tree, true
		}
		return nil, false
	case '"', '{', '[', 't', 'f', 'n':
		return nil, false
	case 'N':
		return math.NaN(), true
	case 'I':
		return math.Inf(1), true
	}
	if len(v.raw) > 1 && v.raw[1] == 'I' {
		return math.Inf(-1), true
	}
	return decodeNumber(v.raw), true
}

// AsInt returns an integer of 64 bits. Literals such as 3.0 are integers, too.
func (v Value) AsInt() (int64, error) {
	n, ok := v.number()
	if !ok {
		return 0, fmt.Errorf("expected an integer, got %s", v.describe())
	}
	switch n := n.(type) {
	case int64:
		return n, nil
	case float64:
		if n == math.Trunc(n) && math.Abs(n) < 1<<63 {
			return int64(n), nil
		}
	case Number:
		if i, whole, fits := wholeNumber(string(n)); fits {
			return i, nil
		} else if whole {
			return 0, errIntRange
		}
	case uint64, *big.Int:
		return 0, errIntRange
	}
	return 0, fmt.Errorf("expected an integer, got a number with a fraction")
}

var errIntRange = errors.New("the integer is out of range")

// wholeNumber reads a literal with point or exponent digit by digit, since a
// float would round: whole tells that it has no fraction, fits that i is it.
func wholeNumber(text string) (i int64, whole, fits bool) {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	digits, negative := strings.CutPrefix(mantissa, "-")
	digits, fraction, _ := strings.Cut(digits, ".")
	digits = strings.TrimLeft(digits+fraction, "0")
	bare := strings.TrimRight(digits, "0")
	if bare == "" {
		return 0, true, true
	}
	var shift int64
	if exponent != "" {
		var err error
		if shift, err = strconv.ParseInt(exponent, 10, 32); err != nil {
			return 0, exponent[0] != '-', false
		}
	}
	zeros := shift - int64(len(fraction)) + int64(len(digits)-len(bare))
	switch {
	case zeros < 0:
		return 0, false, false
	case int64(len(bare))+zeros > 19:
		return 0, true, false
	}
	if negative {
		bare = "-" + bare
	}
	i, err := strconv.ParseInt(bare+strings.Repeat("0", int(zeros)), 10, 64)
	return i, true, err == nil
}

// AsUint returns an unsigned integer of 64 bits.
func (v Value) AsUint() (uint64, error) {
	if n, ok := v.number(); ok {
		if u, ok := n.(uint64); ok {
			return u, nil
		}
	}
	n, err := v.AsInt()
	if err == nil && n < 0 {
		err = fmt.Errorf("expected an integer that is not negative")
	}
	return uint64(max(n, 0)), err
}

// AsFloat returns a number as a float.
func (v Value) AsFloat() (float64, error) {
	n, ok := v.number()
	if !ok {
		return 0, fmt.Errorf("expected a number, got %s", v.describe())
	}
	switch n := n.(type) {
	case int64:
		return float64(n), nil
	case uint64:
		return float64(n), nil
	case float64:
		return n, nil
	case *big.Int:
		f, _ := new(big.Float).SetInt(n).Float64()
		if math.IsInf(f, 0) {
			return 0, fmt.Errorf("the number is out of range")
		}
		return f, nil
	case Number:
		f, err := strconv.ParseFloat(string(n), 64)
		if err != nil {
			return 0, fmt.Errorf("the number is out of range")
		}
		return f, nil
	}
	return 0, fmt.Errorf("expected a number")
}

// AsBytes returns binary data; a string is taken for base64, as JSON wires carry bytes.
func (v Value) AsBytes() ([]byte, error) {
	if b, ok := v.tree.(Bytes); ok {
		return b.Data, nil
	}
	if v.Kind() == '"' && bytes.IndexByte(v.raw, '\\') < 0 { // most of it: no string in between
		data, err := base64.StdEncoding.AppendDecode(nil, v.raw[1:len(v.raw)-1])
		if err == nil {
			return data, nil
		}
	}
	s, err := v.AsString()
	if err != nil {
		return nil, fmt.Errorf("expected bytes, got %s", v.describe())
	}
	data, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		if data, err = base64.RawStdEncoding.DecodeString(s); err != nil {
			return nil, fmt.Errorf("expected bytes as base64")
		}
	}
	return data, nil
}

// AsList returns the elements of an array. They are borrowed as v is.
func (v Value) AsList() ([]Value, error) {
	if v.Kind() == '[' {
		list := []Value{}
		for e := range v.Elements() {
			list = append(list, e)
		}
		return list, nil
	}
	if items, ok := v.tree.([]any); ok {
		list := make([]Value, len(items))
		for i, x := range items {
			list[i] = TreeValue(x)
		}
		return list, nil
	}
	return nil, fmt.Errorf("expected an array, got %s", v.describe())
}

// AsReader returns a stream; an array stands for the stream of its elements, a
// file for that of its bytes.
func (v Value) AsReader() (*Reader, error) {
	if s, ok := v.tree.(Readable); ok {
		return ReaderOf(s), nil
	}
	if f, ok := v.tree.(*File); ok {
		return f.Stream()
	}
	list, err := v.AsList()
	if err != nil {
		return nil, fmt.Errorf("expected a stream or an array, got %s", v.describe())
	}
	for i := range list {
		list[i] = list[i].Own()
	}
	return Items(list...), nil
}

// AsRef returns a reference.
func (v Value) AsRef() (*Ref, bool) {
	r, ok := v.tree.(*Ref)
	return r, ok
}

// Add returns the sum of two numbers. Integers stay integers, of any size; one
// float makes a float.
func Add(a, b Value) (Value, error) {
	x, ok := a.number()
	if !ok {
		return Value{}, fmt.Errorf("expected a number, got %s", a.describe())
	}
	y, ok := b.number()
	if !ok {
		return Value{}, fmt.Errorf("expected a number, got %s", b.describe())
	}
	if i, ok := x.(int64); ok {
		if j, ok := y.(int64); ok {
			if s := i + j; (s > i) == (j > 0) {
				return Int(s), nil
			}
		}
	}
	i, iok := bigInt(x)
	j, jok := bigInt(y)
	if iok && jok {
		s := new(big.Int).Add(i, j)
		if len(s.Text(10)) > MaxDigits {
			return Value{}, fmt.Errorf("the sum has more than %d digits", MaxDigits)
		}
		return TreeValue(s), nil
	}
	f, err := a.AsFloat()
	if err != nil {
		return Value{}, err
	}
	g, err := b.AsFloat()
	if err != nil {
		return Value{}, err
	}
	return TreeValue(f + g), nil
}

func bigInt(n any) (*big.Int, bool) {
	switch n := n.(type) {
	case int64:
		return big.NewInt(n), true
	case uint64:
		return new(big.Int).SetUint64(n), true
	case *big.Int:
		return n, true
	}
	return nil, false
}
