package main

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
)

// heapRoom is how much garbage may be made between two collections even if
// nothing is alive. A hub that only passes calls on keeps a few megabytes alive
// and makes hundreds of megabytes of short-lived ones a second: with the
// collector's usual goal, twice what is alive, it would run some forty times a
// second, for a tenth of the processor.
const heapRoom = 20 << 20 // bytes

// tuneHeap gives the collector that room, unless the user has set its goal, and
// returns how much it is, and how it is given up.
//
// The room is one allocation that is never touched: it takes addresses and no
// memory, and counts as alive. A goal in percent that follows what is alive
// would come too late: what is made while a collection runs counts as alive at
// its end, and a high percentage of that is a heap several times as large.
func tuneHeap() (bytes int64, release func()) {
	if os.Getenv("GOGC") != "" {
		return 0, func() {}
	}
	room := make([]byte, heapRoom)
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64-heapRoom {
		debug.SetMemoryLimit(limit + heapRoom) // it is meant for memory that is used
	}
	return heapRoom, func() { runtime.KeepAlive(room) }
}
