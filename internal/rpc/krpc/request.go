package krpc

import (
	"errors"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// The error codes of the protocol.
const (
	codeParse          = -32700
	codeInvalidRequest = -32600
	codeNoMethod       = -32601
	codeRaised         = -32000
	codeUnhandled      = -32001
	codeMissingFile    = -32002
	codeNoJSON         = -32003
)

// messages has the exact texts of the codes.
var messages = map[int]string{
	codeParse:          "Parse error.",
	codeInvalidRequest: "Invalid request.",
	codeNoMethod:       "Method not found.",
	codeRaised:         "Method call raised an exception.",
	codeUnhandled:      "Unhandled exception.",
	codeMissingFile:    "Missing file object.",
	codeNoJSON:         "Object is not JSON serializable.",
}

// failure is an error as the protocol has it, answered with status 200.
type failure struct {
	code int
	info string
}

func (f *failure) Error() string { return messages[f.code] }

// filePrefix begins a parameter that stands for a file of the same request.
const filePrefix = "__file__:"

// request is a decoded call. It refers to the text that it was decoded from.
type request struct {
	method string // "" where the name is not a string
	params rpc.Value
	hook   rpc.Value // pmhparams
}

// parseRequest decodes the JSON of a call.
func parseRequest(text []byte) (*request, *failure) {
	v, err := rpc.Parse(rpc.SkipBOM(text))
	if err != nil {
		info := ""
		if e, ok := errors.AsType[*rpc.SyntaxError](err); ok && e.Limit {
			info = e.Error()
		}
		return nil, &failure{codeParse, info}
	}
	if v.Kind() != '{' {
		return nil, &failure{codeInvalidRequest, "The call is not an object."}
	}
	q := new(request)
	q.params, _ = v.Member("params")
	q.hook, _ = v.Member("pmhparams")
	name, _ := v.Member("method")
	if name.Kind() == '"' {
		if q.method, _ = name.AsString(); q.method == "" {
			return nil, &failure{codeInvalidRequest, "Method not specified."}
		}
	}
	return q, nil
}

// arguments makes the arguments of a call of a parameters value: an array is
// positional, an object named, what Python takes for false is none, anything
// else is one argument. Strings on the top level that refer to files become
// those files; files is nil where there can be none.
func arguments(params rpc.Value, files map[string]*rpc.File, refer bool) (rpc.Args, *failure) {
	switch {
	case falsy(params):
		return rpc.Args{}, nil
	case params.Kind() == '[':
		if !refer {
			return rpc.WholeArgs(params), nil
		}
		var list []rpc.Value
		found := false
		for v := range params.Elements() {
			f, missing := fileOf(v, files)
			if missing != nil {
				return rpc.Args{}, missing
			}
			if f != nil {
				v, found = rpc.TreeValue(f), true
			}
			list = append(list, v)
		}
		if !found {
			return rpc.WholeArgs(params), nil
		}
		return rpc.ListArgs(list...), nil
	case params.Kind() == '{':
		var named []rpc.Named
		found := false
		for key, v := range params.Members() {
			if refer {
				f, missing := fileOf(v, files)
				if missing != nil {
					return rpc.Args{}, missing
				}
				if f != nil {
					v, found = rpc.TreeValue(f), true
				}
			}
			named = append(named, rpc.Named{Name: rpc.Unquote(key), Value: v})
		}
		if !found {
			return rpc.WholeArgs(params), nil
		}
		return rpc.MixedArgs(nil, named), nil
	}
	if refer {
		f, missing := fileOf(params, files)
		if missing != nil {
			return rpc.Args{}, missing
		}
		if f != nil {
			params = rpc.TreeValue(f)
		}
	}
	return rpc.ListArgs(params), nil
}

// fileOf returns the file that v refers to, nil if it refers to none.
func fileOf(v rpc.Value, files map[string]*rpc.File) (*rpc.File, *failure) {
	if v.Kind() != '"' {
		return nil, nil
	}
	raw, _ := v.Raw()
	if raw[1] != filePrefix[0] && raw[1] != '\\' { // most strings
		return nil, nil
	}
	name := rpc.Unquote(raw)
	if !strings.HasPrefix(name, filePrefix) {
		return nil, nil
	}
	f := files[name]
	if f == nil {
		return nil, &failure{codeMissingFile, name}
	}
	return f, nil
}

// falsy reports whether Python takes v for false.
func falsy(v rpc.Value) bool {
	switch v.Kind() {
	case 0, 'n', 'f':
		return true
	case '"':
		raw, _ := v.Raw()
		return len(raw) == 2
	case '[':
		for range v.Elements() {
			return false
		}
		return true
	case '{':
		for range v.Members() {
			return false
		}
		return true
	case 't':
		return false
	}
	f, err := v.AsFloat()
	return err == nil && f == 0
}
