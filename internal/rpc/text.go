package rpc

import (
	"fmt"
	"unicode/utf8"
)

// IsControl reports whether r is no text: a terminal, or whoever lays text
// out, obeys it instead of showing it. These are the control characters (C0,
// DEL, C1), the separators of lines and paragraphs, and what changes the
// direction of text, which makes it read as something else.
func IsControl(r rune) bool {
	switch {
	case r < 0x20, r >= 0x7f && r < 0xa0:
		return true
	case r == '\u061c', r == '\u200e', r == '\u200f', r >= '\u2028' && r <= '\u202e', r >= '\u2066' && r <= '\u206f':
		return true
	}
	return false
}

// AppendVisible appends text as it is to be seen on a terminal: lines and tabs
// as they are, and other control characters, and bytes that are not UTF-8, as
// escapes. JSON remains the same value.
func AppendVisible(dst, text []byte) []byte {
	clean := 0 // text[clean:i] is as it is
	for i := 0; i < len(text); {
		if c := text[i]; c >= 0x20 && c < 0x7f || c == '\n' || c == '\t' {
			i++
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		wrong := r == utf8.RuneError && n == 1
		switch {
		case !wrong && !IsControl(r), r == '\r' && i+1 < len(text) && text[i+1] == '\n':
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
