package client

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Kind says what sort of failure an Error is.
type Kind string

// The kinds that the hub sends, and two that arise in the client itself.
const (
	KindNotFound        Kind = "not_found"       // no such method, or what it looked for does not exist; see Error.NoMethod
	KindHandler         Kind = "handler"         // the method ran and failed in its own way
	KindSerialization   Kind = "serialization"   // the method ran, its result could not be carried
	KindInvalidParams   Kind = "invalid_params"  // the arguments do not fit the method
	KindUnauthenticated Kind = "unauthenticated" // the hub does not know who calls
	KindPermission      Kind = "permission"      // the hub knows, and does not allow it
	KindTimeout         Kind = "timeout"         // no answer in time, said by the hub or by the context
	KindCancelled       Kind = "cancelled"       // the call was cancelled, here or there
	KindOverloaded      Kind = "overloaded"      // a limit of the hub is reached
	KindUnavailable     Kind = "unavailable"     // the hub is shutting down, or a provider is gone
	KindConflict        Kind = "conflict"        // a condition of a write did not hold
	KindCompacted       Kind = "compacted"       // the history asked for is no longer kept
	KindTooLarge        Kind = "too_large"       // over a limit of size
	KindDuplicate       Kind = "duplicate"       // an id that is still in use
	KindInternal        Kind = "internal"        // a defect in the hub

	KindDisconnected Kind = "disconnected" // the connection could not be made or ended; never sent by the hub
	KindMalformed    Kind = "malformed"    // the other side broke the protocol, or a value is not JSON; never sent by the hub
)

// Retry says whether a failed call may simply be made again.
type Retry string

// The values of Error.Retry.
const (
	RetrySafe    Retry = "safe"    // it did not run, or it only reads
	RetryUnsafe  Retry = "unsafe"  // it ran
	RetryUnknown Retry = "unknown" // it may have run
)

// Error is a failed call or connection. It is never changed once returned.
// errors.Is matches an *Error whose only field is Kind, and context.Canceled
// and context.DeadlineExceeded where the failure means just that.
type Error struct {
	Kind    Kind
	Message string          // for people; never empty when it comes from the hub
	Method  string          // the method that was called; "" when the failure concerns the connection
	Retry   Retry           // never empty
	Data    json.RawMessage // what the hub adds for programs; nil for nothing

	noMethod bool
	cause    error
}

// Error returns the message, after the name of the method unless it names that itself.
func (e *Error) Error() string {
	text := e.Message
	if text == "" {
		text = strings.ReplaceAll(string(e.Kind), "_", " ")
	}
	if rest, ok := strings.CutPrefix(text, e.Method); e.Method == "" || ok && strings.IndexAny(rest, " :") == 0 {
		return text
	}
	if text == noMethodPrefix+e.Method {
		return text
	}
	return e.Method + ": " + text
}

// Unwrap returns the error of the context or the system that led to e, if any.
func (e *Error) Unwrap() error { return e.cause }

// Is makes errors.Is(err, &client.Error{Kind: client.KindConflict}) work.
func (e *Error) Is(target error) bool {
	switch target {
	case context.DeadlineExceeded:
		return e.Kind == KindTimeout
	case context.Canceled:
		return e.Kind == KindCancelled && e.cause != nil && errors.Is(e.cause, context.Canceled)
	}
	t, ok := target.(*Error)
	return ok && t.Kind == e.Kind && t.Message == "" && t.Method == ""
}

// NoMethod reports whether the hub has no method of the name that was called,
// in contrast to a method that did not find something.
func (e *Error) NoMethod() bool {
	return e.Kind == KindNotFound && e.noMethod
}

const noMethodPrefix = "method not found: "

// ErrClosed is wrapped by the errors of calls on a Client that was closed.
var ErrClosed = errors.New("client is closed")

// KindOf returns the kind of an error returned by this package, "" for nil,
// and Internal for what is no *Error.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return KindInternal
}

const noAnswer = "no answer in time"

// ended makes the error of a call whose context is over.
func ended(ctx context.Context, method string, retry Retry) *Error {
	err := ctx.Err()
	e := &Error{Kind: KindCancelled, Message: "cancelled", Method: method, Retry: retry, cause: err}
	if errors.Is(err, context.DeadlineExceeded) {
		e.Kind, e.Message = KindTimeout, noAnswer
	}
	if cause := context.Cause(ctx); cause != err {
		e.Message, e.cause = cause.Error(), errors.Join(err, cause)
	}
	return e
}

// of returns a copy of e that names the method. A method that only reads may be
// called again however its connection ended.
func (e *Error) of(method string) *Error {
	c := *e
	c.Method = method
	if c.Kind == KindDisconnected && c.Retry == RetryUnknown && reads[method] {
		c.Retry = RetrySafe
	}
	return &c
}

func disconnected(cause error, retry Retry) *Error {
	return &Error{Kind: KindDisconnected, Message: cause.Error(), Retry: retry, cause: cause}
}

// NoMethod makes the error of a method that does not exist, for handlers and tests.
func NoMethod(method string) *Error {
	return &Error{Kind: KindNotFound, Message: noMethodPrefix + rpc.CleanText(method, 64), Method: method, Retry: RetrySafe, noMethod: true}
}
