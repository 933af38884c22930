package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// One publisher at 10,000 events/s and 100 followers, one of which never reads
// until the end: the others get everything, the slow one gets a gap, and what
// it did not read is not kept.
func TestHundredFollowersOneStalled(t *testing.T) {
	const perSecond, seconds, readers = 10_000, 2, 99
	s := open(t, Options{}, DefaultRing)
	stalled := follow(t, s, FollowOptions{ClientID: "stalled"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for range readers {
		f := follow(t, s, FollowOptions{})
		wg.Go(func() {
			c := checker{}
			for {
				e, err := f.Next(ctx)
				if errors.Is(err, io.EOF) {
					break
				}
				if err == nil {
					err = c.take(e)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
			if c.got != perSecond*seconds || c.lost != 0 {
				t.Errorf("got %d events and lost %d", c.got, c.lost)
			}
		})
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	event := rpc.RawString(`{"type":"output","ts":1,"rendered":"` + fmt.Sprintf("%0500d", 0) + `"}`)
	// What is kept for a follower that lags: the bytes end before the events do.
	last, err := s.Publish(event)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	queue := min(DefaultQueueEvents, DefaultQueueBytes/(s.log.bytes+len("99999")))
	s.mu.Unlock()
	began := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	held := 0
	for sent := int(last); sent < perSecond*seconds; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the followers do not get on")
		}
		if behind(s, stalled) > uint64(queue/2) {
			held++ // a machine that is busy with other things: the rate gives way, not the test
			continue
		}
		due := min(int(time.Since(began)*perSecond/time.Second), perSecond*seconds, sent+queue/4)
		for ; sent < due; sent++ {
			if _, err := s.Publish(event); err != nil {
				t.Fatal(err)
			}
		}
	}
	took := time.Since(began)
	runtime.GC()
	runtime.ReadMemStats(&after)
	s.mu.Lock()
	kept := s.log.bytes + s.ring.bytes
	s.mu.Unlock()
	if kept > DefaultQueueBytes+DefaultRingBytes {
		t.Errorf("%d bytes are kept", kept)
	}
	s.registry.Close(s)
	wg.Wait()
	t.Logf("%d events in %s to %d followers, held back %d times; %d KiB kept, heap grew by %d KiB",
		perSecond*seconds, took.Round(time.Millisecond), readers, held, kept>>10, (int64(after.HeapAlloc)-int64(before.HeapAlloc))>>10)

	c := checker{fresh: true}
	gaps := 0
	for {
		e, err := stalled.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == "gap" {
			gaps++
		}
		if err := c.take(e); err != nil {
			t.Fatal(err)
		}
	}
	if gaps != 1 || c.got+c.lost != perSecond*seconds || c.got > DefaultQueueEvents {
		t.Errorf("the stalled one: %d gaps, got %d, lost %d", gaps, c.got, c.lost)
	}
}

// behind returns the lag of the slowest follower but one.
func behind(s *Session, but *Follower) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	lag := uint64(0)
	for _, f := range s.followers {
		if f != but {
			lag = max(lag, s.seq-f.cursor)
		}
	}
	return lag
}

// BenchmarkPublish has followers that keep up, as far as the machine lets them.
func BenchmarkPublish(b *testing.B) {
	event := rpc.RawString(`{"type":"output","rendered":"one line of what a program says to its terminal, 80 bytes long or so"}`)
	for _, n := range []int{0, 1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("followers=%d", n), func(b *testing.B) {
			s := open(b, Options{}, DefaultRing)
			var wg sync.WaitGroup
			for range n {
				f, err := s.Follow(FollowOptions{})
				if err != nil {
					b.Fatal(err)
				}
				wg.Go(func() {
					for {
						if _, err := f.Next(context.Background()); err != nil {
							f.Close()
							return
						}
					}
				})
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Publish(event); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			s.registry.Close(s)
			wg.Wait()
		})
	}
}

// BenchmarkStalled has followers that never read.
func BenchmarkStalled(b *testing.B) {
	event := rpc.RawString(`{"type":"output","rendered":"one line of what a program says to its terminal, 80 bytes long or so"}`)
	s := open(b, Options{}, DefaultRing)
	for range 1000 {
		follow(b, s, FollowOptions{})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Publish(event); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAttach is one follower who comes, gets the replay and leaves.
func BenchmarkAttach(b *testing.B) {
	s := open(b, Options{}, DefaultRing)
	output(b, s, DefaultRing)
	b.ReportAllocs()
	for b.Loop() {
		f, err := s.Follow(FollowOptions{})
		if err != nil {
			b.Fatal(err)
		}
		for range DefaultRing {
			if _, ok, err := f.Poll(); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
		f.Close()
	}
}
