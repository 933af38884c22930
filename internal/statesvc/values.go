package statesvc

import (
	"math"
	"math/big"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// StoredValue turns a value of a call into what the store keeps. JSON text is kept byte for byte and borrowed from v; a
// tree that JSON carries exactly becomes JSON, so that it does not matter which protocol a value came through; every
// other tree becomes EncodingTyped. References, streams and files fail with an *InvalidError.
func StoredValue(v rpc.Value) (Value, error) {
	if text, ok := v.Raw(); ok {
		return Value{Data: text, Encoding: EncodingJSON}, nil
	}
	tree := v.Tree()
	if text, ok := appendExact(make([]byte, 0, 64), tree, 0); ok {
		if _, _, err := rpc.Scan(text); err == nil { // within the limits that every reader relies on
			return Value{Data: text, Encoding: EncodingJSON}, nil
		}
	}
	data, err := appendTyped(make([]byte, 0, 64), tree, 0)
	if err != nil {
		return Value{}, err
	}
	return Value{Data: data, Encoding: EncodingTyped}, nil
}

// LoadedValue is the reverse of StoredValue. The result refers to the memory of v.
func LoadedValue(v Value) (rpc.Value, error) {
	switch v.Encoding {
	case EncodingJSON:
		text, err := rpc.Parse(v.Data)
		if err != nil {
			return rpc.Value{}, &InvalidError{Reason: "stored value is not JSON"}
		}
		return text, nil
	case EncodingTyped:
		tree, err := decodeTyped(v.Data)
		if err != nil {
			return rpc.Value{}, &InvalidError{Reason: "stored value is damaged"}
		}
		return rpc.TreeValue(tree), nil
	}
	return rpc.Value{}, &InvalidError{Reason: "stored value has an encoding that this program does not know"}
}

// appendExact appends a tree as JSON if that loses nothing; else it returns false.
func appendExact(dst []byte, x any, depth int) ([]byte, bool) {
	if depth > rpc.MaxDepth {
		return dst, false
	}
	switch x := x.(type) {
	case nil:
		return append(dst, "null"...), true
	case string:
		if !utf8.ValidString(x) {
			return dst, false
		}
		return rpc.AppendString(dst, x, false), true
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return dst, false
		}
		return rpc.AppendFloat(dst, x, rpc.Form{}), true
	case bool, int64, uint64, rpc.Number:
		dst, err := rpc.TreeValue(x).AppendJSON(dst, rpc.Form{})
		return dst, err == nil
	case rpc.Value:
		if text, ok := x.Raw(); ok {
			return append(dst, text...), true
		}
		if x.IsUndefined() {
			return dst, false
		}
		return appendExact(dst, x.Tree(), depth+1)
	case []any:
		dst = append(dst, '[')
		for i, e := range x {
			if i > 0 {
				dst = append(dst, ',')
			}
			var ok bool
			if dst, ok = appendExact(dst, e, depth+1); !ok {
				return dst, false
			}
		}
		return append(dst, ']'), true
	case *rpc.Map:
		if x == nil {
			return append(dst, "null"...), true
		}
		dst = append(dst, '{')
		for i, it := range x.Items {
			key, ok := it.Key.(string)
			if !ok || !utf8.ValidString(key) {
				return dst, false
			}
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(rpc.AppendString(dst, key, false), ':')
			if dst, ok = appendExact(dst, it.Value, depth+1); !ok {
				return dst, false
			}
		}
		return append(dst, '}'), true
	case *big.Int:
		// A small one would come back as an ordinary number.
		return dst, false
	}
	return dst, false
}

// object writes a JSON object member by member, and falls back to a tree as soon as a value is one.
type object struct {
	text   []byte
	traits rpc.Traits
	tree   *rpc.Map // set once a member is no text
}

func newObject(size int) object { return object{text: append(make([]byte, 0, size), '{')} }

func (o *object) name(name string) {
	if len(o.text) > 1 {
		o.text = append(o.text, ',')
	}
	o.text = append(o.text, '"')
	o.text = append(o.text, name...)
	o.text = append(o.text, '"', ':')
}

func (o *object) value(name string, v rpc.Value) {
	text, ok := v.Raw()
	if !ok && o.tree == nil {
		o.tree = &rpc.Map{}
		head, err := rpc.Parse(append(o.text, '}'))
		if err == nil { // it is our own text
			for key, m := range head.Members() {
				o.tree.Set(rpc.Unquote(key), m)
			}
		}
	}
	if o.tree != nil {
		o.tree.Set(name, nodeOf(v))
		return
	}
	o.name(name)
	o.text = append(o.text, text...)
	t := v.Traits()
	o.traits.Flags |= t.Flags
	o.traits.Depth = max(o.traits.Depth, t.Depth)
}

// nodeOf is v as a node of a tree.
func nodeOf(v rpc.Value) any {
	if _, ok := v.Raw(); ok {
		return v
	}
	return v.Tree()
}

func (o *object) str(name, s string) {
	if o.tree != nil {
		o.tree.Set(name, s)
		return
	}
	o.name(name)
	o.text = rpc.AppendString(o.text, s, false)
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			o.traits.Flags |= rpc.HasNonASCII
			break
		}
	}
}

func (o *object) uint(name string, u uint64) { o.value(name, uintValue(u)) }

func uintValue(u uint64) rpc.Value {
	if u <= math.MaxInt64 {
		return rpc.Int(int64(u))
	}
	return rpc.TreeValue(u)
}

// end returns the object; its text belongs to whoever made it.
func (o *object) end() rpc.Value {
	if o.tree != nil {
		return rpc.TreeValue(o.tree)
	}
	o.traits.Depth++
	return rpc.RawValue(append(o.text, '}'), o.traits)
}

// stamp is how clients see a time.
func stamp(nanos int64) string { return time.Unix(0, nanos).UTC().Format(time.RFC3339Nano) }

// shownItem is an item as get and list return it. buf is memory to write into, or nil.
func shownItem(buf []byte, it *Item, withValue bool) (rpc.Value, error) {
	if buf == nil {
		buf = make([]byte, 0, len(it.Key)+len(it.Value.Data)+160)
	}
	o := object{text: append(buf[:0], '{')}
	o.str("key", it.Key)
	if withValue {
		v, err := LoadedValue(it.Value)
		if err != nil {
			return rpc.Value{}, err
		}
		o.value("value", v)
	}
	o.uint("revision", it.Revision)
	o.str("created", stamp(it.Created))
	o.str("updated", stamp(it.Updated))
	if left, ok := it.TTL(); ok {
		o.value("ttl", rpc.RawString(string(rpc.AppendFloat(nil, math.Round(left.Seconds()*1000)/1000, rpc.Form{}))))
	}
	return o.end(), nil
}

// maxKeptForm is the largest encoded event that is kept with the event for other watchers: there are some thousand of
// them at a time, and copying a large value costs less than what else is done with it.
const maxKeptForm = 16 << 10

// eventForms are the encoded forms of one event.
type eventForms struct{ full, bare rpc.Value }

// shownEvent is an event as watchers get it. It is encoded by the first of them.
func shownEvent(e *Event, withValue bool) (rpc.Value, error) {
	kept, _ := e.Encoded().(*eventForms)
	if kept != nil {
		if v := kept.full; withValue && !v.IsUndefined() {
			return v, nil
		}
		if v := kept.bare; !withValue && !v.IsUndefined() {
			return v, nil
		}
	}
	v, err := shownChange(e.Type, e.Key, e.Item, e.Revision, e.Previous, withValue)
	if err != nil {
		return v, err
	}
	if text, ok := v.Raw(); ok && len(text) <= maxKeptForm {
		forms := new(eventForms)
		if kept != nil {
			*forms = *kept
		}
		if withValue {
			forms.full = v
		} else {
			forms.bare = v
		}
		e.SetEncoded(forms)
	}
	return v, nil
}

// shownChange writes one item of a watch. A key that is gone has the value null.
func shownChange(t EventType, key string, it *Item, revision, previous uint64, withValue bool) (rpc.Value, error) {
	size := len(key) + 96
	if withValue && it != nil {
		size += len(it.Value.Data)
	}
	o := newObject(size)
	o.str("type", t.String())
	o.str("key", key)
	if withValue {
		v := rpc.Null
		if it != nil {
			var err error
			if v, err = LoadedValue(it.Value); err != nil {
				return rpc.Value{}, err
			}
		}
		o.value("value", v)
	}
	o.uint("revision", revision)
	o.uint("previous_revision", previous)
	return o.end(), nil
}

// shownMark is an item of a watch that is no event: synced, progress.
func shownMark(kind string, revision uint64) rpc.Value {
	o := newObject(48)
	o.str("type", kind)
	o.uint("revision", revision)
	return o.end()
}

// revisionValue is the answer of most writes.
func revisionValue(revision uint64) rpc.Value {
	text := append(make([]byte, 0, 32), `{"revision":`...)
	text = append(strconv.AppendUint(text, revision, 10), '}')
	return rpc.RawValue(text, rpc.Traits{Depth: 1})
}
