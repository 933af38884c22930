package hub

import (
	"fmt"
	"net/http"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/filesvc"
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/krpc"
	"github.com/hubd-dev/hubd/internal/trust"
)

// Names of limits that krpc tells.
const (
	limitUpload = filesvc.LimitUpload
	limitSpool  = "spool"
	limitParts  = "multipart_parts"
)

// newKrpc makes the server of krpc. Its spool is in the state folder, which is
// locked by now.
func (h *hub) newKrpc() error {
	limits := h.opts.Limits
	spool, err := krpc.OpenSpool(filepath.Join(h.opts.State, "spool"), int64(limits.Spool))
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	o := krpcObserver{h, h.metrics.flows.in[rpc.Krpc], h.metrics.flows.out[rpc.Krpc]}
	for _, reason := range krpc.Reasons() {
		h.metrics.failedFrames.WithLabelValues(string(rpc.Krpc), string(reason))
	}
	h.krpc = krpc.New(krpc.Config{
		Table: h.table,
		Gate:  h.gate,
		Spool: spool,
		Admit: h.admitKrpc,
		Hook:  h.opts.KrpcHook,

		Authenticate: h.authenticateKrpc,

		Observer: o,
		Limits:   krpc.Limits{JSON: limits.Frame, Result: limits.Frame, Upload: int64(limits.Upload)},
	})
	h.spool = spool
	return nil
}

// headerProgram is a header that no page can set: browsers keep what begins
// with Sec- for themselves.
const headerProgram = "Sec-Hubd"

// serveKrpc is the handler of calls at unclaimed paths.
//
// A call in a query is what a page can send without being asked: as an image, or
// as a link. On TCP such calls are off, and where they are on they have to show
// that no page has sent them. No page reaches a Unix socket.
func (h *hub) serveKrpc(w http.ResponseWriter, r *http.Request) {
	c := connOf(r)
	if c.listener.addr.network == "tcp" && callsByGet(r) {
		switch {
		case !h.opts.KrpcGet:
			h.metrics.drop(rpc.Krpc, dropProtocol)
			h.audit.request(c, "a call by GET")
			w.Header().Set("Allow", "POST")
			http.Error(w, "calls by GET are off here (krpc.get): send them by POST", http.StatusMethodNotAllowed)
			return
		case byLink(r) && !c.presented:
			h.metrics.drop(rpc.Krpc, dropOrigin)
			h.audit.request(c, "a call by a link")
			http.Error(w, "a link cannot call methods", http.StatusForbidden)
			return
		}
	}
	h.krpc.ServeHTTP(w, r)
}

// callsByGet reports whether r carries a call in its query.
func callsByGet(r *http.Request) bool {
	if r.Method != http.MethodGet {
		return false
	}
	q := r.URL.Query()
	return q.Has("json") || q.Has("JSON")
}

// errPage answers a call by GET that a page may have caused.
var errPage = &rpc.Error{
	Code: rpc.CodeUnauthenticated, Ran: rpc.RanNo,
	Message: "a call by GET needs a token, or to go to a loopback address with the header " + headerProgram,
}

// programSays reports whether a request shows that it does not come from a page
// that has no business with the hub. Browsers tell in Sec-Fetch-Site where a
// request comes from, and guard acts on it; but they do so only towards origins
// that they trust, and over plain HTTP these are the loopback addresses. Towards
// a name in http.hosts the images of any page look like the requests of a program.
func programSays(r *http.Request) bool {
	return loopbackHost(r.Host) && (r.Header.Get("Sec-Fetch-Site") != "" || r.Header.Get(headerProgram) != "")
}

// admitKrpc says who sends a request, and notes on its connection what is
// spoken there.
func (h *hub) admitKrpc(r *http.Request) (krpc.Admission, error) {
	c := connOf(r)
	var link *rpc.Link
	var unproven *rpc.Error
	if c.listener.addr.network == "tcp" && r.Method == http.MethodGet && !c.presented && !programSays(r) {
		unproven = errPage
	}
	return krpc.Admission{
		Unproven: unproven,
		Peer:     c.peer.Load(),
		Quota:    c.quota(),
		OnLink: func(l *rpc.Link) {
			link = l
			c.speaks(rpc.Krpc)
			c.attach(l)
		},
		OnEnd: func() {
			if link != nil {
				c.link.CompareAndSwap(link, nil)
			}
		},
		Gone: c.gone,
	}, nil
}

// authenticateKrpc takes a token that came as pmhparams, alone or as the only
// argument of what would be called with them. What does not look like a token
// of ours is none: clients may have set pmhparams for a server of another kind.
func (h *hub) authenticateKrpc(r *http.Request, pmhparams rpc.Value) (*rpc.Peer, *rpc.Error) {
	args := rpc.WholeArgs(pmhparams)
	v, ok := args.Get(0, "token")
	if !ok {
		return nil, nil
	}
	token, err := v.AsString()
	if err != nil || !trust.LooksLikeToken(token) {
		return nil, nil
	}
	c := connOf(r)
	if c.presented {
		h.audit.request(c, twoTokens)
		return nil, rpc.Errorf(rpc.CodeInvalidParams, "more than one token")
	}
	p, err := h.authenticate(c, token)
	if err != nil {
		return nil, rpc.AsError(r.Context(), err)
	}
	c.peer.Store(p)
	return p, nil
}

// krpcObserver tells metrics about krpc.
type krpcObserver struct {
	h       *hub
	in, out *flow
}

func (o krpcObserver) MessageIn(bytes int64) { o.in.count(int(bytes)) }

func (o krpcObserver) MessageOut(bytes int64) { o.out.count(int(bytes)) }

func (o krpcObserver) Refused(r *http.Request, reason krpc.Reason) {
	c := connOf(r)
	id := c.id
	if o.h.monitors.any.Load() {
		o.h.monitors.tell(monitorEvent{Event: sawFailedFrame, Protocol: string(rpc.Krpc), Conn: id, Reason: string(reason)})
	}
	o.h.log.Info("frame failed", zap.String("protocol", string(rpc.Krpc)), zap.Uint64("conn", id), zap.String("reason", string(reason)))
	o.h.metrics.failedFrames.WithLabelValues(string(rpc.Krpc), string(reason)).Inc()
	switch reason {
	case krpc.ReasonTooLarge:
		o.h.metrics.rejected(limitUpload)
	case krpc.ReasonCallTooLarge:
		o.h.metrics.rejected(limitFrame)
	case krpc.ReasonParts:
		o.h.metrics.rejected(limitParts)
	case krpc.ReasonFull:
		o.h.metrics.rejected(limitSpool)
	case krpc.ReasonUnproven:
		o.h.metrics.drop(rpc.Krpc, dropOrigin)
		o.h.audit.request(c, "a call by GET that a page may have sent")
	case krpc.ReasonBusy:
		o.h.metrics.rejected(rpc.LimitRequestMemory)
	}
}
