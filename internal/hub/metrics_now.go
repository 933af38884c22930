package hub

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// present collects what is true at the moment of a scrape: it is counted then
// and nowhere else, so that it cannot drift and costs a call nothing.
type present struct {
	hub                                           *hub
	inFlight, connections, outbox, sessions, kept *prometheus.Desc
	entries, unfinished, charged                  *prometheus.Desc
	methods, changes                              *prometheus.Desc
	spool, files                                  *prometheus.Desc
}

// collectPresent registers the gauges that are read from h.
func (m *metrics) collectPresent(h *hub) {
	m.collectStore(h)
	const changes, changesHelp = "hubd_method_table_changes_total", "Changes of the method table, as providers come and go."
	m.describe(changes, "counter", changesHelp, nil)
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		m.describe(name, "gauge", help, labels)
		return prometheus.NewDesc(name, help, labels, nil)
	}
	m.register(&present{
		hub:         h,
		inFlight:    desc("hubd_calls_in_flight", "Calls that run now and were not answered at once.", "protocol"),
		connections: desc("hubd_connections", "Open connections; protocol is none until the first bytes tell.", "protocol", "transport"),
		outbox:      desc("hubd_outbox_bytes", "Bytes that wait to be taken by peers."),
		unfinished:  desc("hubd_unfinished_frame_bytes", "Bytes that frames hold which have begun and not ended."),
		charged:     desc("hubd_kept_bytes", "Bytes that users make the hub keep when their calls are over, as limits.kept counts them."),
		sessions:    desc("hubd_sessions", "Open sessions."),
		methods:     desc("hubd_methods", "Methods that can be called, by who offers them: the hub itself or a provider.", "from"),
		changes:     prometheus.NewDesc(changes, changesHelp, nil, nil),
		spool:       desc("hubd_spool_bytes", "Bytes of uploaded files that wait for their calls to end."),
		files:       desc("hubd_file_quota_used_bytes", "Bytes that the quota of the file service counts, uploads that run included; 0 without a quota."),
		kept:        desc("hubd_session_memory_bytes", "Bytes that sessions keep: events for replay and for followers that lag, snapshots, open prompts, what waits for owners."),
		entries:     desc("hubd_capnweb_entries", "What Cap'n Web sessions have in their tables, without their main objects.", "table"),
	})
}

// Describe sends the descriptions.
func (p *present) Describe(ch chan<- *prometheus.Desc) {
	ch <- p.inFlight
	ch <- p.connections
	ch <- p.outbox
	ch <- p.unfinished
	ch <- p.charged
	ch <- p.sessions
	ch <- p.kept
	ch <- p.spool
	ch <- p.files
	ch <- p.entries
	ch <- p.methods
	ch <- p.changes
}

// Collect counts.
func (p *present) Collect(ch chan<- prometheus.Metric) {
	type place struct {
		protocol  rpc.Protocol
		transport string
	}
	const none rpc.Protocol = "none"
	connections := map[place]int{}
	inFlight := map[rpc.Protocol]int{}
	for _, protocol := range append(rpc.Protocols(), protocolHTTP, none) {
		for _, transport := range []string{"unix", "tcp"} {
			connections[place{protocol, transport}] = 0
		}
	}
	for _, protocol := range rpc.Protocols() {
		inFlight[protocol] = 0
	}
	outbox := 0
	for _, c := range p.hub.connections() {
		protocol := c.protocolName()
		if protocol == "" {
			protocol = none
		}
		connections[place{protocol, c.listener.transport()}]++
		if l := c.linkOf(); l != nil {
			inFlight[protocol] += l.N()
			if l.Out != nil {
				outbox += l.Out.Len()
			}
		}
	}
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	for at, n := range connections {
		gauge(p.connections, n, string(at.protocol), at.transport)
	}
	for protocol, n := range inFlight {
		gauge(p.inFlight, n, string(protocol))
	}
	gauge(p.outbox, outbox)
	gauge(p.unfinished, int(p.hub.begun.Used()))
	gauge(p.charged, int(p.hub.gate.KeptBytes()))
	gauge(p.sessions, p.hub.sessionCount())
	gauge(p.kept, int(p.hub.sessions.Kept()))
	spooled := 0
	if p.hub.spool != nil {
		spooled = int(p.hub.spool.Used())
	}
	gauge(p.spool, spooled)
	quota := 0
	if p.hub.files != nil {
		used, _ := p.hub.files.Usage()
		quota = int(used)
	}
	gauge(p.files, quota)
	exports, imports := p.hub.capnweb.Entries()
	gauge(p.entries, exports, "exports")
	gauge(p.entries, imports, "imports")
	own, provided := 0, 0
	for _, m := range p.hub.table.Methods() {
		if m.Provider == "" {
			own++
		} else {
			provided++
		}
	}
	gauge(p.methods, own, "hub")
	gauge(p.methods, provided, "provider")
	ch <- prometheus.MustNewConstMetric(p.changes, prometheus.CounterValue, float64(p.hub.table.Version()))
}
