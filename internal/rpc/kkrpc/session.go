package kkrpc

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Default limits of a session.
const (
	DefaultMaxMessage = 16 << 20
	DefaultMaxEntries = 100000
)

// Limits bound what one session may cost. Zero fields have the defaults.
type Limits struct {
	MaxMessage int // bytes of one message, in either direction
	MaxEntries int // callbacks, calls to the peer and streams together
}

func (l Limits) withDefaults() Limits {
	if l.MaxMessage <= 0 {
		l.MaxMessage = DefaultMaxMessage
	}
	if l.MaxEntries <= 0 {
		l.MaxEntries = DefaultMaxEntries
	}
	return l
}

// API is what the other side of a session may call and read.
type API struct {
	Table      *rpc.Table
	Properties *Properties // nil: there are none
}

// Properties are the part of the API that has values under keys: the path
// [Name, part, part] is the key "part/part".
type Properties struct {
	Name string
	Get  *rpc.Method // called with the key; undefined when there is no such key
	Set  *rpc.Method // called with key and value; answers true
}

// Wants is what a peer says about itself beside the messages: in the query of
// the URL that it connects to.
type Wants struct {
	TextErrors bool // errors=string: errors as text, in the classic dialect
	Streams    bool // streams=1: streamed results as streams, not as arrays
}

// transport takes whole messages, which it copies. The dialect decides about
// line feeds.
type transport interface {
	send(b *rpc.Batch, d Dialect, msg []byte) error
}

// Session is one end of a connection. Receive is for one goroutine at a time,
// everything else may be called by many.
type Session struct {
	wire   transport
	link   *rpc.Link
	peer   atomic.Pointer[rpc.Peer]
	api    *API // nil: nothing
	client rpc.Target
	limits Limits
	wants  Wants
	form   rpc.Form
	obs    Observer // may be nil

	dialect    atomic.Uint32 // of the latest request of the peer, or as it was set
	fixed      bool          // the dialect was chosen: requests of the peer do not change it
	textErrors atomic.Bool   // the peer reads errors only as text

	prefix [8]byte // of the ids that are made here
	lastID atomic.Uint64

	mu        sync.Mutex
	running   int                   // calls of the peer that are not answered
	imports   map[string]*imported  // functions of the peer
	held      int                   // holds on them
	due       map[string]struct{}   // functions that the peer has yet to be told nobody holds
	exports   map[string]*rpc.Ref   // functions of ours that the peer may invoke
	exportIDs map[*rpc.Ref]string   // the same the other way
	kept      []*rpc.Ref            // what goes on for the peer until it leaves, such as watches
	pending   map[string]*outCall   // calls of ours that the peer has not answered
	sources   map[string]*outStream // streams that we send
	sinks     map[string]*inStream  // streams that the peer sends
	lastSet   *call                 // the latest write of a property that is not on disk yet
	ended     *rpc.Error
}

// newSession returns a session; api may be nil.
func newSession(wire transport, link *rpc.Link, peer *rpc.Peer, api *API, limits Limits, ascii bool) *Session {
	s := &Session{
		wire: wire, link: link, api: api, limits: limits.withDefaults(), form: rpc.Form{ASCII: ascii},
		imports: make(map[string]*imported),
	}
	s.peer.Store(peer)
	s.client = clientTarget{s}
	s.dialect.Store(uint32(Classic))
	binary.LittleEndian.PutUint64(s.prefix[:], rand.Uint64())
	return s
}

// Conn returns the hub's own record of the connection; see rpc.Link.
func (s *Session) Conn() any { return s.link.Conn }

// SetPeer changes on whose behalf later calls run.
func (s *Session) SetPeer(p *rpc.Peer) { s.peer.Store(p) }

// Dialect returns the dialect in which the peer is called.
func (s *Session) Dialect() Dialect { return Dialect(s.dialect.Load()) }

// Counts are how many entries the tables of a session have.
type Counts struct {
	Imports, Holds, Exports, Kept, Pending, Sources, Sinks, Running int
}

// Counts returns the present counts, for tests and diagnosis.
func (s *Session) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Counts{len(s.imports), s.held, len(s.exports), len(s.kept), len(s.pending), len(s.sources), len(s.sinks), s.running}
}

func (s *Session) entriesLocked() int {
	return s.held + len(s.exports) + len(s.kept) + len(s.pending) + len(s.sources) + len(s.sinks)
}

// newID returns an id that no other message of this session has, in the form
// of the classic libraries: four groups of hexadecimal digits.
func (s *Session) newID() string {
	var raw [16]byte
	copy(raw[:], s.prefix[:])
	binary.BigEndian.PutUint64(raw[8:], s.lastID.Add(1))
	var out [35]byte
	for i := range 4 {
		hex.Encode(out[9*i:9*i+8], raw[4*i:4*i+4])
		if i < 3 {
			out[9*i+8] = '-'
		}
	}
	return string(out[:])
}

// send queues one message.
func (s *Session) send(b *rpc.Batch, d Dialect, msg []byte) error {
	err := s.wire.send(b, d, msg)
	if err == nil && s.obs != nil {
		s.obs.MessageOut(len(msg))
	}
	return err
}

// Receive handles the text of one message, which is borrowed.
func (s *Session) Receive(b *rpc.Batch, msg []byte) {
	if s.obs != nil {
		s.obs.MessageIn(len(msg))
	}
	var m message
	if why := parse(msg, &m); why != "" {
		s.ignored(why)
		return
	}
	s.receive(b, &m)
}

// ignored notes that a text was dropped. The peer hears nothing: neither
// library has a message for that, and one of them dies of what is not an object.
func (s *Session) ignored(why reason) {
	if s.obs != nil {
		s.obs.Ignored(s, string(why))
	}
}

func (s *Session) receive(b *rpc.Batch, m *message) {
	switch m.kind {
	case isResponse:
		s.answered(b, m)
	case isCallback:
		s.invoked(b, m)
	case isRelease:
		s.released(m)
	case isChunk, isStreamEnd, isStreamError, isData:
		s.streamData(b, m)
	case isStreamCancel, isControl:
		s.streamControl(b, m)
	default:
		s.request(b, m)
	}
}

// End gives everything back that the session holds: what was called of the
// peer's fails, functions are released, streams end. It sends nothing.
func (s *Session) End(cause *rpc.Error) {
	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		return
	}
	s.ended = cause
	exports, kept, pending, sources, sinks := s.exports, s.kept, s.pending, s.sources, s.sinks
	s.exports, s.exportIDs, s.kept, s.pending, s.sources, s.sinks, s.due = nil, nil, nil, nil, nil, nil, nil
	s.mu.Unlock()
	for _, o := range pending {
		o.call.Finish(nil, rpc.Value{}, errGone)
	}
	for _, in := range sinks {
		in.end(nil, errGone)
	}
	for _, out := range sources {
		out.drop()
	}
	for _, r := range exports {
		r.Release()
	}
	for _, r := range kept {
		r.Release()
	}
}

// Ended returns why the session is over, nil while it is not.
func (s *Session) Ended() *rpc.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}
