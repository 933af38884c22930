package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// What hubctl takes as text, from the command line, a file or stdin, is UTF-8:
// other bytes are refused, not replaced. A byte order mark at the start of a file
// or of stdin is no part of the text.

var errNotText = errors.New("bytes that are not UTF-8")

// bytesHint says how bytes travel where a method takes them.
const bytesHint = `only text can be sent like this; a parameter of bytes takes base64: NAME="$(base64 -w0 FILE)"`

// checkedText returns what a file or an argument holds as text.
func checkedText(content []byte, what string) (string, error) {
	if !utf8.Valid(content) {
		return "", usageError{fmt.Sprintf("%s holds %v", what, errNotText), bytesHint}
	}
	return string(content), nil
}

// textValue is the JSON string of a word of the command line.
func textValue(word, what string) (json.RawMessage, error) {
	text, err := checkedText([]byte(word), what)
	if err != nil {
		return nil, err
	}
	return rpc.AppendString(nil, text, false), nil
}

// readText returns the text in a file.
func readText(name string) ([]byte, error) {
	text, err := readFile(name)
	return rpc.SkipBOM(text), err
}

// textReader reads text from r: it leaves out a byte order mark at the start,
// and ends with errNotText where the bytes are not UTF-8.
type textReader struct {
	r     *bufio.Reader
	begun bool
	part  []byte // of a character that goes on in the next read
	err   error
}

func newTextReader(r io.Reader) *textReader { return &textReader{r: bufio.NewReaderSize(r, 32<<10)} }

func (t *textReader) Read(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	if !t.begun {
		t.begun = true
		// Only what begins like the mark is waited for: a short first value counts at once.
		if first, _ := t.r.Peek(1); len(first) == 1 && first[0] == rpc.BOM[0] {
			if mark, _ := t.r.Peek(len(rpc.BOM)); string(mark) == rpc.BOM {
				t.r.Discard(len(rpc.BOM))
			}
		}
	}
	n, err := t.r.Read(p)
	if !t.check(p[:n]) || err == io.EOF && len(t.part) > 0 {
		n, err = 0, errNotText
	}
	t.err = err
	return n, err
}

// check reports whether b goes on as UTF-8.
func (t *textReader) check(b []byte) bool {
	for len(t.part) > 0 && len(b) > 0 && !utf8.FullRune(t.part) {
		t.part, b = append(t.part, b[0]), b[1:]
	}
	if len(t.part) > 0 && utf8.FullRune(t.part) {
		if !utf8.Valid(t.part) {
			return false
		}
		t.part = t.part[:0]
	}
	if len(t.part) > 0 {
		return true
	}
	n := unfinished(b)
	t.part = append(t.part, b[len(b)-n:]...)
	return utf8.Valid(b[:len(b)-n])
}
