package statesvc

import (
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// pump serves watches that have something to send, a batch each in turn, on a few goroutines that exist while there is
// work. A watch costs no goroutine, and one that is behind does not hold up the others.
type pump struct {
	workers int

	mu      sync.Mutex
	queue   []*watch
	head    int
	running int
	closed  bool
	done    sync.WaitGroup
}

func (p *pump) add(w *watch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.queue = append(p.queue, w)
	if p.running < p.workers {
		p.running++
		p.done.Go(p.work)
	}
}

func (p *pump) next() *watch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.head == len(p.queue) || p.closed {
		p.queue, p.head = p.queue[:0], 0
		if cap(p.queue) > 1024 {
			p.queue = nil
		}
		p.running--
		return nil
	}
	w := p.queue[p.head]
	p.queue[p.head] = nil
	if p.head++; p.head > 1024 && p.head*2 > len(p.queue) { // the queue may never become empty
		p.queue = append(p.queue[:0], p.queue[p.head:]...)
		p.head = 0
	}
	return w
}

func (p *pump) work() {
	var b rpc.Batch
	for w := p.next(); w != nil; w = p.next() {
		b.Begin()
		w.serve(&b)
		b.Flush()
	}
}

// close waits until nobody is served any more.
func (p *pump) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.done.Wait()
}
