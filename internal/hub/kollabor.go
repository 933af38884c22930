package hub

import (
	"context"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
	"github.com/hubd-dev/hubd/internal/rpc/kollabor"
)

// newKollabor makes the server of the native protocol.
func (h *hub) newKollabor() *kollabor.Server {
	return kollabor.New(kollabor.Config{
		Table:    h.table,
		Gate:     h.gate,
		Sessions: nativeSessions{h},
		Observer: newWireObserver(h),
		Version:  h.version,
		Started:  h.started,
		AgentID:  h.agentID,
		OnShutdown: func(reason string, peer *rpc.Peer) {
			h.log.Info("shutdown was asked for", zap.String("reason", rpc.CleanText(reason, 200)), zap.Int("uid", peer.UID))
			h.requestStop(reason)
		},
		Authenticate: h.authenticateHello,
		Outbox:       kollabor.Limits{Hard: h.opts.Limits.Outbox},
		MaxLine:      h.opts.Limits.Frame,
	})
}

// serveKollabor serves one connection of the native protocol.
func (h *hub) serveKollabor(ctx context.Context, c *conn) error {
	return h.native.Serve(ctx, kollabor.Conn{
		Reader:  c,
		Wire:    c,
		Peer:    c.peer.Load(),
		Session: h.sessionOf(c),
		ID:      c.id,
		Quota:   c.quota(),
		OnLink:  c.attach,
		OnPeer:  func(p *rpc.Peer) { c.peer.Store(p) },

		OnIdentity: func(identity string) { h.identify(c, identity) },
		OnName:     func(name string) { c.program.Store(&name) },
		Gone:       c.gone,
	})
}

// gone reports whether the peer has closed both directions. It is asked when
// the peer's end of the stream was read.
func (c *conn) gone() bool {
	c.probe()
	if c.orphaned() {
		return true
	}
	closed := true
	err := c.raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if _, err := unix.Poll(fds, 0); err == nil {
			closed = fds[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
		}
	})
	return closed || err != nil
}

// wireObserver tells metrics and log about the native wire. It is kollabor's Observer.
type wireObserver struct {
	h       *hub
	in, out *flow
}

func newWireObserver(h *hub) *wireObserver {
	for _, reason := range frame.Reasons() {
		h.metrics.failedFrames.WithLabelValues(string(rpc.Kollabor), string(reason))
	}
	return &wireObserver{h: h, in: h.metrics.flows.in[rpc.Kollabor], out: h.metrics.flows.out[rpc.Kollabor]}
}

func (o *wireObserver) FrameIn(_ string, bytes int) { o.in.count(bytes) }

func (o *wireObserver) FrameOut(_ string, bytes int) { o.out.count(bytes) }

func (o *wireObserver) FailedFrame(reason frame.Reason, c *kollabor.Conn, err error) {
	o.h.metrics.failedFrames.WithLabelValues(string(rpc.Kollabor), string(reason)).Inc()
	if reason == frame.TooLong {
		o.h.metrics.rejected(limitFrame)
	}
	if o.h.monitors.any.Load() {
		o.h.monitors.tell(monitorEvent{Event: sawFailedFrame, Protocol: string(rpc.Kollabor), Conn: c.ID, Reason: string(reason)})
	}
	fields := []zap.Field{zap.String("protocol", string(rpc.Kollabor)), zap.Uint64("conn", c.ID), zap.String("reason", string(reason))}
	if reason != frame.UnknownAction && reason != frame.Misplaced { // those repeat what the peer takes for an action
		fields = append(fields, zap.NamedError("detail", err))
	}
	o.h.log.Info("frame failed", fields...)
}

func (o *wireObserver) Denied(c *kollabor.Conn, action string) {
	at, _ := c.Wire.(*conn) // serveKollabor has put it there
	o.h.audit.action(at, action)
}

func (o *wireObserver) Attached(delta int) { o.h.metrics.attached.Add(float64(delta)) }
