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
// a tenth of the processor. So a small heap may grow further before the next
// collection; a large one (the state) keeps the usual goal.
const (
	smallHeap  = 16 << 20 // bytes alive
	smallGoal  = 400      // percent, below smallHeap
	normalGoal = 100      // percent, above twice smallHeap
)

// tuneHeap sets the collector's goal now and after each collection, unless the
// user has set one.
func tuneHeap() {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(smallGoal)
	afterCollection(smallGoal)
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

// heapGoal returns the goal for that many bytes alive, given the present one.
// Between the two bounds it stays what it is.
func heapGoal(goal int, alive uint64) int {
	switch {
	case alive < smallHeap:
		return smallGoal
	case alive > 2*smallHeap:
		return normalGoal
	default:
		return goal
	}
}

// alive returns the bytes that the last collection found in use.
func alive() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
