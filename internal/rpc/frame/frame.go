// Package frame reads and writes the lines of the native protocol: one JSON
// object each, ended by a line feed. It is used by the hub and by its clients
// and knows neither connections nor calls. docs/frame-format.md has the schema.
package frame

import (
	"fmt"
	"slices"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// MaxLine is how many bytes a line may have before its line feed.
const MaxLine = 16 << 20

// Words of the action member.
const (
	Request = "rpc_request"
	Reply   = "rpc_reply"
	Chunk   = "rpc_chunk"
	End     = "rpc_end"
	Credit  = "rpc_credit"
	Cancel  = "rpc_cancel"
	Hello   = "hello"
	Goodbye = "goodbye"
)

// Frame is the envelope of one line, of either direction. Values refer to the
// line: they are valid as long as it is. A member that is absent is undefined
// or zero.
type Frame struct {
	Action string // a constant of this package or one of the control actions; else the member's text, cut to 64 bytes
	Type   string // likewise

	RequestID rpc.Value // any JSON value
	Method    rpc.Value // a string in every frame that makes sense
	Params    rpc.Value
	Timeout   rpc.Value // of any type: see contract of the reader
	Result    rpc.Value
	Data      rpc.Value // item of a stream
	Error     rpc.Value
	ErrorKind rpc.Value
	ErrorData rpc.Value
	Retry     rpc.Value

	TraceParent rpc.Value // W3C trace context of a request
	TraceState  rpc.Value
	Hops        rpc.Value // of a request: how often it was forwarded; its reader judges it

	Stream bool   // the caller takes the result as a stream
	Seq    uint64 // of an item or event; 0 when absent
	N      uint64 // credit

	Whole rpc.Value // the object itself, for members that are not above: see Member
}

// Reason says in one word why a line is no frame. Reasons are metric labels.
type Reason string

// The reasons of Parse and LineReader, and those that a server adds.
const (
	BadJSON       Reason = "json"           // no JSON text, or more than one
	BadUTF8       Reason = "utf8"           // bytes that are no UTF-8
	NotObject     Reason = "not_object"     // JSON, but no object
	Duplicate     Reason = "duplicate_key"  // an envelope member occurs twice
	BadType       Reason = "type"           // an envelope member of the wrong type
	BadToken      Reason = "token"          // NaN, Infinity or a lone surrogate in the envelope
	OverLimit     Reason = "limit"          // nesting, digits or members
	TooLong       Reason = "too_long"       // the line is longer than MaxLine
	NoRequestID   Reason = "no_request_id"  // a frame of a call without it
	NoMethod      Reason = "no_method"      // a request without it
	UnknownAction Reason = "unknown_action" // neither action nor type is known
	Misplaced     Reason = "misplaced"      // a known frame where it means nothing
)

// Reasons lists every reason, for code that needs one series per reason.
func Reasons() []Reason {
	return []Reason{BadJSON, BadUTF8, NotObject, Duplicate, BadType, BadToken, OverLimit, TooLong, NoRequestID, NoMethod, UnknownAction, Misplaced}
}

// Error is what is wrong with a line.
type Error struct {
	Reason Reason
	Offset int // of the byte at which it was noticed
	Text   string
}

func (e *Error) Error() string {
	if e.Reason == TooLong {
		return e.Text
	}
	return fmt.Sprintf("%s at byte %d", e.Text, e.Offset)
}

// ID returns the JSON text of the frame's request id; nil when it has none.
func (f *Frame) ID() []byte {
	raw, _ := f.RequestID.Raw()
	return raw
}

// Trace returns the trace context of a request; none if it is not well formed.
func (f *Frame) Trace() rpc.TraceContext {
	if f.TraceParent.IsUndefined() {
		return rpc.TraceContext{}
	}
	return rpc.ParseTrace(Text(f.TraceParent), Text(f.TraceState))
}

// MethodName returns the method's name. Without escapes in it, it refers to
// the line. A method that is not a string gives its JSON text.
func (f *Frame) MethodName() []byte { return text(f.Method) }

// Text returns the content of a string member; "" for anything else.
func Text(v rpc.Value) string {
	if v.Kind() != '"' {
		return ""
	}
	return string(text(v))
}

func text(v rpc.Value) []byte {
	raw, _ := v.Raw()
	if len(raw) < 2 || raw[0] != '"' {
		return raw
	}
	if slices.Contains(raw, '\\') {
		return []byte(rpc.Unquote(raw))
	}
	return raw[1 : len(raw)-1]
}

// Member returns the last member of the frame with that name, undefined when
// there is none. It reads the line again: it is for control frames.
func (f *Frame) Member(name string) rpc.Value {
	var found rpc.Value
	for key, v := range f.Whole.Members() {
		if rpc.NameIs(key, name) {
			found = v
		}
	}
	return found
}
