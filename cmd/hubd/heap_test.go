package main

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestHeapGoal(t *testing.T) {
	for _, c := range []struct {
		goal  int
		alive uint64
		want  int
	}{
		{largestGoal, 1 << 20, largestGoal},
		{largestGoal, 8 << 20, 300},
		{300, 8<<20 + 100<<10, 300}, // a little more changes nothing
		{300, 12 << 20, 200},
		{200, 30 << 20, normalGoal},
		{normalGoal, 1 << 30, normalGoal},
		{normalGoal, 0, largestGoal},
	} {
		if got := heapGoal(c.goal, c.alive); got != c.want {
			t.Errorf("heapGoal(%d, %d) = %d, want %d", c.goal, c.alive, got, c.want)
		}
	}
}

// TestGoalFollowsTheHeap grows the heap and lets it shrink again.
func TestGoalFollowsTheHeap(t *testing.T) {
	t.Setenv("GOGC", "")
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	tuneHeap()
	until := func(want int) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; {
			runtime.GC()
			got := debug.SetGCPercent(-1)
			debug.SetGCPercent(got)
			if got == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the goal is %d %%, want %d %%", got, want)
			}
		}
	}
	until(largestGoal)
	state := make([]byte, 3*heapRoom)
	until(normalGoal)
	runtime.KeepAlive(state)
	until(largestGoal)
}
