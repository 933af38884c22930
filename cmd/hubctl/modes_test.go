package main

import (
	"strings"
	"testing"
)

func TestTermModes(t *testing.T) {
	for name, c := range map[string]struct{ output, reset string }{
		"plain text":              {"hello\r\n", ""},
		"vi":                      {"\x1b[?1049h\x1b[?1h\x1b=\x1b[?2004h\x1b[1;24r\x1b[?25l~", "\x1b[?2004l\x1b[?1l\x1b[?1049l\x1b[?25h\x1b>\x1b7\x1b[r\x1b8"},
		"vi that has ended":       {"\x1b[?1049h\x1b[?1h\x1b=\x1b[?25l~\x1b[?1l\x1b>\x1b[?25h\x1b[?1049l", ""},
		"colours":                 {"\x1b[1;31mred", "\x1b[0m"},
		"colours that have ended": {"\x1b[1;31mred\x1b[0m\x1b[31m!\x1b[m", ""},
		"several at once":         {"\x1b[?1000;1006h", "\x1b[?1006l\x1b[?1000l"},
		"unknown modes":           {"\x1b[?4711h", ""},
		"a full reset":            {"\x1b[?1049h\x1b[31m\x1bc", ""},
		"in the middle":           {"\x1b[31m\x1b[?104", "\x18\x1b[0m"},
		"a title":                 {"\x1b]0;\x1b[?1049h\x07x", ""},
		"keyboards":               {"\x1b[>1u\x1b[>5u\x1b[<u\x1b[>4;2m", "\x1b[>4;0m\x1b[<1u"},
		"drawing":                 {"\x1b(0lqk\x1b(B\x1b(0", "\x1b(B\x0f"},
		"cursor":                  {"\x1b[6 q", "\x1b[0 q"},
	} {
		whole, bytewise, quiet := &termModes{}, &termModes{}, &termModes{}
		if got := string(whole.pass([]byte(c.output), false)); got != c.output {
			t.Errorf("%s: the output was changed to %q", name, got)
		}
		var shown strings.Builder
		for i := range len(c.output) {
			bytewise.pass([]byte{c.output[i]}, false)
			shown.Write(quiet.pass([]byte{c.output[i]}, true))
		}
		for how, m := range map[string]*termModes{"whole": whole, "byte by byte": bytewise, "quietly": quiet} {
			if got := m.reset(); got != c.reset {
				t.Errorf("%s, %s: %q, want %q", name, how, got, c.reset)
			}
		}
		if !strings.HasPrefix(c.output, shown.String()) || len(c.output)-len(shown.String()) > 6 {
			t.Errorf("%s: quietly shown as %q", name, shown.String())
		}
	}
}

func TestTermModesAskNothing(t *testing.T) {
	const text = "a\x1b[31mb"
	for _, question := range []string{
		"\x1b[c", "\x1b[>c", "\x1b[=0c", "\x1b[6n", "\x1b[?6n", "\x1b[?1049$p", "\x1b[>0q", "\x1b[?u", "\x1b[18t", "\x1b]11;?\x07",
		"\x1b]4;1;?\x1b\\", "\x1bP+q544e\x1b\\", "\x1bP$qm\x1b\\", "\x1bZ",
	} {
		m := &termModes{}
		if got := string(m.pass([]byte(text+question+text), true)); got != text+text {
			t.Errorf("%q: %q", question, got)
		}
		if got := string((&termModes{}).pass([]byte(text+question), false)); got != text+question {
			t.Errorf("%q: live output is %q", question, got)
		}
	}
	for _, harmless := range []string{"\x1b[2J", "\x1b[1;2H", "\x1b]0;title\x07", "\x1b[4 q", "\x1b[?25l", "\x1b7", "\x1b[8;24;80t", "\x1b(B", strings.Repeat("\x1b]x", 3) + "\x07"} {
		if got := string((&termModes{}).pass([]byte(text+harmless+text), true)); got != text+harmless+text {
			t.Errorf("%q: %q", harmless, got)
		}
	}
	long := "\x1bP" + strings.Repeat("q", 3*maxSequence) + "\x1b\\" + text
	if got := string((&termModes{}).pass([]byte(long), true)); got != long {
		t.Errorf("%d bytes of a picture are %d", len(long), len(got))
	}
}

func FuzzTermModes(f *testing.F) {
	f.Add([]byte("\x1b[?1049h\x1b[31mx\x1b]0;t\x07\x1b[6n"), 3)
	f.Fuzz(func(t *testing.T, output []byte, at int) {
		at = min(max(at, 0), len(output))
		one, two := &termModes{}, &termModes{}
		all := one.pass(output, true)
		parts := append(append([]byte(nil), two.pass(output[:at], true)...), two.pass(output[at:], true)...)
		if string(all) != string(parts) || one.reset() != two.reset() {
			t.Fatalf("%q cut at %d: %q and %q", output, at, all, parts)
		}
		if len(all) > len(output) {
			t.Fatalf("%q became %q", output, all)
		}
		// What reset returns puts a terminal back, by its own book-keeping.
		one.pass([]byte(one.reset()), false)
		if rest := one.reset(); rest != "" && one.state == ground {
			t.Fatalf("%q: %q is left", output, rest)
		}
	})
}
