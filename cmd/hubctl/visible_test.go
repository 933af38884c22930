package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"plain é 漢 👩‍🚀\n\ttext\r\n":   "plain é 漢 👩‍🚀\n\ttext\r\n",
		"\x1b[1m\x07\x7f\u0085":       `\u001b[1m\u0007\u007f\u0085`,
		"a\rb\r":                      `a\u000db\u000d`,
		"\xff\x9b1m\xc3":              `\xff\x9b1m`, // the rest of the character may come
		"\u202eabc\u2069\u200f\u061c": `\u202eabc\u2069\u200f\u061c`,
		"\ufffd":                      "\ufffd",
	} {
		var out bytes.Buffer
		v := &visible{w: &out}
		for i := range len(in) { // byte by byte: the ends of writes mean nothing
			if in[i] == '\r' && i+1 < len(in) {
				continue
			}
			from := i
			if i > 0 && in[i-1] == '\r' {
				from--
			}
			if n, err := v.Write([]byte(in[from : i+1])); err != nil || n != i+1-from {
				t.Fatal(n, err)
			}
		}
		if out.String() != want {
			t.Errorf("%q is shown as %q, want %q", in, out.String(), want)
		}
		v.flush()
		if got := out.String(); strings.HasSuffix(in, "\xc3") && got != want+`\xc3` {
			t.Errorf("%q ends as %q", in, got)
		}
	}
}

func FuzzVisible(f *testing.F) {
	f.Add([]byte("\x1b]52;c;aGk=\x07\u009b\u202e\xff"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got := rpc.AppendVisible(nil, text)
		if !utf8.Valid(got) || bytes.ContainsAny(got, "\x1b\x07\x7f\u0080\u009b\u009d\u202e\u2066") {
			t.Fatalf("%q", got)
		}
		literal, err := json.Marshal(string(text))
		if err != nil {
			t.Fatal(err)
		}
		var was, is string
		if json.Unmarshal(literal, &was) != nil || json.Unmarshal(rpc.AppendVisible(nil, literal), &is) != nil || was != is {
			t.Fatalf("%q is another value than %q", is, was)
		}
	})
}
