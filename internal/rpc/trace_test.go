package rpc

import (
	"strings"
	"testing"
)

func TestParseTrace(t *testing.T) {
	const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	good := "00-" + trace + "-" + span + "-01"
	for _, c := range []struct{ parent, want string }{
		{good, good},
		{"cc-" + trace + "-" + span + "-01-what-comes", "cc-" + trace + "-" + span + "-01"},
		{"cc-" + trace + "-" + span + "-01what-comes", ""},
		{good + "-more", ""},
		{"ff-" + trace + "-" + span + "-01", ""},
		{"00-" + strings.ToUpper(trace) + "-" + span + "-01", ""},
		{"00-" + strings.Repeat("0", 32) + "-" + span + "-01", ""},
		{"00-" + trace + "-" + strings.Repeat("0", 16) + "-01", ""},
		{"00-" + trace + "-" + span + "-0g", ""},
		{"00-" + trace + "-" + span, ""},
		{"", ""},
	} {
		got := ParseTrace(c.parent, "a=1")
		if got.Parent != c.want || (got.State == "a=1") != (c.want != "") {
			t.Errorf("%q: %+v, want %q", c.parent, got, c.want)
		}
		if c.want != "" && (got.TraceID() != trace || got.SpanID() != span || !got.Sampled()) {
			t.Errorf("%q: trace %q, span %q, sampled %v", c.parent, got.TraceID(), got.SpanID(), got.Sampled())
		}
	}
	for _, state := range []string{strings.Repeat("x", 513), "a=\x01", "a=\u00e9"} {
		if got := ParseTrace(good, state); got.State != "" || got.Parent != good {
			t.Errorf("state %q: %+v", state, got)
		}
	}
	for flags, want := range map[string]bool{"00": false, "01": true, "02": false, "03": true, "0a": false, "0b": true, "ff": true} {
		if got := ParseTrace(good[:53]+flags, ""); got.Sampled() != want {
			t.Errorf("flags %s: sampled %v", flags, got.Sampled())
		}
	}
	if none := (TraceContext{}); none.TraceID() != "" || none.SpanID() != "" || none.Sampled() {
		t.Error("no trace has ids")
	}
}
