package rpc

import (
	"bytes"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestSmallFramesNeverWait(t *testing.T) {
	b := &Budget{Limit: 1 << 20}
	large := b.NewShare(func() {})
	if !large.Hold(8 << 20) {
		t.Fatal("one alone may hold any number")
	}
	for range 100 {
		if !b.NewShare(func() {}).Hold(freeOfHold) {
			t.Fatal("a small frame has to go")
		}
	}
	if b.Used() != 8<<20 {
		t.Errorf("used %d", b.Used())
	}
	large.Hold(0)
	if b.Used() != 0 || len(b.shares) != 0 {
		t.Errorf("used %d by %d after the end", b.Used(), len(b.shares))
	}
}

func TestHoldWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Limit: 1 << 20}
		first, second, third := b.NewShare(nil), b.NewShare(nil), b.NewShare(nil)
		first.Hold(800 << 10)
		var got [2]atomic.Bool
		go func() { got[0].Store(second.Hold(700 << 10)) }()
		go func() { got[1].Store(third.Hold(600 << 10)) }()
		synctest.Wait()
		if got[0].Load() || got[1].Load() || b.Used() != 800<<10 {
			t.Fatalf("passed without room: %d used", b.Used())
		}
		first.Hold(0)
		synctest.Wait()
		if got[0].Load() || !got[1].Load() { // the smaller wish
			t.Fatalf("second %v, third %v", got[0].Load(), got[1].Load())
		}
		third.Hold(0)
		synctest.Wait()
		if !got[0].Load() || b.Used() != 700<<10 {
			t.Fatalf("second %v, used %d", got[0].Load(), b.Used())
		}
	})
}

func TestLargestGoesWhenOthersWaitTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Limit: 1 << 20, Patience: 10 * time.Second}
		began := time.Now()
		var ended atomic.Bool
		var large *Share
		large = b.NewShare(func() {
			ended.Store(true)
			go large.Hold(0) // what the reader does when its connection ends
		})
		large.Hold(900 << 10)
		small := b.NewShare(func() { t.Error("the smaller one went") })
		if !small.Hold(200 << 10) {
			t.Error("the smaller one was refused")
		}
		if !ended.Load() || time.Since(began) != 10*time.Second {
			t.Errorf("ended %v after %v", ended.Load(), time.Since(began))
		}
		if large.Hold(950 << 10) {
			t.Error("who has to go may hold more")
		}
	})
}

// All hold something and wait for more: the knot is cut.
func TestWaitersDoNotBlockEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Limit: 1 << 20, Patience: time.Second}
		var passed, refused atomic.Int32
		for range 4 {
			go func() {
				s := b.NewShare(func() {})
				defer s.Hold(0)
				if s.Hold(256<<10) && s.Hold(900<<10) {
					passed.Add(1)
				} else {
					refused.Add(1)
				}
			}()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if passed.Load() == 0 || passed.Load()+refused.Load() != 4 || b.Used() != 0 {
			t.Errorf("%d passed, %d refused, %d bytes still held", passed.Load(), refused.Load(), b.Used())
		}
	})
}

func TestLateFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Patience: 30 * time.Second}
		s := b.NewShare(func() {})
		if s.Late(time.Now().Add(time.Hour)) {
			t.Error("late without a frame")
		}
		s.Begin(1)
		time.Sleep(30 * time.Second)
		if s.Late(time.Now()) {
			t.Error("late at the limit")
		}
		time.Sleep(time.Second)
		if !s.Late(time.Now()) {
			t.Error("one byte in 31 s is in time")
		}
		s.Begin(31*leastRate + 1)
		if s.Late(time.Now()) {
			t.Error("quick enough, and late")
		}
		s.End()
		time.Sleep(time.Hour)
		s.Begin(1)
		if s.Late(time.Now()) {
			t.Error("a new frame has the age of the old one")
		}
		var none *Share
		none.Begin(1)
		none.End()
		if none.Late(time.Now()) || !none.Hold(1<<30) {
			t.Error("no share is no limit")
		}
	})
}

// The time that a frame waits for room is not its sender's.
func TestWaitingForRoomIsNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Limit: 1 << 20, Patience: time.Minute}
		large := b.NewShare(func() { t.Error("the larger one had to go") })
		large.Hold(1 << 20)
		s := b.NewShare(func() { t.Error("the smaller one had to go") })
		s.Begin(32 << 10)
		go func() {
			time.Sleep(50 * time.Second)
			if s.Late(time.Now().Add(30 * time.Second)) {
				t.Error("late while it waits")
			}
			large.Hold(0)
		}()
		time.Sleep(20 * time.Second)
		if !s.Hold(64 << 10) {
			t.Error("refused")
		}
		if s.Late(time.Now().Add(30 * time.Second)) {
			t.Error("late after 50 seconds, 30 of which it was made to wait")
		}
		if !s.Late(time.Now().Add(41 * time.Second)) {
			t.Error("never late")
		}
	})
}

// A message is read without more room than it may take, and a byte.
func TestReadMessageTakesNoMoreThanTheLimit(t *testing.T) {
	const limit = 3000
	for _, c := range []struct {
		buf, length int
		over        bool
	}{{0, limit, false}, {0, limit + 1, true}, {100, limit, false}, {2 * limit, limit, false}, {0, 0, false}, {limit + 1, limit, false}} {
		b := &Budget{Limit: 1 << 20}
		s := b.NewShare(func() {})
		over := errors.New("over the limit")
		var r io.Reader = bytes.NewReader(make([]byte, min(c.length, limit)))
		if c.over {
			r = io.MultiReader(r, failing{over})
		}
		got, err := s.ReadMessage(make([]byte, 0, c.buf), r, limit)
		if c.over != errors.Is(err, over) || len(got) != min(c.length, limit) || cap(got) > max(c.buf, limit+1) {
			t.Errorf("%+v: %d bytes in %d, %v", c, len(got), cap(got), err)
		}
		if b.Used() != 0 {
			t.Errorf("%+v: %d bytes are held afterwards", c, b.Used())
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
