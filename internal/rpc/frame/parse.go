package frame

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// The envelope members that Parse knows, as bits: a line may have each once.
const (
	haveAction uint32 = 1 << iota
	haveType
	haveRequestID
	haveMethod
	haveParams
	haveTimeout
	haveStream
	haveResult
	haveError
	haveErrorKind
	haveErrorData
	haveRetry
	haveSeq
	haveData
	haveN
	haveText
	haveMode
	haveClientID
	haveID
	haveSince
	haveSession
	haveToken
	haveTraceParent
	haveTraceState
	haveHops
)

// odd are the traits that only payload members may have: Python writes them,
// and they come back as they went in, but no envelope needs them.
const odd = rpc.HasNonFinite | rpc.HasSurrogate

// Parse reads one line without its line feed into f, in one pass. Names are
// case-sensitive, unknown members are allowed and ignored. On an error (an
// *Error) f holds what was read before, the request id among it where it came
// earlier; see FindID for lines that are broken before it.
//
// A frame without action is an event of a program, not of the protocol: its
// members may be anything.
func Parse(line []byte, f *Frame) error {
	*f = Frame{}
	p := parser{b: line, f: f}
	if e := p.run(); e != nil {
		return e
	}
	return nil
}

type parser struct {
	b      []byte
	f      *Frame
	have   uint32
	flags  rpc.Flags
	depth  uint16
	others rpc.Flags // of members that may not be odd
	late   *Error    // a wrong member: reported when the whole line was read
}

func (p *parser) run() *Error {
	b := p.b
	i := rpc.SkipSpace(b, 0)
	if i >= len(b) {
		return &Error{Reason: BadJSON, Offset: i, Text: "the line is blank"}
	}
	if b[i] != '{' {
		return p.notObject(i)
	}
	start := i
	i = rpc.SkipSpace(b, i+1)
	if i < len(b) && b[i] == '}' {
		i++
	} else {
		for {
			var e *Error
			if i, e = p.member(i); e != nil {
				return e
			}
			if i < len(b) && b[i] == ',' {
				i = rpc.SkipSpace(b, i+1)
				continue
			}
			if i < len(b) && b[i] == '}' {
				i++
				break
			}
			return p.broken(i, "expected , or } after an object member")
		}
	}
	if end := rpc.SkipSpace(b, i); end != len(b) {
		return p.broken(end, "text after the object")
	}
	f := p.f
	f.Whole = rpc.RawValue(b[start:i], rpc.Traits{Flags: p.flags, Depth: p.depth + 1})
	if p.late != nil {
		return p.late
	}
	if p.others&odd != 0 && (f.Action != "" || f.Type == "input") {
		return &Error{Reason: BadToken, Offset: start, Text: "NaN, Infinity or a lone surrogate outside of params, result and data"}
	}
	return nil
}

// member reads one name and value from i and returns the offset of what follows.
func (p *parser) member(i int) (int, *Error) {
	b := p.b
	if i >= len(b) || b[i] != '"' {
		return i, p.broken(i, "expected a member name")
	}
	at := i
	end := plainString(b, i)
	name := b[i+1 : max(end-1, i+1)]
	if end < 0 { // an escape or a character beyond ASCII
		n, t, err := rpc.Scan(b[i:])
		if err != nil {
			return i, p.scanError(i, n, err)
		}
		end = i + n
		name = []byte(rpc.Unquote(b[i:end]))
		p.flags |= t.Flags
		p.others |= t.Flags
	}
	i = end
	if i >= len(b) || b[i] != ':' {
		if i = rpc.SkipSpace(b, i); i >= len(b) || b[i] != ':' {
			return i, p.broken(i, "expected : after a member name")
		}
	}
	i++
	if i < len(b) && b[i] <= ' ' {
		i = rpc.SkipSpace(b, i)
	}
	from := i
	var t rpc.Traits
	if end := plainString(b, i); end > 0 {
		i = end
	} else {
		n, traits, err := rpc.Scan(b[i:])
		if err != nil {
			return i, p.scanError(i, n, err)
		}
		i, t = i+n, traits
	}
	p.flags |= t.Flags
	p.depth = max(p.depth, t.Depth)
	p.set(at, name, rpc.RawValue(b[from:i], t), t)
	if i < len(b) && b[i] <= ' ' {
		i = rpc.SkipSpace(b, i)
	}
	return i, nil
}

// set stores the member whose name is at offset at.
func (p *parser) set(at int, name []byte, v rpc.Value, t rpc.Traits) {
	f := p.f
	var bit uint32
	switch string(name) {
	case "action":
		bit = haveAction
		f.Action = p.word(at, v)
	case "type":
		bit = haveType
		f.Type = p.word(at, v)
	case "request_id":
		bit = haveRequestID
		if p.have&bit == 0 {
			f.RequestID = v
		}
	case "method":
		bit = haveMethod
		f.Method = v
	case "params":
		p.once(at, name, haveParams)
		f.Params = v
		return
	case "result":
		p.once(at, name, haveResult)
		f.Result = v
		return
	case "data":
		p.once(at, name, haveData)
		f.Data = v
		return
	case "error_data":
		p.once(at, name, haveErrorData)
		f.ErrorData = v
		return
	case "timeout":
		p.once(at, name, haveTimeout)
		f.Timeout = v // its reader judges NaN and Infinity
		if t.Has(rpc.HasSurrogate) {
			p.others |= t.Flags
		}
		return
	case "stream":
		bit = haveStream
		switch v.Kind() {
		case 't':
			f.Stream = true
		case 'f', 'n':
		default:
			p.wrong(at, BadType, "stream is neither true nor false")
		}
	case "error":
		bit = haveError
		f.Error = v
	case "error_kind":
		bit = haveErrorKind
		f.ErrorKind = v
	case "retry":
		bit = haveRetry
		f.Retry = v
	case "seq":
		bit = haveSeq
		f.Seq = p.number(at, "seq", v)
	case "n":
		bit = haveN
		f.N = p.number(at, "n", v)
	case "text":
		bit = haveText
	case "mode":
		bit = haveMode
	case "client_id":
		bit = haveClientID
	case "id":
		bit = haveID
	case "since_seq":
		bit = haveSince
	case "session":
		bit = haveSession
	case "token":
		bit = haveToken
	case "traceparent":
		bit = haveTraceParent
		f.TraceParent = v
	case "tracestate":
		bit = haveTraceState
		f.TraceState = v
	case "hops":
		bit = haveHops
		f.Hops = v
	}
	p.others |= t.Flags
	if bit != 0 {
		p.once(at, name, bit)
	}
}

// once notes that the member occurred.
func (p *parser) once(at int, name []byte, bit uint32) {
	if p.have&bit != 0 {
		p.wrong(at, Duplicate, "the member "+string(name)+" occurs twice")
	}
	p.have |= bit
}

func (p *parser) wrong(at int, why Reason, text string) {
	if p.late == nil {
		p.late = &Error{Reason: why, Offset: at, Text: text}
	}
}

// word returns action or type as a string; the known ones cost nothing.
func (p *parser) word(at int, v rpc.Value) string {
	if v.Kind() != '"' {
		if !v.IsNull() {
			p.wrong(at, BadType, "action and type must be strings")
		}
		return ""
	}
	w := text(v)
	switch string(w) {
	case Request:
		return Request
	case Reply:
		return Reply
	case Chunk:
		return Chunk
	case End:
		return End
	case Credit:
		return Credit
	case Cancel:
		return Cancel
	case "input":
		return "input"
	case "heartbeat":
		return "heartbeat"
	}
	return rpc.CleanText(string(w[:min(len(w), 256)]), 64)
}

// number reads seq or n: an integer that is not negative.
func (p *parser) number(at int, name string, v rpc.Value) uint64 {
	raw, _ := v.Raw()
	var n uint64
	for _, c := range raw {
		if c < '0' || c > '9' || len(raw) > 18 {
			// Events of programs may have members of these names as they like.
			if p.f.Type == "" {
				p.wrong(at, BadType, name+" is not an integer from 0 to 10^18")
			}
			return 0
		}
		n = n*10 + uint64(c-'0')
	}
	return n
}

// broken is the error for text that is not JSON at i.
func (p *parser) broken(i int, text string) *Error {
	if i >= len(p.b) {
		text = "unexpected end of the line"
	}
	return p.utf8Or(&Error{Reason: BadJSON, Offset: i, Text: text})
}

// scanError turns an error of rpc.Scan, which began at i and stopped n bytes later.
func (p *parser) scanError(i, n int, err error) *Error {
	if s, ok := errors.AsType[*rpc.SyntaxError](err); ok {
		if s.Limit {
			return &Error{Reason: OverLimit, Offset: i + s.Offset, Text: s.Reason}
		}
		return p.utf8Or(&Error{Reason: BadJSON, Offset: i + s.Offset, Text: s.Reason})
	}
	return p.utf8Or(&Error{Reason: BadJSON, Offset: min(i+n, len(p.b)), Text: "unexpected end of the line"})
}

// utf8Or says that the line is no UTF-8 if that is what is wrong with it.
func (p *parser) utf8Or(e *Error) *Error {
	if !utf8.Valid(p.b) {
		e.Reason, e.Text = BadUTF8, "the line is no valid UTF-8"
	}
	return e
}

// notObject tells another JSON value from what is none.
func (p *parser) notObject(i int) *Error {
	if n, _, err := rpc.Scan(p.b[i:]); err != nil {
		return p.scanError(i, n, err)
	} else if end := rpc.SkipSpace(p.b, i+n); end != len(p.b) {
		return p.broken(end, "text after the JSON value")
	}
	return &Error{Reason: NotObject, Offset: i, Text: "the line is JSON, but no object"}
}

// plainString returns the offset behind the string that starts at i if that is
// one of ASCII without escapes; -1 otherwise.
func plainString(b []byte, i int) int {
	const (
		ones = 0x0101010101010101
		tops = 0x8080808080808080
	)
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	i++
	for i+8 <= len(b) {
		w := binary.LittleEndian.Uint64(b[i:])
		q, e := w^ones*'"', w^ones*'\\'
		if ((q-ones)&^q|(e-ones)&^e|(w-ones*0x20)|w)&tops != 0 {
			break
		}
		i += 8
	}
	for i < len(b) && b[i] >= 0x20 && b[i] < 0x80 && b[i] != '"' && b[i] != '\\' {
		i++
	}
	if i < len(b) && b[i] == '"' {
		return i + 1
	}
	return -1
}

// IDWindow is how many of a line's first bytes FindID is meant for.
const IDWindow = 4 << 10

// FindID looks for the request id in the beginning of a line that cannot be
// parsed, and returns its JSON text, nil if there is none that can be echoed.
// Only names of the outermost object count.
func FindID(head []byte) []byte {
	depth := 0
	for i := 0; i < len(head); {
		switch head[i] {
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case '"':
			end := looseString(head, i)
			if depth == 1 && string(head[i:end]) == `"request_id"` {
				at := rpc.SkipSpace(head, end)
				if at < len(head) && head[at] == ':' {
					at = rpc.SkipSpace(head, at+1)
					n, t, err := rpc.Scan(head[at:])
					if err != nil || t.Has(odd) {
						return nil
					}
					if c := head[at]; at+n == len(head) && (c == '-' || c >= '0' && c <= '9') {
						return nil // the number may go on
					}
					return head[at : at+n]
				}
			}
			i = end
		default:
			i++
		}
	}
	return nil
}

// looseString returns the offset behind the string at i, whatever is in it.
func looseString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}
