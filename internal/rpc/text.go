package rpc

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
