package snekrpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Defaults of a Client.
const (
	defaultPort        = "12321"
	defaultDialTimeout = 5 * time.Second
	defaultMaxConns    = 256
	defaultMaxIdle     = 8
)

// ClientConfig says how a Client reaches its server. Only URL is required.
type ClientConfig struct {
	URL         string // tcp://HOST[:PORT], unix:///PATH or http://HOST[:PORT]
	Codec       string // json or msgpack; "": what the server announces
	MaxFrame    int    // bytes of a message; 0: DefaultMaxFrame
	MaxConns    int    // connections at once, which is calls at once; 0: 256
	MaxIdle     int    // connections that are kept for later calls; 0: 8
	DialTimeout time.Duration
}

// Client calls the services of one server. A connection carries one call at a
// time, so there is a pool of them, opened when they are needed. All methods
// may be called by many goroutines.
type Client struct {
	cfg     ClientConfig
	network string
	address string
	tunnel  bool
	path    string // of the tunnel

	mu     sync.Mutex
	codec  codec // nil until it was announced
	idle   []*clientConn
	open   int // connections in use
	closed bool
}

// parseURL takes the address of the server apart.
func (c *Client) parseURL() error {
	u, err := url.Parse(c.cfg.URL)
	if err != nil {
		return errors.New("the address cannot be read")
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return errors.New("a socket path is absolute")
		}
		c.network, c.address = "unix", u.Path
		return nil
	case "tcp", "http":
		c.tunnel = u.Scheme == "http"
		if c.path = u.EscapedPath(); c.path == "" {
			c.path = "/"
		}
		if c.path != "/" && !c.tunnel {
			return errors.New("the address has a path")
		}
		host, port := u.Hostname(), u.Port()
		if host == "" {
			host = "127.0.0.1"
		}
		if port == "" {
			port = defaultPort
		}
		c.network, c.address = "tcp", net.JoinHostPort(host, port)
		return nil
	}
	return errors.New("expected tcp://, unix:// or http://")
}

// NewClient returns a client. Nothing is connected yet.
func NewClient(cfg ClientConfig) (*Client, error) {
	c := &Client{cfg: cfg}
	if err := c.parseURL(); err != nil {
		return nil, err
	}
	if cfg.Codec != "" {
		if c.codec = codecOf(cfg.Codec); c.codec == nil {
			return nil, fmt.Errorf("no codec %q", cfg.Codec)
		}
	}
	if c.cfg.MaxConns <= 0 {
		c.cfg.MaxConns = defaultMaxConns
	}
	if c.cfg.MaxIdle <= 0 {
		c.cfg.MaxIdle = defaultMaxIdle
	}
	if c.cfg.DialTimeout <= 0 {
		c.cfg.DialTimeout = defaultDialTimeout
	}
	return c, nil
}

// Close closes the connections that no call uses; the others close as their
// calls end. Later calls fail.
func (c *Client) Close() {
	c.mu.Lock()
	idle := c.idle
	c.idle, c.closed = nil, true
	c.mu.Unlock()
	for _, k := range idle {
		k.close()
	}
}

// clientConn is one connection. It belongs to one call at a time, whose two
// directions may be used by two goroutines.
type clientConn struct {
	nc      net.Conn
	in      *reader
	codec   codec
	chunked bool
	headed  bool // the head of the response was read
	out     []byte
}

// errUnreachable is the answer of calls while the server cannot be reached.
func errUnreachable(cause error) *rpc.Error {
	e := &rpc.Error{Code: rpc.CodeUnavailable, Message: "the server cannot be reached", Ran: rpc.RanNo}
	return e.Because(cause)
}

// errLost is the answer of a call whose connection broke.
func errLost(cause error) *rpc.Error {
	e := &rpc.Error{Code: rpc.CodeUnavailable, Message: "the connection to the server broke", Ran: rpc.RanUnknown}
	return e.Because(cause)
}

// get returns a connection for one call.
func (c *Client) get(ctx context.Context) (*clientConn, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, rpc.ErrShutdown
	}
	if c.open >= c.cfg.MaxConns {
		c.mu.Unlock()
		return nil, &rpc.Error{Code: rpc.CodeOverloaded, Message: "too many calls to the server at once", Ran: rpc.RanNo}
	}
	c.open++
	for len(c.idle) > 0 {
		k := c.idle[len(c.idle)-1]
		c.idle = c.idle[:len(c.idle)-1]
		c.mu.Unlock()
		if k.fresh() {
			return k, nil
		}
		k.close()
		c.mu.Lock()
	}
	cd := c.codec
	c.mu.Unlock()
	k, err := c.dial(ctx, cd)
	if err != nil {
		c.mu.Lock()
		c.open--
		c.mu.Unlock()
		return nil, err
	}
	return k, nil
}

// put takes a connection back: reusable says that it is in step.
func (c *Client) put(k *clientConn, reusable bool) {
	c.mu.Lock()
	c.open--
	if reusable && !c.closed && len(c.idle) < c.cfg.MaxIdle && k.nc.SetDeadline(time.Time{}) == nil {
		c.idle = append(c.idle, k)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	k.close()
}

// alive reports whether a connection is there that the server has not closed.
func (c *Client) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.idle[:0]
	for _, k := range c.idle {
		if k.fresh() {
			kept = append(kept, k)
		} else {
			k.close()
		}
	}
	clear(c.idle[len(kept):])
	c.idle = kept
	return len(kept) > 0 || c.open > 0
}

func (c *Client) dial(ctx context.Context, cd codec) (*clientConn, error) {
	limit, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	nc, err := new(net.Dialer).DialContext(limit, c.network, c.address)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, errUnreachable(err)
	}
	var src io.Reader = nc
	if tcp, ok := nc.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			src = quickReader{nc, raw}
		}
	}
	k := &clientConn{nc: nc, codec: cd, chunked: c.tunnel, in: newReader(src, false, c.cfg.MaxFrame)}
	if c.tunnel {
		k.out = append(append(append(k.out, "POST "...), c.path...), " HTTP/1.1\r\nHost: "...)
		k.out = append(k.out, c.address...)
		k.out = append(k.out, "\r\nConnection: keep-alive\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"...)
	}
	if cd != nil {
		return k, nil
	}
	stop := context.AfterFunc(limit, func() { nc.SetDeadline(time.Unix(1, 0)) })
	k.codec, err = k.askCodec()
	if !stop() && err == nil { // the deadline of the handshake would be that of the first call, too
		err = limit.Err()
	}
	if err != nil {
		k.close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, errUnreachable(err)
	}
	c.mu.Lock()
	if c.codec == nil {
		c.codec = k.codec
	}
	c.mu.Unlock()
	return k, nil
}

// askCodec makes the handshake.
func (k *clientConn) askCodec() (codec, error) {
	if err := k.send(func(dst []byte) ([]byte, error) { return append(dst, handshake), nil }); err != nil {
		return nil, err
	}
	msg, err := k.next()
	if err != nil {
		return nil, err
	}
	if msg[0] != handshake {
		return nil, errors.New("the answer to the handshake is none")
	}
	cd := codecOf(string(msg[1:]))
	if cd == nil {
		return nil, fmt.Errorf("unknown codec %q", rpc.CleanText(string(msg[1:]), 32))
	}
	return cd, nil
}

func (k *clientConn) close() { k.nc.Close() }

// fresh reports whether an idle connection can carry a call: it is open, and
// nothing waits to be read on it.
func (k *clientConn) fresh() bool {
	sc, ok := k.nc.(syscall.Conn)
	if !ok || k.in.buffered() {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	fresh := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, e := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		fresh = e == unix.EAGAIN
	})
	return err == nil && fresh
}

// send writes one message with one write. Errors of f leave the connection as it was.
func (k *clientConn) send(f func([]byte) ([]byte, error)) error {
	from := len(k.out) // the head of the request, the first time
	dst, err := f(beginFrame(k.out, k.chunked))
	if err != nil {
		return err
	}
	dst = endFrame(dst, from, k.chunked)
	k.out = nil
	if cap(dst) <= keepScratch {
		k.out = dst[:0]
	}
	if _, err := k.nc.Write(dst); err != nil {
		return errLost(err)
	}
	return nil
}

// next reads one message.
func (k *clientConn) next() ([]byte, error) {
	if k.chunked && !k.headed {
		if err := k.head(); err != nil {
			return nil, err
		}
	}
	return k.in.next()
}

// head reads the head of the response.
func (k *clientConn) head() error {
	var line, first []byte
	for range 64 << 10 {
		b, err := k.in.byte()
		if err != nil {
			return cut(err)
		}
		if b != '\n' {
			line = append(line, b)
			continue
		}
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) > 0 {
			if first == nil {
				first = append(first, line...)
			}
			line = line[:0]
			continue
		}
		switch status := strings.Fields(string(first)); {
		case len(status) < 2 || !strings.HasPrefix(status[0], "HTTP/1."):
			return errors.New("the answer is not HTTP")
		case status[1] == "100":
			first = nil
			continue
		case status[1] != "200":
			return fmt.Errorf("the answer has status %s", rpc.CleanText(status[1], 16))
		}
		k.headed, k.in.chunked = true, true
		return nil
	}
	return errors.New("the head of the answer is too long")
}

// receive reads and decodes one message.
func (k *clientConn) receive(m *message) error {
	msg, err := k.next()
	if err != nil {
		return errLost(cut(err))
	}
	if err := k.codec.decode(msg, m); err != nil {
		return errLost(err)
	}
	return nil
}

// quickReader is the reader of a TCP connection whose peer writes a message
// with two calls: see QuickAck.
type quickReader struct {
	io.Reader
	raw syscall.RawConn
}

func (q quickReader) Read(p []byte) (int, error) {
	QuickAck(q.raw)
	return q.Reader.Read(p)
}

// QuickAck makes the kernel acknowledge what comes next at once. Peers of this
// protocol write a message in two pieces and leave TCP_NODELAY alone: their
// second piece waits for the acknowledgement of the first, which is otherwise
// put off by 40 ms. The option does not last, so it is set before each read.
func QuickAck(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	})
}
