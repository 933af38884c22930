package main

import (
	"sync"
	"testing"
)

// A panic in any goroutine that hubctl starts leaves the terminal as it was,
// and goes on.
func TestPanicGivesTheTerminalBack(t *testing.T) {
	a := &app{}
	left := 0
	a.keep(func() { left++ })
	var wait sync.WaitGroup
	wait.Go(func() {
		defer func() {
			if r := recover(); r != "broken" {
				t.Errorf("recovered %v", r)
			}
		}()
		defer a.leaveOnPanic()
		panic("broken")
	})
	wait.Wait()
	a.leave()
	if left != 1 {
		t.Errorf("the terminal was given back %d times", left)
	}
}
