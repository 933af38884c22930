package ws

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Options are limits of a connection in bytes; 0 means the defaults of rpc.NewOutbox.
type Options struct {
	Limit      int // of a message that is received; required
	Soft, Hard int // of the outbox
}

// Accept upgrades a request. The rules about origins have been applied before.
// After an error the request has been answered.
func Accept(w http.ResponseWriter, r *http.Request, opt Options) (*Conn, error) {
	h := &hijacker{ResponseWriter: w, limit: opt.Limit}
	ws, err := websocket.Accept(h, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the hub has checked the origin by its own rules
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, err
	}
	h.conn.opened(ws, opt)
	return h.conn, nil
}

// opened ends the handshake.
func (c *Conn) opened(ws *websocket.Conn, opt Options) {
	ws.SetReadLimit(int64(opt.Limit))
	out := rpc.NewOutbox(c.wire, opt.Soft, opt.Hard)
	c.mu.Lock()
	c.ws, c.out, c.limit = ws, out, opt.Limit
	c.mu.Unlock()
}

// hijacker hands the connection of an upgraded request to the library through a Conn.
type hijacker struct {
	http.ResponseWriter
	limit int
	conn  *Conn
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if err := nc.SetDeadline(time.Time{}); err != nil {
		nc.Close()
		return nil, nil, err
	}
	rest, _ := brw.Reader.Peek(brw.Reader.Buffered())
	c := &Conn{Conn: nc, wire: WireOf(nc), share: rpc.ShareOf(nc), rest: append([]byte(nil), rest...), watch: frameWatch{limit: int64(h.limit)}}
	h.conn = c
	return c, bufio.NewReadWriter(bufio.NewReaderSize(c, 4<<10), bufio.NewWriterSize(c, 256)), nil
}

// DialOptions are the options of Dial.
type DialOptions struct {
	Options
	Header http.Header
	TLS    *tls.Config
	// Dial opens the connection; nil dials TCP or, for unix addresses, the socket.
	Dial DialFunc
}

// DialFunc opens a connection, as net.Dialer's DialContext does.
type DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// Dial opens a connection. address is ws://host/path, wss://host/path, or
// unix:///path/to/socket with the path of the endpoint behind a colon
// (unix:///run/hub.sock:/path); without one it is endpoint. ctx bounds the
// handshake only.
func Dial(ctx context.Context, address, endpoint string, opt DialOptions) (*Conn, error) {
	target, dial, err := Locate(address, endpoint, opt.Dial, opt.TLS)
	if err != nil {
		return nil, err
	}
	c := &Conn{mask: true, watch: frameWatch{}}
	open := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if c.Conn != nil {
			return nil, errors.New("redirects are not followed")
		}
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c.Conn, c.wire = nc, WireOf(nc)
		return c, nil
	}
	transport := &http.Transport{DialContext: open, DialTLSContext: open}
	ws, resp, err := websocket.Dial(ctx, target, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, HTTPHeader: opt.Header, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		if resp != nil && resp.Body != nil {
			resp.Body.Close()
		}
		transport.CloseIdleConnections()
		return nil, err
	}
	c.opened(ws, opt.Options)
	return c, nil
}

// Locate tells what to request for an address as of Dial, and how to open the
// connection below it, TLS included. dial and conf may be nil.
func Locate(address, endpoint string, dial DialFunc, conf *tls.Config) (target string, open DialFunc, err error) {
	target = address
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		file, at, ok := strings.Cut(path, ":")
		if !ok {
			at = endpoint
		}
		target = "ws://localhost" + at
		if dial == nil {
			dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", file)
			}
		}
	}
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "ws" && u.Scheme != "wss" {
		return "", nil, fmt.Errorf("address %q is neither ws, wss nor unix", rpc.CleanText(address, 200))
	}
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	if u.Scheme == "ws" {
		return target, dial, nil
	}
	if conf = conf.Clone(); conf == nil {
		conf = new(tls.Config)
	}
	if conf.ServerName == "" {
		conf.ServerName = u.Hostname()
	}
	return target, func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return tls.Client(nc, conf), nil
	}, nil
}
