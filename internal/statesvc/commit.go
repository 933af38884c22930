package statesvc

import (
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubd-dev/hubd/internal/statesvc/filelog"
)

// request is a place in the commit queue. Exactly one of its kinds is set: a transaction, a compaction, or work.
type request struct {
	conds     []Condition
	then, els []step
	done      func(Result, error)

	compact     uint64
	doneCompact func(uint64, error)

	work func() // runs on the committer between two batches (restore)

	size int64
	res  Result
	err  error

	// Room for a transaction of a single operation, which most are.
	step   [1]step
	result [1]OpResult
}

func (r *request) finish() {
	switch {
	case r.done != nil:
		r.done(r.res, r.err)
	case r.doneCompact != nil:
		r.doneCompact(r.res.Revision, r.err)
	}
}

func (e *engine) Commit(tx *Tx, done func(Result, error)) error {
	size, err := e.limits.checkTx(tx)
	if err != nil {
		if l, ok := errors.AsType[*LimitError](err); ok {
			e.refuse(l.Limit)
		}
		return err
	}
	// The room is taken before anything is copied, so that refusing an overload stays cheap.
	if err := e.reserve(size); err != nil {
		return err
	}
	r := &request{done: done, size: size}
	r.then, r.els = newSteps(tx.Then, r.step[:0]), newSteps(tx.Else, nil)
	if len(tx.If) > 0 {
		r.conds = make([]Condition, len(tx.If))
		for i, c := range tx.If {
			c.Key = strings.Clone(c.Key)
			r.conds[i] = c
		}
	}
	return e.enqueue(r)
}

func (e *engine) Compact(revision uint64, done func(uint64, error)) error {
	if err := e.reserve(0); err != nil {
		return err
	}
	return e.enqueue(&request{compact: revision, doneCompact: done})
}

func (e *engine) reserve(size int64) error {
	if e.journal != nil {
		// A full or broken log is said at once while it is known to be so; the committer finds out when it is over.
		if err := e.journal.refusing(); err != nil {
			e.refuse(LimitDisk)
			return err
		}
	}
	if !e.queue.reserve(size, &e.limits) {
		e.refuse(LimitQueue)
		return ErrOverloaded
	}
	return nil
}

func (e *engine) enqueue(r *request) error {
	if !e.queue.put(r) {
		e.queue.release(1, r.size)
		return ErrClosed
	}
	return nil
}

// queue holds what was accepted, in the order of the calls.
type queue struct {
	waiting atomic.Int64 // accepted and not yet answered
	bytes   atomic.Int64

	mu     sync.Mutex
	reqs   []*request
	closed bool
	signal chan struct{} // capacity 1
}

func (q *queue) init() { q.signal = make(chan struct{}, 1) }

func (q *queue) reserve(size int64, l *Limits) bool {
	if q.waiting.Add(1) > int64(l.Queue) {
		q.waiting.Add(-1)
		return false
	}
	// One transaction always fits, whatever its size.
	if b := q.bytes.Add(size); b > l.QueueBytes && b > size {
		q.release(1, size)
		return false
	}
	return true
}

func (q *queue) release(n int, size int64) {
	q.waiting.Add(-int64(n))
	q.bytes.Add(-size)
}

func (q *queue) load() (int, int64) { return int(q.waiting.Load()), q.bytes.Load() }

func (q *queue) put(r *request) bool {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return false
	}
	q.reqs = append(q.reqs, r)
	first := len(q.reqs) == 1
	q.mu.Unlock()
	if first {
		q.poke()
	}
	return true
}

// poke makes the committer look again.
func (q *queue) poke() {
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// take returns all that waits; spare becomes the next list.
func (q *queue) take(spare []*request) (reqs []*request, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	reqs, q.reqs = q.reqs, spare[:0]
	return reqs, q.closed
}

func (q *queue) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.poke()
}

// maxBatchBytes ends a batch: a larger one would delay the first of its answers for little gain.
const maxBatchBytes = 4 << 20

// expireBatch is how many keys expire in one batch beside other work.
const expireBatch = 1024

// commitLoop is the committer: it alone evaluates transactions and writes the log.
func (e *engine) commitLoop() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var spare []*request
	for {
		if e.journal != nil && len(spare) > 1 {
			// Those who were just answered write again at once if they get to run: one sync then serves them too.
			runtime.Gosched()
		}
		e.keepAbsent(time.Now())
		reqs, closed := e.queue.take(spare)
		due := e.expiryDue()
		if len(reqs) == 0 && !due {
			if closed {
				return
			}
			if e.journal != nil {
				e.journal.probe()
			}
			e.sleep(timer)
			spare = reqs
			continue
		}
		spare = reqs
		for first := true; first || len(reqs) > 0; first = false {
			reqs = e.commitBatch(reqs, due && first)
		}
		clear(spare)
	}
}

// sleep waits for work, or for the time of the next expiry.
func (e *engine) sleep(timer *time.Timer) {
	wait := time.Hour
	if at, ok := e.leases.next(); ok {
		if at.Before(e.retryExpiry) {
			at = e.retryExpiry
		}
		wait = min(wait, max(0, time.Until(at)))
	}
	if e.journal != nil && e.journal.ready() != nil {
		wait = min(wait, time.Second)
	}
	if e.journal != nil && e.leases.unkept() {
		wait = min(wait, max(0, time.Until(e.absentAfter)))
	}
	timer.Reset(wait)
	select {
	case <-e.queue.signal:
	case <-timer.C:
	}
}

func (e *engine) expiryDue() bool {
	at, ok := e.leases.next()
	if !ok {
		return false
	}
	now := time.Now()
	return !at.After(now) && !now.Before(e.retryExpiry)
}

// commitBatch evaluates as many requests as fit into one batch, makes them durable, publishes them and hands them to
// the completer. It returns the rest.
func (e *engine) commitBatch(reqs []*request, expire bool) (rest []*request) {
	if len(reqs) > 0 && reqs[0].work != nil {
		reqs[0].work()
		e.replies.add(reqs[:1])
		return reqs[1:]
	}
	now := time.Now()
	b := newBatch(e.view.Load(), &e.limits, now, func(owner string) bool { return e.leases.alive(owner, now) })
	var record []byte
	if e.journal != nil {
		record = e.journal.wal.Begin()
	}
	expiries := 0
	if expire {
		keys, groups := e.leases.due(now, expireBatch)
		for _, k := range keys {
			groups = append(groups, []expiring{k})
		}
		for _, g := range groups {
			if b.expire(g) == nil { // an expiry only makes room, no limit can be met
				expiries += len(g)
			}
		}
		for _, c := range b.commits {
			record = e.encode(record, c)
		}
	}
	floor := e.floor()
	compact := floor
	n := 0
	for ; n < len(reqs) && len(record) < maxBatchBytes && reqs[n].work == nil; n++ {
		r := reqs[n]
		if r.doneCompact != nil {
			if r.compact > b.rev {
				r.err = &FutureError{Revision: r.compact, Newest: b.rev}
				continue
			}
			compact = max(compact, r.compact)
			r.res.Revision = compact
			if e.journal != nil && compact > floor {
				record = appendCompact(record, compact)
			}
			continue
		}
		before := len(b.commits)
		r.res, r.err = b.transact(r.conds, r.then, r.els, r.result[:0])
		if l, ok := r.err.(*LimitError); ok {
			e.refuse(l.Limit)
		}
		for _, c := range b.commits[before:] {
			record = e.encode(record, c)
		}
	}
	if e.journal != nil {
		if err := e.save(record, b, n); err != nil {
			e.failBatch(reqs[:n], err, expiries > 0)
			e.replies.add(reqs[:n])
			return reqs[n:]
		}
	} else if len(b.commits) > 0 {
		e.batches.Add(1)
	}
	if len(b.commits) > 0 {
		e.publish(b)
		e.commits.Add(uint64(len(b.commits)))
		e.expired.Add(uint64(expiries))
	}
	if compact > floor {
		e.mu.Lock()
		e.hist.compact(compact)
		e.mu.Unlock()
	}
	if expire {
		e.retryExpiry = time.Time{}
	}
	e.replies.add(reqs[:n])
	if e.journal != nil {
		e.journal.afterBatch(e)
	}
	return reqs[n:]
}

func (e *engine) encode(record []byte, c *commit) []byte {
	if e.journal == nil {
		return record
	}
	return appendCommit(record, c)
}

// save makes a batch durable; a batch without changes needs no sync.
func (e *engine) save(record []byte, b *batch, transactions int) error {
	if filelog.Empty(record) {
		return nil
	}
	events, cost := 0, int64(0)
	for _, c := range b.commits {
		events += len(c.events)
		cost += c.cost
	}
	start := time.Now()
	if err := e.journal.append(record, b.rev, events, cost); err != nil {
		return err
	}
	e.batches.Add(1)
	e.observer.Synced(time.Since(start), transactions, len(record))
	return nil
}

// failBatch gives every request of a batch the reason why the log did not take it. That includes those that changed nothing:
// what they saw may have come from others in the batch.
func (e *engine) failBatch(reqs []*request, err error, expiry bool) {
	for _, r := range reqs {
		r.res, r.err = Result{}, err
		e.refuse(LimitDisk)
	}
	if expiry {
		e.retryExpiry = time.Now().Add(time.Second)
	}
}

func (e *engine) floor() uint64 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.hist.floor
}

// replies calls done functions in commit order, beside the committer: the next batch is being synced meanwhile.
type replies struct {
	mu     sync.Mutex
	list   []*request
	closed bool
	signal chan struct{} // capacity 1
}

func (p *replies) init() { p.signal = make(chan struct{}, 1) }

func (p *replies) add(reqs []*request) {
	if len(reqs) == 0 {
		return
	}
	p.mu.Lock()
	p.list = append(p.list, reqs...)
	p.mu.Unlock()
	p.poke()
}

func (p *replies) poke() {
	select {
	case p.signal <- struct{}{}:
	default:
	}
}

func (p *replies) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.poke()
}

func (p *replies) run(e *engine) {
	var spare []*request
	for {
		p.mu.Lock()
		list, closed := p.list, p.closed
		p.list = spare[:0]
		p.mu.Unlock()
		if len(list) == 0 {
			if closed {
				return
			}
			<-p.signal
			spare = list
			continue
		}
		for i, r := range list {
			// Room is given back first: who writes again from within done must not be refused for its own place.
			e.queue.release(1, r.size)
			r.finish()
			list[i] = nil
		}
		if e.opts.AfterReplies != nil {
			e.opts.AfterReplies()
		}
		spare = list
	}
}
