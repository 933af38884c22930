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
		{smallGoal, 1 << 20, smallGoal},
		{smallGoal, smallHeap + 1, smallGoal},
		{normalGoal, smallHeap + 1, normalGoal},
		{smallGoal, 2*smallHeap + 1, normalGoal},
		{normalGoal, smallHeap - 1, smallGoal},
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
	until(smallGoal)
	state := make([]byte, 3*smallHeap)
	until(normalGoal)
	runtime.KeepAlive(state)
	state = nil
	until(smallGoal)
}
