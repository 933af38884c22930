package hub

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// web is the one HTTP server of the hub. Connections come from all listeners,
// once detection has found that they speak HTTP.
type web struct {
	server *http.Server
	conns  *handoff
	routes map[string]http.Handler
	debug  http.Handler // of paths below /debug/
	files  http.Handler // of paths below /web/; nil without a folder
	other  http.Handler // paths that no route claims: see otherPaths; nil for 404
}

type connKey struct{}

// connOf returns the connection that r came on.
func connOf(r *http.Request) *conn { return r.Context().Value(connKey{}).(*conn) }

func newWeb(h *hub) *web {
	w := &web{conns: newHandoff()}
	scrape := promhttp.HandlerFor(h.metrics.registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true, Registry: nil, ErrorLog: zap.NewStdLog(h.log),
	})
	w.routes = map[string]http.Handler{
		"/metrics":   h.needs(rpc.ScopeRead, "hub.stats", only(scrape, http.MethodGet, http.MethodHead)),
		"/-/healthy": only(http.HandlerFunc(h.healthy), http.MethodGet, http.MethodHead),
		"/-/ready":   only(http.HandlerFunc(h.readiness), http.MethodGet, http.MethodHead),
		"/-/reload":  h.needs(rpc.ScopeAdmin, "hub.reload", only(http.HandlerFunc(h.reloadByHTTP), http.MethodPost)),
		capnwebPath:  h.onlySpoken(rpc.Capnweb, h.capnweb),
		kkrpcPath:    h.onlySpoken(rpc.Kkrpc, h.kkrpc),
	}
	w.other = h.newOtherPaths()
	w.debug = h.debugPages()
	if h.opts.WebRoot != "" {
		w.files = only(webFiles(h.opts.WebRoot), http.MethodGet, http.MethodHead)
	}
	limits := h.opts.Limits
	w.server = &http.Server{
		Handler:           endless(h.guard(http.HandlerFunc(w.route))),
		ReadHeaderTimeout: limits.HTTPHead,
		IdleTimeout:       limits.HTTPIdle,
		MaxHeaderBytes:    limits.HTTPHeadBytes,
		ConnState: func(nc net.Conn, s http.ConnState) {
			if c, ok := nc.(*conn); ok {
				c.idle.Store(s == http.StateIdle)
			}
		},
		ErrorLog:    zap.NewStdLog(h.log.Named("http")),
		BaseContext: func(net.Listener) context.Context { return h.ctx },
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, nc.(*conn))
		},
		DisableGeneralOptionsHandler: true, // it would answer OPTIONS * before the guard
	}
	return w
}

// take serves a connection whose first bytes are those of a request.
func (w *web) take(c *conn) {
	c.inHead.Store(true)
	if !w.conns.give(c) {
		c.Close()
	}
}

func (w *web) route(rw http.ResponseWriter, r *http.Request) {
	if connOf(r).listener.metrics && pathOf(r) != "/metrics" {
		http.NotFound(rw, r)
		return
	}
	if route := w.routes[pathOf(r)]; route != nil {
		route.ServeHTTP(rw, r)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/debug/") {
		w.debug.ServeHTTP(rw, r)
		return
	}
	if w.isFile(r) {
		w.files.ServeHTTP(rw, r)
		return
	}
	if r.URL.Path == "/" && wantsPage(r) {
		servePage(rw, r)
		return
	}
	if w.other != nil {
		w.other.ServeHTTP(rw, r)
		return
	}
	http.NotFound(rw, r)
}

// isFile reports whether r is for a file of web.root: what a page is made of, and
// reads of nothing else.
func (w *web) isFile(r *http.Request) bool {
	return w.files != nil && strings.HasPrefix(r.URL.Path+"/", webPath)
}

// only lets some methods through.
func only(next http.Handler, methods ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(methods, r.Method) {
			for _, m := range methods {
				w.Header().Add("Allow", m)
			}
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (h *hub) healthy(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write([]byte("hubd is up\n"))
}

// readiness is what /-/ready answers.
type readiness struct {
	Ready  bool    `json:"ready"`
	Phase  string  `json:"phase"`
	Reason string  `json:"reason,omitempty"`
	Uptime float64 `json:"uptime"`
}

func (h *hub) readiness(w http.ResponseWriter, _ *http.Request) {
	phase := h.phase.Load()
	answer := readiness{Ready: phase == ready, Phase: phaseNames[phase], Uptime: h.uptime()}
	status := http.StatusOK
	if !answer.Ready {
		answer.Reason = "the hub is " + answer.Phase
		status = http.StatusServiceUnavailable
	} else if err := h.service.Ready(); err != nil {
		answer.Ready, answer.Reason = false, "the state takes no writes: "+rpc.CleanText(err.Error(), rpc.MaxErrorMessage)
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // a client that does not wait has left
}

// stopWithin ends the server: requests that run may end until the time is over.
func (w *web) stopWithin(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if w.server.Shutdown(ctx) != nil {
		w.server.Close()
	}
}

// handoff is the net.Listener through which the HTTP server gets its connections.
type handoff struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandoff() *handoff {
	return &handoff{conns: make(chan net.Conn), done: make(chan struct{})}
}

// give hands c over; false when the server has ended.
func (l *handoff) give(c net.Conn) bool {
	select {
	case <-l.done:
		return false
	default:
	}
	select {
	case l.conns <- c:
		return true
	case <-l.done:
		return false
	}
}

// Accept returns the next connection. Close must end it, or the server's own Close would wait for ever.
func (l *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *handoff) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr returns a name only: the connections have their own addresses.
func (l *handoff) Addr() net.Addr { return handoffAddr{} }

type handoffAddr struct{}

func (handoffAddr) Network() string { return "hub" }
func (handoffAddr) String() string  { return "hub" }
