package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// open makes a registry with one session.
func open(t testing.TB, opts Options, ring int) *Session {
	t.Helper()
	s, err := New(opts).Open("work", OpenOptions{Ring: &ring, Permanent: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publish(t testing.TB, s *Session, text string) uint64 {
	t.Helper()
	seq, err := s.Publish(rpc.RawString(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return seq
}

func output(t testing.TB, s *Session, n int) {
	t.Helper()
	for i := range n {
		publish(t, s, fmt.Sprintf(`{"type":"output","rendered":"line %d"}`, i))
	}
}

func follow(t testing.TB, s *Session, opts FollowOptions) *Follower {
	t.Helper()
	f, err := s.Follow(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func since(n uint64) FollowOptions { return FollowOptions{SinceSeq: &n} }

// drain takes what there is now, as "type seq" or "gap dropped..seq".
func drain(t testing.TB, f *Follower) []string {
	t.Helper()
	var list []string
	for {
		e, ok, err := f.Poll()
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if !ok {
			return list
		}
		text := fmt.Sprintf("%s %d", e.Type, e.Seq)
		if e.Type == "gap" {
			text = fmt.Sprintf("gap %d %d", dropped(t, e), e.Seq)
		}
		var fields struct{ Seq uint64 }
		if err := json.Unmarshal(e.JSON, &fields); err != nil || fields.Seq != e.Seq {
			t.Fatalf("%s: %v", e.JSON, err)
		}
		list = append(list, text)
	}
}

func dropped(t testing.TB, e Event) uint64 {
	t.Helper()
	var fields struct{ Dropped uint64 }
	if err := json.Unmarshal(e.JSON, &fields); err != nil {
		t.Fatal(err)
	}
	return fields.Dropped
}

func outputs(from, to int) []string {
	var list []string
	for i := from; i <= to; i++ {
		list = append(list, fmt.Sprintf("output %d", i))
	}
	return list
}

func expect(t testing.TB, got []string, want ...[]string) {
	t.Helper()
	if all := slices.Concat(want...); !slices.Equal(got, all) {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), strings.Join(all, ", "))
	}
}

func TestReplayThenLive(t *testing.T) {
	s := open(t, Options{}, 5)
	output(t, s, 8)
	f := follow(t, s, FollowOptions{})
	output(t, s, 2)
	expect(t, drain(t, f), outputs(4, 10))
	output(t, s, 1)
	expect(t, drain(t, f), outputs(11, 11))
	expect(t, drain(t, f))
}

func TestRingIsTheReplayWhateverOthersLagBehind(t *testing.T) {
	s := open(t, Options{}, 5)
	slow := follow(t, s, FollowOptions{})
	output(t, s, 20)
	expect(t, drain(t, follow(t, s, FollowOptions{})), outputs(16, 20))
	expect(t, drain(t, slow), outputs(1, 20))
}

func TestSinceSeq(t *testing.T) {
	s := open(t, Options{}, 5)
	output(t, s, 10)
	for _, c := range []struct {
		since uint64
		want  []string
	}{
		{10, nil},
		{8, outputs(9, 10)},
		{5, outputs(6, 10)},
		{4, append([]string{"gap 1 5"}, outputs(6, 10)...)},
		{0, append([]string{"gap 5 5"}, outputs(6, 10)...)},
		{11, append([]string{"gap 0 0"}, outputs(6, 10)...)}, // another life of the session
	} {
		t.Run(fmt.Sprint(c.since), func(t *testing.T) {
			expect(t, drain(t, follow(t, s, since(c.since))), c.want)
		})
	}
}

func TestSinceSeqOfAnEarlierLife(t *testing.T) {
	s := open(t, Options{}, 5)
	f := follow(t, s, since(40))
	expect(t, drain(t, f))
	output(t, s, 2)
	expect(t, drain(t, f), []string{"gap 0 0"}, outputs(1, 2))
}

func TestProducerBringsTheNumbersBack(t *testing.T) {
	r := New(Options{})
	s, err := r.Open("work", OpenOptions{Permanent: true})
	if err != nil {
		t.Fatal(err)
	}
	early, lost, ahead := follow(t, s, FollowOptions{}), follow(t, s, since(40)), follow(t, s, since(90))
	if _, err := r.Open("work", OpenOptions{Seq: 50}); err != nil {
		t.Fatal(err)
	}
	output(t, s, 2)
	expect(t, drain(t, early), outputs(51, 52))
	expect(t, drain(t, lost), []string{"gap 10 50"}, outputs(51, 52))
	expect(t, drain(t, ahead), []string{"gap 0 50"}, outputs(51, 52))
	expect(t, drain(t, follow(t, s, FollowOptions{})), outputs(51, 52))
	expect(t, drain(t, follow(t, s, since(50))), outputs(51, 52))
	if _, err := r.Open("work", OpenOptions{Seq: 500}); err != nil || s.Seq() != 52 {
		t.Errorf("the numbers of a session with events changed to %d, %v", s.Seq(), err)
	}
}

func TestSlowFollowerGetsGap(t *testing.T) {
	s := open(t, Options{QueueEvents: 10}, 5)
	slow, fast := follow(t, s, FollowOptions{}), follow(t, s, FollowOptions{})
	for range 100 {
		output(t, s, 1)
		if got := drain(t, fast); len(got) != 1 {
			t.Fatalf("the fast one got %v", got)
		}
	}
	if lag := slow.Info().Lag; lag != 100 {
		t.Errorf("lag %d, want 100", lag)
	}
	expect(t, drain(t, slow), []string{"gap 90 90"}, outputs(91, 100))
	if i := slow.Info(); i.Lag != 0 || i.Dropped != 90 {
		t.Errorf("%+v", i)
	}
}

func TestSlowFollowerIsHelpedByTheRing(t *testing.T) {
	s := open(t, Options{QueueEvents: 10}, 50)
	slow := follow(t, s, FollowOptions{})
	output(t, s, 100)
	expect(t, drain(t, slow), []string{"gap 50 50"}, outputs(51, 100))
}

func TestQueueIsBoundedInBytes(t *testing.T) {
	s := open(t, Options{QueueBytes: 10 << 10, RingBytes: 4 << 10}, 1000)
	slow := follow(t, s, FollowOptions{})
	big := `{"type":"output","ts":1,"rendered":"` + strings.Repeat("x", 960) + `"}`
	for range 1000 {
		publish(t, s, big)
	}
	s.mu.Lock()
	if s.log.bytes > 10<<10 || s.ring.bytes > 4<<10 {
		t.Errorf("log %d bytes, ring %d bytes", s.log.bytes, s.ring.bytes)
	}
	s.mu.Unlock()
	got := drain(t, slow)
	if len(got) < 8 || len(got) > 11 || !strings.HasPrefix(got[0], "gap 99") {
		t.Errorf("got %v", got)
	}
	huge := `{"type":"output","ts":1,"rendered":"` + strings.Repeat("x", 100<<10) + `"}`
	publish(t, s, huge)
	if got := drain(t, slow); len(got) != 1 {
		t.Errorf("an event over the bound: got %v", got)
	}
}

func TestNoRing(t *testing.T) {
	s := open(t, Options{QueueEvents: 4}, 0)
	output(t, s, 3)
	f := follow(t, s, FollowOptions{})
	expect(t, drain(t, f))
	output(t, s, 3)
	expect(t, drain(t, f), outputs(4, 6))
	expect(t, drain(t, follow(t, s, since(1))), []string{"gap 5 6"})
}

func TestSnapshotsAndPromptsAreNotInTheRing(t *testing.T) {
	s := open(t, Options{}, 3)
	publish(t, s, `{"type":"state_snapshot","n":1}`)                              // 1
	publish(t, s, `{"type":"permission_request","details":{"tool_id":"open"}}`)   // 2
	publish(t, s, `{"type":"permission_request","details":{"tool_id":"closed"}}`) // 3
	publish(t, s, `{"type":"state_snapshot","n":2}`)                              // 4
	early := follow(t, s, FollowOptions{})
	output(t, s, 5)                     // 5-9
	if !s.Respond("closed", "x", "c") { // 10
		t.Fatal("the prompt was not open")
	}
	publish(t, s, `{"type":"heartbeat"}`) // 11
	expect(t, drain(t, early), []string{"permission_request 2", "state_snapshot 4"}, outputs(5, 9),
		[]string{"permission_resolved 10", "heartbeat 11"})
	expect(t, drain(t, follow(t, s, FollowOptions{})), []string{"permission_request 2", "state_snapshot 4"}, outputs(8, 9))
	expect(t, drain(t, follow(t, s, since(2))), []string{"gap 1 3", "state_snapshot 4", "gap 3 7"}, outputs(8, 9), []string{"permission_resolved 10"})
	expect(t, drain(t, follow(t, s, since(9))), []string{"permission_resolved 10"})
	events, _ := s.History(0, 100)
	for _, e := range events {
		if e.kind == snapshot || e.kind == prompt {
			t.Errorf("%s is in the ring", e.JSON)
		}
	}
}

func TestSnapshotDuringReplayComesOnce(t *testing.T) {
	s := open(t, Options{}, 100)
	publish(t, s, `{"type":"state_snapshot"}`)
	output(t, s, 40)
	f := follow(t, s, FollowOptions{})
	if e, ok, err := f.Poll(); !ok || err != nil || e.Seq != 1 {
		t.Fatalf("%v %v %v", e, ok, err)
	}
	publish(t, s, `{"type":"state_snapshot"}`)
	expect(t, drain(t, f), outputs(2, 41), []string{"state_snapshot 42"})
}

func TestEndOfSession(t *testing.T) {
	r := New(Options{})
	s, err := r.Open("work", OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f := follow(t, s, FollowOptions{})
	output(t, s, 3)
	r.Close(s)
	for i := range 3 {
		if e, err := f.Next(t.Context()); err != nil || e.Seq != uint64(i+1) {
			t.Fatalf("%v, %v", e, err)
		}
	}
	if _, err := f.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want io.EOF", err)
	}
	if _, err := s.Publish(rpc.RawString(`{"type":"a"}`)); !errors.Is(err, errClosed) {
		t.Errorf("publish: %v", err)
	}
	// It is kept for a while for those who come late, and then it is not.
	late := follow(t, s, FollowOptions{})
	expect(t, drain(t, late), outputs(1, 3))
	late.Close()
	must(t, r.Remove(s))
	f.Close()
	if _, err := s.Follow(FollowOptions{}); !errors.Is(err, errClosed) {
		t.Errorf("follow: %v", err)
	}
}

func TestShutdownIsTheLastEvent(t *testing.T) {
	s := open(t, Options{}, 5)
	f := follow(t, s, FollowOptions{})
	output(t, s, 1)
	s.registry.Shutdown("maintenance \"now\"")
	expect(t, drain(t, f), outputs(1, 1), []string{"shutdown 0"})
	if _, err := f.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want io.EOF", err)
	}
	if _, err := s.registry.Open("new", OpenOptions{}); err == nil {
		t.Error("a session was opened after the shutdown")
	}
}

func TestNextEndsWithContextAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{}, 5)
		f := follow(t, s, FollowOptions{})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		if _, err := f.Next(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		var err error
		var wg sync.WaitGroup
		wg.Go(func() { _, err = f.Next(t.Context()) })
		synctest.Wait()
		f.Close()
		f.Close()
		wg.Wait()
		if !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
}

func TestReadyWakesAfterAnEmptyPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{}, 5)
		f := follow(t, s, FollowOptions{})
		if _, ok, err := f.Poll(); ok || err != nil {
			t.Fatal(ok, err)
		}
		go func() {
			time.Sleep(time.Second)
			_, _ = s.Publish(rpc.RawString(`{"type":"a"}`))
		}()
		select {
		case <-f.Ready():
		case <-time.After(5 * time.Second):
			t.Fatal("not woken")
		}
		expect(t, drain(t, f), []string{"a 1"})
	})
}

// checker follows a sequence of events and knows what is wrong with it.
type checker struct {
	last  uint64
	fresh bool // what comes first needs no predecessor
	got   uint64
	lost  uint64
}

func (c *checker) take(e Event) error {
	if e.Type == "gap" {
		var fields struct{ Dropped uint64 }
		if err := json.Unmarshal(e.JSON, &fields); err != nil {
			return err
		}
		if !c.fresh && c.last+fields.Dropped != e.Seq {
			return fmt.Errorf("gap of %d up to %d after %d", fields.Dropped, e.Seq, c.last)
		}
		c.lost += fields.Dropped
	} else {
		if !c.fresh && e.Seq != c.last+1 {
			return fmt.Errorf("event %d after %d", e.Seq, c.last)
		}
		c.got++
	}
	c.fresh, c.last = false, e.Seq
	return nil
}

// Replay and live events join without gap or repeat, whoever comes when,
// resumes where, and is as slow as he likes; what is lost is told.
func TestJoinUnderConcurrency(t *testing.T) {
	for round := range 8 {
		ring := []int{0, 1, 7, 200, 3000}[round%5]
		s := open(t, Options{QueueEvents: 64}, ring)
		const publishers, each = 4, 2000
		var work, readers, joined sync.WaitGroup
		if ring == 0 {
			joined.Add(24) // without a replay, who joins at the very end sees nothing
		}
		for p := range publishers {
			work.Go(func() {
				joined.Wait()
				v := rpc.RawString(fmt.Sprintf(`{"type":"output","by":%d}`, p))
				for range each {
					if _, err := s.Publish(v); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for i := range 24 {
			rnd := rand.New(rand.NewPCG(uint64(round), uint64(i)))
			readers.Go(func() {
				c := checker{fresh: true}
				opts := FollowOptions{}
				first := sync.OnceFunc(func() {
					if ring == 0 {
						joined.Done()
					}
				})
				for {
					f, err := s.Follow(opts)
					first()
					if errors.Is(err, errClosed) {
						return // closed while it was away
					}
					if err != nil {
						t.Error(err)
						return
					}
					stay := rnd.IntN(400)
					for {
						e, err := f.Next(t.Context())
						if errors.Is(err, io.EOF) {
							f.Close()
							if c.last != publishers*each {
								t.Errorf("ends with %d", c.last)
							}
							return
						}
						if err == nil {
							err = c.take(e)
						}
						if err != nil {
							t.Errorf("ring %d: %v", ring, err)
							f.Close()
							return
						}
						if stay--; stay == 0 { // leaves and comes back
							break
						}
					}
					f.Close()
					last := c.last
					opts.SinceSeq = &last
				}
			})
		}
		work.Wait()
		if got := s.Seq(); got != publishers*each {
			t.Fatalf("%d events, want %d", got, publishers*each)
		}
		s.registry.Close(s)
		readers.Wait()
	}
}

func TestFollowersAreLimited(t *testing.T) {
	s := open(t, Options{MaxFollowers: 2}, 5)
	a := follow(t, s, FollowOptions{})
	follow(t, s, FollowOptions{})
	if _, err := s.Follow(FollowOptions{}); !errors.Is(err, &rpc.Error{Code: rpc.CodeOverloaded}) {
		t.Errorf("got %v, want overloaded", err)
	}
	a.Close()
	follow(t, s, FollowOptions{})
}

func TestSameClientIDTwice(t *testing.T) {
	s := open(t, Options{}, 5)
	a, b := follow(t, s, FollowOptions{ClientID: "attach-1"}), follow(t, s, FollowOptions{ClientID: "attach-1"})
	output(t, s, 1)
	expect(t, drain(t, a), outputs(1, 1))
	b.Close()
	output(t, s, 1)
	expect(t, drain(t, a), outputs(2, 2))
}
