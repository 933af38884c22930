package session

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Defaults of Options.
const (
	DefaultName          = "hub"
	DefaultRing          = 200
	DefaultRingBytes     = 4 << 20
	DefaultQueueEvents   = 16384
	DefaultQueueBytes    = 4 << 20
	DefaultMaxSessions   = 1024
	DefaultMaxFollowers  = 16384
	DefaultMemory        = 256 << 20
	DefaultLinger        = 5 * time.Minute
	DefaultPromptTimeout = 300 * time.Second
	DefaultEnded         = 10 * time.Minute
	DefaultEndedBytes    = 4 << 20

	// MaxRing is the largest replay ring that session.open accepts.
	MaxRing = 65536
)

// Options configures a Registry. The zero Options have the defaults.
type Options struct {
	// Default is the name of the default session. New does not open it.
	Default string
	// Observer hears what happens; nil: nobody does.
	Observer Observer
	// OnOpen runs when a session has been opened, before Open returns; its
	// error ends the session again and is what Open returns. OnClose runs once
	// a session is closed, also after a failed OnOpen. The two never overlap,
	// so a socket or file of the session's name can be made and removed there.
	// They must not call Open or Close of the registry.
	OnOpen  func(*Session) error
	OnClose func(*Session)

	// Ring is how many events a session replays that does not say itself, and
	// RingBytes bounds them further.
	Ring      int
	RingBytes int
	// QueueEvents and QueueBytes bound how far a follower may lag behind.
	QueueEvents int
	QueueBytes  int

	// Memory bounds the bytes of the events that all sessions together keep.
	// Beyond it the session that keeps most loses its oldest.
	Memory int

	MaxSessions  int // half of them, rounded up, for one user
	MaxFollowers int // of one session

	// Linger is how long a session outlives the connection of its owner, or the
	// last event that came after it.
	Linger time.Duration
	// Ended is for how long a session that has ended is kept, negative for none,
	// and EndedBytes what all of them may take.
	Ended      time.Duration
	EndedBytes int
	// PromptTimeout is after how long an unanswered permission prompt is denied.
	PromptTimeout time.Duration
}

func (o Options) withDefaults() Options {
	orText := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	orInt := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	orTime := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	orText(&o.Default, DefaultName)
	orInt(&o.Ring, DefaultRing)
	orInt(&o.RingBytes, DefaultRingBytes)
	orInt(&o.QueueEvents, DefaultQueueEvents)
	orInt(&o.QueueBytes, DefaultQueueBytes)
	orInt(&o.Memory, DefaultMemory)
	orInt(&o.MaxSessions, DefaultMaxSessions)
	orInt(&o.MaxFollowers, DefaultMaxFollowers)
	orTime(&o.Linger, DefaultLinger)
	orTime(&o.PromptTimeout, DefaultPromptTimeout)
	if o.Ended == 0 {
		o.Ended = DefaultEnded
	}
	orInt(&o.EndedBytes, DefaultEndedBytes)
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	if o.OnOpen == nil {
		o.OnOpen = func(*Session) error { return nil }
	}
	if o.OnClose == nil {
		o.OnClose = func(*Session) {}
	}
	return o
}

// Registry has the sessions of a hub by name. All methods may be called from
// any goroutine.
type Registry struct {
	opts Options

	kept      atomic.Int64 // bytes of the events that all sessions keep
	described atomic.Int64 // and of their titles and metadata
	balancing atomic.Bool  // somebody frees memory

	past sync.Map // *Session: ended, and still kept or read

	life sync.Mutex // held while a session opens or closes, callbacks included

	mu       sync.Mutex // guards the fields below
	sessions map[string]*Session
	ended    map[string]*Session                 // those that have ended and are kept
	links    map[*rpc.Link]map[*Session]struct{} // what each connection owns or owned
	closed   bool
	final    []*Session // those that Shutdown closed
}

// New returns an empty registry. The hub opens its default session itself:
// r.Open(r.Default(), OpenOptions{Permanent: true}).
func New(opts Options) *Registry {
	return &Registry{
		opts:     opts.withDefaults(),
		sessions: map[string]*Session{},
		ended:    map[string]*Session{},
		links:    map[*rpc.Link]map[*Session]struct{}{},
	}
}

// Default returns the name of the default session.
func (r *Registry) Default() string { return r.opts.Default }

// ValidName reports whether name is fit for a session: 1 to 32 letters,
// digits, dots, underscores and hyphens. It becomes a file name, so "." and
// ".." are not.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > 32 || name == "." || name == ".." {
		return false
	}
	for i := range len(name) {
		c := name[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// Get returns the session of that name.
func (r *Registry) Get(name string) (*Session, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sessions[name]
	return s, ok
}

// Find is Get with the error that callers are told. The empty name is the
// default session.
func (r *Registry) Find(name string) (*Session, error) {
	if name == "" {
		name = r.opts.Default
	}
	s, ok := r.Get(name)
	if _, ended := r.endedOf(name); !ok && ended {
		return nil, errEnded(name)
	}
	if !ok {
		return nil, rpc.Errorf(rpc.CodeNotFound, "session not found: %s", rpc.CleanText(name, 64))
	}
	return s, nil
}

// List returns all sessions, sorted by name.
func (r *Registry) List() []*Session {
	r.mu.Lock()
	list := slices.Collect(maps.Values(r.sessions))
	r.mu.Unlock()
	slices.SortFunc(list, func(a, b *Session) int { return strings.Compare(a.name, b.name) })
	return list
}

// OpenOptions say how a session is opened.
type OpenOptions struct {
	// Title and Meta are shown to who looks at the session. An empty Title and
	// an undefined Meta leave those of a session that exists as they are.
	Title string
	Meta  rpc.Value // any JSON, at most MaxMeta bytes
	// Ring is how many events are replayed: nil is the registry's default, or
	// what the session that exists has; 0 none; at most MaxRing.
	Ring *int
	// Seq is the number of the last event that the producer knows of. A session
	// without events goes on from there, so that a hub that lost its memory does
	// not lose the count.
	Seq uint64
	// Epoch is the life of the session that Seq counts in, as the producer knows
	// it; "" for a new one.
	Epoch string
	// Producer is a name that nobody else knows, of a producer that numbers its
	// events (PublishNumbered); "" for one that does not. It takes its session
	// over from a connection of its own that the hub still thinks alive. Taken is
	// the number after which it goes on.
	Producer string
	Taken    uint64

	// Owner is the connection of the producer: it receives the input, and the
	// session ends Linger after it is gone. nil: the hub itself opens it.
	Owner    *rpc.Link
	Peer     *rpc.Peer // of the owner; may be nil
	Protocol rpc.Protocol

	// User is charged with the session until that ends; nil: nobody.
	User *rpc.Quota

	// Permanent sessions belong to the hub: they have no end but that of the
	// registry, and no connection can own them.
	Permanent bool
}

// MaxMeta is the most bytes that title and meta of a session may have together.
const MaxMeta = 64 << 10

func (opts *OpenOptions) check(name string) error {
	if !ValidName(name) {
		return rpc.Errorf(rpc.CodeInvalidParams, "a session name has 1 to 32 letters, digits, dots, underscores or hyphens")
	}
	if opts.Ring != nil && (*opts.Ring < 0 || *opts.Ring > MaxRing) {
		return rpc.Errorf(rpc.CodeInvalidParams, "ring is 0 to %d", MaxRing)
	}
	if raw, err := opts.Meta.JSON(); err != nil || len(raw)+len(opts.Title) > MaxMeta {
		return rpc.Errorf(rpc.CodeInvalidParams, "title and meta are JSON of at most %d bytes", MaxMeta)
	}
	if len(opts.Producer) > maxLifeText || len(opts.Epoch) > maxLifeText {
		return rpc.Errorf(rpc.CodeInvalidParams, "producer and epoch have at most %d bytes", maxLifeText)
	}
	return nil
}

// Open opens a session, or makes opts.Owner the owner of one that has none or
// whose owner is gone: its events, followers and numbers go on. A session that
// belongs to another live connection is CodeConflict, one that belongs to the
// hub CodePermissionDenied.
func (r *Registry) Open(name string, opts OpenOptions) (*Session, error) {
	if err := opts.check(name); err != nil {
		return nil, err
	}
	opts.Meta = opts.Meta.Own()
	r.life.Lock()
	defer r.life.Unlock()
	r.mu.Lock()
	s, known := r.sessions[name]
	switch {
	case r.closed:
		r.mu.Unlock()
		return nil, rpc.ErrShutdown
	case !known && len(r.sessions) >= r.opts.MaxSessions:
		r.mu.Unlock()
		return nil, rpc.Errorf(rpc.CodeOverloaded, "there are %d sessions already", r.opts.MaxSessions)
	case !known && opts.User.Sessions(0) >= r.maxPerUser():
		r.mu.Unlock()
		return nil, rpc.Errorf(rpc.CodeOverloaded, "this user has %d sessions already", r.maxPerUser())
	case !known:
		s = newSession(r, name, opts)
		if err := s.describe(opts); err != nil {
			r.mu.Unlock()
			return nil, err
		}
		r.sessions[name] = s
		opts.User.Sessions(1)
	}
	r.mu.Unlock()
	if known {
		if err := s.adopt(opts); err != nil {
			return nil, err
		}
	} else {
		r.opts.Observer.Opened(s)
		if err := r.opts.OnOpen(s); err != nil {
			if r.remove(s, false) {
				s.release()
			}
			return nil, err
		}
		if before, there := r.endedOf(name); there {
			r.forget(before)
		}
	}
	r.hold(opts.Owner, s)
	return s, nil
}

// maxPerUser leaves room for others, whatever one user opens.
func (r *Registry) maxPerUser() int { return (r.opts.MaxSessions + 1) / 2 }

// hold notes that the session ends with its owner's connection.
func (r *Registry) hold(owner *rpc.Link, s *Session) {
	if owner == nil {
		return
	}
	r.mu.Lock()
	held, known := r.links[owner]
	if !known {
		held = map[*Session]struct{}{}
		r.links[owner] = held
	}
	held[s] = struct{}{}
	r.mu.Unlock()
	if !known {
		owner.OnClose(func() { r.release(owner) })
	}
}

// release is what follows when a connection is gone.
func (r *Registry) release(owner *rpc.Link) {
	r.mu.Lock()
	held := r.links[owner]
	delete(r.links, owner)
	r.mu.Unlock()
	for s := range held {
		s.leave(owner)
	}
}

// Close ends a session: followers get what is left and then io.EOF. It is kept
// for those who come late.
func (r *Registry) Close(s *Session) {
	r.life.Lock()
	defer r.life.Unlock()
	if r.remove(s, false) {
		r.retain(s)
	}
}

// lapse closes a session whose owner has been gone for long enough.
func (r *Registry) lapse(s *Session) {
	r.life.Lock()
	defer r.life.Unlock()
	if s.lapsed() && r.remove(s, false) {
		r.retain(s)
	}
}

// remove ends a session, for good or until the hub is back, and reports
// whether it was there; r.life is held.
func (r *Registry) remove(s *Session, suspended bool) bool {
	r.mu.Lock()
	if r.sessions[s.name] != s {
		r.mu.Unlock()
		return false
	}
	delete(r.sessions, s.name)
	s.user.Sessions(-1)
	for _, held := range r.links {
		delete(held, s)
	}
	r.mu.Unlock()
	s.end(suspended)
	r.opts.OnClose(s)
	r.opts.Observer.Closed(s)
	return true
}

// Shutdown tells all followers why, closes every session and opens no more.
// Save works after it.
func (r *Registry) Shutdown(reason string) {
	event := shutdownEvent(reason, time.Now())
	r.life.Lock()
	defer r.life.Unlock()
	r.mu.Lock()
	again := r.closed
	r.closed = true
	r.mu.Unlock()
	if again {
		return
	}
	final, sessions := r.ListAll(), r.List()
	r.mu.Lock()
	r.final = final
	r.mu.Unlock()
	for _, s := range sessions {
		s.mu.Lock()
		s.shutdownEvent = event
		s.mu.Unlock()
		if r.remove(s, true) {
			s.release()
		}
	}
}
