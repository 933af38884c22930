package rpc

// TraceContext is the W3C trace context (https://www.w3.org/TR/trace-context/)
// that came with a call. The zero TraceContext is none. What came in is passed
// on with the calls that a method makes: a hub is one more hop, not a new trace.
type TraceContext struct {
	Parent string // traceparent
	State  string // tracestate; only together with Parent
}

// Limits of a trace context, from the specification: a version 00 traceparent
// has 55 characters, and at least 512 of a tracestate should be passed on.
const (
	traceParentSize = 55
	maxTraceState   = 512
)

// ParseTrace checks what a caller sent: a traceparent that is not well formed,
// or that names no trace, is none, and a tracestate that is too long or not of
// printable ASCII is dropped, as the specification wants it.
func ParseTrace(parent, state string) TraceContext {
	if !validTraceParent(parent) {
		return TraceContext{}
	}
	t := TraceContext{Parent: parent[:traceParentSize]}
	if len(state) <= maxTraceState && printable(state) {
		t.State = state
	}
	return t
}

// TraceID returns the 32 hexadecimal digits of the trace, "" when there is none.
func (t TraceContext) TraceID() string {
	if t.Parent == "" {
		return ""
	}
	return t.Parent[3:35]
}

// SpanID returns the 16 hexadecimal digits of the caller's span, "" when there is none.
func (t TraceContext) SpanID() string {
	if t.Parent == "" {
		return ""
	}
	return t.Parent[36:52]
}

// Sampled reports whether the caller records the trace.
func (t TraceContext) Sampled() bool {
	if t.Parent == "" {
		return false
	}
	switch t.Parent[54] { // the lowest bit of the flags
	case '1', '3', '5', '7', '9', 'b', 'd', 'f':
		return true
	}
	return false
}

// validTraceParent reports whether p is version-traceid-spanid-flags in lower
// case. A later version may be longer, but begins like this one.
func validTraceParent(p string) bool {
	if len(p) < traceParentSize || p[2] != '-' || p[35] != '-' || p[52] != '-' || p[:2] == "ff" {
		return false
	}
	if len(p) > traceParentSize && (p[:2] == "00" || p[traceParentSize] != '-') {
		return false
	}
	return isHex(p[:2]) && isHex(p[3:35]) && isHex(p[36:52]) && isHex(p[53:55]) &&
		notZero(p[3:35]) && notZero(p[36:52])
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func notZero(s string) bool {
	for i := range len(s) {
		if s[i] != '0' {
			return true
		}
	}
	return false
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
