package snekrpc

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// jsonCodec writes messages as JSON. Values pass through as text: numbers keep
// their spelling.
type jsonCodec struct{}

func (jsonCodec) name() string { return codecJSON }

func (jsonCodec) text(dst []byte, s string) []byte { return rpc.AppendString(dst, s, false) }
func (jsonCodec) list(dst []byte, _ int) []byte    { return append(dst, '[') }
func (jsonCodec) listEnd(dst []byte) []byte        { return append(dst, ']') }
func (jsonCodec) dict(dst []byte, _ int) []byte    { return append(dst, '{') }
func (jsonCodec) dictEnd(dst []byte) []byte        { return append(dst, '}') }
func (jsonCodec) dictValue(dst []byte) []byte      { return append(dst, ':') }

func (jsonCodec) listNext(dst []byte, i int) []byte {
	if i > 0 {
		dst = append(dst, ',')
	}
	return dst
}

func (c jsonCodec) dictNext(dst []byte, i int) []byte { return c.listNext(dst, i) }

func (jsonCodec) value(dst []byte, v rpc.Value) ([]byte, error) {
	return v.AppendJSON(dst, rpc.Form{})
}

// kind looks for the tag.
func (jsonCodec) kind(data []byte) kind {
	i := rpc.SkipSpace(data, 0)
	if i >= len(data) || data[i] != '[' {
		return noKind
	}
	if i = rpc.SkipSpace(data, i+1); i >= len(data) || data[i] != '"' {
		return noKind
	}
	n := bytes.IndexByte(data[i+1:], '"')
	if n < 0 || n > 32 {
		return noKind
	}
	return kindOf(string(data[i+1 : i+1+n]))
}

func (jsonCodec) decode(data []byte, m *message) error {
	whole, err := rpc.Parse(data)
	if err != nil {
		return jsonError(err)
	}
	if whole.Traits().Has(rpc.HasNonFinite) {
		return &wireError{name: nameDecode, text: "JSON is malformed: NaN and Infinity are not JSON"}
	}
	list, err := jsonArray(whole)
	if err != nil {
		return err
	}
	tag, err := jsonTag(list)
	if err != nil {
		return err
	}
	k := kindOf(tag)
	if k == noKind {
		return wrongTag(tag)
	}
	if len(list) < minLength[k] {
		return tooShort(minLength[k], len(list))
	}
	*m = message{kind: k}
	switch k {
	case commandMsg:
		if m.service, err = jsonText(list, 1); err != nil {
			return err
		}
		if m.command, err = jsonText(list, 2); err != nil {
			return err
		}
		if list[3].Kind() != '[' {
			return wrongType("array", jsonType(list[3]), 3)
		}
		for v := range list[3].Elements() {
			a, err := jsonArg(v)
			if err == nil && len(m.args) == maxArgs {
				err = tooManyArgs()
			}
			if err != nil {
				return err
			}
			m.args = append(m.args, a)
		}
		if list[4].Kind() != '{' {
			return wrongType("object", jsonType(list[4]), 4)
		}
		for name, v := range list[4].Members() {
			a, err := jsonArg(v)
			if err == nil && len(m.named) == maxArgs {
				err = tooManyArgs()
			}
			if err != nil {
				return err
			}
			a.name = rpc.Unquote(name)
			m.named = append(m.named, a)
		}
	case dataMsg:
		m.value = list[1]
	case errorMsg:
		for i, at := range [...]*string{&m.name, &m.text, &m.trace} {
			if *at, err = jsonText(list, i+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func jsonArg(v rpc.Value) (arg, error) {
	list, err := jsonArray(v)
	if err != nil {
		return arg{}, err
	}
	tag, err := jsonTag(list)
	switch {
	case err != nil:
		return arg{}, err
	case tag == tagStream:
		return arg{stream: true}, nil
	case tag != tagArgument:
		return arg{}, wrongTag(tag)
	case len(list) < 2:
		return arg{}, tooShort(2, len(list))
	}
	return arg{value: list[1]}, nil
}

// jsonArray returns the first elements of v, as many as a message has. Of
// further ones only the number would matter, and that not at all.
func jsonArray(v rpc.Value) ([]rpc.Value, error) {
	if v.Kind() != '[' {
		return nil, wrongType("array", jsonType(v), -1)
	}
	list := make([]rpc.Value, 0, 5)
	for e := range v.Elements() {
		if len(list) == cap(list) {
			break
		}
		list = append(list, e)
	}
	return list, nil
}

func jsonTag(list []rpc.Value) (string, error) {
	if len(list) == 0 {
		return "", tooShort(1, 0)
	}
	return jsonText(list, 0)
}

func jsonText(list []rpc.Value, at int) (string, error) {
	if list[at].Kind() != '"' {
		return "", wrongType("str", jsonType(list[at]), at)
	}
	return rpc.Unquote(mustRaw(list[at])), nil
}

func mustRaw(v rpc.Value) []byte {
	raw, _ := v.Raw()
	return raw
}

func jsonType(v rpc.Value) string {
	switch v.Kind() {
	case '{':
		return "object"
	case '[':
		return "array"
	case '"':
		return "str"
	case 't', 'f':
		return "bool"
	case 'n':
		return "null"
	}
	if bytes.ContainsAny(mustRaw(v), ".eE") {
		return "float"
	}
	return "int"
}

func jsonError(err error) error {
	if s, ok := errors.AsType[*rpc.SyntaxError](err); ok {
		return &wireError{name: nameDecode, text: fmt.Sprintf("JSON is malformed: %s (byte %d)", s.Reason, s.Offset)}
	}
	return &wireError{name: nameDecode, text: "JSON is malformed: " + err.Error()}
}
