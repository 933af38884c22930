package session

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// A session that has ended stays for a while, so that who comes a moment too
// late still finds its events and how its program ended. It cannot be
// published to, and a new session of its name takes its place.

// endedCost is what an ended session counts beside its events.
const endedCost = 1 << 10

// Exit is how the program of a session has ended, as its event "exit" says.
type Exit struct {
	Code   int64
	Signal string // "" when it ended by itself
}

// exitOf reads an event "exit", nil when it has no status.
func exitOf(event rpc.Value) *Exit {
	code, _ := event.Member("code")
	n, err := code.AsInt()
	if err != nil {
		return nil
	}
	return &Exit{n, rpc.CleanText(textMember(event, "signal"), 32)}
}

func (e *Exit) tree() any {
	if e == nil {
		return nil
	}
	m := &rpc.Map{}
	m.Set("code", e.Code)
	if e.Signal == "" {
		m.Set("signal", nil)
	} else {
		m.Set("signal", e.Signal)
	}
	return m
}

// retain keeps a session that has ended; r.life is held.
func (r *Registry) retain(s *Session) {
	stays := r.opts.Ended - time.Since(s.endedAt())
	if s.permanent || stays <= 0 {
		s.release()
		return
	}
	r.mu.Lock()
	before := r.ended[s.name]
	r.ended[s.name] = s
	r.mu.Unlock()
	if before != nil {
		before.release()
	}
	s.mu.Lock()
	s.linger = time.AfterFunc(stays, func() {
		r.life.Lock()
		defer r.life.Unlock()
		r.forget(s)
	})
	s.mu.Unlock()
	r.trimEnded()
}

// forget lets an ended session go, and reports whether it was there; r.life is held.
func (r *Registry) forget(s *Session) bool {
	r.mu.Lock()
	there := r.ended[s.name] == s
	if there {
		delete(r.ended, s.name)
	}
	r.mu.Unlock()
	if there {
		s.release()
	}
	return there
}

// trimEnded keeps ended sessions within their bytes. The user whose sessions
// take most loses the oldest of them, and of the last one its oldest events, so
// that nobody pushes out what others have left.
func (r *Registry) trimEnded() {
	list := r.endedList()
	slices.SortStableFunc(list, func(a, b *Session) int { return a.endedAt().Compare(b.endedAt()) })
	of, sizes := map[string][]*Session{}, map[string]int{} // by owner
	total := 0
	for _, s := range list {
		owner, n := s.endedOwner(), s.endedSize()
		of[owner] = append(of[owner], s)
		sizes[owner] += n
		total += n
	}
	for total > r.opts.EndedBytes && len(sizes) > 0 { // others may free some meanwhile
		most := ""
		for owner, n := range sizes {
			if n > sizes[most] || n == sizes[most] && owner < most {
				most = owner
			}
		}
		s := of[most][0]
		n := s.endedSize()
		freed := 0
		if len(of[most]) == 1 {
			s.trimTo(n - (total - r.opts.EndedBytes))
			freed = n - s.endedSize()
		}
		if freed == 0 {
			r.forget(s)
			of[most] = of[most][1:]
			freed = n
		}
		total -= freed
		if sizes[most] -= freed; len(of[most]) == 0 {
			delete(sizes, most)
		}
	}
}

// endedOwner says whose an ended session is: "" for nobody's.
func (s *Session) endedOwner() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.last == nil || s.last.Peer == nil:
		return ""
	case s.last.Peer.UID >= 0:
		return strconv.Itoa(s.last.Peer.UID)
	}
	return "name " + s.last.Peer.Name
}

// endedList returns the ended sessions.
func (r *Registry) endedList() []*Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*Session, 0, len(r.ended))
	for _, s := range r.ended {
		list = append(list, s)
	}
	return list
}

// ListAll returns all sessions, those that have ended and are kept among them,
// sorted by name.
func (r *Registry) ListAll() []*Session {
	list := append(r.List(), r.endedList()...)
	slices.SortFunc(list, func(a, b *Session) int { return cmp.Compare(a.name, b.name) })
	return list
}

// FindAny is Find that also finds a session that has ended and is kept.
func (r *Registry) FindAny(name string) (*Session, error) {
	if s, err := r.Find(name); err == nil {
		return s, nil
	}
	if s, ok := r.endedOf(name); ok {
		return s, nil
	}
	return r.Find(name)
}

func (r *Registry) endedOf(name string) (*Session, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.ended[name]
	return s, ok
}

// Remove forgets a session that has ended.
func (r *Registry) Remove(s *Session) error {
	r.life.Lock()
	defer r.life.Unlock()
	if !s.Closed() {
		return rpc.Errorf(rpc.CodeConflict, "session %s has not ended", s.name)
	}
	if !r.forget(s) {
		return rpc.Errorf(rpc.CodeNotFound, "session not found: %s", s.name)
	}
	return nil
}

// Wait returns when the session has ended, and how its program did: nil when
// nobody said that. When the hub stops meanwhile it fails with rpc.ErrShutdown:
// the session goes on after that. The session of the hub itself never ends: to wait for it is refused.
func (s *Session) Wait(ctx context.Context) (*Exit, error) {
	s.mu.Lock()
	permanent := s.permanent
	s.mu.Unlock()
	if permanent {
		return nil, rpc.Errorf(rpc.CodeInvalidParams, "session %s belongs to the hub and does not end", s.name)
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.suspended {
		return nil, rpc.ErrShutdown
	}
	return s.exit, nil
}

func (s *Session) endedAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// endedSize is what an ended session counts.
func (s *Session) endedSize() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endedSizeLocked()
}

func (s *Session) endedSizeLocked() int {
	return s.ring.bytes + s.beside + endedCost
}

// trimTo drops the oldest events of an ended session until it is small enough.
func (s *Session) trimTo(limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.endedSizeLocked() > limit {
		s.cutReplaysLocked()
		switch {
		case s.ring.n > 0:
			s.ring.drop()
		case s.snapshot.Seq > 0:
			s.snapshot = Event{}
			s.weighLocked()
		default:
			return
		}
	}
}

// release lets go of what an ended session keeps, but for what followers read.
func (s *Session) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.linger != nil {
		s.linger.Stop()
	}
	s.retained = false
	s.letGoLocked()
}

// letGoLocked stops counting what nobody can read any more.
func (s *Session) letGoLocked() {
	if !s.closed || s.retained || s.gone || len(s.followers) > 0 {
		return
	}
	s.gone = true
	s.registry.described.Add(-int64(s.aboutBytes()))
	s.registry.kept.Add(-int64(s.log.bytes + s.old.bytes + s.ring.bytes + s.beside))
	s.log.total, s.ring.total, s.old.total = nil, nil, nil
	s.registry.past.Delete(s)
}

// signalName makes a signal's name of what somebody typed: "TERM", "sigterm".
func signalName(text string) (string, error) {
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	plain := strings.TrimLeft(name[3:], "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == ""
	if !plain || len(name) < 5 || len(name) > 12 {
		return "", rpc.Errorf(rpc.CodeInvalidParams, "%s is no signal, such as TERM or KILL", rpc.CleanText(text, 32))
	}
	return name, nil
}

// Kill asks the owner of the session to send its program a signal.
func (s *Session) Kill(signal, clientID string) error {
	name, err := signalName(signal)
	if err != nil {
		return err
	}
	body := rpc.AppendString([]byte(`{"type":"signal","signal":`), name, false)
	body = rpc.AppendString(append(body, `,"client_id":`...), rpc.CleanText(clientID, 256), false)
	item := inputItem{value: rpc.RawString(string(body) + "}"), kind: typed, at: time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errEnded(s.name)
	case len(s.input.readers) == 0:
		return rpc.Errorf(rpc.CodeUnavailable, "nobody runs the program of session %s: its producer is away", s.name)
	}
	s.input.deliverLocked(item, false)
	return nil
}

func errEnded(name string) error {
	return rpc.Errorf(rpc.CodeNotFound, "session %s has ended", rpc.CleanText(name, 64))
}
