package statesvc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// segmentBytes is how large a segment of the log grows. Two are allocated ahead, which must fit on small disks too; at
// high rates the price of changing segments is still far below that of the syncs.
const segmentBytes = 4 << 20

func init() {
	// The wal package has a variable for it that is read without a lock whenever something is written.
	wal.SegmentSizeBytes = segmentBytes
}

// retryLog is how long a log that failed is left alone before it is tried again.
const retryLog = 100 * time.Millisecond

// journal makes batches durable. Only the committer appends; the rest may be called from anywhere.
type journal struct {
	f    *folder
	log  *zap.Logger
	salt uint32

	// committer only
	w     *wal.WAL // nil: must be opened again
	index uint64   // of the last record that is known to be good
	rev   uint64   // of the last commit in it
	buf   []byte
	since int64 // bytes appended since the last snapshot

	mu      sync.Mutex // guards the fields below
	failure error      // why writes are refused, nil: they are not
	retry   time.Time  // when the committer may try again
	marks   []logMark  // which record holds which revision, coarse
	snaps   []snapInfo // oldest first
	newest  uint64     // index, for release

	busy      atomic.Bool // a snapshot is being written
	snapDone  sync.WaitGroup
	logBytes  atomic.Int64
	failures  atomic.Uint64
	snapCount atomic.Uint64
	torn      int64
}

// logMark says that every revision up to rev lies in the records up to index.
type logMark struct{ index, rev uint64 }

func newJournal(f *folder, log *zap.Logger) *journal {
	return &journal{f: f, log: log, salt: f.mark.salt()}
}

// walLogger turns the places where the wal package would end the process into a panic that guard catches.
func walLogger(log *zap.Logger) *zap.Logger {
	return log.Named("wal").WithOptions(zap.WithFatalHook(fatalHook{}),
		zap.WrapCore(func(c zapcore.Core) zapcore.Core { return warnings{c} }))
}

// warnings lets nothing below a warning through. Other than with
// zap.IncreaseLevel, the level of the core may be higher, and may change.
type warnings struct{ zapcore.Core }

func (w warnings) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel && w.Core.Enabled(l) }

func (w warnings) With(fields []zapcore.Field) zapcore.Core { return warnings{w.Core.With(fields)} }

func (w warnings) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if e.Level < zapcore.WarnLevel {
		return ce
	}
	return w.Core.Check(e, ce)
}

type fatalHook struct{}

func (fatalHook) OnWrite(ce *zapcore.CheckedEntry, _ []zapcore.Field) {
	panic("wal: " + ce.Message)
}

// guard runs f and returns a panic of it as an error.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("log: %v", p)
		}
	}()
	return f()
}

// create makes an empty log.
func (j *journal) create() error {
	return guard(func() (err error) {
		if err := j.f.faults("create"); err != nil {
			return err
		}
		j.w, err = wal.Create(walLogger(j.log), j.f.logDir(), j.f.mark.metadata())
		if err == nil && j.w == nil {
			// wal.Create of v3.7.3 loses the error of this sync, and leaves behind what holds the lock of the next
			// segment: another log in this process would wait for it for ever.
			err = errors.New("the folder could not be synced after the log was made")
		}
		return err
	})
}

// open makes the log ready to append behind record j.index, which must be its last.
func (j *journal) open() error {
	var w *wal.WAL
	err := guard(func() (err error) {
		if err := j.f.faults("open"); err != nil {
			return err
		}
		// The wal package allocates the rest of the newest segment anew and, beside that, the next one. On a disk that
		// is nearly full the next one must not take what the newest has, so it waits until that is settled.
		defer j.f.holdNextSegment()()
		if err := j.f.trimTail(); err != nil {
			return err
		}
		// A start beyond the last record makes wal read the newest segment only: all of them were checked here already.
		w, err = wal.Open(walLogger(j.log), j.f.logDir(), &walpb.Snapshot{Index: new(j.index + 1), Term: new(uint64(1))})
		if err != nil {
			return err
		}
		meta, _, ents, err := w.ReadAll()
		if err != nil {
			return err
		}
		if len(ents) > 0 {
			return fmt.Errorf("log has records after %d", j.index)
		}
		if err := j.f.mark.checkMetadata(j.f.logDir(), meta); err != nil {
			return err
		}
		return j.f.allocateTail()
	})
	if err != nil {
		if w != nil {
			shut(w)
		}
		return err
	}
	j.w = w
	return nil
}

// holdNextSegment keeps the wal package from allocating the segment that it makes ahead until release is called: it
// waits for the lock of that file.
func (f *folder) holdNextSegment() (release func()) {
	file, err := os.OpenFile(filepath.Join(f.logDir(), "0.tmp"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return func() {} // no room even for a name: then there is none for the segment either
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		file.Close()
		return func() {} // a file system without locks: the two race for the space, as they would anyway
	}
	return func() { file.Close() }
}

// trimTail takes the zeros off the end of the newest segment, so that opening it needs no space.
func (f *folder) trimTail() error {
	tail, err := f.tail()
	if err != nil {
		return err
	}
	data, err := os.ReadFile(tail)
	if err != nil {
		return err
	}
	s := parseSegment(data)
	if s.problem != nil {
		return &DamagedError{File: tail, Offset: s.end, Reason: s.problem.Error(), Hint: repairHint}
	}
	if s.end == int64(len(data)) {
		return nil
	}
	return os.Truncate(tail, s.end)
}

// allocateTail allocates what the newest segment has left. Zeros mark what was not written.
func (f *folder) allocateTail() error {
	tail, err := f.tail()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(tail, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || info.Size() >= segmentBytes {
		return err
	}
	if err := syscall.Fallocate(int(file.Fd()), 0, 0, segmentBytes); err != nil {
		return nil // full, or a file system that cannot: appending then allocates as it goes
	}
	return file.Sync()
}

// tail returns the path of the newest segment.
func (f *folder) tail() (string, error) {
	segs, err := listSegments(f.logDir())
	if err != nil {
		return "", err
	}
	if len(segs) == 0 {
		return "", &DamagedError{File: f.logDir(), Offset: -1, Reason: "log is missing"}
	}
	return segs[len(segs)-1].path, nil
}

// shut closes a log whatever state it is in. Close of a log that cannot be synced returns before it has let go of its
// files, so it is told not to sync and tried until it gets through: each try drops what it could not write.
func shut(w *wal.WAL) {
	w.SetUnsafeNoFsync()
	for range 3 {
		if guard(w.Close) == nil {
			return
		}
	}
}

// begin returns the buffer for the next record.
func (j *journal) begin() []byte { return beginRecord(j.buf) }

// append writes one record and returns when it is on disk. After an error the record is not in the log and will not
// appear in it later, unless the error says that its fate is unknown.
func (j *journal) append(rec []byte, rev uint64) error {
	if cap(rec) > cap(j.buf) && cap(rec) <= maxBatchBytes*2 {
		j.buf = rec // grown by this batch: keep it for the next
	}
	if err := j.resume(); err != nil {
		return err
	}
	index := j.index + 1
	rec = sealRecord(rec, index, j.salt)
	err := guard(func() error {
		if err := j.f.faults("append"); err != nil {
			return err
		}
		err := j.w.Save(nil, []*raftpb.Entry{{Term: new(uint64(1)), Index: &index, Data: rec}})
		if err == nil {
			err = j.f.faults("appended")
		}
		return err
	})
	if err != nil {
		return j.fail(err)
	}
	j.index, j.rev = index, rev
	j.appended(len(rec))
	return nil
}

// appended keeps the books after a record.
func (j *journal) appended(size int) {
	j.since += int64(size)
	j.logBytes.Add(int64(size))
	j.mu.Lock()
	defer j.mu.Unlock()
	j.newest = j.index
	if n := len(j.marks); n == 0 || j.index-j.marks[n-1].index >= 64 || size > segmentBytes/4 {
		j.marks = append(j.marks, logMark{j.index, j.rev})
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
	if failure == nil && j.w != nil {
		return nil
	}
	if time.Now().Before(retry) {
		return failure
	}
	// Opened anew even if it is open: the segment that wal prepares ahead failed with the rest and is remembered as such.
	if err := j.rollback(); err != nil {
		return j.refuse(err)
	}
	return nil
}

// fail takes back a record that was not written or whose sync failed. After a failed sync the pages may look clean without
// being on disk, so what was written since the sync before is cut off and written anew by whoever tries again.
func (j *journal) fail(cause error) error {
	j.failures.Add(1)
	j.log.Error("state log failed", zap.Error(cause), zap.Uint64("record", j.index+1))
	undone, err := j.undo()
	if err == nil {
		err = j.open()
	}
	if err != nil {
		j.log.Error("state log cannot be opened again", zap.Error(err))
	}
	refused := j.refuse(cause)
	if u, ok := refused.(*UnavailableError); ok || !undone {
		unknown := !undone
		if ok {
			cause = u.Cause
		}
		return &UnavailableError{Unknown: unknown, Cause: cause}
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
	if err := j.rollback(); err != nil {
		_ = j.refuse(err) // whoever writes is told
		return
	}
	if failure == ErrNoSpace && !j.f.roomy() {
		_ = j.refuse(syscall.ENOSPC)
		return
	}
	j.mu.Lock()
	j.failure = nil
	j.mu.Unlock()
	j.log.Info("state log accepts writes again")
}

// roomy reports whether there is space for the segments that are made ahead.
func (f *folder) roomy() bool {
	var s syscall.Statfs_t
	return syscall.Statfs(f.path, &s) == nil && s.Bavail*uint64(s.Bsize) >= 2*segmentBytes
}

func (j *journal) rollback() error {
	if _, err := j.undo(); err != nil {
		return err
	}
	return j.open()
}

// undo cuts off everything behind the last good record. undone is set as soon as that is certain.
func (j *journal) undo() (undone bool, err error) {
	if j.w != nil {
		shut(j.w)
		j.w = nil
	}
	segs, err := listSegments(j.f.logDir())
	if err != nil {
		return false, err
	}
	// A change of segments that got as far as giving the new one its name.
	for len(segs) > 0 && segs[len(segs)-1].index > j.index+1 {
		if err := j.f.faults("remove"); err != nil {
			return false, err
		}
		if err := os.Remove(segs[len(segs)-1].path); err != nil {
			return false, err
		}
		segs = segs[:len(segs)-1]
	}
	if len(segs) == 0 {
		return false, &DamagedError{File: j.f.logDir(), Offset: -1, Reason: "log is missing"}
	}
	tail := segs[len(segs)-1]
	data, err := os.ReadFile(tail.path)
	if err != nil {
		return false, err
	}
	s := parseSegment(data)
	end, last := s.end, tail.index-1
	if tail.index == 0 {
		last = 0
	}
	for _, r := range s.records {
		if r.index > j.index {
			end = r.offset
			break
		}
		last = r.index
	}
	if last != j.index {
		return false, &DamagedError{File: tail.path, Offset: s.end, Reason: fmt.Sprintf("record %d is no longer there", j.index)}
	}
	if err := j.f.cut(tail.path, end); err != nil {
		return false, err
	}
	if err := j.f.syncDir(j.f.logDir()); err != nil {
		return false, err
	}
	return true, nil
}

// cut ends a segment at offset, durably.
func (f *folder) cut(path string, offset int64) error {
	if err := f.faults("truncate"); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(offset); err != nil {
		return err
	}
	if err := f.faults("sync"); err != nil {
		return err
	}
	return file.Sync()
}

// afterBatch starts a snapshot when the log has grown enough.
func (j *journal) afterBatch(e *engine) {
	if j.since < e.opts.SnapshotBytes || j.busy.Load() || j.w == nil {
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
	if err := j.w.ReleaseLockTo(j.index); err != nil { // one descriptor per segment otherwise
		j.log.Warn("cannot release old segments of the log", zap.Error(err))
	}
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
	var index uint64 // every record up to it may go
	keep := 0
	for keep < len(j.marks) && j.marks[keep].rev <= need && j.marks[keep].index < j.newest {
		index = j.marks[keep].index
		keep++
	}
	if keep > 1 {
		j.marks = append(j.marks[:0], j.marks[keep-1:]...)
	}
	j.mu.Unlock()
	for _, s := range old {
		if err := os.Remove(s.path); err != nil {
			j.log.Warn("cannot remove an old snapshot", zap.Error(err))
		}
	}
	segs, err := listSegments(j.f.logDir())
	if err != nil {
		return
	}
	for i := 0; i+1 < len(segs) && segs[i+1].index <= index+1; i++ {
		info, err := os.Stat(segs[i].path)
		if err == nil {
			err = os.Remove(segs[i].path)
		}
		if err != nil {
			j.log.Warn("cannot remove an old segment of the log", zap.Error(err))
			return
		}
		j.logBytes.Add(-info.Size())
	}
}

func (j *journal) stats(s *Stats) {
	j.mu.Lock()
	if n := len(j.snaps); n > 0 {
		s.SnapshotBytes, s.LastSnapshot = j.snaps[n-1].size, j.snaps[n-1].rev
	}
	j.mu.Unlock()
	s.LogBytes = max(0, j.logBytes.Load())
	s.Snapshots = j.snapCount.Load()
	s.LogFailures = j.failures.Load()
	s.TornBytes = j.torn
}

// close writes a snapshot if that makes the next start noticeably quicker, and lets go of the folder.
func (j *journal) close(e *engine) error {
	j.snapDone.Wait()
	if j.w != nil && j.since > segmentBytes && j.ready() == nil {
		_ = j.snapshot(e, e.view.Load()) // a failure costs time at the next start, nothing else; it was logged
	}
	var err error
	if j.w != nil {
		if err = guard(j.w.Close); err != nil {
			shut(j.w)
		}
		j.w = nil
	}
	return errors.Join(err, j.f.close())
}

func (f *folder) snapPath(rev uint64) string {
	return filepath.Join(f.snapDir(), fmt.Sprintf("%016x.snap", rev))
}
