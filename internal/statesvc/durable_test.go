package statesvc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
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
		if e.journal.w != nil {
			shut(e.journal.w)
		}
		e.journal.f.close()
	})
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

// TestSnapshotsAndSegments lets the log go through many segments and snapshots and back through a crash.
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
	segs, _ := listSegments(filepath.Join(dir, logName))
	snaps, _ := e.journal.f.listSnapshots()
	if len(snaps) != keepSnapshots || len(segs) == 0 || segs[0].seq == 0 {
		t.Fatalf("%d snapshots, %d segments, first %+v: nothing was released", len(snaps), len(segs), segs[0])
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
}

func flip(t testing.TB, path string, at int64, mask byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= mask
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeLog makes a small state with known contents and returns the folder and its newest segment.
func writeLog(t testing.TB, n int) (dir, segment, want string, revision uint64) {
	t.Helper()
	dir = t.TempDir()
	e := mustOpen(t, dir, Options{})
	work(t, e, 1, n)
	want = dump(t, e)
	revision = e.Info().Revision
	crash(e)
	segs, err := listSegments(filepath.Join(dir, logName))
	if err != nil || len(segs) != 1 {
		t.Fatal(segs, err)
	}
	return dir, segs[0].path, want, revision
}

// lastRecord returns where the last frame of a segment begins and ends.
func lastRecord(t testing.TB, data []byte) (start, end int64) {
	t.Helper()
	s := parseSegment(data)
	if s.problem != nil || len(s.records) == 0 {
		t.Fatalf("segment: %v, %d records", s.problem, len(s.records))
	}
	return s.records[len(s.records)-1].offset, s.end
}

// TestTornTail cuts the last record at every byte, by ending the file there and by zeros as in allocated space, and also
// with single sectors missing from its middle. All of it must start, with all earlier records and without the last.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	e := mustOpen(t, dir, Options{})
	work(t, e, 3, 20)
	before := dump(t, e)
	var rng = rand.New(rand.NewPCG(1, 1))
	big := make([]byte, 2600)
	for i := range big {
		big[i] = byte(rng.Uint32())
	}
	if _, err := do(t, e, OneOp(Op{Kind: OpPut, Key: "last", Value: Value{Data: big, Encoding: 1}})); err != nil {
		t.Fatal(err)
	}
	after := dump(t, e)
	crash(e)
	segs, _ := listSegments(filepath.Join(dir, logName))
	path := segs[0].path
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	start, end := lastRecord(t, whole)
	try := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := openEngine(dir, Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		got := dump(t, e)
		if got != before && got != after {
			t.Errorf("%s: neither with nor without the last record", name)
		}
		mustPut(t, e, "next", name)
		crash(e)
		if e, err = openEngine(dir, Options{}); err != nil {
			t.Errorf("%s: second start: %v", name, err)
			return
		}
		if it, err := e.Get("next"); err != nil || string(it.Value.Data) != name {
			t.Errorf("%s: written after the repair: %v", name, err)
		}
		crash(e)
	}
	step := int64(1)
	if testing.Short() || thin > 1 {
		step = 37
	}
	for cut := start; cut < end; cut += step {
		if cut > start+64 && cut < end-64 && cut%97 != 0 && cut%sectorSize > 1 {
			continue
		}
		try(fmt.Sprintf("file ends at %d", cut-start), whole[:cut])
		zeroed := append(append([]byte{}, whole[:cut]...), make([]byte, int64(len(whole))-cut)...)
		try(fmt.Sprintf("zeros from %d", cut-start), zeroed)
	}
	for sector := (start/sectorSize + 1) * sectorSize; sector+sectorSize <= end; sector += sectorSize {
		hole := append([]byte{}, whole...)
		clear(hole[sector : sector+sectorSize])
		try(fmt.Sprintf("hole at %d", sector), hole)
	}
	garbage := append([]byte{}, whole[:start]...)
	garbage = append(garbage, make([]byte, sectorSize*2)...)
	garbage = append(garbage, big...)
	try("garbage after a hole", garbage)
	try("file made longer", append(append([]byte{}, whole...), whole[start:start+64]...))
	if !strings.Contains(before, "revision") || before == after {
		t.Fatal("the test does not tell its states apart")
	}
}

// TestFlippedBytes damages every place of a log in turn. Each time the store refuses to start, or shows exactly what it had.
func TestFlippedBytes(t *testing.T) {
	dir, path, want, _ := writeLog(t, 40)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	start, end := lastRecord(t, whole)
	refused, unharmed := 0, 0
	rng := rand.New(rand.NewPCG(5, 5))
	try := func(at int64, mask byte) {
		t.Helper()
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		write := func(c byte) {
			if _, err := file.WriteAt([]byte{c}, at); err != nil {
				t.Fatal(err)
			}
		}
		write(whole[at] ^ mask)
		e, err := openEngine(dir, Options{})
		if err != nil {
			write(whole[at])
			refused++
			d, damaged := errors.AsType[*DamagedError](err)
			_, format := errors.AsType[*FormatError](err)
			if !damaged && !format || damaged && d.File == "" || ExitCode(err) != ExitDamaged {
				t.Errorf("byte %d ^ %#x: %v", at, mask, err)
			}
			return
		}
		if dump(t, e) != want {
			t.Errorf("byte %d ^ %#x (last record %d..%d): something else is served", at, mask, start, end)
		}
		unharmed++
		crash(e)
		if err := os.WriteFile(path, whole, 0o600); err != nil { // a repair may have written
			t.Fatal(err)
		}
	}
	for at := range end {
		if (at >= start || at%17 == 0) && at%thin == 0 {
			try(at, 1<<rng.IntN(8))
			try(at, whole[at]) // becomes zero
			try(at, 0xff)
		}
	}
	for range 20 { // in the space not yet used
		try(end+rng.Int64N(int64(len(whole))-end), 0x40)
	}
	t.Logf("%d refused, %d unharmed", refused, unharmed)
	if refused == 0 {
		t.Error("nothing was refused: the test does not reach the log")
	}
}

func TestFlippedSnapshot(t *testing.T) {
	dir := t.TempDir()
	e := mustOpen(t, dir, Options{Limits: Limits{HistoryEvents: 5}})
	for i := range 300 {
		mustPut(t, e, fmt.Sprintf("k/%d", i), strings.Repeat("v", i))
	}
	v := e.view.Load()
	if err := e.journal.snapshot(e, v); err != nil {
		t.Fatal(err)
	}
	want := dump(t, e)
	crash(e)
	path := e.journal.f.snapPath(v.rev)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := openFolder(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.identify(); err != nil {
		t.Fatal(err)
	}
	check := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := f.readSnapshot(path, time.Now())
		if c := ExitCode(err); c != ExitDamaged {
			t.Errorf("%s: %v", name, err)
		}
	}
	for at := range len(whole) {
		if (at < 200 || at > len(whole)-100 || at%61 == 0) && at%thin == 0 {
			data := append([]byte{}, whole...)
			data[at] ^= 1 << (at % 8)
			check(fmt.Sprintf("byte %d", at), data)
			check(fmt.Sprintf("cut at %d", at), whole[:at])
		}
	}
	f.close()
	// what follows the end is not looked at
	if err := os.WriteFile(path, append(whole, "garbage"...), 0o600); err != nil {
		t.Fatal(err)
	}
	e = mustOpen(t, dir, Options{Limits: Limits{HistoryEvents: 5}})
	if dump(t, e) != want {
		t.Error("different after reopening")
	}
}

func TestFolderRefusals(t *testing.T) {
	wantCode := func(t *testing.T, dir string, code int, part string) {
		t.Helper()
		_, err := openEngine(dir, Options{})
		if err == nil || ExitCode(err) != code || !strings.Contains(err.Error(), part) {
			t.Fatalf("got %v (code %d), want code %d and %q", err, ExitCode(err), code, part)
		}
	}
	remove := func(t *testing.T, name string) {
		t.Helper()
		if err := os.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
	}
	state := func(t *testing.T) string {
		t.Helper()
		dir := t.TempDir()
		e := mustOpen(t, dir, Options{Limits: Limits{HistoryEvents: 1}})
		work(t, e, 2, 50)
		e.journal.release(e.floor())
		if err := e.journal.snapshot(e, e.view.Load()); err != nil {
			t.Fatal(err)
		}
		crash(e)
		return dir
	}
	t.Run("second daemon", func(t *testing.T) {
		dir := t.TempDir()
		mustOpen(t, dir, Options{})
		wantCode(t, dir, ExitLocked, "in use")
	})
	t.Run("log missing", func(t *testing.T) {
		dir := state(t)
		remove(t, filepath.Join(dir, logName))
		wantCode(t, dir, ExitDamaged, "log is missing")
		if _, err := os.Stat(filepath.Join(dir, logName)); !errors.Is(err, fs.ErrNotExist) {
			t.Error("something was made over existing files")
		}
	})
	t.Run("segments missing", func(t *testing.T) {
		dir := state(t)
		segs, _ := listSegments(filepath.Join(dir, logName))
		for _, s := range segs {
			remove(t, s.path)
		}
		wantCode(t, dir, ExitDamaged, "log is missing")
	})
	t.Run("empty log file", func(t *testing.T) {
		dir := state(t)
		segs, _ := listSegments(filepath.Join(dir, logName))
		os.Truncate(segs[0].path, 0)
		wantCode(t, dir, ExitDamaged, segs[0].path)
	})
	t.Run("mark missing", func(t *testing.T) {
		dir := state(t)
		remove(t, filepath.Join(dir, markName))
		wantCode(t, dir, ExitDamaged, markName)
	})
	t.Run("mark unreadable", func(t *testing.T) {
		dir := state(t)
		os.WriteFile(filepath.Join(dir, markName), nil, 0o600)
		wantCode(t, dir, ExitDamaged, markName)
	})
	t.Run("newer format", func(t *testing.T) {
		dir := state(t)
		os.WriteFile(filepath.Join(dir, markName), []byte(`{"hubd_state_format":2,"id":"x"}`), 0o600)
		wantCode(t, dir, ExitDamaged, "newer version")
	})
	t.Run("newer snapshot", func(t *testing.T) {
		dir := state(t)
		snaps, _ := filepath.Glob(filepath.Join(dir, snapName, "*.snap"))
		data, _ := os.ReadFile(snaps[0])
		data[blockHead+len(snapMagic)] = snapFormat + 1
		os.WriteFile(snaps[0], data, 0o600)
		wantCode(t, dir, ExitDamaged, "newer version")
	})
	t.Run("log of another store", func(t *testing.T) {
		dir, other := state(t), state(t)
		remove(t, filepath.Join(dir, logName))
		if err := os.Rename(filepath.Join(other, logName), filepath.Join(dir, logName)); err != nil {
			t.Fatal(err)
		}
		wantCode(t, dir, ExitDamaged, "another store")
	})
	t.Run("snapshot of another store", func(t *testing.T) {
		dir, other := state(t), state(t)
		mine, _ := filepath.Glob(filepath.Join(dir, snapName, "*.snap"))
		theirs, _ := filepath.Glob(filepath.Join(other, snapName, "*.snap"))
		data, _ := os.ReadFile(theirs[0])
		os.WriteFile(mine[0], data, 0o600)
		// The log still has everything, so the foreign file does no harm; alone it is refused.
		if e, err := openEngine(dir, Options{}); err == nil {
			crash(e)
		} else if ExitCode(err) != ExitDamaged {
			t.Fatal(err)
		}
	})
	t.Run("foreign files", func(t *testing.T) {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "thesis.txt"), []byte("x"), 0o600)
		wantCode(t, dir, ExitUnusable, "thesis.txt")
	})
	t.Run("not a folder", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "file")
		os.WriteFile(name, []byte("x"), 0o600)
		wantCode(t, name, ExitUnusable, "not usable")
	})
	t.Run("read-only folder", func(t *testing.T) {
		dir := mountTmpfs(t, "16m")
		e := mustOpen(t, filepath.Join(dir, "state"), Options{})
		crash(e)
		if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			t.Skipf("remount: %v", err)
		}
		wantCode(t, filepath.Join(dir, "state"), ExitUnusable, "read-only")
	})
	t.Run("crash while it was made", func(t *testing.T) {
		dir := t.TempDir()
		f, err := openFolder(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		f.create()
		j := newJournal(f, newEngine(Options{}).log)
		if err := j.create(); err != nil {
			t.Fatal(err)
		}
		shut(j.w)
		f.close()
		e := mustOpen(t, dir, Options{})
		mustPut(t, e, "k", "1")
	})
}

// mountTmpfs mounts a small file system, or skips.
func mountTmpfs(t testing.TB, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a small file system is needed and mount is not permitted: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// TestFullDisk fills a small disk, goes on reading, and writes again when there is room, without a restart.
func TestFullDisk(t *testing.T) {
	dir := mountTmpfs(t, "16m")
	e := mustOpen(t, filepath.Join(dir, "state"), Options{SnapshotBytes: 1 << 30})
	value := strings.Repeat("x", 20_000)
	acked := map[string]uint64{}
	refused := 0
	deadline := time.Now().Add(20 * time.Second)
	for i := 0; refused < 25; i++ {
		key := fmt.Sprintf("k/%06d", i)
		r, err := do(t, e, OneOp(putOp(key, value)))
		if err == nil {
			acked[key] = r.Revision
			continue
		}
		if !errors.Is(err, ErrNoSpace) {
			t.Fatalf("put %d: %v", i, err)
		}
		refused++
		if _, err := e.Get("k/000000"); err != nil {
			t.Fatalf("read while full: %v", err)
		}
		if it, err := e.Get(key); err == nil {
			t.Fatalf("refused and there: %+v", it)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d refusals only", refused)
		}
	}
	if len(acked) < 100 || e.Ready() == nil {
		t.Fatalf("%d acknowledged, ready: %v", len(acked), e.Ready())
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Skipf("remount: %v", err)
	}
	for i := 0; ; i++ {
		r, err := do(t, e, OneOp(putOp("resumed", value)))
		if err == nil {
			acked["resumed"] = r.Revision
			break
		}
		if !errors.Is(err, ErrNoSpace) || time.Now().After(deadline) {
			t.Fatalf("with room again: %v", err)
		}
		time.Sleep(10 * time.Millisecond) // the refusal is remembered for a moment: see retryLog
	}
	if err := e.Ready(); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		key := fmt.Sprintf("after/%d", i)
		acked[key] = mustPut(t, e, key, value)
	}
	crash(e)
	e = mustOpen(t, filepath.Join(dir, "state"), Options{})
	for key, rev := range acked {
		if it, err := e.Get(key); err != nil || it.Revision != rev {
			t.Fatalf("%s: %v, %v, want revision %d", key, it, err, rev)
		}
	}
	if e.Info().Revision != uint64(len(acked)) {
		t.Fatalf("revision %d for %d acknowledged writes", e.Info().Revision, len(acked))
	}
}

// TestFailingDisk lets the n-th call of each operation on storage fail, once and from then on, for growing n. Never is
// something acknowledged that is not there after a restart, nor anything shown that vanishes.
func TestFailingDisk(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		for _, op := range []string{"append", "appended", "truncate", "sync", "syncdir", "open", "snapshot.create", "snapshot.write", "snapshot.sync", "snapshot.rename"} {
			for _, persistent := range []bool{false, true} {
				for _, nth := range []int{1, 2, 7} {
					if thin > 1 && nth != 2 {
						continue
					}
					failingDisk(t, op, nth, persistent, errno)
				}
			}
		}
	}
}

func failingDisk(t *testing.T, op string, nth int, persistent bool, errno syscall.Errno) {
	t.Helper()
	name := fmt.Sprintf("%s #%d persistent=%v %v", op, nth, persistent, errno)
	dir := t.TempDir()
	e := mustOpen(t, dir, Options{})
	calls, armed := 0, false
	fail := func(o string) error {
		helper := op == "truncate" || op == "sync" || op == "open" || op == "syncdir"
		if helper && o == "append" && armed && calls == 0 { // these run only after a failure
			calls++
			return errno
		}
		if o != op || !armed {
			return nil
		}
		calls++
		at := nth
		if helper {
			at = nth + 1
		}
		if calls == at || persistent && calls > at {
			return errno
		}
		return nil
	}
	e.journal.f.faults = fail
	acked := map[string]uint64{}
	for i := range 5 {
		key := fmt.Sprintf("before/%d", i)
		acked[key] = mustPut(t, e, key, "1")
	}
	armed = true
	unknown := 0
	for i := range 12 {
		key := fmt.Sprintf("k/%d", i)
		r, err := do(t, e, OneOp(putOp(key, "v")))
		if err == nil {
			acked[key] = r.Revision
		} else {
			if u, ok := errors.AsType[*UnavailableError](err); ok && u.Unknown {
				unknown++
			} else if !ok && !errors.Is(err, ErrNoSpace) {
				t.Errorf("%s: put: %v", name, err)
			}
			if it, err := e.Get(key); err == nil {
				t.Errorf("%s: refused and visible: %+v", name, it)
			}
			e.journal.mu.Lock()
			e.journal.retry = time.Time{}
			e.journal.mu.Unlock()
		}
		if strings.HasPrefix(op, "snapshot") && i%4 == 3 {
			e.journal.snapshot(e, e.view.Load()) // may fail: nothing depends on it
		}
	}
	if !persistent && len(acked) < 12 {
		t.Errorf("%s: only %d of 17 writes succeeded after one failure", name, len(acked))
	}
	if persistent && (op == "append" || op == "appended") && (len(acked) != 5+nth-1 || e.Ready() == nil) {
		t.Errorf("%s: %d acknowledged, ready %v", name, len(acked), e.Ready())
	}
	crash(e)
	e, err := openEngine(dir, Options{})
	if err != nil {
		t.Errorf("%s: reopen: %v", name, err)
		return
	}
	defer crash(e)
	for key, rev := range acked {
		if it, err := e.Get(key); err != nil || it.Revision != rev {
			t.Errorf("%s: %s: %v, %v, want revision %d", name, key, it, err, rev)
		}
	}
	if extra := e.Stats().Keys - len(acked); extra < 0 || extra > unknown {
		t.Errorf("%s: %d keys that were refused are there, %d had an unknown fate", name, extra, unknown)
	}
}

func TestRestoreSurvivesCrashes(t *testing.T) {
	for _, at := range []string{"", "snapshot.sync", "snapshot.rename", "append", "appended"} {
		dir := t.TempDir()
		e := mustOpen(t, dir, Options{})
		work(t, e, 4, 30)
		want := dump(t, e)
		e.journal.f.faults = func(op string) error {
			if op == at {
				return syscall.EIO
			}
			return nil
		}
		_, err := e.Restore(t.Context(), func(yield func(*Item, error) bool) {
			yield(&Item{Key: "restored", Value: Value{Data: []byte("1")}, Revision: 9}, nil)
		}, RestoreOptions{Overwrite: true})
		if (err == nil) != (at == "") {
			t.Fatalf("%s: %v", at, err)
		}
		if err == nil {
			want = dump(t, e)
			if !strings.Contains(want, "restored=") || strings.Contains(want, "k/") {
				t.Fatalf("restored: %s", want)
			}
			mustPut(t, e, "more", "1")
			want = dump(t, e)
		}
		crash(e)
		// The name was not given yet: the log knows.
		if snaps, _ := filepath.Glob(filepath.Join(dir, snapName, "*.snap")); at == "" {
			os.Rename(snaps[0], snaps[0]+newSuffix)
		}
		e = mustOpen(t, dir, Options{})
		if got := dump(t, e); got != want {
			t.Errorf("%s: got %s want %s", at, got, want)
		}
	}
}

func TestLimits(t *testing.T) {
	e := newEngine(Options{})
	_ = e
	s := OpenMemory(Options{Limits: Limits{Total: 10_000, Queue: 4, Ops: 8, TxBytes: 4000}}).(*engine)
	defer s.Close()
	if _, err := do(t, s, OneOp(putOp("a", strings.Repeat("x", 3000)))); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		_, err := do(t, s, OneOp(putOp(fmt.Sprint(i), strings.Repeat("x", 3000))))
		if l, ok := errors.AsType[*LimitError](err); ok && l.Limit == LimitTotal {
			break
		}
		if i == 9 {
			t.Fatal("the total has no limit")
		}
	}
	if _, err := do(t, s, OneOp(Op{Kind: OpDelete, Key: "a"})); err != nil {
		t.Fatalf("deleting when full: %v", err)
	}
	mustPut(t, s, "0", "small")
	wantLimit := func(name string, err error) {
		t.Helper()
		if l, ok := errors.AsType[*LimitError](err); !ok || l.Limit != LimitTransaction {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := do(t, s, &Tx{Then: make([]Op, 9)})
	wantLimit("operations", err)
	_, err = do(t, s, OneOp(putOp("b", strings.Repeat("x", 5000))))
	wantLimit("bytes", err)
	// A committer that is busy: the queue has an end, and room again later.
	hold, held := make(chan struct{}), make(chan struct{})
	if err := s.enqueueWork(func() { close(held); <-hold }); err != nil {
		t.Fatal(err)
	}
	<-held
	answers := make(chan error, 10)
	accepted := 0
	for range 10 {
		if err := s.Commit(OneOp(Op{Kind: OpGet, Key: "a"}), func(_ Result, err error) { answers <- err }); err == nil {
			accepted++
		} else if !errors.Is(err, ErrOverloaded) {
			t.Fatal(err)
		}
	}
	if accepted != 3 { // the work is the fourth
		t.Errorf("%d accepted", accepted)
	}
	close(hold)
	for range accepted {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	mustPut(t, s, "0", "again")
	if st := s.Stats(); st.Queue > 1 || st.Refused == 0 {
		t.Errorf("stats: %+v", st)
	}
}

func TestHistoryLimits(t *testing.T) {
	s := OpenMemory(Options{Limits: Limits{HistoryEvents: 10, HistoryBytes: 5000}}).(*engine)
	defer s.Close()
	for i := range 100 {
		mustPut(t, s, "k", fmt.Sprint(i))
	}
	if st := s.Stats(); st.HistoryEvents != 10 || st.Compacted != 90 {
		t.Fatalf("by count: %+v", st)
	}
	mustPut(t, s, "k", strings.Repeat("x", 4000))
	if st := s.Stats(); st.HistoryBytes > 5000 || st.HistoryEvents > 9 {
		t.Fatalf("by bytes: %+v", st)
	}
	mustPut(t, s, "k", strings.Repeat("x", 9000))
	if st := s.Stats(); st.HistoryEvents != 1 || st.Compacted != 101 {
		t.Fatalf("one large event: %+v", st)
	}
	w, err := s.Watch(WatchOptions{Snapshot: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		mustPut(t, s, "k", fmt.Sprint(i))
	}
	if _, err := w.Next(1); err == nil {
		t.Error("a snapshot that history has passed was delivered")
	}
	// A form that was kept with an event goes when the event is old.
	ev := s.hist.at(s.hist.newest()).events[0]
	ev.SetEncoded("x")
	if ev.Encoded() != "x" {
		t.Error("not kept")
	}
}

func TestEncodedFormsAreDropped(t *testing.T) {
	s := OpenMemory(Options{}).(*engine)
	defer s.Close()
	mustPut(t, s, "k", "1")
	events, _ := s.History("k", 1)
	events[0].SetEncoded("form")
	fill(t, s, 1, 1)
	if events[0].Encoded() != "form" {
		t.Fatal("dropped at once")
	}
	for i := range encodedCommits + 1 {
		mustPut(t, s, "other", fmt.Sprint(i))
	}
	if events[0].Encoded() != nil {
		t.Fatal("kept for ever")
	}
}

func TestRecordsWithZeros(t *testing.T) {
	for _, n := range []int{0, 1, 254, 255, 256, 257, 511, 512, 1000, 65536} {
		for _, lead := range []int{0, 1, 100, 254, 255, 256, 300} {
			body := append([]byte(strings.Repeat("x", lead)), make([]byte, n)...)
			body = append(body, "end"...)
			rec := sealRecord(append(beginRecord(nil), body...), 42, 7)
			run, longest := 0, 0
			for _, c := range rec {
				if run++; c != 0 {
					run = 0
				}
				longest = max(longest, run)
			}
			if longest >= 2*stuffRun {
				t.Fatalf("%d zeros after %d bytes: a run of %d is left", n, lead, longest)
			}
			index, got, size, err := openRecord(append(rec, "more"...), 7)
			if err != nil || index != 42 || string(got) != string(body) || size != len(rec) {
				t.Fatalf("%d zeros after %d bytes: %v", n, lead, err)
			}
			if _, _, _, err := openRecord(rec, 8); err == nil {
				t.Fatal("a record of another store was accepted")
			}
		}
	}
}

func FuzzRecord(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	it := newItem("key", Value{Data: []byte("value"), Encoding: 1})
	it.Lease = newLease(now, time.Minute, "owner")
	c := newCommit(7, now.UnixNano(), []*Event{{Type: EventPut, Key: "key", Item: it}, {Type: EventDelete, Key: "gone", Previous: 3}})
	f.Add(appendCommit(nil, c))
	f.Add(appendCompact(appendReset(nil, 5), 9))
	f.Add(binary.AppendUvarint([]byte{entryCommit, 1, 2}, 1<<60))
	f.Fuzz(func(t *testing.T, body []byte) {
		entries, err := readRecord(body, now)
		skimmed, serr := skimRecord(body)
		if err == nil && serr != nil {
			t.Fatalf("can be read but not skimmed: %v", serr)
		}
		for i, en := range entries {
			if s := skimmed[i]; s.rev != en.rev || s.kind != en.kind || en.commit != nil && (s.events != len(en.commit.events) || s.cost != en.commit.cost) {
				t.Fatalf("read %+v, skimmed %+v", en, s)
			}
		}
		if err != nil {
			return
		}
		var again []byte
		for _, en := range entries {
			switch en.kind {
			case entryCommit:
				again = appendCommit(again, en.commit)
			case entryCompact:
				again = appendCompact(again, en.rev)
			case entryReset:
				again = appendReset(again, en.rev)
			}
		}
		if _, err := readRecord(again, now); err != nil {
			t.Fatalf("written again it cannot be read: %v", err)
		}
	})
}

func FuzzSegment(f *testing.F) {
	_, path, _, _ := writeLog(f, 3)
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	_, end := lastRecord(f, data)
	f.Add(data[:end])
	f.Add(data[:end+512])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := parseSegment(data)
		if s.end > int64(len(data)) {
			t.Fatalf("end %d of %d", s.end, len(data))
		}
		if s.problem != nil {
			s.judge(data, 1, 1)
		}
		for _, r := range s.records {
			if _, body, _, err := openRecord(r.data, 1); err == nil {
				readRecord(body, time.Now())
			}
		}
	})
}
