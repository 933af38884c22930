package hub

import (
	"bytes"
	"encoding/binary"
	"regexp"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// What a monitor that asked for raw bytes is shown: those of the frames, but
// for secrets, which are asterisks. An operator may see what programs tell each
// other, and still has no use for the tokens with which they do. What looks
// like a secret is taken for one: too much is hidden rather than too little, and
// of a call of a method that authenticates all but its name.

// hindsight is how much of what came before is kept, to know a secret whose
// beginning was read or written earlier.
const hindsight = 2 << 10

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
		v.recent = bytes.Clone(v.recent[max(0, len(v.recent)-hindsight):])
	}
	return before, plain
}

// shownOf returns the first bytes of p without its secrets.
func shownOf(before, p []byte) []byte {
	shown := min(len(p), monitorRaw)
	text := append(bytes.Clone(before), p...)
	if authenticates.Match(text) {
		return onlyWord(p[:shown])
	}
	return redact(text[:len(before)+shown])[len(before):]
}

// onlyWord returns p with asterisks in the place of everything but the word.
func onlyWord(p []byte) []byte {
	out := bytes.Repeat([]byte("*"), len(p))
	for _, m := range authenticates.FindAllSubmatchIndex(p, -1) {
		copy(out[m[2]:m[3]], p[m[2]:m[3]])
	}
	return out
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

// secretName matches the names of members, fields and parameters whose values
// are not shown.
const secretName = `[\w.-]*(?:token|password|passwd|secret|authorization|api[_-]?key|private[_-]?key|credentials?|pmhparams)`

var (
	// the name of a method that authenticates, but not "unauthenticated"
	authenticates = regexp.MustCompile(`(?:^|[^a-z])(authenticate)(?:[^a-z]|$)`)
	// a token of a hub, behind its id
	hubToken = regexp.MustCompile(`hubd_[a-z2-7]{8}_([a-z2-7]+)`)
	// a header
	secretHeader = regexp.MustCompile(`(?i)(?:^|\n)(?:(?:proxy-)?authorization|(?:set-)?cookie):[ \t]*([^\r\n]*)`)
	// a field of a form or a query
	secretField = regexp.MustCompile(`(?i)(?:^|[?&\s])` + secretName + `=([^&\s"]*)`)
	// a member of an object in JSON in a form
	formMember = regexp.MustCompile(`(?i)%22` + secretName + `%22(?:\+|%20)*(?:%3A|:)([^&\s]*)`)
	// a part of a multipart body
	secretPart = regexp.MustCompile(`(?is)name="?` + secretName + `"?[^\r\n]*(?:\r\n[^\r\n]+)*\r\n\r\n(.*?)(?:\r\n--|$)`)
	// a member of an object in JSON, or in JSON within a string, up to its value
	secretMember = regexp.MustCompile(`(?i)\\*"` + secretName + `\\*"\s*:\s*`)
	// a member of a map in MessagePack, up to its value
	secretKey = regexp.MustCompile(`(?i)` + secretName)
)

// redact returns p with asterisks in the place of secrets.
func redact(p []byte) []byte {
	out := bytes.Clone(p)
	for _, re := range []*regexp.Regexp{hubToken, secretHeader, secretField, formMember, secretPart} {
		for _, m := range re.FindAllSubmatchIndex(p, -1) {
			hide(out[m[2]:m[3]])
		}
	}
	for _, m := range secretMember.FindAllIndex(p, -1) {
		hide(out[m[1] : m[1]+valueEnd(p[m[1]:])])
	}
	for _, m := range secretKey.FindAllIndex(p, -1) {
		if at, n := packedString(p[m[1]:]); n > 0 {
			hide(out[m[1]+at : m[1]+at+n])
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
