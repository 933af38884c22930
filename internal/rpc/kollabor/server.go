// Package kollabor speaks the native protocol of the hub, one JSON object per
// line. docs/frame-format.md has the wire; the frame package its codec.
//
// The way of one call:
//
//	conn.read            bytes -> line -> frame.Frame        (conn.go)
//	  conn.request       frame -> call, timeout, parameters  (call.go)
//	    rpc.Link.Start   admission, then the method runs: on the reader or elsewhere
//	  call.Result        value -> rpc_reply in the outbox    (call.go)
//	conn.read            no more lines in what was read: the outbox is flushed, once
//
// Streams are in streamout.go and streamin.go, calls of the hub to its client
// in client.go, the control actions in control.go, attached clients in attach.go.
package kollabor

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// Config is what a Server needs. Only Table is required.
type Config struct {
	Table    *rpc.Table
	Gate     *rpc.Gate // nil: default limits, nothing is observed
	Sessions Sessions  // nil: nothing can be attached to
	Observer Observer  // nil: nothing is observed

	Version string    // of the hub, for hello
	Started time.Time // of the hub; zero: when New was called
	AgentID string    // 12 hexadecimal digits that tell hubs apart

	// OnShutdown is called when a peer with ScopeAdmin asks the hub to stop,
	// after the acknowledgement was sent. nil: the wish is refused.
	OnShutdown func(reason string, peer *rpc.Peer)
	// Authenticate decides about the token of a hello: the peer for all later
	// calls, or an error. It must not block. nil: tokens are ignored.
	Authenticate func(c *Conn, token string) (*rpc.Peer, error)

	Outbox  Limits        // of each connection
	Drain   time.Duration // how long a connection that ends waits for its handlers and its outbox; 0: 2 s
	MaxLine int           // bytes of a line; 0: frame.MaxLine
}

// Limits are the limits of an outbox in bytes; 0 means the defaults of package rpc.
type Limits struct{ Soft, Hard int }

// Observer is the hub's view of the wire: metrics and logs. Its methods are
// called from any goroutine and must not block. Label values are bounded:
// actions are those of Actions, reasons those of frame.Reasons.
type Observer interface {
	// FrameIn comes for each line that was a frame, with its bytes.
	FrameIn(action string, bytes int)
	// FrameOut comes for each line that was sent.
	FrameOut(action string, bytes int)
	// FailedFrame comes for each line that was refused; err is for the log and
	// quotes nothing from the line but names of members.
	FailedFrame(reason frame.Reason, c *Conn, err error)
	// Denied comes for each action that the peer may not do.
	Denied(c *Conn, action string)
	// Attached comes with +1 and -1 as clients attach and leave.
	Attached(delta int)
}

// Actions lists every action label that an Observer gets, for code that needs
// one series per action.
func Actions() []string {
	return []string{
		frame.Request, frame.Reply, frame.Chunk, frame.End, frame.Credit, frame.Cancel, frame.Hello, frame.Goodbye,
		"ping", "message", "get_context", "get_output", "get_status", "roster_update", "shutdown",
		"attach", "subscribe", "input", "detach", "event", "heartbeat", "control", "error",
	}
}

// Conn is one accepted connection, as the hub hands it over.
type Conn struct {
	Reader  io.Reader  // of what the peer sends, bytes that were peeked first
	Wire    rpc.Wire   // to the peer; Serve closes it
	Peer    *rpc.Peer  // who it is
	Session string     // the session of this socket
	ID      uint64     // for logs
	Quota   *rpc.Quota // of the peer's user; may be nil

	// OnLink is called once, before the first call, with the in-flight side of
	// the connection; its Out is set. May be nil.
	OnLink func(*rpc.Link)
	// OnPeer is called when the peer has authenticated as somebody else. May be nil.
	OnPeer func(*rpc.Peer)
	// OnIdentity is called at most once, with the first identity that the peer
	// gives itself in a hello. May be nil.
	OnIdentity func(identity string)
	// OnName is called with the name of its program that the peer gives in a
	// hello, of at most 128 bytes. May be nil.
	OnName func(name string)
	// Gone reports whether the peer has closed its whole side, once the end of
	// its stream was read. While it has not (it has only said that no more
	// requests come), running calls are still answered. nil: it has.
	Gone func() bool
}

// Server serves connections of the native protocol. Serve may be called from
// many goroutines.
type Server struct {
	cfg     Config
	welcome []string // features

	mu       sync.Mutex
	attached map[*conn]struct{}
}

// New returns a server. cfg.Table must not be nil.
func New(cfg Config) *Server {
	if cfg.Started.IsZero() {
		cfg.Started = time.Now()
	}
	if cfg.Drain == 0 {
		cfg.Drain = 2 * time.Second
	}
	return &Server{cfg: cfg, attached: make(map[*conn]struct{}), welcome: Features()}
}

// Features lists what the server tells in its hello.
func Features() []string {
	return []string{"stream", "credit", "cancel", "error_data", "retry", "call_client", "since_seq", "large_events", "no_method", frame.Goodbye}
}

// Serve serves one connection until it is over: the peer has left, the wire
// failed, or ctx has ended (its cause, if that is an *rpc.Error, is why running
// calls are cancelled). When it returns, everything that the connection held is
// free and the wire is closed. The error says why it is over; nil and io.EOF
// are the peer's own wish.
func (s *Server) Serve(ctx context.Context, c Conn) error {
	return newConn(s, c).serve(ctx)
}

// Goodbye tells all attached clients that the hub stops. It is the first step
// of a shutdown; the connections end with the context of Serve.
func (s *Server) Goodbye(reason string) {
	s.mu.Lock()
	list := make([]*conn, 0, len(s.attached))
	for c := range s.attached {
		list = append(list, c)
	}
	s.mu.Unlock()
	for _, c := range list {
		c.send(nil, "control", func(dst []byte) []byte {
			dst = append(dst, `{"type":"shutdown","reason":`...)
			dst = rpc.AppendString(dst, reason, false)
			return append(dst, "}\n"...)
		})
	}
}

// Expel ends the connections of attached clients whose permission was taken
// back: they hear of their session without calling anything.
func (s *Server) Expel() {
	s.mu.Lock()
	var list []*conn
	for c := range s.attached {
		if p := c.attached.peer; p != nil && !p.Grant.Holds() {
			list = append(list, c)
		}
	}
	s.mu.Unlock()
	for _, c := range list {
		c.out.Fail(errExpelled)
	}
}

var errExpelled = errors.New("the permission of the attached client was taken back")

// enter and leave keep the list of attached connections.
func (s *Server) enter(c *conn) {
	s.mu.Lock()
	s.attached[c] = struct{}{}
	s.mu.Unlock()
	if o := s.cfg.Observer; o != nil {
		o.Attached(1)
	}
}

func (s *Server) leave(c *conn) {
	s.mu.Lock()
	delete(s.attached, c)
	s.mu.Unlock()
	if o := s.cfg.Observer; o != nil {
		o.Attached(-1)
	}
}
