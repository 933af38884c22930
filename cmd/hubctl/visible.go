package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Text that others have chosen can hold sequences that a terminal obeys: they
// hide or forge lines, fill the clipboard, or make the terminal type. So stdout
// and stderr of the program are a visible when they are terminals: it writes
// control characters as escapes that can be read. Who writes sequences of its own
// makes the rest of its text visible itself and writes to styled(w). A file
// or pipe gets all bytes as they are.

// visible writes text to a terminal. It is for any goroutine.
type visible struct {
	w io.Writer // the terminal

	mu   sync.Mutex
	part []byte // of a character whose rest comes with the next Write
}

func (v *visible) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	text := p
	if len(v.part) > 0 {
		text = append(v.part, p...)
	}
	whole := len(text) - unfinished(text)
	out := appendVisible(make([]byte, 0, len(text)+16), text[:whole])
	v.part = append([]byte(nil), text[whole:]...)
	if len(out) > 0 {
		if _, err := v.w.Write(out); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// flush writes what was held back as the beginning of a character.
func (v *visible) flush() {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, _ = v.w.Write(appendVisible(nil, v.part)) // the end of a text: nobody is left to be told
	v.part = nil
}

// styled is the terminal behind w, for what has sequences of hubctl's own, or
// of a program on a terminal, in it; w itself where that is no terminal.
func styled(w io.Writer) io.Writer {
	if v, ok := w.(*visible); ok {
		return v.w
	}
	return w
}

// fileOf returns the file that w writes to, if it is one.
func fileOf(w io.Writer) (f *os.File, ok bool) {
	f, ok = styled(w).(*os.File)
	return f, ok
}

// appendVisible appends text as it is to be seen on a terminal: lines and tabs
// as they are, and other control characters, and bytes that are not UTF-8, as
// escapes. JSON remains the same value.
func appendVisible(dst, text []byte) []byte {
	clean := 0 // text[clean:i] is as it is
	for i := 0; i < len(text); {
		if c := text[i]; c >= 0x20 && c < 0x7f || c == '\n' || c == '\t' {
			i++
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		wrong := r == utf8.RuneError && n == 1
		switch {
		case !wrong && !rpc.IsControl(r), r == '\r' && i+1 < len(text) && text[i+1] == '\n':
			i += n
			continue
		}
		dst = append(dst, text[clean:i]...)
		if wrong {
			dst = fmt.Appendf(dst, `\x%02x`, text[i])
		} else {
			dst = fmt.Appendf(dst, `\u%04x`, r)
		}
		i += n
		clean = i
	}
	return append(dst, text[clean:]...)
}

// visibleText is appendVisible for text that stands on one line.
func visibleText(s string) string {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f {
			return string(appendVisible(nil, []byte(s)))
		}
	}
	return s
}
