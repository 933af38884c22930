package rpc

import (
	"sync"
	"testing"
)

// All that a user makes the hub keep has one limit, and all users another; what
// is too much changes nothing, and what is given back can be had again.
func TestKeptIsBoundedPerUserAndInAll(t *testing.T) {
	g := &Gate{KeptPerUID: 100, Kept: 150}
	var a, b Quota
	first, second, other := &Kept{gate: g, quota: &a}, &Kept{gate: g, quota: &a}, &Kept{gate: g, quota: &b}
	set := func(k *Kept, n int64, want bool) {
		t.Helper()
		if got := k.Set(n); got != want {
			t.Errorf("Set(%d) is %v with %d kept in all", n, got, g.KeptBytes())
		}
	}
	set(first, 60, true)
	set(second, 41, false)
	if e := second.Over(41); e.Code != CodeOverloaded || e.Message != "this user keeps too much in the hub: with this more than 100 bytes" {
		t.Error(e)
	}
	set(second, 40, true)
	set(other, 51, false)
	if e := other.Over(51); e.Message != "all users together keep too much in the hub: with this more than 150 bytes" {
		t.Error(e)
	}
	set(other, 50, true)
	set(first, 61, false)
	set(first, 30, true)
	set(other, 80, true)
	if a.Idle() {
		t.Error("the account of what is kept is idle")
	}
	first.Free()
	first.Free()
	second.Free()
	if !a.Idle() || g.KeptBytes() != 80 {
		t.Errorf("%d bytes are kept", g.KeptBytes())
	}
	if (*Call)(nil).Keep() != nil || !(*Kept)(nil).Set(1<<40) {
		t.Error("who has no connection is charged")
	}

	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range int64(1000) {
				second.Set(i % 70)
			}
			second.Free()
		})
	}
	all.Wait()
	if second.Free(); g.KeptBytes() != 80 || !a.Idle() {
		t.Errorf("%d bytes are kept", g.KeptBytes())
	}
}
