package capnweb

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Values of Cap'n Web that no other protocol knows. They travel inside trees
// and come back to Cap'n Web peers as they were; other wires see their JSON.
type (
	// URL is a JavaScript URL object.
	URL string

	// Headers are HTTP headers, as pairs in the order of the sender.
	Headers [][2]string

	// Request is an HTTP request. Init has the members that differ from the
	// defaults; its body may be a rpc.Readable.
	Request struct {
		URL  string
		Init *rpc.Map
	}

	// Response is an HTTP response. Body is null, a string, bytes or a rpc.Readable.
	Response struct {
		Body any
		Init *rpc.Map
	}

	// Blob is binary data with a media type.
	Blob struct {
		Type string
		Data []byte
	}

	// InvalidDate is JavaScript's invalid date.
	InvalidDate struct{}
)

// NodeWeight is that of the address: see rpc.Weighty.
func (r *Request) NodeWeight() int { return len(r.URL) }

// Nodes returns what the request holds.
func (r *Request) Nodes() []any { return []any{r.Init} }

// NodeWeight is that of a response without its body and its other members.
func (r *Response) NodeWeight() int { return 0 }

// Nodes returns what the response holds.
func (r *Response) Nodes() []any { return []any{r.Body, r.Init} }

// NodeWeight is that of the data.
func (b Blob) NodeWeight() int { return len(b.Type) + len(b.Data) }

// Nodes returns nothing.
func (b Blob) Nodes() []any { return nil }

// Unstorable says that the state service has nothing to keep it as.
func (InvalidDate) Unstorable() string { return "an invalid date" }

// MarshalJSON writes null, as JavaScript does.
func (InvalidDate) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

// MarshalJSON writes the data as base64.
func (b Blob) MarshalJSON() ([]byte, error) { return json.Marshal(b.Data) }

// MarshalJSON writes the URL and the method.
func (r *Request) MarshalJSON() ([]byte, error) {
	method := "GET"
	if m, ok := r.Init.Get("method"); ok {
		if s, ok := m.(string); ok {
			method = s
		}
	}
	return json.Marshal(map[string]string{"url": r.URL, "method": method})
}

// MarshalJSON writes the status.
func (r *Response) MarshalJSON() ([]byte, error) {
	status := any(int64(200))
	if s, ok := r.Init.Get("status"); ok {
		status = s
	}
	return json.Marshal(map[string]any{"status": status})
}

// containers are the kinds of bytes and the size of their elements.
var containers = map[string]int{
	"ArrayBuffer": 1, "DataView": 1, "Int8Array": 1, "Uint8Array": 1, "Uint8ClampedArray": 1,
	"Int16Array": 2, "Uint16Array": 2, "Int32Array": 4, "Uint32Array": 4,
	"BigInt64Array": 8, "BigUint64Array": 8, "Float32Array": 4, "Float64Array": 8,
}

// hole stands in a tree for a promise that the tree waits for.
type hole struct{ p *promise }

// payload is a value with what has to be given back once nobody needs it.
type payload struct {
	v       rpc.Value
	holes   []*promise     // stand in v; one hold each
	refs    []*rpc.Ref     // one hold each
	streams []rpc.Readable // unread, unless somebody has taken them
	bytes   int            // of v in memory; 0 when nobody has looked
}

// drop gives everything back. It is called without locks.
func (pl *payload) drop(cause *rpc.Error) {
	for _, p := range pl.holes {
		p.unref()
	}
	for _, r := range pl.refs {
		r.Release()
	}
	for _, s := range pl.streams {
		s.Close(cause)
	}
	*pl = payload{}
}

// Limits of one value with everything written out that it shares with others:
// a peer may put a value into itself repeatedly, so that a few messages would
// build one that nobody can walk.
const (
	maxValueDepth = rpc.MaxDepth
	maxValueBytes = 64 << 20
)

var (
	errValueDeep = &rpc.Error{Code: rpc.CodeTooLarge, Name: "RangeError", Message: "the value is nested deeper than 256 levels", Ran: rpc.RanNo}
	errValueBig  = &rpc.Error{Code: rpc.CodeTooLarge, Name: "RangeError", Message: "the value is larger than 64 MiB", Ran: rpc.RanNo}
)

// survey walks a value, reports its references and streams to visit (which may
// be nil), and fails when it is over a limit.
func survey(v rpc.Value, visit func(node any)) *rpc.Error {
	w := walker{visit: visit}
	return w.value(v, 0)
}

type walker struct {
	visit func(any)
	bytes int
	holes bool // count what fills them
}

func (w *walker) add(n int) *rpc.Error {
	if w.bytes += n; w.bytes > maxValueBytes {
		return errValueBig
	}
	return nil
}

func (w *walker) value(v rpc.Value, depth int) *rpc.Error {
	if raw, ok := v.Raw(); ok {
		if depth+int(v.Traits().Depth) > maxValueDepth {
			return errValueDeep
		}
		return w.add(len(raw))
	}
	if v.IsUndefined() {
		return w.add(rpc.NodeWeight(nil))
	}
	return w.tree(v.Tree(), depth)
}

func (w *walker) tree(x any, depth int) *rpc.Error {
	if depth > maxValueDepth {
		return errValueDeep
	}
	if e := w.add(rpc.NodeWeight(x)); e != nil {
		return e
	}
	switch x := x.(type) {
	case rpc.Value:
		return w.value(x, depth)
	case *hole:
		if w.holes {
			return w.value(x.p.value, depth)
		}
	case []any:
		for _, e := range x {
			if err := w.tree(e, depth+1); err != nil {
				return err
			}
		}
	case *rpc.Map:
		if x == nil {
			return nil
		}
		for _, it := range x.Items {
			if err := w.add(rpc.NodeWeight(it.Key)); err != nil {
				return err
			}
			if err := w.tree(it.Value, depth+1); err != nil {
				return err
			}
		}
	case *rpc.Error:
		if x == nil {
			return nil
		}
		if r := remoteOf(x); r != nil {
			if err := w.value(r.thrown, depth+1); err != nil {
				return err
			}
			if r.props != nil {
				return w.tree(r.props, depth+1)
			}
			return nil
		}
		return w.value(x.Data, depth+1)
	case *Request:
		return w.tree(x.Init, depth+1)
	case *Response:
		if err := w.tree(x.Body, depth+1); err != nil {
			return err
		}
		return w.tree(x.Init, depth+1)
	case *rpc.Ref:
		if x != nil && w.visit != nil {
			w.visit(x)
		}
	case rpc.Readable:
		if w.visit != nil {
			w.visit(x)
		}
	}
	return nil
}

// fill returns the tree with every hole replaced by the value of its promise.
// Each promise is settled and was not rejected.
func fill(x any) any {
	return replace(x, func(part any) any {
		h, ok := part.(*hole)
		switch {
		case !ok:
			return part
		case h.p.value.IsUndefined():
			return rpc.Undefined{}
		}
		return h.p.value
	})
}

// replace returns a copy of the tree in which f has replaced all that is no
// container.
func replace(x any, f func(part any) any) any {
	switch x := x.(type) {
	case rpc.Value:
		if _, raw := x.Raw(); raw || x.IsUndefined() {
			return x
		}
		return replace(x.Tree(), f)
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = replace(e, f)
		}
		return out
	case *rpc.Map:
		out := &rpc.Map{Items: make([]rpc.Item, len(x.Items))}
		for i, it := range x.Items {
			out.Items[i] = rpc.Item{Key: it.Key, Value: replace(it.Value, f)}
		}
		return out
	case *Request:
		return &Request{URL: x.URL, Init: replace(x.Init, f).(*rpc.Map)}
	case *Response:
		return &Response{Body: replace(x.Body, f), Init: replace(x.Init, f).(*rpc.Map)}
	}
	return f(x)
}

// step follows one part of a path into a plain value. ok is false when there
// is nothing of that name. The rules are those of the JavaScript library: only
// own members of objects, and only whole numbers into arrays.
func step(v rpc.Value, part rpc.PathPart) (next rpc.Value, ok bool) {
	if raw, isRaw := v.Raw(); isRaw {
		switch v.Kind() {
		case '{':
			if part.IsIndex {
				return v.Member(fmt.Sprint(part.Index))
			}
			if inherited(part.Name) {
				return rpc.Value{}, false
			}
			return v.Member(part.Name)
		case '[':
			if !part.IsIndex {
				return rpc.Value{}, false
			}
			n := 0
			for e := range v.Elements() {
				if n == part.Index {
					return e, true
				}
				n++
			}
		}
		_ = raw
		return rpc.Value{}, false
	}
	switch t := v.Tree().(type) {
	case *rpc.Map:
		name := part.Name
		if part.IsIndex {
			name = fmt.Sprint(part.Index)
		}
		if inherited(name) {
			return rpc.Value{}, false
		}
		x, has := t.Get(name)
		return rpc.TreeValue(x), has
	case []any:
		if part.IsIndex && part.Index >= 0 && part.Index < len(t) {
			return rpc.TreeValue(t[part.Index]), true
		}
	}
	return rpc.Value{}, false
}

// inherited reports whether a JavaScript object has a member of that name
// anyway, or would treat it specially: such members are never transmitted.
func inherited(name string) bool {
	switch name {
	case "__proto__", "constructor", "toString", "toLocaleString", "valueOf", "hasOwnProperty", "isPrototypeOf",
		"propertyIsEnumerable", "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__", "toJSON":
		return true
	}
	return false
}

// dateOf turns JavaScript's milliseconds into a date.
func dateOf(ms float64) any {
	const limit = 8.64e15
	if !(ms >= -limit && ms <= limit) {
		return InvalidDate{}
	}
	whole := int64(ms)
	return time.UnixMilli(whole).Add(time.Duration((ms - float64(whole)) * 1e6)).UTC()
}
