package hub

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/internal/demo"
	"github.com/hubd-dev/hubd/internal/filesvc"
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/session"
	"github.com/hubd-dev/hubd/internal/trust"
)

// closing bounds each step of a shutdown after the drain.
const closing = 5 * time.Second

// Run is a whole hub: it starts, serves until ctx ends or an administrator
// asks it to stop, and shuts down in order. It returns nil after an orderly
// shutdown; ExitCode tells apart what else it returns. Run knows no signals
// and no globals: any number of hubs may run in one process.
func Run(ctx context.Context, o Options) error {
	h, err := start(o)
	if err != nil {
		return err
	}
	reload := o.Reload
	for {
		select {
		case <-ctx.Done():
			return h.shutdown("the hub was told to stop")
		case reason := <-h.stopRequest:
			return h.shutdown(reason)
		case _, ok := <-reload:
			if !ok {
				reload = nil
				continue
			}
			_, _ = h.reload() // a bad file keeps the old configuration, and the log says so
		}
	}
}

// start makes a hub that serves. Nothing is left behind when it fails.
func start(o Options) (_ *hub, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, &ConfigError{[]error{err}}
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	h := newHub(o)
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if h.state, err = openState(o.State); err != nil {
		return nil, err
	}
	if err := h.newKrpc(); err != nil {
		return nil, err
	}
	h.table.Reserve(demo.Methods()...)
	h.table.Reserve(new(filesvc.Service).Methods()...)
	if err := h.table.Add(h.builtins()...); err != nil {
		return nil, err
	}
	if err := h.table.Add(slices.Concat(h.topMethods(), h.adminMethods(), h.provideMethods())...); err != nil {
		return nil, err
	}
	if o.Demo {
		if err := demo.Register(h.table); err != nil {
			return nil, err
		}
	}
	if err := h.openTokens(); err != nil {
		return nil, err
	}
	if err := h.table.Add(h.tokenMethods()...); err != nil {
		return nil, err
	}
	if err := h.openFiles(); err != nil {
		return nil, err
	}
	h.table.Describe("session", session.ServiceDoc)
	if err := h.table.Add(h.sessions.Methods()...); err != nil {
		return nil, err
	}
	if err := h.openStore(); err != nil {
		return nil, err
	}
	if err := h.mountRemotes(); err != nil {
		return nil, err
	}
	if err := h.listenAll(); err != nil {
		return nil, err
	}
	h.openSessionFolder()
	h.recallSessions()
	h.awaitProviders()
	if _, err := h.sessions.Open(h.sessions.Default(), session.OpenOptions{Permanent: true, Peer: rpc.Local}); err != nil {
		return nil, err
	}
	h.serving.Go(func() {
		if err := h.web.server.Serve(h.web.conns); !errors.Is(err, http.ErrServerClosed) {
			h.log.Error("http server ended", zap.Error(err))
		}
	})
	for _, l := range h.listening() {
		if l.session == "" { // those of sessions accept already
			h.accepting.Go(func() { h.accept(l) })
		}
	}
	h.background.Go(h.sweep)
	h.background.Go(h.watchMemory)
	h.background.Go(h.releaseIdleMemory)
	if err := h.keepPresence(); err != nil {
		return nil, err
	}
	h.noteRunning()
	h.phase.Store(ready)
	info := h.listenInfo()
	h.notify("READY=1\nSTATUS=" + h.statusLine())
	h.keepStatus()
	h.unwatch = h.watch()
	h.log.Info("ready", zap.Strings("listeners", info.Listeners), zap.String("metrics", info.Metrics),
		zap.String("state", o.State), zap.String("version", h.version), zap.Int("pid", os.Getpid()))
	h.firstToken()
	if o.Ready != nil {
		o.Ready(info)
	}
	return h, nil
}

// newHub makes what needs nothing from outside.
func newHub(o Options) *hub {
	h := &hub{
		opts: o, version: o.Version, started: time.Now(), agentID: agentID(),
		log: o.Log, level: zap.NewAtomicLevel(), table: rpc.NewTable(),
		stopRequest: make(chan string, 1), settled: make(chan struct{}, 1),
	}
	level, _ := zapcore.ParseLevel(o.LogLevel) // validated
	h.level.SetLevel(level)
	h.configGood.Store(true)
	if h.log == nil {
		h.log = newLog(h.level)
	}
	h.log = limitLog(h.log, func() { h.metrics.rejected(limitLogLines) })
	h.audit = newAudit(h.log)
	h.attempts = trust.Limiter{Burst: attemptBurst, Every: attemptEvery, Max: attemptAddresses}
	h.begun = rpc.Budget{Limit: int64(o.Limits.Unfinished), Patience: o.Limits.PartialFrame}
	h.ctx, h.stop = context.WithCancelCause(context.Background())
	h.live.Store(newLive(o))

	h.protocols = map[rpc.Protocol]handler{rpc.Kollabor: h.serveKollabor, rpc.Kkrpc: h.serveKkrpc, rpc.Snekrpc: h.serveSnekrpc}
	h.spoken = []rpc.Protocol{rpc.Kollabor, rpc.Kkrpc, rpc.Capnweb, rpc.Krpc, rpc.Snekrpc}
	h.metrics = newMetrics(h.version, h.spoken)
	h.metrics.collectPresent(h)
	h.open = newRegistry(o.Limits)
	h.awaited.note = make(chan struct{}, 1)
	h.gate = &rpc.Gate{
		Observer: callObserver{h}, CallsPerLink: o.Limits.CallsPerConnection, CallsPerUID: o.Limits.CallsPerUID, Calls: o.Limits.Calls,
		SubscriptionsPerLink: o.Limits.SubscriptionsPerConnection, SubscriptionsPerUID: o.Limits.SubscriptionsPerUID,
		RequestMemory: int64(o.Limits.RequestMemory),
		KeptPerUID:    int64(o.Limits.KeptPerUID), Kept: int64(o.Limits.Kept),
	}
	h.table.Added = h.metrics.added
	h.sessions = h.newSessions()
	h.native = h.newKollabor()
	h.capnweb = h.newCapnweb()
	h.kkrpc = h.newKkrpc()
	h.snek = h.newSnekrpc()
	h.web = newWeb(h)
	return h
}

// agentID returns 12 hexadecimal digits that tell hubs apart.
func agentID() string {
	var b [6]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// listenAll opens every address: the inherited ones, the configured ones, and
// the one of the metrics.
func (h *hub) listenAll() error {
	addresses := make([]address, len(h.opts.Listen))
	for i, text := range h.opts.Listen {
		a, err := parseAddress(text, h.opts.AllowInsecure)
		if err != nil {
			return &ConfigError{[]error{err}}
		}
		addresses[i] = a
	}
	all := addresses
	var scraped address
	if h.opts.Metrics != "" {
		var err error
		if scraped, err = parseMetrics(h.opts.Metrics, h.opts.AllowInsecure); err != nil {
			return &ConfigError{[]error{err}}
		}
		all = append(slices.Clone(addresses), scraped)
	}
	if slices.ContainsFunc(all, func(a address) bool { return a.tls }) {
		var err error
		if h.certs, err = newCertificates(h.opts, h.log, h.metrics); err != nil {
			return err
		}
	}
	for _, a := range all {
		if a.network == "tcp" && !a.tls && !isLoopback(a.hostport) {
			h.log.Warn("others can listen in: this address has no TLS", zap.Stringer("listener", a))
		}
	}
	inherited, rest, err := inherit(h.opts.Inherited, addresses)
	if err != nil {
		return &ConfigError{[]error{err}}
	}
	h.listeners = inherited
	for _, a := range rest {
		l, err := listen(h.ctx, a)
		if err != nil {
			return err
		}
		h.listeners = append(h.listeners, l)
	}
	if h.opts.Metrics != "" {
		l, err := listen(h.ctx, scraped)
		if err != nil {
			return err
		}
		l.metrics = true
		h.listeners = append(h.listeners, l)
	}
	return nil
}

// listenInfo says where the hub can be reached.
func (h *hub) listenInfo() Info {
	info := Info{Listeners: h.listenerNames(), State: h.opts.State}
	for _, l := range h.listening() {
		if l.metrics {
			info.Metrics = l.addr.hostport
		}
	}
	return info
}

// requestStop makes Run stop.
func (h *hub) requestStop(reason string) {
	select {
	case h.stopRequest <- reason:
	default: // a stop was requested before
	}
}

// shutdown ends the hub: nobody new comes in, no new call starts, running
// calls have the drain limit to end and are then cancelled, what is queued for
// the peers is sent, everything is closed.
func (h *hub) shutdown(reason string) error {
	h.phase.Store(draining)
	h.writeProvided()
	drained := h.extendStopTimeout()
	h.log.Info("stopping", zap.String("reason", rpc.CleanText(reason, 200)), zap.Int("in_flight", h.gate.InFlight()))

	h.gate.Drain() // first: whoever finds the socket gone knows that no call starts any more
	h.closeListeners()
	h.accepting.Wait()
	h.native.Goodbye(reason)
	h.unanswered.wait(unansweredWait)
	h.drain(h.opts.Limits.Drain)
	drained()
	h.closeWeb()
	h.stop(rpc.ErrShutdown)
	left := h.open.close()
	h.closeConnections(func(c *conn) bool { return c.protocolName() == "" }) // nothing was said, nothing is owed
	h.web.stopWithin(closing)
	select {
	case <-left:
	case <-time.After(closing):
		n := h.closeConnections(func(*conn) bool { return true })
		h.log.Warn("connections did not end in time and are closed", zap.Int("connections", n))
	}
	h.serving.Wait()
	h.close()
	h.unwatch()
	h.phase.Store(stopped)
	h.log.Info("stopped", zap.Duration("uptime", time.Since(h.started)))
	_ = h.log.Sync() // a terminal and a pipe have nothing to sync
	return nil
}

// closeWeb ends what the HTTP server has handed over: sessions, and requests
// that are being read or answered.
func (h *hub) closeWeb() {
	for _, end := range []func(context.Context) error{h.capnweb.Close, h.kkrpc.Close, h.krpc.Close} {
		ctx, cancel := context.WithTimeout(context.Background(), closing)
		_ = end(ctx) // whoever is late is closed with the connections
		cancel()
	}
}

// drain waits until no call runs that ends by itself, but no longer than limit.
func (h *hub) drain(limit time.Duration) {
	t := time.NewTimer(limit)
	defer t.Stop()
	for {
		running := 0
		h.eachCall(func(_ *conn, c *rpc.Call) {
			if c.Method == nil || !c.Method.Endless {
				running++
			}
		})
		if running == 0 {
			return
		}
		select {
		case <-h.settled:
		case <-t.C:
			h.log.Warn("calls did not end in time and are cancelled", zap.Int("calls", running))
			return
		}
	}
}

// close frees what start has taken. It is safe on a hub that did not start.
func (h *hub) close() {
	h.stop(rpc.ErrShutdown)
	h.web.conns.Close()
	h.closeListeners()
	h.accepting.Wait()
	h.closeRemotes()
	h.background.Wait()
	h.sessions.Shutdown("the hub has stopped")
	h.keepSessions()
	if h.sessionLock != nil {
		unlock(h.sessionLock)
	}
	h.closeFiles()
	h.closeStore()
	if h.state != nil {
		_ = h.state.Truncate(0) // nobody holds it any more
		unlock(h.state)
	}
}

// closeConnections closes the connections that which names, and counts them.
func (h *hub) closeConnections(which func(*conn) bool) (n int) {
	for _, c := range h.connections() {
		if which(c) {
			c.Close()
			n++
		}
	}
	return n
}

// closeListeners stops accepting, for good.
func (h *hub) closeListeners() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, l := range h.listeners {
		l.close()
	}
}

// listening returns the listeners that there are now.
func (h *hub) listening() []*listener {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.listeners)
}

// reload reads the configuration anew, checks all of it, and only then takes
// over what can change. Without a configuration to read it does nothing.
func (h *hub) reload() (reloadResult, error) {
	r := reloadResult{Restart: []string{}}
	h.reloading.Lock()
	defer h.reloading.Unlock()
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // there is such a clock
	h.notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
	defer h.notify("READY=1")
	if h.certs != nil {
		if err := h.certs.reload(); err != nil {
			return r, err
		}
	}
	if h.opts.Load == nil {
		h.log.Info("there is no configuration file: nothing to reload")
		return r, nil
	}
	o, err := h.opts.Load()
	if err == nil {
		o.Inherited = h.opts.Inherited // belong to the process: with them, no default socket is looked for
		o, err = o.withDefaults()
	}
	if err == nil {
		err = o.Validate()
	}
	if err != nil {
		h.metrics.reloads.WithLabelValues("failed").Inc()
		h.metrics.configGood.Set(0)
		h.configGood.Store(false)
		h.log.Error("configuration is not taken over, the old one stays", zap.Error(err))
		return r, err
	}
	level, _ := zapcore.ParseLevel(o.LogLevel) // validated
	h.level.SetLevel(level)
	h.live.Store(newLive(o))
	h.metrics.reloads.WithLabelValues("ok").Inc()
	h.metrics.configGood.Set(1)
	h.configGood.Store(true)
	if r.Restart = append(r.Restart, needRestart(h.opts, o)...); len(r.Restart) > 0 {
		h.log.Warn("some changes need a restart", zap.Strings("keys", r.Restart))
	}
	h.log.Info("configuration reloaded", zap.String("log_level", o.LogLevel))
	return r, nil
}

// needRestart names the keys that differ and cannot change while the hub runs.
func needRestart(old, new Options) []string {
	var keys []string
	for _, k := range configKeys {
		if !k.live && k.get(&old) != k.get(&new) {
			keys = append(keys, k.name)
		}
	}
	return keys
}
