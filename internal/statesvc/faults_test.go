package statesvc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/statesvc/disk/memdisk"
	"github.com/hubd-dev/hubd/internal/statesvc/filelog"
)

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
		for _, file := range logFiles(t, dir) {
			remove(t, file)
		}
		wantCode(t, dir, ExitDamaged, "log is missing")
	})
	t.Run("empty log file", func(t *testing.T) {
		dir := state(t)
		path := logFiles(t, dir)[0]
		os.Truncate(path, 0)
		wantCode(t, dir, ExitDamaged, path)
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
		os.WriteFile(filepath.Join(dir, markName), []byte(`{"hubd_state_format":3,"id":"x"}`), 0o600)
		wantCode(t, dir, ExitDamaged, "newer version")
	})
	t.Run("older format", func(t *testing.T) {
		dir := state(t)
		os.WriteFile(filepath.Join(dir, markName), []byte(`{"hubd_state_format":1,"id":"x"}`), 0o600)
		wantCode(t, dir, ExitDamaged, "older version")
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

// TestFullDisk is promise P6: it fills a small disk, goes on reading, and writes again when there is room, without a restart.
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

// TestStartOnFullDisk is promise P6 over a restart: with less room than a segment of the log takes, a store starts all the
// same, has everything that was ever acknowledged, refuses writes at worst, and takes them again when there is room.
func TestStartOnFullDisk(t *testing.T) {
	const kb = 1 << 10
	for _, free := range []int64{
		0, 64 * kb, filelog.SegmentBytes / 2, filelog.SegmentBytes - 512*kb, filelog.SegmentBytes - 64*kb, filelog.SegmentBytes - 32*kb, filelog.SegmentBytes - 4*kb,
		filelog.SegmentBytes + 8*kb, 2*filelog.SegmentBytes - 4*kb,
	} {
		t.Run(fmt.Sprint(free), func(t *testing.T) { startOnFullDisk(t, free) })
	}
}

func startOnFullDisk(t *testing.T, free int64) {
	dir := mountTmpfs(t, "32m")
	state, ballast := filepath.Join(dir, "state"), filepath.Join(dir, "ballast")
	value := strings.Repeat("x", 20_000)
	acked := map[string]uint64{}
	e := mustOpen(t, state, Options{SnapshotBytes: 1 << 30})
	for i := range 20 {
		key := fmt.Sprintf("before/%d", i)
		acked[key] = mustPut(t, e, key, value)
	}
	crash(e)
	leave(t, ballast, free)
	e = mustOpen(t, state, Options{SnapshotBytes: 1 << 30})
	written, refused := 0, 0
	for i := 0; refused < 3 && written < 2000; i++ {
		key := fmt.Sprintf("full/%d", i)
		r, err := do(t, e, OneOp(putOp(key, value)))
		switch {
		case err == nil:
			acked[key] = r.Revision
			written++
		case errors.Is(err, ErrNoSpace):
			refused++
		default:
			t.Fatalf("put %d: %v", i, err)
		}
	}
	// The newest segment keeps the space that it had: most of the 4 MiB can still be written.
	if written < 150 || refused == 0 {
		t.Errorf("%d writes of 20 kB taken and %d refused, want some 170 and then refusals", written, refused)
	}
	checkAcked(t, e, acked)
	crash(e)
	e = mustOpen(t, state, Options{SnapshotBytes: 1 << 30}) // full to the last byte
	checkAcked(t, e, acked)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	// A write finds out that there is room, or the store does so by itself.
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		r, err := do(t, e, OneOp(putOp("after", "1")))
		if err == nil {
			acked["after"] = r.Revision
			break
		}
		if !errors.Is(err, ErrNoSpace) || time.Now().After(deadline) {
			t.Fatalf("with room again: %v", err)
		}
	}
	if err := e.Ready(); err != nil {
		t.Errorf("it writes and is not ready: %v", err)
	}
	crash(e)
	e = mustOpen(t, state, Options{})
	checkAcked(t, e, acked)
}

// leave fills the disk with a file until that many bytes are free.
func leave(t *testing.T, ballast string, free int64) {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(ballast), &s); err != nil {
		t.Fatal(err)
	}
	size := int64(s.Bavail)*s.Bsize - free
	if size < 0 {
		t.Fatalf("the disk has only %d bytes left", int64(s.Bavail)*s.Bsize)
	}
	if err := os.WriteFile(ballast, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
}

// checkAcked compares what the store has with what it acknowledged.
func checkAcked(t *testing.T, e *engine, acked map[string]uint64) {
	t.Helper()
	for key, rev := range acked {
		if it, err := e.Get(key); err != nil || it.Revision != rev {
			t.Fatalf("%s: %v, %v, want revision %d", key, it, err, rev)
		}
	}
}

// TestFullDiskInMemory is promise P6 without root: the disk fills up, reads go on, writes are refused and taken again.
func TestFullDiskInMemory(t *testing.T) {
	d := memdisk.New()
	d.SetCapacity(1 << 20)
	opts := Options{FS: d, SegmentBytes: 128 << 10, SnapshotBytes: 1 << 30}
	e, err := openEngine("/state", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { crash(e) }()
	value := strings.Repeat("x", 20_000)
	acked := map[string]uint64{}
	for refused, i := 0, 0; refused < 25; i++ {
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
		if it, err := e.Get(key); err == nil {
			t.Fatalf("refused and there: %+v", it)
		}
		if i > 1000 {
			t.Fatal("the disk does not fill up")
		}
	}
	if len(acked) < 30 || e.Ready() == nil {
		t.Fatalf("%d acknowledged, ready: %v", len(acked), e.Ready())
	}
	checkAcked(t, e, acked)
	// It starts on the full disk, too.
	crash(e)
	if e, err = openEngine("/state", opts); err != nil {
		t.Fatal(err)
	}
	checkAcked(t, e, acked)
	d.SetCapacity(4 << 20)
	retryNow(e)
	acked["resumed"] = mustPut(t, e, "resumed", value)
	if err := e.Ready(); err != nil {
		t.Fatal(err)
	}
	crash(e)
	if e, err = openEngine("/state", opts); err != nil {
		t.Fatal(err)
	}
	checkAcked(t, e, acked)
	if e.Info().Revision != uint64(len(acked)) {
		t.Fatalf("revision %d for %d acknowledged writes", e.Info().Revision, len(acked))
	}
}

// retryNow lets a store try its log again without the pause after a failure.
func retryNow(e *engine) {
	e.journal.mu.Lock()
	e.journal.retry = time.Time{}
	e.journal.mu.Unlock()
}

// TestFailingDisk is promise P6: it lets the n-th call of each kind fail, once and from then on, for every n until none
// fails. Never is something acknowledged that is not there after a restart, nor anything shown that vanishes, also when
// the restart is one after a loss of power.
func TestFailingDisk(t *testing.T) {
	t.Parallel()
	runs := 0
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		for _, call := range []string{"write", "sync", "truncate", "allocate", "create", "openwrite", "rename", "remove", "syncdir", "readfile", "readdir", ""} {
			for _, persistent := range []bool{false, true} {
				for n := 1; ; n++ {
					if thin > 1 && n%7 != 2 && n > 1 {
						if n > 60 {
							break
						}
						continue
					}
					runs++
					if met := failingDisk(t, call, n, persistent, errno); !met || t.Failed() || n >= 120 {
						break
					}
				}
			}
		}
	}
	t.Logf("%d runs", runs)
}

// failingDisk works on a store whose n-th call of a kind fails. It returns whether that call came.
func failingDisk(t *testing.T, call string, n int, persistent bool, errno syscall.Errno) bool {
	t.Helper()
	name := fmt.Sprintf("%s #%d persistent=%v %v", call, n, persistent, errno)
	d := memdisk.New()
	opts := Options{FS: d, SegmentBytes: 4 << 10, SnapshotBytes: 6 << 10, Limits: Limits{HistoryEvents: 5}}
	e, err := openEngine("/state", opts)
	if err != nil {
		t.Fatal(err)
	}
	acked := map[string]uint64{}
	for i := range 5 {
		key := fmt.Sprintf("before/%d", i)
		acked[key] = mustPut(t, e, key, "1")
	}
	fail, met := memdisk.NthCall(call, n, persistent, errno)
	d.Fail(fail)
	unknown := 0
	for i := range 20 {
		key := fmt.Sprintf("k/%d", i)
		r, err := do(t, e, OneOp(putOp(key, strings.Repeat("v", 700))))
		if err == nil {
			acked[key] = r.Revision
			continue
		}
		if u, ok := errors.AsType[*UnavailableError](err); ok && u.Unknown {
			unknown++
		} else if !ok && !errors.Is(err, ErrNoSpace) {
			t.Errorf("%s: put: %v", name, err)
		}
		if it, err := e.Get(key); err == nil {
			t.Errorf("%s: refused and visible: %+v", name, it)
		}
		retryNow(e)
	}
	came := met()
	if !persistent && len(acked) < 23 {
		t.Errorf("%s: only %d of 25 writes succeeded after one failure", name, len(acked))
	}
	if persistent && came && (call == "write" || call == "sync") && e.Ready() == nil {
		t.Errorf("%s: ready, and nothing can be written", name)
	}
	crash(e)
	d.Fail(nil)
	ops := d.Ops()
	for _, l := range []memdisk.Loss{memdisk.LoseNothing, memdisk.LoseUnsynced} {
		left := opts
		left.FS = memdisk.At(ops, len(ops), l, nil)
		e, err := openEngine("/state", left)
		if err != nil {
			t.Errorf("%s: reopen, losing %v: %v", name, l, err)
			continue
		}
		for key, rev := range acked {
			if it, err := e.Get(key); err != nil || it.Revision != rev {
				t.Errorf("%s: %s, losing %v: %v, %v, want revision %d", name, key, l, it, err, rev)
			}
		}
		if extra := e.Stats().Keys - len(acked); extra < 0 || extra > unknown {
			t.Errorf("%s: %d keys that were refused are there, %d had an unknown fate", name, extra, unknown)
		}
		crash(e)
	}
	return came
}

// TestRestoreSurvivesFailures lets each call of a restore fail in turn: it happened as a whole, or not at all.
func TestRestoreSurvivesFailures(t *testing.T) {
	happened, refused := 0, 0
	for n := 1; n < 200; n++ {
		d := memdisk.New()
		e, err := openEngine("/state", Options{FS: d})
		if err != nil {
			t.Fatal(err)
		}
		work(t, e, 4, 30)
		before := dump(t, e)
		fail, met := memdisk.NthCall("", n, false, syscall.EIO)
		d.Fail(fail)
		_, err = e.Restore(t.Context(), func(yield func(*Item, error) bool) {
			yield(&Item{Key: "restored", Value: Value{Data: []byte("1")}, Revision: 9}, nil)
		}, RestoreOptions{Overwrite: true})
		d.Fail(nil)
		after := dump(t, e)
		if restored := strings.Contains(after, "restored=") && !strings.Contains(after, "k/"); restored != (err == nil) || !restored && after != before {
			t.Fatalf("call %d failed (%v): %s", n, err, after)
		}
		u, _ := errors.AsType[*UnavailableError](err)
		crash(e)
		ops := d.Ops()
		for _, l := range []memdisk.Loss{memdisk.LoseNothing, memdisk.LoseUnsynced} {
			e, err := openEngine("/state", Options{FS: memdisk.At(ops, len(ops), l, nil)})
			if err != nil {
				t.Fatalf("call %d failed, losing %v: %v", n, l, err)
			}
			got := dump(t, e)
			crash(e)
			if got != after && (u == nil || !u.Unknown || !strings.Contains(got, "restored=")) {
				t.Errorf("call %d failed, losing %v: got %s want %s", n, l, got, after)
			}
		}
		if err == nil {
			happened++
		} else {
			refused++
		}
		if !met() {
			break
		}
	}
	if happened < 2 || refused < 5 {
		t.Errorf("%d restores happened and %d were refused: the test shows little", happened, refused)
	}
}

// TestRestoreWithoutItsName: a daemon ended between entering a restore in the log and giving its snapshot the name.
func TestRestoreWithoutItsName(t *testing.T) {
	dir := t.TempDir()
	e := mustOpen(t, dir, Options{})
	work(t, e, 4, 30)
	if _, err := e.Restore(t.Context(), func(yield func(*Item, error) bool) {
		yield(&Item{Key: "restored", Value: Value{Data: []byte("1")}, Revision: 9}, nil)
	}, RestoreOptions{Overwrite: true}); err != nil {
		t.Fatal(err)
	}
	mustPut(t, e, "more", "1")
	want := dump(t, e)
	crash(e)
	snaps, _ := filepath.Glob(filepath.Join(dir, snapName, "*.snap"))
	if err := os.Rename(snaps[0], snaps[0]+newSuffix); err != nil {
		t.Fatal(err)
	}
	if rep, err := Repair(nil, dir, false); err != nil || rep.Damage != nil {
		t.Errorf("check: %+v, %v", rep, err)
	}
	e = mustOpen(t, dir, Options{})
	if got := dump(t, e); got != want {
		t.Errorf("got %s want %s", got, want)
	}
	crash(e)
	// Without the snapshot the state before the restore can be saved, and the log is cut where it stands.
	snaps, _ = filepath.Glob(filepath.Join(dir, snapName, "*.snap"))
	for _, s := range snaps {
		os.Remove(s)
	}
	if _, err := openEngine(dir, Options{}); ExitCode(err) != ExitDamaged {
		t.Fatalf("snapshot of the restore is missing: %v", err)
	}
	rep, err := Repair(nil, dir, true)
	if err != nil || !rep.Applied || rep.Snapshot || rep.Revision == 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	e = mustOpen(t, dir, Options{})
	if got := e.Info().Revision; got != rep.Revision {
		t.Errorf("repaired: revision %d, want %d", got, rep.Revision)
	}
}
