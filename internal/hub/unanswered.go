package hub

import (
	"sync"
	"time"
)

// unansweredWait is how long a connection counts as new: its first request may be
// on its way. A shutdown waits that long for the youngest.
const unansweredWait = 500 * time.Millisecond

// unanswered has the connections between accept and the first answer. A hub that
// stops would otherwise close some that have just come in without a word, and
// their clients could not tell whether anything was done.
type unanswered struct {
	mu   sync.Mutex
	all  map[*time.Time]struct{} // when they were accepted
	none chan struct{}           // closed when all becomes empty; nil when nobody waits
}

// enter adds one. The function it returns, which may be called again, takes it out.
func (c *unanswered) enter() (settled func()) {
	at := new(time.Time)
	*at = time.Now()
	c.mu.Lock()
	if c.all == nil {
		c.all = map[*time.Time]struct{}{}
	}
	c.all[at] = struct{}{}
	c.mu.Unlock()
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.all, at)
		if len(c.all) == 0 && c.none != nil {
			close(c.none)
			c.none = nil
		}
	})
}

// wait returns when there is none, or only some that have been silent for limit.
// None may enter meanwhile.
func (c *unanswered) wait(limit time.Duration) {
	c.mu.Lock()
	var left time.Duration // until the youngest is no longer new
	for at := range c.all {
		left = max(left, limit-time.Since(*at))
	}
	if left <= 0 {
		c.mu.Unlock()
		return
	}
	if c.none == nil {
		c.none = make(chan struct{})
	}
	none := c.none
	c.mu.Unlock()
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-none:
	case <-t.C:
	}
}
