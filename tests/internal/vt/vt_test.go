package vt

import "testing"

func TestScreen(t *testing.T) {
	s := New(10, 3)
	for _, c := range "one\r\ntwo\x1b[?1049h\x1b[?25l\x1b[?1h\x1b[2;3H\x1b[31mé\x1b[Kx\x1b]0;title\x07" {
		s.Write([]byte(string(c)))
	}
	if got := s.Text(); got != "\n  éx" || !s.Alternate() {
		t.Errorf("shown: %q", got)
	}
	if s.Left() == "" {
		t.Error("nothing is left on")
	}
	s.Write([]byte("\x1b[0m\x1b[?1l\x1b[?25h\x1b[?1049l\r\nthree\r\nfour"))
	if got := s.Text(); got != "two\nthree\nfour" || s.Left() != "" || len(s.Strange()) > 0 {
		t.Errorf("then: %q, left %s", got, s.Left())
	}
}
