package main

import (
	"bytes"
	"testing"
)

func TestParseKeys(t *testing.T) {
	tests := []struct{ in, want, name string }{
		{"ctrl-p,ctrl-q", "\x10\x11", "Ctrl-P Ctrl-Q"},
		{"Ctrl-P Ctrl-Q", "\x10\x11", "Ctrl-P Ctrl-Q"},
		{"^P^Q", "\x10\x11", "Ctrl-P Ctrl-Q"},
		{"ctrl-]", "\x1d", "Ctrl-]"},
		{"ctrl-a,d", "\x01d", "Ctrl-A d"},
		{"~.", "~.", "~ ."},
		{"none", "", ""},
	}
	for _, tt := range tests {
		k, err := parseKeys("--keys", tt.in)
		if err != nil || string(k) != tt.want || k.String() != tt.name {
			t.Errorf("%q: got %q (%s), %v", tt.in, string(k), k, err)
		}
	}
	for _, in := range []string{"", ",", "ctrl-1", "^1", "ctrl-p,é", "\x01"} {
		if k, err := parseKeys("--keys", in); err == nil {
			t.Errorf("%q: got %q, want an error", in, string(k))
		}
	}
}

// Input passes unchanged but for the detach keys, wherever it is cut.
func TestKeyFilter(t *testing.T) {
	tests := []struct {
		keys, in, out string
		detach        bool
	}{
		{"\x10\x11", "hello", "hello", false},
		{"\x10\x11", "ab\x10\x11cd", "ab", true},
		{"\x10\x11", "a\x10b", "a\x10b", false},
		{"\x10\x11", "\x10\x10\x10\x11", "\x10\x10", true},
		{"\x10\x11", "\x11\x10", "\x11\x10", false},
		{"aab", "aaab", "a", true},
		{"aab", "aacaab", "aac", true},
		{"abab!", "ababab!", "ab", true},
		{"", "a\x10\x11", "a\x10\x11", false},
	}
	for _, tt := range tests {
		for cut := 0; cut <= len(tt.in); cut++ {
			f := keyFilter{keys: detachKeys(tt.keys)}
			var out []byte
			detached := false
			for _, part := range []string{tt.in[:cut], tt.in[cut:]} {
				if detached {
					break
				}
				p, d := f.pass([]byte(part))
				out = append(out, p...)
				detached = d
			}
			if !detached {
				out = append(out, f.rest()...)
			}
			if string(out) != tt.out || detached != tt.detach {
				t.Errorf("keys %q, input %q cut at %d: got %q, %v", tt.keys, tt.in, cut, out, detached)
			}
		}
	}
}

func TestUnfinishedCharacterWaits(t *testing.T) {
	text := []byte("aé日😀z")
	for cut := range len(text) + 1 {
		n := unfinished(text[:cut])
		if got := text[:cut-n]; !bytes.Equal([]byte(string([]rune(string(got)))), got) || n > 3 {
			t.Errorf("cut at %d: %d bytes wait, %q passes", cut, n, got)
		}
	}
	if n := unfinished([]byte("\xff\xff\xff\xff")); n != 0 {
		t.Errorf("%d bytes of no character wait", n)
	}
}

func TestRawTerminalGetsCarriageReturns(t *testing.T) {
	var b bytes.Buffer
	w := &crlfWriter{w: &b}
	for _, s := range []string{"a\nb\r\nc\r", "\nd\n\n"} {
		if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
			t.Errorf("wrote %d of %d, %v", n, len(s), err)
		}
	}
	if got, want := b.String(), "a\r\nb\r\nc\r\nd\r\n\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
