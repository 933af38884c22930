package capnweb

import (
	"math/big"
	"net/url"
	"strconv"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// The tagged values that stand for themselves: numbers, dates, bytes, errors,
// and the objects of HTTP. Each function reads the operands behind its tag and
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
	if len(strings.TrimPrefix(digits, "-")) > maxBigIntDigits {
		return nil, false, &protocolError{"TypeError", "Deserialized bigint exceeds maximum length of 16384 digits."}
	}
	bare := strings.TrimPrefix(digits, "-")
	for i := 0; i < len(bare); i++ {
		if bare[i] < '0' || bare[i] > '9' {
			bare = ""
		}
	}
	if bare == "" {
		return nil, false, &protocolError{"SyntaxError", "Cannot convert " + clip([]byte(digits)) + " to a BigInt"}
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
			return nil, false, &protocolError{"TypeError", "Unknown bytes type marker: " + clip([]byte(kind))}
		}
		if len(data)%size != 0 {
			return nil, false, &protocolError{"RangeError", "byte length of " + kind + " should be a multiple of " + strconv.Itoa(size)}
		}
		e.s.isModern()
	}
	return rpc.Bytes{Data: data, Kind: kind}, true, nil
}

func (e *evaluator) url() (any, bool, error) {
	text, ok := e.operand()
	if !ok {
		return nil, false, nil
	}
	if u, err := url.Parse(text); err != nil || u.Scheme == "" {
		return nil, false, &protocolError{"TypeError", "Invalid URL"}
	}
	e.s.isModern()
	return URL(text), true, nil
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

// headers reads a bare array of pairs of strings.
func (e *evaluator) headers() (Headers, bool) {
	if e.space() != '[' {
		return nil, false
	}
	text, t := e.skip()
	h := Headers{}
	for pair := range rpc.RawValue(text, t).Elements() {
		list, err := pair.AsList()
		if err != nil || len(list) != 2 {
			return nil, false
		}
		name, err := list[0].AsString()
		if err != nil {
			return nil, false
		}
		value, err := list[1].AsString()
		if err != nil {
			return nil, false
		}
		h = append(h, [2]string{name, value})
	}
	return h, true
}

// init reads the init object of a request or a response.
func (e *evaluator) init() (*rpc.Map, bool, error) {
	if e.space() != '{' {
		return nil, false, nil
	}
	m := &rpc.Map{}
	e.i++
	for {
		switch e.space() {
		case '}':
			e.i++
			return m, true, nil
		case ',':
			e.i++
			e.space()
		}
		lit, _ := e.literal()
		e.space()
		e.i++
		name := rpc.Unquote(lit)
		switch {
		case name == "headers":
			h, ok := e.headers()
			if !ok {
				return nil, false, nil
			}
			m.Set(name, h)
		case name == "body":
			x, err := e.value()
			if err != nil {
				return nil, false, err
			}
			m.Set(name, x)
		case e.space() == '[' || e.space() == '{':
			return nil, false, nil
		default:
			x, err := e.value()
			if err != nil {
				return nil, false, err
			}
			if !inherited(name) {
				m.Set(name, x)
			}
		}
	}
}

func (e *evaluator) request() (any, bool, error) {
	address, ok := e.operand()
	if !ok || !e.more() {
		return nil, false, nil
	}
	m, ok, err := e.init()
	return &Request{URL: address, Init: m}, ok, err
}

func (e *evaluator) response() (any, bool, error) {
	if !e.more() {
		return nil, false, nil
	}
	body, err := e.value()
	if err != nil || !e.more() {
		return nil, false, err
	}
	m, ok, err := e.init()
	return &Response{Body: body, Init: m}, ok, err
}

// blob becomes a hole that is filled when all of its data is there.
func (e *evaluator) blob() (any, bool, error) {
	kind, ok := e.operand()
	if !ok || !e.more() {
		return nil, false, nil
	}
	outer := e.pl
	e.pl = new(payload)
	x, err := e.value()
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
