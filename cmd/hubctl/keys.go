package main

import (
	"fmt"
	"strings"
)

// detachKeys is a sequence of bytes that a terminal sends for the keys with
// which an attachment is left.
type detachKeys []byte

// parseKeys reads "ctrl-p,ctrl-q", "ctrl-p ctrl-q", "^P^Q" or single
// characters; "none" is no keys at all.
func parseKeys(flag, s string) (detachKeys, error) {
	if strings.EqualFold(s, "none") {
		return nil, nil
	}
	var keys detachKeys
	parts := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
	for _, part := range parts {
		for part != "" {
			lower := strings.ToLower(part)
			var letter byte
			switch {
			case strings.HasPrefix(lower, "ctrl-") && len(part) > 5:
				letter, part = lower[5], part[6:]
			case part[0] == '^' && len(part) > 1:
				letter, part = lower[1], part[2:]
			default:
				if c := part[0]; c <= ' ' || c >= 0x7f {
					return nil, usageError{fmt.Sprintf("%s: %q is no key", flag, part), `such as "ctrl-p,ctrl-q" or "ctrl-]"`}
				}
				keys = append(keys, part[0])
				part = part[1:]
				continue
			}
			switch {
			case letter >= 'a' && letter <= 'z':
				keys = append(keys, letter-'a'+1)
			case strings.IndexByte(`@[\]^_`, letter) >= 0:
				keys = append(keys, letter-'@')
			default:
				return nil, usageError{fmt.Sprintf("%s: there is no ctrl-%c", flag, letter), `ctrl- goes with a letter or one of @ [ \ ] ^ _`}
			}
		}
	}
	if len(keys) == 0 {
		return nil, usageError{flag + ": no key is named", `"none" switches them off`}
	}
	return keys, nil
}

// String names the keys as people read them: Ctrl-P Ctrl-Q.
func (k detachKeys) String() string {
	var parts []string
	for _, c := range k {
		if c < ' ' {
			parts = append(parts, "Ctrl-"+string(rune(c+'@')))
		} else {
			parts = append(parts, string(rune(c)))
		}
	}
	return strings.Join(parts, " ")
}

// keyFilter lets input pass but for the detach keys. A beginning of the
// sequence is held back until the next key decides.
type keyFilter struct {
	keys detachKeys
	held int // so many keys of the sequence were seen
}

// pass returns what of p is to be sent on and whether the sequence is complete;
// what follows it is dropped.
func (f *keyFilter) pass(p []byte) (out []byte, detach bool) {
	if len(f.keys) == 0 {
		return p, false
	}
	out = make([]byte, 0, len(p)+len(f.keys))
	for _, c := range p {
		for f.held > 0 && c != f.keys[f.held] {
			// Not the sequence: the first held key was input. What was held
			// behind it may still begin the sequence.
			n := f.held
			out = append(out, f.keys[0])
			f.held = 0
			for i := 1; i < n; i++ {
				if f.hasPrefix(i, n) {
					f.held = n - i
					break
				}
				out = append(out, f.keys[i])
			}
		}
		if c != f.keys[f.held] {
			out = append(out, c)
			continue
		}
		if f.held++; f.held == len(f.keys) {
			f.held = 0
			return out, true
		}
	}
	return out, false
}

// hasPrefix reports whether keys[i:n] is how the sequence begins.
func (f *keyFilter) hasPrefix(i, n int) bool {
	return string(f.keys[i:n]) == string(f.keys[:n-i])
}

// rest returns what is held back, for the end of the input.
func (f *keyFilter) rest() []byte {
	held := f.keys[:f.held]
	f.held = 0
	return held
}
