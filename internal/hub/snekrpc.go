package hub

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/snekrpc"
)

// halfClosed is how long the calls of a TCP peer go on whose stream has ended:
// its kernel does not tell whether it still reads.
const halfClosed = 500 * time.Millisecond

// newSnekrpc makes the server of snekrpc.
func (h *hub) newSnekrpc() *snekrpc.Server {
	for _, reason := range snekrpc.Reasons() {
		h.metrics.failedFrames.WithLabelValues(string(rpc.Snekrpc), string(reason))
	}
	return snekrpc.New(snekrpc.Config{
		Table:      h.table,
		Gate:       h.gate,
		Observer:   snekrpcObserver{h, h.metrics.flows.in[rpc.Snekrpc], h.metrics.flows.out[rpc.Snekrpc]},
		Version:    h.version,
		MaxFrame:   h.opts.Limits.Frame,
		HardOutbox: h.opts.Limits.Outbox,
		Prepare:    h.prepareRemotes(),
	})
}

// serveSnekrpc serves a connection of length-prefixed messages.
func (h *hub) serveSnekrpc(ctx context.Context, c *conn) error {
	return h.snek.Serve(ctx, h.snekrpcConn(c, c, c.listener.addr.network, false))
}

// serveTunnel serves a request that is snekrpc over HTTP: both of its bodies
// are open at once, and each chunk is a message. net/http has neither, so the
// connection is taken over.
func (h *hub) serveTunnel(w http.ResponseWriter, r *http.Request) {
	c := connOf(r)
	nc, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot be a tunnel", http.StatusInternalServerError)
		return
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Time{}); err != nil {
		return
	}
	if strings.EqualFold(r.Header.Get("Expect"), "100-continue") && r.ProtoAtLeast(1, 1) {
		if _, err := io.WriteString(nc, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return
		}
	}
	// The server may have read ahead: what it has comes first.
	rest, err := buffered.Reader.Peek(buffered.Reader.Buffered())
	if err != nil {
		return
	}
	c.head = append(append([]byte(nil), rest...), c.head...)
	c.speaks(rpc.Snekrpc)
	h.metrics.accepted(rpc.Snekrpc, c.listener.transport())
	log := h.log.With(zap.Uint64("conn", c.id), zap.String("protocol", string(rpc.Snekrpc)), byPeer(c))
	log.Info("tunnel", zap.Stringer("listener", c.listener), zap.String("peer", c.peerName()))
	tunnel := h.snekrpcConn(c, c, "http", true)
	tunnel.Header = w.Header()
	tunnel.Trace = rpc.ParseTrace(r.Header.Get("Traceparent"), r.Header.Get("Tracestate"))
	err = h.snek.Serve(h.ctx, tunnel)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, context.Canceled) {
		log.Info("tunnel ended", zap.NamedError("reason", err))
		return
	}
	log.Info("tunnel ended")
}

// endless lets a request be refused whose body never ends: without the header
// net/http would wait for the end before it answers.
func endless(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isTunnel(r) {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

func (h *hub) snekrpcConn(c *conn, r io.Reader, transport string, chunked bool) snekrpc.Conn {
	k := snekrpc.Conn{
		Reader:    r,
		Wire:      c,
		Peer:      c.peer.Load,
		ID:        c.id,
		Quota:     c.quota(),
		Transport: transport,
		Chunked:   chunked,
		OnLink:    c.attach,
		Gone:      c.gone,
		Patience:  c.patient.Store,
	}
	if c.listener.addr.network == "tcp" {
		k.Reader = quickAck{c}
		k.HalfClose = halfClosed
	}
	return k
}

// quickAck is the reader of a TCP connection.
type quickAck struct{ c *conn }

func (q quickAck) Read(p []byte) (int, error) {
	snekrpc.QuickAck(q.c.raw)
	return q.c.Read(p)
}

// FrameShare is that of the connection.
func (q quickAck) FrameShare() *rpc.Share { return q.c.share }

// snekrpcObserver tells metrics and log about snekrpc.
type snekrpcObserver struct {
	h       *hub
	in, out *flow
}

func (o snekrpcObserver) MessageIn(bytes int) { o.in.count(bytes) }

func (o snekrpcObserver) MessageOut(bytes int) { o.out.count(bytes) }

func (o snekrpcObserver) FailedFrame(reason snekrpc.Reason, c *snekrpc.Conn, err error) {
	o.h.metrics.failedFrames.WithLabelValues(string(rpc.Snekrpc), string(reason)).Inc()
	if reason == snekrpc.TooLong {
		o.h.metrics.rejected(limitFrame)
	}
	o.h.log.Info("frame failed", zap.String("protocol", string(rpc.Snekrpc)), zap.Uint64("conn", c.ID),
		zap.String("reason", string(reason)), zap.NamedError("detail", err))
}
