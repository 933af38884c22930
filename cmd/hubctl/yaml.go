package main

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// appendYAML writes a JSON value as one YAML document in block style. Numbers
// keep their digits; a string is left without quotes only where no reader of
// YAML, of version 1.1 or 1.2, could take it for anything else.
//
// It is not the encoder of a library: that of goccy/go-yaml, which reads hubd.yaml,
// writes "\r\n", ".inf", control characters and long or multi-line keys so that
// other strings, or none, are read back, and digits of numbers are lost.
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

// maxSimpleKey is how long a key may be that stands before its colon: YAML allows
// 1024 characters. A longer one gets a line of its own, behind a question mark.
const maxSimpleKey = 1000

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
		from := len(dst)
		if dst = yamlText(dst, name); len(dst)-from > maxSimpleKey {
			dst = slices.Insert(dst, from, '?', ' ')
			dst = yamlIndent(append(dst, '\n'), depth)
		}
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
	return yamlNumber(dst, raw)
}

// yamlNumber writes a number with its digits. YAML 1.1 takes one with an exponent
// for a number only if it also has a point and the exponent a sign.
func yamlNumber(dst, raw []byte) []byte {
	at := bytes.IndexAny(raw, "eE")
	if at < 0 || raw[0] > '9' { // or a word: true, false, null
		return append(dst, raw...)
	}
	mantissa, exponent := raw[:at], raw[at+1:]
	dst = append(dst, mantissa...)
	if bytes.IndexByte(mantissa, '.') < 0 {
		dst = append(dst, ".0"...)
	}
	dst = append(dst, 'e')
	if exponent[0] != '+' && exponent[0] != '-' {
		dst = append(dst, '+')
	}
	return append(dst, exponent...)
}

// yamlText writes a JSON string literal. What Go escapes in a quoted string, all
// that is not printable included, is escaped alike in YAML. A lone surrogate,
// which YAML cannot say, becomes U+FFFD.
func yamlText(dst, literal []byte) []byte {
	s := rpc.Unquote(literal)
	if isPlainYAML(s) {
		return append(dst, s...)
	}
	return strconv.AppendQuote(dst, s)
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
