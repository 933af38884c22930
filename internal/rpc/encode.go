package rpc

import (
	"bytes"
	"encoding"
	"encoding/json"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Encode makes a Value of what a Go method returned: Values and tree nodes as
// they are, anything else by the rules of encoding/json, without HTML escapes.
// Structs, maps and slices that hold a Value, Bytes, a Ref or another node of
// this package become a tree, so that the node reaches the protocol.
func Encode(x any) (Value, error) {
	switch x := x.(type) {
	case nil:
		return Null, nil
	case Value:
		return x, nil
	case string:
		return String(x), nil
	case bool:
		return Bool(x), nil
	case int:
		return Int(int64(x)), nil
	case int64:
		return Int(x), nil
	case int32:
		return Int(int64(x)), nil
	case uint32:
		return Int(int64(x)), nil
	case float64:
		return TreeValue(x), nil
	case struct{}:
		return Value{}, nil
	case []byte:
		return TreeValue(Bytes{Data: x}), nil
	case []any, *Map:
		tree, err := treeOf(reflect.ValueOf(x), 0)
		if err != nil {
			return Value{}, err
		}
		return TreeValue(tree), nil
	}
	if isNode(x) {
		return TreeValue(x), nil
	}
	v := reflect.ValueOf(x)
	if holdsNode(v, 0) {
		tree, err := treeOf(v, 0)
		if err != nil {
			return Value{}, err
		}
		return TreeValue(tree), nil
	}
	return encodeJSON(x)
}

// encodeJSON is Encode for what encoding/json knows alone.
func encodeJSON(x any) (Value, error) {
	text, err := marshal(x)
	if err != nil {
		return Value{}, notSerializable(err)
	}
	v, err := Parse(text)
	if err != nil {
		return Value{}, notSerializable(err)
	}
	return v, nil
}

func notSerializable(err error) *Error {
	return &Error{Code: CodeSerialization, Message: "result not json-serializable: " + err.Error(), Ran: RanYes, cause: err}
}

// MustEncode is Encode for values that are known to be encodable.
func MustEncode(x any) Value {
	v, err := Encode(x)
	if err != nil {
		panic(err)
	}
	return v
}

// marshal is json.Marshal without HTML escapes.
func marshal(x any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(x); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// isNode reports whether x may stand in a tree as it is.
func isNode(x any) bool {
	switch x.(type) {
	case nil, bool, int64, uint64, *big.Int, float64, Number, string, Bytes, time.Time, Undefined, Ext,
		[]any, *Map, *Error, *File, *Ref, Readable, Value:
		return true
	}
	return false
}

// isNilNode reports whether x is a node type's nil pointer: it stands for null.
func isNilNode(x any) bool {
	switch x := x.(type) {
	case *big.Int:
		return x == nil
	case *Map:
		return x == nil
	case *Error:
		return x == nil
	case *File:
		return x == nil
	case *Ref:
		return x == nil
	case *Reader:
		return x == nil
	}
	return false
}

var (
	readableType  = reflect.TypeFor[Readable]()
	marshalerType = reflect.TypeFor[json.Marshaler]()
	textType      = reflect.TypeFor[encoding.TextMarshaler]()

	// What only a tree can carry. Numbers, strings and dates are not among
	// them: inside Go values they follow encoding/json.
	nodeTypes = map[reflect.Type]bool{
		reflect.TypeFor[Value](): true, reflect.TypeFor[Bytes](): true, reflect.TypeFor[Ext](): true,
		reflect.TypeFor[Undefined](): true, reflect.TypeFor[Number](): true, reflect.TypeFor[*Map](): true,
		reflect.TypeFor[*Error](): true, reflect.TypeFor[*File](): true, reflect.TypeFor[*Ref](): true,
	}
	mayHold sync.Map // reflect.Type -> bool: can a value of the type hold a node
	layouts sync.Map // reflect.Type -> []structField
)

func isNodeType(t reflect.Type) bool { return nodeTypes[t] || t.Implements(readableType) }

// typeMayHold is holdsNode as far as the type alone tells.
func typeMayHold(t reflect.Type) bool {
	if known, ok := mayHold.Load(t); ok {
		return known.(bool)
	}
	holds := typeHolds(t, map[reflect.Type]bool{})
	mayHold.Store(t, holds)
	return holds
}

func typeHolds(t reflect.Type, seen map[reflect.Type]bool) bool {
	if isNodeType(t) || t.Kind() == reflect.Interface {
		return true
	}
	if seen[t] || t.Implements(marshalerType) || t.Implements(textType) {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return typeHolds(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); (f.IsExported() || f.Anonymous) && typeHolds(f.Type, seen) {
				return true
			}
		}
	}
	return false
}

// holdsNode reports whether a node stands somewhere in v. What is nested
// deeper than a JSON text may be (a cycle, perhaps) is left to encoding/json.
func holdsNode(v reflect.Value, depth int) bool {
	if !v.IsValid() || depth > 2*MaxDepth || !typeMayHold(v.Type()) {
		return false
	}
	if isNodeType(v.Type()) {
		return true
	}
	switch v.Kind() {
	case reflect.Interface, reflect.Pointer:
		return holdsNode(v.Elem(), depth+1)
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if holdsNode(v.Index(i), depth+1) {
				return true
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if holdsNode(it.Value(), depth+1) {
				return true
			}
		}
	case reflect.Struct:
		for _, f := range layoutOf(v.Type()) {
			if fv, err := v.FieldByIndexErr(f.index); err == nil && holdsNode(fv, depth+1) {
				return true
			}
		}
	}
	return false
}

// treeOf turns a Go value that holds nodes into a tree.
func treeOf(v reflect.Value, depth int) (any, error) {
	if !v.IsValid() {
		return nil, nil
	}
	if depth > 2*MaxDepth {
		return nil, &Error{Code: CodeSerialization, Message: "value is nested too deeply", Ran: RanYes}
	}
	x := v.Interface()
	switch n := x.(type) {
	case []any:
		return treeOfList(n, depth)
	case *Map:
		return treeOfMap(n, depth)
	case float64: // as a struct without nodes would show it
		if !math.IsNaN(n) && !math.IsInf(n, 0) {
			return encodeJSON(n)
		}
	case time.Time:
		return encodeJSON(n)
	}
	switch {
	case isNilNode(x):
		return nil, nil
	case isNode(x):
		return x, nil
	case !holdsNode(v, 0):
		j, err := encodeJSON(x)
		return j, err
	}
	switch v.Kind() {
	case reflect.Interface, reflect.Pointer:
		return treeOf(v.Elem(), depth+1)
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.IsNil() {
			return nil, nil
		}
		list := make([]any, v.Len())
		for i := range list {
			e, err := treeOf(v.Index(i), depth+1)
			if err != nil {
				return nil, err
			}
			list[i] = e
		}
		return list, nil
	case reflect.Map:
		return treeOfGoMap(v, depth)
	case reflect.Struct:
		m := &Map{}
		for _, f := range layoutOf(v.Type()) {
			fv, err := v.FieldByIndexErr(f.index)
			if err != nil || f.omitEmpty && isEmpty(fv) || f.omitZero && fv.IsZero() {
				continue
			}
			e, err := treeOf(fv, depth+1)
			if err != nil {
				return nil, err
			}
			m.Set(f.name, e)
		}
		return m, nil
	}
	return encodeJSON(x)
}

// treeOfList returns list itself when all of it are nodes already.
func treeOfList(list []any, depth int) (any, error) {
	out := list
	for i, x := range list {
		e, changed, err := treePart(x, depth)
		if err != nil {
			return nil, err
		}
		if changed {
			if &out[0] == &list[0] {
				out = slices.Clone(list)
			}
			out[i] = e
		}
	}
	return out, nil
}

// treeOfMap returns m itself when all of it are nodes already.
func treeOfMap(m *Map, depth int) (any, error) {
	if m == nil {
		return nil, nil
	}
	out := m
	for i, it := range m.Items {
		e, changed, err := treePart(it.Value, depth)
		if err != nil {
			return nil, err
		}
		if changed {
			if out == m {
				out = &Map{Items: slices.Clone(m.Items)}
			}
			out.Items[i].Value = e
		}
	}
	return out, nil
}

func treePart(x any, depth int) (e any, changed bool, err error) {
	switch n := x.(type) {
	case nil, bool, int64, uint64, float64, Number, string, Bytes, time.Time, Undefined, Ext, Value:
		return x, false, nil
	case int:
		return int64(n), true, nil
	case []any:
		e, err = treeOf(reflect.ValueOf(x), depth+1)
		return e, err == nil && len(n) > 0 && &e.([]any)[0] != &n[0], err
	case *Map:
		e, err = treeOf(reflect.ValueOf(x), depth+1)
		return e, e != any(n), err
	}
	if isNode(x) && !isNilNode(x) {
		return x, false, nil
	}
	e, err = treeOf(reflect.ValueOf(x), depth+1)
	return e, true, err
}

func treeOfGoMap(v reflect.Value, depth int) (any, error) {
	if v.IsNil() {
		return nil, nil
	}
	m := &Map{Items: make([]Item, 0, v.Len())}
	for it := v.MapRange(); it.Next(); {
		key, err := mapKey(it.Key())
		if err != nil {
			return nil, err
		}
		e, err := treeOf(it.Value(), depth+1)
		if err != nil {
			return nil, err
		}
		m.Set(key, e)
	}
	slices.SortFunc(m.Items, func(a, b Item) int { return strings.Compare(a.Key.(string), b.Key.(string)) })
	return m, nil
}

// mapKey spells a Go map's key as encoding/json does.
func mapKey(k reflect.Value) (string, error) {
	if k.Kind() == reflect.String {
		return k.String(), nil
	}
	if t, ok := reflect.TypeAssert[encoding.TextMarshaler](k); ok {
		text, err := t.MarshalText()
		if err != nil {
			return "", notSerializable(err)
		}
		return string(text), nil
	}
	switch {
	case k.CanInt():
		return strconv.FormatInt(k.Int(), 10), nil
	case k.CanUint():
		return strconv.FormatUint(k.Uint(), 10), nil
	}
	return "", &Error{Code: CodeSerialization, Message: "a map key that no JSON object can have", Ran: RanYes}
}

type structField struct {
	name      string
	index     []int
	omitEmpty bool
	omitZero  bool
}

// layoutOf lists the members of a struct as encoding/json sees them: those of
// embedded structs follow, unless a shallower one has their name.
func layoutOf(t reflect.Type) []structField {
	if known, ok := layouts.Load(t); ok {
		return known.([]structField)
	}
	var list []structField
	type level struct {
		t     reflect.Type
		index []int
	}
	taken, seen := map[string]bool{}, map[reflect.Type]bool{}
	for now := []level{{t: t}}; len(now) > 0; {
		var next []level
		for _, l := range now {
			if seen[l.t] {
				continue
			}
			seen[l.t] = true
			for i := range l.t.NumField() {
				f := l.t.Field(i)
				tag := f.Tag.Get("json")
				name, options, _ := strings.Cut(tag, ",")
				inner := f.Type
				if inner.Kind() == reflect.Pointer {
					inner = inner.Elem()
				}
				index := append(slices.Clone(l.index), i)
				switch {
				case tag == "-":
				case f.Anonymous && name == "" && inner.Kind() == reflect.Struct && !isNodeType(f.Type) && (f.IsExported() || f.Type.Kind() == reflect.Struct):
					next = append(next, level{inner, index})
				case f.IsExported():
					if name == "" {
						name = f.Name
					}
					if !taken[name] {
						taken[name] = true
						list = append(list, structField{name, index,
							strings.Contains(","+options+",", ",omitempty,"), strings.Contains(","+options+",", ",omitzero,")})
					}
				}
			}
		}
		now = next
	}
	layouts.Store(t, list)
	return list
}

func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Bool, reflect.Interface, reflect.Pointer:
		return v.IsZero()
	}
	return (v.CanInt() || v.CanUint() || v.CanFloat()) && v.IsZero()
}

// MarshalJSON makes Values usable inside Go types that go through
// encoding/json; see AppendJSON for what that changes.
func (v Value) MarshalJSON() ([]byte, error) { return v.JSON() }

// UnmarshalJSON copies the text.
func (v *Value) UnmarshalJSON(text []byte) error {
	parsed, err := Parse(text)
	if err == nil {
		*v = parsed.Own()
	}
	return err
}

// IsZero makes omitzero leave out what is undefined.
func (v Value) IsZero() bool { return v.IsUndefined() }

// The nodes of a tree marshal as AppendJSON writes them, so that none loses
// its meaning (or shows its fields) when it is handed to encoding/json.

func (b Bytes) MarshalJSON() ([]byte, error)   { return appendTree(nil, b, Form{}, 0) }
func (x Ext) MarshalJSON() ([]byte, error)     { return appendTree(nil, x, Form{}, 0) }
func (Undefined) MarshalJSON() ([]byte, error) { return appendTree(nil, nil, Form{}, 0) }
func (n Number) MarshalJSON() ([]byte, error)  { return appendTree(nil, n, Form{}, 0) }
func (m *Map) MarshalJSON() ([]byte, error)    { return appendTree(nil, m, Form{}, 0) }
func (r *Ref) MarshalJSON() ([]byte, error)    { return appendTree(nil, r, Form{}, 0) }
func (r *Reader) MarshalJSON() ([]byte, error) { return appendTree(nil, r, Form{}, 0) }
func (f *File) MarshalJSON() ([]byte, error)   { return appendTree(nil, f, Form{}, 0) }
