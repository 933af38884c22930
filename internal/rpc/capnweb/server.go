package capnweb

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Admission is what the hub knows of the peer behind a request.
type Admission struct {
	Peer   *rpc.Peer
	Quota  *rpc.Quota      // may be nil
	Share  *rpc.Share      // of the memory of unfinished batches; may be nil
	OnLink func(*rpc.Link) // called before the first call; may be nil
	OnEnd  func()          // called when the session or the batch is over; may be nil

	// Gone reports whether nobody is left to read the answer to a batch, of a
	// client that has ended its sending side. Nil: that side is all that there is
	// to know.
	Gone func() bool
}

// Observer hears of messages and of the ends of sessions. Its methods are
// called from any goroutine and must not block.
type Observer interface {
	MessageIn(bytes int)
	MessageOut(bytes int)
	// SessionOpened and SessionEnded come once per WebSocket session; err is
	// nil after a regular end. See IsProtocolError.
	SessionOpened(s *Session)
	SessionEnded(s *Session, err error)
}

// Config says how a Server works.
type Config struct {
	// Table is the main object.
	Table *rpc.Table
	// Gate is what all links of the hub share; nil has the default limits.
	Gate *rpc.Gate
	// Admit says who sends a request. Rules about Origin, Host and credentials
	// have been applied before. An error is answered with 403. Nil admits
	// everybody with all scopes, for tests.
	Admit func(*http.Request) (Admission, error)
	// Observer may be nil.
	Observer Observer
	Limits   Limits
	// BatchWait bounds how long a batch waits for its answers; 0: 30 s.
	BatchWait time.Duration
	// Ping is how often an idle peer is asked whether it is there; 0: 30 s.
	// One that does not answer within twice that time is taken to be gone.
	Ping time.Duration
	// Drain bounds how long the end of a session waits for its handlers; 0: 5 s.
	Drain time.Duration
	// SoftOutbox and HardOutbox are limits in bytes; 0: those of rpc.NewOutbox.
	SoftOutbox, HardOutbox int
}

// Server serves sessions over WebSocket (GET with an upgrade) and HTTP batches
// (POST). It is an http.Handler for one path.
type Server struct {
	conf Config
	quit chan struct{} // closed by Close: batches that wait give up

	mu       sync.Mutex
	sessions map[*socket]*Session
	closed   bool
	wg       sync.WaitGroup // requests that are served
}

// New returns a server.
func New(conf Config) *Server {
	conf.Limits = conf.Limits.withDefaults()
	if conf.BatchWait <= 0 {
		conf.BatchWait = DefaultBatchWait
	}
	if conf.Ping <= 0 {
		conf.Ping = DefaultPing
	}
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
	return &Server{conf: conf, quit: make(chan struct{}), sessions: make(map[*socket]*Session)}
}

// ServeHTTP serves one batch, or one session until it ends.
func (sv *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sv.mu.Lock()
	closed := sv.closed
	if !closed {
		sv.wg.Add(1)
	}
	sv.mu.Unlock()
	if closed {
		goingDown(w)
		return
	}
	defer sv.wg.Done()
	upgrade := strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
	if !upgrade && r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		http.Error(w, "POST a batch of messages, or open a WebSocket", http.StatusMethodNotAllowed)
		return
	}
	a, err := sv.conf.Admit(r)
	if err != nil {
		http.Error(w, "not allowed", http.StatusForbidden)
		return
	}
	if a.OnEnd != nil {
		defer a.OnEnd()
	}
	if upgrade {
		sv.session(w, r, a)
	} else {
		sv.batch(w, r, a)
	}
}

func goingDown(w http.ResponseWriter) {
	http.Error(w, shuttingDown, http.StatusServiceUnavailable)
}

const shuttingDown = "the hub is shutting down"

// session serves a WebSocket.
func (sv *Server) session(w http.ResponseWriter, r *http.Request, a Admission) {
	h := &hijacker{ResponseWriter: w, limit: sv.conf.Limits.MaxMessage}
	conn, err := websocket.Accept(h, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the hub has checked the origin by its own rules
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return // the library has answered
	}
	sock := h.sock
	sock.ping = sv.conf.Ping
	conn.SetReadLimit(int64(sv.conf.Limits.MaxMessage))
	sock.batch = new(rpc.Batch)
	out := rpc.NewOutbox(h.wire, sv.conf.SoftOutbox, sv.conf.HardOutbox)
	sock.mu.Lock()
	sock.out = out
	sock.mu.Unlock()
	link := rpc.NewLink(sv.conf.Gate)
	link.Out, link.Quota = out, a.Quota
	if a.OnLink != nil {
		a.OnLink(link)
	}
	var wire transport = sock
	if sv.conf.Observer != nil {
		wire = watched{sock, sv.conf.Observer}
	}
	s := newSession(wire, link, a.Peer, &mainObject{table: sv.conf.Table}, sv.conf.Limits)
	s.trace = traceOf(r)
	sock.session = s
	s.observer = sv.conf.Observer
	if !sv.enter(sock, s) {
		sock.close(closeGoing, shuttingDown)
	}
	if o := sv.conf.Observer; o != nil {
		o.SessionOpened(s)
	}
	err = sock.run(conn, s, sv.conf.Drain)
	if e := s.fault(); e != nil {
		err = e
	}
	sv.mu.Lock()
	delete(sv.sessions, sock)
	sv.mu.Unlock()
	if o := sv.conf.Observer; o != nil {
		o.SessionEnded(s, err)
	}
}

// traceOf is the trace context of a batch, or of the request that opened a
// session: the protocol itself has no place for one.
func traceOf(r *http.Request) rpc.TraceContext {
	return rpc.ParseTrace(r.Header.Get("Traceparent"), r.Header.Get("Tracestate"))
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

// Entries returns how many exports and imports all WebSocket sessions have together.
func (sv *Server) Entries() (exports, imports int) {
	sv.mu.Lock()
	open := slices.Collect(maps.Values(sv.sessions))
	sv.mu.Unlock()
	for _, s := range open {
		ex, im := s.Entries()
		exports, imports = exports+ex, imports+im
	}
	return exports, imports
}

// Close ends all sessions and refuses new ones. It waits until they are gone,
// or until ctx ends.
func (sv *Server) Close(ctx context.Context) error {
	sv.mu.Lock()
	if !sv.closed {
		sv.closed = true
		close(sv.quit)
	}
	open := maps.Clone(sv.sessions)
	sv.mu.Unlock()
	for sock, s := range open {
		s.link.Close(rpc.ErrShutdown, 0) // first: what runs is answered
		s.cutStreams(rpc.ErrShutdown)
		s.End(rpc.ErrShutdown)
		sock.close(closeGoing, shuttingDown)
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
			_ = sock.Conn.Close()
		}
		sv.mu.Unlock()
		return errors.New("sessions were cut off: " + context.Cause(ctx).Error())
	}
}

// watched tells the observer of what is sent.
type watched struct {
	transport
	o Observer
}

func (w watched) send(b *rpc.Batch, msg []byte) error {
	w.o.MessageOut(len(msg))
	return w.transport.send(b, msg)
}
