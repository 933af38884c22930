package capnweb

import (
	"math/big"
	"strconv"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// The tagged values that stand for themselves: numbers, dates, bytes, errors,
// blobs; http.go has the objects of HTTP. Each function reads the operands behind its tag and
// reports false when they are not what the tag needs.

// operand reads a string operand.
func (e *evaluator) operand() (string, bool) {
	if !e.more() {
		return "", false
	}
	text, ok := e.literal()
	if !ok {
		return "", false
	}
	return rpc.Unquote(text), true
}

func (e *evaluator) bigint() (any, bool, error) {
	digits, ok := e.operand()
	if !ok {
		return nil, false, nil
	}
	if len(digits) > maxBigIntLength {
		return nil, false, &protocolError{name: "TypeError", message: "Deserialized bigint exceeds maximum length of 16384 digits."}
	}
	bare := strings.TrimPrefix(digits, "-")
	for i := 0; i < len(bare); i++ {
		if bare[i] < '0' || bare[i] > '9' {
			bare = ""
		}
	}
	if bare == "" {
		return nil, false, quoting("SyntaxError", "Cannot convert %s to a BigInt", []byte(digits))
	}
	n, _ := new(big.Int).SetString(digits, 10)
	return n, true, nil
}

func (e *evaluator) date() (any, bool, error) {
	if !e.more() {
		return nil, false, nil
	}
	switch c := e.space(); {
	case c == 'n':
		e.i += 4
		return InvalidDate{}, true, nil
	case c == '-' || c >= '0' && c <= '9':
		text, _ := e.skip()
		ms, _ := strconv.ParseFloat(string(text), 64)
		return dateOf(ms), true, nil
	}
	return nil, false, nil
}

func (e *evaluator) bytes() (any, bool, error) {
	text, ok := e.operand()
	if !ok {
		return nil, false, nil
	}
	data := decodeBase64(text)
	kind := ""
	if e.more() {
		lit, ok := e.literal()
		if !ok {
			return nil, false, nil
		}
		kind = rpc.Unquote(lit)
		size := containers[kind]
		if size == 0 {
			return nil, false, quoting("TypeError", "Unknown bytes type marker: %s", []byte(kind))
		}
		if len(data)%size != 0 {
			return nil, false, &protocolError{name: "RangeError", message: "byte length of " + kind + " should be a multiple of " + strconv.Itoa(size)}
		}
		e.s.isModern()
	}
	return rpc.Bytes{Data: data, Kind: kind}, true, nil
}

func (e *evaluator) error() (any, bool, error) {
	name, ok := e.operand()
	if !ok {
		return nil, false, nil
	}
	message, ok := e.operand()
	if !ok {
		return nil, false, nil
	}
	r := &remoteError{name: name, message: message}
	if e.more() { // the stack, which goes nowhere
		if c := e.space(); c != '"' && c != 'n' && c != '[' {
			return nil, false, nil
		}
		e.skip()
	}
	if e.more() {
		if e.space() != '{' {
			return nil, false, nil
		}
		x, err := e.object()
		if err != nil {
			return nil, false, err
		}
		props := &rpc.Map{}
		for _, it := range x.(*rpc.Map).Items {
			switch it.Key {
			case "name", "message", "stack":
			default:
				props.Set(it.Key, it.Value)
			}
		}
		if len(props.Items) > 0 {
			r.props = props
		}
	}
	return fromRemote(r), true, nil
}

// blob becomes a hole that is filled when all of its data is there.
func (e *evaluator) blob() (any, bool, error) {
	kind, ok := e.operand()
	if !ok || !e.more() {
		return nil, false, nil
	}
	outer := e.pl
	e.pl = new(payload)
	e.depth++
	x, err := e.value()
	e.depth--
	inner := e.pl
	e.pl = outer
	from, isStream := x.(*stream)
	if err != nil || !isStream {
		inner.drop(errUnread)
		return nil, false, err
	}
	p := e.s.collectBlob(kind, from)
	return e.place(p, false), true, nil
}
