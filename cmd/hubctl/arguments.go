package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// The arguments of a method on the command line:
//
//	'{"a":1}'  '[1,2]'   one JSON object or array: all the arguments
//	k=text  k:=json      named arguments: a string, or any JSON value
//	k=@file k:=@file     the same from a file
//	2 '"x"' true         JSON values that are not objects: positional arguments
//	@file  -             JSON from a file or from stdin; several values are several calls

// maxFile bounds what is read from one file: more than a frame cannot be sent.
const maxFile = 16 << 20

// callParams yields the params of each call that args ask for.
func (a *app) callParams(args []string) (iter.Seq2[json.RawMessage, error], error) {
	if len(args) == 1 {
		switch arg := args[0]; {
		case arg == "-":
			return eachParams(a.in, "stdin"), nil
		case strings.HasPrefix(arg, "@"):
			text, err := readText(arg[1:])
			if err != nil {
				return nil, err
			}
			return eachParams(bytes.NewReader(text), arg[1:]), nil
		}
	}
	params, err := oneParams(args)
	if err != nil {
		return nil, err
	}
	return func(yield func(json.RawMessage, error) bool) { yield(params, nil) }, nil
}

// eachParams reads the JSON values of r.
func eachParams(r io.Reader, name string) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		n := 0
		for text, err := range jsonValues(r, name) {
			n++
			if err == nil {
				text = whole(text)
			}
			if !yield(text, err) || err != nil {
				return
			}
		}
		if n == 0 {
			yield(nil, usageError{name + " holds no JSON value", ""})
		}
	}
}

// jsonValues yields the JSON values of r one after another, as soon as each is complete.
func jsonValues(r io.Reader, name string) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		dec := json.NewDecoder(newTextReader(r))
		for {
			var text json.RawMessage
			err := dec.Decode(&text)
			if err == io.EOF {
				return
			}
			if err != nil {
				err = usageError{fmt.Sprintf("%s: %v (near byte %d)", name, err, dec.InputOffset()), ""}
			}
			if !yield(text, err) || err != nil {
				return
			}
		}
	}
}

// whole makes params of one JSON value: what is neither object nor array is
// the only positional argument.
func whole(text json.RawMessage) json.RawMessage {
	if c := text[rpc.SkipSpace(text, 0)]; c == '{' || c == '[' {
		return text
	}
	return json.RawMessage("[" + string(text) + "]")
}

// oneParams makes params of arguments that are neither @file nor "-".
func oneParams(args []string) (json.RawMessage, error) {
	if len(args) == 0 {
		return nil, nil
	}
	if len(args) == 1 {
		if first := strings.TrimLeft(args[0], " \t\r\n"); first != "" && (first[0] == '{' || first[0] == '[') {
			if _, err := rpc.Parse([]byte(args[0])); err != nil {
				return nil, usageError{"the arguments are not JSON: " + err.Error(), `quote JSON for the shell: '{"key": "value"}'`}
			}
			return json.RawMessage(args[0]), nil
		}
	}
	named, positional := []byte{'{'}, []byte{'['}
	seen := make(map[string]bool)
	for _, arg := range args {
		name, value, isNamed, err := namedArgument(arg)
		if err != nil {
			return nil, err
		}
		if isNamed {
			if seen[name] {
				return nil, usageError{fmt.Sprintf("argument %q is given twice", name), ""}
			}
			seen[name] = true
			if len(named) > 1 {
				named = append(named, ',')
			}
			named = append(rpc.AppendString(named, name, false), ':')
			named = append(named, value...)
			continue
		}
		if _, err := rpc.Parse([]byte(arg)); err != nil {
			return nil, usageError{
				fmt.Sprintf("argument %q is neither key=value nor JSON", arg),
				fmt.Sprintf(`a string is named, key=%s, or quoted twice: '"%s"'`, arg, arg),
			}
		}
		if len(positional) > 1 {
			positional = append(positional, ',')
		}
		positional = append(positional, arg...)
	}
	switch {
	case len(positional) == 1:
		return append(named, '}'), nil
	case len(named) == 1:
		return append(positional, ']'), nil
	}
	return nil, usageError{"arguments with and without a name do not go together", "name all of them, or none"}
}

// namedArgument reads k=text, k:=json, k=@file and k:=@file.
func namedArgument(arg string) (name string, value []byte, ok bool, err error) {
	i := strings.IndexByte(arg, '=')
	if i <= 0 {
		return "", nil, false, nil
	}
	name, text := arg[:i], arg[i+1:]
	isJSON := strings.HasSuffix(name, ":")
	name = strings.TrimSuffix(name, ":")
	if !isName(name) {
		return "", nil, false, nil
	}
	content := []byte(text)
	if file, ok := strings.CutPrefix(text, "@"); ok {
		if content, err = readText(file); err != nil {
			return name, nil, true, err
		}
	}
	if !isJSON {
		text, err := checkedText(content, fmt.Sprintf("argument %q", name))
		if err != nil {
			return name, nil, true, err
		}
		return name, rpc.AppendString(nil, text, false), true, nil
	}
	v, err := rpc.Parse(content)
	if err != nil {
		return name, nil, true, usageError{
			fmt.Sprintf("argument %q is not JSON: %v", name, err), fmt.Sprintf("for a string: %s=%s", name, text),
		}
	}
	raw, _ := v.Raw()
	return name, raw, true, nil
}

// isName reports whether s may be the name of an argument: a letter or
// underscore, then those, digits, dots and dashes.
func isName(s string) bool {
	for i, c := range []byte(s) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c >= 0x80
		if !letter && (i == 0 || !(c >= '0' && c <= '9' || c == '.' || c == '-')) {
			return false
		}
	}
	return s != "" && utf8.ValidString(s)
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, usageError{err.Error(), ""}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, usageError{err.Error(), ""}
	}
	if len(text) > maxFile {
		return nil, usageError{name + " is larger than 16 MiB, which no call can carry", ""}
	}
	return text, nil
}
