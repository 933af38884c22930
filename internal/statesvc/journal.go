package statesvc

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/statesvc/filelog"
)

// retryLog is how long a log that failed is left alone before it is tried again.
const retryLog = 100 * time.Millisecond

// Log keeps the batches of a store in one order. The committer alone appends, and it alone calls Recover and Close;
// Trim, Roomy and Bytes may be called from any goroutine. Package filelog has the one on a local disk.
type Log interface {
	// Last returns the sequence number of the newest record.
	Last() uint64
	// Begin returns a buffer to which a batch is appended; Append makes it durable as the next record. See filelog.
	Begin() []byte
	Append(rec []byte, note filelog.Note) error
	// Recover makes the log ready again after an Append that failed.
	Recover() error
	// Trim lets go of records up to a sequence number.
	Trim(seq uint64) error
	// Roomy reports whether there is space to go on.
	Roomy() bool
	// Bytes returns how much the log takes.
	Bytes() int64
	Close() error
}

var _ Log = (*filelog.Log)(nil)

// journal makes batches durable. Only the committer appends; the rest may be called from anywhere.
type journal struct {
	f   *folder
	wal Log
	log *zap.Logger

	// committer only
	open   bool
	rev    uint64 // of the last commit in the log
	events uint64 // in all commits that the store ever had, and their cost: what the segments of the log note
	cost   uint64
	since  int64 // bytes appended since the last snapshot

	mu      sync.Mutex // guards the fields below
	failure error      // why writes are refused, nil: they are not
	retry   time.Time  // when the committer may try again
	marks   []logMark  // which record holds which revision, coarse
	snaps   []snapInfo // oldest first
	newest  uint64     // sequence number, for release

	busy      atomic.Bool // a snapshot is being written
	snapDone  sync.WaitGroup
	failures  atomic.Uint64
	snapCount atomic.Uint64
	torn      int64
}

// logMark says that every revision up to rev lies in the records up to seq.
type logMark struct{ seq, rev uint64 }

func newJournal(f *folder, log *zap.Logger) *journal { return &journal{f: f, log: log} }

// note is what a segment says that begins now.
func (j *journal) note() filelog.Note { return filelog.Note{j.rev, j.events, j.cost} }

// append writes one record, whose newest commit has the revision rev and which holds so many events of that cost, and
// returns when it is on disk. After an error the record is not in the log and will not appear in it later, unless the
// error says that its fate is unknown.
func (j *journal) append(rec []byte, rev uint64, events int, cost int64) error {
	if err := j.resume(); err != nil {
		return err
	}
	if err := j.wal.Append(rec, j.note()); err != nil {
		return j.fail(err)
	}
	j.rev = rev
	j.events += uint64(events)
	j.cost += uint64(cost)
	j.appended(int64(len(rec)))
	return nil
}

// appended updates counters and marks after a record of that size.
func (j *journal) appended(size int64) {
	j.since += size
	seq := j.wal.Last()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.newest = seq
	if n := len(j.marks); n == 0 || seq-j.marks[n-1].seq >= 64 || size > filelog.SegmentBytes/4 {
		j.marks = append(j.marks, logMark{seq, j.rev})
	}
	if j.failure != nil {
		j.log.Info("state log accepts writes again")
		j.failure = nil
	}
}

// resume opens the log again after a failure, once it is time.
func (j *journal) resume() error {
	j.mu.Lock()
	failure, retry := j.failure, j.retry
	j.mu.Unlock()
	if failure == nil && j.open {
		return nil
	}
	if failure != nil && time.Now().Before(retry) {
		return failure
	}
	if err := j.recover(); err != nil {
		return j.refuse(err)
	}
	return nil
}

func (j *journal) recover() error {
	err := j.wal.Recover()
	j.open = err == nil
	return err
}

// fail notes that the log did not take a record, and returns what the callers are told.
func (j *journal) fail(cause error) error {
	j.failures.Add(1)
	j.log.Error("state log failed", zap.Error(cause), zap.Uint64("record", j.wal.Last()+1))
	refused := j.refuse(cause)
	if a, ok := errors.AsType[*filelog.AppendError](cause); ok && a.Unknown {
		return &UnavailableError{Unknown: true, Cause: cause}
	}
	return refused
}

// refuse notes why writes are refused from now on, and returns it.
func (j *journal) refuse(cause error) error {
	var err error = &UnavailableError{Cause: cause}
	if isFull(cause) {
		err = ErrNoSpace
	}
	j.mu.Lock()
	j.failure, j.retry = err, time.Now().Add(retryLog)
	j.mu.Unlock()
	return err
}

// isFull tells a disk or a quota that is used up from other failures.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// refusing returns why writes are refused, nil when one may be tried.
func (j *journal) refusing() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failure != nil && time.Now().Before(j.retry) {
		return j.failure
	}
	return nil
}

func (j *journal) ready() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failure
}

// probe finds out whether a failure is over when nobody writes, so that the store becomes ready again by itself.
func (j *journal) probe() {
	failure := j.ready()
	if failure == nil || j.refusing() != nil {
		return
	}
	if err := j.recover(); err != nil {
		_ = j.refuse(err) // whoever writes is told
		return
	}
	if failure == ErrNoSpace && !j.wal.Roomy() {
		_ = j.refuse(syscall.ENOSPC)
		return
	}
	j.mu.Lock()
	j.failure = nil
	j.mu.Unlock()
	j.log.Info("state log accepts writes again")
}

// afterBatch starts a snapshot when the log has grown enough.
func (j *journal) afterBatch(e *engine) {
	if j.since < e.opts.SnapshotBytes || j.busy.Load() || !j.open {
		return
	}
	// A snapshot takes about as long as the state is large: with much state let the log grow in proportion.
	v := e.view.Load()
	if j.since < v.total/4 {
		return
	}
	j.startSnapshot(e, v)
}

func (j *journal) startSnapshot(e *engine, v *view) {
	j.since = 0
	j.busy.Store(true)
	j.snapDone.Go(func() {
		defer j.busy.Store(false)
		_ = j.snapshot(e, v) // it is in the log and the metrics
	})
}

// snapshot writes v and lets go of what it makes superfluous.
func (j *journal) snapshot(e *engine, v *view) error {
	start := time.Now()
	info, err := j.f.writeSnapshot(v, j.f.snapPath(v.rev))
	e.observer.Snapshotted(time.Since(start), info.size, err)
	if err != nil {
		j.log.Error("snapshot of the state failed", zap.Uint64("revision", v.rev), zap.Error(err))
		return err
	}
	j.snapCount.Add(1)
	j.log.Info("snapshot of the state written", zap.Uint64("revision", v.rev), zap.Int("keys", v.tree.Len()),
		zap.Int64("bytes", info.size), zap.Duration("took", time.Since(start)))
	j.mu.Lock()
	j.snaps = append(j.snaps, info)
	j.mu.Unlock()
	j.release(e.floor())
	return nil
}

// keepSnapshots is how many snapshots there are: the newest, and the one before in case that is damaged.
const keepSnapshots = 2

// release removes old snapshots, and segments that neither the history above floor nor the oldest snapshot kept needs.
func (j *journal) release(floor uint64) {
	j.mu.Lock()
	var old []snapInfo
	for len(j.snaps) > keepSnapshots {
		old, j.snaps = append(old, j.snaps[0]), j.snaps[1:]
	}
	need := floor
	if len(j.snaps) > 0 {
		need = min(need, j.snaps[0].rev)
	} else {
		need = 0
	}
	var seq uint64 // every record up to it may go
	keep := 0
	for keep < len(j.marks) && j.marks[keep].rev <= need && j.marks[keep].seq < j.newest {
		seq = j.marks[keep].seq
		keep++
	}
	if keep > 1 {
		j.marks = append(j.marks[:0], j.marks[keep-1:]...)
	}
	j.mu.Unlock()
	for _, s := range old {
		if err := j.f.fs.Remove(s.path); err != nil {
			j.log.Warn("cannot remove an old snapshot", zap.Error(err))
		}
	}
	if err := j.wal.Trim(seq); err != nil {
		j.log.Warn("cannot remove an old segment of the log", zap.Error(err))
	}
}

func (j *journal) stats(s *Stats) {
	j.mu.Lock()
	if n := len(j.snaps); n > 0 {
		s.SnapshotBytes, s.LastSnapshot = j.snaps[n-1].size, j.snaps[n-1].rev
	}
	j.mu.Unlock()
	s.LogBytes = j.wal.Bytes()
	s.Snapshots = j.snapCount.Load()
	s.LogFailures = j.failures.Load()
	s.TornBytes = j.torn
}

// close writes a snapshot if that makes the next start noticeably quicker, and lets go of the folder.
func (j *journal) close(e *engine) error {
	j.snapDone.Wait()
	if j.open && j.since > filelog.SegmentBytes && j.ready() == nil {
		_ = j.snapshot(e, e.view.Load()) // a failure costs time at the next start, nothing else; it was logged
	}
	return j.abandon()
}

// abandon lets go of the folder as it is.
func (j *journal) abandon() error {
	j.open = false
	var err error
	if j.wal != nil {
		err = j.wal.Close()
	}
	return errors.Join(err, j.f.close())
}

func (f *folder) snapPath(rev uint64) string {
	return filepath.Join(f.snapDir(), fmt.Sprintf("%016x.snap", rev))
}
