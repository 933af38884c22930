package rpc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unicode/utf8"
)

// Code says what kind of failure an Error is. Protocols turn it into their own
// wire words; nothing else does.
type Code string

// The codes. Only these appear as the code label of metrics, with CodeOK for success.
const (
	CodeOK               Code = "ok"
	CodeNotFound         Code = "not_found"
	CodeInvalidParams    Code = "invalid_params"
	CodeUnauthenticated  Code = "unauthenticated"
	CodePermissionDenied Code = "permission_denied"
	CodeDeadlineExceeded Code = "deadline_exceeded"
	CodeCancelled        Code = "cancelled"
	CodeOverloaded       Code = "overloaded"
	CodeUnavailable      Code = "unavailable"
	CodeConflict         Code = "conflict"
	CodeCompacted        Code = "compacted"
	CodeTooLarge         Code = "too_large"
	CodeSerialization    Code = "serialization" // a result that cannot be carried
	CodeDuplicate        Code = "duplicate"     // a call id that is still in flight
	CodeHandler          Code = "handler"       // the method ran and failed in its own way
	CodeInternal         Code = "internal"
)

// Codes lists every code, CodeOK first, for code that needs one series per code.
func Codes() []Code {
	return []Code{
		CodeOK, CodeNotFound, CodeInvalidParams, CodeUnauthenticated, CodePermissionDenied, CodeDeadlineExceeded,
		CodeCancelled, CodeOverloaded, CodeUnavailable, CodeConflict, CodeCompacted, CodeTooLarge, CodeSerialization,
		CodeDuplicate, CodeHandler, CodeInternal,
	}
}

// Ran says whether the method of a failed call was run, so that a caller knows
// whether a retry is safe.
type Ran uint8

// The zero Ran is RanUnknown: whoever knows better says so.
const (
	RanUnknown Ran = iota
	RanNo
	RanYes
)

func (r Ran) String() string {
	switch r {
	case RanNo:
		return "no"
	case RanYes:
		return "yes"
	default:
		return "unknown"
	}
}

// MaxErrorMessage is the most bytes of an error message that leave the hub.
const MaxErrorMessage = 1024

// Error is the one error type between methods and protocols. An Error is not
// changed after it was handed to Finish, so several goroutines may read it.
type Error struct {
	Code    Code
	Name    string // a handler's own name for it, such as "ValueError"; "" for most
	Message string // never empty on the wire: see Text
	Data    Value  // machine-readable detail; undefined for none
	Ran     Ran

	// Method says that Code not_found is about the method itself, not about
	// something that the method looked for.
	Method string

	cause error // for the log only
}

// Error returns code and message.
func (e *Error) Error() string {
	if e.Name != "" {
		return e.Name + ": " + e.Text()
	}
	return string(e.Code) + ": " + e.Text()
}

// Unwrap returns what caused e, which is for logs: it never leaves the hub.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is an *Error of the same code without message, so
// that errors.Is(err, &rpc.Error{Code: rpc.CodeConflict}) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Message == "" && t.Name == ""
}

// Text returns the message as it may leave the hub: never empty, valid UTF-8,
// control characters escaped, at most MaxErrorMessage bytes.
func (e *Error) Text() string {
	if e.Message == "" {
		return strings.ReplaceAll(string(e.Code), "_", " ")
	}
	return CleanText(e.Message, MaxErrorMessage)
}

// Errorf makes an Error of the given code. Whether the method ran follows from
// the code where it can.
func Errorf(code Code, format string, args ...any) *Error {
	e := &Error{Code: code, Message: fmt.Sprintf(format, args...), Ran: ranOf(code)}
	for _, a := range args {
		if err, ok := a.(error); ok {
			e.cause = err
		}
	}
	return e
}

// With returns a copy of e that carries data.
func (e *Error) With(data Value) *Error {
	c := *e
	c.Data = data
	return &c
}

// Because returns a copy of e whose cause, for the log, is err.
func (e *Error) Because(err error) *Error {
	c := *e
	c.cause = err
	return &c
}

func ranOf(code Code) Ran {
	switch code {
	case CodeInvalidParams, CodeUnauthenticated, CodePermissionDenied, CodeOverloaded, CodeUnavailable,
		CodeConflict, CodeCompacted, CodeTooLarge, CodeDuplicate:
		return RanNo
	case CodeNotFound, CodeHandler, CodeSerialization:
		return RanYes
	default:
		return RanUnknown
	}
}

// HandlerError makes the error of a method that failed in its own way. name may be "".
func HandlerError(name, message string) *Error {
	return &Error{Code: CodeHandler, Name: name, Message: message, Ran: RanYes}
}

// NoMethod is the error of a call to a name that is not in the table.
func NoMethod(name string) *Error {
	short := CleanText(name, 64)
	return &Error{Code: CodeNotFound, Message: "method not found: " + short, Method: short, Ran: RanNo}
}

// AsError turns what a handler returned into an Error. Errors that are no
// *Error are the handler's own failure and keep their message, but for paths of
// this machine; those of an ended context get the code of the reason.
func AsError(ctx context.Context, err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		if cause, ok := errors.AsType[*Error](context.Cause(ctx)); ok {
			return cause
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errDeadline.Because(err)
	}
	return &Error{Code: CodeHandler, Message: withoutPaths(err.Error(), err), Ran: RanYes, cause: err}
}

// withoutPaths returns text, the message of err, without the absolute paths of
// the file system that the errors in err name: where the hub keeps its files is
// not for callers.
func withoutPaths(text string, err error) string {
	hide := func(path string) {
		if len(path) > 1 && path[0] == '/' {
			text = strings.ReplaceAll(text, path, "...")
		}
	}
	switch e := err.(type) {
	case *fs.PathError:
		hide(e.Path)
	case *os.LinkError:
		hide(e.Old)
		hide(e.New)
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if next := e.Unwrap(); next != nil {
			text = withoutPaths(text, next)
		}
	case interface{ Unwrap() []error }:
		for _, next := range e.Unwrap() {
			text = withoutPaths(text, next)
		}
	}
	return text
}

// Why a call ends before its handler answered. They are the causes of its
// context (context.Cause) and, for those that the caller can still read, the answer.
var (
	errDeadline  = &Error{Code: CodeDeadlineExceeded, Message: "method did not answer in time"}
	ErrCancelled = &Error{Code: CodeCancelled, Message: "cancelled by the caller"}
	ErrPeerGone  = &Error{Code: CodeCancelled, Message: "the caller is gone"}
	ErrShutdown  = &Error{Code: CodeUnavailable, Message: "the hub is shutting down"}
	ErrByAdmin   = &Error{Code: CodeCancelled, Message: "cancelled by an administrator"}
	errDraining  = &Error{Code: CodeUnavailable, Message: "the hub is shutting down", Ran: RanNo}
)

// CleanText makes s fit for a message or a log line: valid UTF-8, control
// characters as \u escapes, at most limit bytes (cut at a character, with "..." ).
func CleanText(s string, limit int) string {
	clean := true
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= 0x7f {
			clean = false
			break
		}
	}
	if clean && len(s) <= limit {
		return s
	}
	var b strings.Builder
	b.Grow(min(len(s), limit))
	for _, r := range s {
		var part string
		switch {
		case r == utf8.RuneError:
			part = "\uFFFD"
		case IsControl(r):
			part = fmt.Sprintf("\\u%04x", r)
		default:
			part = string(r)
		}
		if b.Len()+len(part) > limit {
			return cutEnd(b.String(), limit)
		}
		b.WriteString(part)
	}
	return b.String()
}

func cutEnd(s string, limit int) string {
	return CutText(s, max(limit-3, 0)) + "..."
}

// CutText returns as many whole characters of the beginning of s as have at
// most limit bytes.
func CutText(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// CauseOf is why calls are cancelled when ctx has ended: its cause if that is an
// Error, else ErrShutdown.
func CauseOf(ctx context.Context) *Error {
	if e, ok := errors.AsType[*Error](context.Cause(ctx)); ok {
		return e
	}
	return ErrShutdown
}
