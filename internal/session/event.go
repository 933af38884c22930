package session

import (
	"strconv"
	"strings"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Limits of one event.
const (
	// MaxEvent is the most bytes of an event's JSON text: with an envelope
	// around it, it still fits in one frame.
	MaxEvent = 16<<20 - 4096
	// MaxType is the most bytes of an event's type.
	MaxType = 256
	// maxEventDepth leaves room for what histories and frames put around an event.
	maxEventDepth = rpc.MaxDepth - 8
)

// Event is one event of a session as followers get it.
type Event struct {
	// Seq numbers the events of a session from 1, without holes. That of a gap
	// event is the number of the last event that was lost.
	Seq uint64
	// Type is the event's member "type".
	Type string
	// JSON is the whole event, one object on one line, with ts and seq. All
	// followers share these bytes: they are never changed.
	JSON []byte

	traits rpc.Traits
	kind   kind
	lost   uint64 // of a hole: how many numbers up to Seq it stands for
}

// Value returns the event for a stream or a result. It shares e.JSON.
func (e Event) Value() rpc.Value { return rpc.RawValue(e.JSON, e.traits) }

// kind says how an event is kept.
type kind uint8

const (
	plain     kind = iota // in the ring
	resolved              // in the ring, but no news to who sees the session for the first time
	snapshot              // only the latest is kept
	prompt                // kept while it is open
	transient             // for those who follow now
	hole                  // in the ring: a gap event for numbers whose events nobody has any more
)

func kindOf(eventType string) kind {
	switch eventType {
	case "state_snapshot":
		return snapshot
	case "permission_request":
		return prompt
	case "permission_resolved":
		return resolved
	case "heartbeat", "shutdown", "gap":
		return transient
	}
	return plain
}

// source says who may publish an event.
type source uint8

const (
	anybody   source = iota
	ownerOnly        // what followers, prompts and the session's status go by
	hubOnly          // what the hub alone can know
)

// source says who the event may come from.
func (d *draft) source() source {
	switch d.typ {
	case "shutdown", "gap", "heartbeat", "input":
		return hubOnly
	case "exit", "resize", "state_snapshot", "permission_request", "permission_resolved":
		return ownerOnly
	case "stream_chunk":
		if d.tty { // terminals obey what is in it
			return ownerOnly
		}
	}
	return anybody
}

// draft is an event that has been checked and has no number yet.
type draft struct {
	head   []byte // the object without its closing brace and without seq; borrowed
	typ    string
	traits rpc.Traits
	hasTS  bool
	tty    bool // it says that its bytes are for a terminal
	cols   int  // of a resize; 0 for none
	rows   int
	kind   kind
	toolID string    // of prompts and their ends; "" for none
	answer string    // of a permission_resolved
	exit   *Exit     // of an exit that says how
	charge *rpc.Kept // for what stays; nil: nobody is charged
}

// draftOf checks an event. The draft refers to the value's text.
func draftOf(v rpc.Value) (draft, error) {
	text, traits, err := eventText(v)
	if err != nil {
		return draft{}, err
	}
	d := draft{traits: traits}
	var hasType, hasSeq bool
	var details rpc.Value
	whole := rpc.RawValue(text, traits)
	for name, m := range whole.Members() {
		switch {
		case rpc.NameIs(name, "type"):
			raw, _ := m.Raw()
			if m.Kind() != '"' || len(raw) > MaxType+2 || len(raw) == 2 {
				return draft{}, rpc.Errorf(rpc.CodeInvalidParams, "the type of an event is a string of 1 to %d bytes", MaxType)
			}
			d.typ, hasType = typeName(raw), true
		case rpc.NameIs(name, "ts"):
			d.hasTS = true
		case rpc.NameIs(name, "tty"):
			d.tty = d.tty || m.Kind() == 't'
		case rpc.NameIs(name, "seq"):
			hasSeq = true
		case rpc.NameIs(name, "action"):
			// Replies to calls come on the same connection: no event may look like one.
			if a, err := m.AsString(); err == nil && strings.HasPrefix(a, "rpc_") {
				return draft{}, rpc.Errorf(rpc.CodeInvalidParams, "an event cannot have the action %s", rpc.CleanText(a, 64))
			}
		case rpc.NameIs(name, "details"):
			details = m
		}
	}
	if !hasType {
		return draft{}, rpc.Errorf(rpc.CodeInvalidParams, "an event has a member type")
	}
	d.kind = kindOf(d.typ)
	switch d.kind {
	case prompt:
		d.toolID = textMember(details, "tool_id")
	case resolved:
		d.toolID, d.answer = textMember(whole, "tool_id"), textMember(whole, "response")
	}
	if d.typ == "resize" {
		d.cols, d.rows = sizeIn(whole)
	}
	if d.typ == "exit" {
		d.exit = exitOf(whole)
	}
	if hasSeq {
		d.head = withoutSeq(whole)
	} else {
		d.head = text[:len(text)-1]
	}
	return d, nil
}

// eventText returns the event as one line of JSON text.
func eventText(v rpc.Value) ([]byte, rpc.Traits, error) {
	text, raw := v.Raw()
	traits := v.Traits()
	var err error
	if !raw || traits.Has(rpc.HasNewline) {
		if text, err = v.AppendJSON(nil, rpc.Form{NonFinite: true}); err != nil {
			return nil, traits, rpc.Errorf(rpc.CodeInvalidParams, "the event is not JSON: %v", err)
		}
	}
	if len(text) == 0 || text[0] != '{' {
		return nil, traits, rpc.Errorf(rpc.CodeInvalidParams, "an event is an object")
	}
	if len(text) > MaxEvent {
		return nil, traits, rpc.Errorf(rpc.CodeTooLarge, "an event has at most %d bytes", MaxEvent)
	}
	traits.Flags &^= rpc.HasNewline
	if !raw || traits.Depth > maxEventDepth {
		// The traits of a part are those of the whole: only a scan tells its own.
		if _, traits, err = rpc.Scan(text); err != nil {
			return nil, traits, rpc.Errorf(rpc.CodeInvalidParams, "the event is not JSON: %v", err)
		}
		if traits.Depth > maxEventDepth {
			return nil, traits, rpc.Errorf(rpc.CodeInvalidParams, "an event is nested at most %d levels deep", maxEventDepth)
		}
	}
	return text, traits, nil
}

// withoutSeq copies an object, without its closing brace, and leaves out every member seq.
func withoutSeq(object rpc.Value) []byte {
	raw, _ := object.Raw()
	head := append(make([]byte, 0, len(raw)), '{')
	for name, m := range object.Members() {
		if rpc.NameIs(name, "seq") {
			continue
		}
		if len(head) > 1 {
			head = append(head, ',')
		}
		value, _ := m.Raw()
		head = append(append(append(head, name...), ':'), value...)
	}
	return head
}

// event gives the draft its number and time. The text is copied, once.
func (d *draft) event(seq uint64, now time.Time) Event {
	text := append(make([]byte, 0, len(d.head)+64), d.head...)
	if !d.hasTS {
		text = append(text, `,"ts":`...)
		text = appendEpoch(text, now)
	}
	text = append(text, `,"seq":`...)
	text = strconv.AppendUint(text, seq, 10)
	text = append(text, '}')
	e := Event{Seq: seq, Type: d.typ, JSON: text, traits: d.traits, kind: d.kind}
	if seq >= 1e15 {
		e.traits.Flags |= rpc.HasBigInt
	}
	return e
}

// gapEvent tells a follower that the dropped events up to and including seq are lost.
func gapEvent(dropped, seq uint64) Event {
	text := append(make([]byte, 0, 64), `{"type":"gap","dropped":`...)
	text = strconv.AppendUint(text, dropped, 10)
	text = append(text, `,"seq":`...)
	text = append(strconv.AppendUint(text, seq, 10), '}')
	e := Event{Seq: seq, Type: "gap", JSON: text, traits: rpc.Traits{Depth: 1}, kind: transient}
	if max(dropped, seq) >= 1e15 {
		e.traits.Flags |= rpc.HasBigInt
	}
	return e
}

// holeEvent is a gap event that the session itself keeps.
func holeEvent(lost, seq uint64) Event {
	e := gapEvent(lost, seq)
	e.kind, e.lost = hole, lost
	return e
}

// after returns what of a hole is news to who has seen the events up to seq.
func (e Event) after(seq uint64) Event {
	if e.kind == hole && seq > e.Seq-e.lost {
		return gapEvent(e.Seq-seq, e.Seq)
	}
	return e
}

// restartEvent tells a follower that the numbers began anew after it had seen
// the session: it is a gap of unknown size.
func restartEvent(seq uint64, epoch string) Event {
	text := strconv.AppendUint([]byte(`{"type":"gap","dropped":0,"seq":`), seq, 10)
	text = append(text, `,"restarted":true,"epoch":`...)
	text = append(rpc.AppendString(text, epoch, false), '}')
	return Event{Seq: seq, Type: "gap", JSON: text, traits: rpc.Traits{Depth: 1}, kind: transient}
}

// shutdownEvent tells followers that the hub stops. It has no number, because
// the session goes on after that as if it had not been.
func shutdownEvent(reason string, now time.Time) Event {
	text := rpc.AppendString([]byte(`{"type":"shutdown","reason":`), reason, false)
	text = append(appendEpoch(append(text, `,"ts":`...), now), '}')
	return Event{Type: "shutdown", JSON: text, traits: rpc.Traits{Depth: 1}, kind: transient}
}

// appendEpoch appends t as seconds since 1970 with microseconds: the wire's "float epoch".
func appendEpoch(dst []byte, t time.Time) []byte {
	micro := t.UnixMicro()
	dst = strconv.AppendInt(dst, micro/1e6, 10)
	frac := micro % 1e6
	dst = append(dst, '.')
	for unit := int64(1e5); unit > 0; unit /= 10 {
		dst = append(dst, byte('0'+frac/unit%10))
	}
	return dst
}

// epoch is appendEpoch as a number.
func epoch(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

// typeName unquotes a type; the usual ones cost no memory.
func typeName(literal []byte) string {
	switch string(literal) {
	case `"output"`:
		return "output"
	case `"stream_chunk"`:
		return "stream_chunk"
	case `"message"`:
		return "message"
	case `"thinking"`:
		return "thinking"
	case `"state_snapshot"`:
		return "state_snapshot"
	case `"input"`:
		return "input"
	}
	return rpc.Unquote(literal)
}

// textMember returns a string member of an object, "" when there is none.
func textMember(object rpc.Value, name string) string {
	m, _ := object.Member(name)
	s, err := m.AsString()
	if err != nil {
		return ""
	}
	return s
}
