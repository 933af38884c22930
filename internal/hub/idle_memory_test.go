package hub

import (
	"testing"
	"time"
)

// Collecting is due in a quiet hub that holds much more than before, once.
func TestIdleRelease(t *testing.T) {
	const MiB = 1 << 20
	var g idleRelease
	g.collected(30*MiB, 5)
	for i, step := range []struct {
		inUse  int64
		cycles uint64
		due    bool
	}{
		{31 * MiB, 5, false},  // nothing happened
		{150 * MiB, 9, false}, // busy
		{160 * MiB, 9, true},  // quiet
	} {
		if got := g.due(step.inUse, step.cycles); got != step.due {
			t.Errorf("step %d: %t", i, got)
		}
	}
	g.collected(140*MiB, 11) // it is all alive
	for i, step := range []struct {
		inUse  int64
		cycles uint64
		due    bool
	}{
		{150 * MiB, 11, false}, // not again
		{160 * MiB, 11, false},
		{40 * MiB, 12, false}, // it was given back
		{60 * MiB, 12, false},
		{80 * MiB, 12, true},
	} {
		if got := g.due(step.inUse, step.cycles); got != step.due {
			t.Errorf("afterwards, step %d: %t", i, got)
		}
	}
}

// What a burst took is given back within ten seconds of quiet: the hub looks
// twice in that time, and the second look finds it quiet.
func TestMemoryIsGivenBackWithinTenSeconds(t *testing.T) {
	const MiB = 1 << 20
	var g idleRelease
	g.collected(76*MiB, 5)
	waited := time.Duration(0)
	for quiet := false; !quiet; waited += idleCheckEvery {
		if waited > time.Minute {
			t.Fatal("never")
		}
		quiet = g.due(283*MiB, 40) // which it collected last during the burst
	}
	if waited > 10*time.Second {
		t.Errorf("it takes %v", waited)
	}
}
