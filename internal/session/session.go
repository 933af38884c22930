package session

import (
	"errors"
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Session is a numbered stream of events. All methods may be called from any
// goroutine; none of those that publish waits for a follower.
type Session struct {
	registry  *Registry
	name      string
	permanent bool
	opened    time.Time
	user      *rpc.Quota // who is charged with it; nil: nobody

	mu     sync.Mutex // guards all below
	title  string
	meta   rpc.Value
	about  *rpc.Kept // for title and meta
	closed bool

	ended         time.Time     // when it was closed
	suspended     bool          // it was closed because the hub stops: it goes on after that
	shutdownEvent Event         // what followers are told then
	retained      bool          // it was closed and is kept: see ended.go
	gone          bool          // it was closed, and nothing of it counts any more
	done          chan struct{} // closed with the session
	exit          *Exit         // how its program ended; nil while nobody has said it
	last          *OwnerInfo    // the latest owner

	epoch    string // tells this life of the name from others
	producer string // who numbers its events, "" for nobody; see life.go
	taken    uint64 // its number of the latest event that was taken from it

	seq      uint64 // of the latest event
	ahead    uint64 // greatest number of this life that followers who came back say they have seen
	lastType string // of the latest event
	lastAt   time.Time
	log      window    // the latest events without holes: what followers read
	ring     window    // what is replayed
	old      window    // what the ring lost last, while somebody reads a replay from before: without holes up to the ring
	snapshot Event     // the latest state_snapshot; Seq 0 when there is none
	charge   *rpc.Kept // for it
	prompts  []*openPrompt
	beside   int // bytes that are kept beside the windows
	fixed    int // of these what does not give way for lack of memory
	trim     int // events until the log is trimmed again

	followers map[uint64]*Follower
	replaying bool        // there may be followers that have not read their replay
	waiting   []*Follower // to be woken by the next event
	nextID    uint64

	owner  *owner
	linger *time.Timer
	left   time.Time // when the last owner went

	input inputLine
	inbox inbox
}

// owner is the connection that a session belongs to.
type owner struct {
	link     *rpc.Link
	peer     *rpc.Peer
	protocol rpc.Protocol
	since    time.Time
}

// trimEvery is how many events pass between two looks at what the slowest follower needs.
const trimEvery = 256

func newSession(r *Registry, name string, opts OpenOptions) *Session {
	ring := r.opts.Ring
	if opts.Ring != nil {
		ring = *opts.Ring
	}
	s := &Session{
		registry:  r,
		name:      name,
		permanent: opts.Permanent,
		opened:    time.Now(),
		user:      opts.User,
		epoch:     newEpoch(),
		log:       newWindow(r.opts.QueueEvents, r.opts.QueueBytes),
		ring:      newWindow(ring, r.opts.RingBytes),
		old:       newWindow(r.opts.QueueEvents, r.opts.QueueBytes),
		followers: map[uint64]*Follower{},
		trim:      trimEvery,
		done:      make(chan struct{}),
	}
	s.log.total, s.ring.total, s.old.total = &r.kept, &r.kept, &r.kept
	s.ownLocked(opts)
	s.continueLocked(opts.Seq, opts.Epoch)
	s.producerLocked(opts)
	return s
}

// Name returns the session's name.
func (s *Session) Name() string { return s.name }

// Opened returns when the session was opened.
func (s *Session) Opened() time.Time { return s.opened }

// Seq returns the number of the latest event, 0 before the first.
func (s *Session) Seq() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seq
}

// errOfHub is what who wants to own a permanent session is told.
func errOfHub(name string) error {
	return rpc.Errorf(rpc.CodePermissionDenied, "session %s belongs to the hub", name)
}

var errClosed = &rpc.Error{Code: rpc.CodeNotFound, Message: "the session is closed", Ran: rpc.RanYes}

// Publish adds an event, an object with a string "type". Its members are kept
// as they are but for "seq", which the session sets; "ts" is added when absent.
// The value is borrowed. It returns the number of the event. The caller is the
// hub itself: it may publish what it likes.
func (s *Session) Publish(event rpc.Value) (seq uint64, err error) {
	return s.PublishBy(event, nil)
}

// PublishBy is Publish for the caller of a method; nil: the hub itself. Events
// that only the hub can know of are refused, as are those of the session's
// owner that come from somebody else. What stays until it is replaced or
// answered is charged to the caller.
func (s *Session) PublishBy(event rpc.Value, by *rpc.Call) (seq uint64, err error) {
	d, err := draftOf(event)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return 0, errClosed
	}
	if err := s.admitLocked(&d, by); err != nil {
		s.mu.Unlock()
		return 0, d.refused(err)
	}
	e, withdrawn := s.appendLocked(&d)
	s.mu.Unlock()
	s.published(e, withdrawn)
	return e.Seq, nil
}

func errHubEvent(eventType string) error {
	return rpc.Errorf(rpc.CodePermissionDenied, "events of type %s come from the hub alone", eventType)
}

// admitLocked says why a caller may not publish an event. Where a session has
// no owner the events of an owner may come from whoever could become that: of
// the hub's own session from administrators.
func (s *Session) admitLocked(d *draft, by *rpc.Call) error {
	if by == nil {
		return nil
	}
	switch d.source() {
	case anybody:
		return nil
	case hubOnly:
		return errHubEvent(d.typ)
	}
	needs := rpc.ScopeProvide
	if s.permanent {
		needs = rpc.ScopeAdmin
	}
	switch {
	case s.owner != nil && s.owner.link == by.Link(),
		s.owner == nil && (by.Peer == nil || by.Peer.Scopes&needs != 0):
		return s.chargeLocked(d, by)
	}
	what := "events of type " + d.typ
	if d.tty {
		what += " for terminals"
	}
	return rpc.Errorf(rpc.CodePermissionDenied, "%s come from the owner of session %s alone", what, s.name)
}

// chargeLocked charges the caller with an event that stays until it is
// replaced or answered.
func (s *Session) chargeLocked(d *draft, by *rpc.Call) error {
	if d.kind != snapshot && (d.kind != prompt || !canAnswer(d.toolID)) {
		return nil
	}
	bytes := d.bytes()
	d.charge = by.Keep()
	if d.charge.Set(bytes) {
		return nil
	}
	if d.kind == snapshot && s.charge != nil { // it takes the place of one that is charged
		s.charge.Free()
		if d.charge.Set(bytes) {
			return nil
		}
		s.snapshot, s.charge = Event{}, nil
		s.weighLocked()
	}
	return errOver
}

// errOver stands for what refused says, which is not for under a lock.
var errOver = errors.New("session: too much is kept")

// refused is the error of an event that was not admitted.
func (d *draft) refused(err error) error {
	if err == errOver { //nolint:errorlint // it is never wrapped
		return d.charge.Over(d.bytes())
	}
	return err
}

// bytes is what the event costs who is charged with it.
func (d *draft) bytes() int64 { return int64(len(d.head) + 128) }

// published is what follows, without locks, when an event was added.
func (s *Session) published(e Event, withdrawn int) {
	o := s.registry.opts.Observer
	o.Published(s, len(e.JSON))
	for range withdrawn {
		o.Prompt(s, PromptWithdrawn)
	}
	s.registry.balance()
}

// appendLocked numbers an event, keeps it where it belongs and wakes who waits
// for it. It says how many prompts the event has taken back.
func (s *Session) appendLocked(d *draft) (e Event, withdrawn int) {
	now := time.Now()
	if s.seq == 0 {
		s.restartLocked()
	}
	s.seq++
	s.lastType, s.lastAt = d.typ, now
	if d.cols > 0 {
		s.input.sizes.cols, s.input.sizes.rows = d.cols, d.rows
	}
	e = d.event(s.seq, now)
	switch d.kind {
	case plain:
		s.replayableLocked(e)
	case resolved:
		s.replayableLocked(e)
		if s.dropPromptLocked(d.toolID) != nil {
			withdrawn++
		}
	case snapshot:
		s.charge.Free()
		s.snapshot, s.charge = e, d.charge
	case prompt:
		withdrawn += s.addPromptLocked(d, e)
	}
	if d.kind != plain {
		s.weighLocked()
	}
	if d.exit != nil {
		s.exit = d.exit
	}
	if len(s.followers) > 0 {
		s.log.add(e)
		if s.trim--; s.trim <= 0 {
			s.trimLocked()
		}
	}
	for i, f := range s.waiting {
		f.waiting = false
		f.signal()
		s.waiting[i] = nil
	}
	s.waiting = s.waiting[:0]
	return e, withdrawn
}

// firstLocked returns the number of the oldest event in the log.
func (s *Session) firstLocked() uint64 { return s.seq - uint64(s.log.n) + 1 }

// trimLocked drops from the log what every follower has read.
func (s *Session) trimLocked() {
	s.trim = trimEvery
	read := s.seq
	for _, f := range s.followers {
		read = min(read, max(f.cursor, f.join))
	}
	s.log.dropUpTo(read)
	s.trimOldLocked()
}

// replayableLocked adds an event to the ring. What that pushes out stays for
// followers whose replay has it, within the limit of all who lag.
func (s *Session) replayableLocked(e Event) {
	if s.replaying {
		if s.old.n == 0 {
			s.old.floor = s.ring.floor
		}
		s.ring.spill = &s.old
	}
	s.ring.add(e)
	s.ring.spill = nil
}

// trimOldLocked drops what no follower needs any more for its replay.
func (s *Session) trimOldLocked() {
	if !s.replaying {
		return
	}
	read := s.seq
	s.replaying = false
	for _, f := range s.followers {
		if f.cursor < f.join {
			s.replaying = true
			read = min(read, f.cursor)
		}
	}
	s.old.dropUpTo(read)
}

// cutReplaysLocked comes before events leave the ring for another reason than
// newer ones: those who have not read so far are told a gap.
func (s *Session) cutReplaysLocked() { s.old.dropUpTo(s.seq) }

// continueLocked lets the numbers of a session without events go on after seq,
// and its epoch with them.
func (s *Session) continueLocked(seq uint64, epoch string) {
	if s.seq != 0 || seq > 1<<53 {
		return
	}
	if epoch != "" {
		s.epoch = epoch
	}
	if seq == 0 {
		return
	}
	s.seq, s.ring.floor = seq, seq
	for _, f := range s.followers {
		f.continueLocked(seq)
	}
}

// restartLocked comes before the first event: followers that resume after a
// higher number knew the session in an earlier life.
func (s *Session) restartLocked() {
	for _, f := range s.followers {
		f.restartLocked()
	}
}

// adopt gives a session that exists a new owner.
func (s *Session) adopt(opts OpenOptions) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errClosed
	}
	if s.permanent && opts.Owner != nil {
		s.mu.Unlock()
		return errOfHub(s.name)
	}
	if s.owner != nil && opts.Owner != nil && s.owner.link == opts.Owner && opts.Producer != "" && s.producer != "" && s.producer != opts.Producer {
		s.mu.Unlock()
		return rpc.Errorf(rpc.CodeConflict, "session %s belongs to another producer of this connection", s.name)
	}
	if s.owner != nil && opts.Owner != nil && s.owner.link != opts.Owner && (opts.Producer == "" || s.producer != opts.Producer) {
		s.mu.Unlock()
		return rpc.Errorf(rpc.CodeConflict, "session %s belongs to another connection", s.name)
	}
	if over, err := s.describeLocked(opts); err != nil {
		s.mu.Unlock()
		return over.refused(err)
	}
	if opts.Ring != nil {
		s.cutReplaysLocked()
		s.ring.bound(*opts.Ring)
	}
	s.permanent = s.permanent || opts.Permanent
	s.continueLocked(opts.Seq, opts.Epoch)
	ended := s.ownLocked(opts)
	s.producerLocked(opts)
	s.mu.Unlock()
	for _, in := range ended {
		in.signal()
	}
	return nil
}

// ownLocked sets the owner and returns the input streams of others, which have ended by that.
func (s *Session) ownLocked(opts OpenOptions) (ended []*Inputs) {
	if opts.Owner == nil {
		return nil
	}
	if s.linger != nil {
		s.linger.Stop()
		s.linger = nil
	}
	since := time.Now()
	var before *rpc.Link
	if s.owner != nil {
		before, since = s.owner.link, s.owner.since
	}
	s.owner = &owner{link: opts.Owner, peer: opts.Peer, protocol: opts.Protocol, since: since}
	s.wentLocked(before)
	s.cameLocked(opts.Owner)
	s.last = &OwnerInfo{opts.Peer, opts.Protocol, since}
	return s.input.keepOnlyLocked(opts.Owner)
}

// leave is what follows when the connection of an owner is gone.
func (s *Session) leave(link *rpc.Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.owner == nil || s.owner.link != link {
		return
	}
	s.owner = nil
	s.wentLocked(link)
	if !s.permanent {
		s.waitForOwnerLocked()
	}
}

// waitForOwnerLocked lets the session end if no owner comes in time.
func (s *Session) waitForOwnerLocked() {
	s.left = time.Now()
	s.linger = time.AfterFunc(s.registry.opts.Linger, func() { s.registry.lapse(s) })
}

// lapsed reports whether the session has been without owner and events for
// long enough; if it has not, the timer is set anew.
func (s *Session) lapsed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.permanent || s.owner != nil || s.linger == nil {
		return false
	}
	since := s.left
	if s.lastAt.After(since) {
		since = s.lastAt
	}
	if wait := s.registry.opts.Linger - time.Since(since); wait > 0 {
		s.linger.Reset(wait)
		return false
	}
	return true
}

// end closes the session: the registry has it no more. What it keeps counts
// until it is released and nobody reads it.
func (s *Session) end(suspended bool) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed, s.ended, s.suspended, s.retained = true, time.Now(), suspended, true
	s.registry.past.Store(s, nil)
	s.owner = nil
	close(s.done)
	if s.linger != nil {
		s.linger.Stop()
	}
	open := len(s.prompts)
	for _, p := range s.prompts {
		p.timer.Stop()
		p.charge.Free()
	}
	s.prompts = nil
	s.charge.Free()
	s.about.Free()
	for _, f := range s.followers {
		f.signal()
	}
	s.waiting = nil
	readers := s.input.endLocked()
	s.inbox.forgetLocked()
	s.inbox = inbox{}
	s.weighLocked()
	s.mu.Unlock()
	for _, in := range readers {
		in.signal()
	}
	for range open {
		s.registry.opts.Observer.Prompt(s, PromptWithdrawn)
	}
}

// Closed reports whether the session has ended.
func (s *Session) Closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// OwnedBy reports whether link is the connection of the session's owner.
func (s *Session) OwnedBy(link *rpc.Link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return link != nil && s.owner != nil && s.owner.link == link
}
