package capnweb

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// protocolError ends a session: the peer broke a rule of the protocol.
type protocolError struct {
	name    string // of the JavaScript error
	message string
	quote   string // what message repeats of the peer's; not for logs
}

func (e *protocolError) Error() string { return e.message }

// broken makes a protocol error of JavaScript's class Error.
func broken(format string, args ...any) *protocolError {
	return &protocolError{name: "Error", message: fmt.Sprintf(format, args...)}
}

// quoting makes a protocol error that repeats text of the peer, at the verb %s.
func quoting(name, format string, text []byte) *protocolError {
	quote := clip(text)
	return &protocolError{name, fmt.Sprintf(format, quote), quote}
}

// Plain is the text of why a session ended, for logs: what it repeats of the
// peer's messages, which may be anybody's data, is left out.
func Plain(err error) string {
	if e, ok := errors.AsType[*protocolError](err); ok && e.quote != "" {
		return strings.Replace(e.message, e.quote, "...", 1)
	}
	return err.Error()
}

// unknown is the protocol error of an array that stands for no value.
func unknown(text []byte) *protocolError {
	return quoting("TypeError", "unknown special value: %s", text)
}

// clip shortens text of the peer for a message.
func clip(text []byte) string {
	const limit = 400
	return rpc.CleanText(string(text), limit)
}

// remoteError is what a Cap'n Web peer threw, whole: it is the cause of the
// rpc.Error that methods and other protocols see, and goes to other Cap'n Web
// peers as it came.
type remoteError struct {
	name    string
	message string
	props   *rpc.Map
	thrown  rpc.Value // what was thrown, when it was no error
	isValue bool
}

func (e *remoteError) Error() string {
	if e.isValue {
		return "a value that is no error was thrown"
	}
	return e.message
}

// remoteOf returns the cause of e that came from a Cap'n Web peer, nil if there is none.
func remoteOf(e *rpc.Error) *remoteError {
	r, _ := errors.AsType[*remoteError](error(e))
	return r
}

// fromRemote makes the rpc.Error of something a peer threw.
func fromRemote(r *remoteError) *rpc.Error {
	e := &rpc.Error{Code: rpc.CodeHandler, Message: r.message, Ran: rpc.RanYes}
	if r.name != "Error" {
		e.Name = r.name
	}
	if r.isValue {
		e.Message = r.Error()
		if s, err := r.thrown.AsString(); err == nil {
			e.Message = s
		}
	}
	if r.props != nil {
		takeProps(e, r.props)
	}
	return e.Because(r)
}

// takeProps reads what another hub says about its error.
func takeProps(e *rpc.Error, props *rpc.Map) {
	code, _ := props.Get("code")
	ran, _ := props.Get("ran")
	name, ok := code.(string)
	if _, says := ran.(string); !ok || !says {
		return // properties of some other program
	}
	for _, c := range rpc.Codes() {
		if string(c) == name {
			e.Code = c
		}
	}
	switch ran {
	case "no":
		e.Ran = rpc.RanNo
	case "yes":
		e.Ran = rpc.RanYes
	default:
		e.Ran = rpc.RanUnknown
	}
	if data, ok := props.Get("data"); ok {
		e.Data = rpc.TreeValue(data)
	}
}

// thrownValue makes the error of a rejection whose reason is v.
func thrownValue(v rpc.Value) *rpc.Error {
	if e, ok := v.Tree().(*rpc.Error); ok && e != nil {
		return e
	}
	return fromRemote(&remoteError{thrown: v, isValue: true})
}

// wireName returns the JavaScript class and the message of an error.
func wireName(e *rpc.Error) (name, message string) {
	name, message = "Error", e.Text()
	switch {
	case e.Name != "":
		name = e.Name
	case e.Code == rpc.CodeNotFound && e.Method != "":
		return "TypeError", "'" + e.Method + "' is not a function."
	case e.Code == rpc.CodeInvalidParams, e.Code == rpc.CodeSerialization:
		name = "TypeError"
	case e.Code == rpc.CodeTooLarge:
		name = "RangeError"
	case e.Code == rpc.CodeInternal:
		message = "internal error"
	}
	return name, message
}

// plain reports whether an error says nothing beyond name and message.
func plain(e *rpc.Error) bool { return e.Code == rpc.CodeHandler && e.Data.IsUndefined() }

func notFunction(path string) *rpc.Error {
	short := rpc.CleanText(path, 256)
	e := &rpc.Error{Code: rpc.CodeNotFound, Message: "'" + short + "' is not a function.", Method: short, Ran: rpc.RanNo}
	if short == "" { // no method to name, but none all the same
		e.Name = "TypeError"
	}
	return e
}

func readOfUndefined(part string) *rpc.Error {
	return &rpc.Error{Code: rpc.CodeHandler, Name: "TypeError", Ran: rpc.RanNo,
		Message: fmt.Sprintf("Cannot read properties of undefined (reading '%s')", rpc.CleanText(part, 256))}
}

var (
	errGone     = &rpc.Error{Code: rpc.CodeUnavailable, Message: "the other side of the connection is gone"}
	errDisposed = &rpc.Error{Code: rpc.CodeUnavailable, Message: "the reference was disposed", Ran: rpc.RanNo}
	errUnread   = &rpc.Error{Code: rpc.CodeHandler, Message: "ReadableStream RPC stub was disposed without being consumed"}
	errUnclosed = &rpc.Error{Code: rpc.CodeHandler, Message: "WritableStream RPC stub was disposed without calling close()"}
	errClosed   = &rpc.Error{Code: rpc.CodeHandler, Name: "TypeError", Message: "the stream was closed", Ran: rpc.RanNo}
	errLocked   = &rpc.Error{Code: rpc.CodeInvalidParams, Message: "the stream has a reader already", Ran: rpc.RanNo}
)

// IsProtocolError reports whether a session ended because of err: a message of
// the peer that broke the protocol or a limit of it.
func IsProtocolError(err error) bool {
	_, ok := errors.AsType[*protocolError](err)
	return ok
}
