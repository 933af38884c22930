package kollabor

import (
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// Error kinds of the wire. The first three are what clients have always known;
// a reply with one of the others always has a text, or it would read as success.
const (
	kindNotFound      = "not_found"
	kindHandler       = "handler"
	kindSerialization = "serialization"
)

// kinds are the wire words of the codes.
var kinds = map[rpc.Code]string{
	rpc.CodeNotFound:         kindNotFound,
	rpc.CodeHandler:          kindHandler,
	rpc.CodeSerialization:    kindSerialization,
	rpc.CodeInvalidParams:    "invalid_params",
	rpc.CodeUnauthenticated:  "unauthenticated",
	rpc.CodePermissionDenied: "permission",
	rpc.CodeDeadlineExceeded: "timeout",
	rpc.CodeCancelled:        "cancelled",
	rpc.CodeOverloaded:       "overloaded",
	rpc.CodeUnavailable:      "unavailable",
	rpc.CodeConflict:         "conflict",
	rpc.CodeCompacted:        "compacted",
	rpc.CodeTooLarge:         "too_large",
	rpc.CodeInternal:         "internal",
	rpc.CodeDuplicate:        "duplicate",
}

var codes = func() map[string]rpc.Code {
	m := make(map[string]rpc.Code, len(kinds))
	for code, kind := range kinds {
		m[kind] = code
	}
	return m
}()

// CodeOf returns the code behind an error_kind; CodeHandler for an unknown one.
func CodeOf(kind string) rpc.Code {
	if code, ok := codes[kind]; ok {
		return code
	}
	return rpc.CodeHandler
}

// failure is e as the wire has it, for a method that may be nil. full says that
// the caller knows more than five members and three kinds.
func failure(e *rpc.Error, m *rpc.Method, full bool) frame.Failure {
	f := frame.Failure{Kind: kinds[e.Code], Text: e.Text()}
	if f.Kind == "" {
		f.Kind = kinds[rpc.CodeInternal]
	}
	if e.Code == rpc.CodeHandler && e.Name != "" {
		f.Text = rpc.CleanText(e.Name, 128) + ": " + f.Text
	}
	switch f.Kind {
	case kindNotFound, kindHandler, kindSerialization:
		if !full {
			return f
		}
	}
	f.Retry = retry(e, m)
	f.Data = e.Data
	f.NoMethod = e.Code == rpc.CodeNotFound && e.Method != ""
	return f
}

// retry says whether the same call may be sent again.
func retry(e *rpc.Error, m *rpc.Method) string {
	switch {
	case m != nil && m.ReadOnly(), e.Ran == rpc.RanNo:
		return "safe"
	case e.Ran == rpc.RanYes:
		return "unsafe"
	default:
		return "unknown"
	}
}

// errorOf is the error of a reply that a client sent for a call of the hub to
// that method.
func errorOf(f *frame.Frame, method string) *rpc.Error {
	kind, text := frame.Text(f.ErrorKind), frame.Text(f.Error)
	if kind == "" && text == "" {
		return nil
	}
	if codes[kind] == "" && text == "" {
		return nil // an unknown kind without a text is success, as clients read it
	}
	e := &rpc.Error{Code: CodeOf(kind), Message: text, Data: f.ErrorData.Own()}
	if e.Code == rpc.CodeNotFound && f.Member("no_method").Kind() == 't' {
		e.Method = rpc.CleanText(method, 64)
	}
	switch frame.Text(f.Retry) {
	case "safe":
		e.Ran = rpc.RanNo
	case "unsafe":
		e.Ran = rpc.RanYes
	case "":
		switch e.Code {
		case rpc.CodeHandler, rpc.CodeSerialization:
			e.Ran = rpc.RanYes
		case rpc.CodeNotFound, rpc.CodeInvalidParams, rpc.CodeOverloaded, rpc.CodeDuplicate:
			e.Ran = rpc.RanNo
		}
	}
	return e
}
