package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// admit starts the service of an accepted connection. It is part of the accept
// loop and therefore short.
func (h *hub) admit(l *listener, nc net.Conn) {
	if h.open.full() {
		h.metrics.rejected(limitConnections)
		nc.Close()
		return
	}
	settled := h.unanswered.enter()
	h.serving.Go(func() {
		c, err := newConn(h, l, nc)
		if err != nil {
			settled()
			h.log.Error("connection cannot be served", zap.Error(err))
			nc.Close()
			return
		}
		c.settled = settled
		h.serve(c)
	})
}

// serve takes a connection from accept to the end, or hands it to the HTTP server.
func (h *hub) serve(c *conn) {
	peer, err := c.identify()
	if err != nil || peer == nil {
		h.metrics.drop("", dropPeer)
		h.log.Warn("peer is not allowed", zap.Stringer("listener", c.listener), zap.Error(err))
		c.Close()
		return
	}
	c.base = peer
	c.peer.Store(peer)
	if limit, ok := h.open.enter(c); !ok {
		if limit != "" {
			h.metrics.rejected(limit)
		}
		c.Close()
		return
	}
	if c.tls != nil {
		if err := c.handshake(); err != nil {
			h.refuseTLS(c, err)
			return
		}
	}
	s, err := c.detect()
	if err != nil {
		// Probes connect and leave without a byte: that is no error.
		if errors.Is(err, os.ErrDeadlineExceeded) {
			h.metrics.rejected(limitFirstByte)
		} else if !errors.Is(err, io.EOF) {
			h.log.Debug("connection ended before it spoke", zap.Uint64("conn", c.id), zap.Error(err))
		}
		c.Close()
		return
	}
	switch s {
	case sniffedHTTP:
		c.speaks(protocolHTTP)
		h.web.take(c)
	case sniffedFrames:
		h.hand(c, rpc.Snekrpc)
	default:
		if c.listener.addr.speaks(rpc.Kollabor) {
			h.hand(c, rpc.Kollabor)
		} else {
			h.hand(c, rpc.Kkrpc)
		}
	}
}

// refuseTLS ends a connection whose handshake has failed.
func (h *hub) refuseTLS(c *conn, err error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		h.metrics.rejected(limitHandshake)
	case err == errTooManyConnections:
		h.metrics.rejected(limitConnectionsUID)
	case errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed): // a probe, or the limit for all of authentication
	default:
		h.metrics.drop("", dropTLS)
		h.audit.request(c, "TLS: "+rpc.CleanText(err.Error(), 200))
		c.partWith(err)
	}
	c.Close()
}

// partTime bounds how long a connection lingers whose peer is to read why it ends.
const partTime = time.Second

// partWith lets the peer read why its handshake failed: the alert that the TLS
// layer has sent or, where it began without TLS, a sentence in what it speaks.
// What the peer has sent must be read for that: closing would reset the
// connection, and with it what was sent.
func (c *conn) partWith(err error) {
	if plain, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		const why = "this address speaks TLS"
		switch detect(plain.RecordHeader[:]) {
		case sniffedLines:
			_, _ = c.trySocket(frame.AppendError(nil, nil, "unavailable", why))
		case sniffedHTTP, unclear:
			_, _ = c.trySocket([]byte("HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" + why + "\n"))
		}
	}
	if half, ok := c.net.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		c.net.SetReadDeadline(time.Now().Add(partTime))
		_, _ = io.CopyN(io.Discard, c.net, 64<<10)
	}
}

// hand serves c in protocol p, if there is one and the listener lets it in.
func (h *hub) hand(c *conn, p rpc.Protocol) {
	defer c.Close()
	serve := h.protocols[p]
	if serve == nil || !c.listener.addr.speaks(p) || c.listener.metrics {
		h.metrics.drop(p, dropProtocol)
		h.log.Info("protocol is not spoken here", zap.Uint64("conn", c.id), zap.String("protocol", string(p)),
			zap.Stringer("listener", c.listener), zap.String("peer", c.peerName()))
		return
	}
	c.speaks(p)
	h.metrics.accepted(p, c.listener.transport())
	log := h.log.With(zap.Uint64("conn", c.id), zap.String("protocol", string(p)), byPeer(c))
	where := []zap.Field{zap.Stringer("listener", c.listener), zap.String("peer", c.peerName())}
	log.Debug("connection", where...) // each call of hubctl is one
	if h.monitors.any.Load() {
		h.monitors.tell(monitorEvent{Event: sawConnection, Conn: c.id, Protocol: string(p), Peer: c.peerName()})
	}
	err := serve(h.ctx, c)
	if h.monitors.any.Load() {
		end := monitorEvent{Event: sawEnd, Conn: c.id, Protocol: string(p), Peer: c.peerName()}
		if err != nil {
			end.Reason = rpc.CleanText(err.Error(), 200)
		}
		h.monitors.tell(end)
	}
	switch {
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, context.Canceled):
		log.Debug("connection ended")
	default:
		log.Info("connection ended", append(where, zap.Duration("after", time.Since(c.since)), zap.NamedError("reason", err))...)
	}
}

// protocolNames lists the protocols that are spoken, for hub.info.
func (h *hub) protocolNames() []string {
	names := make([]string, len(h.spoken))
	for i, p := range h.spoken {
		names[i] = string(p)
	}
	return names
}
