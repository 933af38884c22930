package hub

import (
	"bytes"
	"encoding/binary"
	"iter"
	"regexp"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// What a monitor that asked for raw bytes is shown: those of the frames, but
// for secrets, which are asterisks. An operator may see what programs tell each
// other, and still has no use for the tokens with which they do. What looks
// like a secret is taken for one: too much is hidden rather than too little, and
// of a call of a method that authenticates all but its name.

// lookback is how much of what came before is kept, to know a secret whose
// beginning was read or written earlier.
const lookback = 2 << 10

// view is one direction of a connection as monitors of raw bytes see it. Only
// the reader of the connection, or its writer, touches it.
type view struct {
	recent []byte // as shown, but with secrets: the end of an unfinished message
	masked int    // bytes of the payload of a WebSocket frame that are still to come
	key    [4]byte
	turn   int // how many bytes of the payload have come
}

// follow takes what was read or written next, and returns it as the programs
// meant it: behind what is kept of an unfinished message.
func (v *view) follow(protocol rpc.Protocol, p []byte) (before, plain []byte) {
	plain = p
	whole := (protocol == rpc.Kollabor || protocol == rpc.Kkrpc) && bytes.HasSuffix(p, []byte("\n"))
	if v.masked > 0 || isMasked(protocol, p) {
		plain = v.unmask(p)
		whole = v.masked == 0
	}
	before = v.recent
	v.recent = nil
	if !whole {
		v.recent = append(bytes.Clone(before), plain...)
		v.recent = bytes.Clone(v.recent[max(0, len(v.recent)-lookback):])
	}
	return before, plain
}

// shownOf returns the first bytes of p without its secrets.
func shownOf(before, p []byte) []byte {
	shown := min(len(p), monitorRaw)
	text := append(bytes.Clone(before), p...)
	if len(authentications(text)) > 0 {
		return onlyWord(p[:shown])
	}
	return redact(text[:len(before)+shown])[len(before):]
}

// authentications finds the names of methods that authenticate in p, but not
// "unauthenticated".
func authentications(p []byte) (places []int) {
	isLetter := func(i int) bool { return i >= 0 && i < len(p) && p[i] >= 'a' && p[i] <= 'z' }
	for at := range every(p, authenticate) {
		if !isLetter(at-1) && !isLetter(at+len(authenticate)) {
			places = append(places, at)
		}
	}
	return places
}

const authenticate = "authenticate"

// onlyWord returns p with asterisks in the place of everything but the word.
func onlyWord(p []byte) []byte {
	out := bytes.Repeat([]byte("*"), len(p))
	for _, at := range authentications(p) {
		copy(out[at:], authenticate)
	}
	return out
}

// every yields where word begins in p.
func every(p []byte, word string) iter.Seq[int] {
	return func(yield func(int) bool) {
		for at := 0; ; at += len(word) {
			i := bytes.Index(p[at:], []byte(word))
			if i < 0 {
				return
			}
			at += i
			if !yield(at) {
				return
			}
		}
	}
}

// isMasked reports whether p begins with a frame of a WebSocket client. No
// JSON text and no request does.
func isMasked(protocol rpc.Protocol, p []byte) bool {
	return (protocol == rpc.Capnweb || protocol == rpc.Kkrpc) && len(p) > 1 && p[1]&0x80 != 0 &&
		p[0]&0x70 == 0 && (p[0]&0x0f <= 2 || p[0]&0x0f >= 8 && p[0]&0x0f <= 10)
}

// unmask returns p with the payloads of the frames in it as the client meant
// them. What cannot be followed, because its frame began before anybody looked,
// is asterisks.
func (v *view) unmask(p []byte) []byte {
	out := bytes.Clone(p)
	rest := out
	for len(rest) > 0 {
		if v.masked == 0 {
			n := v.head(rest)
			if n == 0 {
				hide(rest)
				break
			}
			rest = rest[n:]
		}
		n := min(v.masked, len(rest))
		for i := range rest[:n] {
			rest[i] ^= v.key[(v.turn+i)&3]
		}
		v.masked -= n
		v.turn += n
		rest = rest[n:]
	}
	return out
}

// head reads the head of a masked frame at the beginning of p and returns its
// size, 0 when there is none or not all of it. The key is taken out.
func (v *view) head(p []byte) int {
	if len(p) < 2 || p[1]&0x80 == 0 {
		return 0
	}
	size, length := 6, uint64(p[1]&0x7f)
	switch length {
	case 126:
		size = 8
	case 127:
		size = 14
	}
	if len(p) < size {
		return 0
	}
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(p[2:]))
	case 127:
		length = binary.BigEndian.Uint64(p[2:])
	}
	if length > 1<<40 {
		return 0
	}
	copy(v.key[:], p[size-4:size])
	clear(p[size-4 : size])
	v.masked, v.turn = int(length), 0
	return size
}

// secretWords end the names of members, fields, parts and headers whose values
// are not shown.
var secretWords = []string{
	"token", "password", "passwd", "secret", "authorization", "api_key", "api-key", "apikey", "private_key", "private-key", "privatekey",
	"credential", "credentials", "pmhparams", "cookie",
}

// What may follow such a word, up to the value or with it.
var (
	// of a header
	afterHeader = regexp.MustCompile(`^:[ \t]*([^\r\n]*)`)
	// of a field of a form or a query
	afterField = regexp.MustCompile(`^=([^&\s"]*)`)
	// of a member of an object in JSON in a form
	afterFormMember = regexp.MustCompile(`^%22(?:\+|%20)*(?:%3[Aa]|:)([^&\s]*)`)
	// of a part of a multipart body
	afterPart = regexp.MustCompile(`(?s)^"?[^\r\n]*(?:\r\n[^\r\n]+)*\r\n\r\n(.*?)(?:\r\n--|$)`)
	// of a member of an object in JSON, or in JSON within a string
	afterMember = regexp.MustCompile(`^\\*"\s*:\s*`)
	// of "hubd_": the id of a token, and its secret
	afterPrefix = regexp.MustCompile(`^[a-z2-7]{8}_([a-z2-7]+)`)
)

// redact returns p with asterisks in the place of secrets.
func redact(p []byte) []byte {
	out, lower := bytes.Clone(p), lowerCase(p)
	for at := range every(p, "hubd_") {
		at += len("hubd_")
		if m := afterPrefix.FindSubmatchIndex(p[at:]); m != nil {
			hide(out[at+m[2] : at+m[3]])
		}
	}
	for _, word := range secretWords {
		for at := range every(lower, word) {
			from, to := secretBehind(p, at, at+len(word))
			hide(out[from:to])
		}
	}
	return out
}

// secretBehind returns where the value is whose name has a secret word from
// begin to end, nothing when it is no name.
func secretBehind(p []byte, begin, end int) (from, to int) {
	rest := p[end:]
	for _, re := range []*regexp.Regexp{afterHeader, afterField, afterFormMember} {
		if m := re.FindSubmatchIndex(rest); m != nil {
			return end + m[2], end + m[3]
		}
	}
	if m := afterMember.FindIndex(rest); m != nil {
		return end + m[1], end + m[1] + valueEnd(rest[m[1]:])
	}
	if at, n := packedString(rest); n > 0 {
		return end + at, end + at + n
	}
	line := p[bytes.LastIndexByte(p[:begin], '\n')+1 : begin]
	if bytes.Contains(line, []byte("name=")) {
		if m := afterPart.FindSubmatchIndex(rest); m != nil {
			return end + m[2], end + m[3]
		}
	}
	return end, end
}

// lowerCase returns p with its ASCII letters in lower case. It is as long as p,
// which need not be text.
func lowerCase(p []byte) []byte {
	out := bytes.Clone(p)
	for i, c := range out {
		if c >= 'A' && c <= 'Z' {
			out[i] = c + 'a' - 'A'
		}
	}
	return out
}

func hide(p []byte) {
	for i := range p {
		p[i] = '*'
	}
}

// valueEnd returns the size of the JSON value at the beginning of p, or of what
// there is of it.
func valueEnd(p []byte) int {
	depth, inString := 0, false
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '\\' && i+1 < len(p) && (p[i+1] != '"' || inString):
			if p[i+1] == '"' && depth == 0 && bytes.HasPrefix(p, []byte(`\"`)) {
				return i + 2 // the end of a string within a string
			}
			i++
		case c == '"':
			inString = !inString
			if !inString && depth == 0 {
				return i + 1
			}
		case inString:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth <= 0 {
				return i + 1 + depth
			}
		case c == ',' && depth == 0:
			return i
		}
	}
	return len(p)
}

// packedString finds a string of MessagePack at the beginning of p: where its
// text begins and how much of it is there.
func packedString(p []byte) (at, n int) {
	if len(p) == 0 {
		return 0, 0
	}
	size := uint64(0)
	switch c := p[0]; {
	case c >= 0xa0 && c <= 0xbf:
		at, size = 1, uint64(c&0x1f)
	case c == 0xd9 && len(p) > 1:
		at, size = 2, uint64(p[1])
	case c == 0xda && len(p) > 2:
		at, size = 3, uint64(binary.BigEndian.Uint16(p[1:]))
	case c == 0xdb && len(p) > 4:
		at, size = 5, uint64(binary.BigEndian.Uint32(p[1:]))
	default:
		return 0, 0
	}
	return at, int(min(size, uint64(len(p)-at)))
}
