package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Options are what Dial may be told. The nil *Options and the zero value mean
// the defaults.
type Options struct {
	// Token proves who calls, on listeners that ask for one.
	Token string
	// TLS is how addresses with tls:// are connected to; nil means the
	// authorities of the system and no certificate of one's own.
	TLS *tls.Config
	// Name tells the hub what program this is, for its lists: at most 128 bytes.
	Name string
	// Identity is who this client is to the hub, over its connections and, if
	// the program keeps it, over restarts of the program: ephemeral keys that
	// were put under an identity stay when it comes back in time. Two clients
	// must not use the same one at the same time. "" is a random one, which
	// lasts as long as the Client; at most 128 bytes.
	Identity string
	// Handler answers calls that the hub makes to this client; nil refuses them.
	Handler Handler
	// Reconnect is how long a call waits for a connection to come back after it
	// broke; 0 means 10 seconds. The client itself connects again, whether
	// anybody calls or not, for as long as it is open. Negative means that a
	// broken connection is not replaced. Attach has a limit of its own.
	Reconnect time.Duration
	// Repeat is how long a call is repeated that the hub refused before it ran
	// because the hub, or the program behind the method, was not available or
	// overloaded; 0 means 10 seconds, negative means not at all. The context of
	// the call ends it earlier.
	Repeat time.Duration
	// Dialer makes the connection in place of a plain net.Dial of the address.
	Dialer func(context.Context) (net.Conn, error)
}

const (
	defaultReconnect = 10 * time.Second
	defaultRepeat    = 10 * time.Second
	dialLimit        = 10 * time.Second // for the connection itself
	helloLimit       = 5 * time.Second  // for the hub's answer to hello
	lingerLimit      = time.Second      // for what is queued when the client is closed, such as a cancel
)

// Client is a connection to a hub that is made again when it breaks. All its
// methods may be called by many goroutines.
type Client struct {
	address Address
	opts    Options
	ctx     context.Context // ends with Close
	stop    context.CancelCauseFunc
	wg      sync.WaitGroup // of redials, and of connections that were replaced

	mu     sync.Mutex
	conn   *conn                       // the present or last connection
	redial *redial                     // in progress, nil if none
	pace   *backoff.ExponentialBackOff // of redials; for the one that runs
	closed bool

	services  map[string]Methods   // what Provide offers, by service; guarded by mu
	producers map[string]*Producer // that live, by session; guarded by mu
}

// randomIdentity returns an identity that nobody else has; the name is for people.
func randomIdentity(name string) string { return name + "#" + rand.Text() }

// Dial connects to the hub at address, "unix:///path", "tcp://host:port",
// "tls://host:port" or the path of a socket, and says hello. The empty address means DefaultAddress. It
// tries once: see WaitFor for a hub that is still starting.
func Dial(ctx context.Context, address string, opts *Options) (*Client, error) {
	c := &Client{pace: pace()}
	if opts != nil {
		c.opts = *opts
	}
	if c.opts.Identity == "" {
		c.opts.Identity = randomIdentity(c.opts.Name)
	}
	var err error
	switch {
	case address != "":
		c.address, err = ParseAddress(address)
	case c.opts.Dialer == nil:
		c.address, err = DefaultAddress()
	}
	if err != nil {
		return nil, &Error{Kind: KindInvalidParams, Message: err.Error(), Retry: RetrySafe, cause: err}
	}
	c.ctx, c.stop = context.WithCancelCause(context.Background())
	cn, err := c.connect(ctx)
	if err != nil {
		c.stop(nil)
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.adoptLocked(cn)
	return c, nil
}

// WaitFor is Dial that tries until the hub answers or ctx ends; its error is
// then that of the last attempt, under KindTimeout or KindCancelled.
func WaitFor(ctx context.Context, address string, opts *Options) (*Client, error) {
	var last error
	var c *Client
	err := try(ctx, 0, func() (again bool, err error) {
		if c, err = Dial(ctx, address, opts); err != nil && ctx.Err() == nil {
			last = err
		}
		return temporary(err), err
	})
	if err != nil && ctx.Err() != nil {
		e := ended(ctx, "", RetrySafe)
		if last != nil {
			e.Message = last.Error()
			e.cause = errors.Join(e.cause, last)
		}
		return nil, e
	}
	return c, err
}

// pace is how attempts to connect follow each other.
func pace() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 50 * time.Millisecond
	b.MaxInterval = 2 * time.Second
	return b
}

// temporary reports whether another attempt to connect may succeed.
func temporary(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	switch e.Kind {
	case KindUnavailable, KindOverloaded, KindTimeout:
		return true
	case KindDisconnected:
		if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); untrusted {
			return false
		}
		return !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM) && !errors.Is(err, ErrClosed)
	}
	return false
}

// connect makes one connection and says hello on it.
func (c *Client) connect(ctx context.Context) (*conn, error) {
	dial := c.opts.Dialer
	if dial == nil {
		dial = func(ctx context.Context) (net.Conn, error) { return c.address.Dial(ctx, c.opts.TLS) }
	}
	limited, cancel := context.WithTimeoutCause(ctx, dialLimit, fmt.Errorf("no connection within %v", dialLimit))
	defer cancel()
	nc, err := dial(limited)
	switch {
	case err == nil:
		return newConn(ctx, c, nc)
	case limited.Err() != nil:
		return nil, ended(limited, "", RetrySafe)
	case c.address.Network == "unix" && errors.Is(err, syscall.EAGAIN):
		return nil, &Error{Kind: KindTimeout, Message: "no answer: its queue of new connections is full", Retry: RetrySafe, cause: err}
	}
	return nil, disconnected(err, RetrySafe)
}

// Server describes the hub at the other end of a Client.
type Server struct {
	Version  int      // of the protocol
	Software string   // such as "hubd/1.2.3"
	Identity string   // the session that the socket belongs to
	Features []string // additions to the protocol that both sides know
}

// Server returns what the hub said of itself when the present connection was made.
func (c *Client) Server() Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn.server
}

// Address returns where the client connects to.
func (c *Client) Address() Address { return c.address }

// Close tells the hub goodbye, so that what it keeps for this client until it
// comes back (its ephemeral keys) goes at once, and ends the connection. Calls in flight fail with KindDisconnected, the
// contexts of running handlers end, and Close waits for them.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	cn := c.conn
	c.mu.Unlock()
	c.stop(ErrClosed)
	cn.goodbye()
	cn.end(ErrClosed, lingerLimit)
	c.wg.Wait()
	cn.wait()
	return nil
}
