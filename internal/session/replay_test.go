package session

import (
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// A follower that does not read keeps nothing of its own: what its replay has
// and the ring has lost is there once for all, within the limit of those who
// lag, and is counted. What is beyond that it is told as a gap.
func TestReplaysOfFollowersThatDoNotReadAreBounded(t *testing.T) {
	const ring, queue = 10, 20
	const size = 1 << 10
	r := New(Options{Ring: ring, QueueEvents: queue})
	s, err := r.Open("s", OpenOptions{})
	must(t, err)
	event := `{"type":"output","ts":1,"rendered":"` + strings.Repeat("x", size) + `"}`
	more := func(n int) {
		for range n {
			publish(t, s, event)
		}
	}
	more(ring)
	early, lagging := follow(t, s, FollowOptions{}), follow(t, s, FollowOptions{})
	more(ring + 5)
	if n := r.Kept(); n < 40*size {
		t.Errorf("%d bytes are counted: not what the replay has", n) // 10 of the ring, 15 before it, 15 of the log
	}
	expect(t, drain(t, early), outputs(1, 25))
	for range 1000 {
		follow(t, s, FollowOptions{})
		more(3)
		if n := r.Kept(); n > (ring+2*queue)*(size+256) {
			t.Fatalf("%d bytes are counted", n)
		}
	}
	s.mu.Lock()
	held := s.log.n + s.ring.n + s.old.n
	s.mu.Unlock()
	if held > ring+2*queue {
		t.Errorf("%d events are kept", held)
	}
	expect(t, drain(t, lagging), []string{"gap 10 10", "gap 2995 3005"}, outputs(3006, 3025))
	late := follow(t, s, FollowOptions{})
	more(1)
	expect(t, drain(t, late), outputs(3016, 3026))
	s.mu.Lock()
	followers := make([]*Follower, 0, len(s.followers))
	for _, f := range s.followers {
		followers = append(followers, f)
	}
	s.mu.Unlock()
	for _, f := range followers {
		f.Close()
	}
	if n := r.Kept(); n > ring*(size+256) {
		t.Errorf("%d bytes are counted without followers", n)
	}
	r.Close(s)
	must(t, r.Remove(s))
	if n := r.Kept(); n != 0 {
		t.Errorf("%d bytes are counted without sessions", n)
	}
}

// When all sessions keep too much, replays give way like what else lags.
func TestReplaysGiveWayForLackOfMemory(t *testing.T) {
	const limit = 64 << 10
	r := New(Options{Memory: limit})
	event := `{"type":"output","ts":1,"rendered":"` + strings.Repeat("x", 1<<10) + `"}`
	for _, name := range []string{"a", "b", "c"} {
		s, err := r.Open(name, OpenOptions{Owner: rpc.NewLink(nil)})
		must(t, err)
		for range 10 {
			for range 5 {
				publish(t, s, event)
			}
			follow(t, s, FollowOptions{})
			if n := r.Kept(); n > limit {
				t.Fatalf("%d bytes are counted", n)
			}
		}
	}
}
