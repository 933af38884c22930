package main

import (
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// appendYAML writes a JSON value as one YAML document in block style. Numbers
// keep their digits; a string is left without quotes only where no reader of
// YAML could take it for anything else.
func appendYAML(dst []byte, v rpc.Value) []byte {
	switch v.Kind() {
	case '{', '[':
		if !isEmpty(v) {
			return yamlBlock(dst, v, 0)
		}
	}
	return append(yamlScalar(dst, v), '\n')
}

func isEmpty(v rpc.Value) bool {
	raw, _ := v.Raw()
	return raw[rpc.SkipSpace(raw, 1)] == raw[0]+2
}

// yamlBlock writes a container that is not empty, each line with a line feed.
// The depth of v is bounded: rpc.Parse has accepted it.
func yamlBlock(dst []byte, v rpc.Value, depth int) []byte {
	if v.Kind() == '[' {
		for e := range v.Elements() {
			dst = append(yamlIndent(dst, depth), '-')
			dst = yamlItem(dst, e, depth)
		}
		return dst
	}
	for name, e := range v.Members() {
		dst = yamlIndent(dst, depth)
		dst = yamlText(dst, name)
		dst = append(dst, ':')
		dst = yamlItem(dst, e, depth)
	}
	return dst
}

// yamlItem writes what stands behind a dash or a colon.
func yamlItem(dst []byte, v rpc.Value, depth int) []byte {
	if k := v.Kind(); (k == '{' || k == '[') && !isEmpty(v) {
		return yamlBlock(append(dst, '\n'), v, depth+1)
	}
	dst = append(dst, ' ')
	return append(yamlScalar(dst, v), '\n')
}

func yamlIndent(dst []byte, depth int) []byte {
	for range depth {
		dst = append(dst, "  "...)
	}
	return dst
}

func yamlScalar(dst []byte, v rpc.Value) []byte {
	raw, _ := v.Raw()
	switch {
	case raw[0] == '"':
		return yamlText(dst, raw)
	case raw[0] == '{':
		return append(dst, "{}"...)
	case raw[0] == '[':
		return append(dst, "[]"...)
	case raw[0] == 'N':
		return append(dst, ".nan"...)
	case raw[0] == 'I':
		return append(dst, ".inf"...)
	case strings.HasPrefix(string(raw), "-I"):
		return append(dst, "-.inf"...)
	}
	return append(dst, raw...)
}

// yamlText writes a JSON string literal: its quoted form is YAML, too.
func yamlText(dst, literal []byte) []byte {
	if s := literal[1 : len(literal)-1]; isPlainYAML(string(s)) {
		return append(dst, s...)
	}
	for i := 1; i < len(literal)-1; i++ {
		if literal[i] == '\\' {
			// YAML has \/ only since version 1.2.
			if literal[i+1] == '/' {
				literal = append(append([]byte(nil), literal[:i]...), literal[i+1:]...)
				continue
			}
			i++
		}
	}
	return append(dst, literal...)
}

// isPlainYAML reports whether s is a string to every YAML reader without
// quotes: it begins with a letter, has no sign with a meaning, and is none of
// the words that mean something else.
func isPlainYAML(s string) bool {
	if s == "" || s[len(s)-1] == ' ' {
		return false
	}
	for i, c := range []byte(s) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		inner := c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.' || c == '/' || c == ' '
		if !letter && (i == 0 || !inner) {
			return false
		}
	}
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null":
		return false
	}
	return true
}
