package hub

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// conn is one accepted connection. It is the net.Conn that protocols read
// from, first the bytes that detection has taken and then the socket, and the
// rpc.Wire that outboxes write to.
type conn struct {
	id       uint64
	listener *listener
	since    time.Time
	hub      *hub
	share    *rpc.Share // of the memory of unfinished frames

	base      *rpc.Peer                    // who it is without a token; set by serve
	account   atomic.Pointer[account]      // whose limits it is under; changed by the registry
	peer      atomic.Pointer[rpc.Peer]     // on whose behalf calls run; over HTTP, those of the present request
	protocol  atomic.Pointer[rpc.Protocol] // nil until the first bytes told
	link      atomic.Pointer[rpc.Link]
	presented bool                   // the present request has come with a token; for the goroutine that serves it
	patient   atomic.Bool            // the peer may take nothing for any time: it is busy sending
	owner     atomic.Pointer[string] // of ephemeral keys; nil: the connection itself
	identity  atomic.Pointer[string] // what the client calls itself over its connections; nil: nothing
	program   atomic.Pointer[string] // what program the client says that it is; nil: nothing

	net   net.Conn  // the socket
	tls   *tls.Conn // on top of it; nil without TLS
	raw   syscall.RawConn
	head  []byte // taken by detection, not yet read; touched by the reader only
	begun []byte // read from head, for monitors to see with what follows; touched by the reader only

	got, sent view // of monitors; touched by the reader and the writer only

	// One attempt to write, as fields: a closure for each would be garbage.
	// The outbox never makes two at once.
	try     []byte
	tried   int
	tryErr  error
	tryOnce func(fd uintptr) bool // never waits
	tryWait func(fd uintptr) bool // waits until the socket takes something

	inHead   atomic.Bool // part of the head of a request was read, no request is served
	serving  atomic.Bool // a request is served
	idle     atomic.Bool // the HTTP server waits for the next request
	settled  func()      // it got a first answer, or is gone: see unanswered
	probing  atomic.Bool // its stream has ended: see probe
	closing  atomic.Bool // the TLS layer says goodbye
	once     sync.Once
	closeErr error
}

func newConn(h *hub, l *listener, nc net.Conn) (*conn, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%T has no descriptor", nc)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	keepAlive(nc, h.opts.Limits.TCPSilence)
	c := &conn{listener: l, since: time.Now(), hub: h, net: nc, raw: raw, settled: func() {}}
	c.share = h.begun.NewShare(func() {
		h.metrics.rejected(limitUnfinished)
		c.Close()
	})
	if l.addr.tls {
		var known func(*x509.Certificate) bool
		if l.addr.auth == authCert {
			known = func(cert *x509.Certificate) bool { return h.live.Load().certified(l.addr, cert) != nil }
		}
		c.tls = tls.Server(below{c}, h.certs.server(known))
	}
	c.tryOnce = func(fd uintptr) bool {
		c.tried, c.tryErr = write(fd, c.try)
		return true
	}
	c.tryWait = func(fd uintptr) bool {
		c.tried, c.tryErr = write(fd, c.try)
		return c.tried > 0 || c.tryErr != nil
	}
	return c, nil
}

// write is one write(2); a full socket buffer is no error.
func write(fd uintptr, p []byte) (int, error) {
	for {
		n, err := unix.Write(int(fd), p)
		switch err {
		case nil:
			return n, nil
		case unix.EAGAIN:
			return 0, nil
		case unix.EINTR:
		default:
			return 0, os.NewSyscallError("write", err)
		}
	}
}

// TryWrite makes one attempt that cannot block. With TLS there is none: its
// layer seals what it is given and cannot take it back, and its reader writes
// as well, which others would have to wait for.
func (c *conn) TryWrite(p []byte) (int, error) {
	if c.tls != nil {
		return 0, nil
	}
	n, err := c.trySocket(p)
	c.monitorOut(p[:n])
	return n, err
}

// monitorOut shows monitors what was sent.
func (c *conn) monitorOut(p []byte) {
	if len(p) > 0 && c.hub.monitors.frames.Load() {
		c.hub.monitors.frame(c, &c.sent, "out", p)
	}
}

// trySocket makes one attempt to write to the socket.
func (c *conn) trySocket(p []byte) (int, error) {
	c.try, c.tried, c.tryErr = p, 0, nil // a closed socket is not even tried
	err := c.raw.Write(c.tryOnce)
	c.try = nil
	if err == nil {
		err = c.tryErr
	}
	if c.tried > 0 {
		c.settled()
	}
	return c.tried, err
}

// Write blocks until all of p is taken, and fails when the peer takes nothing
// for the stall limit.
func (c *conn) Write(p []byte) (n int, err error) {
	c.answersHead(p)
	if c.tls != nil {
		n, err = c.tls.Write(p)
	} else {
		n, err = c.writeSocket(p)
	}
	c.monitorOut(p[:n])
	return n, err
}

// writeSocket is Write below TLS.
func (c *conn) writeSocket(p []byte) (int, error) {
	n, err := c.trySocket(p)
	if err != nil || n == len(p) {
		return n, err
	}
	began := time.Now()
	k, err := c.push(p[n:])
	if c.protocolName() != protocolHTTP { // answers to plain requests pass no outbox
		c.hub.metrics.outboxBlocked.Add(time.Since(began).Seconds())
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.hub.metrics.rejected(limitWriteStall)
	}
	return n + k, err
}

// push writes p as fast as the peer takes it. Each byte taken gives it the
// stall limit anew.
func (c *conn) push(p []byte) (n int, err error) {
	defer func() { c.try = nil }()
	for len(p) > 0 {
		if err := c.net.SetWriteDeadline(time.Now().Add(c.hub.opts.Limits.WriteStall)); err != nil {
			return n, err
		}
		if c.closing.Load() { // its deadline may have been overwritten
			return n, net.ErrClosed
		}
		c.try = p
		if err := c.raw.Write(c.tryWait); err != nil {
			if c.patient.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
			return n, err
		}
		if c.tryErr != nil {
			return n, c.tryErr
		}
		n += c.tried
		p = p[c.tried:]
	}
	return n, c.net.SetWriteDeadline(time.Time{})
}

// Read returns what detection has taken, then what comes.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		if c.hub.monitors.frames.Load() {
			c.begun = append(c.begun, p[:n]...)
		}
		if c.head = c.head[n:]; len(c.head) == 0 {
			c.head = nil
		}
		return n, nil
	}
	n, err := c.receive(p)
	if c.protocolName() == protocolHTTP && !c.serving.Load() {
		c.waitsForHead(n, err)
	}
	if n > 0 && c.hub.monitors.frames.Load() {
		c.hub.monitors.frame(c, &c.got, "in", append(c.begun, p[:n]...))
		c.begun = nil
	}
	return n, err
}

// waitsForHead follows the server as it reads the head of a request, and counts
// the end of its patience: inside of a head, or between two requests.
func (c *conn) waitsForHead(n int, err error) {
	if n > 0 {
		c.inHead.Store(true)
		c.idle.Store(false)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	switch {
	case c.inHead.Swap(false):
		c.hub.metrics.rejected(limitHTTPHead)
	case c.idle.Swap(false):
		c.hub.metrics.rejected(limitHTTPIdle)
	}
}

// tooLongHead is how the server answers a head over the limit, before any
// handler has seen the request.
var tooLongHead = []byte("HTTP/1.1 431 ")

// answersHead counts an answer that the server gives by itself.
func (c *conn) answersHead(p []byte) {
	if !c.serving.Load() && c.protocolName() == protocolHTTP && bytes.HasPrefix(p, tooLongHead) {
		c.hub.metrics.rejected(limitHTTPHeadBytes)
		c.hub.audit.request(c, limitHTTPHeadBytes)
	}
}

// receive reads past what detection has taken.
func (c *conn) receive(p []byte) (int, error) {
	if c.tls != nil {
		return c.tls.Read(p)
	}
	return c.net.Read(p)
}

// Close ends the connection. It may be called more than once and at any time.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.settled()
		c.hub.open.leave(c)
		if c.tls != nil {
			c.sendCloseNotify()
		}
		c.closeErr = c.net.Close()
	})
	return c.closeErr
}

// CloseWrite tells the peer that nothing more comes; what it still sends can be read.
func (c *conn) CloseWrite() error {
	if c.tls != nil {
		return c.tls.CloseWrite()
	}
	if half, ok := c.net.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// FrameShare is what the readers of protocols ask before a frame gets more memory.
func (c *conn) FrameShare() *rpc.Share { return c.share }

// SyscallConn gives access to the descriptor.
func (c *conn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

func (c *conn) LocalAddr() net.Addr                { return c.net.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr               { return c.net.RemoteAddr() }
func (c *conn) SetDeadline(t time.Time) error      { return c.net.SetDeadline(t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.net.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.net.SetWriteDeadline(t) }

// detect reads until the first bytes tell what the connection speaks. The end
// of the connection before the first byte is io.EOF.
func (c *conn) detect() (sniffed, error) {
	if c.listener.addr.network == "tcp" {
		if err := c.net.SetReadDeadline(time.Now().Add(c.hub.opts.Limits.FirstByte)); err != nil {
			return unclear, err
		}
		defer c.net.SetReadDeadline(time.Time{})
	}
	var first [longestMethod]byte
	n := 0
	for {
		k, err := c.receive(first[n:])
		n += k
		s := detect(first[:n])
		if s == unclear && n > 0 && errors.Is(err, io.EOF) {
			s = sniffedLines // and the end comes again with the next read
		}
		if s != unclear {
			c.head = append(make([]byte, 0, n), first[:n]...)
			return s, nil
		}
		if err != nil {
			return unclear, err
		}
	}
}

// protocolHTTP is what a connection speaks that serves requests, until one of
// them turns it into something else.
const protocolHTTP rpc.Protocol = "http"

// speaks notes what the connection speaks from now on.
func (c *conn) speaks(p rpc.Protocol) { c.protocol.Store(&p) }

// protocolName returns what the connection speaks, "" while that is not known.
func (c *conn) protocolName() rpc.Protocol {
	if p := c.protocol.Load(); p != nil {
		return *p
	}
	return ""
}

// attach enters the link of the protocol's own side.
func (c *conn) attach(l *rpc.Link) {
	l.Conn = c
	c.link.Store(l)
}

// quota is what counts the calls of the peer, together with those of its other connections.
func (c *conn) quota() *rpc.Quota { return &c.account.Load().quota }

// ownedBy names who bears the limits of a connection whose peer is p, so that
// whoever exceeds them hurts itself alone: the user that the kernel knows, else
// the owner of the token or the certificate, else, when nobody has said
// anything, the address.
func (c *conn) ownedBy(p *rpc.Peer) string {
	switch {
	case p != nil && p.UID >= 0:
		return "uid " + strconv.Itoa(p.UID)
	case p != nil && p.Name != "":
		return "name " + p.Name
	}
	return c.origin()
}

// linkOf returns the in-flight side, nil while there is none.
func (c *conn) linkOf() *rpc.Link { return c.link.Load() }

// peerName says who is at the other end, for lists and logs.
func (c *conn) peerName() string {
	p := c.peer.Load()
	switch {
	case p == nil:
		return ""
	case p.Name != "":
		return p.Name
	case p.PID > 0:
		return fmt.Sprintf("uid %d pid %d", p.UID, p.PID)
	case p.UID >= 0:
		return fmt.Sprintf("uid %d", p.UID)
	default:
		return c.net.RemoteAddr().String()
	}
}
