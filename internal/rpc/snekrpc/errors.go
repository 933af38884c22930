package snekrpc

import (
	"fmt"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// nameOf returns the Python exception that e is on this wire.
func nameOf(e *rpc.Error) string {
	switch e.Code {
	case rpc.CodeNotFound:
		switch {
		case e.Name != "":
			return e.Name
		case e.Method != "":
			return "AttributeError"
		}
		return "KeyError"
	case rpc.CodeInvalidParams, rpc.CodeDuplicate:
		return "TypeError"
	case rpc.CodeUnauthenticated, rpc.CodePermissionDenied:
		return "PermissionError"
	case rpc.CodeDeadlineExceeded:
		return "TimeoutError"
	case rpc.CodeCancelled:
		return "CancelledError"
	case rpc.CodeOverloaded:
		return "OverloadedError"
	case rpc.CodeUnavailable:
		return "ConnectionError"
	case rpc.CodeConflict:
		return "ConflictError"
	case rpc.CodeCompacted:
		return "CompactedError"
	case rpc.CodeTooLarge, rpc.CodeSerialization:
		return "ValueError"
	case rpc.CodeHandler:
		if e.Name != "" {
			return rpc.CleanText(e.Name, 128)
		}
	}
	return "RuntimeError"
}

// maxText bounds the message of a method's own error.
const maxText = 16 << 10

// textOf returns the message of e. What a method says itself is passed on as it is.
func textOf(e *rpc.Error) string {
	switch {
	case e.Code == rpc.CodeInternal:
		return "internal error"
	case e.Code == rpc.CodeHandler && len(e.Message) <= maxText:
		return e.Message
	}
	return e.Text()
}

// noService is the error of a call to a service that does not exist.
func noService(service string) *rpc.Error {
	e := *rpc.NoMethod(service)
	e.Name, e.Message = "KeyError", "'"+rpc.CleanText(service, 64)+"'"
	return &e
}

// noCommand is the error of a call to a command that its service does not have.
func noCommand(service, command string) *rpc.Error {
	e := *rpc.NoMethod(service + "." + command)
	e.Name = "AttributeError"
	e.Message = fmt.Sprintf("'%s' object has no attribute '%s'", className(service), rpc.CleanText(command, 64))
	return &e
}

// className is what Python would call the class of a service.
func className(service string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(service, "_") {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	if b.Len() == 0 {
		return service
	}
	return rpc.CleanText(b.String(), 64)
}

// badCall is the error for arguments that do not fit, in Python's words.
func badCall(service, command, format string, args ...any) *rpc.Error {
	return &rpc.Error{
		Code: rpc.CodeInvalidParams, Ran: rpc.RanNo,
		Message: className(service) + "." + command + "() " + fmt.Sprintf(format, args...),
	}
}
