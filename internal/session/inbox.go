package session

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Limits of the inbox of a session.
const (
	seenIDs      = 1000             // messages whose id is not taken again
	sameContent  = 30 * time.Second // in which a non-direct message is not repeated
	maxContents  = 1000             // contents remembered for that
	maxInbox     = 50               // messages kept for an absent owner
	maxWaiting   = 1 << 20          // bytes of these, or one message
	inboxDays    = 7 * 24 * time.Hour
	maxInboxSize = 1 << 20 // bytes of one message
)

// inbox knows the messages that a session got lately and keeps those that its
// owner has not received. It is guarded by the session's mutex.
type inbox struct {
	ids    map[digest]struct{}
	order  []digest // of ids, a ring
	next   int
	said   map[digest]time.Time
	waits  []waitingMessage
	roster rpc.Value
	charge *rpc.Kept // for roster
	bytes  int       // of waits and roster
}

// digest stands for an id, or for who said what, whatever its length.
type digest [16]byte

func digestOf(parts ...string) digest {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return digest(h.Sum(nil)[:16])
}

type waitingMessage struct {
	value rpc.Value
	since time.Time
	held  *held
}

// Delivery says what became of a message.
type Delivery struct {
	ID        rpc.Value // that of the message, or the one it was given
	Duplicate bool      // it was dropped
	Addressed bool      // it was meant for this session, not only for it to see
}

// Deliver takes a message, an object with the fields of the control action
// "message": absent ones get their defaults, unknown ones are dropped. One
// whose id is among the last 1000 is a duplicate, as is a non-direct one with
// the sender and content of another within 30 s. All others reach the owner's
// input as {"type":"message",...,"addressed":bool}; up to 50 of them wait for
// an owner that is not there. What waits is charged to by, the connection of
// its sender; nil: to nobody.
func (s *Session) Deliver(by *rpc.Link, message rpc.Value) (Delivery, error) {
	if raw, _ := message.Raw(); len(raw) > maxInboxSize {
		return Delivery{}, rpc.Errorf(rpc.CodeTooLarge, "a message has at most %d bytes", maxInboxSize)
	}
	now := time.Now()
	id, set := message.Member("id")
	if !set {
		id = rpc.String(newMessageID())
	}
	id = id.Own()
	key, err := id.AppendJSON(nil, rpc.Form{NonFinite: true})
	if err != nil {
		return Delivery{}, rpc.Errorf(rpc.CodeInvalidParams, "the id of a message is JSON")
	}
	body, err := messageBody(message, key, now)
	if err != nil {
		return Delivery{}, err
	}
	d := Delivery{ID: id, Addressed: s.addressed(textMember(message, "to"))}
	if d.Addressed {
		body = append(body, `,"addressed":true}`...)
	} else {
		body = append(body, `,"addressed":false}`...)
	}
	item, err := rpc.Parse(body)
	if err != nil {
		return Delivery{}, rpc.Errorf(rpc.CodeInvalidParams, "the message is not JSON: %v", err)
	}
	scope, hasScope := message.Member("scope")
	direct := !hasScope
	if text, err := scope.AsString(); err == nil && text == "direct" {
		direct = true
	}
	waits, err := hold(by, sizeOfValue(item))
	if err != nil {
		return Delivery{}, err
	}
	s.mu.Lock()
	if s.closed {
		waits.drop()
		s.mu.Unlock()
		return Delivery{}, errClosed
	}
	d.Duplicate = s.inbox.seenLocked(digestOf(string(key))) ||
		!direct && s.inbox.saidLocked(digestOf(textMember(message, "from_identity"), textMember(message, "content")), now)
	if !d.Duplicate {
		if len(s.input.readers) > 0 {
			s.input.deliverLocked(inputItem{value: item, kind: messageItem, held: waits}, false)
		} else {
			s.inbox.keepLocked(item, waits)
		}
		s.weighLocked()
	}
	waits.drop()
	s.mu.Unlock()
	s.registry.balance()
	s.registry.opts.Observer.Message(s, d.Duplicate)
	return d, nil
}

// messageFields are those of a message in the order in which they are passed
// on, with their defaults; id, timestamp and thread_id have their own.
var messageFields = []struct{ name, absent string }{
	{"action", `"message"`}, {"from_agent", `""`}, {"from_identity", `""`}, {"to", `""`}, {"content", `""`},
	{"scope", `"direct"`}, {"timestamp", ""}, {"metadata", `{}`}, {"force", `false`}, {"thread_id", ""}, {"reply_to", `""`},
}

// messageBody writes the message without its closing brace.
func messageBody(message rpc.Value, id []byte, now time.Time) ([]byte, error) {
	body := append([]byte(nil), `{"type":"message","id":`...)
	body = append(body, id...)
	for _, f := range messageFields {
		body = append(append(append(body, `,"`...), f.name...), `":`...)
		v, set := message.Member(f.name)
		raw, _ := v.Raw()
		switch {
		case f.name == "thread_id" && (!set || string(raw) == `""`):
			body = append(body, id...)
		case set:
			var err error
			if body, err = v.AppendJSON(body, rpc.Form{NonFinite: true}); err != nil {
				return nil, rpc.Errorf(rpc.CodeInvalidParams, "%s of a message is not JSON", f.name)
			}
		case f.name == "timestamp":
			body = appendEpoch(body, now)
		default:
			body = append(body, f.absent...)
		}
	}
	return body, nil
}

// addressed reports whether a message to that name is meant for this session.
func (s *Session) addressed(to string) bool {
	switch to {
	case s.name, "*", "all", "everyone", "team", "project":
		return true
	}
	return false
}

func newMessageID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// seenLocked notes an id and reports whether it was known.
func (b *inbox) seenLocked(id digest) bool {
	if _, known := b.ids[id]; known {
		return true
	}
	if b.ids == nil {
		b.ids = map[digest]struct{}{}
	}
	if len(b.order) < seenIDs {
		b.order = append(b.order, id)
	} else {
		delete(b.ids, b.order[b.next])
		b.order[b.next] = id
		b.next = (b.next + 1) % seenIDs
	}
	b.ids[id] = struct{}{}
	return false
}

// saidLocked notes a saying and reports whether it was heard within sameContent.
func (b *inbox) saidLocked(what digest, now time.Time) bool {
	if at, known := b.said[what]; known && now.Sub(at) < sameContent {
		return true
	}
	if b.said == nil {
		b.said = map[digest]time.Time{}
	}
	if len(b.said) >= maxContents {
		for k, at := range b.said {
			if now.Sub(at) >= sameContent {
				delete(b.said, k)
			}
		}
		if len(b.said) >= maxContents {
			clear(b.said) // a flood: a repetition may pass
		}
	}
	b.said[what] = now
	return false
}

// keepLocked keeps a message for an absent owner.
func (b *inbox) keepLocked(v rpc.Value, by *held) {
	n := sizeOfValue(v)
	for len(b.waits) >= maxInbox || len(b.waits) > 0 && b.bytes-sizeOfValue(b.roster)+n > maxWaiting {
		b.bytes -= sizeOfValue(b.waits[0].value)
		b.waits[0].held.drop()
		b.waits[0] = waitingMessage{}
		b.waits = b.waits[1:]
	}
	b.waits = append(b.waits, waitingMessage{v, time.Now(), by})
	by.add()
	b.bytes += n
}

func sizeOfValue(v rpc.Value) int {
	raw, _ := v.Raw()
	return len(raw)
}

// forgetLocked drops what waits, and the roster.
func (b *inbox) forgetLocked() {
	for _, m := range b.waits {
		m.held.drop()
	}
	b.charge.Free()
	b.charge = nil
	b.waits, b.roster, b.bytes = nil, rpc.Value{}, 0
}

// takeLocked returns what waits, oldest first, with its charges.
func (b *inbox) takeLocked() []waitingMessage {
	var list []waitingMessage
	for _, m := range b.waits {
		if time.Since(m.since) < inboxDays {
			list = append(list, m)
		} else {
			m.held.drop()
		}
	}
	b.waits, b.bytes = nil, sizeOfValue(b.roster)
	return list
}

const maxRoster = 1 << 20 // bytes

// SetRoster replaces the list of peers that clients tell the session of. What
// is no array of objects, or is over 1 MiB, is ignored. It is charged to by, the connection that it
// comes from; nil: to nobody.
func (s *Session) SetRoster(by *rpc.Link, agents rpc.Value) error {
	if agents.Kind() != '[' {
		return nil
	}
	if raw, _ := agents.Raw(); len(raw) > maxRoster {
		return nil
	}
	for a := range agents.Elements() {
		if a.Kind() != '{' {
			return nil
		}
	}
	agents = agents.Own()
	s.mu.Lock()
	if !s.closed {
		n, old := sizeOfValue(agents), sizeOfValue(s.inbox.roster)
		charge, ok := replaceCharge(by, n, s.inbox.charge, old)
		if !ok {
			s.mu.Unlock()
			return charge.Over(int64(n))
		}
		s.inbox.bytes += n - old
		s.inbox.roster, s.inbox.charge = agents, charge
		s.weighLocked()
	}
	s.mu.Unlock()
	s.registry.balance()
	return nil
}

// Roster returns what SetRoster was told last, an empty array before.
func (s *Session) Roster() rpc.Value {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inbox.roster.IsUndefined() {
		return rpc.RawString("[]")
	}
	return s.inbox.roster
}
