package hub

import (
	"cmp"
	runtime "runtime/metrics"
	"time"

	"go.uber.org/zap"
)

// How the hub keeps below the memory that it may have: the collector works
// harder from 80 % of it on, which is GOMEMLIMIT and set for the process by
// cmd/hubd. When that is not enough and 90 % are reached, new work is refused
// until it has fallen below 85 %.
const (
	scarceFrom  = 0.90
	scarceUntil = 0.85
	memoryEvery = 250 * time.Millisecond
)

// inUse returns the bytes that the runtime has from the system and has not
// given back: what GOMEMLIMIT bounds, and all but the whole of a Go program.
func (h *hub) inUse() int64 {
	samples := []runtime.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	runtime.Read(samples)
	return int64(samples[0].Value.Uint64()) - int64(samples[1].Value.Uint64()) - h.opts.MemoryUntouched
}

// watchMemory refuses new work while there is too little memory left, until
// the hub ends. Without a limit it does nothing.
func (h *hub) watchMemory() {
	most := cmp.Or(int64(h.opts.Limits.Memory), h.opts.MemoryMax)
	if most <= 0 {
		return
	}
	limit := float64(most)
	use := h.inUse
	if h.opts.memoryInUse != nil {
		use = h.opts.memoryInUse
	}
	t := time.NewTicker(memoryEvery)
	defer t.Stop()
	scarce := false
	for {
		switch now := use(); {
		case !scarce && float64(now) >= scarceFrom*limit:
			scarce = true
			h.log.Warn("memory is scarce: new work is refused", zap.Int64("bytes", now), zap.Int64("limit", most))
		case scarce && float64(now) < scarceUntil*limit:
			scarce = false
			h.log.Info("there is memory again", zap.Int64("bytes", now), zap.Int64("limit", most))
		}
		h.gate.SetScarce(scarce)
		select {
		case <-t.C:
		case <-h.ctx.Done():
			return
		}
	}
}
