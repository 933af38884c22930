package main

import (
	"io"
	"os"
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/stdout"
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
	out := rpc.AppendVisible(make([]byte, 0, len(text)+16), text[:whole])
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
	_, _ = v.w.Write(rpc.AppendVisible(nil, v.part)) // the end of a text: nobody is left to be told
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
	if out, ok := w.(*stdout.Writer); ok {
		w = out.W
	}
	f, ok = styled(w).(*os.File)
	return f, ok
}

// visibleText is rpc.AppendVisible for text that stands on one line.
func visibleText(s string) string {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f {
			return string(rpc.AppendVisible(nil, []byte(s)))
		}
	}
	return s
}
