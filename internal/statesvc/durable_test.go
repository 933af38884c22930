package statesvc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/statesvc/disk"
	"github.com/hubd-dev/hubd/internal/statesvc/filelog"
)

// do commits and waits.
func do(t testing.TB, s Store, tx *Tx) (Result, error) {
	t.Helper()
	type outcome struct {
		res Result
		err error
	}
	done := make(chan outcome, 1)
	if err := s.Commit(tx, func(r Result, err error) { done <- outcome{r, err} }); err != nil {
		return Result{}, err
	}
	select {
	case o := <-done:
		return o.res, o.err
	case <-time.After(30 * time.Second):
		t.Fatal("commit was not answered")
		panic("unreachable")
	}
}

func putOp(key, value string) Op {
	return Op{Kind: OpPut, Key: key, Value: Value{Data: []byte(value)}}
}

func mustPut(t testing.TB, s Store, key, value string) uint64 {
	t.Helper()
	r, err := do(t, s, OneOp(putOp(key, value)))
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return r.Revision
}

func mustOpen(t testing.TB, dir string, opts Options) *engine {
	t.Helper()
	e, err := openEngine(dir, opts)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// crash ends a store as SIGKILL would: nothing more is written.
func crash(e *engine) {
	e.closing.Do(func() {
		e.queue.close()
		<-e.stopped
		e.watches.endAll(ErrClosed, true)
		e.replies.close()
		e.goroutine.Wait()
		e.journal.snapDone.Wait()
		_ = e.journal.abandon()
	})
}

// logFiles returns the segments of the log of a store, oldest first.
func logFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, logName, "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	return files
}

// logRecords returns where the records of the newest segment are. The store must not be in use.
func logRecords(t testing.TB, dir string) []filelog.Record {
	t.Helper()
	f, err := openFolder(disk.OS, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if _, err := f.identify(); err != nil {
		t.Fatal(err)
	}
	var records []filelog.Record
	if err := f.log(0).Replay(filelog.Visitor{
		Decode: func(filelog.Record) (any, error) { return nil, nil },
		Apply: func(r filelog.Record, _ any) error {
			if len(records) > 0 && r.Offset <= records[len(records)-1].Offset {
				records = records[:0] // a new segment
			}
			records = append(records, r)
			return nil
		},
	}); err != nil {
		t.Fatal(err)
	}
	return records
}

// dump describes everything that a client can see of a store.
func dump(t testing.TB, s Store) string {
	t.Helper()
	var b strings.Builder
	i := s.Info()
	fmt.Fprintf(&b, "revision %d compacted %d\n", i.Revision, i.Compacted)
	for it := range s.Snapshot().Items {
		fmt.Fprintf(&b, "%s=%q enc %d rev %d created %d updated %d", it.Key, it.Value.Data, it.Value.Encoding, it.Revision, it.Created, it.Updated)
		if it.Lease != nil {
			fmt.Fprintf(&b, " ttl %v owner %q", it.Lease.TTL, it.Lease.Owner)
		}
		b.WriteByte('\n')
	}
	w, err := s.Watch(WatchOptions{Resume: true, From: i.Compacted})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for {
		batch, err := w.Next(1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch.Events {
			fmt.Fprintf(&b, "%v %s rev %d prev %d at %d", e.Type, e.Key, e.Revision, e.Previous, e.Time)
			if e.Item != nil {
				fmt.Fprintf(&b, " %q", e.Item.Value.Data)
			}
			b.WriteByte('\n')
		}
		if batch.Idle {
			return b.String()
		}
	}
}

// work does a bit of everything.
func work(t testing.TB, s Store, seed uint64, n int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 7))
	s.Claim("me")
	for range n {
		key := fmt.Sprintf("k/%d", rng.IntN(20))
		var tx *Tx
		switch rng.IntN(8) {
		case 0:
			tx = OneOp(Op{Kind: OpDelete, Key: key})
		case 1:
			tx = OneOp(Op{Kind: OpPut, Key: key, Value: Value{Data: make([]byte, rng.IntN(3000)), Encoding: 2}})
		case 2:
			tx = &Tx{Then: []Op{putOp(key, "a"), putOp(key+"/x", "b"), {Kind: OpDeletePrefix, Key: "k/1"}}}
		case 3:
			tx = OneOp(Op{Kind: OpPut, Key: key, Value: Value{Data: []byte("1")}, TTL: time.Hour, Owner: "me"})
		default:
			tx = OneOp(putOp(key, strings.Repeat("v", rng.IntN(300))))
		}
		if _, err := do(t, s, tx); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReopenShowsTheSame(t *testing.T) {
	for _, clean := range []bool{false, true} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			dir := t.TempDir()
			e := mustOpen(t, dir, Options{})
			for round := range 5 {
				work(t, e, uint64(round), 60)
				if round == 3 {
					rev := e.Info().Revision
					done := make(chan error, 1)
					e.Compact(rev-5, func(_ uint64, err error) { done <- err })
					if err := <-done; err != nil {
						t.Fatal(err)
					}
				}
				want := dump(t, e)
				before := e.Stats()
				if clean {
					e.Close()
				} else {
					crash(e)
				}
				e = mustOpen(t, dir, Options{})
				if got := dump(t, e); got != want {
					t.Fatalf("round %d: after reopening:\n%s\nwant:\n%s", round, got, want)
				}
				if after := e.Stats(); after.Bytes != before.Bytes || after.Keys != before.Keys || after.HistoryBytes != before.HistoryBytes || after.Leases != before.Leases {
					t.Fatalf("stats: got %+v, want %+v", after, before)
				}
			}
		})
	}
}

// TestSnapshotsAndSegments is what promise P7 rests on, a log that stays short; BenchmarkOpen has the figures. It lets the log go through many segments and snapshots and back through a crash.
func TestSnapshotsAndSegments(t *testing.T) {
	dir := t.TempDir()
	opts := Options{SnapshotBytes: 3 << 20, Limits: Limits{HistoryEvents: 200}}
	e := mustOpen(t, dir, opts)
	value := strings.Repeat("x", 50_000)
	for round := range 4 {
		for i := range 120 {
			mustPut(t, e, fmt.Sprintf("k/%d", i%50), fmt.Sprintf("%d %d %s", round, i, value))
		}
		e.journal.snapDone.Wait()
		want := dump(t, e)
		crash(e)
		e = mustOpen(t, dir, opts)
		if got := dump(t, e); got != want {
			t.Fatalf("round %d: different after reopening", round)
		}
	}
	segs := logFiles(t, dir)
	snaps, _ := e.journal.f.listSnapshots()
	if len(snaps) != keepSnapshots || strings.HasSuffix(segs[0], "0001.log") {
		t.Fatalf("%d snapshots, %d segments, first %s: nothing was released", len(snaps), len(segs), segs[0])
	}
	if s := e.Stats(); s.LogBytes > 40<<20 || s.LastSnapshot == 0 {
		t.Fatalf("stats: %+v", s)
	}
	// The newest snapshot is damaged: the one before and the log have everything.
	want := dump(t, e)
	crash(e)
	flip(t, snaps[1].path, snaps[1].size/2, 0x10)
	e = mustOpen(t, dir, opts)
	if got := dump(t, e); got != want {
		t.Fatal("different after falling back to the older snapshot")
	}
	crash(e)
	// Both are: the log alone does not reach back.
	flip(t, snaps[0].path, snaps[0].size/2, 0x10)
	_, err := openEngine(dir, opts)
	if d, ok := errors.AsType[*DamagedError](err); !ok || d.Offset < 0 || ExitCode(err) != ExitDamaged {
		t.Fatalf("two damaged snapshots: %v", err)
	}
	// They are missing altogether: the same.
	left, _ := filepath.Glob(filepath.Join(dir, snapName, "*"))
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	_, err = openEngine(dir, opts)
	if d, ok := errors.AsType[*DamagedError](err); !ok || !strings.Contains(d.Reason, "no snapshot that reaches it") || ExitCode(err) != ExitDamaged {
		t.Fatalf("no snapshot: %v", err)
	}
}
