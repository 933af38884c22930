package session

import (
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Everything that may run at once does, over few names: for the race detector,
// for dead locks, and for what must be true at the end.
func TestEverythingAtOnce(t *testing.T) {
	var mu sync.Mutex
	open := map[string]int{}
	count := func(name string, n int) {
		mu.Lock()
		defer mu.Unlock()
		if open[name] += n; open[name] < 0 || open[name] > 1 {
			t.Errorf("%s is open %d times", name, open[name])
		}
	}
	r := New(Options{
		Ring: 10, QueueEvents: 32, Linger: time.Millisecond, PromptTimeout: time.Millisecond,
		OnOpen:  func(s *Session) error { count(s.Name(), 1); return nil },
		OnClose: func(s *Session) { count(s.Name(), -1) },
	})
	const workers, steps = 8, 1500
	var wg sync.WaitGroup
	for w := range workers {
		rnd := rand.New(rand.NewPCG(7, uint64(w)))
		wg.Go(func() {
			link := rpc.NewLink(nil)
			var followers []*Follower
			var inputs []*Inputs
			leave := func() {
				for _, f := range followers {
					f.Close()
				}
				for _, in := range inputs {
					in.Close()
				}
				followers, inputs = nil, nil
				closeLink(link)
				link = rpc.NewLink(nil)
			}
			defer leave()
			for i := range steps {
				name := fmt.Sprint("s", rnd.IntN(4))
				s, known := r.Get(name)
				if !known {
					_, _ = r.Open(name, OpenOptions{Owner: link}) // another one may have been faster
					continue
				}
				tool := fmt.Sprint("t", rnd.IntN(3))
				switch rnd.IntN(14) {
				case 0:
					leave()
				case 1:
					_, _ = r.Open(name, OpenOptions{Owner: link})
				case 2:
					if rnd.IntN(10) == 0 {
						r.Close(s)
					}
				case 3:
					if f, err := s.Follow(FollowOptions{Mode: Interactive, Link: link}); err == nil {
						followers = append(followers, f)
					}
				case 4:
					if in, err := s.Inputs(link); err == nil {
						inputs = append(inputs, in)
					}
				case 5:
					_ = s.Input(nil, "c", rpc.String("x"))
				case 6:
					_ = s.Resize(nil, 1+rnd.IntN(99), 20)
				case 7:
					_, _ = s.Publish(rpc.RawString(`{"type":"permission_request","details":{"tool_id":"` + tool + `"}}`))
				case 8:
					_, _ = r.Respond("", tool, "DENY", "c", link)
				case 9:
					_, _ = s.Deliver(nil, rpc.RawString(fmt.Sprintf(`{"id":%d}`, rnd.IntN(50))))
				case 10:
					s.Info().Value()
					s.Status()
					s.History(uint64(rnd.IntN(100)), 20)
				case 11:
					_ = r.Save(io.Discard)
				case 12:
					_, _ = s.Publish(rpc.RawString(`{"type":"state_snapshot"}`))
				default:
					_, _ = s.Publish(rpc.RawString(`{"type":"output","rendered":"x"}`))
				}
				for _, f := range followers {
					if _, _, err := f.Poll(); err != nil && f.Session() == s {
						f.Close()
					}
				}
				if i%200 == 199 {
					leave()
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("the workers hang")
	}
	r.Shutdown("over")
	mu.Lock()
	defer mu.Unlock()
	for name, n := range open {
		if n != 0 {
			t.Errorf("%s is open %d times", name, n)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.sessions) != 0 || len(r.links) != 0 {
		t.Errorf("%d sessions and %d links are left", len(r.sessions), len(r.links))
	}
}
