package hub

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/hubd-dev/hubd/internal/build"
	"github.com/hubd-dev/hubd/internal/filesvc"
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
	"github.com/hubd-dev/hubd/internal/session"
	"github.com/hubd-dev/hubd/internal/statesvc"
)

// metrics has everything that Prometheus is told. Label values come from the
// method table and from constants only: no peer can make a series.
type metrics struct {
	registry *prometheus.Registry
	catalog  []metricInfo

	calls        *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	slow         *prometheus.CounterVec
	late         prometheus.Counter
	panics       prometheus.Counter
	failedFrames *prometheus.CounterVec
	flows        *frameCounts
	connections  *prometheus.CounterVec
	cancels      *prometheus.CounterVec
	drops        *prometheus.CounterVec
	rejections   *prometheus.CounterVec
	storeOps     *prometheus.HistogramVec
	authFailures prometheus.Counter
	tlsReloads   *prometheus.CounterVec
	tlsExpiry    prometheus.Gauge

	attached        prometheus.Gauge
	followers       prometheus.Gauge
	events          prometheus.Counter
	eventBytes      prometheus.Counter
	evicted         prometheus.Counter
	inputs          prometheus.Counter
	prompts         *prometheus.CounterVec
	messages        *prometheus.CounterVec
	outboxBlocked   prometheus.Counter
	acceptErrors    prometheus.Counter
	providerChanges *prometheus.CounterVec
	reloads         *prometheus.CounterVec
	configGood      prometheus.Gauge

	mu     sync.Mutex               // guards owners, and the making of series of methods
	owners map[string]*methodSeries // of the methods that are in the table, by name

	other     *methodSeries  // of names that are not in the table
	protocols []rpc.Protocol // that have series from the start
}

// metricInfo describes one metric, for docs/metrics.md.
type metricInfo struct {
	Name, Type, Help string
	Labels           []string
}

// What hubd_drops_total counts besides what sessions drop: connections and
// requests that are turned away.
const (
	dropPeer     = "peer_not_allowed"
	dropTLS      = "tls_handshake"
	dropProtocol = "protocol_not_spoken"
	dropHost     = "host_not_allowed"
	dropOrigin   = "origin_not_allowed"
	dropEvents   = "slow_follower"
)

// What hubd_cancels_total tells apart.
const (
	causeCaller   = "caller"
	causeDeadline = "deadline"
	causeGone     = "peer_gone"
	causeShutdown = "shutdown"
	causeAdmin    = "admin"
	causeOther    = "other"
)

const otherMethod = "other"

// durationBuckets are the classic buckets of call durations: 1 ms to 60 s.
var durationBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// newMetrics makes the registry. protocols are those that are spoken.
func newMetrics(version string, protocols []rpc.Protocol) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), protocols: protocols, owners: map[string]*methodSeries{}}
	m.registry.MustRegister(
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsScheduler)),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.calls = m.counters("hubd_calls_total", "Calls that have been answered, by protocol, method and error code (ok for success).",
		"protocol", "method", "code")
	m.duration = m.histograms("hubd_call_duration_seconds", "Time from the complete request to its answer.",
		durationBuckets, "protocol", "method")
	m.slow = m.counters("hubd_slow_handlers_total", "Calls that ran longer than the slow threshold of their method; counted when it passes.", "method")
	m.late = m.counter("hubd_late_answers_total", "Answers of handlers whose call had already ended by deadline, cancel or disconnect.")
	m.panics = m.counter("hubd_handler_panics_total", "Panics of handlers; their callers got the code internal.")
	m.failedFrames = m.counters("hubd_failed_frames_total", "Frames that could not be understood, by reason.", "protocol", "reason")
	m.collectFrames(protocols)
	m.connections = m.counters("hubd_connections_total", "Connections that have begun to speak a protocol.", "protocol", "transport")
	m.cancels = m.counters("hubd_cancels_total", "Calls that ended before their handler answered, by cause.", "protocol", "cause")
	m.drops = m.counters("hubd_drops_total", "Connections and requests that were turned away, and events that slow followers lost, by reason.",
		"protocol", "reason")
	m.rejections = m.counters("hubd_rejected_total", "Refusals because of a limit, by the name of the limit.", "limit")
	m.authFailures = m.counter("hubd_auth_failures_total", "Tokens that were presented and refused.")
	m.tlsReloads = m.counters("hubd_tls_reloads_total", "Times that the TLS certificate was read again, by result.", "result")
	m.tlsExpiry = m.gauge("hubd_tls_certificate_expiry_timestamp_seconds", "When the TLS certificate ends, in seconds since 1970; 0 without TLS.")
	m.storeOps = m.histograms("hubd_store_op_duration_seconds", "Time that operations of the state store took.", durationBuckets, "op")
	m.attached = m.gauge("hubd_attached_clients", "Clients that are attached to sessions through the native protocol.")
	m.followers = m.gauge("hubd_session_followers", "Followers of sessions, in any protocol.")
	m.events = m.counter("hubd_session_events_total", "Events that were published in sessions.")
	m.eventBytes = m.counter("hubd_session_event_bytes_total", "Bytes of the events that were published in sessions.")
	m.evicted = m.counter("hubd_session_evicted_events_total", "Events that sessions lost early because all sessions together kept too many bytes.")
	m.inputs = m.counter("hubd_session_inputs_total", "Inputs of followers that were taken.")
	m.prompts = m.counters("hubd_session_prompts_total", "Permission prompts that ended, by outcome.", "outcome")
	m.messages = m.counters("hubd_session_messages_total", "Messages that sessions got, by result.", "result")
	m.outboxBlocked = m.counter("hubd_outbox_blocked_seconds_total", "Time that writers waited for peers to take their bytes.")
	m.acceptErrors = m.counter("hubd_accept_errors_total", "Failed attempts to accept a connection.")
	m.providerChanges = m.counters("hubd_provider_changes_total", "Services that clients began to provide (came) or stopped providing (left).", "change")
	m.reloads = m.counters("hubd_reloads_total", "Reloads of the configuration, by result.", "result")
	m.configGood = m.gauge("hubd_config_last_reload_successful", "1 when the last reload of the configuration was taken over or none was tried, else 0.")
	m.configGood.Set(1)

	revision, modified := build.Revision()
	build := m.gauges("hubd_build_info", "What runs here; the value is always 1.", "version", "revision", "modified", "goversion")
	build.WithLabelValues(version, revision, modified, runtime.Version()).Set(1)

	m.zero()
	return m
}

// zero makes the series that are there before anything happened.
func (m *metrics) zero() {
	m.other = m.series(otherMethod)
	m.other.slowCounter()
	for _, p := range m.protocols {
		m.other.counter(p, rpc.CodeOK)
		m.other.observer(p)
		for _, cause := range []string{causeCaller, causeDeadline, causeGone, causeShutdown, causeAdmin, causeOther} {
			m.cancels.WithLabelValues(string(p), cause)
		}
		m.drops.WithLabelValues(string(p), dropEvents)
	}
	for _, p := range rpc.Protocols() {
		m.drops.WithLabelValues(string(p), dropProtocol)
		for _, t := range []string{"unix", "tcp"} {
			m.connections.WithLabelValues(string(p), t)
		}
	}
	m.drops.WithLabelValues("", dropPeer)
	m.drops.WithLabelValues("", dropTLS)
	for _, reason := range []string{dropHost, dropOrigin} {
		m.drops.WithLabelValues(string(protocolHTTP), reason)
	}
	for _, t := range []string{"unix", "tcp"} {
		m.connections.WithLabelValues(string(protocolHTTP), t)
	}
	for _, limit := range limitNames {
		m.rejections.WithLabelValues(limit)
	}
	for _, op := range []string{opSync, opSnapshot} {
		m.storeOps.WithLabelValues(op)
	}
	for _, outcome := range []string{session.PromptAnswered, session.PromptExpired, session.PromptWithdrawn} {
		m.prompts.WithLabelValues(outcome)
	}
	for _, result := range []string{"taken", "duplicate"} {
		m.messages.WithLabelValues(result)
	}
	for _, change := range []string{providerCame, providerLeft} {
		m.providerChanges.WithLabelValues(change)
	}
	for _, result := range []string{"ok", "failed"} {
		m.tlsReloads.WithLabelValues(result)
		m.reloads.WithLabelValues(result)
	}
}

// limitNames are the label values of hubd_rejected_total.
var limitNames = []string{
	rpc.LimitCallsPerConnection, rpc.LimitCallsPerUID, rpc.LimitCalls, rpc.LimitOutbox, rpc.LimitRequestMemory, rpc.LimitMemory,
	rpc.LimitSubscriptions, rpc.LimitSubscriptionsUID, rpc.LimitHeldValues, rpc.LimitKept, rpc.LimitKeptUID,
	capnweb.LimitMessage, capnweb.LimitEntries, capnweb.LimitOperations, capnweb.LimitBatch, capnweb.LimitPing,
	statesvc.LimitKey, statesvc.LimitValue, statesvc.LimitTotal, statesvc.LimitTransaction, statesvc.LimitQueue, statesvc.LimitDisk,
	limitConnections, limitConnectionsUID, limitUnauthenticated, limitHandshake, limitAttempts, limitFirstByte,
	limitUnfinished, limitPartialFrame, limitFrame, limitWriteStall,
	limitHTTPBody, limitHTTPHead, limitHTTPHeadBytes, limitHTTPIdle, limitUpload, limitSpool, limitParts, filesvc.LimitQuota, limitLogLines,
}

func (m *metrics) rejected(limit string) { m.rejections.WithLabelValues(limit).Inc() }

func (m *metrics) drop(p rpc.Protocol, reason string) {
	m.drops.WithLabelValues(string(p), reason).Inc()
}

func (m *metrics) accepted(p rpc.Protocol, transport string) {
	m.connections.WithLabelValues(string(p), transport).Inc()
}

// methodSeries is what is stored in Method.Metric: the series of one method, found
// once, so that a call looks up nothing.
type methodSeries struct {
	metrics  *metrics
	name     string
	gone     atomic.Bool // the method is no longer in the table
	slow     atomic.Pointer[prometheus.Counter]
	calls    [5][16]atomic.Pointer[prometheus.Counter]
	duration [5]atomic.Pointer[prometheus.Observer]
}

// added is the Table's Added hook.
func (m *metrics) added(method *rpc.Method) { method.Metric = m.series(method.Name) }

// removed takes the series of a method away that is no longer in the table:
// what clients provide must not pile up. What its calls that still run come to
// counts as other.
func (m *metrics) removed(method *rpc.Method) {
	s, ok := method.Metric.(*methodSeries)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.gone.Store(true)
	if m.owners[s.name] != s { // a new one has the name already
		return
	}
	delete(m.owners, s.name)
	labels := prometheus.Labels{"method": s.name}
	m.calls.DeletePartialMatch(labels)
	m.duration.DeletePartialMatch(labels)
	m.slow.DeletePartialMatch(labels)
}

// series returns what holds the series of a method. They begin with its first call: most methods are never called
// through most protocols, and each series is paid for at each scrape.
func (m *metrics) series(name string) *methodSeries {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &methodSeries{metrics: m, name: name}
	m.owners[name] = s
	return s
}

// seriesOf returns the series of the method of c, or the shared ones.
func (m *metrics) seriesOf(c *rpc.Call) *methodSeries {
	if c.Method != nil {
		if s, ok := c.Method.Metric.(*methodSeries); ok && !s.gone.Load() {
			return s
		}
	}
	return m.other
}

// made returns what slot holds. The first time it is made, or, for a method that
// has left the table, that of the other methods is returned.
func made[T any](s *methodSeries, slot *atomic.Pointer[T], fresh func() T, other func(*methodSeries) T) T {
	if v := slot.Load(); v != nil {
		return *v
	}
	s.metrics.mu.Lock()
	if s.gone.Load() {
		s.metrics.mu.Unlock()
		return other(s.metrics.other)
	}
	defer s.metrics.mu.Unlock()
	v := fresh()
	slot.Store(&v)
	return v
}

func (s *methodSeries) counter(p rpc.Protocol, code rpc.Code) prometheus.Counter {
	return made(s, &s.calls[protocolIndex(p)][codeIndex(code)],
		func() prometheus.Counter { return s.metrics.calls.WithLabelValues(string(p), s.name, string(code)) },
		func(o *methodSeries) prometheus.Counter { return o.counter(p, code) })
}

func (s *methodSeries) observer(p rpc.Protocol) prometheus.Observer {
	return made(s, &s.duration[protocolIndex(p)],
		func() prometheus.Observer { return s.metrics.duration.WithLabelValues(string(p), s.name) },
		func(o *methodSeries) prometheus.Observer { return o.observer(p) })
}

func (s *methodSeries) slowCounter() prometheus.Counter {
	return made(s, &s.slow,
		func() prometheus.Counter { return s.metrics.slow.WithLabelValues(s.name) },
		(*methodSeries).slowCounter)
}

// done counts one answered call.
func (m *metrics) done(c *rpc.Call, err *rpc.Error, took time.Duration) {
	s := m.seriesOf(c)
	code := rpc.CodeOK
	if err != nil {
		code = err.Code
		if cause, cancelled := causeOf(err); cancelled {
			m.cancels.WithLabelValues(string(c.Protocol), cause).Inc()
		}
	}
	s.counter(c.Protocol, code).Inc()
	s.slowCounter() // there from the first call on: what comes later is an increase
	o := s.observer(c.Protocol)
	if trace := c.Trace.TraceID(); trace != "" {
		o.(prometheus.ExemplarObserver).ObserveWithExemplar(took.Seconds(), prometheus.Labels{"trace_id": trace})
		return
	}
	o.Observe(took.Seconds())
}

// causeOf says why a call ended early; false when it did not.
func causeOf(err *rpc.Error) (string, bool) {
	switch {
	case err.Code == rpc.CodeDeadlineExceeded:
		return causeDeadline, true
	case err == rpc.ErrShutdown:
		return causeShutdown, true
	case err == rpc.ErrCancelled:
		return causeCaller, true
	case err == rpc.ErrPeerGone:
		return causeGone, true
	case err == rpc.ErrByAdmin:
		return causeAdmin, true
	case err.Code == rpc.CodeCancelled:
		return causeOther, true
	}
	return "", false
}

// protocolIndex and codeIndex number what has a slot in methodSeries.
func protocolIndex(p rpc.Protocol) int {
	switch p {
	case rpc.Kollabor:
		return 0
	case rpc.Kkrpc:
		return 1
	case rpc.Capnweb:
		return 2
	case rpc.Krpc:
		return 3
	default:
		return 4
	}
}

var codeIndexes = func() map[rpc.Code]int {
	indexes := map[rpc.Code]int{}
	for i, c := range rpc.Codes() {
		indexes[c] = i
	}
	return indexes
}()

func codeIndex(c rpc.Code) int {
	if c == rpc.CodeOK {
		return 0
	}
	if i, ok := codeIndexes[c]; ok {
		return i
	}
	return codeIndexes[rpc.CodeInternal]
}

// What follows registers a metric and writes it into the catalog.

func (m *metrics) describe(name, kind, help string, labels []string) {
	m.catalog = append(m.catalog, metricInfo{Name: name, Type: kind, Help: help, Labels: labels})
}

func (m *metrics) register(c prometheus.Collector) {
	if err := m.registry.Register(c); err != nil {
		panic(errors.Join(errors.New("hub: metric"), err)) // two metrics of one name: every test finds it
	}
}

func (m *metrics) counter(name, help string) prometheus.Counter {
	m.describe(name, "counter", help, nil)
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	m.register(c)
	return c
}

func (m *metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	m.describe(name, "counter", help, labels)
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.register(c)
	return c
}

func (m *metrics) gauge(name, help string) prometheus.Gauge {
	m.describe(name, "gauge", help, nil)
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	m.register(g)
	return g
}

func (m *metrics) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	m.describe(name, "gauge", help, labels)
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	m.register(g)
	return g
}

func (m *metrics) histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	m.describe(name, "histogram", help, labels)
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160, NativeHistogramMinResetDuration: time.Hour,
	}, labels)
	m.register(v)
	return v
}
