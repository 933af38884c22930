package capnweb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/ws"
)

// DialOptions are the options of Dial. The zero value will do.
type DialOptions struct {
	// Main is what the other side may call of ours; nil offers nothing. For a
	// method table use NewMain(table, peer).Target.
	Main rpc.Target
	// Peer is on whose behalf the other side's calls run; nil may call nothing that
	// a method table guards.
	Peer   *rpc.Peer
	Gate   *rpc.Gate
	Limits Limits
	Header http.Header
	TLS    *tls.Config
	// Dial opens the connection; nil dials TCP or, for unix URLs, the socket.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client is the side of a session that opened it. The session is symmetric:
// what the other side is given, it may call.
type Client struct {
	s    *Session
	sock *socket
	done chan struct{}
	err  error
}

// Dial opens a session. address is ws://host/path, wss://host/path, or
// unix:///path/to/socket with the path of the endpoint behind a colon
// (unix:///run/hub.sock:/capnweb; without one it is /capnweb). ctx bounds the
// handshake only; Close ends the session.
func Dial(ctx context.Context, address string, opt DialOptions) (*Client, error) {
	target, dial, err := ws.Locate(address, "/capnweb", opt.Dial, opt.TLS)
	if err != nil {
		return nil, err
	}
	sock := &socket{mask: true, ping: DefaultPing}
	open := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if sock.Conn != nil {
			return nil, errors.New("redirects are not followed")
		}
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		sock.Conn = nc
		return sock, nil
	}
	transport := &http.Transport{DialContext: open, DialTLSContext: open}
	conn, resp, err := websocket.Dial(ctx, target, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, HTTPHeader: opt.Header, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		if resp != nil && resp.Body != nil {
			resp.Body.Close()
		}
		transport.CloseIdleConnections()
		return nil, fmt.Errorf("open session: %w", err)
	}
	limits := opt.Limits.withDefaults()
	conn.SetReadLimit(int64(limits.MaxMessage))
	out := rpc.NewOutbox(ws.WireOf(sock.Conn), 0, 0)
	sock.batch = new(rpc.Batch)
	sock.mu.Lock()
	sock.out = out
	sock.mu.Unlock()
	link := rpc.NewLink(opt.Gate)
	link.Out = out
	s := newSession(sock, link, opt.Peer, opt.Main, limits)
	c := &Client{s: s, sock: sock, done: make(chan struct{})}
	go func() { // the reader; ends with the connection
		defer close(c.done)
		c.err = sock.run(conn, s, 0)
	}()
	return c, nil
}

// Session returns the session, for its counts.
func (c *Client) Session() *Session { return c.s }

// Done is closed when the session is over.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the session is over, nil while it is not or after a regular end.
func (c *Client) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Close ends the session and waits until everything is given back.
func (c *Client) Close() error {
	c.sock.close(1000, "")
	c.s.End(errGone)
	<-c.done
	return nil
}

// Target is the other side's main object as a target: what is called on it is
// called there, by the path of the call.
func (c *Client) Target() rpc.Target { return c.s.client }

// Main returns the other side's main object.
func (c *Client) Main() *Stub { return &Stub{s: c.s} }

// Call calls a method by its dotted name and waits for the answer under ctx.
// References in the answer belong to the caller.
func (c *Client) Call(ctx context.Context, method string, args ...any) (rpc.Value, error) {
	st := c.Main().Call(method, args...)
	v, err := st.Value(ctx)
	if err != nil {
		st.Release()
	}
	return v, err
}

// Stub is the main object, a result that may not be there yet, or a part of
// one. Calls on a result that is not there travel at once (pipelining). It may
// be used by many goroutines.
type Stub struct {
	s    *Session
	id   int64
	path []rpc.PathPart
	res  *result // nil for the main object
	fail *rpc.Error
}

// result is an answer of the peer.
type result struct {
	x    *imported
	once sync.Once     // the pull
	done chan struct{} // closed when it is decided

	mu      sync.Mutex // a leaf: nothing is called under it
	decided bool
	pl      payload
	fail    *rpc.Error
}

func newResult() *result { return &result{done: make(chan struct{}), x: &imported{mentions: 1}} }

// decide sets the outcome, once: what comes later is given back.
func (r *result) decide(pl payload, fail *rpc.Error) {
	r.mu.Lock()
	if !r.decided {
		r.decided, r.pl, r.fail = true, pl, fail
		pl = payload{}
		close(r.done)
	}
	r.mu.Unlock()
	pl.drop(errUnread)
}

// release gives the outcome back, whether it is there or not.
func (r *result) release() {
	r.decide(payload{}, errReleased)
	r.mu.Lock()
	pl := r.pl
	r.pl, r.fail = payload{}, errReleased
	r.mu.Unlock()
	pl.drop(errUnread)
}

// outcome returns what was decided.
func (r *result) outcome() (rpc.Value, *rpc.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pl.v, r.fail
}

// Get returns a property: strings name members, ints elements of an array.
// Nothing is sent until it is called or awaited.
func (st *Stub) Get(path ...any) *Stub {
	next := *st
	next.path = append(append([]rpc.PathPart(nil), st.path...), parts(path)...)
	return &next
}

func parts(path []any) []rpc.PathPart {
	var list []rpc.PathPart
	for _, x := range path {
		switch x := x.(type) {
		case int:
			list = append(list, rpc.PathPart{Index: x, Name: fmt.Sprint(x), IsIndex: true})
		default:
			list = append(list, rpc.PathPart{Name: fmt.Sprint(x)})
		}
	}
	return list
}

// Call calls a method by its dotted name, or st itself with "". Arguments are
// what rpc.Encode takes, and Stubs, whose value the other side fills in.
func (st *Stub) Call(method string, args ...any) *Stub {
	path := append([]rpc.PathPart(nil), st.path...)
	if method != "" {
		for name := range strings.SplitSeq(method, ".") {
			path = append(path, rpc.PathPart{Name: name})
		}
	}
	list := make([]rpc.Value, len(args))
	for i, x := range args {
		v, err := valueOf(x)
		if err != nil {
			return &Stub{s: st.s, fail: rpc.AsError(context.Background(), err)}
		}
		list[i] = v
	}
	a := rpc.ListArgs(list...)
	return st.push(path, false, &a)
}

func valueOf(x any) (rpc.Value, error) {
	switch x := x.(type) {
	case *Stub:
		return rpc.TreeValue(x), nil
	case []any, *rpc.Map:
		return rpc.TreeValue(x), nil
	}
	return rpc.Encode(x)
}

// push sends a call or the read of a property.
func (st *Stub) push(path []rpc.PathPart, get bool, args *rpc.Args) *Stub {
	if st.fail != nil {
		return st
	}
	if st.res == nil {
		return st.s.stubOf(st.id, nil, path, get, args)
	}
	st.s.mu.Lock()
	there := st.s.imports[st.id] == st.res.x
	st.s.mu.Unlock()
	if there {
		// The answer may come at this moment, and its release go out first.
		if next := st.s.stubOf(st.id, st.res.x, path, get, args); next.fail != errReleased {
			return next
		}
	}
	return st.local(path, get, args) // answered: the id is gone, the value is here
}

// stubOf sends a call of an export of the peer, or the read of its property; of
// is what the id stands for.
func (s *Session) stubOf(id int64, of *imported, path []rpc.PathPart, get bool, args *rpc.Args) *Stub {
	res := newResult()
	res.x.answer = func(_ *rpc.Batch, p *promise, rejected bool) { res.decide(p.take(rejected)) }
	res.x.broken = func(cause *rpc.Error) { res.decide(payload{}, gone(cause)) }
	n, err := s.call(nil, id, of, path, get, args, res.x, false)
	if err != nil {
		return &Stub{s: s, fail: err}
	}
	return &Stub{s: s, id: n, res: res}
}

// local goes on from a value that has arrived.
func (st *Stub) local(path []rpc.PathPart, get bool, args *rpc.Args) *Stub {
	<-st.res.done // it is just arriving, or was released
	v, fail := st.res.outcome()
	if fail != nil {
		return &Stub{s: st.s, fail: fail}
	}
	for i := 0; ; i++ {
		if r, ok := v.AsRef(); ok {
			if _, ok := r.ID.(importID); ok && r.Owner == any(st.s) && !(get && i == len(path)) {
				t := r.Target.(*importTarget)
				return st.s.stubOf(t.id, t.of, path[i:], get, args)
			}
		}
		if i == len(path) {
			break
		}
		if v.IsUndefined() {
			return &Stub{s: st.s, fail: readOfUndefined(path[i].Name)}
		}
		v, _ = step(v, path[i])
	}
	if !get {
		return &Stub{s: st.s, fail: notFunction(joinPath(path))}
	}
	res := newResult()
	res.decide(payload{v: v}, nil)
	return &Stub{s: st.s, id: -1 << 62, res: res}
}

// Value waits for the value under ctx. References and streams in it live until
// Release.
func (st *Stub) Value(ctx context.Context) (rpc.Value, error) {
	if st.fail != nil {
		return rpc.Value{}, st.fail
	}
	if st.res == nil || len(st.path) > 0 {
		got := st.push(st.path, true, new(rpc.Args))
		if got.fail != nil {
			return rpc.Value{}, got.fail
		}
		return got.Value(ctx)
	}
	res := st.res
	res.once.Do(func() {
		b, flush := batched(nil)
		st.s.mu.Lock()
		if st.s.imports[st.id] == res.x {
			st.s.sayPull(b, st.id)
		}
		st.s.mu.Unlock()
		flush()
	})
	select {
	case <-res.done:
	case <-ctx.Done():
		return rpc.Value{}, context.Cause(ctx)
	}
	v, fail := res.outcome()
	if fail != nil {
		return rpc.Value{}, fail
	}
	return v, nil
}

// Release gives the result up: a call that runs is cancelled, references in a
// value that is there are released. Whoever waits for it, or uses it or a part
// of it from now on, is told that it was released.
func (st *Stub) Release() {
	if st.res == nil {
		return
	}
	st.s.forget(st.id, st.res.x)
	st.res.release()
}
