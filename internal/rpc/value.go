package rpc

import (
	"encoding/json"
	"io"
	"slices"
)

// Value is one value between protocols: valid JSON text, or a decoded tree.
// The zero Value is undefined.
//
// Raw text may belong to a read buffer: it is valid until the Start, Item or
// Finish that carries it returns. Whoever keeps a Value longer calls Own.
// A Value is not changed once made and may be read by many goroutines.
type Value struct {
	raw    []byte
	tree   any
	traits Traits
}

// Beyond nil (null), bool, int64, uint64, *big.Int, float64, string and []any,
// a tree holds these nodes, and *Map, *Error, *Ref, Readable and Value.
type (
	// Number is a JSON number literal that is kept as text, such as 1.0 or 1e-07.
	Number string

	// Bytes are binary data. Kind is the JavaScript container ("" is Uint8Array).
	Bytes struct {
		Data []byte
		Kind string
	}

	// Undefined is JavaScript's undefined inside a tree.
	Undefined struct{}

	// Ext is a MessagePack extension that is carried as it is.
	Ext struct {
		Code int8
		Data []byte
	}

	// File is a file that came with a call, spooled. It is gone when the call ends.
	File struct {
		Name string // as the client gave it: data, never a path
		Size int64
		Open func() (io.ReadCloser, error)
	}
)

// Map is an object or map in its original order. Keys of JSON objects are strings.
type Map struct{ Items []Item }

// Item is one member of a Map.
type Item struct {
	Key   any
	Value any
}

// Get returns the last member with that string key.
func (m *Map) Get(name string) (any, bool) {
	for i := len(m.Items) - 1; i >= 0; i-- {
		if k, ok := m.Items[i].Key.(string); ok && k == name {
			return m.Items[i].Value, true
		}
	}
	return nil, false
}

// Set appends a member.
func (m *Map) Set(key, value any) { m.Items = append(m.Items, Item{key, value}) }

var (
	// Null is the JSON value null.
	Null = Value{raw: []byte("null")}
	// True is the JSON boolean true.
	True = Value{raw: []byte("true")}
	// False is the JSON boolean false.
	False = Value{raw: []byte("false")}
)

// Parse checks that text is one JSON value (white space around it allowed) and
// returns it as a Value that refers to text.
func Parse(text []byte) (Value, error) {
	from := SkipSpace(text, 0)
	n, t, err := Scan(text[from:])
	if err != nil {
		return Value{}, err
	}
	if end := SkipSpace(text, from+n); end != len(text) {
		return Value{}, &SyntaxError{Offset: end, Reason: "text after the JSON value"}
	}
	return Value{raw: text[from : from+n], traits: t}, nil
}

// RawValue makes a Value of text that Scan has accepted with these traits;
// text begins and ends with the value itself.
func RawValue(text []byte, t Traits) Value { return Value{raw: text, traits: t} }

// RawString makes a Value of JSON text written by the program itself. It
// panics if that is not JSON.
func RawString(text string) Value {
	v, err := Parse([]byte(text))
	if err != nil {
		panic("rpc.RawString: " + err.Error())
	}
	return v
}

// TreeValue makes a Value of a tree. A Value node is unwrapped, Undefined{}
// becomes the zero Value.
func TreeValue(tree any) Value {
	switch t := tree.(type) {
	case nil:
		return Null
	case Value:
		return t
	case Undefined:
		return Value{}
	case bool:
		return Bool(t)
	case int:
		return Value{tree: int64(t)}
	}
	if isNilNode(tree) {
		return Null
	}
	return Value{tree: tree}
}

// Bool returns True or False.
func Bool(b bool) Value {
	if b {
		return True
	}
	return False
}

// String makes a Value of text, which must be valid UTF-8 to leave the hub unchanged.
func String(s string) Value { return Value{raw: AppendString(nil, s, false), traits: stringTraits(s)} }

// Int makes a Value of an integer.
func Int(i int64) Value { return Value{raw: appendInt(nil, i), traits: intTraits(i)} }

// IsUndefined reports whether v is the zero Value.
func (v Value) IsUndefined() bool { return v.raw == nil && v.tree == nil }

// IsNull reports whether v is JSON null.
func (v Value) IsNull() bool { return len(v.raw) == 4 && v.raw[0] == 'n' }

// Raw returns the JSON text of v, and whether v is held as text.
func (v Value) Raw() ([]byte, bool) { return v.raw, v.raw != nil }

// Traits returns the traits of v's JSON text; those of a tree are zero.
func (v Value) Traits() Traits { return v.traits }

// Tree returns v as a tree. Text is decoded (and copied); containers inside a
// tree may still hold Value nodes, see Expand.
func (v Value) Tree() any {
	switch {
	case v.raw != nil:
		return decodeTree(v.raw)
	case v.tree != nil:
		return v.tree
	default:
		return Undefined{}
	}
}

// Expand returns v as a tree without Value nodes in it.
func (v Value) Expand() any { return expand(v.Tree()) }

func expand(x any) any {
	switch x := x.(type) {
	case Value:
		if x.isSurrogateText() {
			return x
		}
		return expand(x.Tree())
	case []any:
		for i, e := range x {
			if needsExpand(e) {
				out := append([]any(nil), x...)
				for j := i; j < len(out); j++ {
					out[j] = expand(out[j])
				}
				return out
			}
		}
	case *Map:
		for i, it := range x.Items {
			if needsExpand(it.Value) {
				out := &Map{Items: append([]Item(nil), x.Items...)}
				for j := i; j < len(out.Items); j++ {
					out.Items[j].Value = expand(out.Items[j].Value)
				}
				return out
			}
		}
	}
	return x
}

func needsExpand(x any) bool {
	switch x := x.(type) {
	case Value:
		return !x.isSurrogateText()
	case []any:
		return slices.ContainsFunc(x, needsExpand)
	case *Map:
		for _, it := range x.Items {
			if needsExpand(it.Value) {
				return true
			}
		}
	}
	return false
}

// isSurrogateText reports whether v is a string with a lone surrogate, which
// no Go string can hold: trees keep it as text.
func (v Value) isSurrogateText() bool {
	if v.Kind() != '"' || !v.traits.Has(HasSurrogate) {
		return false
	}
	_, lone := unquote(v.raw) // the traits of a part are those of the whole
	return lone
}

// Own returns v such that it stays valid for ever: text is copied.
func (v Value) Own() Value {
	if len(v.raw) > 0 {
		v.raw = append([]byte(nil), v.raw...)
	} else if v.tree != nil && hasText(v.tree) {
		v.tree = ownTree(v.tree)
	}
	return v
}

// hasText reports whether a Value stands somewhere in the tree: its text may be borrowed.
func hasText(x any) bool {
	switch x := x.(type) {
	case Value:
		return true
	case []any:
		return slices.ContainsFunc(x, hasText)
	case *Map:
		return slices.ContainsFunc(x.Items, func(it Item) bool { return hasText(it.Value) })
	}
	return false
}

func ownTree(x any) any {
	switch x := x.(type) {
	case Value:
		return x.Own()
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = ownTree(e)
		}
		return out
	case *Map:
		out := &Map{Items: make([]Item, len(x.Items))}
		for i, it := range x.Items {
			out.Items[i] = Item{it.Key, ownTree(it.Value)}
		}
		return out
	}
	return x
}

// Unmarshal stores v in the Go value at ptr by the rules of encoding/json.
func (v Value) Unmarshal(ptr any) error {
	switch p := ptr.(type) {
	case *Value:
		*p = v
		return nil
	case *any:
		*p = v.Tree()
		return nil
	}
	text, err := v.JSON()
	if err != nil {
		return err
	}
	return json.Unmarshal(text, ptr)
}
