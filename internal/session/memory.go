package session

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Sessions live in memory. For a restart of the hub in good order they can be
// written down and read back: one line per session, each followed by the
// lines of the events in its ring. What was open between connections (owners,
// followers, prompts) is not part of it: those come back by themselves.

const (
	memoryFormat  = 1
	maxMemoryLine = MaxEvent + 4096
)

// Save writes what Restore needs: names, titles, numbers and rings of all
// sessions. After Shutdown these are the sessions that it closed.
func (r *Registry) Save(w io.Writer) error {
	r.mu.Lock()
	sessions := r.final
	closed := r.closed
	r.mu.Unlock()
	if !closed {
		sessions = r.ListAll()
	}
	out := bufio.NewWriter(w)
	for _, s := range sessions {
		if err := s.save(out); err != nil {
			return fmt.Errorf("save session %s: %w", s.name, err)
		}
	}
	return out.Flush()
}

func (s *Session) save(out *bufio.Writer) error {
	s.mu.Lock()
	events := make([]Event, s.ring.n)
	for i := range events {
		events[i] = *s.ring.at(i)
	}
	head := &rpc.Map{}
	head.Set("format", int64(memoryFormat))
	head.Set("session", s.name)
	head.Set("title", s.title)
	if !s.meta.IsUndefined() {
		head.Set("meta", s.meta)
	}
	head.Set("ring", int64(s.ring.maxEvents))
	head.Set("floor", s.ring.floor)
	head.Set("seq", s.seq)
	head.Set("epoch", s.epoch)
	if s.producer != "" {
		head.Set("producer", s.producer)
		head.Set("taken", s.taken)
	}
	if z := &s.input.sizes; z.cols > 0 {
		head.Set("cols", int64(z.cols))
		head.Set("rows", int64(z.rows))
	}
	head.Set("permanent", s.permanent)
	head.Set("opened", s.opened.UnixMicro())
	if s.lastType != "" {
		head.Set("last_type", s.lastType)
		head.Set("last_at", s.lastAt.UnixMicro())
	}
	if s.closed && !s.suspended {
		head.Set("ended", s.ended.UnixMicro())
	}
	if s.exit != nil {
		head.Set("exit", s.exit.tree())
	}
	if s.last != nil {
		head.Set("owner", s.last.tree())
	}
	head.Set("events", int64(len(events)))
	s.mu.Unlock()
	line, err := rpc.TreeValue(head).AppendJSON(nil, rpc.Form{NonFinite: true})
	if err != nil {
		return err
	}
	if _, err := out.Write(append(line, '\n')); err != nil {
		return err
	}
	for _, e := range events {
		if _, err := out.Write(e.JSON); err != nil {
			return err
		}
		if err := out.WriteByte('\n'); err != nil {
			return err
		}
	}
	return nil
}

// Restore opens the sessions that Save has written. They have no owner, so
// that those that are not permanent end when nobody takes them over in time. A
// session that exists already, with events, stays as it is. On an error, the
// sessions before it are there.
func (r *Registry) Restore(from io.Reader) error {
	in := bufio.NewReader(from)
	for line := 1; ; {
		head, err := readLine(in)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("line %d of the saved sessions: %w", line, err)
		}
		m, err := memoryOf(head)
		if err != nil {
			return fmt.Errorf("line %d of the saved sessions: %w", line, err)
		}
		line++
		for range m.events {
			text, err := readLine(in)
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			if err == nil {
				err = m.add(text)
			}
			if err != nil {
				return fmt.Errorf("line %d of the saved sessions: %w", line, err)
			}
			line++
		}
		if err := r.restore(m); err != nil {
			return fmt.Errorf("restore session %s: %w", m.name, err)
		}
	}
}

// readLine returns the next line as a Value of its own.
func readLine(in *bufio.Reader) (rpc.Value, error) {
	var text []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(text)+len(part) > maxMemoryLine {
			return rpc.Value{}, errors.New("the line is too long")
		}
		text = append(text, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(text) > 0:
			return rpc.Value{}, io.ErrUnexpectedEOF
		case err != nil:
			return rpc.Value{}, err
		}
		return rpc.Parse(bytes.TrimSuffix(text, []byte("\n")))
	}
}

// memory is one saved session.
type memory struct {
	name   string
	opts   OpenOptions
	floor  uint64
	seq    uint64
	events int
	ring   []Event
	last   uint64

	opened     time.Time
	lastType   string
	lastAt     time.Time
	ended      time.Time // zero: it goes on
	exit       *Exit
	owner      *OwnerInfo
	cols, rows int // of the terminal; 0: not known
}

func memoryOf(head rpc.Value) (*memory, error) {
	number := func(name string, limit uint64) (uint64, error) {
		v, _ := head.Member(name)
		n, err := v.AsUint()
		if err != nil || n > limit {
			return 0, fmt.Errorf("%s is not a number up to %d", name, limit)
		}
		return n, nil
	}
	format, err := number("format", memoryFormat)
	if err != nil || format != memoryFormat {
		return nil, errors.New("it has another format")
	}
	m := &memory{name: textMember(head, "session")}
	m.opts.Title = textMember(head, "title")
	m.opts.Meta, _ = head.Member("meta")
	ring, err1 := number("ring", MaxRing)
	events, err2 := number("events", MaxRing)
	floor, err3 := number("floor", 1<<53)
	seq, err4 := number("seq", 1<<53)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	n := int(ring)
	m.opts.Ring, m.events, m.floor, m.seq, m.last = &n, int(events), floor, seq, floor
	m.opts.Epoch = textMember(head, "epoch")
	if m.opts.Producer = textMember(head, "producer"); m.opts.Producer != "" {
		if m.opts.Taken, err = number("taken", 1<<53); err != nil {
			return nil, err
		}
	}
	if v, ok := head.Member("permanent"); ok {
		if m.opts.Permanent, err = v.AsBool(); err != nil {
			return nil, fmt.Errorf("permanent: %w", err)
		}
	}
	at := func(name string) time.Time {
		if micro, err := number(name, 1<<53); err == nil && micro > 0 {
			return time.UnixMicro(int64(micro))
		}
		return time.Time{}
	}
	m.opened, m.lastType, m.lastAt, m.ended = at("opened"), textMember(head, "last_type"), at("last_at"), at("ended")
	m.cols, m.rows = sizeIn(head)
	exit, _ := head.Member("exit")
	m.exit = exitOf(exit)
	if owner, ok := head.Member("owner"); ok {
		m.owner = ownerOf(owner)
	}
	if m.floor > m.seq {
		return nil, errors.New("floor is above seq")
	}
	return m, nil
}

// add takes an event of the ring.
func (m *memory) add(v rpc.Value) error {
	member, _ := v.Member("seq")
	seq, err := member.AsUint()
	if err != nil || seq <= m.last || seq > m.seq {
		return errors.New("an event has a number that cannot be")
	}
	d, err := draftOf(v)
	if err != nil {
		return err
	}
	text, _ := v.Raw()
	e := Event{Seq: seq, Type: d.typ, JSON: text, traits: v.Traits(), kind: d.kind}
	if d.typ == "gap" {
		member, _ := v.Member("dropped")
		lost, err := member.AsUint()
		if err != nil || lost > seq-m.last {
			return errors.New("a gap has a size that cannot be")
		}
		e.kind, e.lost = hole, lost
	}
	m.ring = append(m.ring, e)
	m.last = seq
	return nil
}

// restore opens a saved session.
func (r *Registry) restore(m *memory) error {
	if err := m.opts.check(m.name); err != nil {
		return fmt.Errorf("%q: %w", m.name, err)
	}
	if !m.ended.IsZero() {
		r.restoreEnded(m)
		return nil
	}
	s, err := r.Open(m.name, m.opts)
	if err != nil {
		return err
	}
	s.remember(m)
	return nil
}

// restoreEnded keeps a session that had ended before, unless there is a newer
// one of its name.
func (r *Registry) restoreEnded(m *memory) {
	r.life.Lock()
	defer r.life.Unlock()
	if _, open := r.Get(m.name); open {
		return
	}
	s := newSession(r, m.name, m.opts)
	if s.describe(m.opts) != nil {
		return
	}
	s.remember(m)
	s.end(false)
	s.mu.Lock()
	s.ended = m.ended
	s.mu.Unlock()
	r.retain(s)
}

// ownerOf reads what OwnerInfo.tree has written.
func ownerOf(v rpc.Value) *OwnerInfo {
	number := func(of rpc.Value, name string) int {
		m, _ := of.Member(name)
		n, err := m.AsInt()
		if err != nil || n < -1 || n > math.MaxUint32 {
			return -1
		}
		return int(n)
	}
	o := &OwnerInfo{Protocol: rpc.Protocol(textMember(v, "protocol"))}
	since, _ := v.Member("since")
	if s, err := since.AsFloat(); err == nil && s > 0 && s < 1e11 {
		o.Since = time.UnixMicro(int64(s * 1e6))
	}
	if peer, _ := v.Member("peer"); peer.Kind() == '{' {
		o.Peer = &rpc.Peer{Name: textMember(peer, "name"), UID: number(peer, "uid"), GID: -1, PID: number(peer, "pid")}
	}
	return o
}

// remember fills a session without events.
func (s *Session) remember(m *memory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.seq != 0 {
		return
	}
	s.continueLocked(m.seq, m.opts.Epoch)
	s.ring.floor = m.floor
	s.input.sizes.cols, s.input.sizes.rows = m.cols, m.rows
	for _, e := range m.ring {
		s.ring.add(e)
		s.lastType, s.lastAt = e.Type, s.opened
	}
	if m.lastType != "" && len(m.lastType) <= MaxType {
		s.lastType, s.lastAt = m.lastType, m.lastAt
	}
	if !m.opened.IsZero() && m.opened.Before(s.opened) {
		s.opened = m.opened
	}
	s.exit, s.last = m.exit, m.owner
	if s.owner == nil && !s.permanent {
		s.waitForOwnerLocked()
	}
}
