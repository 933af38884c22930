package snekrpc

import (
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// keywords are the words that Python functions and parameters cannot be called.
var keywords = map[string]bool{
	"False": true, "None": true, "True": true, "and": true, "as": true, "assert": true, "async": true, "await": true,
	"break": true, "class": true, "continue": true, "def": true, "del": true, "elif": true, "else": true,
	"except": true, "finally": true, "for": true, "from": true, "global": true, "if": true, "import": true,
	"in": true, "is": true, "lambda": true, "nonlocal": true, "not": true, "or": true, "pass": true, "raise": true,
	"return": true, "try": true, "while": true, "with": true, "yield": true,
}

// pythonName returns name as it is published: with a trailing underscore where
// Python keeps the word to itself. ok is false for what is no identifier.
func pythonName(name string) (published string, ok bool) {
	if name == "" {
		return "", false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return "", false
		}
	}
	if keywords[name] {
		name += "_"
	}
	return name, true
}

// annotation writes a type as Python does.
func annotation(t rpc.Type) string {
	var s string
	switch t.Kind {
	case rpc.KindNull:
		return "None"
	case rpc.KindBool:
		s = "bool"
	case rpc.KindInteger:
		s = "int"
	case rpc.KindNumber:
		s = "float"
	case rpc.KindString:
		s = "str"
	case rpc.KindBytes:
		s = "bytes"
	case rpc.KindArray:
		s = "list[Any]"
		if t.Elem != nil {
			s = "list[" + annotation(*t.Elem) + "]"
		}
	case rpc.KindObject:
		s = "dict[str, Any]"
	default:
		return "Any"
	}
	if t.Nullable {
		s += " | None"
	}
	return s
}

// maxAnnotation is how long a type may be that is worth reading.
const maxAnnotation = 256

// parseAnnotation reads a Python type as far as it has a counterpart here.
// stream reports one of the types that stand for a stream.
func parseAnnotation(text string) (t rpc.Type, stream bool) {
	if len(text) > maxAnnotation {
		return rpc.Type{Kind: rpc.KindAny}, false
	}
	text = strings.TrimSpace(text)
	if inner, ok := optional(text); ok {
		t, stream = parseAnnotation(inner)
		t.Nullable = true
		return t, stream
	}
	name, inner := text, ""
	if head, rest, ok := strings.Cut(text, "["); ok {
		name, inner = head, strings.TrimSuffix(rest, "]")
	}
	name = name[strings.LastIndexByte(name, '.')+1:]
	switch name {
	case "Iterable", "Iterator", "Generator", "AsyncIterable", "AsyncIterator", "AsyncGenerator":
		item, _ := parseAnnotation(firstOf(inner))
		return item, true
	case "None", "NoneType":
		return rpc.Type{Kind: rpc.KindNull}, false
	case "bool":
		return rpc.Type{Kind: rpc.KindBool}, false
	case "int":
		return rpc.Type{Kind: rpc.KindInteger}, false
	case "float":
		return rpc.Type{Kind: rpc.KindNumber}, false
	case "str":
		return rpc.Type{Kind: rpc.KindString}, false
	case "bytes", "bytearray":
		return rpc.Type{Kind: rpc.KindBytes}, false
	case "list", "tuple", "set", "List", "Tuple", "Set", "Sequence":
		t := rpc.Type{Kind: rpc.KindArray}
		if inner != "" {
			elem, _ := parseAnnotation(firstOf(inner))
			t.Elem = &elem
		}
		return t, false
	case "dict", "Dict", "Mapping":
		return rpc.Type{Kind: rpc.KindObject}, false
	}
	return rpc.Type{Kind: rpc.KindAny}, false
}

// optional takes the None off a union with it.
func optional(text string) (string, bool) {
	if inner, ok := strings.CutPrefix(text, "Optional["); ok {
		return strings.TrimSuffix(inner, "]"), true
	}
	if inner, ok := strings.CutSuffix(text, "None"); ok {
		if inner, ok = strings.CutSuffix(strings.TrimSpace(inner), "|"); ok {
			return inner, true
		}
	}
	if inner, ok := strings.CutPrefix(text, "None |"); ok {
		return inner, true
	}
	return text, false
}

// firstOf returns the first of a list of types.
func firstOf(list string) string {
	depth := 0
	for i, c := range list {
		switch c {
		case '[':
			depth++
		case ']':
			depth--
		case ',':
			if depth == 0 {
				return list[:i]
			}
		}
	}
	return list
}
