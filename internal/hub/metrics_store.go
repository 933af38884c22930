package hub

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Operations of the store that hubd_store_op_duration_seconds times: what
// waits for the disk. The methods state.* themselves are calls like any other.
const (
	opSync     = "sync"
	opSnapshot = "snapshot"
)

// storeObserver tells metrics about the state store. It is statesvc's Observer.
type storeObserver struct{ m *metrics }

func (o storeObserver) Synced(took time.Duration, _, _ int) {
	o.m.storeOps.WithLabelValues(opSync).Observe(took.Seconds())
}

func (o storeObserver) Snapshotted(took time.Duration, _ int64, _ error) {
	o.m.storeOps.WithLabelValues(opSnapshot).Observe(took.Seconds())
}

func (o storeObserver) Refused(limit string) { o.m.rejected(limit) }

// storeNow collects what the state store holds at the moment of a scrape.
type storeNow struct {
	hub                                                         *hub
	ready, keys, bytes, revision, queue, watchers, history, log *prometheus.Desc
}

// collectStore registers the gauges of the store of h.
func (m *metrics) collectStore(h *hub) {
	desc := func(name, help string) *prometheus.Desc {
		m.describe(name, "gauge", help, nil)
		return prometheus.NewDesc(name, help, nil, nil)
	}
	m.register(&storeNow{
		hub:      h,
		ready:    desc("hubd_state_ready", "1 when the state takes writes, 0 when it does not: full or failing disk."),
		keys:     desc("hubd_state_keys", "Keys in the state."),
		bytes:    desc("hubd_state_bytes", "Bytes of the keys and values in the state."),
		revision: desc("hubd_state_revision", "Revision of the newest commit."),
		queue:    desc("hubd_state_queue", "Writes that wait for the disk."),
		watchers: desc("hubd_state_watchers", "Watches that follow the state."),
		history:  desc("hubd_state_history_events", "Events that are kept for watches that come back."),
		log:      desc("hubd_state_log_bytes", "Size of the log of the state on disk."),
	})
}

// Describe sends the descriptions.
func (s *storeNow) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.ready, s.keys, s.bytes, s.revision, s.queue, s.watchers, s.history, s.log} {
		ch <- d
	}
}

// Collect asks the store. Before it is open there is nothing to tell.
func (s *storeNow) Collect(ch chan<- prometheus.Metric) {
	if s.hub.store == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	now := s.hub.store.Stats()
	ready := 1.0
	if s.hub.service.Ready() != nil {
		ready = 0
	}
	gauge(s.ready, ready)
	gauge(s.keys, float64(now.Keys))
	gauge(s.bytes, float64(now.Bytes))
	gauge(s.revision, float64(now.Revision))
	gauge(s.queue, float64(now.Queue))
	gauge(s.watchers, float64(now.Watchers))
	gauge(s.history, float64(now.HistoryEvents))
	gauge(s.log, float64(now.LogBytes))
}
