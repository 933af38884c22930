package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
)

// With the room, short-lived garbage is collected a few times where it would be
// dozens of times without.
func TestHeapRoom(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	limit := debug.SetMemoryLimit(1 << 30)
	defer debug.SetMemoryLimit(limit)

	room, release := tuneHeap()
	if room != heapRoom {
		t.Errorf("the room has %d bytes", room)
	}
	if got := debug.SetMemoryLimit(-1); got != 1<<30+heapRoom {
		t.Errorf("the memory limit is %d", got)
	}
	const garbage = 20 * heapRoom
	with := collections(garbage)
	release()
	if without := collections(garbage); with > 30 || with >= without {
		t.Errorf("%d collections with the room, %d without", with, without)
	}
}

// Whoever sets the goal has it.
func TestHeapRoomIsNotForced(t *testing.T) {
	t.Setenv("GOGC", "50")
	limit := debug.SetMemoryLimit(-1)
	room, release := tuneHeap()
	release()
	if room != 0 {
		t.Errorf("the room has %d bytes", room)
	}
	if got := debug.SetMemoryLimit(-1); got != limit || limit != math.MaxInt64 {
		t.Errorf("the memory limit was %d and is %d", limit, got)
	}
}

var sink []byte

// collections makes garbage and returns how often it was collected.
func collections(bytes int) int {
	runtime.GC()
	var from, to runtime.MemStats
	runtime.ReadMemStats(&from)
	for range bytes / (32 << 10) {
		sink = make([]byte, 32<<10)
	}
	runtime.ReadMemStats(&to)
	return int(to.NumGC - from.NumGC)
}
