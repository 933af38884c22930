package kkrpc

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/ws"
)

// Admission is what the hub knows of the peer behind a request.
type Admission struct {
	Peer   *rpc.Peer
	Quota  *rpc.Quota      // may be nil
	OnLink func(*rpc.Link) // called before the first call; may be nil
	OnEnd  func()          // called when the session is over; may be nil
}

// Observer hears of messages and of the ends of sessions. Its methods are
// called from any goroutine and must not block.
type Observer interface {
	MessageIn(bytes int)
	MessageOut(bytes int)
	// Ignored comes for each text that is no message; reason is one of Reasons.
	Ignored(s *Session, reason string)
	// SessionOpened and SessionEnded come once per connection; err is nil after
	// a regular end.
	SessionOpened(s *Session)
	SessionEnded(s *Session, err error)
}

// Config says how a Server works.
type Config struct {
	// API is what peers may call and read.
	API API
	// Gate is what all links of the hub share; nil has the default limits.
	Gate *rpc.Gate
	// Admit says who sends a request. Rules about Origin, Host and credentials
	// have been applied before. An error is answered with 403. Nil admits
	// everybody with all scopes, for tests.
	Admit func(*http.Request) (Admission, error)
	// Observer may be nil.
	Observer Observer
	Limits   Limits
	// Drain bounds how long the end of a session waits for its handlers; 0: 5 s.
	Drain time.Duration
	// SoftOutbox and HardOutbox are limits in bytes; 0: those of rpc.NewOutbox.
	SoftOutbox, HardOutbox int
}

// Server serves sessions over WebSocket, as an http.Handler for one path, and
// over byte streams, with Serve.
type Server struct {
	conf Config

	mu       sync.Mutex
	sessions map[*socket]*Session // those over WebSocket
	closed   bool
	wg       sync.WaitGroup // requests that are served
}

// New returns a server.
func New(conf Config) *Server {
	conf.Limits = conf.Limits.withDefaults()
	if conf.Drain <= 0 {
		conf.Drain = 5 * time.Second
	}
	if conf.Gate == nil {
		conf.Gate = new(rpc.Gate)
	}
	if conf.Admit == nil {
		conf.Admit = func(*http.Request) (Admission, error) {
			return Admission{Peer: &rpc.Peer{UID: -1, GID: -1, PID: -1, Scopes: rpc.AllScopes}}, nil
		}
	}
	return &Server{conf: conf, sessions: make(map[*socket]*Session)}
}

// ServeHTTP serves one session until it ends.
func (sv *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		http.Error(w, "open a WebSocket here", http.StatusUpgradeRequired)
		return
	}
	sv.mu.Lock()
	closed := sv.closed
	if !closed {
		sv.wg.Add(1)
	}
	sv.mu.Unlock()
	if closed {
		http.Error(w, "the hub is shutting down", http.StatusServiceUnavailable)
		return
	}
	defer sv.wg.Done()
	a, err := sv.conf.Admit(r)
	if err != nil {
		http.Error(w, "not allowed", http.StatusForbidden)
		return
	}
	if a.OnEnd != nil {
		defer a.OnEnd()
	}
	query := r.URL.Query()
	wants := Wants{TextErrors: query.Get("errors") == "string", Streams: query.Get("streams") == "1"}
	conn, err := ws.Accept(w, r, ws.Options{
		Limit: sv.conf.Limits.MaxMessage + 1, // a line feed is not part of the message
		Soft:  sv.conf.SoftOutbox, Hard: sv.conf.HardOutbox,
	})
	if err != nil {
		return // the library has answered
	}
	sock := &socket{Conn: conn}
	s := sv.open(sock, conn.Out(), a, wants, false)
	if !sv.enter(sock, s) {
		sock.Hangup(ws.CloseGoing, "the hub is shutting down")
	}
	err = sock.run(s, sv.conf.Drain)
	sv.mu.Lock()
	delete(sv.sessions, sock)
	sv.mu.Unlock()
	sv.over(s, err)
}

// open makes the session of a new connection.
func (sv *Server) open(wire transport, out *rpc.Outbox, a Admission, wants Wants, ascii bool) *Session {
	link := rpc.NewLink(sv.conf.Gate)
	link.Out, link.Quota = out, a.Quota
	if a.OnLink != nil {
		a.OnLink(link)
	}
	s := newSession(wire, link, a.Peer, &sv.conf.API, sv.conf.Limits, ascii)
	s.wants, s.obs = wants, sv.conf.Observer
	if s.obs != nil {
		s.obs.SessionOpened(s)
	}
	return s
}

func (sv *Server) over(s *Session, err error) {
	if s.obs != nil {
		s.obs.SessionEnded(s, err)
	}
}

func (sv *Server) enter(sock *socket, s *Session) bool {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	sv.sessions[sock] = s
	return !sv.closed
}

// Sessions returns how many WebSocket sessions are open.
func (sv *Server) Sessions() int {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	return len(sv.sessions)
}

// Close ends all WebSocket sessions and refuses new ones. What the peers still
// wait for is answered with an error: old clients would wait for ever. Close
// waits until the sessions are gone, or until ctx ends.
func (sv *Server) Close(ctx context.Context) error {
	sv.mu.Lock()
	sv.closed = true
	open := maps.Clone(sv.sessions)
	sv.mu.Unlock()
	for sock, s := range open {
		s.link.Close(rpc.ErrShutdown, 0)
		s.End(rpc.ErrShutdown)
		sock.Hangup(ws.CloseGoing, "the hub is shutting down")
	}
	done := make(chan struct{})
	go func() { // ends with the last request
		sv.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		sv.mu.Lock()
		for sock := range sv.sessions {
			sock.Cut()
		}
		sv.mu.Unlock()
		return errors.New("sessions were cut off: " + context.Cause(ctx).Error())
	}
}
