package hub

import (
	"net/http"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
)

// capnwebPath is where Cap'n Web is spoken: upgrades to WebSocket and batches.
const capnwebPath = "/capnweb"

// badMessage is the reason label of a Cap'n Web message that ended its session.
const badMessage = "protocol_error"

// newCapnweb makes the server of Cap'n Web.
func (h *hub) newCapnweb() *capnweb.Server {
	h.metrics.failedFrames.WithLabelValues(string(rpc.Capnweb), badMessage)
	return capnweb.New(capnweb.Config{
		Table:      h.table,
		Gate:       h.gate,
		Admit:      h.admitCapnweb,
		Observer:   capnwebObserver{h, h.metrics.flows.in[rpc.Capnweb], h.metrics.flows.out[rpc.Capnweb]},
		HardOutbox: h.opts.Limits.Outbox,
		Ping:       h.opts.Limits.WebSocketPing,
		BatchWait:  h.opts.Limits.CapnwebBatch,
		Limits: capnweb.Limits{
			MaxMessage: h.opts.Limits.CapnwebMessage, MaxEntries: h.opts.Limits.CapnwebEntries, MaxOps: h.opts.Limits.CapnwebOperations,
			MaxHeld: h.opts.Limits.CapnwebValues,
		},
	})
}

// admitCapnweb says who sends a request, and notes on its connection what is
// spoken there while the session or the batch lasts.
func (h *hub) admitCapnweb(r *http.Request) (capnweb.Admission, error) {
	c := connOf(r)
	begin, end := c.carries(rpc.Capnweb)
	return capnweb.Admission{
		Peer:   c.peer.Load(),
		Quota:  c.quota(),
		Share:  c.share,
		OnLink: begin,
		OnEnd:  end,
		Gone:   c.gone,
	}, nil
}

// carries returns what the sessions of p on an HTTP connection are to tell: that
// one has begun and that it has ended, after which the next request may be anything.
func (c *conn) carries(p rpc.Protocol) (begin func(*rpc.Link), end func()) {
	var link *rpc.Link
	begin = func(l *rpc.Link) {
		link = l
		c.speaks(p)
		c.attach(l)
	}
	end = func() {
		if link != nil {
			c.link.CompareAndSwap(link, nil)
			c.speaks(protocolHTTP)
		}
	}
	return begin, end
}

// onlySpoken hides a protocol from listeners that are restricted to others.
func (h *hub) onlySpoken(p rpc.Protocol, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := connOf(r)
		if !c.listener.addr.speaks(p) {
			h.metrics.drop(p, dropProtocol)
			http.NotFound(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// capnwebObserver tells metrics and log about Cap'n Web.
type capnwebObserver struct {
	h       *hub
	in, out *flow
}

func (o capnwebObserver) MessageIn(bytes int) { o.in.count(bytes) }

func (o capnwebObserver) MessageOut(bytes int) { o.out.count(bytes) }

func (o capnwebObserver) SessionOpened(*capnweb.Session) {}

func (o capnwebObserver) SessionEnded(_ *capnweb.Session, err error) {
	if err == nil {
		return
	}
	if capnweb.IsProtocolError(err) {
		o.h.metrics.failedFrames.WithLabelValues(string(rpc.Capnweb), badMessage).Inc()
	}
	o.h.log.Info("session ended", zap.String("protocol", string(rpc.Capnweb)), zap.String("reason", rpc.CleanText(capnweb.Plain(err), 200)))
}
