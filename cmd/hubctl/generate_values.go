package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// How a word of the command line becomes a value is said by the type of the
// parameter:
//
//	string             the word itself
//	integer, number    a number, of any size
//	boolean            true or false; as a flag --x and --no-x
//	bytes              the word; @FILE for what a file holds
//	object, array      JSON; @FILE for JSON in a file
//	any                JSON if the word is JSON, else a string

// paramKind is the type of a parameter without "?", and whether it may be null.
func paramKind(p paramInfo) (kind string, nullable bool) { return strings.CutSuffix(p.Type, "?") }

// argumentValue turns a word into the value of p.
func argumentValue(p paramInfo, word string) (json.RawMessage, error) {
	kind, nullable := paramKind(p)
	if nullable && word == "null" && kind != "string" {
		return json.RawMessage("null"), nil
	}
	bad := func(want string) error {
		return usageError{fmt.Sprintf("%s: %q is not %s", p.Name, oneLine(word), want), ""}
	}
	switch kind {
	case "string":
		return textValue(word, p.Name)
	case "integer", "number":
		text, ok := jsonText(word)
		if !ok || len(text) == 0 || text[0] != '-' && (text[0] < '0' || text[0] > '9') {
			return nil, bad(map[string]string{"integer": "an integer", "number": "a number"}[kind])
		}
		return text, nil // whether another number than an integer will do, the method knows
	case "boolean":
		b, err := strconv.ParseBool(word)
		if err != nil {
			return nil, bad("true or false")
		}
		return strconv.AppendBool(nil, b), nil
	case "bytes":
		content := []byte(word)
		if file, ok := strings.CutPrefix(word, "@"); ok {
			var err error
			if content, err = readFile(file); err != nil {
				return nil, err
			}
		}
		return bytesValue(content), nil
	}
	text := word
	if file, ok := strings.CutPrefix(word, "@"); ok && kind != "any" {
		content, err := readText(file)
		if err != nil {
			return nil, err
		}
		text = string(content)
	}
	v, ok := jsonText(strings.TrimSpace(text))
	switch {
	case kind == "any" && !ok:
		return textValue(word, p.Name)
	case !ok:
		return nil, usageError{
			fmt.Sprintf("%s: %q is not JSON", p.Name, oneLine(word)), "quote JSON for the shell, or give @FILE",
		}
	case kind == "object" && v[0] != '{':
		return nil, bad("a JSON object")
	case (kind == "array" || strings.HasPrefix(kind, "[]")) && v[0] != '[':
		return nil, bad("a JSON array")
	}
	return v, nil
}

// bytesValue is how bytes travel on the native wire: a base64 string.
func bytesValue(b []byte) json.RawMessage {
	return json.RawMessage(`"` + base64.StdEncoding.EncodeToString(b) + `"`)
}

// optionValue is the flag of a parameter with a default.
type optionValue struct {
	param paramInfo
	text  string
	value json.RawMessage // nil until the flag is given
}

var _ pflag.Value = (*optionValue)(nil)

func (o *optionValue) String() string { return o.text }

func (o *optionValue) Set(word string) error {
	v, err := argumentValue(o.param, word)
	if err != nil {
		return err
	}
	o.text, o.value = word, v
	return nil
}

func (o *optionValue) Type() string {
	kind, _ := paramKind(o.param)
	if kind == "any" {
		return "value"
	}
	return kind
}

// noValue is --no-x for the boolean x.
type noValue struct{ of *optionValue }

func (n noValue) String() string { return "" }

func (n noValue) Set(word string) error {
	b, err := strconv.ParseBool(word)
	if err != nil {
		return err
	}
	return n.of.Set(strconv.FormatBool(!b))
}

func (n noValue) Type() string { return "bool" }

// IsBoolFlag lets it stand without a value.
func (n noValue) IsBoolFlag() bool { return true }
