package hub

import (
	"context"
	"errors"
	"net/http"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/kkrpc"
)

// kkrpcPath is where kkrpc is spoken over WebSocket.
const kkrpcPath = "/kkrpc"

// newKkrpc makes the server of kkrpc.
func (h *hub) newKkrpc() *kkrpc.Server {
	for _, reason := range kkrpc.Reasons() {
		h.metrics.failedFrames.WithLabelValues(string(rpc.Kkrpc), reason)
	}
	return kkrpc.New(kkrpc.Config{
		API:        kkrpc.API{Table: h.table, Properties: h.stateProperties()},
		Gate:       h.gate,
		Admit:      h.admitKkrpc,
		Observer:   kkrpcObserver{h, h.metrics.flows.in[rpc.Kkrpc], h.metrics.flows.out[rpc.Kkrpc]},
		Limits:     kkrpc.Limits{MaxMessage: h.opts.Limits.Frame},
		HardOutbox: h.opts.Limits.Outbox,
	})
}

// serveKkrpc serves one connection whose messages are lines.
func (h *hub) serveKkrpc(ctx context.Context, c *conn) error {
	return h.kkrpc.Serve(ctx, kkrpc.Conn{
		Admission: kkrpc.Admission{Peer: c.peer.Load(), Quota: c.quota(), OnLink: c.attach},
		Reader:    c,
		Wire:      c,
		Gone:      c.gone,
	})
}

// admitKkrpc says who asks for a WebSocket, and notes on its connection what is
// spoken there.
func (h *hub) admitKkrpc(r *http.Request) (kkrpc.Admission, error) {
	c := connOf(r)
	begin, end := c.carries(rpc.Kkrpc)
	return kkrpc.Admission{
		Peer:   c.peer.Load(),
		Quota:  c.quota(),
		OnLink: begin,
		OnEnd:  end,
	}, nil
}

// stateProperties makes the keys of the state service readable and writable as
// properties of the object state. They need the permission of state.get and
// state.put, and count as calls of those.
func (h *hub) stateProperties() *kkrpc.Properties {
	get := rpc.NewMethod(&rpc.Method{Name: "state.get", Run: rpc.Inline, Scope: rpc.ScopeRead},
		func(c *rpc.Call) (rpc.Value, error) {
			key, err := c.Args.First().AsString()
			if err != nil {
				return rpc.Value{}, err
			}
			v, err := h.service.Get(key)
			if errors.Is(err, &rpc.Error{Code: rpc.CodeNotFound}) {
				return rpc.Value{}, nil
			}
			return v, err
		})
	set := rpc.NewTarget(&rpc.Method{Name: "state.put", Scope: rpc.ScopeCall},
		rpc.TargetFunc(func(b *rpc.Batch, c *rpc.Call) {
			var args [2]rpc.Value
			n := 0
			for v := range c.Args.List() {
				args[n], n = v, n+1
			}
			key, err := args[0].AsString()
			if err != nil {
				c.Finish(b, rpc.Value{}, err)
				return
			}
			h.service.Set(b, c, key, args[1])
		}))
	h.metrics.added(get)
	h.metrics.added(set)
	return &kkrpc.Properties{Name: "state", Get: get, Set: set}
}

// kkrpcObserver tells metrics and log about kkrpc.
type kkrpcObserver struct {
	h       *hub
	in, out *flow
}

func (o kkrpcObserver) MessageIn(bytes int) { o.in.count(bytes) }

func (o kkrpcObserver) MessageOut(bytes int) { o.out.count(bytes) }

func (o kkrpcObserver) Ignored(s *kkrpc.Session, reason string) {
	o.h.metrics.failedFrames.WithLabelValues(string(rpc.Kkrpc), reason).Inc()
	if reason == kkrpc.TooLong {
		o.h.metrics.rejected(limitFrame)
	}
	id := uint64(0)
	if c, ok := s.Conn().(*conn); ok {
		id = c.id
	}
	if o.h.monitors.any.Load() {
		o.h.monitors.tell(monitorEvent{Event: sawFailedFrame, Protocol: string(rpc.Kkrpc), Conn: id, Reason: reason})
	}
	o.h.log.Info("frame failed", zap.String("protocol", string(rpc.Kkrpc)), zap.Uint64("conn", id), zap.String("reason", reason))
}

func (o kkrpcObserver) SessionOpened(*kkrpc.Session) {}

func (o kkrpcObserver) SessionEnded(_ *kkrpc.Session, err error) {
	if err != nil {
		o.h.log.Info("session ended", zap.String("protocol", string(rpc.Kkrpc)), zap.String("reason", rpc.CleanText(err.Error(), 200)))
	}
}
