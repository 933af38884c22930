package kkrpc

import (
	"bytes"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// arguments are the arguments of the peer's request.
type arguments struct {
	args rpc.Args
	refs []*rpc.Ref // callbacks among them, with a hold each

	readers []*rpc.Reader // streams among them
}

// arguments reads the arguments of a request or of an invocation. m is nil
// when they go to no method: then nothing is a stream.
func (s *Session) arguments(msg *message, m *rpc.Method) (a arguments, err *rpc.Error) {
	v := msg.typed("args", msg.args)
	if msg.dialect == Compact {
		v = msg.typed("a", msg.args)
	}
	raw, isRaw := v.Raw()
	if isRaw && v.Kind() != '[' {
		return a, nil // classic: no arguments
	}
	if isRaw && !special(msg.dialect, raw) {
		a.args = rpc.WholeArgs(v)
		return a, nil
	}
	list, lerr := v.AsList()
	if lerr != nil {
		return a, nil
	}
	for i, x := range list {
		if msg.dialect == Classic {
			list[i], err = s.classicArg(x, &a)
		} else {
			list[i], err = s.compactArg(x, &a, streamsAt(m, i))
		}
		if err != nil {
			a.drop()
			return arguments{}, err
		}
	}
	a.args = rpc.ListArgs(list...)
	return a, nil
}

// special reports whether an array of arguments may hold more than plain JSON.
func special(d Dialect, raw []byte) bool {
	if d == Compact {
		return bytes.Contains(raw, []byte(argTag)) || bytes.Contains(raw, []byte(streamTag))
	}
	return bytes.Contains(raw, []byte(callbackPrefix)) || bytes.Contains(raw, []byte(bytesTag)) ||
		bytes.Contains(raw, []byte(`"\u005f`)) // a prefix in disguise is one, too
}

// drop gives callbacks and streams back.
func (a *arguments) drop() {
	for _, r := range a.readers {
		r.Close(nil)
	}
	for _, r := range a.refs {
		r.Release()
	}
	a.refs = nil
}

// streamsAt reports whether m takes a stream as argument i.
func streamsAt(m *rpc.Method, i int) bool {
	return m != nil && i < len(m.Params) && m.Params[i].Stream
}

func (s *Session) classicArg(v rpc.Value, a *arguments) (rpc.Value, *rpc.Error) {
	if str, err := v.AsString(); err == nil {
		id, ok := strings.CutPrefix(str, callbackPrefix)
		if !ok {
			return v, nil
		}
		return s.callbackArg(Classic, id, a)
	}
	return bytesIn(v), nil
}

// bytesIn turns {"type":"Uint8Array","data":[...]}, anywhere inside v, into bytes.
func bytesIn(v rpc.Value) rpc.Value {
	if raw, ok := v.Raw(); ok && !bytes.Contains(raw, []byte(bytesTag)) {
		return v
	}
	switch v.Kind() {
	case '{', '[', 0:
		tree := v.Expand()
		if found := false; true {
			tree = findBytes(tree, &found)
			if found {
				return rpc.TreeValue(tree)
			}
		}
	}
	return v
}

func findBytes(x any, found *bool) any {
	switch x := x.(type) {
	case []any:
		for i := range x {
			x[i] = findBytes(x[i], found)
		}
	case *rpc.Map:
		if len(x.Items) == 2 {
			typ, _ := x.Get("type")
			data, _ := x.Get("data")
			if list, ok := data.([]any); ok && typ == bytesTag {
				if b, ok := byteList(list); ok {
					*found = true
					return rpc.Bytes{Data: b}
				}
			}
		}
		for i := range x.Items {
			x.Items[i].Value = findBytes(x.Items[i].Value, found)
		}
	}
	return x
}

func (s *Session) compactArg(v rpc.Value, a *arguments, stream bool) (rpc.Value, *rpc.Error) {
	if hasMember(v, argTag) {
		tag, _ := v.Member(argTag)
		switch kind, _ := tag.AsString(); kind {
		case "value":
			v, _ = v.Member("v")
		case "callback":
			id, ok := v.Member("id")
			if raw, _ := id.Raw(); !ok || id.Kind() != '"' || len(raw) > maxID {
				return v, invalid("a callback without an id")
			}
			return s.callbackArg(Compact, text(id), a)
		default:
			return rpc.Value{}, nil // JavaScript makes undefined of it
		}
	}
	if stream {
		if sid, ok := streamMarker(v); ok {
			r, err := s.openSink(sid)
			if err != nil {
				return v, err
			}
			a.readers = append(a.readers, r)
			return rpc.TreeValue(r), nil
		}
	}
	return v, nil
}

// streamMarker returns the id of the stream that a compact value stands for.
func streamMarker(v rpc.Value) (string, bool) {
	if !hasMember(v, streamTag) {
		return "", false
	}
	kind, _ := v.Member(streamTag)
	id, _ := v.Member("id")
	raw, _ := id.Raw()
	return text(id), text(kind) == "async-iterable" && id.Kind() == '"' && len(raw) <= maxID
}

// callbackArg makes a reference to a function of the peer.
func (s *Session) callbackArg(d Dialect, id string, a *arguments) (rpc.Value, *rpc.Error) {
	if len(id) > maxID {
		return rpc.Value{}, invalid("the id of a callback is too long")
	}
	r, err := s.importCallback(d, id)
	if err != nil {
		return rpc.Value{}, err
	}
	a.refs = append(a.refs, r)
	return rpc.TreeValue(r), nil
}
