package kkrpc

import (
	"bytes"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Markers inside values.
const (
	callbackPrefix = "__callback__"          // classic: a string argument that is a function
	argTag         = "__kkrpc_next_arg__"    // compact: an argument in its envelope
	streamTag      = "__kkrpc_next_stream__" // compact: an object that stands for a stream
	classicStream  = "__stream"              // classic: a result that announces a stream
	bytesTag       = "Uint8Array"            // classic: {"type":"Uint8Array","data":[...]}
)

// scratch are buffers that messages are built in; what is queued is a copy.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

const keepScratch = 1 << 20

func getScratch() *[]byte { return scratch.Get().(*[]byte) }

func putScratch(p *[]byte, used []byte) {
	if cap(used) <= keepScratch {
		*p = used[:0]
		scratch.Put(p)
	}
}

// appendValue appends a result or an argument. An undefined value is the
// caller's business.
func appendValue(dst []byte, d Dialect, v rpc.Value, f rpc.Form) ([]byte, error) {
	if _, raw := v.Raw(); !raw {
		if tree := v.Tree(); hasForm(tree) {
			v = rpc.TreeValue(formed(d, tree))
		}
	}
	return v.AppendJSON(dst, f)
}

// hasForm reports whether something stands in a tree that JavaScript writes in
// a form of its own: bytes or a date.
func hasForm(x any) bool {
	switch x := x.(type) {
	case rpc.Bytes, time.Time:
		return true
	case []any:
		return slices.ContainsFunc(x, hasForm)
	case *rpc.Map:
		for _, it := range x.Items {
			if hasForm(it.Value) {
				return true
			}
		}
	case rpc.Value:
		if _, raw := x.Raw(); !raw && !x.IsUndefined() {
			return hasForm(x.Tree())
		}
	}
	return false
}

// formed returns a tree in which dates are written as JavaScript writes them,
// and bytes such that classic JavaScript peers turn them back into a Uint8Array.
func formed(d Dialect, x any) any {
	switch x := x.(type) {
	case time.Time:
		if x.Nanosecond()%1e6 == 0 {
			return x.Format("2006-01-02T15:04:05.000Z07:00")
		}
	case rpc.Bytes:
		if d == Compact {
			return x
		}
		out := append(make([]byte, 0, 34+4*len(x.Data)), `{"type":"Uint8Array","data":[`...)
		for i, c := range x.Data {
			if i > 0 {
				out = append(out, ',')
			}
			out = strconv.AppendUint(out, uint64(c), 10)
		}
		out = append(out, "]}"...)
		return rpc.RawValue(out, rpc.Traits{Flags: rpc.HasArray, Depth: 2})
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = formed(d, e)
		}
		return out
	case *rpc.Map:
		out := &rpc.Map{Items: make([]rpc.Item, len(x.Items))}
		for i, it := range x.Items {
			out.Items[i] = rpc.Item{Key: it.Key, Value: formed(d, it.Value)}
		}
		return out
	case rpc.Value:
		if _, raw := x.Raw(); !raw && !x.IsUndefined() {
			return formed(d, x.Tree())
		}
	}
	return x
}

// hasMember reports whether v is an object with that member.
func hasMember(v rpc.Value, name string) bool {
	if raw, ok := v.Raw(); ok {
		if v.Kind() != '{' || bytes.IndexByte(raw, '\\') < 0 && !bytes.Contains(raw, []byte(name)) {
			return false
		}
	}
	_, ok := v.Member(name)
	return ok
}

// appendID appends the id of a message, and whether there was one: a classic
// request without an id is answered without.
func appendID(dst []byte, id rpc.Value, f rpc.Form) []byte {
	if id.IsUndefined() {
		return dst
	}
	dst = append(dst, `"id":`...)
	dst, _ = id.AppendJSON(dst, f) // text as it came
	return append(dst, ',')
}

const classicEnd = `,"version":"json"}`

// appendResult appends a response with a result; an undefined one is left out.
func appendResult(dst []byte, d Dialect, id, v rpc.Value, f rpc.Form) (_ []byte, err error) {
	if d == Compact {
		dst = append(dst, `{"t":"r","id":`...)
		dst, _ = id.AppendJSON(dst, f)
		if !v.IsUndefined() {
			dst = append(dst, `,"v":`...)
			dst, err = appendValue(dst, d, v, f)
		}
		return append(dst, '}'), err
	}
	dst = append(dst, '{')
	dst = appendID(dst, id, f)
	dst = append(dst, `"method":"","args":{`...)
	if !v.IsUndefined() {
		dst = append(dst, `"result":`...)
		dst, err = appendValue(dst, d, v, f)
	}
	dst = append(dst, `},"type":"response"`...)
	return append(dst, classicEnd...), err
}

// appendFailure appends a response with an error.
func appendFailure(dst []byte, d Dialect, id rpc.Value, e *rpc.Error, asText bool, f rpc.Form) []byte {
	if d == Compact {
		dst = append(dst, `{"t":"r","id":`...)
		dst, _ = id.AppendJSON(dst, f)
		dst = append(dst, `,"e":`...)
		dst = appendErrorObject(dst, d, e, f)
		return append(dst, '}')
	}
	dst = append(dst, '{')
	dst = appendID(dst, id, f)
	dst = append(dst, `"method":"","args":{"error":`...)
	if asText {
		_, message := wireName(e)
		dst = rpc.AppendString(dst, message, f.ASCII)
	} else {
		dst = appendErrorObject(dst, d, e, f)
	}
	dst = append(dst, `},"type":"response"`...)
	return append(dst, classicEnd...)
}

// appendStreamMessage appends a classic message about a stream.
func appendStreamMessage(dst []byte, id rpc.Value, typ, member string, v rpc.Value, f rpc.Form) (_ []byte, err error) {
	dst = append(dst, '{')
	dst = appendID(dst, id, f)
	dst = append(dst, `"method":"","args":{`...)
	if member != "" {
		dst = append(dst, '"')
		dst = append(dst, member...)
		dst = append(dst, `":`...)
		if v.IsUndefined() {
			v = rpc.Null
		}
		dst, err = appendValue(dst, Classic, v, f)
	}
	dst = append(dst, `},"type":"`...)
	dst = append(dst, typ...)
	dst = append(dst, '"')
	return append(dst, classicEnd...), err
}

// outArgs are arguments on their way to the peer.
type outArgs struct {
	list  []rpc.Value
	named *rpc.Map // a last object, as JavaScript does it
}

func argsOut(a *rpc.Args) outArgs {
	var out outArgs
	for v := range a.List() {
		out.list = append(out.list, v)
	}
	for name, v := range a.ByName() {
		if out.named == nil {
			out.named = new(rpc.Map)
		}
		out.named.Set(name, v)
	}
	if out.named != nil {
		out.list = append(out.list, rpc.TreeValue(out.named))
	}
	return out
}

// sentFunctions are the ids of the functions among arguments, and those of them
// that the peer sees for the first time.
type sentFunctions struct{ ids, fresh []string }

// appendArgs appends the array of arguments. Functions among them get ids from export.
func appendArgs(dst []byte, d Dialect, a outArgs, export func(*rpc.Ref) (string, bool, error), f rpc.Form) (_ []byte, sent sentFunctions, err error) {
	dst = append(dst, '[')
	for i, v := range a.list {
		if i > 0 {
			dst = append(dst, ',')
		}
		if r, ok := v.AsRef(); ok {
			id, fresh, err := export(r)
			if err != nil {
				return dst, sent, err
			}
			sent.ids = append(sent.ids, id)
			if fresh {
				sent.fresh = append(sent.fresh, id)
			}
			if d == Compact {
				dst = append(dst, `{"`+argTag+`":"callback","id":"`...)
				dst = append(append(dst, id...), `"}`...)
			} else {
				dst = append(append(append(dst, `"`+callbackPrefix...), id...), '"')
			}
			continue
		}
		if dst, err = appendArg(dst, d, v, f); err != nil {
			return dst, sent, err
		}
	}
	return append(dst, ']'), sent, nil
}

// appendArg appends one argument such that the peer takes it for what it is:
// text of others that looks like a marker is wrapped or refused.
func appendArg(dst []byte, d Dialect, v rpc.Value, f rpc.Form) ([]byte, error) {
	switch {
	case d == Compact && v.IsUndefined():
		return append(dst, `{"`+argTag+`":"value"}`...), nil
	case v.IsUndefined():
		return append(dst, "null"...), nil
	case d == Compact && hasMember(v, argTag):
		if hasMember(v, streamTag) {
			return dst, errMarker
		}
		dst = append(dst, `{"`+argTag+`":"value","v":`...)
		dst, err := appendValue(dst, d, v, f)
		return append(dst, '}'), err
	case d == Classic:
		if s, err := v.AsString(); err == nil && len(s) >= len(callbackPrefix) && s[:len(callbackPrefix)] == callbackPrefix {
			return dst, errMarker
		}
	}
	return appendValue(dst, d, v, f)
}
