package session

import (
	"context"
	"io"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Limits of what waits for the owner of a session.
const (
	maxInputItems = 4096
	maxInputBytes = 1 << 20
	// MaxInput is the most bytes of one input's JSON text.
	MaxInput = 256 << 10
)

// itemKind says what becomes of an item that nobody takes.
type itemKind uint8

const (
	typed       itemKind = iota // for an owner that is there, or comes back at once
	sizeItem                    // only the latest counts
	answerItem                  // waits for the owner to come back
	messageItem                 // stays in the inbox
)

// inputItem is one item on its way to the owner.
type inputItem struct {
	value rpc.Value
	kind  itemKind
	at    time.Time // of typed items
	held  *held
}

// typedKeeps is how long what was typed waits for an owner that is away. It
// bridges a reconnection; no program gets what was typed minutes before.
const typedKeeps = 10 * time.Second

// stale reports whether an item that waited has lost its meaning.
func (i inputItem) stale() bool { return i.kind == typed && time.Since(i.at) > typedKeeps }

func (i inputItem) cost() int {
	raw, _ := i.value.Raw()
	return len(raw) + 64
}

// inputQueue is a bounded queue of items.
type inputQueue struct {
	items []inputItem
	bytes int
}

func (q *inputQueue) full(n int) bool {
	return len(q.items) >= maxInputItems || len(q.items) > 0 && q.bytes+n > maxInputBytes
}

// add appends an item. Of window sizes in a row the last is enough. What must
// not be lost pushes out what is oldest.
func (q *inputQueue) add(i inputItem) {
	if last := len(q.items) - 1; i.kind == sizeItem && last >= 0 && q.items[last].kind == sizeItem {
		q.bytes += i.cost() - q.items[last].cost()
		i.held.add()
		q.items[last].held.drop()
		q.items[last] = i
		return
	}
	for q.full(i.cost()) {
		q.take()
	}
	i.held.add()
	q.items = append(q.items, i)
	q.bytes += i.cost()
}

func (q *inputQueue) take() inputItem {
	i := q.items[0]
	q.items[0] = inputItem{}
	q.items = q.items[1:]
	q.bytes -= i.cost()
	i.held.drop()
	if len(q.items) == 0 {
		q.items = nil
	}
	return i
}

// clear empties the queue.
func (q *inputQueue) clear() {
	for _, i := range q.items {
		i.held.drop()
	}
	*q = inputQueue{}
}

// inputLine is what leads from the followers of a session to its owner. It is
// guarded by the session's mutex.
type inputLine struct {
	readers []*Inputs
	backlog inputQueue // for the next reader
	sizes   sizes
}

// Inputs is the owner's end of the input line. Next is for one goroutine at a
// time, Close for any.
type Inputs struct {
	s    *Session
	link *rpc.Link
	wake chan struct{} // cap 1

	queue inputQueue // guarded by s.mu, with the fields below
	ended bool       // the session closed, or belongs to somebody else
	close bool
}

// full reports whether a further n bytes of typed input find no room.
func (l *inputLine) full(n int) bool {
	for _, in := range l.readers {
		if in.queue.full(n) {
			return true
		}
	}
	return len(l.readers) == 0 && l.backlog.full(n)
}

// deliverLocked hands an item to every reader, or keeps it for the next one if keep is set.
func (l *inputLine) deliverLocked(i inputItem, keep bool) {
	for _, in := range l.readers {
		in.queue.add(i)
		in.signal()
	}
	if len(l.readers) == 0 && keep {
		l.backlog.add(i)
	}
}

// keepOnlyLocked ends the readers of other connections and returns them.
func (l *inputLine) keepOnlyLocked(owner *rpc.Link) (ended []*Inputs) {
	var kept []*Inputs
	for _, in := range l.readers {
		if in.link == owner {
			kept = append(kept, in)
			continue
		}
		in.ended = true
		ended = append(ended, in)
	}
	l.readers = kept
	return ended
}

func (l *inputLine) endLocked() []*Inputs {
	readers := l.readers
	for _, in := range readers {
		in.ended = true
	}
	l.backlog.clear()
	l.readers, l.sizes.seen = nil, nil
	return readers
}

// Input takes what a follower typed: text is a JSON string and passes through
// unchanged. It is published as an event and handed to the owner if there is
// one. An owner that does not take its input makes it CodeOverloaded, and then
// nothing is published.
func (s *Session) Input(by *rpc.Link, clientID string, text rpc.Value) error {
	_, err := s.Type(by, clientID, text)
	return err
}

// Type is Input that also says whether there is anybody to read it: the owner,
// or who reads in its place. While the text waits to be taken it is charged to
// by, the connection of who typed it; nil: to nobody.
func (s *Session) Type(by *rpc.Link, clientID string, text rpc.Value) (delivered bool, err error) {
	literal, err := text.AppendJSON(nil, rpc.Form{})
	if err != nil || len(literal) == 0 || literal[0] != '"' {
		return false, rpc.Errorf(rpc.CodeInvalidParams, "input is a string")
	}
	if len(literal) > MaxInput {
		return false, rpc.Errorf(rpc.CodeTooLarge, "one input has at most %d bytes", MaxInput)
	}
	if len(literal) == 2 {
		return true, nil // nothing was typed
	}
	body := append(make([]byte, 0, len(literal)+64), `{"type":"input","text":`...)
	body = append(body, literal...)
	body = append(body, `,"client_id":`...)
	body = append(rpc.AppendString(body, rpc.CleanText(clientID, 256), false), '}')
	item, err := rpc.Parse(body)
	if err != nil {
		return false, rpc.Errorf(rpc.CodeInvalidParams, "input is a string")
	}
	d, err := draftOf(item)
	if err != nil {
		return false, err
	}
	in := inputItem{value: item, kind: typed, at: time.Now()}
	if in.held, err = hold(by, in.cost()); err != nil {
		return false, err
	}
	s.mu.Lock()
	switch {
	case s.closed:
		in.held.drop()
		s.mu.Unlock()
		return false, errClosed
	case s.owner != nil && s.input.full(len(body)+64):
		in.held.drop()
		s.mu.Unlock()
		return false, rpc.Errorf(rpc.CodeOverloaded, "the program behind session %s does not take its input", s.name)
	}
	delivered = s.owner != nil || len(s.input.readers) > 0
	e, _ := s.appendLocked(&d)
	s.input.deliverLocked(in, s.owner != nil || s.linger != nil)
	in.held.drop()
	s.weighLocked()
	s.mu.Unlock()
	s.published(e, 0)
	s.registry.opts.Observer.Input(s)
	return delivered, nil
}

// Inputs opens the owner's end of the input line. link is the connection that
// reads it: the owner's, or any while the session has no owner. It begins with
// the window size if one is known, what waited for an owner, and the messages
// of the inbox. The reader must Close it.
func (s *Session) Inputs(link *rpc.Link) (*Inputs, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if s.owner != nil && s.owner.link != link {
		return nil, rpc.Errorf(rpc.CodePermissionDenied, "session %s belongs to another connection", s.name)
	}
	in := &Inputs{s: s, link: link, wake: make(chan struct{}, 1)}
	if z := &s.input.sizes; z.cols > 0 {
		in.queue.add(sizeOf(z.cols, z.rows))
	}
	for _, i := range s.input.backlog.items {
		if s.owner != nil && s.owner.since.Before(i.at) || !i.stale() {
			in.queue.add(i)
		}
	}
	s.input.backlog.clear()
	for _, m := range s.inbox.takeLocked() {
		in.queue.add(inputItem{value: m.value, kind: messageItem, held: m.held})
		m.held.drop()
	}
	s.input.readers = append(s.input.readers, in)
	s.weighLocked()
	return in, nil
}

// Next returns the next item: {"type":"input","text","client_id"},
// {"type":"resize","cols","rows"}, {"type":"permission_response","tool_id",
// "response"} or {"type":"message",...}. It waits under ctx and fails with
// io.EOF when the session has closed or got another owner.
func (in *Inputs) Next(ctx context.Context) (rpc.Value, error) {
	for {
		in.s.mu.Lock()
		if len(in.queue.items) > 0 && !in.close {
			v := in.queue.take().value
			in.s.weighLocked()
			in.s.mu.Unlock()
			return v, nil
		}
		over := in.ended || in.close
		in.s.mu.Unlock()
		if over {
			return rpc.Value{}, io.EOF
		}
		select {
		case <-in.wake:
		case <-ctx.Done():
			return rpc.Value{}, ctx.Err()
		}
	}
}

// Close ends the reading. What was not read goes back to wait, as far as it
// makes sense for a later reader.
func (in *Inputs) Close() {
	s := in.s
	s.mu.Lock()
	if in.close {
		s.mu.Unlock()
		return
	}
	in.close = true
	readers := s.input.readers[:0]
	for _, r := range s.input.readers {
		if r != in {
			readers = append(readers, r)
		}
	}
	clear(s.input.readers[len(readers):])
	s.input.readers = readers
	if len(readers) == 0 && !s.closed {
		for _, i := range in.queue.items {
			switch {
			case i.kind == messageItem:
				s.inbox.keepLocked(i.value, i.held)
			case i.kind == answerItem || i.kind == typed && (s.owner != nil || s.linger != nil):
				s.input.backlog.add(i)
			}
		}
	}
	in.queue.clear()
	s.weighLocked()
	s.mu.Unlock()
	in.signal()
}

func (in *Inputs) signal() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}
