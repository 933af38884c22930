package hub

import (
	"time"
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
