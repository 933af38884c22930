package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// A hub that only passes calls on keeps a few megabytes alive and makes
// hundreds of megabytes of short-lived ones a second. With the collector's
// usual goal, twice what is alive, it would run some forty times a second, for
// a tenth of the processor. So at least heapRoom may be made between two
// collections, however little is alive; a large heap (the state) has the usual
// goal.
const (
	heapRoom   = 24 << 20 // bytes
	normalGoal = 100      // percent
	// The collector begins at 4 MiB times the goal: more would let the heap of a
	// hub that does nothing grow beyond its room.
	largestGoal = 100 * heapRoom / (4 << 20)
)

// tuneHeap sets the collector's goal now and after each collection, unless the
// user has set one.
func tuneHeap() {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(largestGoal)
	afterCollection(largestGoal)
}

// afterCollection looks at the heap at the end of the next collection: the
// runtime frees the object made here and runs its cleanup.
func afterCollection(goal int) {
	runtime.AddCleanup(new([16]byte), func(goal int) {
		next := heapGoal(goal, alive())
		if next != goal {
			debug.SetGCPercent(next)
		}
		afterCollection(next)
	}, goal)
}

// heapGoal returns the goal for that many bytes alive, given the present one,
// which small changes leave alone.
func heapGoal(goal int, alive uint64) int {
	want := int(min(max(100*heapRoom/max(alive, 1), normalGoal), largestGoal))
	if want != normalGoal && want != largestGoal && 10*want > 9*goal && 9*want < 10*goal {
		return goal
	}
	return want
}

// alive returns the bytes that the last collection found in use.
func alive() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
