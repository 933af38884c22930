package filesvc

import (
	"context"
	"errors"
	"os"
	"path"
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

const (
	// block is what the quota counts in: the content of a file is rounded up to
	// it, and all that has none, an empty file or a folder, takes one. So there
	// is an end to the number of files, too.
	block = 4 << 10
	// claimStep is how much of the quota a growing upload takes at once.
	claimStep = 1 << 20
	// measureEvery is how long a measured size is good for while somebody else
	// may write to the folder.
	measureEvery = 10 * time.Second
	// measureShare bounds the time that is spent on measuring: one part in so many.
	measureShare = 20
)

// quota bounds what the folder holds. It counts what is there and what is being
// uploaded, a file that will be replaced and the one that replaces it both,
// since the disk holds both. What changes through the service is counted as it
// changes; what others change is found when the folder is measured again: now
// and then, and before anything is refused.
//
// A nil quota bounds nothing.
type quota struct {
	s   *Service
	max int64

	// changing is held while the folder is measured, and while the service
	// changes it, so that each change is seen once.
	changing sync.Mutex

	mu       sync.Mutex
	used     int64 // by what is there
	claimed  int64 // by uploads, and what else is about to be made
	measured time.Time
	took     time.Duration
}

// charge is what a file of that size counts.
func charge(size int64) int64 { return max((size+block-1)/block, 1) * block }

// Usage returns how many bytes of the quota are taken, and the quota; 0 for none.
func (s *Service) Usage() (used, quota int64) {
	q := s.quota
	if q == nil {
		return 0, 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.used + q.claimed, q.max
}

// fits tells whether there is room for n more.
func (q *quota) fits(ctx context.Context, n int64) error { return q.take(ctx, n, false) }

// claim takes n more of the quota.
func (q *quota) claim(ctx context.Context, n int64) error { return q.take(ctx, n, true) }

func (q *quota) take(ctx context.Context, n int64, keep bool) error {
	err := q.takeKnown(ctx, n, keep, measureEvery)
	if errors.Is(err, errQuota) { // somebody may have made room
		err = q.takeKnown(ctx, n, keep, 0)
	}
	return err
}

// takeKnown is take with what is known, by a measuring of at most that age.
func (q *quota) takeKnown(ctx context.Context, n int64, keep bool, age time.Duration) error {
	if err := q.refresh(ctx, age); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if n > q.max-q.used-q.claimed {
		return q.refused()
	}
	if keep {
		q.claimed += n
	}
	return nil
}

// refused is the error for what does not fit. It is called with mu held.
func (q *quota) refused() error {
	taken := q.used + q.claimed
	return rpc.Errorf(rpc.CodeTooLarge, "the hub's files may have %d bytes in all, and %d are taken", q.max, taken).
		With(rpc.MustEncode(map[string]any{"limit": LimitQuota, "quota": q.max, "used": taken})).Because(errQuota)
}

var errQuota = errors.New("quota exceeded")

// give returns what was claimed and not used.
func (q *quota) give(n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.claimed -= n
}

// count notes that the folder has become larger by n, of which claimed was
// claimed before. It is called with changing held.
func (q *quota) count(n, claimed int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.used = max(q.used+n, 0)
	q.claimed -= claimed
}

// refresh measures the folder if it was not measured for so long.
func (q *quota) refresh(ctx context.Context, age time.Duration) error {
	if q.fresh(age) {
		return nil
	}
	q.changing.Lock()
	defer q.changing.Unlock()
	if q.fresh(age) { // by whoever held the lock
		return nil
	}
	began := time.Now()
	m := measure{s: q.s, ctx: ctx, clean: true}
	if err := m.root(); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.used, q.measured, q.took = m.bytes, time.Now(), time.Since(began)
	return nil
}

func (q *quota) fresh(age time.Duration) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.measured.IsZero() && time.Since(q.measured) < max(age, measureShare*q.took)
}

// add runs do, which makes what is missing of path.
func (q *quota) add(ctx context.Context, path string, do func() error) error {
	if q == nil {
		return do()
	}
	want := q.s.missing(path) * block
	if want > 0 {
		if err := q.claim(ctx, want); err != nil {
			return err
		}
	}
	q.changing.Lock()
	defer q.changing.Unlock()
	before := q.s.missing(path)
	err := do()
	q.count((before-q.s.missing(path))*block, want)
	return err
}

// remove runs do, which removes path, or what of it can be removed.
func (q *quota) remove(ctx context.Context, path string, do func() error) error {
	if q == nil {
		return do()
	}
	q.changing.Lock()
	defer q.changing.Unlock()
	before := measure{s: q.s, ctx: ctx}
	if err := before.path(path); err != nil {
		return err
	}
	err := do()
	after := measure{s: q.s, ctx: context.WithoutCancel(ctx)}
	if err != nil && after.path(path) != nil {
		after.bytes = before.bytes // the next measuring knows
	}
	q.count(after.bytes-before.bytes, 0)
	return err
}

// missing counts the names at the end of a path that do not exist.
func (s *Service) missing(rel string) (n int64) {
	for ; rel != "."; rel = path.Dir(rel) {
		if _, err := s.root.Lstat(rel); !errors.Is(err, os.ErrNotExist) {
			break
		}
		n++
	}
	return n
}

// claim is what one upload has of the quota.
type claim struct {
	q *quota
	n int64
}

// grow sees to it that there is room for size bytes.
func (c *claim) grow(ctx context.Context, size int64) error {
	if c.q == nil {
		return nil
	}
	need := charge(size) - c.n
	if need <= 0 {
		return nil
	}
	step := max(need, claimStep)
	err := c.q.claim(ctx, step)
	if err != nil && step > need {
		step = need // the last bit fits or not
		err = c.q.claim(ctx, step)
	}
	if err == nil {
		c.n += step
	}
	return err
}

// settle runs do, which puts a file of that size in the place of path, and
// turns the claim into what the folder holds.
func (c *claim) settle(path string, size int64, do func() error) error {
	if c.q == nil {
		return do()
	}
	c.q.changing.Lock()
	defer c.q.changing.Unlock()
	replaced := measure{s: c.q.s, ctx: context.Background()}
	if err := replaced.path(path); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	c.q.count(charge(size)-replaced.bytes, c.n)
	c.n = 0
	return nil
}

// release gives back what was not settled.
func (c *claim) release() {
	if c.n > 0 {
		c.q.give(c.n)
		c.n = 0
	}
}
