package statesvc

import (
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// A patch or a comparison may take a hundred times as long as a put, and the committer is one goroutine for all. So the
// work on a value is done ahead, by who asks for it, on the item that is there then. When the transaction's turn
// comes and the item is still the same one, the committer only takes the result. Otherwise the work is done again there:
// freely as long as it is little, and within a share of the committer's time beyond that.

const (
	// maxWork bounds what the operations of one transaction may cost, in units of about four bytes of text that are read.
	maxWork = 4 << 20
	// freeWork is how much of it a transaction may always do on the committer.
	freeWork = 2048
)

// errTooMuchWork is what work fails with that reaches its bound.
var errTooMuchWork = rpc.Errorf(rpc.CodeTooLarge, "the patch is too much work for one write")

// allowance is what the operations of one transaction may still cost.
type allowance struct {
	ahead, free, late int
}

func newAllowance() *allowance { return &allowance{ahead: maxWork, free: freeWork, late: maxWork} }

// ahead is the work of one operation on one value. work is told how much it may cost and says how much it did; it fails
// with errTooMuchWork instead of costing more.
type ahead[T any] struct {
	work   func(it *Item, most int) (result T, cost int, err error)
	left   *allowance
	budget *budget

	revision uint64 // of the item that the work was done on, 0 when it was not
	result   T
	err      error
}

// newAhead does the work on the item that is there now, if that is worth it.
func newAhead[T any](s *Service, key string, left *allowance, work func(it *Item, most int) (T, int, error)) (*ahead[T], error) {
	a := &ahead[T]{work: work, left: left, budget: &s.late}
	it, err := s.store.Get(key)
	if err != nil || len(it.Value.Data) < freeWork {
		return a, nil // whatever is wrong is found at the transaction's turn
	}
	cost := 0
	a.result, cost, a.err = work(it, left.ahead)
	left.ahead -= cost
	if a.err == errTooMuchWork {
		return nil, errTooMuchWork
	}
	a.revision = it.Revision
	return a, nil
}

// of returns the result for the item as the transaction finds it. It runs on the committer.
func (a *ahead[T]) of(it *Item) (T, error) {
	if a.revision != 0 && it.Revision == a.revision {
		return a.result, a.err
	}
	result, cost, err := a.work(it, a.left.free)
	a.left.free -= cost
	if err != errTooMuchWork {
		return result, err
	}
	if !a.budget.open(time.Now()) {
		var none T
		return none, rpc.Errorf(rpc.CodeOverloaded, "the value was changed meanwhile, and there is too much such work to do it again")
	}
	start := time.Now()
	result, cost, err = a.work(it, a.left.late)
	a.left.late -= cost
	a.budget.spend(time.Since(start))
	return result, err
}

// budget hands out half of the time, with a reserve for bursts. Its zero value has the reserve.
type budget struct {
	mu   sync.Mutex
	used time.Duration // beyond what was refilled
	at   time.Time
}

// burst is how much time may be spent at once.
const burst = 200 * time.Millisecond

// open reports whether there is time left.
func (b *budget) open(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.at.IsZero() {
		b.used = max(0, b.used-now.Sub(b.at)/2)
	}
	b.at = now
	return b.used < burst
}

func (b *budget) spend(d time.Duration) {
	b.mu.Lock()
	b.used += d
	b.mu.Unlock()
}
