package hub

import (
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"time"
)

// What a burst took, garbage and pooled buffers, stays until the collector
// runs, and in a hub that has become quiet it does not: its next run is due when
// as much again has been allocated. So it is made to run then, and what it frees
// goes back to the system. A hub that is busy collects by itself.
const (
	idleCheckEvery  = 4 * time.Second // a hub is quiet after one to two of them
	idleReleaseFrom = 32 << 20        // bytes above what was left after the last time
)

// idleRelease decides when to collect.
type idleRelease struct {
	cycles uint64 // of the collector, when it was last looked at
	floor  int64  // the least memory seen since the last collection
}

// due is asked at regular intervals. It says yes when nothing was collected
// since the last time and much more is held than need be.
func (g *idleRelease) due(inUse int64, cycles uint64) bool {
	quiet := cycles == g.cycles
	g.cycles = cycles
	if g.floor == 0 || inUse < g.floor {
		g.floor = inUse
	}
	return quiet && inUse > g.floor+idleReleaseFrom
}

// collected notes what is left.
func (g *idleRelease) collected(inUse int64, cycles uint64) { g.floor, g.cycles = inUse, cycles }

// releaseIdleMemory watches over the memory of a quiet hub until it ends.
func (h *hub) releaseIdleMemory() {
	t := time.NewTicker(idleCheckEvery)
	defer t.Stop()
	var g idleRelease
	g.collected(h.inUse(), collections())
	for {
		select {
		case <-t.C:
		case <-h.ctx.Done():
			return
		}
		if !g.due(h.inUse(), collections()) {
			continue
		}
		runtime.GC() // pooled buffers survive one collection
		debug.FreeOSMemory()
		g.collected(h.inUse(), collections())
	}
}

// collections returns how often the collector has run.
func collections() uint64 {
	samples := []runtimemetrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	runtimemetrics.Read(samples)
	return samples[0].Value.Uint64()
}
