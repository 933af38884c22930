package krpc

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Admission is what the hub knows of the peer behind a request.
type Admission struct {
	Peer   *rpc.Peer
	Quota  *rpc.Quota      // may be nil
	OnLink func(*rpc.Link) // called before the first call; may be nil
	OnEnd  func()          // called when the exchange is over; may be nil

	// Unproven, if it is set, is the answer to a call whose pmhparams do not say
	// who calls: a request that anybody may have caused.
	Unproven *rpc.Error

	// Gone reports whether nobody is left to read an answer, of a peer that has
	// ended its sending side. Nil: that side is all that there is to know.
	Gone func() bool
	// Silent says that Gone cannot tell about a peer that has merely closed the
	// connection: such a peer is given up after a short time.
	Silent bool
}

// Observer hears of requests and answers. Its methods are called from any
// goroutine and must not block.
type Observer interface {
	MessageIn(bytes int64)
	MessageOut(bytes int64)
	// Refused comes when a request could not be understood, or not be taken.
	Refused(r *http.Request, reason Reason)
}

// Reason says why a request was refused.
type Reason string

// The reasons.
const (
	ReasonNoCall       Reason = "no_call"        // nothing in it that could be a call
	ReasonMalformed    Reason = "malformed"      // JSON or form
	ReasonIncomplete   Reason = "incomplete"     // the body ends too early
	ReasonTooLarge     Reason = "too_large"      // the request, or its files
	ReasonCallTooLarge Reason = "call_too_large" // its JSON
	ReasonParts        Reason = "parts"          // too many, or their heads are too large
	ReasonSlow         Reason = "slow"           // the body came too slowly
	ReasonFull         Reason = "spool_full"     // no room for more uploads
	ReasonBusy         Reason = "memory_full"    // too much of other requests is held
	ReasonUnproven     Reason = "unproven"       // nothing says who calls: see Admission.Unproven
)

// Reasons lists them all.
func Reasons() []Reason {
	return []Reason{ReasonNoCall, ReasonMalformed, ReasonIncomplete, ReasonTooLarge, ReasonCallTooLarge, ReasonParts, ReasonSlow, ReasonFull, ReasonBusy, ReasonUnproven}
}

// Config says how a Server works.
type Config struct {
	// Table has the methods.
	Table *rpc.Table
	// Gate is what all links of the hub share; nil has the default limits.
	Gate *rpc.Gate
	// Spool is where files go; nil refuses files.
	Spool *Spool
	// Admit says who sends a request. Rules about Origin, Host and credentials
	// have been applied before. An error is answered with 403. Nil admits
	// everybody with all scopes, for tests.
	Admit func(*http.Request) (Admission, error)
	// Authenticate turns the pmhparams of a call into a peer. It returns nil
	// twice for what does not claim to be a proof, and an error, which is the
	// answer of the call, for one that is none. Nil ignores pmhparams.
	Authenticate func(r *http.Request, pmhparams rpc.Value) (*rpc.Peer, *rpc.Error)
	// Hook names a method that is called before each call with pmhparams as
	// its arguments; an error of it is the answer. "" for none.
	Hook string
	// Observer may be nil.
	Observer Observer
	Limits   Limits
	// Drain bounds how long the end of an exchange waits for its handler; 0: 5 s.
	Drain time.Duration
}

// Server is krpc as an http.Handler, for any path. It takes over the
// connection of every request that it answers.
type Server struct {
	conf   Config
	memory budget

	mu     sync.Mutex
	open   map[*exchange]struct{}
	closed bool
	wg     sync.WaitGroup
}

// New returns a server.
func New(conf Config) *Server {
	conf.Limits = conf.Limits.withDefaults()
	fill(&conf.Drain, 5*time.Second)
	if conf.Gate == nil {
		conf.Gate = new(rpc.Gate)
	}
	if conf.Admit == nil {
		conf.Admit = func(*http.Request) (Admission, error) {
			return Admission{Peer: &rpc.Peer{UID: -1, GID: -1, PID: -1, Scopes: rpc.AllScopes}, Silent: true}, nil
		}
	}
	sv := &Server{conf: conf, open: make(map[*exchange]struct{})}
	sv.memory.max = int64(conf.Limits.JSONAll)
	return sv
}

// ServeHTTP serves one request and closes its connection.
func (sv *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
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
	x := &exchange{
		server: sv, w: w, r: r, control: http.NewResponseController(w), Admission: a,
		answered: make(chan struct{}), watched: make(chan struct{}),
	}
	x.text = text{limit: sv.conf.Limits.JSON, budget: &sv.memory}
	x.upload = upload{spool: sv.conf.Spool, max: sv.conf.Limits.Upload}
	if !sv.enter(x) {
		http.Error(w, "the hub is shutting down", http.StatusServiceUnavailable)
		return
	}
	defer sv.leave(x)
	x.serve()
}

func (sv *Server) enter(x *exchange) bool {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	if sv.closed {
		return false
	}
	sv.open[x] = struct{}{}
	sv.wg.Add(1)
	return true
}

func (sv *Server) leave(x *exchange) {
	sv.mu.Lock()
	delete(sv.open, x)
	sv.mu.Unlock()
	sv.wg.Done()
}

// Exchanges returns how many requests are being served.
func (sv *Server) Exchanges() int {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	return len(sv.open)
}

// Close ends the reading of requests and the calls that run, and refuses new
// ones. It waits until all are answered, or until ctx ends.
func (sv *Server) Close(ctx context.Context) error {
	sv.mu.Lock()
	sv.closed = true
	var open []*exchange
	for x := range sv.open {
		open = append(open, x)
	}
	sv.mu.Unlock()
	for _, x := range open {
		x.shutdown()
	}
	done := make(chan struct{})
	go func() { // ends with the last exchange
		sv.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		for _, x := range open {
			x.cutOff()
		}
		return errors.New("requests were cut off: " + context.Cause(ctx).Error())
	}
}

// exchange is one request and its answer.
type exchange struct {
	Admission
	server  *Server
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController

	text   text
	upload upload
	files  map[string]*rpc.File
	size   int64 // of what came
	asked  bool  // who the peer is, by its pmhparams
	proved bool  // ... which have said it

	mu       sync.Mutex
	conn     net.Conn  // after takeOver
	link     *rpc.Link // once calls may start
	stopping bool      // the hub shuts down

	in       *bufio.Reader // with conn
	answered chan struct{} // closed when the answer was written
	watched  chan struct{} // closed when watch has ended
	watching bool
}

// serve reads the request, runs its call and answers it.
func (x *exchange) serve() {
	defer x.upload.Close()
	defer x.text.release()
	q, err := x.read()
	if e := x.takeOver(); e != nil {
		return // the connection is gone
	}
	defer x.close()
	if o := x.server.conf.Observer; o != nil {
		o.MessageIn(x.size)
	}
	if f, ok := errors.AsType[*failure](err); ok {
		if f.code == codeParse || f.code == codeInvalidRequest {
			x.refused(ReasonMalformed)
		}
		x.answerFailure(f)
		return
	}
	if err != nil {
		x.refuse(err)
		return
	}
	x.run(q)
}

// takeOver takes the connection from the HTTP server. The body has been read
// as far as it was declared, or will not be.
func (x *exchange) takeOver() error {
	if x.conn != nil {
		return nil
	}
	if err := x.control.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	conn, rw, err := x.control.Hijack()
	if err != nil {
		return err
	}
	x.in = rw.Reader
	x.mu.Lock()
	x.conn = conn
	x.mu.Unlock()
	return nil
}

// shutdown ends reading and calls.
func (x *exchange) shutdown() {
	x.mu.Lock()
	x.stopping = true
	link, conn := x.link, x.conn
	x.mu.Unlock()
	switch {
	case link != nil:
		link.Close(rpc.ErrShutdown, 0)
	case conn != nil:
		_ = conn.SetReadDeadline(time.Unix(1, 0))
	default:
		_ = x.control.SetReadDeadline(time.Unix(1, 0))
	}
}

// cutOff closes the connection.
func (x *exchange) cutOff() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.conn != nil {
		x.conn.Close()
	}
}

func (x *exchange) isStopping() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.stopping
}

// mostEarly bounds what a peer may send while its call runs.
const mostEarly = 1 << 20

// watch reads what the peer sends while its call runs, which is nothing but its
// leaving, and cancels the call when nobody will read the answer.
func (x *exchange) watch() {
	defer close(x.watched)
	n, err := io.CopyN(io.Discard, x.in, mostEarly)
	if errors.Is(err, io.EOF) && !x.linger() {
		return
	}
	select {
	case <-x.answered:
		if n == mostEarly {
			_, _ = io.Copy(io.Discard, x.in) // until the deadline that close sets
		}
	default:
		x.link.Close(rpc.ErrPeerGone, 0)
	}
}

// silence is how long a call may go on whose caller has ended its side of the
// connection, where nothing tells whether it has ended the other one too.
const silence = 1500 * time.Millisecond

// linger waits, after the peer has said that it sends no more, until the answer
// is written (false) or nobody is there to read it (true).
func (x *exchange) linger() bool {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var giveUp <-chan time.Time
	if x.Silent {
		giveUp = time.After(silence)
	}
	for {
		select {
		case <-x.answered:
			return false
		case <-giveUp:
			return true
		case <-tick.C:
			if x.Gone != nil && x.Gone() {
				return true
			}
		}
	}
}

// close ends the connection in order: the answer is through before anything
// that the peer has sent too much can make a reset overtake it. What the
// request held is given back before that is waited for.
func (x *exchange) close() {
	close(x.answered)
	c, ok := x.conn.(closeWriter)
	half := ok && c.CloseWrite() == nil
	if x.link != nil {
		x.link.Close(rpc.ErrPeerGone, x.server.conf.Drain) // before its files go
	}
	x.upload.Close()
	x.text.release()
	if half {
		linger := x.server.conf.Limits.Linger
		if x.isStopping() {
			linger = min(linger, shortLinger)
		}
		_ = x.conn.SetReadDeadline(time.Now().Add(linger))
		if x.watching {
			<-x.watched
		} else {
			_, _ = io.Copy(io.Discard, x.in)
		}
	}
	x.conn.Close()
	if x.watching {
		<-x.watched
	}
}

// shortLinger is how long a peer has to close its side when the hub ends.
const shortLinger = 200 * time.Millisecond

func (x *exchange) refused(reason Reason) {
	if o := x.server.conf.Observer; o != nil {
		o.Refused(x.r, reason)
	}
}
