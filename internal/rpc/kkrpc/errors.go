package kkrpc

import (
	"bytes"
	"errors"
	"slices"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// remoteError is what a kkrpc peer threw, whole: the cause of the rpc.Error that
// methods and other protocols see. It goes to other kkrpc peers as it came.
type remoteError struct {
	message string
	extra   []rpc.Named // own members beside name, message and stack
}

func (e *remoteError) Error() string { return e.message }

// fromWire makes the rpc.Error of an error that the peer sent: a string, or an
// object with name and message (classic) or n and m (compact).
func fromWire(d Dialect, v rpc.Value) *rpc.Error {
	if v.Kind() == '"' {
		return rpc.HandlerError("", text(v))
	}
	e := &rpc.Error{Code: rpc.CodeHandler, Ran: rpc.RanYes}
	if v.Kind() != '{' {
		e.Message = "the peer failed without saying why"
		return e
	}
	names := [...]string{"name", "message", "stack"}
	if d == Compact {
		names = [...]string{"n", "m", "s"}
	}
	r := new(remoteError)
	for key, x := range v.Members() {
		switch name := rpc.Unquote(key); name {
		case names[0]:
			e.Name = text(x)
		case names[1]:
			e.Message = text(x)
		case names[2]: // where it happened is nobody else's business
		default:
			r.extra = append(r.extra, rpc.Named{Name: name, Value: x.Own()})
		}
	}
	if e.Name == "Error" {
		e.Name = ""
	}
	if e.Message == "" {
		e.Message = "RPC error"
	}
	r.message = e.Message
	r.takeFacts(e)
	return e.Because(r)
}

// takeFacts reads what another hub says about its error.
func (r *remoteError) takeFacts(e *rpc.Error) {
	code, ran := text(r.member("code")), text(r.member("ran"))
	e.Data = r.member("data")
	if code == "" || ran == "" || !slices.Contains(rpc.Codes(), rpc.Code(code)) {
		return // members of some other program
	}
	e.Code = rpc.Code(code)
	switch ran {
	case "no":
		e.Ran = rpc.RanNo
	case "yes":
		e.Ran = rpc.RanYes
	default:
		e.Ran = rpc.RanUnknown
	}
	if e.Name == codeNames[e.Code] {
		e.Name = ""
	}
}

func (r *remoteError) member(name string) rpc.Value {
	for _, m := range r.extra {
		if m.Name == name {
			return m.Value
		}
	}
	return rpc.Value{}
}

// codeNames are the names of errors that no handler has named; what is not listed is "Error".
var codeNames = map[rpc.Code]string{
	rpc.CodeNotFound:         "NotFound",
	rpc.CodeInvalidParams:    "TypeError",
	rpc.CodeUnauthenticated:  "PermissionDenied",
	rpc.CodePermissionDenied: "PermissionDenied",
	rpc.CodeDeadlineExceeded: "TimeoutError",
	rpc.CodeCancelled:        "Cancelled",
	rpc.CodeOverloaded:       "Overloaded",
	rpc.CodeUnavailable:      "Unavailable",
	rpc.CodeConflict:         "Conflict",
	rpc.CodeCompacted:        "Compacted",
	rpc.CodeTooLarge:         "TooLarge",
	rpc.CodeSerialization:    "TypeError",
}

// wireName returns name and message of an error, neither ever empty: an empty
// one would be taken for success, or lose the other.
func wireName(e *rpc.Error) (name, message string) {
	message = e.Text()
	switch {
	case e.Name != "":
		name = rpc.CleanText(e.Name, 128)
	case e.Code == rpc.CodeNotFound && e.Method != "":
		name = "TypeError"
	case e.Code == rpc.CodeInternal:
		message = "internal error"
	default:
		name = codeNames[e.Code]
	}
	if name == "" {
		name = "Error"
	}
	return name, message
}

// appendErrorObject appends the object form of an error in either dialect.
func appendErrorObject(dst []byte, d Dialect, e *rpc.Error, f rpc.Form) []byte {
	name, message := wireName(e)
	if d == Compact {
		dst = append(dst, `{"n":`...)
		dst = rpc.AppendString(dst, name, f.ASCII)
		dst = append(dst, `,"m":`...)
	} else {
		dst = append(dst, `{"name":`...)
		dst = rpc.AppendString(dst, name, f.ASCII)
		dst = append(dst, `,"message":`...)
	}
	dst = rpc.AppendString(dst, message, f.ASCII)
	r, _ := errors.AsType[*remoteError](error(e))
	facts := [...]rpc.Named{
		{Name: "code", Value: rpc.String(string(e.Code))},
		{Name: "ran", Value: rpc.String(e.Ran.String())},
		{Name: "data", Value: e.Data},
	}
	for _, m := range facts {
		if m.Value.IsUndefined() || r != nil && !r.member(m.Name).IsUndefined() {
			continue
		}
		dst = appendMember(dst, m, f)
	}
	if r == nil {
		return append(dst, '}')
	}
	for _, m := range r.extra {
		switch m.Name {
		case "name", "message", "stack", "n", "m", "s": // they mean something in the other dialect
			continue
		}
		dst = appendMember(dst, m, f)
	}
	return append(dst, '}')
}

// appendMember appends a member of an error, unless nothing can carry it.
func appendMember(dst []byte, m rpc.Named, f rpc.Form) []byte {
	from := len(dst)
	dst = append(dst, ',')
	dst = rpc.AppendString(dst, m.Name, f.ASCII)
	dst = append(dst, ':')
	dst, err := m.Value.AppendJSON(dst, f)
	if err != nil {
		return dst[:from]
	}
	return dst
}

// The texts that the libraries themselves use for what is not there.

// missingMethod is the error of a call whose path names no method. parent is
// the position of the first part that does not exist.
func missingMethod(d Dialect, path []string, parent int) *rpc.Error {
	return missing(d, path, parent, "Method path", func(name string) string {
		if d == Compact {
			return name + " is not a function"
		}
		return "Method " + name + " is not a function"
	})
}

// missingConstructor is the error of every construct: there are no constructors.
func missingConstructor(d Dialect, path []string, parent int, exists bool) *rpc.Error {
	return missing(d, path, parent, "Constructor path", func(name string) string {
		switch {
		case d == Classic:
			return name + " is not a constructor function"
		case exists:
			return name + " is not a constructor"
		}
		return "undefined is not a constructor"
	})
}

func missing(d Dialect, path []string, parent int, what string, last func(name string) string) *rpc.Error {
	name := dotted(path)
	e := &rpc.Error{Code: rpc.CodeNotFound, Ran: rpc.RanNo, Method: name}
	switch {
	case name == "":
		e.Method = " " // the message is what counts: it is not about a key
		e.Message = last("")
	case parent >= len(path)-1:
		e.Message = last(name)
	case d == Compact:
		e.Message = "Cannot access " + rpc.CleanText(path[parent+1], 256) + " on undefined"
	default:
		e.Message = what + " " + name + " not found at " + rpc.CleanText(path[parent], 256)
	}
	return e
}

// missingProperty is the error of reading or writing what does not exist.
func missingProperty(d Dialect, path []string, at int) *rpc.Error {
	e := &rpc.Error{Code: rpc.CodeNotFound, Ran: rpc.RanYes}
	if d == Compact {
		e.Message = "Cannot access " + rpc.CleanText(path[min(at+1, len(path)-1)], 256) + " on undefined"
	} else {
		e.Message = "Property path " + dotted(path) + " not found at " + rpc.CleanText(path[at], 256)
	}
	return e
}

// dotted joins a path for a message.
func dotted(path []string) string {
	var b bytes.Buffer
	for i, p := range path {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(p)
		if b.Len() > 512 {
			break
		}
	}
	return rpc.CleanText(b.String(), 256)
}

func invalid(message string) *rpc.Error {
	return &rpc.Error{Code: rpc.CodeInvalidParams, Message: message, Ran: rpc.RanNo}
}

var (
	errGone     = &rpc.Error{Code: rpc.CodeUnavailable, Message: "the other side of the connection is gone"}
	errTooLarge = &rpc.Error{Code: rpc.CodeTooLarge, Message: "the result is larger than a message may be", Ran: rpc.RanYes}
	errTables   = &rpc.Error{Code: rpc.CodeOverloaded, Message: "too many callbacks, calls and streams are open on this connection", Ran: rpc.RanNo}
	errNoRefs   = &rpc.Error{Code: rpc.CodeInvalidParams, Message: "Remote reference operations require kkrpc/remote-refs", Ran: rpc.RanNo}
	errMarker   = &rpc.Error{Code: rpc.CodeSerialization, Message: "the value looks like a marker of the protocol and would be taken for one", Ran: rpc.RanYes}
)
