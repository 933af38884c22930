package rpc

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestCancelledHandlersStillCount: a peer that starts and cancels in turn must
// not get one goroutine for each.
func TestCancelledHandlersStillCount(t *testing.T) {
	l := NewLink(&Gate{CallsPerLink: 4})
	release, started := make(chan struct{}), make(chan struct{}, 10)
	m := method(Concurrent, func(*Call) (Value, error) {
		started <- struct{}{}
		<-release
		return Null, nil
	})
	for range 4 {
		r := start(l, m, &Call{Key: "1"}, "")
		<-started
		l.Cancel([]byte("1"), ErrCancelled)
		r.wait(t)
	}
	if _, err := start(l, m, &Call{}, "").wait(t); err == nil || err.Code != CodeOverloaded {
		t.Errorf("a fifth handler: %v", err)
	}
	if l.Close(ErrPeerGone, time.Millisecond) {
		t.Error("Close says that handlers have ended")
	}
	close(release)
	if !l.Close(ErrPeerGone, 20*time.Second) {
		t.Error("the handlers have not ended")
	}
}

func TestSerialQueueForgetsCancelledCalls(t *testing.T) {
	l := NewLink(nil)
	started, release := make(chan struct{}, 1), make(chan struct{})
	m := method(Serial, func(*Call) (Value, error) {
		started <- struct{}{}
		<-release
		return Null, nil
	})
	first := start(l, m, &Call{}, "")
	<-started
	for range 10000 {
		r := start(l, m, &Call{Key: "1"}, "")
		l.Cancel([]byte("1"), ErrCancelled)
		r.wait(t)
	}
	m.serial.mu.Lock()
	n := len(m.serial.queue)
	m.serial.mu.Unlock()
	if n > 2048 {
		t.Errorf("%d cancelled calls wait", n)
	}
	close(release)
	first.wait(t)
	if !l.Close(ErrPeerGone, 20*time.Second) {
		t.Error("the handler goes on")
	}
}

func TestCloseWaitsForSerialHandlers(t *testing.T) {
	l := NewLink(nil)
	started, release := make(chan struct{}, 1), make(chan struct{})
	m := method(Serial, func(*Call) (Value, error) {
		started <- struct{}{}
		<-release
		return Null, nil
	})
	r := start(l, m, &Call{}, "")
	<-started
	if l.Close(ErrPeerGone, time.Millisecond) {
		t.Error("Close did not wait")
	}
	r.wait(t)
	close(release)
	if !l.Close(ErrPeerGone, 20*time.Second) {
		t.Error("the handler goes on")
	}
}

func TestSerialKeepsOrder(t *testing.T) {
	l := NewLink(nil)
	var got []int64
	m := method(Serial, func(c *Call) (Value, error) {
		n, err := c.Args.First().AsInt()
		got = append(got, n)
		return Null, err
	})
	var replies []*reply
	for i := range 2000 {
		replies = append(replies, start(l, m, &Call{}, fmt.Sprintf("[%d]", i)))
	}
	for _, r := range replies {
		r.wait(t)
	}
	l.Close(ErrPeerGone, 20*time.Second)
	if len(got) != 2000 || !slices.IsSorted(got) {
		t.Errorf("%d calls, sorted: %v", len(got), slices.IsSorted(got))
	}
}
