package hub

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/statesvc"
)

// watchdog tells the service manager that the hub lives, as long as it does.
// It looks twice in each interval: a hub that hangs misses the next ping and
// is restarted when the interval is over.
type watchdog struct {
	interval time.Duration                   // in which the service manager wants a ping
	check    func(ctx context.Context) error // nil means that the hub works
	ping     func()
	failed   func(error)
}

// run looks at once, and then every half interval until ctx ends.
func (w *watchdog) run(ctx context.Context) {
	every := w.interval / 2
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		// A check that ends after the next tick would come too late.
		look, cancel := context.WithTimeout(ctx, every)
		err := w.check(look)
		cancel()
		switch {
		case err == nil:
			w.ping()
		case ctx.Err() == nil:
			w.failed(err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// watch starts the watchdog if the service manager wants one. The function it
// returns ends it.
func (h *hub) watch() (stop func()) {
	if h.opts.Watchdog <= 0 || h.opts.Notify == nil {
		return func() {}
	}
	store := progress{stats: h.store.Stats, patience: h.opts.Watchdog}
	w := &watchdog{
		interval: h.opts.Watchdog,
		check: func(ctx context.Context) error {
			err := errors.Join(h.callMyself(ctx), store.check(ctx))
			if h.phase.Load() != ready {
				return nil // it drains: nobody listens any more, and the time to stop is limited otherwise
			}
			return err
		},
		ping: func() { h.notify("WATCHDOG=1") },
		failed: func(err error) {
			h.log.Error("watchdog check failed: the service manager is not notified", zap.Error(err))
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// callMyself does what a client does: it connects to a listener, makes a call
// and reads the state.
func (h *hub) callMyself(ctx context.Context) error {
	l := h.front()
	if l == nil {
		return errors.New("no listener is left")
	}
	network, address := "unix", l.addr.path
	if l.addr.network == "tcp" {
		network, address = "tcp", reachable(l.addr.hostport)
	}
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", l, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if l.addr.network == "tcp" || !l.addr.speaks(rpc.Kollabor) {
		err = askHealth(ctx, c)
	} else {
		err = askState(c)
	}
	if err != nil {
		return fmt.Errorf("call through %s: %w", l, err)
	}
	return nil
}

// front is the listener that the watchdog calls through: a Unix socket where
// the native protocol is spoken, if there is one.
func (h *hub) front() (best *listener) {
	for _, l := range h.listening() {
		switch {
		case l.metrics || l.session != "":
		case l.addr.network == "unix" && l.addr.speaks(rpc.Kollabor):
			return l
		case best == nil:
			best = l
		}
	}
	return best
}

// reachable turns the address of a TCP listener into one to connect to: that
// of all interfaces is none.
func reachable(hostport string) string {
	host, port, err := net.SplitHostPort(hostport)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort(map[bool]string{true: "127.0.0.1", false: "::1"}[ip.To4() != nil], port)
	}
	return hostport
}

// watchdogKey is read to see that reading works. It need not be there.
const watchdogKey = "hubd/watchdog"

// askState makes two calls of the native protocol: one of the hub, one that
// reads the state.
func askState(c net.Conn) error {
	in := bufio.NewReader(io.LimitReader(c, 1<<20))
	for _, call := range []struct{ method, params string }{
		{"ping", "{}"},
		{"state.get", `{"key":"` + watchdogKey + `"}`},
	} {
		if _, err := fmt.Fprintf(c, `{"action":"rpc_request","request_id":%q,"method":%[1]q,"params":%s}`+"\n", call.method, call.params); err != nil {
			return err
		}
		var answer struct {
			Action string  `json:"action"`
			ID     string  `json:"request_id"`
			Kind   *string `json:"error_kind"`
		}
		for answer.Action != "rpc_reply" || answer.ID != call.method {
			line, err := in.ReadBytes('\n')
			if err == nil {
				err = json.Unmarshal(line, &answer)
			}
			if err != nil {
				return fmt.Errorf("answer to %s: %w", call.method, err)
			}
		}
		if answer.Kind != nil && *answer.Kind != string(rpc.CodeNotFound) {
			return fmt.Errorf("%s failed: %s", call.method, rpc.CleanText(*answer.Kind, 64))
		}
	}
	return nil
}

// askHealth is for listeners where a call would need a token, or where only
// HTTP protocols are spoken. Any answer is one: a Host that is not allowed is
// turned away by the same code.
func askHealth(ctx context.Context, c net.Conn) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/-/healthy", nil)
	if err != nil {
		return err
	}
	request.Close = true
	if err := request.Write(c); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(io.LimitReader(c, 1<<20)), request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("answered %s", strings.TrimSpace(response.Status))
	}
	return nil
}

// progress tells a store that hangs from one that is idle or refuses writes: a
// restart helps only against the first. A full disk makes the hub unready, not dead.
type progress struct {
	stats    func() statesvc.Stats
	patience time.Duration // for which writes may wait without any of them ending

	asked chan statesvc.Stats // not nil: a look that has not come back
	moved uint64              // commits and refusals at the last look
	since time.Time           // of the look that first saw writes wait at moved; zero: none wait
}

// check returns an error when the store does not answer within ctx, or has
// finished none of the writes that wait since patience ago. It is called by
// one goroutine at a time.
func (p *progress) check(ctx context.Context) error {
	if p.asked == nil {
		p.asked = make(chan statesvc.Stats, 1)
		// Whoever asks a store that hangs does not come back: that must not be the watchdog.
		go func(asked chan<- statesvc.Stats) { asked <- p.stats() }(p.asked)
	}
	var s statesvc.Stats
	select {
	case s = <-p.asked:
		p.asked = nil
	case <-ctx.Done():
		return errors.New("the state store does not answer")
	}
	moved := s.Commits + s.Refused + s.LogFailures
	if s.Queue == 0 || moved != p.moved || p.since.IsZero() {
		p.moved, p.since = moved, time.Time{}
		if s.Queue > 0 {
			p.since = time.Now()
		}
		return nil
	}
	if waited := time.Since(p.since); waited >= p.patience {
		return fmt.Errorf("%d writes wait for the disk and none has ended for %v", s.Queue, waited.Round(time.Second))
	}
	return nil
}
