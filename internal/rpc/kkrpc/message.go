package kkrpc

import (
	"bytes"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Dialect is one of the two forms of messages.
type Dialect uint8

// The dialects.
const (
	Classic Dialect = 1 + iota // member "type": JavaScript 0.x, Python before June 2026
	Compact                    // member "t": JavaScript 1.x and 2.x, Python since
)

// kind says what a message is. Both dialects have the same kinds, but for
// those with a comment.
type kind uint8

const (
	noKind kind = iota
	isCall
	isGet
	isSet
	isNew
	isRef // compact only: an operation on a remote reference
	isResponse
	isCallback
	isRelease      // compact only
	isChunk        // classic only
	isStreamEnd    // classic only
	isStreamError  // classic only
	isStreamCancel // classic only
	isControl      // compact only: what the consumer of a stream wants
	isData         // compact only: what the producer sends
)

// maxID is how many bytes an id may have as JSON text.
const maxID = 1024

// message is one message, parsed. Everything in it is borrowed from the text.
type message struct {
	dialect Dialect
	kind    kind
	id      rpc.Value
	method  rpc.Value // classic: a dotted name; of a callback its id
	path    rpc.Value // an array of strings
	args    rpc.Value // an array; of a classic response and of stream messages an object
	value   rpc.Value // of a set; of compact responses and stream data
	fail    rpc.Value // compact: of a response or of stream data
	ids     rpc.Value // of a release
	sid     rpc.Value // compact: the stream
	op      rpc.Value // of a control
	n       rpc.Value // of a control: how many more
	done    bool      // of stream data
	meta    rpc.Value // compact: of a request
	notes   rpc.Value // what SuperJSON says about types; undefined without an envelope

	// textErrors says that the sender is of a version that reads errors only
	// as text.
	textErrors bool
}

// reason says why a text was ignored, for metrics.
type reason string

// The reasons.
const (
	badJSON   reason = "bad_json"        // no JSON, or over a limit of it
	badFrame  reason = "unknown_message" // JSON, but no message that we know
	badLength reason = TooLong           // longer than the limit
)

// TooLong is the reason of a text over the limit.
const TooLong = "too_long"

// Reasons lists them all, for code that needs one series per reason.
func Reasons() []string { return []string{string(badJSON), string(badFrame), string(badLength)} }

// parse reads one message. It returns "" or why the text is to be ignored.
func parse(text []byte, m *message) reason {
	v, err := rpc.Parse(text)
	if err != nil {
		return badJSON
	}
	return readMessage(v, m)
}

// members are the members of a message by their names in either dialect.
type members struct {
	t, typ, envelope, meta       rpc.Value
	id, method, args, path       rpc.Value
	value, callbacks, slots      rpc.Value
	op, p, a, v, e, sid, n, ids  rpc.Value
	hasCallbacks, hasSlots, done bool
}

func readMembers(v rpc.Value, m *members) {
	for key, x := range v.Members() {
		name := key[1 : len(key)-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			name = []byte(rpc.Unquote(key))
		}
		switch string(name) {
		case "t":
			m.t = x
		case "type":
			m.typ = x
		case "json":
			m.envelope = x
		case "meta":
			m.meta = x
		case "id":
			m.id = x
		case "method":
			m.method = x
		case "args":
			m.args = x
		case "path":
			m.path = x
		case "value":
			m.value = x
		case "callbackIds":
			m.callbacks, m.hasCallbacks = x, true
		case "transferSlots":
			m.slots, m.hasSlots = x, true
		case "op":
			m.op = x
		case "p":
			m.p = x
		case "a":
			m.a = x
		case "v":
			m.v = x
		case "e":
			m.e = x
		case "sid":
			m.sid = x
		case "n":
			m.n = x
		case "ids":
			m.ids = x
		case "d":
			m.done = x.Kind() == 't'
		}
	}
}

// readMessage tells the dialects apart: a string t is compact, a string type
// classic, an object json an envelope around either.
func readMessage(v rpc.Value, m *message) reason {
	if v.Kind() != '{' {
		return badFrame
	}
	*m = message{}
	var all members
	readMembers(v, &all)
	if all.t.Kind() != '"' && all.typ.Kind() != '"' && all.envelope.Kind() == '{' {
		if notes, ok := all.meta.Member("values"); ok && (notes.Kind() == '{' || notes.Kind() == '[') {
			m.notes = notes
		}
		inner := all.envelope
		all = members{}
		readMembers(inner, &all)
		// Versions 0.2 to 0.4 write callbackIds, but know no transferSlots.
		m.textErrors = all.hasCallbacks && !all.hasSlots
	}
	switch {
	case all.t.Kind() == '"':
		return m.compact(&all)
	case all.typ.Kind() == '"':
		return m.classic(&all)
	}
	return badFrame
}

func (m *message) classic(all *members) reason {
	m.dialect = Classic
	m.id, m.method, m.args, m.path, m.value = all.id, all.method, all.args, all.path, all.value
	switch raw, _ := all.typ.Raw(); string(raw) {
	case `"request"`:
		m.kind = isCall
	case `"response"`:
		m.kind = isResponse
	case `"callback"`:
		m.kind = isCallback
	case `"get"`:
		m.kind = isGet
	case `"set"`:
		m.kind = isSet
	case `"construct"`:
		m.kind = isNew
	case `"stream-chunk"`:
		m.kind = isChunk
	case `"stream-end"`:
		m.kind = isStreamEnd
	case `"stream-error"`:
		m.kind = isStreamError
	case `"stream-cancel"`:
		m.kind = isStreamCancel
	default:
		return badFrame
	}
	switch m.kind {
	case isCall, isNew, isCallback:
		if m.method.Kind() != '"' {
			return badFrame
		}
	}
	if raw, _ := m.id.Raw(); len(raw) > maxID {
		return badFrame
	}
	return ""
}

func (m *message) compact(all *members) reason {
	m.dialect = Compact
	m.id, m.path, m.args, m.value, m.fail = all.id, all.p, all.a, all.v, all.e
	m.ids, m.sid, m.op, m.n, m.done, m.meta = all.ids, all.sid, all.op, all.n, all.done, all.meta
	raw, _ := all.t.Raw()
	switch string(raw) {
	case `"q"`:
		switch op, _ := all.op.Raw(); string(op) {
		case `"call"`:
			m.kind = isCall
		case `"get"`:
			m.kind = isGet
		case `"set"`:
			m.kind = isSet
		case `"new"`:
			m.kind = isNew
		case `"ref"`:
			m.kind = isRef
		}
	case `"r"`:
		m.kind = isResponse
	case `"cb"`:
		m.kind = isCallback
	case `"cbr"`:
		m.kind = isRelease
		if m.ids.Kind() != '[' {
			return badFrame
		}
		return ""
	case `"sq"`:
		m.kind = isControl
	case `"sr"`:
		m.kind = isData
	default:
		return badFrame
	}
	if id, _ := m.id.Raw(); m.id.Kind() != '"' || len(id) > maxID {
		return badFrame // nobody could be answered
	}
	if m.kind == isControl || m.kind == isData {
		if sid, _ := m.sid.Raw(); m.sid.Kind() != '"' || len(sid) > maxID {
			return badFrame
		}
	}
	return ""
}

// text returns what a JSON string says; "" for anything else.
func text(v rpc.Value) string {
	if v.Kind() != '"' {
		return ""
	}
	raw, _ := v.Raw()
	return rpc.Unquote(raw)
}
