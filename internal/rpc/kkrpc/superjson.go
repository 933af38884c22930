package kkrpc

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// SuperJSON is the default mode of JavaScript 0.2 to 0.7: a message comes as
// {"json": message, "meta": {"values": notes}}, where notes say which parts are
// no plain JSON. A note is ["Date"], or ["map", {more notes}] for a container
// that has notes inside; its key is a path such as args.0.d. Peers that send
// envelopes read plain JSON, so nothing here writes them.

// maxSteps bounds the work for the notes of one message: each is a walk, past
// all members of the objects on its way.
const maxSteps = 1 << 20

// typed applies the notes about the member of the message with that name
// ("args", "value") to its value. What the notes say wrongly is left as it is.
func (m *message) typed(name string, v rpc.Value) rpc.Value {
	if m.notes.Kind() != '{' || v.IsUndefined() {
		return v
	}
	a := annotator{left: maxSteps}
	root := rpc.Value{}
	for key, note := range m.notes.Members() {
		if a.left < 0 {
			break
		}
		path := splitPath(rpc.Unquote(key))
		if len(path) == 0 || path[0] != name {
			continue
		}
		if root.IsUndefined() {
			root = rpc.TreeValue(v.Expand())
		}
		root = rpc.TreeValue(a.at(root.Tree(), path[1:], note, 0))
	}
	if root.IsUndefined() {
		return v
	}
	return root
}

// splitPath cuts a path at its dots; a backslash makes a dot part of a name.
func splitPath(path string) []string {
	var parts []string
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			b.WriteByte(path[i])
		case c == '.':
			parts = append(parts, b.String())
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	return append(parts, b.String())
}

type annotator struct{ left int }

// at applies note to what stands at path below x and returns the new x.
func (a *annotator) at(x any, path []string, note rpc.Value, depth int) any {
	if a.left--; a.left < 0 || depth > rpc.MaxDepth {
		return x
	}
	if len(path) == 0 {
		return a.apply(x, note, depth)
	}
	switch t := x.(type) {
	case []any:
		if i, err := strconv.Atoi(path[0]); err == nil && i >= 0 && i < len(t) {
			t[i] = a.at(t[i], path[1:], note, depth+1)
		}
	case *rpc.Map:
		if a.left -= len(t.Items); a.left < 0 {
			return x
		}
		for i := range t.Items {
			if t.Items[i].Key == path[0] {
				t.Items[i].Value = a.at(t.Items[i].Value, path[1:], note, depth+1)
			}
		}
	}
	return x
}

// apply reads one note: an array of the type and of the notes inside.
func (a *annotator) apply(x any, note rpc.Value, depth int) any {
	list, err := note.AsList()
	if err != nil || len(list) == 0 {
		return x
	}
	if len(list) > 1 {
		for key, inner := range list[1].Members() {
			x = a.at(x, splitPath(rpc.Unquote(key)), inner, depth+1)
		}
	}
	if parts, err := list[0].AsList(); err == nil { // ["typed-array", "Uint8Array"]
		if len(parts) == 2 && text(parts[0]) == "typed-array" {
			return typedArray(x, text(parts[1]))
		}
		return x
	}
	return convert(x, text(list[0]))
}

// convert makes the value that a type note stands for.
func convert(x any, kind string) any {
	s, isString := x.(string)
	switch kind {
	case "undefined":
		if x == nil {
			return rpc.Undefined{}
		}
	case "bigint":
		if n, ok := new(big.Int).SetString(s, 10); isString && ok && len(s) <= rpc.MaxDigits {
			if n.IsInt64() {
				return n.Int64()
			}
			return n
		}
	case "Date":
		if t, err := time.Parse(time.RFC3339Nano, s); isString && err == nil {
			return t
		}
	case "number":
		switch s {
		case "NaN":
			return math.NaN()
		case "Infinity":
			return math.Inf(1)
		case "-Infinity":
			return math.Inf(-1)
		case "-0":
			return rpc.Number("-0")
		}
	case "map":
		return pairs(x)
	}
	return x // sets are arrays, the others texts and objects: as they came
}

// pairs makes a map of an array of pairs.
func pairs(x any) any {
	list, ok := x.([]any)
	if !ok {
		return x
	}
	m := new(rpc.Map)
	for _, p := range list {
		pair, ok := p.([]any)
		if !ok || len(pair) != 2 {
			return x
		}
		m.Set(pair[0], pair[1])
	}
	return m
}

// typedArray makes bytes of an array of numbers, for the kinds that have one
// byte per element.
func typedArray(x any, kind string) any {
	list, ok := x.([]any)
	if !ok || kind != "Uint8Array" && kind != "Uint8ClampedArray" {
		return x
	}
	data, ok := byteList(list)
	if !ok {
		return x
	}
	if kind == "Uint8Array" {
		kind = ""
	}
	return rpc.Bytes{Data: data, Kind: kind}
}

func byteList(list []any) ([]byte, bool) {
	data := make([]byte, len(list))
	for i, e := range list {
		n, ok := e.(int64)
		if !ok || n < 0 || n > 255 {
			return nil, false
		}
		data[i] = byte(n)
	}
	return data, true
}
