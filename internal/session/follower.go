package session

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Modes of following. Any other mode is taken as read-only.
const (
	ReadOnly    = "readonly"
	Interactive = "interactive"
)

// FollowOptions say how a session is followed.
type FollowOptions struct {
	// ClientID is what the follower calls itself; several may use the same.
	ClientID string
	// Mode is ReadOnly or Interactive; "" is ReadOnly.
	Mode string
	// SinceSeq is the number of the last event that the follower has seen: it
	// gets what came after it, and a gap event for what is no longer there. nil:
	// it gets the whole ring.
	SinceSeq *uint64
	// Epoch is the life of the session that SinceSeq counts in; "" for the
	// present one. Of another it means nothing: the follower is told that the
	// session began anew, and gets the whole ring.
	Epoch string

	Peer     *rpc.Peer // may be nil
	Protocol rpc.Protocol
	Link     *rpc.Link // the follower's connection; may be nil
}

// Follower is one reader of a session. Next, Poll and Ready are for one
// goroutine at a time; the other methods for any.
type Follower struct {
	s     *Session
	opts  FollowOptions
	id    uint64
	since time.Time
	wake  chan struct{} // cap 1

	batch []Event // taken from the log and not handed out yet; used by the reading goroutine only
	taken int

	// Guarded by s.mu.
	cursor    uint64 // number of the last event that was taken, told as lost, or is not wanted
	join      uint64 // latest event when the follower came: up to there it gets a replay
	floor     uint64 // what the ring had lost then
	quiet     uint64 // up to there nothing counts as lost
	fresh     bool   // it has seen nothing of the session before
	restarted bool   // the numbers began anew: to be told
	waiting   bool   // in s.waiting
	told      bool   // that the hub stops
	closed    bool
	dropped   uint64
}

// maxAhead is by how much followers that come back after a crash of the hub
// may say that the numbers were beyond those that the producer knows of.
const maxAhead = maxInputItems

// A batch is what a follower takes from the log at once.
const (
	batchEvents = 32
	batchBytes  = 256 << 10
)

// ErrClosed is what Next returns after Close.
var ErrClosed = errors.New("session: the follower is closed")

// Follow adds a follower, who reads with Next and must Close. What Next
// returns joins replay and live events without gap or repeat.
func (s *Session) Follow(opts FollowOptions) (*Follower, error) {
	if opts.Mode == "" {
		opts.Mode = ReadOnly
	}
	s.mu.Lock()
	switch {
	case s.suspended:
		s.mu.Unlock()
		return nil, rpc.ErrShutdown
	case s.gone:
		s.mu.Unlock()
		return nil, errClosed
	}
	if len(s.followers) >= s.registry.opts.MaxFollowers {
		s.mu.Unlock()
		return nil, rpc.Errorf(rpc.CodeOverloaded, "session %s has %d followers already", s.name, s.registry.opts.MaxFollowers)
	}
	if len(s.followers) == 0 {
		s.log.dropUpTo(s.seq)
	}
	s.nextID++
	f := &Follower{s: s, opts: opts, id: s.nextID, since: time.Now(), wake: make(chan struct{}, 1), join: s.seq}
	f.floor, f.quiet = s.ring.floor, s.ring.floor
	switch {
	case opts.SinceSeq == nil:
		f.fresh = true
	case !s.knownAs(opts.Epoch), opts.Epoch == "" && *opts.SinceSeq > s.seq && s.seq > 0:
		f.fresh, f.restarted = true, true
	default:
		f.cursor, f.quiet = *opts.SinceSeq, *opts.SinceSeq
		if opts.Epoch != "" && f.cursor > s.seq && f.cursor-s.seq <= maxAhead {
			s.ahead = max(s.ahead, f.cursor)
		}
	}
	s.replaying = s.replaying || f.cursor < f.join
	s.followers[f.id] = f
	s.cameLocked(opts.Link)
	if f.fresh {
		s.repeatSizeLocked()
	}
	s.mu.Unlock()
	s.registry.opts.Observer.Followed(s, f)
	return f, nil
}

// continueLocked is told when the numbers of a session without events jump to seq.
func (f *Follower) continueLocked(seq uint64) {
	switch {
	case f.cursor == 0:
		f.cursor, f.join, f.quiet = seq, seq, seq
	case f.cursor > seq:
		f.restarted = true
		f.cursor, f.join, f.quiet = seq, seq, seq
	}
}

// restartLocked is told before the first event of a session.
func (f *Follower) restartLocked() {
	if f.cursor > 0 {
		f.restarted = true
		f.cursor, f.join, f.quiet = 0, 0, 0
	}
}

// Session returns what is followed.
func (f *Follower) Session() *Session { return f.s }

// ID returns the follower's number, unique within its session.
func (f *Follower) ID() uint64 { return f.id }

// ClientID returns what the follower calls itself.
func (f *Follower) ClientID() string { return f.opts.ClientID }

// Mode returns the mode as it was given.
func (f *Follower) Mode() string { return f.opts.Mode }

// Interactive reports whether the follower may type and answer prompts.
func (f *Follower) Interactive() bool { return f.opts.Mode == Interactive }

// Next returns the next event: what is replayed, then what is published, and
// gap events for what the follower was too slow for. It waits under ctx and
// fails with io.EOF when the session has closed and all was read, with
// ErrClosed after Close.
func (f *Follower) Next(ctx context.Context) (Event, error) {
	for {
		e, ok, err := f.Poll()
		if ok || err != nil {
			return e, err
		}
		select {
		case <-f.wake:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

// Ready returns a channel that receives when, after a Poll that had nothing,
// there may be something again.
func (f *Follower) Ready() <-chan struct{} { return f.wake }

// Poll is Next that does not wait: ok says whether there was an event.
func (f *Follower) Poll() (e Event, ok bool, err error) {
	if f.taken == len(f.batch) {
		if err := f.fill(); err != nil {
			return Event{}, false, err
		}
		if len(f.batch) == 0 {
			return Event{}, false, nil
		}
	}
	e = f.batch[f.taken]
	f.batch[f.taken] = Event{}
	f.taken++
	return e, true, nil
}

// fill takes the next batch. When there is nothing the follower will be woken.
func (f *Follower) fill() error {
	s := f.s
	f.batch, f.taken = f.batch[:0], 0
	s.mu.Lock()
	if f.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	before := f.dropped
	for bytes := 0; len(f.batch) < batchEvents && bytes < batchBytes; {
		e, ok := f.nextLocked()
		if !ok {
			break
		}
		bytes += len(e.JSON)
		f.batch = append(f.batch, e)
	}
	lost := f.dropped - before
	var err error
	if len(f.batch) == 0 {
		switch {
		case s.suspended && !f.told:
			f.told = true
			f.batch = append(f.batch, s.shutdownEvent)
		case s.closed:
			err = io.EOF
		case !f.waiting:
			f.waiting = true
			s.waiting = append(s.waiting, f)
		}
	}
	s.mu.Unlock()
	if lost > 0 {
		s.registry.opts.Observer.Dropped(s, f, lost)
	}
	return err
}

// nextLocked takes one event: up to join from the replay, after it from the log.
func (f *Follower) nextLocked() (Event, bool) {
	s := f.s
	if f.restarted {
		f.restarted = false
		return restartEvent(f.cursor, s.epoch), true
	}
	if f.cursor < f.join {
		e, ok := f.pastLocked(f.join, true)
		if !ok {
			f.cursor = f.join
		}
		if f.cursor >= f.join {
			s.trimOldLocked()
		}
		if ok {
			return e, true
		}
	}
	for f.cursor < s.seq {
		first := s.firstLocked()
		if f.cursor+1 >= first {
			e := s.log.at(int(f.cursor + 1 - first))
			f.cursor = e.Seq
			return *e, true
		}
		if e, ok := f.pastLocked(first-1, false); ok {
			return e, true
		}
		f.cursor = first - 1
	}
	return Event{}, false
}

// pastLocked takes an event up to end that the log does not have: of the ring,
// the latest snapshot, prompts that are open. For a follower that came when the
// latest event was end (replay is set) that is what was there then, for one
// that was too slow for the log what there is now.
func (f *Follower) pastLocked(end uint64, replay bool) (Event, bool) {
	s := f.s
	floor := s.ring.floor
	if replay && s.old.n > 0 {
		floor = max(f.floor, s.old.floor)
	}
	for {
		extra, hasExtra := s.extraAfterLocked(f.cursor, end)
		if gap, ok := f.gapLocked(min(floor, end), extra, hasExtra); ok {
			return gap, true
		}
		next, found := extra, hasExtra
		e := s.ring.firstAfter(f.cursor)
		if replay {
			if old := s.old.firstAfter(f.cursor); old != nil {
				e = old
			}
		}
		if e != nil && e.Seq <= end && (!found || e.Seq < next.Seq) {
			next, found = *e, true
		}
		if !found {
			return Event{}, false
		}
		next = next.after(f.cursor)
		f.cursor = next.Seq
		if !replay || next.kind != resolved || !f.fresh {
			return next, true
		}
	}
}

// gapLocked tells of what is lost up to and including floor, but for the event
// extra, which is still there.
func (f *Follower) gapLocked(floor uint64, extra Event, hasExtra bool) (Event, bool) {
	if f.cursor >= floor {
		return Event{}, false
	}
	if hasExtra && extra.Seq <= floor {
		floor = extra.Seq - 1
	}
	from := max(f.cursor, f.quiet)
	f.cursor = floor
	if floor <= from {
		return Event{}, false
	}
	f.dropped += floor - from
	return gapEvent(floor-from, floor), true
}

// extraAfterLocked returns the oldest event after seq, up to end, that is kept outside of the ring.
func (s *Session) extraAfterLocked(seq, end uint64) (e Event, ok bool) {
	if s.snapshot.Seq > seq && s.snapshot.Seq <= end {
		e, ok = s.snapshot, true
	}
	for _, p := range s.prompts {
		if p.event.Seq > seq && p.event.Seq <= end && (!ok || p.event.Seq < e.Seq) {
			e, ok = p.event, true
		}
	}
	return e, ok
}

func (f *Follower) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Close ends the following and frees what it held. It may come twice.
func (f *Follower) Close() {
	s := f.s
	s.mu.Lock()
	if f.closed {
		s.mu.Unlock()
		return
	}
	f.closed = true
	delete(s.followers, f.id)
	s.wentLocked(f.opts.Link)
	for i, w := range s.waiting {
		if w == f {
			last := len(s.waiting) - 1
			s.waiting[i] = s.waiting[last]
			s.waiting[last] = nil
			s.waiting = s.waiting[:last]
			break
		}
	}
	if len(s.followers) == 0 {
		s.log.dropUpTo(s.seq)
	}
	s.trimOldLocked()
	s.letGoLocked()
	s.mu.Unlock()
	f.signal()
	s.registry.opts.Observer.Left(s, f)
}

// Input is Session.Input for this follower: refused unless it is interactive.
func (f *Follower) Input(text rpc.Value) error {
	if !f.Interactive() {
		return errReadOnly
	}
	return f.s.Input(f.opts.Link, f.opts.ClientID, text)
}

// Resize is Session.Resize for this follower: refused unless it is interactive.
func (f *Follower) Resize(cols, rows int) error {
	if !f.Interactive() {
		return errReadOnly
	}
	return f.s.Resize(f.opts.Link, cols, rows)
}

var errReadOnly = &rpc.Error{Code: rpc.CodePermissionDenied, Message: "this follower is read-only", Ran: rpc.RanNo}
